"""Encoding in Ray Data pipelines of one's own: an actor class for `map_batches`. Extra: ray.

    ds = ray.data.read_webdataset("shards", decoder=False)
    ds = ds.map_batches(textok.ray.Encoder, fn_constructor_kwargs={"model": "emoji-baseline", "picture": "png"},
                        batch_size=64, num_cpus=4, concurrency=8)

Threads: an actor uses as many as the CPUs that it was given (`num_cpus`), at most OMP_NUM_THREADS where that is set. Every
actor has its own copy of the weights, so for large models few actors with many CPUs are better than many with one. Blocks are
read-only and stay so. Calls have no memory, so a call that Ray repeats gives the same rows.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..errors import DataError
from .base import Sample, Skip
from .conditioning import textok_config
from .encode import EncodeTask
from .job import Work
from .on_ray import assigned_threads
from .options import BATCH_SIZE
from .ordered import ordered_map
from .payloads import LATENT, unpack_arrays


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
        files = [result.files["safetensors"] for result in results if not isinstance(result, Skip)]
        latents = [unpack_arrays("safetensors", data)[LATENT] for data in files]
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
