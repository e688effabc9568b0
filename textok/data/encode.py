"""`encode`: the pictures of a data set to latents, in shards.

It goes like this. `open_sources` finds what the paths are. An `EncodeTask` says what the latents depend on, and makes them of a
batch of samples: pictures are decoded and cropped, captions become their embeddings, the model encodes. `run` divides the
sources into units of work and these into batches, and writes parts that a kill cannot damage.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import arrays
from ..image_tokenizer import TexTok
from ..model import dtype_name
from . import on_ray
from .base import Sample, Skip, decode_pictures
from .conditioning import Conditioner, TextFinder, check_condition, embeddings_told, kind_of, needs, path_or_none, textok_config
from .fingerprint import fingerprint
from .job import Job, Work, with_skips
from .options import BATCH_SIZE, SHARD_SIZE, RunOptions
from .outputs import Product, latent_product
from .payloads import FLIPPED, FORMATS, LATENT
from .running import Summary, run
from .sources import Paths, open_sources


def encode(
    model: str | os.PathLike[str],
    sources: Paths,
    out: str | os.PathLike[str],
    *,
    embeddings: str | os.PathLike[str] | None = None,
    field: str = "caption",
    dtype: str = "float32",
    format: str = "npz",
    flip: bool = False,
    batch_size: int = BATCH_SIZE,
    shard_size: int = SHARD_SIZE,
    share: tuple[int, int] = (0, 1),
    processes: int = 1,
    threads: int | None = None,
    ray: str | None = None,
    overwrite: bool = False,
    strict: bool = False,
    progress: bool = False,
) -> Summary:
    """Latents of all pictures, as shards.

    Parameters
    ----------
    model
        A TexTok's folder or a bundled name.
    sources
        What `open_sources` takes: shards, folders, tables, arrays, pictures.
    out
        The folder for shards latents-UUUUUU-PPPP.tar (KEY.npz or .safetensors with `latent` float32 [N,d], and KEY.json),
        index.json and skips.jsonl. Run again with the same arguments, an interrupted run goes on and ends with the same bytes.
        A folder that no run made and that holds shards is refused (of `decode` and `sample` also one with pictures).
    embeddings
        Of the captions, for a model whose tokenizer takes text: a store or a file, see `textok.open_embeddings`; or "auto": the
        encoder that the model's config names embeds them as they come. A store is better where captions are many and used more
        than once. Embeddings find their samples by caption (a store, an .npz with `captions`), by key (`keys`), or where they
        have no names by position: the k-th row goes with the k-th sample, of one array, table or folder (whose files are in the
        order of their names) with as many.
    field
        The metadata's field that is the caption.
    dtype
        What the model computes in.
    format
        "npz" or "safetensors", of a sample in the shards.
    flip
        Encode each picture's mirror image too, as `latent_flipped`, with the same caption.
    batch_size
        Pictures of a call of the engine; each thread has its own. No result depends on it.
    shard_size
        Samples of an output shard, and of the work that a kill can cost.
    share
        (i, n): do every n-th piece of the work from the i-th, i from 0; for several machines.
    processes, threads
        Processes, started afresh, that share the threads (all that this process may use).
    ray
        The address of a Ray cluster, or "local" for one of this machine, to do the work; see `textok.ray`.
    overwrite
        Remove what an earlier run wrote to the folder, and start anew.
    strict
        Stop at the first sample that has to be skipped.
    progress
        Whether to show a bar.

    Raises
    ------
    DataError
        The folder was made with other settings, or an input changed since: says what.

    Examples
    --------
    >>> encode("emoji-textok", "emoji", "latents", embeddings="captions")  # doctest: +SKIP
    Summary(folder=PosixPath('latents'), samples=5674, skipped=0, parts=3, computed=5674, left=0, seconds=8.1)
    """
    options = RunOptions(batch_size, shard_size, share, processes, threads, overwrite, strict, progress)
    task = EncodeTask(os.fspath(model), path_or_none(embeddings), field, dtype, format, flip)
    found = open_sources(sources, without=out)
    TextFinder(task.embeddings).check_positions(found)
    job = Job(Path(out), task, found, "shards", "latents", options)
    return run(job) if ray is None else on_ray.run(job, ray)


@dataclass(frozen=True)
class EncodeTask:
    """Pictures to latents; see `textok.data.encode`."""

    model: str
    embeddings: str | None = None
    field: str = "caption"
    dtype: str = "float32"
    format: str = "npz"
    flip: bool = False

    def __post_init__(self) -> None:
        arrays.choice(self.format, "format", FORMATS)

    @cached_property
    def need(self) -> tuple[str, ...]:
        return ("picture", *needs(textok_config(self.model), "tokenizer", TextFinder(self.embeddings)))

    def settings(self) -> dict[str, Any]:
        embeddings = embeddings_told(self.embeddings, textok_config(self.model))
        return {
            "name": "encode",
            "model": fingerprint(self.model),
            "dtype": self.dtype,
            "embeddings": embeddings,
            "field": self.field,
            "format": self.format,
            "flip": self.flip,
        }

    def check(self) -> None:
        dtype_name(self.dtype)
        config = textok_config(self.model)
        check_condition(kind_of(config, "tokenizer"), TextFinder(self.embeddings), config)

    def load(self, threads: int) -> Work:
        model = TexTok.from_pretrained(self.model, self.dtype, threads, side="tokenizer")
        size = model.config.image_size
        conditioner = Conditioner(kind_of(model.config, "tokenizer"), TextFinder(self.embeddings, self.field), model)

        def work(samples: list[Sample]) -> list[Product | Skip]:
            pictures, problems = decode_pictures(samples, size)
            condition = conditioner.conditions(samples, problems)

            def encode(samples: list[Sample], places: list[int]) -> list[Product]:
                batch = pictures[places]
                found = {LATENT: model.encode(batch, **condition)}
                if self.flip:
                    found[FLIPPED] = model.encode(batch[:, :, ::-1], **condition)
                return [
                    latent_product(sample, self.format, {name: array[row] for name, array in found.items()})
                    for row, sample in enumerate(samples)
                ]

            return with_skips(samples, problems, encode)

        return work
