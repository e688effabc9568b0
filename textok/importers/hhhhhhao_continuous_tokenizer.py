"""Hhhhhhao/continuous_tokenizer: SoftVQ-VAE and MAETok, ViTs of DINOv2's kind to 32, 64 or 128 continuous tokens, and the DiT
and SiT over those tokens. `config.json` beside safetensors, as the hub's mixin saves them. Papers: arXiv 2412.10958 and
2502.03444.

Layer scale is folded into the weights of what it scales; a side's class token, and the register tokens of models that have
them, are our registers.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ..errors import ConfigError, WeightsError, shown
from .facebookresearch_dit import block_rows, class_notes, class_rows
from .layout import (
    Array,
    Layout,
    Row,
    Settings,
    Shaped,
    channels_last,
    count_blocks,
    first,
    pairs,
    refuse,
    same,
    shape_of,
    side_of_square,
)  # fmt: skip
from .source import Source

_SIDES = {"tokenizer": "encoder", "detokenizer": "decoder"}
_HEADS = {"small": (384, 6), "base": (768, 12), "large": (1024, 16)}  # width, heads
_KNOWN: dict[str, tuple[Any, ...]] = {
    "enc_type": ("vit",),
    "dec_type": ("vit",),
    "to_pixel": ("linear",),
    "rope_mixed": (False, True, None),
    "quantizer": ("softvq", "none", None),
}

# ---- the tokenizers ----------------------------------------------------------------------------------------------------------


def _config_of(source: Source) -> Mapping[str, Any]:
    if source.config is None:
        raise ConfigError(f"{source.path}: expected the folder of the model, with its config.json, got a file")
    return source.config


def _side(source: Source, ours: str, said: Mapping[str, Any]) -> dict[str, Any]:
    theirs = _SIDES[ours]
    model = str(said.get(f"{theirs}_model", ""))
    hidden, width = shape_of(source, f"{theirs}.model.blocks.0.mlp.fc1.weight", 2)
    if "giant" in model or shape_of(source, f"{theirs}.model.blocks.0.mlp.fc2.weight", 2)[1] != hidden:
        raise ConfigError(f"{source.path}: {theirs}_model {model!r}: a SwiGLU MLP, which textok does not compute")
    side = {"hidden_size": width, "depth": count_blocks(source, f"{theirs}.model.blocks.{{i}}."), "mlp_ratio": hidden / width}
    heads = next((heads for size, (known, heads) in _HEADS.items() if f"vit_{size}_" in model and width == known), None)
    return side if heads is None else side | {"num_heads": heads}


def _registers(source: Source, theirs: str) -> tuple[str, ...]:
    """The tokens of a side beside patches and latents."""
    names = (f"{theirs}.model.cls_token", f"{theirs}.model.reg_token")
    return tuple(name for name in names if name in source.tensors)


def _tokenizer_config(source: Source, given: Settings) -> dict[str, Any]:
    said = _config_of(source)
    refuse(source, said, _KNOWN)
    rope = bool(said.get("use_rope", False))
    if rope and not said.get("rope_mixed", False):
        raise ConfigError(
            f"config.json of {source.path.parent}: rope_mixed: expected true, learned 2D angles, got {said.get('rope_mixed')}"
        )
    if not rope and said.get("use_ape", True) is not True:
        raise ConfigError(f"config.json of {source.path.parent}: use_ape, use_rope: textok computes one of them, got neither")
    sides = {side: _side(source, side, said) for side in _SIDES}
    _, _, patch, _ = shape_of(source, "encoder.model.patch_embed.proj.weight", 4)
    with_class = "encoder.model.reg_token" not in source.tensors  # whose positions have none for it
    patches = shape_of(source, "encoder.model.pos_embed", 3)[1] - with_class
    registers = {
        side: sum(shape_of(source, name, 3)[1] for name in _registers(source, theirs)) for side, theirs in _SIDES.items()
    }
    if said.get("dec_cls_token", True) is False and _registers(source, "decoder"):
        registers["detokenizer"] = 0
    config: dict[str, Any] = {
        "image_size": side_of_square(source, "encoder.model.pos_embed", patches) * patch,
        "patch_size": patch,
        "num_latent_tokens": shape_of(source, "encoder.latent_tokens", 3)[1],
        "latent_dim": shape_of(source, "quant_conv.weight", 2)[0],
        "text_condition": "none",
        "num_registers": registers["tokenizer"],
        "norm_eps": 1e-6,
        **sides,
    }
    if registers["detokenizer"] not in (0, registers["tokenizer"]):
        raise ConfigError(f"{source.path}: expected as many registers in both sides, or none in the decoder, got {registers}")
    config["detokenizer_registers"] = registers["detokenizer"] == registers["tokenizer"]
    if rope:
        config["rope"] = {"rows": "patches"}
    for ours, theirs in (("latent_mean", "vq_mean"), ("latent_std", "vq_std")):
        if theirs in said:
            config[ours] = said[theirs]
    return config


def _softvq_config(source: Source, given: Settings) -> dict[str, Any]:
    said = _config_of(source)
    runs, size, _ = shape_of(source, "quantize.embedding", 3)
    codebook = {"runs": runs, "size": size, "tau": said.get("tau", 0.1), "l2_norm": said.get("codebook_l2_norm", True)}
    return _tokenizer_config(source, given) | {"codebook": codebook}


def _scaled(array: Array, gamma: Array) -> Array:
    """A layer's weight [out, in] or bias [out], times the layer scale [out] of its output."""
    return (array.T * gamma).T


