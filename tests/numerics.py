"""Every tolerance of the tests, with its origin, and how errors are measured.

A relative error is the largest absolute difference over the largest magnitude of the reference tensor: one number a tensor, which an
element near zero cannot blow up. A tolerance here has a twin in a test with a planted error that it must reject, so that none is
so wide that it proves nothing.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tolerance:
    limit: float
    origin: str


# The largest error that each tolerance has let through in this session; conftest.py prints them at the end.
largest_seen: dict[Tolerance, float] = {}


def relative_error(result, reference):
    """max |result - reference| / max |reference|, in float64; inf where shapes differ or a number is not finite."""
    result, reference = np.asarray(result, np.float64), np.asarray(reference, np.float64)
    if result.shape != reference.shape or not np.isfinite(result).all() or not np.isfinite(reference).all():
        return np.inf
    if result.size == 0:
        return 0.0
    largest = np.abs(reference).max()
    return float(np.abs(result - reference).max() / (largest or 1.0))


def check(result, reference, tolerance, what="result"):
    """AssertionError where `result` is further from `reference` than allowed."""
    error = relative_error(result, reference)
    largest_seen[tolerance] = max(error, largest_seen.get(tolerance, 0.0))
    assert error <= tolerance.limit, f"{what}: relative error {error:.3g}, allowed {tolerance.limit:g} ({tolerance.origin})"


def rejects(result, reference, tolerance):
    """Whether `check` would fail: for planted errors."""
    return not relative_error(result, reference) <= tolerance.limit


# ---- models: float32 engine against the float64 specification or float32 PyTorch ----

BLOCK = Tolerance(1e-5, "the project's promise for each intermediate of a tiny model; some 20 float32 roundings (6e-8) of sums of up to "
                  "a few hundred terms, carried through the residual stream, come to 1e-6")
END_TO_END = Tolerance(2e-5, "the project's promise for a tiny model's output: BLOCK, then one more norm and projection")
FULL_SIZE = Tolerance(1e-4, "the project's promise at ViT-Base and DiT-XL: 12 and 28 blocks, sums of thousands of terms, and PyTorch's own "
                      "float32 roundings on the other side")
SAMPLING = Tolerance(2e-5, "a run of a few steps: END_TO_END of each evaluation; the state is float32, all between is float64. Other projects' "
                     "stored runs in float32 keep within it too")

# ---- schedules: textok's float64 coefficients, run in NumPy on a toy model ----

SCHEDULE = Tolerance(1e-12, "float64 against float64: at t = 999 a division by sqrt(alpha), 6e-3, and 50 steps of a few roundings of 1e-16")
SCHEDULE_DIFFUSERS = Tolerance(1e-4, "diffusers keeps cumulative alphas in float32, rounded 1000 times in the product (1e-5); 250 steps "
                               "come to 3e-5, 50 steps to 1e-5")

# ---- kernels of bfloat16 and int8, against float64 on the already rounded inputs ----

ROUNDED_BF16 = Tolerance(2.0**-8 + 1e-5, "one rounding to bfloat16: half a unit of its 8 bits, 2^-8 of the element, and float32 arithmetic before it")
ROUNDED_INT8 = Tolerance(0.5 / 127 + 1e-5, "one rounding to int8: half a step of max/127 of the row, and float32 arithmetic before it")
GEMM_BF16 = Tolerance(1e-5, "products of bfloat16 are exact in float32; a chain of up to 3,072 float32 sums with random signs errs by some "
                      "sqrt(K) 2^-24 of the largest terms, 1e-6 of the largest result")
GEMM_INT8 = Tolerance(1e-6, "exact sums; then the conversion, two scales, bias, activation and residual, each one float32 rounding")
ATTENTION_BF16 = Tolerance(1e-2, "probabilities and the result are each rounded to bfloat16, 2^-8 relative, and the first adds up with random "
                           "signs over the keys; with few keys the two can come together, 2^-7")
