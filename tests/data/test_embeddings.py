"""Embeddings on disk: what the store keeps and finds, its stored types, its errors, and arrays made elsewhere."""

import json
import pickle

import api_models
import ml_dtypes
import numerics
import numpy as np
import pytest
from embedding_runs import HashEncoder, captions_of, contents
from safetensors.numpy import save_file

import textok
from textok.data import Sample
from textok.data.conditioning import TextFinder
from textok.errors import DataError, WeightsError
from textok.text.caption_store import CaptionStore
from textok.text.embedding_arrays import ArrayEmbeddings
from textok.text.embedding_store import DTYPES, EmbeddingStore
from textok.text.open_embeddings import open_embeddings
from textok.text.templates import TEMPLATES, fill_template

IDENTITY, WIDTH = HashEncoder.identity, HashEncoder.text_dim


def rows_of(encoder, captions):
    return encoder.run(encoder.tokenize(captions)[0])


def text_of(count=5, rows=6, width=WIDTH, seed=0):
    """Embeddings of the spread that T5's have, and lengths."""
    rng = np.random.default_rng(seed)
    text = rng.standard_normal((count, rows, width)) * rng.lognormal(0, 1, (count, rows, 1))
    return text.astype(np.float32), rng.integers(1, rows + 1, count)


@pytest.fixture
def store(tmp_path):
    made = EmbeddingStore.create(tmp_path / "store", {"name": "hashes", **IDENTITY}, WIDTH)
    made.embed(captions_of(0, 50), HashEncoder(), batch_size=8)
    return made


def test_what_is_embedded_is_found(store):
    assert isinstance(store, textok.EmbeddingStore)
    captions = list(dict.fromkeys(captions_of(0, 50)))
    assert len(store) == 50 and sorted(store) == sorted(captions)
    chosen = [captions[7], captions[3], captions[7]]
    text, lengths = store.embeddings(chosen)
    rows = rows_of(HashEncoder(), chosen)
    assert text.dtype == np.float32 and lengths.dtype == np.int32 and lengths.tolist() == [len(row) for row in rows]
    assert text.shape == (3, max(map(len, rows)), WIDTH)
    for got, row in zip(text, rows):
        np.testing.assert_array_equal(got[: len(row)], row.astype(np.float16))
        assert not got[len(row) :].any()
    assert captions[0] in store and "something else" not in store and 3 not in store
    assert store.missing(["x", captions[1], "y"]) == ["x", "y"]
    assert store.longest == HashEncoder.max_tokens and store.truncated == sum(len(c.split()) > 8 for c in captions) > 0
    assert store.embeddings([])[0].shape == (0, 1, WIDTH)
    assert "50 captions by hashes, up to 8 of 8 tokens x 16 float16" in repr(store) and "in 1 segment)" in repr(store)


def test_no_caption_is_embedded_twice(store):
    encoder = HashEncoder()
    done = store.embed(iter([*captions_of(40, 60), "again", "again"]), encoder, batch_size=4)
    assert len(encoder.ran) == 11 and len(set(map(tuple, encoder.ran))) == 11
    assert (done.read, done.embedded) == (len(captions_of(40, 60)) + 2, 11)
    assert done.truncated == sum(n * 7 % 10 + 1 > 8 for n in range(50, 60)) and done.longest == 10
    assert store.embed(captions_of(0, 60), encoder).embedded == 0 and len(encoder.ran) == 11
    assert EmbeddingStore.open(store.path).verify().repeated == 0


def test_batches_are_of_like_length_and_the_same_when_run_again(tmp_path):
    """Else a run that was killed would be completed by other batches, and an encoder's last bits depend on them."""

    class Batches(HashEncoder):
        def run(self, ids):
            self.batches = [*getattr(self, "batches", []), ids]
            if len(self.batches) == getattr(self, "stop", None):
                raise KeyboardInterrupt
            return super().run(ids)

    captions = [f"w{n} " + "word " * (n * 13 % 8) for n in range(700)] * 2
    whole, first, second = Batches(), Batches(), Batches()
    EmbeddingStore.create(tmp_path / "whole", IDENTITY, WIDTH).embed(captions, whole, batch_size=5)
    lengths = [[len(row) for row in batch] for batch in whole.batches]
    assert sum(max(row) - min(row) for row in lengths) <= 3 * 8  # three windows, each from short to long
    first.stop = 60
    broken = EmbeddingStore.create(tmp_path / "broken", IDENTITY, WIDTH)
    with pytest.raises(KeyboardInterrupt):
        broken.embed(captions, first, batch_size=5)
    EmbeddingStore.open(tmp_path / "broken").embed(captions, second, batch_size=5)
    assert first.batches[:59] + second.batches == whole.batches
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


