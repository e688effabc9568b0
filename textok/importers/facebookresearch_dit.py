"""facebookresearch/DiT: DiT-XL/2 and its sizes over a VAE's latent images, as .pt files; and SiT, which has the same tensors.

DiT predicts noise, SiT a velocity, and no tensor says which: a training's options do (`args.model`), or the caller does. SiT's
own checkpoints (willisma/SiT) keep DiT's learned sigma, of which nothing is used, and their time runs from noise to data;
REPA's, which have no sigma, run from data to noise as here. Sources: facebookresearch/DiT models.py, willisma/SiT models.py and
transport/, sihyun-yu/REPA models/sit.py.
"""

from typing import Any

import numpy as np

from ..errors import ConfigError
from .layout import Array, Layout, Row, Settings, count_blocks, first, flat, pairs, same, shape_of, side_of_square
from .source import Source

HEADS = {"S": 6, "B": 12, "L": 16, "XL": 16}


def model_name(source: Source) -> str:
    """What a training says it trains: "DiT-XL/2", "SiT-B/4"."""
    return str(source.said.get("model", ""))


def _learns_sigma(source: Source) -> bool:
    _, channels, patch, _ = shape_of(source, "x_embedder.proj.weight", 4)
    return shape_of(source, "final_layer.linear.weight", 2)[0] == 2 * channels * patch * patch


def _is_velocity(source: Source, given: Settings) -> bool:
    if "prediction" in given:
        return bool(given["prediction"] == "velocity")
    return model_name(source).startswith("SiT") or (_has_projectors(source) and not _learns_sigma(source))


def _has_projectors(source: Source) -> bool:
    return any(name.startswith("projectors.") for name in source.tensors)


def class_rows(source: Source, given: Settings) -> dict[str, Any]:
    """The number of classes, and whether the label table has a row more, for none of them.

    The rows do not say: those of a model trained without class dropout are its classes.
    """
    rows = shape_of(source, "y_embedder.embedding_table.weight", 2)[0]
    beside = source.config or {}
    said = given.get("num_classes", source.said.get("num_classes", beside.get("num_classes")))
    dropout = source.said.get("class_dropout_prob", beside.get("class_dropout_prob"))
    without = rows == 1 or said == rows or (dropout == 0 and said != rows - 1)
    without = not given.get("null_class", not without)
    return {"num_classes": rows if without else rows - 1, "null_class": not without}


def class_notes(source: Source, given: Settings) -> list[str]:
    """What `class_rows` takes for granted, where nothing says it and it is not ImageNet's thousand."""
    found = class_rows(source, given)
    said = {"num_classes", "null_class"} & given.keys() or {"num_classes", "class_dropout_prob"} & source.said.keys()
    if said or found["num_classes"] == 1000:
        return []
    rows = found["num_classes"] + found["null_class"]
    if not found["null_class"]:
        return ["its label table has one row, which is taken for the only class: it cannot be guided"]
    return [
        f"its label table of {rows} rows is taken for {rows - 1} classes and a row for none of them; "
        + f"if it was trained without class dropout, give num_classes={rows}"
    ]


def _config(source: Source, given: Settings) -> dict[str, Any]:
    width, channels, patch, _ = shape_of(source, "x_embedder.proj.weight", 4)
    tokens = shape_of(source, "pos_embed", 3)[1]
    config: dict[str, Any] = {
        "input_size": side_of_square(source, "pos_embed", tokens) * patch,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        "depth": count_blocks(source, "blocks.{i}."),
        "mlp_ratio": shape_of(source, "blocks.0.mlp.fc1.weight", 2)[0] / width,
        "time_freq_dim": shape_of(source, "t_embedder.mlp.0.weight", 2)[1],
        "learn_sigma": _learns_sigma(source),
        "guidance_channels": min(3, channels),  # its forward_with_cfg
    }
    size = model_name(source).partition("/")[0].rpartition("-")[2]
    if size in HEADS:
        config["num_heads"] = HEADS[size]
    if _is_velocity(source, given):
        path = source.said.get("path_type", "Linear")
        if str(path).lower() != "linear" or source.said.get("prediction", "velocity") not in ("velocity", "v"):
            what = f"{path} path, prediction {source.said.get('prediction', 'velocity')}"
            raise ConfigError(
                f"{source.path}: expected a SiT of the linear path that predicts the velocity, got one of the {what}"
            )
        config |= {"prediction": "velocity", "learn_sigma": False}
        if not _learns_sigma(source):
            config["guidance_channels"] = None  # REPA's sampler guides all of them
    return config | class_rows(source, given)


