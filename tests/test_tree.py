"""The tree's own rules (csrc/README.md), as far as a script can see them."""

import ast
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from textok import _core

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
C_FILES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".c", ".h"))
PACKAGE = ROOT / "textok"
# From the bottom up; the files beside these folders may stand between them. commands and the package's face are above all.
ROOMS = ("pictures", "text", "importers", "networks", "data", "metrics", "train", "commands")
FACES = ("textok", "textok.cli", "textok.__main__")  # nobody below reads them, and they alone import by names made at run time
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


def test_the_engine_opens_nothing_but_what_says_how_many_cpus_there_are():
    """Python's audit events, by which the proof of silence goes, do not see C."""
    names = (
        "open|openat|creat|fopen|freopen|fdopen|write|pwrite|fwrite|fputs|"
        "socket|connect|system|popen|execve|execvp"
    )
    calls = re.compile(rf"\b(?:{names})\s*\(")
    assert offenders(C_FILES, lambda path: calls.search(code_of(path))) == ["csrc/base/cpu.c"]
    text = (CSRC / "base" / "cpu.c").read_text()
    assert set(re.findall(r"\bf?open\([^;]*", text)) == {'fopen(name, "re")'}  # to be read


def test_files_fit_in_a_head():
    files = [*C_FILES, *(ROOT / "textok").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    assert not offenders(files, lambda path: len(path.read_text().splitlines()) > MOST_LINES)


def test_c_is_laid_out_evenly():
    """No formatter writes the macros that kernels are made of, so this holds what it would: columns, tabs, blanks at ends."""

    def is_uneven(path):
        text = path.read_text()
        lines = text.split("\n")
        return (
            any(len(line) > MOST_COLUMNS or "\t" in line or line != line.rstrip() for line in lines)
            or lines[-1]
            or not lines[-2]
        )

    assert not offenders(C_FILES, is_uneven)


def test_only_the_module_is_exported():
    """Of the extension; of what it calls, OpenBLAS's symbols carry a prefix of their own."""
    if not shutil.which("nm"):
        pytest.skip("no nm here")
    lines = subprocess.run(
        ["nm", "-D", "--defined-only", _core.__file__], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    symbols = {line.split()[-1].partition("@")[0] for line in lines}
    # A sanitizer's runtime and the linker add names of their own.
    assert {name for name in symbols if not name.startswith("_") and not name.startswith("asan.")} == {"PyInit__core"}


# ---- Python ----


def imports_of(tree, module, is_package):
    """Names of modules, or of what is in them, that a file imports anywhere in it, `import_module("...")` included; and the
    calls of that with names made at run time.
    """
    package = module if is_package else module.rpartition(".")[0]
    found, unknown = set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and "import" in getattr(node.func, "attr", getattr(node.func, "id", "")):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                found.add(importlib.util.resolve_name(name.value, package) if name.value.startswith(".") else name.value)
            else:
                unknown.append(node.lineno)
    return found, unknown


def import_graph(package):
    """{module: modules of the package that it reads}, and {module: lines with an import whose name a script cannot see}."""
    files = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    known = {*files, f"{package.name}._core"}
    graph, unseen = {f"{package.name}._core": set()}, {}
    for module, path in files.items():
        found, unknown = imports_of(ast.parse(path.read_text()), module, path.name == "__init__.py")
        # A name that is no module is one of its package's.
        read = {name if name in known else name.rpartition(".")[0] for name in found}
        graph[module] = (read & known) - {module}
        if unknown:
            unseen[module] = unknown
    return graph, unseen


def reached(graph, start):
    """All modules that one reads, or that those read; not what a package's face reads for the sake of its users."""
    seen, waiting = set(), [start]
    while waiting:
        for module in graph[waiting.pop()] - seen:
            seen.add(module)
            waiting.append(module)
    return seen


def circles(graph):
    return sorted(module for module in graph if module in reached(graph, module))


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else None


def arrows_up(graph):
    """Pairs (module, module) where the first, or what it reads, reads one of a room above its own."""
    pairs = set()
    for module in graph:
        if (room := room_of(module)) is not None:
            pairs |= {(module, other) for other in reached(graph, module) if room_of(other) in ROOMS[ROOMS.index(room) + 1 :]}
    return sorted(pairs)


@pytest.fixture(scope="module")
def graph():
    return import_graph(PACKAGE)


def test_python_has_no_circle(graph):
    assert not circles(graph[0])


def test_python_has_no_arrow_up(graph):
    """pictures <- text <- importers <- networks <- data <- metrics <- train <- commands: train is read by commands alone."""
    assert {room_of(module) for module in graph[0]} == {*ROOMS, None}
    assert not arrows_up(graph[0])
    readers = {module for module, read in graph[0].items() if read & {*FACES} and module not in FACES}
    assert not [module for module in readers if room_of(module) != "commands"]
    between = [module for module in graph[0] if room_of(module) is None and module not in FACES]
    assert not [
        module for module in between if any(room_of(other) in ("train", "commands") for other in reached(graph[0], module))
    ]


def test_only_faces_import_by_names_of_run_time(graph):
    assert not {module: lines for module, lines in graph[1].items() if module not in FACES}


def test_what_is_wrong_is_seen(tmp_path):
    """A circle through a string, through a function's import, and an arrow up by way of a file between the rooms."""
    place = tmp_path / "toy"
    for name, text in {
        "__init__": "",
        "between": "def f():\n    from .data import b\n",
        "pictures/__init__": "",
        "pictures/a": "from .. import between\n",
        "data/__init__": "",
        "data/b": "import importlib\nimportlib.import_module('toy.data.c')\n",
        "data/c": "def f():\n    from . import b\n",
        "data/d": "import importlib\nimportlib.import_module(f'{__name__}.x')\n",
    }.items():
        path = place / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph, unseen = import_graph(place)
    assert circles(graph) == ["toy.data.b", "toy.data.c"] and unseen == {"toy.data.d": [2]}
    assert ("toy.pictures.a", "toy.data.b") in arrows_up(graph)
