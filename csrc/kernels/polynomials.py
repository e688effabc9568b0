"""Writes avx512/polynomials.h: `python csrc/kernels/fit_avx512.py > csrc/kernels/fit_avx512.h`. Needs NumPy only.

Every polynomial has the smallest possible largest relative error (Lawson's iteration). Both GELUs are max(x, 0) - G(|x|) with
G(t) = t Q(t), Q the upper tail; G is fitted on each of 32 segments of width 3/16, in u = t - (centre of the segment).
"""

from math import erfc, exp, log, sqrt, tanh

import numpy as np


def fit(function, low: float, high: float, degree: int, fixed: tuple[float, ...] = ()) -> np.ndarray:
    """Coefficients of u^0..u^degree; the first ones are held at `fixed`."""
    u = (high + low) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(200) + 0.5) / 200)
    exact = np.array([function(v) for v in u])
    y = exact - sum(c * u**i for i, c in enumerate(fixed))
    powers = np.stack([u**i for i in range(len(fixed), degree + 1)], 1)
    lawson = np.ones(len(u))
    for _ in range(200):
        weight = np.sqrt(lawson / lawson.sum()) / exact
        rows = powers * weight[:, None]
        size = np.abs(rows).max(0)
        c = np.linalg.lstsq(rows / size, y * weight, rcond=None)[0] / size
        error = np.abs((powers @ c - y) / exact)
        lawson *= error + 1e-3 * error.max()
        lawson /= lawson.sum()
    return np.concatenate([fixed, c])


def gelu_table(tail) -> np.ndarray:
    width, half = 3 / 16, 3 / 32
    # G(0) = 0 exactly, so that tiny x keep their digits.
    columns = [fit(tail, 0.0, half, 4, (0.0,))] + [fit(lambda u: tail(s * width + u), -half, half, 4) for s in range(1, 32)]
    return np.array(columns).T


def show(name: str, values: np.ndarray) -> None:
    values = np.float32(values)
    if values.ndim == 1:
        numbers = [f"{v.hex()}f" for v in values.tolist()]
        lines = [", ".join(numbers[i : i + 4]) for i in range(0, len(numbers), 4)]
        print(f"static const float {name}[{len(values)}] = {{\n    " + ",\n    ".join(lines) + ",\n};\n")
        return
    print(f"static const float {name}[{values.shape[0]}][{values.shape[1]}] __attribute__((aligned(64))) = {{")
    for row in values:
        numbers = [f"{v.hex()}f" for v in row.tolist()]
        print("    {\n        " + ",\n        ".join(", ".join(numbers[i : i + 4]) for i in range(0, len(numbers), 4)) + ",\n    },")
    print("};\n")


print("/* Made by fit_avx512.py. Polynomials by ascending power; a column of a table belongs to the segment centred at 3/16 of its index. */")
print("#ifndef TXK_FIT_AVX512_H\n#define TXK_FIT_AVX512_H\n")
print("/* e^r for |r| <= ln(2)/2 */")
show("fit_exp", fit(exp, -log(2) / 2, log(2) / 2, 6, (1.0, 1.0)))
print("/* 2^r for |r| <= 1/2 */")
show("fit_exp2", fit(lambda r: 2.0**r, -0.5, 0.5, 5, (1.0,)))
print("/* tanh(x) / x in powers of x^2 for |x| <= 0.625 */")
show("fit_tanh", fit(lambda s: tanh(sqrt(s)) / sqrt(s), 1e-9, 0.625**2, 5, (1.0,)))
print("/* t erfc(t / sqrt 2) / 2 */")
show("fit_gelu_erf", gelu_table(lambda t: t * 0.5 * erfc(t / sqrt(2))))
print("/* t (1 - tanh(sqrt(2/pi)(t + 0.044715 t^3))) / 2 */")
show("fit_gelu_tanh", gelu_table(lambda t: t / (1 + exp(1.5957691216057308 * (t + 0.044715 * t**3)))))
print("#endif")
