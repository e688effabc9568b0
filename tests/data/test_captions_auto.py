"""Captions that are embedded as they come, where no store exists; and stores that a model was not trained on."""

import json

import engine_models as tiny
import numpy as np
import pytest
import text_encoders
from PIL import Image

from textok import DiT, EmbeddingStore, Pipeline, TextEncoder, TexTok, cli, data
from textok.errors import DataError
from textok.text.engine_embeddings import StoreEncoder

pytest.importorskip("tokenizers")
CAPTIONS = ["a red apple", "two of the blue dog and cat apple", "the cat"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An encoder, a TexTok, a text-to-image pipeline that name it, and pictures with captions beside them."""
    path = tmp_path_factory.mktemp("auto")
    use = text_encoders.make_folder(path / "words")
    model = TexTok.from_config(tiny.textok_config(text_mask=True) | {"text_encoder": use}, seed=1)
    dit = DiT.from_config(tiny.dit_config(condition="text") | {"text_encoder": use}, seed=2)
    model.save_pretrained(path / "textok")
    Pipeline(model, dit).save_pretrained(path / "pipe")
    (path / "pictures").mkdir()
    for k, caption in enumerate(CAPTIONS):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (16, 16, 3), np.uint8)).save(path / "pictures" / f"{k}.png")
        (path / "pictures" / f"{k}.txt").write_text(caption)
    return path


def test_encode_and_decode(place, tmp_path):
    model = TexTok.from_pretrained(place / "textok")
    pictures = np.stack([np.asarray(Image.open(place / "pictures" / f"{k}.png")) for k in range(3)])
    z = model.encode(pictures, captions=CAPTIONS)
    same = ["--captions", "auto", "--batch-size", "2"]
    assert cli.main(["encode", str(place / "textok"), str(place / "pictures"), *same, "--out", str(tmp_path / "z")]) == 0
    found = list(data.read_latents(tmp_path / "z"))
    np.testing.assert_array_equal(np.stack([np.asarray(item.latent) for item in found]), z)
    assert cli.main(["decode", str(place / "textok"), str(tmp_path / "z"), *same, "--out", str(tmp_path / "x")]) == 0
    images = [np.asarray(Image.open(tmp_path / "x" / f"{k}.png")) for k in range(3)]
    np.testing.assert_array_equal(np.stack(images), model.decode(z, captions=CAPTIONS))
    told = json.loads((tmp_path / "z" / "index.json").read_text())["task"]["embeddings"]
    assert told["encoder"]["identity"] == model.config.text_encoder.identity


def test_sample(place, tmp_path, capsys):
    pipe = Pipeline.from_pretrained(place / "pipe")
    same = ["sample", str(place / "pipe"), "--seed", "3", "--steps", "2"]
    chosen = [word for caption in CAPTIONS for word in ("--caption", caption)]
    wanted = pipe(CAPTIONS, seed=3, steps=2).images
    for name, arguments in {
        "given": chosen,
        "auto": [*chosen, "--captions", "auto"],
        "source": ["--captions", str(place / "pictures"), "--num", "3"],
    }.items():
        assert cli.main([*same, *arguments, "--out", str(tmp_path / name)]) == 0, capsys.readouterr().err
        images = [np.asarray(Image.open(tmp_path / name / f"{k:06d}.png")) for k in range(3)]
        np.testing.assert_array_equal(np.stack(images), wanted)
    rows = [json.loads(line) for line in (tmp_path / "given" / "metadata.jsonl").read_text().splitlines()]
    assert [row["caption"] for row in rows] == CAPTIONS
    capsys.readouterr()
    for arguments, message in [
        ([], "expected --num, how many pictures, or --caption; got neither"),
        (["--num", "3"], "or captions, which the model's own encoder embeds"),
        (["--num", "3", "--captions", "auto"], "captions: expected some, since embeddings are made of them as they come"),
        ([*chosen, "--captions", str(place / "pictures")], "captions: expected none beside caption, got both"),
        ([*chosen, "--captions", "auto", "--embeddings", "x"], "expected --embeddings or --captions auto, got both"),
    ]:
        assert cli.main([*same, *arguments, "--out", str(tmp_path / "x")]) == 1
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err


def test_without_embeddings_the_error_says_what_there_is(place, tmp_path):
    with pytest.raises(DataError, match=r"--embeddings STORE, .*; or --captions auto: .*words embeds them as they come"):
        data.encode(place / "textok", place / "pictures", tmp_path / "z")


def test_stores_of_another_encoder_are_errors(place, tmp_path):
    fitting = TextEncoder.from_pretrained(place / "words")
    other = TextEncoder.from_config(text_encoders.CONFIG, seed=9)
    stores = {
        "fits": StoreEncoder(fitting, 16).described,
        "by hand": {"name": "by hand"},
        "other": StoreEncoder(other, 16).described,
        "endless": StoreEncoder(TextEncoder.from_pretrained(place / "words", end_token=False), 16).described,
        "torch": {"name": "t5-v1_1-xl", "model": "0123", "end_token": True},
        "torch words": {"name": str(place / "words"), "model": "0123", "end_token": True},
    }
    text, lengths = fitting(CAPTIONS, 6)
    for name, encoder in stores.items():
        store = EmbeddingStore.create(tmp_path / name, encoder, 12)
        store.add(CAPTIONS, text, lengths)
        arguments = place / "textok", place / "pictures", tmp_path / f"{name} z"
        if name in ("fits", "by hand", "torch words"):
            assert data.encode(*arguments, embeddings=tmp_path / name).samples == 3
            continue
        with pytest.raises(DataError) as caught:
            data.encode(*arguments, embeddings=tmp_path / name)
        told = {
            "other": f"(identity {fitting.identity}), on which the model was trained, got those of random weights (identity "
            f"{other.identity})",
            "endless": "words with its end token, as the model was trained, got those of",
            "torch": "on which the model was trained, got those of t5-v1_1-xl (identity 0123)",
        }[name]
        assert told in str(caught.value) and name in str(caught.value), str(caught.value)
