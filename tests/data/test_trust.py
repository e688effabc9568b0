"""What comes in as people have it: nothing in it ends a run, is dropped without a word, or is taken for what it is not."""

import io
import json
import logging
import os
import struct
import subprocess
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib

import api_models
import data_sets
import numpy as np
import pytest
from PIL import Image, ImageFile

import textok
from textok import cli, data
from textok.data import read_samples
from textok.data.base import key_of
from textok.data.outputs import picture_path
from textok.data.sources import open_sources
from textok.data.texts import decode_text
from textok.errors import DataError
from textok.text.templates import TEMPLATES


def picture(seed=0, side=16, form="PNG", **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(buffer, form, **options)
    return buffer.getvalue()


def tar_of(path, members, **options):
    """A tar of (name, bytes, or the kind of a member and what it links to)."""
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def files_of(folder, **content):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data_of in content.items():
        (folder / name).write_bytes(data_of)
    return folder


def read(paths, **options):
    skips = []
    return list(read_samples(paths, skips=skips, **options)), skips


def keys(samples):
    return [sample.key for sample in samples]


def skips_in(folder):
    return [json.loads(line) for line in (folder / "skips.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return data_sets.models(tmp_path_factory.mktemp("models"))


# ---- pictures ----


@pytest.mark.parametrize("damage", data_sets.DAMAGED_EXIF)
def test_damaged_exif(place, tmp_path, damage):
    """Pillow raises struct.error and TypeError, which it documents nowhere; the others of the folder are encoded."""
    source = files_of(tmp_path / "in", **{"1.png": picture(1), "2.jpg": data_sets.DAMAGED_EXIF[damage], "3.png": picture(3)})
    done = data.encode(place / "baseline", source, tmp_path / "out")
    assert (done.samples, done.skipped) == (2, 1)
    (skip,) = skips_in(tmp_path / "out")
    assert skip["key"] == "2" and skip["source"].endswith("2.jpg") and "EXIF" in skip["reason"]
    with pytest.raises(ValueError, match="2.jpg.*EXIF"):
        textok.preprocess(source / "2.jpg", 16)


@pytest.mark.parametrize(
    "problem", (struct.error("x"), TypeError("x"), RuntimeError("x"), NotImplementedError("x"), KeyError("x"))
)
def test_whatever_a_plugin_raises(tmp_path, problem):
    """Of any kind, from a plugin of Pillow's: the sample is named with it."""

    class Raising(ImageFile.ImageFile):
        format = "RAISING"

        def _open(self):
            self._size, self._mode = (16, 16), "RGB"

        def load(self):
            raise problem

    Image.register_open("RAISING", Raising, lambda start: start.startswith(b"RAISING"))
    try:
        source = files_of(tmp_path / "in", **{"1.png": picture(1), "2.png": b"RAISING" * 9, "3.png": picture(3)})
        _, found = data.base.decode_pictures(read(source)[0], 16)
    finally:
        Image.ID.remove("RAISING")
        Image.OPEN.pop("RAISING")
    assert list(found) == [1] and type(problem).__name__ in found[1] and "x" in found[1]


@pytest.mark.filterwarnings("ignore")  # Pillow's own, of what it passes over
@pytest.mark.parametrize("form", ("AVIF", "DDS", "WEBP", "GIF", "TIFF", "JPEG2000", "PNG", "JPEG"))
def test_damaged_files(form):
    """At random bytes, whatever the form: a ValueError that names the picture, or a picture."""
    try:
        whole = picture(1, form=form)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {form}")
    rng, named = np.random.default_rng(0), 0
    for _ in range(60):
        content = bytearray(whole)
        for place in rng.integers(4, len(content), 6):
            content[place] = rng.integers(256)
        content = bytes(content[: rng.integers(20, len(content) + 1)] if rng.random() < 0.3 else content)
        try:
            assert data.base.decode_picture(content, 8, "name").shape == (8, 8, 3)
        except ValueError as problem:
            named += str(problem).startswith("name: not a picture")
    assert named > 5


def png_of(depth, kind, rows, transparent):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    width = len(rows[0]) * 8 // depth // {0: 1, 2: 3}[kind]
    head = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", head), (b"tRNS", transparent), (b"IDAT", body), (b"IEND", b""))
    )


def test_transparent_colours():
    """One grey or colour that is transparent, at every depth: it is white, and its neighbours stay as they are."""
    grey16 = png_of(16, 0, [struct.pack(">4H", 0, 1000, 1001, 65535)] * 4, struct.pack(">H", 1000))
    grey8 = png_of(8, 0, [bytes([0, 10, 11, 255])] * 4, struct.pack(">H", 10))
    grey4 = png_of(4, 0, [bytes([0x05, 0x6F])] * 4, struct.pack(">H", 5))
    grey2 = png_of(2, 0, [bytes([0b00011011])] * 4, struct.pack(">H", 1))
    colour16 = png_of(
        16,
        2,
        [struct.pack(">12H", 0, 0, 0, 256, 512, 768, 1024, 512, 768, 65535, 65535, 65535)] * 4,
        struct.pack(">3H", 256, 512, 768),
    )
    for content, expected in (
        (grey16, [0, 255, 4, 255]),
        (grey8, [0, 255, 11, 255]),
        (grey4, [0, 255, 102, 255]),
        (grey2, [0, 255, 170, 255]),
        (colour16, [0, 255, 4, 255]),
    ):
        (pixels,) = textok.preprocess([Image.open(io.BytesIO(content))], 4) if content is grey16 else [None]
        decoded = data.base.decode_picture(content, 4, "x")
        assert decoded[0, :, 0].tolist() == expected
        assert pixels is None or np.array_equal(pixels, decoded)


def test_floats_of_another_range_are_told_of(place):
    model = textok.TexTok.from_pretrained(place / "baseline")
    x = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    for call in (lambda: textok.preprocess(x, 16), lambda: model.encode(x), lambda: model.reconstruct(x)):
        with pytest.warns(UserWarning, match=r"lie in \[0, 1\].*range of pixels is \[-1, 1\]"):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in (x * 2 - 1, np.zeros_like(x), (x * 255).astype(np.uint8)):
            textok.preprocess(other, 16), model.encode(other)


# ---- text ----


def test_half_a_pair_in_a_caption(place, tmp_path):
    """A caption that UTF-8 cannot hold is named where it is needed; another field goes through all runs as it is."""
    (tmp_path / "c.jsonl").write_text('{"caption": "caption 1"}\n{"caption": "cut \\ud83d"}\n{"caption": "caption 2"}\n')
    samples, skips = read(tmp_path / "c.jsonl", need=("caption",))
    assert [sample.caption() for sample in samples] == ["caption 1", "caption 2"]
    assert "UTF-8 cannot hold: cut \\ud83d" in skips[0].reason
    members = [("a.png", picture(1)), ("a.json", b'{"caption": "caption 1", "title": "cut \\ud83d"}')]
    members += [("b.png", picture(2)), ("b.json", b'{"caption": "cut \\ud83d"}')]
    shard = tar_of(tmp_path / "s.tar", members)
    done = data.encode(place / "textok", shard, tmp_path / "l", embeddings=place / "captions")
    assert (done.samples, done.skipped) == (1, 1) and skips_in(tmp_path / "l")[0]["key"] == "b"
    for form in ("png", "shards"):
        data.decode(place / "baseline", tmp_path / "l", tmp_path / form, format=form)
        (sample,) = read(tmp_path / form)[0]
        assert sample.metadata["title"] == "cut \ud83d"
    for _ in range(2):  # and every rerun
        assert data.encode(place / "textok", shard, tmp_path / "l", embeddings=place / "captions").computed == 0


def test_names_that_are_no_utf8(place, tmp_path):
    folder = files_of(tmp_path / "in", **{"ok.png": picture(1)})
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as file:
        file.write(picture(2))
    tar_of(
        tmp_path / "n.tar", [("ok.png", picture(1)), ("caf\xe9.png", picture(2))], format=tarfile.GNU_FORMAT, encoding="latin-1"
    )
    (tmp_path / "t.jsonl").write_text(
        '{"file_name": "in/ok.png"}\n{"file_name": "in/\\u0000.png"}\n{"file_name": "in/\\ud83d.png"}\n'
    )
    for name, lost in (("in", 1), ("n.tar", 1), ("t.jsonl", 2)):
        done = data.encode(place / "baseline", tmp_path / name, tmp_path / f"{name}-out")
        assert (done.samples, done.skipped) == (1, lost)
        assert data.encode(place / "baseline", tmp_path / name, tmp_path / f"{name}-out").computed == 0
    for name in ("in", "n.tar"):
        (skip,) = skips_in(tmp_path / f"{name}-out")
        assert skip["key"] == "caf\\xe9" and "UTF-8 cannot hold" in skip["reason"]


def test_encodings(tmp_path):
    """UTF-16 that says so is read, a byte order mark is no part of a text, and what is no UTF-8 is named."""
    for name, content, expected in (
        ("a.txt", "a cat\na dog\n".encode("utf-16"), ["a cat", "a dog"]),
        ("b.txt", b"\xef\xbb\xbfa cat\n", ["a cat"]),
        ("c.csv", "caption,n\r\ncafé,1\r\n".encode("utf-16"), ["café"]),
        ("d.jsonl", '{"caption": "é"}\n'.encode("utf-8-sig"), ["é"]),
        ("e.tsv", "caption\tn\né\t1\n".encode("utf-16-le"), None),
        ("f.csv", "caption,n\nok,1\ncafé,2\n".encode("latin-1"), ["ok"]),
        ("g.txt", "ok\ncafé\n".encode("latin-1"), ["ok"]),
    ):
        (tmp_path / name).write_bytes(content)
        samples, skips = read(tmp_path / name, need=("caption",))
        assert [sample.caption() for sample in samples] == (expected or []), name
        assert bool(skips) == (name in ("e.tsv", "f.csv", "g.txt")), name
        assert all("not UTF-8" in skip.reason or "NUL" in skip.reason for skip in skips), skips
    assert decode_text("é".encode("utf-32")) == "é"


# ---- tars ----


def test_tar_of_a_folder(tmp_path):
    """`tar -C DIR -cf x.tar .` has ./ before each name."""
    files_of(tmp_path / "d" / "sub", **{"b.png": picture(1), "b.txt": b"a cat"})
    files_of(tmp_path / "d", **{"a.png": picture(1), "a.txt": b"a cat"})
    subprocess.run(["tar", "--sort=name", "-C", tmp_path / "d", "-cf", tmp_path / "x.tar", "."], check=True)
    samples, skips = read(tmp_path / "x.tar", need=("picture", "caption"))
    assert sorted(keys(samples)) == ["a", "sub/b"] and not skips


@pytest.mark.parametrize("packed", ("", "gz"))
def test_links_in_tars(tmp_path, packed):
    link, soft, fifo = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE
    members = [("./d/a.png", picture(1)), ("b.png", (link, "./d/a.png")), ("d/c.png", (soft, "a.png"))]
    members += [("e.png", (link, "gone.png")), ("f.png", (soft, "/etc/passwd")), ("g.png", (fifo, "")), ("h.png", picture(2))]
    path = tmp_path / "s.tar"
    with tarfile.open(path, f"w:{packed}") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
            else:
                info.size = len(content)
            tar.addfile(info, None if isinstance(content, tuple) else io.BytesIO(content))
    samples, skips = read(path)
    assert keys(samples) == ["d/a", "b", "d/c", "h"] and len({sample.picture for sample in samples[:3]}) == 1
    assert [(skip.key, "link to" in skip.reason) for skip in skips] == [("e", True), ("f", True), ("g", False)]
    (source,) = open_sources(path)
    events = list(source.read())
    assert list(source.read(events[0].position)) == events[1:]


def test_members_without_extension(tmp_path):
    samples, skips = read(
        tar_of(tmp_path / "s.tar", [("a", picture(1, form="JPEG")), ("README", b"words"), ("b.png", picture(2))])
    )
    assert keys(samples) == ["a", "b"] and not skips


# ---- folders ----


def test_every_picture_of_a_folder(tmp_path):
    """Beside shards, below folders, under any name that pictures have, and without one."""
    root = files_of(tmp_path / "in", **{"a.png": picture(1)})
    names = ("b.jfif", "c.jpe", "d.heic", "e.tga", "f", "g.large", "h.PNG")
    files_of(root / "kinds", **{name: picture(2, form="JPEG") for name in names})
    files_of(root / "kinds", **{"notes": b"words", "LICENSE.md": b"words", "x.npy": b""})
    tar_of(root / "s.tar", [("x.png", picture(3))])
    (root / "deep" / "er").mkdir(parents=True)
    tar_of(root / "deep" / "er" / "t.tar", [("y.png", picture(4))])
    samples, skips = read(root)
    assert not skips and len({sample.picture for sample in samples}) == 4
    assert keys(samples) == ["x", "y", "a", *(f"kinds/{key}" for key in ("b", "c", "d", "e", "f", "g%2Elarge", "h"))]
    (root / "a.png").unlink()
    assert keys(read(root / "deep")[0]) == ["y"]


def test_what_is_no_file(tmp_path):
    """Broken links and pipes are named, links to a folder above are not followed, other folders are once for each link."""
    root = files_of(tmp_path / "in", **{"a.png": picture(1)})
    (root / "sub").mkdir()
    os.symlink("/mnt/gone/b.png", root / "b.png")
    os.symlink("..", root / "sub" / "up")
    os.symlink("self", root / "self")
    os.mkfifo(root / "pipe.png")
    (root / "t.jsonl").write_text('{"file_name": "pipe.png"}\n')
    samples, skips = read(root)
    assert keys(samples) == ["a"]
    reasons = {skip.key: skip.reason for skip in skips}
    assert set(reasons) == {"b", "sub/up", "self", "pipe"}
    assert "broken link to /mnt/gone/b.png" in reasons["b"] and "above" in reasons["sub/up"] and "pipe" in reasons["pipe"]
    samples, skips = read(root / "t.jsonl")
    assert not samples and "pipe" in skips[0].reason


def test_keys_are_one_to_one():
    names = ["a.b", "a%2Eb", "a%252Eb", "a%25b", "a%b", "a%.b", "a%2.b", "ab"]
    assert len({key_of(name) for name in names}) == len(names) and key_of("a.b") == "a%2Eb" and key_of("a%b") == "a%b"


def test_rows_of_metadata(tmp_path):
    """Each row is a caption of a picture, or is named: broken ones, those without a name, those of pictures that are gone."""
    root = files_of(tmp_path / "in", **{f"{k}.png": picture(k) for k in (1, 2, 3)})
    rows = [
        '{"file_name": "1.png", "caption": "one"}',
        '{"file_name": "2.png", "caption": "two",}',
        '{"image": "3.png", "caption": "three"}',
    ]
    rows += [
        '{"caption": "four"}',
        '{"file_name": "./1.png", "caption": "uno"}',
        '{"file_name": "img/gone.png"}',
        '{"file_name": "../x.png"}',
    ]
    (root / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    samples, skips = read(root)
    assert [(sample.key, sample.caption()) for sample in samples] == [("1", "one"), ("1~2", "uno"), ("2", None), ("3", "three")]
    assert samples[0].picture == samples[1].picture
    found = {(os.path.relpath(skip.source, root), skip.reason.partition(":")[0]) for skip in skips}
    assert {
        ("metadata.jsonl", "row 2"),
        ("metadata.jsonl", "row 4"),
        ("img/gone.png", "named in metadata.jsonl, but not there"),
    } <= found
    assert len(skips) == 4
    (root / "metadata.jsonl").unlink()
    (root / "metadata.csv").write_text("file_name,caption,label\n1.png,one,4\n2.png,two,5\n")
    samples, skips = read(root)
    assert [(sample.caption(), sample.metadata.get("label")) for sample in samples] == [("one", 4), ("two", 5), (None, None)]
    (root / "metadata.csv").rename(root / "metadata.parquet")
    assert "not read" in read(root)[1][0].reason


# ---- classes and labels ----


def test_classes_below_splits(tmp_path):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            files_of(tmp_path / split / name, **{"0.png": picture()})
    samples, _ = read(tmp_path)
    told = [
        (sample.key, sample.metadata["split"], sample.metadata["class_name"], sample.metadata["label"]) for sample in samples
    ]
    expected = [(f"{s}/{c}/0", s, c, n) for s in ("train", "val") for n, c in enumerate(("cat", "dog"))]
    assert told == expected and samples[0].caption("short") == "a photo of a cat"


def test_folders_that_are_no_classes(tmp_path):
    files_of(tmp_path / "m" / "img", **{"a.png": picture()})
    (tmp_path / "m" / "metadata.jsonl").write_text('{"file_name": "img/a.png", "caption": "x"}\n')
    files_of(tmp_path / "n" / "images", **{"a.png": picture()})
    for name in "mn":
        assert "label" not in read(tmp_path / name)[0][0].metadata


def test_a_stray_picture_takes_no_labels(tmp_path, caplog):
    for name in ("1", "2", "10"):
        files_of(tmp_path / name, **{"0.png": picture()})
    files_of(tmp_path, **{"preview.png": picture()})
    with caplog.at_level(logging.WARNING):
        samples, _ = read(tmp_path)
    assert [(sample.key, sample.metadata.get("label")) for sample in samples] == [
        ("preview", None),
        ("1/0", 0),
        ("10/0", 1),
        ("2/0", 2),
    ]
    assert "order of their names as text" in caplog.text
    caplog.clear()
    for name in ("1", "2", "10"):
        (tmp_path / name).rename(tmp_path / f"c{name}")
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert not caplog.text


def test_captions_and_classes_of_samples(tmp_path):
    p = picture()
    members = [("a.png", p), ("a.json", b'{"caption": null, "label": null}'), ("a.txt", b"real text"), ("a.cls", b"3")]
    members += [("b.png", p), ("b.json", b'{"caption": ["one", "two"]}'), ("c.png", p), ("c.txt", b"\xef\xbb\xbfa cat")]
    members += [("d.png", p), ("d.txt", b"a dog"), ("d.cls", b"dog")]
    samples, skips = read(tar_of(tmp_path / "s.tar", members), need=("picture", "caption"))
    assert [sample.captions() for sample in samples] == [["real text"], ["one", "two"], ["a cat"], ["a dog"]] and not skips
    assert samples[0].metadata["label"] == 3 and samples[3].metadata["class_name"] == "dog"
    _, skips = read(tmp_path / "s.tar", need=("label",))
    assert [skip.key for skip in skips] == ["b", "c", "d"] and "'dog'" in skips[2].reason
    _, skips = read(tmp_path / "s.tar", need=("caption",), field="title")
    assert "its fields are caption, label" in skips[0].reason


# ---- tables ----


def captions_of(path):
    samples, skips = read(path, need=("caption",))
    return [sample.caption() for sample in samples], [skip.reason for skip in skips]


def test_quotes_between_tabs(tmp_path):
    lines = [
        '"Big" sign on a wall\tu1',
        '"unbalanced at start\tu2',
        "third\tu3",
        'he said "hello" twice\tu5',
        '"he said ""hi"""\tu6',
    ]
    (tmp_path / "q.tsv").write_text("caption\turl\n" + "\n".join(lines) + "\n")
    expected = ['"Big" sign on a wall', '"unbalanced at start', "third", 'he said "hello" twice', 'he said "hi"']
    assert captions_of(tmp_path / "q.tsv") == (expected, [])
    (tmp_path / "all.tsv").write_text('"caption"\t"url"\n"a\tb"\t"u"\n"two\nlines"\t"v"\n')
    assert captions_of(tmp_path / "all.tsv") == (["a\tb", "two\nlines"], [])


def test_a_row_costs_no_other(tmp_path):
    """Long fields, quotes that are never closed, rows of other lengths: what is lost is named, and all else is read."""
    (tmp_path / "long.csv").write_text("caption,n\nfirst,1\n" + "x " * 70000 + ",2\nthird,3\n")
    found, reasons = captions_of(tmp_path / "long.csv")
    assert [len(caption) for caption in found] == [5, 140000, 5] and not reasons
    rows = "".join(f"caption {k},{k}\n" for k in range(3000))
    (tmp_path / "open.csv").write_text(f'caption,n\n"never closed,0\n{rows}"two\nlines",1\nshort\nlast,2\n')
    found, reasons = captions_of(tmp_path / "open.csv")
    assert found == [*(f"caption {k}" for k in range(3000)), "two\nlines", "last"]
    assert len(reasons) == 2 and "quote" in reasons[0] and "expected 2 columns, got 1" in reasons[1]


def test_tables_without_names_of_columns(tmp_path, caplog):
    (tmp_path / "t.tsv").write_text("a very nice dog on grass\thttp://x/1.jpg\na cat\thttp://x/2.jpg\n")
    with caplog.at_level(logging.WARNING):
        assert captions_of(tmp_path / "t.tsv") == (["a very nice dog on grass", "a cat"], [])
    assert "names no columns" in caplog.text and "caption, url" in caplog.text
    (tmp_path / "named.tsv").write_text("what is seen\taddress\na cat\thttp://x\n")
    assert captions_of(tmp_path / "named.tsv")[0] == []
    files_of(tmp_path, **{"p.png": picture()})
    (tmp_path / "f.csv").write_text("p.png,a red house by the sea,7\n")
    (sample,) = read(tmp_path / "f.csv")[0]
    assert sample.caption() == "a red house by the sea" and sample.metadata["label"] == 7


# ---- runs ----


def test_a_run_that_skipped_everything(place, tmp_path, capsys):
    """Exits 1, says why and which fields there are."""
    files_of(tmp_path / "in", **{"a.png": picture(1), "a.json": b'{"title": "t", "text": "x"}'})
    out = tmp_path / "out"
    line = ["encode", place / "textok", tmp_path / "in", "--embeddings", place / "captions", "--out", out]
    for _ in range(2):
        assert cli.main([str(word) for word in line]) == 1
        told = capsys.readouterr()
        assert (
            "all 1 samples are skipped" in told.err
            and "fields there are: title, text" in told.err
            and told.err.count("\n") == 1
        )
    assert cli.main([str(word) for word in (*line, "--field", "text", "--overwrite")]) == 1
    assert "no embedding of its caption 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("template", ("name", "short", "long"))
def test_a_template_is_a_field_by_its_name(place, tmp_path, template):
    """What `textok embed --template short` embedded, `--field short` finds."""
    source = files_of(tmp_path / "in" / "grey_fox", **{"0.png": picture()}).parent
    store = textok.EmbeddingStore.create(tmp_path / "store", {"name": "letters"}, 12)
    store.embed([TEMPLATES[template].format(name="grey fox")], Letters(store._identity))
    done = data.encode(place / "textok", source, tmp_path / "out", embeddings=tmp_path / "store", field=template)
    assert (done.samples, done.skipped) == (1, 0)


def test_names_that_no_file_can_have(place, tmp_path):
    """Long keys, and a class that is called as the folder of a run's records: decoded, and read again under their own keys."""
    z = api_models.latents_of(api_models.textok(), 6)
    wanted = ["k" * 300, "é" * 200 + "/b", "parts/0", "%70arts/0", "a.png/b", "/".join(["deep"] * 600)]
    data.write_shards([(key, {"npz": {"latent": row}}) for key, row in zip(wanted, z)], tmp_path / "latents")
    done = data.decode(place / "baseline", tmp_path / "latents", tmp_path / "out", shard_size=2)
    assert (done.samples, done.skipped) == (6, 0)
    assert data.decode(place / "baseline", tmp_path / "latents", tmp_path / "out", shard_size=2).computed == 0
    found = {sample.key: sample.picture for sample in read(tmp_path / "out")[0]}
    assert set(found) == set(wanted) and len(set(found.values())) == 6
    assert (
        len({picture_path(tmp_path, key) for key in wanted}) == 6 and picture_path(tmp_path, "a/b") == tmp_path / "a" / "b.png"
    )


def test_results_are_no_source(place, tmp_path):
    """A run into a folder below its source does not read itself when it is run again."""
    source = files_of(tmp_path / "in", **{"a.png": picture(1)})
    for _ in range(2):
        done = data.encode(place / "baseline", source, source / "latents")
        assert (done.samples, done.skipped) == (1, 0)
    for _ in range(2):
        done = data.decode(place / "baseline", source / "latents", source / "latents" / "pictures")
        assert (done.samples, done.skipped) == (1, 0)


def test_what_a_table_said_of_its_picture(place, tmp_path):
    """The name of a picture that came in is not that of the picture that goes out."""
    source = files_of(tmp_path / "in" / "img", **{"a.png": picture(1)}).parent
    (source / "metadata.jsonl").write_text('{"file_name": "img/a.png", "caption": "x"}\n')
    data.encode(place / "baseline", source, tmp_path / "l")
    data.decode(place / "baseline", tmp_path / "l", tmp_path / "p", format="png")
    (sample,), skips = read(tmp_path / "p")
    assert (sample.key, sample.caption(), skips) == ("img/a", "x", [])


# ---- Python ----


class Letters:
    text_dim = 12

    def __init__(self, identity):
        self.identity = identity

    def tokenize(self, captions):
        return [[len(caption)] for caption in captions], [1] * len(captions)

    def run(self, ids):
        return [np.full((1, 12), row[0], np.float32) for row in ids]


def test_a_string_is_no_list_of_captions(tmp_path):
    store = textok.EmbeddingStore.create(tmp_path / "s", {"name": "letters"}, 12)
    encoder = Letters(store._identity)
    for call in (
        lambda: store.embed("a cat", encoder),
        lambda: store.missing("a cat"),
        lambda: store.add("a", np.zeros((1, 1, 12))),
    ):
        with pytest.raises(TypeError, match="captions: expected a list of strings, got 'a"):
            call()
    assert not list(store)
    store.embed(np.array(["a cat", "a dog"]), encoder)
    assert sorted(store) == ["a cat", "a dog"] and store.embeddings(np.array(["a cat"]))[0].shape == (1, 1, 12)
    assert store.embeddings("a cat")[0].shape == (1, 1, 12)


def test_labels_that_nobody_needs(place, tmp_path):
    x = np.stack([np.asarray(Image.open(io.BytesIO(picture(k)))) for k in range(3)])
    np.savez(tmp_path / "x.npz", arr_0=x, arr_1=np.eye(3))
    samples, skips = read(tmp_path / "x.npz")
    assert len(samples) == 3 and not skips and "label" not in samples[0].metadata
    _, skips = read(tmp_path / "x.npz", need=("label",))
    assert len(skips) == 3 and "expected integers [3], got float64 [3, 3]" in skips[0].reason
    with pytest.raises(DataError, match="arr_1: expected integers"):
        data.read_adm(tmp_path / "x.npz")


# --- Rows of NumPy's files ----------------------------------------------------------------------------------------------------


def _with_directory(archive, at, value):
    """An .npz whose first entry in the directory has another value of two bytes at this place."""
    start = archive.index(b"PK\x01\x02") + at
    return archive[:start] + struct.pack("<H", value) + archive[start + 2 :]


def test_rows_of_damaged_archives(tmp_path):
    buffer, packed = io.BytesIO(), io.BytesIO()
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    np.savez(buffer, arr_0=pictures)
    np.savez_compressed(packed, arr_0=pictures)
    whole, deflated = buffer.getvalue(), packed.getvalue()
    harms = {
        "another compression": _with_directory(whole, 10, 99),
        "encrypted": _with_directory(whole, 8, 1),
        "deflated bytes": deflated[:400] + b"\xff" * 200 + deflated[600:],
        "a byte": whole[:300] + bytes([whole[300] ^ 1]) + whole[301:],
        "cut": whole[:-40],
    }
    for name, content in harms.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        for reads in (data.read_adm, lambda path: list(read_samples(path)), lambda path: list(data.read_latents(path))):
            with pytest.raises(DataError, match=rf"{name}.npz: not a NumPy file that can be read: [^\n]+$"):
                reads(path)


@pytest.mark.parametrize(
    "shape, reason",
    [
        ((10**6, 10**6, 10**6, 3), "the file ends before the last of its 1000000 pictures"),
        ((-1, 4, 4, 3), "expected rows of numbers in C order"),
        ((1 << 70, 4, 4, 3), "expected rows of numbers in C order"),
    ],
)
def test_rows_that_a_header_only_claims(tmp_path, shape, reason):
    header = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
    path = tmp_path / "claims.npy"
    path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(99))
    with pytest.raises(DataError, match=reason):
        data.read_adm(path)
    if "C order" in reason:
        with pytest.raises(DataError, match=reason):
            len(open_sources(path)[0])


@pytest.mark.parametrize("name", ("claims.npy", "claims.npz"))
def test_a_run_over_rows_that_a_header_only_claims(place, tmp_path, name):
    """Rows that are there are read, and one skip says what was claimed; a run makes no files for the others."""
    header = repr({"descr": "|u1", "fortran_order": False, "shape": (1 << 23, 64, 64, 3)}).encode()
    content = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(64 * 64 * 3 * 2)
    path = tmp_path / name
    path.write_bytes(content)
    if name.endswith("z"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("arr_0.npy", content)
    for size in (1, 2, 100):
        assert len(open_sources(path)[0]) == 3
        done = data.encode(place / "baseline", path, tmp_path / f"{size}", shard_size=size)
        assert (done.samples, done.skipped) == (2, 1)
        (skip,) = skips_in(tmp_path / f"{size}")
        assert skip["key"] == "claims-00000002" and "the file ends in row 2 of 8388608" in skip["reason"]
        assert f"its header claims uint8 [8388608, 64, 64, 3], {len(content)} bytes are there" in skip["reason"]


@pytest.mark.parametrize("shape", ((1 << 61, 0, 64, 3), (1 << 61, 64, 0)))
def test_empty_rows_without_end(tmp_path, shape):
    header = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
    path = tmp_path / "empty.npy"
    path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
    with pytest.raises(DataError, match=r"empty.npy: .*rows of numbers, got empty ones: uint8 \[2305843009213693952, "):
        next(read_samples(path), None)
    with pytest.raises(DataError, match="empty ones"):
        len(open_sources(path)[0])


def test_a_header_longer_than_its_file(tmp_path):
    """NumPy takes the memory of a header before it looks whether the file has as much: here 4 GiB."""
    path = tmp_path / "header.npy"
    path.write_bytes(b"\x93NUMPY\2\0" + b"\xff" * 4 + bytes(99))
    for reads in (data.read_adm, textok.open_embeddings):
        tracemalloc.start()
        with pytest.raises(DataError, match="a header of 4294967295 bytes in a file of 111"):
            reads(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


# --- Arguments that are no such thing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: textok.metrics.Statistics(2).merge(None), "other: expected a Statistics, got NoneType None"),
        (lambda: textok.metrics.Statistics(2).distance([1, 2]), "other: expected a Statistics, got list"),
        (lambda: data.LatentStatistics(2).merge({}), "other: expected a LatentStatistics, got dict"),
        (lambda: data.Sample("a", None, None, "x"), "metadata: expected a dict, got NoneType"),
        (lambda: data.Skip(3, "x", "why"), "key: expected a string, got int 3"),
        (lambda: data.RunOptions(share=[]), r"share: expected \(i, n\)"),
        (lambda: textok.CaptionStore.from_embeddings([], 3), "embeddings: expected a store or what open_embeddings gives"),
        (lambda: data.TarWriter(True), "expected str, bytes or os.PathLike object, not bool"),
        (lambda: textok.SideConfig.from_dict({}, where=3), "where: expected a string, got int 3"),
        (lambda: textok.PipelineResult([], None, None, None, 0), "images: expected a NumPy array, got list"),
        (
            lambda: textok.PipelineResult(np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 1, 1)), ["a"], None, 0),
            "captions: expected a list of 2, one an image",
        ),
    ],
)
def test_what_is_no_such_thing(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_rows_from_a_number_of_few_bits(tmp_path):
    """A start of int8 must not wrap, nor may a view of several axes be gone through as a list."""
    pictures = np.arange(3 * 16 * 16 * 3, dtype=np.uint8).reshape(3, 16, 16, 3)
    data.write_adm(tmp_path / "a.npz", memoryview(pictures), 3)
    with data.open_rows(tmp_path / "a.npz") as rows:
        assert np.array_equal(next(rows.read(np.int8(2))), pictures[2])
