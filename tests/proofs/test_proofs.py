"""Each proof in short; SECURITY.md says what the long runs gave."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fresh_process import environment

HERE = Path(__file__).parent
COUNTS = {
    "calls": 2000,
    "damaged_files": 600,
    "odd_files": 200,
    "allocations": 1,
    "flat_memory": 1500,
    "many_threads": 10,
    "same_bits": 60,
    "address_space": 24,
    "silence": 1,
    "thread_sanitizer": 5,
    "interrupts": 6,
}
NEEDS_GCC = ("allocations", "thread_sanitizer")
# What says little on a machine or in a build where times and addresses are not a user's.
MEASURED = ("interrupts", "flat_memory", "address_space", "thread_sanitizer", "allocations")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.measured] if name in MEASURED else []) for name in COUNTS]
)
def test_promise(name):
    if name in NEEDS_GCC and not shutil.which("gcc"):
        pytest.skip("no gcc here")
    if name == "thread_sanitizer":
        pytest.importorskip("scipy_openblas32")
    # Too much memory that NumPy is asked for is a MemoryError under AddressSanitizer too.
    sanitizer = os.environ.get("ASAN_OPTIONS", "") + ":allocator_may_return_null=1"
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(HERE / f"{name}.py"), "--count", str(COUNTS[name])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment(ASAN_OPTIONS=sanitizer))
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["failures"] == 0


def test_a_broken_promise_is_seen(tmp_path):
    """A proof that finds something ends with 1 and says what."""
    code = "import time; from common import finish; finish('planted', time.monotonic(), ['a bit differs'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(HERE))
    assert done.returncode == 1 and "a bit differs" in done.stderr and json.loads(done.stdout)["failures"] == 1
