"""What the files of a sample hold: PNG of pictures, .npz and safetensors of arrays, JSON of all else."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..errors import told
from ..numpy_files import unpack_npy, unpack_npz

FORMATS = ("npz", "safetensors")
LATENT, FLIPPED = "latent", "latent_flipped"


def as_bytes(extension: str, value: Any) -> bytes:
    """A sample's file, from whatever `write_shards` takes."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if extension == "json":
        return json_bytes(value)
    if isinstance(value, str | int):
        return str(value).encode()
    if extension == "png":
        return png_bytes(value)
    if extension in FORMATS and isinstance(value, Mapping):
        return pack_arrays(extension, {name: arrays.view(array, name) for name, array in value.items()})
    raise TypeError(f"{extension}: expected bytes, a string or what the extension says, got {type(value).__name__}")


def json_bytes(value: Any) -> bytes:
    """JSON in UTF-8; what that cannot hold of its strings stays as JSON's escapes."""
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")


def png_bytes(picture: Any) -> bytes:
    """A picture uint8 [H,W,3] as a PNG file."""
    from PIL import Image

    array = arrays.view(picture, "picture")
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"picture: expected uint8 [H, W, 3], got {arrays.describe(array)}")
    buffer = io.BytesIO()
    # Level 1 takes a third of the time of 6 and gives files a few percent larger; the pixels are the same.
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def pack_arrays(format: str, values: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays by name as the bytes of an .npz or safetensors file; no time is in them."""
    if format == "npz":
        buffer = io.BytesIO()
        by_name: dict[str, Any] = dict(values)  # NumPy before 2.1 would take allow_pickle for the name of an array
        np.savez(buffer, **by_name)
        return buffer.getvalue()
    import ml_dtypes  # noqa: F401
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array) for name, array in values.items()})


def unpack_arrays(format: str, data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz, .npy or safetensors file; every flaw is a ValueError."""
    try:
        if format == "safetensors":
            import ml_dtypes  # noqa: F401
            from safetensors.numpy import load

            return load(data)
        return {LATENT: unpack_npy(data)} if format == "npy" else unpack_npz(data)
    except MemoryError:
        raise
    except Exception as problem:  # noqa: BLE001  safetensors raises many kinds
        raise ValueError(f"not {format} data that can be read: {told(str(problem), 200)}") from None
