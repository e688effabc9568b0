"""Where samples come from: shards, folders, tables and arrays, as one stream of samples in a fixed order.

    open_sources(paths)    finds what the paths are; opens nothing large
    Source.read(start)     its samples and skips from a position on, in order
    read_samples(paths)    the usable samples of all of them; what is left out is named, never dropped in silence

What a path may be:

    x.tar, .tar.gz, .tgz   a WebDataset shard: KEY.png (.jpg, .webp, ...) with KEY.json, KEY.txt and KEY.cls
    a folder with .tar     its shards, by name
    any other folder       pictures below it, with KEY.txt or KEY.json beside them, rows of metadata.jsonl ("file_name"),
                           or folders that are classes
    x.jsonl, .csv, .tsv    a row a sample; "file_name" (or image, path) names a picture beside the table
    x.npy, x.npz           pictures [n,H,W,3]; in an .npz arr_0 and labels arr_1 (ADM's), or "images" and "labels"
    x.png, .jpg, ...       one picture; captions as in a folder
    x.txt, -               a caption a line; "-" is standard input

Reading is sequential and holds one sample (of a folder: the names of one directory). Order: as in the file, or by name.
Positions (bytes of a shard, rows of all else) allow a reader to go on where another stopped.

Shards are read with the standard library's tarfile rather than webdataset, whose naming is followed to the letter (tests read
each other's shards): webdataset needs PyYAML and braceexpand in every installation, runs `pipe:` addresses in a shell, takes a
shard that was cut between two members, or has a broken header inside, for a whole one, and has no positions to go on from.
"""

import csv
import errno
import hashlib
import io
import itertools
import json
import os
import re
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ..errors import DataError
from ..text.templates import fill_template
from .rows import open_rows

PICTURES = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "avif", "jp2")
SHARDS = (".tar", ".tar.gz", ".tgz")
TABLES = (".jsonl", ".csv", ".tsv")
ARRAYS = (".npy", ".npz")
PICTURE_COLUMNS = ("file_name", "image", "path")
METADATA_FILE = "metadata.jsonl"
# What a run of `textok decode` or `sample` keeps beside its pictures.
INDEX_FILE, SKIPS_FILE, PARTS_FOLDER = "index.json", "skips.jsonl", "parts"
RECORDS = {INDEX_FILE, SKIPS_FILE, PARTS_FOLDER}
STDIN = "-"

# As webdataset splits names: the key ends at the first dot of the file's name.
_MEMBER = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_BLOCK = 512  # bytes, of a tar


@dataclass(slots=True)
class Sample:
    """One sample, its picture not decoded.

    Attributes
    ----------
    key
        Its name, unique in its source; may have slashes, has no dot after the last of them.
    picture
        The bytes of a picture file, an array [H,W,3], or None.
    metadata
        What is known of it: "caption" (from KEY.txt), "label" (from KEY.cls, arr_1 or the class folder), and all that its JSON
        or its row says.
    source
        The file it came from.
    files
        All members of a shard's sample, extension to bytes.
    position
        Where its source goes on after it, for `Source.read`.
    """

    key: str
    picture: bytes | NDArray[Any] | None = field(repr=False)
    metadata: dict[str, Any]
    source: str
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    position: int = 0

    def caption(self, name: str = "caption") -> str | None:
        """The caption in the metadata's field `name`, or from a template of fields in braces; None where there is none.

        "a photo of a {name}" is such a template; see `textok.text.templates.fill_template`.
        """
        value = fill_template(name, self.metadata) if "{" in name else self.metadata.get(name)
        return value if isinstance(value, str) and value.strip() else None


class Skip(NamedTuple):
    """A sample that was left out, or part of a source that cannot be read: which, from where and why."""

    key: str
    source: str
    reason: str
    position: int = 0


Event = Sample | Skip

# What the system says where there is no such file, nor will be at another time, or of what is in it (a broken header makes a
# position that is none); None: a library says it.
_LASTING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, None)


def _raise_unless_lasting(problem: OSError, name: str) -> None:
    """End the run where a disk or a network failed: what is skipped now stays skipped, and the next run may be able to read it."""
    if problem.errno not in _LASTING:
        raise OSError(problem.errno, problem.strerror, problem.filename or name) from None


