"""Long runs over samples that may be killed at any moment: run again, they complete to the same bytes.

A job reads sources, gives batches to threads that compute, and writes parts. Its folder:

    PREFIX-UUUUUU-PPPP.tar   part P of unit U (a shard of the input, or a range of a folder, table or array); or KEY.png
    parts/plan.json          what the results depend on; a run with anything else is refused
    parts/UUUUUU-PPPP.json   a part that is done: its place in the source, checksums of both, what was skipped
    parts/UUUUUU.lock        held (flock) by the process that works on the unit
    parts/PREFIX-UUUUUU-PPPP.keys  the keys of a part's KEY.png, each from before it is written
    skips.jsonl, index.json  written when all units are done, by whoever sees it; of pictures also metadata.jsonl

What makes it safe: a part is written under another name, synced and renamed, and counts only once its record, written in the
same way, is there. A later run believes a record whose part still has its checksum and whose input has its size and time, or
else its content; where samples were skipped for want of embeddings, also only while the store has no more of them. Units are independent, and claimed by a lock that a dead process loses, so any number of processes and
machines may share a folder; or work in folders of their own on shares of the units, to be copied together. Which process does
what changes no byte.

Threads, not the engine's own, share the work: each runs the engine on a batch of its own, single-threaded. That keeps the cores
busy through decoding and writing, and spares the engine its barriers: on two cores a
quarter to a half faster than one batch on both.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from .. import __version__, _core, arrays
from ..errors import DataError
from ..files import read_json
from ..text.embedding_store import STORE_FILE, EmbeddingStore
from .ordered import ordered_map
from .parts import (
    KEYS,
    KINDS,
    SAMPLES_FILE,
    PartWriter,
    remove_part,
    remove_unfinished,
    verify_part,
    write_metadata,
    write_samples,
)
from .sources import INDEX_FILE, METADATA_FILE, PARTS_FOLDER, SKIPS_FILE, Event, Sample, Skip, Source, usable

PLAN_FILE = "plan.json"
FORMAT = 1
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_EMBEDDING = "no embedding"  # what the reason of a skip begins with that another run may not need
SHARD_SIZE = 2048  # samples of a part: what a kill can cost
BATCH_SIZE = 16  # the engine works on about a thousand rows at a time, so more would only take memory


class Product(NamedTuple):
    """What a task made of a sample: files by extension, and what is to be known of it beside a picture."""

    key: str
    files: dict[str, bytes]
    metadata: dict[str, Any]


Work = Callable[[list[Sample]], Sequence["Product | Skip"]]


class Task(Protocol):
    """What is done with batches of samples; must pickle."""

    need: tuple[str, ...]
    field: str
    embeddings: str | None

    def settings(self) -> dict[str, Any]:
        """All that the results depend on but the samples, as JSON has it."""
        ...

    def load(self, threads: int) -> Work:
        """Open models; the function is called from several threads, and uses `threads` in a call."""
        ...


class Unit(NamedTuple):
    """A piece of work: a source from `start` up to `stop` (None: to its end), which becomes one or several parts."""

    number: int
    source: Source
    start: int
    stop: int | None
    weight: int  # bytes of a shard, samples of all else: for the bar


@dataclass(frozen=True)
class Summary:
    """What a run did and where the job stands.

    Attributes
    ----------
    samples, skipped, parts
        Of all parts that are done, by this run or earlier ones.
    computed
        Samples that this run computed.
    left
        Units that are not done: shares of other machines, or what others are working on.
    seconds
        Of this run's work, with loading models and without looking at what earlier runs did.
    """

    folder: Path
    samples: int
    skipped: int
    parts: int
    computed: int
    left: int
    seconds: float

    def __str__(self) -> str:
        rate = f", {self.computed / self.seconds:.1f} a second" if self.computed and self.seconds else ""
        left = f"; {self.left} {'unit is' if self.left == 1 else 'units are'} left to others" if self.left else ""
        where = f"{self.folder / SKIPS_FILE} will say why, once nothing is left" if self.left else f"see {self.folder / SKIPS_FILE}"
        skipped = f", {self.skipped} skipped ({where})" if self.skipped else ""
        return f"{self.folder}: {self.samples} samples in {self.parts} parts{skipped}; {self.computed} computed now{rate}{left}"


@dataclass
class Job:
    """A task over sources into a folder.

    Parameters
    ----------
    out
        The folder, made where missing.
    task, sources
        What is done with which samples.
    kind
        "shards", "png" or "npz" (ADM's one file).
    prefix
        First word of the shards' names.
    size
        Samples a part.
    batch_size
        Samples of a call of the engine.
    share
        (i, n): this run does every n-th unit from i, i from 0.
    strict
        A skip is a DataError.
    """

    out: Path
    task: Task
    sources: list[Source]
    kind: str = "shards"
    prefix: str = "shard"
    size: int = SHARD_SIZE
    batch_size: int = BATCH_SIZE
    share: tuple[int, int] = (0, 1)
    strict: bool = False
    _embedded: int = 0  # captions in the store when this run began
    _claims: dict[int, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.out = Path(self.out)
        arrays.choice(self.kind, "format", KINDS)
        self.size = arrays.whole(self.size, "shard_size", 1, 1 << 30)
        self.batch_size = arrays.whole(self.batch_size, "batch_size", 1, arrays.MAX_BATCH)
        if not 0 <= self.share[0] < self.share[1]:
            raise ValueError(f"shard: expected i/n with i from 0 to n - 1, got {self.share[0]}/{self.share[1]}")

    # --- The plan

    @property
    def parts(self) -> Path:
        return self.out / PARTS_FOLDER

    def units(self) -> Iterator[Unit]:
        """All units, of every share, in order."""
        numbers = itertools.count()
        for source in self.sources:
            if source.ranges:
                count = len(source)
                for start in range(0, count, self.size):
                    stop = min(start + self.size, count)
                    yield Unit(next(numbers), source, start, stop, stop - start)
            else:
                yield Unit(next(numbers), source, 0, None, sum(file.stat().st_size for file in source.files()))

    def settings(self) -> dict[str, Any]:
        """What the folder's bytes depend on; of the inputs only the names, their content is in the records."""
        sources = [
            {"name": source.path.name, "kind": source.kind} | ({"samples": len(source)} if source.ranges else {})
            for source in self.sources
        ]
        return {"format": FORMAT, "task": self.task.settings(), "kind": self.kind, "shard_size": self.size, "sources": sources}

    def prepare(self, overwrite: bool = False) -> None:
        """Make the folder, or check that it was made for the same job; `overwrite` clears what an earlier one left."""
        settings = self.settings()
        if overwrite:
            self._clear()
        self.parts.mkdir(parents=True, exist_ok=True)
        path = self.parts / PLAN_FILE
        if not path.exists():
            self._write(path, _json(settings), replace=False)
        if self.task.embeddings is not None and (Path(self.task.embeddings) / STORE_FILE).is_file():
            self._embedded = len(EmbeddingStore.open(self.task.embeddings))
        there = read_json(path, DataError)
        if there != settings:
            raise DataError(
                f"{self.out}: made with other settings: {_differences(there, settings)}; "
                "give another folder, or --overwrite to start anew"
            )

    def _clear(self) -> None:
        if not self.parts.is_dir():
            return
        for record in self._all_records():
            remove_part(self.out, record)
        remove_unfinished(self.out, self.parts)
        for path in [
            *self.parts.iterdir(),
            *(self.out / name for name in (INDEX_FILE, SKIPS_FILE, METADATA_FILE, SAMPLES_FILE)),
        ]:
            path.unlink(missing_ok=True)

    def _all_records(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.parts.glob("[0-9]*-[0-9]*.json")):
            with contextlib.suppress(DataError):
                yield read_json(path, DataError)

    # --- What is done

    def _record_path(self, unit: int, part: int) -> Path:
        return self.parts / f"{unit:06d}-{part:04d}.json"

    def records(self, unit: Unit) -> list[dict[str, Any]]:
        """The records of a unit's parts, from the first up to the first that is missing."""
        records: list[dict[str, Any]] = []
        while not records or records[-1]["next"] is not None:
            path = self._record_path(unit.number, len(records))
            if not path.exists():
                break
            records.append(read_json(path, DataError))
        return records

    def is_done(self, unit: Unit) -> bool:
        records = self.records(unit)
        return bool(records) and records[-1]["next"] is None

    def pending(self) -> list[Unit]:
        """The units of this share that are to be done; parts that are damaged are forgotten, changed inputs are DataErrors.

        Forgotten too are parts that lack samples whose captions may have come to the embedding store since.
        """
        whole = self._finished_file()
        if whole and any(self._may_find_more(record) for unit in self.units() for record in self.records(unit)):
            (self.out / INDEX_FILE).unlink(missing_ok=True)  # its one file is made anew, of all parts
            whole = False
        result = []
        for unit in self.units():
            if unit.number % self.share[1] != self.share[0] or not self._claim(unit):
                continue
            for number, record in enumerate(self.records(unit)):
                self._check_input(unit, record)
                if self._may_find_more(record) or not (whole or verify_part(self.out, record)):
                    while (path := self._record_path(unit.number, number)).exists():
                        path.unlink()
                        number += 1
                    break
            if not self.is_done(unit):
                result.append(unit)
            self._release(unit)
        return result

    def _may_find_more(self, record: dict[str, Any]) -> bool:
        """Whether samples of a part were skipped for want of embeddings when the store had fewer."""
        return record.get("embedded", self._embedded) != self._embedded

    def _finished_file(self) -> bool:
        """Whether an npz job has its one file, so that its parts may be gone."""
        if self.kind != "npz" or not (self.out / INDEX_FILE).exists():
            return False
        return verify_part(self.out, read_json(self.out / INDEX_FILE, DataError).get("result", {}))

    def _check_input(self, unit: Unit, record: dict[str, Any]) -> None:
        """DataError where a finished part's input is no longer what it was."""
        then, now = record["input"], unit.source.state(record["start"], unit.stop)
        if then["state"] == now:
            return
        digest = hashlib.sha256()
        for event in itertools.islice(unit.source.read(record["start"], unit.stop), record["events"]):
            digest.update(_event_bytes(event))
        if digest.hexdigest() != then["sha256"]:
            raise DataError(
                f"{unit.source.name}: changed since {record['name']} in {self.out} was made from it "
                f"(size and time were {then['state']}, are "
                f"{now}, and the samples differ); bring it back, or use --overwrite to start anew"
            )

    def _claim(self, unit: Unit) -> bool:
        """Take a unit for this process; false where another has it."""
        file = open(self.parts / f"{unit.number:06d}.lock", "wb")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._claims[unit.number] = file
        return True

    def _release(self, unit: Unit) -> None:
        self._claims.pop(unit.number).close()

    # --- The work

    def work_through(
        self, units: Iterable[Unit], threads: int, tell: Callable[[int, float], object] | None = None, work: Work | None = None
    ) -> int:
        """Do units in this process; returns the samples computed. `tell(samples, weight)` is called as it goes on.

        `work` is what the task's `load(1)` gave, where that was done before.
        """
        computed = 0
        work = work or self.task.load(1)
        writers: dict[tuple[int, int], PartWriter] = {}
        try:
            for batch, results in ordered_map(
                lambda batch: work(batch.samples) if batch.samples else (), self._batches(units), threads
            ):
                part = batch.part
                name = (part.unit.number, part.number)
                if name not in writers:
                    writers[name] = KINDS[self.kind](self.out, self.parts, f"{self.prefix}-{name[0]:06d}-{name[1]:04d}")
                for place, result in zip(batch.places, results, strict=True):
                    if isinstance(result, Skip):
                        part.skips.append((place, result))
                    elif self.kind == "png" and result.key in part.keys:
                        reason = "a second sample of this key, whose picture would replace the first's"
                        part.skips.append((place, Skip(result.key, part.unit.source.name, reason)))
                    else:
                        if self.kind == "png":
                            part.keys.add(result.key)
                        writers[name].add(result.key, result.files, result.metadata)
                self._look_at_skips(part)
                computed += len(batch.samples)
                if tell is not None:
                    tell(len(batch.samples), batch.weight)
                if batch.last:
                    self._finish(part, writers[name])
                    del writers[name]
        except OSError as problem:
            if problem.errno in _NO_ROOM and problem.filename is None:  # a write does not know its file's name
                problem.filename = str(self.out)
            raise
        finally:
            for writer in writers.values():
                writer.abandon()
            for claim in self._claims.values():
                claim.close()
            self._claims.clear()
        return computed

    def _look_at_skips(self, part: "_Part") -> None:
        if self.strict and part.skips:
            skip = min(part.skips)[1]
            raise DataError(f"{skip.source}: {skip.key or 'the file'}: {skip.reason}")

    def _batches(self, units: Iterable[Unit]) -> "Iterator[_Batch]":
        for unit in units:
            if not self._claim(unit):
                continue
            if self.is_done(unit):  # by another process, between our looks
                self._release(unit)
            else:
                yield from self._unit_batches(unit)

    def _unit_batches(self, unit: Unit) -> "Iterator[_Batch]":
        records = self.records(unit)
        start = records[-1]["next"] if records else unit.start
        events = unit.source.read(start, unit.stop)
        keys = {key for record in records for key, _ in record.get("rows", ())} if self.kind == "png" else set()
        part = _Part(unit, len(records), start, unit.source.state(start, unit.stop), keys)
        batch = _Batch(part)
        before = start
        for event in events:
            if unit.stop is None and part.events >= self.size and part.can_end:
                part.next = part.position
                batch.last = True
                yield batch
                part = _Part(unit, part.number + 1, part.position, part.state, keys)
                batch = _Batch(part)
            elif len(batch.samples) == self.batch_size:
                yield batch
                batch = _Batch(part)
            part.take(event)
            batch.weight += max(event.position - before, 0)
            before = event.position
            event = usable(event, self.task.need, self.task.field)
            if isinstance(event, Skip):
                part.skips.append((part.events, event))
            else:
                batch.samples.append(event)
                batch.places.append(part.events)
        batch.last = True
        yield batch

    def _finish(self, part: "_Part", writer: PartWriter) -> None:
        unit = part.unit
        if unit.source.state(part.start, unit.stop) != part.state:
            raise DataError(f"{unit.source.name}: it changed while it was read; run again when nobody writes to it")
        part.skips.sort(key=lambda entry: entry[0])
        lacking = any(skip.reason.startswith(NO_EMBEDDING) for _, skip in part.skips)
        record = {
            "name": writer.name,
            "source": unit.source.path.name,
            "start": part.start,
            "next": part.next,
            "events": part.events,
            "input": {"state": part.state, "sha256": part.digest.hexdigest()},
            **writer.close(),
            "skips": [[skip.key, skip.source, skip.reason] for _, skip in part.skips],
            **({"embedded": self._embedded} if lacking else {}),
            "made_with": {"textok": __version__, "kernels": _core.cpu_info()["isa"]},
        }
        self._write(self._record_path(unit.number, part.number), _json(record))
        if part.next is None:
            self._release(unit)

    # --- The end

    def conclude(self) -> tuple[int, int, int, int]:
        """Samples, skips and parts that are done, and units that are not; with none left writes the index and the report of
        skips.
        """
        samples = skipped = parts = left = 0
        for unit in self.units():
            records = self.records(unit)
            left += not records or records[-1]["next"] is not None
            samples += sum(record["samples"] for record in records)
            skipped += sum(len(record["skips"]) for record in records)
            parts += len(records)
        if not left:
            with open(self.parts / "index.lock", "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._write_index(samples, skipped)
        return samples, skipped, parts, left

    def _write_index(self, samples: int, skipped: int) -> None:
        def records() -> Iterator[dict[str, Any]]:
            return itertools.chain.from_iterable(map(self.records, self.units()))

        result = None
        if self.kind == "npz":
            old = read_json(self.out / INDEX_FILE, DataError).get("result") if self._finished_file() else None
            result = old or write_samples(self.out, self.parts, records, samples)
        elif self.kind == "png":
            write_metadata(self.out, self.parts, records())
        skips = (
            json.dumps({"key": key, "source": source, "reason": reason, "part": record["name"]}, ensure_ascii=False) + "\n"
            for record in records()
            for key, source, reason in record["skips"]
        )
        self._write(self.out / SKIPS_FILE, "".join(skips))
        index = {**read_json(self.parts / PLAN_FILE, DataError), "samples": samples, "skipped": skipped}
        if result is not None:
            index["result"] = result
        index["parts"] = [{key: record[key] for key in record if key not in ("skips", "rows", "embedded")} for record in records()]
        self._write(self.out / INDEX_FILE, _json(index))
        if self.kind == "npz":
            for record in records():
                remove_part(self.out, record)
        for path in self.parts.iterdir():
            if path.suffix in (".lock", ".part", KEYS) and path.name != "index.lock":
                path.unlink(missing_ok=True)

    def _write(self, path: Path, text: str, replace: bool = True) -> None:
        """A file that appears whole; without `replace`, unless another process was first."""
        temporary = self.parts / f"{path.name}.{os.urandom(4).hex()}.part"  # where a killed run's are cleared away
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                temporary.replace(path)
            else:
                try:
                    os.link(temporary, path)
                except OSError:  # it is there by now, or the file system knows no links
                    if not path.exists():
                        temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class _Part:
    """A part in the making."""

    def __init__(self, unit: Unit, number: int, start: int, state: str, keys: set[str]) -> None:
        self.unit, self.number, self.start, self.state = unit, number, start, state
        self.keys = keys  # of the pictures that its unit has so far, where each is a file
        self.events = 0
        self.position = start
        self.next: int | None = None  # where the next part starts
        self.can_end = False  # after the last event that was taken
        self.digest = hashlib.sha256()
        self.skips: list[tuple[int, Skip]] = []

    def take(self, event: Event) -> None:
        self.events += 1
        self.position = event.position
        self.can_end = isinstance(event, Sample)
        self.digest.update(_event_bytes(event))


class _Batch:
    def __init__(self, part: _Part) -> None:
        self.part = part
        self.samples: list[Sample] = []
        self.places: list[int] = []  # the number of each sample among the events
        self.last = False
        self.weight = 0


def _event_bytes(event: Event) -> bytes:
    """All that a result may depend on."""
    if isinstance(event, Skip):
        return f"{event.key}\0{event.reason}\0".encode()
    if event.files:
        pieces = [data for extension, content in event.files.items() for data in (extension.encode(), content)]
    else:
        picture = event.picture
        pieces = [json.dumps(event.metadata, sort_keys=True, default=str).encode()]
        if picture is not None:
            pieces.append(np.ascontiguousarray(picture).tobytes() if isinstance(picture, np.ndarray) else picture)
    return b"".join([event.key.encode(), b"\0", *(len(piece).to_bytes(8, "little") + piece for piece in pieces)])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


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
