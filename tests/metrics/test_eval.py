"""Evaluations of whole sets: what is read, paired and cropped, what the result says; with a small network in NumPy."""

import io
import json
import shutil
import tarfile

import numerics
import numpy as np
import pytest
from PIL import Image

import textok.metrics as tm
from textok import cli
from textok.errors import DataError
from textok.metrics import evaluate, gathered, registry
from textok.metrics import picture_sets as sets
from textok.metrics.evaluate import Evaluation
from textok.networks import FeatureNetwork, Output
from textok.pictures import preprocess as images

SIZE = 24


class Blocks(FeatureNetwork):
    """Features: means of blocks and of their squares; probabilities: a softmax of four of them. `calls` counts pictures."""

    name = "blocks"
    preprocessing = "0..1"
    stand_in = "Inception-v3"
    fingerprint = "blocks 1"

    def __init__(self, fail_after=None):
        super().__init__()
        self.calls, self.fail_after = 0, fail_after

    def _run(self, pictures):
        self.calls += len(pictures)
        if self.fail_after is not None and self.calls > self.fail_after:
            raise KeyboardInterrupt
        x = pictures.astype(np.float32) / 255
        side = x.shape[1] // 2
        blocks = x.reshape(len(x), 2, side, 2, side, 3).mean(axis=(2, 4)).reshape(len(x), -1)
        powers = np.exp(4 * blocks[:, :4])
        return Output(np.concatenate([blocks, blocks**2], axis=1), powers / powers.sum(axis=1, keepdims=True))


def originals(n=40):
    """Pictures of different shapes."""
    rng = np.random.default_rng(0)
    result = []
    for k in range(n):
        small = rng.integers(0, 256, (4, 4, 3), np.uint8)
        shape = [(40, 40), (60, 36), (30, 55)][k % 3]
        result.append(np.asarray(Image.fromarray(small).resize(shape, Image.Resampling.BICUBIC)))
    return result


def made_of(pictures, noise=10, seed=1):
    cropped = images.preprocess(pictures, SIZE).astype(np.int64)
    return np.clip(cropped + np.random.default_rng(seed).normal(size=cropped.shape) * noise, 0, 255).astype(np.uint8)


def save_folder(folder, pictures, first=0):
    folder.mkdir(parents=True)
    for k, picture in enumerate(pictures, first):
        Image.fromarray(picture).save(folder / f"p{k:03d}.png")


