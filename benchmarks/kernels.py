"""The kernels of one ISA row on the models' own shapes: verified against float64, then timed beside the register-only rate.

    python benchmarks/kernels.py                       all cases on the best row, one and two threads
    python benchmarks/kernels.py --isa ref --case norm --threads 1
    python benchmarks/kernels.py --markdown            the table of RESULTS.md

Time is CPU time of the threads that run a kernel, so other work on the machine distorts it less; each round times the
register-only loop (multiply-adds that touch no memory) beside the kernel, and the share is the median over rounds of their
ratio. Work is cut as the engine cuts it: gemm in blocks of 224 rows by runs of columns, attention head by head. "cold" weights
are so many copies that none is in a cache when its turn comes, as in a DiT-XL; A, K, V and outputs are as warm as their size
allows. Numbers and what was tried: RESULTS.md.
"""

import argparse
import math
import statistics
import threading
import time

import numpy as np

from textok import cpu_info
from textok._core import Kernels

ROWS = 224  # of a gemm's block, as in csrc/model/linear.c
COLD_BYTES = 400e6
RNG = np.random.default_rng(0)


def matrix(rows, columns):
    """With rows an odd number of 16 floats apart, as the engine lays them out."""
    buffer = np.zeros((rows, (-(-columns // 16) | 1) * 16), np.float32)
    view = buffer[:, :columns]
    view[...] = RNG.standard_normal((rows, columns), np.float32)
    return view


def aligned_copy(x):
    buffer = np.empty(x.size + 16, np.float32)
    skip = (-buffer.ctypes.data // 4) % 16
    buffer[skip : skip + x.size] = x
    return buffer[skip : skip + x.size]


def column_runs(threads, row_tiles):
    """Into how many runs of columns the engine cuts a product (csrc/model/linear.c): as many for each thread."""
    return -(-4 * threads // (row_tiles * threads)) * threads


class Gemm:
    def __init__(self, M, K, N, activation="none", residual=False, cold=False):
        self.M, self.K, self.N, self.activation, self.residual, self.cold = M, K, N, activation, residual, cold
        self.operations = 2 * M * K * N
        self.name = f"gemm {M} x {K} x {N}" + f" {activation}" * (activation != "none") + " gate" * residual + " cold" * cold

    def prepare(self, kernels):
        self.a, self.out = matrix(self.M, self.K), matrix(self.M, self.N)
        self.w = RNG.standard_normal((self.N, self.K), np.float32) / np.float32(math.sqrt(self.K))
        self.epilogue = {"bias": RNG.standard_normal(self.N, np.float32), "activation": self.activation}
        if self.residual:
            self.epilogue |= {"gate": RNG.standard_normal((1, self.N), np.float32) * np.float32(0.01)}
        packed = kernels.pack_f32(self.w)
        self.weights = [aligned_copy(packed) for _ in range(max(1, int(COLD_BYTES / packed.nbytes)) if self.cold else 1)]

    def tasks(self, kernels, threads):
        row_blocks = -(-self.M // ROWS)
        runs = column_runs(threads, row_blocks)
        panel = kernels.panels()["f32"]
        step = -(-self.N // runs // panel) * panel
        return [
            lambda w=w, n=n, m=m: kernels.gemm_packed_f32(
                self.out[m : m + ROWS], self.a[m : m + ROWS], w, n0=n, n1=min(n + step, self.N),
                residual=self.out[m : m + ROWS] if self.residual else None, **self.epilogue)
            for w in self.weights for n in range(0, self.N, step) for m in range(0, self.M, ROWS)
        ]

    def error(self, kernels):
        """Largest error over the sum of the magnitudes of the products, without the epilogue."""
        rows, columns = slice(0, min(self.M, 32)), slice(0, min(self.N, 300))
        a, w = np.ascontiguousarray(self.a[rows]), np.ascontiguousarray(self.w[columns])
        exact, size = np.float64(a) @ np.float64(w).T, np.float64(np.abs(a)) @ np.float64(np.abs(w)).T
        return np.max(np.abs(kernels.gemm_f32(a, w) - exact) / size)


class Attention:
    def __init__(self, T, H, Dh):
        self.T, self.H, self.Dh = T, H, Dh
        self.operations = 4 * T * T * H * Dh
        self.name = f"attention {T} x {T}, {H} heads of {Dh}"

    def prepare(self, kernels):
        self.qkv, self.out = matrix(self.T, 3 * self.H * self.Dh), matrix(self.T, self.H * self.Dh)

    def head(self, h):
        return (self.qkv[:, (part * self.H + h) * self.Dh : (part * self.H + h + 1) * self.Dh] for part in range(3))

    def tasks(self, kernels, threads):
        heads = [(*self.head(h), self.out[:, h * self.Dh : (h + 1) * self.Dh]) for h in range(self.H)]
        return [lambda q=q, k=k, v=v, out=out: kernels.attention_f32(q, k, v, out=out) for q, k, v, out in heads]

    def error(self, kernels):
        q, k, v = (np.float64(x) for x in self.head(1))
        p = np.exp(q @ k.T / math.sqrt(self.Dh))
        exact = p / p.sum(1, keepdims=True) @ v
        return np.max(np.abs(kernels.attention_f32(*self.head(1)) - exact)) / np.abs(exact).max()


class Norm:
    """Bytes in place of operations: a norm is bound by memory."""

    def __init__(self, M, D):
        self.M, self.D = M, D
        self.operations, self.bytes = None, 8 * M * D
        self.name = f"norm {M} x {D}"

    def prepare(self, kernels):
        self.x = matrix(self.M, self.D)
        self.shift, self.scale = (RNG.standard_normal((1, self.D), np.float32) for _ in range(2))

    def run(self, kernels, rows):
        return kernels.norm_f32(self.x[rows], 1e-6, None, None, self.shift, self.scale)

    def tasks(self, kernels, threads):
        return [lambda m=m: self.run(kernels, slice(m, m + 64)) for m in range(0, self.M, 64)]

    def error(self, kernels):
        x = np.float64(self.x)
        exact = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6) * (1 + self.scale) + self.shift
        return np.max(np.abs(self.run(kernels, slice(None)) - exact)) / np.abs(exact).max()


class Activate:
    def __init__(self, kind, n):
        self.kind, self.n = kind, n
        self.operations, self.bytes = None, 8 * n
        self.name = f"{kind} {n}"

    def prepare(self, kernels):
        self.x = RNG.standard_normal(self.n, np.float32) * np.float32(2)

    def tasks(self, kernels, threads):
        return [lambda: kernels.activate_f32(self.x, self.kind)] * 64

    def error(self, kernels):
        x = np.float64(self.x)
        exact = {
            "gelu_erf": lambda: 0.5 * x * np.vectorize(math.erfc)(-x / math.sqrt(2)),
            "gelu_tanh": lambda: x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
            "silu": lambda: x / (1 + np.exp(-x)),
        }[self.kind]()
        return np.max(np.abs(kernels.activate_f32(self.x, self.kind) - exact) / np.maximum(np.abs(x), 1))


CASES = [
    # ViT-Base at patch 8: 1,024 patches, 128 text tokens, 32 latents.
    Gemm(1184, 768, 2304), Gemm(1184, 768, 768, residual=True),
    Gemm(1184, 768, 3072, "gelu_erf"), Gemm(1184, 3072, 768, residual=True),
    # DiT-XL with 32 tokens, one row of images and with guidance two; then 256 tokens with guidance.
    Gemm(32, 1152, 4608, "gelu_tanh", cold=True), Gemm(32, 4608, 1152, residual=True, cold=True),
    Gemm(64, 1152, 3456, cold=True), Gemm(64, 1152, 1152, residual=True, cold=True),
    Gemm(64, 1152, 4608, "gelu_tanh", cold=True), Gemm(64, 4608, 1152, residual=True, cold=True),
    Gemm(512, 1152, 4608, "gelu_tanh", cold=True), Gemm(512, 4608, 1152, residual=True, cold=True),
    Gemm(2, 1152, 6912, cold=True),
    # T5 v1.1 base and XL, one caption of 90 tokens: queries, keys and values; the MLP's two halves; wo.
    Gemm(90, 768, 2304, cold=True), Gemm(90, 768, 4096, cold=True), Gemm(90, 2048, 768, residual=True, cold=True),
    Gemm(90, 2048, 6144, cold=True), Gemm(90, 2048, 10240, cold=True), Gemm(90, 5120, 2048, residual=True, cold=True),
    Attention(1184, 12, 64), Attention(416, 12, 64), Attention(256, 16, 72), Attention(64, 16, 72),
    Norm(1184, 768), Norm(64, 1152),
    Activate("gelu_erf", 3072), Activate("gelu_tanh", 4608), Activate("silu", 4608),
]  # fmt: skip


def in_threads(work, threads):
    """CPU seconds a thread, on average, of work(thread)."""
    seconds = [0.0] * threads
    start = threading.Barrier(threads)

    def body(i):
        start.wait()
        begin = time.thread_time()
        work(i)
        seconds[i] = time.thread_time() - begin

    running = [threading.Thread(target=body, args=(i,)) for i in range(threads)]
    for t in running:
        t.start()
    for t in running:
        t.join()
    return statistics.fmean(seconds)


def one_pass(tasks, threads, repeats):
    """CPU seconds a thread for all tasks `repeats` times, tasks taken as threads come free."""
    waiting = iter(tasks * repeats)

    def take(_):
        for task in waiting:  # next() of a list's iterator is atomic under the GIL
            task()

    return in_threads(take, threads)


def peak_rate(kernels, dtype, threads):
    """Operations a second in registers, or None where the row has no such loop."""
    loops = 1_000_000 if dtype == "f32" else 100_000
    try:
        operations = kernels.register_rounds(1, dtype)
    except NotImplementedError:
        return None
    return threads * loops * operations / in_threads(lambda _: kernels.register_rounds(loops, dtype), threads)


def measure(case, kernels, threads, rounds, seconds=0.03):
    tasks = case.tasks(kernels, threads)
    repeats = max(1, round(seconds / one_pass(tasks, threads, 1)))
    rates, shares, peaks = [], [], []
    for _ in range(rounds):
        peak = peak_rate(kernels, "f32", threads) if case.operations else None
        work = (case.operations or case.bytes) * len(getattr(case, "weights", [0])) * repeats
        if isinstance(case, Activate):
            work *= len(tasks)
        rates.append(work / one_pass(tasks, threads, repeats))
        if peak:
            shares.append(rates[-1] / peak)
            peaks.append(peak)
    return (
        statistics.median(rates) / 1e9,
        statistics.median(shares) if shares else None,
        statistics.median(peaks) / 1e9 if peaks else None,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", choices=cpu_info()["rows"], default=cpu_info()["rows"][-1])
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    kernels = Kernels(args.isa)
    line = "| {} | {} | {} | {} | {} | {} |" if args.markdown else "{:44} {:>7} {:>10} {:>12} {:>7} {:>8}"
    print(line.format("case", "threads", "rate", "registers", "share", "error"))
    if args.markdown:
        print("|" + " --- |" * 6)
    for case in CASES:
        if args.case not in case.name:
            continue
        case.prepare(kernels)
        error = case.error(kernels)
        assert error < 1e-5, f"{case.name}: error {error:.2g}, not worth timing"
        for threads in args.threads:
            rate, share, peak = measure(case, kernels, threads, args.rounds)
            speed, best = f"{rate:.1f} {'GF/s' if case.operations else 'GB/s'}", f"{peak:.1f} GF/s" if peak else ""
            print(line.format(case.name, threads, speed, best, f"{share:.0%}" if share else "", f"{error:.1e}"), flush=True)


if __name__ == "__main__":
    main()
