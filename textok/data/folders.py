"""Pictures in folders, and single picture files, with what lies beside them."""

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError
from .base import (
    PICTURES,
    Event,
    ListedSource,
    Sample,
    Skip,
    Source,
    extension_of,
    free_number,
    is_picture,
    is_plain,
    key_of,
    numbered,
    parse_object,
    raise_unless_lasting,
    set_class,
    set_missing,
    state_of,
    stem_of,
)
from .tables import is_file, picture_of, read_file, read_rows
from .texts import decode_text, text_problem

METADATA_FILE = "metadata.jsonl"
RESULT_FILE = "captions.jsonl"  # of `PipelineResult.save`
METADATA_FILES = (METADATA_FILE, "metadata.csv", RESULT_FILE)  # the first two as HF's imagefolder has them
# What a run of `textok decode` or `sample` keeps beside its pictures.
INDEX_FILE, SKIPS_FILE, PARTS_FOLDER = "index.json", "skips.jsonl", "parts"
SAMPLE_KEY = "sample_key"  # of a row of metadata: the key, where its picture's name is not made of it alone
PLAN_FILE = "plan.json"  # in the folder of the parts
RECORDS = {INDEX_FILE, SKIPS_FILE, PARTS_FOLDER}
BESIDE = ("txt", "json", "cls")  # what may lie beside a picture, by extension
# Files that are nobody's pictures; others that are not called as pictures are looked into.
_OTHERS = (
    *(
        "npy",
        "npz",
        "safetensors",
        "pt",
        "bin",
        "parquet",
        "arrow",
        "tar",
        "gz",
        "tgz",
        "zip",
        "csv",
        "tsv",
        "jsonl",
        "db",
        "lock",
    ),
    *(
        "md",
        "rst",
        "py",
        "ipynb",
        "html",
        "xml",
        "yaml",
        "yml",
        "toml",
        "log",
        "pdf",
        "mp4",
        "webm",
        "mp3",
        "wav",
        "part",
        "keys",
    ),
)

SPLITS = ("train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing")
# Folders that hold all pictures and say nothing of them.
_NAMELESS = ("images", "image", "img", "imgs", "pictures", "photos", "data", "jpg", "jpeg", "png")


@dataclass(frozen=True)
class _Entry:
    """What a sample is made of: a directory, a stem, the files of that stem (pictures first), and a row of a table of metadata;
    or a file that is none, with the reason.
    """

    directory: Path
    stem: str
    names: tuple[str, ...] = ()
    row: dict[str, Any] | None = None
    table: str = METADATA_FILE
    number: int = 1  # of the rows of this picture, or of the pictures of this name
    missing: str = ""  # the name of the row's picture, which is not there
    problem: str = ""


class _Classes(NamedTuple):
    """Numbers of folders that are classes, and whether these lie below folders that are splits."""

    numbers: dict[str, int]
    in_splits: bool = False

    def describe(self, key: str, metadata: dict[str, Any]) -> None:
        """Set what a picture's folder says of it, where nothing else does."""
        parts = key.split("/")[:-1]
        if self.in_splits and parts:
            set_missing(metadata, "split", parts.pop(0))
        if parts and parts[0] in self.numbers:
            set_missing(metadata, "class_name", parts[0])
            set_missing(metadata, "label", self.numbers[parts[0]])


