"""The tree's own rules (csrc/README.md), as far as a script can see them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from textok import _core

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
C_FILES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".c", ".h"))
MOST_LINES = 800
MOST_COLUMNS = 128

pytestmark = pytest.mark.skipif(not C_FILES, reason="the sources are not here")


def name_of(path):
    return str(path.relative_to(ROOT))


def includes(path):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.M)


def code_of(path):
    """The text without comments and strings."""
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(\\.|[^"\\])*"', " ", path.read_text(), flags=re.S)


def offenders(paths, is_wrong):
    return [name_of(path) for path in paths if is_wrong(path)]


def test_python_is_known_to_the_binding_only():
    def knows_python(path):
        return any(header == "Python.h" or header.startswith("numpy/") for header in includes(path))

    assert not offenders([path for path in C_FILES if path.parent.name != "binding"], knows_python)


def test_blas_is_known_to_one_file():
    assert offenders(C_FILES, lambda path: "cblas.h" in includes(path)) == ["csrc/model/linear.c"]


@pytest.mark.parametrize("floor", ("base", "kernels", "model"))
def test_stairs_go_one_way(floor):
    """kernels <- model <- binding, base below all: no floor includes one above it."""
    above = {"base": ("kernels/", "model/", "binding/"), "kernels": ("model/", "binding/"), "model": ("binding/",)}[floor]
    files = [path for path in C_FILES if path.relative_to(CSRC).parts[0] == floor]
    assert files and not offenders(files, lambda path: any(part in header for header in includes(path) for part in above))


def test_kernels_only_compute():
    """No memory, files or threads."""
    kernels = [path for path in C_FILES if (CSRC / "kernels") in path.parents and path.stem != "dispatch"]
    banned = {"stdlib.h", "stdio.h", "pthread.h", "unistd.h", "fcntl.h", "sys/mman.h"}
    calls = re.compile(r"\b(?:malloc|calloc|realloc|free|aligned_alloc|printf|fopen|mmap|pthread_\w+)\s*\(")
    assert kernels and not offenders(kernels, lambda path: banned & set(includes(path)) or calls.search(code_of(path)))


def test_nothing_prints_or_exits():
    calls = re.compile(r"\b(?:printf|puts|putchar|perror|abort|exit|_exit)\s*\(")
    assert not offenders(C_FILES, lambda path: calls.search(code_of(path)))


def test_files_fit_in_a_head():
    files = [*C_FILES, *(ROOT / "textok").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    assert not offenders(files, lambda path: len(path.read_text().splitlines()) > MOST_LINES)


def test_c_is_laid_out_evenly():
    """No formatter writes the macros that kernels are made of, so this holds what it would: columns, tabs, blanks at ends."""

    def is_uneven(path):
        text = path.read_text()
        lines = text.split("\n")
        return any(len(line) > MOST_COLUMNS or "\t" in line or line != line.rstrip() for line in lines) or lines[-1] or not lines[-2]

    assert not offenders(C_FILES, is_uneven)


def test_only_the_module_is_exported():
    """Of the extension; of what it calls, OpenBLAS's symbols carry a prefix of their own."""
    if not shutil.which("nm"):
        pytest.skip("no nm here")
    lines = subprocess.run(["nm", "-D", "--defined-only", _core.__file__], capture_output=True, text=True, check=True).stdout.splitlines()
    symbols = {line.split()[-1].partition("@")[0] for line in lines}
    # A sanitizer's runtime and the linker add names of their own.
    assert {name for name in symbols if not name.startswith("_") and not name.startswith("asan.")} == {"PyInit__core"}
