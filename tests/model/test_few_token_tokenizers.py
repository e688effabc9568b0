"""SoftVQ-VAE and MAETok as their own code runs them: rotary positions on patch rows, soft codebooks, a class token as a
register."""

import dataclasses
from pathlib import Path

import numerics
import numpy as np
import pytest

import textok
from textok import importers

FOREIGN = Path(__file__).parent.parent / "golden" / "foreign"
NAMES = ("softvq", "maetok")
P, N, HEADS = 16, 8, 3


def load(name, dtype="float32"):
    """The model, and what the originals' code answered, images as [B,S,S,3]."""
    stored = np.load(FOREIGN / name / "io.npz")
    images = {key: np.ascontiguousarray(stored[key].transpose(0, 2, 3, 1)) for key in ("x", "recon")}
    return importers.load(FOREIGN / name, {"num_heads": HEADS}, dtype), dict(stored) | images


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_the_originals(name):
    model, stored = load(name)
    numerics.check(model.encode(stored["x"]), stored["z"], numerics.END_TO_END, f"{name} encode")
    numerics.check(model.decode(stored["z"], output="float32"), stored["recon"], numerics.END_TO_END)


@pytest.mark.parametrize("name", NAMES)
def test_without_what_is_special_the_answers_are_others(name):
    """No turns, a turn of the wrong rows or another temperature: each is far outside the tolerance."""
    model, stored = load(name)
    weights = model.weights()
    if name == "softvq":
        hotter = dataclasses.replace(model.config, codebook=dataclasses.replace(model.config.codebook, tau=0.071))
        assert numerics.rejects(textok.TexTok(hotter, weights).encode(stored["x"]), stored["z"], numerics.END_TO_END)
        del weights["tokenizer.codebook"]
        plain = textok.TexTok(dataclasses.replace(model.config, codebook=None), weights)
        numerics.check(plain.encode(stored["x"]), stored["before_codebook"], numerics.END_TO_END, "before the codebook")
        return
    last = {name: np.roll(array, 1, axis=1) if "rope.2" in name else array for name, array in weights.items()}
    wrong = textok.TexTok(model.config, last)
    assert numerics.rejects(wrong.encode(stored["x"]), stored["z"], numerics.END_TO_END)
    assert numerics.rejects(wrong.decode(stored["z"], output="float32"), stored["recon"], numerics.END_TO_END)


@pytest.mark.parametrize("dtype", ("bfloat16", "int8"))
@pytest.mark.parametrize("name", NAMES)
def test_dtypes(name, dtype):
    model, stored = load(name, dtype)
    bound = {"bfloat16": numerics.MODEL_BFLOAT16, "int8": numerics.MODEL_INT8}[dtype]
    numerics.check_rms(model.decode(stored["z"], output="float32"), stored["recon"], bound)
    if name == "maetok":
        numerics.check_rms(model.encode(stored["x"]), stored["z"], bound)


@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "int8"))
def test_the_same_bits_in_any_batch_and_on_any_threads(dtype):
    """Also where a batch is large enough that the stored rows are computed anew."""
    for name in NAMES:
        model, _ = load(name, dtype)
        x = np.random.default_rng(0).uniform(-1, 1, (19, 32, 32, 3)).astype(np.float32)
        z = model.encode(x, threads=1)
        images = model.decode(z, threads=1)
        for rows in (slice(0, 1), slice(3, 5), slice(2, 19)):
            np.testing.assert_array_equal(model.encode(x[rows], threads=2), z[rows])
            np.testing.assert_array_equal(model.decode(z[rows], threads=2), images[rows])


def test_saved_and_loaded(tmp_path):
    for name in NAMES:
        model, stored = load(name)
        model.save_pretrained(tmp_path / name)
        again = textok.TexTok.from_pretrained(tmp_path / name)
        assert again.config == model.config
        np.testing.assert_array_equal(again.encode(stored["x"]), model.encode(stored["x"]))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rope": {"rows": "all"}}, 'rope: expected {"rows": "patches"} or null, got'),
        ({"rope": True}, 'rope: expected {"rows": "patches"} or null, got True'),
        ({"rope": {"rows": "patches"}, "tokenizer": {"hidden_size": 15, "num_heads": 5}}, "heads of an even number of columns"),
        ({"codebook": {"runs": 3}}, "codebook.runs: expected a divisor of num_latent_tokens, 8, got 3"),
        ({"codebook": {"tau": 0}}, "codebook.tau: expected a number from"),
        ({"codebook": {"sizes": 3}}, "codebook.sizes .did you mean 'size'"),
        ({"codebook": 5}, "codebook: expected an object with runs, size, tau, l2_norm, or null, got 5"),
    ],
)
def test_configs_that_do_not_fit(changes, message):
    with pytest.raises(textok.ConfigError, match=message):
        textok.TexTokConfig.from_dict({"image_size": 32, "num_latent_tokens": 8} | changes)
