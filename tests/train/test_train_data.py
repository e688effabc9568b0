"""The data of the trainings: splits, order of batches. Needs torch; without it these are skipped."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from textok.config import EncoderUse
from textok.pictures.preprocess import decode_picture
from textok.text.embedding_store import EmbeddingStore
from textok.train import data
from textok.train.encoded import CaptionEncoder


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
        "train": [0, 2, 5],
        "test": [3],
        "pair": [1, 4],
    }
    assert pairs.images.dtype == np.uint8 and pairs.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("keys, key", [("k3", "k3"), ("nobody", "nobody"), ("k1 k1", "k1")])
def test_a_list_that_does_not_fit_is_named(folder, keys, key):
    (folder / "held.txt").write_text(f"{keys}\n")
    with pytest.raises(ValueError, match=f"held.txt: expected keys, each once, of pictures outside the split test, got {key}"):
        data.load_pairs(folder, folder / "held.txt")


def test_held_out_keys_may_have_blanks_and_be_of_several_sources(folder):
    """All pictures of a key are kept out of training."""
    write_shard(folder / "c.tar", [{"key": key, "split": "train"} for key in ("k1", "my picture 2", "k3")])
    (folder / "held.txt").write_text("k1\r\n\n  my picture 2 \nk3\n")
    pairs = data.load_pairs(folder, folder / "held.txt")
    keys = [pairs.records[row]["key"] for row in pairs.rows("pair")]
    assert keys == ["k1", "k1", "my picture 2", "k3"] and pairs.rows("test").tolist() == [3]  # a k3 was in it already
    assert not {"k1", "my picture 2", "k3"} & {pairs.records[row]["key"] for row in pairs.rows("train")}


@pytest.mark.parametrize("memory", [1.0, 1e-7], ids=["held", "streamed"])
def test_splits_are_known_by_their_usual_names(tmp_path, memory, caplog):
    """In folders and in metadata; what is of another is told, and that nothing is left to train on an error."""
    names = ["Training", "train", "VAL", "valid", "validation", "dev", "Eval", "testing", "Test"]
    (tmp_path / "pictures").mkdir()
    for name in names:
        (tmp_path / "pictures" / name).mkdir()
        (tmp_path / "pictures" / name / "p.png").write_bytes(picture_bytes(1))
    for _ in range(2):  # the second start of a streamed set reads the index
        pairs = data.load_pairs(tmp_path / "pictures", memory=memory, index=tmp_path / "index.jsonl")
        found = {record["key"].split("/")[0]: record["split"] for record in pairs.records}
        assert found == {name: "train" if name.lower().startswith("train") else "test" for name in names}
    splits = ["Val", "holdout", None, "train"]
    write_shard(tmp_path / "a.tar", [{"key": f"k{number}", "split": split} for number, split in enumerate(splits)])
    records = data.load_pairs(tmp_path / "a.tar", memory=memory).records
    assert [record["split"] for record in records] == ["test", "holdout", None, "train"]
    data.tell_splits(records)
    assert "2 of 4 pictures are in no split of train, test and pair and not read: " in caplog.text
    with pytest.raises(ValueError, match="pictures of the split 'train', .* got 1 in 'test', 1 in 'holdout', 1 in 'None'"):
        data.tell_splits(records[:3])


def picture_bytes(value, size=(8, 8), kind="png"):
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def reds(images):
    return np.asarray(images)[:, 0, 0, 0].tolist()


def make_folder(kind, root):
    """The same three captioned pictures, of 10, 20 and 30 red, in each of the forms that people keep them in."""
    root.mkdir(exist_ok=True)
    if kind == "txt":
        for value in (10, 20, 30):
            (root / f"p{value}.png").write_bytes(picture_bytes(value))
            (root / f"p{value}.txt").write_text(f"a picture of {value}\n")
    elif kind == "metadata":
        rows = [{"file_name": f"p{value}.png", "caption": f"a picture of {value}"} for value in (10, 20, 30)]
        (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for value in (10, 20, 30):
            (root / f"p{value}.png").write_bytes(picture_bytes(value))
    else:
        for value in (10, 20, 30):
            (root / f"{value}").mkdir()
            (root / f"{value}" / "p.png").write_bytes(picture_bytes(value))


@pytest.mark.parametrize("memory", [1.0, 1e-7], ids=["held", "streamed"])
@pytest.mark.parametrize("kind", ["txt", "metadata", "classes"])
def test_folders_with_captions(tmp_path, kind, memory):
    make_folder(kind, tmp_path)
    pairs = data.load_pairs(tmp_path, caption="caption", memory=memory)
    assert isinstance(pairs.images, data.Streamed) == (memory < 1)
    article = "a " if kind == "classes" else ""
    assert pairs.column("caption") == [f"a picture of {article}{value}" for value in (10, 20, 30)]
    assert reds(pairs.images[np.array([2, 0])]) == [30, 10] and pairs.rows("train").tolist() == [0, 1, 2]
    assert pairs.column("label") == ([0, 1, 2] if kind == "classes" else [None] * 3)


def test_classes_of_several_folders_are_numbered_together(tmp_path):
    """One name is one label, and two names are two; in any order of the folders. A single folder's numbers stay."""
    for name in ("pets/cat", "pets/owl", "plants/daisy", "plants/owl", "birds/train/owl", "birds/val/jay"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "p.png").write_bytes(picture_bytes(1))
    folders = [tmp_path / name for name in ("pets", "plants", "birds")]
    for paths in (folders, folders[::-1]):
        records = data.load_pairs(paths, caption="caption").records
        found = {(record["class_name"], record["label"]) for record in records}
        assert found == {("cat", 0), ("daisy", 1), ("jay", 2), ("owl", 3)}
        assert len(records) == 6
    assert data.load_pairs(folders[1]).column("label") == [0, 1]


