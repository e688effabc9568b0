"""encode, decode and sample over whole data sets: what they compute, and that neither kills, shares nor sizes change a byte."""

import importlib.util
import json
import random
import signal
import time
import warnings
import weakref
from pathlib import Path

import api_models
import data_sets
import numerics
import numpy as np
import pytest
from PIL import Image

import textok
from textok import cli, data, files
from textok.data import outputs, resumable
from textok.data.fingerprint import encoder_of
from textok.data.folders import FolderSource
from textok.data.payloads import pack_arrays
from textok.errors import DataError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models, and shards of 45 samples."""
    folder = data_sets.models(tmp_path_factory.mktemp("runs"))
    data_sets.make_shards(folder / "shards", [20, 7, 18])
    return folder


@pytest.fixture(scope="module")
def encoded(place):
    """What one plain run makes of it."""
    data.encode(place / "textok", place / "shards", place / "encoded", embeddings=place / "captions", shard_size=8)
    return place / "encoded"


def encode(place, out, **options):
    return data.encode(
        place / "textok", place / "shards", out, **{"embeddings": place / "captions", "shard_size": 8, **options}
    )


def skips_of(folder):
    return [json.loads(line) for line in (folder / "skips.jsonl").read_text().splitlines()]


def read_back(folder):
    """Keys and captions of a folder's latents, none of them left out, from its shards in order."""
    skips = []
    ours = [(latent.key, latent.metadata.get("caption")) for latent in data.read_latents(folder, skips=skips)]
    assert skips == []
    if importlib.util.find_spec("webdataset"):
        import webdataset as wds

        shards = [f"{path}" for path in sorted(folder.glob("*.tar"))]
        theirs = {sample["__key__"] for sample in wds.WebDataset(shards, shardshuffle=False, empty_check=False)}
        assert len(theirs) == len(ours)
    return ours


# ---- what is computed ----


@pytest.mark.parametrize("format", ["npz", "safetensors"])
def test_encode(place, tmp_path, format):
    """Each latent is the model's of the preprocessed picture and its own caption, beside the sample's own JSON."""
    done = encode(place, tmp_path / "out", format=format, flip=True)
    assert (done.samples, done.skipped, done.computed, done.left) == (45, 0, 45, 0)
    model = api_models.textok(text_mask=True)
    x = textok.preprocess([data_sets.picture(i) for i in range(45)], 16)
    text, lengths = api_models.captions().embeddings([data_sets.caption(i) for i in range(45)])
    expected, flipped = (model.encode(pixels, text, lengths) for pixels in (x, x[:, :, ::-1]))
    found = list(data.read_latents(tmp_path / "out"))
    assert [sample.key for sample in found] == [f"k{i:03d}" for i in range(45)]
    assert np.array_equal(np.stack([sample.latent for sample in found]), expected)
    assert np.array_equal(np.stack([sample.flipped for sample in found]), flipped)
    assert [sample.metadata for sample in found] == [{"caption": data_sets.caption(i), "label": i % 9} for i in range(45)]
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["samples"] == 45 and [part["samples"] for part in index["parts"]] == [8, 8, 4, 7, 8, 8, 2]


def test_encode_of_other_sources(place, tmp_path):
    """A folder, an array and a table of the same pictures give the latents of the shards."""
    pictures = [data_sets.picture(i, 16)[:, :16] for i in range(11)]
    np.save(tmp_path / "a.npy", np.stack(pictures))
    (tmp_path / "folder").mkdir()
    for i, picture in enumerate(pictures):
        (tmp_path / "folder" / f"{i:02d}.png").write_bytes(data_sets.png(picture))
    (tmp_path / "t.jsonl").write_text("".join(f'{{"file_name": "folder/{i:02d}.png"}}\n' for i in range(11)))
    expected = api_models.textok(text_condition="none").encode(np.stack(pictures))
    for name in ("a.npy", "folder", "t.jsonl"):
        done = data.encode(place / "baseline", tmp_path / name, tmp_path / f"{name}-out", shard_size=4)
        assert (done.samples, done.parts) == (11, 3)
        assert np.array_equal(np.stack([sample.latent for sample in data.read_latents(tmp_path / f"{name}-out")]), expected)


def test_embeddings_by_position_and_key(place, tmp_path):
    text = np.random.default_rng(0).standard_normal((5, 7, 12)).astype(np.float32)
    pictures = np.stack([data_sets.picture(i, 16)[:, :16] for i in range(5)])
    expected = api_models.textok(text_mask=True).encode(pictures, text)
    np.save(tmp_path / "x.npy", pictures)
    np.save(tmp_path / "t.npy", text)
    np.savez(tmp_path / "t.npz", text=text[::-1], keys=np.array([f"x-{i:08d}" for i in (4, 3, 2, 1, 0)]))
    for name in ("t.npy", "t.npz"):
        data.encode(place / "textok", tmp_path / "x.npy", tmp_path / f"{name}-out", embeddings=tmp_path / name)
        assert np.array_equal(np.stack([sample.latent for sample in data.read_latents(tmp_path / f"{name}-out")]), expected)
    with pytest.raises(DataError, match="positions only"):
        data.encode(place / "textok", place / "shards", tmp_path / "out", embeddings=tmp_path / "t.npy")


