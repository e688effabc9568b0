"""Caption embeddings on disk: the store that `textok embed` fills and training, encoding and sampling read.

A folder that only grows. How its files work, and why a kill or a second writer cannot spoil them, is told in `segments`; what a
captions' entry is, in `stored_entries`; how a run fills it, in `embed_run`. Nothing here needs PyTorch.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import arrays, files
from ..errors import DataError, shown
from ..progress import progress_bar
from .batches import Encoder
from .embed_run import Embedded, EmbedRun
from .embeddings import caption_list, shortened
from .ragged_tokens import padded
from .segments import Writer
from .stored_entries import Place, StoredEntries
from .stored_tokens import DTYPES

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

STORE_FILE = "store.json"
FORMAT = 1
_COPIED_AT_ONCE = 256


@dataclass(frozen=True)
class Verification:
    """What `EmbeddingStore.verify` found.

    Attributes
    ----------
    captions, repeated
        Records that are whole, and how many of them are of a caption that another record has (two writers on a file system
        without locks do that; the first counts).
    torn_bytes, unused_bytes
        What writers that were killed left behind: of records, and of entries that no record tells of. Harmless.
    problems
        One line each; empty where all is well.
    """

    captions: int
    repeated: int
    torn_bytes: int
    unused_bytes: int
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


class EmbeddingStore:
    """Captions with the embeddings of their tokens, in a folder that only grows.

    Any number of processes may read and write one at a time; each sees what was committed when it last looked (`refresh`). One
    store has the embeddings of one encoder with one set of tokenizer settings, in one stored type: float16, bfloat16, or int8
    with a float32 scale a token. Padding is not stored. Open one with `open`, make one with `create`.

    Examples
    --------
    >>> store = EmbeddingStore.open("captions-store")  # doctest: +SKIP
    >>> text, lengths = store.embeddings(["a red apple", "a green pear"])  # doctest: +SKIP
    >>> tokenizer.encode(pictures, text, lengths)  # doctest: +SKIP
    """

    by = "caption"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / STORE_FILE).is_file():
            raise DataError(f"{self.path}: no embedding store, {STORE_FILE} is not there; `textok embed` makes one")
        settings = files.read_json(self.path / STORE_FILE, DataError)
        self._check_settings(settings)
        self.dtype: str = settings["dtype"]
        self.text_dim: int = settings["text_dim"]
        self.encoder: dict[str, Any] = settings["encoder"]
        self._entries = StoredEntries(self.path, _salt(self.encoder), self.text_dim, self.dtype)

    def _check_settings(self, settings: dict[str, Any]) -> None:
        width = settings.get("text_dim")
        if settings.get("format") != FORMAT:
            problem = f'expected "format": {FORMAT}, got {settings.get("format")!r}; a newer textok may read it'
        elif settings.get("dtype") not in DTYPES:
            problem = f'expected "dtype" {", ".join(DTYPES)}, got {settings.get("dtype")!r}'
        elif type(width) is not int or not 1 <= width < 1 << 24:
            problem = f'expected "text_dim", an integer from 1, got {width!r}'
        elif not isinstance(settings.get("encoder"), dict):
            problem = f'expected "encoder", an object, got {settings.get("encoder")!r}'
        else:
            return
        raise DataError(f"{self.path / STORE_FILE}: {problem}")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """The store in a folder; a DataError says what is wrong where there is none."""
        return cls(path)

    @classmethod
    def create(cls, path: str | os.PathLike[str], encoder: dict[str, Any], text_dim: int, dtype: str = "float16") -> Self:
        """The store in a folder, made where there is none yet.

        Parameters
        ----------
        encoder
            What makes the embeddings and with which settings, as JSON has it; part of the hash that captions are kept under,
            but for its "name", which is for people.
        text_dim
            Width Dt of the embeddings.
        dtype
            "float16", "bfloat16" or "int8".

        Raises
        ------
        DataError
            There is a store, of another encoder or type.
        """
        arrays.choice(dtype, "dtype", DTYPES)
        arrays.instance(encoder, "encoder", dict, "a dict as JSON has it")
        settings = {
            "format": FORMAT,
            "dtype": dtype,
            "text_dim": arrays.whole(text_dim, "text_dim", 1, (1 << 24) - 1),
            "encoder": encoder,
        }
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / STORE_FILE).exists():
            files.write_json(folder / STORE_FILE, settings, keep=True)
        store = cls(folder)
        found = {"dtype": store.dtype, "text_dim": store.text_dim} | store._identity
        wanted = {"dtype": dtype, "text_dim": text_dim} | _without_name(encoder)
        if found != wanted:
            what = next(key for key in (*found, *wanted) if found.get(key) != wanted.get(key))
            raise DataError(
                f"{folder}: the store holds {store.encoder.get('name', 'other')} embeddings with "
                f"{what} {found.get(what)!r}, asked for is {wanted.get(what)!r}; give another folder, or the same settings"
            )
        return store

    @property
    def _identity(self) -> dict[str, Any]:
        return _without_name(self.encoder)

    # --- Reading

    def refresh(self) -> None:
        """See what other processes committed since."""
        self._entries.index.refresh()

    def __len__(self) -> int:
        return len(self._entries.index)

    def __contains__(self, caption: object) -> bool:
        try:
            return isinstance(caption, str) and self._entries.find([caption])[0] is not None
        except ValueError:  # half a surrogate pair, say, which no caption has
            return False

    def missing(self, captions: Sequence[str]) -> list[str]:
        """Those of the captions that are not there, in their order."""
        captions = caption_list(captions)
        return [caption for caption, place in zip(captions, self._entries.find(captions)) if place is None]

    def embeddings(self, names: Sequence[str]) -> tuple[F32, I32]:
        """The embeddings of captions; a bare string is one of them.

        Returns
        -------
        `text` float32 [B,t,Dt], zeros after each caption's end, with t the longest of these, and `text_lengths` int32 [B].

        Raises
        ------
        DataError
            A caption that is not there, or a damaged file.
        """
        captions = [names] if isinstance(names, str) else list(caption_list(names))
        places = [place for place in self._entries.find(captions) if place is not None]
        if len(places) < len(captions):
            lost = self.missing(captions)
            raise DataError(
                f"{self.path}: expected captions that have an embedding, got {len(lost)} of {len(captions)} without, "
                f"first {shortened(lost[0])}; `textok embed` adds them"
            )
        return padded([self._entries.tokens(place) for place in places], self.text_dim)

    def __iter__(self) -> Iterator[str]:
        """The captions, in the order in which they were committed; each once."""
        return map(self._entries.caption, self._entries)

    @property
    def longest(self) -> int:
        """Tokens of the longest caption; 0 in an empty store."""
        return max((int(segment.records["tokens"].max(initial=0)) for segment in self._entries.segments), default=0)

    @property
    def truncated(self) -> int:
        """Captions that had more tokens than the encoder takes."""
        return sum(int((segment.records["whole"] > segment.records["tokens"]).sum()) for segment in self._entries.segments)

    # --- Writing

    def add(self, captions: Sequence[str], text: ArrayLike, text_lengths: ArrayLike | None = None) -> int:
        """Put in embeddings that were made elsewhere; those of captions that are there already are left as they are.

        Parameters
        ----------
        captions
            n strings.
        text, text_lengths
            floats [n,t,Dt], and int [n], how many rows of each are real; without it all are.

        Returns
        -------
        How many were new. All are committed together.
        """
        captions = caption_list(captions)
        values = arrays.floats(text, "text", (("B", len(captions)), ("t", None), ("Dt", self.text_dim)))
        most = values.shape[1]
        lengths = [most] * len(captions)
        if text_lengths is not None:
            lengths = arrays.integers(text_lengths, "text_lengths", len(captions), 1, most, "the real rows").tolist()
        with Writer(self._entries.index) as writer:
            mine = writer.claim(self._entries.keys(captions)).mine
            rows = [arrays.as_float32(values[place, : lengths[place]], "text", place) for place in mine]
            writer.append([self._entries.made(captions[place], row, len(row)) for place, row in zip(mine, rows)])
        return len(mine)

    def embed(self, captions: Iterable[str], encoder: Encoder, batch_size: int = 32, progress: bool = False) -> Embedded:
        """Embed the captions that are not there yet, batch by batch; a batch is on the disk before the next is begun.

        Parameters
        ----------
        captions
            Any number of strings; read as they are needed. A caption is embedded once, however often it comes and whoever
            else writes: writers take over the work of one that was killed, and wait at the end for what others are working on.
        encoder
            Of the identity that the store was made with.
        batch_size
            Captions a batch. 64 batches' worth of captions are sorted by length at a time, so that little is padding. The
            batches are the same in every run over the same captions, so a run that was killed is completed to the same bytes.

        Raises
        ------
        DataError
            Another encoder.
        OSError
            A full disk: batches before are kept.
        """
        if not hasattr(encoder, "identity"):
            raise TypeError(f"encoder: expected a TextEncoder, got {type(encoder).__name__} {shown(encoder)}")
        if encoder.identity != self._identity:
            raise DataError(f"{self.path}: the store was made with {self._identity}, the encoder is {encoder.identity}")
        if encoder.text_dim != self.text_dim:
            raise DataError(f"{self.path}: expected embeddings {self.text_dim} wide, got an encoder of {encoder.text_dim}")
        batch_size = arrays.whole(batch_size, "batch_size", 1, 4096)
        return EmbedRun(self._entries, encoder, batch_size).fill(caption_list(captions), progress)

    def merge(self, *others: "EmbeddingStore", progress: bool = False) -> int:
        """Copy what other stores of the same encoder and stored type have and this one has not; returns how many captions."""
        for other in others:
            arrays.instance(other, "others", EmbeddingStore)
            if (other._identity, other.dtype, other.text_dim) != (self._identity, self.dtype, self.text_dim):
                raise DataError(f"{self.path}: expected a store of the same encoder and type, got {other!r}")
        copied = 0
        with Writer(self._entries.index) as writer, progress_bar(progress, sum(map(len, others)), "caption") as bar:
            for other in others:
                places = iter(other._entries)
                while part := list(itertools.islice(places, _COPIED_AT_ONCE)):
                    entries = [other._entries.checked(place) for place in part]
                    mine = writer.claim([entry.key for entry in entries]).mine
                    writer.append([entries[place] for place in mine])
                    copied += len(mine)
                    bar.update(len(part))
        return copied

    # --- Checking

    def verify(self, progress: bool = False) -> Verification:
        """Read everything again: checksums, that each caption is kept under its own hash, that all numbers are finite."""
        self.refresh()
        problems: list[str] = []
        records = unused = torn = 0
        with progress_bar(progress, sum(segment.count for segment in self._entries.segments), "caption") as bar:
            for number, segment in enumerate(self._entries.segments):
                used = 0
                for row in range(segment.count):
                    try:
                        entry = self._entries.checked(Place(number, row))
                        used += len(entry.payload) + len(entry.caption)
                    except DataError as problem:
                        problems.append(str(problem))
                    bar.update()
                records += segment.count
                torn += segment.torn_bytes()
                unused += max(0, segment.data_path.stat().st_size - used) if segment.data_path.exists() else 0
        return Verification(records, records - len(self), torn, 0 if problems else unused, problems)

    def __reduce__(self) -> Any:
        return type(self), (self.path,)  # a copy in another process maps the files itself

    def __repr__(self) -> str:
        segments = self._entries.segments
        size = sum(segment.data_path.stat().st_size for segment in segments if segment.data_path.exists())
        limit = self.encoder.get("max_tokens")
        return (
            f"EmbeddingStore({str(self.path)!r}: {len(self):,} captions by {self.encoder.get('name', 'an unnamed encoder')}, "
            f"up to {self.longest}{f' of {limit}' if limit else ''} tokens x {self.text_dim} {self.dtype}, "
            f"{size / 1e6:,.1f} MB in {len(segments)} segment{'s' * (len(segments) != 1)})"
        )


def _salt(encoder: dict[str, Any]) -> bytes:
    """What makes the hash of a caption that of an encoder's embedding."""
    return hashlib.sha256(json.dumps(_without_name(encoder), sort_keys=True).encode()).digest()


def _without_name(encoder: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in encoder.items() if key != "name"}
