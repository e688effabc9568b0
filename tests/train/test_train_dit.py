"""Training generators on latents of the C engine. Needs torch; without it these are skipped."""

import copy
import errno
import io
import json
import os
import shutil
import threading
import time
import types

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

import textok
import textok.data
from textok.config import DiTConfig
from textok.errors import ConfigError
from textok.text.embedding_store import EmbeddingStore
from textok.train import config as configs
from textok.train import dit
from textok.train.diffusion import Diffusion, process_of
from textok.train.loop import Devices, TrainingError
from textok.train.modules import DiT

SIDE = {"hidden_size": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2}
TOKENIZER = {
    "image_size": 8,
    "patch_size": 4,
    "num_latent_tokens": 4,
    "latent_dim": 3,
    "text_dim": 6,
    "num_text_tokens": 5,
    "text_mask": True,
    "tokenizer": SIDE,
    "detokenizer": SIDE,
}
MODEL = {"hidden_size": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "time_freq_dim": 8}
COUNT = 20


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Twenty captioned and labelled pictures, their embeddings, and a tokenizer with random weights."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    (root / "pictures").mkdir()
    rows = []
    store = EmbeddingStore.create(root / "store", {"name": "by hand"}, 6)
    for number in range(COUNT):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "png")
        (root / "pictures" / f"p{number:02d}.png").write_bytes(buffer.getvalue())
        split = "test" if number % 5 == 4 else "train"
        rows.append({"file_name": f"p{number:02d}.png", "caption": f"caption {number}", "label": number % 3, "split": split})
        store.add([f"caption {number}"], rng.standard_normal((1, 1 + number % 5, 6)).astype(np.float32))
    (root / "pictures" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    textok.TexTok.from_config(TOKENIZER, seed=1).save_pretrained(root / "tokenizer")
    textok.TexTok.from_config(TOKENIZER, seed=2).save_pretrained(root / "other")
    return root


def settings(world, steps=6, **sections):
    """A training config of the small world; `sections` win over its fields."""
    values = {
        "model": MODEL,
        "data": {"paths": [str(world / "pictures")], "caption": "caption", "cache": str(world / "store")},
        "latents": {"tokenizer": str(world / "tokenizer")},
        "run": {
            "steps": steps,
            "batch_size": 4,
            "threads": 1,
            "precision": "float32",
            "compile": False,
            "log_every": 3,
            "eval_every": steps,
            "sample_images": 2,
            "save_seconds": 0.0,
            "tensorboard": False,
        },
        "optim": {"lr": 1e-2, "warmup": 0, "ema": 0.5, "schedule": "constant"},
        "diffusion": {"sample_steps": 2},
    }
    for name, fields in sections.items():
        values[name] = values[name] | fields
    made = {n: values[n] if kind is dict else configs.make(n, kind, values[n]) for n, kind in dit.SECTIONS.items()}
    return types.SimpleNamespace(**made)


CONDITIONS = {"class": {}, "text": {"condition": "text"}, "v": {"prediction": "v"}, "mean only": {"learn_sigma": False}}
CONDITIONS |= {"cosine": {"beta_schedule": "cosine"}, "velocity": {"prediction": "velocity", "learn_sigma": False}}


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_a_perfect_prediction_has_no_error_and_stands_for_the_picture(prediction):
    diffusion = Diffusion(DiTConfig(num_tokens=4, prediction=prediction))
    x0, noise = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3, 400, 900])
    xt = diffusion.add_noise(x0, t, noise)
    target = diffusion.target(x0, t, noise)
    assert torch.allclose(diffusion.guess(target, xt, t), x0, atol=2e-4)
    assert diffusion.losses(target, x0, xt, t, noise)[0].max() == 0
    assert diffusion.losses(-target, x0, xt, t, noise)[0].min() > 0.5
    bars = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)[t][:, None, None]
    plain = {"epsilon": noise, "sample": x0, "v": bars.sqrt() * noise - (1 - bars).sqrt() * x0}[prediction]
    assert torch.allclose(target.double(), plain.double(), atol=1e-6)