def test_pictures_are_cropped_as_by_preprocess(tmp_path):
    from textok import preprocess

    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    pairs = data.load_pairs(tmp_path, size=16)
    assert (pairs.images == preprocess(pixels, 16)).all()


def test_what_cannot_be_used_is_left_out_by_name(tmp_path, caplog):
    make_folder("txt", tmp_path)
    for name, content in {
        "broken": picture_bytes(1)[:40],
        "larger": picture_bytes(3, (9, 9)),
        "wide": picture_bytes(4, (9, 5)),
        "silent": picture_bytes(2),
        "alone": None,
    }.items():
        if content is not None:
            (tmp_path / f"z{name}.png").write_bytes(content)
        if name != "silent":
            (tmp_path / f"z{name}.txt").write_text("a caption")
    pairs = data.load_pairs(tmp_path, caption="caption")
    assert reds(pairs.images) == [10, 20, 30]
    reasons = {skip.key: skip.reason for skip in pairs.skips}
    assert set(reasons) == {"zbroken", "zsilent", "zlarger", "zwide", "zalone"}
    assert all(key in caplog.text for key in reasons)
    assert "not a picture that can be read" in reasons["zbroken"]
    assert "8 x 8" in reasons["zlarger"] and "square" in reasons["zwide"]
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="found none; the first of 8 left out: "):
        data.load_pairs(tmp_path, caption="caption")


def test_streamed_shards_equal_those_in_memory(folder):
    held = data.load_pairs(folder, folder_list(folder))
    index = folder / "index.jsonl"
    for _ in range(2):  # the second start reads the index
        streamed = data.load_pairs(folder, folder_list(folder), memory=1e-7, index=index)
        rows = np.array([5, 0, 3, 3])
        streamed.images.expect(rows[:2])
        assert (streamed.images[rows] == held.images[rows]).all() and streamed.images.shape == held.images.shape
        assert streamed.records == held.records
    write_shard(folder / "b.tar", [{"key": "new", "caption_long": "word", "split": "train"}] * 1)
    (folder / "held.txt").write_text("k1\n")
    assert (
        len(data.load_pairs(folder, folder / "held.txt", memory=1e-7, index=index).records) == 5
    )  # the index is of another shard


def folder_list(folder):
    (folder / "held.txt").write_text("k1\nk4\n")
    return folder / "held.txt"


def test_what_cannot_be_streamed_is_said_as_soon_as_it_shows(folder, monkeypatch):
    import gzip

    (folder / "c.tar.gz").write_bytes(gzip.compress((folder / "a.tar").read_bytes()))
    assert len(data.load_pairs(folder / "c.tar.gz").records) == 4
    seen, plain = [], data.decode
    monkeypatch.setattr(data, "decode", lambda sample, size: seen.append(sample.key) or plain(sample, size))
    monkeypatch.setattr(data, "CHUNK", 2)
    with pytest.raises(ValueError, match="c.tar.gz: more pictures than data.memory allows, .* unpack it"):
        data.load_pairs(folder / "c.tar.gz", memory=1e-7)
    assert len(seen) == 2


