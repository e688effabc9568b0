"""What a model is given for samples beside their pictures or latents: their captions' embeddings, or labels."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .. import weights
from ..bundled import find_model
from ..captions import check_store, most_tokens
from ..conditions import full_text
from ..config import DiTConfig, TexTokConfig
from ..dit import DiT
from ..errors import DataError
from ..image_tokenizer import TexTok
from ..text.embedding_store import EmbeddingStore
from ..text.engine_embeddings import EncodedEmbeddings
from ..text.open_embeddings import open_embeddings
from ..text.templates import known_spelling
from .base import NO_EMBEDDING, Sample, Source
from .fingerprint import fingerprint

AUTO = "auto"  # in place of a path: captions are embedded as they come


@dataclass(frozen=True)
class TextFinder:
    """Finds the embeddings of samples.

    Parameters
    ----------
    path
        What `open_embeddings` takes; "auto" for what the model's own encoder makes of the captions (see `of`); None where
        labels condition or nothing does.
    field
        The metadata's field that is the caption.
    cycle
        Where it is not 0, embeddings go by the samples' positions and start over after so many.
    """

    path: str | None
    field: str = "caption"
    cycle: int = 0

    @cached_property
    def opened(self) -> Any:
        return None if self.path in (None, AUTO) else open_embeddings(self.path)

    def of(self, model: TexTok | DiT) -> "TextFinder":
        """This one, where it is "auto" with the encoder of `model`."""
        if self.path == AUTO and self.opened is None:
            self.__dict__["opened"] = EncodedEmbeddings(
                model.encoder, most_tokens(model.config), model.config.text_encoder
            )
        return self

    @property
    def by(self) -> str:
        return "index" if self.cycle else getattr(self.opened, "by", "caption")

    def check_positions(self, sources: Sequence[Source]) -> None:
        """Embeddings without names go with the rows of one array, table or folder only, with as many as there are."""
        if self.path is None or self.by != "index":
            return
        if not (len(sources) == 1 and sources[0].ranges):
            raise DataError(
                f"{self.path}: these embeddings have positions only, which fit one array, table or folder, got "
                f"{', '.join(source.name for source in sources[:3])}{', ...' * (len(sources) > 3)}; "
                "give a store, or an .npz with `captions` or `keys`"
            )
        if not self.cycle and len(self.opened) != len(sources[0]):
            raise DataError(
                f"{self.path}: expected a row for each sample, since its rows have no names: {len(sources[0])} in "
                f"{sources[0].name}, got {len(self.opened)}; an .npz with `captions` or `keys` may have more"
            )

    def names(self, samples: Sequence[Sample]) -> list[Any]:
        if self.by == "index":
            return [(sample.position - 1) % (self.cycle or 1 << 62) for sample in samples]
        if self.by == "key":
            return [sample.key for sample in samples]
        return [known_spelling(sample.caption_for(self.field), sample.metadata, self.opened) for sample in samples]

    def problem(self, sample: Sample) -> str | None:
        """Why a sample has no embedding; None mostly."""
        name = self.names([sample])[0]
        try:
            self.opened.embeddings([name])
        except (DataError, ValueError):
            if isinstance(self.opened, EmbeddingStore) and name in self.opened:
                raise  # it is there and damaged, as others may be
            short = f"{name[:57]}..." if isinstance(name, str) and len(name) > 60 else name
            return f"{NO_EMBEDDING} of its {self.by} {short!r} in {self.path}"
        return None


class Conditioner:
    """What one side of a TexTok, or a text-to-image DiT, is given for samples.

    Parameters
    ----------
    kind
        "text", "class" for labels, or "" for nothing.
    """

    def __init__(self, kind: str, finder: TextFinder, model: TexTok | DiT) -> None:
        config = model.config
        self.kind, self.finder = kind, finder.of(model) if kind == "text" else finder
        self.classes = config.num_classes
        self.rows, self.masked = config.num_text_tokens, getattr(config, "text_mask", True)  # a DiT masks always
        check_condition(kind, self.finder, config)

    def conditions(self, samples: Sequence[Sample], problems: dict[int, str]) -> dict[str, Any]:
        """The model's arguments for the samples without problems; those that have no condition get a problem."""
        if self.kind == "class":
            for place, sample in enumerate(samples):
                if not 0 <= sample.metadata["label"] < self.classes:
                    problems[place] = f"expected a label from 0 to {self.classes - 1}, got {sample.metadata['label']}"
            return {"labels": [sample.metadata["label"] for place, sample in enumerate(samples) if place not in problems]}
        if self.kind == "":
            return {}
        good = [sample for place, sample in enumerate(samples) if place not in problems]
        try:
            text, lengths = self.finder.opened.embeddings(self.finder.names(good))
        except (DataError, ValueError):
            found = {place: self.finder.problem(sample) for place, sample in enumerate(samples) if place not in problems}
            missing = {place: problem for place, problem in found.items() if problem is not None}
            if not missing:
                raise
            problems |= missing
            return self.conditions(samples, problems)
        if text.shape[1] > self.rows:  # embedded with a higher limit than the model's
            text, lengths = text[:, : self.rows], np.minimum(lengths, self.rows)
        return {"text": full_text(text, self.rows, self.masked), "text_lengths": lengths}


def check_condition(kind: str, finder: TextFinder, config: TexTokConfig | DiTConfig) -> None:
    """A DataError where a model takes text, `kind` "text", and none that fits is given, so far as a config tells."""
    if kind != "text":
        return
    use = config.text_encoder
    if finder.path is None:
        raise DataError(
            "this model takes text: give its captions' embeddings, --embeddings STORE, which `textok embed` makes"
            + ("" if use is None else f"; or --captions auto: {use.name} embeds them as they come")
        )
    if finder.opened is None:
        return  # the model's own encoder
    if isinstance(finder.opened, EmbeddingStore):
        check_store(finder.opened, config)
    width = finder.opened.text_dim
    if width != config.text_dim:
        raise DataError(f"{finder.path}: expected embeddings {config.text_dim} wide, as the model takes them, got {width}")


def kind_of(config: TexTokConfig, side: str) -> str:
    """What conditions a side of a TexTok: "text", "class" or ""."""
    if not config.has_text(side):
        return ""
    return "class" if config.text_source == "class" else "text"


def needs(config: TexTokConfig, side: str, finder: TextFinder) -> tuple[str, ...]:
    """What a sample must have for a side of a TexTok beside its picture or latents."""
    if not config.has_text(side):
        return ()
    if config.text_source == "class":
        return ("label",)
    return ("caption",) if finder.by == "caption" else ()


def textok_config(model: str) -> TexTokConfig:
    return TexTokConfig.from_dict(weights.load_config(find_model(model), TexTok.model_type))


def embeddings_told(path: str | None, config: TexTokConfig | DiTConfig) -> dict[str, Any] | None:
    """What a result says of the embeddings it depends on."""
    if path != AUTO:
        return None if path is None else fingerprint(path)
    return {"encoder": None if config.text_encoder is None else config.text_encoder.to_dict()}


def path_or_none(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)
