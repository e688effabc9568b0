"""time a model on this machine

Encode and decode of a TexTok, one evaluation of a DiT, or whole pictures of a pipeline (all its network evaluations and the
decoding, and of text-to-image the caption too; --steps says how many), in each dtype and with each number of threads: median
milliseconds a call, the fastest and slowest, images a second or a pipeline's seconds an image, and memory. A model is a
folder, a bundled model's name, or a size with random weights: Base (TexTok, ViT-Base on both sides, 256 pixels, 32 tokens),
DiT-S, DiT-B, DiT-L, DiT-XL (32 tokens) or DiT-XL/2 (the original, 256 pixels). A DiT's evaluation has two rows for each
image, as guidance needs them. Every repeat has inputs of its own.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..arrays import MAX_THREADS
from ..dit import DiT
from ..image_tokenizer import TexTok
from ..model import COMPUTE_TYPES, EngineModel
from ..pipeline import Pipeline
from ..progress import progress_bar
from .arguments import add_seed, integer

EXAMPLE = "textok bench DiT-XL --dtype int8 --threads 1 2 --repeats 9"

SIZES: dict[str, tuple[type[EngineModel], dict[str, Any]]] = {
    "Base": (TexTok, {"num_latent_tokens": 32}),
    "DiT-S": (DiT, {"num_tokens": 32, "hidden_size": 384, "depth": 12, "num_heads": 6}),
    "DiT-B": (DiT, {"num_tokens": 32, "hidden_size": 768, "depth": 12, "num_heads": 12}),
    "DiT-L": (DiT, {"num_tokens": 32, "hidden_size": 1024, "depth": 24, "num_heads": 16}),
    "DiT-XL": (DiT, {"num_tokens": 32}),
    "DiT-XL/2": (DiT, {"in_channels": 4, "patch_size": 2, "input_size": 32, "guidance_channels": 3}),
}

WORDS = ("a", "red", "apple", "with", "a", "green", "leaf", "and", "a", "bird", "on", "it")  # of captions, in any order

Arguments = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"a folder, a bundled model's name, or one of {', '.join(SIZES)}")
    parser.add_argument("--dtype", nargs="+", choices=COMPUTE_TYPES, default=list(COMPUTE_TYPES), help="default: all")
    parser.add_argument(
        "--threads",
        nargs="+",
        type=integer(1, MAX_THREADS),
        default=[None],
        help="one row each (default: all this process may use)",
    )
    parser.add_argument("--batch", type=integer(1, 4096), default=1, help="images a call (default: %(default)s)")
    parser.add_argument("--steps", type=integer(1, 1000), help="of a pipeline's sampling (default: its own)")
    parser.add_argument("--repeats", type=integer(1, 10**6), default=5, help="timed calls of each (default: %(default)s)")
    add_seed(parser, "of the inputs, and of random weights")


def run(args: argparse.Namespace) -> None:
    rows = []
    with progress_bar(sys.stderr.isatty(), len(args.dtype), "dtype") as bar:
        for dtype in args.dtype:
            start = time.perf_counter()
            model = _model(args.model, dtype, args.seed)
            loaded = time.perf_counter() - start
            rows += [row for threads in args.threads for row in _rows(model, threads, args)]
            rows[-1] += f"  ready in {loaded:.2f} s"
            if isinstance(model, EngineModel):
                rows[-1] += f", {model.memory_plan(args.batch)['total'] / 2**20:.0f} MiB"
            whole = isinstance(model, Pipeline)
            name = repr(model)
            del model
            bar.update()
    print(name.replace(f", {args.dtype[-1]},", ","))
    print(f"batch {args.batch}, {args.repeats} repeats")
    rate = "s/image" if whole else "images/s"
    print(f"{'work':9}{'dtype':10}{'threads':>8}{'median ms':>12}{'fastest':>10}{'slowest':>10}{rate:>10}")
    print("\n".join(rows))


def _model(name: str, dtype: str, seed: int) -> EngineModel | Pipeline:
    if name in SIZES:
        kind, config = SIZES[name]
        return kind.from_config(config, seed=seed, dtype=dtype)
    from .. import bundled, importers, weights
    from ..errors import WeightsError

    try:
        folder = bundled.find_model(name)
    except WeightsError as problem:
        raise WeightsError(f"{problem}; sizes with random weights are {', '.join(SIZES)}") from None
    if (folder / weights.PIPELINE_FILE).is_file():
        return Pipeline.from_pretrained(folder, dtype)
    return importers.open_folder(folder, dtype)


def _works(
    model: EngineModel | Pipeline, batch: int, steps: int | None
) -> Iterator[tuple[str, Callable[[np.random.Generator], Arguments], Callable[..., Any]]]:
    """(name, what draws a repeat's inputs, what is timed) of each thing a model does."""
    if isinstance(model, Pipeline):
        yield "picture", _wishes(model, batch, steps), model
        return
    c: Any = model.config

    def normal(rng: np.random.Generator, *shape: int) -> Any:
        return rng.standard_normal(shape, dtype=np.float32)

    if isinstance(model, DiT):

        def evaluation(rng: np.random.Generator) -> Arguments:
            t = rng.integers(0, c.num_train_timesteps)
            given = {"x": normal(rng, batch, *c.latent_shape).repeat(2, 0), "t": np.full(2 * batch, t)}
            if c.condition == "class":
                labels = rng.integers(0, c.num_classes, batch)
                return given | {"labels": np.stack([labels, np.full(batch, c.num_classes)], 1).ravel()}
            return given | {"text": normal(rng, 2 * batch, c.num_text_tokens, c.text_dim)}

        yield "denoise", evaluation, model.denoise
        return
    assert isinstance(model, TexTok)

    def condition(rng: np.random.Generator) -> Arguments:
        if c.text_condition == "none":
            return {}
        if c.text_source == "class":
            return {"labels": rng.integers(0, c.num_classes, batch)}
        return {"text": normal(rng, batch, c.num_text_tokens, c.text_dim)}

    def picture(rng: np.random.Generator) -> Arguments:
        return {"x": rng.integers(0, 256, (batch, c.image_size, c.image_size, 3), np.uint8)} | condition(rng)

    yield "encode", picture, model.encode
    yield "decode", lambda rng: {"z": normal(rng, batch, *c.latent_shape)} | condition(rng), model.decode


def _wishes(pipe: Pipeline, batch: int, steps: int | None) -> Callable[[np.random.Generator], Arguments]:
    """What draws the arguments of a pipeline's call: captions, or classes."""
    c = pipe.dit.config

    def draw(rng: np.random.Generator) -> Arguments:
        given: Arguments = {"seed": int(rng.integers(1 << 31)), "steps": steps}
        if c.condition == "text":
            return given | {"captions": [" ".join(rng.permutation(WORDS)) for _ in range(batch)]}
        return given | {"labels": rng.integers(0, c.num_classes, batch).tolist()}

    return draw


def _rows(model: EngineModel | Pipeline, threads: int | None, args: argparse.Namespace) -> Iterator[str]:
    from .. import get_num_threads

    rng = np.random.default_rng(args.seed)
    dtype = model.textok.dtype if isinstance(model, Pipeline) else model.dtype
    for name, draw, call in _works(model, args.batch, args.steps):
        times = []
        for _ in range(args.repeats + 1):
            given = draw(rng)
            start = time.perf_counter()
            call(**given, threads=threads)
            times.append(1e3 * (time.perf_counter() - start))
        times = times[1:]  # the first call has pages to fetch
        median = statistics.median(times)
        yield (
            f"{name:9}{dtype:10}{threads or get_num_threads():8}{median:12.1f}{min(times):10.1f}{max(times):10.1f}"
            + (f"{median / 1e3 / args.batch:10.3f}" if isinstance(model, Pipeline) else f"{1e3 * args.batch / median:10.2f}")
        )