@pytest.mark.parametrize("dtype", DTYPES)
def test_stored_types(tmp_path, dtype):
    text, lengths = text_of()
    text[2, 0] = 0
    captions = [f"c{k}" for k in range(5)]
    made = EmbeddingStore.create(tmp_path / dtype, IDENTITY, WIDTH, dtype)
    assert made.add(captions, text, lengths) == 5 and made.add(captions, 2 * text, lengths) == 0
    got, got_lengths = EmbeddingStore.open(tmp_path / dtype).embeddings(captions)
    np.testing.assert_array_equal(got_lengths, lengths)
    tolerance = {"float16": numerics.ROUNDED_FLOAT16, "bfloat16": numerics.ROUNDED_BF16, "int8": numerics.ROUNDED_INT8}[dtype]
    for place, length in enumerate(lengths):
        want = text[place, :length]
        scale = np.abs(want).max(axis=1, keepdims=True) if dtype == "int8" else np.maximum(np.abs(want), 2.0**-14)
        numerics.check_scaled(got[place, :length], want, scale, tolerance)
        planted = got[place, :length] + 2 * tolerance.limit * scale * np.where(want >= got[place, :length], -1, 1)
        assert numerics.scaled_error(planted, want, scale) > tolerance.limit
    assert made.verify().ok
    size = sum(path.stat().st_size for path in (tmp_path / dtype / "segments").glob("*.data"))
    assert size == lengths.sum() * WIDTH * (1 if dtype == "int8" else 2) + (dtype == "int8") * 4 * lengths.sum() + 2 * 5


def test_keys_are_of_caption_and_encoder(tmp_path, store):
    other = EmbeddingStore.create(tmp_path / "other", IDENTITY | {"end_token": False}, WIDTH)
    assert not set(map(tuple, store._entries.keys(["a"]))) & set(map(tuple, other._entries.keys(["a"])))
    renamed = EmbeddingStore.create(tmp_path / "renamed", {"name": "another name", **IDENTITY}, WIDTH)
    assert renamed._entries.keys(["a", "b"]) == store._entries.keys(["a", "b"])


