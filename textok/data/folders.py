"""Pictures in folders, and single picture files, with what lies beside them."""

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError
from .samples import (
    PICTURES,
    Event,
    ListedSource,
    Sample,
    Skip,
    Source,
    extension_of,
    parse_object,
    raise_unless_lasting,
    state_of,
)
from .tables import read_rows

METADATA_FILE = "metadata.jsonl"
# What a run of `textok decode` or `sample` keeps beside its pictures.
INDEX_FILE, SKIPS_FILE, PARTS_FOLDER = "index.json", "skips.jsonl", "parts"
RECORDS = {INDEX_FILE, SKIPS_FILE, PARTS_FOLDER}


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
        return state_of(itertools.chain(tables, (directory / name for directory, _, names, _ in entries for name in names)))

    def _classes(self) -> dict[str, int]:
        """Folders of the first level and their numbers, where no picture lies beside them."""
        first, names = next(_walk(self.path))
        if any(extension_of(name) in PICTURES for name in names):
            return {}
        return {name: number for number, name in enumerate(_folders(first))}

    def _list(self) -> Iterator[tuple[Path, str, list[str], dict[str, Any] | None]]:
        """Directory, stem, the files of that stem (pictures first) and the row of metadata.jsonl, of each sample."""
        rows: dict[Path, dict[str, Any]] = {}
        for directory, names in _walk(self.path):
            if METADATA_FILE in names:
                for row in read_rows(directory / METADATA_FILE):
                    if isinstance(row, dict) and isinstance(row.get("file_name"), str):
                        rows[directory / row["file_name"]] = row
            stems: dict[str, list[str]] = {}
            for name in names:
                if extension_of(name) in (*PICTURES, "txt", "json", "cls"):
                    stems.setdefault(name.rpartition(".")[0], []).append(name)
            for stem in sorted(stems):
                files = sorted(stems[stem], key=lambda name: (extension_of(name) not in PICTURES, name))
                told = next((rows.pop(directory / name) for name in files if directory / name in rows), None)
                yield directory, stem, files, told
        for path in sorted(rows):
            yield path.parent, path.name.rpartition(".")[0], [], rows[path]


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each directory below `root` and its files, by name, but for the records that a finished run keeps beside its pictures."""
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as problem:
        raise DataError(f"{root}: {problem.strerror}") from None
    if {entry.name for entry in entries} >= RECORDS:
        entries = [entry for entry in entries if entry.name not in RECORDS]
    yield root, [entry.name for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _walk(root / entry.name)


def _folders(directory: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and not entry.name.startswith("."))


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
    pictures = [name for name in names if extension_of(name) in PICTURES]
    source = str(directory / (pictures or names or [METADATA_FILE])[0])
    for name in pictures[1:]:
        yield Skip(key, str(directory / name), f"a second picture of the name {stem}", position)
    metadata = dict(row or {})
    try:
        for name in names:
            extension = extension_of(name)
            if extension == "json":
                metadata = parse_object((directory / name).read_bytes()) | metadata
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
            raise_unless_lasting(problem, source)
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
        return state_of(self._files(start, stop))

    def __len__(self) -> int:
        return len(self.paths)
