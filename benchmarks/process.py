"""A peer's process and the handle on it.

Each peer is a fresh process that loads the weights from a file and answers one request at a time, so the memory that it
reports is its own and no peer's threads run while another is timed.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# The share of the machine that other programs may take while a unit is timed; one above it is done anew in the next run.
DISTURBED = 0.1
HERE = Path(__file__).resolve().parent
PAUSE = 0.3  # seconds before a call: ONNX Runtime's threads spin for about that long, waiting for more work


@dataclass(frozen=True)
class Run:
    """A peer on a case: one side of a comparison. `threads` 0 are all that the process may use; `tree` is the folder whose
    textok is taken, this checkout where it is empty."""

    peer: str
    case: str
    precision: str
    threads: int = 0
    tree: str = ""

    def __str__(self):
        more = (f"/{self.threads}t" if self.threads else "") + (f"/{Path(self.tree).name}" if self.tree else "")
        return f"{self.peer}/{self.precision}/{self.case}{more}"


def usable_threads():
    return len(os.sched_getaffinity(0))


def memory_mib(field):
    """A field of this process's status: VmHWM, the most memory it has held at once, or VmRSS, what it holds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError(f"no {field} in /proc/self/status")


def busy_seconds():
    """CPU time that the machine has spent on anything."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def clock():
    """Seconds of whatever is counted: by the wall, or of CPU where BENCH_CPU_TIME is set."""
    return time.process_time() if os.environ.get("BENCH_CPU_TIME") else time.perf_counter()


class Failed(Exception):
    """A peer that could not do what it was asked; says why."""


def command(run, store, *more):
    """What starts this file for a run."""
    tree = run.tree or str(HERE.parent)
    return [sys.executable, "-W", "ignore", __file__, tree, str(store.root.parent), run.peer, run.case, run.precision, *more]


def last_line(path):
    return next((line for line in reversed(path.read_text().splitlines()) if line.strip()), "it said nothing")[:300]


def prepare(run, store):
    """What a peer can do once for all its runs of a case: in a process of its own, so that memory it keeps goes back."""
    done = store.path("done", f"{run.peer}_{run.precision}_{run.case}")
    if not done.exists():
        log = store.path("logs", f"prepare_{done.name}.log")
        with log.open("w") as file:
            status = subprocess.run(command(run, store, "prepare"), stdout=file, stderr=file, check=False).returncode
        if status:
            raise Failed(f"{run} could not be prepared, status {status}: {last_line(log)}")
        done.touch()


class Process:
    """A peer's process, asked one thing at a time."""

    def __init__(self, run, store):
        self.run = run
        threads = run.threads or usable_threads()
        environment = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "TEXTOK_NUM_THREADS")}
        self.log = store.path("logs", str(run).replace("/", "_") + ".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command(run, store, str(threads)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )

    def loaded(self):
        """Waits for the model; returns what loading took."""
        self.load = self._answer()
        return self.load

    def _answer(self):
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        status = self.process.wait()
        raise Failed(f"{self.run} ended with status {status}: {last_line(self.log)}")

    def ask(self, seed, path=None):
        """Seconds for the inputs of a seed; the output goes to `path` where one is given."""
        try:
            self.process.stdin.write(json.dumps({"seed": seed, "path": path and str(path)}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        self.last = self._answer()
        return self.last["s"]

    def cpu_seconds(self):
        """What the process has used so far, all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def build(run, store, threads):
    """The function that is timed."""
    from cases import GUIDANCE_SCALE, case, default_steps
    from peers import flow_picture, peer, picture

    module, work = peer(run.peer), case(run.case)
    if work.what != "picture" or run.peer == "textok":
        return module.load(work, run.precision, store, threads)
    halves = (module.load(part, run.precision, store, threads) for part in work.halves)
    if work.is_flow:
        return flow_picture(*halves, GUIDANCE_SCALE)
    return picture(*halves, default_steps(), GUIDANCE_SCALE)


def prepare_here(root, name, case_name, precision):
    from cases import Store, case
    from peers import peer

    parts = [case(case_name)]
    if parts[0].what == "picture" and name != "textok":
        parts = parts[0].halves
    for part in parts:
        peer(name).prepare(part, precision, Store(root))


def serve(root, name, case_name, precision, threads):
    """In the peer's process: a request a line in, an answer a line out. What a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import numpy as np
    from cases import Store, case, inputs

    start = time.perf_counter()
    call = build(Run(name, case_name, precision), Store(root), int(threads))
    print(json.dumps({"load_s": time.perf_counter() - start, "peak_mib": memory_mib("VmHWM")}), file=answers, flush=True)
    work = case(case_name)
    for line in sys.stdin:
        request = json.loads(line)
        arrays = inputs(work, request["seed"])
        start = clock()
        out = call(arrays)
        seconds = clock() - start
        if request["path"]:
            np.save(request["path"], out)
        print(
            json.dumps({"s": seconds, "peak_mib": memory_mib("VmHWM"), "rss_mib": memory_mib("VmRSS")}),
            file=answers,
            flush=True,
        )


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    sys.path.insert(1, sys.argv[1])
    prepare_here(*sys.argv[2:-1]) if sys.argv[-1] == "prepare" else serve(*sys.argv[2:])
