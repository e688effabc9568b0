"""Files of numbers, captions and stores as nobody should have them: an error that names the file, at once."""

import itertools
import json
import os
import re
import struct
import tarfile
import time
import zipfile

import numpy as np
import pytest

import textok
from textok import CaptionStore, ConfigError, EmbeddingStore, TexTok, WeightsError, open_embeddings
from textok.cli import main
from textok.data import shards
from textok.errors import DataError
from textok.files import MAX_JSON_BYTES
from textok.metrics import Statistics
from textok.numpy_files import read_npy, read_npz

SIDE = {"hidden_size": 16, "depth": 1, "num_heads": 2}
SIZES = {"image_size": 16, "num_latent_tokens": 4, "latent_dim": 4, "text_dim": 8, "num_text_tokens": 4}


def npy(header, data=b""):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name.replace("__", "."), data)
    return path.read_bytes()


def broken_npz(tmp_path, flaw):
    path = tmp_path / "whole.npz"
    np.savez(path, text=np.ones((2, 2, 2)))
    whole = path.read_bytes()
    if flaw == "cut":
        return whole[:-30]
    if flaw == "no zip":
        return b"PK\x03\x04 not a zip"
    if flaw == "version":
        at = whole.index(b"PK\x01\x02") + 6
        return whole[:at] + b"\x63" + whole[at + 1 :]
    if flaw == "encrypted":
        at = whole.index(b"PK\x01\x02") + 8
        return whole[:at] + b"\x01" + whole[at + 1 :]
    if flaw == "damaged member":
        return whole[:200] + bytes([whole[200] ^ 255]) + whole[201:]
    members = {
        "no npy": b"hello",
        "cut header": npy("{'descr': '<f4', 'shape': (1,\n", bytes(8)),
        "claims much": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 2, 2)}\n", bytes(16)),
        "claims more than 64 bits": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**70}, 1, 1)}}\n", bytes(4)),
        "negative": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2, 2)}\n", bytes(16)),
        "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1, 1)}\n", bytes(8)),
    }
    return zipped(path, text__npy=members[flaw])


FLAWS = (
    "cut",
    "no zip",
    "version",
    "encrypted",
    "damaged member",
    "no npy",
    "cut header",
    "claims much",
    "claims more than 64 bits",
    "negative",
    "objects",
)


@pytest.mark.parametrize("flaw", FLAWS)
def test_archives_of_numbers(tmp_path, flaw):
    data = broken_npz(tmp_path, flaw)
    path = tmp_path / "a.npz"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npz: not embeddings that can be read"):
        open_embeddings(path)
    with pytest.raises(ValueError, match=r"a\.npz"):
        Statistics.load(path)


def test_a_whole_archive(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", zeros=np.zeros((1000, 1000)), one=np.ones(1))
    found = read_npz(tmp_path / "a.npz", DataError)
    assert found["zeros"].shape == (1000, 1000) and found["one"] == 1
    assert read_npz(tmp_path / "a.npz", DataError, ("one",)).keys() == {"one"}
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(2, 3))
    for mapped in (False, True):
        assert read_npy(tmp_path / "a.npy", DataError, mapped).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("name", ("a.npz", "a.npy", "a.safetensors", "a.lengths.npy"))
def test_pipes_are_not_waited_for(tmp_path, name):
    np.save(tmp_path / "a.npy", np.ones((1, 1, 1)))
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="expected a file, got something else"):
        open_embeddings(tmp_path / name.replace(".lengths", ""))
    if name == "a.npz":
        with pytest.raises(ValueError, match="expected a file, got something else"):
            Statistics.load(tmp_path / name)


# ---- stores ----


def store(tmp_path, count=20):
    made = EmbeddingStore.create(tmp_path / "store", {"name": "x"}, 8)
    made.add([f"c{i}" for i in range(count)], np.ones((count, 2, 8), np.float32))
    return made


def with_table(tmp_path):
    """A store whose table is on the disk, and what its file holds: header and slots."""
    from textok.text.segments import locked

    made = store(tmp_path)
    with locked(made.path / "lock"):
        made._entries.index.write_table()
    data = (made.path / "table").read_bytes()
    length = int.from_bytes(data[:8], "little")
    return made.path, json.loads(data[8 : 8 + length]), length, data[8 + length :]


