"""Argument types and arguments that several commands share."""

import argparse
from collections.abc import Callable

from ..arrays import MAX_THREADS
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
