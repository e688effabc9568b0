"""The published systems over few tokens at sizes that nobody published: heads of 1, 3, 5, 7 and 11, widths of no round number,
one block, register tokens, a decoder without class token. Folders as the hub has them, beside float64."""

import json

import numerics
import numpy as np
import pytest
from reference import continuous_tokenizer as theirs
from reference import dit_model
from safetensors.numpy import save_file

from textok import importers

# Image and patch; tokens and their numbers; (width, heads, blocks, MLP width) of both sides; what the config says; what is in
# the file beside it.
TOKENIZERS = {
    "softvq": (24, 4, 10, 7, (45, 5, 1, 70), (27, 3, 2, 111), {"codebook_l2_norm": False, "tau": 0.5, "dec_cls_token": False},
               {"codebooks": (5, 37)}),
    "softvq, registers": (30, 10, 6, 16, (88, 11, 2, 352), (88, 11, 3, 352), {}, {"codebooks": (1, 50), "registers": 4}),
    "softvq, one token": (15, 5, 1, 3, (33, 1, 1, 33), (17, 1, 1, 65), {}, {"codebooks": (1, 3)}),
    "maetok": (15, 3, 13, 5, (50, 5, 1, 90), (50, 5, 1, 90), {"use_rope": True}, {}),
    "maetok, registers": (28, 7, 3, 33, (66, 11, 3, 100), (22, 1, 2, 60), {"use_rope": True, "dec_cls_token": False},
                          {"registers": 4}),
}  # fmt: skip
# Tokens and their numbers; width, heads, blocks, times of the MLP; classes; numbers of the time embedding.
GENERATORS = {
    "five heads of 9": (13, 7, 45, 5, 1, 4, 10, 46),
    "one token": (1, 33, 66, 3, 3, 2, 1000, 256),
    "one head of 31": (65, 16, 31, 1, 2, 3, 3, 64),
}


def write(folder, said, tensors):
    (folder / "config.json").write_text(json.dumps(said))
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers(tmp_path, name):
    size, patch, N, d, encoder, decoder, more, beside = TOKENIZERS[name]
    vit = "vit_small_patch14_dinov2.lvd142m"
    said = {
        "image_size": size, "num_latent_tokens": N, "codebook_embed_dim": d, "enc_type": "vit", "dec_type": "vit",
        "encoder_model": vit, "decoder_model": vit, "to_pixel": "linear", "dec_cls_token": True, "codebook_l2_norm": True,
        "tau": 0.07, "use_rope": False, **more,
    }  # fmt: skip
    said |= {"use_ape": not said["use_rope"], "rope_mixed": said["use_rope"]}
    w = theirs.random_model(said, (encoder, decoder), patch, **beside)
    write(tmp_path, said, w)
    model = importers.load(tmp_path, {"tokenizer.num_heads": encoder[1], "detokenizer.num_heads": decoder[1]})
    images = np.random.default_rng(1).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
    latents = np.stack([theirs.encode(w, said, encoder[1], image) for image in images])
    pictures = np.stack([theirs.decode(w, said, decoder[1], z) for z in latents])
    numerics.check(model.encode(images), latents, numerics.END_TO_END, f"{name} encode")
    numerics.check(model.decode(latents.astype(np.float32), output="float32"), pictures, numerics.END_TO_END, f"{name} decode")
    # A place's row of the wrong kind, as a class token taken for a patch would have it.
    shifted = w | {"decoder.latent_pos_embed": w["decoder.latent_pos_embed"] * np.float32(0.999)}
    assert numerics.rejects(theirs.decode(shifted, said, decoder[1], latents[0]), pictures[0], numerics.END_TO_END)


@pytest.mark.parametrize("kind", ("dit", "sit"))
@pytest.mark.parametrize("name", GENERATORS)
def test_generators(tmp_path, name, kind):
    N, C, D, H, depth, times, classes, waves = GENERATORS[name]
    rng = np.random.default_rng(2)
    shapes = {
        "x_embedder": (D, C), "t_embedder.mlp.0": (D, waves), "t_embedder.mlp.2": (D, D),
        "final_layer.linear": (C * (2 if kind == "dit" else 1), D), "final_layer.adaLN_modulation.1": (2 * D, D),
    }  # fmt: skip
    for i in range(depth):
        layers = {"attn.qkv": (3 * D, D), "attn.proj": (D, D), "mlp.fc1": (times * D, D), "mlp.fc2": (D, times * D),
                  "adaLN_modulation.1": (6 * D, D)}  # fmt: skip
        shapes |= {f"blocks.{i}.{layer}": shape for layer, shape in layers.items()}
    w = {f"{layer}.weight": rng.standard_normal(shape) * shape[1] ** -0.5 for layer, shape in shapes.items()}
    w |= {f"{layer}.bias": rng.standard_normal(shape[0]) * 0.1 for layer, shape in shapes.items()}
    w |= {"pos_embed": rng.standard_normal((1, N, D))}
    w |= {"y_embedder.embedding_table.weight": rng.standard_normal((classes + 1, D))}
    w = {key: array.astype(np.float32) for key, array in w.items()}
    said = {"input_size": N, "patch_size": 1, "in_channels": C, "hidden_size": D, "depth": depth, "num_heads": H,
            "num_classes": classes, "class_dropout_prob": 0.1, "vae_1d": True}  # fmt: skip
    said |= {"mlp_ratio": float(times), "learn_sigma": True} if kind == "dit" else {"path_type": "linear", "qk_norm": False}
    write(tmp_path, said, w)
    model = importers.load(tmp_path)
    x, labels = rng.standard_normal((3, N, C)).astype(np.float32), [0, classes - 1, classes]
    t = np.float32([0, 417, 999] if kind == "dit" else [0.04, 0.5, 1])
    config, ours = model.config.to_dict(), w | {"pos_embed": w["pos_embed"][0]}
    exact = np.stack([dit_model.evaluate(config, ours, *row) for row in zip(x, t, labels, strict=True)])
    numerics.check(model.denoise(x, t, labels=labels), exact, numerics.END_TO_END, f"{kind}, {name}")
    assert numerics.rejects(model.denoise(x, t * np.float32(0.98), labels=labels), exact, numerics.END_TO_END)
