"""Two commits of textok beside each other in one run: how many times as fast the second is.

    python benchmarks/compare.py 55789b8 HEAD --quick
    python benchmarks/compare.py HEAD . --cases 'encode-*' --dtype int8     '.': the working tree, as it is built
    python benchmarks/compare.py HEAD HEAD                                  what noise is, on this machine today

Each commit is built with what its own pyproject.toml asks for (pip, so a package index is needed) and runs in processes
of its own, by the names of Python that both have: those in `peers/ours.py`. Both read the same weights, written by the
first, and the same inputs. Their outputs are compared before anything is timed. Then they take turns, in a few fresh
pairs of processes, since where a process's memory lies makes more of a difference than anything within it; who begins
changes from pair to pair. A row has the median ratio of the pairs, and the lowest and highest.

Builds and weights are kept in `--out` where it is given, and the table is written there as compare.md; what is in its
compare.jsonl is not measured anew. Cases are those of `cases.py`. `TEXTOK_ISA` reaches both.
"""

import argparse
import fnmatch
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path

import numpy as np

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # the textok of this checkout

from cases import Store, case
from process import DISTURBED, Failed, Run, prepare
from report import describe, seconds, table
from run import LIMITS, PICTURE, PICTURE_LIMITS, PRECISIONS, QUICK, SIDES, STEPS, cpu_name, interleaved, running

ROOT = Path(__file__).resolve().parent.parent


def tree_of(revision, folder):
    """The folder whose textok is a revision's: built in `folder` unless it is there, named by the commit."""
    if revision == ".":
        return ROOT
    found = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--verify", "-q", f"{revision}^{{commit}}"], capture_output=True, text=True
    )
    if found.returncode:
        raise SystemExit(f"{revision!r} is no commit of this repository, nor '.', the working tree")
    tree = folder / found.stdout[:12]
    if not tree.exists():
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            source, built = Path(temporary, "source"), Path(temporary, "built")
            archive = subprocess.run(["git", "-C", ROOT, "archive", tree.name], stdout=subprocess.PIPE, check=True).stdout
            with tarfile.open(fileobj=io.BytesIO(archive)) as files:
                files.extractall(source, filter="data")
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", built, source]
            if subprocess.run(command, check=False).returncode:
                raise SystemExit(f"{revision} could not be built: pip says why above")
            built.rename(tree)
    return tree


def difference(processes, store):
    """The relative RMS difference of two processes' outputs for seed 0; 0 where they are equal to the bit."""
    run, outputs = processes[0].run, []
    for side, process in enumerate(processes):
        path = store.path("outputs", f"{run.precision}_{run.case}_{side}.npy")
        process.ask(0, path)
        outputs.append(np.load(path).astype(np.float64))
        path.unlink()
    a, b = outputs
    if a.shape != b.shape:
        raise Failed(f"{processes[1].run}: output {b.shape}, the first commit's is {a.shape}")
    error = float(np.sqrt(((b - a) ** 2).mean() / (a**2).mean()))
    limit = (PICTURE_LIMITS if case(run.case).what == "picture" else LIMITS)[run.precision]
    if not error <= limit:
        raise Failed(f"{processes[1].run}: output {error:.2g} away from the first commit's (relative RMS), more than {limit}")
    return error


def compare(a, b, store, pairs, spend):
    """One case: {case, precision, a_s, b_s, ratios: one a pair of processes, difference, others}."""
    prepare(a, store)
    ratios, a_medians, b_medians, others = [], [], [], []
    for pair in range(pairs):
        turn = slice(None, None, -1 if pair % 2 else 1)  # who is first
        with ExitStack() as stack:
            processes = [stack.enter_context(running(run, store)) for run in (a, b)[turn]]
            for process in processes:
                process.loaded()
            if not pair:
                error = difference(processes[turn], store)
            times, share = interleaved(processes, spend / pairs)
        a_times, b_times = times[turn]
        ratios.append(statistics.median(x / y for x, y in zip(a_times, b_times, strict=True)))
        a_medians.append(statistics.median(a_times))
        b_medians.append(statistics.median(b_times))
        others.append(share)
    return {
        "case": a.case, "precision": a.precision, "a_s": statistics.median(a_medians), "b_s": statistics.median(b_medians),
        "ratios": ratios, "difference": error, "others": max(others),
    }  # fmt: skip


