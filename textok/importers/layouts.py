"""The layouts of other projects as data: which of their tensors becomes which of ours, and how.

A row is (ours, theirs, change): `{i}` in the names counts blocks, and `change` makes ours from theirs. What a file says by its shapes
becomes config; what it does not say (the number of heads, in all of them) stands in `needed`.

Sources: facebookresearch/DiT models.py, diffusers' DiTTransformer2DModel, pranoyr/TexTok texttok/model.py, bytedance/1d-tokenizer
modeling/modules/blocks.py.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, WeightsError
from .source import Source

Array = NDArray[Any]
Change = Callable[..., Array]
Row = tuple[str, str | tuple[str, ...], Change]


@dataclass(frozen=True)
class Layout:
    """What one project's files look like.

    Attributes
    ----------
    title, model_type
        The project; "textok" or "dit".
    sign
        Names that only its files have.
    rows
        See above.
    config
        What the shapes, and the config beside them, say.
    needed
        Keys that they do not say.
    ignored
        Beginnings of names that belong to something else, such as a text encoder.
    """

    title: str
    model_type: str
    sign: tuple[str, ...]
    rows: tuple[Row, ...]
    config: Callable[[Source], dict[str, Any]]
    needed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def same(array: Array) -> Array:
    return array


def first(array: Array) -> Array:
    """[1,...] -> [...]"""
    return array[0]


def flat(array: Array) -> Array:
    """A convolution's [out, in, p, p] as a matrix whose columns are (channel, row, column)."""
    return array.reshape(len(array), -1)


def channels_last(array: Array) -> Array:
    """The same with columns (row, column, channel)."""
    return array.transpose(0, 2, 3, 1).reshape(len(array), -1)


def joined(*arrays: Array) -> Array:
    return np.concatenate(arrays)


def equal(*arrays: Array) -> Array:
    """One of many copies."""
    if not all(np.array_equal(arrays[0], other) for other in arrays[1:]):
        raise ValueError("expected equal copies of it in every block, they differ")
    return arrays[0]


def _pairs(ours: str, theirs: str, weight: Change = same) -> tuple[Row, Row]:
    return (f"{ours}.weight", f"{theirs}.weight", weight), (f"{ours}.bias", f"{theirs}.bias", same)


def _shape(source: Source, name: str, rank: int) -> tuple[int, ...]:
    shape = source.tensors[name].shape if name in source.tensors else None
    if shape is None or len(shape) != rank or 0 in shape:
        raise WeightsError(f"{source.path}: {name}: expected {rank} axes, got {'nothing' if shape is None else list(shape)}")
    return shape


def count_blocks(source: Source, pattern: str) -> int:
    """How many blocks there are, named 0, 1, ... where `pattern` has {i}."""
    found = re.compile(re.escape(pattern).replace(r"\{i\}", r"(\d{1,4})"))
    return len({match[1] for name in source.tensors if (match := found.match(name))})


def _side_of_square(source: Source, what: str, count: int) -> int:
    side = math.isqrt(count)
    if side * side != count:
        raise ConfigError(f"{source.path}: {what}: expected a square number of patches, got {count}")
    return side


# ---- the original DiT --------------------------------------------------------------------------------------------------------


def _dit_config(source: Source) -> dict[str, Any]:
    width, channels, patch, _ = _shape(source, "x_embedder.proj.weight", 4)
    tokens = _shape(source, "pos_embed", 3)[1]
    outputs = _shape(source, "final_layer.linear.weight", 2)[0]
    return {
        "input_size": _side_of_square(source, "pos_embed", tokens) * patch,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        "depth": count_blocks(source, "blocks.{i}."),
        "mlp_ratio": _shape(source, "blocks.0.mlp.fc1.weight", 2)[0] / width,
        "num_classes": _shape(source, "y_embedder.embedding_table.weight", 2)[0] - 1,
        "time_freq_dim": _shape(source, "t_embedder.mlp.0.weight", 2)[1],
        "learn_sigma": outputs == 2 * channels * patch * patch,
        "guidance_channels": min(3, channels),  # its forward_with_cfg
    }


