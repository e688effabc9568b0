"""Writes avx2/polynomials.h: `python csrc/kernels/fit_avx2.py > csrc/kernels/fit_avx2.h`. Needs NumPy only.

Every polynomial has the smallest possible largest relative error (Lawson's iteration). GELU (erf) is max(x, 0) - t Q(t), t = |x|, Q the
upper tail of the normal distribution; Q(t) = e^(-t^2/2) u P(u) with u = 1 / (1 + MILLS t), fitted up to t = 14, where Q leaves float32.
"""

from math import erfc, exp, log, sqrt, tanh

import numpy as np

MILLS = 0.34375


def fit(function, low: float, high: float, degree: int, fixed: tuple[float, ...] = ()) -> np.ndarray:
    """Coefficients of u^0..u^degree; the first ones are held at `fixed`."""
    u = (high + low) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(300) + 0.5) / 300)
    exact = np.array([function(v) for v in u])
    y = exact - sum(c * u**i for i, c in enumerate(fixed))
    powers = np.stack([u**i for i in range(len(fixed), degree + 1)], 1)
    lawson = np.ones(len(u))
    for _ in range(300):
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


def show(name: str, values: np.ndarray) -> None:
    numbers = [f"{v.hex()}f" for v in np.float32(values).tolist()]
    lines = [", ".join(numbers[i : i + 4]) for i in range(0, len(numbers), 4)]
    print(f"static const float {name}[{len(values)}] = {{\n    " + ",\n    ".join(lines) + ",\n};\n")


print("/* Made by fit_avx2.py. Polynomials by ascending power. */")
print("#ifndef TXK_FIT_AVX2_H\n#define TXK_FIT_AVX2_H\n")
print("/* e^r for |r| <= ln(2)/2 */")
show("fit_exp", fit(exp, -log(2) / 2, log(2) / 2, 6, (1.0, 1.0)))
print("/* 2^r for |r| <= 1/2 */")
show("fit_exp2", fit(lambda r: 2.0**r, -0.5, 0.5, 5, (1.0,)))
print("/* tanh(x) / x in powers of x^2 for |x| <= 0.625 */")
show("fit_tanh", fit(lambda s: tanh(sqrt(s)) / sqrt(s), 1e-9, 0.625**2, 5, (1.0,)))
print("/* erfc(t / sqrt 2) / 2 e^(t^2/2) / u in powers of u = 1 / (1 + fit_mills t) */")
print(f"static const float fit_mills = {MILLS.hex()}f;")
show("fit_normal_tail", fit(mills, 1 / (1 + 14 * MILLS), 1.0, 8))
print("#endif")
