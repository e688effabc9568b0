"""A job: a task over samples of sources into a folder, which may be killed at any moment and completes to the same bytes.

Unit      a piece of the work: a shard of the input, or a range of a folder, table or array
Task      what is done with batches of samples; `encode`, `decode` and `sample` have one each
Job       the units that are to be done, and the end once all are; `work` does them, `resumable` keeps what is done
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .. import arrays
from ..errors import DataError
from ..text.embedding_store import STORE_FILE, EmbeddingStore
from .base import Sample, Skip, Source, event_bytes
from .options import RunOptions
from .outputs import KINDS, Product, verify_part
from .resumable import Ledger, Record

FORMAT = 1

Work = Callable[[list[Sample]], Sequence[Product | Skip]]


class Task(Protocol):
    """What is done with batches of samples; must pickle."""

    @property
    def need(self) -> tuple[str, ...]:
        """What a sample must have, as `usable` takes it."""
        ...

    @property
    def field(self) -> str:
        """The metadata's field that is the caption."""
        ...

    @property
    def embeddings(self) -> str | None: ...

    def settings(self) -> dict[str, Any]:
        """All that the results depend on but the samples, as JSON has it."""
        ...

    def check(self) -> None:
        """Raises what would be wrong in every batch, before a folder is made for these settings."""
        ...

    def load(self, threads: int) -> Work:
        """Open models; the function is called from several threads, and uses `threads` in a call."""
        ...


def with_skips(
    samples: list[Sample], problems: dict[int, str], compute: Callable[[list[Sample], list[int]], list[Product]]
) -> list[Product | Skip]:
    """Products of the samples that have no problem, among skips of those that have."""
    places = [place for place in range(len(samples)) if place not in problems]
    products = iter(compute([samples[place] for place in places], places) if places else [])
    return [
        Skip(sample.key, sample.source, problems[place], sample.position) if place in problems else next(products)
        for place, sample in enumerate(samples)
    ]


class Unit(NamedTuple):
    """A piece of work: a source from `start` up to `stop` (None: to its end), which becomes one or several parts."""

    number: int
    source: Source
    start: int
    stop: int | None
    weight: int  # bytes of a shard, samples of all else: for the bar


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
    options
        How it goes.
    """

    out: Path
    task: Task
    sources: list[Source]
    kind: str = "shards"
    prefix: str = "shard"
    options: RunOptions = field(default_factory=RunOptions)
    embedded: int = 0  # captions in the store when this run began

    def __post_init__(self) -> None:
        self.out = Path(self.out)
        arrays.choice(self.kind, "format", tuple(KINDS))
        self.ledger = Ledger(self.out, self.kind)

    # --- What is to be done

    def units(self) -> Iterator[Unit]:
        """All units, of every share, in order."""
        numbers = itertools.count()
        size = self.options.shard_size
        for source in self.sources:
            if source.ranges:
                count = len(source)
                for start in range(0, count, size):
                    stop = min(start + size, count)
                    yield Unit(next(numbers), source, start, stop, stop - start)
            else:
                yield Unit(next(numbers), source, 0, None, sum(file.stat().st_size for file in source.files()))

    def settings(self) -> dict[str, Any]:
        """What the folder's bytes depend on; of the inputs only the names, their content is in the records."""
        sources = [
            {"name": source.path.name, "kind": source.kind} | ({"samples": len(source)} if source.ranges else {})
            for source in self.sources
        ]
        size = self.options.shard_size
        return {"format": FORMAT, "task": self.task.settings(), "kind": self.kind, "shard_size": size, "sources": sources}

    def prepare(self) -> None:
        """Make the folder, or check that it was made for the same job."""
        self.task.check()
        self.ledger.begin(self.settings(), self.options.overwrite)
        if self.task.embeddings is not None and (Path(self.task.embeddings) / STORE_FILE).is_file():
            self.embedded = len(EmbeddingStore.open(self.task.embeddings))

    def pending(self) -> list[Unit]:
        """The units of this share that are to be done; parts that are damaged are forgotten, changed inputs are DataErrors.

        Forgotten too are parts that lack samples whose captions may have come to the embedding store since.
        """
        whole = self.ledger.finished_file() is not None
        if whole and any(map(self._may_find_more, self.records())):
            self.ledger.unfinish()
            whole = False
        first, count = self.options.share
        result = []
        for unit in self.units():
            if unit.number % count != first or not self.ledger.claim(unit.number):
                continue
            try:
                for number, record in enumerate(self.ledger.records(unit.number)):
                    self._check_input(unit, record)
                    if self._may_find_more(record) or not (whole or verify_part(self.out, record)):
                        self.ledger.forget_from(unit.number, number)
                        break
                if not self.ledger.is_done(unit.number):
                    result.append(unit)
            finally:
                self.ledger.release(unit.number)
        return result

    def records(self) -> Iterator[Record]:
        """Of all parts that are done, in order."""
        return itertools.chain.from_iterable(self.ledger.records(unit.number) for unit in self.units())

    def _may_find_more(self, record: Record) -> bool:
        """Whether samples of a part were skipped for want of embeddings when the store had fewer."""
        return bool(record.get("embedded", self.embedded) != self.embedded)

    def _check_input(self, unit: Unit, record: Record) -> None:
        """DataError where a finished part's input is no longer what it was."""
        then, now = record["input"], unit.source.state(record["start"], unit.stop)
        if then["state"] == now:
            return
        digest = hashlib.sha256()
        for event in itertools.islice(unit.source.read(record["start"], unit.stop), record["events"]):
            digest.update(event_bytes(event))
        if digest.hexdigest() != then["sha256"]:
            raise DataError(
                f"{unit.source.name}: changed since {record['name']} in {self.out} was made from it "
                f"(size and time were {then['state']}, are "
                f"{now}, and the samples differ); bring it back, or use --overwrite to start anew"
            )

    # --- The end

    def conclude(self) -> tuple[int, int, int, int]:
        """Samples, skips and parts that are done, and units that are not; with none left writes the index and the report of
        skips.
        """
        samples = skipped = parts = left = 0
        for unit in self.units():
            records = self.ledger.records(unit.number)
            left += not records or records[-1]["next"] is not None
            samples += sum(record["samples"] for record in records)
            skipped += sum(len(record["skips"]) for record in records)
            parts += len(records)
        if not left:
            self.ledger.finish(self.records, samples, skipped)
        return samples, skipped, parts, left
