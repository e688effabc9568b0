"""Captions as strings: an encoder that a config names, strings in place of embeddings, names of classes, and what a result
saves."""

import dataclasses
import json
import pickle

import api_models
import engine_models as tiny
import numpy as np
import pytest
import text_encoders
from PIL import Image
from text_encoders import CONFIG

import textok
from textok import CaptionStore, ConfigError, DiT, Pipeline, TextEncoder, TexTok
from textok.config import EncoderUse
from textok.errors import WeightsError

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small encoder with a vocabulary of a few words, as a folder."""
    path = tmp_path_factory.mktemp("encoders") / "words"
    text_encoders.make_folder(path)
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return TextEncoder.from_pretrained(folder)


@pytest.fixture(scope="module")
def use(folder, encoder):
    return {"name": str(folder), "identity": encoder.identity, "max_tokens": 6, "end_token": True}


def made(kind, config, use, **changes):
    return kind.from_config(config | {"text_encoder": use} | changes, seed=1)


@pytest.mark.parametrize("masked", [True, False])
def test_captions_are_their_embeddings(encoder, use, masked):
    model = made(TexTok, tiny.textok_config(text_mask=masked), use)
    pictures, captions = api_models.pictures_of(model, 2), ["a red apple", "two of the blue dog and cat apple"]
    text, lengths = encoder(captions, 6)
    assert lengths.tolist() == [5, 6]
    if not masked:
        text = np.pad(text, ((0, 0), (0, model.config.num_text_tokens - 6), (0, 0)))
    z = model.encode(pictures, text, lengths)
    np.testing.assert_array_equal(model.encode(pictures, captions=captions), z)
    np.testing.assert_array_equal(model.encode(pictures[:1], captions=captions[0]), z[:1])  # whatever comes with it
    np.testing.assert_array_equal(model.decode(z, captions=captions), model.decode(z, text, lengths))
    np.testing.assert_array_equal(
        model.reconstruct(pictures, captions=tuple(captions)), model.reconstruct(pictures, text, lengths)
    )
    assert model.encode(pictures[:0], captions=[]).shape == (0, *model.config.latent_shape)
    other = model.encode(pictures, captions=["a blue dog", "the cat"])
    assert np.abs(other - z).max() > 1e-3  # the captions are looked at


def test_a_side_without_text_takes_no_notice(use):
    model = made(TexTok, tiny.textok_config(), use, text_condition="detokenizer")
    z = model.encode(api_models.pictures_of(model, 2))
    np.testing.assert_array_equal(model.encode(api_models.pictures_of(model, 2), captions=["a", "the"]), z)
    assert model._encoder is None


def test_an_encoder_is_loaded_when_first_needed(use, folder, encoder):
    dit = made(DiT, tiny.dit_config(condition="text"), use)
    assert dit._encoder is None
    z = dit.sample(captions="a red apple", steps=2, seed=0)
    assert dit.encoder is dit.encoder and dit.encoder.dtype == dit.dtype and dit.encoder.name == str(folder)
    text, lengths = encoder("a red apple")
    np.testing.assert_array_equal(dit.sample(text=text, text_lengths=lengths, steps=2, seed=0), z)
    x = np.zeros((1, *dit.config.latent_shape), np.float32)
    np.testing.assert_array_equal(
        dit.denoise(x, [5], captions=["a red apple"]), dit.denoise(x, [5], text=text, text_lengths=lengths)
    )


def test_an_encoder_that_was_set_travels_with_the_model(use, folder):
    model = made(TexTok, tiny.textok_config(), use)
    assert pickle.loads(pickle.dumps(model))._encoder is None
    assert model.encoder.dtype == "float32" and pickle.loads(pickle.dumps(model))._encoder is None  # found again by its name
    model.encoder = TextEncoder.from_pretrained(folder, dtype="int8")
    for twin in (pickle.loads(pickle.dumps(model)), pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model))))):
        assert twin.encoder.dtype == "int8" and twin.side == model.side
        z = model.encode(api_models.pictures_of(model, 1), captions="a red apple")
        np.testing.assert_array_equal(twin.encode(api_models.pictures_of(model, 1), captions="a red apple"), z)
    nameless = api_models.dit(condition="text")
    nameless.encoder = model.encoder
    twin = pickle.loads(pickle.dumps(nameless))
    assert twin.sample(captions="a red apple", steps=1).shape == (1, *nameless.config.latent_shape)


def test_captions_are_cut_to_what_both_models_take(use):
    tokenizer = made(TexTok, tiny.textok_config(), use, num_text_tokens=3)
    dit = made(DiT, tiny.dit_config(condition="text"), use)
    assert dit.config.num_text_tokens > 3
    pipe = Pipeline(tokenizer, dit)
    assert pipe(["two of the blue dog and cat apple"], steps=1).images.shape[0] == 1


def test_an_encoder_that_does_not_fit_is_named_beside_the_one_that_does(use, encoder, folder, tmp_path):
    model = made(TexTok, tiny.textok_config(), use)
    other = TextEncoder.from_config(CONFIG, seed=6)
    with pytest.raises(ConfigError) as caught:
        model.encoder = other
    assert f"expected {folder} (identity {encoder.identity})" in str(caught.value)
    assert f"got random weights (identity {other.identity})" in str(caught.value)
    with pytest.raises(ConfigError, match=r"expected .*words with its end token, .* got .*words without its end token"):
        model.encoder = TextEncoder.from_pretrained(folder, end_token=False)
    with pytest.raises(
        ConfigError, match="expected embeddings 12 wide, as those of .*words are, .* got random weights, whose are 8 wide"
    ):
        model.encoder = TextEncoder.from_config(CONFIG | {"hidden_size": 8}, seed=6)
    with pytest.raises(TypeError, match="encoder: expected a TextEncoder, got str"):
        model.encoder = "words"
    model.encoder = encoder  # another dtype, or folder, of the same weights would do too
    int8 = tmp_path / "int8"
    TextEncoder.from_pretrained(folder, dtype="int8").save_pretrained(int8)
    model.encoder = TextEncoder.from_pretrained(int8)
    gone = made(TexTok, tiny.textok_config(), use | {"name": "no-such-encoder"})
    with pytest.raises(WeightsError, match="'no-such-encoder': no such folder, and no bundled model of that name"):
        gone.encode(api_models.pictures_of(gone, 1), captions="a")
    nameless = api_models.textok()
    with pytest.raises(
        ConfigError, match="captions: this model's config names no text encoder; give embeddings as text=, or set"
    ):
        nameless.encode(api_models.pictures_of(nameless, 1), captions="a")


def test_wrong_calls_name_the_right_one(use):
    model = made(TexTok, tiny.textok_config(), use)
    dit = made(DiT, tiny.dit_config(condition="text"), use)
    pipe = Pipeline(made(TexTok, tiny.textok_config(), use), dit)
    classes = api_models.class_pipeline()
    pictures = api_models.pictures_of(model, 2)
    text = api_models.text_of(model, 2)
    for call, error, message in [
        (lambda: model.encode(pictures, captions="a"), ValueError, "captions: expected 2, one an image, got 1"),
        (lambda: model.encode(pictures, captions=3), TypeError, "captions: expected a string or a list of strings, got int"),
        (lambda: model.encode(pictures, captions=["a", 3]), TypeError, "captions[1]: expected a string, got int"),
        (
            lambda: model.encode(pictures, text, captions=["a", "a"]),
            ValueError,
            "expected captions or text with text_lengths, got both",
        ),
        (lambda: model.encode(pictures, ["a", "a"]), TypeError, "got strings; give them as captions=[...]"),
        (lambda: model.encode(pictures, prompt="a"), TypeError, "unexpected keyword argument 'prompt'; here it is captions="),
        (lambda: dit.sample(text=["a"]), TypeError, "got strings; give them as captions=[...]"),
        (lambda: dit.sample(prompt=["a"]), TypeError, "unexpected keyword argument 'prompt'; here it is captions="),
        (lambda: dit.denoise(np.zeros((1, 6, 5)), [1], null=True, captions="a"), ValueError, "with null=True, got captions"),
        (lambda: pipe(prompt="a"), TypeError, "unexpected keyword argument 'prompt'; here it is captions="),
        (lambda: pipe("a", num_inference_steps=3), TypeError, "'num_inference_steps'; here it is steps="),
        (lambda: pipe("a", colour=3), TypeError, "unexpected keyword argument 'colour'"),
        (lambda: pipe(text=["a"]), TypeError, "got strings; give them as captions=[...]"),
        (lambda: pipe("a", captions=["a"]), ValueError, "expected the captions once, got strings in the first place too"),
        (lambda: pipe([3]), ValueError, "labels: expected None, this model takes text [B,t,Dt] or captions; got labels"),
        (lambda: classes("a"), ValueError, "expected class numbers, 0 to 9, got names, which this pipeline has none of"),
        (lambda: classes(captions=["a"]), ValueError, "labels: expected classes [B] beside captions"),
        (
            lambda: classes.dit.sample(captions=["a"]),
            ValueError,
            "captions: expected None, this model takes labels [B]; got captions",
        ),
    ]:
        with pytest.raises(error) as caught:
            call()
        assert message in str(caught.value), str(caught.value)


@pytest.fixture(scope="module")
def pipes(use):
    """One of captions and one of classes that have names, of the same TexTok."""
    tt = made(TexTok, tiny.textok_config(), use, text_mask=True)
    named = [record | {"label_name": f"fruit {record['label']}"} for record in api_models.captions().records]
    store = api_models.captions()
    captions = CaptionStore(named, store._tokens.tokens, store._tokens.offsets)
    return Pipeline(tt, made(DiT, tiny.dit_config(condition="text"), use)), Pipeline(tt, api_models.dit(), captions)


def test_a_pipeline_takes_captions_in_the_first_place(pipes, encoder):
    pipe = pipes[0]
    captions = ["a red apple", "two dog"]
    text, lengths = encoder(captions)
    wanted = pipe(text=text, text_lengths=lengths, seed=3, steps=2)
    for got in (pipe(captions, seed=3, steps=2), pipe(captions=captions, seed=3, steps=2)):
        np.testing.assert_array_equal(got.images, wanted.images)
        assert got.captions == captions and wanted.captions is None and got.labels is None
    np.testing.assert_array_equal(pipe("a red apple", seed=3, steps=2).images, wanted.images[:1])
    assert pipe.encoder is pipe.dit.encoder


def test_a_pipeline_of_classes_takes_names_and_captions(pipes, encoder):
    pipe = pipes[1]
    assert pipe.class_names == {label: f"fruit {label}" for label in range(9)}
    by_number, by_name = pipe([3, 7], seed=0, steps=2), pipe(["fruit 3", "fruit 7"], seed=0, steps=2)
    np.testing.assert_array_equal(by_name.images, by_number.images)
    assert (
        by_name.labels == [3, 7] and by_name.class_names == ["fruit 3", "fruit 7"] and "3 fruit 3, 7 fruit 7" in repr(by_name)
    )
    np.testing.assert_array_equal(pipe("fruit 3", seed=0, steps=2).images, by_number.images[:1])
    with pytest.raises(
        ValueError, match=r"labels: expected names of classes, such as 'fruit 3', .* got 'fruit_3'; pipe.class_names has all 9"
    ):
        pipe("fruit_3")
    told = pipe([3, 7], captions=["a red apple", "the dog"], seed=0, steps=2)
    np.testing.assert_array_equal(told.latents, by_number.latents)
    np.testing.assert_array_equal(told.images, pipe.textok.decode(told.latents, *encoder(["a red apple", "the dog"])))
    assert told.captions == ["a red apple", "the dog"] and np.abs(told.images.astype(int) - by_number.images).max() > 0
    with pytest.raises(ValueError, match="captions: expected 2, one an image, got 1"):
        pipe([3, 7], captions="a", seed=0)


def test_models_of_a_pipeline_have_one_encoder(use):
    dit = made(DiT, tiny.dit_config(condition="text"), use | {"identity": "another"})
    with pytest.raises(ConfigError, match="dit: expected the text encoder of the tokenizer, .* got .*identity another"):
        Pipeline(made(TexTok, tiny.textok_config(), use), dit)
    with pytest.raises(ConfigError, match="encoder: expected a pipeline that takes text; neither"):
        Pipeline(api_models.textok(text_condition="none"), api_models.dit()).encoder  # noqa: B018


def test_results_are_saved(pipes, tmp_path):
    result = pipes[1](["fruit 3", "fruit 7"], seed=4, first_index=8, steps=2)
    paths = result.save(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["000008.png", "000009.png"]
    for path, picture, image in zip(paths, result.images, result.pil):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
        np.testing.assert_array_equal(np.asarray(image), picture)
    lines = [json.loads(line) for line in (tmp_path / "new" / "folder" / "captions.jsonl").read_text().splitlines()]
    assert lines[1] == {
        "file_name": "000009.png", "caption": result.captions[1], "label": 7, "label_name": "fruit 7", "seed": 4, "index": 9,
    }  # fmt: skip
    samples = list(
        textok.data.read_samples([tmp_path / "new" / "folder" / "captions.jsonl"], need=("picture", "caption", "label"))
    )
    assert [sample.caption() for sample in samples] == result.captions
    folder = list(textok.data.read_samples([tmp_path / "new" / "folder"], need=("picture", "caption", "label")))
    assert [(sample.key, sample.caption()) for sample in folder] == list(zip(["000008", "000009"], result.captions))
    before = paths[0].read_bytes()
    again = pipes[0]("a cat", seed=1, first_index=8, steps=2, output="float32")
    with pytest.raises(FileExistsError, match=r"000008.png is there already; give another folder, or overwrite=True"):
        again.save(tmp_path / "new" / "folder")
    assert paths[0].read_bytes() == before
    again.save(tmp_path / "new" / "folder", overwrite=True)
    assert paths[0].read_bytes() != before
    np.testing.assert_array_equal(np.asarray(Image.open(paths[0])), textok.to_uint8(again.images)[0])
    assert json.loads((tmp_path / "new" / "folder" / "captions.jsonl").read_text())["caption"] == "a cat"


def test_a_result_goes_to_a_folder_only(pipes, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file: expected a folder to write to, got a file"):
        pipes[0]("a cat", seed=1, steps=2).save(tmp_path / "file")


def test_what_utf8_cannot_hold_is_kept_as_an_escape(pipes, tmp_path):
    result = dataclasses.replace(pipes[0]("a cat", seed=1, steps=2), captions=["\ud800"])
    result.save(tmp_path)
    assert json.loads((tmp_path / "captions.jsonl").read_text("utf-8"))["caption"] == "\ud800"


def test_sheets_have_captions_and_names(pipes):
    by_text, by_class = pipes[0](["a red apple", "a dog"], seed=0, steps=2), pipes[1](["fruit 3"], seed=0, steps=2)
    embeddings = pipes[0](text=np.zeros((2, 3, 12)), seed=0, steps=2)
    assert by_text.contact_sheet().width > 2 * embeddings.contact_sheet().width / 8 and by_text._repr_png_().startswith(
        b"\x89PNG"
    )
    assert by_text.contact_sheet().width != embeddings.contact_sheet().width  # with room for words
    assert by_class._titles() == ["3 fruit 3"]


def test_configs_with_an_encoder(use, tmp_path):
    model = made(TexTok, tiny.textok_config(), use)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["text_encoder"] == use
    assert TexTok.from_pretrained(tmp_path).config == model.config and model.config.text_encoder == EncoderUse(**use)
    for wrong, message in [
        ("minilm", "text_encoder: expected an object with name, identity, max_tokens, end_token, got 'minilm'"),
        ({}, "config key missing: text_encoder.name"),
        ({"name": ""}, "text_encoder.name: expected a string, got ''"),
        (use | {"max_tokens": 0}, "text_encoder.max_tokens: expected an integer from 1"),
        (use | {"end_token": 1}, "text_encoder.end_token: expected true or false, got 1"),
        (use | {"endtoken": True}, "text_encoder.endtoken (did you mean 'end_token'?)"),
    ]:
        with pytest.raises(ConfigError) as caught:
            made(TexTok, tiny.textok_config(), wrong)
        assert message in str(caught.value), str(caught.value)


def test_bundled_models_take_captions_as_their_stores_do():
    """Their embeddings were made with PyTorch; the encoder that comes with textok is the same one, rounded to int8."""
    from textok.demo import HeldOut
    from textok.metrics import psnr

    pytest.importorskip("skimage")
    held_out = HeldOut.load()
    pictures, stored = held_out.images[:40], held_out.captions
    words = stored.captions(range(40))
    pipe, model = Pipeline.from_pretrained("emoji-t2i"), TexTok.from_pretrained("emoji-textok-4")
    assert pipe.encoder.identity == model.config.text_encoder.identity == pipe.dit.config.text_encoder.identity
    text, lengths = stored.embeddings(range(40))
    assert model.encoder(words, 112)[1].tolist() == lengths.tolist()
    by_store = psnr(model.reconstruct(pictures, text, lengths), pictures).mean()
    assert abs(psnr(model.reconstruct(pictures, captions=words), pictures).mean() - by_store) < 0.02
    assert psnr(model.reconstruct(pictures, captions=words[1:] + words[:1]), pictures).mean() < by_store - 0.2
    with pytest.raises(ConfigError, match=r"encoder: expected minilm .* got random weights"):
        model.encoder = TextEncoder.from_config(pipe.encoder.config, seed=1)
