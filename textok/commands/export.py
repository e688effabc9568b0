"""make a model's folder of a training

Writes the averaged weights of a run of `textok train`, finished or not, as config.json and model.safetensors: what every other
command and from_pretrained take.
"""

import argparse
from pathlib import Path

EXAMPLE = "textok export runs/textok-32 models/textok-32 --storage bfloat16"
EXTRA = "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("out", type=Path, help="the model's folder, which is made")
    storages = ("float32", "bfloat16", "int8")
    parser.add_argument("--storage", choices=storages, default="float32", help="of the weights (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    from ..train.export import export_run

    config, _, history = export_run(args.run, args.out, args.storage)
    print(f"{args.out}: {config['model_type']} after {history['steps']} steps")