def _state_of(paths: Iterable[Path]) -> str:
    """The sizes and times of several files, in short."""
    digest, count = hashlib.sha256(), 0
    for path in paths:
        status = path.stat()
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        count += 1
    return f"{count} files, {digest.hexdigest()[:32]}"


class Source:
    """A file or folder with samples. Subclasses yield them in `read`."""

    kind = ""
    ranges = False  # whether `read` starts anywhere at once and `len` is cheap
    pictures = True  # whether picture files are read; where not, they may be missing too

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        """Samples and skips in order, from a position (0, or that of an earlier one), where `ranges` up to another."""
        raise NotImplementedError

    def files(self) -> Iterator[Path]:
        """The files that its samples come from."""
        yield self.path

    def state(self, start: int, stop: int | None) -> str:
        """Size and time of the files behind positions start to stop; another state may mean another content."""
        status = self.path.stat()
        return f"{status.st_size} bytes, {status.st_mtime_ns} ns"

    def __len__(self) -> int:
        """Positions, where `ranges`."""
        raise TypeError(f"{self.name}: how many samples it has shows only by reading it")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


# --- Shards -------------------------------------------------------------------------------------------------------------------


class ShardSource(Source):
    """A tar file; positions are bytes."""

    kind = "shard"

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        group: dict[str, bytes] = {}
        key = None
        for name, data, begin in self._members(start):
            if isinstance(data, str):  # the shard ends badly, in the member `name` or right after the last one
                match = _MEMBER.match(name)
                broken = match[1] if match else None
                if key is not None and broken not in (None, key):
                    yield self._sample(key, group, begin)  # another follows it, so it is whole
                    key = None
                if key or broken:
                    yield Skip(
                        broken or key or "",
                        self.name,
                        "the shard breaks off in this sample" + ("" if broken else " or right after it"),
                        begin,
                    )
                yield Skip("", self.name, data, begin)
                return
            match = _MEMBER.match(name)
            if match is None:
                continue  # no extension: webdataset passes over it too
            if match[1] != key:
                if key is not None:
                    yield self._sample(key, group, begin)
                key, group = match[1], {}
            extension = match[2].lower()
            if extension in group:
                yield Skip(key, self.name, f"a second member {name}", begin)
            else:
                group[extension] = data
        if key is not None:
            yield self._sample(key, group, self._end)

    def _members(self, start: int) -> Iterator[tuple[str, bytes | str, int]]:
        """Name, bytes and offset of each file in it; at last, where it is broken, in place of the bytes what is wrong."""
        offset, broken = start, ""
        try:
            with open(self.path, "rb") as raw, _opened(self.path, raw) as stream:
                stream.seek(start)
                if start == 0 and not stream.peek(1):
                    yield "", "expected a tar file, got an empty one", 0
                    return
                tar = tarfile.TarFile(fileobj=stream, mode="r") if _has_member(stream, start) else None
                while tar is not None and (member := tar.next()) is not None:
                    tar.members.clear()  # it would remember all
                    offset, broken = member.offset, member.name
                    if member.isreg() and not _is_meta(member.name):
                        data = tar.extractfile(member).read()
                        if len(data) != member.size:
                            raise tarfile.ReadError("unexpected end of data")
                        yield member.name, data, offset
                broken = ""
                self._end = offset = start if tar is None else tar.offset
                # tarfile takes a header that it cannot read, and no header, for the end.
                stream.seek(offset)
                last = stream.read(_BLOCK)
                if last != bytes(_BLOCK):
                    what = "ends without a tar's end mark" if len(last) < _BLOCK else "has a broken header"
                    yield "", f"the shard {what} at byte {offset}; what follows cannot be read", offset
        except (tarfile.TarError, EOFError, zlib.error, OSError) as problem:
            if isinstance(problem, OSError):
                _raise_unless_lasting(problem, self.name)
            yield broken, f"the shard cannot be read on from byte {offset}{f' ({broken})' if broken else ''}: {problem}", offset

    def _sample(self, key: str, group: dict[str, bytes], position: int) -> Event:
        if not _is_plain(key):
            return Skip(key, self.name, "a name that leads out of its folder", position)
        metadata: dict[str, Any] = {}
        try:
            if "json" in group:
                metadata = _object(group["json"])
            if "txt" in group:
                metadata.setdefault("caption", group["txt"].decode("utf-8").strip())
            if "cls" in group:
                metadata.setdefault("label", int(group["cls"]))
        except ValueError as problem:
            return Skip(key, self.name, f"its metadata cannot be read: {problem}", position)
        picture = next((data for extension, data in group.items() if extension in PICTURES), None)
        return Sample(key, picture, metadata, self.name, group, position)


