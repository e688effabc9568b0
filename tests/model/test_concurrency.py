"""Threads, forks, signals, callbacks, memory and silence. What may upset a process runs in a fresh one."""

import ctypes
import gc
import os
import re
import resource
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from engine_models import TinyDiT, TinyTexTok, dit_config, textok_config
from fresh_process import environment

import textok
from textok import _core

HERE = Path(__file__).resolve().parents[1]  # a fresh process imports this file and the modules beside its folder


def in_fresh_process(code, limit=120):
    """Runs `code` with the tests' modules at hand; fails with its output unless it ends well and silently."""
    # Newer Pythons warn of any fork beside threads, which is what a test here is about.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment(HERE, HERE / "model"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture(scope="module")
def models():
    """A TexTok and a DiT, what to run on each, and the answers of a single thread."""
    tiny, dit = TinyTexTok(textok_config(text_mask=True)), TinyDiT(dit_config())
    x, z, captions = tiny.inputs(batch=4)
    tt, generator = textok.TexTok(tiny.config, tiny.weights), textok.DiT(dit.config, dit.weights)
    jobs = [
        lambda: tt.encode(x, **captions),
        lambda: tt.decode(z, **captions),
        lambda: generator.sample(labels=[1, 2, 3], steps=4, guidance_scale=2.0, seed=0),
    ]
    return jobs, [job() for job in jobs]


@pytest.mark.parametrize("count", (2, 16))
def test_threads_on_one_model(models, count):
    """Each thread runs everything, several times, beginning at another place; all get the same bits."""
    jobs, expected = models
    wrong = []
    start = threading.Barrier(count)

    def work(index):
        start.wait()
        for turn in range(10):
            k = (index + turn) % len(jobs)
            try:
                if not np.array_equal(jobs[k](), expected[k]):
                    wrong.append((index, k))
            except Exception as problem:
                wrong.append((index, problem))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_every_caller_may_ask_for_other_threads(models):
    """Callers with their own numbers of threads, more than there are cores: workers come, go and are too late; the bits
    stay."""
    tiny = TinyTexTok(textok_config(text_mask=True))
    x, z, captions = tiny.inputs(batch=4)
    tt = textok.TexTok(tiny.config, tiny.weights)
    expected = tt.encode(x, **captions, threads=1), tt.decode(z, **captions, threads=1)
    wrong = []

    def work(index):
        for turn in range(12):
            threads = 1 + (5 * turn + 3 * index) % 9
            got = tt.encode(x, **captions, threads=threads), tt.decode(z, **captions, threads=threads)
            if not all(np.array_equal(a, b) for a, b in zip(got, expected)):
                wrong.append((index, threads))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# How often each thread was given a core: what a worker that sleeps through a call leaves as it was.
ASLEEP = """
import time
from pathlib import Path
import textok
from engine_models import TinyTexTok, textok_config

def switches():
    return {status.parent.name: [line for line in status.read_text().splitlines() if "ctxt_switches" in line]
            for status in Path("/proc/self/task").glob("*/status")}

tiny = TinyTexTok(textok_config(text_mask=True))
x, z, captions = tiny.inputs(batch=4)
before = set(switches())
tt = textok.TexTok(tiny.config, tiny.weights)
tt.encode(x, **captions, threads=8)
workers = set(switches()) - before
assert len(workers) == 7, workers
time.sleep(0.5)
at_rest = switches()
for _ in range(20):
    tt.encode(x, **captions, threads=2)
now = switches()
woken = [worker for worker in workers if now[worker] != at_rest[worker]]
assert len(woken) <= 1, woken
"""


def test_workers_that_are_not_wanted_sleep():
    """After a call on eight threads, calls on two wake one worker and leave six alone."""
    in_fresh_process(ASLEEP)