def test_flow_matching_predicts_the_way_from_picture_to_noise():
    process = process_of(DiTConfig(num_tokens=4, prediction="velocity"))
    x0, noise = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 0.25, 1.0])
    xt = process.add_noise(x0, t, noise)
    assert torch.equal(xt[0], x0[0]) and torch.equal(xt[2], noise[2])
    assert torch.allclose(xt[1], 0.75 * x0[1] + 0.25 * noise[1])
    error, bound = process.losses(noise - x0, x0, xt, t, noise)
    assert error.max() == 0 and bound.max() == 0
    assert process.losses(x0 - noise, x0, xt, t, noise)[0].min() > 1
    times = process.draw(20_000, torch.Generator().manual_seed(0))
    assert 0 <= times.min() < 0.001 and 0.999 < times.max() <= 1 and times.mean().item() == pytest.approx(0.5, abs=0.01)
    times = process.draw(20_000, torch.Generator().manual_seed(0), "logit_normal")
    normal = torch.logit(times.double())
    assert normal.mean().item() == pytest.approx(0, abs=0.03) and normal.std().item() == pytest.approx(1, abs=0.03)


def test_times_of_training_are_chosen_and_those_of_test_sets_are_not(world, tmp_path):
    model = {"prediction": "velocity", "learn_sigma": False}
    drawn, scores = {}, {}
    for times in ("uniform", "logit_normal"):
        run = dit.build_run(settings(world, model=model, diffusion={"times": times}), tmp_path / times)
        drawn[times] = []
        draw = run.task.process.draw
        run.task.process.draw = lambda *given, draw=draw, to=drawn[times]: to.append(draw(*given)) or to[-1]
        torch.manual_seed(0)
        for step in range(40):
            run.task.backward(step, 0, 1)
        drawn[times] = torch.cat(drawn[times])
        scores[times], _ = run.task.evaluate(0)
    middle = {times: ((t > 0.25) & (t < 0.75)).float().mean().item() for times, t in drawn.items()}
    assert middle["uniform"] == pytest.approx(0.5, abs=0.12) and middle["logit_normal"] == pytest.approx(0.73, abs=0.12)
    assert scores["uniform"] == scores["logit_normal"]
    with pytest.raises(textok.ConfigError, match=r"diffusion\.times: expected 'uniform' where model\.prediction is 'epsilon'"):
        dit.build_run(settings(world, diffusion={"times": "logit_normal"}), tmp_path / "other")


