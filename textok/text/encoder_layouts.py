"""What the tensors of text encoders are called where they were published, and what the engine calls them.

The engine's names are one set for all families; queries, keys and values are one matrix there, and so are the two halves of a
gated MLP. Files keep the names of transformers. open_clip's are another set for the same things.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..config import TextEncoderConfig
from ..weights import Shape, Table, Tensor

_BLOCK = re.compile(r"blocks\.(\d+)\.(.*)")

# By the engine's name without ".weight" or ".bias", {i} the block: which tensors, one under the other, it is.
_T5 = "encoder.block.{i}.layer."
_BERT = "encoder.layer.{i}."
_CLIP = "text_model.encoder.layers.{i}."
_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "t5": {
        "token_embed": ("shared.weight",),
        "norm1": (_T5 + "0.layer_norm",),
        "relative_bias": (_T5 + "0.SelfAttention.relative_attention_bias.weight",),
        "attn.qkv": tuple(f"{_T5}0.SelfAttention.{part}" for part in "qkv"),
        "attn.proj": (_T5 + "0.SelfAttention.o",),
        "norm2": (_T5 + "1.layer_norm",),
        "mlp.fc1": (_T5 + "1.DenseReluDense.wi",),
        "mlp.fc1 gated": (_T5 + "1.DenseReluDense.wi_0", _T5 + "1.DenseReluDense.wi_1"),
        "mlp.fc2": (_T5 + "1.DenseReluDense.wo",),
        "norm": ("encoder.final_layer_norm",),
    },
    "bert": {
        "token_embed": ("embeddings.word_embeddings.weight",),
        "pos_embed": ("embeddings.position_embeddings.weight",),
        "type_embed": ("embeddings.token_type_embeddings.weight",),
        "embed_norm": ("embeddings.LayerNorm",),
        "norm1": (_BERT + "attention.output.LayerNorm",),
        "attn.qkv": tuple(f"{_BERT}attention.self.{part}" for part in ("query", "key", "value")),
        "attn.proj": (_BERT + "attention.output.dense",),
        "norm2": (_BERT + "output.LayerNorm",),
        "mlp.fc1": (_BERT + "intermediate.dense",),
        "mlp.fc2": (_BERT + "output.dense",),
    },
    "clip": {
        "token_embed": ("text_model.embeddings.token_embedding.weight",),
        "pos_embed": ("text_model.embeddings.position_embedding.weight",),
        "norm1": (_CLIP + "layer_norm1",),
        "attn.qkv": tuple(f"{_CLIP}self_attn.{part}_proj" for part in "qkv"),
        "attn.proj": (_CLIP + "self_attn.out_proj",),
        "norm2": (_CLIP + "layer_norm2",),
        "mlp.fc1": (_CLIP + "mlp.fc1",),
        "mlp.fc2": (_CLIP + "mlp.fc2",),
        "norm": ("text_model.final_layer_norm",),
        "pooled_proj": ("text_projection",),
    },
}

# What files hold beside the encoder. position_ids are 0, 1, 2, ...
_NOT_READ = {
    "t5": ("decoder.", "lm_head.", "encoder.embed_tokens.weight"),
    "bert": ("pooler.", "cls.", "classifier.", "embeddings.position_ids"),
    "clip": (
        "vision_model.",
        "visual_projection.",
        "visual.",
        "logit_scale",
        "logit_bias",
        "text_model.embeddings.position_ids",
        "attn_mask",
    ),
}


def engine_names(config: TextEncoderConfig) -> dict[str, tuple[str, ...]]:
    """The names in files of each of the engine's tensors."""
    names = _NAMES[config.family]
    result = {}
    for ours, _ in _core.weight_table("text_encoder", config.to_dict()):
        match = _BLOCK.match(ours)
        index, inner = (match[1], match[2]) if match else ("", ours)
        stem, dot, kind = inner.rpartition(".") if inner.endswith((".weight", ".bias")) else (inner, "", "")
        key = f"{stem} gated" if config.gated and stem == "mlp.fc1" else stem
        result[ours] = tuple(f"{name.replace('{i}', index)}{dot}{kind}" for name in names[key])
    return result


def file_table(config: TextEncoderConfig) -> Table:
    """Names and shapes of the tensors of a file."""
    names = engine_names(config)
    return [
        (name, (shape[0] // len(names[ours]), *shape[1:]))
        for ours, shape in _core.weight_table("text_encoder", config.to_dict())
        for name in names[ours]
    ]


def split(config: TextEncoderConfig, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The engine's tensors, int8 and int4 ones beside their scales, under the names that files have."""
    result: dict[str, NDArray[Any]] = {}
    for ours, names in engine_names(config).items():
        if ours not in tensors:
            continue
        for suffix in ("", ".scale", ".group_scale"):
            if ours + suffix in tensors:
                parts = np.split(tensors[ours + suffix], len(names))
                result |= {name + suffix: np.ascontiguousarray(part) for name, part in zip(names, parts)}
    return result


def canonical(family: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under transformers' names, without what is not the encoder's; unknown ones stay, for whoever checks them."""
    renamed = {_plain(family, name): tensor for name, tensor in tensors.items()}
    if family == "t5" and "shared.weight" not in renamed and "encoder.embed_tokens.weight" in renamed:
        renamed["shared.weight"] = renamed["encoder.embed_tokens.weight"]
    return {name: tensor for name, tensor in renamed.items() if not name.startswith(_NOT_READ[family])}


def _plain(family: str, name: str) -> str:
    if family == "bert":
        return (
            name.removeprefix("bert.")
            .replace("LayerNorm.gamma", "LayerNorm.weight")
            .replace("LayerNorm.beta", "LayerNorm.bias")
        )
    if family == "clip" and name.startswith(("embeddings.", "encoder.", "final_layer_norm.")):
        return f"text_model.{name}"  # transformers 5 writes them without
    return name


# --- open_clip ----------------------------------------------------------------------------------------------------------------

_OPEN_CLIP_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.*)")
_OPEN_CLIP = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_OPEN_CLIP_INNER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def is_open_clip(names: Iterable[str]) -> bool:
    return any("transformer.resblocks." in name and not name.startswith("visual.") for name in names)


def from_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's text model under transformers' names: queries, keys and values apart, the projection the other way round."""
    result: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix("text.")
        match = _OPEN_CLIP_BLOCK.match(name)
        if name in _OPEN_CLIP:
            result[_OPEN_CLIP[name]] = tensor
        elif name == "text_projection":
            result["text_projection.weight"] = _changed(tensor, tensor.shape[::-1], np.transpose)
        elif match and match[2].startswith("attn.in_proj_"):
            third = (tensor.shape[0] // 3, *tensor.shape[1:])
            for place, part in enumerate("qkv"):
                target = f"{_CLIP.replace('{i}', match[1])}self_attn.{part}_proj.{match[2].removeprefix('attn.in_proj_')}"
                result[target] = _changed(tensor, third, _third(place))
        elif match and (inner := match[2].rpartition("."))[0] in _OPEN_CLIP_INNER:
            result[f"{_CLIP.replace('{i}', match[1])}{_OPEN_CLIP_INNER[inner[0]]}.{inner[2]}"] = tensor
        else:
            result[name] = tensor
    return result


def _third(place: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda array: array[place * (len(array) // 3) : (place + 1) * (len(array) // 3)]


def _changed(tensor: Tensor, shape: Shape, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Tensor:
    return Tensor(shape, tensor.type, tensor.where, lambda: change(tensor.read()))
