"""Folders of text encoders as the engine takes them: our own, Hugging Face's, open_clip's; one tensor at a time, in any stored
type."""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import files, int4, weights
from ..config import TextEncoderConfig
from ..errors import ConfigError, WeightsError
from . import encoder_layouts as layouts
from .tokens import needed_files

_TORCH_FILE = "pytorch_model.bin"
_OPEN_CLIP_CONFIG = "open_clip_config.json"
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_SIZES = {"I8": np.int8, "BF16": np.uint16, "F32": np.float32}
# What the digest of the weights has of each tensor: some of its numbers, and the sums of all their bits in so many columns. Two
# widths without a common divisor, so that exchanged rows show too.
_SAMPLE, _COLUMNS = 4096, (4096, 4093)
_ACTIVATIONS = {
    "relu": "relu", "gelu": "gelu_erf", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu", "silu": "silu", "swish": "silu",
}  # fmt: skip


@dataclass(frozen=True)
class EncoderFolder:
    """What a folder holds: the config, the tensors under the names that files have, the files of its tokenizer."""

    path: Path
    config: TextEncoderConfig
    tensors: Mapping[str, weights.Tensor]
    tokenizer: Mapping[str, bytes]


def is_encoder_folder(folder: Path) -> bool:
    """Whether there is a text encoder in it, by its config."""
    if (folder / _OPEN_CLIP_CONFIG).is_file():
        return True
    if not (folder / weights.CONFIG_FILE).is_file():
        return False
    return files.read_json(folder / weights.CONFIG_FILE).get("model_type") in ("text_encoder", *_READERS)


def open_encoder(path: str | os.PathLike[str], settings: Mapping[str, Any]) -> EncoderFolder | None:
    """The text encoder in a folder or a file of anybody's, or None where there is none; see `read_folder` and `read_file`."""
    place = Path(path)
    if place.is_dir():
        return read_folder(place, settings) if is_encoder_folder(place) else None
    try:
        found = "family" in settings or layouts.is_open_clip(_file_tensors(place))
    except WeightsError:
        found = False  # other importers may know what it is
    return read_file(place, settings) if found else None


def read_folder(folder: Path, settings: Mapping[str, Any] | None = None) -> EncoderFolder:
    """Everything but the numbers; `settings` go before what the files say.

    Raises ConfigError for a config that is missing, broken or of another model, WeightsError for files of weights.
    """
    config_file = folder / weights.CONFIG_FILE
    open_clip = not config_file.is_file() and (folder / _OPEN_CLIP_CONFIG).is_file()
    if open_clip:
        config_file = folder / _OPEN_CLIP_CONFIG
    values = files.read_json(config_file)
    kind = values.get("model_type")
    try:
        if open_clip:
            own = _open_clip_config(values)
        elif kind == "text_encoder":
            own = values
        elif kind in _READERS:
            own = _READERS[kind](values)
        else:
            known = ", ".join(("text_encoder", *_READERS))
            raise ConfigError(f'expected a text encoder, a "model_type" of {known}, got {kind!r}')
        if kind != "text_encoder" and "max_tokens" not in own and (most := _model_max_length(folder)):
            own["max_tokens"] = min(most, own.get("max_positions") or most)
        tensors = _tensors(folder)
        config = _config(own | dict(settings or {}), tensors)
    except ConfigError as problem:
        raise ConfigError(f"{config_file}: {problem}") from None
    return EncoderFolder(folder, config, layouts.canonical(config.family, tensors), _tokenizer_files(folder))


def read_file(path: Path, settings: Mapping[str, Any]) -> EncoderFolder:
    """One file of weights, .safetensors or of torch.save, whose config is `settings` and what the shapes say."""
    tensors = _file_tensors(path)
    if layouts.is_open_clip(tensors):
        tensors = layouts.from_open_clip(tensors)
        if missing := [key for key in ("num_heads", "activation") if key not in settings]:
            raise ConfigError(
                f"{path}: a file of open_clip does not say {' and '.join(missing)}: give it, as num_heads=12 "
                "activation=quick_gelu"
            )
        settings = _clip_shapes(tensors, path) | dict(settings)
    elif "family" not in settings:
        raise ConfigError(f"{path}: a file does not say which text encoder it is; give its folder, with config.json")
    config = TextEncoderConfig.from_dict(settings)
    return EncoderFolder(path, config, layouts.canonical(config.family, tensors), _tokenizer_files(path.parent))


