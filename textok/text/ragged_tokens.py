"""Embeddings of captions of different lengths: one after another with offsets, or padded with lengths."""

from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import arrays

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


class TokenRows(Protocol):
    """The tokens of n captions, by number."""

    lengths: I32

    @property
    def text_dim(self) -> int: ...
    def __len__(self) -> int: ...
    def row(self, number: int) -> NDArray[Any]: ...


class RaggedTokens:
    """Tokens of n captions one after another: caption i has the rows offsets[i] to offsets[i+1].

    Parameters
    ----------
    tokens
        floats [total,Dt]; kept as they are.
    offsets
        int [n+1], rising from 0 to total, with at least one row a caption.

    Raises
    ------
    ValueError
        Arrays that do not fit each other.
    """

    def __init__(self, tokens: ArrayLike, offsets: ArrayLike) -> None:
        rows, ends = arrays.view(tokens, "tokens"), arrays.view(offsets, "offsets")
        if not arrays.is_float(rows.dtype) or rows.ndim != 2 or rows.shape[1] < 1:
            raise ValueError(f"tokens: expected floats [total, Dt], got {arrays.describe(rows)}")
        if ends.dtype.kind not in "iu" or ends.ndim != 1:
            raise ValueError(f"offsets: expected integers [n+1], one more than captions, got {arrays.describe(ends)}")
        if len(ends) < 2 or ends[0] != 0 or ends[-1] != len(rows) or (ends[1:] <= ends[:-1]).any():  # differences could wrap
            raise ValueError(
                f"offsets: expected to rise from 0 to {len(rows)}, the rows of tokens, with at least one row a caption"
            )
        self.tokens, self.offsets = rows, ends.astype(np.int64)
        self.lengths = np.diff(self.offsets).astype(np.int32)

    @classmethod
    def join(cls, rows: Sequence[NDArray[Any]]) -> Self:
        """From n arrays [t_i,Dt]."""
        return cls(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))

    @property
    def text_dim(self) -> int:
        """Width Dt of the embeddings."""
        return self.tokens.shape[1]

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, number: int) -> NDArray[Any]:
        """The tokens [t,Dt] of a caption."""
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]


class PaddedTokens:
    """Tokens of n captions in one array.

    Parameters
    ----------
    text
        floats [n,t,Dt]; may be mapped from a file.
    lengths
        int [n], the real rows of each, 1..t; None where all are.
    """

    def __init__(self, text: ArrayLike, lengths: ArrayLike | None = None) -> None:
        self.text = arrays.floats(text, "text", (("n", None), ("t", None), ("Dt", None)))
        count, rows, width = self.text.shape
        if not rows or not width:
            raise ValueError(f"text: expected [n, t, Dt] with t and Dt from 1, got {arrays.describe(self.text)}")
        self.lengths = np.full(count, rows, np.int32)
        if lengths is not None:
            self.lengths = arrays.integers(lengths, "text_lengths", count, 1, rows, "the real rows of each caption")

    @property
    def text_dim(self) -> int:
        """Width Dt of the embeddings."""
        return self.text.shape[2]

    def __len__(self) -> int:
        return len(self.text)

    def row(self, number: int) -> NDArray[Any]:
        """The tokens [t,Dt] of a caption."""
        return self.text[number, : self.lengths[number]]


def padded(rows: Sequence[NDArray[Any]], text_dim: int) -> tuple[F32, I32]:
    """Rows [t_i,Dt] as `text` float32 [B,t,Dt], zeros after each caption's end, and `text_lengths` int32 [B]."""
    lengths = np.array([len(row) for row in rows], np.int32)
    text = np.zeros((len(rows), int(lengths.max(initial=1)), text_dim), np.float32)
    for place, row in enumerate(rows):
        text[place, : len(row)] = row
    return text, lengths