class FolderSource(ListedSource):
    """Pictures below a folder; positions count samples in the order of directories and names.

    Parameters
    ----------
    without
        A folder that is left out: of a run's results, where it lies below.
    """

    kind = "folder"
    beside: frozenset[str] = frozenset()  # the classes of all folders that are read together, which are numbered together

    def __init__(self, path: str | os.PathLike[str], without: str | os.PathLike[str] | None = None) -> None:
        super().__init__(path)
        self._without = None if without is None else os.path.realpath(without)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        classes = self._classes()
        for index, entry in enumerate(self._range(start, stop), start):
            yield from _folder_sample(self.path, entry, classes, index + 1, self.pictures)

    def note(self) -> str | None:
        """Where folders are called by numbers that are not their labels."""
        numbers = self._classes().numbers
        other = next((name for name, number in numbers.items() if name.isdecimal() and int(name) != number), None)
        if other is None or not all(name.isdecimal() for name in numbers):
            return None
        return (
            f"folders are numbered in the order of their names as text, as torchvision's ImageFolder does: "
            f"{other!r} is label {numbers[other]}; for others write them to KEY.cls"
        )

    def files(self) -> Iterator[Path]:
        for entry in self._list():
            for name in entry.names:
                yield entry.directory / name
        for directory, *_ in _walk(self.path, self._without):
            yield from _tables(directory)

    def state(self, start: int, stop: int | None) -> str:
        entries = list(self._range(start, stop))
        directories = {entry.directory for entry in entries}
        directories |= {above for directory in directories for above in directory.parents if above.is_relative_to(self.path)}
        tables = [table for directory in sorted(directories) for table in _tables(directory)]
        files = (entry.directory / name for entry in entries for name in entry.names)
        return state_of(itertools.chain(tables, files))

    def shards(self, endings: tuple[str, ...]) -> list[Path]:
        """Files below it with such endings, by name."""
        return [
            directory / name
            for directory, names, *_ in _walk(self.path, self._without)
            for name in names
            if name.lower().endswith(endings)
        ]

    def has_pictures(self) -> bool:
        """Whether there is a picture, or what names one, in or below it."""
        return any(entry.problem or entry.row is not None or _pictures(entry.names) for entry in self._list())

    def class_names(self) -> set[str]:
        """The names of its classes, and of those `beside` them."""
        return set(self._classes().numbers)

    def _classes(self) -> _Classes:
        """The folders of the first level, or of the second below splits, and those `beside` them, by their names as text; none
        where a table says what the pictures are, or where a single folder lies beside pictures or has a name that says nothing.
        """
        first, names, _, folders = next(_walk(self.path, self._without))
        in_splits = bool(folders) and all(name.lower() in SPLITS for name in folders)
        if in_splits:
            inner = [next(_walk(first / name, self._without)) for name in folders]
            names = [*names, *(name for _, found, _, _ in inner for name in found)]
            folders = sorted({folder for *_, found in inner for folder in found})
        one = len(folders) == 1 and (folders[0].lower() in _NAMELESS or any(extension_of(name) in PICTURES for name in names))
        if one or any(name in METADATA_FILES for name in names):
            folders = []
        elif folders:
            folders = sorted(self.beside.union(folders))
        return _Classes({name: number for number, name in enumerate(folders)}, in_splits)

    def _list(self) -> Iterator[_Entry]:
        rows: dict[Path, list[tuple[str, dict[str, Any]]]] = {}
        for directory, names, problems, _ in _walk(self.path, self._without):
            for table in METADATA_FILES:
                if table in names:
                    yield from _table_rows(directory / table, rows)
            if "metadata.parquet" in names:
                problems["metadata.parquet"] = "a table that is not read here; write it as metadata.jsonl or metadata.csv"
            stems: dict[str, list[str]] = {}
            for name in names:
                if name not in METADATA_FILES and (stem := _stem(directory, name)) is not None:
                    stems.setdefault(stem, []).append(name)
            for stem in sorted(stems):
                files = tuple(sorted(stems[stem], key=lambda name: (extension_of(name) in BESIDE, name)))
                found = next((rows.pop(directory / name) for name in files if directory / name in rows), [])
                # Without those that pictures are called by: 1~2.png beside two rows of 1.png.
                numbers = (number for number in itertools.count(1) if number == 1 or numbered(stem, number) not in stems)
                for number, (table, row) in zip(numbers, found):
                    yield _Entry(directory, stem, files, row, table, number)
                if not found:
                    yield _Entry(directory, stem, files)
            for name in sorted(problems):
                yield _Entry(directory, name, problem=problems[name])
        for path in sorted(rows):
            for number, (table, row) in enumerate(rows[path], 1):
                yield _Entry(path.parent, stem_of(path.name), (), row, table, number, path.name)


def _table_rows(path: Path, rows: dict[Path, list[tuple[str, dict[str, Any]]]]) -> Iterator[_Entry]:
    """Puts rows of a table to the pictures that they name; gives entries of those that name none."""
    for number, row in enumerate(read_rows(path), 1):
        if isinstance(row, str):
            yield _Entry(path.parent, path.name, problem=f"row {number}: {row}")
            continue
        picture = picture_of(path, row)
        if picture is None and path.name == RESULT_FILE:
            continue  # other captions, of nobody's pictures
        if picture is None:
            fields = ", ".join(row) or "none"
            yield _Entry(
                path.parent, path.name, problem=f"row {number}: expected the picture's name as file_name, got {fields}"
            )
        elif (problem := text_problem(str(picture))) is not None:
            yield _Entry(path.parent, path.name, problem=f"row {number}: its file_name is {problem}")
        else:
            rows.setdefault(Path(os.path.normpath(picture)), []).append((path.name, row))


def _tables(directory: Path) -> list[Path]:
    return [directory / name for name in METADATA_FILES if is_file(directory / name)]


def _pictures(names: Iterable[str]) -> list[str]:
    """The names of pictures among those of an entry; what has been looked into is one too."""
    return [name for name in names if extension_of(name) not in (*BESIDE, *_OTHERS)]


def _stem(directory: Path, name: str) -> str | None:
    """The stem of a picture or of what lies beside one; None for other files."""
    extension = extension_of(name)
    if extension in PICTURES or extension in BESIDE:
        return stem_of(name)
    if extension in _OTHERS:
        return None
    try:
        with (directory / name).open("rb") as file:
            return name if is_picture(file.read(16)) else None
    except OSError:
        return None


_Walked = tuple[Path, list[str], dict[str, str], list[str]]
_Above = tuple[tuple[int, int], ...]  # devices and numbers of the folders that one is in


