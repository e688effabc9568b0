"""PyTorch's files (.pt, .pth, .bin) without PyTorch: a zip of raw storages and a pickle that says what lies where.

A pickle is a program. This one may build dicts, lists and plain values, and call what is in `_ALLOWED`; any other name in it is an
error, so no file can run code. Storages are read when a tensor is asked for, never before.
"""

import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError
from ..files import MAX_JSON_BYTES, check_regular

_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    count: int


class StoredTensor:
    """A tensor of a file: `shape` and `dtype`, and its numbers when they are asked for."""

    def __init__(
        self, file: "TorchFile", storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        sizes = (offset, *shape, *strides)
        if not (isinstance(storage, _Storage) and len(shape) == len(strides) and all(type(n) is int and n >= 0 for n in sizes)):
            raise ValueError("a tensor that is none")
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if 0 not in shape and last >= storage.count:
            raise ValueError("a tensor that reaches beyond its storage")
        self._file, self._storage, self._offset, self._strides = file, storage, offset, strides
        self.shape, self.dtype = shape, storage.dtype

    def read(self) -> NDArray[Any]:
        """A view of the storage, which is read anew each time."""
        data = self._file.storage(self._storage)
        if 0 in self.shape:
            return np.empty(self.shape, data.dtype)
        steps = tuple(step * data.itemsize for step in self._strides)
        return np.lib.stride_tricks.as_strided(data[self._offset :], self.shape, steps, writeable=False)


class _Options:
    """Stands in for argparse.Namespace, in which training files keep their command line."""


class TorchFile:
    """`content` is what torch.load would give, with a `StoredTensor` for each tensor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        check_regular(path, WeightsError)
        try:
            self._zip = zipfile.ZipFile(path)
            pickled = next(name for name in self._zip.namelist() if name.endswith("/data.pkl"))
            self._root = pickled.removesuffix("data.pkl")
            if f"{self._root}byteorder" in self._zip.namelist() and self._zip.read(f"{self._root}byteorder") != b"little":
                raise WeightsError(f"{path}: expected numbers in little-endian order")
            if self._zip.getinfo(pickled).file_size > MAX_JSON_BYTES:
                raise WeightsError(f"{path}: its pickle has more than {MAX_JSON_BYTES >> 20} MB")
            with self._zip.open(pickled) as stream:
                self.content = _Unpickler(self, stream).load()
        except (zipfile.BadZipFile, StopIteration):
            raise WeightsError(
                f"{path}: not a file of torch.save that textok can read: expected the zip format of PyTorch 1.6 or newer"
            ) from None
        except (WeightsError, MemoryError):
            raise
        except Exception as problem:  # noqa: BLE001  a broken pickle raises anything
            raise WeightsError(f"{path}: not a file of torch.save that textok can read: {problem}") from None

    def storage(self, storage: _Storage) -> NDArray[Any]:
        import ml_dtypes  # noqa: F401  makes np.dtype("bfloat16") known

        dtype = np.dtype(storage.dtype)
        try:
            info = self._zip.getinfo(f"{self._root}data/{storage.key}")
            if info.file_size < storage.count * dtype.itemsize or info.compress_type != zipfile.ZIP_STORED:
                raise WeightsError(f"{self.path}: storage {storage.key}: expected {storage.count} x {dtype} as they are")
            return np.frombuffer(self._zip.read(info), dtype, storage.count)
        except (KeyError, zipfile.BadZipFile, OSError) as problem:
            raise WeightsError(f"{self.path}: storage {storage.key}: {problem}") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: TorchFile, stream: Any) -> None:
        super().__init__(stream, encoding="utf-8")
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("argparse", "Namespace"): _Options,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch", "Size"): tuple,
        }
        if (module, name) not in allowed:
            raise WeightsError(f"{self._file.path}: its pickle asks for {module}.{name}, which textok does not run")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or dtype not in _STORAGES.values() or type(key) is not str or type(count) is not int:
            raise ValueError("a storage that is none")
        return _Storage(dtype, key, count)

    def _tensor(self, storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> StoredTensor:
        return StoredTensor(self._file, storage, offset, tuple(shape), tuple(strides))
