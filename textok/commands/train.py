"""train a tokenizer, or a generator on its latents

Trains by a TOML config, with `key=value` overrides ("run.steps=2000", "model.text_condition=none"). The run's folder gets the
model's config, a log, sample pictures, TensorBoard's events and checkpoints; the same command goes on with a killed run.
`textok export RUN MODEL` makes a model of it, at any time. On several devices or machines: accelerate launch -m textok train
tokenizer CONFIG ...
"""

import argparse
import dataclasses
import json
import textwrap
from pathlib import Path
from typing import Any

from ..train import config

EXAMPLE = "textok train tokenizer small-64 --data my-pictures/ --init emoji-textok --minutes 20 --out runs/mine"
EXTRA = "train"


MODEL_KEYS = "  model.*    the fields of a model's config.json, docs/python.md"


def keys() -> str:
    """The keys that configs may have, with their defaults, a line or two a section."""
    lines = []
    for section, kind in config.SETTINGS.items():
        given = kind()
        fields = [f"{f.name}={toml(getattr(given, f.name))}" for f in dataclasses.fields(kind)]
        head = f"  {section + '.':<11}"
        lines += textwrap.wrap(
            " ".join(fields), 110, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
    return "\n".join(lines)


def toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def shortcuts(args: argparse.Namespace) -> list[str]:
    """What --data, --init and --minutes say, as overrides."""
    found = []
    if args.data:
        found.append(f"data.paths={toml([str(path) for path in args.data])}")
    if args.init is not None:
        found.append(f"run.init={toml(args.init)}")
    if args.minutes is not None:
        found.append(f"run.minutes={args.minutes}")
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("tokenizer", "dit"), help="what to train")
    parser.add_argument("config", help=f"a TOML file, or the name of a packaged config: {', '.join(config.packaged())}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values that win over the file's")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder; a run that is there goes on")
    parser.add_argument(
        "--data", type=Path, action="append", metavar="PATH", help="data.paths: shards, folders, tables; may be given again"
    )
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help="run.init: begin with the weights of a model's folder, a bundled name, or a run's folder",
    )
    parser.add_argument("--minutes", type=float, help="run.minutes: train so long by the clock")
    parser.epilog = f"{parser.epilog or ''}\n\nkeys of a config, with their defaults:\n{keys()}\n{MODEL_KEYS}"
    plain = parser.parse_known_args

    def with_late_overrides(arguments: Any, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        """argparse takes positional arguments from one stretch only; overrides may come after options too."""
        found, rest = plain(arguments, namespace)
        late = [word for word in rest if "=" in word and not word.startswith("-")]
        found.overrides = [*found.overrides, *late]
        return found, [word for word in rest if word not in late]

    parser.parse_known_args = with_late_overrides  # type: ignore[assignment, method-assign]


def run(args: argparse.Namespace) -> None:
    path = config.find(args.config)
    if args.what == "tokenizer":
        from ..train.image_tokenizer import train
    else:
        from ..train.dit import train
    train(path, [*shortcuts(args), *args.overrides], args.out)