def test_several_rows_of_a_key(place, tmp_path):
    """Each is a sample of its own, under a key that no other has and that depends on no division of the work."""
    (tmp_path / "p.png").write_bytes(data_sets.png(data_sets.picture(1)))
    keys = [None, "a", "a", "a~2", "t-00000000", "b", "a", None, "b", "t-00000009", None, "a"]
    expected = ["t-00000000", "a", "a~2", "a~2~2", "t-00000000~2", "b", "a~3", "t-00000007", "b~2", "t-00000009"]
    expected += ["t-00000010", "a~4"]
    rows = [{"file_name": "p.png", "caption": f"{n}"} | ({"key": key} if key else {}) for n, key in enumerate(keys)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for size in (2, 100):
        out, options = tmp_path / f"{size}", {"shard_size": size, "batch_size": 3}
        assert data.encode(place / "baseline", tmp_path / "t.jsonl", out, **options).samples == len(rows)
        assert read_back(out) == [(key, f"{n}") for n, key in enumerate(expected)]
        whole = data_sets.contents(out)
        last = max((out / "parts").glob("*-*.json"))
        last.unlink()
        data.encode(place / "baseline", tmp_path / "t.jsonl", out, **options)
        assert data_sets.contents(out) == whole
    data.encode(place / "baseline", tmp_path / "t.jsonl", tmp_path / "shares", shard_size=2, share=(1, 2))
    data.encode(place / "baseline", tmp_path / "t.jsonl", tmp_path / "shares", shard_size=2)
    assert data_sets.contents(tmp_path / "shares") == data_sets.contents(tmp_path / "2")


def test_classes_called_as_metadata(place, tmp_path):
    """A folder `__x__`, as webdataset calls its metadata, is a class like others, in shards and pictures."""
    names = ["%255F_x__/0", "%5F_x__/0", "__background__/0", "__background__/1", "____/0", "__x/0", "cat/0", "cat/__y__"]
    for number, name in enumerate(names):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / f"{name}.png").write_bytes(data_sets.png(data_sets.picture(number)))
    assert data.encode(place / "baseline", tmp_path / "in", tmp_path / "out").samples == len(names)
    assert sorted(key for key, _ in read_back(tmp_path / "out")) == sorted(names)
    labels = {latent.key: latent.metadata["class_name"] for latent in data.read_latents(tmp_path / "out")}
    assert labels["__background__/1"] == "__background__"
    assert data.decode(place / "baseline", tmp_path / "out", tmp_path / "pictures").samples == len(names)
    assert {sample.key for sample in data.read_samples(tmp_path / "pictures")} == set(names)
    theirs = data_sets.make_shard(tmp_path / "theirs.tar", [("__background__/0", {"png": b"x"})])
    assert [sample.key for sample in data.read_samples(theirs)] == ["__background__/0"]


def test_decode(place, encoded, tmp_path):
    model = api_models.textok(text_mask=True)
    latents = np.stack([sample.latent for sample in data.read_latents(encoded)])
    expected = model.decode(latents, *api_models.captions().embeddings([data_sets.caption(i) for i in range(45)]))
    for format in ("npz", "png", "shards"):
        data.decode(place / "textok", encoded, tmp_path / format, embeddings=place / "captions", format=format, shard_size=5)
    pictures, labels = data.read_adm(tmp_path / "npz" / "samples.npz")
    assert np.array_equal(pictures, expected) and labels.tolist() == [i % 9 for i in range(45)]
    for format in ("png", "shards"):
        found = list(data.batches(tmp_path / format, 16, skips=[]))
        assert np.array_equal(np.concatenate([batch.pictures for batch in found]), expected)
        assert [m["caption"] for batch in found for m in batch.metadata] == [data_sets.caption(i) for i in range(45)]


def test_latents_of_another_model_are_told(place, encoded, tmp_path):
    """Their shape fits and the pictures are noise; with the model that encoded them nothing is said."""
    with pytest.warns(UserWarning, match=r"encoded: latents of textok, decoded with .*baseline, which is another model"):
        data.decode(place / "baseline", encoded, tmp_path / "other")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.decode(place / "textok", [encoded], tmp_path / "own", embeddings=place / "captions")
    for content in ("3", '{"task": 3}', '{"task": {"name": "encode"}}', "{"):
        (tmp_path / "index.json").write_text(content)
        assert encoder_of(tmp_path) == {}


@pytest.mark.parametrize("overwrite", (False, True))
def test_nothing_of_somebody_elses_is_written_over(place, encoded, tmp_path, overwrite):
    """A folder that no run made may hold the pictures that were encoded, which have these very names."""
    for name, format in (("cats/000000.png", "png"), ("b.tar", "shards"), ("metadata.jsonl", "npz"), ("samples.npz", "npz")):
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"mine")
        with pytest.raises(DataError, match=rf"expected a new folder or one of an earlier run, got one with {name} in it"):
            data.sample(place / "classes", 1, folder, steps=1, format=format, overwrite=overwrite)
        assert [path.name for path in folder.rglob("*") if path.is_file()] == [Path(name).name]
        assert (folder / name).read_bytes() == b"mine" and not (folder / "parts").exists()
    with pytest.raises(DataError, match="expected a folder to write to, got a file"):
        data.sample(place / "classes", 1, tmp_path / "b.tar" / "b.tar", steps=1)
    data.sample(place / "classes", 1, tmp_path / "begun", steps=1)
    resumable.Ledger(tmp_path / "begun", "png")._refuse_files_of_others()  # another process began this run between two looks
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read me.txt").write_text("kept")
    assert data.sample(place / "classes", 1, tmp_path / "notes", steps=1).computed == 1


