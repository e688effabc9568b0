"""experiments/emoji: its data are what they were, the splits follow their rule, and the evaluation's arithmetic."""

import io
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

EMOJI = Path(__file__).parents[2] / "experiments" / "emoji"
sys.path.insert(0, str(EMOJI))

import make_data

SHARDS = ("fluent", "google", "twitter")


@pytest.fixture(scope="module")
def samples():
    return {name: list(make_data.samples(EMOJI / "data" / f"{name}.tar.gz")) for name in SHARDS}


def test_smaller_shards_hold_the_same_pixels_and_fields():
    kept = json.loads((EMOJI / "data" / "digests.json").read_text())
    assert {name: make_data.digest(EMOJI / "data" / f"{name}.tar.gz") for name in SHARDS} == kept


def test_data_are_what_the_card_says(samples):
    records = [{"key": key} | fields for name in SHARDS for key, _, fields in samples[name]]
    assert {name: len(samples[name]) for name in SHARDS} == {"google": 1911, "twitter": 1911, "fluent": 1852}
    assert all(pixels.shape == (64, 64, 3) for name in SHARDS for _, pixels, _ in samples[name])
    assert Counter(record["split"] for record in records) == {"train": 5148, "test": 526}
    labels = json.loads((EMOJI / "data" / "labels.json").read_text())
    assert {record["label"] for record in records} == set(range(len(labels)))
    assert sum(file.stat().st_size for file in (EMOJI / "data").iterdir()) < 20e6


def test_the_pair_split_follows_its_rule_and_leaves_every_emoji_a_style(samples):
    records = [{"key": key} | fields for name in SHARDS for key, _, fields in samples[name]]
    keys = make_data.SPLIT_FILE.read_text().split()
    assert keys == make_data.pair_test_keys(records) and len(set(keys)) == len(keys) == 508
    concepts = {record["codepoints"] for record in records if record["split"] == "train" and record["key"] not in set(keys)}
    tests = {record["codepoints"] for record in records if record["split"] == "test"}
    assert {record["codepoints"] for record in records if record["key"] in set(keys)} <= concepts and not concepts & tests