def test_settings_that_differ_are_errors(tmp_path, store):
    for changes, message in [
        ({"encoder": IDENTITY | {"max_tokens": 9}}, "hashes embeddings with max_tokens 8, asked for is 9"),
        ({"encoder": IDENTITY | {"end_token": True}}, "with end_token None, asked for is True"),
        ({"dtype": "int8"}, "with dtype 'float16', asked for is 'int8'"),
        ({"text_dim": 8}, "with text_dim 16, asked for is 8"),
    ]:
        with pytest.raises(DataError) as caught:
            EmbeddingStore.create(store.path, **{"encoder": IDENTITY, "text_dim": WIDTH} | changes)
        assert message in str(caught.value) and str(store.path) in str(caught.value)
    encoder = HashEncoder()
    encoder.identity = IDENTITY | {"model": "another"}
    with pytest.raises(DataError, match="the store was made with"):
        store.embed(["a"], encoder)
    with pytest.raises(DataError, match="expected a store of the same encoder and type"):
        store.merge(EmbeddingStore.create(tmp_path / "int8", IDENTITY, WIDTH, "int8"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{", "not a JSON file"),
        ('{"format": 2}', 'expected "format": 1, got 2'),
        ('{"format": 1, "dtype": "float64"}', "got 'float64'"),
        ('{"format": 1, "dtype": "int8", "text_dim": 0}', "text_dim"),
        ('{"format": 1, "dtype": "int8", "text_dim": 4}', 'expected "encoder", an object, got None'),
    ],
)
def test_broken_settings(tmp_path, settings, message):
    (tmp_path / "store.json").write_text(settings)
    with pytest.raises(DataError) as caught:
        EmbeddingStore.open(tmp_path)
    assert message in str(caught.value) and "store.json" in str(caught.value)


def test_bad_arguments(tmp_path, store):
    long = "x" * 500
    for call, error, message in [
        (lambda: EmbeddingStore.open(tmp_path), DataError, "no embedding store"),
        (
            lambda: store.embeddings([long, next(iter(store))]),
            DataError,
            "expected captions that have an embedding, got 1 of 2 without",
        ),
        (lambda: store.embeddings([3]), TypeError, "captions: expected strings, got int 3"),
        (lambda: store.embed(["\ud800"], HashEncoder()), ValueError, "expected text that UTF-8 can hold"),
        (lambda: store.embed(["a"], HashEncoder(), batch_size=0), ValueError, "batch_size: expected 1 to 4096, got 0"),
        (lambda: store.embed(["a"], HashEncoder(), progress=1), TypeError, "progress"),
        (lambda: store.add(["a"], np.zeros((1, 2, 3))), ValueError, "Dt=16"),
        (lambda: store.add(["a"], np.zeros((2, 2, 16))), ValueError, "B=1"),
        (lambda: store.add(["a"], np.full((1, 1, 16), np.nan)), ValueError, "text: expected finite numbers"),
        (
            lambda: store.add(["a"], np.full((1, 1, 16), 1e6)),
            ValueError,
            "in the range of float16, got up to 1e+06; use bfloat16",
        ),
        (lambda: store.add(["a"], np.zeros((1, 1, 16)), [2]), ValueError, "text_lengths: expected 1 to 1"),
        (lambda: EmbeddingStore.create(tmp_path / "x", {}, 4, "float64"), ValueError, "dtype: expected one of"),
        (lambda: EmbeddingStore.create(tmp_path / "x", {}, 0), ValueError, "text_dim: expected 1"),
    ]:
        with pytest.raises(error) as caught:
            call()
        assert message in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert len(store) == 50 and store.verify().ok  # nothing of these was committed


def test_merge(tmp_path, store):
    other = EmbeddingStore.create(tmp_path / "other", IDENTITY, WIDTH)
    other.embed(captions_of(30, 90), HashEncoder())
    both = EmbeddingStore.create(tmp_path / "both", IDENTITY, WIDTH)
    assert both.merge(store, other) == 90 and both.merge(store, other) == 0 and both.verify().ok
    straight = EmbeddingStore.create(tmp_path / "straight", IDENTITY, WIDTH)
    straight.embed(captions_of(0, 90), HashEncoder())
    assert contents(both.path) == contents(straight.path) and both.truncated == straight.truncated


def test_a_reader_sees_what_is_committed_meanwhile(store):
    reader = EmbeddingStore.open(store.path)
    store.add(["new"], np.ones((1, 2, WIDTH)))
    assert "new" not in reader
    reader.refresh()
    assert "new" in reader and len(reader) == 51 and reader.embeddings("new")[1].tolist() == [2]


def test_a_pickled_store_is_its_path(store):
    data = pickle.dumps(store)
    assert len(data) < 1000 and len(pickle.loads(data)) == 50


# --- Arrays made elsewhere ----------------------------------------------------------------------------------------------------


def ragged(text, lengths):
    return {
        "tokens": np.concatenate([row[:length] for row, length in zip(text, lengths)]),
        "offsets": np.cumsum([0, *lengths], dtype=np.int64),
    }


def test_every_form_of_array_gives_the_same(tmp_path):
    text, lengths = text_of()
    names = [f"caption {k}" for k in range(5)]
    np.save(tmp_path / "a.npy", text)
    np.save(tmp_path / "a.lengths.npy", lengths)
    np.save(tmp_path / "order.npy", np.asfortranarray(text.astype(np.float64)))
    np.savez(tmp_path / "a.npz", text=text, text_lengths=lengths)
    np.savez_compressed(tmp_path / "names.npz", text=text, text_lengths=lengths, captions=names)
    np.savez(tmp_path / "keys.npz", **ragged(text, lengths), keys=names)
    np.savez(tmp_path / "one.npz", text)
    save_file({"text": text, "text_lengths": lengths}, tmp_path / "a.safetensors")
    save_file(ragged(text, lengths), tmp_path / "ragged.safetensors")
    CaptionStore([{"caption": name} for name in names], **ragged(text.astype(np.float16), lengths)).save(tmp_path / "folder")
    for name, by in [
        ("a.npy", "index"),
        ("order.npy", "index"),
        ("a.npz", "index"),
        ("names.npz", "caption"),
        ("keys.npz", "key"),
        ("one.npz", "index"),
        ("a.safetensors", "index"),
        ("ragged.safetensors", "index"),
        ("folder", "caption"),
    ]:
        opened = open_embeddings(tmp_path / name)
        assert opened.by == by and opened.text_dim == WIDTH and len(opened) == 5, name
        known = np.full(5, 6) if name in ("order.npy", "one.npz") else lengths
        assert opened.longest == known.max()
        for wanted in ([4, 0, 2], np.array([4, 0, 2]), *([] if by == "index" else [[names[4], names[0], names[2]]])):
            got, got_lengths = opened.embeddings(wanted)
            assert got.dtype == np.float32 and got_lengths.tolist() == known[[4, 0, 2]].tolist()
            for row, place in zip(got, (4, 0, 2)):
                want = text[place, : known[place]]
                np.testing.assert_array_equal(row[: known[place]], want.astype(np.float16) if name == "folder" else want)
                assert not row[known[place] :].any()
        if by != "index":
            assert names[1] in opened and "x" not in opened
            with pytest.raises(DataError, match=f"expected {by}s that have an embedding, got 1 of 1 without, first 'x'"):
                opened.embeddings(["x"])
        else:
            with pytest.raises(DataError, match="expected positions, 0 to 4, in embeddings that come without captions"):
                opened.embeddings(["x"])
        assert repr(opened)
    assert isinstance(open_embeddings(tmp_path / "a.npy")._rows.text, np.memmap)


def test_bfloat16_arrays(tmp_path):
    text = text_of()[0].astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "a.npy", text)  # as two bytes a number: NumPy's files know no bfloat16
    save_file({"text": text}, tmp_path / "a.safetensors")
    for name in ("a.npy", "a.safetensors"):
        np.testing.assert_array_equal(open_embeddings(tmp_path / name).embeddings([1, 3])[0], text[[1, 3]].astype(np.float32))


