"""The float32 slots of every ISA row, and pixels, against float64, on sizes that fall on and beside the borders of vectors,
tiles and panels.

Inputs lie in buffers that end with their last element, with NaN between rows: a kernel that reads or keeps what isn't its own
shows, here or under AddressSanitizer.
"""

import itertools
import math

import numerics
import numpy as np
import pytest
from reference.layers import f64
from reference.textok_model import patchify, to_bytes, unpatchify

from textok._core import Kernels

DTYPES = ("_f32", "_u8")
SIZES = [1, 2, 3, 15, 16, 17, 31, 33, 63, 65, 97]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def spread(x, gap):
    """x as a float32 matrix with `gap` NaNs between rows and nothing after the last."""
    rows, columns = x.shape
    ld = columns + gap
    buffer = np.full((rows - 1) * ld + columns, np.nan, np.float32)
    view = np.lib.stride_tricks.as_strided(buffer, (rows, columns), (4 * ld, 4))
    view[...] = x
    return view


def normal(rng, *shape, gap=0):
    x = rng.standard_normal(shape).astype(np.float32)
    return spread(x, gap) if gap else x


def erfc(x):
    return np.vectorize(math.erfc, otypes=[np.float64])(x)


def activation(x, kind):
    x = np.asarray(x, np.float64)
    with np.errstate(over="ignore"):
        return {
            "none": lambda: x,
            "gelu_erf": lambda: 0.5 * x * erfc(-x / math.sqrt(2)),
            "gelu_tanh": lambda: x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
            "silu": lambda: x / (1 + np.exp(-x)),
            "tanh": lambda: np.tanh(x),
            "quick_gelu": lambda: x / (1 + np.exp(-1.702 * x)),
            "relu": lambda: np.maximum(x, 0),
        }[kind]()


ACTIVATIONS = ["none", "gelu_erf", "gelu_tanh", "silu", "tanh", "quick_gelu", "relu"]

# ---- gemm ----


def gemm_exact(a, w):
    """The product in float64 and the scale of KERNEL_GEMM."""
    a, w = f64(a), f64(w)
    return a @ w.T, (a.shape[1] + 2) * (np.abs(a) @ np.abs(w).T)


@pytest.mark.parametrize("M", SIZES)
def test_gemm_sizes(kernels, rng, M):
    for N, K in itertools.product(SIZES, SIZES):
        a, w = normal(rng, M, K, gap=5), normal(rng, N, K)
        numerics.check_scaled(kernels.gemm_f32(a, w), *gemm_exact(a, w), numerics.KERNEL_GEMM, f"M {M}, N {N}, K {K}")


@pytest.mark.parametrize(("M", "N", "K"), [(5, 130, 1500), (70, 200, 300), (130, 65, 800), (300, 64, 97), (64, 129, 3000)])
def test_gemm_blocks_and_sections(kernels, rng, M, N, K):
    a, w = normal(rng, M, K, gap=3), normal(rng, N, K)
    numerics.check_scaled(kernels.gemm_f32(a, w), *gemm_exact(a, w), numerics.KERNEL_GEMM)


def test_gemm_rejects_one_lost_product(rng):
    a, w = normal(rng, 3, 97), normal(rng, 5, 97)
    exact, scale = gemm_exact(a, w)
    a[1, 50] = 0
    assert numerics.scaled_error(f64(a) @ f64(w).T, exact, scale) > numerics.KERNEL_GEMM.limit


def test_gemm_rejects_bfloat16_inputs(rng):
    a, w = normal(rng, 3, 97), normal(rng, 5, 97)
    exact, scale = gemm_exact(a, w)
    rounded = (a.view(np.uint32) & 0xFFFF0000).view(np.float32)
    assert numerics.scaled_error(f64(rounded) @ f64(w).T, exact, scale) > numerics.KERNEL_GEMM.limit