def test_other_threads_run_meanwhile():
    """The GIL is released: while the engine works, another thread gets on."""
    side = {"hidden_size": 256, "depth": 4, "num_heads": 4}
    model = textok.TexTok.from_config(
        {"image_size": 128, "patch_size": 8, "text_condition": "none", "tokenizer": side, "detokenizer": side}
    )
    x = np.zeros((16, 128, 128, 3), np.uint8)
    seen = []
    done = threading.Event()

    def watch():
        while not done.wait(0.001):
            seen.append(time.monotonic())

    thread = threading.Thread(target=watch)
    thread.start()
    begin = time.monotonic()
    model.encode(x, threads=1)
    end = time.monotonic()
    done.set()
    thread.join()
    inside = [begin, *(t for t in seen if begin < t < end), end]
    # Held throughout, the GIL would leave one gap as long as the call.
    assert max(np.diff(inside)) < (end - begin) / 2


def test_callback_may_use_the_model(models):
    """A callback runs with the GIL, and the engine can be called from it."""
    tiny = TinyDiT(dit_config())
    dit = textok.DiT(tiny.config, tiny.weights)
    inner = dit.sample(labels=[5], steps=2, seed=1)
    results = []
    outer = dit.sample(
        labels=[1], steps=3, seed=0, callback=lambda step, steps, x: results.append(dit.sample(labels=[5], steps=2, seed=1))
    )
    assert len(results) == 3 and all(np.array_equal(result, inner) for result in results)
    assert np.array_equal(outer, dit.sample(labels=[1], steps=3, seed=0))


class Stop(Exception):
    pass


@pytest.mark.parametrize("kind", (Stop, KeyboardInterrupt, MemoryError, SystemExit))
def test_callback_exceptions_come_out(kind):
    """Unchanged, at the step where they arose; the next result is as ever."""
    tiny = TinyDiT(dit_config())
    dit = textok.DiT(tiny.config, tiny.weights)
    expected = dit.sample(labels=[1, 2], steps=4, seed=0)
    problem = kind("enough")
    steps_seen = []

    def callback(step, steps, x):
        steps_seen.append(step)
        if step == 2:
            raise problem

    with pytest.raises(kind) as caught:
        dit.sample(labels=[1, 2], steps=4, seed=0, callback=callback)
    assert caught.value is problem and steps_seen == [0, 1, 2]
    assert np.array_equal(dit.sample(labels=[1, 2], steps=4, seed=0), expected)


# A ViT of the real width on few blocks, so that the longest pause between two looks for a signal is the real one.
INTERRUPT = """
import os, signal, sys, threading, time
import numpy as np, textok
sys.path.insert(0, {here!r})
from test_concurrency import LONG_RUNS
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
model, run, short = LONG_RUNS[{kind!r}]()
expected = short(model)
waits = []
for delay in (0.02, 0.1, 0.23, 0.3, 0.41, 0.5):
    sent = []
    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
    timer = threading.Timer(delay, send)
    try:  # around the start too: on a busy machine the signal may come before it returns
        timer.start()
        run(model)
        raise SystemExit("the run ended before the signal came")
    except KeyboardInterrupt:
        waits.append(time.monotonic() - sent[0])
    timer.join()
    assert np.array_equal(short(model), expected), "after Ctrl-C"
if {check}:
    assert sorted(waits)[len(waits) // 2] < 0.1, waits
    assert max(waits) < 1, waits
"""


def long_encode():
    side = {"hidden_size": 768, "depth": 1, "num_heads": 12}
    model = textok.TexTok.from_config({"image_size": 256, "patch_size": 8, "text_condition": "none", "tokenizer": side,
                                       "detokenizer": side | {"hidden_size": 12, "num_heads": 1}})
    x = np.random.default_rng(0).integers(0, 256, (64, 256, 256, 3), np.uint8)
    return model, lambda m: m.encode(x), lambda m: m.encode(x[:1])


def long_sample():
    model = textok.DiT.from_config({"num_tokens": 32, "hidden_size": 576, "depth": 2, "num_heads": 8, "num_classes": 10})
    return (model, lambda m: m.sample(labels=[1] * 32, steps=500, solver="ddim", guidance_scale=2.0, seed=0),
            lambda m: m.sample(labels=[1], steps=2, guidance_scale=2.0, seed=0))