def test_the_bound_does_not_depend_on_what_is_predicted():
    x0, noise, wrong, fraction = torch.randn(4, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([20, 400, 900])
    bounds = []
    for prediction in ("epsilon", "v"):
        diffusion = Diffusion(DiTConfig(num_tokens=4, prediction=prediction))
        xt = diffusion.add_noise(x0, t, noise)
        guess = x0 + 0.1 * wrong
        implied = (xt - diffusion.at(diffusion.signal, t, xt) * guess) / diffusion.at(diffusion.noise, t, xt)
        output = torch.cat([diffusion.target(guess, t, implied), fraction], dim=-1)
        bounds.append(diffusion.losses(output, x0, xt, t, noise)[1])
    assert torch.allclose(*bounds, rtol=1e-3, atol=1e-6)


def test_latents_are_the_engines_and_normalised_by_the_training_split(world, tmp_path):
    run = dit.build_run(settings(world, data={"flip": True}), tmp_path)
    pictures, latents = run.task.pictures, run.task.latents
    model = textok.TexTok.from_pretrained(world / "tokenizer")
    text, lengths = pictures.texts.batch(np.arange(COUNT))
    images = pictures.pairs.images
    plain = model.encode(images, text.numpy(), lengths.numpy())
    mirrored = model.encode(np.ascontiguousarray(images[:, :, ::-1]), text.numpy(), lengths.numpy())
    assert (latents.arrays[0] == plain).all() and (latents.arrays[1] == mirrored).all()
    seen = np.concatenate([plain[pictures.train], mirrored[pictures.train]]).reshape(-1, 3).astype(np.float64)
    assert np.allclose(latents.mean, seen.mean(axis=0), rtol=1e-9)
    assert np.allclose(latents.std, seen.std(axis=0), rtol=1e-9)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["latent_mean"] == latents.mean.tolist() and config["latent_std"] == latents.std.tolist()
    flips = np.array([False, True])
    wanted = (np.stack([plain[3], mirrored[7]]) - latents.mean) / latents.std
    assert np.allclose(latents.batch(np.array([3, 7]), flips), wanted, atol=1e-6)
    assert not np.allclose(latents.batch(np.array([3, 7])), wanted, atol=1e-6)


def test_latents_are_encoded_once_and_again_for_another_tokenizer(world, tmp_path):
    def time_of(**changes):
        dit.build_run(settings(world, **changes), tmp_path)
        return (tmp_path / "latents.npy").stat().st_mtime_ns

    first = time_of()
    assert time_of() == first
    assert time_of(latents={"tokenizer": str(world / "other")}) != first


def kept_files(folder):
    """What a run that is refused must leave as it is."""
    return {name: (folder / name).read_bytes() for name in ("latents.npy", "latents.json", "config.json", "training.json")}


def test_a_run_keeps_its_latents_when_its_tokenizer_was_trained_further(world, tmp_path):
    """The generator would be of neither; sources that were only touched are the same."""
    shutil.copytree(world / "tokenizer", tmp_path / "tokenizer")
    shutil.copytree(world / "pictures", tmp_path / "pictures")
    own = {"latents": {"tokenizer": str(tmp_path / "tokenizer")}, "data": {"paths": [str(tmp_path / "pictures")]}}
    dit.build_run(settings(world, **own), tmp_path / "run").train()
    before = kept_files(tmp_path / "run")
    shutil.copy(world / "other" / "model.safetensors", tmp_path / "tokenizer" / "model.safetensors")
    with pytest.raises(TrainingError, match=r"run on other latents \(tokenizer: '.* there, '.* here\): .* --init this one"):
        dit.build_run(settings(world, **own), tmp_path / "run")
    assert kept_files(tmp_path / "run") == before
    shutil.copy(world / "tokenizer" / "model.safetensors", tmp_path / "tokenizer" / "model.safetensors")
    os.utime(tmp_path / "pictures" / "p03.png", (0, 0))
    assert dit.build_run(settings(world, **own), tmp_path / "run").step == 6
    after = kept_files(tmp_path / "run")
    assert after["latents.npy"] == before["latents.npy"] and after["latents.json"] != before["latents.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"paths": ["{fewer}"]}}, r"a run on other latents \(pictures: '20 samples .* there, '9 samples .* here\)"),
        ({"data": {"flip": True}}, r"a run with another \[data.flip\]"),
        ({"latents": {"dtype": "bfloat16"}}, r"a run with another \[latents"),
        ({"optim": {"lr": 1e-3}, "data": {"flip": True}}, r"a run with another \["),
    ],
)
def test_a_run_keeps_its_latents_when_another_start_is_refused(world, tmp_path, changes, message):
    dit.build_run(settings(world), tmp_path / "run").train()
    before = kept_files(tmp_path / "run")
    (tmp_path / "fewer").mkdir()
    for number in range(9):
        shutil.copy(world / "pictures" / f"p{number:02d}.png", tmp_path / "fewer")
    rows = (world / "pictures" / "metadata.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "fewer" / "metadata.jsonl").write_text("".join(rows[:9]))
    if "paths" in changes.get("data", {}):
        changes = {"data": {"paths": [str(tmp_path / "fewer")]}}
    with pytest.raises(TrainingError, match=message):
        dit.build_run(settings(world, **changes), tmp_path / "run")
    assert kept_files(tmp_path / "run") == before
    assert not (tmp_path / "run" / "latents-flipped.npy").exists()


def test_a_run_keeps_its_latents_when_their_shards_were_encoded_by_another(world, tmp_path):
    shutil.copytree(world / "tokenizer", tmp_path / "tokenizer")
    given = {"paths": [str(tmp_path / "latents")], "tokenizer": str(tmp_path / "tokenizer")}
    config = settings(world, latents=given, data={"paths": []})

    def encode():
        textok.data.encode(tmp_path / "tokenizer", world / "pictures", tmp_path / "latents", embeddings=world / "store")

    encode()
    dit.build_run(config, tmp_path / "run").train()
    before = kept_files(tmp_path / "run")
    shutil.rmtree(tmp_path / "latents")
    shutil.copy(world / "other" / "model.safetensors", tmp_path / "tokenizer" / "model.safetensors")
    encode()
    with pytest.raises(TrainingError, match=r"holds a run on other latents \(encoders: "):
        dit.build_run(config, tmp_path / "run")
    assert kept_files(tmp_path / "run") == before


@pytest.mark.parametrize("changed", ["picture", "caption", "embeddings"])
def test_latents_are_encoded_again_for_other_pictures_and_captions(world, tmp_path, changed):
    """Under the same names."""
    shutil.copytree(world / "pictures", tmp_path / "pictures")
    config = settings(world, data={"paths": [str(tmp_path / "pictures")]})
    first = dit.build_run(config, tmp_path / "run").task.latents.arrays[0].copy()
    table = tmp_path / "pictures" / "metadata.jsonl"
    if changed == "picture":
        shutil.copy(tmp_path / "pictures" / "p00.png", tmp_path / "pictures" / "p01.png")
    elif changed == "caption":  # that of the first and the second picture change places
        words = table.read_text().replace("caption 0", "caption X").replace("caption 1\"", "caption 0\"")
        table.write_text(words.replace("caption X", "caption 1"))
    else:
        text = np.random.default_rng(5).standard_normal((COUNT, 5, 6)).astype(np.float32)
        np.savez(tmp_path / "mine.npz", text=text, captions=[f"caption {number}" for number in range(COUNT)])
        config.data.cache = str(tmp_path / "mine.npz")
    second = dit.build_run(config, tmp_path / "run").task.latents.arrays[0]
    same = [bool((a == b).all()) for a, b in zip(first, second, strict=True)]
    assert not same[1] and same.count(False) == {"picture": 1, "caption": 2, "embeddings": COUNT}[changed]


def test_encoding_goes_on_where_it_was_killed(world, tmp_path, monkeypatch):
    monkeypatch.setattr(dit, "CHUNK", 6)
    whole = dit.build_run(settings(world, data={"flip": True}), tmp_path / "whole").task.latents.arrays
    seen, plain = [], textok.TexTok.encode

    def encode(self, images, *args, **kwargs):
        seen.append(len(images))
        if len(seen) == 6:
            raise KeyboardInterrupt
        return plain(self, images, *args, **kwargs)

    monkeypatch.setattr(textok.TexTok, "encode", encode)
    with pytest.raises(KeyboardInterrupt):
        dit.build_run(settings(world, data={"flip": True}), tmp_path / "killed")
    assert seen == [6] * 6  # two chunks are there, the third had its plain half
    again = dit.build_run(settings(world, data={"flip": True}), tmp_path / "killed").task.latents.arrays
    assert seen[6:] == [6, 6, 2, 2]
    assert all((a == b).all() for a, b in zip(whole, again, strict=True))


def test_disk_is_taken_before_pages_are_mapped(tmp_path, monkeypatch):
    dit.allocate(tmp_path / "a.npy", (1000, 8, 8))
    status = (tmp_path / "a.npy").stat()
    assert status.st_blocks * 512 >= status.st_size > 256_000  # not sparse

    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="b.npy") as caught:
        dit.allocate(tmp_path / "b.npy", (10, 8, 8))
    assert caught.value.errno == errno.ENOSPC and not (tmp_path / "b.npy").exists()