@pytest.mark.parametrize("K", [1, 17, 97, 1300])
def test_gemm_row_has_the_same_bits_anywhere(kernels, rng, K):
    """The bits of a row depend on no other row, nor on their number, nor on which columns are asked for."""
    M, N = 97, 200
    a, w = normal(rng, M, K), normal(rng, N, K)
    whole = kernels.gemm_f32(a, w)
    for rows in (1, 2, 5, 6, 7, 31, 64, 65):
        assert np.array_equal(kernels.gemm_f32(a[M - rows :], w), whole[M - rows :])
    packed, parts = kernels.pack_f32(w), np.full((M, N), np.nan, np.float32)
    for n0, n1 in ((0, 64), (64, 128), (128, N)):
        kernels.gemm_packed_f32(parts, a, packed, n0=n0, n1=n1)
    assert np.array_equal(parts, whole)


def test_gemm_writes_only_its_columns(kernels, rng):
    M, N, K = 7, 130, 19
    a, w = normal(rng, M, K), normal(rng, N, K)
    out = np.full((M, N), -7.0, np.float32)
    kernels.gemm_packed_f32(out, a, kernels.pack_f32(w), n0=64, n1=127)
    assert np.array_equal(out[:, 64:127], kernels.gemm_f32(a, w)[:, 64:127])
    assert (out[:, :64] == -7).all() and (out[:, 127:] == -7).all()


def test_pack_and_unpack_are_bit_for_bit(kernels, rng):
    for N, K in itertools.product([*SIZES, 130], SIZES):
        w = rng.integers(0, 2**32, (N, K), dtype=np.uint32).view(np.float32)  # NaNs with payloads among them
        assert kernels.unpack_f32(kernels.pack_f32(w), N, K).tobytes() == w.tobytes()


def test_nan_and_inf_stay_in_their_row(kernels, rng):
    a, w = normal(rng, 20, 33), normal(rng, 65, 33)
    clean = kernels.gemm_f32(a, w)
    a[3, 7], a[11, 0] = np.nan, np.inf
    dirty = kernels.gemm_f32(a, w)
    assert not np.isfinite(dirty[[3, 11]]).any()
    others = np.delete(np.arange(20), [3, 11])
    assert np.array_equal(dirty[others], clean[others])


# ---- epilogue ----


def epilogue_exact(acc, bias, kind, residual, gate, group):
    """The epilogue in float64 and the scale of KERNEL_EPILOGUE."""
    acc = f64(acc)
    y = activation(acc if bias is None else acc + bias, kind)
    scale = np.abs(acc) + (0 if bias is None else np.abs(bias))
    if residual is None:
        return y, scale
    factor = 1.0 if gate is None else f64(gate)[np.zeros(len(acc), int) if group is None else group]
    return residual + factor * y, (1 + np.abs(factor)) * scale + np.abs(residual)


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("residual_and_gate", ["none", "residual", "gate", "groups"])
def test_epilogue(kernels, rng, kind, residual_and_gate):
    for (M, N), with_bias in itertools.product([(1, 1), (3, 15), (7, 16), (2, 97), (13, 65)], [False, True]):
        bias = normal(rng, N) if with_bias else None
        residual = normal(rng, M, N, gap=2) if residual_and_gate != "none" else None
        gate = {"gate": normal(rng, 1, N), "groups": normal(rng, 4, N, gap=3)}.get(residual_and_gate)
        group = rng.integers(0, 4, M).astype(np.int32) if residual_and_gate == "groups" else None
        acc = normal(rng, M, N, gap=1) * np.float32(3)
        args = (bias, kind, residual, gate, group)
        numerics.check_scaled(kernels.epilogue_f32(acc, *args), *epilogue_exact(acc, *args), numerics.KERNEL_EPILOGUE)
        a, w = normal(rng, M, 5), normal(rng, N, 5)
        assert np.array_equal(kernels.gemm_f32(a, w, *args), kernels.epilogue_f32(kernels.gemm_f32(a, w), *args))


def test_epilogue_residual_may_be_the_output(kernels, rng):
    a, w, x = normal(rng, 33, 17), normal(rng, 97, 17), normal(rng, 33, 97)
    expected, packed = kernels.gemm_f32(a, w, residual=x), kernels.pack_f32(w)
    kernels.gemm_packed_f32(x, a, packed, residual=x)
    assert np.array_equal(x, expected)


