"""NumPy's files a row at a time: arrays that need not fit into memory, and ADM's sample files.

    open_rows      the rows of an .npy or .npz file
    write_adm      pictures and labels as the .npz that ADM's and its successors' evaluators take
    read_adm       the whole of one
    ArraySource    the rows as samples

An .npz of ADM's has `arr_0`, pictures uint8 [n,S,S,3], and for classes `arr_1`, labels int64 [n].
"""

import itertools
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..errors import DataError, told
from ..files import check_regular, replacing
from ..numpy_files import check_member, read_array, read_header
from .base import Event, Sample, Skip, Source, stem_in_keys


class open_rows:
    """The rows of the array in an .npy file, or of the first in an .npz, one at a time and never all in memory.

    Attributes: `shape`, as the header says it, `dtype`, `bytes` (of the array with its header), `whole`, the rows that these
    have room for, `labels`, int [n] or None, and `labels_problem`, what is wrong with labels that are there. A context manager.
    """

    def __init__(self, path: str | os.PathLike[str], names: Iterable[str] = ("arr_0", "images", "samples")) -> None:
        self.path = Path(path)
        self.labels: NDArray[Any] | None = None
        self.labels_problem: str | None = None
        self._zip: zipfile.ZipFile | None = None
        try:
            size = check_regular(self.path, DataError).st_size if self.path.exists() else 0
            if self.path.suffix.lower() == ".npz":
                self._zip = zipfile.ZipFile(self.path)
                there = [name.removesuffix(".npy") for name in self._zip.namelist()]
                member = next((name for name in names if name in there), None)
                if member is None:
                    raise DataError(f"{path}: expected an array {' or '.join(names)}, got {', '.join(there) or 'none'}")
                info = self._zip.getinfo(f"{member}.npy")
                check_member(info, size)
                self.bytes = info.file_size
                self._file: Any = self._zip.open(info)
            else:
                self.bytes = size
                self._file = self.path.open("rb")
            self.shape, fortran, self.dtype = read_header(self._file, self.bytes, self.path.name)
            self._first = self._file.tell()
            if fortran or self.dtype.hasobject or len(self.shape) < 1 or not 0 <= min(self.shape) <= max(self.shape) < 1 << 62:
                raise ValueError(f"expected rows of numbers in C order, got {self.dtype} {list(self.shape)[:8]}")
            self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
            if self.shape[0] and not self._row_bytes:  # a header may claim any number of them
                raise ValueError(f"expected rows of numbers, got empty ones: {self.dtype} {list(self.shape)[:8]}")
            self.whole = min(self.shape[0], (self.bytes - self._first) // self._row_bytes) if self.shape[0] else 0
            if self._zip is not None:
                self.labels = self._labels(there, size)
        except Exception as problem:  # of a damaged file come zlib.error, TokenError, NotImplementedError and more
            self.close()
            if isinstance(problem, MemoryError | DataError | FileNotFoundError):
                raise
            reason = told(str(problem), 200) if str(problem) else type(problem).__name__
            raise DataError(f"{path}: not a NumPy file that can be read: {reason}") from None

    def _labels(self, there: list[str], size: int) -> NDArray[Any] | None:
        name = next((name for name in ("arr_1", "labels") if name in there), None)
        if name is None or self._zip is None:
            return None
        try:
            info = self._zip.getinfo(f"{name}.npy")
            check_member(info, size)
            with self._zip.open(info) as file:
                labels = read_array(file, info.file_size, name)
        except Exception as problem:  # noqa: BLE001  of damaged files, which are of no matter where labels are not needed
            self.labels_problem = f"{name}: it cannot be read: {problem}"
            return None
        if labels.dtype.kind not in "iu" or labels.shape != self.shape[:1]:
            self.labels_problem = f"{name}: expected integers [{self.shape[0]}], got {labels.dtype} {list(labels.shape)}"
            return None
        return labels

    def read(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """One row after another, from row `start`."""
        start = arrays.whole(start, "start", 0, 1 << 62)
        self._file.seek(self._first + start * self._row_bytes)
        for index in range(start, self.shape[0]):
            try:
                data = self._file.read(min(self._row_bytes, self.bytes))
            except (ValueError, EOFError, zlib.error, zipfile.BadZipFile) as problem:
                raise DataError(f"{self.path}: row {index} of {self.shape[0]} cannot be read: {problem}") from None
            if len(data) != self._row_bytes:
                claim = f"its header claims {self.dtype} {list(self.shape)[:8]}, {self.bytes} bytes are there"
                raise DataError(f"{self.path}: the file ends in row {index} of {self.shape[0]}; {claim}")
            yield np.frombuffer(data, self.dtype).reshape(self.shape[1:])

    def close(self) -> None:
        """Close the file."""
        for file in (getattr(self, "_file", None), self._zip):
            if file is not None:
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_adm(path: str | os.PathLike[str], pictures: Iterable[Any], count: int, labels: Sequence[int] | None = None) -> None:
    """Write ADM's sample file: `arr_0` uint8 [count,S,S,3] and, with `labels`, `arr_1` int64 [count].

    Parameters
    ----------
    pictures
        `count` arrays uint8 [S,S,3], taken one at a time; an array [count,S,S,3] will do.

    Raises
    ------
    ValueError
        Pictures of another type, shape or number than was said.

    Notes
    -----
    The file appears whole or not at all, with the same bytes for the same pictures. It is not compressed, as `np.savez`'s.

    Examples
    --------
    >>> write_adm("samples.npz", pipe(labels=[3, 7]).images, 2, [3, 7])  # doctest: +SKIP
    """
    count = arrays.whole(count, "count", 0, arrays.MAX_BATCH)
    classes = (
        None if labels is None else arrays.integers(labels, "labels", count, 0, 2**31 - 1, "a class a picture").astype(np.int64)
    )
    if isinstance(pictures, memoryview):  # which cannot be gone through where it has several axes
        pictures = np.asarray(pictures)
    with replacing(Path(path)) as temporary:
        write_archive(temporary, pictures, count, classes)


def write_archive(path: Path, pictures: Iterable[Any], count: int, labels: Iterable[np.int64] | None) -> None:
    """`write_adm` straight to a path, for callers that see to it that the file appears whole."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        _write_member(archive, "arr_0", pictures, count, np.dtype(np.uint8))
        if labels is not None:
            _write_member(archive, "arr_1", labels, count, np.dtype(np.int64))


def _write_member(archive: zipfile.ZipFile, name: str, rows: Iterable[Any], count: int, dtype: np.dtype[Any]) -> None:
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:  # a ZipInfo's date is 1980, always
        shape = None
        number = 0
        for number, row in enumerate(rows, 1):
            array = arrays.view(row, f"pictures[{number - 1}]")
            if shape is None:
                shape = array.shape
                _write_header(file, (count, *shape), dtype)
            if array.dtype != dtype or array.shape != shape or (dtype == np.uint8 and (len(shape) != 3 or shape[2] != 3)):
                expected = f"[{', '.join(map(str, shape))}]" if len(shape) == 3 else "[S, S, 3]"
                raise ValueError(f"pictures[{number - 1}]: expected {dtype} {expected}, got {arrays.describe(array)}")
            file.write(np.ascontiguousarray(array).data)
        if number != count:
            raise ValueError(f"pictures: expected {count} of them, got {number}")
        if shape is None:
            _write_header(file, (0,) if dtype != np.uint8 else (0, 0, 0, 3), dtype)


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)


def read_adm(path: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """Pictures uint8 [n,S,S,3] and labels int64 [n], None where there are none, of a sample file; all in memory.

    `read_samples` reads the same file a picture at a time.
    """
    with open_rows(path) as rows:
        if rows.dtype != np.uint8 or len(rows.shape) != 4 or rows.shape[3] != 3:
            raise DataError(f"{path}: expected pictures uint8 [n, S, S, 3], got {rows.dtype} {list(rows.shape)}")
        if math.prod(rows.shape) > rows.bytes:
            raise DataError(f"{path}: the file ends before the last of its {rows.shape[0]} pictures")
        pictures = np.empty(rows.shape, np.uint8)
        if rows.labels_problem is not None:
            raise DataError(f"{path}: {rows.labels_problem}")
        for place, picture in enumerate(rows.read()):
            pictures[place] = picture
        return pictures, None if rows.labels is None else rows.labels.astype(np.int64)


class ArraySource(Source):
    """Pictures [n,H,W,3] of an .npy or .npz file, row by row; positions are rows."""

    kind = "array"
    ranges = True

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        stem = stem_in_keys(self.path)
        index = start - 1
        with open_rows(self.path) as rows:
            try:
                for index, picture in enumerate(
                    itertools.islice(rows.read(start), None if stop is None else stop - start), start
                ):
                    metadata: dict[str, Any] = {} if rows.labels is None else {"label": int(rows.labels[index])}
                    if rows.labels_problem is not None:
                        metadata["label_problem"] = rows.labels_problem
                    yield Sample(f"{stem}-{index:08d}", picture, metadata, self.name, position=index + 1)
            except DataError as problem:
                yield Skip(f"{stem}-{index + 1:08d}", self.name, str(problem), len(self))

    def __len__(self) -> int:
        """The rows that are there, and one, which `read` tells of, where the header claims more: that may be any number."""
        with open_rows(self.path) as rows:
            return min(rows.shape[0], rows.whole + 1)
