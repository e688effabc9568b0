"""Caption embeddings on disk: the store that `textok embed` fills, arrays made elsewhere, and one function that opens either.

    EmbeddingStore          captions and their token embeddings, kept under a hash of caption and encoder; grows, never changes
    ArrayEmbeddings         an array [n,t,Dt] of an .npy, .npz or safetensors file
    open_embeddings(path)   whichever it is, or the captions folder of a pipeline

All have `embeddings(names) -> (text [B,t,Dt], lengths [B])`, as the models take them, `text_dim`, `longest`, `len`, and `by`:
what names are, "caption", "key" (of a sample) or "index". How a store's files work, and why a kill or a second writer cannot
spoil them, is told in `segments`. Nothing here needs PyTorch but an encoder that is passed in (`text_encoders`).
"""

import hashlib
import itertools
import json
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import arrays, files
from ..errors import DataError
from ..progress import progress_bar
from .embedding_arrays import ArrayEmbeddings, Embeddings, padded, read_file, shortened
from .segments import AT_ONCE, KEY_BYTES, Entry, Index, Key, Writer, split

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

__all__ = ["ArrayEmbeddings", "Embedded", "EmbeddingStore", "Embeddings", "Verification", "open_embeddings"]

STORE_FILE = "store.json"
FORMAT = 1
DTYPES = ("float16", "bfloat16", "int8")
WINDOW = 64  # batches of captions that are sorted by length together
_COPIED_AT_ONCE = 256
_POLL_SECONDS = 0.1


class Encoder(Protocol):
    """What turns captions to embeddings; `text_encoders.TextEncoder` is one."""

    identity: dict[str, Any]
    text_dim: int

    def tokenize(self, captions: Sequence[str]) -> tuple[list[list[int]], list[int]]: ...
    def run(self, ids: Sequence[list[int]]) -> list[F32]: ...


# --- How tokens are stored ----------------------------------------------------------------------------------------------------


def _payload_bytes(tokens: int, width: int, dtype: str) -> int:
    return tokens * (width + 4) if dtype == "int8" else tokens * width * 2


def _to_bytes(tokens: F32, dtype: str) -> bytes:
    """[t,Dt] as stored: float16, bfloat16, or a float32 scale a token, max |x| / 127, and then int8, round(x / scale)."""
    if dtype == "int8":
        scales = np.abs(tokens).max(axis=1) / np.float32(127)
        whole = np.rint(tokens / np.where(scales > 0, scales, 1)[:, None])
        return scales.astype("<f4").tobytes() + np.clip(whole, -127, 127).astype(np.int8).tobytes()
    with np.errstate(over="ignore"):
        rounded = tokens.astype(_type_of(dtype))
    if not np.isfinite(rounded.astype(np.float32)).all():
        raise ValueError(f"expected embeddings in the range of {dtype}, got up to {np.abs(tokens).max():g}; use bfloat16")
    return rounded.tobytes()


def _from_bytes(data: memoryview, tokens: int, width: int, dtype: str) -> NDArray[Any]:
    if dtype == "int8":
        scales = np.frombuffer(data, "<f4", tokens)
        return np.frombuffer(data, np.int8, offset=4 * tokens).reshape(tokens, width) * scales[:, None]
    return np.frombuffer(data, _type_of(dtype)).reshape(tokens, width)


def _type_of(dtype: str) -> Any:
    if dtype == "float16":
        return np.dtype("<f2")
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


