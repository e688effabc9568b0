"""`decode`: latents to pictures, as files, shards or ADM's one archive.

It goes like this. `open_sources` finds the latents. A `DecodeTask` says what the pictures depend on, and makes them of a batch
of samples: latents are read and checked, captions become their embeddings, the model decodes. `run` divides the sources into
units of work and these into batches, and writes parts that a kill cannot damage.
"""

import os
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import arrays
from ..errors import DataError
from ..image_tokenizer import TexTok
from ..model import dtype_name
from .base import Sample, Skip, folder_of, key_in_shard
from .conditioning import Conditioner, TextFinder, check_condition, embeddings_told, kind_of, needs, path_or_none, textok_config
from .fingerprint import encoder_of, fingerprint
from .job import Job, Work, with_skips
from .latents import latent_of
from .options import BATCH_SIZE, SHARD_SIZE, RunOptions
from .outputs import OUTPUTS, Product, picture_product
from .running import Summary, run
from .sources import Paths, open_sources


def decode(
    model: str | os.PathLike[str],
    latents: Paths,
    out: str | os.PathLike[str],
    *,
    embeddings: str | os.PathLike[str] | None = None,
    field: str = "caption",
    dtype: str = "float32",
    format: str = "png",
    batch_size: int = BATCH_SIZE,
    shard_size: int = SHARD_SIZE,
    share: tuple[int, int] = (0, 1),
    processes: int = 1,
    threads: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
    progress: bool = False,
) -> Summary:
    """Pictures of latents.

    Parameters
    ----------
    latents
        Shards that `encode` or `sample` wrote, or .npy or .npz files [n,N,d].
    format
        "png": KEY.png in `out` (in a folder a shard, where there are several) with metadata.jsonl; "shards": KEY.png and
        KEY.json in pictures-UUUUUU-PPPP.tar; "npz": one samples.npz as ADM's, in the order of the latents, with labels where
        all have one.
    model, out, ..., progress
        As in `encode`; `embeddings` for a model whose detokenizer takes text.

    Examples
    --------
    >>> decode("emoji-textok", "latents", "pictures", embeddings="captions", format="npz")  # doctest: +SKIP
    """
    options = RunOptions(batch_size, shard_size, share, processes, threads, overwrite, strict, progress)
    found = open_sources(latents, without=out)
    several = len(found) > 1 and format == "png"
    folders = [folder_of(source.name) for source in found]
    if several and len(set(folders)) < len(found):
        twice = next(name for name in folders if folders.count(name) > 1)
        raise DataError(f"latents: expected shards of names that differ, as their pictures' folders do, got two of {twice!r}")
    task = DecodeTask(
        os.fspath(model), path_or_none(embeddings), field, dtype, arrays.choice(format, "format", OUTPUTS), several
    )
    warn_of_another_model(latents, task)
    TextFinder(task.embeddings).check_positions(found)
    return run(Job(Path(out), task, found, format, "pictures", options))


def warn_of_another_model(latents: Paths, task: "DecodeTask") -> None:
    """Latents that another model encoded have the right shape and make noise, unless only the detokenizer was trained on."""
    for folder in map(Path, [latents] if isinstance(latents, str | os.PathLike) else latents):
        by = encoder_of(folder)
        if by and by.get("sha256") != task.made_by["sha256"]:
            told = f"{folder}: latents of {by.get('name')}, decoded with {task.model}, which is another model"
            warnings.warn(told, stacklevel=3)


@dataclass(frozen=True)
class DecodeTask:
    """Latents to pictures; see `textok.data.decode`."""

    model: str
    embeddings: str | None = None
    field: str = "caption"
    dtype: str = "float32"
    kind: str = "png"
    by_source: bool = False  # whether keys get the name of their shard before them

    @cached_property
    def need(self) -> tuple[str, ...]:
        return needs(textok_config(self.model), "detokenizer", TextFinder(self.embeddings))

    @cached_property
    def made_by(self) -> dict[str, Any]:
        """The model by the content of its files, which may be gigabytes."""
        return fingerprint(self.model)

    def settings(self) -> dict[str, Any]:
        embeddings = embeddings_told(self.embeddings, textok_config(self.model))
        return {
            "name": "decode",
            "model": self.made_by,
            "dtype": self.dtype,
            "embeddings": embeddings,
            "field": self.field,
        }

    def check(self) -> None:
        dtype_name(self.dtype)
        config = textok_config(self.model)
        check_condition(kind_of(config, "detokenizer"), TextFinder(self.embeddings), config)

    def load(self, threads: int) -> Work:
        model = TexTok.from_pretrained(self.model, self.dtype, threads, side="detokenizer")
        shape = model.config.latent_shape
        conditioner = Conditioner(kind_of(model.config, "detokenizer"), TextFinder(self.embeddings, self.field), model)

        def work(samples: list[Sample]) -> list[Product | Skip]:
            latents = np.zeros((len(samples), *shape), np.float32)
            problems: dict[int, str] = {}
            for place, sample in enumerate(samples):
                try:
                    latent = latent_of(sample).latent
                    if latent.shape != shape:
                        raise ValueError(f"expected latents {list(shape)}, as the model has them, got {list(latent.shape)}")
                    latents[place] = latent
                except ValueError as problem:
                    problems[place] = str(problem)
            condition = conditioner.conditions(samples, problems)

            def decode(samples: list[Sample], places: list[int]) -> list[Product]:
                pictures = model.decode(latents[places], **condition)
                keys = (key_in_shard(sample) if self.by_source else sample.key for sample in samples)
                return [
                    picture_product(key, picture, sample.metadata, self.kind)
                    for key, sample, picture in zip(keys, samples, pictures)
                ]

            return with_skips(samples, problems, decode)

        return work
