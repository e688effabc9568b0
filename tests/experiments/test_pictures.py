"""The pictures' own scripts: what makes their set of packages, and what packs it for a small machine."""

import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

HERE = Path(__file__).resolve().parents[2] / "experiments" / "pictures"


def script(name):
    spec = importlib.util.spec_from_file_location(f"pictures_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_data = script("make_data")


def disc(colour, box=(20, 20, 60, 60), size=(80, 80)):
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse(box, fill=colour)
    return image


def shard(folder, samples):
    """A shard in `folder`, a green disc at the left for each key, and its metadata beside what all have; returns its path."""
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for key, fields in samples.items():
            png = io.BytesIO()
            disc("green", (5, 20, 45, 60)).convert("RGB").save(png, "PNG")
            told = json.dumps({"caption_long": "a disc", "split": "train"} | fields).encode()
            for kind, content in (("png", png.getvalue()), ("json", told)):
                member = tarfile.TarInfo(f"{key}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder / "a.tar"


def test_pictures_stand_on_white_and_blank_ones_are_none():
    square = np.asarray(make_data.on_white(disc("red")))
    assert square.shape == (128, 128, 3) and (square[0, 0] == 255).all() and square[64, 64].tolist() == [255, 0, 0]
    rows = np.flatnonzero((square < 128).any(axis=(1, 2)))
    assert abs(rows[0] - 5) <= 1 and abs(rows[-1] - 122) <= 1  # trimmed to what is seen, but for the margin
    for blank in (Image.new("RGBA", (9, 9)), Image.new("RGBA", (9, 9), "white")):
        assert make_data.on_white(blank) is None


def test_near_duplicates_are_seen():
    seen = make_data.Seen()
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    near = np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
    assert [seen.add(Image.fromarray(p)) for p in (pixels, near, pixels[::-1], 255 - pixels)] == [True, False, True, True]


def test_words_tell_what_pixels_show():
    pytest.importorskip("scipy")
    square = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(square).rectangle((0, 0, 63, 127), fill=(220, 40, 45))
    assert make_data.described(square) == (
        "It is almost all red. The shape is tall and thin, a full block, in one piece, covering 50 percent of the picture. "
        "Top left red; top right empty; bottom left red; bottom right empty; centre red and white."
    )
    assert make_data.described(Image.new("RGB", (128, 128), "white")) == "The picture is almost empty."


def test_concepts_are_split_whatever_the_source():
    splits = [make_data.split_of(f"thing {i}", False) for i in range(3000)]
    assert 0.04 < splits.count("test") / 3000 < 0.08 and splits.count("test") + splits.count("train") == 3000
    assert make_data.split_of("thing 0", True) == "style"


def test_a_shard_is_made_of_a_package(tmp_path):
    pytest.importorskip("scipy")
    folder = tmp_path / "usr/share/games/pysiogame/res/images/art4apps/farm_animals"
    folder.mkdir(parents=True)
    for name, colour in (("red_hen", "red"), ("blue_hen", "blue"), ("red_hen_2", "red")):
        disc(colour).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    counts = {}
    source = make_data.Source((), "free", make_data.read_pysiogame)
    found = make_data.samples("pysiogame", source, tmp_path, make_data.Seen(), counts)
    assert make_data.write(tmp_path / "a.tar.gz", "pysiogame", found) == 2
    assert counts == {"read": 4, "broken: UnidentifiedImageError": 1, "near-duplicates": 1}
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        told = json.loads(tar.extractfile("pysiogame-000000.json").read())
        picture = Image.open(io.BytesIO(tar.extractfile("pysiogame-000000.webp").read()))
    assert told["caption"] == "cartoon of blue hen, farm animals" and told["licence"] == "free" and picture.size == (128, 128)
    assert told["caption_long"] == f"{told['caption']}. {told['caption_described']}"
    with pytest.raises(FileNotFoundError, match="another version of the package"):
        next(make_data.read_freeorion(tmp_path))


def test_a_pack_has_what_is_trained_on(tmp_path):
    pytest.importorskip("torch")
    pack = script("pack")
    test_key, style_key = ((HERE / f"{name}.txt").read_text().split()[0] for name in ("test", "style"))

    shard(
        tmp_path / "pictures",
        {
            "a": {"source": "icons", "caption_long": "Left hand. Top left red; top right blue, bright"},
            "b": {"source": "crawl"},
            "c": {"source": "pysiogame", "caption_long": "a flag (flags, country flag)"},
            test_key: {"source": "pysiogame"},
            style_key: {"source": "emojione", "split": "style"},
        },
    )
    shard(tmp_path / "emoji", {"e": {}, "f": {"split": "test"}})

    def packed(*taken, share=1.0, only=(), mirror=False, quality=None):
        folders = {"": tmp_path / "pictures", "emoji": tmp_path / "emoji"}
        count = pack.write(folders, tmp_path / "out.tar.gz", 64, taken, share, only, mirror, quality)
        with tarfile.open(tmp_path / "out.tar.gz") as tar:
            splits = {m.name[:-5]: json.loads(tar.extractfile(m).read())["split"] for m in tar if m.name.endswith(".json")}
            sizes = {Image.open(io.BytesIO(tar.extractfile(m).read())).size for m in tar if m.name.endswith(".webp")}
        assert count == len(splits) and sizes == {(64, 64)}
        return splits

    train, tests = dict.fromkeys(["a", "c", "e"], "train"), {test_key: "test", "f": "test"}
    assert packed("train", "test") == train | tests
    assert packed("train", "test", "style") == train | tests | {style_key: "style"}
    assert packed("train", "test", share=0.0) == tests
    assert packed("train", share=0.5).items() < train.items()
    assert packed("train", "test", only=["emoji"]) == {"e": "train", "f": "test"}
    assert packed("train", "test", mirror=True) == train | tests | dict.fromkeys(["a-mirrored", "e-mirrored"], "train")
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        a, other = (np.array(Image.open(io.BytesIO(tar.extractfile(f"{key}.webp").read()))) for key in ("a", "a-mirrored"))
        told = json.loads(tar.extractfile("a-mirrored.json").read())
    assert np.array_equal(a[:, ::-1], other) and not np.array_equal(a, other)  # lossless
    assert told["caption_long"] == "Right hand. Top right red; top left blue, bright"
    lossless = (tmp_path / "out.tar.gz").stat().st_size
    assert packed("train", "test", mirror=True, quality=10).keys() and (tmp_path / "out.tar.gz").stat().st_size < lossless


def test_a_folder_of_ones_own_keeps_a_tenth_out(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    for name in ("measure", "pack", "generation"):  # the emoji's scripts have such names, too
        monkeypatch.setitem(sys.modules, name, script(name))
    own_style = script("own_style")
    own = shard(tmp_path / "shards", {f"k{number:02d}": {"caption_name": f"disc {number}"} for number in range(60)})
    pictures, names = own_style.divide(own, tmp_path / "mine", 64)
    assert pictures.shape == (len(names), 64, 64, 3) and 0 < len(names) < 20
    kept = {path.read_text() for path in (tmp_path / "mine").glob("*.txt")}
    assert kept | set(names) == {f"disc {number}" for number in range(60)} and not kept & set(names)
    assert {Image.open(path).size for path in (tmp_path / "mine").glob("*.webp")} == {(64, 64)}
    assert len(list((tmp_path / "mine").iterdir())) == 2 * len(kept)
