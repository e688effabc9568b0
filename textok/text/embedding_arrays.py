"""Embeddings made elsewhere: arrays of .npy, .npz and safetensors files, found by position or by name.

Also what all that has embeddings has in common (`Embeddings`), and how ragged rows become what the models take (`padded`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import arrays, files, weights
from ..errors import DataError

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


class Embeddings(Protocol):
    """What has the embeddings of captions: a store, arrays, or the captions of a pipeline."""

    @property
    def by(self) -> str: ...
    @property
    def text_dim(self) -> int: ...
    @property
    def longest(self) -> int: ...
    def __len__(self) -> int: ...
    def embeddings(self, names: Any) -> tuple[F32, I32]: ...


def padded(rows: Sequence[NDArray[Any]], text_dim: int) -> tuple[F32, I32]:
    """Ragged rows [t_i,Dt] as `text` float32 [B,t,Dt], zeros after each caption's end, and `text_lengths` int32 [B]."""
    lengths = np.array([len(row) for row in rows], np.int32)
    text = np.zeros((len(rows), int(lengths.max(initial=1)), text_dim), np.float32)
    for place, row in enumerate(rows):
        text[place, : len(row)] = row
    return text, lengths


def shortened(name: Any) -> str:
    """A name in an error."""
    return repr(f"{name[:57]}..." if isinstance(name, str) and len(name) > 60 else name)


class ArrayEmbeddings:
    """Embeddings of an array, found by position, or by names where the file has some.

    Parameters
    ----------
    text
        floats [n,t,Dt]; may be mapped from a file.
    lengths
        int [n], the real rows of each, 1..t; None where all are.
    names, by
        n strings and what they are, "caption" or "key"; without them `by` is "index".
    """

    def __init__(
        self, text: ArrayLike, lengths: ArrayLike | None = None, names: Sequence[str] | None = None, by: str = "caption"
    ) -> None:
        self._text = arrays.floats(text, "text", (("n", None), ("t", None), ("Dt", None)))
        count, rows, width = self._text.shape
        if not rows or not width:
            raise ValueError(f"text: expected [n, t, Dt] with t and Dt from 1, got {arrays.describe(self._text)}")
        self._lengths = np.full(count, rows, np.int32)
        if lengths is not None:
            self._lengths = arrays.integers(lengths, "text_lengths", count, 1, rows, "the real rows of each caption")
        self.by = "index" if names is None else arrays.choice(by, "by", ("caption", "key"))
        self._names: dict[str, int] | None = None
        if names is not None:
            if len(names) != count:
                raise ValueError(f"{by}s: expected {count}, one a row of text, got {len(names)}")
            self._names = {name: place for place, name in reversed(list(enumerate(names)))}

    @property
    def text_dim(self) -> int:
        """Width Dt of the embeddings."""
        return self._text.shape[2]

    @property
    def longest(self) -> int:
        """Tokens of the longest caption."""
        return int(self._lengths.max(initial=0))

    def __len__(self) -> int:
        return len(self._text)

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str):
            return self._names is not None and name in self._names
        return isinstance(name, int) and 0 <= name < len(self)

    def embeddings(self, names: Any) -> tuple[F32, I32]:
        """Those of captions or keys (strings), or of positions (integers); as `EmbeddingStore.embeddings`."""
        places = positions(names, self._names, len(self), self.by)
        rows = [arrays.as_float32(self._text[place, : self._lengths[place]], "text", place) for place in places]
        return padded(rows, self.text_dim)

    def __repr__(self) -> str:
        return f"ArrayEmbeddings({arrays.describe(self._text)} by {self.by}, up to {self.longest} tokens)"


