"""tell about a model, or about this machine and the bundled models

Sizes, config and memory of a model or pipeline; without one, the kernels in use and the bundled models.
"""

import argparse
import json

from .. import _core, bundled, importers, weights
from ..model import EngineModel
from ..pipeline import Pipeline
from ..text.encoder import TextEncoder
from ..text.encoder_files import is_encoder_folder
from ..version import __version__

EXAMPLE = "textok info emoji-textok"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="a model's folder, or a bundled model's name")


def run(args: argparse.Namespace) -> None:
    if args.model is None:
        print(f"textok {__version__}")
        for key, value in _core.cpu_info().items():
            print(f"{key:10}{value}")
        print(f"{'models':10}{', '.join(bundled.list_models()) or 'none bundled'}")
        return
    folder = bundled.find_model(args.model)
    if (folder / weights.PIPELINE_FILE).is_file():
        pipeline = Pipeline.from_pretrained(folder)
        print(pipeline)
        for model in (pipeline.textok, pipeline.dit):
            told(model, "image")
        print(f"samples with {pipeline.sampling.told()}")
        return
    if is_encoder_folder(folder):
        told(TextEncoder.from_pretrained(args.model), "caption")
        return
    told(importers.open_folder(folder), "image")


def told(model: EngineModel, one: str) -> None:
    """Prints what a model is and what it takes, a call on `one` thing included."""
    print(model)
    for key, value in model.config.to_dict().items():
        print(f"  {key:22}{json.dumps(value)}")
    plan = model.memory_plan(1)
    print(f"memory: weights {plan['weights'] / 2**20:.1f} MiB, one {one} {plan['workspace'] / 2**20:.1f} MiB more")
