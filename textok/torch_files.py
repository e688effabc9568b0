"""PyTorch's files (.pt, .pth, .bin) without PyTorch: a zip of raw storages and a pickle that says what lies where.

A pickle is a program. This one is read here, opcode by opcode, and nothing of it runs: it may build dicts, lists and plain
values, and tensors as torch.save writes them. Whatever else it names (NumPy scalars, paths, an OmegaConf, os.system) becomes a
`Skipped`, which holds the name and does nothing. What is made takes memory in proportion to the pickle, which lies in the file
as it is; storages are read when a tensor is asked for, never before, and no tensor is larger than its storage.
"""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import WeightsError, told
from .files import check_regular
from .numpy_files import check_member

_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool",
}  # fmt: skip

# A training file of DiT-XL with its optimiser has some 100,000 opcodes in 2 MB.
MAX_PICKLE_BYTES = 32 << 20
MAX_OPCODES = 1_000_000
MAX_NUMBER_BYTES = 1024
MAX_AXES = 32
MAX_KEY = 1 << 53  # of numbers that are keys, and places of the memo: larger ones can be chosen to have all the same hash


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    count: int


class Skipped:
    """What a pickle would have made by a call that textok does not run: the name of what it calls, and the state it would have
    had."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Any = None


class _Name:
    """A module's name in a pickle, not called yet."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name
        self.full = f"{module}.{name}"


