"""Embeddings made elsewhere: arrays of .npy, .npz and safetensors files, found by position or by name."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import arrays, files, weights
from ..errors import DataError, WeightsError
from ..numpy_files import read_npy, read_npz
from .embeddings import positions
from .ragged_tokens import PaddedTokens, RaggedTokens, TokenRows, padded

KNOWN = ("text", "text_lengths", "tokens", "offsets", "captions", "keys")  # arrays of a file
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


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
        self._take(PaddedTokens(text, lengths), names, by)

    @classmethod
    def from_rows(cls, rows: TokenRows, names: Sequence[str] | None = None, by: str = "caption") -> Self:
        """Of tokens as they are, ragged or padded."""
        made = cls.__new__(cls)
        made._take(rows, names, by)
        return made

    def _take(self, rows: TokenRows, names: Sequence[str] | None, by: str) -> None:
        self._rows = rows
        self.by = "index" if names is None else arrays.choice(by, "by", ("caption", "key"))
        self._names: dict[str, int] | None = None
        if names is not None:
            if len(names) != len(rows):
                raise ValueError(f"{by}s: expected {len(rows)}, one a row of text, got {len(names)}")
            self._names = {name: place for place, name in reversed(list(enumerate(names)))}

    @property
    def text_dim(self) -> int:
        """Width Dt of the embeddings."""
        return self._rows.text_dim

    @property
    def longest(self) -> int:
        """Tokens of the longest caption."""
        return int(self._rows.lengths.max(initial=0))

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str):
            return self._names is not None and name in self._names
        return isinstance(name, int) and 0 <= name < len(self)

    def embeddings(self, names: Any) -> tuple[F32, I32]:
        """Those of captions or keys (strings), or of positions (integers); as `EmbeddingStore.embeddings`."""
        places = positions(names, self._names, len(self), self.by)
        return padded([arrays.as_float32(self._rows.row(place), "text", place) for place in places], self.text_dim)

    def __repr__(self) -> str:
        return f"ArrayEmbeddings({len(self)} by {self.by}, up to {self.longest} tokens x {self.text_dim})"


# --- Files --------------------------------------------------------------------------------------------------------------------


def read_file(path: Path) -> ArrayEmbeddings:
    """The embeddings in a file; see `open_embeddings`."""
    files.check_regular(path, DataError)
    readers = {".npy": _open_npy, ".npz": _open_npz, ".safetensors": _open_safetensors}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: expected an embedding store or {', '.join(readers)}")
    try:
        return reader(path)
    except (ValueError, TypeError, OSError) as problem:
        if isinstance(problem, DataError | WeightsError):
            raise
        raise DataError(f"{path}: not embeddings that can be read: {problem}") from None


def _open_npy(path: Path) -> ArrayEmbeddings:
    beside = path.with_name(f"{path.stem}.lengths.npy")
    lengths = read_npy(beside, ValueError) if beside.exists() else None
    text = _floats_of(read_npy(path, ValueError, mapped=True))
    return ArrayEmbeddings.from_rows(_padded_tokens(text, lengths, path, beside.name))


def _open_npz(path: Path) -> ArrayEmbeddings:
    return _from_arrays(read_npz(path, ValueError), path)


def _open_safetensors(path: Path) -> ArrayEmbeddings:
    file = weights.TensorFile(path)
    return _from_arrays({name: file.read(name) for name in file.shapes}, path)


def _from_arrays(found: dict[str, NDArray[Any]], path: Path) -> ArrayEmbeddings:
    by = next((name for name in ("captions", "keys") if name in found), None)
    names = None if by is None else [str(name) for name in found[by].tolist()]
    if wrong := sorted(found.keys() - KNOWN) if len(found) > 1 and found.keys() & {"text", "tokens"} else []:
        near = difflib.get_close_matches(wrong[0], KNOWN, n=1, cutoff=0.4)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise DataError(f"{path}: unknown array {wrong[0]!r}{meant}; known are {', '.join(KNOWN)}")
    rest = {name: array for name, array in found.items() if name not in ("captions", "keys", "text_lengths")}
    if rest.keys() == {"tokens", "offsets"} and "text_lengths" not in found:
        rows: TokenRows = RaggedTokens(_floats_of(rest["tokens"]), rest["offsets"])
    elif "text" in rest or len(rest) == 1:
        text = _floats_of(rest.get("text", next(iter(rest.values()))))
        rows = _padded_tokens(text, found.get("text_lengths"), path, "text_lengths")
    else:
        raise DataError(f"{path}: expected an array text [n, t, Dt], or tokens and offsets, got {', '.join(found) or 'none'}")
    return ArrayEmbeddings.from_rows(rows, names, "key" if by == "keys" else "caption")


def _padded_tokens(text: NDArray[Any], lengths: NDArray[Any] | None, path: Path, where: str) -> PaddedTokens:
    """An array [n,t,Dt]; a DataError where it has rows of zeros at its end, and nobody says that these are no tokens."""
    rows = PaddedTokens(text, lengths)
    if lengths is None and (empty := int((~np.asarray(rows.text[:, -1]).any(axis=1)).sum())):
        raise DataError(
            f"{path}: expected the captions' lengths [{len(rows)}] in {where}, since {empty} of them end in zeros, as padded "
            "ones do; got none"
        )
    return rows


def _floats_of(array: NDArray[Any]) -> NDArray[Any]:
    """NumPy's files know bfloat16 only as two bytes."""
    if array.dtype != np.dtype("V2"):
        return array
    import ml_dtypes

    return array.view(ml_dtypes.bfloat16)