def _config(values: Mapping[str, Any], tensors: Mapping[str, weights.Tensor]) -> TextEncoderConfig:
    values = dict(values)
    if values.get("family") == "clip" and "text_projection.weight" not in tensors:
        values["projection_dim"] = 0  # CLIPTextModel, without a projection, has its width in its config all the same
    return TextEncoderConfig.from_dict(values)


# --- Configs of others --------------------------------------------------------------------------------------------------------


def _need(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    if missing := [name for name in names if name not in values]:
        raise ConfigError(f"missing {', '.join(missing)}")
    return {name: values[name] for name in names}


def _activation(name: Any) -> str:
    if name not in _ACTIVATIONS:
        raise ConfigError(f"expected an activation of {', '.join(_ACTIVATIONS)}, got {name!r}")
    return _ACTIVATIONS[name]


def _t5_config(values: Mapping[str, Any]) -> dict[str, Any]:
    v = _need(values, "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
    kind = values.get("feed_forward_proj", "relu")
    gated = isinstance(kind, str) and kind.startswith("gated-")
    name = "gelu_new" if kind == "gated-gelu" else str(kind).removeprefix("gated-")  # as transformers reads it
    return {
        "family": "t5",
        "vocab_size": v["vocab_size"],
        "hidden_size": v["d_model"],
        "depth": v["num_layers"],
        "num_heads": v["num_heads"],
        "head_dim": v["d_kv"],
        "mlp_size": v["d_ff"],
        "activation": _activation(name),
        "gated": gated,
        "norm_eps": values.get("layer_norm_epsilon", 1e-6),
        "relative_buckets": values.get("relative_attention_num_buckets", 32),
        "relative_distance": values.get("relative_attention_max_distance", 128),
        "relative_per_block": values["model_type"] == "umt5",
        "pad_token_id": values.get("pad_token_id") or 0,
    }


def _bert_config(values: Mapping[str, Any]) -> dict[str, Any]:
    v = _need(values, "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    if values.get("position_embedding_type", "absolute") != "absolute":
        raise ConfigError(f"expected absolute positions, got {values['position_embedding_type']!r}")
    return {
        "family": "bert",
        "vocab_size": v["vocab_size"],
        "hidden_size": v["hidden_size"],
        "depth": v["num_hidden_layers"],
        "num_heads": v["num_attention_heads"],
        "mlp_size": v["intermediate_size"],
        "activation": _activation(values.get("hidden_act", "gelu")),
        "norm_eps": values.get("layer_norm_eps", 1e-12),
        "max_positions": values.get("max_position_embeddings", 512),
        "token_types": values.get("type_vocab_size", 2),
        "pad_token_id": values.get("pad_token_id") or 0,
    }


def _clip_config(values: Mapping[str, Any]) -> dict[str, Any]:
    if values["model_type"] == "clip":  # of text and pictures
        inner = values.get("text_config")
        if not isinstance(inner, Mapping):
            raise ConfigError('expected a "text_config" in the config of a whole CLIP')
        values = {"projection_dim": values.get("projection_dim", 512), **inner}
    hidden, end = values.get("hidden_size", 512), values.get("eos_token_id", 49407)
    return {
        "family": "clip",
        "vocab_size": values.get("vocab_size", 49408),
        "hidden_size": hidden,
        "depth": values.get("num_hidden_layers", 12),
        "num_heads": values.get("num_attention_heads", 8),
        "mlp_size": values.get("intermediate_size", 2048),
        "activation": _activation(values.get("hidden_act", "quick_gelu")),
        "norm_eps": values.get("layer_norm_eps", 1e-5),
        "max_positions": values.get("max_position_embeddings", 77),
        "projection_dim": values.get("projection_dim", 512),
        "end_token_id": None if end == 2 else end,  # old files say 2 and mean the largest number
        "pad_token_id": 0,
    }


_READERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "t5": _t5_config, "mt5": _t5_config, "umt5": _t5_config, "bert": _bert_config,
    "clip_text_model": _clip_config, "clip": _clip_config,
}  # fmt: skip


def _open_clip_config(values: Mapping[str, Any]) -> dict[str, Any]:
    model = values.get("model_cfg")
    text = model.get("text_cfg") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(text, Mapping) or "hf_model_name" in text:
        raise ConfigError('expected a "model_cfg" with a "text_cfg" of a CLIP of its own')
    width = text.get("width", 512)
    return {
        "family": "clip",
        "vocab_size": text.get("vocab_size", 49408),
        "hidden_size": width,
        "depth": text.get("layers", 12),
        "num_heads": text.get("heads", 8),
        "mlp_size": round(width * text.get("mlp_ratio", 4.0)),
        "activation": "quick_gelu" if model.get("quick_gelu", False) else "gelu_erf",
        "max_positions": text.get("context_length", 77),
        "projection_dim": model.get("embed_dim", 512),
    }


def _clip_shapes(tensors: Mapping[str, weights.Tensor], path: Path) -> dict[str, Any]:
    """What the shapes of a CLIP's tensors say of its config."""
    try:
        vocab, width = tensors["text_model.embeddings.token_embedding.weight"].shape
        layers = {name.split(".")[3] for name in tensors if name.startswith("text_model.encoder.layers.")}
        return {
            "family": "clip",
            "vocab_size": vocab,
            "hidden_size": width,
            "depth": len(layers),
            "mlp_size": tensors["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "max_positions": tensors["text_model.embeddings.position_embedding.weight"].shape[0],
            "projection_dim": tensors["text_projection.weight"].shape[0] if "text_projection.weight" in tensors else 0,
        }
    except (KeyError, ValueError) as problem:
        raise WeightsError(f"{path}: not all tensors of a CLIP's text model are there: {problem}") from None


def _model_max_length(folder: Path) -> int | None:
    """What the tokenizer's settings say of the longest text, where that is a number that somebody meant."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return None
    most = files.read_json(path).get("model_max_length")
    return most if isinstance(most, int) and not isinstance(most, bool) and 1 <= most <= 1 << 16 else None


# --- Tensors ------------------------------------------------------------------------------------------------------------------


def _tensors(folder: Path) -> dict[str, weights.Tensor]:
    """All tensors of a folder as they are named there; safetensors before the files of torch.save."""
    if any((folder / name).exists() for name in (weights.WEIGHTS_FILE, weights.INDEX_FILE)):
        return {name: file.tensor(name) for name, file in weights.open_tensors(folder).items()}
    for name in _OPEN_CLIP_FILES:
        if (folder / name).exists():
            path = folder / name
            return layouts.from_open_clip(_file_tensors(path))
    if (folder / _TORCH_FILE).exists():
        return _torch_file(folder / _TORCH_FILE)
    index = folder / f"{_TORCH_FILE}.index.json"
    if not index.exists():
        raise WeightsError(f"{folder}: no {weights.WEIGHTS_FILE}, {_TORCH_FILE} or an index of their parts in it")
    result: dict[str, weights.Tensor] = {}
    for place in sorted(weights.read_index(index)):
        result |= _torch_file(folder / place)
    return result


def _file_tensors(path: Path) -> dict[str, weights.Tensor]:
    if path.suffix != ".safetensors":
        return _torch_file(path)
    file = weights.TensorFile(path)
    return {name: file.tensor(name) for name in file.shapes}


def _torch_file(path: Path) -> dict[str, weights.Tensor]:
    from ..torch_files import StoredTensor, TorchFile

    content = TorchFile(path).content
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not any(isinstance(value, StoredTensor) for value in content.values()):
        raise WeightsError(f"{path}: expected tensors by name")
    stored = {str(name): tensor for name, tensor in content.items() if isinstance(tensor, StoredTensor)}
    return {name: weights.Tensor(t.shape, weights.torch_type(t.dtype), str(path), t.read) for name, t in stored.items()}


def _tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The files of a folder's tokenizer, as they are; none are an error only where strings come."""
    result = {}
    for name in needed_files(lambda name: (folder / name).is_file()):
        path = folder / name
        if files.check_regular(path, ConfigError).st_size > files.MAX_JSON_BYTES:
            raise ConfigError(f"{path}: expected at most {files.MAX_JSON_BYTES >> 20} MB")
        result[name] = path.read_bytes()
    return result


class EngineTensors(Mapping[str, NDArray[Any]]):
    """The engine's tensors, each made of a file's when it is asked for; meanwhile a digest of what came grows.

    The digest takes all numbers of each tensor as float32, so it is the same for any type and file that holds these numbers,
    and another one where a single number differs. Nothing keeps somebody from making a file with the digest of another.
    """

    def __init__(
        self,
        config: TextEncoderConfig,
        tensors: Mapping[str, weights.Tensor],
        where: str,
        seen: Callable[[int], None] | None = None,
    ) -> None:
        self._weights = weights.Weights(tensors, layouts.file_table(config), where)
        self._tensors = tensors
        self._names = layouts.engine_names(config)
        self._columns = {name: shape[-1] for name, shape in layouts.file_table(config)}
        self._samples: dict[str, bytes] = {}
        self._seen = seen
        self._digested = bool(config.weights_digest)  # it is known already
        self._memory = np.empty(0, np.uint8)

    def __getitem__(self, name: str) -> NDArray[Any]:
        scales = next(
            (suffix for suffix in (".group_scale", ".scale") if name.endswith(suffix) and name not in self._names), ""
        )
        names = self._names[name.removesuffix(scales)]
        types = {self._tensors[each].type for each in names}
        if scales:
            return _joined([self._weights[each + scales] for each in names])
        if self._seen:
            self._seen(len(names))
        if len(types) == 1 and types <= {"I8", "BF16", "F32"} and all(self._tensors[each].read_into for each in names):
            return self._side_by_side(names)
        return _joined([self._read(each, widen=len(types) > 1) for each in names])

    def _side_by_side(self, names: tuple[str, ...]) -> NDArray[Any]:
        """Tensors of one type, one under the other, read into memory that serves for all of them in turn: fresh pages cost more
        than reading. The table of tokens, half of a small encoder, has memory of its own, which goes as soon as it is loaded.
        """
        size = np.dtype(_SIZES[self._tensors[names[0]].type]).itemsize
        counts = [math.prod(self._tensors[each].shape) * size for each in names]
        if names == self._names["token_embed"]:
            memory = np.empty(sum(counts), np.uint8)
        else:
            if self._memory.size < sum(counts):
                self._memory = np.empty(sum(counts), np.uint8)
            memory = self._memory
        at = 0
        for each, count in zip(names, counts):
            self._read(each, widen=False, into=memory[at : at + count])
            at += count
        shape = self._tensors[names[0]].shape
        whole = memory[:at].view(_SIZES[self._tensors[names[0]].type])
        return whole.reshape(len(names) * shape[0], *shape[1:]) if shape else whole

    def _read(self, name: str, widen: bool, into: NDArray[np.uint8] | None = None) -> NDArray[Any]:
        array = self._weights.take(name, into)
        if self._digested:
            return self._widened(name, array) if widen else array
        digest = hashlib.sha256(f"{name} {list(array.shape)} ".encode())
        flat = np.ascontiguousarray(array).reshape(-1)
        bits = flat.view(f"u{flat.itemsize}")
        shift = 16 if array.dtype == np.uint16 else 0  # bfloat16 as the float32 that it is
        digest.update((bits[:: max(1, flat.size // _SAMPLE)].astype(np.uint32) << shift).tobytes())
        for columns in _COLUMNS:
            digest.update((_column_sums(bits, columns).astype(np.uint32) << shift).tobytes())
        self._samples[name] = digest.digest()
        return self._widened(name, array) if widen else array

    def _widened(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        if array.dtype == np.uint8:
            return int4.widened(
                array, self._weights[f"{name}.scale"], self._weights[f"{name}.group_scale"], self._columns[name]
            )
        if array.dtype == np.int8:
            scale: NDArray[Any] = self._weights[f"{name}.scale"]
            widened: NDArray[Any] = np.multiply(array, scale[:, None], dtype=np.float32)
            return widened
        if array.dtype == np.uint16:
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array

    def digest(self) -> str:
        """Of all tensors that were asked for."""
        return hashlib.sha256(b"".join(self._samples[name] for name in sorted(self._samples))).hexdigest()[:32]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _column_sums(bits: NDArray[Any], columns: int) -> NDArray[Any]:
    """Unsigned numbers in rows of so many columns, the last one filled up with zeros: the sum of each column, wrapped round."""
    whole = bits.size // columns * columns
    sums: NDArray[Any] = np.add.reduce(bits[:whole].reshape(-1, columns), axis=0, dtype=bits.dtype)
    sums[: bits.size - whole] += bits[whole:]
    return sums


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
