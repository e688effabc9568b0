"""make a pipeline of a tokenizer and a generator

Writes one folder that Pipeline.from_pretrained and `textok sample` take: the tokenizer, the generator over its latents, and
the names of its classes. Both may be models of textok, folders of `textok train` (their moving averages), or of another
project as `textok convert` takes them, hf://owner/name included; what their files do not say is given with --tokenizer-set and
--generator-set. Where the tokenizer says how generators take its latents (SoftVQ-VAE's and MAETok's vq_mean and vq_std do), the
generator gets it. A generator of a thousand classes gets ImageNet's names unless others are given. One that belongs to a
bundled pipeline, or was trained on from one's, samples as that does: --sampling says otherwise.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from ..bundled import FOLDER, find_model, list_models
from ..errors import ConfigError
from ..files import read_json
from ..sampling import Sampling
from ..weights import PIPELINE_FILE
from .arguments import add_dtype
from .convert import setting

RUN_FILE = "training.json"  # of the folder of a `textok train`
MOST_TRAININGS = 100  # one on from the other, which might go in a circle
EXAMPLE = "textok pipeline --tokenizer softvq-l-64 --generator sit-xl-softvq-l-64 pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokenizer", required=True, metavar="MODEL", help="a TexTok's folder, bundled name or training, or another project's"
    )
    parser.add_argument("--generator", required=True, metavar="MODEL", help="a DiT's, likewise; of a pipeline its part")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    for part in ("tokenizer", "generator"):
        parser.add_argument(
            f"--{part}-set",
            metavar="KEY=VALUE",
            nargs="+",
            action="extend",
            default=[],
            help=f"config keys that the {part}'s files do not say",
        )
    parser.add_argument(
        "--ignore", metavar="PATTERN", nargs="+", action="extend", default=[], help="as of textok convert, for both"
    )
    parser.add_argument("--captions", type=Path, metavar="DIR", help="captions to draw from, where the tokenizer takes text")
    parser.add_argument(
        "--class-names",
        metavar="FILE",
        help="names of the classes by label, one a line or a JSON list; imagenet; none (default: see above)",
    )
    parser.add_argument(
        "--sampling",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="what it samples with where nobody says otherwise: steps, solver, guidance_scale, guidance_interval=[LOW,HIGH]",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a pipeline that is there")
    add_dtype(parser)


def run(args: argparse.Namespace) -> None:
    from ..dit import DiT
    from ..image_tokenizer import TexTok
    from ..pipeline import Pipeline, sampling_from
    from ..text.caption_store import CaptionStore

    sampling = sampling_from(dict(setting(text, "--sampling") for text in args.sampling), "--").over(_sampling(args.generator))
    if (args.out / PIPELINE_FILE).exists() and not args.overwrite:
        raise FileExistsError(f"{args.out / PIPELINE_FILE} is there already; --overwrite replaces it")
    tokenizer = _model(TexTok, args.tokenizer, args.tokenizer_set, args)
    generator = _model(DiT, args.generator, args.generator_set, args).for_latents_of(tokenizer.config)
    captions = None if args.captions is None else CaptionStore.from_folder(args.captions)
    names = _class_names(args.class_names, generator.config)
    try:
        pipe = Pipeline(tokenizer, generator, captions, sampling, names)
    except ConfigError as problem:
        raise ConfigError(f"--{problem}" if str(problem).startswith("captions: ") else str(problem)) from None
    pipe.save_pretrained(args.out)
    print(f"{args.out}: {pipe}\nsamples with {sampling.told()}")


def _model(kind: Any, source: str, settings: list[str], args: argparse.Namespace) -> Any:
    """A model of `kind`, ours or made of another project's."""
    from .. import importers
    from ..bundled import is_model
    from ..pipeline import part_of

    if (Path(source) / RUN_FILE).is_file():
        from ..train.export import load_average  # needs PyTorch

        config, weights, _ = load_average(source)
        if config.get("model_type") != kind.model_type:
            raise ConfigError(f"{source}: expected the training of a {kind.__name__}, got one of {config.get('model_type')!r}")
        return kind(config, weights, args.dtype)
    if os.path.isdir(source) or source in list_models():
        source = str(part_of(find_model(source), kind.model_type))
    if is_model(source):
        if settings:
            raise ConfigError(f"{source}: a model of textok, which says all of its config; got {settings[0]}")
        return kind.from_pretrained(source, args.dtype)
    found = importers.read(source, dict(map(setting, settings)), args.ignore)
    if found.model_type != kind.model_type:
        raise ConfigError(f"{source}: expected a {kind.__name__}, got a model of {found.title}")
    for note in found.notes:
        print(f"{source}: {note}")
    return importers.make(found, args.dtype)


def _sampling(generator: str) -> Sampling:
    """What the pipeline samples with that a generator came of: a bundled one that it belongs to, or was trained on from."""
    from ..pipeline import sampling_of

    place: Any = generator
    for _ in range(MOST_TRAININGS):
        file = Path(place) / RUN_FILE
        if not file.is_file():
            break
        run = read_json(file).get("run")
        place = str(run.get("init") or generator) if isinstance(run, dict) else generator
    if os.path.isdir(place):
        return sampling_of(place)
    for name in list_models():
        index = FOLDER / name / PIPELINE_FILE
        if index.is_file() and place in (name, read_json(index).get("dit")):
            return sampling_of(name)
    return Sampling()


def _class_names(given: str | None, config: Any) -> list[str] | None:
    from ..importers.class_names import imagenet_names, read_names

    if given == "imagenet" or (given is None and config.num_classes == 1000):
        return imagenet_names()
    return None if given in (None, "none") else read_names(Path(given))
