"""Shards, in and out: tar files with the files of samples side by side, as WebDataset has them.

    ShardSource               reads them
    TarWriter, write_shards   write them, the same bytes for the same samples: headers have no times, owners or order of
                              their own

Shards are read with the standard library's tarfile rather than webdataset, whose naming is followed to the letter (tests read
each other's shards): webdataset needs PyYAML and braceexpand in every installation, runs `pipe:` addresses in a shell, takes a
shard that was cut between two members, or has a broken header inside, for a whole one, and has no positions to go on from.
Its readers take what lies in a folder `__x__` for metadata and pass it over; here it is read, since it may be a class, and runs
write such a class as %5F_x__ (`name_of`).
"""

import contextlib
import hashlib
import io
import os
import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from .. import arrays
from ..files import commit
from .base import (
    PICTURES,
    Event,
    Sample,
    Skip,
    Source,
    is_picture,
    is_plain,
    parse_object,
    raise_unless_lasting,
    set_class,
    set_missing,
)
from .payloads import as_bytes
from .texts import decode_text, printable, text_problem

_BLOCK = 512  # bytes, of a tar
_PIECE = 1 << 24
_MOST_OF_SAMPLE = 1 << 30  # bytes; a little gzip may hold any number
_MOST_HEADER = 1 << 20
_LENGTH = re.compile(rb"(\d{1,7}) ")
_DIGITS = re.compile(rb"[0-9]{256}")


# --- In -----------------------------------------------------------------------------------------------------------------------


class ShardSource(Source):
    """A tar file; positions are bytes."""

    kind = "shard"

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        group: dict[str, bytes] = {}
        key = None
        held = 0
        for name, data, begin in self._members(start):
            if isinstance(data, _Broken):  # in the member `name` or right after the last one
                broken = _split(name, b"")[0] if name else None
                if key is not None and broken not in (None, key):
                    yield self._sample(key, group, begin)  # another follows it, so it is whole
                    key = None
                if key or broken:
                    reason = "the shard breaks off in this sample" + ("" if broken else " or right after it")
                    yield Skip(broken or key or "", self.name, reason, begin)
                yield Skip("", self.name, data, begin)
                return
            if isinstance(data, str):
                yield Skip(_split(name, b"")[0] or name, self.name, data, begin)
                continue
            owner, extension = _split(name, data)
            if owner is None:
                continue
            if owner != key:
                if key is not None:
                    yield self._sample(key, group, begin)
                key, group, held = owner, {}, 0
            held += len(data)
            if held > _MOST_OF_SAMPLE:
                yield Skip(owner, self.name, f"{_too_large(held)}, without its last member {name}", begin)
            elif extension in group:
                yield Skip(owner, self.name, f"a second member {name}", begin)
            else:
                group[extension] = data
        if key is not None:
            yield self._sample(key, group, self._end)

    def _members(self, start: int) -> "Iterator[tuple[str, bytes | str, int]]":
        """Name, bytes and offset of each file in it, in place of the bytes what is wrong with it; at last, where the shard is
        broken, a `_Broken`.
        """
        offset, broken = start, ""
        try:
            with open(self.path, "rb") as raw, _opened(raw) as stream:
                stream.seek(start)
                if start == 0 and not stream.peek(1):
                    yield "", _Broken("expected a tar file, got an empty one"), 0
                    return
                links = _Links(self.path)
                tar: Any = _tar_of(stream) if _has_member(stream, start) else None
                while tar is not None and (member := tar.next()) is not None:
                    tar.members.clear()  # it would remember all
                    offset, broken = member.offset, member.name
                    name = _plain_name(member.name)
                    if member.isdir() or _is_meta(name):
                        continue
                    if member.isreg() and not member.issparse():
                        yield name, _content(stream, member), offset
                    else:
                        yield name, links.content(member), offset
                    offset, broken = tar.offset, ""
                self._end = offset = start if tar is None else tar.offset
                # tarfile takes a header that it cannot read, and no header, for the end.
                stream.seek(offset)
                last = stream.read(_BLOCK)
                if last != bytes(_BLOCK):
                    what = "ends without a tar's end mark" if len(last) < _BLOCK else "has a broken header"
                    yield "", _Broken(f"the shard {what} at byte {offset}; what follows cannot be read"), offset
        except Exception as problem:
            if isinstance(problem, OSError):
                raise_unless_lasting(problem, self.name)
            if isinstance(problem, MemoryError):
                raise
            where = f" ({printable(broken)})" if broken else ""
            yield broken, _Broken(f"the shard cannot be read on from byte {offset}{where}: {problem}"), offset

    def _sample(self, key: str, group: dict[str, bytes], position: int) -> Event:
        if (problem := text_problem(key)) is not None:
            return Skip(key, self.name, f"its name is {problem}", position)
        if not is_plain(key):
            return Skip(key, self.name, "a name that leads out of its folder", position)
        metadata: dict[str, Any] = {}
        try:
            if "json" in group:
                metadata = parse_object(group["json"])
            if "txt" in group:
                set_missing(metadata, "caption", decode_text(group["txt"]).strip())
            if "cls" in group:
                set_class(metadata, group["cls"])
        except ValueError as problem:
            return Skip(key, self.name, f"its metadata cannot be read: {problem}", position)
        picture = next((data for extension, data in group.items() if extension in PICTURES), None)
        return Sample(key, picture, metadata, self.name, group, position)


