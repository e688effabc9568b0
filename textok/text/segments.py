"""The files of an embedding store: segments that only grow, one writer each, and a table that finds records in them.

    STORE/store.json             the encoder and the stored type (written by `embeddings`)
    STORE/segments/ID.data       entries, one after another: [scales float32 [t]] tokens [t,Dt] caption (UTF-8)
    STORE/segments/ID.records    RECORD, 48 bytes an entry
    STORE/segments/ID.claims     the keys that a writer is working on, 16 bytes each; held under flock while the writer lives
    STORE/table                  where the record of each key is: made from the records, may be old or missing
    STORE/lock                   held for moments, while a writer looks what is to do and claims it

A commit writes entries, syncs them, then writes their records and syncs those. Every record carries a checksum and how many of
its commit follow, so a commit is there as a whole or not at all; what a killed writer left behind the last one is ignored.
Writers never touch a file of another. Numbers are little-endian; keys are halves of SHA-256.
"""

import fcntl
import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import MAX_JSON_BYTES, check_regular, clear_unfinished, open_plain, parse_object, replacing, sync, take_disk

U64 = NDArray[np.uint64]
Key = tuple[int, int]

TABLE_FILE = "table"

RECORD = np.dtype(
    [
        ("key", "<u8", (2,)),
        ("offset", "<u8"),  # of the entry in the data
        ("tokens", "<u4"),
        ("whole", "<u4"),  # tokens of the caption before it was truncated
        ("caption", "<u4"),  # bytes
        ("crc", "<u4"),  # of the entry
        ("left", "<u4"),  # records of the same commit after this one
        ("check", "<u4"),  # of this record
    ]
)
KEY_BYTES = 16
AT_ONCE = 1 << 16  # records that are looked at together
MOST_LOOSE = 1 << 20  # records that are found through memory before the table on disk is made anew
WORTH_A_TABLE = 1 << 16  # fewer are read faster than a table is written
MOST_PROBES = 1 << 12  # of a table that is at most half full; one in a million takes a hundred
_ROW_BITS = 40


