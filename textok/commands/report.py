"""show evaluations as one HTML file

Everything `textok eval` wrote below a folder: tables, pictures with their reconstructions and differences, worst and best
cases, samples, and curves of quality against tokens, steps, evaluations, guidance and seconds. The file needs nothing
beside it and opens no connection.
"""

import argparse
from pathlib import Path

EXAMPLE = "textok report results --out report.html"
EXTRA = "viz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder with results of textok eval")
    parser.add_argument("--out", type=Path, help="the file to write (default: report.html in DIR)")
    parser.add_argument("--title", default="", help="heading (default: after DIR)")


def run(args: argparse.Namespace) -> None:
    from ..metrics import report

    path = report.write(args.folder, args.out, args.title)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