def test_other_processes_wait_for_the_latents(world, tmp_path):
    """By looking, not in a barrier, which would time out."""
    pictures = dit.build_run(settings(world), tmp_path / "first").task.pictures
    model, stamp = dit.load_tokenizer(str(world / "tokenizer"))
    other, found = Devices(), []
    other.rank = 1
    wait = threading.Thread(
        target=lambda: found.append(dit.Latents(tmp_path / "shared", settings(world), model, stamp, pictures, other))
    )
    wait.start()
    time.sleep(0.2)
    assert wait.is_alive() and not (tmp_path / "shared").exists()
    mine = dit.Latents(tmp_path / "shared", settings(world), model, stamp, pictures, Devices())
    wait.join(30)
    assert (found[0].arrays[0] == mine.arrays[0]).all() and found[0].mean.tolist() == mine.mean.tolist()


def test_latents_that_the_command_encoded(world, tmp_path):
    flip = {"flip": True}
    for name, mirrored in (("latents", True), ("plain", False)):
        textok.data.encode(
            world / "tokenizer", world / "pictures", tmp_path / name, embeddings=world / "store", flip=mirrored, shard_size=8
        )

    def build(folder, tokenizer="tokenizer", **how):
        given = {"paths": [str(tmp_path / folder)], "tokenizer": str(world / tokenizer)}
        return dit.build_run(settings(world, latents=given, data={"paths": [], **how}), tmp_path / "run")

    own = dit.build_run(settings(world, data=flip), tmp_path / "own").task
    run = build("latents", **flip)
    assert all((a == b).all() for a, b in zip(own.latents.arrays, run.task.latents.arrays, strict=True))
    assert run.task.latents.mean.tolist() == own.latents.mean.tolist()
    assert (run.task.pictures.labels == own.pictures.labels).all()
    assert run.task.pictures.train.tolist() == own.pictures.train.tolist()
    run.train()
    assert (tmp_path / "run" / "pictures").is_dir() and "error_concept" in (tmp_path / "run" / "log.csv").read_text()
    with pytest.raises(ValueError, match="no latents of the mirrored picture: textok encode --flip"):
        shutil.rmtree(tmp_path / "run")
        build("plain", **flip)
    with pytest.raises(ValueError, match="encoded by tokenizer, another model than latents.tokenizer .*other"):
        build("latents", "other")
    (tmp_path / "plain" / "index.json").unlink()
    with pytest.raises(ValueError, match="plain: expected a finished run of textok encode"):
        build("plain")