def test_open_embeddings_opens_a_store(store):
    opened = open_embeddings(store.path)
    assert isinstance(opened, EmbeddingStore) and opened.by == "caption" and len(opened) == 50


def test_what_cannot_be_opened(tmp_path):
    text, lengths = text_of()
    np.save(tmp_path / "flat.npy", text[0])
    np.save(tmp_path / "ints.npy", np.zeros((2, 3, 4), int))
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    (tmp_path / "garbage.npy").write_bytes(b"garbage")
    (tmp_path / "garbage.npz").write_bytes(b"garbage")
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage")
    (tmp_path / "text.txt").write_text("x")
    np.savez(tmp_path / "two.npz", a=text, b=text)
    np.savez(tmp_path / "lengths.npz", text=text, text_lengths=lengths + 6)
    np.savez(tmp_path / "names.npz", text=text, captions=["a"])
    np.savez(tmp_path / "offsets.npz", tokens=text[0], offsets=[0, 3])
    np.savez(tmp_path / "misnamed.npz", text=text, lengths=lengths)
    np.savez(tmp_path / "more.npz", **ragged(text, lengths), text_lengths=lengths)
    padded = np.concatenate([text, np.zeros_like(text[:, :2])], axis=1)
    np.save(tmp_path / "padded.npy", padded)
    np.savez(tmp_path / "padded.npz", text=padded)
    (tmp_path / "folder").mkdir()
    for name, message in [
        ("none.npy", "no such file"),
        ("flat.npy", "expected shape [n, t, Dt]"),
        ("ints.npy", "expected float16"),
        ("objects.npy", "not embeddings that can be read"),
        ("garbage.npy", "not embeddings that can be read"),
        ("garbage.npz", "not embeddings that can be read"),
        ("garbage.safetensors", "not a safetensors file"),
        ("text.txt", "expected an embedding store or .npy, .npz, .safetensors"),
        ("two.npz", "expected an array text [n, t, Dt], or tokens and offsets, got a, b"),
        ("lengths.npz", "text_lengths: expected 1 to 6"),
        ("names.npz", "captions: expected 5"),
        ("offsets.npz", "offsets: expected to rise from 0 to 6"),
        ("misnamed.npz", "unknown array 'lengths' (did you mean 'text_lengths'?); known are text, text_lengths, tokens"),
        ("more.npz", "expected an array text [n, t, Dt], or tokens and offsets, got"),
        ("padded.npy", "expected the captions' lengths [5] in padded.lengths.npy, since 5 of them end in zeros"),
        ("padded.npz", "expected the captions' lengths [5] in text_lengths, since 5 of them end in zeros"),
        ("folder", "no embedding store"),
    ]:
        with pytest.raises((DataError, WeightsError)) as caught:
            open_embeddings(tmp_path / name)
        assert message in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def test_array_embeddings_of_an_array():
    text, lengths = text_of()
    found = ArrayEmbeddings(text, lengths, ["a", "b", "a", "c", "d"], "key").embeddings(["a", "d"])
    assert found[1].tolist() == lengths[[0, 4]].tolist()  # the first of a name
    with pytest.raises(ValueError, match="by: expected one of 'caption', 'key'"):
        ArrayEmbeddings(text, lengths, ["a"] * 5, "index")


