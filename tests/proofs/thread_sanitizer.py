"""The engine under ThreadSanitizer, driven from C by several threads on the rows ref and avx2. Needs gcc and its libtsan."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import arguments, finish

import textok

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
FLAGS = ["-std=gnu11", "-O1", "-g", "-fsanitize=thread", "-fno-math-errno", "-ffp-contract=off", "-pthread", f"-I{CSRC}"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]


def build(folder: Path) -> Path:
    """The driver with the floors below the binding."""
    import scipy_openblas32 as openblas

    rows = "ROW(ref) ROW(avx2)"
    objects = []
    for source in [*CSRC.glob("base/*.c"), *CSRC.glob("model/*.c"), *CSRC.glob("kernels/*.c"), *CSRC.glob("kernels/ref/*.c"),
                   *CSRC.glob("kernels/avx2/*.c"), HERE / "thread_sanitizer.c"]:  # fmt: skip
        target = folder / f"{source.parent.name}-{source.stem}.o"
        own = AVX2 if source.parent.name == "avx2" else []
        include = [f"-I{openblas.get_include_dir()}", "-DSCIPY_OPENBLAS_PREFIX=1", f"-DTX_ROWS={rows}"]
        subprocess.run(["gcc", *FLAGS, *own, *include, "-c", source, "-o", target], check=True)
        objects.append(target)
    library = Path(openblas.get_lib_dir()) / openblas.get_library(fullname=True)
    program = folder / "driver"
    link = [library, f"-Wl,-rpath,{library.parent}", "-lm", "-ldl"]
    subprocess.run(["gcc", *FLAGS, *objects, *link, "-o", program], check=True)
    return program


def main() -> None:
    options = arguments(__doc__, 20)
    began, failures = time.monotonic(), []
    rows = [row for row in ("ref", "avx2") if row in textok.cpu_info()["rows"]]
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        for index, row in enumerate(rows):
            environment = os.environ | {"TSAN_OPTIONS": "exitcode=66", "LD_PRELOAD": ""}
            # Sanitizers of threads want the addresses where they expect them.
            command = ["setarch", "-R", str(program), str(options.count), str(index)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode or "WARNING" in done.stderr:
                failures.append(f"{row}: status {done.returncode}: {json.dumps((done.stdout + done.stderr)[:1500])}")
    finish("thread_sanitizer", began, failures, rows=rows, turns=options.count)


if __name__ == "__main__":
    main()
    sys.exit()
