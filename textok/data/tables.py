"""Tables, a row a sample, and lines of text, a caption each."""

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .samples import (
    Event,
    ListedSource,
    Sample,
    Skip,
    Source,
    extension_of,
    is_plain,
    parse_object,
    raise_unless_lasting,
    state_of,
)

PICTURE_COLUMNS = ("file_name", "image", "path")
STDIN = "-"


class TableSource(ListedSource):
    """Rows of a .jsonl, .csv or .tsv file; positions count rows."""

    kind = "table"

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        for index, row in enumerate(self._range(start, stop), start):
            yield self._sample(index, row)

    def _list(self) -> Iterator[dict[str, Any] | str]:
        return read_rows(self.path)

    def _sample(self, index: int, row: dict[str, Any] | str) -> Event:
        key = f"{self.path.name.rpartition('.')[0].replace('.', '%2E')}-{index:08d}"
        if isinstance(row, str):
            return Skip(key, self.name, f"row {index + 1}: {row}", index + 1)
        if isinstance(row.get("key"), str) and is_plain(row["key"]):
            key = row["key"]
        picture = None
        file = _picture_of(self.path, row)
        if file is not None and self.pictures:
            try:
                picture = file.read_bytes()
            except OSError as problem:
                raise_unless_lasting(problem, str(file))
                return Skip(key, str(file), f"named in row {index + 1} of {self.path.name}: {problem.strerror}", index + 1)
        if "label" in row and isinstance(row["label"], str) and re.fullmatch(r"\d+", row["label"]):
            row = row | {"label": int(row["label"])}  # a csv knows strings only
        return Sample(key, picture, row, self.name, position=index + 1)

    def files(self) -> Iterator[Path]:
        return self._files(0, None)

    def state(self, start: int, stop: int | None) -> str:
        return state_of(self._files(start, stop))

    def _files(self, start: int, stop: int | None) -> Iterator[Path]:
        yield self.path
        for row in self._range(start, stop):
            file = None if isinstance(row, str) else _picture_of(self.path, row)
            if file is not None and file.is_file():
                yield file


def _picture_of(table: Path, row: dict[str, Any]) -> Path | None:
    name = next((row[column] for column in PICTURE_COLUMNS if isinstance(row.get(column), str) and row[column]), None)
    return None if name is None else table.parent / name


def read_rows(path: Path) -> Iterator[dict[str, Any] | str]:
    """Each row as a dict, or what is wrong with it."""
    if extension_of(path.name) == "jsonl":
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    try:
                        yield parse_object(line)
                    except ValueError as problem:
                        yield str(problem)
        return
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        reader = csv.DictReader(file, delimiter="\t" if extension_of(path.name) == "tsv" else ",")
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