def long_embed():
    size = {"vocab_size": 100, "hidden_size": 1024, "depth": 2, "num_heads": 16, "mlp_size": 2816}
    model = textok.TextEncoder.from_config({"family": "t5", "gated": True, **size})
    ids = np.random.default_rng(0).integers(0, 100, (64, 300))
    return model, lambda m: m.encode_ids(ids), lambda m: m.encode_ids(ids[:1, :50])[0]


LONG_RUNS = {"encode": long_encode, "sample": long_sample, "embed": long_embed}


@pytest.mark.measured
@pytest.mark.parametrize("kind", LONG_RUNS)
def test_ctrl_c(kind):
    """SIGINT at several moments: KeyboardInterrupt within 100 ms (most; a busy machine may delay one), and the next result is
    equal."""
    in_fresh_process(INTERRUPT.format(kind=kind, check=True, here=str(Path(__file__).parent)))


@pytest.mark.parametrize("kind", LONG_RUNS)
def test_ctrl_c_whenever(kind):
    """The same where nothing is said about how long it takes: on a slow or an instrumented machine."""
    in_fresh_process(INTERRUPT.format(kind=kind, check=False, here=str(Path(__file__).parent)), limit=600)


FORK = """
import os
import numpy as np
from engine_models import TinyDiT, TinyTexTok, dit_config, textok_config
model, dit = TinyTexTok(textok_config(text_mask=True)), TinyDiT(dit_config())
x, z, captions = model.inputs(batch=4)
noisy, t, condition = dit.inputs(batch=4)
model.engine, dit.engine

def work():
    return [model.encode(x, captions, 3), model.decode(z, captions, 3), dit.denoise(noisy, t, condition, 3)]

def child():
    pid = os.fork()
    if pid == 0:
        try:
            first, second = work(), work()
            same = all(np.array_equal(a, b) for a, b in zip(first, second))
            if {used}:
                same = same and all(np.array_equal(a, b) for a, b in zip(first, expected))
            os._exit(0 if same else 1)
        except BaseException:
            os._exit(2)
    return pid

expected = work() if {used} else None
pids = [child() for _ in range(3)]
mine = work()
assert expected is None or all(np.array_equal(a, b) for a, b in zip(mine, expected))
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("used", (False, True), ids=("before use", "after use"))
def test_fork(used):
    """Children compute, on threads of their own, what the parent computes; and the parent goes on."""
    in_fresh_process(FORK.format(used=used))


# A handler of a signal, which runs in the middle of a product, forks; more threads than cores, so that some have tasks in hand.
FORK_IN_A_HANDLER = """
import os, signal, time
import numpy as np
from engine_models import SIDE, TinyTexTok, textok_config
side = {"hidden_size": 192, "depth": 3, "num_heads": 3, "mlp_ratio": 4}
model = TinyTexTok(textok_config(image_size=64, tokenizer=side, text_condition="none"))
x, _, captions = model.inputs(batch=4)
other = x[::-1].copy()
expected, expected_other = model.encode(x, captions, 1), model.encode(other, captions, 1)
in_child, nested, ends, until = False, None, [], time.monotonic() + 100

def handler(*_):
    global in_child, nested
    if in_child or len(ends) == 16 or time.monotonic() > until:
        return
    pid = os.fork()
    if pid:
        ends.append(os.waitpid(pid, 0)[1])
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        return
    in_child = True
    if len(ends) % 2:
        nested = model.encode(other, captions, 16)

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001)
while len(ends) < 16 and not in_child and time.monotonic() < until:
    same = np.array_equal(model.encode(x, captions, 16), expected)
    if in_child:
        os._exit(0 if same and (nested is None or np.array_equal(nested, expected_other)) else 1)
    assert same
if in_child:  # forked between two calls
    os._exit(0)