# --- The store ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Embedded:
    """What `EmbeddingStore.embed` did.

    Attributes
    ----------
    read, embedded, truncated
        Captions that came in; how many of them were embedded now, the others being there already, coming a second time or
        embedded by another writer; and how many of those embedded now were longer than the encoder takes.
    longest
        The most tokens that one of those embedded now would have had.
    seconds
        From the first caption to the last.
    """

    read: int
    embedded: int
    truncated: int
    longest: int
    seconds: float


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
        self._salt = _salt(self.encoder)
        self._index = Index(self.path)

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
        settings = {
            "format": FORMAT,
            "dtype": dtype,
            "text_dim": arrays.whole(text_dim, "text_dim", 1, (1 << 24) - 1),
            "encoder": encoder,
        }
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / STORE_FILE).exists():
            _write_once(folder / STORE_FILE, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
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
        self._index.refresh()

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, caption: object) -> bool:
        return isinstance(caption, str) and bool(self._index.find(self._keys([caption]))[0])

    def missing(self, captions: Sequence[str]) -> list[str]:
        """Those of the captions that are not there, in their order."""
        found = self._index.find(self._keys(captions))
        return [caption for caption, place in zip(captions, found) if not place]

    def embeddings(self, names: Sequence[str]) -> tuple[F32, I32]:
        """The embeddings of captions.

        Returns
        -------
        `text` float32 [B,t,Dt], zeros after each caption's end, with t the longest of these, and `text_lengths` int32 [B].

        Raises
        ------
        DataError
            A caption that is not there, or a damaged file.
        """
        captions = [names] if isinstance(names, str) else list(names)
        places = self._index.find(self._keys(captions))
        if not places.all():
            lost = self.missing(captions)
            raise DataError(
                f"{self.path}: expected captions that have an embedding, got {len(lost)} of {len(captions)} without, "
                f"first {shortened(lost[0])}; `textok embed` adds them"
            )
        numbers, rows = split(places)
        return padded([self._tokens(number, row) for number, row in zip(numbers.tolist(), rows.tolist())], self.text_dim)

    def _entry(self, number: int, row: int) -> tuple[memoryview, memoryview, int]:
        """Stored tokens, caption and the number of tokens of a record."""
        segment = self._index.segments[number]
        tokens = int(segment.records["tokens"][row])
        return *segment.entry(row, _payload_bytes(tokens, self.text_dim, self.dtype)), tokens

    def _tokens(self, number: int, row: int) -> NDArray[Any]:
        data, _, tokens = self._entry(number, row)
        return _from_bytes(data, tokens, self.text_dim, self.dtype)

    def _caption(self, number: int, row: int) -> str:
        return bytes(self._entry(number, row)[1]).decode("utf-8", "replace")

    def __iter__(self) -> Iterator[str]:
        """The captions, in the order in which they were committed; each once."""
        return (self._caption(number, row) for number, row in self._places())

    def _places(self) -> Iterator[tuple[int, int]]:
        order = sorted(range(len(self._index.segments)), key=lambda number: self._index.segments[number].name)
        for number in order:
            records = self._index.segments[number].records
            for start in range(0, len(records), AT_ONCE):
                numbers, rows = split(self._index.find(records["key"][start : start + AT_ONCE]))
                here = np.flatnonzero((numbers == number) & (rows == np.arange(start, start + len(rows))))
                yield from zip(itertools.repeat(number), (here + start).tolist())

    @property
    def longest(self) -> int:
        """Tokens of the longest caption; 0 in an empty store."""
        return max((int(segment.records["tokens"].max(initial=0)) for segment in self._index.segments), default=0)

    @property
    def truncated(self) -> int:
        """Captions that had more tokens than the encoder takes."""
        return sum(int((segment.records["whole"] > segment.records["tokens"]).sum()) for segment in self._index.segments)

    def _keys(self, captions: Sequence[str]) -> NDArray[np.uint64]:
        digests = [hashlib.sha256(self._salt + _utf8(caption)).digest()[:KEY_BYTES] for caption in captions]
        return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2).astype(np.uint64)

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
        values = arrays.floats(text, "text", (("B", len(captions)), ("t", None), ("Dt", self.text_dim)))
        most = values.shape[1]
        lengths = [most] * len(captions)
        if text_lengths is not None:
            lengths = arrays.integers(text_lengths, "text_lengths", len(captions), 1, most, "the real rows").tolist()
        with Writer(self._index) as writer:
            mine = writer.claim(_as_keys(self._keys(captions))).mine
            rows = [arrays.as_float32(values[place, : lengths[place]], "text", place) for place in mine]
            self._commit(writer, [captions[place] for place in mine], rows, [len(row) for row in rows])
        return len(mine)

    def _commit(self, writer: Writer, captions: Sequence[str], rows: Sequence[F32], whole: Sequence[int]) -> None:
        keys = _as_keys(self._keys(captions))
        writer.append(
            [
                Entry(key, _to_bytes(row, self.dtype), _utf8(caption), len(row), count)
                for key, row, caption, count in zip(keys, rows, captions, whole)
            ]
        )

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
        if encoder.identity != self._identity:
            raise DataError(f"{self.path}: the store was made with {self._identity}, the encoder is {encoder.identity}")
        batch_size = arrays.whole(batch_size, "batch_size", 1, 4096)
        run = _Run(self, encoder, batch_size)
        began = time.monotonic()
        source = iter(captions)
        with Writer(self._index) as writer, progress_bar(progress, None, "caption") as bar:
            later: list[list[str]] = []
            while window := list(itertools.islice(source, batch_size * WINDOW)):
                run.read += len(window)
                done = 0
                for batch in run.batches(window):
                    later.append(run.attempt(writer, batch))
                    done += len(batch)
                    bar.update(len(batch))
                bar.update(len(window) - done)
                later = run.retry(writer, later)
            while later := run.retry(writer, later):
                time.sleep(_POLL_SECONDS)
        return Embedded(run.read, run.embedded, run.truncated, run.longest, time.monotonic() - began)

    def merge(self, *others: "EmbeddingStore", progress: bool = False) -> int:
        """Copy what other stores of the same encoder and stored type have and this one has not; returns how many captions."""
        for other in others:
            if (other._identity, other.dtype, other.text_dim) != (self._identity, self.dtype, self.text_dim):
                raise DataError(f"{self.path}: expected a store of the same encoder and type, got {other!r}")
        copied = 0
        with Writer(self._index) as writer, progress_bar(progress, sum(map(len, others)), "caption") as bar:
            for other in others:
                places = other._places()
                while part := list(itertools.islice(places, _COPIED_AT_ONCE)):
                    entries = [_checked_entry(other, number, row) for number, row in part]
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
        with progress_bar(progress, sum(segment.count for segment in self._index.segments), "caption") as bar:
            for number, segment in enumerate(self._index.segments):
                used = 0
                for row in range(segment.count):
                    try:
                        entry = _checked_entry(self, number, row)
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
        segments = self._index.segments
        size = sum(segment.data_path.stat().st_size for segment in segments if segment.data_path.exists())
        limit = self.encoder.get("max_tokens")
        return (
            f"EmbeddingStore({str(self.path)!r}: {len(self):,} captions by {self.encoder.get('name', 'an unnamed encoder')}, "
            f"up to {self.longest}{f' of {limit}' if limit else ''} tokens x {self.text_dim} {self.dtype}, "
            f"{size / 1e6:,.1f} MB in {len(segments)} segment{'s' * (len(segments) != 1)})"
        )