def test_epilogue_rejects_a_gate_row_off_by_one(rng):
    acc, residual, gate = normal(rng, 4, 9), normal(rng, 4, 9), normal(rng, 3, 9)
    exact, scale = epilogue_exact(acc, None, "none", residual, gate, np.array([0, 1, 2, 1]))
    wrong, _ = epilogue_exact(acc, None, "none", residual, gate, np.array([0, 1, 2, 0]))
    assert numerics.scaled_error(wrong, exact, scale) > numerics.KERNEL_EPILOGUE.limit


def test_epilogue_rejects_a_float16_residual(rng):
    acc, residual = normal(rng, 4, 9), normal(rng, 4, 9)
    exact, scale = epilogue_exact(acc, None, "none", residual, None, None)
    wrong, _ = epilogue_exact(acc, None, "none", residual.astype(np.float16), None, None)
    assert numerics.scaled_error(wrong, exact, scale) > numerics.KERNEL_EPILOGUE.limit


# ---- attention ----


def attention_exact(q, k, v, bias=None, scale=None):
    """The output in float64 and the scale of KERNEL_ATTENTION."""
    q, k, v = f64(q), f64(k), f64(v)
    scale = scale or 1 / math.sqrt(q.shape[1])
    scores, terms = q @ k.T, (np.abs(q) @ np.abs(k).T).max(1, keepdims=True)
    if bias is not None:
        added = by_distance(bias, len(q), len(k))
        scores, terms = scores + added, terms + np.abs(np.where(added < -1e20, 0, added)).max(1, keepdims=True)
    scores, terms = scores * scale, terms * scale
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return p @ v, (len(k) + 2 * (q.shape[1] + 4) * terms + 16) * (p @ np.abs(v))


def by_distance(bias, Tq, Tk):
    """The bias of row i of q and row j of k: number i - j + Tk - 1."""
    return f64(bias)[np.arange(Tq)[:, None] - np.arange(Tk) + Tk - 1]


MASKED = np.float32(-1e30)


@pytest.mark.parametrize("Dh", [1, 8, 40, 64, 65, 128])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_attention_with_a_bias_by_distance(kernels, rng, Dh, scale):
    """NaN lies before and behind the numbers that count."""
    for Tq, Tk in itertools.product([1, 2, 7, 25, 33, 70], [1, 3, 16, 31, 63, 65, 97, 256, 300]):
        q, k, v = (normal(rng, n, Dh, gap=3) for n in (Tq, Tk, Tk))
        bias = normal(rng, Tq + Tk - 1) * np.float32(3)
        result = kernels.attention_f32(q, k, v, bias=bias, scale=scale or 0)
        numerics.check_scaled(result, *attention_exact(q, k, v, bias, scale), numerics.KERNEL_ATTENTION, f"Tq {Tq}, Tk {Tk}")


def test_attention_with_a_causal_mask(kernels, rng):
    """What is masked leaves no trace: another key in its place changes no bit of the rows before it."""
    T, Dh = 77, 64
    q, k, v = (normal(rng, T, Dh) for _ in range(3))
    bias = np.where(np.arange(2 * T - 1) < T - 1, MASKED, np.float32(0))
    result = kernels.attention_f32(q, k, v, bias=bias)
    numerics.check_scaled(result, *attention_exact(q, k, v, bias), numerics.KERNEL_ATTENTION)
    k[50:], v[50:] = 100 * k[50:], 7 * v[50:]
    assert np.array_equal(kernels.attention_f32(q, k, v, bias=bias)[:50], result[:50])


def test_attention_rows_with_a_bias_have_the_same_bits_anywhere(kernels, rng):
    q, k, v, bias = normal(rng, 97, 40), normal(rng, 300, 40), normal(rng, 300, 40), normal(rng, 396)
    whole = kernels.attention_f32(q, k, v, bias=bias)
    for rows in (1, 5, 24, 25, 50):
        assert np.array_equal(kernels.attention_f32(q[97 - rows :], k, v, bias=bias[97 - rows :]), whole[97 - rows :])


def test_attention_rejects_a_bias_off_by_one_and_the_other_way(rng):
    q, k, v, bias = normal(rng, 5, 64), normal(rng, 300, 64), normal(rng, 300, 64), normal(rng, 304)
    exact, scale = attention_exact(q, k, v, bias)
    for wrong in (np.roll(bias, 1), bias[::-1]):
        assert numerics.scaled_error(attention_exact(q, k, v, wrong)[0], exact, scale) > numerics.KERNEL_ATTENTION.limit


