"""facebookresearch/DiT: DiT-XL/2 and its sizes over a VAE's latent images, as .pt files. Source: its models.py."""

from typing import Any

from .layout import Layout, count_blocks, first, flat, pairs, same, shape_of, side_of_square
from .source import Source


def _dit_config(source: Source) -> dict[str, Any]:
    width, channels, patch, _ = shape_of(source, "x_embedder.proj.weight", 4)
    tokens = shape_of(source, "pos_embed", 3)[1]
    outputs = shape_of(source, "final_layer.linear.weight", 2)[0]
    return {
        "input_size": side_of_square(source, "pos_embed", tokens) * patch,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        "depth": count_blocks(source, "blocks.{i}."),
        "mlp_ratio": shape_of(source, "blocks.0.mlp.fc1.weight", 2)[0] / width,
        "num_classes": shape_of(source, "y_embedder.embedding_table.weight", 2)[0] - 1,
        "time_freq_dim": shape_of(source, "t_embedder.mlp.0.weight", 2)[1],
        "learn_sigma": outputs == 2 * channels * patch * patch,
        "guidance_channels": min(3, channels),  # its forward_with_cfg
    }


ORIGINAL_DIT = Layout(
    "facebookresearch/DiT",
    "dit",
    ("x_embedder.proj.weight", "final_layer.linear.weight"),
    (
        *pairs("x_embedder", "x_embedder.proj", flat),
        ("pos_embed", "pos_embed", first),
        *pairs("t_embedder.mlp.0", "t_embedder.mlp.0"),
        *pairs("t_embedder.mlp.2", "t_embedder.mlp.2"),
        ("y_embedder.embedding_table.weight", "y_embedder.embedding_table.weight", same),
        *pairs("blocks.{i}.attn.qkv", "blocks.{i}.attn.qkv"),
        *pairs("blocks.{i}.attn.proj", "blocks.{i}.attn.proj"),
        *pairs("blocks.{i}.mlp.fc1", "blocks.{i}.mlp.fc1"),
        *pairs("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.fc2"),
        *pairs("blocks.{i}.adaLN_modulation.1", "blocks.{i}.adaLN_modulation.1"),
        *pairs("final_layer.adaLN_modulation.1", "final_layer.adaLN_modulation.1"),
        *pairs("final_layer.linear", "final_layer.linear"),
    ),
    _dit_config,
    needed=("num_heads",),
)