class _Broken(str):
    """What is wrong with a shard, in place of the rest of it."""


def _plain_name(name: str) -> str:
    """As `tar -C FOLDER -cf x.tar .` would not have it: without the ./ before it."""
    return re.sub(r"^(?:\./+)+", "", name)  # at once: a name may have a megabyte of them


def _split_name(name: str) -> tuple[str, str] | None:
    """As webdataset splits names: the key ends at the first dot of the file's name. Its pattern
    ^((?:.*/|)[^.]+)[.]([^/]*)$ says the same, but takes a time that grows with the square of a name's length, and finds nothing
    in a folder whose name has a line's end and a dot.
    """
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    if not dot or (not stem and (not slash or "." in folder.rpartition("/")[2])):
        return None
    return f"{folder}{slash}{stem}", extension


def _split(name: str, data: bytes) -> tuple[str | None, str]:
    """A member's key and extension, as webdataset splits names; a picture may be without extension. None for what is hidden, or
    is no picture and has no extension.
    """
    if (parts := _split_name(name)) is not None:
        return _key_of(parts[0]), parts[1].lower()
    if is_picture(data[:16]) and not name.rpartition("/")[2].startswith("."):
        return name, PICTURES[0]
    return None, ""


def _content(stream: Any, member: tarfile.TarInfo) -> bytes | str:
    """The bytes of a member, in pieces: how many there are to be is what its header says, and may be any number. Of too many
    nothing is read."""
    if member.size > _MOST_OF_SAMPLE:
        return _too_large(member.size)
    stream.seek(member.offset_data)
    pieces = []
    left = member.size
    while left and (piece := stream.read(min(left, _PIECE))):
        pieces.append(piece)
        left -= len(piece)
    if left:
        raise tarfile.ReadError("unexpected end of data")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(size: int) -> str:
    return f"expected a sample of at most {_MOST_OF_SAMPLE >> 20} MB, got one of {size >> 20}"


def _tar_of(stream: Any) -> Any:
    headers: Any = _Headers(stream)  # it reads, seeks and tells, which is all that is asked of it
    return tarfile.TarFile(fileobj=headers, mode="r")


class _Headers:
    """A shard's bytes as tarfile reads headers from them. It takes memory for as many as a header claims, and the time that it
    needs for a header that is no such thing grows with the square of that."""

    def __init__(self, stream: Any) -> None:
        self.seek, self.tell = stream.seek, stream.tell
        self._stream = stream
        self._of_records = False  # whether the records of the last header come next

    def read(self, count: int) -> bytes:
        if count > _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {count} bytes")
        data: bytes = self._stream.read(count)
        if self._of_records:
            _check_records(data)
        self._of_records = not self._of_records and len(data) == _BLOCK and data[156:157] in (b"x", b"g", b"X")
        return data


def _check_records(data: bytes) -> None:
    """A ReadError unless they are "LENGTH NAME=VALUE" and a line's end, one after another, up to zeros."""
    place = 0
    while place < len(data) and data[place]:
        length = _LENGTH.match(data, place)
        end = place + int(length[1]) if length else 0
        if length is None or data[end - 1 : end] != b"\n" or data.find(b"=", length.end(), end) < 0:
            raise tarfile.ReadError("a broken extended header")
        place = end
    if _DIGITS.search(data):
        raise tarfile.ReadError("a number of hundreds of digits in an extended header")


class _Links:
    """What links of a shard mean: members of it. The first link has the names of all members listed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, tarfile.TarInfo] | None = None

    def content(self, member: tarfile.TarInfo) -> bytes | str:
        """The bytes of what is linked to, or why there are none."""
        if not member.islnk() and not member.issym():
            return "expected a file, got a sparse one" if member.issparse() else "expected a file, got a pipe or device"
        target = _plain_name(member.linkname)
        if member.issym():
            target = posixpath.normpath(posixpath.join(posixpath.dirname(_plain_name(member.name)), target))
        with open(self._path, "rb") as raw, _opened(raw) as stream:
            tar: Any = _tar_of(stream)
            if self._found is None:
                self._found = {}
                while (other := tar.next()) is not None:
                    tar.members.clear()
                    if other.isreg() and not other.issparse():
                        self._found[_plain_name(other.name)] = other
            if target not in self._found:
                return f"a link to {printable(member.linkname)}, which is not in the shard"
            return _content(stream, self._found[target])


def _opened(raw: io.BufferedReader) -> Any:
    """The tar's bytes: the file's, or what gzip makes of them."""
    if raw.peek(2)[:2] != b"\x1f\x8b":
        return raw
    import gzip

    return gzip.open(raw)


def _has_member(stream: Any, start: int) -> bool:
    """Whether a header is at `start`; tarfile raises where there is only an end mark, which is a shard of nothing."""
    head = stream.read(_BLOCK)
    stream.seek(start)
    return head != bytes(_BLOCK)


def _is_meta(name: str) -> bool:
    """Whether it is webdataset's metadata: a file, not what lies in a folder of such a name."""
    return re.fullmatch(r"__[^/]*__", name) is not None