@pytest.mark.parametrize("Dh", [1, 8, 15, 24, 40, 64, 65, 72, 80, 96, 128, 144])
def test_attention(kernels, rng, Dh):
    for Tq, Tk in itertools.product([1, 2, 7, 25, 33], [1, 3, 16, 31, 63, 65, 97, 256, 300, 520]):
        q, k, v = (normal(rng, n, Dh, gap=3) for n in (Tq, Tk, Tk))
        numerics.check_scaled(
            kernels.attention_f32(q, k, v), *attention_exact(q, k, v), numerics.KERNEL_ATTENTION, f"Tq {Tq}, Tk {Tk}"
        )


@pytest.mark.parametrize("factor", [0.0, 30.0])
def test_attention_flat_and_sharp(kernels, rng, factor):
    """Scores that are all equal, and scores of several hundred, where all but a few keys vanish."""
    q, k, v = normal(rng, 33, 64) * np.float32(factor), normal(rng, 600, 64), normal(rng, 600, 64)
    numerics.check_scaled(kernels.attention_f32(q, k, v), *attention_exact(q, k, v), numerics.KERNEL_ATTENTION)


def test_attention_row_has_the_same_bits_anywhere(kernels, rng):
    q, k, v = normal(rng, 97, 40), normal(rng, 300, 40), normal(rng, 300, 40)
    whole = kernels.attention_f32(q, k, v)
    for rows in (1, 5, 24, 25, 50):
        assert np.array_equal(kernels.attention_f32(q[97 - rows :], k, v), whole[97 - rows :])


def test_attention_nan_and_inf_stay_in_their_row(kernels, rng):
    q, k, v = normal(rng, 30, 24), normal(rng, 70, 24), normal(rng, 70, 24)
    clean = kernels.attention_f32(q, k, v)
    q[4, 2], q[9, 0] = np.nan, np.inf
    dirty = kernels.attention_f32(q, k, v)
    assert np.isnan(dirty[[4, 9]]).all()
    others = np.delete(np.arange(30), [4, 9])
    assert np.array_equal(dirty[others], clean[others])


def test_attention_rejects_a_lost_key_and_a_wrong_scale(rng):
    q, k, v = normal(rng, 5, 64), normal(rng, 300, 64), normal(rng, 300, 64)
    exact, scale = attention_exact(q, k, v)
    lost, _ = attention_exact(q, k[:-1], v[:-1])
    assert numerics.scaled_error(lost, exact, scale) > numerics.KERNEL_ATTENTION.limit
    wrong, _ = attention_exact(q * 1.01, k, v)
    assert numerics.scaled_error(wrong, exact, scale) > numerics.KERNEL_ATTENTION.limit


# ---- norm ----


def norm_exact(x, eps, weight, bias, shift, scale, group, rms=False):
    """LayerNorm or RMS norm in float64 and the scale of KERNEL_NORM."""
    x = f64(x)
    x = x if rms else x - x.mean(1, keepdims=True)
    y = x / np.sqrt((x**2).mean(1, keepdims=True) + eps)
    size = np.abs(y).max(1, keepdims=True) + np.zeros_like(y)
    if weight is not None:
        bias = 0 if bias is None else bias
        y, size = y * weight + bias, size * np.abs(weight) + np.abs(bias)
    if scale is not None:
        group = np.zeros(len(x), int) if group is None else group
        factor = 1 + f64(scale)[group]
        y, size = y * factor + shift[group], size * np.abs(factor) + np.abs(shift[group])
    return y, size


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("modulation", ["none", "one", "groups"])
def test_norm(kernels, rng, affine, modulation):
    for D, offset in itertools.product([*SIZES, 64, 768, 1152], [0.0, 1000.0]):
        x = spread(rng.standard_normal((5, D)) + offset, 3)
        weight, bias = (normal(rng, D), normal(rng, D)) if affine else (None, None)
        groups = {"none": 0, "one": 1, "groups": 3}[modulation]
        shift, scale = (normal(rng, groups, D), normal(rng, groups, D)) if groups else (None, None)
        group = rng.integers(0, 3, 5).astype(np.int32) if groups == 3 else None
        args = (1e-6, weight, bias, shift, scale, group)
        exact, size = norm_exact(x, *args)
        if D <= 3:  # two nearly equal numbers: the condition number of y is that of their difference
            size = size * (1 + np.abs(x).max(1, keepdims=True) / (f64(x).std(1, keepdims=True) + 1e-3))
        numerics.check_scaled(kernels.norm_f32(x, *args), exact, size, numerics.KERNEL_NORM, f"D {D}, offset {offset}")