def _walk(root: Path, without: str | None = None) -> Iterator[_Walked]:
    """Each directory below `root`: its files by name, what in it can be neither read nor entered with the reason, and its
    folders; without hidden ones, and the records that a run keeps beside its pictures.
    """
    waiting: list[tuple[Path, _Above]] = [(root, ())]  # a list, not calls within calls: folders may be thousands deep
    while waiting:
        directory, above = waiting.pop()
        try:
            status = os.stat(directory)
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as problem:
            raise DataError(f"{directory}: {problem.strerror}") from None
        above = (*above, (status.st_dev, status.st_ino))
        if {entry.name for entry in entries} >= RECORDS:
            entries = [entry for entry in entries if entry.name not in RECORDS]
        names: list[str] = []
        folders: list[str] = []
        problems: dict[str, str] = {}
        for entry in entries:
            if entry.name.startswith("."):
                continue
            kind = _kind(entry, without, above)
            if kind == "file":
                names.append(entry.name)
            elif kind == "folder":
                folders.append(entry.name)
            elif kind:
                problems[entry.name] = kind
        yield directory, names, problems, folders
        waiting += [(directory / name, above) for name in reversed(folders)]


def _kind(entry: os.DirEntry[str], without: str | None, above: _Above) -> str:
    """What an entry of a directory is: "file", "folder", "" for what is left out, or why it can be neither."""
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            if without is not None and os.path.realpath(entry.path) == without:
                return ""
            if entry.name == PARTS_FOLDER and is_file(Path(entry.path) / PLAN_FILE):
                return ""  # the records of a run that goes on
            status = entry.stat()
            if (status.st_dev, status.st_ino) in above:
                return "a link to a folder above it"
            os.scandir(entry.path).close()
            return "folder"
    except OSError as problem:
        return f"it cannot be read: {problem.strerror}"
    if entry.is_symlink():
        return f"a broken link to {os.readlink(entry.path)}"
    return "expected a file, got a pipe or device"


def _folder_sample(root: Path, entry: _Entry, classes: _Classes, position: int, read_picture: bool) -> Iterator[Event]:
    directory, row = entry.directory, entry.row
    if entry.problem:
        path = directory / entry.stem
        called = stem_of(entry.stem) if extension_of(entry.stem) in (*PICTURES, *BESIDE) else entry.stem
        yield Skip(_relative(directory / called, root), str(path), entry.problem, position)
        return
    key = _relative(directory / key_of(entry.stem), root)
    by_folder = key
    if row is not None and isinstance(row.get(SAMPLE_KEY), str):
        key = row[SAMPLE_KEY]
    else:
        key = numbered(key, entry.number)
    pictures = _pictures(entry.names)
    source = str(directory / (pictures or entry.names or [entry.missing])[0])
    for name in pictures[1:] if entry.number == 1 else ():
        yield Skip(key, str(directory / name), f"a second picture of the name {entry.stem}", position)
    if (problem := text_problem(key)) is not None or not is_plain(key):
        yield Skip(key, source, f"its name is {problem}" if problem else "a name that leads out of its folder", position)
        return
    metadata = dict(row or {})
    reading = source
    try:
        for name in entry.names:
            extension = extension_of(name)
            if name in pictures:
                continue
            reading = str(directory / name)
            content = read_file(directory / name)
            if extension == "json":
                metadata = parse_object(content) | metadata
            elif extension == "txt":
                set_missing(metadata, "caption", decode_text(content).strip())
            elif extension == "cls":
                set_class(metadata, content)
        reading = source
        classes.describe(by_folder, metadata)
        picture = read_file(directory / pictures[0]) if pictures and read_picture else None
    except (ValueError, OSError) as problem:
        if isinstance(problem, OSError):
            raise_unless_lasting(problem, reading)
        yield Skip(key, reading, f"it cannot be read: {problem}", position)
        return
    if entry.missing and read_picture:
        yield Skip(key, source, f"named in {entry.table}, but not there", position)
        return
    if "label" in metadata and isinstance(metadata["label"], str) and re.fullmatch(r"\d{1,18}", metadata["label"]):
        metadata["label"] = int(metadata["label"])  # a csv knows strings only
    yield Sample(key, picture, metadata, source, position=position)


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


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
        taken: dict[str, int] = {}
        for index, path in enumerate(self.paths[:stop]):
            number = free_number(key_of(stem_of(path.name)), taken)  # files of several folders may be called the same
            if index < start:
                continue
            names = (path.name, *(beside.name for beside in _beside(path)))
            entry = _Entry(path.parent, stem_of(path.name), names, number=number)
            yield from _folder_sample(path.parent, entry, _Classes({}), index + 1, self.pictures)

    def files(self) -> Iterator[Path]:
        return self._files(0, None)

    def _files(self, start: int, stop: int | None) -> Iterator[Path]:
        for path in self.paths[start:stop]:
            yield path
            yield from _beside(path)

    def state(self, start: int, stop: int | None) -> str:
        return state_of(self._files(start, stop))

    def __len__(self) -> int:
        return len(self.paths)


def _beside(path: Path) -> list[Path]:
    stem = stem_of(path.name)
    return [beside for extension in BESIDE if is_file(beside := path.parent / f"{stem}.{extension}")]
