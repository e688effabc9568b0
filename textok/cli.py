"""The command `textok`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import __version__, _core, bundled, weights
from .arrays import MAX_THREADS
from .dit import DiT
from .errors import ConfigError
from .model import EngineModel
from .noise import MAX_SEED
from .pipeline import Pipeline
from .tokenizer import TexTok

MODELS: dict[str, type[EngineModel]] = {kind.model_type: kind for kind in (TexTok, DiT)}


def _from(low: int, high: int) -> Callable[[str], int]:
    """An argument type: an integer from low to high."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected an integer from {low} to {high}, got {text!r}")
        return value

    return parse


def demo(args: argparse.Namespace) -> None:
    from . import demo

    demo.run(args.out, args.seed, args.threads, progress=sys.stderr.isatty())


def info(args: argparse.Namespace) -> None:
    if args.model is None:
        print(f"textok {__version__}")
        for key, value in _core.cpu_info().items():
            print(f"{key:10}{value}")
        print(f"{'models':10}{', '.join(bundled.list_models()) or 'none bundled'}")
        return
    folder = bundled.find_model(args.model)
    if (folder / weights.PIPELINE_FILE).is_file():
        print(Pipeline.from_pretrained(folder))
        return
    kind = weights.read_json(folder / weights.CONFIG_FILE).get("model_type")
    if kind not in MODELS:
        raise ConfigError(
            f'{folder / weights.CONFIG_FILE}: expected "model_type": {" or ".join(map(json.dumps, MODELS))}, got {kind!r}'
        )
    model = MODELS[kind].from_pretrained(folder)
    print(model)
    for key, value in model.config.to_dict().items():
        print(f"  {key:22}{json.dumps(value)}")
    plan = model.memory_plan(1)
    print(f"memory: weights {plan['weights'] / 2**20:.1f} MiB, one image {plan['workspace'] / 2**20:.1f} MiB more")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="textok", description="TexTok image tokenizers and DiT generators on CPUs.")
    parser.add_argument("--version", action="version", version=f"textok {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser(
        "demo",
        help="run the bundled models on held-out pictures",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Reconstruct held-out pictures with and without text, generate from classes and from captions;\n"
        "write picture sheets and print a table.",
        epilog="example: textok demo --out my-demo --seed 7",
    )
    command.add_argument("--out", type=Path, default=Path("textok-demo"), help="folder for the pictures (default: %(default)s)")
    command.add_argument("--seed", type=_from(0, MAX_SEED), default=0, help="of the noise (default: %(default)s)")
    command.add_argument("--threads", type=_from(1, MAX_THREADS), help="the most to use (default: all this process may)")
    command.set_defaults(run=demo)

    command = commands.add_parser(
        "info",
        help="tell about a model, or about this machine and the bundled models",
        description="Sizes, config and memory of a model or pipeline; without one, the kernels in use and the bundled models.",
        epilog="example: textok info emoji-textok",
    )
    command.add_argument("model", nargs="?", help="a model's folder, or a bundled model's name")
    command.set_defaults(run=info)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 where it failed. Wrong usage exits with 2."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone; nothing more can be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("textok: stopped", file=sys.stderr)
        return 1
    except ModuleNotFoundError as problem:
        print(
            f"textok: {problem}; install what this command needs with: pip install 'textok-cpu[{args.run.__name__}]'",
            file=sys.stderr,
        )
        return 1
    except (ValueError, OSError, MemoryError) as problem:
        print(f"textok: {' '.join(str(problem).split()) or type(problem).__name__}", file=sys.stderr)
        return 1
    return 0
