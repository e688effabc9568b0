"""The slots of bfloat16 and int8: each row against float64 on the already rounded inputs, integer sums the same on every row,
and results that do not depend on what else is computed.

Awkward sizes throughout, rows further apart than they are long, and padding that would show if it were read or missing.
"""

from math import erf

import numerics
import numpy as np
import pytest
from numerics import check, check_rms, rejects, rejects_rms

DTYPES = ("_bf16", "_int8", "_int4")
SIZES = (1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 65, 97)


def rng(*seed):
    return np.random.default_rng(seed)


def bf16(x):
    """Rounded to nearest even, as uint16."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), ((bits >> 16) | 0x40).astype(np.uint16), rounded)


def wide(x):
    """The float32 values of bfloat16."""
    return (np.asarray(x, np.uint16).astype(np.uint32) << 16).view(np.float32)


def padded(k):
    return (k + 63) // 64 * 64


def operand(x, extra=0, rows_after=0):
    """A copy of x with rows padded by zeros to 64 elements, 64-byte aligned, `extra` cache lines apart; behind the last row,
    poison."""
    m, k = x.shape
    line = 64 // x.itemsize
    ld = padded(k) + extra * line
    whole = np.full((m + rows_after) * ld + line, 0x7F if x.dtype == np.int8 else 0x7FC0, x.dtype)
    skip = -whole.ctypes.data % 64 // x.itemsize
    a = whole[skip : skip + (m + rows_after) * ld].reshape(-1, ld)[:m, : padded(k)]
    a[:] = 0
    a[:, :k] = x
    return a


def activate(x, kind):
    if kind == "gelu_erf":
        return x * np.vectorize(lambda v: 0.5 * (1 + erf(v / np.sqrt(2))), otypes=[float])(x)
    if kind == "gelu_tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return {"none": lambda: x, "silu": lambda: x / (1 + np.exp(-x)), "tanh": lambda: np.tanh(x)}[kind]()


def finish(product, bias=None, activation="none", residual=None, gate=None, group=None):
    y = activate(product + (0 if bias is None else bias.astype(np.float64)), activation)
    if residual is None:
        return y
    gates = 1.0 if gate is None else gate[np.zeros(len(y), int) if group is None else group]
    return residual + gates * y


def quantize(x):
    """The definition in kernels.h, in float32 as it says."""
    x = np.asarray(x, np.float32)
    largest = np.abs(x).max(1)
    sound = np.isfinite(largest)
    zeros = largest < np.float32(2.0**-100)
    safe = np.where(zeros | ~sound, np.float32(1), largest)
    scale = np.where(sound, np.where(zeros, np.float32(1), safe / np.float32(127)), np.float32(np.nan)).astype(np.float32)
    factor = (np.float32(127) / safe)[:, None]
    q = np.where((sound & ~zeros)[:, None], np.rint(np.where(np.isfinite(x), x, 0) * factor), 0)
    return q.astype(np.int8), scale


def run_bf16(k, a, w, n0=0, n1=-1, out=None, out_bf16=False, K=None, **epilogue):
    K = w.shape[1] if K is None else K
    out = np.full((len(a), len(w)), np.uint16(0x7FC0) if out_bf16 else np.float32(np.nan)) if out is None else out
    k.gemm_bf16(out, a, k.pack_bf16(w), K, n0=n0, n1=n1, **epilogue)
    return out


def run_int8(k, a, w, a_scale, w_scale, n0=0, n1=-1, out_bf16=False, **epilogue):
    out = np.full((len(a), len(w)), np.uint16(0x7FC0) if out_bf16 else np.float32(np.nan))
    k.gemm_int8(out, a, k.pack_int8(w), w.shape[1], a_scale, w_scale, n0=n0, n1=n1, **epilogue)
    return out


# ---- conversions ----

SPECIAL = np.float32(
    [0, -0.0, 1, -1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan, 1e-37]
)


@pytest.mark.parametrize("k", SIZES)
def test_round_bf16(kernels, k):
    x = rng(1, k).standard_normal((5, k + 3)).astype(np.float32)
    x.flat[: len(SPECIAL)] = SPECIAL[: x.size]
    got = kernels.round_bf16(x[:, :k])
    assert got.shape == (5, padded(k)) and not got[:, k:].any()
    assert np.array_equal(got[:, :k], bf16(x[:, :k]))


@pytest.mark.parametrize("k", (2, 6, 14, 16, 18, 34, 96, 768))
def test_rotate_bf16(kernels, k):
    """As the float32 slot on the rounded numbers (which has a test of its own), rounded once more."""
    x = bf16(rng(5, k).standard_normal((17, k + 4)).astype(np.float32))
    turns = rng(6, k).uniform(-1, 1, (17, k)).astype(np.float32)
    expected = wide(x[:, :k])
    kernels.rotate_f32(expected, turns)
    beside = x[:, k:].copy()
    kernels.rotate_bf16(x[:, :k], turns)
    assert np.array_equal(x[:, :k], bf16(expected)) and np.array_equal(x[:, k:], beside)


@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("from_bf16", (False, True))
def test_quantize_int8(kernels, k, from_bf16):
    x = (rng(2, k).standard_normal((9, k + 3)) * 10.0 ** np.arange(-4, 5)[:, None]).astype(np.float32)
    x[0] = 0
    x[1] = 2.0**-110
    if k > 2:
        x[2, 1], x[3, 2] = np.inf, np.nan
    x[4, 0] = -3.4e38
    source = bf16(x)[:, :k] if from_bf16 else x[:, :k]
    got, scale = kernels.quantize_int8(source)
    expected, expected_scale = quantize(wide(source) if from_bf16 else source)
    assert np.array_equal(got[:, :k], expected) and not got[:, k:].any()
    assert np.array_equal(scale, expected_scale, equal_nan=True)
    assert np.abs(got.astype(int)).max() <= 127


@pytest.mark.parametrize("d", (1, 2, 15, 17, 63, 64, 65, 97, 768, 1152))
@pytest.mark.parametrize("parts", ("plain", "affine", "modulated", "both"))
def test_norms(kernels, d, parts):
    r = rng(3, d)
    x = (r.standard_normal((6, d)) * 3 + 100).astype(np.float32)
    group = np.int32([0, 1, 2, 0, 1, 2])
    arguments = {}
    if parts in ("affine", "both"):
        arguments |= {"weight": r.standard_normal(d).astype(np.float32), "bias": r.standard_normal(d).astype(np.float32)}
    if parts in ("modulated", "both"):
        arguments |= {
            "shift": r.standard_normal((3, d)).astype(np.float32),
            "scale": r.standard_normal((3, d)).astype(np.float32),
            "group": group,
        }
    y = (x.astype(np.float64) - x.mean(1, dtype=np.float64, keepdims=True)) / np.sqrt(
        x.astype(np.float64).var(1, keepdims=True) + 1e-6
    )
    if "weight" in arguments:
        y = y * arguments["weight"] + arguments["bias"]
    if "scale" in arguments:
        y = y * (1.0 + arguments["scale"][group]) + arguments["shift"][group]
    got = kernels.norm_bf16(x, 1e-6, **arguments)
    assert got.shape == (6, padded(d)) and not got[:, d:].any()
    check(wide(got[:, :d]), y, numerics.ROUNDED_BF16)
    assert d == 1 or rejects(wide(got[:, :d]) * 1.01, y, numerics.ROUNDED_BF16)
    got, scale = kernels.norm_int8(x, 1e-6, **arguments)
    assert not got[:, d:].any()
    check(got[:, :d] * scale[:, None].astype(np.float64), y, numerics.ROUNDED_INT8)
    if d > 1:
        assert np.abs(got.astype(int)).max() == 127
        assert rejects(got[:, :d] * scale[:, None] * 1.01, y, numerics.ROUNDED_INT8)


@pytest.mark.parametrize("d", (1, 31, 64, 97, 768))
def test_rms_norms(kernels, d):
    r = rng(23, d)
    x, weight = (r.standard_normal((4, d)) + 2).astype(np.float32), r.standard_normal(d).astype(np.float32)
    y = x.astype(np.float64) / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True) + 1e-6) * weight
    got = kernels.norm_bf16(x, 1e-6, weight=weight, rms=True)
    assert not got[:, d:].any()
    check(wide(got[:, :d]), y, numerics.ROUNDED_BF16)
    got, scale = kernels.norm_int8(x, 1e-6, weight=weight, rms=True)
    assert not got[:, d:].any()
    check(got[:, :d] * scale[:, None].astype(np.float64), y, numerics.ROUNDED_INT8)
    if d > 1:
        assert rejects(wide(kernels.norm_bf16(x, 1e-6, weight=weight, bias=0 * weight)[:, :d]), y, numerics.ROUNDED_BF16)


@pytest.mark.parametrize("deviation", (1e18, 2e19, 1e37))
def test_norms_of_rows_whose_squares_are_beyond_float32(kernels, deviation):
    x = (rng(10).standard_normal((3, 97)) * [[deviation], [1], [deviation]]).astype(np.float32)
    y = (x.astype(np.float64) - x.mean(1, dtype=np.float64, keepdims=True)) / x.astype(np.float64).std(1, keepdims=True)
    check(wide(kernels.norm_bf16(x, 1e-6)[:, :97]), y, numerics.ROUNDED_BF16)
    got, scale = kernels.norm_int8(x, 1e-6)
    check(got[:, :97] * scale[:, None].astype(np.float64), y, numerics.ROUNDED_INT8)


def test_results_go_into_arrays_that_can_be_written_to(kernels):
    """An `out` that is read-only is refused."""
    x = rng(11).standard_normal((4, 8)).astype(np.float32)
    for kind in (np.float32, np.uint16):
        out = np.zeros((4, 4), kind)
        out.flags.writeable = False
        with pytest.raises(ValueError, match="out: expected an array that can be written to"):
            kernels.gemm_bf16(out, kernels.round_bf16(x), kernels.pack_bf16(x), 8)
    out = np.zeros((4, 8), np.uint16)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out: expected an array that can be written to"):
        kernels.attention_bf16(out, *(bf16(x) for _ in range(3)))


# ---- packing ----


@pytest.mark.parametrize("n,k", [(1, 1), (3, 5), (15, 63), (16, 64), (17, 65), (31, 97), (33, 2), (64, 128), (97, 130)])
def test_unpack_is_the_inverse(kernels, n, k):
    w = rng(4, n, k).standard_normal((n, k)).astype(np.float32)
    assert np.array_equal(kernels.unpack_bf16(kernels.pack_bf16(w), n, k), bf16(w))
    q = rng(5, n, k).integers(-127, 128, (n, k)).astype(np.int8)
    assert np.array_equal(kernels.unpack_int8(kernels.pack_int8(q), n, k), q)


# ---- gemm ----

SHAPES = [
    (m, n, k)
    for m, n, k in zip(
        SIZES * 3,
        SIZES[3:] + SIZES[:3] + SIZES[5:] + SIZES[:5] + SIZES[7:] + SIZES[:7],
        SIZES[8:] + SIZES[:8] + SIZES[1:] + SIZES[:1] + SIZES[6:] + SIZES[:6],
    )
]
SHAPES += [(70, 96, 300), (33, 64, 768), (130, 35, 1200), (1, 33, 3072), (64, 32, 576), (1100, 33, 64)]


@pytest.mark.parametrize("m,n,k", SHAPES)
def test_gemm_bf16(kernels, m, n, k):
    r = rng(6, m, n, k)
    a, w = r.standard_normal((m, k)), r.standard_normal((n, k)).astype(np.float32)
    got = run_bf16(kernels, operand(bf16(a), extra=m % 3, rows_after=1), w)
    exact = wide(bf16(a)).astype(np.float64) @ wide(bf16(w)).astype(np.float64).T
    check(got, exact, numerics.GEMM_BF16)
    bad = got.copy()
    bad.flat[-1] += 2e-5 * np.abs(exact).max()
    assert rejects(bad, exact, numerics.GEMM_BF16)


@pytest.mark.parametrize("activation", ("none", "gelu_erf", "gelu_tanh", "silu", "tanh"))
@pytest.mark.parametrize("parts", ("", "residual", "gate", "group", "out_bf16"))
@pytest.mark.parametrize("m,n", ((5, 33), (49, 70)))
def test_epilogues(kernels, activation, parts, m, n):
    r = rng(7, m)
    k = 65
    a, w = r.standard_normal((m, k)), (r.standard_normal((n, k)) / 8).astype(np.float32)
    e = {"bias": r.standard_normal(n).astype(np.float32), "activation": activation}
    if parts in ("residual", "gate", "group"):
        e["residual"] = r.standard_normal((m, n + 5)).astype(np.float32)[:, :n]
    if parts == "gate":
        e["gate"] = r.standard_normal((1, n)).astype(np.float32)
    if parts == "group":
        e |= {"gate": r.standard_normal((3, n)).astype(np.float32), "group": r.integers(0, 3, m).astype(np.int32)}
    out_bf16 = parts == "out_bf16"
    got = run_bf16(kernels, operand(bf16(a)), w, out_bf16=out_bf16, **e)
    exact = finish(wide(bf16(a)).astype(np.float64) @ wide(bf16(w)).astype(np.float64).T, **e)
    check(wide(got) if out_bf16 else got, exact, numerics.ROUNDED_BF16 if out_bf16 else numerics.GEMM_BF16)

    (qa, sa), (qw, sw) = quantize(a), quantize(w)
    got = run_int8(kernels, operand(qa), qw, sa, sw, out_bf16=out_bf16, **e)
    exact = finish((qa.astype(np.int64) @ qw.astype(np.int64).T) * (sa[:, None] * sw).astype(np.float64), **e)
    check(wide(got) if out_bf16 else got, exact, numerics.ROUNDED_BF16 if out_bf16 else numerics.GEMM_INT8)
    if not out_bf16:  # planted: a scale that is off by a thousandth
        other = finish((qa.astype(np.int64) @ qw.astype(np.int64).T) * (sa[:, None] * sw * 1.001).astype(np.float64), **e)
        assert numerics.rejects(other, exact, numerics.GEMM_INT8)


@pytest.mark.parametrize("m,n,k", SHAPES)
def test_int8_sums_are_exact(kernels, m, n, k):
    r = rng(8, m, n, k)
    a, w = (r.integers(-127, 128, s).astype(np.int8) for s in ((m, k), (n, k)))
    a[0], w[0] = 127, -127
    if m > 1:
        a[1] = -127
    sa, sw = (r.uniform(0.01, 1, s).astype(np.float32) for s in (m, n))
    got = run_int8(kernels, operand(a, extra=m % 3, rows_after=1), w, sa, sw)
    sums = a.astype(np.int64) @ w.astype(np.int64).T
    assert np.array_equal(got, sums.astype(np.int32).astype(np.float32) * (sa[:, None] * sw))


def sums_in_16_bits(w):
    """The most of one sign that fours of a row's weights have, which a product of 8 k may add in 16 bits: 0, 1, 4 and 5 of
    them, 2, 3, 6 and 7."""
    fours = np.pad(w.astype(int), ((0, 0), (0, -w.shape[1] % 8))).reshape(len(w), -1, 2, 2, 2)
    return max(np.maximum(fours, 0).sum((2, 4)).max(), -np.minimum(fours, 0).sum((2, 4)).min())


def fits(kernels):
    """Whether this row's gemm_int8 multiplies fitted weights faster."""
    return kernels.slots()["gemm_int8"] in ("avx2", "avx512")


