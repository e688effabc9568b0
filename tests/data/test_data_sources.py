"""Reading: every kind of source, its order and positions, and that nothing is left out without being named."""

import errno
import gzip
import io
import json
import pathlib
import pickle
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from textok.data import open_rows, open_sources, read_adm, read_samples, shards, write_adm, write_shards
from textok.data.sources import ArraySource, FolderSource, LineSource, PictureSource, ShardSource, TableSource
from textok.errors import DataError


def png(value=0, side=8):
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def make_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make_shard(path, count=5):
    members = []
    for i in range(count):
        members += [(f"k{i}.png", png(i)), (f"k{i}.json", json.dumps({"caption": f"caption {i}", "label": i}).encode())]
    return make_tar(path, members)


def read(paths, **options):
    skips = []
    return list(read_samples(paths, skips=skips, **options)), skips


def keys(samples):
    return [sample.key for sample in samples]


# ---- shards ----


def test_shard(tmp_path):
    members = [
        ("a/x.jpg", png(1)),
        ("a/x.txt", b" a caption\n"),
        ("a/x.cls", b"3"),
        ("b.seg.png", b"?"),
        ("b.png", png(2)),
        ("b.json", b'{"caption": "b", "n": 1}'),
    ]
    samples, skips = read(make_tar(tmp_path / "s.tar", members))
    assert keys(samples) == ["a/x", "b"] and skips == []
    assert samples[0].caption() == "a caption" and samples[0].metadata["label"] == 3
    assert (
        samples[1].picture == png(2)
        and samples[1].metadata == {"caption": "b", "n": 1}
        and set(samples[1].files) == {"seg.png", "png", "json"}
    )


def test_positions_go_on(tmp_path):
    """Whichever sample a reader stops after, its position leads to the next; gzipped shards alike."""
    plain = make_shard(tmp_path / "s.tar")
    packed = tmp_path / "s.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for source in (ShardSource(plain), ShardSource(packed)):
        events = list(source.read())
        for place, event in enumerate(events):
            assert list(source.read(event.position)) == events[place + 1 :]


def test_what_lacks_something_is_named(tmp_path):
    members = [
        ("a.png", png()),
        ("b.json", b'{"caption": "b"}'),
        ("c.png", png()),
        ("c.json", b"{"),
        ("d.png", png()),
        ("d.json", b'{"caption": " "}'),
    ]
    members += [("e.png", png()), ("e.txt", b"e"), ("../f.png", png()), ("g.png", png()), ("g.png", png()), ("g.txt", b"g")]
    samples, skips = read(make_tar(tmp_path / "s.tar", members), need=("picture", "caption"))
    assert keys(samples) == ["e", "g"]
    reasons = {skip.key: skip.reason for skip in skips}
    assert set(reasons) == {"a", "b", "c", "d", "../f", "g"} and all(skip.source.endswith("s.tar") for skip in skips)
    assert "without a caption" in reasons["a"] and "without a picture" in reasons["b"] and "not JSON" in reasons["c"]
    with pytest.raises(DataError, match="a picture without a caption"):
        list(read_samples(tmp_path / "s.tar", need=("picture", "caption"), strict=True))


