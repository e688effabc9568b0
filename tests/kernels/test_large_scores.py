"""Attention of scores of any finite size: the softmax has a limit, one key for each query, and every row gives it."""

import ml_dtypes
import numpy as np
import pytest

from textok import _core, cpu_info

SHAPES = ((5, 9, 16), (64, 64, 64), (3, 3, 8), (33, 130, 32))


def aligned(array):
    raw = np.zeros(array.size + 64, np.uint16)
    start = (-raw.ctypes.data % 64) // 2
    result = raw[start : start + array.size].reshape(array.shape)
    result[...] = array.astype(ml_dtypes.bfloat16).view(np.uint16)
    return result


def attended(kernels, name, q, k, v):
    """float32 [Tq,Dh] of a kernel of a row."""
    if name == "attention_f32":
        return kernels.attention_f32(q, k, v)
    out, *rest = (aligned(array) for array in (np.zeros_like(q), q, k, v))
    getattr(kernels, name)(out, *rest)
    return out.view(ml_dtypes.bfloat16).astype(np.float32)


@pytest.mark.parametrize("isa", cpu_info()["rows"])
@pytest.mark.parametrize("name", ("attention_f32", "attention_bf16", "attention_int8"))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_key_is_left(isa, name, shape):
    kernels = _core.Kernels(isa)
    queries, keys, width = shape
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((count, width)).astype(np.float32) for count in (queries, keys, keys))
    if name == "attention_int8" and not _has_int8(kernels, q, k, v):
        pytest.skip("this row has none")
    exact = q.astype(ml_dtypes.bfloat16).astype(np.float64) @ k.astype(ml_dtypes.bfloat16).astype(np.float64).T
    top = np.sort(exact, axis=1)
    share = 0.1 if name == "attention_int8" else 0.01  # beyond what is rounded
    clear = top[:, -1] - top[:, -2] > share * np.abs(exact).max()
    best = v[exact.argmax(axis=1)]
    for power in range(4, 31):
        out = attended(kernels, name, q * np.float32(2.0**power), k, v)
        assert np.isfinite(out).all(), power
        if power >= 20:
            error = np.abs(out - best)[clear].max(initial=0)
            assert error <= (0.03 if name == "attention_int8" else 0.01) * np.abs(v).max(), (power, error)


def _has_int8(kernels, q, k, v):
    try:
        attended(kernels, "attention_int8", q, k, v)
    except (AttributeError, ValueError, NotImplementedError):
        return False
    return True
