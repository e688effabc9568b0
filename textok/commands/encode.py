"""encode pictures to latents

Reads WebDataset shards, folders, tables, arrays and picture files; writes shards of latents, index.json, and skips.jsonl, which
names every sample that was left out and why. A run that was killed goes on when it is run again, and ends with the same bytes.
Several machines can share a folder, each with its --shard; the last to finish writes the index.
"""

import argparse

from .arguments import add_auto_captions, add_embeddings, add_run, embeddings_of, report, run_options

EXAMPLE = "textok encode emoji-textok emoji/*.tar --embeddings captions --out latents"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a TexTok's folder, or a bundled name")
    parser.add_argument("sources", nargs="+", metavar="source", help=".tar shards, folders, .jsonl, .csv, .npy, .npz, pictures")
    add_embeddings(parser)
    add_auto_captions(parser)
    parser.add_argument("--format", choices=("npz", "safetensors"), default="npz", help="of the latents (default: %(default)s)")
    parser.add_argument("--flip", action="store_true", help="encode the mirrored pictures too, with the same captions")
    parser.add_argument("--ray", metavar="ADDRESS", help="have a Ray cluster do it: its address, or 'local' (extra: ray)")
    add_run(parser)


def run(args: argparse.Namespace) -> None:
    from .. import data

    chosen = {name: getattr(args, name) for name in ("field", "format", "flip", "ray")}
    report(data.encode(args.model, args.sources, embeddings=embeddings_of(args), **chosen, **run_options(args)), args.sources)
