"""bytedance/1d-tokenizer: TiTok and TA-TiTok with a VAE's latents. Source: its modeling/modules/blocks.py.

Their pictures are in [0, 1], ours in [-1, 1]: v = (x + 1) / 2 on the way in, x = 2 v - 1 on the way out, both folded into
weights.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ConfigError
from .layout import (
    Array,
    Layout,
    Row,
    Settings,
    channels_last,
    count_blocks,
    flat,
    pairs,
    refuse,
    same,
    shape_of,
    side_of_square,
)
from .source import Source


def _half(weight: Array) -> Array:
    return channels_last(weight) / 2


def _bias_in(bias: Array, weight: Array) -> Array:
    result: Array = bias + weight.sum(axis=(1, 2, 3), dtype=np.float64) / 2
    return result


def _positions(grid: Array, *others: Array) -> Array:
    """Theirs begin with the class token's; ours have it between patches and latents."""
    return np.concatenate([grid[1:], grid[:1], *others])


def _mask_tokens(mask: Array, grid: Array) -> Array:
    """One token for every patch."""
    return np.repeat(mask.reshape(1, grid.shape[1]), len(grid) - 1, axis=0)


# What the hub's config.json says of a model, where it stands there.
_WIDTHS = {"small": 512, "base": 768, "large": 1024}
_HEADS = {"small": 8, "base": 12, "large": 16}
# The text encoder that TA-TiTok was trained with, the places and width of its states; a folder of that name, or by hf://.
_CLIP, _CLIP_SHAPE = "openai/clip-vit-large-patch14-336", (77, 768)
_KNOWN: dict[str, tuple[Any, ...]] = {"quantize_mode": ("vae",), "is_legacy": (False, None)}


def _hub_config(source: Source) -> Mapping[str, Any]:
    """The part of `config.json` about the model; of a file alone, nothing."""
    inner: Any = source.config or {}
    for key in ("model", "vq_model"):
        inner = inner.get(key, {}) if isinstance(inner, Mapping) else {}
    return inner if isinstance(inner, Mapping) else {}


def _titok_config(source: Source, given: Settings) -> dict[str, Any]:
    said = _hub_config(source)
    refuse(source, said, _KNOWN)
    if "quantize.embedding.weight" in source.tensors:
        raise ConfigError(
            f"{source.path}: expected a VAE, got a TiTok with a codebook (quantize.embedding), which textok does not compute"
        )
    _, _, patch, _ = shape_of(source, "encoder.patch_embed.weight", 4)
    moments, latent = shape_of(source, "encoder.conv_out.weight", 4)[0], shape_of(source, "decoder.decoder_embed.weight", 2)[1]
    if moments != 2 * latent:
        raise ConfigError(
            f"{source.path}: expected a VAE, mean and log-variance of {latent} channels each, got {moments} channels"
        )
    config: dict[str, Any] = {
        "image_size": side_of_square(source, "positional_embedding", shape_of(source, "encoder.positional_embedding", 2)[0] - 1)
        * patch,
        "patch_size": patch,
        "num_latent_tokens": shape_of(source, "latent_tokens", 2)[0],
        "latent_dim": latent,
        "text_condition": "none",
        "num_registers": 1,
        "input_norm": True,
        "output_conv": True,
        "norm_eps": 1e-5,
        "kl": True,
    }
    for ours, theirs in (("tokenizer", "encoder"), ("detokenizer", "decoder")):
        hidden, width = shape_of(source, f"{theirs}.transformer.0.mlp.c_fc.weight", 2)
        depth = count_blocks(source, f"{theirs}.transformer.{{i}}.")
        config[ours] = {"hidden_size": width, "depth": depth, "mlp_ratio": hidden / width}
        size = said.get({"encoder": "vit_enc_model_size", "decoder": "vit_dec_model_size"}[theirs])
        if isinstance(size, str) and _WIDTHS.get(size) == width:
            config[ours]["num_heads"] = _HEADS[size]
    return config