def save_shard(path, pictures, captions=None):
    with tarfile.open(path, "w") as tar:
        for k, picture in enumerate(pictures):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "PNG")
            files = {"png": buffer.getvalue()} | (
                {} if captions is None else {"json": json.dumps({"caption": captions[k]}).encode()}
            )
            for extension, data in files.items():
                info = tarfile.TarInfo(f"p{k:03d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def data(tmp_path):
    pytest.importorskip("skimage")
    source = originals()
    made = made_of(source)
    save_folder(tmp_path / "originals", source)
    save_folder(tmp_path / "made", made)
    save_shard(tmp_path / "made.tar", made)
    np.savez(tmp_path / "made.npz", arr_0=made)
    return tmp_path, images.preprocess(source, SIZE), made


def features(pictures):
    return Blocks()(pictures).features


@pytest.mark.parametrize("form", ("made", "made.tar", "made.npz"))
def test_reconstruction(data, form, monkeypatch):
    """Every form of the same pictures has the numbers of the plain functions; other crops and other pictures have not."""
    monkeypatch.setattr(registry, "SUBSET_SIZE", 20)
    folder, cropped, made = data
    evaluation = Evaluation(folder / "out", Blocks())
    result = evaluation.reconstruction({"it": folder / form}, folder / "originals")
    metrics = result["sets"][0]["metrics"]
    expected = {
        "psnr": tm.psnr(made, cropped).mean(),
        "ssim": tm.ssim(made, cropped).mean(),
        "rfid@blocks": tm.Statistics.of([features(made)]).distance(tm.Statistics.of([features(cropped)])),
        "rkid@blocks": tm.kernel_distance(features(made), features(cropped), paired=True),
        "rkid_subsets@blocks": tm.kernel_distance_subsets(features(made), features(cropped), subset_size=20, paired=True)[0],
        "ris@blocks": tm.inception_score(Blocks()(made).probabilities)[0],
    }
    for key, value in expected.items():
        numerics.check(metrics[key], value, numerics.METRIC, key)
    assert numerics.rejects(tm.kernel_distance(features(made), features(cropped)), expected["rkid@blocks"], numerics.METRIC)
    squeezed = np.stack([np.asarray(Image.fromarray(p).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for p in originals()])
    assert numerics.rejects(tm.psnr(made, squeezed).mean(), expected["psnr"], numerics.METRIC)
    assert numerics.rejects(tm.psnr(made[::-1], cropped).mean(), expected["psnr"], numerics.METRIC)
    written = json.loads((folder / "out" / "result.json").read_text())
    assert written == result and written["kind"] == "reconstruction"
    assert written["reference"] == {
        "source": str(folder / "originals"),
        "count": 40,
        "preprocessing": "ADM centre crop (textok.preprocess) to 24",
        "skipped": [],
    }
    assert written["network"] == {
        "name": "blocks",
        "stand_in_for": "Inception-v3",
        "preprocessing": "0..1",
        "fingerprint": "blocks 1",
    }
    assert "gaussian_weights True, sigma 1.5, use_sample_covariance False" in written["settings"]["ssim"]
    assert {"textok", "numpy", "python"} <= written["versions"].keys() and written["sets"][0]["count"] == 40
    text = evaluate.table(result)
    assert f"{expected['psnr']:.5g}" in text and "a stand-in for Inception-v3" in text and "rfid@blocks" in text


def test_examples(data):
    """pictures.npz: each picture's numbers; the worst and best by PSNR of the first set, with their originals, of all sets."""
    folder, cropped, made = data
    np.savez(folder / "other.npz", arr_0=made_of(originals(), 30))
    evaluation = Evaluation(folder / "out", None)
    evaluation.reconstruction({"it": folder / "made", "worse": folder / "other.npz"}, folder / "originals")
    values = tm.psnr(made, cropped)
    with np.load(folder / "out" / "pictures.npz") as file:
        numerics.check(file["value/it/psnr"], values, numerics.METRIC)
        assert (file["value/worse/psnr"] < values - 3).all()
        order = np.argsort(values)
        for group, expected in (("worst", order[:8]), ("best", order[::-1][:8])):
            places = file[f"places/{group}"]
            assert np.array_equal(file["set/it"][places], made[expected]) and np.array_equal(
                file["originals"][places], cropped[expected]
            )
            assert file["example_keys"][places].tolist() == [f"p{k:03d}" for k in expected]
        assert file["set/worse"].shape == file["set/it"].shape and len(file["keys"]) == 40
    assert "rfid" not in str(json.loads((folder / "out" / "result.json").read_text())["sets"][0]["metrics"])


def test_pairs_by_key(data):
    """A picture that was lost does not shift the others; one without original is an error."""
    folder, cropped, made = data
    lost = [3, 17, 39]
    for k in lost:
        (folder / "made" / f"p{k:03d}.png").unlink()
    kept = [k for k in range(40) if k not in lost]
    row = Evaluation(folder / "out").reconstruction({"it": folder / "made"}, folder / "originals")["sets"][0]
    numerics.check(row["metrics"]["psnr"], tm.psnr(made[kept], cropped[kept]).mean(), numerics.METRIC)
    shifted = tm.psnr(made[kept], cropped[:37]).mean()
    assert numerics.rejects(shifted, row["metrics"]["psnr"], numerics.METRIC)
    assert row["originals_without_picture"] == 3 and row["count"] == 37
    Image.fromarray(made[0]).save(folder / "made" / "p999.png")
    with pytest.raises(DataError, match="p999: expected an original of this key"):
        Evaluation(folder / "out").reconstruction({"it": folder / "made"}, folder / "originals")
    np.savez(folder / "short.npz", arr_0=made[:39])
    with pytest.raises(DataError, match="got 1 fewer"):
        Evaluation(folder / "out").reconstruction({"it": folder / "short.npz"}, folder / "originals")


def test_pairs_in_any_order(data):
    """Originals in a shard come in the shard's order, pictures of a folder by name; the records of a run are no pictures."""
    folder, cropped, made = data
    with tarfile.open(folder / "originals.tar", "w") as shard:
        for file in sorted((folder / "originals").glob("*.png"), reverse=True):
            shard.add(file, file.name)
    for name in ("index.json", "skips.jsonl"):
        (folder / "made" / name).write_text("{}")
    (folder / "made" / "parts").mkdir()
    (folder / "made" / "parts" / "000000.json").write_text("{}")
    row = Evaluation(folder / "out").reconstruction({"it": folder / "made"}, folder / "originals.tar")["sets"][0]
    numerics.check(row["metrics"]["psnr"], tm.psnr(made, cropped).mean(), numerics.METRIC)
    assert row["count"] == 40 and row["originals_without_picture"] == 0 and not row["skipped"]


def test_pairs_of_equal_names(data):
    """The whole key counts; where folders differ on both sides the rest of it, if only one original has it."""
    folder, cropped, made = data

    def score(name, *places):
        """Reconstructions of some originals, at such places in a folder, are paired with those."""
        for place, k in places:
            path = folder / name / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(made[k]).save(path)
        row = Evaluation(folder / "out").reconstruction({"it": folder / name}, folder / "both")["sets"][0]
        numerics.check(row["metrics"]["psnr"], tm.psnr(made, cropped)[[k for _, k in places]].mean(), numerics.METRIC)

    source = originals()
    save_folder(folder / "both" / "a", source[:3])
    save_folder(folder / "both" / "b", source[3:6])
    Image.fromarray(source[6]).save(folder / "both" / "b" / "alone.png")
    score("part", ("b/p000", 3))
    score("flat", ("alone", 6), ("b/p002", 5))
    score("deeper", ("latents-000000-0000/b/p001", 4), ("x/alone", 6), ("a/p000", 0))
    for name in ("p000", "c/p000"):
        with pytest.raises(DataError, match=f"{name}: expected one original of this key in .*, found 2 called p000"):
            score(f"unclear {name}", (name, 0))
    with pytest.raises(DataError, match="x/alone: expected an original of this key in .*, found none"):
        score("twice", ("b/alone", 6), ("x/alone", 6))


def test_pairs_of_shards_with_equal_keys(data):
    """As `decode` names pictures of several shards; and by their order, if none is missing."""
    folder, cropped, made = data
    source = originals()
    (folder / "both").mkdir()
    save_shard(folder / "both" / "00.tar", source[:3])
    save_shard(folder / "both" / "01.tar", source[3:6])
    save_folder(folder / "pictures" / "01", made[3:6])
    row = Evaluation(folder / "out").reconstruction({"it": folder / "pictures"}, folder / "both")["sets"][0]
    numerics.check(row["metrics"]["psnr"], tm.psnr(made, cropped)[3:6].mean(), numerics.METRIC)
    (folder / "again").mkdir()
    save_shard(folder / "again" / "x.tar", made[:3])
    save_shard(folder / "again" / "y.tar", made[3:6])
    row = Evaluation(folder / "out").reconstruction({"it": folder / "again"}, folder / "both")["sets"][0]
    numerics.check(row["metrics"]["psnr"], tm.psnr(made, cropped)[:6].mean(), numerics.METRIC)
    (folder / "again" / "x.tar").unlink()
    with pytest.raises(DataError, match="p000: expected one original .*, found several, and fewer pictures of it"):
        Evaluation(folder / "out").reconstruction({"it": folder / "again"}, folder / "both")


def test_broken_pictures_are_named(data):
    folder, cropped, made = data
    (folder / "made" / "p005.txt").write_text("a caption")
    (folder / "made" / "p005.png").unlink()
    row = Evaluation(folder / "out").reconstruction({"it": folder / "made"}, folder / "originals")["sets"][0]
    assert [skip["key"] for skip in row["skipped"]] == ["p005"] and row["count"] == 39
    (folder / "made" / "p000.png").write_bytes(b"no picture")
    whole = (folder / "made" / "p007.png").read_bytes()
    (folder / "made" / "p007.png").write_bytes(whole[:-200])
    kept = [k for k in range(40) if k not in (0, 5, 7)]
    result = Evaluation(folder / "out").reconstruction({"it": folder / "made"}, folder / "originals")
    row = result["sets"][0]
    assert {skip["key"] for skip in row["skipped"]} == {"p000", "p005", "p007"} and row["count"] == 37
    assert "no kind of picture that Pillow knows" in str(row["skipped"]) and "truncated" in str(row["skipped"])
    assert "3 pictures could not be read and are left out" in evaluate.table(result)
    numerics.check(row["metrics"]["psnr"], tm.psnr(made[kept], cropped[kept]).mean(), numerics.METRIC)
    (folder / "originals" / "p010.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="p010: expected an original of p010, got: not a picture that can be read"):
        Evaluation(folder / "out").reconstruction({"it": folder / "made"}, folder / "originals")
    row = Evaluation(folder / "out2", Blocks()).samples({"it": folder / "made"}, folder / "originals")
    assert (row["sets"][0]["count"], row["reference"]["count"]) == (37, 39)
    assert [skip["key"] for skip in row["reference"]["skipped"]] == ["p010"]
    with pytest.raises(DataError, match="expected pictures, found none; .*p0.png: not a picture"):
        (folder / "bad").mkdir()
        (folder / "bad" / "p0.png").write_bytes(b"no picture")
        list(sets.PictureSet(folder / "bad"))
    for evaluation in ("samples", "reconstruction"):
        with pytest.raises(DataError, match="expected pictures, found none; .*p0.png: not a picture"):
            getattr(Evaluation(folder / "out3", Blocks(), size=64), evaluation)({"it": folder / "bad"}, folder / "originals")


def test_sizes_that_differ(data):
    folder, _, made = data
    Image.fromarray(made[0]).resize((30, 30)).save(folder / "made" / "p020.png")
    with pytest.raises(DataError, match="p020: expected square pictures of one size, 24 x 24 as the first, got 30 x 30"):
        Evaluation(folder / "out").reconstruction({"it": folder / "made"}, folder / "originals")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="expected shards, pictures or captions in this folder or below it, found none"):
        list(sets.PictureSet(folder / "empty"))


def test_samples(data, monkeypatch):
    """Against pictures, and against a file of statistics, which knows FID only."""
    folder, cropped, made = data
    monkeypatch.setattr(registry, "SUBSET_SIZE", 20)
    monkeypatch.setattr(sets, "PART", 7)
    evaluation = Evaluation(folder / "out", Blocks(), seed=5, notes={"it": {"steps": 20}})
    row = evaluation.samples({"it": folder / "made.npz"}, folder / "originals")["sets"][0]
    x, y = features(made), features(cropped)
    expected = {
        "fid@blocks": tm.Statistics.of([x]).distance(tm.Statistics.of([y])),
        "kid@blocks": tm.kernel_distance(x, y),
        "kid_subsets@blocks": tm.kernel_distance_subsets(x, y, subset_size=20, seed=5)[0],
        "precision@blocks": tm.precision_recall(x, y)[0],
        "recall@blocks": tm.precision_recall(x, y)[1],
        "is@blocks": tm.inception_score(Blocks()(made).probabilities, seed=5)[0],
    }
    said = json.loads((folder / "out" / "result.json").read_text())["settings"]
    assert said == registry.SET_SETTINGS and "unbiased, whole sets" in said["kid"]
    assert said["most_pictures_of_is_kid_precision_recall"] == 50_000
    for key, value in expected.items():
        numerics.check(row["metrics"][key], value, numerics.METRIC, key)
        assert numerics.rejects(row["metrics"][key], value * (1 + 1e-6) + 1e-9, numerics.METRIC)
    assert row["settings"] == {"steps": 20}
    tm.Statistics.of([y]).save(folder / "real.npz")
    row = Evaluation(folder / "out2", Blocks()).samples({"it": folder / "made.npz"}, folder / "real.npz")["sets"][0]
    numerics.check(row["metrics"]["fid@blocks"], expected["fid@blocks"], numerics.METRIC)
    assert set(row["metrics"]) == {"fid@blocks", "is@blocks", "is_deviation@blocks"}
    tm.Statistics.of([y[:, :5]]).save(folder / "odd.npz")
    with pytest.raises(DataError, match="statistics of 24 features of blocks, got 5"):
        Evaluation(folder / "out3", Blocks()).samples({"it": folder / "made.npz"}, folder / "odd.npz")
    with pytest.raises(DataError, match="expected the original pictures, got statistics"):
        Evaluation(folder / "out3", Blocks()).reconstruction({"it": folder / "made.npz"}, folder / "real.npz")


def test_more_pictures_than_are_kept(data, monkeypatch):
    """FID is of all; the rest of a fair draw of bounded size, the same for a seed."""
    folder, _, _ = data
    monkeypatch.setattr(sets, "PART", 7)
    whole = Evaluation(folder / "a", Blocks()).samples({"it": folder / "made"}, folder / "originals")["sets"][0]["metrics"]
    monkeypatch.setattr(gathered, "MOST", 16)
    part = [
        Evaluation(folder / "a", Blocks(), seed=s).samples({"it": folder / "made"}, folder / "originals")["sets"][0]["metrics"]
        for s in (0, 0, 1)
    ]
    for metrics in part:
        numerics.check(metrics["fid@blocks"], whole["fid@blocks"], numerics.METRIC)
    assert part[0] == part[1] and part[0]["kid@blocks"] != part[2]["kid@blocks"] != whole["kid@blocks"]
    taken = np.zeros(50)
    for seed in range(400):
        kept = gathered.GatheredFeatures(seed)
        for rows in np.array_split(np.arange(50.0)[:, None], [3, 16, 17, 40]):
            kept.add({"features": rows, "probabilities": -rows})
        assert (
            kept.features.shape == (16, 1)
            and len(np.unique(kept.features)) == 16
            and np.array_equal(kept.features, -kept.probabilities)
        )
        assert kept.statistics.count == 50
        taken[kept.features[:, 0].astype(int)] += 1
    assert np.abs(taken / 400 - 16 / 50).max() < 4.5 * np.sqrt(
        0.32 * 0.68 / 400
    )  # one in 3,000 for fair draws, which these are


def test_a_second_run_completes_the_first(data, monkeypatch):
    """Stopped in the middle, run again: only what is missing is computed, and the result is that of a whole run."""
    folder, _, _ = data
    monkeypatch.setattr(sets, "PART", 8)
    whole = Evaluation(folder / "whole", Blocks()).samples({"it": folder / "made"}, folder / "originals")
    with pytest.raises(KeyboardInterrupt):
        Evaluation(folder / "out", Blocks(fail_after=50)).samples({"it": folder / "made"}, folder / "originals")
    assert not (folder / "out" / "result.json").exists()
    network = Blocks()
    again = Evaluation(folder / "out", network)
    assert again.samples({"it": folder / "made"}, folder / "originals") == whole
    assert again.cache.found == 6 and network.calls == 80 - 48
    third = Blocks()
    assert (
        Evaluation(folder / "out", third).samples({"it": folder / "made"}, folder / "originals") == whole and third.calls == 0
    )
    # Another network, another picture and a broken file are computed.
    other = Blocks()
    other.fingerprint = "blocks 2"
    Evaluation(folder / "out", other).samples({"it": folder / "made"}, folder / "originals")
    assert other.calls == 80
    victim = min((folder / "whole" / "cache").rglob("*.npz"))
    victim.write_bytes(victim.read_bytes()[:50])
    fourth = Blocks()
    assert (
        Evaluation(folder / "whole", fourth).samples({"it": folder / "made"}, folder / "originals") == whole
        and fourth.calls == 8
    )


def test_perceptual_weights_are_told_apart(data):
    """Weights of one name and another content: what the others computed is not taken, and the result says which they were."""
    folder, _, _ = data

    def run(weights):
        def distance(pictures, originals):
            return np.full(len(pictures), float(weights))

        distance.fingerprint = f"hash of {weights}"
        evaluation = Evaluation(folder / "out", perceptual=distance, perceptual_name="lpips-vgg16")
        result = evaluation.reconstruction({"it": folder / "made"}, folder / "originals")
        return result["sets"][0]["metrics"]["lpips-vgg16"], result["settings"]["perceptual_fingerprint"]

    assert run(1) == (1, "hash of 1") and run(2) == (2, "hash of 2")


def test_evaluations_share_a_cache(data):
    """The real pictures that one evaluation looked at are not computed again in another."""
    folder, _, _ = data
    shared = folder / "shared"
    Evaluation(folder / "first", Blocks(), cache_folder=shared).reconstruction({"it": folder / "made"}, folder / "originals")
    alone = Evaluation(folder / "alone", Blocks()).samples({"it": folder / "made"}, folder / "originals")
    network = Blocks()
    again = Evaluation(folder / "second", network, cache_folder=shared).samples({"it": folder / "made"}, folder / "originals")
    assert network.calls == 0 and again["sets"][0]["metrics"] == alone["sets"][0]["metrics"]
    assert not (folder / "second" / "cache").exists()


def test_caches_of_machines_merge(data, monkeypatch):
    """Two machines, a half each; their caches copied together hold all."""
    folder, cropped, _ = data
    monkeypatch.setattr(sets, "PART", 10)
    for number, half in enumerate((cropped[:20], cropped[20:])):
        np.savez(folder / f"half{number}.npz", arr_0=half)
        machine = Evaluation(folder / f"machine{number}", Blocks())
        evaluate.gather_statistics([folder / f"half{number}.npz"], machine).save(folder / f"stats{number}.npz")
        shutil.copytree(folder / f"machine{number}" / "cache", folder / "both" / "cache", dirs_exist_ok=True)
    np.savez(folder / "all.npz", arr_0=cropped)
    network = Blocks()
    total = evaluate.gather_statistics([folder / "all.npz"], Evaluation(folder / "both", network))
    assert network.calls == 0 and total.count == 40
    merged = evaluate.gather_statistics([folder / "stats0.npz", folder / "stats1.npz"], Evaluation(folder / "both", network))
    numerics.check(merged.mean, total.mean, numerics.METRIC)
    numerics.check(merged.covariance(), total.covariance(), numerics.METRIC)
    assert numerics.rejects(tm.Statistics.load(folder / "stats0.npz").covariance(), total.covariance(), numerics.METRIC)


class Words(Blocks):
    """Embeds captions by the colour they name."""

    truncated = 0

    def _run(self, pictures):
        return Output(pictures.mean(axis=(1, 2)).astype(np.float32) + 1)

    def embed_texts(self, captions):
        return np.eye(3, dtype=np.float32)[[("red", "green", "blue").index(caption) for caption in captions]]


def test_text(tmp_path):
    flat = np.zeros((6, 16, 16, 3), np.uint8)
    flat[range(6), :, :, [0, 1, 2] * 2] = 200
    flat[:3, :, :, 0] = 200
    captions = ["red", "green", "blue"] * 2
    save_shard(tmp_path / "made.tar", flat, captions)
    row = Evaluation(tmp_path / "out", Words()).text({"it": tmp_path / "made.tar"})["sets"][0]
    means = flat.mean(axis=(1, 2)) + 1
    cosines = [means[k, k % 3] / np.linalg.norm(means[k]) for k in range(6)]
    numerics.check(row["metrics"]["clip_score@blocks"], 100 * np.mean(cosines), numerics.METRIC_FLOAT32_MEAN)
    assert row["captions_truncated"] == 0
    save_shard(tmp_path / "bare.tar", flat)
    with pytest.raises(DataError, match="p000: expected a caption"):
        Evaluation(tmp_path / "out", Words()).text({"it": tmp_path / "bare.tar"})
    with pytest.raises(ValueError, match="expected a transformers folder of CLIP"):
        Evaluation(tmp_path / "out", Blocks()).text({"it": tmp_path / "made.tar"})


def test_how_samples_were_made(tmp_path):
    """Settings of `textok sample` come from its index; what is not there is not invented."""
    (tmp_path / "index.json").write_text(
        json.dumps({"task": {"name": "sample", "steps": 5, "solver": "ddim", "guidance_scale": 2.0}})
    )
    assert sets.made_with(tmp_path) == {"name": "sample", "steps": 5, "solver": "ddim", "guidance_scale": 2.0}
    assert sets.made_with(tmp_path / "samples.npz") == sets.made_with(tmp_path)
    assert sets.made_with(tmp_path / "a" / "b") == {}
    (tmp_path / "index.json").write_text("[1, 2, 3]")  # somebody else's
    assert sets.made_with(tmp_path / "samples.npz") == {}


# ---- the command ----


def test_command(data, capsys):
    folder, cropped, made = data
    command = [
        "eval",
        "reconstruction",
        f"it={folder / 'made'}",
        "--reference",
        str(folder / "originals"),
        "--out",
        str(folder / "out"),
    ]
    command += ["--network", "none", "--perceptual", "none", "--note", "it:tokens=16"]
    assert cli.main(command) == 0
    out, err = capsys.readouterr()
    assert f"{tm.psnr(made, cropped).mean():.5g}" in out and str(folder / "out" / "result.json") in out and err == ""
    row = json.loads((folder / "out" / "result.json").read_text())["sets"][0]
    assert row["settings"] == {"tokens": 16} and set(row["metrics"]) == {"psnr", "ssim"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reconstruction", "a"], "--reference: expected originals"),
        (["samples", "a"], "--reference: expected real pictures or statistics"),
        (["reconstruction", "a=x", "a=y", "--reference", "z"], "names that differ"),
        (
            ["reconstruction", "nothing-here", "--reference", "z", "--network", "none", "--perceptual", "none"],
            "nothing-here: no such file",
        ),
        (["samples", "a=x", "--reference", "z", "--network", "none"], "network: expected one"),
        (["samples", "a=x", "--reference", "z", "--network", "incept"], "network: expected efficientnet-lite0"),
        (["samples", "a=x", "--reference", "z", "--note", "b:c=1"], "--note: expected one of the sets a, got 'b'"),
    ],
)
def test_command_says_what_is_wrong(arguments, message, tmp_path, capsys):
    assert cli.main(["eval", *arguments, "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_statistics_command(data, capsys):
    """Files of two machines become one; pictures without a network, and a file without a count, do not."""
    folder, cropped, _ = data
    x = features(cropped)
    for name, part in (("a", x[:15]), ("b", x[15:])):
        tm.Statistics.of([part]).save(folder / f"{name}.npz")
    command = [
        "eval",
        "statistics",
        str(folder / "a.npz"),
        str(folder / "b.npz"),
        "--network",
        "none",
        "--out",
        str(folder / "all.npz"),
    ]
    assert cli.main(command) == 0 and "40 rows of 24" in capsys.readouterr().out
    numerics.check(tm.Statistics.load(folder / "all.npz").covariance(), tm.Statistics.of([x]).covariance(), numerics.METRIC)
    assert not (folder / "all.parts").exists()
    command[3] = str(folder / "originals")
    assert cli.main(command) == 1 and "network: expected one" in capsys.readouterr().err
    np.savez(folder / "b.npz", mu=x.mean(axis=0), sigma=np.cov(x.T))
    command[3] = str(folder / "b.npz")
    assert cli.main(command) == 1 and "statistics with a count" in capsys.readouterr().err


def test_latents_with_a_model(tmp_path, capsys):
    """Latents are decoded first; the numbers are those of the pictures that the model makes."""
    pytest.importorskip("skimage")
    import api_models

    model = api_models.textok(text_condition="none", image_size=16, patch_size=8)
    model.save_pretrained(tmp_path / "model")
    size = model.config.image_size
    cropped = images.preprocess(originals(5), size)
    latents = model.encode(cropped)
    np.save(tmp_path / "latents.npy", latents)
    np.savez(tmp_path / "originals.npz", arr_0=cropped)
    command = ["eval", "reconstruction", f"it={tmp_path / 'latents.npy'}", "--reference", str(tmp_path / "originals.npz")]
    command += ["--out", str(tmp_path / "out"), "--model", str(tmp_path / "model"), "--network", "none", "--perceptual", "none"]
    assert cli.main(command) == 0, capsys.readouterr().err
    row = json.loads((tmp_path / "out" / "result.json").read_text())["sets"][0]
    numerics.check(row["metrics"]["psnr"], tm.psnr(model.decode(latents), cropped).mean(), numerics.METRIC)


def test_the_stand_in_end_to_end(data, capsys):
    """All numbers of reconstructions with the network that needs no download, through the shell."""
    pytest.importorskip("efficientnet_lite_pytorch")
    folder, _, _ = data
    command = [
        "eval",
        "reconstruction",
        f"it={folder / 'made'}",
        "--reference",
        str(folder / "originals"),
        "--out",
        str(folder / "out"),
    ]
    assert cli.main([*command, "--network", "efficientnet-lite0@32", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    row = json.loads((folder / "out" / "result.json").read_text())["sets"][0]["metrics"]
    keys = {"psnr", "ssim", "perceptual@efficientnet-lite0"} | {
        f"{key}@efficientnet-lite0@32" for key in ("rfid", "rkid", "ris", "ris_deviation")
    }
    assert set(row) == keys and all(np.isfinite(value) for value in row.values()) and "stand-in" in out
    assert 0 < row["perceptual@efficientnet-lite0"] < 2
