"""The bfloat16, int8 and int4 kernels of one ISA row on the models' own shapes: verified against float64, then timed beside the
register-only rate.

    python benchmarks/kernels_narrow.py                     all cases on the best row, one and two threads
    python benchmarks/kernels_narrow.py --isa avx512_vnni --case int8 --threads 1
    python benchmarks/kernels_narrow.py --torch             PyTorch's products of the same shapes too

As kernels.py: CPU time of the threads that run a kernel, the row's register-only loop (tiles, vdpbf16ps, vpdpbusd) timed in
each round, medians over rounds. Work is cut as the engine cuts it: tiles of rows by runs of columns, attention head by head.
"cold" weights are so many copies that none is in a cache when its turn comes. PyTorch's figures are CPU time of the whole
process over its threads.
"""

import argparse
import itertools
import math
import mmap
import statistics
import time

import numpy as np
from kernels import COLD_BYTES, RNG, column_runs, one_pass, peak_rate

from textok import cpu_info
from textok._core import Kernels

ROWS, ROWS_FEW = 224, 288  # of a tile, as in csrc/model/linear.c
HUGE_PAGE = 2 << 20


def wide(x):
    return (x.astype(np.uint32) << 16).view(np.float32)


def aligned(rows, columns, dtype):
    """Rows an odd number of cache lines apart, zero, in pages of 2 MB as the engine's arenas are."""
    size = np.dtype(dtype).itemsize
    ld = (-(-columns * size // 64) | 1) * 64 // size
    pages = mmap.mmap(-1, rows * ld * size + HUGE_PAGE)
    pages.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(pages, np.uint8)
    skip = -whole.ctypes.data % HUGE_PAGE
    return whole[skip : skip + rows * ld * size].view(dtype).reshape(rows, ld)[:, :columns]


class Gemm:
    def __init__(self, dtype, M, K, N, activation="none", out="bf16", cold=False):
        self.dtype, self.M, self.K, self.N, self.activation, self.out_type, self.cold = dtype, M, K, N, activation, out, cold
        self.operations = 2 * M * K * N
        self.name = f"{dtype} {M} x {K} x {N}" + f" {activation}" * (activation != "none") + f" -> {out}" + " cold" * cold

    def prepare(self, k):
        x, w = (RNG.standard_normal((n, self.K), np.float32) for n in (self.M, self.N))
        self.extra = {}
        if self.dtype == "bf16":
            a, packed = k.round_bf16(x), k.pack_bf16(w / np.float32(math.sqrt(self.K)))
            self.exact = np.float64(wide(a[:32, : self.K])) @ np.float64(wide(k.unpack_bf16(packed, self.N, self.K)[:300])).T
        elif self.dtype == "int4":
            a, a_scale = k.quantize_int8(x)
            q, s = RNG.integers(-8, 8, w.shape, np.int8), RNG.integers(6, 17, (self.N, -(-self.K // 32)), np.uint8)
            rows = (q[:, ::2] + 8 | (q[:, 1::2] + 8) << 4).astype(np.uint8)
            packed, w_scale = k.pack_int4(rows, s, self.K), np.full(self.N, 0.01 / math.sqrt(self.K), np.float32)
            self.extra = {"a_scale": a_scale, "w_scale": w_scale}
            self.exact = (
                np.float64(a[:32, : self.K]) @ (q * s.repeat(32, 1)[:, : self.K])[:300].T * a_scale[:32, None] * w_scale[:300]
            )
        else:
            (a, a_scale), (q, w_scale) = k.quantize_int8(x), k.quantize_int8(w / np.float32(math.sqrt(self.K)))
            q = np.ascontiguousarray(q[:, : self.K])
            k.fit_int8(q, w_scale)
            packed = k.pack_int8(q)
            self.extra = {"a_scale": a_scale, "w_scale": w_scale}
            self.exact = np.float64(a[:32, : self.K]) @ np.float64(q[:300]).T * a_scale[:32, None] * w_scale[:300]
        self.a = aligned(*a.shape, a.dtype)
        self.a[:] = a
        self.out = aligned(self.M, self.N, np.uint16 if self.out_type == "bf16" else np.float32)
        self.bias, self.gate = np.zeros(self.N, np.float32), np.full((1, self.N), 0.01, np.float32)
        self.weights = []
        while not self.weights or (self.cold and len(self.weights) * packed.nbytes < COLD_BYTES):
            copy = aligned(1, packed.size, packed.dtype)[0]
            copy[:] = packed
            self.weights.append(copy)

    def call(self, k, out, a, w, rows, n0, n1, **epilogue):
        extra = dict(self.extra)
        if extra:
            extra["a_scale"] = extra["a_scale"][rows]
        getattr(k, f"gemm_{self.dtype}")(out, a, w, self.K, n0=n0, n1=n1, **extra, **epilogue)

    def tasks(self, k, threads):
        height = self.M if self.M <= ROWS_FEW else ROWS
        panel = k.panels()[self.dtype]
        panels, runs = -(-self.N // panel), column_runs(threads, -(-self.M // height))
        ends = [panels * run // runs * panel for run in range(runs + 1)]
        residual = self.out_type == "residual"
        return [
            lambda w=w, n=n, end=end, m=m: self.call(
                k, self.out[m : m + height], self.a[m : m + height], w, slice(m, m + height), n, min(end, self.N),
                bias=self.bias, activation=self.activation,
                **({"residual": self.out[m : m + height], "gate": self.gate} if residual else {}))
            for w in self.weights for n, end in itertools.pairwise(ends) for m in range(0, self.M, height)
        ]  # fmt: skip

    def error(self, k):
        rows = slice(0, min(self.M, 32))
        out = aligned(rows.stop, self.N, np.float32)
        self.call(k, out, self.a[rows], self.weights[0], rows, 0, self.N)
        return np.abs(out[:, :300] - self.exact).max() / np.abs(self.exact).max()


class Attention:
    def __init__(self, dtype, T, H, Dh):
        self.dtype, self.T, self.H, self.Dh = dtype, T, H, Dh
        self.operations = 4 * T * T * H * Dh
        self.name = f"{dtype} attention {T} x {T}, {H} heads of {Dh}"

    def prepare(self, k):
        D = self.H * self.Dh
        self.qkv, self.out = aligned(self.T, 3 * D, np.uint16), aligned(self.T, D, np.uint16)
        self.qkv[:] = k.round_bf16(RNG.standard_normal((self.T, 3 * D), np.float32))[:, : 3 * D]

    def head(self, h):
        return [self.qkv[:, (part * self.H + h) * self.Dh : (part * self.H + h + 1) * self.Dh] for part in range(3)]

    def tasks(self, k, threads):
        attend = k.attention_bf16 if self.dtype == "bf16" else k.attention_int8
        return [lambda h=h: attend(self.out[:, h * self.Dh : (h + 1) * self.Dh], *self.head(h)) for h in range(self.H)]

    def error(self, k):
        self.tasks(k, 1)[1]()
        q, key, v = (np.float64(wide(x)) for x in self.head(1))
        p = np.exp(q @ key.T / math.sqrt(self.Dh))
        exact = p / p.sum(1, keepdims=True) @ v
        return np.abs(wide(self.out[:, self.Dh : 2 * self.Dh]) - exact).max() / np.abs(exact).max()


def gemms(dtype):
    return [
        # ViT-Base at patch 8, then patch 16.
        Gemm(dtype, 1184, 768, 2304), Gemm(dtype, 1184, 768, 768, out="residual"), Gemm(dtype, 1184, 768, 3072, "gelu_erf"),
        Gemm(dtype, 1184, 3072, 768, out="residual"), Gemm(dtype, 416, 768, 3072, "gelu_erf"),
        # DiT-XL with 32 tokens, alone and with guidance; then 256 tokens with guidance.
        Gemm(dtype, 32, 1152, 4608, "gelu_tanh", cold=True), Gemm(dtype, 64, 1152, 3456, cold=True),
        Gemm(dtype, 64, 1152, 4608, "gelu_tanh", cold=True), Gemm(dtype, 64, 4608, 1152, out="residual", cold=True),
        Gemm(dtype, 512, 1152, 4608, "gelu_tanh", cold=True), Gemm(dtype, 512, 4608, 1152, out="residual", cold=True),
        # T5 v1.1 base and XL, one caption of 90 tokens; wo is bfloat16 in int8 models, too.
        Gemm(dtype, 90, 768, 2304, cold=True), Gemm(dtype, 90, 768, 4096, cold=True),
        Gemm(dtype, 90, 2048, 768, out="residual", cold=True), Gemm(dtype, 90, 2048, 6144, cold=True),
        Gemm(dtype, 90, 2048, 10240, cold=True), Gemm(dtype, 90, 5120, 2048, out="residual", cold=True),
    ]  # fmt: skip


CASES = [
    *gemms("bf16"),
    *gemms("int8"),
    *gemms("int4"),
    *(Gemm(dtype, M, 1152, 4608, cold=True) for dtype in ("int8", "int4") for M in (2, 8, 16)),
    *(
        Attention(dtype, *shape)
        for dtype in ("bf16", "int8")
        for shape in ((1184, 12, 64), (416, 12, 64), (256, 16, 72), (1024, 16, 72))
    ),
]


def measure(case, k, threads, rounds, seconds=0.03):
    tasks = case.tasks(k, threads)
    repeats = max(1, round(seconds / one_pass(tasks, threads, 1)))
    rates, shares, peaks = [], [], []
    for _ in range(rounds):
        peak = peak_rate(k, "int8" if case.dtype == "int4" else case.dtype, threads)
        rate = case.operations * len(getattr(case, "weights", [0])) * repeats / one_pass(tasks, threads, repeats)
        rates.append(rate)
        if peak:
            shares.append(rate / peak)
            peaks.append(peak)
    return statistics.median(rates), statistics.median(shares) if shares else None, statistics.median(peaks) if peaks else None


def torch_rate(case, threads, rounds):
    """PyTorch's linear in bfloat16, or its dynamic int8 linear, weights as warm as they come; without activation."""
    import torch

    torch.set_num_threads(threads)
    if isinstance(case, Attention):
        q, key, v = torch.randn(3, 1, case.H, case.T, case.Dh, dtype=torch.bfloat16)
        run = lambda i: torch.nn.functional.scaled_dot_product_attention(q, key, v)
    else:
        copies = len(case.weights)
        layers = [torch.nn.Linear(case.K, case.N) for _ in range(copies)]
        x = torch.randn(case.M, case.K)
        if case.dtype == "bf16":
            layers, x = [layer.bfloat16() for layer in layers], x.bfloat16()
        else:
            layers = [torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(layer), {torch.nn.Linear}) for layer in layers]
        run = lambda i: layers[i % copies](x)
    times = []
    with torch.inference_mode():
        for i in range(rounds + 2):
            begin = time.process_time()
            for j in range(4):
                run(4 * i + j)
            times.append((time.process_time() - begin) / 4 / threads)
    return case.operations / statistics.median(times[2:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", choices=cpu_info()["rows"], default=cpu_info()["rows"][-1])
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    kernels = Kernels(args.isa)
    line = "| {} | {} | {} | {} | {} | {} | {} |" if args.markdown else "{:46} {:>7} {:>10} {:>10} {:>6} {:>8} {:>10}"
    print(line.format("case", "threads", "rate", "registers", "share", "error", "PyTorch"))
    if args.markdown:
        print("|" + " --- |" * 7)
    for case in CASES:
        if args.case not in case.name:
            continue
        case.prepare(kernels)
        error = case.error(kernels)
        assert error < ({"bf16": 1e-2, "int8": 4e-2}[case.dtype] if isinstance(case, Attention) else 1e-5), (
            f"{case.name}: error {error:.2g}, not worth timing"
        )
        for threads in args.threads:
            rate, share, peak = measure(case, kernels, threads, args.rounds)
            peer = f"{torch_rate(case, threads, args.rounds) / 1e9:.0f} GF/s" if args.torch else ""
            print(line.format(case.name, threads, f"{rate / 1e9:.0f} GF/s", f"{peak / 1e9:.0f} GF/s" if peak else "",
                              f"{share:.0%}" if share else "", f"{error:.1e}", peer), flush=True)  # fmt: skip
        case.weights = []


if __name__ == "__main__":
    main()
