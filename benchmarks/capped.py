"""ONNX Runtime as an older CPU runs it: one with AVX2, with AVX-VNNI besides, or with the first AVX-512. PyTorch and OpenVINO
have switches for it, this has none.

    eval "$(python benchmarks/capped.py capped --isa avx2)"
    python benchmarks/run.py --quick --out bench --peers onnxruntime --peers eager

Copies the installed package to the folder, replaces the cpuid instructions of its library by an invalid one, and builds a
handler that answers for those without what is newer. Prints the environment in which Python takes the copy, and textok and
PyTorch are capped alike. Needs cc, objdump and readelf.
"""

import argparse
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

# By textok's row: the bits of leaf 7 that differ, of ebx the first AVX-512 (F, DQ, CD, BW, VL) and of the second part's eax
# AVX-VNNI; what PyTorch and oneDNN call that ISA.
FIRST_AVX512 = 1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | 1 << 31
ISAS = {
    "avx2": (FIRST_AVX512, 1 << 4, "avx2", "AVX2"),
    "avx_vnni": (FIRST_AVX512, 0, "avx2", "AVX2_VNNI"),
    "avx512": (0, 1 << 4, "avx512", "AVX512_CORE"),
}
CPUID, INVALID = b"\x0f\xa2", b"\xf0\x90"  # the second: lock nop, which no compiler writes
HANDLER = r"""
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

/* Bits of leaf 7: AVX-512's extensions, AMX; in its second part AVX512_BF16, AMX-FP16 and all of edx; and what NO_B and NO_A
have. */
static void answer(int number, siginfo_t *info, void *context)
{
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned leaf = (unsigned)r[REG_RAX], part = (unsigned)r[REG_RCX], a, b, c, d;
    if (memcmp((void *)r[REG_RIP], "\xf0\x90", 2) != 0) {
        signal(number, SIG_DFL);
        return;
    }
    __cpuid_count(leaf, part, a, b, c, d);
    if (leaf == 7 && part == 0) {
        b &= ~(NO_B | 1u << 21 | 1u << 26 | 1u << 27);
        c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);
        d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);
    }
    if (leaf == 7 && part == 1)
        a &= ~(NO_A | 1u << 5 | 1u << 21), d = 0;
    r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
    r[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void)
{
    sigaction(SIGILL, &(struct sigaction){.sa_sigaction = answer, .sa_flags = SA_SIGINFO}, NULL);
}
"""


def replace_cpuid(library):
    """The number of instructions replaced in this file."""
    segments = [
        [int(number, 16) for number in re.findall("0x[0-9a-f]+", line)]
        for line in subprocess.run(["readelf", "-lW", library], capture_output=True, text=True, check=True).stdout.splitlines()
        if line.split()[:1] == ["LOAD"]
    ]
    data, count = bytearray(library.read_bytes()), 0
    with subprocess.Popen(["objdump", "-d", "--no-show-raw-insn", library], stdout=subprocess.PIPE, text=True) as listing:
        for line in listing.stdout:
            if line.rstrip().endswith("\tcpuid"):
                address = int(line.split(":")[0], 16)
                offset = next(o + address - start for o, start, _, size, *_ in segments if start <= address < start + size)
                assert data[offset : offset + 2] == CPUID
                data[offset : offset + 2] = INVALID
                count += 1
    library.write_bytes(data)
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--isa", choices=ISAS, default="avx2", help="the newest that is left (default: avx2)")
    args = parser.parse_args()
    folder = args.folder.resolve()
    no_b, no_a, aten, onednn = ISAS[args.isa]
    package = Path(find_spec("onnxruntime").origin).parent
    if package.is_relative_to(folder):
        raise SystemExit(f"{folder} is what Python takes already; a new shell takes the installed package")
    shutil.copytree(package, folder / "onnxruntime", dirs_exist_ok=True)
    libraries = list((folder / "onnxruntime/capi").glob("onnxruntime_pybind11_state*.so"))
    if not libraries or not all(map(replace_cpuid, libraries)):
        raise SystemExit(f"{package}: no library with cpuid instructions")
    handler = folder / "cpuid.so"
    command = ["cc", "-O1", "-shared", "-fPIC", f"-DNO_B={no_b}u", f"-DNO_A={no_a}u", "-xc", "-", "-o", handler]
    subprocess.run(command, input=HANDLER, text=True, check=True)
    print(f"export LD_PRELOAD={handler} PYTHONPATH={folder}")
    print(f"export TEXTOK_ISA={args.isa} ATEN_CPU_CAPABILITY={aten} ONEDNN_MAX_CPU_ISA={onednn}")


if __name__ == "__main__":
    main()