def write_shard(path, count=5):
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(buffer, "png")
            fields = {"caption": f"caption {number} \u00e9\u4e16", "keywords": ["a", "b"], "label": number}
            for kind, content in (("png", buffer.getvalue()), ("json", json.dumps(fields).encode())):
                member = tarfile.TarInfo(f"k{number}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def test_repacking_keeps_everything_and_a_changed_pixel_shows(tmp_path):
    write_shard(tmp_path / "a.tar")
    make_data.repack(tmp_path / "a.tar", tmp_path / "a.tar.gz")
    make_data.repack(tmp_path / "a.tar", tmp_path / "b.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    assert make_data.digest(tmp_path / "a.tar") == make_data.digest(tmp_path / "a.tar.gz")
    write_shard(tmp_path / "c.tar", 4)
    assert make_data.digest(tmp_path / "c.tar") != make_data.digest(tmp_path / "a.tar")


@pytest.mark.parametrize("name", SHARDS)
def test_the_ordinary_reader_reads_the_shards(name, samples):
    webdataset = pytest.importorskip("webdataset")
    found = list(webdataset.WebDataset(str(EMOJI / "data" / f"{name}.tar.gz"), shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in found] == [key for key, _, _ in samples[name]]
    for sample, (_, pixels, fields) in zip(found[::97], samples[name][::97], strict=True):
        assert (sample["webp"] == pixels).all() and sample["json"] == fields


def test_training_reads_them_and_their_splits(samples):
    pytest.importorskip("torch")
    from textok.train import data

    pairs = data.load_pairs(EMOJI / "data", make_data.SPLIT_FILE, caption="caption_long")
    assert {split: len(pairs.rows(split)) for split in ("train", "test", "pair")} == {"train": 4640, "test": 526, "pair": 508}
    assert (pairs.images[:1852] == np.stack([pixels for _, pixels, _ in samples["fluent"]])).all() and not pairs.skips


# --- The evaluation -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def claim():
    pytest.importorskip("torch")
    import claim

    return claim


@pytest.fixture
def few_draws(claim, monkeypatch):
    """For tests of the whole, in which no interval is looked at."""
    monkeypatch.setattr(claim, "DRAWS", 100)
    monkeypatch.setattr(claim, "HALVES", 5)


def test_paired_kid_is_the_definition_and_zero_for_equal_sets(claim):
    from textok.metrics import kernel_distance

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 4)), rng.standard_normal((7, 4)) + 0.5

    def k(a, b):
        return (a @ b / 4 + 1) ** 3

    total = sum(k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i in range(7) for j in range(7) if i != j)
    h = claim.paired_kernels(x, y)
    assert claim.paired_kid(h) == pytest.approx(total / 42, rel=1e-12)
    some = np.array([5, 2, 0])
    assert claim.paired_kid(h, some) == pytest.approx(claim.paired_kid(claim.paired_kernels(x[some], y[some])), rel=1e-12)
    assert (
        abs(claim.paired_kid(claim.paired_kernels(x, x))) < 1e-12 and kernel_distance(x, x) < -0.1
    )  # the plain estimate is off for pairs


def test_paired_kid_is_unbiased_where_pairs_go_together(claim):
    rng = np.random.default_rng(0)
    told = []
    for _ in range(400):  # y is x in distribution and nearly x itself
        x = rng.standard_normal((12, 3))
        told.append(claim.paired_kid(claim.paired_kernels(x, np.sqrt(0.9) * x + np.sqrt(0.1) * rng.standard_normal((12, 3)))))
    assert abs(np.mean(told)) < 4 * np.std(told) / np.sqrt(len(told))


def test_bootstrap_interval_holds_the_mean_and_narrows(claim):
    rng = np.random.default_rng(0)
    differences = 0.3 + rng.standard_normal(400)
    mean, low, high = claim.bootstrap(differences)
    assert mean == pytest.approx(differences.mean()) and low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * differences.std() / 20, rel=0.1)
    assert claim.bootstrap(differences) == (mean, low, high)


def test_tokens_that_equal_are_interpolated_over_their_logarithm(claim):
    def row(kind, tokens, psnr):
        told = {"kind": kind, "tokens": tokens, "seed": 0, "steps": 10, "test_set": "pair", "psnr": psnr}
        return told | {"model": f"{kind}{tokens}"}

    curve = [row("Baseline", 4, 10.0), row("Baseline", 16, 14.0)]
    ours = [row("TexTok", 4, 12.0), row("TexTok", 16, 15.0), row("TexTok", 2, 9.0)]
    wanted = {"TexTok4": "8.0", "TexTok16": "> 16", "TexTok2": "< 4"}
    assert claim.equal_tokens(curve + ours, "pair", "psnr") == wanted
    registers = [{**row, "variant": "64 registers", "psnr": row["psnr"] + 5} for row in curve]
    assert claim.equal_tokens(curve + registers + ours, "pair", "psnr") == wanted
    assert claim.equal_tokens(curve[:1] + ours[:1], "pair", "psnr") == {"TexTok4": None}
    falling = [{**r, "psnr": -r["psnr"]} for r in curve + ours]
    assert claim.equal_tokens(falling, "pair", "psnr") == wanted
    longer = [{**row("Baseline", 16, 99.0), "steps": 20}]  # of other steps: no part of the curve
    assert claim.equal_tokens(curve + longer + ours, "pair", "psnr") == wanted
    ablation = [{**row("TexTok", 4, 13.0), "model": "ablation"}]  # of the same tokens and seed: does not take another's place
    assert claim.equal_tokens(curve + ours + ablation, "pair", "psnr") == wanted | {"ablation": "11.3"}


