"""Text that comes in: UTF-8, or UTF-16 and UTF-32 that say so; of all else, what is wrong with it.

A byte order mark is never part of a text. Names of files and values of JSON may hold what UTF-8 cannot (the bytes of a name
that is none, half of a surrogate pair); `text_problem` says so, and `printable` writes it as escapes.
"""

import codecs
import itertools
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
    if "\0" in text:
        raise ValueError(_NUL)
    return text


def _flaw(problem: UnicodeDecodeError) -> str:
    name = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8"}.get(problem.encoding, problem.encoding)
    return f"not {name}: {problem.reason}, byte 0x{problem.object[problem.start]:02x} at {problem.start}; save it as UTF-8"


def read_lines(file: Any) -> Iterator[str | ValueError]:
    """The lines of a binary file, with their ends; in place of one that is no text the error that says why."""
    first = file.readline()
    encoding = _encoding_of(first[:4])
    if not encoding.startswith("utf-8"):
        yield from _wide_lines(itertools.chain([first], iter(lambda: file.read(1 << 16), b"")), encoding)
        return
    for line in itertools.chain([first] if first else [], file):
        try:
            yield decode_text(line) if line is first else _decode_plain(line)
        except ValueError as problem:
            yield problem


def _decode_plain(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as problem:
        raise ValueError(_flaw(problem)) from None
    if "\0" in text:
        raise ValueError(_NUL)
    return text


def _wide_lines(blocks: Iterable[bytes], encoding: str) -> Iterator[str | ValueError]:
    decoder = codecs.getincrementaldecoder(encoding)()
    rest = ""
    try:
        for block in itertools.chain(blocks, [None]):
            rest += decoder.decode(b"", final=True) if block is None else decoder.decode(block)
            *lines, rest = rest.split("\n")
            yield from (f"{line}\n" for line in lines)
    except UnicodeDecodeError as problem:
        yield ValueError(f"{_flaw(problem)}; what follows cannot be read")
        return
    if rest:
        yield rest


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