def name_of(key: str) -> str:
    """A sample's name in a run's shard: its key, with %5F for the first sign of a folder in which webdataset's readers would
    pass it over; no two keys have the same.
    """
    return re.sub(r"^(?:_(?=_[^/]*__/)|%(?=(?:25)*5F_[^/]*__/))", lambda sign: "%5F" if sign[0] == "_" else "%25", key)


def _key_of(name: str) -> str:
    """The key that `name_of` made a name of."""
    return re.sub(r"^%(?:5F(?=_[^/]*__/)|25(?=(?:25)*5F_[^/]*__/))", lambda sign: "_" if sign[0] == "%5F" else "%", name)


# --- Out ----------------------------------------------------------------------------------------------------------------------


class TarWriter:
    """A tar file, written from front to back; `bytes` and `sha256` of what was written so far. A context manager."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.bytes = 0
        self._hash = hashlib.sha256()
        self._file = Path(path).open("wb")  # noqa: SIM115  a number is no path: `open` would take it for an open file

    def add(self, key: str, files: Mapping[str, bytes]) -> None:
        """One sample: its files by extension."""
        arrays.instance(files, "files", Mapping, "a dict of bytes by extension")
        for extension, data in files.items():
            header = tarfile.TarInfo(f"{key}.{extension}")  # time 0, owner 0, mode 0644
            header.size = len(data)
            self._write(header.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)

    @property
    def sha256(self) -> str:
        """Of the bytes written so far, in hexadecimal."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """The end mark, and everything to the disk."""
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self.bytes + end) % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close the file as it is, without the end mark."""
        with contextlib.suppress(OSError):  # what is in its buffer may find the disk full again
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def write_shards(
    samples: Iterable[tuple[str, Mapping[str, Any]]], folder: str | os.PathLike[str], *, prefix: str = "shard", size: int = 2048
) -> list[Path]:
    """Write samples as WebDataset shards.

    Parameters
    ----------
    samples
        Pairs of a key, in a shard each once, and its files by extension: bytes, str, a picture uint8 [H,W,3] for "png", arrays
        by name for "npz" and "safetensors", or what JSON has for "json".
    folder
        Made where missing. Files are called PREFIX-000000.tar and on; each appears whole or not at all.
    size
        Samples a shard.

    Returns
    -------
    The paths.

    Raises
    ------
    ValueError
        A key that readers of the shard would merge with another, cut, refuse or pass over.

    Examples
    --------
    >>> write_shards([("cat", {"npz": {"latent": z}, "json": {"caption": "a cat"}})], "latents")  # doctest: +SKIP
    [PosixPath('latents/shard-000000.tar')]
    """
    size = arrays.whole(size, "size", 1, arrays.MAX_BATCH)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    iterator = iter(samples)
    sample = next(iterator, None)
    while sample is not None:
        path = place / f"{prefix}-{len(paths):06d}.tar"
        part = path.with_suffix(".tar.part")
        keys: set[str] = set()  # of this shard
        with TarWriter(part) as writer:
            for _ in range(size):
                if sample is None:
                    break
                key, files = sample
                _check_key(key, keys)
                keys.add(key)
                writer.add(key, {extension: as_bytes(extension, value) for extension, value in files.items()})
                sample = next(iterator, None)
        commit(part, path)
        paths.append(path)
    return paths


def _check_key(key: str, before: set[str]) -> None:
    """A ValueError for a key that readers would not give back."""
    arrays.instance(key, "a sample's key", str, "a string")
    if key in before:
        raise ValueError(f"expected keys that differ, as a shard's reader would make one sample of two, got {key!r} twice")
    if name_of(key) != key:
        raise ValueError(
            f"expected keys outside of folders __x__, which webdataset's readers pass over, and %5F_x__, got {key!r}"
        )
    if not is_plain(key):
        raise ValueError(
            "expected keys of UTF-8 that lead to no other folder and have no dot in the name, at which a shard's reader would "
            f"cut them, got {key!r}"
        )
