"""Argument types and arguments that several commands share."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..arrays import MAX_BATCH, MAX_THREADS
from ..model import COMPUTE_TYPES
from ..noise import MAX_SEED


def integer(low: int, high: int) -> Callable[[str], int]:
    """An argument type: an integer from low to high."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected an integer from {low} to {high}, got {text!r}")
        return value

    return parse


def add_seed(parser: argparse.ArgumentParser, what: str = "of the noise") -> None:
    parser.add_argument("--seed", type=integer(0, MAX_SEED), default=0, help=f"{what} (default: %(default)s)")


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=integer(1, MAX_THREADS), help="the most to use (default: all this process may)")


def add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype", choices=COMPUTE_TYPES, default="float32", help="what the model computes in (default: %(default)s)"
    )


def share(text: str) -> tuple[int, int]:
    """An argument type: i/n, i from 0 to n - 1."""
    first, slash, count = text.partition("/")
    if not (slash and first.isdecimal() and count.isdecimal() and int(first) < int(count)):
        raise argparse.ArgumentTypeError(f"expected i/n with i from 0 to n - 1, got {text!r}")
    return int(first), int(count)


def add_run(parser: argparse.ArgumentParser) -> None:
    """What runs over whole datasets have in common; the names are those of `textok.data.encode`'s arguments."""
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the results; run again, an interrupted run goes on"
    )
    parser.add_argument(
        "--batch-size", type=integer(1, MAX_BATCH), default=16, help="of a thread's call (default: %(default)s)"
    )
    parser.add_argument("--shard-size", type=integer(1, MAX_BATCH), default=2048, help="samples a part (default: %(default)s)")
    parser.add_argument(
        "--shard", dest="share", type=share, default=(0, 1), metavar="i/n", help="do every n-th part from the i-th, from 0"
    )
    parser.add_argument("--processes", type=integer(1, 1024), default=1, help="that share the threads (default: %(default)s)")
    add_dtype(parser)
    add_threads(parser)
    parser.add_argument("--overwrite", action="store_true", help="remove an earlier run's results first")
    parser.add_argument("--strict", action="store_true", help="fail at the first sample that would be skipped")


RUN = ("out", "batch_size", "shard_size", "share", "processes", "dtype", "threads", "overwrite", "strict")


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """The values of `add_run`'s arguments, by name."""
    return {name: getattr(args, name) for name in RUN} | {"progress": sys.stderr.isatty()}


def report(summary: Any, sources: Sequence[str] = ()) -> None:
    """Prints what a run over a data set did; a DataError where it could use nothing of it, with the fields that there are."""
    from ..data.folders import SKIPS_FILE
    from ..data.sources import fields_of
    from ..errors import DataError

    print(summary)
    if summary.samples or summary.left or not summary.skipped:
        return
    with (summary.folder / SKIPS_FILE).open(encoding="utf-8") as file:
        skip = json.loads(file.readline())
    raise DataError(
        f"{summary.folder}: nothing could be used, all {summary.skipped} samples are skipped; "
        f"the first: {skip['source']} {skip['key']}: {skip['reason']}{fields_there(sources and fields_of(sources))}"
    )


def fields_there(fields: Sequence[str]) -> str:
    """The end of an error about samples that lack something."""
    return f"; the fields there are: {', '.join(fields)}" if fields else ""


def add_embeddings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--embeddings",
        metavar="STORE",
        help="of the captions: what `textok embed` made, .npy, .npz or .safetensors. Rows find their samples by caption (a "
        "store, an array `captions` in the .npz) or key (`keys`); without these by position: as many rows as there are samples "
        "in one folder, table or array, in its order",
    )
    parser.add_argument("--field", default="caption", help="the metadata's field that is the caption (default: %(default)s)")


def add_auto_captions(parser: argparse.ArgumentParser) -> None:
    """`--captions auto`, for commands whose samples have captions."""
    parser.add_argument(
        "--captions",
        choices=("auto",),
        help="in place of --embeddings: the encoder that the model's config names embeds them as they come",
    )


def embeddings_of(args: argparse.Namespace) -> str | None:
    """What `--embeddings` or `--captions auto` says."""
    if args.captions is not None and args.embeddings is not None:
        raise ValueError("expected --embeddings or --captions auto, got both")
    found: str | None = args.captions or args.embeddings
    return found
