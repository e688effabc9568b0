"""A job on this machine: divided over threads and processes, with a bar, and summed up."""

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .. import _core, arrays
from ..errors import DataError
from .folders import SKIPS_FILE
from .job import Job, Unit
from .work import Tell, work_through

_POLL_SECONDS = 0.2


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
        where = (
            f"{self.folder / SKIPS_FILE} will say why, once nothing is left" if self.left else f"see {self.folder / SKIPS_FILE}"
        )
        skipped = f", {self.skipped} skipped ({where})" if self.skipped else ""
        return f"{self.folder}: {self.samples} samples in {self.parts} parts{skipped}; {self.computed} computed now{rate}{left}"


def run(job: Job) -> Summary:
    """Do a job's share on this machine; write the index if nothing is left."""
    options = job.options
    cores = arrays.thread_count(options.threads) or _core.get_num_threads()
    job.prepare()
    units = job.pending()
    began = time.monotonic()
    with Bar(options.progress, units) as bar:
        if not units:
            computed = 0
        elif options.processes == 1 or len(units) == 1:
            computed = work_through(job, units, cores, bar.tell)
        else:
            computed = _in_processes(job, units, min(options.processes, len(units)), cores, bar.tell)
    return summary(job, computed, time.monotonic() - began)


def summary(job: Job, computed: int, seconds: float) -> Summary:
    samples, skipped, parts, left = job.conclude()
    return Summary(job.out, samples, skipped, parts, computed, left, seconds)


class Bar:
    """Images done, images a second and the time left, of work whose length only shows on the way; a context manager."""

    def __init__(self, progress: bool, units: Sequence[Unit]) -> None:
        self._weight, self._done, self._images = sum(unit.weight for unit in units), 0.0, 0
        self._exact = all(unit.stop is not None for unit in units)
        self._bar = None
        if progress:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self._weight if self._exact else None, unit="img", smoothing=0.1)

    def tell(self, images: int, weight: float) -> None:
        self._images += images
        self._done += weight
        if self._bar is not None:
            if not self._exact and self._done:
                self._bar.total = max(round(self._images * self._weight / self._done), self._images)
            self._bar.update(images if not self._exact else weight)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _in_processes(job: Job, units: Sequence[Unit], count: int, threads: int, tell: Tell) -> int:
    """Processes that take units as they come to them; spawned, since a fork would copy locks that other threads hold."""
    context = multiprocessing.get_context("spawn")
    news = context.Queue()
    each = max(1, threads // count)
    workers = [context.Process(target=_serve, args=(job, units, each, news, os.getpid()), daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    computed, running = 0, count
    try:
        while running:
            try:
                what, value = news.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                dead = next((worker for worker in workers if worker.exitcode not in (None, 0)), None)
                if dead is not None:
                    raise DataError(
                        f"a worker process ended with status {dead.exitcode}; run again to go on where it stopped"
                    ) from None
                continue
            if what == "told":
                tell(*value)
            elif what == "done":
                computed, running = computed + value, running - 1
            else:
                raise value
    finally:
        for worker in workers:
            if running:
                worker.terminate()
            worker.join()
    return computed


def _serve(job: Job, units: Sequence[Unit], threads: int, news: Any, parent: int) -> None:
    def tell(images: int, weight: float) -> None:
        if os.getppid() != parent:  # nobody listens any more
            os._exit(1)
        news.put(("told", (images, weight)))

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends us
    try:
        news.put(("done", work_through(job, units, threads, tell)))
    except Exception as problem:  # noqa: BLE001  it is raised in the parent
        news.put(
            ("failed", problem if isinstance(problem, OSError | ValueError | MemoryError) else RuntimeError(repr(problem)))
        )