class _Run:
    """The state of one `embed`."""

    def __init__(self, store: EmbeddingStore, encoder: Encoder, batch_size: int) -> None:
        self.store, self.encoder, self.batch_size = store, encoder, batch_size
        self.read = self.embedded = self.truncated = self.longest = 0

    def batches(self, window: list[str]) -> Iterator[list[str]]:
        """The distinct captions of a window, sorted by length, in parts; what is stored already is then left out.

        In this order, so that a rerun, for which more is stored, cuts the same batches.
        """
        captions = list(dict.fromkeys(window))
        places = self.store._index.find(self.store._keys(captions))
        stored = places != 0
        lengths = np.zeros(len(captions), np.int64)
        numbers, rows = split(places)
        for place in np.flatnonzero(stored):
            lengths[place] = self.store._index.segments[numbers[place]].records["tokens"][rows[place]]
        unknown = np.flatnonzero(~stored)
        lengths[unknown] = [len(ids) for ids in self.encoder.tokenize([captions[place] for place in unknown])[0]]
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            if batch := [captions[place] for place in part if not stored[place]]:
                yield batch

    def attempt(self, writer: Writer, batch: list[str]) -> list[str]:
        """Embed those of a batch that nobody has done or is doing; returns those that somebody is doing."""
        claimed = writer.claim(_as_keys(self.store._keys(batch)))
        captions = [batch[place] for place in claimed.mine]
        if captions:
            ids, whole = self.encoder.tokenize(captions)
            self.store._commit(writer, captions, self.encoder.run(ids), whole)
            self.embedded += len(captions)
            self.truncated += sum(count > len(tokens) for count, tokens in zip(whole, ids))
            self.longest = max(self.longest, *whole)
        return [batch[place] for place in claimed.others]

    def retry(self, writer: Writer, later: list[list[str]]) -> list[list[str]]:
        return [rest for batch in later if batch and (rest := self.attempt(writer, batch))]