signal.setitimer(signal.ITIMER_REAL, 0)
assert ends and not any(ends), ends
"""


def test_fork_in_a_signals_handler():
    """Parent and children finish the call that was interrupted with the right bits, also a child that first makes another."""
    in_fresh_process(FORK_IN_A_HANDLER, limit=300)


FORK_BESIDE = """
import os, threading
import numpy as np
from engine_models import TinyTexTok, textok_config
model = TinyTexTok(textok_config(image_size=64, text_condition="none"))
x, _, captions = model.inputs(batch=4)
expected = model.encode(x, captions, 1)
done, ends = threading.Event(), []

def forks():
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if np.array_equal(model.encode(x, captions, 4), expected) else 1)
        ends.append(os.waitpid(pid, 0)[1])
    done.set()

threading.Thread(target=forks).start()
while not done.is_set():
    assert np.array_equal(model.encode(x, captions, 4), expected)
assert ends == [0] * 8, ends
"""


def test_fork_beside_a_call():
    """A thread forks while another is in a call: the child, which has no such call, computes at once."""
    in_fresh_process(FORK_BESIDE)


RECORDER = """
from engine_models import TinyTexTok, textok_config
tiny = TinyTexTok(textok_config(text_condition="none"))
x, _, captions = tiny.inputs()
every, names, gone_after = [], [], []

class Recorder:
    def __call__(self, name, rows):
        names.append(name)
        tiny.engine.record_inputs(None)

    def __del__(self):
        gone_after.append(len(names))

tiny.engine.record_inputs(lambda name, rows: every.append(name))
tiny.encode(x, captions)
tiny.engine.record_inputs(Recorder())
tiny.encode(x, captions)
assert len(every) > 1 and names == every, (names, every)
assert gone_after == [len(every)], gone_after
tiny.encode(x, captions)
assert names == every
"""


def test_a_recorder_may_be_taken_away_by_its_call():
    """The call goes on with the one that it began with, which lives until it ends."""
    in_fresh_process(RECORDER)


def test_a_recorder_that_holds_its_model_goes_with_it():
    """The two hold each other; Python's collector sees it."""
    tiny = TinyTexTok(textok_config())
    held = np.zeros(1)
    gone = weakref.ref(held)
    model = _core.Model("textok", tiny.config, tiny.weights)
    model.record_inputs(lambda name, rows, model=model, held=held: None)
    del model, held
    gc.collect()
    assert gone() is None


# Arrays that a recorder or a callback writes into once the engine has checked them.
WRITTEN_MEANWHILE = """
import numpy as np
import textok
from textok import _core
from engine_models import SIDE, TinyDiT, TinyTexTok, dit_config, textok_config

def lengths(change):
    model = TinyTexTok(textok_config(image_size=128, text_injection="cross_attention", text_mask=True))  # one picture at a time
    x, _, captions = model.inputs(batch=3, rows=1)
    model.engine.record_inputs(lambda *_: change(captions["text_lengths"], 7))
    return model.encode(x, captions)

def labels(change):
    model = TinyTexTok(textok_config(image_size=128, text_source="class"))
    x, _, captions = model.inputs(batch=3)
    model.engine.record_inputs(lambda *_: change(captions["labels"], 1 << 30))
    return model.encode(x, captions)

def guidance(change):
    model, steps = TinyDiT(dit_config()), 3
    x, _, condition = model.inputs(batch=2)
    update, scales = np.full((steps, 10), 0.1), np.ones(steps, np.float32)
    model.engine.sample(x, np.zeros(steps, np.float32), update, scales, None, condition["labels"], None, None,
                        lambda *_: change(scales, 2), 1)
    return x

def captions(change):
    config = dict(family="bert", vocab_size=50, hidden_size=32, depth=2, num_heads=2, mlp_size=64, max_positions=2000)
    encoder = textok.TextEncoder.from_config(config, seed=0)
    tokens, B = np.full(6, 300, np.int32), 6  # three go together
    keys, at, ids = tokens.copy(), np.zeros(B, np.int32), np.arange(300 * B, dtype=np.int32) % 50
    states, pooled = np.zeros((B, 300, 32), np.float32), np.zeros((B, 32), np.float32)
    engine = encoder._model
    engine.record_inputs(lambda *_: [change(tokens, 1900), change(keys, 1900), change(at, 1 << 30), change(ids, 1 << 30)])
    engine.encode_text(ids, tokens, keys, at, states, pooled, 1)
    return np.concatenate([states.ravel(), pooled.ravel()])

expected, got = (globals()[{what!r}](change) for change in (lambda *_: None, lambda array, value: array.fill(value)))
assert np.isfinite(got).all() and np.array_equal(expected, got)
"""


