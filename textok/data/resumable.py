"""What survives a kill: the folder of a run over samples, which at any moment says truly what in it is done.

    PREFIX-UUUUUU-PPPP.tar   part P of unit U (a shard of the input, or a range of a folder, table or array); or KEY.png
    parts/plan.json          what the results depend on; a run with anything else is refused
    parts/UUUUUU-PPPP.json   a part that is done: its place in the source, checksums of both, what was skipped
    parts/UUUUUU.lock        held (flock) by the process that works on the unit
    parts/PREFIX-UUUUUU-PPPP.keys  from before a part's first file is there; of pictures the keys, each from before its KEY.png
    skips.jsonl, index.json  written when all units are done, by whoever sees it; of pictures also metadata.jsonl

What makes it safe: a part is written under another name, synced and renamed, and counts only once its record, written in the
same way, is there. A later run believes a record whose part still has its checksum and whose input has its size and time, or
else its content; where samples were skipped for want of embeddings, also only while the store has no more of them. Units are
independent, and claimed by a lock that a dead process loses, so any number of processes and machines may share a folder; or
work in folders of their own on shares of the units, to be copied together. Which process does what changes no byte.

`job` says what is done in such a folder; `outputs`, in what form.
"""

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import read_json, write_json, write_text
from .folders import INDEX_FILE, METADATA_FILE, PARTS_FOLDER, PLAN_FILE, SKIPS_FILE
from .outputs import FILE_ENDS, KEYS, SAMPLES_FILE, remove_part, remove_unfinished, verify_part, write_metadata, write_samples

Record = dict[str, Any]
Records = Callable[[], Iterable[Record]]  # those of all parts, in order, as often as it is called