def _opened(path: Path, raw: io.BufferedReader) -> Any:
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


def _is_plain(key: str) -> bool:
    """Whether a key can name a file below a folder, and ends at no dot."""
    return (
        re.fullmatch(r"[^/.\0][^\0]*", key) is not None
        and not {"..", "."} & set(key.split("/"))
        and "." not in key.rpartition("/")[2]
    )


def _is_meta(name: str) -> bool:
    return re.match(r"__[^/]*__($|/)", name) is not None


class ListedSource(Source):
    """One with a list that may be too long to hold: it remembers how far it went, so ranges in order list it once."""

    ranges = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._listing: tuple[int, Iterator[Any]] | None = None  # how many were taken, and the rest
        self._held: tuple[int, int | None, list[Any]] | None = None  # the range that was asked for last

    def _list(self) -> Iterator[Any]:
        """What samples are made of, in order; as cheap as may be."""
        raise NotImplementedError

    def _range(self, start: int, stop: int | None) -> Iterable[Any]:
        if stop is None:
            return itertools.islice(self._list(), start, None)
        if self._held is None or self._held[:2] != (start, stop):
            taken, rest = self._listing or (0, self._list())
            if taken > start:
                taken, rest = 0, self._list()
            self._held = (start, stop, list(itertools.islice(rest, start - taken, stop - taken)))
            self._listing = (stop, rest)
        return self._held[2]

    def __len__(self) -> int:
        return sum(1 for _ in self._list())

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_listing": None, "_held": None}


# --- Folders ------------------------------------------------------------------------------------------------------------------