ORIGINAL_DIT = Layout(
    "facebookresearch/DiT",
    "dit",
    ("x_embedder.proj.weight", "final_layer.linear.weight"),
    (
        *_pairs("x_embedder", "x_embedder.proj", flat),
        ("pos_embed", "pos_embed", first),
        *_pairs("t_embedder.mlp.0", "t_embedder.mlp.0"),
        *_pairs("t_embedder.mlp.2", "t_embedder.mlp.2"),
        ("y_embedder.embedding_table.weight", "y_embedder.embedding_table.weight", same),
        *_pairs("blocks.{i}.attn.qkv", "blocks.{i}.attn.qkv"),
        *_pairs("blocks.{i}.attn.proj", "blocks.{i}.attn.proj"),
        *_pairs("blocks.{i}.mlp.fc1", "blocks.{i}.mlp.fc1"),
        *_pairs("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.fc2"),
        *_pairs("blocks.{i}.adaLN_modulation.1", "blocks.{i}.adaLN_modulation.1"),
        *_pairs("final_layer.adaLN_modulation.1", "final_layer.adaLN_modulation.1"),
        *_pairs("final_layer.linear", "final_layer.linear"),
    ),
    _dit_config,
    needed=("num_heads",),
)


# ---- diffusers' DiT ----------------------------------------------------------------------------------------------------------

# What DiTTransformer2DModel computes only this way, and may say in its config.
_DIFFUSERS_FIXED = {
    "_class_name": "DiTTransformer2DModel", "activation_fn": "gelu-approximate", "attention_bias": True, "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False, "upcast_attention": False,
}  # fmt: skip


def _diffusers_config(source: Source) -> dict[str, Any]:
    given = source.config
    if given is None:
        raise ConfigError(f"{source.path}: expected the folder of a diffusers model, with its config.json, got a file")
    for key, value in _DIFFUSERS_FIXED.items():
        if key in given and given[key] != value:
            raise ConfigError(f"config.json of {source.path.parent}: {key}: expected {value!r}, got {given[key]!r}")
    keys = (
        "num_attention_heads", "attention_head_dim", "in_channels", "num_layers", "num_embeds_ada_norm", "norm_eps", "patch_size", "sample_size",
    )  # fmt: skip
    if missing := [key for key in keys if not isinstance(given.get(key), int | float)]:
        raise ConfigError(f"config.json of {source.path.parent}: expected a number for {', '.join(missing)}")
    heads, head, channels, depth, classes, eps, patch, size = (given[key] for key in keys)
    return {
        "input_size": size,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": heads * head,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": _shape(source, "transformer_blocks.0.ff.net.0.proj.weight", 2)[0] / (heads * head),
        "num_classes": classes,
        "time_freq_dim": _shape(source, "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.weight", 2)[1],
        "time_freq_shift": 1,
        "mlp_norm_eps": eps,
        "learn_sigma": (given.get("out_channels") or channels) == 2 * channels,
    }


def grid_positions(side: int, width: int) -> Array:
    """The fixed positions of DiT, float32 [side*side,width]: sines and cosines of the column, then of the row."""
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
        *_pairs("x_embedder", "pos_embed.proj", flat),
        ("t_embedder.mlp.0.weight", f"{_EMB}.timestep_embedder.linear_1.weight", equal),
        ("t_embedder.mlp.0.bias", f"{_EMB}.timestep_embedder.linear_1.bias", equal),
        ("t_embedder.mlp.2.weight", f"{_EMB}.timestep_embedder.linear_2.weight", equal),
        ("t_embedder.mlp.2.bias", f"{_EMB}.timestep_embedder.linear_2.bias", equal),
        ("y_embedder.embedding_table.weight", f"{_EMB}.class_embedder.embedding_table.weight", equal),
        *(
            (f"blocks.{{i}}.attn.qkv.{kind}", tuple(f"transformer_blocks.{{i}}.attn1.to_{part}.{kind}" for part in "qkv"), joined)
            for kind in ("weight", "bias")
        ),
        *_pairs("blocks.{i}.attn.proj", "transformer_blocks.{i}.attn1.to_out.0"),
        *_pairs("blocks.{i}.mlp.fc1", "transformer_blocks.{i}.ff.net.0.proj"),
        *_pairs("blocks.{i}.mlp.fc2", "transformer_blocks.{i}.ff.net.2"),
        *_pairs("blocks.{i}.adaLN_modulation.1", "transformer_blocks.{i}.norm1.linear"),
        *_pairs("final_layer.adaLN_modulation.1", "proj_out_1"),
        *_pairs("final_layer.linear", "proj_out_2"),
        ("pos_embed", (), grid_positions),
    ),
    _diffusers_config,
    ignored=("pos_embed.pos_embed",),
)