class Ledger:
    """The plan, the records and the locks of a run's folder `out`, whose parts come in the form `kind`."""

    def __init__(self, out: Path, kind: str) -> None:
        self.out, self.kind = out, kind
        self.parts = out / PARTS_FOLDER
        self._claims: dict[int, Any] = {}

    # --- The plan

    def begin(self, settings: dict[str, Any], overwrite: bool) -> None:
        """Make the folder, or check that it was made with the same settings; `overwrite` clears what an earlier run left."""
        settings = json.loads(json.dumps(settings))  # as it will be read: pairs are lists
        if not (self.parts / PLAN_FILE).exists():
            self._refuse_files_of_others()
        if overwrite:
            self._clear()
        self.parts.mkdir(parents=True, exist_ok=True)
        path = self.parts / PLAN_FILE
        if not path.exists():
            write_json(path, settings, keep=True)
        there = read_json(path, DataError)
        if there != settings:
            raise DataError(
                f"{self.out}: made with other settings: {_differences(there, settings)}; "
                "give another folder, or --overwrite to start anew"
            )

    def _refuse_files_of_others(self) -> None:
        """What a folder that no run made holds may be somebody's own pictures, and this run's would go by their names."""
        if self.out.exists() and not self.out.is_dir():
            raise DataError(f"{self.out}: expected a folder to write to, got a file")
        for path in self.out.rglob("*"):
            if path.suffix.lower() == FILE_ENDS[self.kind] or path.name in (INDEX_FILE, SKIPS_FILE, METADATA_FILE):
                if (self.parts / PLAN_FILE).exists():  # of another process, which began this run meanwhile
                    return
                there = path.relative_to(self.out)
                raise DataError(f"{self.out}: expected a new folder or one of an earlier run, got one with {there} in it")

    def _clear(self) -> None:
        if not self.parts.is_dir():
            return
        for path in sorted(self.parts.glob("[0-9]*-[0-9]*.json")):
            with contextlib.suppress(DataError):
                remove_part(self.out, read_json(path, DataError))
        remove_unfinished(self.out, self.parts)
        for path in [
            *self.parts.iterdir(),
            *(self.out / name for name in (INDEX_FILE, SKIPS_FILE, METADATA_FILE, SAMPLES_FILE)),
        ]:
            path.unlink(missing_ok=True)

    # --- Records: what is done

    def _record_path(self, unit: int, part: int) -> Path:
        return self.parts / f"{unit:06d}-{part:04d}.json"

    def records(self, unit: int) -> list[Record]:
        """The records of a unit's parts, from the first up to the first that is missing."""
        records: list[Record] = []
        while not records or records[-1]["next"] is not None:
            path = self._record_path(unit, len(records))
            if not path.exists():
                break
            records.append(read_json(path, DataError))
        return records

    def is_done(self, unit: int) -> bool:
        records = self.records(unit)
        return bool(records) and records[-1]["next"] is None

    def add(self, unit: int, part: int, record: Record) -> None:
        """From here on the part counts."""
        write_json(self._record_path(unit, part), record, self.parts)

    def forget_from(self, unit: int, part: int) -> None:
        """This part and those after it are to be made anew."""
        while (path := self._record_path(unit, part)).exists():
            path.unlink()
            part += 1

    # --- Locks: what is in work

    def claim(self, unit: int) -> bool:
        """Take a unit for this process; false where another has it."""
        file = open(self.parts / f"{unit:06d}.lock", "wb")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._claims[unit] = file
        return True

    def release(self, unit: int) -> None:
        self._claims.pop(unit).close()

    def release_all(self) -> None:
        for claim in self._claims.values():
            claim.close()
        self._claims.clear()

    # --- The end

    def finished_file(self) -> Record | None:
        """The record of an npz job's one file where it has it, to the byte, so that its parts may be gone."""
        if self.kind != "npz" or not (self.out / INDEX_FILE).exists():
            return None
        record: Record = read_json(self.out / INDEX_FILE, DataError).get("result", {})
        return record if verify_part(self.out, record) else None

    def unfinish(self) -> None:
        """Its one file is to be made anew, of all parts."""
        (self.out / INDEX_FILE).unlink(missing_ok=True)

    def finish(self, records: Records, samples: int, skipped: int) -> None:
        """What stands beside all parts, once all are done: the index, the report of skips, and what the form wants; by one
        process at a time.
        """
        with open(self.parts / "index.lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._write_index(records, samples, skipped)

    def _write_index(self, records: Records, samples: int, skipped: int) -> None:
        result = None
        if self.kind == "npz":
            result = self.finished_file() or write_samples(self.out, self.parts, records, samples)
        elif self.kind == "png":
            write_metadata(self.out, self.parts, records())
        skips = (
            json.dumps({"key": key, "source": source, "reason": reason, "part": record["name"]}, ensure_ascii=False) + "\n"
            for record in records()
            for key, source, reason in record["skips"]
        )
        write_text(self.out / SKIPS_FILE, "".join(skips), self.parts)
        index = {**read_json(self.parts / PLAN_FILE, DataError), "samples": samples, "skipped": skipped}
        if result is not None:
            index["result"] = result
        index["parts"] = [
            {key: record[key] for key in record if key not in ("skips", "rows", "embedded")} for record in records()
        ]
        write_json(self.out / INDEX_FILE, index, self.parts)
        if self.kind == "npz":
            for record in records():
                remove_part(self.out, record)
        for path in self.parts.iterdir():
            if path.suffix in (".lock", ".part", KEYS) and path.name != "index.lock":
                path.unlink(missing_ok=True)


def _differences(then: Any, now: Any) -> str:
    """What differs between two settings, in words."""

    def flat(value: Any, name: str = "") -> dict[str, Any]:
        if isinstance(value, dict):
            return {
                key: item
                for child, inner in value.items()
                for key, item in flat(inner, f"{name}.{child}" if name else child).items()
            }
        if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
            return flat({"count": len(value), **{str(index): inner for index, inner in enumerate(value)}}, name)
        return {name: value}

    old, new = flat(then), flat(now)
    changed = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    shown = [f"{name} was {json.dumps(old.get(name))}, is {json.dumps(new.get(name))}" for name in changed[:4]]
    return ", ".join(shown) + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")
