"""int4 rows: a weight is d s q, q in -8..7, s in 0..16 of each 32 of a row (the last may be fewer), d of the row.

Stored as `weights` says: `q` two to a byte, plus 8, the even one in the low four bits; `s` uint8; d float32.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP, MOST_SCALE = 32, 16

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


def pack(q: NDArray[Any]) -> U8:
    """Integers -8..7 [N,K] as stored, uint8 [N, K/2 up]."""
    even = np.pad(np.asarray(q, np.int16) + 8, ((0, 0), (0, q.shape[1] % 2)), constant_values=8).astype(np.uint8)
    return np.ascontiguousarray(even[:, ::2] | even[:, 1::2] << 4)


def unpack(rows: U8, columns: int) -> NDArray[np.int8]:
    """Stored rows as integers -8..7 [N,K], K `columns`."""
    q = np.stack([rows & 15, rows >> 4], 2).reshape(len(rows), -1)[:, :columns]
    return q.astype(np.int8) - np.int8(8)


def widened(rows: U8, scale: F32, group_scale: U8, columns: int) -> F32:
    """The float32 weights [N,K] that stored rows stand for."""
    steps = group_scale.repeat(GROUP, 1)[:, :columns].astype(np.int16)
    return (unpack(rows, columns) * steps).astype(np.float32) * scale[:, None]