# ---- pranoyr/TexTok ----------------------------------------------------------------------------------------------------------


def _pranoyr_config(source: Source) -> dict[str, Any]:
    width, _, patch, _ = _shape(source, "tokenizer.patch_embed.proj.weight", 4)
    patches, latents = _shape(source, "detokenizer.patch_tokens", 3)[1], _shape(source, "tokenizer.image_tokens", 3)[1]
    config: dict[str, Any] = {
        "image_size": _side_of_square(source, "detokenizer.patch_tokens", patches) * patch,
        "patch_size": patch,
        "num_latent_tokens": latents,
        "latent_dim": _shape(source, "tokenizer.token_proj.weight", 2)[0],
        "text_dim": _shape(source, "tokenizer.text_proj.weight", 2)[1],
        "num_text_tokens": _shape(source, "tokenizer.pos_embed", 3)[1] - patches - latents,
        "norm_eps": 1e-5,
        "qkv_bias": False,
        "output_activation": "tanh",
    }
    for side in ("tokenizer", "detokenizer"):
        hidden, width = _shape(source, f"{side}.blocks.0.mlp.fc1.weight", 2)
        config[side] = {"hidden_size": width, "depth": count_blocks(source, f"{side}.blocks.{{i}}."), "mlp_ratio": hidden / width}
    return config


def _pranoyr_side(side: str) -> tuple[Row, ...]:
    block = f"{side}.blocks.{{i}}"
    return (
        *_pairs(f"{side}.text_proj", f"{side}.text_proj"),
        (f"{side}.pos_embed", f"{side}.pos_embed", first),
        *_pairs(f"{block}.norm1", f"{block}.norm1"),
        *_pairs(f"{block}.norm2", f"{block}.norm2"),
        (f"{block}.attn.qkv.weight", f"{block}.attn.qkv.weight", same),
        *_pairs(f"{block}.attn.proj", f"{block}.attn.proj"),
        *_pairs(f"{block}.mlp.fc1", f"{block}.mlp.fc1"),
        *_pairs(f"{block}.mlp.fc2", f"{block}.mlp.fc2"),
        *_pairs(f"{side}.norm", f"{side}.norm"),
    )


PRANOYR_TEXTOK = Layout(
    "pranoyr/TexTok",
    "textok",
    ("tokenizer.image_tokens", "detokenizer.output_proj.weight"),
    (
        *_pairs("tokenizer.patch_embed", "tokenizer.patch_embed.proj", channels_last),
        ("tokenizer.latent_tokens", "tokenizer.image_tokens", first),
        *_pranoyr_side("tokenizer"),
        *_pairs("tokenizer.to_latent", "tokenizer.token_proj"),
        ("detokenizer.patch_tokens", "detokenizer.patch_tokens", first),
        *_pairs("detokenizer.from_latent", "detokenizer.token_proj"),
        *_pranoyr_side("detokenizer"),
        *_pairs("detokenizer.to_pixels", "detokenizer.output_proj"),
    ),
    _pranoyr_config,
    needed=("tokenizer.num_heads", "detokenizer.num_heads"),
    ignored=("text_encoder.",),
)


# ---- TiTok and TA-TiTok with a VAE's latents ---------------------------------------------------------------------------------
#
# Their pictures are in [0, 1], ours in [-1, 1]: v = (x + 1) / 2 on the way in, x = 2 v - 1 on the way out, both folded into weights.


def _half(weight: Array) -> Array:
    return channels_last(weight) / 2


def _bias_in(bias: Array, weight: Array) -> Array:
    return bias + weight.sum(axis=(1, 2, 3), dtype=np.float64) / 2


def _positions(grid: Array, *others: Array) -> Array:
    """Theirs begin with the class token's; ours have it between patches and latents."""
    return np.concatenate([grid[1:], grid[:1], *others])


def _mask_tokens(mask: Array, grid: Array) -> Array:
    """One token for every patch."""
    return np.repeat(mask[0], len(grid) - 1, axis=0)