@pytest.mark.parametrize("affine", ["none", "weight", "both"])
def test_rms_norm(kernels, rng, affine):
    for D, offset in itertools.product([*SIZES, 64, 768, 1152], [0.0, 1000.0]):
        x = spread(rng.standard_normal((5, D)) + offset, 3)
        args = (
            1e-6,
            None if affine == "none" else normal(rng, D),
            normal(rng, D) if affine == "both" else None,
            None,
            None,
            None,
            True,
        )
        exact, size = norm_exact(x, *args)
        numerics.check_scaled(kernels.norm_f32(x, *args), exact, size, numerics.KERNEL_NORM, f"D {D}, offset {offset}")
        assert D < 3 or numerics.scaled_error(norm_exact(x, *args[:6])[0], exact, size) > numerics.KERNEL_NORM.limit
    for deviation in (1e19, 1e37):
        x = spread(rng.standard_normal((3, 97)) * deviation, 3)
        numerics.check_scaled(
            kernels.norm_f32(x, 1e-6, rms=True), *norm_exact(x, 1e-6, *[None] * 5, True), numerics.KERNEL_NORM
        )


def test_norm_of_constant_rows(kernels):
    x = np.full((2, 100), 1234.5, np.float32)
    assert np.array_equal(kernels.norm_f32(x, 1e-6), np.zeros_like(x))


@pytest.mark.parametrize("deviation", [1e18, 2e19, 1e30, 1e37])
def test_norm_of_rows_whose_squares_are_beyond_float32(kernels, rng, deviation):
    for D, offset in itertools.product([2, 17, 97, 768], [0.0, 5.0]):
        x = (
            np.concatenate([np.ones((1, D)), rng.standard_normal((3, D)) + offset]) * [[1], [deviation], [1], [deviation]]
        ).astype(np.float32)
        args = (1e-6, None, None, None, None, None)
        exact, size = norm_exact(x, *args)
        if D == 2:
            size = size * (1 + np.abs(x).max(1, keepdims=True) / (f64(x).std(1, keepdims=True) + 1e-3))
        numerics.check_scaled(kernels.norm_f32(x, *args), exact, size, numerics.KERNEL_NORM, f"D {D}, offset {offset}")


def test_norm_nan_and_inf_stay_in_their_row(kernels, rng):
    x = normal(rng, 4, 70)
    clean = kernels.norm_f32(x, 1e-6)
    x[1, 69], x[2, 0] = np.nan, np.inf
    dirty = kernels.norm_f32(x, 1e-6)
    assert np.isnan(dirty[1]).all() and np.isnan(dirty[2]).any()
    assert np.array_equal(dirty[[0, 3]], clean[[0, 3]])


def test_norm_rejects_a_sample_variance_and_a_shifted_mean(rng):
    x = rng.standard_normal((5, 768)) + 1000
    args = (1e-6, None, None, None, None, None)
    exact, size = norm_exact(x, *args)
    assert numerics.scaled_error(exact * math.sqrt(767 / 768), exact, size) > numerics.KERNEL_NORM.limit
    float32_mean = (x - f64(np.float32(x.mean(1, keepdims=True)))) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    assert numerics.scaled_error(float32_mean, exact, size) > numerics.KERNEL_NORM.limit


# ---- activations ----


def useful_range():
    steps = np.linspace(-12, 12, 60_001)
    tiny = np.logspace(-44, 1, 4_000)
    x = np.concatenate([steps, tiny, -tiny]).astype(np.float32)
    return x[np.abs(x) < 1e30]


def activation_scale(x, exact, kind):
    if kind.startswith("gelu"):
        return np.maximum(np.abs(x), 1)
    of = (
        np.maximum(np.abs(1.702 * x), 2) / 2 if kind == "quick_gelu" else 1
    )  # where e^ makes more of a rounding of its argument
    return of * np.maximum(np.abs(exact), 1e-37)  # one float32 denormal may be lost


