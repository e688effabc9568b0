"""Every tolerance of the tests, with its origin, and how errors are measured.

A relative error is the largest absolute difference over the largest magnitude of the reference tensor: one number a tensor,
which an element near zero cannot blow up. A tolerance here has a twin in a test with a planted error that it must reject, so
that none is so wide that it proves nothing.
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


def rms_error(result, reference):
    """Root mean square of result - reference over that of reference: for rounded numbers, whose errors average out."""
    result, reference = np.asarray(result, np.float64), np.asarray(reference, np.float64)
    if result.shape != reference.shape or not np.isfinite(result).all():
        return np.inf
    return float(np.sqrt(np.mean((result - reference) ** 2) / np.mean(reference**2)))


def check_rms(result, reference, tolerance):
    error = rms_error(result, reference)
    largest_seen[tolerance] = max(error, largest_seen.get(tolerance, 0.0))
    assert error <= tolerance.limit, f"relative RMS error {error:.3g}, allowed {tolerance.limit:g} ({tolerance.origin})"


def rejects_rms(result, reference, tolerance):
    return not rms_error(result, reference) <= tolerance.limit


def scaled_error(result, reference, scale):
    """max |result - reference| / scale, element by element: for bounds that depend on the element."""
    result, reference = np.asarray(result, np.float64), np.asarray(reference, np.float64)
    if result.shape != reference.shape or not np.isfinite(result).all() or not np.isfinite(reference).all():
        return np.inf
    return float((np.abs(result - reference) / np.maximum(scale, 1e-30)).max(initial=0.0))


def check_scaled(result, reference, scale, tolerance, what="result"):
    error = scaled_error(result, reference, scale)
    largest_seen[tolerance] = max(error, largest_seen.get(tolerance, 0.0))
    assert error <= tolerance.limit, f"{what}: {error:.3g} of the scale, allowed {tolerance.limit:g} ({tolerance.origin})"


# ---- models: float32 engine against the float64 specification or float32 PyTorch ----

BLOCK = Tolerance(
    1e-5,
    "the project's promise for each intermediate of a tiny model; some 20 float32 roundings (6e-8) of sums of up to "
    "a few hundred terms, carried through the residual stream, come to 1e-6",
)
END_TO_END = Tolerance(2e-5, "the project's promise for a tiny model's output: BLOCK, then one more norm and projection")
FULL_SIZE = Tolerance(
    1e-4,
    "the project's promise at ViT-Base and DiT-XL: 12 and 28 blocks, sums of thousands of terms, and PyTorch's own "
    "float32 roundings on the other side",
)
SAMPLING = Tolerance(
    5e-5,
    "a run of some steps: END_TO_END of an evaluation, which the steps after it carry on; the state is float32, all between is "
    "float64. Most runs come to 2e-6, a random model that predicts the sample itself amplifies to 1e-5",
)
STORED = Tolerance(
    1e-6, "an answer computed in float64 and stored as float32, 6e-8; diffusers' float32 tables may round otherwise elsewhere"
)

MODEL_BFLOAT16 = Tolerance(
    1e-2,
    "RMS; a bfloat16 rounding is 2^-9 (2e-3) at most, 1e-3 typically; some ten of them one after the other in a model of two "
    "blocks, part of which the residual stream carries around",
)
MODEL_INT8 = Tolerance(
    3e-2,
    "RMS; weights and activations are each rounded to 1/254 of their row's largest number, some 1% of a typical one; ten "
    "in a row",
)

T5_BFLOAT16 = Tolerance(
    3e-2,
    "RMS; as MODEL_BFLOAT16, and scores that are not divided by 1/sqrt(Dh): a random model's reach 30, where a rounding "
    "of q and k is a tenth of a power of e. PyTorch's own bfloat16 errs as much",
)
T5_INT8 = Tolerance(8e-2, "RMS; the same with int8's roundings of 1%; the largest of `wo`'s input exact")
BERT_BFLOAT16 = Tolerance(1.2e-2, "RMS; as MODEL_BFLOAT16, three blocks whose norms come after")
BERT_INT8 = Tolerance(3e-2, "RMS; as MODEL_INT8, the table of tokens included")
CLIP_BFLOAT16 = Tolerance(1e-2, "RMS; as MODEL_BFLOAT16")
CLIP_INT8 = Tolerance(3e-2, "RMS; as MODEL_INT8, the table of tokens included")

MODEL_INT4 = Tolerance(
    0.2,
    "RMS; weights rounded to a 15th of the largest of 32 on either side, 8% of a typical one each, ten products in a row; "
    "a swap of rows or a nibble at the wrong place makes 1",
)

# ---- schedules: textok's float64 coefficients, run in NumPy on a toy model ----

SCHEDULE = Tolerance(
    1e-12, "float64 against float64: at t = 999 a division by sqrt(alpha), 6e-3, and 50 steps of a few roundings of 1e-16"
)
SCHEDULE_DIFFUSERS = Tolerance(
    1e-4,
    "diffusers keeps cumulative alphas in float32, rounded 1000 times in the product (1e-5); 250 steps "
    "come to 3e-5, 50 steps to 1e-5",
)

# ---- metrics, in float64 ----

METRIC = Tolerance(
    1e-10,
    "float64 against float64 in another order: sums of thousands of terms of 1e-16 and differences of like numbers; a row left "
    "out or another divisor changes 1e-4 and more",
)
LPIPS_FLOAT32 = Tolerance(1e-5, "thirteen convolutions in float32, sums of up to 4,608 terms, and a mean over places")
NETWORK_FLOAT32 = Tolerance(
    1e-4,
    "a network of some fifty layers in float32, its norms folded into its weights or not; a shift of half a step of 255 "
    "in the pixels makes 1e-3",
)
RESIZED = Tolerance(1e-6, "a filter in float32, one rounding to float32 between rows and columns")
METRIC_FLOAT32_MEAN = Tolerance(1e-6, "a mean kept in float32, 6e-8")

LOSS = Tolerance(
    1e-6,
    "a training loss in float32, or float64 with a float32 constant in it: a mean of dozens of terms, each a few "
    "roundings of 6e-8",
)
LOSS_CURVE = Tolerance(
    1e-3,
    "a dozen steps of float32 training whose gradients are summed in another order: 1e-7 a step, which Adam's division "
    "by small second moments enlarges; logged to 5 digits",
)

# ---- text encoders, beside transformers on one caption without padding ----

TEXT_ENCODER = Tolerance(
    3e-5,
    "float32 against float32 in batches of another size: a dozen layers, sums of hundreds of terms in another order; "
    "padding that is attended to makes 1e-2 and more",
)
TEXT_BFLOAT16 = Tolerance(5e-2, "RMS; weights and activations of six layers rounded to bfloat16, 2e-3 each")

# ---- data sets ----

LATENT_STATISTICS = Tolerance(
    1e-9, "float64 sums of some hundred numbers; with a mean of a million, whose rounding is 1e-10, they keep 9 digits"
)

# ---- stored forms ----

STORED_INT8 = Tolerance(
    5e-2, "weights rounded to 1/254 of their row's largest, some 0.2% of the typical product a layer, over a dozen layers"
)

# ---- kernels against float64 on the same float32 inputs; scales are of the element (scaled_error) ----

KERNEL_GEMM = Tolerance(
    2**-24, "of (K + 2) sum |a||w|: each of K multiply-adds rounds a sum that is never larger, whatever the order; bias on top"
)
KERNEL_ATTENTION = Tolerance(
    2**-24,
    "of (Tk + 2 (Dh + 4) max |score terms| + 16) sum p|v|: the sums over keys as in KERNEL_GEMM, the errors of the "
    "scores, which exp turns into relative ones, and some roundings of exp",
)
KERNEL_EPILOGUE = Tolerance(
    5e-7, "of |acc| + |bias| + |residual| + |gate y|: four roundings of 6e-8 and the activation's error"
)
KERNEL_NORM = Tolerance(
    1e-6, "of |weight (1 + scale)| max |y| + |bias| + |shift|: sums of D/64 terms a lane, 20 roundings of 6e-8 at D = 1152"
)
KERNEL_STEP = Tolerance(
    1.2e-7, "of the largest term: float64 inside, one rounding to float32, which may go up to the next power of two"
)
KERNEL_ROTATE = Tolerance(1.8e-7, "of |x cos| + |y sin|: two products and a sum, 6e-8 each")
KERNEL_GELU = Tolerance(
    1.5e-7, "of max(|x|, 1): two roundings, and a polynomial of relative error 1.3e-7 where the tail counts"
)
KERNEL_GELU_TAIL = Tolerance(
    6e-7, "of the result for -3 <= x < 0, where 1 + erf would have lost up to 3 digits: the polynomial 2e-7, five roundings"
)
KERNEL_SILU = Tolerance(3e-7, "of the result: exp 1 ulp, an addition, a division")
KERNEL_QUICK_GELU = Tolerance(
    5e-7,
    "of the result, for |1.702 x| up to 2, and in proportion beyond: as KERNEL_SILU, and the rounding of 1.702 x, 2^-24 of "
    "it, which exp turns into as much of the result",
)
KERNEL_RELU = Tolerance(1e-12, "exact")
KERNEL_GATED = Tolerance(6e-7, "of max(|x|, 1) |y|: the activation's error and one rounding")
KERNEL_TANH = Tolerance(3e-7, "of the result: as KERNEL_SILU, with one more addition")

# ---- kernels of bfloat16 and int8, against float64 on the already rounded inputs ----

ROUNDED_BF16 = Tolerance(
    2.0**-8 + 1e-5, "one rounding to bfloat16: half a unit of its 8 bits, 2^-8 of the element, and float32 arithmetic before it"
)
ROUNDED_FLOAT16 = Tolerance(
    2.0**-11,
    "one rounding to float16: half a unit of its 11 bits, of the element, or of 2^-14, below which its steps stay equal",
)
ROUNDED_INT8 = Tolerance(
    0.5 / 127 + 1e-5, "one rounding to int8: half a step of max/127 of the row, and float32 arithmetic before it"
)
GEMM_BF16 = Tolerance(
    1e-5,
    "products of bfloat16 are exact in float32; a chain of up to 3,072 float32 sums with random signs errs by some "
    "sqrt(K) 2^-24 of the largest terms, 1e-6 of the largest result",
)
GEMM_INT8 = Tolerance(
    1e-6, "exact sums; then the conversion, two scales, bias, activation and residual, each one float32 rounding"
)
ATTENTION_BF16 = Tolerance(
    1e-2,
    "probabilities and the result are each rounded to bfloat16, 2^-8 relative, and the first adds up with random "
    "signs over the keys; with few keys the two can come together, 2^-7",
)
ATTENTION_INT8 = Tolerance(
    3e-2,
    "RMS; q, k and v rounded to 1/254 of their row's or channel's largest, 0.6% of a typical number each; the first two "
    "make an error of 0.8% of a score, exp turns it into a relative one, and scores here are 1 to 4 in size; "
    "probabilities 0.6 to 0.9%",
)
ATTENTION_INT8_EXACT = Tolerance(
    1.5e-2,
    "q, k and v are int8 already: probabilities to half a 255th of the block's largest (with random signs over the keys) "
    "and a 64th of a power of two (1.1%), and the result to bfloat16",
)
ATTENTION_INT8_EXACT_STEEP = Tolerance(
    2.8e-2,
    "the same where scores are hundreds apart, whose words stand for a 32nd of a power of two (2.2%), as on avx512",
)
ATTENTION_INT8_EXACT_128 = Tolerance(1.75e-2, "the same with blocks of 128 keys in place of 64, as on avx2 and avx_vnni")