def test_slots_of_a_table(tmp_path):
    """A slot with its top bit set is no negative number of a segment."""
    path, header, length, slots = with_table(tmp_path)
    for value in (2**63 + 7, 2**64 - 1, 1 << 40):
        damaged = np.full(len(slots) // 8, value, "<u8").tobytes()
        (path / "table").write_bytes(length.to_bytes(8, "little") + json.dumps(header).encode().ljust(length) + damaged)
        with pytest.raises(DataError, match="'table' is damaged; delete it"):
            open_embeddings(path).embeddings(["c1"])


@pytest.mark.parametrize(
    "change", ({"records": None}, {"records": -1}, {"segments": [["../x", 1]]}, {"segments": [["x", True]]}, {"slots": 7})
)
def test_headers_of_a_table(tmp_path, change):
    """A table that does not fit is passed over."""
    path, header, length, slots = with_table(tmp_path)
    text = json.dumps(header | change).encode()
    assert len(text) <= length
    (path / "table").write_bytes(length.to_bytes(8, "little") + text.ljust(length) + slots)
    found = open_embeddings(path)
    assert len(found) == 20 and found.embeddings(["c7"])[0].shape == (1, 2, 8)


def test_damaged_payloads(tmp_path):
    """A flipped bit is found where it is read, and by verify; other entries stay good."""
    path = store(tmp_path).path
    data = next((path / "segments").glob("*.data"))
    whole = bytearray(data.read_bytes())
    whole[3 * (2 * 8 * 2 + 2) + 5] ^= 0x40  # of c3: two tokens of 8 halves, two letters
    data.write_bytes(whole)
    found = open_embeddings(path)
    with pytest.raises(DataError, match="entry 3: its checksum does not fit, the file was changed or damaged"):
        found.embeddings(["c1", "c3"])
    assert found.embeddings(["c1", "c4"])[0].shape == (2, 2, 8)
    assert len(found.verify().problems) == 1


@pytest.mark.parametrize("kind", ("records", "data", "table", "lock", "claims"))
def test_pipes_in_a_store(tmp_path, kind):
    """Reading and adding either work without the file or say what it is; neither waits."""
    path, *_ = with_table(tmp_path)
    place = path / kind
    if kind in ("records", "data"):
        place = next((path / "segments").glob(f"*.{kind}"))
    elif kind == "claims":
        place = path / "segments" / "x.claims"
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    if kind in ("table", "claims"):
        found = open_embeddings(path)
        assert found.add(["n"], np.ones((1, 1, 8), np.float32)) == 1 and len(found) == 21
        return
    with pytest.raises((DataError, OSError)) as caught:
        found = open_embeddings(path)
        found.embeddings(["c1"])
        found.add(["n"], np.ones((1, 1, 8), np.float32))
    assert str(place) in str(caught.value)


def test_captions_without_end(tmp_path):
    """A line is read up to a bound: a sparse file takes no memory."""
    CaptionStore([{"caption": "a"}], np.ones((1, 2), np.float32), [0, 1]).save(tmp_path)
    os.truncate(tmp_path / "captions.jsonl", 3 << 30)
    with pytest.raises(WeightsError, match=r"captions\.jsonl, line 2: expected lines of less than 16 MB"):
        CaptionStore.from_folder(tmp_path)


def test_offsets_that_wrap():
    offsets = np.array([0, 2**62, -(2**63), -(2**62), 4])
    with pytest.raises(WeightsError, match="offsets: expected to rise from 0 to 4"):
        CaptionStore([{"caption": c} for c in "abcd"], np.ones((4, 2), np.float32), offsets)


# ---- shards ----


def test_names_of_members_are_split_as_webdataset_does():
    pattern = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
    for length in range(8):
        for name in map("".join, itertools.product("a./", repeat=length)):
            match = pattern.match(name)
            assert shards._split_name(name) == (match and (match[1], match[2])), name


@pytest.mark.parametrize("name", ("a/" * 30_000 + "b", "a/" * 30_000 + "x.y/.b", "./" * 400_000 + "b"))
def test_a_long_name_of_a_member(tmp_path, name):
    """Takes no time that grows with the square of its length, which may be a megabyte."""
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for member in ("a.png", name, "c.png"):
            tar.addfile(tarfile.TarInfo(member))
    began = time.process_time()
    assert [event.key for event in shards.ShardSource(tmp_path / "s.tar").read()] == ["a", "c"]
    assert time.process_time() - began < 2


# ---- models ----


@pytest.fixture
def folder(tmp_path):
    TexTok.from_config(SIZES | {"tokenizer": SIDE, "detokenizer": SIDE}).save_pretrained(tmp_path)
    return tmp_path


def test_names_that_are_there_twice(folder):
    """Found in a time that grows with their number, not its square."""
    names = ",".join(f'"k{i}":0' for i in range(1_000_000))
    text = "{" + names + ',"k999999":0}'
    assert len(text) < MAX_JSON_BYTES
    (folder / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="the name 'k999999' is there twice"):
        TexTok.from_pretrained(folder)


@pytest.mark.parametrize(
    ("key", "value"), (("norm_eps", "1" + "0" * 400), ("image_size", "1" + "0" * 4000), ("tokenizer", "[" * 900 + "]" * 900))
)
def test_values_that_are_too_much(folder, key, value):
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config)[:-1] + f', "{key}": {value}}}')
    with pytest.raises(ConfigError, match=key) as caught:
        TexTok.from_pretrained(folder)
    assert len(str(caught.value)) < 400


def test_what_info_is_shown(folder, capsys):
    config = json.loads((folder / "config.json").read_text())
    for kind in ({}, [], None, 3):
        (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
        assert main(["info", str(folder)]) == 1
        said = capsys.readouterr().err
        assert 'expected "model_type"' in said and len(said.splitlines()) == 1


def test_numbers_of_hundreds_of_digits():
    """As arguments: a ValueError with the range."""
    dit = textok.DiT.from_config({"num_tokens": 4, "hidden_size": 16, "depth": 1, "num_heads": 2, "num_classes": 3})
    for name, value in (
        ("eta", 10**400),
        ("guidance_scale", 10**400),
        ("guidance_interval", (0, 10**400)),
        ("steps", 10**5000),
    ):
        with pytest.raises(ValueError, match=name):
            dit.sample([0], **{"solver": "ddim", "seed": 0, name: value})
    with pytest.raises(ValueError, match="set_num_threads: expected 1 to"):
        textok.set_num_threads(10**30)
    with pytest.raises(TypeError):
        textok.set_num_threads(True)
