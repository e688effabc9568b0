"""benchmarks/paper: its data are what they were, the splits follow their rule, and the evaluation's arithmetic."""

import io
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAPER = Path(__file__).parent.parent / "benchmarks" / "paper"
sys.path.insert(0, str(PAPER))

import make_data

SHARDS = ("fluent", "google", "twitter")


@pytest.fixture(scope="module")
def samples():
    return {name: list(make_data.samples(PAPER / "data" / f"{name}.tar.gz")) for name in SHARDS}


def test_smaller_shards_hold_the_same_pixels_and_fields():
    kept = json.loads((PAPER / "data" / "digests.json").read_text())
    assert {name: make_data.digest(PAPER / "data" / f"{name}.tar.gz") for name in SHARDS} == kept


def test_data_are_what_the_card_says(samples):
    records = [{"key": key} | fields for name in SHARDS for key, _, fields in samples[name]]
    assert {name: len(samples[name]) for name in SHARDS} == {"google": 1911, "twitter": 1911, "fluent": 1852}
    assert all(pixels.shape == (64, 64, 3) for name in SHARDS for _, pixels, _ in samples[name])
    assert Counter(record["split"] for record in records) == {"train": 5148, "test": 526}
    labels = json.loads((PAPER / "data" / "labels.json").read_text())
    assert {record["label"] for record in records} == set(range(len(labels)))
    assert sum(file.stat().st_size for file in (PAPER / "data").iterdir()) < 20e6


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
    found = list(webdataset.WebDataset(str(PAPER / "data" / f"{name}.tar.gz"), shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in found] == [key for key, _, _ in samples[name]]
    for sample, (_, pixels, fields) in zip(found[::97], samples[name][::97], strict=True):
        assert (sample["webp"] == pixels).all() and sample["json"] == fields


def test_training_reads_them_and_their_splits(samples):
    pytest.importorskip("torch")
    from textok.train import data

    pairs = data.load_pairs(PAPER / "data", make_data.SPLIT_FILE, caption="caption_long")
    assert {split: len(pairs.rows(split)) for split in ("train", "test", "pair")} == {"train": 4640, "test": 526, "pair": 508}
    assert (pairs.images[:1852] == np.stack([pixels for _, pixels, _ in samples["fluent"]])).all() and not pairs.skips
