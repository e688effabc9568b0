"""What users pass, turned into the exact arrays that the engine takes.

Two stages, so that a batch of any size runs in bounded memory: `view` and the checks of shape and type look at everything
before any work starts and copy nothing; `as_float32` and its like convert, and look for NaN, one slice of the batch at a time.
Nothing here writes to an argument. Wrong values are ValueErrors and things that are no arrays TypeErrors, each with the
argument's name, what came and what was expected.
"""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import shown

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

MAX_THREADS = 1024
MAX_BATCH = 1 << 30


def describe(array: NDArray[Any]) -> str:
    """Type and shape in words: "float64 [2, 3]"."""
    return f"{array.dtype} [{', '.join(map(str, array.shape))}]"


def is_float(dtype: np.dtype[Any]) -> bool:
    """float16, float32, float64 or bfloat16."""
    return dtype.newbyteorder("=") in (np.float16, np.float32, np.float64) or dtype.name == "bfloat16"


def _is_torch(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def _from_torch(value: Any, name: str) -> NDArray[Any]:
    if value.device.type != "cpu":
        raise ValueError(f"{name}: expected an array in the CPU's memory, got a tensor on {value.device}; call .cpu() first")
    value = value.detach()
    if str(value.dtype) == "torch.bfloat16":
        value = value.float()
    return value.numpy()


def view(value: Any, name: str) -> NDArray[Any]:
    """A NumPy array of whatever NumPy can view: arrays, torch CPU tensors, DLPack, PIL pictures, buffers, nested lists.

    Shares memory where it can. TypeError where there is no array in it, ValueError for ragged lists, masked and complex arrays.
    """
    try:
        if isinstance(value, np.ndarray):
            array = value
        elif value is None or isinstance(value, str | bytes | dict | set):
            raise TypeError
        elif _is_torch(value):
            array = _from_torch(value, name)
        elif isinstance(value, list | tuple):
            array = np.asarray([_from_torch(item, name) if _is_torch(item) else item for item in value])
        elif any(hasattr(value, attribute) for attribute in ("__array_interface__", "__array_struct__", "__array__")):
            array = np.asarray(value)
        elif hasattr(value, "__dlpack__"):
            array = np.from_dlpack(value)
        else:
            array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array, got something NumPy cannot make one of ({error})") from None
    except (TypeError, RuntimeError, BufferError) as error:
        reason = f" ({error})" if str(error) else ""
        raise TypeError(f"{name}: expected an array, got {type(value).__name__}{reason}") from None
    if isinstance(array, np.ma.MaskedArray):
        raise ValueError(f"{name}: expected a plain array, got a masked one; fill it first")
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        if not isinstance(value, np.ndarray) and array.ndim == 0:
            raise TypeError(f"{name}: expected an array, got {type(value).__name__}")
        raise ValueError(f"{name}: expected an array of numbers, got {describe(array)}")
    return array


_LOOKED_AT = 1 << 20  # numbers at a time


def warn_of_unit_range(pictures: Any, name: str) -> None:
    """A Python warning where all pictures, one array or several, are floats in [0, 1]: such come from other libraries."""
    low, high = np.inf, -np.inf
    for picture in [pictures] if isinstance(pictures, np.ndarray) else pictures:
        if not isinstance(picture, np.ndarray) and not _is_torch(picture):
            return
        array = view(picture, name)
        if not is_float(array.dtype) or not array.size:
            return
        count = max(1, _LOOKED_AT * len(array) // array.size)
        for first in range(0, len(array), count):  # mostly the first part tells, and Ctrl-C need not wait for all
            part = array[first : first + count]
            low, high = min(low, float(part.min())), max(high, float(part.max()))
            if not 0 <= low <= high <= 1:
                return
    if low < high:
        warnings.warn(
            f"{name}: all values lie in [0, 1], from {low:.3g} to {high:.3g}; the range of pixels is [-1, 1]: give 2 * x - 1, "
            "or uint8",
            UserWarning,
            stacklevel=3,
        )


Axes = Sequence[tuple[str, int | None]]


def _axes_text(axes: Axes) -> str:
    return "[" + ", ".join(label if size is None or label == str(size) else f"{label}={size}" for label, size in axes) + "]"


def check_shape(array: NDArray[Any], name: str, axes: Axes, hint: str = "") -> None:
    """Rank and extents; `axes` is a (label, size or None for any) for each axis."""
    if array.ndim != len(axes) or any(size is not None and size != extent for (_, size), extent in zip(axes, array.shape)):
        hint = f"; {hint}" if hint else ""
        raise ValueError(f"{name}: expected shape {_axes_text(axes)}, got {describe(array)}{hint}")


def floats(value: Any, name: str, axes: Axes, hint: str = "") -> NDArray[Any]:
    """A view of `value`, checked to be of float type and of the shape of `axes`."""
    array = view(value, name)
    if not is_float(array.dtype) and array.size:
        raise ValueError(f"{name}: expected float16, float32, float64 or bfloat16 {_axes_text(axes)}, got {describe(array)}")
    if hint == "" and array.ndim == len(axes) - 1 and axes[0][0] == "B":
        hint = "the first axis is the batch"
    check_shape(array, name, axes, hint)
    return array


def images(value: Any, name: str, size: int) -> NDArray[Any]:
    """A view of pictures uint8 or float [B,size,size,3]."""
    array = view(value, name)
    axes: Axes = (("B", None), ("S", size), ("S", size), ("3", 3))
    hint = "textok.preprocess(pictures, size) makes such an array"
    if array.ndim == 4 and array.shape[1] == 3 and array.shape[3] != 3:
        hint = "this looks like NCHW: transpose it with .transpose(0, 2, 3, 1)"
    elif array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        hint = "this looks like one CHW picture: use .transpose(1, 2, 0)[None]"
    elif array.ndim == 3:
        hint = "the first axis is the batch: pass x[None] for one picture"
    check_shape(array, name, axes, hint)
    if array.dtype != np.uint8 and not is_float(array.dtype):
        raise ValueError(f"{name}: expected uint8, or floats in [-1, 1], got {describe(array)}")
    return array


def as_float32(array: NDArray[Any], name: str, *first: int) -> F32:
    """`array` as C-contiguous float32, itself where it is that already; NaN and infinity are errors that say where, counted
    along the first axes from `first` on.
    """
    with np.errstate(over="ignore"):
        result = np.require(array, np.float32, ["C", "A"])
    if not _finite(result):
        where = np.argwhere(~np.isfinite(result))[0].tolist()
        index = ", ".join(str(place + start) for place, start in itertools.zip_longest(where, first[: len(where)], fillvalue=0))
        raise ValueError(f"{name}: expected finite numbers, got {result[tuple(where)]} at [{index}]")
    return result


def _finite(array: F32) -> bool:
    """Whether no number of a contiguous array is NaN or infinite; a little at a time, since a flag a number is a quarter of the
    array."""
    flat, step = array.reshape(-1), 1 << 18
    return all(np.isfinite(flat[first : first + step]).all() for first in range(0, flat.size, step))


def as_pixels(array: NDArray[Any], name: str, first: int = 0) -> F32 | NDArray[np.uint8]:
    """Pictures as the engine takes them: uint8, or float32 in [-1, 1]."""
    if array.dtype == np.uint8:
        return np.require(array, requirements=["C", "A"])
    result = as_float32(array, name, first)
    # A thousandth over is rounding in somebody's arithmetic; 0..255 or an overshooting filter is not.
    if result.size and (result.min() < -1.001 or result.max() > 1.001):
        raise ValueError(
            f"{name}: expected float pixels in [-1, 1], got values from {result.min():g} to {result.max():g}; clip them, "
            "or pass uint8"
        )
    return result


def integers(value: Any, name: str, batch: int | None, low: int, high: int, meaning: str) -> I32:
    """int32 [B] of integers from low to high. `batch` None takes any length."""
    array = view(value, name)
    if array.size == 0 and not isinstance(value, np.ndarray):
        array = array.astype(np.int32)  # [] has no type of its own
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected integers [B], {meaning}, got {describe(array)}")
    check_shape(array, name, (("B", batch),), "pass a list, one an image" if array.ndim == 0 else "")
    wrong = (array < low) | (array > high)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"{name}: expected {low} to {high}, {meaning}, got {array[at]} at [{at}]")
    return array.astype(np.int32, order="C")  # a copy, so that what was checked stays as it was


def output(out: Any, name: str, shape: tuple[int, ...], dtype: type, inputs: Sequence[Any]) -> NDArray[Any]:
    """The array to write a result to: `out` if it is exactly right, or a new one where it is None."""
    if out is None:
        return np.empty(shape, dtype)
    expected = f"{np.dtype(dtype)} [{', '.join(map(str, shape))}], C-contiguous and writeable"
    if type(out) not in (np.ndarray, np.memmap):
        raise TypeError(f"{name}: expected a NumPy array, {expected}, got {type(out).__name__}")
    if out.dtype != dtype or out.shape != shape:
        raise ValueError(f"{name}: expected {expected}, got {describe(out)}")
    flags = out.flags
    if not (flags.c_contiguous and flags.writeable and flags.aligned):
        raise ValueError(
            f"{name}: expected {expected}, got one that is "
            + ("not C-contiguous" if not flags.c_contiguous else "read-only" if not flags.writeable else "not aligned")
        )
    if any(array is not None and np.may_share_memory(out, array) for array in inputs):
        raise ValueError(f"{name}: expected an array of its own, got one that overlaps an input")
    return out


def whole(value: Any, name: str, low: int, high: int) -> int:
    """A Python int from low to high; bools and floats are TypeErrors."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__} {value!r}")
    if not low <= int(value) <= high:
        raise ValueError(f"{name}: expected {low} to {high}, got {shown(value)}")
    return int(value)


def number(value: Any, name: str, low: float, high: float) -> float:
    """A Python float from low to high; NaN is a ValueError, bools and strings are TypeErrors."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__} {value!r}")
    # Before it becomes a float, which a number of hundreds of digits cannot.
    if not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{name}: expected {low:g} to {high:g}, got {shown(value)}")
    return float(value)


