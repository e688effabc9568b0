"""run the bundled models on held-out pictures

Reconstruct held-out pictures with and without text, generate from classes and from captions;
write picture sheets and print a table. With --caption, generate pictures of your words instead.
"""

import argparse
import sys
from pathlib import Path

from .arguments import add_seed, add_threads

EXAMPLE = """textok demo --out my-demo --seed 7
         textok demo --caption "a red apple" --caption "a yellow flower\""""
EXTRA = "demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("textok-demo"), help="folder for the pictures (default: %(default)s)")
    parser.add_argument("--caption", action="append", metavar="TEXT", help="what a picture shows; may be given again")
    add_seed(parser)
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    from .. import demo

    if args.caption:
        demo.show(args.caption, args.out, args.seed, args.threads, progress=sys.stderr.isatty())
    else:
        demo.run(args.out, args.seed, args.threads, progress=sys.stderr.isatty())