def _notes(source: Source, given: Settings) -> list[str]:
    notes = class_notes(source, given)
    if "prediction" in given or model_name(source).startswith("DiT") or _is_velocity(source, given):
        return notes
    return [
        *notes,
        "taken for a DDPM that predicts noise (DiT), for SiT has the same tensors and nothing says which it is; "
        + "if it is SiT, give prediction=velocity",
    ]


def block_rows() -> tuple[Row, ...]:
    """All but the first and the last layer, which DiT and SiT over tokens share."""
    return (
        ("pos_embed", "pos_embed", first),
        *pairs("t_embedder.mlp.2", "t_embedder.mlp.2"),
        ("t_embedder.mlp.0.bias", "t_embedder.mlp.0.bias", same),
        ("y_embedder.embedding_table.weight", "y_embedder.embedding_table.weight", same),
        *pairs("blocks.{i}.attn.qkv", "blocks.{i}.attn.qkv"),
        *pairs("blocks.{i}.attn.proj", "blocks.{i}.attn.proj"),
        *pairs("blocks.{i}.mlp.fc1", "blocks.{i}.mlp.fc1"),
        *pairs("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.fc2"),
        *pairs("blocks.{i}.adaLN_modulation.1", "blocks.{i}.adaLN_modulation.1"),
        *pairs("final_layer.adaLN_modulation.1", "final_layer.adaLN_modulation.1"),
    )


ORIGINAL_DIT = Layout(
    "facebookresearch/DiT",
    "dit",
    ("x_embedder.proj.weight", "final_layer.linear.weight"),
    (
        *pairs("x_embedder", "x_embedder.proj", flat),
        *block_rows(),
        ("t_embedder.mlp.0.weight", "t_embedder.mlp.0.weight", same),
        *pairs("final_layer.linear", "final_layer.linear"),
    ),
    _config,
    needed=("num_heads",),
    fits=lambda source, given: not (_is_velocity(source, given) and _learns_sigma(source)),
    notes=_notes,
)


def _other_time(weight: Array) -> Array:
    """The first layer of the time embedding for 1 - t in place of t.

    It reads [cos(t w), sin(t w)] of frequencies w, and those of 1 - t are sums of them: cos(w - tw) = cos w cos tw + sin w sin
    tw, sin(w - tw) = sin w cos tw - cos w sin tw.
    """
    half = weight.shape[1] // 2
    angles = np.exp(-np.log(10000.0) * np.arange(half) / half)
    cosines, sines = weight[:, :half].astype(np.float64), weight[:, half:].astype(np.float64)
    c, s = np.cos(angles), np.sin(angles)
    return np.concatenate([cosines * c + sines * s, cosines * s - sines * c], axis=1)


def _other_way(array: Array, patches: Array) -> Array:
    """The last layer's rows (place in the patch, channel) without those of sigma, for noise - data in place of data - noise."""
    _, channels, patch, _ = patches.shape
    rows = array.reshape(patch * patch, 2 * channels, -1)[:, :channels]
    return -rows.reshape(patch * patch * channels, *array.shape[1:])


SIT = Layout(
    "willisma/SiT",
    "dit",
    ORIGINAL_DIT.sign,
    (
        *pairs("x_embedder", "x_embedder.proj", flat),
        *block_rows(),
        ("t_embedder.mlp.0.weight", "t_embedder.mlp.0.weight", _other_time),
        *(
            (f"final_layer.linear.{kind}", (f"final_layer.linear.{kind}", "x_embedder.proj.weight"), _other_way)
            for kind in ("weight", "bias")
        ),
    ),
    _config,
    needed=ORIGINAL_DIT.needed,
    fits=lambda source, given: _is_velocity(source, given) and _learns_sigma(source),
)
