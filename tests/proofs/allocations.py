"""Every allocation fails in turn, for loading and for each call of a model: MemoryError, no death, and equal bits afterwards.

The engine's own (malloc, calloc, realloc, mmap called from `_core`) by a preloaded library that gcc makes; then those of the
interpreter inside the engine's calls, by CPython's `_testcapi`, where there is one. Runs itself anew with the library in front.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import BERT, Models, arguments, finish

import textok

HERE = Path(__file__).resolve().parent
MOST = 4000  # of one work: far more than any has


def preload(folder: str) -> int:
    """Makes the library and runs this program with it."""
    library = Path(folder) / "failing_allocator.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, HERE / "failing_allocator.c", "-ldl"], check=True)
    before = os.environ.get("LD_PRELOAD", "")
    environment = os.environ | {"LD_PRELOAD": f"{before} {library}".strip(), "TEXTOK_FAILING_ALLOCATOR": str(library)}
    return subprocess.run([sys.executable, *sys.argv], env=environment).returncode


def works_of(models: Models) -> dict[str, Callable[[], Any]]:
    """What is tried: making a model of each kind, and every call."""
    kinds = {"load TexTok": models.textok, "load DiT": models.dit, "load DiT-T2I": models.dit_text}
    load = {name: (lambda m=model: type(m)(m.config, m.weights())) for name, model in kinds.items()}
    load |= {f"{name} int8": (lambda m=model: type(m)(m.config, m.weights(), dtype="int8")) for name, model in kinds.items()}
    return load | {"load TextEncoder": lambda: textok.TextEncoder.from_config(BERT, seed=0)} | models.works


def engine(models: Models, library: ctypes.CDLL, failures: list[str]) -> int:
    """Lets each allocation of the engine fail; how many that were."""
    total = 0
    for name, work in works_of(models).items():
        for at in range(1, MOST):
            library.fail_at(at)
            result, came = None, ""
            try:
                result = work()
            except MemoryError:
                came = "MemoryError"
            except Exception as problem:
                came = f"{type(problem).__name__}: {problem}"
            reached = library.counted() >= at
            library.fail_at(-1)
            if not reached:
                break
            total += 1
            # Some memory is only wished for: without it a call goes on by another way, and then its result must be right.
            if came not in ("", "MemoryError"):
                failures.append(f"{name}: allocation {at} failed: {came}")
            if not came and name in models.expected and not np.array_equal(result, models.expected[name]):
                failures.append(f"{name}: allocation {at} failed, and it gave other bits")
        failures += [f"after {name}: {other} gives other bits" for other in models.differing()]
    return total


def interpreter(models: Models, failures: list[str]) -> int:
    """Lets each allocation of the interpreter inside the binding's calls fail."""
    try:
        import _testcapi
    except ImportError:
        return 0
    noisy, t = np.ones((2, *models.dit.config.latent_shape), np.float32), np.array([3, 900], np.float32)
    labels, out = np.array([1, 2], np.int32), np.empty((2, *models.dit.config.output_shape), np.float32)
    raw, config = models.dit._model, models.dit.config.to_dict()
    calls: dict[str, Callable[[], Any]] = {
        "denoise": lambda: raw.denoise(noisy, t, labels, None, None, False, out, 1),
        "weights": raw.weights,
        "memory_plan": lambda: raw.memory_plan(2, 0),
        "weight_table": lambda: textok._core.weight_table("dit", config),
        "cpu_info": textok.cpu_info,
    }
    total = 0
    for name, call in calls.items():
        for at in range(MOST):
            done = False
            _testcapi.set_nomemory(at, at + 1)
            try:
                call()
                done = True
            except MemoryError:
                pass
            finally:
                _testcapi.remove_mem_hooks()
            if done:
                break
            total += 1
        failures += [f"after {name}: {other} gives other bits" for other in models.differing()]
    return total


def main() -> None:
    options = arguments(__doc__, 1)
    made = os.environ.get("TEXTOK_FAILING_ALLOCATOR")
    if not made:
        with tempfile.TemporaryDirectory() as folder:
            sys.exit(preload(folder))
    began, failures = time.monotonic(), []
    models = Models()
    engine_total = sum(engine(models, ctypes.CDLL(made), failures) for _ in range(options.count))
    inside = interpreter(models, failures)
    if not engine_total:
        failures.append("no allocation of the engine was seen: the library is not in front")
    finish(
        "allocations", began, failures, engine_allocations=engine_total, interpreter_allocations=inside, rounds=options.count
    )


if __name__ == "__main__":
    main()
