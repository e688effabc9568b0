"""How near the NEON rows' inner loops come to an ARM core's peak, counted, where no such machine is at hand.

A count, not a clock: the tiles of 6 rows are compiled for aarch64, and llvm-mca counts the cycles of their inner loops by
LLVM's models of the cores, and those of 24 chains of the same instruction without a load. It knows ports, latencies and widths;
it knows no caches, so every load is taken to hit L1.

    python benchmarks/neon_count.py [--compiler aarch64-linux-gnu-gcc] [--mca llvm-mca-19] [CORE ...]
"""

import argparse
import re
import subprocess
from pathlib import Path

KERNELS = Path(__file__).resolve().parent.parent / "csrc" / "kernels"
CORES = ("cortex-a55", "neoverse-n1", "neoverse-v1", "neoverse-v2", "apple-m2")
WITHOUT_MATRICES = ("cortex-a55", "neoverse-n1", "apple-m1")
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", f"-I{KERNELS.parent}", "-S", "-o", "-"]
# What is counted: the row's file, its instruction, products an instruction, what the compiler and llvm-mca have to be told.
PRODUCTS = {
    "float32": ("neon", "gemm_f32.c", "fmla", 4, ""),
    "int8, widened": ("neon", "gemm_int8.c", "smlal2?", 4, ""),
    "int8, SDOT": ("neon_dot", "gemm_int8.c", "sdot", 16, "dotprod"),
    "int8, SMMLA": ("neon_i8mm", "gemm_int8.c", "smmla", 32, "i8mm"),
    "bfloat16, BFMMLA": ("neon_bf16", "gemm_bf16.c", "bfmmla", 16, "bf16"),
}


def assembly(compiler: str, source: Path, extension: str) -> list[str]:
    march = [f"-march=armv8.2-a+{extension}"] if extension else []
    done = subprocess.run([compiler, *FLAGS, *march, str(source)], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


def loop(lines: list[str], function: str, instruction: str) -> list[str]:
    """The instructions of the loop in `function` that has most of `instruction`."""
    start = lines.index(f"{function}:")
    end = next(i for i in range(start, len(lines)) if re.match(r"\s*\.size\s", lines[i]))
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    loops = []
    for i in range(start, end):
        branch = re.match(r"\s*(?:b\.?\w*|cbn?z|tbn?z)\s+(?:.*,\s*)?(\.L\w+)$", lines[i])
        if branch and start < labels.get(branch[1], end) < i:
            loops.append((labels[branch[1]], i))
    innermost = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    bodies = [[line for line in lines[first + 1 : last] if re.match(r"\s+[a-z]", line)] for first, last in innermost]
    return max(bodies, key=lambda body: count(body, instruction))


def count(body: list[str], instruction: str) -> int:
    return sum(bool(re.match(rf"\s+{instruction}\s", line)) for line in body)


def bare_of(body: list[str], instruction: str) -> str:
    """One such instruction, whose factors are registers that no chain has."""
    line = next(line for line in body if re.match(rf"\s+{instruction}\s", line))
    operation, sums, *factors = re.split(r"[\s,]+", line.strip())
    named = [re.sub(r"^v\d+", "v15" if "[" in factor else f"v{31 - i}", factor) for i, factor in enumerate(factors)]
    return f"\t{operation}\t{sums}, {', '.join(named)}"


def cycles(mca: str, body: list[str], core: str) -> float | None:
    """Cycles of an iteration, or None where LLVM has no such core or the core no such instruction."""
    command = [mca, "-mtriple=aarch64", f"-mcpu={core}", "-iterations=200", "-mattr=+dotprod,+i8mm,+bf16"]
    done = subprocess.run(command, input="\n".join(body), capture_output=True, text=True)
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    return int(found[1]) / 200 if found and "not supported" not in done.stderr else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compiler", default="aarch64-linux-gnu-gcc")
    parser.add_argument("--mca", default="llvm-mca")
    parser.add_argument("cores", nargs="*", default=CORES)
    args = parser.parse_args()
    version = subprocess.run([args.mca, "--version"], capture_output=True, text=True).stdout
    print("A count by", " ".join(re.findall(r"LLVM version [\d.]+", version)), "- not a clock")
    print(f"{'product':18}{'core':14}{'cycles':>8}{'products/cycle':>16}{'peak':>8}{'share':>8}")
    for name, (row, file, instruction, products, extension) in PRODUCTS.items():
        tile = loop(assembly(args.compiler, KERNELS / row / file, extension), "tile_6", instruction)
        spills = sum("[sp" in line for line in tile)
        one = bare_of(tile, instruction)
        bare = [re.sub(r"v\d+\.", f"v{i}.", one, count=1) for i in [*range(15), *range(16, 25)]]
        for core in args.cores:
            found, best = cycles(args.mca, tile, core), cycles(args.mca, bare, core)
            if found is None or best is None or (core in WITHOUT_MATRICES and extension in ("i8mm", "bf16")):
                print(f"{name:18}{core:14}{'-':>8}")
                continue
            rate, peak = count(tile, instruction) * products / found, len(bare) * products / best
            told = f"  {spills} spills" if spills else ""
            print(f"{name:18}{core:14}{found:8.1f}{rate:16.1f}{peak:8.1f}{rate / peak:8.0%}{told}")


if __name__ == "__main__":
    main()