class FolderSource(ListedSource):
    """Pictures below a folder; positions count samples in the order of directories and names."""

    kind = "folder"

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        classes = self._classes()
        for index, (directory, stem, names, row) in enumerate(self._range(start, stop), start):
            yield from _folder_sample(self.path, directory, stem, names, row, classes, index + 1, self.pictures)

    def files(self) -> Iterator[Path]:
        for directory, _, names, _ in self._list():
            for name in names:
                yield directory / name
        for directory, _ in _walk(self.path):
            if (directory / METADATA_FILE).is_file():
                yield directory / METADATA_FILE

    def state(self, start: int, stop: int | None) -> str:
        entries = list(self._range(start, stop))
        directories = {directory for directory, _, _, _ in entries}
        directories |= {above for directory in directories for above in directory.parents if above.is_relative_to(self.path)}
        tables = [table for directory in sorted(directories) if (table := directory / METADATA_FILE).is_file()]
        return _state_of(itertools.chain(tables, (directory / name for directory, _, names, _ in entries for name in names)))

    def _classes(self) -> dict[str, int]:
        """Folders of the first level and their numbers, where no picture lies beside them."""
        first, names = next(_walk(self.path))
        if any(_extension(name) in PICTURES for name in names):
            return {}
        return {name: number for number, name in enumerate(_folders(first))}

    def _list(self) -> Iterator[tuple[Path, str, list[str], dict[str, Any] | None]]:
        """Directory, stem, the files of that stem (pictures first) and the row of metadata.jsonl, of each sample."""
        rows: dict[Path, dict[str, Any]] = {}
        for directory, names in _walk(self.path):
            if METADATA_FILE in names:
                for row in _rows(directory / METADATA_FILE):
                    if isinstance(row, dict) and isinstance(row.get("file_name"), str):
                        rows[directory / row["file_name"]] = row
            stems: dict[str, list[str]] = {}
            for name in names:
                if _extension(name) in (*PICTURES, "txt", "json", "cls"):
                    stems.setdefault(name.rpartition(".")[0], []).append(name)
            for stem in sorted(stems):
                files = sorted(stems[stem], key=lambda name: (_extension(name) not in PICTURES, name))
                row = next((rows.pop(directory / name) for name in files if directory / name in rows), None)
                yield directory, stem, files, row
        for path in sorted(rows):
            yield path.parent, path.name.rpartition(".")[0], [], rows[path]


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each directory below `root` and its files, by name, but for the records that a finished run keeps beside its pictures."""
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as problem:
        raise DataError(f"{root}: {problem.strerror}") from None
    if RECORDS <= {entry.name for entry in entries}:
        entries = [entry for entry in entries if entry.name not in RECORDS]
    yield root, [entry.name for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _walk(root / entry.name)


def _folders(directory: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and not entry.name.startswith("."))


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def _key(path: Path, root: Path) -> str:
    """A path without its extension as a key; a dot in the name would end the key in a shard."""
    relative = path.relative_to(root) if path.is_relative_to(root) else path
    return str(relative.with_name(relative.name.replace(".", "%2E")))


def _folder_sample(
    root: Path,
    directory: Path,
    stem: str,
    names: list[str],
    row: dict[str, Any] | None,
    classes: dict[str, int],
    position: int,
    read_picture: bool,
) -> Iterator[Event]:
    key = _key(directory / stem, root)
    pictures = [name for name in names if _extension(name) in PICTURES]
    source = str(directory / (pictures or names or [METADATA_FILE])[0])
    for name in pictures[1:]:
        yield Skip(key, str(directory / name), f"a second picture of the name {stem}", position)
    metadata = dict(row or {})
    try:
        for name in names:
            extension = _extension(name)
            if extension == "json":
                metadata = _object((directory / name).read_bytes()) | metadata
            elif extension == "txt":
                metadata.setdefault("caption", (directory / name).read_text("utf-8").strip())
            elif extension == "cls":
                metadata.setdefault("label", int((directory / name).read_bytes()))
        first = key.partition("/")[0]
        if first in classes and "/" in key:
            metadata.setdefault("class_name", first)
            metadata.setdefault("label", classes[first])
        picture = (directory / pictures[0]).read_bytes() if pictures and read_picture else None
    except (ValueError, OSError) as problem:
        if isinstance(problem, OSError):
            _raise_unless_lasting(problem, source)
        yield Skip(key, source, f"it cannot be read: {problem}", position)
        return
    if picture is None and row is not None and read_picture:
        yield Skip(key, str(directory / row["file_name"]), "named in metadata.jsonl, but not there", position)
        return
    yield Sample(key, picture, metadata, source, position=position)


class PictureSource(Source):
    """Single picture files, with captions beside them; positions count files."""

    kind = "pictures"
    ranges = True

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = list(paths)
        super().__init__(self.paths[0])

    @property
    def name(self) -> str:
        return f"{self.path}" + (f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else "")

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        for index, path in enumerate(self.paths[start:stop], start):
            stem = path.name.rpartition(".")[0]
            beside = [name for name in (f"{stem}.txt", f"{stem}.json", f"{stem}.cls") if (path.parent / name).is_file()]
            yield from _folder_sample(path.parent, path.parent, stem, [path.name, *beside], None, {}, index + 1, self.pictures)

    def files(self) -> Iterator[Path]:
        return self._files(0, None)

    def _files(self, start: int, stop: int | None) -> Iterator[Path]:
        for path in self.paths[start:stop]:
            yield path
            yield from (beside for suffix in (".txt", ".json", ".cls") if (beside := path.with_suffix(suffix)).is_file())

    def state(self, start: int, stop: int | None) -> str:
        return _state_of(self._files(start, stop))

    def __len__(self) -> int:
        return len(self.paths)


# --- Tables -------------------------------------------------------------------------------------------------------------------


class TableSource(ListedSource):
    """Rows of a .jsonl, .csv or .tsv file; positions count rows."""

    kind = "table"

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        for index, row in enumerate(self._range(start, stop), start):
            yield self._sample(index, row)

    def _list(self) -> Iterator[dict[str, Any] | str]:
        return _rows(self.path)

    def _sample(self, index: int, row: dict[str, Any] | str) -> Event:
        key = f"{self.path.name.rpartition('.')[0].replace('.', '%2E')}-{index:08d}"
        if isinstance(row, str):
            return Skip(key, self.name, f"row {index + 1}: {row}", index + 1)
        if isinstance(row.get("key"), str) and _is_plain(row["key"]):
            key = row["key"]
        picture = None
        file = _picture_of(self.path, row)
        if file is not None and self.pictures:
            try:
                picture = file.read_bytes()
            except OSError as problem:
                _raise_unless_lasting(problem, str(file))
                return Skip(key, str(file), f"named in row {index + 1} of {self.path.name}: {problem.strerror}", index + 1)
        if "label" in row and isinstance(row["label"], str) and re.fullmatch(r"\d+", row["label"]):
            row = row | {"label": int(row["label"])}  # a csv knows strings only
        return Sample(key, picture, row, self.name, position=index + 1)

    def files(self) -> Iterator[Path]:
        return self._files(0, None)

    def state(self, start: int, stop: int | None) -> str:
        return _state_of(self._files(start, stop))

    def _files(self, start: int, stop: int | None) -> Iterator[Path]:
        yield self.path
        for row in self._range(start, stop):
            file = None if isinstance(row, str) else _picture_of(self.path, row)
            if file is not None and file.is_file():
                yield file


def _picture_of(table: Path, row: dict[str, Any]) -> Path | None:
    name = next((row[column] for column in PICTURE_COLUMNS if isinstance(row.get(column), str) and row[column]), None)
    return None if name is None else table.parent / name


def _rows(path: Path) -> Iterator[dict[str, Any] | str]:
    """Each row as a dict, or what is wrong with it."""
    if _extension(path.name) == "jsonl":
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    try:
                        yield _object(line)
                    except ValueError as problem:
                        yield str(problem)
        return
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        reader = csv.DictReader(file, delimiter="\t" if _extension(path.name) == "tsv" else ",")
        try:
            for row in reader:
                if None in row or None in row.values():
                    yield f"expected {len(reader.fieldnames or ())} columns, got another number"
                else:
                    yield row
        except csv.Error as problem:
            yield str(problem)


class LineSource(Source):
    """Captions, a line each, of a text file or standard input; positions count lines. Empty lines are passed over."""

    kind = "lines"

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        stem = "stdin" if str(self.path) == STDIN else self.path.name.rpartition(".")[0].replace(".", "%2E")
        file = sys.stdin.buffer if str(self.path) == STDIN else self.path.open("rb")
        try:
            for index, line in enumerate(file):
                key = f"{stem}-{index:08d}"
                if index < start or not line.strip():
                    continue
                try:
                    yield Sample(key, None, {"caption": line.decode("utf-8").strip()}, self.name, position=index + 1)
                except UnicodeDecodeError as problem:
                    yield Skip(key, self.name, f"line {index + 1} is not UTF-8: {problem.reason}", index + 1)
        finally:
            if file is not sys.stdin.buffer:
                file.close()

    def files(self) -> Iterator[Path]:
        if str(self.path) != STDIN:
            yield self.path


# --- Arrays -------------------------------------------------------------------------------------------------------------------


class ArraySource(Source):
    """Pictures [n,H,W,3] of an .npy or .npz file, row by row; positions are rows."""

    kind = "array"
    ranges = True

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        stem = self.path.name.rpartition(".")[0].replace(".", "%2E")
        index = start
        with open_rows(self.path) as rows:
            try:
                for index, picture in enumerate(
                    itertools.islice(rows.read(start), None if stop is None else stop - start), start
                ):
                    metadata = {} if rows.labels is None else {"label": int(rows.labels[index])}
                    yield Sample(f"{stem}-{index:08d}", picture, metadata, self.name, position=index + 1)
            except DataError as problem:
                yield Skip(f"{stem}-{index + 1:08d}", self.name, str(problem), len(self))

    def __len__(self) -> int:
        with open_rows(self.path) as rows:
            return rows.shape[0]


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"not JSON: {problem}") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")  # noqa: TRY004
    return value


# --- All of them --------------------------------------------------------------------------------------------------------------


def open_sources(paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str]) -> list[Source]:
    """The sources of paths, in their order; a folder with shards becomes its shards, picture files that follow one another one
    source.

    Raises
    ------
    DataError
        A path where there is nothing, or nothing that can be a source.

    Examples
    --------
    >>> open_sources(["emoji"])  # doctest: +SKIP
    [ShardSource('emoji/fluent.tar'), ShardSource('emoji/google.tar'), ShardSource('emoji/twitter.tar')]
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found = list(itertools.chain.from_iterable(map(_sources_of, map(os.fspath, paths))))
    result: list[Source] = []
    for source in found:
        if isinstance(source, PictureSource) and result and isinstance(result[-1], PictureSource):
            result[-1].paths += source.paths
        else:
            result.append(source)
    if not result:
        raise DataError("expected shards, folders, tables, arrays or pictures to read, got none")
    return result


