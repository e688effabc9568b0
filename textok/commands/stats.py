"""mean and standard deviation of latents, for a DiT's config

Over all samples and tokens, in float64. Prints JSON; with --config also sets latent_mean and latent_std in a DiT's config.json.
"""

import argparse
import json
import sys
from pathlib import Path

EXAMPLE = "textok stats latents --config my-dit/config.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("latents", nargs="+", help="folders of latents, their shards, .npy or .npz")
    parser.add_argument("--config", type=Path, help="a DiT's config.json, or its folder, to write them to")
    parser.add_argument("--strict", action="store_true", help="fail at the first sample whose latents cannot be read")


def run(args: argparse.Namespace) -> None:
    from .. import data, files, weights
    from ..config import DiTConfig

    skips: list[data.Skip] = []
    found = data.latent_statistics(args.latents, skips=skips, strict=args.strict, progress=sys.stderr.isatty()).to_dict()
    if args.config is not None:
        path = args.config / weights.CONFIG_FILE if args.config.is_dir() else args.config
        config = files.read_json(path) | {name: found[name] for name in ("latent_mean", "latent_std")}
        DiTConfig.from_dict(config)
        files.write_json(path, config)
    print(json.dumps(found | {"skipped": [list(skip[:3]) for skip in skips]}, ensure_ascii=False))