def test_partners_have_the_same_tokens_and_seed(claim):
    from evaluation import Candidate

    def one(name, kind, tokens, steps=10, hours=1.0, seed=0):
        return Candidate(name, kind, tokens, 8 * tokens, seed, steps, 10, cpu_hours=hours)

    everyone = [
        one("t", "TexTok", 4, hours=2),
        one("b", "Baseline", 4),
        one("b16", "Baseline", 16),
        one("long", "Baseline", 4, 20, 2.0),
        one("b-seed1", "Baseline", 4, seed=1),
    ]
    assert claim.partner(everyone[0], everyone).name == "b" and claim.equal_time_partner(everyone[0], everyone).name == "long"
    assert claim.partner(one("later", "TexTok", 4, 15), everyone) is None
    assert claim.equal_time_partner(one("slow", "TexTok", 4, hours=3), everyone) is None
    assert claim.partner(one("t8", "TexTok", 8), everyone) is None
    elsewhere = [one("baseline-elsewhere", "Baseline", 4), *everyone]
    assert claim.partner(everyone[0], elsewhere).name == "baseline-elsewhere"
    assert claim.partner(one("textok-elsewhere", "TexTok", 4), everyone + elsewhere).name == "baseline-elsewhere"


def test_logs_are_compared_at_the_steps_that_both_have(claim):
    from evaluation import Candidate

    def one(kind, psnrs, l2):
        log = [
            {"step": str(step), "psnr_concept": str(value), "psnr_pair": str(value + 1), "l2": str(l2)}
            for step, value in psnrs.items()
        ]
        return Candidate(kind, kind, 4, 32, planned=300, log=[{"step": "50", "psnr_concept": "", "l2": str(l2)}, *log])

    ours, theirs = one("TexTok", {100: 12.5, 200: 14.0, 300: 15.0}, 0.04), one("Baseline", {60: 9.0, 100: 12.0, 220: 14.5}, 0.4)
    assert claim.log_rows([ours, theirs]) == [
        ["TexTok", 4, 0, 100, "20.00", "10.00", "+10.00", "12.50", "12.00", "+0.50", "13.50", "13.00", "+0.50"],
        ["TexTok", 4, 0, 220, "~20.00", "10.00", "+10.00", "~14.20", "14.50", "-0.30", "~15.20", "15.50", "-0.30"],
    ]


def test_pca_gives_back_what_it_can_hold(claim):
    from evaluation import fit_pca

    rng = np.random.default_rng(0)
    basis = rng.standard_normal((3, 8 * 8 * 3))
    images = np.clip(128 + 20 * rng.standard_normal((60, 3)) @ basis, 0, 255).astype(np.uint8).reshape(60, 8, 8, 3)
    flat = images.reshape(60, -1).astype(np.float64) / 127.5 - 1
    mean, directions = fit_pca(images, 2)
    _, values, rows = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    assert np.allclose(mean, flat.mean(axis=0), atol=1e-5)
    assert np.allclose(directions @ directions.T, rows[:2].T @ rows[:2], atol=1e-3) and values[2] > 1