def _sources_of(name: str) -> list[Source]:
    path = Path(name)
    lower = path.name.lower()
    if name == STDIN:
        return [LineSource(path)]
    if path.is_dir():
        shards = sorted(child for child in path.iterdir() if child.name.lower().endswith(SHARDS) and child.is_file())
        folder = FolderSource(path)
        if not shards and next(folder._list(), None) is None:
            raise DataError(f"{name}: expected shards, pictures or captions in this folder or below it, found none")
        return [ShardSource(shard) for shard in shards] or [folder]
    if not path.exists():
        raise DataError(f"{name}: no such file or folder")
    kinds: tuple[tuple[tuple[str, ...], Callable[[Path], Source]], ...] = (
        (SHARDS, ShardSource),
        (TABLES, TableSource),
        (ARRAYS, ArraySource),
        ((".txt",), LineSource),
        (tuple(f".{extension}" for extension in PICTURES), lambda file: PictureSource([file])),
    )
    for suffixes, make in kinds:
        if lower.endswith(suffixes):
            return [make(path)]
    raise DataError(f"{name}: expected a folder, a picture or one of {', '.join((*SHARDS, *TABLES, *ARRAYS, '.txt'))}")


def usable(event: Event, need: Iterable[str] = (), field: str = "caption") -> Event:
    """The event itself, or a Skip for a sample that lacks what is needed: "picture", "caption" or "label"."""
    if isinstance(event, Skip):
        return event
    for what in need:
        if what == "picture" and event.picture is None:
            reason = "a caption without a picture" if event.caption(field) else "no picture"
        elif what == "caption" and event.caption(field) is None:
            reason = f"a picture without a caption in {field!r}" if event.picture is not None else f"no caption in {field!r}"
        elif what == "label" and type(event.metadata.get("label")) is not int:
            reason = f"expected an integer label, got {event.metadata.get('label')!r}"
        else:
            continue
        return Skip(event.key, event.source, reason, event.position)
    return event