def panels_that_fit(packed, n, k):
    """Of weights packed for avx2 and avx512: what each panel of 16 columns remembers, behind all of them."""
    panels = -(-n // 16)
    heads = packed[panels * 16 * padded(k) :].view(np.int32).reshape(panels, 17)
    return heads[:, 16].tolist()


@pytest.mark.parametrize("n,k", ((1, 1), (5, 8), (33, 70), (40, 1200)))
@pytest.mark.parametrize("kind", ("gaussian", "uniform", "equal", "sparse"))
def test_fitted_weights_are_near_and_stay(kernels, n, k, kind):
    r = rng(28, n, k)
    w = {
        "gaussian": lambda: r.standard_normal((n, k)),
        "uniform": lambda: r.uniform(-1, 1, (n, k)),
        "equal": lambda: np.ones((n, k)),
        "sparse": lambda: r.standard_normal((n, k)) * (r.uniform(size=(n, k)) < 0.02),
    }[kind]()
    q, scale = quantize(w.astype(np.float32))
    fitted, step = q.copy(), scale.copy()
    kernels.fit_int8(fitted, step)
    assert (step >= scale).all() and (step <= 4.1 * scale).all()
    with pytest.raises(ValueError, match="w: .*writ"):
        kernels.fit_int8(np.frombuffer(bytes(64), np.int8).reshape(1, 64), np.ones(1, np.float32))
    assert (np.abs(fitted * step[:, None] - q * scale[:, None]) <= step[:, None] * 0.5001).all()
    again, same = fitted.copy(), step.copy()
    kernels.fit_int8(again, same)
    assert np.array_equal(again, fitted) and np.array_equal(same, step)
    if fits(kernels):
        assert sums_in_16_bits(fitted) <= 128 and (np.array_equal(fitted, q) or sums_in_16_bits(q) > 128)
    else:
        assert np.array_equal(fitted, q)


@pytest.mark.parametrize("m,n,k", SHAPES)
def test_sums_of_fitted_weights_are_exact(kernels, m, n, k):
    """Of the largest that are fitted, with inputs of the largest."""
    r = rng(29, m, n, k)
    a, w = r.choice(np.array([-127, 127], np.int8), (m, k)), np.zeros((n, k), np.int8)
    places = np.arange(k) % 8
    first, second = np.isin(places, (0, 1, 4, 5)), np.isin(places, (2, 3, 6, 7))
    w[:, first], w[:, second] = 32, -32
    w[n // 2 :, places == 0], w[n // 2 :, places == 1], w[n // 2 :, places == 4] = 127, 1, -127
    w[n // 2 :, places == 5] = -1
    fitted = w.copy()
    kernels.fit_int8(fitted, np.ones(n, np.float32))
    assert np.array_equal(fitted, w)
    sa, sw = (r.uniform(0.01, 1, s).astype(np.float32) for s in (m, n))
    got = run_int8(kernels, operand(a, extra=m % 3, rows_after=1), w, sa, sw)
    sums = a.astype(np.int64) @ w.astype(np.int64).T
    assert np.array_equal(got, sums.astype(np.int32).astype(np.float32) * (sa[:, None] * sw))
    if fits(kernels):
        assert all(panels_that_fit(kernels.pack_int8(w), n, k))
    for large in range(0, n, 17):  # one weight beyond in a panel
        w[large, 0] = 127
        w[large, k // 2] = -127
        w[large, 1:2] = 2  # 129 together
    if fits(kernels) and k > 1:
        spoilt = {large // 16 for large in range(0, n, 17)}
        assert panels_that_fit(kernels.pack_int8(w), n, k) == [int(p not in spoilt) for p in range(-(-n // 16))]
    got = run_int8(kernels, operand(a), w, sa, sw)
    sums = a.astype(np.int64) @ w.astype(np.int64).T
    assert np.array_equal(got, sums.astype(np.int32).astype(np.float32) * (sa[:, None] * sw))


def test_a_bad_row_is_nan_and_no_other(kernels):
    x = rng(9).standard_normal((35, 70)).astype(np.float32)
    x[17, 3] = np.nan
    q, scale = kernels.quantize_int8(x)
    w = rng(10).integers(-127, 128, (33, 70)).astype(np.int8)
    out = run_int8(kernels, q, w, scale, np.ones(33, np.float32))
    assert np.isnan(out[17]).all() and np.isfinite(np.delete(out, 17, 0)).all()
    out = run_bf16(kernels, kernels.round_bf16(x), w.astype(np.float32))
    assert np.isnan(out[17]).all() and np.isfinite(np.delete(out, 17, 0)).all()


@pytest.mark.parametrize("k", (65, 600, 3072))
def test_gemm_rows_and_columns_do_not_matter(kernels, k):
    """A row's bits: alone, at another place, with other rows, with other columns."""
    r = rng(11, k)
    m, n = 77, 130
    a, w = bf16(r.standard_normal((m, k))), r.standard_normal((n, k)).astype(np.float32)
    whole = run_bf16(kernels, operand(a), w, activation="gelu_erf")
    for rows in (slice(0, 1), slice(76, 77), slice(3, 35), slice(5, 77), slice(16, 33)):
        assert np.array_equal(run_bf16(kernels, operand(a[rows], extra=1), w, activation="gelu_erf"), whole[rows])
    part = run_bf16(kernels, operand(a), w, n0=64, n1=99, activation="gelu_erf")
    assert np.array_equal(part[:, 64:99], whole[:, 64:99])
    assert np.isnan(part[:, :64]).all() and np.isnan(part[:, 99:]).all()
    many = run_bf16(kernels, operand(np.concatenate([a] * 15)), w, activation="gelu_erf")
    assert np.array_equal(many, np.concatenate([whole] * 15))


@pytest.mark.parametrize("activation", ("none", "gelu_erf", "gelu_tanh", "silu"))
@pytest.mark.parametrize("parts", ("", "gate", "group", "out_bf16"))
def test_epilogues_do_not_depend_on_the_rows(kernels, activation, parts):
    """A row's bits among others, where its epilogue may run beside the next rows' products, and alone; an Inf and NaNs among
    them."""
    r = rng(14)
    m, n, k = 52, 100, 200
    a, w, bias = (
        r.standard_normal((m, k)),
        (r.standard_normal((n, k)) / 8).astype(np.float32),
        r.standard_normal(n).astype(np.float32),
    )
    bias[3], bias[70] = np.nan, np.inf
    (qa, sa), (qw, sw) = quantize(a), quantize(w)
    sa[20] = np.nan
    e = {"bias": bias, "activation": activation}
    residual = r.standard_normal((m, n)).astype(np.float32)
    gate, group = r.standard_normal((3, n)).astype(np.float32), r.integers(0, 3, m).astype(np.int32)
    out_bf16 = parts == "out_bf16"

    def run(rows, dtype):
        given = {"residual": residual[rows], "gate": gate[:1]} if parts in ("gate", "group") else {}
        given |= {"gate": gate, "group": group[rows].copy()} if parts == "group" else {}
        if dtype == "bf16":
            got = run_bf16(kernels, operand(bf16(a[rows])), w, out_bf16=out_bf16, **e, **given)
        else:
            got = run_int8(kernels, operand(qa[rows]), qw, sa[rows].copy(), sw, out_bf16=out_bf16, **e, **given)
        return wide(got) if out_bf16 else got

    for dtype in ("bf16", "int8"):
        whole = run(slice(0, m), dtype)
        assert np.isnan(whole[:, 3]).all() and np.isnan(whole[20]).all() == (dtype == "int8")
        for row in range(m):
            assert np.array_equal(run(slice(row, row + 1), dtype)[0], whole[row], equal_nan=True), (dtype, row)


def test_residual_may_be_the_output(kernels):
    r = rng(12)
    a, w = bf16(r.standard_normal((40, 96))), r.standard_normal((50, 96)).astype(np.float32)
    x = r.standard_normal((40, 64)).astype(np.float32)
    expected = run_bf16(kernels, operand(a), w, residual=x[:, :50].copy(), gate=np.float32(r.standard_normal((1, 50))))
    r = rng(12)
    r.standard_normal((40, 96)), r.standard_normal((50, 96)), r.standard_normal((40, 64))
    before = x[:, 50:].copy()
    run_bf16(kernels, operand(a), w, out=x[:, :50], residual=x[:, :50], gate=np.float32(r.standard_normal((1, 50))))
    assert np.array_equal(x[:, :50], expected) and np.array_equal(x[:, 50:], before)


def test_all_rows_agree_on_int8(all_rows):
    """Quantised operands and products (without activation) are the same to the bit on every row of this machine."""
    r = rng(13)
    x, w = r.standard_normal((67, 200)).astype(np.float32), r.integers(-127, 128, (99, 200)).astype(np.int8)
    ws, bias = r.uniform(0.01, 1, 99).astype(np.float32), r.standard_normal(99).astype(np.float32)
    results = {
        name: run_int8(k, *[k.quantize_int8(x)[0], w], k.quantize_int8(x)[1], ws, bias=bias) for name, k in all_rows.items()
    }
    for name, result in results.items():
        assert np.array_equal(result, results["ref"]), name


# ---- attention ----


def attend(k, q, key, value):
    out = np.full(q.shape, 0x7FC0, np.uint16)
    k.attention_bf16(out, q, key, value)
    return out


def softmax_attention(q, k, v, bias=None, scale=None):
    q, k, v = (wide(x).astype(np.float64) for x in (q, k, v))
    s = q @ k.T
    if bias is not None:
        s = s + bias.astype(np.float64)[np.arange(len(q))[:, None] - np.arange(len(k)) + len(k) - 1]
    s = s * (scale or 1 / np.sqrt(q.shape[1]))
    p = np.exp(s - s.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True) @ v


ATTENTION = [
    (1, 1, 1),
    (3, 2, 5),
    (16, 16, 16),
    (17, 31, 33),
    (33, 63, 64),
    (31, 64, 72),
    (15, 65, 80),
    (65, 97, 64),
    (32, 130, 1),
    (2, 600, 72),
    (97, 257, 33),
    (5, 1184, 64),
]


@pytest.mark.parametrize("tq,tk,dh", ATTENTION)
@pytest.mark.parametrize("spread", (1.0, 4.0))
def test_attention_bf16(kernels, tq, tk, dh, spread):
    r = rng(14, tq, tk, dh)
    q, k, v = (bf16(r.standard_normal((t, dh + 7)) * s)[:, :dh] for t, s in ((tq, spread), (tk, spread), (tk, 1)))
    got, exact = wide(attend(kernels, q, k, v)), softmax_attention(q, k, v)
    check(got, exact, numerics.ATTENTION_BF16)
    assert rejects(got * 1.02, exact, numerics.ATTENTION_BF16)


@pytest.mark.parametrize("tq,tk,dh", [*ATTENTION, (70, 90, 64)])
@pytest.mark.parametrize("scale", (None, 1.0))
def test_attention_bf16_with_a_bias(kernels, tq, tk, dh, scale):
    """By distance, with NaN before and behind the numbers that count; and a causal mask, which leaves no trace of what it
    hides."""
    r = rng(21, tq, tk, dh)
    q, k, v = (bf16(r.standard_normal((t, dh + 7)) * s)[:, :dh] for t, s in ((tq, dh**-0.5), (tk, 1), (tk, 1)))
    bias, out = (2 * r.standard_normal(tq + tk - 1)).astype(np.float32), np.full(q.shape, 0x7FC0, np.uint16)
    kernels.attention_bf16(out, q, k, v, bias, scale or 0)
    exact = softmax_attention(q, k, v, bias, scale)
    check(wide(out), exact, numerics.ATTENTION_BF16)
    assert tk < 60 or rejects(softmax_attention(q, k, v, bias[::-1], scale), exact, numerics.ATTENTION_BF16)
    if tq <= tk:
        mask = np.where(np.arange(tq + tk - 1) < tk - 1, np.float32(-1e30), np.float32(0))
        kernels.attention_bf16(out, q, k, v, mask)
        check(wide(out), softmax_attention(q, k, v, mask), numerics.ATTENTION_BF16)
        k, v, before = k.copy(), v.copy(), out.copy()
        k[tq // 2 :], v[tq // 2 :] = bf16(r.standard_normal((tk - tq // 2, dh))), bf16(r.standard_normal((tk - tq // 2, dh)))
        kernels.attention_bf16(out, q, k, v, mask)
        assert np.array_equal(out[: tq // 2], before[: tq // 2])


@pytest.mark.parametrize("kind", ("gelu_tanh", "relu", "quick_gelu", "none"))
@pytest.mark.parametrize("m,f", [(1, 1), (3, 15), (2, 16), (5, 33), (3, 64), (2, 130)])
def test_gated_bf16(kernels, kind, m, f):
    both = bf16(2 * rng(22, m, f).standard_normal((m, 2 * f)))
    x, y = both[:, :f], both[:, f:]
    out = kernels.gated_bf16(x, y, kind)
    u = wide(x).astype(np.float64)
    act = {
        "gelu_tanh": u / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (u + 0.044715 * u**3))),
        "relu": np.maximum(u, 0),
        "quick_gelu": u / (1 + np.exp(-1.702 * u)),
        "none": u,
    }[kind]
    exact = act * wide(y)
    assert out.shape == (m, padded(f)) and not out[:, f:].any()
    check(wide(out[:, :f]), exact, numerics.ROUNDED_BF16)
    assert not exact.any() or rejects(wide(out[:, :f]) * 1.01, exact, numerics.ROUNDED_BF16)


def test_attention_with_growing_scores(kernels):
    """The running maximum rises again and again, and far."""
    r = rng(15)
    q, v = bf16(np.abs(r.standard_normal((20, 64)))), bf16(r.standard_normal((500, 64)))
    k = bf16(np.linspace(-20, 20, 500)[:, None] * np.ones((1, 64)) / 4)
    check(wide(attend(kernels, q, k, v)), softmax_attention(q, k, v), numerics.ATTENTION_BF16)


def test_attention_far_below_its_bound(kernels):
    """Every key points away from every query: the largest score is as far from |q| |k| as it can be."""
    r = rng(18)
    q, v = bf16(2 + r.uniform(-0.3, 0.3, (20, 64))), bf16(r.standard_normal((100, 64)))
    k = bf16(-2 + r.uniform(-0.3, 0.3, (100, 64)))
    check(wide(attend(kernels, q, k, v)), softmax_attention(q, k, v), numerics.ATTENTION_BF16)


@pytest.mark.parametrize("spread", (0, 2))
def test_attention_rows_do_not_matter(kernels, spread):
    """With `spread` a few queries are long, and their neighbours short."""
    r = rng(16)
    q, k, v = (r.standard_normal((t, 72)) for t in (150, 200, 200))
    q, k, v = bf16(q * np.exp(spread * r.standard_normal((150, 1)))), bf16(k), bf16(v)
    whole = attend(kernels, q, k, v)
    check(wide(whole), softmax_attention(q, k, v), numerics.ATTENTION_BF16)
    for rows in (slice(0, 1), slice(149, 150), slice(5, 22), slice(17, 100)):
        assert np.array_equal(attend(kernels, q[rows], k, v), whole[rows])


def test_attention_bad_rows(kernels):
    r = rng(17)
    q, k, v = (bf16(r.standard_normal((t, 40))) for t in (40, 100, 100))
    clean = attend(kernels, q, k, v)
    q[11, 3] = 0x7FC0
    got = attend(kernels, q, k, v)
    assert np.isnan(wide(got[11])).all() and np.array_equal(np.delete(got, 11, 0), np.delete(clean, 11, 0))
    k[37, 5] = 0x7FC0
    assert np.isnan(wide(attend(kernels, q, k, v))).all()


# In int8 models. Rows without products of their own in int8 put attention_bf16 here, and pass too.


def attend_int8(k, q, key, value):
    out = np.full(q.shape, 0x7FC0, np.uint16)
    k.attention_int8(out, q, key, value)
    return out


INT8_ATTENTION = [*ATTENTION, (7, 3, 64), (1, 63, 8), (70, 65, 20), (33, 64, 80), (40, 128, 64), (16, 1184, 72), (2, 70, 130)]


@pytest.mark.parametrize("tq,tk,dh", INT8_ATTENTION)
@pytest.mark.parametrize("spread", (1.0, 4.0))
def test_attention_int8(kernels, tq, tk, dh, spread):
    r = rng(19, tq, tk, dh)
    q, k, v = (bf16(r.standard_normal((t, dh + 7)) * s)[:, :dh] for t, s in ((tq, spread), (tk, 1), (tk, 1)))
    got, exact = wide(attend_int8(kernels, q, k, v)), softmax_attention(q, k, v)
    check_rms(got, exact, numerics.ATTENTION_INT8)
    assert rejects_rms(got * 1.05, exact, numerics.ATTENTION_INT8)
    if tk > 60:
        assert rejects_rms(softmax_attention(q, k, np.roll(v, 1, 0)), exact, numerics.ATTENTION_INT8)


def whole_numbers(r, tq, tk, dh, neighbours):
    """q, k, v whose rounding to int8 changes nothing: integers, every row's and block of channels' largest is 127, keys and
    values in pairs of opposite signs, so that their means are 0. Two neighbours of a key that have one sign are `neighbours`
    together at most."""
    q, k, v = (r.integers(-126, 127, (t, dh)) for t in (tq, tk // 2, tk // 2))
    for x in (q, k):
        x[np.arange(len(x)), r.integers(0, dh, len(x))] = 127
    for first in range(0, len(v), 32):
        block = v[first : first + 32]
        block[r.integers(0, len(block), dh), np.arange(dh)] = 127
    left, right = k[:, : dh // 2 * 2 : 2], k[:, 1::2]
    right[np.abs(left[:, : right.shape[1]] + right) > neighbours] *= -1
    pairs = lambda x: np.stack([x, -x], 1).reshape(-1, dh)
    return q.astype(np.float64), pairs(k).astype(np.float64), pairs(v).astype(np.float64)


@pytest.mark.parametrize(
    "tq,tk,dh", [(3, 2, 5), (17, 30, 33), (33, 64, 64), (70, 66, 20), (5, 1184, 64), (40, 256, 72), (32, 130, 80)]
)
@pytest.mark.parametrize("size", (0.5, 1, 5, 100))
def test_attention_int8_of_whole_numbers(kernels, tq, tk, dh, size):
    """Nothing is lost in q, k and v, be the scores much alike or hundreds apart, which takes coarser steps."""
    row = kernels.slots()["attention_int8"]
    neighbours = 127 if row in ("avx2", "avx512") else 254  # what it adds in 16 bits
    tolerance = numerics.ATTENTION_INT8_EXACT_128 if row in ("avx2", "avx_vnni") else numerics.ATTENTION_INT8_EXACT
    if row == "avx512" and size == 100:
        tolerance = numerics.ATTENTION_INT8_EXACT_STEEP
    planted = {numerics.ATTENTION_INT8_EXACT: 1.02, numerics.ATTENTION_INT8_EXACT_STEEP: 1.04}.get(tolerance, 1.03)
    q, k, v = whole_numbers(rng(20, tq, tk, dh), tq, tk, dh, neighbours)
    q = bf16(q * 2.0 ** np.round(np.log2(size * np.sqrt(dh) / (73**2 * np.sqrt(dh)))))
    k, v = bf16(k), bf16(v)
    got, exact = wide(attend_int8(kernels, q, k, v)), softmax_attention(q, k, v)
    check(got, exact, tolerance)
    assert rejects(got * planted, exact, tolerance)


HARD_INPUTS = ("one key", "same keys", "keys like the mean", "key channels", "value channels", "growing", "far below")


@pytest.mark.parametrize("kind", HARD_INPUTS)
def test_attention_int8_of_hard_inputs(kernels, kind):
    r = rng(21)
    q, k, v = r.standard_normal((45, 64)), r.standard_normal((500, 64)), r.standard_normal((500, 64))
    if kind == "one key":
        k[300] = 20 * q[7]
    elif kind == "same keys":
        k[:] = k[0]
    elif kind == "keys like the mean":  # rows of zeros beside small ones, which a scale of theirs must not drown
        q, k = q * 8, k[:4] * 0.05
        k[1], k[2:], v = -k[0], 0, v[:4]
    elif kind == "key channels":
        k += 30 * r.standard_normal(64)  # softmax does not see what all keys have in common
    elif kind == "value channels":
        v = v * np.exp(2 * r.standard_normal(64)) + 10 * r.standard_normal(64)
    elif kind == "growing":
        q, k = np.abs(q), np.linspace(-20, 20, 500)[:, None] * np.ones((1, 64)) / 4
    elif kind == "far below":
        q, k = 2 + r.uniform(-0.3, 0.3, (45, 64)), -2 + r.uniform(-0.3, 0.3, (500, 64))
    q, k, v = bf16(q), bf16(k), bf16(v)
    got, exact = wide(attend_int8(kernels, q, k, v)), softmax_attention(q, k, v)
    check_rms(got, exact, numerics.ATTENTION_INT8)


@pytest.mark.parametrize("spread", (0, 2))
def test_attention_int8_rows_do_not_matter(kernels, spread):
    """With `spread` a few queries are long, whose scores need coarser steps, and their neighbours short."""
    r = rng(22)
    q, k, v = (r.standard_normal((t, 72)) for t in (150, 200, 200))
    q, k, v = bf16(4 * q * np.exp(spread * r.standard_normal((150, 1)))), bf16(k), bf16(v)
    whole = attend_int8(kernels, q, k, v)
    for rows in (slice(0, 1), slice(149, 150), slice(5, 22), slice(17, 100), slice(32, 64)):
        assert np.array_equal(attend_int8(kernels, q[rows], k, v), whole[rows])


def test_attention_int8_where_scores_may_pass_float32(kernels):
    """Keys of 2e37: a query of zeros has equal probabilities, one of thousands has scores that are no numbers any more."""
    r = rng(24)
    q, k, v = np.zeros((3, 64)), 2e37 * r.standard_normal((200, 64)), r.standard_normal((200, 64))
    q[1] = 1e3 * r.standard_normal(64)
    got = wide(attend_int8(kernels, bf16(q), bf16(k), bf16(v)))
    check(got[[0, 2]], np.tile(wide(bf16(v)).astype(np.float64).mean(0), (2, 1)), numerics.ATTENTION_INT8)
    if kernels.slots()["attention_int8"] in ("avx2", "avx_vnni"):
        assert np.isnan(got[1]).all()


@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_attention_int8_bad_rows(kernels, bad):
    r = rng(23)
    q, k, v = (bf16(r.standard_normal((t, 40))) for t in (40, 100, 100))
    clean = attend_int8(kernels, q, k, v)
    bad = bf16(np.float32([bad]))[0]
    for row in (11, 39):
        spoilt = q.copy()
        spoilt[row, 3] = bad
        got = attend_int8(kernels, spoilt, k, v)
        assert np.isnan(wide(got[row])).all() and np.array_equal(np.delete(got, row, 0), np.delete(clean, row, 0))
    spoilt = v.copy()
    spoilt[99, 5] = bad
    got = attend_int8(kernels, q, k, spoilt)
    assert not np.isfinite(wide(got[:, 5])).any() and np.array_equal(np.delete(got, 5, 1), np.delete(clean, 5, 1))
    if bad == 0x7FC0:
        k[37, 5] = bad
        assert np.isnan(wide(attend_int8(kernels, q, k, v))).all()


# ---- refusals ----


def test_bad_arguments_raise(kernels):
    a, w = operand(bf16(np.ones((2, 5)))), kernels.pack_bf16(np.ones((3, 5), np.float32))
    out = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="a: expected 64-byte aligned"):
        kernels.gemm_bf16(out, a[:, :5], w, 5)
    with pytest.raises(ValueError, match="packed"):
        kernels.gemm_bf16(out, a, w[1:], 5)
    with pytest.raises(ValueError, match="residual: not with"):
        kernels.gemm_bf16(np.zeros((2, 3), np.uint16), a, w, 5, residual=out)
    with pytest.raises(ValueError, match="a_scale and w_scale"):
        kernels.gemm_int8(out, operand(np.ones((2, 5), np.int8)), kernels.pack_int8(np.ones((3, 5), np.int8)), 5, None, None)


# ---- int4 ----


def four_bits(r, n, k):
    """Rows of random q [n, k / 2 up] two to a byte, s [n, k / 32 up], and the bytes s q [n,k]."""
    q, s = r.integers(-8, 8, (n, k)).astype(np.int8), r.integers(0, 17, (n, -(-k // 32))).astype(np.uint8)
    q[0], s[0] = -8, 16
    even = (np.pad(q, ((0, 0), (0, k % 2))) + 8).astype(np.uint8)
    return even[:, ::2] | even[:, 1::2] << 4, s, (q * s.repeat(32, 1)[:, :k].astype(int)).astype(np.int8)


@pytest.mark.parametrize("n,k", [(1, 1), (3, 5), (15, 31), (16, 32), (17, 65), (31, 97), (33, 2), (64, 128), (97, 130)])
def test_unpack_int4_is_the_inverse(kernels, n, k):
    q, s, _ = four_bits(rng(24, n, k), n, k)
    packed = kernels.pack_int4(q, s, k)
    assert packed.nbytes <= (-(-n // 32) * 32 + 64) * padded(k) * (0.5 + 1 / 32) + 64 * (n + 64)
    got = kernels.unpack_int4(packed, n, k)
    assert np.array_equal(got[0], q) and np.array_equal(got[1], s)


@pytest.mark.parametrize("m,n,k", SHAPES)
@pytest.mark.parametrize("parts", ("", "gate", "out_bf16"))
def test_gemm_int4_has_the_bits_of_int8(kernels, m, n, k, parts):
    """Of the bytes s q, whichever columns are asked for."""
    r = rng(25, m, n, k)
    q, s, w = four_bits(r, n, k)
    a = operand(r.integers(-127, 128, (m, k)).astype(np.int8), extra=m % 3, rows_after=1)
    scales = r.uniform(0.01, 1, m).astype(np.float32), r.uniform(0.01, 1, n).astype(np.float32)
    e = {"bias": r.standard_normal(n).astype(np.float32), "activation": "gelu_tanh" if k % 2 else "none"}
    if parts == "gate":
        e |= {"residual": r.standard_normal((m, n)).astype(np.float32), "gate": r.standard_normal((1, n)).astype(np.float32)}
    expected = run_int8(kernels, a, w, *scales, out_bf16=parts == "out_bf16", **e)
    packed, nr = kernels.pack_int4(q, s, k), kernels.panels()["int4"]
    for n0 in {0, n // 2 // nr * nr}:
        got = np.full_like(expected, 7)
        kernels.gemm_int4(got, a, packed, k, *scales, n0=n0, n1=n, **e)
        assert np.array_equal(got[:, n0:], expected[:, n0:]) and (got[:, :n0] == 7).all()


def test_all_rows_agree_on_int4(all_rows):
    r = rng(26)
    q, s, w = four_bits(r, 700, 1200)
    a, scales = operand(r.integers(-127, 128, (40, 1200)).astype(np.int8)), (np.ones(40, np.float32), np.ones(700, np.float32))
    sums = a[:, :1200].astype(np.int64) @ w.astype(np.int64).T
    for name, k in all_rows.items():
        out = np.empty((40, 700), np.float32)
        k.gemm_int4(out, a, k.pack_int4(q, s, 1200), 1200, *scales)
        assert np.array_equal(out, sums.astype(np.float32)), name
