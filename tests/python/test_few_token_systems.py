"""Folders of SoftVQ-VAE, MAETok, and DiT and SiT over their tokens, as the hub has them: what is carried over or refused."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_convert import FOREIGN

from textok import ConfigError, TexTok, WeightsError, importers
from textok.cli import main

HEADS = {"num_heads": 3}


def changed(folder, name, said=(), tensors=(), without=()):
    """A copy of the folder `name` with another config and other tensors, less those that begin with one of `without`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((FOREIGN / name / "config.json").read_text()) | dict(said)
    (folder / "config.json").write_text(json.dumps(config))
    stored = load_file(FOREIGN / name / "model.safetensors") | dict(tensors)
    kept = {key: array for key, array in stored.items() if not key.startswith(tuple(without) or "//")}
    save_file(kept, folder / "model.safetensors")
    return folder


def test_statistics_of_latents(tmp_path):
    """vq_mean and vq_std, which their generators work by; kept when the tokenizer is saved."""
    model = importers.load(FOREIGN / "softvq", HEADS)
    assert model.config.latent_mean == (0.125,) * 16 and model.config.latent_std == (0.75,) * 16
    model.save_pretrained(tmp_path)
    assert TexTok.from_pretrained(tmp_path).config == model.config
    each = changed(tmp_path / "each", "softvq", {"vq_mean": list(range(16)), "vq_std": [2.0] * 16})
    assert importers.load(each, HEADS).config.latent_mean == tuple(map(float, range(16)))
    with pytest.raises(ConfigError, match="latent_std: expected a number or a list of 16"):
        importers.load(changed(tmp_path / "wrong", "softvq", {"vq_std": [1.0]}), HEADS)


@pytest.mark.parametrize(("said", "message"), (
    ({"enc_type": "cnn"}, "enc_type: expected 'vit', got 'cnn'"),
    ({"dec_type": "cnn"}, "dec_type: expected 'vit', got 'cnn'"),
    ({"dec_type": "movq"}, "dec_type: expected 'vit', got 'movq'"),
    ({"to_pixel": "conv"}, "to_pixel: expected 'linear', got 'conv'"),
    ({"encoder_model": "vit_giant_patch14_dinov2.lvd142m"}, "encoder_model 'vit_giant_patch14_dinov2.lvd142m': a SwiGLU MLP"),
    ({"use_rope": True, "rope_mixed": False}, "rope_mixed: expected true"),
    ({"use_ape": False}, "use_ape, use_rope: textok computes one of them, got neither"),
), ids=lambda value: str(value)[:30])  # fmt: skip
def test_tokenizers_that_are_refused(tmp_path, said, message):
    with pytest.raises(ConfigError) as caught:
        importers.load(changed(tmp_path / "a", "softvq", said), HEADS)
    assert message in str(caught.value)


def test_what_is_not_said(tmp_path):
    """Heads follow from the ViT's name where its width is of that name; other tensors are errors unless ignored."""
    with pytest.raises(ConfigError, match=r"does not say tokenizer.num_heads and detokenizer.num_heads"):
        importers.load(FOREIGN / "softvq")
    with pytest.raises(ConfigError, match=r"expected the folder of the model, with its config\.json, got a file"):
        shutil.copy(FOREIGN / "softvq" / "model.safetensors", tmp_path / "a.safetensors")
        importers.load(tmp_path / "a.safetensors", HEADS)
    more = changed(tmp_path / "more", "maetok", tensors={"decoder_hog.weight": np.zeros(3, np.float32)})
    with pytest.raises(WeightsError, match=r"unknown 1 tensor \(decoder_hog.weight\); .*--ignore decoder_hog.weight"):
        importers.load(more, HEADS)
    assert importers.load(more, HEADS, ignore=("decoder_hog.*",)).config.rope == {"rows": "patches"}


def test_tokenizers_trained_beside_another_network(tmp_path):
    """Their own recipe has repa: a network and a projection that nothing but the training reads."""
    rng = np.random.default_rng(0)
    more = {f"projection.{i}.{kind}": np.ones((3, 3), np.float32) for i in (0, 2, 4) for kind in ("weight", "bias")}
    more["repa_model.norm.weight"] = rng.standard_normal(3).astype(np.float32)
    model = importers.load(changed(tmp_path / "a", "softvq", {"repa": True}, more), HEADS)
    usual = importers.load(FOREIGN / "softvq", HEADS)
    assert all(np.array_equal(array, usual.weights()[name]) for name, array in model.weights().items())


def test_what_a_config_leaves_out_is_the_originals(tmp_path):
    folder = changed(tmp_path / "a", "softvq")
    said = json.loads((folder / "config.json").read_text())
    del said["tau"]
    (folder / "config.json").write_text(json.dumps(said))
    assert importers.load(folder, HEADS).config.codebook.tau == 0.1


