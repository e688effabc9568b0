"""Text that comes in: UTF-8, or UTF-16 and UTF-32 that say so; of all else, what is wrong with it.

A byte order mark is never part of a text. Names of files and values of JSON may hold what UTF-8 cannot (the bytes of a name
that is none, half of a surrogate pair); `text_problem` says so, and `printable` writes it as escapes.
"""

import codecs
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

_MARKS = (  # the longest first: UTF-32's begins as UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NUL = "it has NUL characters, as text in UTF-16 without a byte order mark has"


def _encoding_of(start: bytes) -> str:
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")


def decode_text(data: bytes) -> str:
    """The text in bytes; a ValueError says why there is none."""
    encoding = _encoding_of(data[:4])
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as problem:
        raise ValueError(_flaw(problem)) from None
    return _checked(text)


def _flaw(problem: UnicodeDecodeError) -> str:
    name = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8"}.get(problem.encoding, problem.encoding)
    return f"not {name}: {problem.reason}, byte 0x{problem.object[problem.start]:02x} at {problem.start}; save it as UTF-8"


def read_lines(file: Any) -> Iterator[str | ValueError]:
    """The lines of a binary file, with their ends (LF, CR LF, or CR as on old Macs); in place of one that is no text the error
    that says why. It costs no other."""
    first = file.readline()
    encoding = _encoding_of(first[:4])
    if not encoding.startswith("utf-8"):
        yield from _wide_lines(itertools.chain([first], iter(lambda: file.read(1 << 16), b"")), encoding)
        return
    for line in itertools.chain([first] if first else [], file):
        for part in (line,) if line.count(b"\r") == line.endswith(b"\r\n") else _AFTER_CR.split(line):
            try:
                yield _checked(part.decode(encoding))
            except UnicodeDecodeError as problem:
                yield ValueError(_flaw(problem))
            except ValueError as problem:
                yield problem
            encoding = "utf-8"  # of all but the first, which may have a mark


_AFTER_CR = re.compile(rb"(?<=\r)(?=[^\n])")


def _checked(text: str) -> str:
    if "\0" in text:
        raise ValueError(_NUL)
    return text


_BROKEN = "\udfff"  # in place of bytes that are no text; of text in UTF-16 and UTF-32 nothing else becomes half of a pair
codecs.register_error("textok.broken", lambda problem: (_BROKEN, problem.end))  # type: ignore[attr-defined]


def _wide_lines(blocks: Iterable[bytes], encoding: str) -> Iterator[str | ValueError]:
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)("textok.broken"), translate=True)
    pieces: list[str] = []
    for block in itertools.chain(blocks, [b""]):
        *lines, rest = decoder.decode(block, final=not block).split("\n")
        for line in lines:
            yield _told_line("".join([*pieces, line, "\n"]), encoding)
            pieces.clear()
        pieces.append(rest)
    if last := "".join(pieces):
        yield _told_line(last, encoding)


def _told_line(line: str, encoding: str) -> str | ValueError:
    if _BROKEN in line:
        return ValueError(f"not {encoding}: half of a pair of surrogates, or cut off; save it as UTF-8")
    return ValueError("it has NUL characters") if "\0" in line else line


def text_problem(text: str) -> str | None:
    """Why a text cannot be written as UTF-8 or handed on; None mostly."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"text that UTF-8 cannot hold: {printable(text[:60])}"
    return f"text with a NUL character: {text[:60]!r}" if "\0" in text else None


def printable(text: str) -> str:
    """`text` with what UTF-8 cannot hold as escapes: a name's bytes as \\xe9, half of a pair as \\ud83d."""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:
            return text.encode("utf-8", "backslashreplace").decode()
    return text
