"""The same work under limits of the address space, too little to enough: MemoryError or the right bits, and the process lives.

Includes the row whose products are OpenBLAS's, which by itself ends a process that gives it no memory.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from common import arguments, finish
from fresh_process import environment

import textok

CHILD = """
import resource, sys
sys.path.insert(0, {tests!r})
import numpy as np, textok
side = {{"hidden_size": 192, "depth": 2, "num_heads": 3}}
config = {{"image_size": 64, "patch_size": 4, "text_condition": "none", "num_latent_tokens": 16}}
config |= {{"tokenizer": side, "detokenizer": side}}
x, z = np.zeros((4, 64, 64, 3), np.uint8), np.ones((4, 16, 8), np.float32)
dit = {{"num_tokens": 16, "hidden_size": 192, "depth": 2, "num_heads": 3, "num_classes": 9}}
load, call = {{
    "encode": (lambda: textok.TexTok.from_config(config), lambda: model.encode(x)),
    "decode": (lambda: textok.TexTok.from_config(config), lambda: model.decode(z)),
    "sample": (lambda: textok.DiT.from_config(dit), lambda: model.sample([1] * 64, steps=2, solver="ddim", seed=0)),
}}[{what!r}]
if {after_load}:
    model = load()
np.random.default_rng(0), textok.cpu_info()  # what is loaded late, of NumPy and of textok
now = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (now + {more}, now + {more}))
try:
    if not {after_load}:
        model = load()
    print("result", all(part.any() for part in call()))
except MemoryError:
    print("MemoryError True")
"""


def main() -> None:
    options = arguments(__doc__, 24)
    began, failures, outcomes = time.monotonic(), [], {"result": 0, "MemoryError": 0}
    tests = str(Path(__file__).resolve().parent.parent)
    rows = ["ref", textok.cpu_info()["isa"]]
    for turn in range(options.count):
        more = int(2 ** (16 + 12 * (turn // 4) / max(1, options.count // 4 - 1)))  # 64 KB to 256 MB
        what = ("encode", "decode", "sample")[turn % 3]
        code = CHILD.format(tests=tests, after_load=turn % 2 == 0, more=more, what=what)
        row = rows[turn // 2 % 2]
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment(TEXTOK_ISA=row),
        )
        word, _, fine = done.stdout.strip().partition(" ")
        if done.returncode or fine != "True":
            # The interpreter itself may find no memory for what it does beside the engine's calls; it says so and ends with 1.
            if done.returncode == 1 and "MemoryError" in done.stderr:
                word = "MemoryError"
            else:
                said = json.dumps((done.stdout + done.stderr)[-200:])
                failures.append(f"{what}, {row}, {more} bytes more: status {done.returncode}: {said}")
                continue
        outcomes[word] += 1
    finish("address_space", began, failures, processes=options.count, rows=rows, **outcomes)


if __name__ == "__main__":
    main()
