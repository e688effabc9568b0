"""Tables, a row a sample, and lines of text, a caption each."""

import csv
import itertools
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .base import (
    PICTURES,
    Event,
    ListedSource,
    Sample,
    Skip,
    Source,
    extension_of,
    free_number,
    is_plain,
    numbered,
    parse_object,
    raise_unless_lasting,
    state_of,
    stem_in_keys,
)
from .texts import read_lines

PICTURE_COLUMNS = ("file_name", "image", "path")
STDIN = "-"

_MOST_FIELD = 1 << 24  # characters; a quote that is never closed makes a field of all that follows
_MOST_LINES = 1000  # of a row


class TableSource(ListedSource):
    """Rows of a .jsonl, .csv or .tsv file; positions count rows. The second row of a key is called KEY~2, and so on; where rows
    have keys, all are held.
    """

    kind = "table"

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        for index, (key, row) in enumerate(self._range(start, stop), start):
            yield self._sample(index, key, row)

    def _list(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        """Keys and rows; from the first on, as a key depends on those before it."""
        stem = stem_in_keys(self.path)
        taken: dict[str, int] = {}
        for index, row in enumerate(read_rows(self.path)):
            key, own = f"{stem}-{index:08d}", None if isinstance(row, str) else row.get("key")
            if isinstance(own, str) and is_plain(own):
                taken = taken or dict.fromkeys((f"{stem}-{before:08d}" for before in range(index)), 1)
                key = own
            yield (numbered(key, free_number(key, taken)) if taken or key == own else key), row

    def note(self) -> str | None:
        told: list[str] = []
        next(read_rows(self.path, told.append), None)
        return next(iter(told), None)

    def _sample(self, index: int, key: str, row: dict[str, Any] | str) -> Event:
        if isinstance(row, str):
            return Skip(key, self.name, f"row {index + 1}: {row}", index + 1)
        picture = None
        file = picture_of(self.path, row)
        if file is not None and self.pictures:
            try:
                picture = read_file(file)
            except (OSError, ValueError) as problem:
                if isinstance(problem, OSError):
                    raise_unless_lasting(problem, str(file))
                reason = getattr(problem, "strerror", None) or str(problem)
                return Skip(key, str(file), f"named in row {index + 1} of {self.path.name}: {reason}", index + 1)
        if "label" in row and isinstance(row["label"], str) and re.fullmatch(r"\d{1,18}", row["label"]):
            row = row | {"label": int(row["label"])}  # a csv knows strings only
        return Sample(key, picture, row, self.name, position=index + 1)

    def files(self) -> Iterator[Path]:
        return self._files(0, None)

    def state(self, start: int, stop: int | None) -> str:
        return state_of(self._files(start, stop))

    def _files(self, start: int, stop: int | None) -> Iterator[Path]:
        yield self.path
        for _, row in self._range(start, stop):
            file = None if isinstance(row, str) else picture_of(self.path, row)
            if file is not None and is_file(file):
                yield file


def picture_of(table: Path, row: dict[str, Any]) -> Path | None:
    """The picture that a row names, beside its table."""
    name = next((row[column] for column in PICTURE_COLUMNS if isinstance(row.get(column), str) and row[column]), None)
    return None if name is None else table.parent / os.path.normpath(name)


def is_file(path: Path) -> bool:
    """Whether there is a file of this name; false for names that can be none."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def read_file(path: Path) -> bytes:
    """The bytes of a plain file; of a pipe or device, which may never end, and of a name that can be none, a ValueError."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError("expected a file, got a pipe or device")
    return path.read_bytes()


# --- Rows ---------------------------------------------------------------------------------------------------------------------


def read_rows(path: Path, told: Callable[[str], object] | None = None) -> Iterator[dict[str, Any] | str]:
    """Each row of a table as a dict, or what is wrong with it. `told` hears what columns without names are taken for."""
    with path.open("rb") as file:
        if extension_of(path.name) == "jsonl":
            yield from _objects(file)
        else:
            yield from _records(file, extension_of(path.name) == "tsv", told)


def _objects(file: Any) -> Iterator[dict[str, Any] | str]:
    for line in read_lines(file):
        if isinstance(line, ValueError):
            yield str(line)
        elif line.strip():
            try:
                yield parse_object(line)
            except ValueError as problem:
                yield str(problem)


def _records(file: Any, tabs: bool, told: Callable[[str], object] | None) -> Iterator[dict[str, Any] | str]:
    rows = _fields(file, tabs)
    first = next(rows, None)
    unread = isinstance(first, str)
    while isinstance(first, str):  # no text, where the names of the columns may have been
        yield first
        first = next(rows, None)
    if first is None:
        return
    names = first
    if unread or not _is_header(first):
        names = _guessed_names(first)
        if told is not None:
            told(f"its first row names no columns, so they are taken for {', '.join(names)}")
        rows = itertools.chain([first], rows)
    for row in rows:
        if isinstance(row, str):
            yield row
        elif len(row) != len(names):
            yield f"expected {len(names)} columns, got {len(row)}"
        else:
            yield dict(zip(names, row))


class _Lines:
    """Lines for a csv reader, which remembers those of the row that is being read and takes some back."""

    def __init__(self, lines: Iterator[str | ValueError]) -> None:
        self._lines = lines
        self._again: list[str | ValueError] = []
        self.taken: list[str | ValueError] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines)
        self.taken.append(line)
        if isinstance(line, ValueError):
            raise line
        if len(self.taken) > _MOST_LINES:
            raise csv.Error(f"a quote that is not closed within {_MOST_LINES} lines")
        return line

    def give_back(self) -> None:
        """All but the first line of the row."""
        self._again += reversed(self.taken[1:])


