"""decode latents to pictures

Takes what `textok encode` or `sample` wrote, or arrays [n,N,d]; writes PNG files, WebDataset shards, or one samples.npz as
ADM's evaluators take it. A run that was killed goes on when it is run again.
"""

import argparse

from .arguments import add_auto_captions, add_embeddings, add_run, embeddings_of, report, run_options

EXAMPLE = "textok decode emoji-textok latents --embeddings captions --out pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a TexTok's folder, or a bundled name")
    parser.add_argument("latents", nargs="+", help="folders of latents, their shards, .npy or .npz")
    add_embeddings(parser)
    add_auto_captions(parser)
    parser.add_argument(
        "--format", choices=("png", "shards", "npz"), default="png", help="of the pictures (default: %(default)s)"
    )
    add_run(parser)


def run(args: argparse.Namespace) -> None:
    from .. import data

    chosen = {name: getattr(args, name) for name in ("field", "format")}
    report(data.decode(args.model, args.latents, embeddings=embeddings_of(args), **chosen, **run_options(args)), args.latents)
