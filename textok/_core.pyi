"""The C engine as Python sees it.

Everything here takes exact, C-contiguous arrays and whole configs; `textok.TexTok` and `textok.DiT` are the comfortable face.
Raises ValueError (a shape, dtype or number that does not fit, with what came and what was expected), MemoryError, and whatever
a callback or a pending signal raises.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

_F32 = NDArray[np.float32]
_I32 = NDArray[np.int32]
_I8 = NDArray[np.int8]
_U8 = NDArray[np.uint8]
_U16 = NDArray[np.uint16]

def cpu_info() -> dict[str, Any]:
    """{"isa": active row, "rows": compiled and supported rows, "features": {...}, "kernels": {slot: row}, "threads": n,
    "openblas": text}"""

def set_num_threads(n: int, /) -> None: ...
def get_num_threads() -> int: ...
def cpu_quota(root: str = "", /) -> int:
    """CPUs that the cgroup's quotas allow, rounded up; 0 where there is none. `root`: what goes before /proc and /sys."""

def weight_table(model_type: str, config: Mapping[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors that a model with this config has, in the order of the forward pass."""

@final
class Model:
    """Packed, read-only weights of one TexTok (model_type "textok"), DiT ("dit") or text encoder ("text_encoder"). Usable from
    several threads at once.

    `config` holds every key of a config (nested dicts for the two sides). `weights` is asked for every tensor of `weight_table`
    by name, one at a time, and gives C-contiguous arrays of exactly these shapes: float32, bfloat16 as uint16, or int8, where
    it is then asked for `NAME.scale`, float32 [out]. `dtype`: what the large products are computed in, "float32", "bfloat16" or
    "int8". `side`, of a TexTok: "both", or the one side to hold, whose tensors alone are then asked for. `threads` that pack,
    0: all.
    """

    def __new__(
        cls,
        model_type: str,
        config: Mapping[str, Any],
        weights: Mapping[str, NDArray[Any]],
        dtype: str = "float32",
        side: str = "both",
        threads: int = 0,
    ) -> Self: ...
    model_type: str
    dtype: str
    num_parameters: int
    weight_bytes: int
    def record_inputs(self, recorder: Callable[[str, _F32], object] | None, /) -> None:
        """From now on `recorder(name of a weight, rows [M,K])` for each product of a float32 model; None: no more."""
    def weights(self, index: int = -1, /) -> dict[str, NDArray[Any]]:
        """All tensors, or the one of that number in `weight_table`, unpacked, as the model holds them: float32 (bit for bit as
        they came), bfloat16 as uint16, int8 beside `NAME.scale`."""
    def memory_plan(self, batch: int, text_tokens: int, steps: int = 1, threads: int = 0) -> dict[str, int]:
        """{"weights": bytes, "workspace": bytes of one call of this batch with that many text tokens an image}"""

    # TexTok. Where a side has no text, text and text_lengths are None for it. `text_lengths` are the rows that take part (the
    # caller passes t for all where the config does not mask). trace: a dict whose lists get the intermediates, part by part; or
    # None. threads 0: all.
    def encode(
        self,
        x: _F32 | NDArray[np.uint8],
        text: _F32 | None,
        text_lengths: _I32 | None,
        labels: _I32 | None,
        out: _F32,
        threads: int = 0,
        trace: dict[str, list[_F32]] | None = None,
    ) -> None:
        """x [B,S,S,3], float32 in [-1,1] or uint8; text [B,t,Dt]; text_lengths, labels [B]; out float32 [B,N,d], written."""
    def decode(
        self,
        z: _F32,
        text: _F32 | None,
        text_lengths: _I32 | None,
        labels: _I32 | None,
        out: _F32 | NDArray[np.uint8],
        threads: int = 0,
        trace: dict[str, list[_F32]] | None = None,
    ) -> None:
        """z [B,N,d]; out [B,S,S,3], float32 (unclipped) or uint8 (clipped, rounded half up), written."""

    # DiT. Either labels [B] (condition "class"; num_classes is the null class) or text and text_lengths (condition "text").
    def denoise(
        self,
        x: _F32,
        t: _F32,
        labels: _I32 | None,
        text: _F32 | None,
        text_lengths: _I32 | None,
        null: bool,
        out: _F32,
        threads: int = 0,
        trace: dict[str, list[_F32]] | None = None,
    ) -> None:
        """x [B,N,C], t [B]; out [B,N,C or 2C], written; over latent images [B,C,S,S] and [B,C or 2C,S,S].

        null: the null condition for every image, other conditions then None."""
    def sample(
        self,
        x: _F32,
        t: _F32,
        update: NDArray[np.float64],
        guidance: _F32,
        step_noise: _F32 | None,
        labels: _I32 | None,
        text: _F32 | None,
        text_lengths: _I32 | None,
        callback: Callable[[int, _F32], object] | None = None,
        threads: int = 0,
    ) -> None:
        """Run all steps in place: x [B,N,C] or [B,C,S,S] holds the start noise and then the result, in the generator's
        normalised space.

        t [S]: the train timestep of each step, as the model sees it. guidance [S]: the scale; where it is 1, only the
        conditional half runs. step_noise: of x's shape with an axis of steps before it, or None where no step adds noise.
        callback(step, x) is called after each step with x (an alias of the state). update [S,10], float64, one row a step; with
        m the guided prediction (first C channels), v the variance fraction in [-1,1]:
            x0   = u[0] x + u[1] m
            x'   = u[2] x + u[3] m + u[4] x0_prev + u[5] noise + u[6] exp(0.5 (w u[8] + (1 - w) u[7])) noise,  w = (v + 1)/2
        x0_prev is x0 of the step before (0 at the first). u[7], u[8]: lower and upper log-variance of DDPM's learned range;
        u[9] is 0, reserved.
        """

    # Text encoders.
    def encode_text(
        self,
        ids: _I32,
        tokens: _I32,
        keys: _I32,
        pooled_at: _I32 | None,
        states: _F32 | None,
        pooled: _F32 | None,
        threads: int = 0,
        trace: dict[str, list[_F32]] | None = None,
    ) -> None:
        """ids: all captions' token numbers, one after the other; tokens [B]: how many each has; keys [B]: how many of these
        others may look at, the rest is padding. states [B,t,Dt], t at least the most tokens, of which each caption's rows are
        written; pooled [B,P]: the state at place pooled_at[b] of each, projected where the model does. Either may be None."""

@final
class Kernels:
    """The slots of one ISA row, for tests and benchmarks. `Kernels("ref")`, `Kernels("avx512")`; ValueError where it can't run
    here.

    Matrices may be views with any distance between rows; vectors are contiguous.
    """

    def __init__(self, isa: str) -> None: ...
    def gemm_f32(
        self,
        a: _F32,
        w: _F32,
        bias: _F32 | None = None,
        activation: str = "none",
        residual: _F32 | None = None,
        gate: _F32 | None = None,
        group: _I32 | None = None,
    ) -> _F32:
        """act(a [M,K] @ w [N,K].T + bias [N]); with residual [M,N]: residual + gate[group[row]] * that (gate [G,N] or None for
        1).

        activation: "none", "gelu_erf", "gelu_tanh", "silu", "tanh", "quick_gelu", "relu"."""
    def pack_f32(self, w: _F32, /) -> _F32:
        """w [N,K] in the form that this row's gemm reads: a vector, 64-byte aligned."""
    def unpack_f32(self, packed: _F32, n: int, k: int, /) -> _F32:
        """w [n,k] again, bit for bit."""
    def gemm_packed_f32(
        self,
        out: _F32,
        a: _F32,
        packed: _F32,
        bias: _F32 | None = None,
        activation: str = "none",
        residual: _F32 | None = None,
        gate: _F32 | None = None,
        group: _I32 | None = None,
        n0: int = 0,
        n1: int = -1,
    ) -> None:
        """gemm_f32 into out [M,N], columns n0..n1 only (n1 -1: N; n0 a multiple of the row's panel). residual may be out."""
    def epilogue_f32(
        self,
        acc: _F32,
        bias: _F32 | None = None,
        activation: str = "none",
        residual: _F32 | None = None,
        gate: _F32 | None = None,
        group: _I32 | None = None,
    ) -> _F32:
        """What gemm_f32 does to a product acc [M,N]."""
    def norm_f32(
        self,
        x: _F32,
        eps: float,
        weight: _F32 | None = None,
        bias: _F32 | None = None,
        shift: _F32 | None = None,
        scale: _F32 | None = None,
        group: _I32 | None = None,
        rms: bool = False,
    ) -> _F32:
        """LayerNorm (or RMS norm) of each row of x [M,D], times weight plus bias, then times (1 + scale[group[row]]) plus
        shift[group[row]]."""
    def attention_f32(
        self, q: _F32, k: _F32, v: _F32, out: _F32 | None = None, bias: _F32 | None = None, scale: float = 0
    ) -> _F32:
        """softmax(scale (q k^T + bias)) v for q [Tq,Dh], k [Tk,Dh], v [Tk,Dh] of one head; scale 0: 1/sqrt(Dh). bias [Tq + Tk -
        1]: number i - j + Tk - 1 is added to row i of q and row j of k."""
    # bfloat16 is kept as uint16. Operands of products: 64-byte aligned rows, zero padded to a multiple of 64 elements, as
    # round_bf16, quantize_int8 and the norms return them. k is the inner size without padding; out float32, or uint16 for a
    # bfloat16 result.
    def panels(self) -> dict[str, int]:
        """Columns of a packed panel for "f32", "bf16", "int8" and "int4"."""
    def pack_bf16(self, w: _F32, /) -> _U16: ...
    def unpack_bf16(self, packed: _U16, n: int, k: int, /) -> _U16: ...
    def gemm_bf16(
        self,
        out: _F32 | _U16,
        a: _U16,
        packed: _U16,
        k: int,
        bias: _F32 | None = None,
        activation: str = "none",
        residual: _F32 | None = None,
        gate: _F32 | None = None,
        group: _I32 | None = None,
        n0: int = 0,
        n1: int = -1,
    ) -> None: ...
    def fit_int8(self, w: _I8, scale: _F32, /) -> None:
        """Rounds rows of w [N,K] in place to those that this row multiplies fastest, where it has such; scale [N] follows."""
    def pack_int8(self, w: _I8, /) -> _I8: ...
    def unpack_int8(self, packed: _I8, n: int, k: int, /) -> _I8: ...
    def gemm_int8(
        self,
        out: _F32 | _U16,
        a: _I8,
        packed: _I8,
        k: int,
        a_scale: _F32,
        w_scale: _F32,
        bias: _F32 | None = None,
        activation: str = "none",
        residual: _F32 | None = None,
        gate: _F32 | None = None,
        group: _I32 | None = None,
        n0: int = 0,
        n1: int = -1,
    ) -> None: ...
    def pack_int4(self, q: _U8, s: _U8, k: int, /) -> _U8:
        """q [N, k / 2 up], two numbers -8..7 a byte, each plus 8, the even one low; s [N, k / 32 up], 0..16, of the groups."""
    def unpack_int4(self, packed: _U8, n: int, k: int, /) -> tuple[_U8, _U8]: ...
    def gemm_int4(
        self,
        out: _F32 | _U16,
        a: _I8,
        packed: _U8,
        k: int,
        a_scale: _F32,
        w_scale: _F32,
        bias: _F32 | None = None,
        activation: str = "none",
        residual: _F32 | None = None,
        gate: _F32 | None = None,
        group: _I32 | None = None,
        n0: int = 0,
        n1: int = -1,
    ) -> None:
        """gemm_int8 with the bytes s q, to the bit."""
    def attention_bf16(self, out: _U16, q: _U16, k: _U16, v: _U16, bias: _F32 | None = None, scale: float = 0, /) -> None:
        """As attention_f32, into out [Tq,Dh]."""
    def attention_int8(self, out: _U16, q: _U16, k: _U16, v: _U16, bias: None = None, scale: float = 0, /) -> None:
        """As attention_bf16 without bias, as int8 models take it: where the row has such products, with q, k, v and
        probabilities rounded to int8."""
    def round_bf16(self, x: _F32, /) -> _U16: ...
    def quantize_int8(self, x: _F32 | _U16, /) -> tuple[_I8, _F32]:
        """The rows and their scales; x float32 or bfloat16."""
    def norm_bf16(
        self,
        x: _F32,
        eps: float,
        weight: _F32 | None = None,
        bias: _F32 | None = None,
        shift: _F32 | None = None,
        scale: _F32 | None = None,
        group: _I32 | None = None,
        rms: bool = False,
    ) -> _U16: ...
    def norm_int8(
        self,
        x: _F32,
        eps: float,
        weight: _F32 | None = None,
        bias: _F32 | None = None,
        shift: _F32 | None = None,
        scale: _F32 | None = None,
        group: _I32 | None = None,
        rms: bool = False,
    ) -> tuple[_I8, _F32]: ...
    def activate_f32(self, x: _F32, kind: str, /) -> _F32:
        """kind: as gemm_f32's activation; x [n]."""
    def gated_f32(self, x: _F32, y: _F32, kind: str, /) -> _F32:
        """act(x) y, x and y [M,F] with rows of one distance."""
    def gated_bf16(self, x: _U16, y: _U16, kind: str, /) -> _U16: ...
    def rotate_f32(self, x: _F32, turns: _F32, /) -> None:
        """Turns columns 2j and 2j + 1 of x [M,n] in place by the angles whose cosines and sines stand so in turns [M,n]."""
    def rotate_bf16(self, x: _U16, turns: _F32, /) -> None: ...
    def step_f32(self, x: _F32, x0_prev: _F32, m: _F32, v: _F32 | None, noise: _F32 | None, u: NDArray[np.float64], /) -> None:
        """One row of `Model.sample`'s update on vectors, in place: x and x0_prev."""
    def patchify(self, image: _F32 | NDArray[np.uint8], p: int, /) -> _F32:
        """image [S,S,3] -> patches [(S/p)^2, 3pp]."""
    def unpatchify(self, patches: _F32, s: int, p: int, uint8: bool, /) -> _F32 | NDArray[np.uint8]:
        """patches -> image [s,s,3], as bytes where `uint8` is true."""
    def slots(self) -> dict[str, str]:
        """Each slot and the row that it comes from: this one, or the best before it that fills the slot."""
    def register_rounds(self, rounds: int, dtype: str = "f32", /) -> float:
        """Runs so many rounds of multiply-adds on registers alone and returns the number of operations: divided by their time,
        the most that this thread could do with this row's instructions. dtype of the factors: "f32", "bf16" or "int8".
        NotImplementedError where the row and those before it have no such loop."""