def test_captions_without_words_are_refused(place, tmp_path):
    with pytest.raises(ValueError, match="caption 2: expected words, got ' '"):
        data.sample(place / "classes", None, tmp_path / "out", caption=["a", " "])
    assert not (tmp_path / "out").exists()


def test_sample(place, tmp_path):
    pipeline = api_models.class_pipeline()
    labels = [2, 5, 7]
    expected = pipeline(labels=[labels[k % 3] for k in range(20)], seed=4, steps=3, guidance_scale=2.0)
    options = {"labels": labels, "seed": 4, "steps": 3, "guidance_scale": 2.0, "shard_size": 6, "batch_size": 4}
    data.sample(place / "classes", 20, tmp_path / "png", **options)
    data.sample(place / "classes", 20, tmp_path / "npz", format="npz", **options)
    pictures, classes = data.read_adm(tmp_path / "npz" / "samples.npz")
    assert np.array_equal(pictures, expected.images) and classes.tolist() == expected.labels
    (batch,) = data.batches(tmp_path / "png", 16, batch_size=20, skips=[])
    assert np.array_equal(batch.pictures, expected.images) and [m["caption"] for m in batch.metadata] == expected.captions
    data.sample(place / "dit", 20, tmp_path / "latents", **options)
    assert np.array_equal(np.stack([sample.latent for sample in data.read_latents(tmp_path / "latents")]), expected.latents)


def test_sample_from_captions(place, tmp_path):
    store = api_models.captions()
    names = [data_sets.caption(i) for i in (3, 1, 4)]
    (tmp_path / "c.txt").write_text("\n".join(names))
    expected = api_models.text_pipeline()(*((None, *store.embeddings([names[k % 3] for k in range(7)]))), seed=1, steps=2)
    data.sample(
        place / "texts",
        7,
        tmp_path / "a",
        captions=tmp_path / "c.txt",
        embeddings=place / "captions",
        seed=1,
        steps=2,
        format="npz",
    )
    assert np.array_equal(data.read_adm(tmp_path / "a" / "samples.npz")[0], expected.images)
    expected = api_models.text_pipeline()(None, *store.embeddings([k % 18 for k in range(20)]), seed=1, steps=2)
    data.sample(place / "texts", 20, tmp_path / "b", embeddings=place / "captions", seed=1, steps=2, format="npz")
    assert np.array_equal(data.read_adm(tmp_path / "b" / "samples.npz")[0], expected.images)


