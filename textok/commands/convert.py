"""make a textok model of another project's checkpoint

Knows the DiT of facebookresearch, SiT and REPA (.pt), the DiT of diffusers (a folder, or its pipeline), the TexTok of pranoyr
(.pt), the TiTok and TA-TiTok of bytedance with a VAE's latents, SoftVQ-VAE, MAETok and the DiT and SiT over their tokens
(folders of the hub), and the text encoders T5, mT5, umT5, BERT and CLIP (folders of Hugging Face or open_clip, and open_clip's
files); shards and half precision too. PyTorch is not needed, and nothing in a file is executed.
What a file does not say, such as its number of heads, has to be given.
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files import read_json
from ..importers import Imported
from ..model import EngineModel
from ..weights import CONFIG_FILE, WEIGHTS_FILE
from .arguments import add_dtype

EXAMPLE = "textok convert DiT-XL-2-256x256.pt dit-xl-2 --set num_heads=16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a .pt, .pth, .bin or .safetensors file, or a folder with such files")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write config.json and model.safetensors to")
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="JSON object of config keys that go before what the file says"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[], help="the same one by one, before both"
    )
    parser.add_argument(
        "--ignore",
        metavar="PATTERN",
        nargs="+",
        action="extend",
        default=[],
        help="tensors that are of no use, such as 'projectors.*'",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    add_dtype(parser)


def setting(text: str, option: str = "--set") -> tuple[str, Any]:
    """key=value, the value in JSON or else a plain word."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ConfigError(f"{option}: expected KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value


def _with_identity(found: Imported) -> Imported:
    """With the identity of the text encoder that the config names, where that can be loaded, so that no other one is taken for
    it; a folder's name becomes the whole path."""
    from .. import hub
    from ..bundled import list_models
    from ..captions import check_encoder
    from ..text.encoder import TextEncoder

    use = found.config.text_encoder
    if use is None or use.identity:
        return found
    folder = os.path.isdir(use.name)
    if not folder and not hub.is_hub_name(use.name) and use.name not in list_models():
        return found
    name = os.path.abspath(use.name) if folder else use.name
    encoder = TextEncoder.from_pretrained(name, "int8", end_token=use.end_token)
    check_encoder(encoder, found.config)
    use = dataclasses.replace(use, name=name, identity=encoder.identity)
    return dataclasses.replace(found, config=dataclasses.replace(found.config, text_encoder=use))


def run(args: argparse.Namespace) -> None:
    from .. import importers
    from ..text.encoder import TextEncoder
    from ..text.encoder_files import open_encoder

    there = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if (args.out / name).exists()]
    if there and not args.overwrite:
        raise FileExistsError(f"{args.out / there[0]} is there already; --overwrite replaces it")
    settings = read_json(args.config) if args.config else {}
    settings |= dict(map(setting, args.set))
    encoder = open_encoder(args.source, settings)
    model: EngineModel
    if encoder:
        model = TextEncoder._from_source(encoder, args.out.name, args.dtype, progress=sys.stderr.isatty())
    else:
        found = importers.read(args.source, settings, args.ignore)
        for note in found.notes:
            print(f"{args.source}: {note}")
        found = _with_identity(found)
        model = importers.make(found, args.dtype)
    model.save_pretrained(args.out)
    print(f"{args.out}: {model}")
