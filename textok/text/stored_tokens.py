"""How an embedding store writes a caption's tokens [t,Dt] as bytes.

float16, bfloat16    t * Dt * 2 bytes
int8                 a float32 scale a token, max |x| / 127, and then round(x / scale): t * 4 + t * Dt bytes
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = ("float16", "bfloat16", "int8")


def size_in_bytes(tokens: int, width: int, dtype: str) -> int:
    return tokens * (width + 4) if dtype == "int8" else tokens * width * 2


def to_bytes(tokens: NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "int8":
        scales = np.abs(tokens).max(axis=1) / np.float32(127)
        whole = np.rint(tokens / np.where(scales > 0, scales, 1)[:, None])
        return scales.astype("<f4").tobytes() + np.clip(whole, -127, 127).astype(np.int8).tobytes()
    with np.errstate(over="ignore"):
        rounded = tokens.astype(_type_of(dtype))
    if not np.isfinite(rounded.astype(np.float32)).all():
        raise ValueError(f"expected embeddings in the range of {dtype}, got up to {np.abs(tokens).max():g}; use bfloat16")
    return rounded.tobytes()


def from_bytes(data: memoryview, tokens: int, width: int, dtype: str) -> NDArray[Any]:
    if dtype == "int8":
        scales = np.frombuffer(data, "<f4", tokens)
        return np.frombuffer(data, np.int8, offset=4 * tokens).reshape(tokens, width) * scales[:, None]
    return np.frombuffer(data, _type_of(dtype)).reshape(tokens, width)


def _type_of(dtype: str) -> Any:
    if dtype == "float16":
        return np.dtype("<f2")
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)
