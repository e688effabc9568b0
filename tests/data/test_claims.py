"""What files of data claim and what they cost: text in any encoding, headers of shards, arrays of samples, deep folders. What
cannot be used is named, at once and without its memory; all else is read."""

import gzip
import io
import json
import os
import pickle
import re
import struct
import subprocess
import tarfile
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import textok
import textok.metrics
from textok import data
from textok.data import outputs, read_samples


@pytest.mark.parametrize("encoding", ("utf-8", "utf-16", "utf-32"))
def test_ends_of_lines(tmp_path, encoding):
    """LF, CR LF and CR, mixed; NEL and the like belong to a line."""
    text = "a cat\r\na dog\ra cow\n\r\r\na \u2028\x85\x0bhen\ran egg"
    (tmp_path / "x.txt").write_bytes(text.encode(encoding))
    (tmp_path / "x.csv").write_bytes(("caption\r" + text).encode(encoding))
    (tmp_path / "x.jsonl").write_bytes(re.sub(r"([^\r\n]+)", r'{"caption": "\1"}', text.replace("\x0b", " ")).encode(encoding))
    for kind in ("txt", "csv", "jsonl"):
        captions = [sample.caption() for sample in read_samples(tmp_path / f"x.{kind}", need=(), strict=True)]
        captions[3] = captions[3].replace("\x0b", " ")
        assert captions == ["a cat", "a dog", "a cow", "a \u2028\x85 hen", "an egg"], kind


@pytest.mark.parametrize(
    "encoding, broken",
    [("utf-16-le", b"\0\xd8"), ("utf-16-be", b"\xdc\0"), ("utf-32-le", b"\0\0\x11\0"), ("utf-8", b"\xed\xa0\x80")],
)
def test_a_line_costs_no_other(tmp_path, encoding, broken):
    """One that is no text is named by its number; in UTF-16 all before it were lost, too."""
    lines = ["\ufeffa cat", "a dog", "cut ", "a hen"] + [f"a line {k}" for k in range(20_000)]
    data = [f"{line}\n".encode(encoding) for line in lines]
    data[2] = data[2][: -len("\n".encode(encoding))] + broken + data[2][-len("\n".encode(encoding)) :]
    (tmp_path / "x.txt").write_bytes(b"".join(data) + "cut".encode(encoding)[: -1 if encoding != "utf-8" else None])
    skips = []
    captions = [sample.caption() for sample in read_samples(tmp_path / "x.txt", need=(), skips=skips)]
    assert captions[:3] == ["a cat", "a dog", "a hen"] and len(captions) == 20_003 + (encoding == "utf-8")
    assert [skip.key for skip in skips] == ["x-00000002", "x-00020004"][: 1 + (encoding != "utf-8")]
    assert f"line 3: not {encoding[:6]}" in skips[0].reason.lower()


def test_a_long_line_in_utf_16(tmp_path):
    (tmp_path / "x.txt").write_bytes(("a" * 20_000_000 + "\nb").encode("utf-16"))
    began = time.process_time()
    assert [len(sample.caption()) for sample in read_samples(tmp_path / "x.txt", need=())] == [20_000_000, 1]
    assert time.process_time() - began < 2


def test_a_class_in_any_encoding(tmp_path):
    for key, content in {"a": "\ufeff3".encode(), "b": "7\r\n".encode("utf-16"), "c": b"caf\xe9", "d": b"5"}.items():
        (tmp_path / f"{key}.cls").write_bytes(content)
        (tmp_path / f"{key}.txt").write_text("a cat")
    skips = []
    labels = [sample.metadata["label"] for sample in read_samples(tmp_path, need=("label",), skips=skips)]
    assert labels == [3, 7, 5] and [skip.key for skip in skips] == ["c"] and "not UTF-8" in skips[0].reason


def test_a_skip_names_the_file_that_cannot_be_read_and_what_is_empty(tmp_path):
    for key, content in {"a": "rôtie".encode("latin-1"), "b": b" \n"}.items():
        Image.new("RGB", (8, 8)).save(tmp_path / f"{key}.png")
        (tmp_path / f"{key}.txt").write_bytes(content)
    skips = []
    assert not list(read_samples(tmp_path, need=("caption",), skips=skips))
    assert [Path(skip.source).name for skip in skips] == ["a.txt", "b.png"]
    assert "not UTF-8" in skips[0].reason and skips[1].reason.endswith("'caption', which is empty")


def _header(kind, size, name="x"):
    header = tarfile.TarInfo(name)
    header.type, header.size = kind, size
    return header.tobuf(tarfile.GNU_FORMAT)


def _extended(body):
    return _header(b"x", len(body)) + body + bytes(-len(body) % 512)


