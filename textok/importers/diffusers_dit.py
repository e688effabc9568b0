"""diffusers' DiT: a folder with config.json, such as facebook/DiT-XL-2-256's transformer.

Source: its models/transformers/dit_transformer_2d.py.
"""

import math
from typing import Any

import numpy as np

from ..errors import ConfigError, shown
from .layout import Array, Layout, Settings, Shaped, equal, flat, joined, number_of, pairs, refuse, shape_of
from .source import Source

# What a DiT computes only this way, and may say in its config. facebook/DiT-XL-2-256 is of a time when its class was
# Transformer2DModel.
_FIXED: dict[str, tuple[Any, ...]] = {
    "_class_name": ("DiTTransformer2DModel", "Transformer2DModel"),
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "norm_type": ("ada_norm_zero",),
    "norm_elementwise_affine": (False,),
    "upcast_attention": (False, None),
    "cross_attention_dim": (None,),
    "num_vector_embeds": (None,),
    "double_self_attention": (False, None),
    "only_cross_attention": (False, None),
}
_SIZES = (
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "num_layers",
    "num_embeds_ada_norm",
    "patch_size",
    "sample_size",
)


def _config(source: Source, given: Settings) -> dict[str, Any]:
    values = source.config
    if values is None:
        raise ConfigError(f"{source.path}: expected the folder of a diffusers model, with its config.json, got a file")
    refuse(source, values, _FIXED)
    heads, head, channels, depth, classes, patch, size = (number_of(source, values, key) for key in _SIZES)
    eps = values.get("norm_eps", 1e-5)
    if isinstance(eps, bool) or not isinstance(eps, int | float):
        raise ConfigError(f"config.json of {source.path.parent}: norm_eps: expected a number, got {shown(eps)}")
    return {
        "input_size": size,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": heads * head,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": shape_of(source, "transformer_blocks.0.ff.net.0.proj.weight", 2)[0] / (heads * head),
        "num_classes": classes,
        "time_freq_dim": shape_of(source, "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.weight", 2)[1],
        "time_freq_shift": 1,
        "mlp_norm_eps": eps,
        "learn_sigma": (values.get("out_channels") or channels) == 2 * channels,
    }


def _grid_positions(shape: tuple[int, ...]) -> Array:
    """The fixed positions of DiT, float32 [side*side,width]: sines and cosines of the column, then of the row."""
    side, width = math.isqrt(shape[0]), shape[1]
    if width % 4:
        raise ConfigError(f"hidden_size: expected a multiple of 4 for DiT's fixed positions, got {width}")
    waves = np.arange(side)[:, None] / 10000.0 ** (np.arange(width // 4) / (width // 4))
    half = np.concatenate([np.sin(waves), np.cos(waves)], axis=1)
    column, row = np.tile(half, (side, 1)), np.repeat(half, side, axis=0)
    return np.concatenate([column, row], axis=1).astype(np.float32)


_EMB = "transformer_blocks.{all}.norm1.emb"

DIFFUSERS_DIT = Layout(
    "diffusers DiTTransformer2DModel",
    "dit",
    ("pos_embed.proj.weight", "proj_out_2.weight"),
    (
        *pairs("x_embedder", "pos_embed.proj", flat),
        ("t_embedder.mlp.0.weight", f"{_EMB}.timestep_embedder.linear_1.weight", equal),
        ("t_embedder.mlp.0.bias", f"{_EMB}.timestep_embedder.linear_1.bias", equal),
        ("t_embedder.mlp.2.weight", f"{_EMB}.timestep_embedder.linear_2.weight", equal),
        ("t_embedder.mlp.2.bias", f"{_EMB}.timestep_embedder.linear_2.bias", equal),
        ("y_embedder.embedding_table.weight", f"{_EMB}.class_embedder.embedding_table.weight", equal),
        *(
            (
                f"blocks.{{i}}.attn.qkv.{kind}",
                tuple(f"transformer_blocks.{{i}}.attn1.to_{part}.{kind}" for part in "qkv"),
                joined,
            )
            for kind in ("weight", "bias")
        ),
        *pairs("blocks.{i}.attn.proj", "transformer_blocks.{i}.attn1.to_out.0"),
        *pairs("blocks.{i}.mlp.fc1", "transformer_blocks.{i}.ff.net.0.proj"),
        *pairs("blocks.{i}.mlp.fc2", "transformer_blocks.{i}.ff.net.2"),
        *pairs("blocks.{i}.adaLN_modulation.1", "transformer_blocks.{i}.norm1.linear"),
        *pairs("final_layer.adaLN_modulation.1", "proj_out_1"),
        *pairs("final_layer.linear", "proj_out_2"),
        ("pos_embed", (), Shaped(_grid_positions)),
    ),
    _config,
    ignored=("pos_embed.pos_embed",),
)
