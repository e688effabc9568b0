"""Batches of 1 to 33 in any order on any number of threads: each picture gets the bits that it gets alone."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from common import Models, arguments, finish
from engine_models import TinyTexTok, textok_config

import textok

MOST = 33
THREADS = (1, 2, 3, 5, 16)


def works(models: Models) -> dict[str, Callable[[Sequence[int]], Any]]:
    """What is computed of the inputs with these numbers, by name."""
    x, z, captions = TinyTexTok(textok_config(text_mask=True)).inputs(batch=MOST)
    rng = np.random.default_rng(0)
    noisy = rng.standard_normal((MOST, *models.dit.config.latent_shape)).astype(np.float32)
    times, labels = rng.integers(0, 1000, MOST), rng.integers(0, models.dit.config.num_classes, MOST)
    text = rng.standard_normal((MOST, 3, 12)).astype(np.float32)
    tokens = [rng.integers(1, 50, rng.integers(1, 12)).tolist() for _ in range(MOST)]

    def of(picked: Sequence[int]) -> dict[str, Any]:
        return {name: values[picked] for name, values in captions.items()}

    def encoded(picked: Sequence[int]) -> list[Any]:
        states, lengths = models.encoder.encode_ids([tokens[k] for k in picked])[:2]
        return [rows[:length] for rows, length in zip(states, lengths, strict=True)]

    how = {"steps": 3, "solver": "ddim", "guidance_scale": 2.0}
    return {
        "encode": lambda picked: models.textok.encode(x[picked], **of(picked)),
        "decode": lambda picked: models.textok.decode(z[picked], **of(picked)),
        "denoise": lambda picked: models.dit.denoise(noisy[picked], times[picked], labels=labels[picked]),
        "sample": lambda picked: models.dit.sample(labels[picked], noise=noisy[picked], **how),
        "sample text": lambda picked: models.dit_text.sample(text=text[picked], noise=noisy[picked], **how),
        "encode text": encoded,
    }


def main() -> None:
    options = arguments(__doc__, 1000)
    rng = random.Random(options.seed)
    began, failures = time.monotonic(), []
    calls = works(Models())
    textok.set_num_threads(1)
    alone = {name: [work([number])[0] for number in range(MOST)] for name, work in calls.items()}
    for turn in range(options.count):
        name, threads = rng.choice([*calls]), rng.choice(THREADS)
        picked = rng.sample(range(MOST), rng.randint(1, MOST))
        textok.set_num_threads(threads)
        result = calls[name](picked)
        wrong = [number for number, got in zip(picked, result, strict=True) if not np.array_equal(got, alone[name][number])]
        if wrong:
            failures.append(f"{turn}: {name} of {len(picked)} on {threads} threads: other bits for {wrong[:5]}")
    finish("same_bits", began, failures, batches=options.count, seed=options.seed)


if __name__ == "__main__":
    main()