def written(records, names):
    """The table of what was compared."""
    rows = []
    for record in records:
        ratios = record["ratios"]
        same = "the same bits" if record["difference"] == 0 else f"{record['difference']:.1e}"
        note = f" (disturbed: others took {record['others']:.0%})" if record["others"] > DISTURBED else ""
        rows.append([
            record["precision"], describe(record["case"]), seconds(record["a_s"]), seconds(record["b_s"]),
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}){note}", same,
        ])  # fmt: skip
    header = ["precision", "median seconds a call", *names, "times as fast (lowest, highest pair of processes)", "outputs"]
    return table(header, rows)


def rows_of_kernels(tree):
    program = "import sys; sys.path.insert(0, sys.argv[1]); import textok; print(textok.cpu_info()['isa'], textok.__file__)"
    return subprocess.run([sys.executable, "-c", program, tree], capture_output=True, text=True, check=True).stdout.split()[0]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", help="a commit, or '.'")
    parser.add_argument("second", help="a commit, or '.'")
    parser.add_argument("--quick", action="store_true", help="the short list of run.py")
    parser.add_argument("--cases", action="append", default=[], metavar="PATTERN", help="only these, say 'encode-p8-*'")
    parser.add_argument("--dtype", choices=PRECISIONS, action="append", help="only this one (may be given several times)")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of fresh processes a case (%(default)s)")
    parser.add_argument("--seconds", type=float, default=12, help="about how long a case's repeats take (%(default)s)")
    parser.add_argument("--out", help="folder for builds, weights (up to 20 GB) and results; left out: a temporary one")
    parser.add_argument("--prepare", action="store_true", help="build and write the weights, and time nothing")
    args = parser.parse_args(argv)
    if args.pairs < 1:
        parser.error(f"--pairs is {args.pairs}, expected 1 or more")
    names = [*QUICK, *([] if args.quick else STEPS + SIDES), PICTURE]
    named = [name for name in args.cases if not set(name) & set("*?[")]
    names = [name for name in dict.fromkeys([*named, *names]) if not args.cases or matches(name, args.cases)]
    if not names:
        parser.error(f"no case is like {', '.join(args.cases)}")
    with tempfile.TemporaryDirectory() if args.out is None else nullcontext(args.out) as out:
        run_all(args, names, Path(out).resolve())


def matches(name, patterns):
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def run_all(args, names, out):
    trees = out / "trees"
    trees.mkdir(parents=True, exist_ok=True)
    a_tree, b_tree = (tree_of(revision, trees) for revision in (args.first, args.second))
    store, results = Store(out), out / "compare.jsonl"
    key = f"{a_tree.name} {b_tree.name} {rows_of_kernels(a_tree)}"
    found = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    found = [record for record in found if record["key"] == key and ROOT not in (a_tree, b_tree)]
    done = {(record["case"], record["precision"]) for record in found if record["others"] <= DISTURBED}
    failed = []
    for name in names:
        for precision in args.dtype or PRECISIONS:
            a, b = (Run("textok", name, precision, tree=str(tree)) for tree in (a_tree, b_tree))
            if (name, precision) in done:
                continue
            try:
                prepare(a, store)
                if args.prepare:
                    continue
                record = compare(a, b, store, args.pairs, args.seconds)
            except Failed as problem:
                failed.append(f"- {problem}")
                print(problem, file=sys.stderr)
                continue
            record |= {"key": key, "date": time.strftime("%Y-%m-%d %H:%M")}
            with results.open("a") as file:
                file.write(json.dumps(record) + "\n")
            found.append(record)
            print(f"{precision} {name}: {statistics.median(record['ratios']):.3f}", file=sys.stderr, flush=True)
    if args.prepare:
        return
    latest = {(record["case"], record["precision"]): record for record in found}
    shown = [latest[name, precision] for precision in PRECISIONS for name in names if (name, precision) in latest]
    head = f"{args.first} ({a_tree.name}) and {args.second} ({b_tree.name}), {time.strftime('%Y-%m-%d')}; {cpu_name()}"
    text = "\n\n".join([f"{head}, {rows_of_kernels(b_tree)} kernels.", written(shown, (args.first, args.second)), *failed])
    (out / "compare.md").write_text(text + "\n")
    print(text)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
