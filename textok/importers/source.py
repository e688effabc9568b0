"""A foreign checkpoint as names and tensors, whatever it comes in: one file or shards, of safetensors or of torch.save, alone,
in a folder of the hub or in a pipeline's."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ConfigError, WeightsError, told
from ..files import read_json
from ..torch_files import Skipped, StoredTensor, TorchFile
from ..weights import (
    CONFIG_FILE,
    PIPELINE_FILE,
    WEIGHT_SUFFIXES,
    Tensor,
    TensorFile,
    choose_weights,
    read_index,
    torch_type,
)

# Where training files keep the weights; the running averages, which are what gets published, before the others.
PARTS = ("ema", "ema_state_dict", "model", "g_state_dict", "state_dict")
# ... and what they were trained with.
_OPTIONS = ("args", "config", "cfg", "hyper_parameters")
# Modules that only wrap another one: of several GPUs, of torch.compile, of FSDP.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@dataclass(frozen=True)
class Source:
    """A checkpoint.

    Attributes
    ----------
    path
        The file, or the index of its shards.
    part
        Of a training file, which part the tensors are from; "" where it holds nothing else.
    tensors
        By name, without the names of modules that only wrap others.
    said
        What a training file says of how it was trained: its numbers, words and flags by name.
    bytes
        Of its files: many tensors may be the same part of them.
    """

    path: Path
    part: str
    tensors: Mapping[str, Tensor]
    bytes: int
    said: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """The `config.json` beside it; None where there is none."""
        beside = self.path.parent / CONFIG_FILE
        return read_json(beside) if beside.exists() else None


def open_source(path: str | os.PathLike[str]) -> Source:
    """A .safetensors file, a file of torch.save, or a folder with such files or their shards.

    Raises WeightsError for a file that is missing, broken or holds no tensors.
    """
    file = Path(path)
    try:
        if file.is_dir():
            file = _file_of(file)
    except OSError as problem:
        raise WeightsError(f"{file}: {problem.strerror}") from None
    if file.suffix == ".json":
        shards = [_read_file(file.with_name(place)) for place in read_index(file)]
        tensors: dict[str, Tensor] = {}
        for shard in shards:
            tensors |= shard.tensors
        missing = sorted({name for names in read_index(file).values() for name in names} - tensors.keys())
        if missing:
            raise WeightsError(f"{file}: its files do not have {missing[0]} and {len(missing) - 1} more that it names")
        return Source(file, "", _unwrapped(tensors, file), sum(shard.bytes for shard in shards))
    source = _read_file(file)
    return Source(file, source.part, _unwrapped(source.tensors, file), source.bytes, source.said)


def _file_of(folder: Path) -> Path:
    """The file of weights of a folder, or the index of its shards."""
    names = sorted(os.listdir(folder))
    try:
        chosen = choose_weights(names)
    except ValueError as problem:
        raise WeightsError(f"{folder}: {problem}: give the file") from None
    if chosen is not None:
        return folder / chosen
    if PIPELINE_FILE in names:
        index = read_json(folder / PIPELINE_FILE)
        if "dit" in index or "textok" in index:
            raise ConfigError(f"{folder}: a pipeline of textok; expected a model of another project")
        if not (folder / "transformer").is_dir():
            raise WeightsError(
                f"{folder}: expected a pipeline with a transformer, got one of {', '.join(map(str, index))[:80]}"
            )
        return _file_of(folder / "transformer")
    files = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
    if len(files) != 1:
        got = ", ".join(files[:5]) or "none"
        raise WeightsError(
            f"{folder}: expected a folder with diffusion_pytorch_model.safetensors, model.safetensors or the like, got {got}"
        )
    return folder / files[0]


def _read_file(file: Path) -> Source:
    """One file, its tensors under their own names."""
    if file.suffix == ".safetensors":
        found = TensorFile(file)
        tensors = {name: found.tensor(name) for name in found.shapes}
        # safetensors keeps one of several tensors that are the same memory, and says in the metadata which the others are.
        tied = {name: tensors[kept] for name, kept in found.metadata.items() if name not in tensors and kept in tensors}
        return Source(file, "", tensors | tied, file.stat().st_size)
    whole = TorchFile(file)
    content = whole.content
    part = ""
    if isinstance(content, dict):
        part = next((name for name in PARTS if _tensors_in(content.get(name))), "")
    stored = _tensors_in(content[part] if part else content)
    if not stored:
        if whole.skipped:
            raise WeightsError(
                f"{file}: its pickle asks for {told(whole.skipped[0])}, which textok does not run, and has no tensors by name"
            )
        raise WeightsError(f"{file}: expected tensors by name, alone or under {', '.join(PARTS)}")
    for name, tensor in stored.items():
        tensor.check(name)
    tensors = {name: Tensor(t.shape, torch_type(t.dtype), str(file), t.read) for name, t in stored.items()}
    return Source(file, part, tensors, whole.size, _said(content) if part else {})


def _tensors_in(value: Any) -> dict[str, StoredTensor]:
    if not isinstance(value, dict):
        return {}
    return {str(name): tensor for name, tensor in value.items() if isinstance(tensor, StoredTensor)}


def _said(content: Mapping[Any, Any]) -> dict[str, Any]:
    """The options of a training: of an argparse.Namespace, a dict or an OmegaConf."""
    result: dict[str, Any] = {}
    for key in _OPTIONS:
        options = _plain(content.get(key))
        if isinstance(options, dict):
            found = {str(name): _plain(value) for name, value in options.items()}
            result |= {name: value for name, value in found.items() if isinstance(value, str | int | float)}
    return result


def _plain(value: Any) -> Any:
    """The state of an object that was not made; of an OmegaConf's nodes, their value."""
    for _ in range(3):
        if isinstance(value, Skipped):
            value = value.state
        elif isinstance(value, dict) and ("_content" in value or "_val" in value):
            value = value.get("_content", value.get("_val"))
    return value


def _unwrapped(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        inner = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if inner in result:
            raise WeightsError(f"{path}: two tensors are {inner} without the names of what wraps modules")
        result[inner] = tensor
    return result