def _titok_config(source: Source) -> dict[str, Any]:
    _, _, patch, _ = _shape(source, "encoder.patch_embed.weight", 4)
    moments, latent = _shape(source, "encoder.conv_out.weight", 4)[0], _shape(source, "decoder.decoder_embed.weight", 2)[1]
    if moments != 2 * latent:
        raise ConfigError(f"{source.path}: expected a VAE, mean and log-variance of {latent} channels each, got {moments} channels")
    config: dict[str, Any] = {
        "image_size": _side_of_square(source, "positional_embedding", _shape(source, "encoder.positional_embedding", 2)[0] - 1) * patch,
        "patch_size": patch,
        "num_latent_tokens": _shape(source, "latent_tokens", 2)[0],
        "latent_dim": latent,
        "text_condition": "none",
        "num_registers": 1,
        "input_norm": True,
        "output_conv": True,
        "norm_eps": 1e-5,
        "kl": True,
    }
    for ours, theirs in (("tokenizer", "encoder"), ("detokenizer", "decoder")):
        hidden, width = _shape(source, f"{theirs}.transformer.0.mlp.c_fc.weight", 2)
        depth = count_blocks(source, f"{theirs}.transformer.{{i}}.")
        config[ours] = {"hidden_size": width, "depth": depth, "mlp_ratio": hidden / width}
    return config


def _tatitok_config(source: Source) -> dict[str, Any]:
    return _titok_config(source) | {
        "text_condition": "detokenizer",
        "text_dim": _shape(source, "decoder.text_guidance_proj.weight", 2)[1],
        "num_text_tokens": _shape(source, "decoder.text_guidance_positional_embedding", 2)[0],
    }


def _titok_side(ours: str, theirs: str) -> tuple[Row, ...]:
    a, b = f"{ours}.blocks.{{i}}", f"{theirs}.transformer.{{i}}"
    return (
        (f"{ours}.registers", f"{theirs}.class_embedding", same),
        *_pairs(f"{ours}.input_norm", f"{theirs}.ln_pre"),
        *_pairs(f"{a}.norm1", f"{b}.ln_1"),
        *_pairs(f"{a}.norm2", f"{b}.ln_2"),
        (f"{a}.attn.qkv.weight", f"{b}.attn.in_proj_weight", same),
        (f"{a}.attn.qkv.bias", f"{b}.attn.in_proj_bias", same),
        *_pairs(f"{a}.attn.proj", f"{b}.attn.out_proj"),
        *_pairs(f"{a}.mlp.fc1", f"{b}.mlp.c_fc"),
        *_pairs(f"{a}.mlp.fc2", f"{b}.mlp.c_proj"),
        *_pairs(f"{ours}.norm", f"{theirs}.ln_post"),
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
        *_pairs("tokenizer.to_latent", "encoder.conv_out", flat),
        ("detokenizer.patch_tokens", ("decoder.mask_token", "decoder.positional_embedding"), _mask_tokens),
        *_pairs("detokenizer.from_latent", "decoder.decoder_embed"),
        ("detokenizer.pos_embed", tuple(f"decoder.{name}" for name in (*_PLACES, *text)), _positions),
        *_titok_side("detokenizer", "decoder"),
        *_pairs("detokenizer.to_pixels", "decoder.ffn.0", flat),
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
        *_pairs("detokenizer.text_proj", "decoder.text_guidance_proj"),
    ),
    _tatitok_config,
    needed=TITOK.needed,
)

LAYOUTS: Sequence[Layout] = (ORIGINAL_DIT, DIFFUSERS_DIT, PRANOYR_TEXTOK, TATITOK, TITOK)


def layout_of(source: Source) -> Layout:
    """The layout whose sign the names carry; WeightsError where there is none."""
    for layout in LAYOUTS:
        if all(name in source.tensors for name in layout.sign):
            return layout
    some = ", ".join(list(source.tensors)[:3])
    raise WeightsError(f"{source.path}: expected tensors of {', '.join(layout.title for layout in LAYOUTS)}; got {some}, ...")


def expand(rows: Sequence[Row], depths: Mapping[str, int]) -> dict[str, tuple[tuple[str, ...], Change]]:
    """Rows with their {i} counted: by the depth of the side that our name begins with, or of "" for a DiT."""
    table: dict[str, tuple[tuple[str, ...], Change]] = {}
    for ours, theirs, change in rows:
        names = (theirs,) if isinstance(theirs, str) else theirs
        depth = next(depth for side, depth in depths.items() if ours.startswith(side))
        names = tuple(name.replace("{all}", str(i)) for name in names for i in range(depth if "{all}" in name else 1))
        for i in range(depth if "{i}" in ours else 1):
            table[ours.replace("{i}", str(i))] = tuple(name.replace("{i}", str(i)) for name in names), change
    return table