class StoredTensor:
    """A tensor of a file: `shape` and `dtype`, and its numbers when they are asked for."""

    def __init__(
        self, file: "TorchFile", storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        sizes = (offset, *shape, *strides)
        sound = isinstance(storage, _Storage) and len(shape) == len(strides) <= MAX_AXES
        if not (sound and all(type(n) is int and 0 <= n < 1 << 62 for n in sizes)):
            raise ValueError("a tensor that is none")
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if 0 not in shape and last >= storage.count:
            raise ValueError("a tensor that reaches beyond its storage")
        self._file, self._storage, self._offset, self._strides = file, storage, offset, strides
        self.shape, self.dtype = shape, storage.dtype

    def check(self, name: str) -> None:
        """WeightsError for a tensor that repeats its storage: its numbers would take memory that the file does not have."""
        count = 1
        for size in self.shape:
            count *= size
        if count > self._storage.count:
            path, shape = self._file.path, list(self.shape)
            raise WeightsError(
                f"{path}: {told(name)}: expected a tensor no larger than its {self._storage.count} stored numbers, got {shape}"
            )

    def read(self) -> NDArray[Any]:
        """A view of the storage."""
        data = self._file.storage(self._storage)
        if 0 in self.shape:
            return np.empty(self.shape, data.dtype)
        steps = tuple(step * data.itemsize for step in self._strides)
        return np.lib.stride_tricks.as_strided(data[self._offset :], self.shape, steps, writeable=False)


class TorchFile:
    """`content` is what torch.load would give, with a `StoredTensor` for each tensor and a `Skipped` for what is not read;
    `skipped` are the names that such would have called."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = check_regular(path, WeightsError).st_size
        self._last: tuple[_Storage, NDArray[Any]] | None = None
        try:
            self._zip = zipfile.ZipFile(path)
            pickled = next(name for name in self._zip.namelist() if name.endswith("/data.pkl"))
            self._root = pickled.removesuffix("data.pkl")
            order = f"{self._root}byteorder"
            if order in self._zip.namelist() and self._member(order, 16) != b"little":
                raise WeightsError(f"{path}: expected numbers in little-endian order")
            reader = _Reader(self, self._member(pickled, MAX_PICKLE_BYTES))
            self.content, self.skipped = reader.run(), sorted(reader.skipped)
        except (zipfile.BadZipFile, StopIteration):
            raise WeightsError(
                f"{path}: not a file of torch.save that textok can read: expected the zip format of PyTorch 1.6 or newer"
            ) from None
        except (WeightsError, MemoryError):
            raise
        except Exception as problem:  # noqa: BLE001  a broken zip raises anything
            raise WeightsError(f"{path}: not a file of torch.save that textok can read: {told(str(problem), 200)}") from None

    def _member(self, name: str, most: int) -> bytes:
        info = self._zip.getinfo(name)
        check_member(info, self.size)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > min(most, self.size):
            raise ValueError(f"{name}: expected at most {min(most, self.size)} bytes, not compressed, got {info.file_size}")
        return self._zip.read(info)

    def storage(self, storage: _Storage) -> NDArray[Any]:
        """Its numbers; the storage read last is kept, since many tensors may lie in one."""
        import ml_dtypes  # noqa: F401  makes np.dtype("bfloat16") known

        if self._last is not None and self._last[0] == storage:
            return self._last[1]
        self._last = None
        dtype = np.dtype(storage.dtype)
        name = f"{self._root}data/{storage.key}"
        try:
            if self._zip.getinfo(name).file_size < storage.count * dtype.itemsize:
                raise ValueError(f"expected {storage.count} x {dtype}, got {self._zip.getinfo(name).file_size} bytes")
            numbers = np.frombuffer(self._member(name, self.size), dtype, storage.count)
        except MemoryError:
            raise
        except Exception as problem:  # noqa: BLE001  a broken zip raises anything
            raise WeightsError(f"{self.path}: storage {told(storage.key)}: {told(str(problem), 200)}") from None
        self._last = storage, numbers
        return numbers


class _Mark:
    """The stack's MARK."""


def _is_key(value: Any) -> bool:
    """Whether a dict or set may have it, at the same cost as any other."""
    return isinstance(value, str | float | bytes) or (isinstance(value, int) and -MAX_KEY < value < MAX_KEY)


class _Reader:
    """A machine for pickles that makes data alone."""

    def __init__(self, file: TorchFile, pickled: bytes) -> None:
        self._file = file
        self._pickled = pickled
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.skipped: set[str] = set()

    def run(self) -> Any:
        import pickletools

        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(self._pickled))):
            if count >= MAX_OPCODES:
                raise ValueError(f"its pickle has more than {MAX_OPCODES} opcodes")
            name = opcode.name
            if name == "STOP":
                return self._pop()
            if name in _PLAIN:
                if isinstance(argument, int) and argument.bit_length() > 8 * MAX_NUMBER_BYTES:
                    raise ValueError(f"its pickle has a number of more than {MAX_NUMBER_BYTES} bytes")
                self._stack.append(argument)
            elif (step := _STEPS.get(name)) is not None:
                step(self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise ValueError(f"its pickle has an opcode {name}")
        raise ValueError("its pickle has no end")

    # What steps need.

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _Mark:
            raise ValueError("its pickle takes more than is there")
        return self._stack.pop()

    def _since_mark(self) -> list[Any]:
        stack = self._stack
        place = len(stack) - 1
        while place >= 0 and stack[place] is not _Mark:
            place -= 1
        if place < 0:
            raise ValueError("its pickle takes more than is there")
        items = stack[place + 1 :]
        del stack[place:]
        return items

    def _top(self, *kinds: type) -> Any:
        """What items go into: of one of the kinds, or skipped."""
        if not self._stack or not isinstance(self._stack[-1], (*kinds, Skipped)):
            raise ValueError("its pickle puts items into what takes none")
        return self._stack[-1]

    # Steps.

    def mark(self, _: Any) -> None:
        self._stack.append(_Mark)

    def pop(self, _: Any) -> None:
        if not self._stack:
            raise ValueError("its pickle takes more than is there")
        self._stack.pop()

    def pop_mark(self, _: Any) -> None:
        self._since_mark()

    def dup(self, _: Any) -> None:
        self._stack.append(self._top(object))

    def get(self, place: int) -> None:
        if place > MAX_KEY or place not in self._memo:
            raise ValueError("its pickle asks for what it has not kept")
        self._stack.append(self._memo[place])

    def put(self, place: int) -> None:
        if not 0 <= place < MAX_KEY:
            raise ValueError("its pickle keeps what nobody can ask for")
        self._memo[place] = self._top(object)

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top(object)

    def append(self, _: Any) -> None:
        self._extend([self._pop()])

    def appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        into = self._top(list, set)
        if isinstance(into, list):
            into.extend(items)
        elif isinstance(into, set):
            into.update(item for item in items if item is None or _is_key(item))

    def set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def set_items(self, _: Any) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        into = self._top(dict)
        if len(items) % 2:
            raise ValueError("its pickle has a key without a value")
        if isinstance(into, dict):
            # Other keys than these are of no use here, and could be of a kind that no dict takes.
            into.update((k, v) for k, v in zip(items[::2], items[1::2]) if _is_key(k))

    def dict_of_items(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._set(items)

    def tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(_Name(module, name))

    def stack_name(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise ValueError("its pickle has a name that is none")
        self._stack.append(_Name(module, name))

    def call(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        self._stack.append(self._called(function, arguments))

    def new_with_words(self, _: Any) -> None:
        self._pop()
        self.call(_)

    def instance(self, argument: str) -> None:
        items = tuple(self._since_mark())
        self._stack.append(self._called(_Name(*argument.split(" ", 1)), items))

    def object(self, _: Any) -> None:
        items = self._since_mark()
        if not items:
            raise ValueError("its pickle makes an object of nothing")
        self._stack.append(self._called(items[0], tuple(items[1:])))

    def build(self, _: Any) -> None:
        """State of an object: kept where the object is skipped, passed over for a dict's (a state dict's `_metadata`)."""
        state = self._pop()
        if not self._stack or not isinstance(into := self._stack[-1], dict | Skipped):
            raise ValueError("its pickle changes what is made already")
        if isinstance(into, Skipped):
            into.state = state

    def storage(self, _: Any) -> None:
        pid = self._pop()
        if (
            not isinstance(pid, tuple)
            or len(pid) != 5
            or pid[0] != "storage"
            or type(pid[2]) is not str
            or type(pid[4]) is not int
        ):
            raise ValueError("a storage that is none")
        kind = pid[1]
        if isinstance(kind, _Name) and kind.module == "torch" and kind.name in _STORAGES:
            self._stack.append(_Storage(_STORAGES[kind.name], pid[2], pid[4]))
        else:
            self._stack.append(self._skipped_call(kind))

    def _skipped_call(self, function: Any) -> Skipped:
        name = function.full if isinstance(function, _Name) else "what it made itself"
        self.skipped.add(name)
        return Skipped(name)

    def _called(self, function: Any, arguments: Any) -> Any:
        """What a call makes."""
        if not isinstance(function, _Name | Skipped) or not isinstance(arguments, tuple | Skipped):
            raise ValueError("its pickle calls what is no function")
        name = function.full if isinstance(function, _Name) else ""
        if isinstance(arguments, tuple):
            if name == "collections.OrderedDict" and not arguments:
                return {}
            if name == "torch.Size" and len(arguments) == 1 and isinstance(arguments[0], tuple):
                return arguments[0]
            if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state") and arguments:
                return arguments[0]
            if name == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4:
                return self._called(arguments[0], arguments[2])
            if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor") and len(arguments) >= 4:
                storage, offset, shape, strides = arguments[:4]
                if isinstance(storage, Skipped):
                    return storage
                if not (isinstance(shape, tuple) and isinstance(strides, tuple)):
                    raise ValueError("a tensor that is none")
                return StoredTensor(self._file, storage, offset, shape, strides)
        return self._skipped_call(function)


# Opcodes whose argument is the value.
_PLAIN = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
))  # fmt: skip

_STEPS: dict[str, Callable[[_Reader, Any], None]] = {
    "NONE": lambda reader, _: reader._stack.append(None),
    "NEWTRUE": lambda reader, _: reader._stack.append(True),
    "NEWFALSE": lambda reader, _: reader._stack.append(False),
    "EMPTY_DICT": lambda reader, _: reader._stack.append({}),
    "EMPTY_LIST": lambda reader, _: reader._stack.append([]),
    "EMPTY_SET": lambda reader, _: reader._stack.append(set()),
    "EMPTY_TUPLE": lambda reader, _: reader._stack.append(()),
    "LIST": lambda reader, _: reader._stack.append(reader._since_mark()),
    "FROZENSET": lambda reader, _: reader._stack.append(tuple(reader._since_mark())),
    "TUPLE": lambda reader, _: reader._stack.append(tuple(reader._since_mark())),
    "TUPLE1": lambda reader, _: reader.tuple_of(1),
    "TUPLE2": lambda reader, _: reader.tuple_of(2),
    "TUPLE3": lambda reader, _: reader.tuple_of(3),
    "DICT": _Reader.dict_of_items,
    "MARK": _Reader.mark, "POP": _Reader.pop, "POP_MARK": _Reader.pop_mark, "DUP": _Reader.dup,
    "GET": _Reader.get, "BINGET": _Reader.get, "LONG_BINGET": _Reader.get,
    "PUT": _Reader.put, "BINPUT": _Reader.put, "LONG_BINPUT": _Reader.put, "MEMOIZE": _Reader.memoize,
    "APPEND": _Reader.append, "APPENDS": _Reader.appends, "ADDITEMS": _Reader.appends,
    "SETITEM": _Reader.set_item, "SETITEMS": _Reader.set_items,
    "GLOBAL": _Reader.name, "STACK_GLOBAL": _Reader.stack_name, "INST": _Reader.instance, "OBJ": _Reader.object,
    "REDUCE": _Reader.call, "NEWOBJ": _Reader.call, "NEWOBJ_EX": _Reader.new_with_words,
    "BUILD": _Reader.build, "BINPERSID": _Reader.storage,
}  # fmt: skip