@pytest.mark.parametrize("what", ("lengths", "labels", "guidance", "captions"))
def test_what_was_checked_is_what_is_computed(what):
    """Numbers that say where memory is read: once they are checked, a write into their array changes nothing."""
    in_fresh_process(WRITTEN_MEANWHILE.format(what=what))


def test_nothing_is_printed():
    """Import, models, runs and errors leave stdout and stderr alone; in_fresh_process looks."""
    in_fresh_process("""
import numpy as np, textok
from engine_models import TinyDiT, TinyTexTok, dit_config, textok_config
tiny, small = TinyTexTok(textok_config()), TinyDiT(dit_config())
tt, dit = textok.TexTok(tiny.config, tiny.weights), textok.DiT(small.config, small.weights)
x, z, captions = tiny.inputs()
tt.reconstruct(x, **captions)
dit.sample(labels=[1, 2], steps=3, guidance_scale=2.0, seed=0, solver="ddpm")
for wrong in (lambda: tt.encode(x), lambda: dit.sample(labels=[99]), lambda: textok.TexTok({"patch_size": 0}, {})):
    try:
        wrong()
        raise SystemExit("no error")
    except ValueError:
        pass
repr(tt), repr(dit), textok.cpu_info()
""")


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.measured
def test_memory_stays_flat(models):
    """Hundreds of calls of each kind, failing ones among them, leave the process as large as it was."""
    jobs, _ = models
    tiny = TinyTexTok(textok_config())
    tt = textok.TexTok(tiny.config, tiny.weights)
    x, _z, captions = tiny.inputs()
    trace: dict = {}

    def wrong():
        with pytest.raises(ValueError):
            tt.encode(x)

    def traced():
        trace.clear()
        tiny.encode(x, captions, trace=trace)

    for job in (*jobs, wrong, traced):
        for _ in range(50):
            job()
        before = resident_bytes()
        for _ in range(300):
            job()
        assert resident_bytes() - before < 1 << 19  # a leak of 2 KB a call would show


# A call of no steps plans for its batch and computes next to nothing. All in one thread: others' stacks count as well.
KEPT_WORKSPACE = """
import resource
from pathlib import Path
import numpy as np
from engine_models import TinyDiT, dit_config
from textok import _core
small, large = TinyDiT(dit_config(depth=8, hidden_size=64)), TinyDiT(dit_config(hidden_size=512))
plan = small.engine.memory_plan(8000, 0)["workspace"]
x, none = np.zeros((8000, 6, 5), np.float32), np.zeros(0, np.float32)
small.engine.sample(x, none, np.zeros((0, 10)), none, None, np.zeros(8000, np.int32), None, None, None, 1)
wanted = sum(weight.nbytes for weight in large.weights.values())
assert plan > 1.5 * wanted > 40 << 20, (plan, wanted)
now = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
limit = now + wanted // 2
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
_core.Model("dit", large.config, large.weights, threads=1)
"""


@pytest.mark.measured
def test_a_kept_workspace_goes_where_memory_is_short():
    """What a call left for the next is given back before a model is told that there is no memory."""
    in_fresh_process(KEPT_WORKSPACE)


@pytest.mark.measured
def test_models_come_and_go():
    """Packed weights are given back: 200 models of half a megabyte in a process that does not grow by a tenth of that."""
    tiny = TinyTexTok(textok_config())
    for turn in range(250):
        if turn == 50:
            before = resident_bytes()
        textok.TexTok(tiny.config, tiny.weights)
    assert resident_bytes() - before < 10 << 20


