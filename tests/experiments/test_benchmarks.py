"""benchmarks/: cases and reports by themselves, and one small unit from end to end where PyTorch is there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks are not here")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The scripts' own modules, for this test only: their names are short and common."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(FOLDER) + os.sep):
            del sys.modules[name]


def side(peer, case, precision="int8", threads=0, median=1.0, peak=100.0):
    return {
        "peer": peer, "case": case, "precision": precision, "threads": threads, "median_s": median, "times_s": [median] * 3,
        "peak_mib": peak, "load_s": 0.1, "first_s": median, "error_rms": 1e-3,
    }  # fmt: skip


def record(a, b, others=0.0):
    from run import Run, key

    runs = [Run(s["peer"], s["case"], s["precision"], s["threads"]) for s in (a, b)]
    return {
        "unit": key(*runs),
        "ratio": b["median_s"] / a["median_s"],
        "others": others,
        "a": a,
        "b": b,
        "date": "2026-01-01 00:00",
        "machine": "M, 2 CPUs",
        "kernels": "ref",
        "versions": "textok-cpu 0",
    }


class Answers:
    """A process of a run whose output is given."""

    def __init__(self, run, output):
        self.run, self.output = run, output

    def ask(self, seed, path):
        np.save(path, self.output)
        return 1.0


def results(*records):
    from report import Results

    return Results({r["unit"]: r for r in records})


@pytest.mark.parametrize(
    "name", ["encode-p8-n32-b8", "decode-p16-n256-b1", "dit-xl-t64", "dit-xl2-t256", "picture-n32", "vae-512"]
)
def test_inputs_depend_on_the_seed_alone(name):
    from cases import case, inputs

    first, same, other = (inputs(case(name), seed) for seed in (5, 5, 6))
    for key in first:
        np.testing.assert_array_equal(first[key], same[key])
        assert key in ("t", "label", "labels") or not np.array_equal(first[key], other[key])


def test_cases_are_what_their_names_say():
    from cases import case, inputs

    assert inputs(case("encode-p8-n32-b8"), 0)["x"].shape == (8, 256, 256, 3)
    assert inputs(case("decode-s512-p16-n64-b1"), 0)["text"].shape == (1, 128, 4096)
    rows = inputs(case("dit-xl-t64"), 0)
    assert rows["x"].shape == (2, 64, 8) and rows["labels"][1] == 1000 and np.array_equal(rows["x"][0], rows["x"][1])
    assert inputs(case("dit-xl2-t1024"), 0)["x"].shape == (2, 4, 64, 64)
    assert [half.name for half in case("picture-n32").halves] == ["dit-xl-t32", "decode-p8-n32-b1"]
    with pytest.raises(ValueError, match="no case 'encode-p7-n32-b1'"):
        case("encode-p7-n32-b1")


def test_every_comparison_has_cases_and_peers():
    import efficiency
    import run
    from peers import lacks

    for pairs in (run.comparisons(True), run.comparisons(False), efficiency.comparisons(False)):
        assert len({run.key(*pair) for pair in pairs}) == len(pairs)
        for one in (one for pair in pairs for one in pair):
            assert run.case(one.case).what == "picture" or lacks(one.peer, run.case(one.case), one.precision) is None, str(one)
    assert set(run.comparisons(True)) <= set(run.comparisons(False))


def test_goals_are_met_or_not_by_the_fastest_peer():
    from report import goals

    name = "encode-p8-n32-b1"
    fast = record(side("textok", name), side("openvino", name, median=1.16))
    faster = record(side("textok", name), side("onnxruntime", name, median=1.14))
    found = {goal: met for goal, _, met in goals(results(fast))}
    assert found["encode and decode in int8: 1.15x the fastest peer"]
    found = {goal: met for goal, _, met in goals(results(fast, faster))}
    assert not found["encode and decode in int8: 1.15x the fastest peer"]
    assert not found["peak memory below every peer's at the same precision"]


def test_threads_batches_and_pictures():
    from report import goals

    name, batch = "encode-p8-n32-b1", "encode-p8-n32-b8"
    one = record(side("textok", name), side("textok", name, threads=1, median=1.95))
    eight = record(side("textok", name), side("textok", batch, median=8.1))
    slow = record(side("textok", name, "float32"), side("textok", batch, "float32", median=9.0))
    picture = record(side("textok", "picture-n32", median=2.1), side("openvino", "picture-n32", median=3))
    found = {goal: (what, met) for goal, what, met in goals(results(one, eight, slow, picture))}
    assert found["two threads 1.9x one: encode-p8-n32-b1 in int8"] == ("1.95x", True)
    assert found[f"time linear in batch: {batch} beside {name} in int8"][1]
    assert found[f"time linear in batch: {batch} beside {name} in float32"] == ("1.125 of linear", False)
    assert found["a 256px picture, DiT-XL, 32 tokens, guidance, in 2 s"] == ("2.10 s in int8", False)


def test_report_says_what_cannot_be_done_and_what_failed(tmp_path):
    pytest.importorskip("matplotlib")
    from report import write

    done = record(side("textok", "dit-xl-t32", "bfloat16"), side("eager", "dit-xl-t32", "bfloat16", median=2.0, peak=300))
    busy = record(side("textok", "dit-xl-t64", "bfloat16"), side("eager", "dit-xl-t64", "bfloat16"), others=0.4)
    unit = "textok/bfloat16/dit-xl-t32 | openvino/bfloat16/dit-xl-t32"
    text = write({r["unit"]: r for r in (done, busy)} | {unit: {"unit": unit, "failed": "it fell over"}}, tmp_path)
    row = next(line for line in text.splitlines() if line.startswith("| bfloat16 | DiT-XL step, 32 tokens"))
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[4] == "2.000" and "cannot" in cells and "failed" in cells and cells[-2] == "2.00 PyTorch eager (met: 1.2)"
    assert "it fell over" in text and "other programs took 40% of the machine" in text
    assert "DiT-XL step, 64 tokens" not in text
    assert (tmp_path / "plot.webp").stat().st_size > 1000 and (tmp_path / "report.md").read_text().startswith("2026-01-01")


def test_results_survive_a_cut_and_keep_the_best(tmp_path):
    from run import load_results

    a, b = side("textok", "dit-xl-t32"), side("eager", "dit-xl-t32", median=2.0)
    good, disturbed, later = record(a, b), record(a, b, others=0.5), record(a, side("eager", "dit-xl-t32", median=3.0))
    lines = [json.dumps(r) for r in (good, disturbed, {"unit": good["unit"], "failed": "no"})]
    (tmp_path / "results.jsonl").write_text("\n".join([*lines, lines[0][:40]]))
    assert load_results(tmp_path) == {good["unit"]: good}
    (tmp_path / "results.jsonl").write_text("\n".join([*lines, json.dumps(later)]) + "\n")
    assert load_results(tmp_path) == {good["unit"]: later}


def test_outputs_that_differ_are_not_timed(tmp_path):
    from cases import Store
    from process import Failed, Run
    from run import check

    store = Store(tmp_path)
    expected = np.random.default_rng(0).standard_normal((2, 32, 16)).astype(np.float32)
    np.save(store.path("reference", "dit-xl-t32.npy"), expected)

    run = Run("eager", "dit-xl-t32", "float32")
    assert check(Answers(run, expected * np.float32(1 + 1e-6)), store)["error_rms"] < 1e-5
    with pytest.raises(Failed, match="differs from the reference"):
        check(Answers(run, expected * np.float32(1.001)), store)
    with pytest.raises(Failed, match="differs"):
        check(Answers(run, expected * np.nan), store)
    with pytest.raises(Failed, match="the reference's is"):
        check(Answers(run, expected[:1]), store)


def test_commits_are_compared_by_their_outputs_first(tmp_path):
    from cases import Store
    from compare import difference, written
    from process import Failed, Run

    store, run = Store(tmp_path), Run("textok", "dit-xl-t32", "float32", tree=str(tmp_path / "0123456789ab"))
    assert str(run) == "textok/float32/dit-xl-t32/0123456789ab"
    out = np.random.default_rng(0).standard_normal((2, 32, 16)).astype(np.float32)
    assert difference([Answers(run, out), Answers(run, out)], store) == 0
    assert 0 < difference([Answers(run, out), Answers(run, out * np.float32(1 + 1e-6))], store) < 1e-5
    with pytest.raises(Failed, match="away from the first commit's"):
        difference([Answers(run, out), Answers(run, out * np.float32(1.001))], store)
    with pytest.raises(Failed, match="the first commit's is"):
        difference([Answers(run, out), Answers(run, out[:1])], store)
    record = {
        "case": "dit-xl-t32", "precision": "float32", "a_s": 2.0, "b_s": 1.0, "ratios": [1.9, 2.0, 2.2], "difference": 0.0,
        "others": 0.3,
    }  # fmt: skip
    row = written([record], ("old", "new")).splitlines()[-1]
    assert "| 2.000 | 1.000 | 2.000 (1.900 to 2.200) (disturbed: others took 30%) | the same bits |" in row


def test_a_tree_beside_itself_and_what_is_no_commit(tmp_path):
    """The command from end to end; builds of commits want a package index, so the tree as it is stands on both sides."""
    command = [sys.executable, str(FOLDER / "compare.py"), ".", ".", "--cases", "small-dit-xl-t64", "--dtype", "int8"]
    command += ["--pairs", "2", "--seconds", "0.1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "compare.md").read_text() == done.stdout
    assert done.stdout.splitlines()[-1].endswith("| the same bits |")
    (record,) = map(json.loads, (tmp_path / "compare.jsonl").read_text().splitlines())
    assert len(record["ratios"]) == 2 and record["a_s"] > 0
    command[2] = "no-such-branch"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "'no-such-branch' is no commit of this repository" in done.stderr


def test_turns():
    from run import Turn

    turn = Turn("cat")
    turn.take()
    assert turn.held()
    turn.process.kill()
    turn.process.wait()
    assert not turn.held()
    turn.give()
    assert turn.process is None
    with pytest.raises(SystemExit, match="before its turn came"):
        Turn("false").take()


def test_efficiency_counts_steps_and_decode(tmp_path):
    pytest.importorskip("matplotlib")
    from efficiency import ratio, rows_of, write

    small, large = side("textok", "dit-xl-t32", median=0.1), side("textok", "dit-xl2-t256", median=1.0)
    decode = record(side("textok", "decode-s512-p16-n32-b1", median=6.0), side("textok", "decode-p8-n32-b1", median=5.0))
    vae = record(side("textok", "decode-p8-n32-b1", median=5.0), side("diffusers", "vae-256", "bfloat16", median=10.0))
    found = results(record(large, small), decode, vae)
    (row,) = rows_of(found)
    assert ratio(row, 250, False) == pytest.approx(250 / 30) and ratio(row, 250, True) == pytest.approx(260 / 30)
    text = write({r["unit"]: r for r in found.records}, tmp_path)
    assert "| int8 | 256px | 32 | 100.0 | 5000 | 1000.0 | 30.0 | 250.0 | 8.3 | 8.7 | 10.0 | 8.3 | 14.3 |" in text
    assert (tmp_path / "efficiency.webp").stat().st_size > 1000


@pytest.mark.parametrize("name", ["small-encode-p16-n32-b1", "small-dit-xl-t64"])
def test_a_unit_from_end_to_end_and_again(tmp_path, name):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    command = [
        sys.executable,
        str(FOLDER / "run.py"),
        "--quick",
        "--out",
        str(tmp_path),
        "--cases",
        name,
        "--peers",
        "eager",
        "--dtype",
        "float32",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert found["unit"] == f"textok/float32/{name} | eager/float32/{name}"
    for one in (found["a"], found["b"]):
        assert one["error_rms"] < 1e-4 and len(one["times_s"]) >= 3 and one["median_s"] > 0 and one["peak_mib"] > 10
    again = subprocess.run([*command, "--report"], capture_output=True, text=True, timeout=600, check=False)
    assert again.returncode == 0 and ("| PyTorch eager |" in again.stdout or "disturbed, not counted" in again.stdout)