TOLERANCES = {
    "gelu_erf": numerics.KERNEL_GELU,
    "gelu_tanh": numerics.KERNEL_GELU,
    "silu": numerics.KERNEL_SILU,
    "tanh": numerics.KERNEL_TANH,
    "quick_gelu": numerics.KERNEL_QUICK_GELU,
    "relu": numerics.KERNEL_RELU,
}


@pytest.mark.parametrize("kind", TOLERANCES)
def test_activation(kernels, kind):
    x = useful_range()
    exact = activation(x, kind)
    numerics.check_scaled(kernels.activate_f32(x, kind), exact, activation_scale(x, exact, kind), TOLERANCES[kind])


@pytest.mark.parametrize("kind", ["gelu_erf", "gelu_tanh"])
def test_gelu_keeps_its_digits_where_it_vanishes(kernels, kind):
    x = useful_range()
    x = x[(x >= -3) & (x < -1e-30)]
    exact = activation(x, kind)
    numerics.check_scaled(kernels.activate_f32(x, kind), exact, np.abs(exact), numerics.KERNEL_GELU_TAIL)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation_limits_and_tails(kernels, kind):
    x = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 100, -100, 1e-45, -1e-45, 0], np.float32)
    y = kernels.activate_f32(x, kind)
    assert np.isnan(y[0]) and np.isfinite(y[3:]).all() and y[9] == 0
    high, low = {"none": (np.inf, -np.inf), "tanh": (1, -1)}.get(kind, (np.inf, 0))
    assert y[1] == high and y[2] == low
    for n in range(1, 36):  # every tail is as good as the same numbers within a longer array
        part = useful_range()[1000 : 1000 + n]
        assert np.array_equal(kernels.activate_f32(part, kind), kernels.activate_f32(useful_range()[1000:1040], kind)[:n])


@pytest.mark.parametrize("kind", TOLERANCES)
def test_activation_rejects_the_other_gelu_and_half_precision(kind):
    x = useful_range()
    exact = activation(x, kind)
    scale = activation_scale(x, exact, kind)
    if kind.startswith("gelu"):
        other = activation(x, "gelu_tanh" if kind == "gelu_erf" else "gelu_erf")
        assert numerics.scaled_error(other, exact, scale) > TOLERANCES[kind].limit
    assert numerics.scaled_error(exact * (1 + 1e-6), exact, scale) > TOLERANCES[kind].limit


def test_gelu_tail_rejects_one_plus_erf():
    """The textbook formula in float32 loses the digits that KERNEL_GELU_TAIL asks for."""
    x = np.linspace(-3, -0.1, 1000).astype(np.float32)
    erf = np.vectorize(math.erf, otypes=[np.float32])(x / np.float32(math.sqrt(2)))
    textbook, exact = np.float32(0.5) * x * (1 + erf), activation(x, "gelu_erf")
    assert numerics.scaled_error(textbook, exact, np.abs(exact)) > numerics.KERNEL_GELU_TAIL.limit


# ---- sampling step ----


def step_exact(x, x0_prev, m, v, noise, u):
    """The new state, the prediction of the end, and the largest term."""
    x, x0_prev, m = f64(x), f64(x0_prev), f64(m)
    terms = [u[2] * x, u[3] * m, u[4] * x0_prev]
    if noise is not None:
        terms.append(u[5] * f64(noise))
        if v is not None:
            w = (f64(v) + 1) / 2
            terms.append(u[6] * np.exp(0.5 * (w * u[8] + (1 - w) * u[7])) * noise)
    return sum(terms), u[0] * x + u[1] * m, sum(np.abs(t) for t in terms) + np.abs(u[0] * x) + np.abs(u[1] * m)


@pytest.mark.parametrize("with_v", [False, True])
@pytest.mark.parametrize("with_noise", [False, True])
def test_step(kernels, rng, with_v, with_noise):
    for n in SIZES:
        u = np.append(rng.standard_normal(7), [-9.0, -3.0, 0.0])
        x, x0_prev, m, v, noise = (normal(rng, n) for _ in range(5))
        v, noise = v if with_v else None, noise if with_noise else None
        exact, x0, scale = step_exact(x, x0_prev, m, v, noise, u)
        kernels.step_f32(x, x0_prev, m, v, noise, u)
        numerics.check_scaled(x, exact, scale, numerics.KERNEL_STEP)
        numerics.check_scaled(x0_prev, x0, scale, numerics.KERNEL_STEP)


