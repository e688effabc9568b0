"""Odd arguments of every public function. What comes out is a result, or an exception of the kinds that the documents name."""

import inspect
import itertools
import logging
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from common import Models, arguments, finish
from targets import targets, untried

import textok

# ModuleNotFoundError: plots want matplotlib, which is an extra.
DOCUMENTED = (ValueError, TypeError, OSError, MemoryError, ModuleNotFoundError, textok.TextokError)


LONG = ("subsets", "num")  # a million of these is a right value, and takes minutes


class Odd:
    """Is nothing that any function takes."""

    def __repr__(self) -> str:
        return "Odd()"


class Liar:
    """Says that it is an array, and is none."""

    __array_interface__: ClassVar = {"shape": (2, 3), "typestr": "<f4", "data": (0, True), "version": 3}


def drawn(rng: random.Random, right: dict[str, list[Any]]) -> dict[str, Any]:
    """Arguments of a call: none, some or all of them spoilt or something else altogether, and now and then one left out."""
    names = list(right)
    wrong = set(rng.sample(names, min(rng.choice([0, 1, 1, 1, 2, 3, len(names)]), len(names))))
    given = {name: rng.choice(pool) for name, pool in right.items() if name == names[0] or rng.random() < 0.9}
    given = {name: odd(rng, value) if name in wrong else value for name, value in given.items()}
    return given | {
        name: min(value, 3) for name, value in given.items() if name in LONG and isinstance(value, int | np.integer)
    }


def odd(rng: random.Random, value: Any) -> Any:
    return spoilt(rng, value) if rng.random() < 0.6 else rng.choice(OTHERS)()


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


def by_name(function: Callable[..., Any], right: dict[str, list[Any]]) -> bool:
    """Whether the function knows its arguments by these names; if not, they go by place."""
    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return all(name in known for name in right) or any(p.kind is p.VAR_KEYWORD for p in known.values())


def main() -> None:
    options = arguments(__doc__, 20_000, only=True)
    rng = random.Random(options.seed)
    began, failures = time.monotonic(), []
    outcomes = {"results": 0, "documented exceptions": 0}
    warnings.simplefilter("ignore")
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        models = Models()
        calls = targets(models)
        failures += [f"{name} is public and not tried" for name in untried(calls)]
        named = {name: by_name(function, right) for name, function, right, _ in calls}
        shares = list(itertools.accumulate(share for *_, share in calls))
        for turn in range(options.count):
            name, function, right, _ = rng.choices(calls, cum_weights=shares)[0]
            given = drawn(rng, right)
            if not name.startswith(options.only):
                continue
            try:
                function(**given) if named[name] else function(*given.values())
                outcomes["results"] += 1
            except DOCUMENTED as problem:
                outcomes["documented exceptions"] += 1
                if not str(problem):
                    failures.append(f"{turn}: {name}: {type(problem).__name__} without a word")
            except Exception as problem:
                failures.append(f"{turn}: {name}({', '.join(given)}): {type(problem).__name__}: {problem}"[:300])
        textok.set_num_threads(2)
        failures += [f"afterwards {name} gives other bits" for name in models.differing()]
        os.chdir("/")
    finish("calls", began, failures, functions=len(calls), calls=options.count, seed=options.seed, **outcomes)


if __name__ == "__main__":
    main()
