"""Captions that the engine's text encoder embeds when a step reads them.

    CaptionEncoder  any captions to their states, those of whole captions kept in memory
    EncodedTexts    a caption for every picture, as batches of tensors; with words dropped at random where that is wanted

Nothing is embedded beforehand, so that captions can be drawn afresh at every step. States are a function of the caption alone,
to the bit, whatever else was read before: a training that was killed goes on exactly.
"""

import functools
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..text.encoder import TextEncoder
from ..text.ragged_tokens import padded

F16 = NDArray[np.float16]

KEPT_BYTES = 1 << 30


class CaptionEncoder:
    """A text encoder of the engine, loaded when it is first wanted; it computes in int8 and states are rounded to float16.

    name: of a bundled encoder, or a folder. max_tokens: longer captions are cut. ahead: whether `expect` works in the
    background, for devices that leave the CPU free. kept: bytes of states of captions that may come again.
    """

    def __init__(self, name: str | os.PathLike[str], max_tokens: int, ahead: bool = False, kept: int = KEPT_BYTES) -> None:
        self.name, self.max_tokens, self.room = name, max_tokens, kept
        self.held: dict[str, F16] = {}
        self.pool = ThreadPoolExecutor(1) if ahead else None
        self.coming: dict[tuple[str, ...], Future[list[F16]]] = {}

    @functools.cached_property
    def encoder(self) -> TextEncoder:
        return TextEncoder.from_pretrained(self.name, dtype="int8", threads=torch.get_num_threads())

    @property
    def text_dim(self) -> int:
        return self.encoder.text_dim

    @property
    def identity(self) -> dict[str, object]:
        """What the states depend on beside the captions."""
        return {"identity": self.encoder.identity, "max_tokens": self.max_tokens}

    def expect(self, captions: Sequence[str], keep: bool = True) -> None:
        """Begin to embed `captions` in the background, if there is one; a later `rows` takes them from there."""
        if self.pool is not None and tuple(captions) not in self.coming:
            self.coming[tuple(captions)] = self.pool.submit(self.embed, list(captions), keep)

    def rows(self, captions: Sequence[str], keep: bool = True) -> list[F16]:
        """A list of float16 [t_i,Dt], a caption each; those to `keep` stay in memory while there is room."""
        coming = self.coming.pop(tuple(captions), None)
        return self.embed(captions, keep) if coming is None else coming.result()

    def embed(self, captions: Sequence[str], keep: bool) -> list[F16]:
        found = {caption: self.held[caption] for caption in captions if caption in self.held}
        if missing := [caption for caption in dict.fromkeys(captions) if caption not in found]:
            text, lengths = self.encoder(missing, self.max_tokens)
            for caption, states, length in zip(missing, text, lengths, strict=True):
                found[caption] = states[:length].astype(np.float16)
                if keep and found[caption].nbytes <= self.room:
                    self.held[caption] = found[caption]
                    self.room -= found[caption].nbytes
        return [found[caption] for caption in captions]


@dataclass(frozen=True)
class EncodedTexts:
    """A caption for every picture, embedded when it is read: what `data.TextStore` is for embeddings that there are.

    dropped: the share of its words that each caption lacks, drawn by `seed` and the picture's row.
    """

    captions: Sequence[str]
    encoder: CaptionEncoder
    dropped: float = 0.0
    seed: tuple[int, ...] = field(default=())

    def of(self, rows: Iterable[int]) -> list[str]:
        """The captions of `rows` as they are read."""
        if not self.dropped:
            return [self.captions[row] for row in rows]
        return [
            without_words(self.captions[row], self.dropped, np.random.default_rng([*self.seed, int(row)])) for row in rows
        ]

    def expect(self, rows: Iterable[int]) -> None:
        """Begin to embed the captions of `rows` in the background, where `CaptionEncoder` has one."""
        if self.encoder.pool is not None:
            self.encoder.expect(self.of(rows), not self.dropped)

    def batch(self, rows: Iterable[int]) -> tuple[Tensor, Tensor]:
        """As `data.TextStore.batch`."""
        text, lengths = padded(self.encoder.rows(self.of(rows), not self.dropped), self.encoder.text_dim)
        return torch.from_numpy(text), torch.from_numpy(lengths.astype(np.int64))


def without_words(caption: str, share: float, rng: np.random.Generator) -> str:
    """The caption without about `share` of its words, each dropped at random; one stays at least."""
    words = caption.split()
    kept = rng.random(len(words)) >= share
    if words and not kept.any():
        kept[rng.integers(len(words))] = True
    return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)
