"""The command `textok`: its parser and exit status. The commands themselves are in `commands/`."""

import argparse
import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from . import __version__
from .commands import COMMANDS


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="textok", description="TexTok image tokenizers and DiT generators on CPUs.")
    parser.add_argument("--version", action="version", version=f"textok {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f".commands.{name}", __package__)
        first, _, rest = (module.__doc__ or "").partition("\n")
        command = commands.add_parser(
            name,
            help=first,
            description=rest.strip() or first,
            epilog=f"example: {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(module=module)
    return parser


@contextlib.contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Our own; others as they come."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if Path(filename).is_relative_to(Path(__file__).parent):
                print(f"textok: {message}", file=sys.stderr)
            else:
                shown(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 where it failed. Wrong usage exits with 2."""
    args = argparse.Namespace(module=None)
    try:
        build_parser().parse_args(argv, args)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold what its encoding cannot
        with warnings_in_one_line():
            args.module.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone; nothing more can be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("textok: stopped", file=sys.stderr)
        return 1
    except ModuleNotFoundError as problem:
        extra = getattr(args.module, "EXTRA", None)
        told = "pip install" in str(problem)
        advice = f"; install what this command needs with: pip install 'textok-cpu[{extra}]'" if extra and not told else ""
        print(f"textok: {problem}{advice}", file=sys.stderr)
        return 1
    except (ValueError, OSError, MemoryError) as problem:
        said = f"{problem.filename}: {problem.strerror}" if isinstance(problem, OSError) and problem.filename else str(problem)
        print(f"textok: {' '.join(said.split()) or type(problem).__name__}", file=sys.stderr)
        return 1
    return 0