def test_the_claim_runs_on_small_models_and_again_from_what_it_kept(claim, few_draws, tmp_path, capsys):
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("matplotlib")
    pytest.importorskip("skimage")
    import textok
    from textok.text.embedding_store import EmbeddingStore

    rng = np.random.default_rng(0)
    store = EmbeddingStore.create(tmp_path / "store", {"name": "by hand"}, 6)
    (tmp_path / "data").mkdir()
    rows = []
    for number in range(48):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "data" / f"k{number:02d}.png")
        rows.append(
            {
                "file_name": f"k{number:02d}.png",
                "caption_long": f"caption {number}",
                "split": "test" if number % 6 == 0 else "train",
                "name": f"thing {number}",
                "style": "noise",
            }
        )
        store.add([f"caption {number}"], rng.standard_normal((1, 3, 6)).astype(np.float32))
    (tmp_path / "data" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pairs.txt").write_text("".join(f"k{number:02d}\n" for number in range(1, 48, 6)))
    side = {"hidden_size": 16, "depth": 1, "num_heads": 2}
    for name, condition in (("ours", "both"), ("theirs", "none")):
        config = {
            "image_size": 16,
            "num_latent_tokens": 2,
            "latent_dim": 2,
            "text_dim": 6,
            "num_text_tokens": 4,
            "text_mask": True,
            "text_condition": condition,
            "tokenizer": side,
            "detokenizer": side,
        }
        textok.TexTok.from_config(config, seed=1).save_pretrained(tmp_path / name)
    arguments = [
        str(tmp_path / "ours"),
        str(tmp_path / "theirs"),
        "--data",
        tmp_path / "data",
        "--pair-test",
        tmp_path / "pairs.txt",
        "--cache",
        tmp_path / "store",
        "--work",
        tmp_path / "work",
        "--out",
        tmp_path / "out",
        "--no-other-network",
    ]
    tables = []
    for _ in range(2):
        claim.main(list(map(str, arguments)))
        tables.append((tmp_path / "out" / "claim.csv").read_text() + (tmp_path / "out" / "gains.csv").read_text())
    assert tables[0] == tables[1]
    text = (tmp_path / "out" / "claim.md").read_text()
    assert "| 2 | TexTok |" in text and "Ablations" not in text and "| 2 | PCA |" in text and "Not finished" not in text
    for name in ("quality.webp", "pictures-concept.webp", "pictures-pair.webp"):
        assert Image.open(tmp_path / "out" / name).width > 100
    import csv

    with (tmp_path / "out" / "claim.csv").open() as file:
        told = {(row["model"], row["test_set"]): row for row in csv.DictReader(file)}
    model = textok.TexTok.from_pretrained(tmp_path / "theirs")
    images = np.stack([np.array(Image.open(tmp_path / "data" / f"k{number:02d}.png")) for number in range(1, 48, 6)])
    assert float(told["theirs", "pair"]["psnr"]) == pytest.approx(
        textok.metrics.psnr(model.reconstruct(images), images).mean(), abs=1e-4
    )


def write_run(folder, config, caption, steps, hours, seed=1):
    """The folder of a training, as `textok train` leaves it, of a model with random weights; returns the model."""
    import torch
    from safetensors.numpy import load_file

    import textok

    model = textok.TexTok.from_config(config, seed=seed)
    model.save_pretrained(folder)
    weights = {name: torch.from_numpy(array) for name, array in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    part = {"model": weights, "ema": weights}
    torch.save({"parts": {"model": part}, "step": steps, "cpu_seconds": 3600 * hours}, folder / "state.pt")
    told = {"data": {"folder": "somewhere", "caption": caption}, "run": {"steps": steps, "batch_size": 8, "seed": 0}}
    (folder / "training.json").write_text(json.dumps(told))
    (folder / "log.csv").write_text(f"step,cpu_seconds,l2\n{steps},{round(3600 * hours)},0.1\n")
    return model


def test_ablations_and_runs_of_equal_time_stand_beside_the_others(claim, few_draws, tmp_path):
    """Each model reads what it was trained on; nothing of one takes another's place."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("matplotlib")
    pytest.importorskip("skimage")
    import csv

    from textok import metrics
    from textok.text.embedding_store import EmbeddingStore

    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    store, rows = EmbeddingStore.create(tmp_path / "store", {"name": "by hand"}, 6), []
    for number in range(30):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "data" / f"k{number:02d}.png")
        told = {"file_name": f"k{number:02d}.png", "split": "test" if number % 5 == 0 else "train", "label": number % 3}
        rows.append(told | {kind: f"{kind} {number}" for kind in ("caption_long", "caption", "name", "style")})
        for kind in ("caption_long", "caption"):
            store.add([f"{kind} {number}"], rng.standard_normal((1, 3, 6)).astype(np.float32))
    (tmp_path / "data" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pairs.txt").write_text("".join(f"k{number:02d}\n" for number in range(1, 30, 5)))
    side = {"hidden_size": 16, "depth": 1, "num_heads": 2}
    config = {"image_size": 16, "num_latent_tokens": 2, "latent_dim": 2, "text_dim": 6, "num_text_tokens": 4, "text_mask": True,
              "tokenizer": side, "detokenizer": side}  # fmt: skip
    runs = {
        "full": ({}, "caption_long", 10, 2.0),
        "theirs": ({"text_condition": "none"}, "caption_long", 10, 1.0),
        "long": ({"text_condition": "none"}, "caption_long", 20, 2.0),
        "short": ({}, "caption", 10, 2.0),
        "classes": ({"text_source": "class", "num_classes": 3, "num_text_tokens": 1}, "caption_long", 10, 2.0),
        "crossed": ({"text_injection": "cross_attention"}, "caption_long", 10, 2.0),
        "half": ({"text_condition": "detokenizer", "text_mask": False}, "caption_long", 10, 2.0),
        "wide": ({"text_condition": "none", "num_registers": 3}, "caption_long", 10, 1.0),
    }
    models = {
        name: write_run(tmp_path / name, config | more, caption, steps, hours)
        for name, (more, caption, steps, hours) in runs.items()
    }
    options = {"data": "data", "pair-test": "pairs.txt", "cache": "store", "work": "work", "out": "out"}
    places = [word for name, place in options.items() for word in (f"--{name}", str(tmp_path / place))]
    claim.main([*(str(tmp_path / name) for name in runs), *places, "--no-other-network", "--threads", "1"])
    with (tmp_path / "out" / "claim.csv").open() as file:
        told = {(row["model"], row["test_set"]): row for row in csv.DictReader(file)}
    assert {name: told[name, "pair"]["variant"] for name in runs} == {
        "full": "", "theirs": "", "long": "", "short": "caption", "classes": "class label", "crossed": "cross-attention",
        "half": "text in the detokenizer only", "wide": "3 registers",
    }  # fmt: skip
    tests = list(range(1, 30, 5))
    images = np.stack([np.array(Image.open(tmp_path / "data" / f"k{number:02d}.png")) for number in tests])
    conditions = {name: store.embeddings([f"caption_long {number}" for number in tests]) for name in ("full", "crossed")}
    conditions["short"] = store.embeddings([f"caption {number}" for number in tests])
    text, lengths = conditions["full"]
    conditions["half"] = (np.pad(text, ((0, 0), (0, 1), (0, 0))), lengths)  # padding is part of what an unmasked model reads
    for name, model in models.items():
        if name == "classes":
            pictures = model.reconstruct(images, labels=[number % 3 for number in tests])
        else:
            pictures = model.reconstruct(images, *conditions.get(name, ()))
        wanted = metrics.psnr(pictures, images).mean()
        assert float(told[name, "pair"]["psnr"]) == pytest.approx(wanted, abs=1e-4), name
    with (tmp_path / "out" / "gains.csv").open() as file:
        beside = {(row["at"], row["textok"], row["baseline"]) for row in csv.DictReader(file)}
    ours, ablations = ("full", "short", "classes", "crossed", "half"), ("short", "classes", "crossed", "half")
    assert beside == {
        *(("equal steps", name, "theirs") for name in ours),
        *(("equal CPU time", name, "long") for name in ours),
        *(("ablation", name, "full") for name in (*ablations, "wide")),
    }
    text = (tmp_path / "out" / "claim.md").read_text()
    assert "## Ablations beside the full TexTok" in text and "| 2 | TexTok, class label |" in text
    shown = claim.usual([claim.candidate(tmp_path / name) for name in runs])
    assert [one.name for one in shown] == ["full", "theirs"]

    # Runs that are no more, beside one that is made anew and one that is new.
    write_run(tmp_path / "more", config, "caption_long", 30, 3.0)
    again = [str(tmp_path / "more"), str(tmp_path / "theirs"), *places, "--no-other-network", "--threads", "1"]
    claim.main([*again, "--out", str(tmp_path / "both"), "--earlier", str(tmp_path / "out")])
    held, found = (claim.read_csv(tmp_path / folder / "claim.csv") for folder in ("out", "both"))
    names = [row["model"] for row in found if row["test_set"] == "pair"]
    assert sorted(names) == sorted([*runs, "more", "pca4"])
    assert [row for row in found if row["model"] == "full"] == [row for row in held if row["model"] == "full"]
    with (tmp_path / "both" / "gains.csv").open() as file:
        now = {(row["at"], row["textok"], row["baseline"]) for row in csv.DictReader(file)}
    assert now == {pair for pair in beside if pair[2] != "theirs"}
    told = (tmp_path / "both" / "claim.md").read_text()
    assert "| 2 | TexTok, class label |" in told and "| 2 | TexTok | 0 | 30 | 3.00 |" in told


def test_what_captions_add_is_found_where_it_is_and_only_there(claim):
    import text_value

    assert text_value.placed_words("An Emoji of tea: hot. Top left sky blue; centre empty.") == [
        *(("", word) for word in ("an", "emoji", "of", "tea", "hot")),
        ("top left", "sky"), ("top left", "blue"), ("centre", "empty"),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    rows, groups = np.arange(300), np.repeat(np.arange(150), 2)
    told = rng.integers(0, 2, (400, 3)).astype(np.float32)
    codes = object.__new__(text_value.Codes)
    codes.components = np.concatenate([rng.standard_normal((400, 4)) * 3, told - 0.5], axis=1).astype(np.float32)
    codes.outside, codes.size = np.full(400, 0.1, np.float32), 12
    whole = codes.gains(4, told, rows, text_value.STRENGTHS[0])
    most = codes.psnr(np.zeros(400)) - codes.psnr((codes.components[:, 4:] ** 2).sum(axis=1))
    assert whole[300:].mean() == pytest.approx(most[300:].mean(), rel=0.02)
    noise = rng.standard_normal((400, 200)).astype(np.float32)
    assert codes.gains(4, noise, rows, text_value.STRENGTHS[0])[300:].mean() < -0.5  # learnt by heart
    assert text_value.chosen_strength(codes, 4, noise, rows, groups) > 1
    assert text_value.chosen_strength(codes, 4, told, rows, groups) == text_value.STRENGTHS[0]


# --- Generation ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generation():
    pytest.importorskip("torch")
    import generation

    return generation


def test_a_class_is_followed_where_its_mean_is_nearest(generation):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 2, 3], 20)  # class 1 has no pictures
    features = np.eye(4)[labels] * 10 + rng.standard_normal((60, 4))
    means = generation.centroids(features, labels, 4)
    assert np.allclose(means[2], features[20:40].mean(axis=0))
    assert generation.followed(features, labels, means) == 1.0
    wrong = labels.copy()
    wrong[:15] = 1
    assert generation.followed(features, wrong, means) == 0.75


def test_generation_runs_on_small_models(generation, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    import types

    import textok
    from textok.text.embedding_store import EmbeddingStore
    from textok.train import config as configs
    from textok.train import dit

    rng = np.random.default_rng(0)
    store = EmbeddingStore.create(tmp_path / "store", {"name": "by hand"}, 6)
    (tmp_path / "data").mkdir()
    rows = []
    for number in range(24):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "data" / f"k{number:02d}.png")
        rows.append(
            {
                "file_name": f"k{number:02d}.png",
                "caption_long": f"caption {number}",
                "split": "test" if number % 4 == 0 else "train",
                "name": f"thing {number}",
                "style": "noise",
                "label": number % 3,
            }
        )
    store.add([row["caption_long"] for row in rows], rng.standard_normal((24, 3, 6)).astype(np.float32))
    (tmp_path / "data" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pairs.txt").write_text("".join(f"k{number:02d}\n" for number in range(1, 24, 4)))
    side = {"hidden_size": 16, "depth": 1, "num_heads": 2}
    config = {
        "image_size": 16,
        "num_latent_tokens": 2,
        "latent_dim": 2,
        "text_dim": 6,
        "num_text_tokens": 4,
        "text_mask": True,
        "tokenizer": side,
        "detokenizer": side,
    }
    textok.TexTok.from_config(config, seed=1).save_pretrained(tmp_path / "tokenizer")
    data_section = {
        "paths": [str(tmp_path / "data")],
        "cache": str(tmp_path / "store"),
        "held_out": str(tmp_path / "pairs.txt"),
    }
    for condition in ("class", "text"):
        values = {
            "model": {"hidden_size": 16, "depth": 1, "num_heads": 2, "time_freq_dim": 8, "condition": condition},
            "data": data_section,
            "latents": {"tokenizer": str(tmp_path / "tokenizer")},
            "run": {
                "steps": 2,
                "batch_size": 4,
                "threads": 1,
                "compile": False,
                "eval_every": 5,
                "tensorboard": False,
                "sample_images": 0,
            },
        }
        sections = {
            n: values.get(n, {}) if k is dict else configs.make(n, k, values.get(n, {})) for n, k in dit.SECTIONS.items()
        }
        run = dit.build_run(types.SimpleNamespace(**sections), tmp_path / condition)
        run.advance()
        run.save()
    arguments = [
        tmp_path / "class",
        tmp_path / "text",
        "--data",
        tmp_path / "data",
        "--pair-test",
        tmp_path / "pairs.txt",
        "--cache",
        tmp_path / "store",
        "--work",
        tmp_path / "work",
        "--out",
        tmp_path / "out",
        "--guidance",
        2,
        "--steps",
        2,
    ]
    generation.main(list(map(str, arguments)))
    text = (tmp_path / "out" / "generation.md").read_text()
    assert "**Not finished: class (1 of 2 steps), text (1 of 2 steps).**" in text and "| TexTok | 2 | text |" in text
    before = (tmp_path / "out" / "generation.csv").read_text().splitlines()
    again = [
        *arguments[:1],
        *arguments[2:],
        "--out",
        tmp_path / "both",
        "--earlier",
        tmp_path / "out",
    ]  # the run "text" is no more
    generation.main(list(map(str, again)))
    assert sorted((tmp_path / "both" / "generation.csv").read_text().splitlines()[1:]) == sorted(before[1:])
    assert (tmp_path / "out" / "samples-class.webp").is_file() and (tmp_path / "out" / "samples-text.webp").is_file()
    kept = next((tmp_path / "work").glob(f"class-2-{'[0-9a-f]' * 16}.npy"))
    pictures = np.load(kept)
    engine, tokenizer = (
        generation.Generator(tmp_path / "class", None, 1).dit,
        textok.TexTok.from_pretrained(tmp_path / "tokenizer"),
    )
    tests = [number for number in range(24) if number % 4 == 0] + list(range(1, 24, 4))
    text, lengths = store.embeddings([f"caption {number}" for number in tests])
    z = engine.sample(labels=[number % 3 for number in tests], steps=2, guidance_scale=2.0, seed=0)
    assert (tokenizer.decode(z, text, lengths) == pictures).all()


@pytest.mark.parametrize("name", ["emoji-dit", "imagenet-dit"])
def test_configs_of_generators_are_read(name):
    pytest.importorskip("torch")
    from textok.config import DiTConfig
    from textok.train import config as configs
    from textok.train import dit

    path = configs.find(EMOJI / "configs" / f"{name}.toml" if name == "emoji-dit" else name)
    made = configs.read(path, ["latents.tokenizer=somewhere"], dit.SECTIONS)
    assert made.latents.tokenizer == "somewhere"
    full = DiTConfig.from_dict(made.model | {"num_tokens": 32, "num_classes": 1000})
    assert full.prediction == "epsilon" and full.learn_sigma


def test_the_cheapest_setting_is_the_one_within_the_noise():
    pytest.importorskip("torch")
    import steps

    def row(solver, count, evaluations, difference, error, interval=False, scale=3.0):
        return {
            "solver": solver, "steps": count, "interval": interval, "guidance_scale": scale, "evaluations": evaluations,
            "kid": 0.3 + difference, "kid_minus_ddpm250": difference, "kid_minus_ddpm250_error": error,
        }  # fmt: skip

    reference = row("ddpm", 250, 500, 0.0, np.nan)
    far, near, nearer = (
        row("dpmsolver++", 8, 16, 0.05, 0.02),
        row("dpmsolver++", 10, 20, 0.03, 0.02),
        row("ddim", 50, 100, -0.1, 0.01),
    )
    other = row("dpmsolver++", 5, 5, 0.0, 0.01, scale=1.0)
    assert steps.cheapest([reference, far, near, nearer, other], 3.0) == (reference, near)
    assert steps.cheapest([reference, far], 3.0) == (reference, reference)


def first_of(emoji, count):
    """The first pictures of the data and their labels, which is all that `steps` looks at."""
    return SimpleNamespace(pairs=SimpleNamespace(images=emoji.pairs.images[:count]), labels=emoji.labels[:count])


def test_steps_are_measured_once_and_drawn(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    import steps

    few = [steps.Setting("dpmsolver++", 2, 3.0), steps.Setting("dpmsolver++", 2, 3.0, True), steps.Setting("ddpm", 4, 3.0)]
    monkeypatch.setattr(steps, "REFERENCE", ("ddpm", 4))
    monkeypatch.setattr(steps, "settings", lambda scale: few)
    monkeypatch.setattr(steps, "scales", list)
    load = steps.Emoji.load
    monkeypatch.setattr(steps, "Emoji", SimpleNamespace(load=lambda args: first_of(load(args), 12)))
    common = ["steps.py", "--work", str(tmp_path / "work"), "--out", str(tmp_path), "--threads", "1"]
    monkeypatch.setattr(sys, "argv", [*common, "--seeds", "2", "--count", "8"])
    steps.main()
    assert capsys.readouterr().out.count("s of CPU for samples") == 6
    steps.main()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys, "argv", [*common, "--figures"])
    steps.main()
    assert "cheapest equal" in capsys.readouterr().out
    rows = (tmp_path / "steps.csv").read_text().splitlines()
    assert len(rows) == 4 and rows[0].startswith("solver,steps")
    told = json.loads((tmp_path / "steps-class.json").read_text())
    assert [len(told["sets"]), told["reference"]["count"]] == [3, 12]
    assert {part["settings"]["evaluations"] for part in told["sets"]} == {2, 4, 8}  # no noise level of two steps is inside
    assert Image.open(tmp_path / "steps.webp").width > 500


def test_what_every_textok_has_is_no_variant_among_them(claim):
    from evaluation import Candidate

    from textok.errors import TextokError

    def candidates(*variants):
        ours = [Candidate(f"t{number}", "TexTok", 4, 32, variant=words) for number, words in enumerate(variants)]
        return [*ours, Candidate("registers", "Baseline", 4, 32, variant="64 registers")]

    alike, unlike = candidates("cross-attention", "cross-attention"), candidates("", "cross-attention")
    assert claim.common_variant(alike) == "cross-attention" and claim.common_variant(unlike) == ""
    claim.take_out("", unlike)
    assert [one.variant for one in unlike] == ["", "cross-attention", "64 registers"]
    with pytest.raises(TextokError, match="t0: expected a TexTok with cross-attention, .* got one with none"):
        claim.take_out("cross-attention", unlike)
    named = candidates("cross-attention", "cross-attention, caption_name")
    claim.take_out("cross-attention", named)
    assert [one.variant for one in named] == ["", "caption_name", "64 registers"]
