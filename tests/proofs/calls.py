"""Odd arguments of every public function. What comes out is a result, or an exception of the kinds that the documents name."""

import random
import time
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from common import Models, arguments, finish

import textok
from textok import metrics, viz

DOCUMENTED = (ValueError, TypeError, OSError, MemoryError, textok.TextokError)


class Odd:
    """Is nothing that any function takes."""

    def __repr__(self) -> str:
        return "Odd()"


class Liar:
    """Says that it is an array, and is none."""

    __array_interface__: ClassVar = {"shape": (2, 3), "typestr": "<f4", "data": (0, True), "version": 3}


def values(rng: random.Random, right: list[Any]) -> Any:
    """A right value, a right one spoilt, or something else altogether."""
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(right)
    if kind < 0.75:
        return spoilt(rng, rng.choice(right))
    return rng.choice(OTHERS)()


def spoilt(rng: random.Random, value: Any) -> Any:
    """The value with something about it wrong: shape, type, strides, range, finiteness."""
    if isinstance(value, np.ndarray):
        return rng.choice(SPOILS)(value)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return rng.choice([-1, 0, 10**6, 10**30, float(value), str(value), True, np.int8(3), np.uint64(2**63)])
    if isinstance(value, float):
        return rng.choice([np.nan, np.inf, -value, 1e308, str(value), np.float16(1)])
    if isinstance(value, str):
        return rng.choice(["", value.upper(), value + "x", value.encode(), "\0", "\ud800", "é" * 300])
    if isinstance(value, list):
        return rng.choice([value[:1], value * 3, [], tuple(value), [value], [None], [*value, "x"], [float("nan")]])
    return rng.choice([None, value])


SPOILS: list[Callable[[np.ndarray], Any]] = [
    lambda a: a[..., ::-1],
    lambda a: a[:0],
    lambda a: a[None],
    lambda a: a.reshape(-1),
    lambda a: a.astype(np.float16),
    lambda a: a.astype(np.float64),
    lambda a: a.astype(complex),
    lambda a: a.astype(object),
    lambda a: a.astype(">f4"),
    lambda a: (a * 0 + np.nan).astype(np.float32),
    lambda a: np.full(a.shape, np.inf, np.float32),
    lambda a: np.full(a.shape, 1e38, np.float32),
    lambda a: np.asfortranarray(a),
    lambda a: np.swapaxes(a, 0, -1) if a.ndim else a,
    lambda a: np.repeat(a, 3, axis=0),
    lambda a: np.broadcast_to(a.ravel()[:1], a.shape) if a.size else a,
    lambda a: a.tolist(),
    lambda a: memoryview(np.ascontiguousarray(a)),
    lambda a: a.astype(str),
    lambda a: np.ma.masked_array(a),
    lambda a: np.empty((*a.shape[:-1], 0), np.float32),
]
OTHERS: list[Callable[[], Any]] = [
    lambda: None,
    lambda: Odd(),
    lambda: Liar(),
    dict,
    list,
    lambda: set(),
    lambda: b"",
    lambda: "x",
    lambda: 3,
    lambda: -1,
    lambda: 1e400,
    lambda: True,
    lambda: object,
    lambda: range(3),
    lambda: np.array(3),
    lambda: np.zeros(0),
    lambda: np.array(["a"]),
    lambda: np.datetime64("2020-01-01"),
    lambda: lambda *a: None,
    lambda: [[1], [1, 2]],
]


