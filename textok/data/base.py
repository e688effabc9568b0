"""What a sample is, what a skip is, and what a source of them is.

Sample         one sample, its picture not decoded
Skip           one that was left out: which, from where and why
Source         a file or folder with samples, in a fixed order; `shards`, `folders`, `tables` and `rows` have the kinds of them
usable         the sample, or a skip of one that lacks what is needed
decode_pictures  the pictures of samples, and what is wrong with those that cannot be read
"""

import errno
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..errors import shown
from ..pictures.preprocess import decode_picture
from ..text.templates import TEMPLATES, fill_template
from .texts import decode_text, printable, text_problem

# Of files that are pictures; also of kinds that Pillow may not read, so that they are named and not passed over.
PICTURES = (
    "png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "dib", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "avif", "jp2",
    "j2k", "jpx", "jxl", "heic", "heif", "tga", "dds", "psd", "pcx", "ico", "qoi", "apng", "svg", "eps",
    "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf",
)  # fmt: skip


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

    def __post_init__(self) -> None:
        if not isinstance(self.metadata, dict):
            raise TypeError(f"metadata: expected a dict, got {type(self.metadata).__name__}")

    def captions(self, name: str = "caption") -> list[str]:
        """The captions in the metadata's field `name`, one or a list of them, or from a template.

        A template is text with fields in braces, "a photo of a {name}", or "short" or "long" of
        `textok.text.templates.TEMPLATES`, where no field is called so; see `fill_template`.
        """
        value = self.metadata.get(name)
        if "{" in name or (value is None and name in TEMPLATES and name != "name"):
            value = fill_template(name, self.metadata)
        values = value if isinstance(value, list | tuple) else [value]
        return [text for text in values if isinstance(text, str) and text.strip()]

    def caption(self, name: str = "caption") -> str | None:
        """The first of the `captions`; None where there is none."""
        return next(iter(self.captions(name)), None)

    def captions_for(self, field: str) -> list[str]:
        """The captions that a run takes by this `field`; "name" is the template of that name too."""
        return self.captions(field) or (self.captions("{name}") if field == "name" else [])

    def caption_for(self, field: str) -> str | None:
        """The first of the `captions_for` a field; None where there is none."""
        return next(iter(self.captions_for(field)), None)


class _Skip(NamedTuple):
    key: str
    source: str
    reason: str
    position: int = 0


class Skip(_Skip):
    """A sample that was left out, or part of a source that is not read: which (`key`), from where (`source`), why (`reason`).

    What UTF-8 cannot hold of these is written as escapes, so that a skip can be printed and stored wherever it goes.
    """

    __slots__ = ()

    def __new__(cls, key: str, source: str, reason: str, position: int = 0) -> Self:
        for name, value in (("key", key), ("source", source), ("reason", reason)):
            arrays.instance(value, name, str, "a string")
        return super().__new__(cls, printable(key), printable(source), printable(reason), position)


Event = Sample | Skip
NO_EMBEDDING = "no embedding"  # what the reason of a skip begins with that another run may not need

# What the system says where there is no such file, nor will be at another time, or of what is in it (a broken header makes a
# position that is none); None: a library says it.
_LASTING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, None)


def raise_unless_lasting(problem: OSError, name: str) -> None:
    """End the run where a disk or a network failed: what is skipped now stays skipped, and the next run may be able to read
    it."""
    if problem.errno not in _LASTING:
        raise OSError(problem.errno, problem.strerror, problem.filename or name) from None


def state_of(paths: Iterable[Path]) -> str:
    """The sizes and times of several files, in short."""
    digest, count = hashlib.sha256(), 0
    for path in paths:
        status = path.stat()
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogatepass"))
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
        """What messages and reports call it."""
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

    def note(self) -> str | None:
        """What is to be said of how it is read, before it is."""
        return None

    def __len__(self) -> int:
        """Positions, where `ranges`."""
        raise TypeError(f"{self.name}: how many samples it has shows only by reading it")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class ListedSource(Source):
    """One with a list that may be too long to hold: it remembers how far it went, and the last ranges, since one is asked for
    again when its work is done and the next are in work. So ranges in order list it once.
    """

    ranges = True
    held = 1 << 16  # items of ranges, of the last two at least

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._length: int | None = None
        self._listing: tuple[int, Iterator[Any]] | None = None  # how many were taken, and the rest
        self._ranges: dict[tuple[int, int], list[Any]] = {}

    def _list(self) -> Iterator[Any]:
        """What samples are made of, in order; as cheap as may be."""
        raise NotImplementedError

    def _range(self, start: int, stop: int | None) -> Iterable[Any]:
        if stop is None:
            return itertools.islice(self._list(), start, None)
        if (start, stop) not in self._ranges:
            taken, rest = self._listing or (0, self._list())
            if taken > start:
                taken, rest = 0, self._list()
            self._ranges[start, stop] = list(itertools.islice(rest, start - taken, stop - taken))
            self._listing = (stop, rest)
            while len(self._ranges) > 2 and sum(map(len, self._ranges.values())) > self.held:
                del self._ranges[next(iter(self._ranges))]
        return self._ranges[start, stop]

    def __len__(self) -> int:
        if self._length is None:
            self._length = sum(1 for _ in self._list())
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_listing": None, "_ranges": {}}


def event_bytes(event: Event) -> bytes:
    """All that a result may depend on."""
    if isinstance(event, Skip):
        return f"{event.key}\0{event.reason}\0".encode()
    if event.files:
        pieces = [
            data for extension, content in event.files.items() for data in (extension.encode("utf-8", "surrogatepass"), content)
        ]
    else:
        picture = event.picture
        pieces = [json.dumps(event.metadata, sort_keys=True, default=str).encode()]
        if picture is not None:
            pieces.append(np.ascontiguousarray(picture).tobytes() if isinstance(picture, np.ndarray) else picture)
    key = event.key.encode("utf-8", "surrogatepass")
    return b"".join([key, b"\0", *(len(piece).to_bytes(8, "little") + piece for piece in pieces)])