def teller(skips: list[Skip] | Callable[[Skip], object] | None) -> Callable[[Skip], object]:
    """What is called with each skip: the list's or the caller's, or else this module's log, as a warning."""
    if skips is None:
        import logging

        log = logging.getLogger(__name__)
        return lambda skip: log.warning("%s %s: %s", skip.source, skip.key, skip.reason)
    return skips.append if isinstance(skips, list) else skips


def read_samples(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    need: Iterable[str] = ("picture",),
    field: str = "caption",
    skips: list[Skip] | Callable[[Skip], object] | None = None,
    strict: bool = False,
    pictures: bool = True,
) -> Iterator[Sample]:
    """The usable samples of all paths, in a fixed order, one in memory at a time.

    Parameters
    ----------
    paths
        One or several; see the module.
    need
        What a sample must have: any of "picture", "caption" and "label". One that lacks it is skipped.
    field
        The metadata's field that is the caption.
    skips
        A list that takes, or a function that is called with, each `Skip`. With None they go to the log of this module, as
        warnings.
    strict
        Raise a DataError at the first skip instead.
    pictures
        False leaves picture files in folders and of tables alone, where only words are wanted; `picture` is None then.

    Examples
    --------
    >>> skips = []
    >>> for sample in read_samples("photos", need=("picture", "caption"), skips=skips):  # doctest: +SKIP
    ...     print(sample.key, sample.caption(), len(sample.picture))
    """
    need = tuple(need)
    for what in need:
        if what not in ("picture", "caption", "label"):
            raise ValueError(f"need: expected 'picture', 'caption' or 'label', got {what!r}")
    tell = teller(skips)
    for source in open_sources(paths):
        source.pictures = pictures
        for event in source.read():
            event = usable(event, need, field)
            if isinstance(event, Sample):
                yield event
            elif strict:
                raise DataError(f"{event.source}: {event.key or 'the file'}: {event.reason}")
            else:
                tell(event)