def test_statistics(encoded, tmp_path, capsys):
    latents = np.stack([sample.latent for sample in data.read_latents(encoded)]).astype(np.float64)
    found = data.latent_statistics(encoded)
    numerics.check(found.mean, latents.mean((0, 1)), numerics.LATENT_STATISTICS)
    numerics.check(found.std, latents.std((0, 1)), numerics.LATENT_STATISTICS)
    assert numerics.rejects(latents.std((0, 1), ddof=1), found.std, numerics.LATENT_STATISTICS)
    api_models.dit().save_pretrained(tmp_path)
    assert cli.main(["stats", str(encoded), "--config", str(tmp_path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["latent_mean"] == printed["latent_mean"] == found.mean.tolist() and config["latent_std"] == found.std.tolist()
    assert textok.DiT.from_pretrained(tmp_path).config.latent_mean == tuple(found.mean.tolist())


def test_statistics_far_from_zero():
    """A mean of a million, where a sum of squares loses all: merged from parts as in one piece."""
    values = np.random.default_rng(0).standard_normal((50, 3, 2)) + 1e6
    whole, merged = data.LatentStatistics(2), data.LatentStatistics(2)
    whole.update(values)
    for part in np.split(values, [7, 8, 30]):
        one = data.LatentStatistics(2)
        one.update(part)
        merged.merge(one)
    for found in (whole, merged):
        numerics.check(found.std, values.std((0, 1)), numerics.LATENT_STATISTICS)
    naive = np.sqrt(np.square(values).mean((0, 1)) - np.square(values.mean((0, 1))))
    assert numerics.rejects(naive, values.std((0, 1)), numerics.LATENT_STATISTICS)


# ---- the same bytes ----


def test_division_changes_nothing(place, encoded, tmp_path):
    """Batches, threads, processes, and shares of machines whose folders are put together afterwards."""
    expected = data_sets.contents(encoded)
    encode(place, tmp_path / "a", batch_size=1, threads=1)
    assert data_sets.contents(tmp_path / "a") == expected
    encode(place, tmp_path / "b", batch_size=7, threads=3, processes=2)
    assert data_sets.contents(tmp_path / "b") == expected
    done = [encode(place, tmp_path / "c", share=(i, 2)) for i in (1, 0)]
    assert "2 units are left to others" in str(done[0]) and "left" not in str(done[1])
    assert done[0].left == 2 and done[1].left == 0 and not (tmp_path / "c" / "skips.jsonl.part").exists()
    assert data_sets.contents(tmp_path / "c") == expected
    assert encode(place, tmp_path / "c").computed == 0 and data_sets.contents(tmp_path / "c") == expected


def test_batch_mates_change_nothing_where_padding_is_seen(place, tmp_path):
    """A model that does not mask text sees the padding: as long for a caption alone as beside the longest, and as in
    training."""
    model, given = api_models.textok(), {"embeddings": place / "captions"}
    assert not model.config.text_mask
    text, lengths = api_models.captions().embeddings([data_sets.caption(i) for i in range(45)])
    assert text.shape[1] == model.config.num_text_tokens  # the longest caption is as long as the model allows
    latents = model.encode(textok.preprocess([data_sets.picture(i) for i in range(45)], 16), text, lengths)
    pictures = model.decode(latents, text, lengths)
    for size in (1, 2, 16):
        data.encode(place / "unmasked", place / "shards", tmp_path / f"{size}", batch_size=size, **given)
        assert np.array_equal(np.stack([sample.latent for sample in data.read_latents(tmp_path / f"{size}")]), latents)
        options = {"batch_size": size, "format": "npz", **given}
        data.decode(place / "unmasked", tmp_path / f"{size}", tmp_path / f"p{size}", **options)
        assert np.array_equal(data.read_adm(tmp_path / f"p{size}" / "samples.npz")[0], pictures)


@pytest.mark.parametrize("condition", ("class", "text"))
def test_batch_mates_change_no_sample_where_padding_is_seen(place, tmp_path, condition):
    captions = api_models.captions() if condition == "class" else None
    kept = textok.Pipeline(api_models.textok(), api_models.dit(condition=condition), captions)
    kept.save_pretrained(tmp_path / "pipeline")
    options = {"seed": 1, "steps": 2, "format": "npz"} | ({"embeddings": place / "captions"} if condition == "text" else {})
    made = {}
    for size in (1, 4, 18):
        data.sample(tmp_path / "pipeline", 18, tmp_path / f"{size}", batch_size=size, **options)
        made[size] = data.read_adm(tmp_path / f"{size}" / "samples.npz")[0]
    assert np.array_equal(made[1], made[18]) and np.array_equal(made[4], made[18])
    if condition == "class":
        one, other = (kept(labels=range(9), seed=1, steps=2, batch_size=size).images for size in (1, 9))
        assert np.array_equal(one, other)


def test_killed_at_any_moment(place, encoded, tmp_path):
    """kill -9 at random times: what is there then is never wrong, and the next run completes to the same bytes."""
    rng = random.Random(5)
    out = tmp_path / "out"
    line = ["encode", place / "textok", place / "shards", "--embeddings", place / "captions", "--shard-size", 8, "--out", out]
    began = time.monotonic()
    assert data_sets.command(*line).wait() == 0
    whole = time.monotonic() - began
    for kill in range(4):
        encode(place, out, overwrite=True)
        for path in rng.sample(sorted((out / "parts").glob("*-*.json")), 4):  # so that there is something to do
            path.unlink()
        process = data_sets.command(*line, *(["--processes", 2] if kill == 3 else []))
        time.sleep(whole * rng.uniform(0.6, 1.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()  # until its own processes have noticed and ended, too, which hold the other ends of its pipes
        for path in (out / "parts").glob("*-*.json"):
            record = json.loads(path.read_text())
            assert (out / record["file"]).read_bytes() == (encoded / record["file"]).read_bytes()
        ledger = resumable.Ledger(out, "shards")  # whose records of a unit end before the first that is missing
        kept = sum(record["samples"] for unit in range(3) for record in ledger.records(unit))
        assert encode(place, out).computed == 45 - kept  # what was recorded is not done again
        assert data_sets.contents(out) == data_sets.contents(encoded)


def test_two_at_once(place, encoded, tmp_path):
    line = [
        "encode",
        place / "textok",
        place / "shards",
        "--embeddings",
        place / "captions",
        "--shard-size",
        8,
        "--out",
        tmp_path / "out",
    ]
    processes = [data_sets.command(*line) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert data_sets.contents(tmp_path / "out") == data_sets.contents(encoded)


@pytest.mark.parametrize("format", ["png", "npz", "shards"])
def test_samples_are_completed(place, tmp_path, format):
    options = {"steps": 2, "seed": 3, "shard_size": 4, "format": format}
    data.sample(place / "classes", 10, tmp_path / "a", **options)
    data.sample(place / "classes", 10, tmp_path / "b", **options, share=(1, 2))
    for name in ("samples.npz.part", "metadata.jsonl.part", "index.json.1a2b.part"):  # of a run that was killed at its end
        (tmp_path / "b" / "parts" / name).write_bytes(b"half")
    data.sample(place / "classes", 10, tmp_path / "b", **options, batch_size=3)
    assert data_sets.contents(tmp_path / "a") == data_sets.contents(tmp_path / "b")
    victim = {"png": "000005.png", "npz": "samples.npz", "shards": "samples-000001-0000.tar"}[format]
    content = (tmp_path / "a" / victim).read_bytes()
    (tmp_path / "a" / victim).write_bytes(content[:100] + b"?" + content[101:])
    assert data.sample(place / "classes", 10, tmp_path / "a", **options).computed == {"png": 4, "npz": 10, "shards": 4}[format]
    assert data_sets.contents(tmp_path / "a") == data_sets.contents(tmp_path / "b")


@pytest.mark.parametrize("kill", (3, 7))
def test_overwrite_leaves_no_picture_of_a_killed_run(place, tmp_path, monkeypatch, kill):
    """Killed before a part has its record, with pictures of it there; another run then has its own pictures only."""
    options = {"steps": 2, "seed": 3, "shard_size": 5, "batch_size": 1, "threads": 1}
    out, add, left = tmp_path / "out", outputs.PngPart.add, iter(range(kill))

    def add_some(self, *arguments):
        add(self, *arguments)
        if next(left, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(outputs.PngPart, "add", add_some)
    with pytest.raises(KeyboardInterrupt):
        data.sample(place / "classes", 20, out, **options)
    monkeypatch.undo()
    assert len(list(out.glob("*.png"))) == kill + 1 and len(list((out / "parts").glob("*-*.json"))) == kill // 5
    data.sample(place / "classes", 2, out, overwrite=True, **options)
    assert sorted(path.name for path in out.glob("*.png")) == ["000000.png", "000001.png"]
    assert not list(out.rglob("*.keys"))


def test_a_shard_without_its_record(place, tmp_path, monkeypatch):
    """Killed between a shard's name and its record: gone on with, the same bytes; started anew, no shard of the killed run, and
    all else stays."""
    source, options = tmp_path / "in.npy", {"shard_size": 2, "threads": 1}
    np.save(source, np.stack([data_sets.picture(5 * k) for k in range(4)]))
    data.encode(place / "baseline", source, tmp_path / "whole", **options)
    add = resumable.Ledger.add

    def dying(self, unit, part, record):
        if unit == 1:
            raise KeyboardInterrupt
        add(self, unit, part, record)

    for name in ("resumed", "anew"):
        monkeypatch.setattr(resumable.Ledger, "add", dying)
        with pytest.raises(KeyboardInterrupt):
            data.encode(place / "baseline", source, tmp_path / name, **options)
        monkeypatch.undo()
        assert (tmp_path / name / "latents-000001-0000.tar").exists()
    assert data.encode(place / "baseline", source, tmp_path / "resumed", **options).samples == 4
    assert data_sets.contents(tmp_path / "resumed") == data_sets.contents(tmp_path / "whole")
    (tmp_path / "anew" / "latents-000007-0000.tar").write_bytes(b"somebody's")
    data.encode(place / "baseline", source, tmp_path / "anew", shard_size=4, overwrite=True, flip=True)
    shards = sorted(path.name for path in (tmp_path / "anew").glob("*.tar"))
    assert shards == ["latents-000000-0000.tar", "latents-000007-0000.tar"]
    assert not list((tmp_path / "anew").rglob("*.keys"))


def test_a_second_sample_of_a_key(place, tmp_path):
    """Its picture would take the place of the first's: it is named, in the same part as in a later one; files stay as they
    are."""
    z = api_models.latents_of(api_models.textok(), 5)
    content = [(key, {"npz": pack_arrays("npz", {"latent": row})}) for key, row in zip(("a", "b", "a", "c", "b"), z)]
    shard = data_sets.make_shard(tmp_path / "latents.tar", content)
    expected = api_models.textok(text_condition="none").decode(z)
    for size in (2, 100):
        out = tmp_path / f"{size}"
        done = data.decode(place / "baseline", shard, out, shard_size=size)
        assert (done.samples, done.skipped) == (3, 2)
        assert [(skip["key"], "second sample" in skip["reason"]) for skip in skips_of(out)] == [("a", True), ("b", True)]
        for key, row in (("a", 0), ("b", 1), ("c", 3)):
            assert np.array_equal(np.asarray(Image.open(out / f"{key}.png")), expected[row])
        assert data.decode(place / "baseline", shard, out, shard_size=size).computed == 0
        if size == 2:  # the keys of parts that were there before count
            (out / "parts" / "000000-0001.json").unlink()
            data.decode(place / "baseline", shard, out, shard_size=size)
            assert [skip["key"] for skip in skips_of(out)] == ["a", "b"]
    done = data.decode(place / "baseline", shard, tmp_path / "shards", format="shards")
    assert (done.samples, [skip["key"] for skip in skips_of(tmp_path / "shards")]) == (3, ["a", "b"])
    assert [sample.key for sample in data.read_samples(tmp_path / "shards")] == ["a", "b", "c"]
    done = data.decode(place / "baseline", shard, tmp_path / "npz", format="npz")
    assert np.array_equal(data.read_adm(tmp_path / "npz" / "samples.npz")[0], expected)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / shard.name).write_bytes(shard.read_bytes())
    with pytest.raises(DataError, match=f"shards of names that differ.*{shard.stem}"):
        data.decode(place / "baseline", [shard, tmp_path / "other" / shard.name], tmp_path / "two")


def test_damaged_parts_are_made_anew(place, encoded, tmp_path):
    encode(place, tmp_path / "out")
    for name, damage in (
        ("latents-000000-0001.tar", lambda b: b[:-1]),
        ("latents-000002-0000.tar", lambda b: b[:700] + b"x" + b[701:]),
    ):
        path = tmp_path / "out" / name
        path.write_bytes(damage(path.read_bytes()))
    (tmp_path / "out" / "latents-000001-0000.tar").unlink()
    assert encode(place, tmp_path / "out").computed == 12 + 7 + 18
    assert data_sets.contents(tmp_path / "out") == data_sets.contents(encoded)


def test_full_disk(place, tmp_path):
    """No room to write: an error of one line, no part that only seems whole; and once there is room, the same bytes."""
    resource = pytest.importorskip("resource")
    line = ["encode", place / "baseline", place / "shards", "--shard-size", 10, "--out", tmp_path / "out"]
    data.encode(place / "baseline", place / "shards", tmp_path / "expected", shard_size=10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        process = data_sets.command(*line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    out, err = process.communicate()
    assert process.returncode == 1 and out == "" and err.startswith("textok: ") and err.count("\n") == 1, err
    assert str(tmp_path / "out") in err
    assert not list((tmp_path / "out").rglob("*.part")) and not list((tmp_path / "out" / "parts").glob("*-*.json"))
    data.encode(place / "baseline", place / "shards", tmp_path / "out", shard_size=10)
    assert data_sets.contents(tmp_path / "out") == data_sets.contents(tmp_path / "expected")


def test_few_records_are_in_memory(place, tmp_path, monkeypatch):
    """The last of a job goes through the records of all parts, which name all samples, and holds few of them."""
    alive, most = weakref.WeakSet(), [0]

    class Record(dict):
        __hash__ = object.__hash__

    def read_json(*arguments):
        record = Record(files.read_json(*arguments))
        alive.add(record)
        most[0] = max(most[0], len(alive))
        return record

    def most_of(name):
        most[0] = 0
        data.sample(place / "classes", 20, tmp_path / name, steps=1, shard_size=2, format="npz")
        return most[0]

    monkeypatch.setattr(resumable, "read_json", read_json)
    assert most_of("a") <= 4  # the plan, and of the ten parts the one that is read, the next, and the last of another walk
    write_index = resumable.Ledger._write_index

    def holding(self, records, *arguments):
        held = list(records())
        write_index(self, records, *arguments)
        return held

    monkeypatch.setattr(resumable.Ledger, "_write_index", holding)
    assert most_of("held") >= 10


# ---- what changed ----


def test_changed_settings(place, encoded, tmp_path):
    encode(place, tmp_path / "out")
    for options, message in (
        ({"dtype": "bfloat16"}, 'task.dtype was "float32", is "bfloat16"'),
        ({"shard_size": 9}, "shard_size was 8, is 9"),
    ):
        with pytest.raises(DataError, match=message):
            encode(place, tmp_path / "out", **options)
    with pytest.raises(DataError, match="task.model.sha256 was"):
        data.encode(place / "baseline", place / "shards", tmp_path / "out", embeddings=place / "captions", shard_size=8)
    encode(place, tmp_path / "out", shard_size=9, overwrite=True)
    assert len(list((tmp_path / "out").glob("latents-*.tar"))) == 3 + 1 + 2
    encode(place, tmp_path / "out", overwrite=True)
    assert data_sets.contents(tmp_path / "out") == data_sets.contents(encoded)


def test_changed_input(place, tmp_path):
    shards = data_sets.make_shards(tmp_path / "shards", [6, 5])
    data.encode(place / "baseline", shards, tmp_path / "out")
    before = data_sets.contents(tmp_path / "out")
    (shards / "00.tar").write_bytes((shards / "00.tar").read_bytes())  # another time, the same content
    assert data.encode(place / "baseline", shards, tmp_path / "out").computed == 0
    assert data_sets.contents(tmp_path / "out") == before
    data_sets.make_shard(shards / "01.tar", data_sets.samples(50, 5))
    with pytest.raises(DataError, match=r"01\.tar: changed since latents-000001-0000"):
        data.encode(place / "baseline", shards, tmp_path / "out")
    data_sets.make_shards(shards, [6, 5, 3])
    with pytest.raises(DataError, match="sources.count was 2, is 3"):
        data.encode(place / "baseline", shards, tmp_path / "out")


def test_guidance_interval_is_a_setting(place, tmp_path):
    """A pair is the same when the plan is read again, and another one is another run."""
    options = {"labels": [1], "steps": 2, "guidance_scale": 2.0}
    for _ in range(2):
        data.sample(place / "classes", 3, tmp_path, guidance_interval=(0, 500), **options)
    with pytest.raises(DataError, match="guidance_interval was .*500.*, is .*400"):
        data.sample(place / "classes", 3, tmp_path, guidance_interval=(0, 400), **options)


def test_changed_labels(place, tmp_path):
    data.sample(place / "classes", 4, tmp_path, labels=[1, 2], steps=2)
    with pytest.raises(DataError, match="changed since"):
        data.sample(place / "classes", 4, tmp_path, labels=[1, 3], steps=2)


def test_labels_of_one_file(place, tmp_path):
    """ADM's file has labels where every sample has one, and none where one has not."""
    latent = api_models.latents_of(api_models.textok(), 1)[0]
    latents = [(f"k{i}", {"npz": {"latent": latent}, "json": {"label": 8 - i}}) for i in range(5)]
    for name, samples, expected in (
        ("all", latents, [8, 7, 6, 5, 4]),
        ("some", [*latents, ("k", latents[0][1] | {"json": {}})], None),
    ):
        data.write_shards(samples, tmp_path / name)
        data.decode(place / "baseline", tmp_path / name, tmp_path / f"{name}-out", format="npz", shard_size=2)
        pictures, labels = data.read_adm(tmp_path / f"{name}-out" / "samples.npz")
        assert len(pictures) == len(samples) and (labels is None if expected is None else labels.tolist() == expected)


def test_input_that_changes_while_it_is_read(place, tmp_path, monkeypatch):
    shards = data_sets.make_shards(tmp_path / "shards", [6])
    monkeypatch.setattr("textok.data.sources.ShardSource.state", lambda self, start, stop: str(time.monotonic_ns()))
    with pytest.raises(DataError, match="changed while it was read"):
        data.encode(place / "baseline", shards, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar"))


# ---- what is left out ----


def test_skips_are_reported(place, tmp_path):
    good = dict(data_sets.samples(0, 4))
    shard = [
        ("a", good["k000"]),
        ("corrupt", {"png": good["k001"]["png"][:200], "json": good["k001"]["json"]}),
        ("text", {"png": b"no picture at all", "json": good["k001"]["json"]}),
        ("bare", {"png": good["k002"]["png"]}),
        ("alone", {"json": good["k002"]["json"]}),
        ("unknown", {"png": good["k002"]["png"], "json": b'{"caption": "never embedded"}'}),
        ("long", {"png": data_sets.png(np.zeros((2, 300, 3), np.uint8)), "json": good["k003"]["json"]}),
        ("b", good["k003"]),
        ("cut", good["k002"]),
    ]
    path = data_sets.make_shard(tmp_path / "s.tar", shard)
    path.write_bytes(path.read_bytes().rstrip(b"\0")[:-600])
    done = data.encode(place / "textok", path, tmp_path / "out", embeddings=place / "captions", batch_size=2)
    found = {skip["key"]: skip["reason"] for skip in skips_of(tmp_path / "out")}
    assert [sample.key for sample in data.read_latents(tmp_path / "out")] == ["a", "b"]
    assert f", 8 skipped (see {tmp_path / 'out' / 'skips.jsonl'})" in str(done)
    assert done.skipped == len(found) == 8 and json.loads((tmp_path / "out" / "index.json").read_text())["skipped"] == 8
    for key, reason in (
        ("corrupt", "not a picture that can be read"),
        ("text", "no kind of picture"),
        ("bare", "a picture without a caption"),
        ("alone", "a caption without a picture"),
        ("unknown", "no embedding of its caption 'never embedded'"),
        ("long", "sides at most"),
        ("cut", "breaks off"),
        ("", "cannot be read on from byte"),
    ):
        assert reason in found[key]
    with pytest.raises(DataError, match="corrupt: not a picture"):
        data.encode(place / "textok", path, tmp_path / "strict", embeddings=place / "captions", strict=True)
    assert not (tmp_path / "strict" / "index.json").exists()


@pytest.mark.parametrize("format", ("png", "npz"))
def test_captions_that_are_embedded_later(place, tmp_path, format):
    """Samples left out for want of an embedding are there after the next run; parts that lacked none are not made again."""
    known, text = api_models.captions(), api_models.text_of(api_models.textok(), 18)
    store = textok.EmbeddingStore.create(tmp_path / "store", {"name": "made up"}, 12)
    names = known.captions(range(18))
    store.add(names[:10], text[:10])
    path = data_sets.make_shard(tmp_path / "s.tar", data_sets.samples(0, 18))
    options = {"embeddings": tmp_path / "store", "shard_size": 6}
    done = data.encode(place / "textok", path, tmp_path / "latents", **options)
    assert (done.samples, done.skipped, done.computed) == (10, 8, 18)
    latents = api_models.latents_of(api_models.textok(), 18)
    content = ((f"k{i}", {"npz": {"latent": z}, "json": {"caption": names[i]}}) for i, z in enumerate(latents))
    data.write_shards(content, tmp_path / "l")
    done = data.decode(place / "textok", tmp_path / "l", tmp_path / "pictures", format=format, **options)
    assert (done.samples, done.skipped) == (10, 8)
    assert data.encode(place / "textok", path, tmp_path / "latents", **options).computed == 0
    store.add(names, text)
    done = data.encode(place / "textok", path, tmp_path / "latents", **options)
    assert (done.samples, done.skipped, done.computed) == (18, 0, 12) and not skips_of(tmp_path / "latents")
    done = data.decode(place / "textok", tmp_path / "l", tmp_path / "pictures", format=format, **options)
    assert (done.samples, done.skipped, done.computed) == (18, 0, 18 if format == "npz" else 12)
    data.encode(place / "textok", path, tmp_path / "anew", **options)
    assert data_sets.contents(tmp_path / "anew") == data_sets.contents(tmp_path / "latents")
    data.decode(place / "textok", tmp_path / "l", tmp_path / "new", format=format, **options)
    assert data_sets.contents(tmp_path / "new") == data_sets.contents(tmp_path / "pictures")


def test_latents_that_cannot_be_decoded(place, tmp_path, caplog):
    z = api_models.latents_of(api_models.textok(), 3)
    content = [
        ("a", {"npz": {"latent": z[0]}}),
        ("b", {"npz": b"broken"}),
        ("c", {"npz": {"latent": z[:, 0]}}),
        ("d", {"json": {}}),
    ]
    data.write_shards(content, tmp_path / "latents")
    done = data.decode(place / "baseline", tmp_path / "latents", tmp_path / "out")
    assert done.samples == 1 and {skip["key"] for skip in skips_of(tmp_path / "out")} == {"b", "c", "d"}
    skips = []
    assert [sample.key for sample in data.read_latents(tmp_path / "latents", skips=skips)] == ["a", "c"] and len(skips) == 2
    with caplog.at_level("WARNING"):
        assert [sample.key for sample in data.read_latents(tmp_path / "latents")] == ["a", "c"]
    assert [record.getMessage().split(": ")[0].split()[-1] for record in caplog.records] == ["b", "d"]
    with pytest.raises(DataError, match="b: not npz data"):
        list(data.read_latents(tmp_path / "latents", strict=True))


def test_what_does_not_fit(place, tmp_path):
    for call, message in (
        (lambda: encode(place, tmp_path / "o", embeddings=None), "--embeddings STORE"),
        (lambda: data.sample(place / "classes", 3, tmp_path / "o", labels=[10]), "labels: expected 0 to 9"),
        (lambda: data.sample(place / "texts", 3, tmp_path / "o"), "this model takes text"),
        (lambda: data.sample(place / "dit", 3, tmp_path / "o", format="png"), "expected one of 'shards'"),
        (lambda: data.encode("no-such-model", place / "shards", tmp_path / "o"), "no bundled model"),
        (lambda: encode(place, tmp_path / "o", share=(2, 2)), "i from 0 to n - 1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert cli.main(["encode", str(place / "textok"), str(place / "shards"), "--out", str(tmp_path / "o")]) == 1


def test_what_is_refused_leaves_its_folder_free(place, tmp_path):
    """Arguments that no model takes are found before a folder is made for them."""
    out = tmp_path / "o"
    for call, message in (
        (lambda: encode(place, out, embeddings=None), "--embeddings STORE"),
        (lambda: encode(place, out, dtype="float33"), "dtype: expected one of"),
        (lambda: data.decode(place / "textok", place / "shards", out), "--embeddings STORE"),
        (lambda: data.sample(place / "classes", 3, out, steps=1000), "steps: expected 1 to 999, got 1000"),
        (lambda: data.sample(place / "classes", 3, out, solver="ddin"), "solver: expected one of"),
        (lambda: data.sample(place / "classes", 3, out, guidance_scale=2000), "guidance_scale: expected"),
        (lambda: data.sample(place / "classes", 3, out, dtype="float33"), "dtype: expected one of"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
        assert not out.exists()
    assert data.sample(place / "classes", 3, out, steps=2).samples == 3


def test_a_run_that_has_made_nothing_yet_holds_no_samples(place, tmp_path):
    """Its plan is no picture's metadata."""
    (tmp_path / "o" / "parts").mkdir(parents=True)
    (tmp_path / "o" / "parts" / "plan.json").write_text("{}")
    with pytest.raises(DataError, match="expected shards, pictures or captions in this folder or below it, found none"):
        data.decode(place / "textok", tmp_path / "o", tmp_path / "p", embeddings=place / "captions")


def test_folders_are_listed_as_often_whatever_their_parts(tmp_path, monkeypatch):
    """A unit is looked at again at its end, when later ones are in work."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(40):
        (folder / f"{k:03d}.png").write_bytes(b"")
    listed = []
    monkeypatch.setattr(FolderSource, "_list", lambda self, plain=FolderSource._list: listed.append(1) or plain(self))
    counts = []
    for size in (40, 10, 2):
        listed.clear()
        source = FolderSource(folder)
        for start in range(0, len(source), size):
            source.state(start, start + size)
            list(source.read(start, start + size))
            if start:
                source.state(start - size, start)
        counts.append(len(listed))
    assert counts == [2, 2, 2]


# ---- code of one's own ----


def test_batches(place):
    skips = []
    found = list(data.batches(place / "shards", 16, batch_size=7, embeddings=place / "captions", threads=3, skips=skips))
    assert [key for batch in found for key in batch.keys] == [f"k{i:03d}" for i in range(45)] and skips == []
    x = textok.preprocess([data_sets.picture(i) for i in range(45)], 16)
    assert np.array_equal(np.concatenate([batch.pictures for batch in found]), x)
    text, lengths = api_models.captions().embeddings([data_sets.caption(i) for i in range(7)])
    assert np.array_equal(found[0].text, text) and np.array_equal(found[0].text_lengths, lengths)


def test_batches_by_position(place, tmp_path):
    """Of one source; with more of them nobody knows which row is whose."""
    text = np.random.default_rng(0).standard_normal((2, 7, 12)).astype(np.float32)
    np.save(tmp_path / "t.npy", text)
    np.save(tmp_path / "more.npy", np.tile(text, (2, 1, 1)))
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.stack([data_sets.picture(i, 16)[:, :16] for i in range(2)]))
    for embeddings in (tmp_path / "t.npy", textok.open_embeddings(tmp_path / "t.npy")):
        (batch,) = data.batches(tmp_path / "a.npy", 16, embeddings=embeddings)
        assert np.array_equal(batch.text, text)
        for paths in (iter([tmp_path / "a.npy", tmp_path / "b.npy"]), place / "shards"):
            with pytest.raises(DataError, match="positions only.* got .*, "):
                list(data.batches(paths, 16, embeddings=embeddings))
    with pytest.raises(DataError, match="more.npy: expected a row for each sample, .* 2 in .*a.npy, got 4; an .npz with"):
        list(data.batches(tmp_path / "a.npy", 16, embeddings=tmp_path / "more.npy"))


def test_latents_beside_webdataset_and_torch(encoded):
    """What a PyTorch user does with them: webdataset's decoder and torch's DataLoader give the same arrays."""
    wds = pytest.importorskip("webdataset")
    torch = pytest.importorskip("torch")
    shards = sorted(map(str, encoded.glob("*.tar")))
    dataset = wds.WebDataset(shards, shardshuffle=False, empty_check=False).decode().to_tuple("npz", "json")
    loader = torch.utils.data.DataLoader(dataset, batch_size=None)
    found = [(np.asarray(arrays["latent"]), metadata) for arrays, metadata in loader]
    ours = list(data.read_latents(encoded))
    assert len(found) == len(ours) == 45
    for (latent, metadata), sample in zip(found, ours):
        assert np.array_equal(latent, sample.latent) and metadata == sample.metadata
