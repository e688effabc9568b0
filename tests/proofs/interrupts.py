"""Ctrl-C at random moments of long calls: how long until KeyboardInterrupt, and equal bits afterwards."""

import os
import random
import signal
import threading
import time

import numpy as np
from common import arguments, finish

import textok

LEAST = 0.7  # of the interrupts within 100 ms: a machine does other things, too; an idle one has them all


def long_runs() -> dict[str, tuple]:
    """{name: (a call of some seconds, a short one on the same model)}"""
    side = {"hidden_size": 768, "depth": 1, "num_heads": 12}
    sizes = {"image_size": 256, "patch_size": 8, "text_condition": "none", "tokenizer": side, "detokenizer": side}
    model = textok.TexTok.from_config(sizes)
    dit = textok.DiT.from_config({"num_tokens": 32, "hidden_size": 576, "depth": 2, "num_heads": 8, "num_classes": 10})
    x = np.random.default_rng(0).integers(0, 256, (64, 256, 256, 3), np.uint8)
    z = model.encode(x[:1]).repeat(64, 0)
    floats = (x / 127.5 - 1).astype(np.float16)
    how = {"solver": "ddim", "guidance_scale": 2.0, "seed": 0}
    return {
        "encode": (lambda: model.encode(x), lambda: model.encode(x[:1])),
        "decode": (lambda: model.decode(z), lambda: model.decode(z[:1])),
        "encode floats": (lambda: model.encode(floats), lambda: model.encode(floats[:1])),
        "sample with noise": (
            lambda: dit.sample([1] * 32, steps=900, solver="ddpm", seed=0), lambda: dit.sample([1], steps=2, seed=0)
        ),
        "sample": (lambda: dit.sample([1] * 32, steps=900, **how), lambda: dit.sample([1], steps=2, **how)),
    }


def main() -> None:
    options = arguments(__doc__, 30)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng = random.Random(options.seed)
    began, failures, waits = time.monotonic(), [], []
    runs = long_runs()
    expected = {name: short() for name, (_, short) in runs.items()}
    for turn in range(options.count):
        name = rng.choice(list(runs))
        long, short = runs[name]
        sent: list[float] = []

        def send(sent: list[float] = sent) -> None:
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(rng.uniform(0.001, 0.5), send)
        try:
            timer.start()
            long()
            failures.append(f"{turn}: {name} ended before the signal came")
        except KeyboardInterrupt:
            waits.append(time.monotonic() - sent[0])
        timer.join()
        if not np.array_equal(short(), expected[name]):
            failures.append(f"{turn}: {name} gives other bits after Ctrl-C")
    waits.sort()
    share = sum(wait < 0.1 for wait in waits) / max(len(waits), 1)
    if share < LEAST:
        failures.append(f"{share:.0%} of {len(waits)} ended within 100 ms, expected {LEAST:.0%}")
    finish(
        "interrupts", began, failures, interrupts=len(waits), seed=options.seed, within_100_ms=round(share, 4),
        median_ms=round(1e3 * waits[len(waits) // 2], 1), slowest_ms=round(1e3 * waits[-1], 1),
    )  # fmt: skip


if __name__ == "__main__":
    main()