def test_places_of_a_smaller_picture_are_made_anew(tmp_path):
    """Models of 512 pixels that began with 256 store the places of those."""
    small = {f"{side}.freqs_t_{axis}": np.array(places, np.float32)
             for side in ("encoder", "decoder") for axis, places in (("x", [0, 1, 0, 1]), ("y", [0, 0, 1, 1]))}  # fmt: skip
    model = importers.load(changed(tmp_path / "a", "maetok", {"base_image_size": 16}, small), HEADS)
    usual = importers.load(FOREIGN / "maetok", HEADS)
    assert all(np.array_equal(array, usual.weights()[name]) for name, array in model.weights().items())


def test_a_decoder_without_class_token(tmp_path):
    """Its tensor may be there: the config says whether it is used."""
    one = importers.load(changed(tmp_path / "one", "softvq", {"dec_cls_token": False}), HEADS)
    folder = changed(tmp_path / "two", "softvq", {"dec_cls_token": False}, without=["decoder.model.cls_token"])
    two, usual = importers.load(folder, HEADS), importers.load(FOREIGN / "softvq", HEADS)
    z = np.load(FOREIGN / "softvq" / "io.npz")["z"]
    assert not one.config.detokenizer_registers
    assert np.array_equal(one.decode(z), two.decode(z)) and not np.array_equal(one.decode(z), usual.decode(z))


def test_register_tokens(tmp_path):
    """ViTs with four registers have positions for patches alone."""
    stored = load_file(FOREIGN / "softvq" / "model.safetensors")
    rng = np.random.default_rng(0)
    more = {f"{side}.model.reg_token": rng.standard_normal((1, 4, 48)).astype(np.float32) for side in ("encoder", "decoder")}
    more |= {f"{side}.model.pos_embed": stored[f"{side}.model.pos_embed"][:, 1:].copy() for side in ("encoder", "decoder")}
    model = importers.load(changed(tmp_path / "a", "softvq", tensors=more), HEADS)
    weights = model.weights()
    assert model.config.num_registers == 5 and weights["tokenizer.registers"].shape == (5, 48)
    assert np.array_equal(weights["tokenizer.registers"][1:], more["encoder.model.reg_token"][0])
    assert not weights["tokenizer.pos_embed"][16:21].any() and weights["tokenizer.pos_embed"][21:].any()


@pytest.mark.parametrize(("name", "said", "message"), (
    ("sit", {"path_type": "gvp"}, "path_type: expected 'linear'"),
    ("sit", {"qk_norm": True}, "qk_norm: expected False"),
    ("sit", {"decoder_hidden_size": 96}, "decoder_hidden_size: textok computes one width, 48, got 96"),
    ("dit_1d", {"patch_size": 2}, "patch_size: expected 1, got 2"),
))  # fmt: skip
def test_generators_that_are_refused(tmp_path, name, said, message):
    with pytest.raises(ConfigError) as caught:
        importers.load(changed(tmp_path, name, said))
    assert message in str(caught.value)


def test_generators_say_what_they_are(tmp_path, capsys):
    """SiT by path_type, DiT by learn_sigma; a file alone is taken for a DDPM, and the assumption printed."""
    assert importers.read(FOREIGN / "sit").config.prediction == "velocity" and not importers.read(FOREIGN / "sit").notes
    config = importers.read(FOREIGN / "dit_1d").config
    assert (config.prediction, config.beta_schedule) == ("epsilon", "cosine") and not importers.read(FOREIGN / "dit_1d").notes
    shutil.copy(FOREIGN / "sit" / "model.safetensors", tmp_path / "a.safetensors")
    source = str(tmp_path / "a.safetensors")
    assert main(["convert", source, str(tmp_path / "ddpm"), "--set", "num_heads=3"]) == 0
    assert "taken for a DDPM that predicts noise" in capsys.readouterr().out
    assert main(["convert", source, str(tmp_path / "sit"), "--set", "num_heads=3", "prediction=velocity"]) == 0
    assert "taken for" not in capsys.readouterr().out
    assert json.loads((tmp_path / "sit" / "config.json").read_text())["prediction"] == "velocity"


def test_generators_without_class_dropout(tmp_path):
    table = load_file(FOREIGN / "sit" / "model.safetensors")["y_embedder.embedding_table.weight"][:1000].copy()
    folder = changed(tmp_path, "sit", {"class_dropout_prob": 0.0}, {"y_embedder.embedding_table.weight": table})
    model = importers.load(folder)
    assert (model.config.num_classes, model.config.null_class) == (1000, False)
    with pytest.raises(ValueError, match="guidance_scale: expected 1"):
        model.sample(labels=[1], steps=2, guidance_scale=2.0, seed=0)