def checks(records: NDArray[Any]) -> NDArray[np.uint32]:
    """The checksum of each record: a sum of its 32-bit words times odd numbers, mixed. A record of zeros has another one."""
    words = np.ascontiguousarray(records).view("<u4").reshape(-1, RECORD.itemsize // 4)[:, :-1].astype(np.uint64)
    factors = np.uint64(0x9E3779B97F4A7C15) * (2 * np.arange(words.shape[1], dtype=np.uint64) + np.uint64(1))
    mixed = ((words + np.uint64(0x632BE5AB)) * factors).sum(axis=1, dtype=np.uint64)
    mixed ^= mixed >> np.uint64(31)
    return (mixed * np.uint64(0xD6E8FEB86659FD93) >> np.uint64(32)).astype(np.uint32)


def committed(records: NDArray[Any]) -> int:
    """How many of the first records are whole and belong to whole commits."""
    wrong = np.flatnonzero(records["check"] != checks(records))
    ends = np.flatnonzero(records["left"][: wrong[0] if len(wrong) else len(records)] == 0)
    return int(ends[-1]) + 1 if len(ends) else 0


class Segment:
    """The reading side of one writer's files. `count` records are known to be whole."""

    def __init__(self, folder: Path, name: str, count: int = 0) -> None:
        self.name = name
        self.records_path, self.data_path = folder / f"{name}.records", folder / f"{name}.data"
        self.records: NDArray[Any] = self._mapped(count)
        self._data: NDArray[np.uint8] = np.empty(0, np.uint8)

    def _mapped(self, count: int) -> NDArray[Any]:
        if not count:
            return np.empty(0, RECORD)
        check_regular(self.records_path, DataError)
        return np.memmap(self.records_path, RECORD, "r", shape=(count,))

    @property
    def count(self) -> int:
        return len(self.records)

    def refresh(self) -> int:
        """Take in what was committed since; returns how many records."""
        there = check_regular(self.records_path, DataError).st_size // RECORD.itemsize
        if there <= self.count:
            return 0
        found, first = self._mapped(there), self.count
        end = first
        while new := committed(found[end : end + AT_ONCE]):
            end += new
        self.records = self._mapped(end)
        return end - first

    def torn_bytes(self) -> int:
        """Bytes of records after the last whole commit: of one that is being written, or never was to its end."""
        return self.records_path.stat().st_size - self.count * RECORD.itemsize

    def entry(self, row: int, payload: int) -> tuple[memoryview, memoryview]:
        """Tokens, `payload` bytes, and caption of a record, as views of the mapped file, compared with their checksum."""
        record = self.records[row]
        start, size = int(record["offset"]), payload + int(record["caption"])
        # Reading mapped pages of a file that somebody cut would end the process.
        there = check_regular(self.data_path, DataError).st_size
        if start + size > there:
            raise DataError(f"{self.data_path}: expected {start + size} bytes or more, got {there}; the file was cut")
        if start + size > len(self._data):
            self._data = np.memmap(self.data_path, np.uint8, "r", shape=(there,))
        # NumPy's stubs hide that arrays are buffers.
        view = memoryview(self._data)[start : start + size]  # type: ignore[arg-type]
        if zlib.crc32(view) != record["crc"]:
            raise DataError(f"{self.data_path}, entry {row}: its checksum does not fit, the file was changed or damaged")
        return view[:payload], view[payload:]


class Table:
    """An open-addressed hash table from keys to places, (segment << 40) + row + 1; 0 is none.

    A slot holds no key: keys are uniform already, and are compared in the records themselves.
    """

    def __init__(self, slots: U64, segments: list[Segment], count: int = 0) -> None:
        self.slots, self.count = slots, count
        self._segments = segments

    @staticmethod
    def size_for(count: int) -> int:
        """Slots for so many records: at least twice as many, a power of two."""
        return 1 << max(10, (2 * count - 1).bit_length())

    def find(self, keys: U64) -> U64:
        """The places of keys [n,2]; 0 where there is none."""
        return self._walk(keys, None)

    def add(self, places: U64) -> None:
        """Put in records. Of those with the same key the first that came stays."""
        self._walk(self.keys(places), places)

    def _walk(self, keys: U64, new: U64 | None) -> U64:
        mask = np.uint64(len(self.slots) - 1)
        at = keys[:, 0] & mask
        found = np.zeros(len(keys), np.uint64)
        pending = np.arange(len(keys))
        for _ in range(MOST_PROBES):
            if not len(pending):
                return found
            held = np.asarray(self.slots[at[pending]])
            empty = held == 0
            if new is not None:
                free = pending[empty][::-1]
                self.slots[at[free]] = new[free]  # the last written stays: of those that want one slot, the first
                held = np.asarray(self.slots[at[pending]])
                empty = held == new[pending]
                self.count += int(empty.sum())
            taken = ~empty
            same = np.zeros(len(pending), bool)
            same[taken] = (self.keys(held[taken]) == keys[pending[taken]]).all(axis=1)
            found[pending[same]] = held[same]
            pending = pending[taken & ~same]
            at[pending] = (at[pending] + np.uint64(1)) & mask
        raise DataError("the store's file 'table' is damaged; delete it, and it is made anew")

    def keys(self, places: U64) -> U64:
        """The keys [n,2] of places."""
        keys = np.empty((len(places), 2), np.uint64)
        numbers, rows = split(places)
        for number in np.unique(numbers):
            chosen = numbers == number
            wrong = number >= len(self._segments) or int(rows[chosen].min()) < 0
            if wrong or int(rows[chosen].max()) >= self._segments[number].count:
                raise DataError("the store's file 'table' is damaged; delete it, and it is made anew")
            keys[chosen] = self._segments[number].records["key"][rows[chosen]]
        return keys


def split(places: U64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The segments' numbers and the rows of places."""
    numbers, rows = (
        places >> np.uint64(_ROW_BITS),
        places & np.uint64((1 << _ROW_BITS) - 1),
    )  # none is negative, whatever the file says
    return numbers.astype(np.int64), rows.astype(np.int64) - 1


def _places(number: int, first: int, end: int) -> Iterator[U64]:
    """Of records of a segment, some at a time."""
    for start in range(first, end, AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, end), dtype=np.uint64)
        yield rows + np.uint64((number << _ROW_BITS) + 1)


class Index:
    """All segments of a store, and where each key is: in the table on disk, or in one in memory for what came after it."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.folder = store / "segments"
        self._load()

    def _load(self) -> None:
        self.segments: list[Segment] = []
        self._numbers: dict[str, int] = {}
        self._stamp = self._table_stamp()
        self._base = self._open_table()
        self._tail = self._table_in_memory(0)
        self.refresh()

    def _table_in_memory(self, count: int) -> Table:
        return Table(np.zeros(Table.size_for(count), np.uint64), self.segments)

    def __len__(self) -> int:
        return self._base.count + self._tail.count

    @property
    def loose(self) -> int:
        """Records that the table on disk does not have."""
        return self._tail.count

    def find(self, keys: U64) -> U64:
        """The places of keys [n,2]; 0 where there is none."""
        found = self._tail.find(keys)
        missing = np.flatnonzero(found == 0)
        found[missing] = self._base.find(keys[missing])
        return found

    def refresh(self) -> None:
        """Take in what writers committed since."""
        if self._tail.count > WORTH_A_TABLE and self._table_stamp() != self._stamp:
            self._load()
            return
        try:
            names = sorted(name.removesuffix(".records") for name in os.listdir(self.folder) if name.endswith(".records"))
        except FileNotFoundError:
            names = []
        for name in names:
            if name not in self._numbers:
                self._enter(name)
            segment = self.segments[self._numbers[name]]
            if new := segment.refresh():
                self._add(self._numbers[name], segment.count - new, segment.count)

    def _enter(self, name: str, count: int = 0) -> None:
        self._numbers[name] = len(self.segments)
        self.segments.append(Segment(self.folder, name, count))

    def _add(self, number: int, first: int, end: int) -> None:
        if Table.size_for(self._tail.count + end - first) > len(self._tail.slots):
            old = self._tail.slots[self._tail.slots != 0]
            self._tail = self._table_in_memory(self._tail.count + end - first)
            self._tail.add(old)
        for places in _places(number, first, end):
            self._tail.add(places[self._base.find(self._tail.keys(places)) == 0])

    # --- The table on disk

    def _table_stamp(self) -> tuple[int, int] | None:
        try:
            status = (self.store / TABLE_FILE).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _open_table(self) -> Table:
        """The table on disk; an empty one where there is none or it does not fit: then all is found through memory."""
        path = self.store / TABLE_FILE
        try:
            with open_plain(path) as file:
                length = min(int.from_bytes(file.read(8), "little"), MAX_JSON_BYTES)
                header = parse_object(file.read(length))
            if type(header["records"]) is not int or header["records"] < 0:
                raise ValueError
            for name, count in header["segments"]:
                if type(count) is not int or name != os.path.basename(name):
                    raise ValueError
                self._enter(name, count)
            if header["slots"] != Table.size_for(sum(segment.count for segment in self.segments)):
                raise ValueError
            return Table(np.memmap(path, "<u8", "r", 8 + length, (header["slots"],)), self.segments, header["records"])
        except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError):
            self.segments.clear()
            self._numbers.clear()
            return self._table_in_memory(0)

    def write_table(self) -> None:
        """Make the table on disk anew from all records, in bounded memory. The caller holds the store's lock."""
        clear_unfinished(self.store / TABLE_FILE)  # of a writer that was killed here
        header: dict[str, Any] = {"segments": [[segment.name, segment.count] for segment in self.segments]}
        header["slots"] = slots = Table.size_for(sum(segment.count for segment in self.segments))
        first = len(json.dumps(header)) + 64  # room for the number of records, known at the end
        first += -first % 4096
        with replacing(self.store / TABLE_FILE) as temporary, temporary.open("r+b") as file:
            take_disk(file, 0, first + 8 * slots)
            mapped: np.memmap[Any, Any] = np.memmap(temporary, "<u8", "r+", first, (slots,))
            table = Table(mapped, self.segments)
            for number, segment in enumerate(self.segments):
                for places in _places(number, 0, segment.count):
                    table.add(places)
            mapped.flush()
            text = json.dumps(header | {"records": table.count}).encode().ljust(first - 8)
            file.seek(0)
            file.write(len(text).to_bytes(8, "little") + text)
        self._load()


# --- Writing ------------------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """What a writer appends."""

    key: Key
    payload: bytes  # tokens as stored
    caption: bytes
    tokens: int
    whole: int


class Claimed(NamedTuple):
    """Whose work a batch of keys is, as positions in it."""

    mine: list[int]
    others: list[int]  # of writers that live
    stored: list[int]


class Writer:
    """One process's segment, made with its first commit, and its claims. Close it; a context manager."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._name = f"{time.time_ns():020d}-{os.urandom(4).hex()}"
        self._claims: Any = None
        self._data: Any = None
        self._records: Any = None
        self._data_size = self._records_size = 0
        index.folder.mkdir(exist_ok=True)

    def _path(self, kind: str) -> Path:
        return self._index.folder / f"{self._name}.{kind}"

    # --- Who does what

    def claim(self, keys: Sequence[Key]) -> Claimed:
        """Take what nobody has done or is doing, until the next claim. The second of equal keys counts as stored."""
        with locked(self._index.store / "lock"):
            self._index.refresh()
            busy = self._claimed_by_others()
            result = Claimed([], [], [])
            taken: set[Key] = set()
            there = self._index.find(np.array(keys, np.uint64).reshape(-1, 2)) != 0
            for place, key in enumerate(keys):
                if there[place] or key in taken:
                    result.stored.append(place)
                elif key in busy:
                    result.others.append(place)
                else:
                    result.mine.append(place)
                    taken.add(key)
            self._write_claims([keys[place] for place in result.mine])
        return result

    def _write_claims(self, keys: Sequence[Key]) -> None:
        if self._claims is None:
            self._claims = self._path("claims").open("wb", buffering=0)
            _lock(self._claims, fcntl.LOCK_EX)
        self._claims.seek(0)
        self._claims.truncate()
        self._claims.write(np.array(keys, "<u8").tobytes())

    def _claimed_by_others(self) -> set[Key]:
        busy: set[Key] = set()
        for path in self._index.folder.glob("*.claims"):
            if path == self._path("claims"):
                continue
            try:
                with open_plain(path) as file:
                    if _lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB):
                        path.unlink(missing_ok=True)  # its writer is gone
                        continue
                    data = file.read()
            except OSError:
                continue
            busy.update(map(tuple, np.frombuffer(data[: len(data) // KEY_BYTES * KEY_BYTES], "<u8").reshape(-1, 2).tolist()))
        return busy

    # --- Commits

    def append(self, entries: Sequence[Entry]) -> None:
        """Commit entries: when this returns they are on the disk; if it raises, or the process dies, none of them is there."""
        if not entries:
            return
        if self._data is None:
            self._data = self._path("data").open("xb", buffering=0)
            self._records = self._path("records").open("xb", buffering=0)
            sync(self._index.folder)
        records = np.zeros(len(entries), RECORD)
        offset = self._data_size
        for place, entry in enumerate(entries):
            body = entry.payload + entry.caption
            left = len(entries) - 1 - place
            records[place] = (entry.key, offset, entry.tokens, entry.whole, len(entry.caption), zlib.crc32(body), left, 0)
            offset += len(body)
        records["check"] = checks(records)
        try:
            _write(self._data, b"".join(part for entry in entries for part in (entry.payload, entry.caption)))
            os.fsync(self._data.fileno())
            _write(self._records, records.tobytes())
            os.fsync(self._records.fileno())
        except OSError as problem:
            self._records.truncate(self._records_size)
            self._records.seek(self._records_size)
            self._data.truncate(self._data_size)
            self._data.seek(self._data_size)
            told = f"{problem.strerror}; what was committed before is kept, and a second run goes on"
            raise OSError(problem.errno, told, str(self._path("data"))) from None
        self._data_size, self._records_size = offset, self._records_size + records.nbytes
        self._index.refresh()
        if self._index.loose > MOST_LOOSE:
            self._write_table()

    def _write_table(self) -> None:
        try:
            with locked(self._index.store / "lock"):
                self._index.refresh()
                self._index.write_table()
        except OSError:
            pass  # a full disk, say: nothing is lost, records are found through memory

    def close(self) -> None:
        """Give back what is claimed; many records get a table."""
        for file in (self._data, self._records):
            if file is not None:
                file.close()
        if self._claims is not None:
            self._path("claims").unlink(missing_ok=True)
            self._claims.close()
        self._claims = self._data = self._records = None
        if self._index.loose > WORTH_A_TABLE:
            self._write_table()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write(file: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _lock(file: Any, how: int) -> bool:
    """Whether the lock was got. Where the file system has no locks, it counts as got: writers may do the same work then."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


class locked:
    """Holds the lock of a store."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._file = open_plain(self._path, "ab")
        _lock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()