@pytest.mark.parametrize("name", list(CONDITIONS))
def test_what_is_trained_is_what_the_engine_runs(world, tmp_path, name):
    run = dit.build_run(settings(world, model=CONDITIONS[name]), tmp_path)
    run.train()
    config = json.loads((tmp_path / "config.json").read_text())
    weights = {k: v.numpy() for k, v in run.task.trainees["model"].averaged().items()}
    engine = textok.DiT({k: v for k, v in config.items() if k != "model_type"}, weights)
    plain = DiT(config).eval()
    plain.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 3, generator=rng)
    t = torch.tensor([0.01, 0.7] if config["prediction"] == "velocity" else [10, 700])
    rows = np.array([1, 4])
    condition = run.task.condition(rows, torch.zeros(2, dtype=torch.bool))
    with torch.no_grad():
        wanted = plain(x, t, **condition).numpy()
    condition.pop("null", None)
    got = engine.denoise(x.numpy(), t.numpy(), **{k: v.numpy() for k, v in condition.items()})
    assert got.shape == (2, 4, 6 if config["learn_sigma"] else 3)
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()
    log = (tmp_path / "log.csv").read_text()
    assert "error_concept" in log and "bound_concept" in log and len(list((tmp_path / "pictures").iterdir())) == 1


def test_sample_pictures_are_evenly_spread(world, tmp_path, monkeypatch):
    run, drawn = dit.build_run(settings(world, run={"sample_images": 3}), tmp_path), []
    picture = np.zeros((8, 8, 3), np.uint8)
    monkeypatch.setattr(run.task, "sample", lambda weights, rows: drawn.append(rows.tolist()) or [picture])
    run.task.evaluate(0)
    assert drawn == [[4, 14, 19]]  # of 4, 9, 14 and 19


def test_sample_pictures_may_be_none(world, tmp_path):
    dit.build_run(settings(world, 1, run={"sample_images": 0}), tmp_path).train()
    assert "error_concept" in (tmp_path / "log.csv").read_text() and not (tmp_path / "pictures").exists()


def test_a_run_goes_on_without_the_generator_that_it_began_with(world, tmp_path):
    dit.build_run(settings(world, 1), tmp_path / "first").train()
    init = {"run": {"init": str(tmp_path / "first"), "eval_every": 0}}
    dit.build_run(settings(world, 2, **init), tmp_path / "run").train()
    shutil.rmtree(tmp_path / "first")
    assert dit.build_run(settings(world, 2, **init), tmp_path / "run").step == 2
    with pytest.raises(TrainingError, match=r"a run with another \[run.init\]: '.*first' there, 'emoji-t2i' here"):
        dit.build_run(settings(world, 2, run={"init": "emoji-t2i"}), tmp_path / "run")


