"""NumPy's .npy and .npz files, read with suspicion.

What a header claims is compared with the bytes that are there before memory is taken, no pickle is ever read, and whatever
NumPy and zipfile raise for a damaged file is the caller's one kind of error.
"""

import io
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .errors import told
from .files import check_regular

_MOST_DEFLATED = 1032  # bytes that deflate makes of one
_SUFFIX = ".npy"


def read_npz(path: Path, error: type[Exception], names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz by name; of `names` those that are there. `error` tells of a file that is no such thing."""
    size = check_regular(path, error).st_size
    return _guarded(lambda: _arrays_of(path, size, names), path, ".npz", error)


def unpack_npz(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz in memory; a ValueError says what is wrong with it."""
    return _guarded(lambda: _arrays_of(io.BytesIO(data), len(data), None), None, ".npz", ValueError)


def unpack_npy(data: bytes) -> NDArray[Any]:
    """The array of an .npy in memory; a ValueError says what is wrong with it."""
    return _guarded(lambda: read_array(io.BytesIO(data), len(data), "it"), None, ".npy", ValueError)


def _arrays_of(file: Path | IO[bytes], size: int, names: Collection[str] | None) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(file) as archive:
        check_archive(archive, size)
        for info in archive.infolist():
            name = info.filename.removesuffix(_SUFFIX)
            if names is not None and name not in names:
                continue
            if name in found:
                raise ValueError(f"{told(info.filename)} is there twice")
            check_member(info, size)
            with archive.open(info) as stream:
                found[name] = read_array(stream, info.file_size, told(info.filename))
    return found


def names_in_npz(path: Path, error: type[Exception]) -> list[str]:
    """The names of the arrays of an .npz."""
    check_regular(path, error)

    def read() -> list[str]:
        with zipfile.ZipFile(path) as file:
            return [name.removesuffix(_SUFFIX) for name in file.namelist()]

    return _guarded(read, path, ".npz", error)


def read_npy(path: Path, error: type[Exception], mapped: bool = False) -> NDArray[Any]:
    """The array of an .npy; with `mapped` read as it is needed."""
    size = check_regular(path, error).st_size

    def read() -> NDArray[Any]:
        with path.open("rb") as file:
            if not mapped:
                return read_array(file, size, path.name)
            _check_claim(file, size, path.name)
        whole: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return whole

    return _guarded(read, path, ".npy", error)


def check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """A ValueError for an archive of `size` bytes whose members claim more: some of them would be the same bytes."""
    claimed = sum(info.compress_size for info in archive.infolist())
    if claimed > size:
        raise ValueError(f"its members claim {claimed} of {size} bytes")


def check_member(info: zipfile.ZipInfo, size: int) -> None:
    """A ValueError for a member that claims more bytes than an archive of `size` bytes can have, or is packed in another way
    than NumPy does it: what is said of LZMA's memory may be anything."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{told(info.filename)}: packed by method {info.compress_type}, which NumPy does not write")
    times = 1 if info.compress_type == zipfile.ZIP_STORED else _MOST_DEFLATED
    # zipfile takes memory for as many bytes as a stored member is said to have in the archive, whatever it is said to become.
    if info.compress_size > size or info.file_size > times * info.compress_size + 64:
        raise ValueError(f"{told(info.filename)}: claims {info.file_size} bytes, more than can be in it")


def read_header(stream: IO[bytes], size: int, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and type of an .npy of `size` bytes. Of a header that is longer than the file nothing
    is read: NumPy would take the memory for it first, which may be 4 GiB."""
    is_first = np.lib.format.read_magic(stream) == (1, 0)
    start = stream.tell()
    length = int.from_bytes(stream.read(2 if is_first else 4), "little")
    if length > size - stream.tell():
        raise ValueError(f"{name}: a header of {length} bytes in a file of {size}")
    stream.seek(start)
    return (np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0)(stream)


def _guarded(read: Callable[[], Any], path: Path | None, kind: str, error: type[Exception]) -> Any:
    where = "" if path is None else f"{path}: "
    try:
        return read()
    except MemoryError:
        raise
    except OSError as problem:
        raise error(f"{where}expected an {kind} file that NumPy can read, got: {problem.strerror or problem}") from None
    except Exception as problem:  # noqa: BLE001  of a damaged file come zlib.error, TokenError, NotImplementedError and more
        reason = told(str(problem), 200) if str(problem) else type(problem).__name__
        raise error(f"{where}expected an {kind} file that NumPy can read, got: {reason}") from None


def read_array(stream: IO[bytes], size: int, name: str) -> NDArray[Any]:
    """The array of an .npy of `size` bytes."""
    _check_claim(stream, size, name)
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _check_claim(stream: IO[bytes], size: int, name: str) -> None:
    """A ValueError for a header that claims more numbers than there are bytes for."""
    shape, _, dtype = read_header(stream, size, name)
    count = 1
    for length in shape:
        count *= length
    if dtype.hasobject:
        raise ValueError(f"{name}: objects, which textok does not read")
    if count * dtype.itemsize > size - stream.tell() or min(shape, default=0) < 0:
        raise ValueError(f"{name}: {dtype} {list(shape)[:8]} in {size} bytes")