def _tatitok_config(source: Source, given: Settings) -> dict[str, Any]:
    width = shape_of(source, "decoder.text_guidance_proj.weight", 2)[1]
    rows = shape_of(source, "decoder.text_guidance_positional_embedding", 2)[0]
    config = _titok_config(source, given) | {"text_condition": "detokenizer", "text_dim": width, "num_text_tokens": rows}
    # open_clip fills up with zeros, and all states are taken.
    use: dict[str, Any] = {"max_tokens": rows, "pad_to": rows, "pad_token": 0}
    if (rows, width) == _CLIP_SHAPE:
        use = {"name": _CLIP, **use}
    return config | ({"text_encoder": use} if "name" in use or given.get("text_encoder") else {})


def _tatitok_notes(source: Source, given: Settings) -> list[str]:
    if given.get("text_encoder"):
        return []
    return [
        f"captions as strings need CLIP's text encoder, as {_CLIP} has it: --set text_encoder.name=FOLDER, or that of the hub, "
        f"hf://{_CLIP}"
    ]


def _titok_side(ours: str, theirs: str) -> tuple[Row, ...]:
    a, b = f"{ours}.blocks.{{i}}", f"{theirs}.transformer.{{i}}"
    return (
        (f"{ours}.registers", f"{theirs}.class_embedding", same),
        *pairs(f"{ours}.input_norm", f"{theirs}.ln_pre"),
        *pairs(f"{a}.norm1", f"{b}.ln_1"),
        *pairs(f"{a}.norm2", f"{b}.ln_2"),
        (f"{a}.attn.qkv.weight", f"{b}.attn.in_proj_weight", same),
        (f"{a}.attn.qkv.bias", f"{b}.attn.in_proj_bias", same),
        *pairs(f"{a}.attn.proj", f"{b}.attn.out_proj"),
        *pairs(f"{a}.mlp.fc1", f"{b}.mlp.c_fc"),
        *pairs(f"{a}.mlp.fc2", f"{b}.mlp.c_proj"),
        *pairs(f"{ours}.norm", f"{theirs}.ln_post"),
    )


_PLACES = ("positional_embedding", "latent_token_positional_embedding")


def _titok_rows(*text: str) -> tuple[Row, ...]:
    """`text`: the decoder's further positions."""
    return (
        ("tokenizer.patch_embed.weight", "encoder.patch_embed.weight", _half),
        ("tokenizer.patch_embed.bias", ("encoder.patch_embed.bias", "encoder.patch_embed.weight"), _bias_in),
        ("tokenizer.latent_tokens", "latent_tokens", same),
        ("tokenizer.pos_embed", tuple(f"encoder.{name}" for name in _PLACES), _positions),
        *_titok_side("tokenizer", "encoder"),
        *pairs("tokenizer.to_latent", "encoder.conv_out", flat),
        ("detokenizer.patch_tokens", ("decoder.mask_token", "decoder.positional_embedding"), _mask_tokens),
        *pairs("detokenizer.from_latent", "decoder.decoder_embed"),
        ("detokenizer.pos_embed", tuple(f"decoder.{name}" for name in (*_PLACES, *text)), _positions),
        *_titok_side("detokenizer", "decoder"),
        *pairs("detokenizer.to_pixels", "decoder.ffn.0", flat),
        ("detokenizer.pixel_conv.weight", "decoder.conv_out.weight", lambda weight: 2 * channels_last(weight)),
        ("detokenizer.pixel_conv.bias", "decoder.conv_out.bias", lambda bias: 2 * bias - 1),
    )


TITOK = Layout(
    "bytedance/1d-tokenizer TiTok (VAE)",
    "textok",
    ("encoder.latent_token_positional_embedding", "decoder.mask_token"),
    _titok_rows(),
    _titok_config,
    needed=("tokenizer.num_heads", "detokenizer.num_heads"),
)

TATITOK = Layout(
    "bytedance/1d-tokenizer TA-TiTok (VAE)",
    "textok",
    (*TITOK.sign, "decoder.text_guidance_proj.weight"),
    (
        *_titok_rows("text_guidance_positional_embedding"),
        *pairs("detokenizer.text_proj", "decoder.text_guidance_proj"),
    ),
    _tatitok_config,
    needed=TITOK.needed,
    notes=_tatitok_notes,
)
