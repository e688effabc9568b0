"""textok beside its peers in one run: time, memory, load and agreement, on the same weights and inputs.

    python benchmarks/run.py --quick --out bench      the rows of the README's table, within 20 minutes on two cores
    python benchmarks/run.py --out bench              all of it; started again, it does what is missing
    python benchmarks/run.py --out bench --dtype int8 --cases 'encode-*' --peers openvino
    python benchmarks/run.py --out bench --report     tables and plot from what is there

A unit is textok and one peer on one case. Each is a fresh process (`process.py`) that loads its weights from a file;
what can be done once (export, quantisation) is done before and kept in OUT/prepared. Before timing, both outputs are
compared with the float32 PyTorch reference. Repeats are interleaved (textok, peer, textok, ...), and each uses inputs
of its own, so that nothing can be remembered. Results are appended to OUT/results.jsonl unit by unit. Cases are
explained in `cases.py`, peers and their settings in `peers/`. Needs `pip install '.[bench,viz]'`.

`--cpu-time` counts CPU time, which others' work distorts less: on one CPU, `taskset -c 1 python benchmarks/run.py ...`, so
that no thread waits for another.

Where others use the machine, `--lock COMMAND` names a command that waits for its turn, then copies its input to its
output, say 'flock /tmp/machine cat': it runs while something is timed.
"""

import argparse
import fnmatch
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path

import numpy as np

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # the textok of this checkout

from cases import Store, case, default_steps
from peers import PEERS, lacks, peer
from process import DISTURBED, PAUSE, Failed, Process, Run, busy_seconds, prepare, usable_threads

PRECISIONS = ("float32", "bfloat16", "int8")
SIDES = [f"{what}-p{patch}-n{n}-b{b}" for b in (1, 8) for n in (32, 256) for patch in (8, 16) for what in ("encode", "decode")]
STEPS = [f"dit-xl-t{tokens}" for tokens in (32, 64, 128, 256, 1024)]
PICTURE = "picture-n32"
QUICK = ["encode-p8-n32-b1", "decode-p8-n32-b1", "encode-p16-n32-b1", "dit-xl-t32", "dit-xl-t256"]
# Compiling takes longer than all the rest of a unit; in a quick run these stand for it.
QUICK_COMPILED = ["encode-p16-n32-b1", "dit-xl-t32"]
PICTURE_PEERS = ("eager", "openvino")
# The largest relative RMS difference from the reference at which a peer counts as doing the same work: wide enough for the
# coarsest peer (NNCF's int8 DiT-XL, 0.18), whose error the report shows beside its time. Random weights are harder on
# rounding than trained ones, and a picture sums up the roundings of all its steps.
LIMITS = {"float32": 1e-4, "bfloat16": 0.05, "int8": 0.25}
PICTURE_LIMITS = {"float32": 1e-3, "bfloat16": 0.2, "int8": 0.5}
TURN_SECONDS = 20  # after which the machine is given to others between two units


def key(a, b):
    return f"{a} | {b}"


def comparisons(quick, extra=()):
    """The pairs of runs, the most wanted first; `extra` names cases that are in no list."""
    pairs, extra = [], tuple(extra)
    for name in dict.fromkeys([*extra, *QUICK, *([] if quick else STEPS + SIDES)]):
        for precision in reversed(PRECISIONS):
            ours = Run("textok", name, precision)
            pairs += [
                (ours, Run(other, name, precision))
                for other in PEERS
                if not lacks(other, case(name), precision)
                and not (quick and other == "compiled" and name not in (*QUICK_COMPILED, *extra))
            ]
            if precision == "int8":
                pairs.append((ours, Run("eager", name, "float32")))
    for precision in PRECISIONS:
        for name in ("encode-p8-n32-b1", "dit-xl-t256"):
            pairs.append((Run("textok", name, precision), Run("textok", name, precision, 1)))
        pairs.append((Run("textok", "encode-p8-n32-b1", precision), Run("textok", "encode-p8-n32-b8", precision)))
    for precision in ("int8",) if quick else reversed(PRECISIONS):
        for other in PICTURE_PEERS:
            if not (quick and other == "eager"):
                pairs.append((Run("textok", PICTURE, precision), Run(other, PICTURE, precision)))
    return pairs


# --- One unit -----------------------------------------------------------------------------------------------------------------