def test_pictures_are_never_twice_in_memory(tmp_path, monkeypatch):
    import tracemalloc

    for value in range(48):
        (tmp_path / f"p{value:02d}.png").write_bytes(picture_bytes(value, (128, 128)))
    monkeypatch.setattr(data, "CHUNK", 4)
    data.load_pairs(tmp_path, workers=1)
    tracemalloc.start()
    images = data.load_pairs(tmp_path, workers=1).images
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reds(images) == list(range(48)) and peak < 1.5 * images.nbytes


def test_an_index_is_of_the_files_as_they_are(tmp_path):
    """Those in folders within folders too, whose names and times the top folder does not show."""
    make_folder("classes", tmp_path / "pictures")
    load = lambda: data.load_pairs(tmp_path / "pictures", memory=1e-7, index=tmp_path / "index.jsonl")
    assert len(load().records) == len(load().records) == 3
    (tmp_path / "pictures" / "20" / "p.png").unlink()
    assert [record["label"] for record in load().records] == [0, 2]


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[1]\n", b'{"file_name": "a.png"}\n', b"words\n", "{whole}[1]\n", "{whole}[[0, 1], {}]\n", "{whole}{"],
)
def test_an_index_that_is_none_is_told(tmp_path, content):
    """And left as it is: it may be a file of another kind, given by mistake."""
    make_folder("txt", tmp_path / "pictures")
    index = tmp_path / "index.jsonl"
    load = lambda: data.load_pairs(tmp_path / "pictures", memory=1e-7, index=index)
    load()
    if isinstance(content, str):
        content = content.replace("{whole}", index.read_text()).encode()
    index.write_bytes(content)
    with pytest.raises(ValueError, match=r"index.jsonl: expected an index that a training wrote \(data.index\), got"):
        load()
    assert index.read_bytes() == content


def test_several_processes_may_embed_at_once(tmp_path, monkeypatch):
    import threading

    both, plain = threading.Barrier(2), np.savez

    def savez(*args, **kwargs):
        plain(*args, **kwargs)
        both.wait(30)  # both have written, neither has given its file the name

    monkeypatch.setattr(data, "minilm_rows", lambda captions: [np.ones((2, 3), np.float16) for _ in captions])
    monkeypatch.setattr(data.np, "savez", savez)
    pairs, cache = pairs_of("ab"), tmp_path / "new" / "captions.npz"
    assert not data.has_texts(pairs, "caption", cache)
    found = []
    writers = [threading.Thread(target=lambda: found.append(data.open_texts(pairs, "caption", cache))) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [texts.lengths.tolist() for texts in found] == [[2, 2], [2, 2]] and data.has_texts(pairs, "caption", cache)
    assert [path.name for path in cache.parent.iterdir()] == ["captions.npz"]


def test_pictures_are_decoded_as_everywhere(tmp_path, monkeypatch):
    """16 bits with a transparent colour, and what would end a training: EPS, for which another program would be started."""
    png = io.BytesIO()
    Image.new("RGB", (8, 8), (18, 86, 154)).save(png, "PNG", transparency=(18, 86, 154))
    for content in (png.getvalue(), picture_bytes(5)):
        sample = data.Sample("k", content, {}, "s")
        assert np.array_equal(data.decode(sample, 8), decode_picture(content, 8, "k"))
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
    dds = b"DDS " + (124).to_bytes(4, "little") + bytes(120)
    for content in (eps, dds, b"no picture"):
        assert data.decode(data.Sample("k", content, {}, "s"), 8).startswith("not a picture that can be read: ")


def test_a_streamed_picture_that_is_gone_is_an_error(tmp_path):
    make_folder("txt", tmp_path)
    pairs = data.load_pairs(tmp_path, memory=1e-7)
    (tmp_path / "p20.png").write_bytes(b"")
    with pytest.raises(ValueError, match="p20.png: not a picture that can be read: .* it was whole when the training began"):
        pairs.images[np.array([0, 1])]


def test_samples_are_those_of_webdataset(folder):
    webdataset = pytest.importorskip("webdataset")
    pairs = data.load_pairs(folder)
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    others = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in others] == pairs.column("key")
    assert all((sample["png"] == image).all() for sample, image in zip(others, pairs.images, strict=True))


def test_near_batches_cover_an_epoch_and_read_from_few_places():
    lengths = np.random.default_rng(0).integers(5, 50, 8003)
    near = data.Batches(lengths, 8, seed=3, near=16)
    epoch = near.epoch(0)
    assert len(np.unique(epoch)) == epoch.size == 8000
    assert not (near.epoch(0) == near.epoch(1)).all()

    def reach(batches):  # from the first to the last row of four batches that follow one another
        return np.median([np.ptp(batches[i : i + 4]) for i in range(0, 1000, 4)])

    assert reach(epoch) < 0.1 * reach(data.Batches(lengths, 8, seed=3).epoch(0))


