"""`sample`: pictures from noise, by the tens of thousands; or latents, of a DiT alone.

It goes like this. What is asked for, a label or a caption for each number, is a source of samples like any other: `Wishes`. A
`SampleTask` says what the pictures depend on, and makes them of a batch of wishes: noise goes by a sample's number, captions
become their embeddings, the model samples. `run` divides the wishes into units of work and these into batches, and writes parts
that a kill cannot damage.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import arrays, weights
from ..bundled import find_model
from ..captions import checked_captions
from ..config import DiTConfig
from ..dit import DiT
from ..errors import DataError
from ..model import dtype_name
from ..noise import MAX_SEED
from ..pipeline import Pipeline, part_of, sampling_of
from ..sampling import Sampling
from ..text.embedding_store import EmbeddingStore
from ..text.open_embeddings import open_embeddings
from .base import Sample, Skip, Source
from .conditioning import AUTO, Conditioner, TextFinder, check_condition, embeddings_told, path_or_none
from .fingerprint import fingerprint
from .job import Job, Work, with_skips
from .options import BATCH_SIZE, SHARD_SIZE, RunOptions
from .outputs import OUTPUTS, Product, latent_product, picture_product
from .payloads import LATENT
from .running import Summary, run
from .sources import Paths, read_samples


def sample(
    model: str | os.PathLike[str],
    num: int | None,
    out: str | os.PathLike[str],
    *,
    labels: Sequence[int] | None = None,
    caption: str | Sequence[str] | None = None,
    captions: Paths | None = None,
    embeddings: str | os.PathLike[str] | None = None,
    field: str = "caption",
    seed: int = 0,
    steps: int | None = None,
    solver: str | None = None,
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    dtype: str = "float32",
    format: str | None = None,
    batch_size: int = BATCH_SIZE,
    shard_size: int = SHARD_SIZE,
    share: tuple[int, int] = (0, 1),
    processes: int = 1,
    threads: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
    progress: bool = False,
) -> Summary:
    """Pictures from noise, by the tens of thousands that metrics want.

    Parameters
    ----------
    model
        A pipeline (pictures) or a DiT alone (latents).
    num
        How many. Sample k depends on `seed`, k and its own label or caption only: asking for more later, or on other machines,
        gives the same first ones. None for one of each `caption`.
    labels
        Classes, taken in turn; None for all of the DiT's, from 0. For a class-conditional DiT.
    caption
        For text-to-image: the captions themselves, taken in turn.
    captions, embeddings
        For text-to-image: what has the captions (any source), taken in turn, and their embeddings: a store or a file, or
        "auto", the default where captions are given and the model's config names its encoder, which embeds them as they come.
        Without captions all of the embeddings', in their order.
    steps, solver, guidance_scale, guidance_interval
        As in `DiT.sample`, or, of a pipeline, as in `Pipeline`.
    format
        "png", "shards" or "npz", as in `decode`; None for "png", or for latents "shards".
    out, ..., progress
        As in `encode`.

    Examples
    --------
    >>> sample("emoji", 50000, "samples", seed=1, steps=20, guidance_scale=2.0, format="npz")  # doctest: +SKIP
    """
    options = RunOptions(batch_size, shard_size, share, processes, threads, overwrite, strict, progress)
    if caption is not None:
        caption = checked_captions(caption, None)
        if blank := [place for place, words in enumerate(caption, 1) if not words.strip()]:
            raise ValueError(f"caption {blank[0]}: expected words, got {caption[blank[0] - 1]!r}")
        num = len(caption) if num is None else num
    num = arrays.whole(num, "num", 1, arrays.MAX_BATCH)
    seed = arrays.whole(seed, "seed", 0, MAX_SEED)
    name = os.fspath(model)
    config, pipeline = dit_config(name), is_pipeline(name)
    asked = Sampling(steps, solver, guidance_scale=guidance_scale, guidance_interval=guidance_interval, seed=seed)
    sampling = asked.over(sampling_of(name)).resolved(config)
    if embeddings is None and (captions, caption) != (None, None) and config.text_encoder is not None:
        embeddings = AUTO
    wishes, cycle = _wishes(num, config, labels, caption, captions, embeddings, field)
    kind = format or ("png" if pipeline else "shards")
    arrays.choice(kind, "format", OUTPUTS if pipeline else ("shards",))
    task = SampleTask(name, sampling, path_or_none(embeddings), dtype, kind, cycle)
    return run(Job(Path(out), task, [wishes], kind, "samples" if pipeline else "latents", options))


class Wishes(Source):
    """What `sample` is asked for: sample k has the k-th of these labels or captions, which start over at their end."""

    kind = "wishes"
    ranges = True

    def __init__(self, count: int, labels: Sequence[int] | None = None, captions: Sequence[str] | None = None) -> None:
        super().__init__("wishes")
        self.count = count
        self.labels = None if labels is None else list(labels)
        self.captions = None if captions is None else list(captions)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Sample]:
        digits = max(6, len(str(self.count - 1)))
        for k in range(start, self.count if stop is None else stop):
            metadata: dict[str, Any] = {}
            if self.labels is not None:
                metadata["label"] = self.labels[k % len(self.labels)]
            if self.captions is not None:
                metadata["caption"] = self.captions[k % len(self.captions)]
            yield Sample(f"{k:0{digits}d}", None, metadata, self.name, position=k + 1)

    def files(self) -> Iterator[Path]:
        return iter(())

    def state(self, start: int, stop: int | None) -> str:
        return self._state

    @cached_property
    def _state(self) -> str:
        return hashlib.sha256(json.dumps([self.labels, self.captions]).encode()).hexdigest()

    def __len__(self) -> int:
        return self.count


def _wishes(
    num: int,
    config: DiTConfig,
    labels: Sequence[int] | None,
    caption: Sequence[str] | None,
    captions: Paths | None,
    embeddings: Any,
    field: str,
) -> tuple[Wishes, int]:
    """What a run is asked for, and after how many embeddings by position it starts over (0: never)."""
    if config.condition == "class":
        if (caption, captions, embeddings) != (None, None, None):
            raise ValueError("caption, captions, embeddings: expected none, this model takes classes")
        classes = range(config.num_classes) if labels is None else labels
        chosen = arrays.integers(list(classes), "labels", None, 0, config.num_classes, "classes and the null class").tolist()
        if not chosen:
            raise ValueError("labels: expected at least one class, got none")
        return Wishes(num, labels=chosen), 0
    if labels is not None:
        raise ValueError("labels: expected none, this model takes text")
    if embeddings is None:
        named = "" if config.text_encoder is None else "; or captions, which the model's own encoder embeds"
        raise DataError(
            f"embeddings: expected a store or file, this model takes text; `textok embed` makes one{named} (--embeddings, "
            "--captions, --caption)"
        )
    if caption is not None and captions is not None:
        raise ValueError("captions: expected none beside caption, got both")
    return _wished_captions(num, caption, captions, embeddings, field)


def _wished_captions(
    num: int, caption: Sequence[str] | None, captions: Paths | None, embeddings: Any, field: str
) -> tuple[Wishes, int]:
    """What a text-to-image run is asked for, and after how many embeddings by position it starts over."""
    opened = None if embeddings == AUTO else open_embeddings(embeddings)
    if caption is not None or captions is not None:
        if getattr(opened, "by", "caption") != "caption":
            raise DataError(f"{embeddings}: expected embeddings that are found by caption, since captions are given")
        found = caption
        if captions is not None:
            samples = itertools.islice(read_samples(captions, need=("caption",), field=field), num)
            found = [sample.caption_for(field) or "" for sample in samples]
        if not found:
            raise DataError(f"captions: expected a caption in the field {field!r}, found none")
        return Wishes(num, captions=found), 0
    if opened is None:
        raise DataError("captions: expected some, since embeddings are made of them as they come; give caption or captions")
    if len(opened) == 0:
        raise DataError(f"{embeddings}: expected embeddings, there are none in it")
    if isinstance(opened, EmbeddingStore):
        return Wishes(num, captions=list(itertools.islice(opened, num))), 0
    return Wishes(num), len(opened)


@dataclass(frozen=True)
class SampleTask:
    """Noise to pictures, or to latents where there is no detokenizer; see `textok.data.sample`."""

    model: str
    sampling: Sampling  # with nothing left open
    embeddings: str | None = None
    dtype: str = "float32"
    kind: str = "png"
    cycle: int = 0  # samples after which embeddings by position start over; 0: never
    need: tuple[str, ...] = ()
    field: str = "caption"

    def settings(self) -> dict[str, Any]:
        return {
            "name": "sample",
            "model": fingerprint(self.model),
            "dtype": self.dtype,
            "embeddings": embeddings_told(self.embeddings, dit_config(self.model)),
            "seed": self.sampling.seed,
            **self.sampling.kept(),
        }

    def check(self) -> None:
        dtype_name(self.dtype)
        config = dit_config(self.model)
        self.sampling.guidance(config, self.sampling.schedule(config))
        check_condition("text" if config.condition == "text" else "", TextFinder(self.embeddings, cycle=self.cycle), config)

    def load(self, threads: int) -> Work:
        pipeline = None
        if is_pipeline(self.model):
            pipeline = Pipeline.from_pretrained(self.model, self.dtype, threads, side="detokenizer")
        dit = DiT.from_pretrained(self.model, self.dtype, threads) if pipeline is None else pipeline.dit
        by_text = dit.config.condition == "text"
        conditioner = Conditioner("text" if by_text else "", TextFinder(self.embeddings, cycle=self.cycle), dit)
        options = {"seed": self.sampling.seed, **self.sampling.kept()}

        def generate(samples: list[Sample], condition: dict[str, Any]) -> list[Product]:
            first = samples[0].position - 1
            if pipeline is None:
                latents = dit.sample(**condition, first_index=first, **options)
                return [latent_product(sample, "npz", {LATENT: latent}) for sample, latent in zip(samples, latents)]
            result = pipeline(**condition, first_index=first, **options)
            captions = [{}] * len(samples) if result.captions is None else [{"caption": caption} for caption in result.captions]
            return [
                picture_product(sample.key, picture, sample.metadata | caption, self.kind)
                for sample, picture, caption in zip(samples, result.images, captions)
            ]

        def work(samples: list[Sample]) -> list[Product | Skip]:
            problems: dict[int, str] = {}
            condition = conditioner.conditions(samples, problems)
            if not by_text:
                condition = {"labels": [sample.metadata["label"] for sample in samples]}

            def make(good: list[Sample], places: list[int]) -> list[Product]:
                # Noise goes by a sample's number, so a call takes numbers that follow one another.
                products: list[Product] = []
                for part in _consecutive(good):
                    products += generate(good[part], {name: values[part] for name, values in condition.items()})
                return products

            return with_skips(samples, problems, make)

        return work


def _consecutive(samples: list[Sample]) -> Iterator[slice]:
    """Runs of samples whose positions follow one another; one, where none was skipped between."""
    start = 0
    for place in range(1, len(samples) + 1):
        if place == len(samples) or samples[place].position != samples[place - 1].position + 1:
            yield slice(start, place)
            start = place


def is_pipeline(model: str) -> bool:
    return (find_model(model) / weights.PIPELINE_FILE).is_file()


def dit_config(model: str) -> DiTConfig:
    """The config of a DiT, or of a pipeline's."""
    return DiTConfig.from_dict(weights.load_config(part_of(find_model(model), "dit"), DiT.model_type))
