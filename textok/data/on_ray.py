"""A job on a Ray cluster, which is what `textok encode --ray` does. Extra: ray.

Units of the job are handed out as Ray Data rows to actors that read and write the shared file system themselves: pictures and
latents do not go through the object store. A unit whose worker dies is repeated by Ray; the lock of the dead is gone, what it
had finished stays, and the bytes are those of one machine.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core, arrays
from ..errors import DataError
from .job import Job, Unit
from .running import Bar, Summary, summary
from .work import work_through

_STORE_BYTES = 100 << 20  # of a local cluster's object store: only counts of samples go through it


def assigned_threads() -> int:
    """The threads that this process may use: the CPUs of its Ray actor or task, at most what textok takes by itself."""
    import ray

    most = _core.get_num_threads()
    if not ray.is_initialized():
        return most
    try:
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", most)
    except (AssertionError, RuntimeError):  # so it answers in a driver
        return most
    return max(1, min(int(cpus), most))


class _Units:
    """An actor that does units of a job; a batch is one unit's number."""

    def __init__(self, job: Job, folder: str) -> None:
        os.chdir(folder)  # paths are the driver's
        self.job = job
        self.units: dict[int, Unit] = {unit.number: unit for unit in job.units()}
        self.threads = assigned_threads()
        self.work = job.task.load(1)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        units = [self.units[int(number)] for number in batch["unit"]]
        computed = work_through(self.job, units, self.threads, work=self.work)
        return {"unit": batch["unit"], "computed": np.array([computed] + [0] * (len(units) - 1))}


def run(job: Job, address: str) -> Summary:
    """Do a job on a cluster whose nodes all see its files; `threads` of its options are the CPUs of an actor, None for one.

    Parameters
    ----------
    address
        Of the cluster, or "local" for one on this machine that ends with the run. A connection that is there is used.
    """
    import ray
    import ray.data

    each = arrays.thread_count(job.options.threads) or 1
    job.prepare()
    units = job.pending()
    began = time.monotonic()
    mine = not ray.is_initialized()
    if mine:
        local: dict[str, Any] = {
            "num_cpus": _core.get_num_threads(),
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
        }
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(local if address == "local" else {}))
    try:
        computed = _on_cluster(job, units, each, job.options.progress) if units else 0
    finally:
        if mine:
            ray.shutdown()
    return summary(job, computed, time.monotonic() - began)


def _on_cluster(job: Job, units: Sequence[Unit], each: int, progress: bool) -> int:
    import ray
    import ray.data

    nodes: Any = ray.nodes()
    room: int = sum(int(node["Resources"].get("CPU", 0)) // each for node in nodes if node["Alive"])
    if not room:
        raise DataError(f"threads: expected at most the CPUs of a node of the cluster, got {each}")
    weights = {unit.number: unit.weight for unit in units}
    context = ray.data.DataContext.get_current()
    bars = context.enable_progress_bars
    context.enable_progress_bars = False
    computed = 0
    try:
        numbers = ray.data.from_items([{"unit": unit.number} for unit in units], override_num_blocks=len(units))
        done = numbers.map_batches(
            _Units, fn_constructor_args=(job, os.getcwd()), batch_size=1, num_cpus=each, concurrency=min(room, len(units))
        )
        with Bar(progress, units) as bar:
            for row in done.iter_rows():
                computed += int(row["computed"])
                bar.tell(int(row["computed"]), weights[int(row["unit"])])
    finally:
        context.enable_progress_bars = bars
    return computed