class Turn:
    """The right to use the machine alone, while `command` (see --lock) runs; without one it is always ours."""

    def __init__(self, command):
        self.command, self.process, self.since = command, None, 0.0

    def take(self):
        if not self.held():
            self.give(whatever=True)
        if self.process is None and self.command:
            self.process = subprocess.Popen(shlex.split(self.command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            if not self._echoes():
                raise SystemExit(f"--lock: {self.command!r} ended with status {self.process.wait()} before its turn came")
            self.since = time.monotonic()

    def _echoes(self):
        try:
            self.process.stdin.write("turn\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return False
        return self.process.stdout.readline() == "turn\n"

    def held(self):
        """Whether we still have it, if we ever took it."""
        return self.process is None or self._echoes()

    def give(self, whatever=False):
        if self.process is not None and (whatever or time.monotonic() - self.since > TURN_SECONDS or not self.held()):
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait()
            self.process = None


def reference(name, store):
    """The reference's output for a case's seed 0, computed once; a picture's belongs to its number of steps."""
    steps = f"-{default_steps()}-steps" if case(name).what == "picture" else ""
    path = store.path("reference", f"{name}{steps}.npy")
    if not path.exists():
        run = Run("reference", name, "float32")
        prepare(run, store)
        with running(run, store) as process:
            process.loaded()
            part = path.with_suffix(".part.npy")
            process.ask(0, part)
            part.rename(path)
    return np.load(path)


@contextmanager
def running(run, store):
    process = Process(run, store)
    try:
        yield process
    finally:
        process.close()


def check(process, store):
    """Compares a peer's first output with the reference; returns how far they are apart and the first call's time."""
    run = process.run
    expected = reference(run.case, store)
    path = store.path("outputs", str(run).replace("/", "_") + ".npy")
    seconds = process.ask(0, path)
    out = np.load(path)
    path.unlink()
    if out.shape != expected.shape:
        raise Failed(f"{run}: output {out.shape}, the reference's is {expected.shape}")
    difference = out.astype(np.float64) - expected
    error = float(np.sqrt((difference**2).mean() / (expected.astype(np.float64) ** 2).mean()))
    limit = (PICTURE_LIMITS if case(run.case).what == "picture" else LIMITS)[run.precision]
    if not error <= limit:
        raise Failed(
            f"{run}: its output differs from the reference by {error:.2g} (relative RMS), more than {limit}: nothing was timed"
        )
    return {"error_rms": error, "error_max": float(np.abs(difference).max() / np.abs(expected).max()), "first_s": seconds}


def interleaved(processes, seconds):
    """The seconds of each process's repeats, one of each a round, and the share of the machine that others took meanwhile."""
    once = sum(process.ask(1) for process in processes)
    times, start = tuple([] for _ in processes), time.monotonic()
    others = busy_seconds() - sum(process.cpu_seconds() for process in processes)
    for i in range(int(min(15, max(3, seconds / once)))):
        for side, process in enumerate(processes):
            time.sleep(PAUSE)
            times[side].append(process.ask(2 + i))
    others = busy_seconds() - sum(process.cpu_seconds() for process in processes) - others
    return times, round(max(others / ((time.monotonic() - start) * usable_threads()), 0), 3)


def compare(a, b, store, turn, seconds):
    """One unit: loads, checks and times two runs, interleaved; returns its record."""
    for run in (a, b):
        prepare(run, store)
        reference(run.case, store)
    with ExitStack() as stack:
        processes = []
        for run in (a, b):  # one loads after the other, so that each has the machine to itself
            processes.append(stack.enter_context(running(run, store)))
            processes[-1].loaded()
        found = [check(process, store) for process in processes]
        turn.take()
        times, others = interleaved(processes, seconds)
        if not turn.held():
            raise Failed("the turn ended before the unit did")
    records = [
        {
            **run.__dict__,
            "median_s": statistics.median(t),
            "low_s": min(t),
            "high_s": max(t),
            "times_s": t,
            **process.load,
            **process.last,
            **extra,
        }
        for run, process, t, extra in zip((a, b), processes, times, found, strict=True)
    ]
    for record in records:
        del record["s"]
    return {
        "unit": key(a, b),
        "ratio": records[1]["median_s"] / records[0]["median_s"],
        "rounds": len(times[0]),
        "others": others,
        "a": records[0],
        "b": records[1],
    }


# --- All of them --------------------------------------------------------------------------------------------------------------


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def versions(*names):
    """Of the packages that these peers use, as "name version, ..."."""
    found = []
    for package in dict.fromkeys(package for name in names for package in peer(name).VERSIONS):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            import textok

            found.append(f"{package} {textok.__version__}")  # from the checkout, not installed
    return ", ".join(found)


def environment():
    import textok

    return {"machine": f"{cpu_name()}, {usable_threads()} CPUs", "kernels": textok.cpu_info()["isa"]}


def load_results(out):
    """The last record of each unit. A file that ends in the middle of a line was cut off there."""
    path = Path(out) / "results.jsonl"
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        before = found.get(record["unit"])
        # A failure or a disturbed measurement never takes the place of a good one.
        if before is None or _rank(record) >= _rank(before):
            found[record["unit"]] = record
    return found


def _rank(record):
    return 0 if "failed" in record else 1 + (record["others"] <= DISTURBED)


def run_units(pairs, out, lock, seconds, again=False):
    """Does the units of `pairs` that OUT/results.jsonl lacks."""
    from tqdm import tqdm

    store, turn = Store(out), Turn(lock)
    done = (
        {}
        if again
        else {unit for unit, record in load_results(out).items() if "failed" not in record and record["others"] <= DISTURBED}
    )
    try:
        for a, b in tqdm([pair for pair in pairs if key(*pair) not in done], unit="unit", disable=not sys.stderr.isatty()):
            try:
                record = compare(a, b, store, turn, seconds)
            except Failed as problem:
                record = {"unit": key(a, b), "failed": str(problem)}
            record |= {"date": time.strftime("%Y-%m-%d %H:%M"), "versions": versions(a.peer, b.peer), **environment()}
            if "BENCH_CPU_TIME" in os.environ:
                record["cpu_time"] = True
            with (Path(out) / "results.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(
                record.get("failed") or f"{record['unit']}: {record['a']['median_s']:.4f} s, {record['b']['median_s']:.4f} s",
                flush=True,
            )
            turn.give()
    finally:
        turn.give(whatever=True)


def prepare_units(pairs, out):
    """All that can be done before timing."""
    store = Store(out)
    for run in dict.fromkeys(side for pair in pairs for side in pair):
        try:
            prepare(run, store)
            reference(run.case, store)
        except Failed as problem:
            print(problem, file=sys.stderr)


def parse(description, argv=None):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for results and for what is prepared (up to 40 GB)")
    parser.add_argument("--quick", action="store_true", help="a chosen part of the cases, fewer repeats")
    parser.add_argument("--dtype", choices=PRECISIONS, action="append", help="only this one (may be given several times)")
    parser.add_argument("--cases", action="append", default=[], metavar="PATTERN", help="only these, say 'encode-p8-*'")
    parser.add_argument("--peers", action="append", choices=[*PEERS, "textok"], help="only these (textok: threads and batches)")
    parser.add_argument("--again", action="store_true", help="measure anew what has a result; the last one counts")
    parser.add_argument("--prepare", action="store_true", help="export and quantise, and time nothing")
    parser.add_argument("--report", action="store_true", help="write the report of what is there, and time nothing")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time, see above")
    parser.add_argument("--lock", metavar="COMMAND", help="what waits for this machine, see above")
    args = parser.parse_args(argv)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    return args


def chosen(pairs, args):
    return [
        (a, b)
        for a, b in pairs
        if (not args.dtype or a.precision in args.dtype)
        and (not args.cases or any(fnmatch.fnmatch(a.case, pattern) for pattern in args.cases))
        and (not args.peers or b.peer in args.peers)
    ]


def execute(pairs, args):
    """Prepares or measures what the arguments ask for; returns whether there is something new to report."""
    pairs = chosen(pairs, args)
    if args.cpu_time:
        os.environ["BENCH_CPU_TIME"] = "1"
    if not pairs:
        raise SystemExit("no unit has that dtype, case and peer")
    if args.prepare:
        prepare_units(pairs, args.out)
    elif not args.report:
        run_units(pairs, args.out, args.lock, seconds=4 if args.quick else 8, again=args.again)
    return not args.prepare


def named(patterns):
    """Those patterns that are names of cases."""
    for pattern in patterns:
        with suppress(ValueError):
            yield case(pattern).name


def main():
    args = parse(__doc__)
    if execute(comparisons(args.quick, named(args.cases)), args):
        import report

        print(report.write(load_results(args.out), Path(args.out)))


if __name__ == "__main__":
    main()