def _tokens(*tokens: Array) -> Array:
    return np.concatenate([token.reshape(-1, token.shape[-1]) for token in tokens])


def _positions(with_grid: bool, grid: Array, latents: Array, *registers: Array) -> Array:
    """Of patches, registers and latents; theirs may begin with the class token's. Without the grid's, those of the latents
    alone."""
    grid, latents = grid[0], latents[0]
    count = sum(token.shape[1] for token in registers)
    side = int(len(grid) ** 0.5)
    first_patch = len(grid) - side * side
    others = np.zeros((count, grid.shape[1]), np.float32)
    if first_patch and count:
        others[:first_patch] = grid[:first_patch]
    if not with_grid:
        return np.concatenate([np.zeros_like(grid[first_patch:]), np.zeros_like(others), latents])
    return np.concatenate([grid[first_patch:], others, latents])


def _mask_tokens(shape: tuple[int, ...], mask: Array) -> Array:
    return np.repeat(mask.reshape(1, -1), shape[0], axis=0)


def _angles(block: int, shape: tuple[int, ...], freqs: Array, x: Array, y: Array) -> Array:
    """[H, P, Dh/2] of freqs [2, blocks, H Dh/2] (along x, along y) and the place [P] of each patch; of models that began with
    pictures of another size the stored places are of those, and made anew, as the original does.
    """
    heads, patches, pairs_of_columns = shape
    if x.size != patches:
        y, x = np.divmod(np.arange(patches, dtype=np.float64), round(patches**0.5))
    along_x, along_y = (freqs[axis, block].astype(np.float64).reshape(heads, 1, pairs_of_columns) for axis in (0, 1))
    angles: Array = x.reshape(1, -1, 1) * along_x + y.reshape(1, -1, 1) * along_y
    return angles


def _side_rows(source: Source, ours: str, with_grid: bool, with_registers: bool, rope: bool) -> tuple[Row, ...]:
    theirs = _SIDES[ours]
    a, b = f"{ours}.blocks.{{i}}", f"{theirs}.model.blocks.{{i}}"
    registers = _registers(source, theirs) if with_registers else ()
    depth = count_blocks(source, f"{theirs}.model.blocks.{{i}}.")
    places = tuple(f"{theirs}.freqs{name}" for name in ("", "_t_x", "_t_y"))
    scaled = (("attn.proj", "ls1"), ("mlp.fc2", "ls2"))
    return (
        *(((f"{ours}.registers", registers, _tokens),) if registers else ()),
        (
            f"{ours}.pos_embed",
            (f"{theirs}.model.pos_embed", f"{theirs}.latent_pos_embed", *registers),
            partial(_positions, with_grid),
        ),
        *pairs(f"{a}.norm1", f"{b}.norm1"),
        *pairs(f"{a}.norm2", f"{b}.norm2"),
        *pairs(f"{a}.attn.qkv", f"{b}.attn.qkv"),
        *pairs(f"{a}.mlp.fc1", f"{b}.mlp.fc1"),
        *(
            (f"{a}.{layer}.{kind}", (f"{b}.{layer}.{kind}", f"{b}.{scale}.gamma"), _scaled)
            for layer, scale in scaled
            for kind in ("weight", "bias")
        ),
        *pairs(f"{ours}.norm", f"{theirs}.model.norm"),
        *((f"{ours}.rope.{i}", places, Shaped(partial(_angles, i))) for i in range(depth if rope else 0)),
    )