def _checked_entry(store: EmbeddingStore, number: int, row: int) -> Entry:
    """A record and its entry, compared with their checksum and hash; a DataError names what is wrong."""
    record = store._index.segments[number].records[row]
    data, caption, tokens = store._entry(number, row)
    payload, text = bytes(data), bytes(caption)
    where = f"{store._index.segments[number].data_path}, entry {row}"
    if zlib.crc32(payload + text) != record["crc"]:
        raise DataError(f"{where}: its checksum does not fit, the file was changed or damaged")
    key = _as_keys(np.frombuffer(hashlib.sha256(store._salt + text).digest()[:KEY_BYTES], "<u8").reshape(1, 2))[0]
    if key != tuple(record["key"].tolist()):
        raise DataError(f"{where}: it is not the caption that its record tells of")
    if not np.isfinite(_from_bytes(memoryview(payload), tokens, store.text_dim, store.dtype).astype(np.float32)).all():
        raise DataError(f"{where}: expected finite numbers")
    return Entry(key, payload, text, tokens, int(record["whole"]))


def _as_keys(keys: NDArray[np.uint64]) -> list[Key]:
    return [(int(first), int(second)) for first, second in keys.tolist()]


def _salt(encoder: dict[str, Any]) -> bytes:
    """What makes the hash of a caption that of an encoder's embedding."""
    return hashlib.sha256(json.dumps(_without_name(encoder), sort_keys=True).encode()).digest()


def _without_name(encoder: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in encoder.items() if key != "name"}


def _utf8(caption: str) -> bytes:
    if not isinstance(caption, str):
        raise TypeError(f"captions: expected strings, got {type(caption).__name__} {caption!r}")
    try:
        return caption.encode()
    except UnicodeEncodeError:
        raise ValueError(f"captions: expected text that UTF-8 can hold, got {caption[:60]!a}") from None


def _write_once(path: Path, text: str) -> None:
    """A file that appears whole; where another process was first, its file stays."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# --- Any of them --------------------------------------------------------------------------------------------------------------


def open_embeddings(path: str | os.PathLike[str]) -> Embeddings:
    """The embeddings at a path, whatever they are.

    Parameters
    ----------
    path
        A store, the captions folder of a pipeline (captions.jsonl, embeddings.safetensors), or a file:

        - .npy: [n,t,Dt], mapped into memory; beside it, where there are some, NAME.lengths.npy [n]
        - .npz or .safetensors: `text` [n,t,Dt] (or the only array) and, where there are some, `text_lengths` [n]; or ragged,
          `tokens` [total,Dt] and `offsets` [n+1]. In an .npz also `captions` or `keys`, strings [n]

    Returns
    -------
    An `EmbeddingStore`, `ArrayEmbeddings` or `CaptionStore`; all have `embeddings(names)`, and `by` says what names are.

    Raises
    ------
    DataError, WeightsError
        Nothing there, or nothing that has embeddings; says what was expected.

    Examples
    --------
    >>> embeddings = open_embeddings("captions.npz")  # doctest: +SKIP
    >>> text, lengths = embeddings.embeddings([0, 1, 2])  # doctest: +SKIP
    """
    place = Path(path)
    if place.is_dir():
        from .caption_store import CAPTIONS_FILE, CaptionStore

        if (place / CAPTIONS_FILE).is_file() and not (place / STORE_FILE).is_file():
            return CaptionStore.from_folder(place)
        return EmbeddingStore.open(place)
    return read_file(place)