def test_step_rejects_swapped_log_variances(rng):
    u = np.append(rng.standard_normal(7), [-9.0, -3.0, 0.0])
    x, x0_prev, m, v, noise = (normal(rng, 50) for _ in range(5))
    exact, _, scale = step_exact(x, x0_prev, m, v, noise, u)
    u[7], u[8] = u[8], u[7]
    assert numerics.scaled_error(step_exact(x, x0_prev, m, v, noise, u)[0], exact, scale) > numerics.KERNEL_STEP.limit


# ---- rotary positions ----


def turned(x, turns):
    """The turned pairs in float64, and the size of what each is a sum of."""
    pairs, factors = (np.asarray(array, np.float64).reshape(*array.shape[:-1], -1, 2) for array in (x, turns))
    (a, b), (c, s) = np.moveaxis(pairs, -1, 0), np.moveaxis(factors, -1, 0)
    exact, scale = (
        np.stack([a * c - b * s, a * s + b * c], -1),
        np.stack([abs(a * c) + abs(b * s), abs(a * s) + abs(b * c)], -1),
    )
    return exact.reshape(x.shape), scale.reshape(x.shape)


def turns_of(rng, rows, columns, gap=0):
    angles = rng.uniform(-9, 9, (rows, columns // 2))
    turns = np.stack([np.cos(angles), np.sin(angles)], -1).reshape(rows, columns).astype(np.float32)
    return spread(turns, gap) if gap else turns


@pytest.mark.parametrize("columns", [2, 4, 14, 16, 18, 30, 32, 34, 96, 768])
def test_rotate(kernels, rng, columns):
    for rows, gap in ((1, 0), (3, 2), (17, 6)):
        x, turns = normal(rng, rows, columns, gap=gap), turns_of(rng, rows, columns, gap)
        exact, scale = turned(x, turns)
        kernels.rotate_f32(x, turns)
        numerics.check_scaled(x, exact, scale, numerics.KERNEL_ROTATE)


def test_rotate_rejects_pairs_of_halves(rng):
    """Pairs are neighbours; pairing column j with column j + n/2, as other models do, is another result."""
    x, turns = normal(rng, 5, 32), turns_of(rng, 5, 32)
    exact, scale = turned(x, turns)
    halves = turned(x.reshape(5, 2, 16).swapaxes(1, 2).reshape(5, 32), turns)[0]
    assert numerics.scaled_error(halves, exact, scale) > numerics.KERNEL_ROTATE.limit


# ---- patches ----


@pytest.mark.parametrize(("S", "p"), [(1, 1), (6, 2), (6, 3), (16, 8), (5, 5), (32, 4)])
def test_patches_are_the_same_pixels(kernels, rng, S, p):
    image = rng.integers(0, 256, (S, S, 3), dtype=np.uint8)
    floats = image.astype(np.float32) / np.float32(127.5) - 1
    side = S // p
    expected = floats.reshape(side, p, side, p, 3).transpose(0, 2, 1, 3, 4).reshape(side * side, 3 * p * p)
    assert np.array_equal(kernels.patchify(floats, p), expected)
    assert np.array_equal(kernels.patchify(image, p), expected)
    assert np.array_equal(kernels.unpatchify(spread(expected, 2), S, p, False), floats)
    assert np.array_equal(kernels.unpatchify(spread(expected, 2), S, p, True), image)


@pytest.mark.parametrize(("S", "p", "o"), [(2, 2, 1), (6, 2, 1), (9, 3, 1), (16, 8, 4), (16, 8, 1), (15, 5, 2), (32, 4, 2)])
def test_overlapping_patches_are_windows_and_add_up(kernels, rng, S, p, o):
    image = rng.integers(0, 256, (S, S, 3), dtype=np.uint8)
    floats = image.astype(np.float32) / np.float32(127.5) - 1
    expected = patchify(floats, p, o).astype(np.float32)
    assert np.array_equal(kernels.patchify(floats, p, o), expected)
    assert np.array_equal(kernels.patchify(image, p, o), expected)
    windows = rng.standard_normal(expected.shape).astype(np.float32) / 4
    exact = unpatchify(windows.astype(np.float64), S, p, o)
    got = kernels.unpatchify(spread(windows, 2), S, p, False, o)
    assert np.abs(got - exact).max() <= 4 * np.finfo(np.float32).eps * np.abs(windows).max()  # three additions of four windows
    assert np.array_equal(kernels.unpatchify(spread(windows, 2), S, p, True, o), to_bytes(got))


def test_every_byte_comes_back_and_others_are_clipped(kernels):
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert np.array_equal(kernels.unpatchify(kernels.patchify(levels, 4), 16, 4, True), levels)
    odd = np.array([[-2, 2, np.nan, np.inf, -np.inf, -1, 1, 0, 0.0039, -0.9962, 0.9999, 1e30]], np.float32)
    expected = [0, 255, 0, 255, 0, 0, 255, 128, 128, 0, 255, 255]
    assert kernels.unpatchify(odd, 2, 2, True).ravel().tolist() == expected


# ---- the Python side of the slots ----


def test_bad_arguments_are_named(kernels, rng):
    a, w = normal(rng, 3, 5), normal(rng, 4, 5)
    fixed = normal(rng, 3, 5)
    fixed.flags.writeable = False
    row = fixed[0]
    u = np.zeros(10)
    for call, text in [
        (lambda: kernels.gemm_f32(a, normal(rng, 4, 6)), "w: extent 1 is 6, expected 5"),
        (lambda: kernels.gemm_f32(f64(a), w), "a: expected an aligned float32 array"),
        (lambda: kernels.gemm_f32(a.tolist(), w), "a: expected a NumPy array"),
        (lambda: kernels.gemm_f32(a, w, activation="sine"), "activation sine is not known"),
        (lambda: kernels.gemm_f32(a, w, gate=normal(rng, 1, 4)), "gate: needs a residual"),
        (lambda: kernels.gemm_f32(a[:, ::-1], w), "a: the elements of a row must lie side by side"),
        (
            lambda: kernels.gemm_f32(
                a, w, residual=normal(rng, 3, 4), gate=normal(rng, 2, 4), group=np.array([0, 2, 0], np.int32)
            ),
            "group: 2 at row 1",
        ),
        (lambda: kernels.norm_f32(a, 1e-6, bias=normal(rng, 5)), "bias needs weight"),
        (lambda: kernels.attention_f32(a, w, normal(rng, 3, 5)), "v: extent 0 is 3, expected 4"),
        (
            lambda: kernels.gemm_packed_f32(fixed, a, kernels.pack_f32(normal(rng, 5, 5))),
            "out: expected an array that can be written to",
        ),
        (lambda: kernels.attention_f32(a, w, w, fixed), "out: expected an array that can be written to"),
        (lambda: kernels.step_f32(row, a[0], a[1], None, None, u), "^x: expected an array that can be written to"),
        (lambda: kernels.step_f32(a[0], row, a[1], None, None, u), "x0_prev: expected an array that can be written to"),
        (lambda: kernels.unpatchify(a, 5, 2, True), "5 pixels do not divide into patches of 2"),
        (lambda: kernels.unpatchify(a, 4, 2, True, 2), "overlap: expected 0 to 1, half of a patch, got 2"),
    ]:
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(ValueError, match="not known; choose from"):
        Kernels("sse9")


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_gated(kernels, rng, kind):
    for M, F in itertools.product([1, 3, 8], SIZES):
        wide = normal(rng, M, 2 * F, gap=5) * np.float32(2)
        x, y = wide[:, :F], wide[:, F:]
        exact = activation(x, kind) * y
        numerics.check_scaled(kernels.gated_f32(x, y, kind), exact, np.maximum(np.abs(x), 1) * np.abs(y), numerics.KERNEL_GATED)
        if M * F >= 64:  # planted: one part in 100,000
            scale = np.maximum(np.abs(x), 1) * np.abs(y)
            assert numerics.scaled_error(exact * (1 + 1e-5), exact, scale) > numerics.KERNEL_GATED.limit
