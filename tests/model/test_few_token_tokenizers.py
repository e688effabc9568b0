"""SoftVQ-VAE and MAETok as their own code runs them: rotary positions on patch rows, soft codebooks, a class token as a
register."""

import dataclasses
import json
from pathlib import Path

import numerics
import numpy as np
import pytest
from safetensors.numpy import load_file

import textok

FOREIGN = Path(__file__).parent.parent / "golden" / "foreign"
NAMES = ("softvq", "maetok")
P, N, HEADS = 16, 8, 3
# A block's parts, and the layer scale that is folded into each.
PARTS = (
    ("norm1", None),
    ("norm2", None),
    ("attn.qkv", None),
    ("attn.proj", "ls1"),
    ("mlp.fc1", None),
    ("mlp.fc2", "ls2"),
)


def side_tensors(ours, theirs, tensors, positions):
    """A DINOv2 ViT's tensors under textok's names, layer scale folded; `positions`: whether the side adds `pos_embed`."""
    model = f"{theirs}.model."
    D = tensors[f"{model}cls_token"].shape[-1]
    grid = tensors[f"{model}pos_embed"][0] * (1 if positions else 0)
    latents = np.zeros((N, D), np.float32) if ours == "tokenizer" else tensors[f"{theirs}.latent_pos_embed"][0]
    result = {
        f"{ours}.registers": tensors[f"{model}cls_token"][0] + grid[:1],
        f"{ours}.pos_embed": np.concatenate([grid[1:], np.zeros((1, D), np.float32), latents]),
        f"{ours}.norm.weight": tensors[f"{model}norm.weight"],
        f"{ours}.norm.bias": tensors[f"{model}norm.bias"],
    }
    depth = 1 + max(int(name.split(".")[3]) for name in tensors if name.startswith(f"{model}blocks."))
    for i in range(depth):
        for name, scale in PARTS:
            for part in ("weight", "bias"):
                array = tensors[f"{model}blocks.{i}.{name}.{part}"]
                if scale:
                    gamma = tensors[f"{model}blocks.{i}.{scale}.gamma"]
                    array = array * (gamma[:, None] if part == "weight" else gamma)
                result[f"{ours}.blocks.{i}.{name}.{part}"] = array
        if f"{theirs}.freqs" in tensors:
            places = np.arange(P)
            fx, fy = tensors[f"{theirs}.freqs"][:, i].reshape(2, HEADS, 1, -1)
            result[f"{ours}.rope.{i}"] = (places % 4)[:, None] * fx + (places // 4)[:, None] * fy
    return result


def load(name, dtype="float32"):
    """The model, and what the originals' code answered, images as [B,S,S,3]."""
    sizes = json.loads((FOREIGN / name / "config.json").read_text())
    tensors = load_file(FOREIGN / name / "model.safetensors")
    rope = sizes["use_rope"]
    weights = side_tensors("tokenizer", "encoder", tensors, True) | side_tensors("detokenizer", "decoder", tensors, not rope)
    patch = tensors["encoder.model.patch_embed.proj.weight"]
    weights |= {
        "tokenizer.patch_embed.weight": patch.transpose(0, 2, 3, 1).reshape(len(patch), -1),
        "tokenizer.patch_embed.bias": tensors["encoder.model.patch_embed.proj.bias"],
        "tokenizer.latent_tokens": (tensors["encoder.latent_tokens"] + tensors["encoder.latent_pos_embed"])[0],
        "detokenizer.patch_tokens": np.repeat(tensors["decoder.mask_token"][0], P, axis=0),
    }
    for part in ("weight", "bias"):
        weights[f"tokenizer.to_latent.{part}"] = tensors[f"quant_conv.{part}"]
        weights[f"detokenizer.from_latent.{part}"] = tensors[f"post_quant_conv.{part}"]
        weights[f"detokenizer.to_pixels.{part}"] = tensors[f"decoder.to_pixel.model.{part}"]
    codebook = {"runs": sizes["num_codebooks"], "size": sizes["codebook_size"], "tau": sizes["tau"]}
    codebook["l2_norm"] = sizes["codebook_l2_norm"]
    if name == "softvq":
        weights["tokenizer.codebook"] = tensors["quantize.embedding"]
    side = {"hidden_size": len(patch), "depth": 3, "num_heads": HEADS}
    config = {"image_size": 32, "patch_size": 8, "num_latent_tokens": N, "latent_dim": 16, "text_condition": "none"}
    config |= {
        "num_registers": 1,
        "rope": {"rows": "patches"} if rope else None,
        "codebook": codebook if name == "softvq" else None,
    }
    stored = np.load(FOREIGN / name / "io.npz")
    images = {key: np.ascontiguousarray(stored[key].transpose(0, 2, 3, 1)) for key in ("x", "recon")}
    return textok.TexTok(config | {"tokenizer": side, "detokenizer": side}, weights, dtype=dtype), dict(stored) | images


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