def test_every_cut_of_a_shard_is_noticed(tmp_path):
    """Cut at any block, also between members, and with any header broken: what is whole comes out, and a skip tells of the
    rest.
    """
    whole = make_shard(tmp_path / "s.tar", 4).read_bytes()
    with tarfile.open(tmp_path / "s.tar") as tar:
        offsets = [member.offset for member in tar]
    cut = tmp_path / "cut.tar"
    end = whole.rstrip(b"\0")
    for length in range(0, len(end), 512):
        cut.write_bytes(whole[:length])
        samples, skips = read(cut)
        assert keys(samples) == [
            f"k{i}" for i in range(4) if (i + 1) * 2 < len(offsets) and offsets[(i + 1) * 2] + 512 <= length
        ], length
        assert skips and skips[-1].key == "" and str(cut) == skips[-1].source, length
    for number, offset in enumerate(offsets):
        cut.write_bytes(whole[: offset + 20] + b"\xff" + whole[offset + 21 :])
        samples, skips = read(cut)
        assert len(samples) == max((number - 1) // 2, 0) and skips, number


@pytest.mark.parametrize("content", [b"", b"not a tar" * 300, b"\x1f\x8b" + b"broken" * 200])
def test_no_shard(tmp_path, content):
    (tmp_path / "s.tar").write_bytes(content)
    samples, skips = read(tmp_path / "s.tar")
    assert samples == [] and len(skips) == 1


def test_empty_shard(tmp_path):
    samples, skips = read(make_tar(tmp_path / "s.tar", []))
    assert samples == [] and skips == []


# ---- folders ----


def test_folder(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "dogs").mkdir()
    (tmp_path / "cats" / "b.png").write_bytes(png(1))
    (tmp_path / "cats" / "b.txt").write_text("a cat")
    (tmp_path / "cats" / "lost.txt").write_text("no picture")
    (tmp_path / "dogs" / "a.v1.jpg").write_bytes(png(2))
    (tmp_path / "dogs" / "metadata.jsonl").write_text(
        '{"file_name": "a.v1.jpg", "caption": "a dog"}\n{"file_name": "gone.png", "caption": "x"}\n'
    )
    (tmp_path / "dogs" / ".hidden.png").write_bytes(b"")
    samples, skips = read(tmp_path)
    assert keys(samples) == ["cats/b", "dogs/a%2Ev1"]
    assert samples[0].metadata == {"caption": "a cat", "class_name": "cats", "label": 0}
    assert samples[1].caption() == "a dog" and samples[1].metadata["label"] == 1
    assert {skip.key: skip.reason for skip in skips} == {
        "cats/lost": "a caption without a picture",
        "dogs/gone": "named in metadata.jsonl, but not there",
    }
    source = FolderSource(tmp_path)
    events = list(source.read())
    assert len(source) == len(events) == 4
    for place, event in enumerate(events):
        assert [e.key for e in source.read(event.position)] == [e.key for e in events[place + 1 :]]


def test_state_follows_files(tmp_path):
    """The state of a range changes with its files, and with no others."""
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(png())
    source = FolderSource(tmp_path)
    first, rest = source.state(0, 1), source.state(1, 3)
    (tmp_path / "c.png").write_bytes(png(side=9))
    assert source.state(0, 1) == first and source.state(1, 3) != rest


def test_ranges_in_order_list_once(tmp_path, monkeypatch):
    """A folder of a million pictures is not listed anew for each of its parts; nor is it held in a pickle."""
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    listed = []
    plain = FolderSource._list
    monkeypatch.setattr(FolderSource, "_list", lambda self: listed.append(1) or plain(self))
    source = FolderSource(tmp_path)
    found = []
    for start in range(0, 10, 3):
        state = source.state(start, start + 3)
        found += keys(source.read(start, start + 3))
        assert source.state(start, start + 3) == state
        source = source if start else pickle.loads(pickle.dumps(source))
    assert found == [str(i) for i in range(10)] and len(listed) == 2
    assert keys(source.read(4, 6)) == ["4", "5"]


def test_a_second_picture_of_a_name(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "a.jpg").write_bytes(png())
    samples, skips = read(tmp_path)
    assert len(samples) == 1 and "a second picture" in skips[0].reason


@pytest.mark.parametrize("kind", ("shard", "folder", "table"))
def test_a_failing_disk_is_not_damage(tmp_path, monkeypatch, kind):
    """What could not be read this time ends the run with the file's name; what is not there is skipped."""
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "p.png").write_bytes(png())
    (tmp_path / "f" / "p.txt").write_text("a caption")
    (tmp_path / "t.jsonl").write_text('{"file_name": "f/p.png"}\n{"file_name": "f"}\n{"file_name": "gone.png"}\n')
    make_shard(tmp_path / "s.tar", 3)
    source = tmp_path / {"shard": "s.tar", "folder": "f", "table": "t.jsonl"}[kind]
    whole, skips = read(source)
    assert len(whole) == (3 if kind == "shard" else 1) and len(skips) == (2 if kind == "table" else 0)

    def broken(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    if kind == "shard":
        monkeypatch.setattr(shards, "_content", broken)
    else:
        monkeypatch.setattr(pathlib.Path, "read_bytes", broken)
    failed = {"shard": "s.tar", "folder": "p.txt", "table": "p.png"}[kind]  # what was being read
    with pytest.raises(OSError, match=rf"Input/output error: '.*{failed}'") as told:
        read(source)
    assert told.value.errno == errno.EIO


# ---- tables, lines, pictures ----


def test_tables(tmp_path):
    (tmp_path / "p.png").write_bytes(png(5))
    (tmp_path / "t.jsonl").write_text(
        '{"image": "p.png", "text": "one", "key": "own"}\n\nbad\n{"image": "gone.png", "text": "x"}\n'
    )
    samples, skips = read(tmp_path / "t.jsonl", field="text", need=("picture", "caption"))
    assert keys(samples) == ["own"] and samples[0].picture == png(5) and samples[0].caption("text") == "one"
    assert [skip.key for skip in skips] == ["t-00000001", "t-00000002"] and "No such file" in skips[1].reason
    (tmp_path / "t.csv").write_text('file_name,caption,label\np.png,"a, b",4\nshort\n')
    samples, skips = read(tmp_path / "t.csv", need=("picture", "caption", "label"))
    assert samples[0].caption() == "a, b" and samples[0].metadata["label"] == 4 and "columns" in skips[0].reason
    assert len(TableSource(tmp_path / "t.csv")) == 2
    (tmp_path / "u.csv").write_text('file_name;caption;label\np.png;"a; b";4\n')  # Excel's, where commas part decimals
    samples, skips = read(tmp_path / "u.csv", need=("picture", "caption", "label"))
    assert [(s.caption(), s.metadata["label"]) for s in samples] == [("a; b", 4)] and not skips


def test_a_row_cannot_name_its_sample_out_of_the_folder(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"key": "/etc/x", "caption": "a"}\n{"key": "a/../../x", "caption": "b"}\n')
    assert keys(read(tmp_path / "t.jsonl", need=())[0]) == ["t-00000000", "t-00000001"]


def test_lines(tmp_path, monkeypatch):
    text = b"one\n\n two \n" + b"\xff\n"
    (tmp_path / "c.txt").write_bytes(text)
    samples, skips = read(tmp_path / "c.txt", need=("caption",))
    assert (
        [s.caption() for s in samples] == ["one", "two"]
        and keys(samples) == ["c-00000000", "c-00000002"]
        and "UTF-8" in skips[0].reason
    )
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert [s.caption() for s in read("-", need=("caption",))[0]] == ["one", "two"]


def test_pictures_are_one_source(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png())
    (tmp_path / "b.txt").write_text("bee")
    make_shard(tmp_path / "s.tar", 1)
    sources = open_sources([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "s.tar", tmp_path / "a.png"])
    assert [type(source) for source in sources] == [PictureSource, ShardSource, PictureSource]
    samples = list(sources[0].read())
    assert keys(samples) == ["a", "b"] and samples[1].caption() == "bee"


def test_what_paths_are(tmp_path):
    make_shard(tmp_path / "b.tar", 1), make_shard(tmp_path / "a.tar", 1)
    assert [source.path.name for source in open_sources(tmp_path)] == ["a.tar", "b.tar"]
    (tmp_path / "x.bin").touch()
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    (tmp_path / "empty" / "inner" / "notes.md").touch()
    for name, message in (
        ("none", "no such file"),
        ("x.bin", "expected a folder"),
        ("empty", "expected shards, pictures or captions in this folder or below it, found none"),
    ):
        with pytest.raises(DataError, match=message):
            open_sources(tmp_path / name)
    with pytest.raises(DataError, match="got none"):
        open_sources([])
    (tmp_path / "c.txt").touch()
    assert isinstance(open_sources(tmp_path / "c.txt")[0], LineSource)


# ---- arrays ----


def test_arrays(tmp_path):
    pictures = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
    np.save(tmp_path / "a.npy", pictures)
    np.savez(tmp_path / "b.npz", arr_0=pictures, arr_1=np.array([4, 5, 6]))
    np.savez_compressed(tmp_path / "c.npz", images=pictures)
    for name, labels in (("a.npy", None), ("b.npz", [4, 5, 6]), ("c.npz", None)):
        samples, skips = read(tmp_path / name)
        assert skips == [] and np.array_equal(np.stack([s.picture for s in samples]), pictures)
        assert [s.metadata.get("label") for s in samples] == (labels or [None] * 3)
        assert len(list(ArraySource(tmp_path / name).read(2))) == 1


def test_broken_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 4, 3), np.uint8))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-50])
    samples, skips = read(tmp_path / "a.npy")
    assert len(samples) == 1 or len(samples) == 2
    assert len(skips) == 1 and "the file ends in row" in skips[0].reason
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "n.npz", other=np.zeros(3))
    (tmp_path / "z.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "e.npy").write_bytes(b"")
    for name in ("o.npy", "n.npz", "z.npz", "e.npy"):
        with pytest.raises(DataError, match=name):
            open_rows(tmp_path / name)


def test_adm(tmp_path):
    """What write_adm writes is what np.savez means, streamed and with the same bytes each time."""
    pictures = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), np.uint8)
    for name, labels in (("a", [1, 2, 3, 4, 5]), ("b", [1, 2, 3, 4, 5]), ("c", None)):
        write_adm(tmp_path / f"{name}.npz", iter(pictures), 5, labels)
        with np.load(tmp_path / f"{name}.npz") as there:
            assert there["arr_0"].dtype == np.uint8 and np.array_equal(there["arr_0"], pictures)
            assert there.files == (["arr_0", "arr_1"] if labels else ["arr_0"])
            assert labels is None or (there["arr_1"].dtype == np.int64 and there["arr_1"].tolist() == labels)
        back, classes = read_adm(tmp_path / f"{name}.npz")
        assert np.array_equal(back, pictures) and (classes is None) == (labels is None)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    for wrong in (pictures[:4], pictures.astype(np.float32), pictures[:, :, :, :2]):
        with pytest.raises(ValueError, match="pictures"):
            write_adm(tmp_path / "d.npz", wrong, 5)
        assert not (tmp_path / "d.npz").exists()
    write_adm(tmp_path / "e.npz", [], 0)
    assert read_adm(tmp_path / "e.npz")[0].shape == (0, 0, 0, 3)