def _fields(file: Any, tabs: bool) -> Iterator[list[str] | str]:
    """The fields of each row, or what is wrong with it; a row that goes wrong costs one line, whatever quotes it opens."""
    lines = _Lines(read_lines(file))
    reader: Any = None
    width = None
    while True:
        lines.taken.clear()
        if reader is None:  # by how the first line is written
            start = next(lines._lines, None)
            if start is None:
                return
            lines._again.append(start)
            # Tables between tabs seldom quote: a quote belongs to the text, unless all is quoted.
            plain = tabs and not (isinstance(start, str) and re.fullmatch(r'"[^\t]*"(\t"[^\t]*")*\s*', start))
            between = ";" if isinstance(start, str) and "," not in start and ";" in start else ","  # as Excel has it in Europe
            dialect: dict[str, Any] = {"delimiter": "\t" if tabs else between} | ({"quoting": csv.QUOTE_NONE} if plain else {})
            reader = csv.reader(lines, **dialect)
        old = csv.field_size_limit(_MOST_FIELD)
        problem = ""
        row: list[str] = []
        try:
            row = next(reader)
        except StopIteration:
            return
        except (csv.Error, ValueError) as error:
            several = isinstance(error, ValueError) and len(lines.taken) > 1
            problem = f"a quote in it opens a row of several lines, of which one is no text: {error}" if several else str(error)
        finally:
            csv.field_size_limit(old)
        if not problem and not row:
            continue  # an empty line
        if not problem and width is not None and len(row) != width and len(lines.taken) > 1:
            problem = f"expected {width} columns, got {len(row)} in {len(lines.taken)} lines; a quote in it may not be closed"
        if problem:
            lines.give_back()
            yield problem
            reader = csv.reader(lines, **dialect)
            continue
        width = width or len(row)
        yield [_unquoted(field) for field in row] if plain else row


def _unquoted(field: str) -> str:
    """A field without quotes around it where those inside are doubled, as programs write that quote only what has a quote."""
    inside = field[1:-1]
    if len(field) > 3 and field[0] == field[-1] == '"' and '""' in inside and '"' not in inside.replace('""', ""):
        return inside.replace('""', '"')
    return field


# Names that columns have in the data sets of this field.
_KNOWN = {"caption", "text", "url", "label", "key", "name", "class_name", "id", "title", "prompt", *PICTURE_COLUMNS}
_VALUE = re.compile(rf"\s*(.*://.*|.*\.({'|'.join(PICTURES)})|.{{65,}}|(\S+\s+){{3,}}\S+)\s*", re.I | re.S)
_NUMBER = re.compile(r"\s*[+-]?\d+(\.\d*)?\s*")


def _is_header(row: list[str]) -> bool:
    """Whether a first row names columns: not where a field of it can only be a value (an address, a picture, a sentence, words
    beside a number).
    """
    if any(field.strip().lower() in _KNOWN for field in row):
        return True
    words_and_numbers = any(map(_NUMBER.fullmatch, row)) and any(len(field.split()) > 1 for field in row)
    return not words_and_numbers and not any(map(_VALUE.fullmatch, row))


def _guessed_names(row: list[str]) -> list[str]:
    """Names for columns that have none, by what the first row has in them."""
    names: list[str] = []
    longest = max(row, key=lambda field: (len(field.split()), len(field)))
    for number, field in enumerate(row):
        if "://" in field:
            name = "url"
        elif extension_of(field.strip()) in PICTURES:
            name = "file_name"
        elif re.fullmatch(r"\s*\d{1,18}\s*", field):
            name = "label"
        else:
            name = "caption" if field == longest else f"column_{number + 1}"
        names.append(f"column_{number + 1}" if name in names else name)
    return names


# --- Lines --------------------------------------------------------------------------------------------------------------------


class LineSource(Source):
    """Captions, a line each, of a text file or standard input; positions count lines. Empty lines are passed over."""

    kind = "lines"

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        stem = "stdin" if str(self.path) == STDIN else stem_in_keys(self.path)
        file: Any = sys.stdin.buffer if str(self.path) == STDIN else self.path.open("rb")
        try:
            for index, line in enumerate(read_lines(file)):
                key = f"{stem}-{index:08d}"
                if index < start:
                    continue
                if isinstance(line, ValueError):
                    yield Skip(key, self.name, f"line {index + 1}: {line}", index + 1)
                elif line.strip():
                    yield Sample(key, None, {"caption": line.strip()}, self.name, position=index + 1)
        finally:
            if file is not sys.stdin.buffer:
                file.close()

    def files(self) -> Iterator[Path]:
        if str(self.path) != STDIN:
            yield self.path