def test_too_few_pictures_for_a_batch_are_told():
    with pytest.raises(ValueError, match="batch_size: expected at most 3, .* got 4"):
        data.Batches([5, 6, 7], 4, seed=0)


def test_mirrored_pictures_are_a_function_of_seed_and_step():
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 3), np.uint8)
    once, again, other = (data.mirrored(images, 1, step) for step in (7, 7, 8))
    flipped = (once == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (once == again).all() and not (once == other).all() and 15 < flipped.sum() < 49
    assert (once[~flipped] == images[~flipped]).all()


def test_texts_from_a_store_equal_those_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    captions = ["a", "b", "c"]
    rows = [rng.standard_normal((count, 4)).astype(np.float16) for count in (2, 5, 3)]
    store = EmbeddingStore.create(tmp_path / "store", {"name": "by hand"}, 4)
    for caption, row in zip(captions, rows, strict=True):
        store.add([caption], row[None])
    stored, held = data.open_texts(pairs_of(captions), "caption", tmp_path / "store"), data.TextStore.join(rows)
    for wanted, got in zip(held.batch(np.array([2, 0])), stored.batch(np.array([2, 0])), strict=True):
        assert torch.equal(wanted, got)
    with pytest.raises(ValueError, match="no embedding of 1 of 2 captions, the first is 'd'"):
        data.open_texts(pairs_of(["a", "d"]), "caption", tmp_path / "store")


def test_class_folders_are_captioned_as_embed_does(tmp_path):
    """A store made with --template and the same words fits, one of before with underscores too."""
    for name in ("grey_fox", "owl"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        (tmp_path / "pictures" / name / "p.png").write_bytes(picture_bytes(1))
    pairs = data.load_pairs(tmp_path / "pictures", caption="caption", template="a photo of a {name}")
    assert pairs.column("caption") == ["a photo of a grey fox", "a photo of a owl"]
    for spelling in ("grey fox", "grey_fox"):
        store = EmbeddingStore.create(tmp_path / spelling, {"name": "by hand"}, 4)
        store.add([f"a photo of a {spelling}", "a photo of a owl"], np.ones((2, 3, 4)))
        assert data.open_texts(pairs, "caption", store.path).batch(np.array([0, 1]))[0].sum() == 24


def pairs_of(captions, skips=()):
    return data.Pairs(None, [{"key": f"k{n}", "caption": caption} for n, caption in enumerate(captions)], list(skips))


@pytest.mark.parametrize("how", ["npz by caption", "npz by key", "npy by position"])
def test_texts_from_arrays_of_the_users_own(tmp_path, how):
    text = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    path = tmp_path / f"mine.{how[:3]}"
    if how == "npy by position":
        np.save(path, text)
    else:
        names = {"captions": ["c", "a", "b"]} if "caption" in how else {"keys": ["k2", "k0", "k1"]}
        np.savez(path, text=text[[2, 0, 1]], text_lengths=[5, 5, 5], **names)
    before = path.read_bytes()
    pairs = pairs_of("abc")
    got, lengths = data.open_texts(pairs, "caption", path).batch(np.array([1, 0]))
    assert torch.equal(got, torch.from_numpy(text[[1, 0]])) and lengths.tolist() == [5, 5]
    assert path.read_bytes() == before  # whatever the captions: only files that textok made are written anew
    if "position" in how:
        for others in (pairs_of("ab"), pairs_of("abc", [data.Skip("k9", "somewhere", "broken")])):
            with pytest.raises(ValueError, match="mine.npy: its 3 embeddings have positions only"):
                data.open_texts(others, "caption", path)


def test_without_a_mask_a_caption_is_given_whatever_its_batch():
    rows = [np.ones((count, 2), np.float16) for count in (1, 5)]
    texts, config = data.TextStore.join(rows), {"text_condition": "both", "text_source": "embedding", "num_text_tokens": 7}
    alone, together = (
        data.condition(config | {"text_mask": False}, texts, None, np.array(rows))["text"] for rows in ([0], [0, 1])
    )
    assert alone.shape == (1, 7, 2) and torch.equal(alone[0], together[0]) and together[1].sum() == 10
    assert data.condition(config | {"text_mask": True}, texts, None, np.array([0]))["text"].shape == (1, 1, 2)


def test_drawn_captions_come_from_a_store_of_captions(tmp_path):
    captions = ["a", "b", "long a", "long b"]
    store = EmbeddingStore.create(tmp_path / "store", {"name": "by hand"}, 3)
    store.add(captions, np.arange(4, dtype=np.float32)[:, None, None].repeat(3, axis=2))
    records = [{"key": c, "caption": f"long {c}", "name": c, "split": "train"} for c in "ab"]
    pairs, encoder = data.Pairs(np.zeros((2, 8, 8, 3), np.uint8), records), CaptionEncoder("minilm", 16)
    found = data.open_drawn(pairs, "caption", ("name", "caption"), tmp_path / "store", encoder)
    assert [texts.batch(np.array([0, 1]))[0][:, 0, 0].tolist() for texts in found] == [[0, 1], [2, 3]]
    np.savez(tmp_path / "mine.npz", embeddings=np.ones((2, 1, 3), np.float32))
    with pytest.raises(data.ConfigError, match="data.captions: expected embeddings by caption as data.cache"):
        data.open_drawn(pairs, "caption", ("name",), tmp_path / "mine.npz", encoder)


def test_tests_are_kept_where_none_are_marked():
    """Which ones does not depend on the order; where some are marked, or the share is 0, all stays as it is."""
    records = [{"key": f"k{i}", "split": "train"} for i in range(40)]
    back = [dict(record) for record in reversed(records)]
    data.keep_tests(records, 0.1)
    data.keep_tests(back, 0.1)
    kept = {record["key"] for record in records if record["split"] == "test"}
    assert len(kept) == 4 and kept == {record["key"] for record in back if record["split"] == "test"}
    data.keep_tests(records, 0.5)
    few = [{"key": "a", "split": "train"}, {"key": "b", "split": "train"}]
    data.keep_tests(few, 0.0)
    assert sum(record["split"] == "test" for record in records) == 4 and all(r["split"] == "train" for r in few)
    data.keep_tests(few, 0.05)
    assert sorted(record["split"] for record in few) == ["test", "train"]


def test_whose_embeddings_a_cache_has(tmp_path, monkeypatch, caplog):
    """A file that names another encoder is made anew, one from before names none and is kept with a word in the log."""
    monkeypatch.setattr(data, "minilm_rows", lambda captions: [np.ones((2, 384), np.float16) for _ in captions])
    pairs, cache = pairs_of("ab"), tmp_path / "captions.npz"
    texts = data.open_texts(pairs, "caption", cache)
    use = data.encoder_of(texts)
    assert (use.name, use.identity, use.max_tokens) == ("minilm", data.minilm().identity, 112)
    assert data.encoder_of(None) is None
    for encoder, kept in (({}, True), ({"encoder": "another"}, False), ({"encoder": data.minilm_told()}, True)):
        told = data.digest(pairs.column("caption"))
        np.savez(cache, tokens=np.zeros((4, 384), np.float16), offsets=[0, 2, 4], digest=told, **encoder)
        caplog.clear()
        assert data.has_texts(pairs, "caption", cache) == kept
        assert data.open_texts(pairs, "caption", cache).tokens.any() != kept
        assert ("as PyTorch made them are kept" in caplog.text) == (encoder == {})


def test_stores_tell_their_encoder(tmp_path):
    pairs = pairs_of("a")
    for made, expected in (
        ({"name": "by hand"}, {"name": "by hand"}),
        ({}, None),
        (
            {"name": "t5-v1_1-xl", "identity": "1" * 32, "max_tokens": 77, "end_token": False, "padding": "to 77 with 0"},
            {"name": "hf://google/t5-v1_1-xl", "identity": "1" * 32, "max_tokens": 77, "end_token": False, "pad_to": 77,
             "pad_token": 0},
        ),
        (
            {"name": str(tmp_path), "identity": "2" * 32, "max_tokens": 9, "padding": "to 77 with its own token"},
            {"name": str(tmp_path), "identity": "2" * 32, "max_tokens": 9, "pad_to": 77},
        ),
        ({"name": "minilm", "model": "5c03b0d495a73475819850ccd6217f7d", "padding": "masked, not kept"},
         {"name": "minilm", "identity": data.minilm().identity}),
    ):  # fmt: skip
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        store = EmbeddingStore.create(folder, made, 3)
        store.add(pairs.column("caption"), np.zeros((1, 2, 3), np.float32))
        use = data.encoder_of(data.open_texts(pairs, "caption", folder))
        assert use == (None if expected is None else EncoderUse(**expected))
