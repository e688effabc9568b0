"""Files in and out: JSON read with suspicion, and files that are written whole and durably or not at all."""

import errno
import glob
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import ConfigError

MAX_JSON_BYTES = 64 << 20
_ZEROS = 1 << 20  # written at a time


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {twice!r} is there twice")
    return result


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object without duplicate names; every flaw is a ValueError."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    return value


def check_regular(path: Path, error: type[Exception]) -> os.stat_result:
    """A plain file: opening a pipe or a device could block or never end."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except OSError as problem:
        raise error(f"{path}: {problem.strerror}") from None
    except ValueError as problem:  # a NUL, or what the file system's encoding cannot hold
        raise error(f"{str(path)!a}: {problem}") from None
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{path}: expected a file, got {'a folder' if stat.S_ISDIR(status.st_mode) else 'something else'}")
    return status


def open_plain(path: Path, mode: str = "rb") -> IO[Any]:
    """A plain file, opened; an OSError for a pipe or a device, which is not waited for."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK, 0o666)

    file = open(path, mode, opener=opener)  # noqa: SIM115  the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "expected a file, got something else", str(path))
    return file


def read_json(path: Path, error: type[Exception] = ConfigError) -> dict[str, Any]:
    """The object in a JSON file; `error`, naming the file and its flaw, where there is none."""
    if check_regular(path, error).st_size > MAX_JSON_BYTES:
        raise error(f"{path}: expected at most {MAX_JSON_BYTES >> 20} MB of JSON, got {path.stat().st_size >> 20} MB")
    try:
        return parse_object(path.read_bytes())
    except ValueError as problem:
        raise error(f"{path}: not a JSON file that textok can read: {problem}") from None
    except OSError as problem:
        raise error(f"{path}: {problem.strerror}") from None


# --- Writing: one way, one durability -----------------------------------------------------------------------
#
# A file is written under another name, synced, renamed, and its folder synced: after a power cut there is the old file or the
# new one.


def sync(path: Path) -> None:
    """What was written to a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    try:
        sync(path)
    except OSError as problem:
        if problem.errno not in _NO_SYNC_OF_FOLDERS:
            raise


_NO_SYNC_OF_FOLDERS = (errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # network file systems; folders nobody may list


def commit(temporary: Path, path: Path, keep: bool = False) -> None:
    """A file that is written and closed takes the place of `path`, durably; with `keep` only where there is none."""
    sync(temporary)
    if keep:
        _link(temporary, path)
    else:
        temporary.replace(path)
    _sync_folder(path.parent)


def _link(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        source.replace(path)


@contextmanager
def replacing(path: Path, folder: Path | None = None, keep: bool = False) -> Iterator[Path]:
    """A temporary path to write to, which takes the place of `path` if all goes well and vanishes if not.

    It lies in `folder`, of the same file system, or beside `path`; what a killed process leaves is called .NAME.XXXXXXXX.part.
    With `keep` a file that is there by then stays: of several processes the first one's.
    """
    temporary = (folder or path.parent) / f".{path.name}.{os.urandom(4).hex()}.part"
    try:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(mode)  # safetensors lets nobody else read what it writes; the user's umask decides
        commit(temporary, path, keep)
    finally:
        temporary.unlink(missing_ok=True)


def clear_unfinished(path: Path) -> None:
    """Remove what killed processes left of `replacing(path)`; for callers that know that no other is at it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        left.unlink(missing_ok=True)


def take_disk(file: IO[bytes], start: int, stop: int) -> None:
    """Zeros from byte `start` to `stop` of a file, nothing behind them yet, for which the disk has room from here on: a full
    one is an OSError now, and not a signal when a mapped page finds no place.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), start, stop - start)
        return
    file.seek(start)  # macOS
    for first in range(start, stop, _ZEROS):
        file.write(bytes(min(_ZEROS, stop - first)))
    file.flush()


def write_text(path: Path, text: str, folder: Path | None = None, keep: bool = False) -> None:
    """A text file in UTF-8, line ends as they are, what UTF-8 cannot hold as escapes; `folder` and `keep` as in `replacing`."""
    with replacing(path, folder, keep) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))  # of JSON, which has the same escapes


def write_json(path: Path, value: Any, folder: Path | None = None, keep: bool = False) -> None:
    """`value` as a JSON file; `folder` and `keep` as in `replacing`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", folder, keep)