def _tokenizer_rows(source: Source) -> tuple[Row, ...]:
    said = _config_of(source)
    rope = bool(said.get("use_rope", False))
    decoder_class = said.get("dec_cls_token", True) is not False
    return (
        *pairs("tokenizer.patch_embed", "encoder.model.patch_embed.proj", channels_last),
        ("tokenizer.latent_tokens", "encoder.latent_tokens", first),
        *_side_rows(source, "tokenizer", True, True, rope),
        *pairs("tokenizer.to_latent", "quant_conv"),
        ("detokenizer.patch_tokens", "decoder.mask_token", Shaped(_mask_tokens)),
        *pairs("detokenizer.from_latent", "post_quant_conv"),
        *_side_rows(source, "detokenizer", not rope, decoder_class, rope),
        *pairs("detokenizer.to_pixels", "decoder.to_pixel.model"),
    )


_UNUSED = (
    "decoder.model.patch_embed.*", "decoder.model.cls_token", "decoder.model.reg_token", "*.mask_token",
    "quantize.codebook_used",
    "*.freqs*", "repa*", "projection.*",
)  # fmt: skip
_NEEDED = ("tokenizer.num_heads", "detokenizer.num_heads")

MAETOK = Layout(
    "Hhhhhhao/continuous_tokenizer MAETok",
    "textok",
    ("encoder.latent_pos_embed", "decoder.latent_pos_embed", "quant_conv.weight"),
    _tokenizer_rows,
    _tokenizer_config,
    needed=_NEEDED,
    ignored=_UNUSED,
)

SOFTVQ = Layout(
    "Hhhhhhao/continuous_tokenizer SoftVQ-VAE",
    "textok",
    (*MAETOK.sign, "quantize.embedding"),
    lambda source: (*_tokenizer_rows(source), ("tokenizer.codebook", "quantize.embedding", same)),
    _softvq_config,
    needed=_NEEDED,
    ignored=_UNUSED,
)


# ---- the generators ----------------------------------------------------------------------------------------------------------

_KNOWN_DIT: dict[str, tuple[Any, ...]] = {
    "patch_size": (1,),
    "vae_1d": (True,),
    "qk_norm": (False, None),
    "path_type": ("linear", "Linear"),
    "prediction": ("v", "velocity", "epsilon", None),
}


def _is_sit(source: Source, given: Settings) -> bool:
    if "prediction" in given:
        return bool(given["prediction"] == "velocity")
    return "path_type" in (source.config or {}) or str(source.said.get("model", "")).startswith("SiT")


def _token_dit_config(source: Source, given: Settings) -> dict[str, Any]:
    said = source.config or {}
    refuse(source, said, _KNOWN_DIT)
    width, channels = shape_of(source, "x_embedder.weight", 2)
    if said.get("decoder_hidden_size", width) != width:
        got = shown(said["decoder_hidden_size"])
        raise ConfigError(
            f"config.json of {source.path.parent}: decoder_hidden_size: textok computes one width, {width}, got {got}"
        )
    outputs = shape_of(source, "final_layer.linear.weight", 2)[0]
    if outputs not in (channels, 2 * channels):
        raise WeightsError(
            f"{source.path}: final_layer.linear.weight: expected {channels} or {2 * channels} rows, got {outputs}"
        )
    config: dict[str, Any] = {
        "num_tokens": shape_of(source, "pos_embed", 3)[1],
        "in_channels": channels,
        "hidden_size": width,
        "depth": count_blocks(source, "blocks.{i}."),
        "mlp_ratio": shape_of(source, "blocks.0.mlp.fc1.weight", 2)[0] / width,
        "time_freq_dim": shape_of(source, "t_embedder.mlp.0.weight", 2)[1],
        "learn_sigma": outputs == 2 * channels,
    }
    if "num_heads" in said:
        config["num_heads"] = said["num_heads"]
    if _is_sit(source, given):
        config["prediction"] = "velocity"
    else:
        config["beta_schedule"] = "cosine"
    return config | class_rows(source, given)


def _notes(source: Source, given: Settings) -> list[str]:
    notes = class_notes(source, given)
    if "prediction" in given or "learn_sigma" in (source.config or {}) or _is_sit(source, given):
        return notes
    note = "taken for a DDPM that predicts noise (DiT), since nothing says which it is; if it is SiT, give prediction=velocity"
    return [*notes, note]


TOKEN_DIT = Layout(
    "Hhhhhhao/continuous_tokenizer DiT or SiT",
    "dit",
    ("x_embedder.weight", "final_layer.linear.weight"),
    (
        *pairs("x_embedder", "x_embedder"),
        *block_rows(),
        ("t_embedder.mlp.0.weight", "t_embedder.mlp.0.weight", same),
        *pairs("final_layer.linear", "final_layer.linear"),
    ),
    _token_dit_config,
    needed=("num_heads",),
    ignored=("projectors.*",),
    notes=_notes,
)