# --- Captions of classes ------------------------------------------------------------------------------------------------------


def test_captions_of_classes_from_a_store(tmp_path, store):
    records = [{"caption": caption, "label": k % 3} for k, caption in enumerate(list(store)[:9])]
    made = CaptionStore.from_embeddings(records, store)
    made.save(tmp_path / "captions")
    again = CaptionStore.from_folder(tmp_path / "captions")
    for index, record in enumerate(records):
        want, want_lengths = store.embeddings([record["caption"]])
        for name in (index, record["caption"]):
            got, got_lengths = again.embeddings([name])
            np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(got_lengths, want_lengths)
    assert {again.records[k]["label"] for k in again.draw([1] * 20, seed=0)} == {1}
    with pytest.raises(DataError, match="got 1 of 1 without"):
        CaptionStore.from_embeddings([{"caption": "not there"}], store)


def test_the_bundled_captions_still_load():
    captions = open_embeddings(textok.bundled.FOLDER / "emoji" / "captions")
    assert isinstance(captions, CaptionStore) and len(captions) >= 99
    words = captions.records[3]["caption"]
    np.testing.assert_array_equal(captions.embeddings([words])[0], captions.embeddings([3])[0])
    assert json.loads((textok.bundled.FOLDER / "emoji" / "model_index.json").read_text())["captions"] == "captions"


def test_templates():
    known = {"class_name": "grey_fox", "style": "flat_2", "count": 3, "empty": " ", "list": ["a"]}
    for template, caption in [
        ("name", "grey fox"),
        ("short", "a photo of a grey fox"),
        ("{count} {style} pictures of a {name}, a {name}", "3 flat_2 pictures of a grey fox, a grey fox"),
        ("{missing}", None),
        ("{empty} {name}", None),
        ("{list}", None),
    ]:
        assert fill_template(template, known) == caption
    assert fill_template("long", known).count("grey fox") == 2 and len(fill_template("long", known).split()) > 20
    assert fill_template("name", {"name": "{style}", "style": "flat"}) == "{style}"  # what is filled in is no template
    for template in ("", "no field", "{}", "{name.real}"):
        with pytest.raises(ValueError, match="template: expected name, short, long"):
            fill_template(template, known)
    assert set(TEMPLATES) == {"name", "short", "long"}
    sample = Sample("key", None, known, "source")  # so the commands that look embeddings up take a template for a field
    assert sample.caption("a {style} {name}") == "a flat_2 grey fox" and sample.caption("a {missing}") is None
    assert sample.caption("style") == "flat_2" and sample.caption("name") is None
    assert api_models.captions().by == "caption"


def test_stores_with_underscores_in_their_captions_still_fit(tmp_path):
    """`textok embed --template` once kept those of class folders."""
    old = EmbeddingStore.create(tmp_path / "old", IDENTITY, WIDTH)
    old.add(["a photo of a grey_fox", "a photo of a red fox"], text_of(2)[0])
    finder = TextFinder(str(tmp_path / "old"), "a photo of a {name}")
    samples = [Sample(name, None, {"class_name": name}, "source") for name in ("grey_fox", "red_fox", "white_bear")]
    assert finder.names(samples) == ["a photo of a grey_fox", "a photo of a red fox", "a photo of a white bear"]
    assert [finder.problem(sample) is None for sample in samples] == [True, True, False]


def test_a_store_is_no_captions_folder(store):
    with pytest.raises(WeightsError, match="got an embedding store; textok.open_embeddings opens it"):
        CaptionStore.from_folder(store.path)
    assert isinstance(open_embeddings(store.path), EmbeddingStore)


def test_an_encoder_of_another_width_is_refused(tmp_path):
    store = EmbeddingStore.create(tmp_path / "wide", {"name": "hashes", **IDENTITY}, WIDTH + 1)
    with pytest.raises(DataError, match=f"expected embeddings {WIDTH + 1} wide, got an encoder of {WIDTH}"):
        store.embed(captions_of(0, 2), HashEncoder())
    assert len(store) == 0


def test_what_can_be_no_caption_is_not_there(store):
    assert "\ud800" not in store and 5 not in store
