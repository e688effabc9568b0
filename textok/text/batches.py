"""Captions through an encoder, in batches of like length."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..progress import progress_bar

F32 = NDArray[np.float32]


class Encoder(Protocol):
    """What turns captions to embeddings.

    `identity` tells what its embeddings depend on, as JSON has it. `tokenize` gives token numbers and how many each caption
    would have without the encoder's limit; `run` the last hidden states [t_i,Dt] of a batch of them.
    """

    @property
    def identity(self) -> dict[str, Any]: ...
    @property
    def text_dim(self) -> int: ...
    def tokenize(self, captions: Sequence[str]) -> tuple[list[list[int]], list[int]]: ...
    def run(self, ids: Sequence[list[int]]) -> Sequence[F32]: ...


def by_length(lengths: ArrayLike, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """The places of captions, a batch at a time, sorted by length: little of a batch is then padding."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def embedded_rows(encoder: Encoder, captions: Sequence[str], batch_size: int = 32, progress: bool = False) -> list[F32]:
    """The embeddings float32 [t_i,Dt] of captions, in their order."""
    ids = encoder.tokenize(captions)[0]
    rows: list[Any] = [None] * len(ids)
    with progress_bar(progress, len(ids), "caption") as bar:
        for places in by_length([len(row) for row in ids], batch_size):
            for place, states in zip(places, encoder.run([ids[place] for place in places]), strict=True):
                rows[place] = states
            bar.update(len(places))
    return rows
