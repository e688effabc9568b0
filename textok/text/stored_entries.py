"""Captions in the files of a store: under which key each is, where, and the bytes of its tokens.

Between `segments`, which knows keys and bytes, and `embedding_store`, which knows captions and arrays.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from . import stored_tokens
from .segments import AT_ONCE, KEY_BYTES, Entry, Index, Key, Segment, split


class Place(NamedTuple):
    """Where an entry is: the number of a segment and a row of it."""

    segment: int
    row: int


class StoredEntries:
    """The entries of a store, found by caption.

    Parameters
    ----------
    path
        The store's folder.
    salt
        What makes the hash of a caption that of one encoder's embedding.
    text_dim, dtype
        Width Dt, and how tokens are stored.
    """

    def __init__(self, path: Path, salt: bytes, text_dim: int, dtype: str) -> None:
        self._salt, self.text_dim, self.dtype = salt, text_dim, dtype
        self.index = Index(path)

    @property
    def segments(self) -> list[Segment]:
        return self.index.segments

    # --- Captions to places

    def hashes(self, captions: Sequence[str]) -> NDArray[np.uint64]:
        """The keys [n,2] that captions are kept under."""
        digests = [self._hash(utf8(caption)) for caption in captions]
        return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2).astype(np.uint64)

    def keys(self, captions: Sequence[str]) -> list[Key]:
        return _pairs(self.hashes(captions))

    def _hash(self, caption: bytes) -> bytes:
        return hashlib.sha256(self._salt + caption).digest()[:KEY_BYTES]

    def find(self, captions: Sequence[str]) -> list[Place | None]:
        """Where the entries of captions are; None where there is none."""
        found = self.index.find(self.hashes(captions))
        numbers, rows = (part.tolist() for part in split(found))
        return [Place(number, row) if there else None for there, number, row in zip(found.tolist(), numbers, rows)]

    def __iter__(self) -> Iterator[Place]:
        """All places in the order in which they were committed; of a caption that is there twice the one that counts."""
        for number in sorted(range(len(self.segments)), key=lambda number: self.segments[number].name):
            records = self.segments[number].records
            for start in range(0, len(records), AT_ONCE):
                numbers, rows = split(self.index.find(records["key"][start : start + AT_ONCE]))
                here = np.flatnonzero((numbers == number) & (rows == np.arange(start, start + len(rows))))
                yield from map(Place, itertools.repeat(number), (here + start).tolist())

    # --- What is at a place

    def _bytes(self, place: Place) -> tuple[memoryview, memoryview, int]:
        """Stored tokens, caption and the number of tokens."""
        count = self.count(place)
        size = stored_tokens.size_in_bytes(count, self.text_dim, self.dtype)
        return *self.segments[place.segment].entry(place.row, size), count

    def count(self, place: Place) -> int:
        """How many tokens it has."""
        return int(self.segments[place.segment].records["tokens"][place.row])

    def tokens(self, place: Place) -> NDArray[Any]:
        """Its tokens [t,Dt]."""
        data, _, count = self._bytes(place)
        return stored_tokens.from_bytes(data, count, self.text_dim, self.dtype)

    def caption(self, place: Place) -> str:
        return bytes(self._bytes(place)[1]).decode("utf-8", "replace")

    def checked(self, place: Place) -> Entry:
        """The entry, compared with its hash too; a DataError names what is wrong."""
        segment = self.segments[place.segment]
        record = segment.records[place.row]
        data, caption, count = self._bytes(place)
        payload, text = bytes(data), bytes(caption)
        where = f"{segment.data_path}, entry {place.row}"
        key = _pairs(np.frombuffer(self._hash(text), "<u8").reshape(1, 2))[0]
        if key != tuple(record["key"].tolist()):
            raise DataError(f"{where}: it is not the caption that its record tells of")
        values = stored_tokens.from_bytes(memoryview(payload), count, self.text_dim, self.dtype)
        if not np.isfinite(values.astype(np.float32)).all():
            raise DataError(f"{where}: expected finite numbers")
        return Entry(key, payload, text, count, int(record["whole"]))

    def made(self, caption: str, tokens: NDArray[np.float32], whole: int) -> Entry:
        """An entry to append; `whole` is how many tokens the caption has without the encoder's limit."""
        return Entry(self.keys([caption])[0], stored_tokens.to_bytes(tokens, self.dtype), utf8(caption), len(tokens), whole)


def _pairs(keys: NDArray[np.uint64]) -> list[Key]:
    return [(int(first), int(second)) for first, second in keys.tolist()]


def utf8(caption: str) -> bytes:
    if not isinstance(caption, str):
        raise TypeError(f"captions: expected strings, got {type(caption).__name__} {caption!r}")
    try:
        return caption.encode()
    except UnicodeEncodeError:
        raise ValueError(f"captions: expected text that UTF-8 can hold, got {caption[:60]!a}") from None