# --- What can be used of it ---------------------------------------------------------------------------------------------------


def usable(event: Event, need: Iterable[str] = (), field: str = "caption") -> Event:
    """The event itself, or a Skip for a sample that lacks what is needed: "picture", "caption" or "label"."""
    if isinstance(event, Skip):
        return event
    for what in need:
        if what == "picture" and event.picture is None:
            reason = "a caption without a picture" if event.caption(field) else "no picture"
        elif what == "caption" and (caption := event.caption_for(field)) is None:
            lack = f"a picture without a caption in {field!r}" if event.picture is not None else f"no caption in {field!r}"
            reason = f"{lack}; its fields are {', '.join(event.metadata) or 'none'}"
            if isinstance(words := event.metadata.get(field), str) and not words.strip():
                reason = f"{lack}, which is empty"
        elif what == "caption" and (problem := text_problem(caption or "")) is not None:
            reason = f"its caption is {problem}"
        elif what == "label" and not _is_label(event.metadata.get("label")):
            name = event.metadata.get("class_name")
            named = f", its class is called {name!r}" if isinstance(name, str) else ""
            reason = f"expected an integer label from 0 on, got {shown(event.metadata.get('label'), 60)}{named}"
            if "label_problem" in event.metadata:
                reason = f"no label: {event.metadata['label_problem']}"
        else:
            continue
        return Skip(event.key, event.source, reason, event.position)
    return event


def _is_label(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def set_missing(metadata: dict[str, Any], name: str, value: Any) -> None:
    """Set a field that is not there, or is null."""
    if metadata.get(name) is None:
        metadata[name] = value


def set_class(metadata: dict[str, Any], content: bytes) -> None:
    """What KEY.cls says: an integer label, or else a class's name; a ValueError where it is no text."""
    text = decode_text(content).strip()
    if re.fullmatch(r"[+-]?\d{1,18}", text):
        set_missing(metadata, "label", int(text))
    else:
        set_missing(metadata, "class_name", text)


def teller(skips: list[Skip] | Callable[[Skip], object] | None) -> Callable[[Skip], object]:
    """What is called with each skip: the list's or the caller's, or else this module's log, as a warning."""
    if skips is None:
        import logging

        log = logging.getLogger(__name__)
        return lambda skip: log.warning("%s %s: %s", skip.source, skip.key, skip.reason)
    return skips.append if isinstance(skips, list) else skips


def decode_pictures(samples: Sequence[Sample], size: int) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """uint8 [n,size,size,3], and by its place what is wrong with a picture that cannot be read, which is black there."""
    pictures = np.zeros((len(samples), size, size, 3), np.uint8)
    problems = {}
    for place, sample in enumerate(samples):
        try:
            pictures[place] = decode_picture(sample.picture, size, sample.key)
        except ValueError as problem:
            problems[place] = str(problem).removeprefix(f"{sample.key}: ")
    return pictures, problems


# --- Names and values ---------------------------------------------------------------------------------------


def folder_of(source: str) -> str:
    """What the folder of a shard's pictures is called, where there are several shards."""
    return printable(Path(source).name.partition(".")[0]) or "shard"


def key_in_shard(sample: Sample) -> str:
    """A sample's key behind the name of its shard, which tells apart those of several."""
    return f"{folder_of(sample.source)}/{sample.key}"


def is_plain(key: str) -> bool:
    """Whether a key can name a file below a folder, and ends at no dot."""
    return (
        re.fullmatch(r"[^/.\0][^\0]*", key) is not None
        and not {"..", "."} & set(key.split("/"))
        and "." not in key.rpartition("/")[2]
        and text_problem(key) is None
    )


def numbered(key: str, number: int) -> str:
    """The key of the sample that is, of those of one name, the `number`-th from 1 on."""
    return key if number == 1 else f"{key}~{number}"


def free_number(key: str, taken: dict[str, int]) -> int:
    """The first number from 1 on of which a key is not among those taken, of each the last number that was given to it; it is
    from here on.
    """
    number = taken.get(key, 0) + 1
    while number > 1 and numbered(key, number) in taken:
        number += 1
    taken[key] = number
    taken.setdefault(numbered(key, number), 1)
    return number


def key_of(name: str) -> str:
    """A name of a file, without its extension, as a key, in which a dot would end it; no two names have the same."""
    return re.sub(r"%(?=2E|25)", "%25", name).replace(".", "%2E")


def stem_in_keys(path: Path) -> str:
    """What the keys of a table's, an array's or a text's samples begin with."""
    return printable(key_of(stem_of(path.name)))


def stem_of(name: str) -> str:
    """A name of a file without its extension, where it has one."""
    return name.rpartition(".")[0] or name


def extension_of(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


_BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\0\0\0\x0cJXL ", b"qoif")


def is_picture(start: bytes) -> bool:
    """Whether a file that begins so, 16 bytes or more, is a picture, whatever it is called."""
    riff = start.startswith(b"RIFF") and start[8:12] == b"WEBP"
    box = start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
    return riff or box or start.startswith(_BEGINNINGS) or re.match(rb"P[1-6]\s", start) is not None


def parse_object(data: bytes | str) -> dict[str, Any]:
    """A JSON object; every flaw is a ValueError."""
    text = decode_text(data) if isinstance(data, bytes) else data
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"not JSON: {problem}") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value