def instance(value: Any, name: str, kind: type, meaning: str = "") -> None:
    """A TypeError where the value is none of the kind; `meaning` is what messages call it, for kinds of Python's own."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {meaning or f'a {kind.__name__}'}, got {type(value).__name__} {shown(value)}")


# What other libraries call our arguments.
_ELSEWHERE = {
    "prompt": "captions", "prompts": "captions", "caption": "captions", "class_labels": "labels", "classes": "labels",
    "num_inference_steps": "steps", "num_steps": "steps", "generator": "seed", "cfg_scale": "guidance_scale",
    "guidance": "guidance_scale",
}  # fmt: skip


def no_unknown(unknown: Mapping[str, Any]) -> None:
    """A TypeError that names an argument there is not, and the one that may be meant."""
    for name in unknown:
        meant = _ELSEWHERE.get(name)
        raise TypeError(f"got an unexpected keyword argument {name!r}" + (f"; here it is {meant}=" if meant else ""))


def choice(value: Any, name: str, choices: Sequence[str]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {type(value).__name__} {value!r}")
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def thread_count(threads: Any, default: int = 0) -> int:
    """What `_core` takes: 0 for all it may use, else a cap."""
    return default if threads is None else whole(threads, "threads", 1, MAX_THREADS)


def spread(count: int, shown: int) -> list[int]:
    """Up to `shown` of `count` indices, evenly spread from the first to the last."""
    indices: list[int] = np.linspace(0, count - 1, min(shown, count)).round().astype(int).tolist()
    return indices
