"""The data of the trainings: splits, order of batches. Needs torch; without it these are skipped."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from textok.train import data


def write_shard(path, records, size=8):
    """A tar of KEY.png and KEY.json, one a record; the picture's colour is its number."""
    with tarfile.open(path, "w") as tar:
        for number, record in enumerate(records):
            buffer = io.BytesIO()
            Image.new("RGB", (size, size), (number, 0, 0)).save(buffer, "png")
            told = json.dumps({k: v for k, v in record.items() if k != "key"}).encode()
            for kind, content in (("png", buffer.getvalue()), ("json", told)):
                member = tarfile.TarInfo(f"{record['key']}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path):
    records = [{"key": f"k{i}", "caption_long": "word " * (i + 1), "split": "test" if i == 3 else "train"} for i in range(6)]
    write_shard(tmp_path / "a.tar", records[:4])
    write_shard(tmp_path / "b.tar", records[4:])
    return tmp_path


def test_held_out_pairs_are_a_split_of_their_own(folder):
    (folder / "held.txt").write_text("k1\nk4\n")
    pairs = data.load_pairs(folder, folder / "held.txt")
    assert {split: pairs.rows(split).tolist() for split in ("train", "test", "pair")} == {
        "train": [0, 2, 5], "test": [3], "pair": [1, 4],
    }  # fmt: skip
    assert pairs.images.dtype == np.uint8 and pairs.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("key", ["k3", "nobody"])
def test_a_list_that_does_not_fit_is_named(folder, key):
    (folder / "held.txt").write_text(f"{key}\n")
    with pytest.raises(ValueError, match=f"held.txt: expected keys of the split train, got {key}"):
        data.load_pairs(folder, folder / "held.txt")