@pytest.mark.parametrize("name", ["class", "text"])
def test_a_run_goes_on_as_if_never_killed(world, tmp_path, name):
    whole = dit.build_run(settings(world, model=CONDITIONS[name]), tmp_path / "whole")
    whole.train()
    killed = dit.build_run(settings(world, model=CONDITIONS[name]), tmp_path / "killed")
    for _ in range(3):
        killed.advance()
    killed.save()
    killed.advance()  # lost
    again = dit.build_run(settings(world, model=CONDITIONS[name]), tmp_path / "killed")
    assert again.step == 3
    again.train()
    for kind in ("model", "ema"):
        a, b = (run.task.trainees["model"].state_dict()[kind] for run in (whole, again))
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_other_pictures_by_the_same_names_are_refused(world, tmp_path):
    """Touched ones are encoded anew, to the same latents; others would change what the weights mean."""
    shutil.copytree(world / "pictures", tmp_path / "pictures")
    (tmp_path / "store").symlink_to(world / "store")
    (tmp_path / "tokenizer").symlink_to(world / "tokenizer")
    dit.build_run(settings(tmp_path, 2), tmp_path / "run").train()
    for path in (tmp_path / "pictures").glob("*.png"):
        os.utime(path, (1, 1))
    assert dit.build_run(settings(tmp_path, 4), tmp_path / "run").step == 2
    for path in (tmp_path / "pictures").glob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path)) // 3).save(path)
    with pytest.raises(TrainingError, match=r"holds a run on other latents \(latent_(mean|std): .* bring the pictures of then"):
        dit.build_run(settings(tmp_path, 4), tmp_path / "run")


def test_previews_that_cannot_be_sampled_are_told_at_once(world, tmp_path):
    with pytest.raises(ConfigError, match="diffusion.sample_steps, .*: steps: expected 1 to 999, got 1000"):
        dit.build_run(settings(world, diffusion={"sample_steps": 1000}), tmp_path / "run")
    dit.build_run(settings(world, diffusion={"sample_steps": 1000}, run={"sample_images": 0}), tmp_path / "none")


def test_one_timestep_is_too_few_to_train_with(world, tmp_path):
    with pytest.raises(ConfigError, match="model.num_train_timesteps: expected at least 2 to train with, got 1"):
        dit.build_run(settings(world, model={"num_train_timesteps": 1}), tmp_path / "run")


def test_overrides_of_the_model_must_be_those_of_the_one_it_begins_with(world, tmp_path):
    dit.build_run(settings(world, 2), tmp_path / "first").train()
    given = settings(world, 2, run={"init": str(tmp_path / "first")})
    for override, message in (
        ("model.depth=9", "model.depth: expected 2, as run.init = '.*first' has it, got 9"),
        ("model.dpeth=2", r"unknown key model.dpeth \(did you mean 'depth'\?\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            dit.build_run(copy.deepcopy(given), tmp_path / "second", overrides=[override])
    dit.build_run(given, tmp_path / "second", overrides=["model.depth=2", "run.steps=2"])


@pytest.mark.parametrize("name", ["class", "text", "v"])
def test_training_lowers_the_loss(world, tmp_path, name):
    run = dit.build_run(settings(world, 60, model=CONDITIONS[name], run={"eval_every": 1000, "save_seconds": 1e9}), tmp_path)
    rows = run.task.pictures.train

    def loss():
        with torch.no_grad():
            parts = [
                run.task.losses(run.task.model, rows, run.task.latents.batch(rows), 0.0, torch.Generator().manual_seed(seed))
                for seed in range(20)
            ]
        return float(np.mean([error for error, _ in parts]))

    before = loss()
    for _ in range(60):
        run.advance()
    assert loss() < 0.95 * before


def test_the_condition_is_dropped_as_often_as_asked(world, tmp_path):
    run = dit.build_run(settings(world), tmp_path / "class")
    rows = run.task.pictures.train
    labels = run.task.condition(rows, torch.arange(len(rows)) % 2 == 0)["labels"]
    assert (labels[::2] == 3).all() and (labels[1::2] == run.task.pictures.labels[rows][1::2]).all()
    seen = []
    network = lambda x, t, labels: seen.append(labels) or torch.zeros(*x.shape[:2], 6)
    for seed in range(100):
        run.task.losses(network, rows, run.task.latents.batch(rows), 0.25, torch.Generator().manual_seed(seed))
    assert 0.21 < (torch.cat(seen) == 3).float().mean() < 0.29  # 1,600 draws of 0.25: within four deviations


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": {"add_text": True}}, "run.add_text: expected false for a generator, got true"),
        ({"latents": {"tokenizer": ""}}, "latents.tokenizer: expected a model's folder"),
        ({"model": {"num_tokens": 8}}, "model.num_tokens: expected 4, as the tokenizer and the data have it, got 8"),
        ({"model": {"num_classes": 2}}, "model.num_classes: expected at least 3, the labels of the data, got 2"),
        ({"model": {"condition": "text", "text_dim": 7}}, "model.text_dim: expected 6, .* got 7"),
    ],
)
def test_what_does_not_fit_is_told(world, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        dit.build_run(settings(world, **changes), tmp_path, Devices())