def other_openblas_threads():
    """Thread settings of every OpenBLAS in the process that is not ours: {path: threads}."""
    paths = set(re.findall(r"/\S*openblas\S*", Path("/proc/self/maps").read_text()))
    found = {}
    for path in sorted(paths):
        if "textok" in Path(path).name:
            continue
        library = ctypes.CDLL(path)
        for name in ("scipy_openblas_get_num_threads64_", "scipy_openblas_get_num_threads", "openblas_get_num_threads64_",
                     "openblas_get_num_threads"):
            if hasattr(library, name):
                found[path] = getattr(library, name)()
                break
    return found


def test_threads_of_numpys_openblas_are_left_alone(models):
    np.ones((8, 8)) @ np.ones((8, 8))
    before = other_openblas_threads()
    if not before:
        pytest.skip("this NumPy has no OpenBLAS of its own in the process")
    jobs, _ = models
    threads = textok.get_num_threads()
    try:
        textok.set_num_threads(1)
        for job in jobs:
            job()
    finally:
        textok.set_num_threads(threads)
    assert other_openblas_threads() == before


@pytest.mark.parametrize("variable", ("TEXTOK_NUM_THREADS", "OMP_NUM_THREADS"))
def test_threads_from_the_environment(variable):
    """Fewer where asked; never more than the process may use."""
    code = f"""
import os
os.environ.pop("TEXTOK_NUM_THREADS", None), os.environ.pop("OMP_NUM_THREADS", None)
os.environ[{variable!r}] = "{{asked}}"
import textok
cpus = textok.cpu_info()["cpus"]
assert textok.get_num_threads() == min({{asked}}, cpus) <= len(os.sched_getaffinity(0))
"""
    for asked in (1, 100):
        in_fresh_process(code.format(asked=asked))


def test_affinity_bounds_threads():
    in_fresh_process("""
import os
os.environ.pop("TEXTOK_NUM_THREADS", None), os.environ.pop("OMP_NUM_THREADS", None)
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import textok
assert textok.get_num_threads() == 1
""")


def test_affinity_bounds_threads_whenever_it_is_set():
    """A worker may be given CPUs of its own after it was forked."""
    in_fresh_process("""
import os
os.environ.pop("TEXTOK_NUM_THREADS", None), os.environ.pop("OMP_NUM_THREADS", None)
import textok
before, cpus = textok.get_num_threads(), os.sched_getaffinity(0)
os.sched_setaffinity(0, [min(cpus)])
assert textok.get_num_threads() == textok.cpu_info()["threads"] == 1
if (child := os.fork()) == 0:
    os._exit(textok.get_num_threads() != 1)
assert os.waitpid(child, 0)[1] == 0
os.sched_setaffinity(0, cpus)
assert textok.get_num_threads() == before
os.sched_setaffinity(0, [min(cpus)])
textok.set_num_threads(3)
assert textok.get_num_threads() == 3  # asked for
""")


def test_a_model_is_packed_on_its_own_number_of_threads():
    in_fresh_process("""
import os
from engine_models import TinyTexTok, textok_config
import textok
tiny = TinyTexTok(textok_config())
before = len(os.listdir("/proc/self/task"))
textok.TexTok(tiny.config, tiny.weights, threads=1)
assert len(os.listdir("/proc/self/task")) == before
textok.TexTok(tiny.config, tiny.weights, threads=3)
packs = textok.cpu_info()["isa"] != "ref"  # whose weights stay as they are
assert before + packs <= len(os.listdir("/proc/self/task")) <= before + 2
""")


