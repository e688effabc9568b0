"""measure pictures: FID, KID, IS, precision, recall, PSNR, SSIM, perceptual distance, CLIP score

What to measure:

    reconstruction  sets beside their originals, picture by picture and as a whole
    samples         sets of generated pictures beside real ones, or beside a .npz of mu and sigma
    text            generated pictures beside their captions, by CLIP
    statistics      mu and sigma of features, of pictures and of other statistics together: parts of several machines merged

A set is a folder, shards, an .npy or .npz (ADM's arr_0), or with --model latents, which are decoded first. Originals are
centre-cropped to the size of the sets. The result is a folder with result.json, pictures.npz and a cache, with which a
second run completes a first; `textok report` shows it. Without downloads, EfficientNet-Lite0 stands in for Inception-v3 and
for LPIPS' network; numbers carry its name. Other networks are the user's files: Inception-v3 as TorchScript or ONNX
(onnxruntime), CLIP and DINOv2 as folders (extra "text-torch"); CLIP for `text`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from .arguments import add_dtype, add_seed, add_threads, integer

EXAMPLE = "textok eval reconstruction TexTok=reconstructed Baseline=baseline --reference photos --out results"
EXTRA = "eval"

KINDS = ("reconstruction", "samples", "text", "statistics")
LITE = "efficientnet-lite0"


def named(text: str) -> tuple[str, str]:
    """An argument type: NAME=PATH, or PATH, which is named after its last part."""
    name, equals, path = text.partition("=")
    if not equals:
        return Path(text).stem or text, text
    if not name or not path or "/" in name:
        raise argparse.ArgumentTypeError(f"expected NAME=PATH, got {text!r}")
    return name, path


def note(text: str) -> tuple[str, str, Any]:
    """An argument type: NAME:KEY=VALUE; a number where it is one."""
    left, _, value = text.partition("=")
    name, _, key = left.partition(":")
    if not (name and key and value):
        raise argparse.ArgumentTypeError(f"expected NAME:KEY=VALUE, such as TexTok:tokens=16, got {text!r}")
    for kind in (int, float):
        try:
            return name, key, kind(value)
        except ValueError:
            continue
    return name, key, value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=KINDS, help="what to measure")
    parser.add_argument("sets", nargs="+", type=named, metavar="NAME=SET", help="pictures and what to call them")
    parser.add_argument("--reference", metavar="SOURCE", help="originals or real pictures; for samples also statistics (.npz)")
    parser.add_argument("--out", required=True, type=Path, help="folder of the result; for statistics the .npz")
    parser.add_argument(
        "--network",
        default=LITE,
        metavar="NET",
        help=f"{LITE}[@SIZE], a TorchScript or ONNX file, a folder of CLIP or DINOv2, none (default: %(default)s)",
    )
    parser.add_argument(
        "--perceptual",
        default=LITE,
        metavar="NET",
        help=f"of reconstructions: {LITE}, lpips-vgg16=FILES, lpips-alexnet=FILES, none (default: %(default)s)",
    )
    parser.add_argument("--size", type=integer(8, 16384), help="pixels a side (default: the sets' own)")
    parser.add_argument("--caption-field", default="caption", metavar="FIELD", help="of the metadata (default: %(default)s)")
    parser.add_argument(
        "--note", action="append", default=[], type=note, metavar="NAME:KEY=VALUE", help="what else is to be known of a set"
    )
    parser.add_argument("--model", help="sets are latents: a TexTok's folder or bundled name that decodes them")
    parser.add_argument("--embeddings", metavar="STORE", help="of the captions, for --model where its detokenizer takes text")
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="of what networks computed; runs may share it (default: OUT/cache)"
    )
    parser.add_argument("--no-cache", action="store_true", help="keep nothing for a second run")
    add_dtype(parser)
    add_seed(parser, "of the inception score's shuffle and of KID's subsets")
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    from ..metrics import evaluate, networks

    sets = dict(args.sets)
    if len(sets) != len(args.sets):
        raise ValueError(f"sets: expected names that differ, got {', '.join(name for name, _ in args.sets)}")
    if args.kind in ("reconstruction", "samples") and args.reference is None:
        raise ValueError(
            f"--reference: expected {'originals' if args.kind == 'reconstruction' else 'real pictures or statistics'} "
            "to compare with, got none"
        )
    strangers = sorted({name for name, _, _ in args.note} - set(sets))
    if strangers:
        raise ValueError(f"--note: expected one of the sets {', '.join(sets)}, got {strangers[0]!r}")
    notes: dict[str, dict[str, Any]] = {}
    for name, key, value in args.note:
        notes.setdefault(name, {})[key] = value
    progress = sys.stderr.isatty()
    network = None if args.network == "none" else networks.load_network(args.network, args.threads)
    perceptual = None
    if args.kind == "reconstruction" and args.perceptual != "none":
        perceptual = networks.perceptual_distance(args.perceptual, args.threads)
    kind, _, files = args.perceptual.partition("=")
    evaluation = evaluate.Evaluation(
        args.out if args.kind != "statistics" else args.out.with_suffix(".parts"),
        network,
        perceptual,
        kind if files else f"perceptual@{kind}",
        args.size,
        args.seed,
        args.caption_field,
        notes,
        progress,
        not args.no_cache,
        args.cache,
    )
    if args.kind == "statistics":
        total = evaluate.gather_statistics(sets.values(), evaluation, args.size)
        total.save(args.out)
        print(f"{args.out}: {total} of {network.name if network else 'files'}")
        return
    if args.model is not None:
        sets = {name: decoded(args, name, source, progress) for name, source in sets.items()}
    if args.kind == "reconstruction":
        result = evaluation.reconstruction(sets, args.reference)
    elif args.kind == "samples":
        result = evaluation.samples(sets, args.reference)
    else:
        result = evaluation.text(sets)
    print(evaluate.table(result))
    print(f"{args.out / evaluate.RESULT_FILE}")


def decoded(args: argparse.Namespace, name: str, latents: str, progress: bool) -> Path:
    """The pictures of latents, in the result's folder; a run that was killed goes on."""
    from .. import data

    out = args.out / "decoded" / name
    data.decode(
        args.model, latents, out, embeddings=args.embeddings, field=args.caption_field, dtype=args.dtype, format="shards",
        threads=args.threads, progress=progress,
    )  # fmt: skip
    return out