def positions(names: Any, known: dict[str, int] | None, count: int, by: str) -> list[int]:
    """The positions of names, strings or integers, among `count` embeddings."""
    wanted = [names] if isinstance(names, str) else names
    if isinstance(wanted, list | tuple) and any(isinstance(name, str) for name in wanted):
        if known is None:
            raise DataError(
                f"names: expected positions, 0 to {count - 1}, in embeddings that come without captions, "
                f"got {shortened(wanted[0])}"
            )
        lost = [name for name in wanted if name not in known]
        if lost:
            raise DataError(
                f"names: expected {by}s that have an embedding, got {len(lost)} of {len(wanted)} without, "
                f"first {shortened(lost[0])}"
            )
        return [known[name] for name in wanted]
    return arrays.integers(wanted, "names", None, 0, count - 1, f"positions among {count} embeddings").tolist()


# --- Files --------------------------------------------------------------------------------------------------------------------


def read_file(path: Path) -> ArrayEmbeddings:
    """The embeddings in a file; see `embeddings.open_embeddings`."""
    files.check_regular(path, DataError)
    readers = {".npy": _open_npy, ".npz": _open_npz, ".safetensors": _open_safetensors}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: expected an embedding store or {', '.join(readers)}")
    try:
        return reader(path)
    except (ValueError, OSError, EOFError, KeyError) as problem:
        if isinstance(problem, DataError | weights.WeightsError):
            raise
        raise DataError(f"{path}: not embeddings that can be read: {problem}") from None


def _open_npy(path: Path) -> ArrayEmbeddings:
    beside = path.with_name(f"{path.stem}.lengths.npy")
    lengths = np.load(beside, allow_pickle=False) if beside.exists() else None
    return ArrayEmbeddings(_floats_of(np.load(path, mmap_mode="r", allow_pickle=False)), lengths)


def _open_npz(path: Path) -> ArrayEmbeddings:
    with np.load(path, allow_pickle=False) as file:
        return _from_arrays({name: file[name] for name in file.files}, path)


def _open_safetensors(path: Path) -> ArrayEmbeddings:
    file = weights.TensorFile(path)
    return _from_arrays({name: file.read(name) for name in file.shapes}, path)


def _from_arrays(found: dict[str, NDArray[Any]], path: Path) -> ArrayEmbeddings:
    by = next((name for name in ("captions", "keys") if name in found), None)
    names = None if by is None else [str(name) for name in found[by].tolist()]
    rest = {name: array for name, array in found.items() if name not in ("captions", "keys", "text_lengths")}
    if rest.keys() == {"tokens", "offsets"}:
        text, lengths = _unravelled(_floats_of(rest["tokens"]), rest["offsets"])
    elif "text" in rest or len(rest) == 1:
        text, lengths = _floats_of(rest.get("text", next(iter(rest.values())))), found.get("text_lengths")
    else:
        raise DataError(f"{path}: expected an array text [n, t, Dt], or tokens and offsets, got {', '.join(found) or 'none'}")
    return ArrayEmbeddings(text, lengths, names, "key" if by == "keys" else "caption")


def _floats_of(array: NDArray[Any]) -> NDArray[Any]:
    """NumPy's files know bfloat16 only as two bytes."""
    if array.dtype != np.dtype("V2"):
        return array
    import ml_dtypes

    return array.view(ml_dtypes.bfloat16)


def _unravelled(tokens: NDArray[Any], offsets: NDArray[Any]) -> tuple[NDArray[Any], I32]:
    ends = offsets.astype(np.int64)
    if (
        tokens.ndim != 2
        or ends.ndim != 1
        or len(ends) < 2
        or ends[0] != 0
        or ends[-1] != len(tokens)
        or (np.diff(ends) < 1).any()
    ):
        raise ValueError(f"expected tokens [total, Dt] and offsets that rise from 0 to total, got {arrays.describe(tokens)}")
    lengths = np.diff(ends).astype(np.int32)
    text = np.zeros((len(lengths), int(lengths.max()), tokens.shape[1]), tokens.dtype)
    for place, length in enumerate(lengths):
        text[place, :length] = tokens[ends[place] : ends[place + 1]]
    return text, lengths