# ---- keys ----


@pytest.mark.parametrize(
    "key", ("a", "", "a.b", "/abs", "../up", "b/../up", "./x", ".x", "__x__/y", "%5F_x__/y", "\udce9", "x\0")
)
def test_keys_that_no_reader_gives_back(tmp_path, key):
    content = [("a", {"txt": "a"}), (key, {"txt": "b"})]
    with pytest.raises(ValueError, match=re.escape(f"got {key!r}")):
        write_shards(content, tmp_path)
    assert not list(tmp_path.glob("*.tar"))


def test_keys_that_readers_give_back(tmp_path):
    keys_of = ["a/", "a//b", "a/b", "a b", "ü/日本", "x\n", "x\n.d/y", "a" * 300, "__x__", "__x/y", "x/__y__/z", "a.b/c"]
    write_shards([(key, {"txt": key}) for key in keys_of], tmp_path)
    assert keys(read(tmp_path, need=())[0]) == keys_of


def test_pictures_of_one_name(tmp_path):
    """Of several folders, and beside rows of metadata: no two samples have one key."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        for name in ("x.png", "x~2.png"):
            (tmp_path / folder / name).write_bytes(png())
    (source,) = open_sources([tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", tmp_path / "a" / "x~2.png"])
    assert keys(source.read()) == ["x", "x~2", "x~2~2"] and keys(source.read(1, 2)) == ["x~2"]
    (tmp_path / "a" / "metadata.jsonl").write_text('{"file_name": "x.png"}\n' * 3)
    assert keys(read(tmp_path / "a")[0]) == ["x", "x~3", "x~4", "x~2"]


# ---- beside webdataset ----


def test_shards_beside_webdataset(tmp_path):
    """webdataset reads what textok writes, and textok what webdataset writes, with the same keys and files."""
    wds = pytest.importorskip("webdataset")
    content = {
        f"d/k{i}": {"png": png(i), "json": json.dumps({"caption": str(i)}).encode(), "cls": str(i).encode()} for i in range(7)
    }
    paths = write_shards(content.items(), tmp_path / "ours", size=3)
    assert [path.name for path in paths] == [f"shard-{i:06d}.tar" for i in range(3)]
    ours = {}
    for sample in wds.WebDataset([str(path) for path in paths], shardshuffle=False, empty_check=False):
        ours[sample["__key__"]] = {name: data for name, data in sample.items() if not name.startswith("__")}
    assert ours == content
    with wds.TarWriter(str(tmp_path / "theirs.tar")) as writer:
        for key, files in content.items():
            writer.write({"__key__": key, **files})
    samples, skips = read(tmp_path / "theirs.tar")
    assert skips == [] and {sample.key: sample.files for sample in samples} == content