@pytest.mark.parametrize(
    ("cgroup", "files", "cpus"),
    (
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("0::/a/b", {"cpu.max": "100000 100000", "a/cpu.max": "800000 100000", "a/b/cpu.max": "250000 100000"}, 1),
        ("0::/a/b", {"a/b/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", {"a/cpu.max": "max 100000"}, 0),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/host/path", {"cpu.max": "400000 100000"}, 4),
        ("0::/", {}, 0),
        ("9:pids:/x\n4:cpu,cpuacct:/a\n0::/", {"cpu/a/cpu.cfs_quota_us": "600000", "cpu/a/cpu.cfs_period_us": "100000"}, 6),
        (
            "4:cpuacct,cpu:/a",
            {
                "cpu/a/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_quota_us": "70000",
                "cpu/a/cpu.cfs_period_us": "100000",
                "cpu/cpu.cfs_period_us": "10000",
            },
            7,
        ),
        ("4:cpuset:/a", {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"}, 0),
        ("nonsense", {"cpu.max": "1 1"}, 0),
    ),
)
def test_quotas_of_all_cgroups_around(tmp_path, cgroup, files, cpus):
    """Version 2 and 1, in a tree like /proc and /sys: the smallest from the process's own cgroup up to the root."""
    for name, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert _core.cpu_quota(str(tmp_path)) == cpus


# What the kernel has permitted this process: bit 18 is tile data.
TILES = """
import ctypes, os
import textok
from engine_models import TinyTexTok, textok_config
tiny = TinyTexTok(textok_config())
tiny.encode(*tiny.inputs()[::2])
permitted = ctypes.c_uint64()
if textok.cpu_info()["features"]["amx"] and ctypes.CDLL(None).syscall(158, 0x1022, ctypes.byref(permitted)) == 0:
    assert bool(permitted.value >> 18 & 1) == (textok.cpu_info()["isa"] == "amx"), (permitted.value, textok.cpu_info()["isa"])
"""


@pytest.mark.skipif("TEXTOK_EMULATE_AMX" in os.environ, reason="this build's tiles are emulated: there is nothing to ask for")
@pytest.mark.parametrize("isa", ("", "avx2", "ref"))
def test_tiles_are_asked_for_where_they_are_used(isa, monkeypatch):
    """The permission costs signal stacks: a process that does without tiles does not ask."""
    monkeypatch.setenv("TEXTOK_ISA", isa)
    if isa == "" or isa in textok.cpu_info()["rows"]:
        in_fresh_process(TILES)


SMALL_STACKS = """
import resource
# The main thread's may grow again; a new thread's default stays what it was when the process began.
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
import numpy as np
import textok
side = {"hidden_size": 64, "depth": 2, "num_heads": 2}
config = {"image_size": 64, "patch_size": 8, "text_condition": "none", "tokenizer": side, "detokenizer": side}
x = np.zeros((16, 64, 64, 3), np.uint8)
for dtype in ("float32", "bfloat16", "int8"):
    model = textok.TexTok.from_config(config, dtype=dtype, threads=4)
    assert np.isfinite(model.encode(x)).all()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' threads do not go by the limit of the process")
@pytest.mark.parametrize("isa", textok.cpu_info()["rows"])
def test_workers_have_room_where_threads_get_little(isa, monkeypatch):
    """Kernels keep up to 128 KB on the stack, and some C libraries give a thread no more."""
    monkeypatch.setenv("TEXTOK_ISA", isa)
    before = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (112 << 10, before[1]))
    try:
        in_fresh_process(SMALL_STACKS)
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, before)


def test_one_text_encoder_from_many_threads():
    """Sixteen Python threads, each with captions of its own, on threads of the engine that they share."""
    size = {"vocab_size": 50, "hidden_size": 64, "depth": 2, "num_heads": 4, "mlp_size": 128, "max_positions": 40}
    encoder = textok.TextEncoder.from_config({"family": "clip", **size, "projection_dim": 16, "end_token_id": 49})
    generator = np.random.default_rng(0)
    ids = [[np.append(generator.integers(0, 49, n), 49) for n in generator.integers(1, 39, 20)] for _ in range(16)]

    def work(rows):
        return encoder.encode_ids(rows)[0], encoder.pooled_ids(rows)

    expected = list(map(work, ids))
    with ThreadPoolExecutor(16) as pool:
        for _ in range(3):
            for one, other in zip(expected, pool.map(work, ids), strict=True):
                assert all(map(np.array_equal, one, other))