def _member(name, content):
    return _header(b"0", len(content), name) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize(
    "header, reason",
    [
        (_extended(b"1" * 400_000), "a broken extended header"),  # tarfile's search takes minutes
        (_extended(b"2 " * 400_000 + b"="), "a broken extended header"),
        (_extended(b"100010 a=" + b"1" * 100_000 + b"\n"), "a number of hundreds of digits in an extended header"),
        (_header(b"x", 1 << 40), "a header of 1099511627776 bytes"),
        (_header(b"L", 1 << 40), "a header of 1099511627776 bytes"),
        (_header(b"g", 1 << 40), "a header of 1099511627776 bytes"),
        (_extended(b"8 a=bcd\n") * 3000, "maximum recursion depth exceeded"),
    ],
)
@pytest.mark.parametrize("packed", (False, True))
def test_headers_that_cost_too_much(tmp_path, header, reason, packed):
    """The samples before them are read, what follows is named, and it takes neither time nor memory."""
    content = b"".join(_member(f"{key}.txt", b"a cat") for key in "ab") + header + _member("c.txt", b"a cat") + bytes(1024)
    path = tmp_path / ("x.tgz" if packed else "x.tar")
    path.write_bytes(gzip.compress(content) if packed else content)
    skips = []
    began = time.process_time()
    assert [sample.key for sample in read_samples(path, need=("caption",), skips=skips)] == ["a"]
    assert time.process_time() - began < 2
    assert skips[0].key == "b" and skips[0].reason == "the shard breaks off in this sample or right after it"
    assert re.fullmatch(rf"the shard cannot be read on from byte 2048: {reason}.*", skips[1].reason) and len(skips) == 2


def test_extended_headers_are_read(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "a" * 2000}) as tar:
        for name in ("é" * 200, "b"):
            member = tarfile.TarInfo(f"{name}.txt")
            member.size, member.mtime, member.pax_headers = 5, 0.25, {"SCHILY.xattr.user.x": "1" * 200}
            tar.addfile(member, io.BytesIO(b"a cat"))
    assert [sample.key for sample in read_samples(tmp_path / "x.tar", need=("caption",), strict=True)] == ["é" * 200, "b"]


def test_members_of_any_size(tmp_path, monkeypatch):
    """A little gzip may hold any number of bytes; a sample has so many and no more."""
    from textok.data import shards

    monkeypatch.setattr(shards, "_MOST_OF_SAMPLE", 1 << 20)
    members = [("a.txt", b"a cat"), ("b.txt", bytes(2 << 20)), ("c.json", b"{}"), ("c.png", bytes(1 << 20))]
    members.append(("d.txt", b"a dog"))
    (tmp_path / "x.tgz").write_bytes(gzip.compress(b"".join(_member(*member) for member in members) + bytes(1024)))
    skips = []
    assert [sample.key for sample in read_samples(tmp_path / "x.tgz", need=("caption",), skips=skips)] == ["a", "d"]
    assert [(skip.key, skip.reason[:40]) for skip in skips][:2] == [
        ("b", "expected a sample of at most 1 MB, got o"),
        ("c", "expected a sample of at most 1 MB, got o"),
    ]


@pytest.fixture
def deep(tmp_path):
    """A folder for folders so deep that Python cannot remove them."""
    (tmp_path / "deep").mkdir()
    yield tmp_path / "deep"
    subprocess.run(["rm", "-rf", tmp_path / "deep"], check=True)


def test_folders_deeper_than_calls_may_be(deep):
    folder = os.open(deep, os.O_RDONLY)
    for name in [*["a"] * 1050, *["b" * 250] * 12]:  # at the end are paths that are too long for the system
        os.mkdir(name, dir_fd=folder)
        below = os.open(name, os.O_RDONLY, dir_fd=folder)
        if name != "a":
            os.close(os.open("x.txt", os.O_CREAT, dir_fd=folder))
        os.close(folder)
        folder = below
    os.close(folder)
    skips = []
    assert not list(read_samples(deep, skips=skips, need=("caption",)))
    assert skips[0].key.count("/") == 1050 and skips[0].reason.startswith("no caption") and 2 < len(skips) < 12
    assert skips[-1].reason == "it cannot be read: File name too long"


def _npy(descr, shape, data=b"", start=b"\x93NUMPY\1\0", length=None):
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    return start + struct.pack("<H", len(header) if length is None else length) + header + data


def _zipped(*members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of two members with one name
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def _one_for_many(count):
    """An .npz whose directory has one member many times, under other names."""
    whole = _zipped(("latent.npy", _npy("<f4", (250_000,), bytes(1_000_000))))
    start = whole.index(b"PK\1\2")
    entry = whole[start : whole.index(b"PK\5\6")]
    at = entry.index(b"latent")
    entries = b"".join(entry[:at] + b"%06d" % k + entry[at + 6 :] for k in range(count - 1)) + entry
    return whole[:start] + entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(entries), start, 0)


