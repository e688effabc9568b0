"""pranoyr/TexTok: a training file with T5 beside the tokenizer. Source: its texttok/model.py."""

from typing import Any

from .layout import Layout, Row, Settings, channels_last, count_blocks, first, pairs, same, shape_of, side_of_square
from .source import Source


def _config(source: Source, given: Settings) -> dict[str, Any]:
    width, _, patch, _ = shape_of(source, "tokenizer.patch_embed.proj.weight", 4)
    patches, latents = shape_of(source, "detokenizer.patch_tokens", 3)[1], shape_of(source, "tokenizer.image_tokens", 3)[1]
    config: dict[str, Any] = {
        "image_size": side_of_square(source, "detokenizer.patch_tokens", patches) * patch,
        "patch_size": patch,
        "num_latent_tokens": latents,
        "latent_dim": shape_of(source, "tokenizer.token_proj.weight", 2)[0],
        "text_dim": shape_of(source, "tokenizer.text_proj.weight", 2)[1],
        "num_text_tokens": shape_of(source, "tokenizer.pos_embed", 3)[1] - patches - latents,
        "norm_eps": 1e-5,
        "qkv_bias": False,
        "output_activation": "tanh",
    }
    for side in ("tokenizer", "detokenizer"):
        hidden, width = shape_of(source, f"{side}.blocks.0.mlp.fc1.weight", 2)
        config[side] = {
            "hidden_size": width,
            "depth": count_blocks(source, f"{side}.blocks.{{i}}."),
            "mlp_ratio": hidden / width,
        }
    return config


def _pranoyr_side(side: str) -> tuple[Row, ...]:
    block = f"{side}.blocks.{{i}}"
    return (
        *pairs(f"{side}.text_proj", f"{side}.text_proj"),
        (f"{side}.pos_embed", f"{side}.pos_embed", first),
        *pairs(f"{block}.norm1", f"{block}.norm1"),
        *pairs(f"{block}.norm2", f"{block}.norm2"),
        (f"{block}.attn.qkv.weight", f"{block}.attn.qkv.weight", same),
        *pairs(f"{block}.attn.proj", f"{block}.attn.proj"),
        *pairs(f"{block}.mlp.fc1", f"{block}.mlp.fc1"),
        *pairs(f"{block}.mlp.fc2", f"{block}.mlp.fc2"),
        *pairs(f"{side}.norm", f"{side}.norm"),
    )


PRANOYR_TEXTOK = Layout(
    "pranoyr/TexTok",
    "textok",
    ("tokenizer.image_tokens", "detokenizer.output_proj.weight"),
    (
        *pairs("tokenizer.patch_embed", "tokenizer.patch_embed.proj", channels_last),
        ("tokenizer.latent_tokens", "tokenizer.image_tokens", first),
        *_pranoyr_side("tokenizer"),
        *pairs("tokenizer.to_latent", "tokenizer.token_proj"),
        ("detokenizer.patch_tokens", "detokenizer.patch_tokens", first),
        *pairs("detokenizer.from_latent", "detokenizer.token_proj"),
        *_pranoyr_side("detokenizer"),
        *pairs("detokenizer.to_pixels", "detokenizer.output_proj"),
    ),
    _config,
    needed=("tokenizer.num_heads", "detokenizer.num_heads"),
    ignored=("text_encoder.*",),
)
