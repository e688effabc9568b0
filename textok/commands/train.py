"""train a tokenizer, or a generator on its latents

Trains by a TOML config, with `key=value` overrides ("run.steps=2000", "model.text_condition=none"). The run's folder gets the
model's config, a log, sample pictures, TensorBoard's events and checkpoints; the same command goes on with a killed run.
`textok export RUN MODEL` makes a model of it, at any time. On several devices or machines: accelerate launch -m textok train
tokenizer CONFIG ...
"""

import argparse
from pathlib import Path
from typing import Any

EXAMPLE = "textok train tokenizer imagenet-256 model.num_latent_tokens=32 --out runs/textok-32"
EXTRA = "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("tokenizer", "dit"), help="what to train")
    parser.add_argument(
        "config", help="a TOML file, or the name of a packaged config: imagenet-256, imagenet-512, imagenet-dit"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values that win over the file's")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder; a run that is there goes on")
    plain = parser.parse_known_args

    def with_late_overrides(arguments: Any, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        """argparse takes positional arguments from one stretch only; overrides may come after options too."""
        found, rest = plain(arguments, namespace)
        late = [word for word in rest if "=" in word and not word.startswith("-")]
        found.overrides = [*found.overrides, *late]
        return found, [word for word in rest if word not in late]

    parser.parse_known_args = with_late_overrides  # type: ignore[assignment, method-assign]


def run(args: argparse.Namespace) -> None:
    from ..train import config

    path = config.find(args.config)
    if args.what == "tokenizer":
        from ..train.image_tokenizer import train
    else:
        from ..train.dit import train
    train(path, args.overrides, args.out)