@pytest.mark.parametrize(
    "kind, content, reason",
    [
        ("npy", b"\x93NUMPY\2\0" + b"\xff" * 4 + bytes(99), "a header of 4294967295 bytes in a file of 111"),
        ("npy", _npy("<f4", (10**6, 10**6), bytes(99)), "float32 [1000000, 1000000] in"),
        ("npy", _npy("|O", (1, 1), bytes(99)), "objects, which textok does not read"),
        ("npy", pickle.dumps({"latent": 1}), "the magic string is not correct"),
        ("npz", _zipped(("latent.npy", _npy("<f4", (10**6, 10**6), bytes(99)))), "float32 [1000000, 1000000] in"),
        ("npz", _one_for_many(5000), "its members claim 5"),
        ("npz", _zipped(*[("latent.npy", _npy("<f4", (1, 1), bytes(4)))] * 2), "is there twice"),
        ("npz", _zipped(("latent.npy", _npy("<f4", (1, 1), bytes(4))), compression=zipfile.ZIP_LZMA), "packed by method 14"),
        ("npz", _zipped(("latent.npy", _zipped(("latent.npy", b"x")))), "the magic string is not correct"),
        ("npz", b"PK\3\4 not a zip", "File is not a zip file"),
        ("safetensors", (1 << 40).to_bytes(8, "little") + b"{}", "header"),
    ],
)
def test_what_a_samples_arrays_claim(tmp_path, kind, content, reason):
    """A sample whose file claims what it does not have is skipped, with the reason and without the memory; the next is read."""
    good = io.BytesIO()
    np.savez(good, latent=np.ones((2, 3), np.float32))
    with data.TarWriter(tmp_path / "l.tar") as tar:
        tar.add("bad", {kind: content})
        tar.add("good", {"npz": good.getvalue()})
    [latent] = data.read_latents(tmp_path / "l.tar", skips=[])  # imports what it needs
    skips = []
    tracemalloc.start()
    [latent] = data.read_latents(tmp_path / "l.tar", skips=skips)
    assert tracemalloc.get_traced_memory()[1] < 8 * len(content) + (1 << 20)
    tracemalloc.stop()
    assert latent.key == "good" and [skip.key for skip in skips] == ["bad"]
    assert skips[0].reason.startswith(f"not {kind} data that can be read: ") and reason in skips[0].reason
    assert skips[0].reason.isprintable()


@pytest.mark.parametrize(
    "arrays, reason",
    [
        ({"mu": np.zeros(2), "sigma": np.eye(2), "count": np.array(np.inf)}, "expected a finite count of rows"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "count": np.array([np.nan])}, "expected a finite count of rows"),
        ({"mu": np.zeros(2, complex), "sigma": np.eye(2)}, "expected numbers, got mu complex128"),
        ({"mu": np.array(["1", "2"]), "sigma": np.eye(2)}, "expected numbers, got mu <U1"),
        ({"a\nb\x1b": np.zeros(2)}, r"expected arrays mu and sigma, got a\nb\x1b"),
    ],
)
def test_statistics_that_are_none(tmp_path, arrays, reason):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(ValueError, match=re.escape(reason)):
        textok.metrics.Statistics.load(tmp_path / "s.npz")


def test_labels_that_no_model_has(tmp_path):
    """Skipped where a label is needed; where not, a number that ADM's file cannot hold leaves its labels out."""
    labels = {"a": 3, "b": -1, "c": 10**30, "d": True, "e": "4", "f": 2.0, "g": [1]}
    (tmp_path / "l.jsonl").write_text("".join(json.dumps({"key": key, "label": label}) + "\n" for key, label in labels.items()))
    skips = []
    found = [sample.key for sample in read_samples(tmp_path / "l.jsonl", need=("label",), skips=skips)]
    assert found == ["a", "e"] and [skip.key for skip in skips] == ["b", "c", "d", "f", "g"]
    assert skips[1].reason == f"expected an integer label from 0 on, got {10**30}"
    (tmp_path / "part.raw").write_bytes(bytes(192))
    record = {"file": "part.raw", "bytes": 192, "samples": 1}
    for label, there in ((3, True), (10**30, False)):
        rows = [record | {"rows": [["a", {"label": label}]]}]
        outputs.write_samples(tmp_path, tmp_path, lambda rows=rows: rows, 1)
        with np.load(tmp_path / outputs.SAMPLES_FILE) as written:
            assert ("arr_1" in written) is there


def test_names_of_any_bytes(tmp_path):
    """Every picture of a folder comes back or is named, also two of one name that is no text; no two have one key."""
    picture = b"\x89PNG"  # nothing reads it here
    names = [b"\xff.png", b"\xff.jpg", b"a.png", b"a.jpg", b"A.png", b"a.b.png", b"a%2Eb.png", b"\n.png", b"\x1b[0m .webp"]
    for name in (*names, "e\u0301.png".encode(), "é.png".encode(), b"\xed\xa0\x80.png", b"~2.png", b"*.png"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(picture)
    skips = []
    keys = [sample.key for sample in read_samples(tmp_path, skips=skips)]
    assert len(keys) == len(set(keys)) == 10 and len(keys) + len(skips) == 14
    assert [skip.source[len(str(tmp_path)) + 1 :] for skip in skips].count(r"\xff.png") == 1
