"""Writes the polynomials of each row, <row>/polynomials.h: `python csrc/kernels/polynomials.py`. Needs NumPy only.

Every polynomial has the smallest possible largest relative error (Lawson's iteration). GELU is max(x, 0) - G(t), t = |x|,
G(t) = t Q(t), Q the upper tail of the normal distribution (erf) or its stand-in (tanh):

    avx2    G on each of 8 segments of width 25/32, in u = t - (centre of the segment): a permutation looks a coefficient up
    avx512  the same with 32 segments of width 3/16
    neon    Q(t) = e^(-t^2/2) u P(u) with u = 1 / (1 + MILLS t), fitted up to t = 14, where Q leaves float32; the rest is avx2's
"""

from collections.abc import Callable, Iterator
from math import erfc, exp, log, sqrt, tanh
from pathlib import Path

import numpy as np

MILLS = 0.34375
SEGMENTS = {"avx2": (8, 25 / 32, 7), "avx512": (32, 3 / 16, 4)}  # of GELU's G: how many, how wide, degree
# Of a fit, and its iterations: more would move the last bits of what is measured.
POINTS = {"avx2": 300, "avx512": 200, "neon": 300}


def fit(
    function: Callable[[float], float], low: float, high: float, degree: int, points: int, fixed: tuple[float, ...] = ()
) -> np.ndarray:
    """Coefficients of u^0..u^degree; the first ones are held at `fixed`."""
    u = (high + low) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(points) + 0.5) / points)
    exact = np.array([function(v) for v in u])
    y = exact - sum(c * u**i for i, c in enumerate(fixed))
    powers = np.stack([u**i for i in range(len(fixed), degree + 1)], 1)
    lawson = np.ones(len(u))
    for _ in range(points):
        weight = np.sqrt(lawson / lawson.sum()) / exact
        rows = powers * weight[:, None]
        size = np.abs(rows).max(0)
        c = np.linalg.lstsq(rows / size, y * weight, rcond=None)[0] / size
        error = np.abs((powers @ c - y) / exact)
        lawson *= error + 1e-3 * error.max()
        lawson /= lawson.sum()
    return np.concatenate([fixed, c])


def mills(u: float) -> float:
    t = (1 / u - 1) / MILLS
    return 0.5 * erfc(t / sqrt(2)) * exp(t * t / 2) / u


def gelu_table(row: str, tail: Callable[[float], float]) -> np.ndarray:
    """[degree + 1, segments], a column a segment. G(0) = 0 exactly, so that tiny x keep their digits."""
    count, width, degree = SEGMENTS[row]
    half, points = width / 2, POINTS[row]
    first = fit(tail, 0.0, half, degree, points, (0.0,))
    others = (fit(lambda u, s=s: tail(s * width + u), -half, half, degree, points) for s in range(1, count))
    return np.array([first, *others]).T


def polynomials(row: str) -> Iterator[tuple[str, str, np.ndarray | float]]:
    """(what, name, coefficients or a constant)"""
    n = POINTS[row]
    if row == "neon":
        yield "u = 1 / (1 + mills t)", "mills", MILLS
        yield "erfc(t / sqrt 2) / 2 e^(t^2/2) / u in powers of u", "normal_tail", fit(mills, 1 / (1 + 14 * MILLS), 1.0, 8, n)
        return
    yield "e^r for |r| <= ln(2)/2", "exp", fit(exp, -log(2) / 2, log(2) / 2, 6, n, (1.0, 1.0))
    yield "2^r for |r| <= 1/2", "exp2", fit(lambda r: 2.0**r, -0.5, 0.5, 5, n, (1.0,))
    yield "tanh(x) / x in powers of x^2 for |x| <= 0.625", "tanh", fit(
        lambda s: tanh(sqrt(s)) / sqrt(s), 1e-9, 0.625**2, 5, n, (1.0,)
    )
    if row == "avx2":
        yield "2^f for 0 <= f <= 1", "exp2_short", fit(lambda f: 2.0**f, 0.0, 1.0, 3, n, (1.0,))
    yield "t erfc(t / sqrt 2) / 2", "gelu_erf", gelu_table(row, lambda t: t * 0.5 * erfc(t / sqrt(2)))
    tail_of_tanh = lambda t: t / (1 + exp(1.5957691216057308 * (t + 0.044715 * t**3)))
    yield "t (1 - tanh(sqrt(2/pi)(t + 0.044715 t^3))) / 2", "gelu_tanh", gelu_table(row, tail_of_tanh)


def numbers(values: np.ndarray, indent: str) -> str:
    text = [f"{v.hex()}f" for v in np.float32(values).tolist()]
    return "".join(indent + ", ".join(text[i : i + 4]) + ",\n" for i in range(0, len(text), 4))


def definition(name: str, values: np.ndarray | float) -> str:
    if isinstance(values, float):
        return f"static const float poly_{name} = {values.hex()}f;\n"
    if values.ndim == 1:
        return f"static const float poly_{name}[{len(values)}] = {{\n{numbers(values, ' ' * 4)}}};\n"
    rows = "".join("    {\n" + numbers(row, " " * 8) + "    },\n" for row in values)
    return f"static const float poly_{name}[{len(values)}][{values.shape[1]}] __attribute__((aligned(64))) = {{\n{rows}}};\n"


def header(row: str) -> str:
    guard = f"TXK_{row.upper()}_POLYNOMIALS_H"
    at = {"avx2": "25/32 i", "avx512": "3/16 i"}.get(row)
    tables = f" Column i of a table belongs to the segment centred at {at}." if at else ""
    parts = [f"/* {what} */\n{definition(name, values)}" for what, name, values in polynomials(row)]
    head = f"/* Made by polynomials.py. Polynomials by ascending power.{tables} */\n#ifndef {guard}\n#define {guard}\n"
    return "\n".join([head, *parts, "#endif\n"])


if __name__ == "__main__":
    for row in POINTS:
        (Path(__file__).parent / row / "polynomials.h").write_text(header(row))
