"""Encoding on a Ray cluster: an actor class for Ray Data's `map_batches`, and what `textok encode --ray` does. Extra: ray.

    ds = ray.data.read_webdataset("shards", decoder=False)
    ds = ds.map_batches(textok.ray.Encoder, fn_constructor_kwargs={"model": "emoji-baseline", "picture": "png"},
                        batch_size=64, num_cpus=4, concurrency=8)

Threads: an actor uses as many as the CPUs that it was given (`num_cpus`), at most OMP_NUM_THREADS where that is set. Every
actor has its own copy of the weights, so for large models few actors with many CPUs are better than many with one. Blocks are
read-only and stay so. Calls have no memory, so a call that Ray repeats gives the same rows.

`textok encode --ray` hands out units of a job (`textok.data.jobs`), as Ray Data rows, to actors that read and write the shared
file system themselves: pictures and latents do not go through the object store. A unit whose worker dies is repeated by Ray;
the lock of the dead is gone, what it had finished stays, and the bytes are those of one machine.
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
from .jobs import BATCH_SIZE, Job, Summary, Unit, Work
from .ordered import ordered_map
from .runs import Bar, summary
from .shards import LATENT, unpack_arrays
from .sources import Sample, Skip
from .tasks import EncodeTask, textok_config

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


class Encoder:
    """Pictures of a Ray Data batch to latents; for `map_batches`, or to be called with any dict of columns.

    Parameters
    ----------
    model, embeddings, dtype
        As in `textok.data.encode`. Every worker must be able to read them.
    picture
        The column with the pictures: bytes of picture files, or arrays uint8 or floats in [-1, 1], [H,W,3] each. It is left out
        of the result.
    field
        The column with the captions, where the model takes text; a model of classes takes the column `label`.
    output
        The column that the latents go to, float32 [B,N,d].
    batch_size
        Pictures of a call of the engine, of which each thread has its own.
    strict
        A picture that cannot be encoded is a DataError; if not, its row is left out, and named in the log.

    Examples
    --------
    >>> encode = Encoder("emoji-baseline")  # doctest: +SKIP
    >>> encode({"image": np.zeros((2, 64, 64, 3), np.uint8), "id": np.arange(2)})["latent"].shape  # doctest: +SKIP
    (2, 32, 8)
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        embeddings: str | os.PathLike[str] | None = None,
        picture: str = "image",
        field: str = "caption",
        output: str = LATENT,
        dtype: str = "float32",
        batch_size: int = BATCH_SIZE,
        strict: bool = True,
    ) -> None:
        self.task = EncodeTask(
            os.fspath(model), None if embeddings is None else os.fspath(embeddings), field, dtype, "safetensors"
        )
        self.picture, self.field, self.output, self.strict = picture, field, output, strict
        self.batch_size = arrays.whole(batch_size, "batch_size", 1, arrays.MAX_BATCH)
        self.threads = assigned_threads()
        self._work: Work = self.task.load(1)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        if self.picture not in batch:
            raise DataError(
                f"{self.picture}: expected a column of that name with the pictures, got {', '.join(batch) or 'none'}"
            )
        samples = [self._sample(batch, row) for row in range(len(batch[self.picture]))]
        parts = [samples[first : first + self.batch_size] for first in range(0, len(samples), self.batch_size)]
        results = [result for _, found in ordered_map(self._work, parts, self.threads) for result in found]
        kept = []
        for row, result in enumerate(results):
            if not isinstance(result, Skip):
                kept.append(row)
            elif self.strict:
                raise DataError(f"row {row}: {result.reason}")
            else:
                logging.getLogger(__name__).warning("row %d of a batch is left out: %s", row, result.reason)
        latents = [unpack_arrays("safetensors", results[row].files["safetensors"])[LATENT] for row in kept]
        columns = {name: np.asarray(values)[kept] for name, values in batch.items() if name != self.picture}
        shape = (len(kept), *self._latent_shape(latents))
        return {**columns, self.output: np.stack(latents) if latents else np.empty(shape, np.float32)}

    def _latent_shape(self, latents: Sequence[NDArray[Any]]) -> tuple[int, ...]:
        return latents[0].shape if latents else textok_config(self.task.model).latent_shape

    def _sample(self, batch: Mapping[str, Any], row: int) -> Sample:
        picture = batch[self.picture][row]
        metadata = {name: batch[name][row] for name in (self.field, "label") if name in batch}
        metadata = {name: value.item() if isinstance(value, np.generic) else value for name, value in metadata.items()}
        key = f"row {row}"
        return Sample(
            key,
            bytes(picture) if isinstance(picture, bytes | memoryview) else np.asarray(picture),
            metadata,
            "batch",
            position=row + 1,
        )


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
        computed = self.job.work_through(units, self.threads, work=self.work)
        return {"unit": batch["unit"], "computed": np.array([computed] + [0] * (len(units) - 1))}


def run(job: Job, address: str, *, overwrite: bool = False, threads: int | None = None, progress: bool = False) -> Summary:
    """Do a job on a cluster whose nodes all see its files.

    Parameters
    ----------
    address
        Of the cluster, or "local" for one on this machine that ends with the run. A connection that is there is used.
    threads
        CPUs of an actor; None for one.
    """
    import ray
    import ray.data

    each = arrays.thread_count(threads) or 1
    job.prepare(overwrite)
    units = job.pending()
    began = time.monotonic()
    mine = not ray.is_initialized()
    if mine:
        local = {"num_cpus": _core.get_num_threads(), "object_store_memory": _STORE_BYTES, "include_dashboard": False}
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(local if address == "local" else {}))
    try:
        computed = _on_cluster(job, units, each, progress) if units else 0
    finally:
        if mine:
            ray.shutdown()
    return summary(job, computed, time.monotonic() - began)


def _on_cluster(job: Job, units: Sequence[Unit], each: int, progress: bool) -> int:
    import ray
    import ray.data

    room = sum(int(node["Resources"].get("CPU", 0)) // each for node in ray.nodes() if node["Alive"])
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
