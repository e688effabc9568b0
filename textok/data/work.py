"""Doing units of a job: read in batches, computed by threads, written as parts that count once they are recorded.

Threads, not the engine's own, share the work: each runs the engine on a batch of its own, single-threaded. That keeps the cores
busy through decoding and writing, and spares the engine its barriers: on two cores a quarter to a half faster than one batch on
both.
"""

import errno
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from .. import _core
from ..errors import DataError
from ..version import __version__
from .base import NO_EMBEDDING, Event, Sample, Skip, event_bytes, usable
from .job import Job, Unit, Work
from .ordered import ordered_map
from .outputs import KINDS, PartWriter, Product

Tell = Callable[[int, float], object]

# What a second sample of a key would do, by the kind of a job; an .npz has no keys.
_SECOND = {
    "png": "a second sample of this key, whose picture would replace the first's",
    "shards": "a second sample of this key, whose files readers of its shard would take for the first's",
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Part:
    """A part in the making."""

    def __init__(self, unit: Unit, number: int, start: int, state: str, keys: set[str]) -> None:
        self.unit, self.number, self.start, self.state = unit, number, start, state
        self.keys = keys  # of the samples that may not come twice: in its shard, or of pictures in its unit
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
        self.digest.update(event_bytes(event))


class _Batch:
    def __init__(self, part: _Part) -> None:
        self.part = part
        self.samples: list[Sample] = []
        self.places: list[int] = []  # the number of each sample among the events
        self.last = False
        self.weight = 0


def work_through(job: Job, units: Iterable[Unit], threads: int, tell: Tell | None = None, work: Work | None = None) -> int:
    """Do units in this process; returns the samples computed. `tell(samples, weight)` is called as it goes on.

    `work` is what the task's `load(1)` gave, where that was done before.
    """
    computed = 0
    work = work or job.task.load(1)
    writers: dict[tuple[int, int], PartWriter] = {}
    try:
        for batch, results in ordered_map(
            lambda batch: work(batch.samples) if batch.samples else (), _batches(job, units), threads
        ):
            part = batch.part
            name = (part.unit.number, part.number)
            if name not in writers:
                writers[name] = KINDS[job.kind](job.out, job.ledger.parts, f"{job.prefix}-{name[0]:06d}-{name[1]:04d}")
            _write(job, batch, results, writers[name])
            computed += len(batch.samples)
            if tell is not None:
                tell(len(batch.samples), batch.weight)
            if batch.last:
                _finish(job, part, writers[name])
                del writers[name]
    except OSError as problem:
        if problem.errno in _NO_ROOM and problem.filename is None:  # a write does not know its file's name
            problem.filename = str(job.out)
        raise
    finally:
        for writer in writers.values():
            writer.abandon()
        job.ledger.release_all()
    return computed


def _write(job: Job, batch: _Batch, results: Sequence[Product | Skip], writer: PartWriter) -> None:
    part = batch.part
    for place, result in zip(batch.places, results, strict=True):
        if isinstance(result, Skip):
            part.skips.append((place, result))
        elif job.kind in _SECOND and result.key in part.keys:
            part.skips.append((place, Skip(result.key, part.unit.source.name, _SECOND[job.kind])))
        else:
            if job.kind in _SECOND:
                part.keys.add(result.key)
            writer.add(result.key, result.files, result.metadata)
    if job.options.strict and part.skips:
        skip = min(part.skips)[1]
        raise DataError(f"{skip.source}: {skip.key or 'the file'}: {skip.reason}")


def _batches(job: Job, units: Iterable[Unit]) -> Iterator[_Batch]:
    for unit in units:
        if not job.ledger.claim(unit.number):
            continue
        if job.ledger.is_done(unit.number):  # by another process, between our looks
            job.ledger.release(unit.number)
        else:
            yield from _unit_batches(job, unit)


def _unit_batches(job: Job, unit: Unit) -> Iterator[_Batch]:
    records = job.ledger.records(unit.number)
    start = records[-1]["next"] if records else unit.start
    events = unit.source.read(start, unit.stop)
    keys = {key for record in records for key, _ in record.get("rows", ())} if job.kind == "png" else set()
    part = _Part(unit, len(records), start, unit.source.state(start, unit.stop), keys)
    batch = _Batch(part)
    before = start
    for event in events:
        if unit.stop is None and part.events >= job.options.shard_size and part.can_end:
            part.next = part.position
            batch.last = True
            yield batch
            part = _Part(unit, part.number + 1, part.position, part.state, keys if job.kind == "png" else set())
            batch = _Batch(part)
        elif len(batch.samples) == job.options.batch_size:
            yield batch
            batch = _Batch(part)
        part.take(event)
        batch.weight += max(event.position - before, 0)
        before = event.position
        event = usable(event, job.task.need, job.task.field)
        if isinstance(event, Skip):
            part.skips.append((part.events, event))
        else:
            batch.samples.append(event)
            batch.places.append(part.events)
    batch.last = True
    yield batch


def _finish(job: Job, part: _Part, writer: PartWriter) -> None:
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
        **({"embedded": job.embedded} if lacking else {}),
        "made_with": {"textok": __version__, "kernels": _core.cpu_info()["isa"]},
    }
    job.ledger.add(unit.number, part.number, record)
    if part.next is None:
        job.ledger.release(unit.number)
