"""sample pictures by the thousands

From a pipeline's classes or from captions; writes PNG files, WebDataset shards, or one samples.npz as ADM's evaluators take it.
A DiT alone writes latents. Picture k depends on the seed, k and its label or caption only, whatever the machines, processes and
restarts.
"""

import argparse

from ..noise import MAX_SEED
from ..sampling import DEFAULTS
from ..solvers import SOLVERS
from .arguments import add_embeddings, add_run, integer, report, run_options

EXAMPLE = """textok sample emoji --num 50000 --seed 0 --guidance-scale 2 --out samples --format npz
         textok sample emoji-t2i --caption "a red apple" --caption "a yellow flower" --out pictures"""


def _labels(text: str) -> list[int]:
    try:
        return [int(label) for label in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected classes with commas between, got {text!r}") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a pipeline's or a DiT's folder, or a bundled name")
    parser.add_argument("--num", type=integer(1, 1 << 30), help="how many (default: one of each --caption)")
    parser.add_argument("--labels", type=_labels, metavar="3,7,...", help="classes, taken in turn (default: all)")
    parser.add_argument("--caption", action="append", metavar="TEXT", help="what a picture shows; may be given again")
    parser.add_argument(
        "--captions",
        nargs="+",
        metavar="SOURCE",
        help="what has the captions, taken in turn (default: all of --embeddings). Without --embeddings, or with `auto` "
        "beside --caption, the encoder that the model's config names embeds them as they come",
    )
    add_embeddings(parser)
    parser.add_argument("--seed", type=integer(0, MAX_SEED), default=0, help="of the noise (default: %(default)s)")
    usual = DEFAULTS["epsilon"]
    own = "the pipeline's own, else by what the model predicts"
    parser.add_argument("--steps", type=integer(1, 100000), help=f"of the solver (default: {own}, mostly {usual.steps})")
    parser.add_argument("--solver", choices=SOLVERS, help=f"(default: {own}, mostly {usual.solver})")
    parser.add_argument(
        "--guidance-scale",
        type=float,
        help=f"of classifier-free guidance; 1: none (default: {own}, mostly {usual.guidance_scale:g})",
    )
    parser.add_argument(
        "--guidance-interval",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="the train timesteps outside which there is no guidance",
    )
    parser.add_argument("--format", choices=("png", "shards", "npz"), help="(default: png; of latents: shards)")
    add_run(parser)


def run(args: argparse.Namespace) -> None:
    from .. import data

    if args.num is None and not args.caption:
        raise ValueError("expected --num, how many pictures, or --caption; got neither")
    captions, embeddings = args.captions, args.embeddings
    if captions == ["auto"]:
        if embeddings is not None:
            raise ValueError("expected --embeddings or --captions auto, got both")
        captions, embeddings = None, "auto"
    names = ("labels", "caption", "field", "seed", "steps", "solver", "guidance_scale", "format")
    interval = None if args.guidance_interval is None else tuple(args.guidance_interval)
    chosen = {name: getattr(args, name) for name in names} | {"guidance_interval": interval}
    chosen |= {"captions": captions, "embeddings": embeddings}
    report(data.sample(args.model, args.num, **chosen, **run_options(args)), captions or ())