def targets(models: Models) -> list[tuple[str, Callable[..., Any], dict[str, list[Any]]]]:
    """Every public function: its name, itself, and right values for each argument."""
    m = models
    text, lengths = m.captions["text"], m.captions["text_lengths"]
    run = {"threads": [None, 1, 2], "batch_size": [None, 1, 2], "progress": [False]}
    sampling = {
        "steps": [1, 2, None],
        "solver": ["ddim", "ddpm", None],
        "spacing": ["linspace", "trailing"],
        "eta": [0.0],
        "guidance_scale": [1.0, 2.0, None],
        "guidance_interval": [None, (10.0, 500.0)],
        "seed": [0, 1, None],
        "first_index": [0, 5],
        "noise": [None, np.ones((2, *m.dit.config.latent_shape), np.float32)],
        "step_noise": [None],
        "callback": [None, lambda *a: None],
    } | run
    noisy = np.ones((2, *m.dit.config.latent_shape), np.float32)
    pictures = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    config = {
        "image_size": [16, 32],
        "patch_size": [4, 8],
        "num_latent_tokens": [4],
        "text_dim": [8],
        "num_text_tokens": [5],
        "tokenizer": [{"hidden_size": 8, "depth": 1, "num_heads": 1}],
        "detokenizer": [{"hidden_size": 8, "depth": 1, "num_heads": 1}],
        "rope": [None, {"rows": "patches"}],
        "codebook": [None, {"runs": 2, "size": 4}],
        "patch_overlap": [0, 2],
    }
    dit_config = {
        "num_tokens": [4],
        "hidden_size": [8],
        "depth": [1],
        "num_heads": [1],
        "num_classes": [3],
        "prediction": ["v", "velocity"],
        "beta_schedule": ["linear", "cosine"],
        "learn_sigma": [True, False],
        "time_freq_dim": [8],
    }
    return [
        ("TexTok.encode", m.textok.encode, {"x": [m.x], "text": [text], "text_lengths": [lengths, None]} | run),
        (
            "TexTok.decode",
            m.textok.decode,
            {"z": [m.z], "text": [text], "text_lengths": [lengths, None], "output": ["float32", "uint8"]} | run,
        ),
        ("TexTok.reconstruct", m.textok.reconstruct, {"x": [m.x], "text": [text], "text_lengths": [lengths]} | run),
        ("DiT.denoise", m.dit.denoise, {"x": [noisy], "t": [[3, 900]], "labels": [[1, 2]], "null": [False], "threads": [1]}),
        ("DiT.sample", m.dit.sample, {"labels": [[1, 2]]} | sampling),
        ("DiT.sample text", m.dit_text.sample, {"text": [m.text], "text_lengths": [None, [1, 3]]} | sampling),
        ("TextEncoder.encode_ids", m.encoder.encode_ids, {"ids": [[[1, 2], [3]]], "threads": [None, 1]}),
        ("TextEncoder.memory_plan", m.encoder.memory_plan, {"batch": [1, 3]}),
        ("TexTok.memory_plan", m.textok.memory_plan, {"batch": [1, 3]}),
        ("TexTokConfig", textok.TexTokConfig, config),
        ("TexTok.from_config", lambda **c: textok.TexTok.from_config(c, seed=0), config),
        ("DiTConfig", textok.DiTConfig, dit_config),
        ("DiT.from_config", lambda **c: textok.DiT.from_config(c, seed=0), dit_config),
        ("preprocess", textok.preprocess, {"pictures": [pictures, list(pictures)], "size": [8, 16]}),
        ("to_uint8", textok.to_uint8, {"x": [m.x]}),
        ("set_num_threads", textok.set_num_threads, {"count": [1, 2]}),
        (
            "from_pretrained",
            textok.TexTok.from_pretrained,
            {"path": ["emoji-nothing", "/dev/null", "/"], "dtype": ["float32", "int8"]},
        ),
        ("metrics.psnr", metrics.psnr, {"pictures": [pictures], "originals": [pictures]}),
        ("metrics.ssim", metrics.ssim, {"pictures": [pictures], "originals": [pictures]}),
        ("viz.mosaic", viz.mosaic, {"pictures": [pictures], "columns": [2, 8], "gap": [2]}),
        ("viz.difference", viz.difference, {"pictures": [pictures], "originals": [pictures], "gain": [3.0]}),
    ]


def named(function: Callable[..., Any], right: dict[str, list[Any]], given: dict[str, Any]) -> Any:
    """The call; the first argument goes by place where its name is not the function's own."""
    import inspect

    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):
        known = {}
    if all(name in known for name in given) or any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return function(**given)
    return function(*given.values())


def main() -> None:
    options = arguments(__doc__, 20_000)
    rng = random.Random(options.seed)
    began, failures = time.monotonic(), []
    models = Models()
    calls = targets(models)
    outcomes = {"results": 0, "documented exceptions": 0}
    warnings.simplefilter("ignore")
    for turn in range(options.count):
        name, function, right = rng.choice(calls)
        given = {key: values(rng, pool) for key, pool in right.items() if rng.random() < 0.9 or key == next(iter(right))}
        try:
            named(function, right, given)
            outcomes["results"] += 1
        except DOCUMENTED as problem:
            outcomes["documented exceptions"] += 1
            if not str(problem):
                failures.append(f"{turn}: {name}: {type(problem).__name__} without a word")
        except Exception as problem:
            failures.append(f"{turn}: {name}({', '.join(given)}): {type(problem).__name__}: {problem}"[:300])
    textok.set_num_threads(2)
    failures += [f"afterwards {name} gives other bits" for name in models.differing()]
    finish("calls", began, failures, functions=len(calls), calls=options.count, seed=options.seed, **outcomes)


if __name__ == "__main__":
    main()
