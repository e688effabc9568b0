"""A foreign checkpoint as names and tensors, whatever file it comes in."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import WeightsError
from ..files import read_json
from ..weights import TensorFile
from .pickles import StoredTensor, TorchFile

# Where training files keep the weights; the running averages, which are what gets published, before the others.
PARTS = ("ema", "ema_state_dict", "model", "g_state_dict", "state_dict")
DIFFUSERS_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


@dataclass(frozen=True)
class Foreign:
    """One tensor."""

    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]


@dataclass(frozen=True)
class Source:
    """`tensors` by name; `part` of a training file they are from, "" where it holds nothing else; `config` that came beside them."""

    path: Path
    part: str
    tensors: Mapping[str, Foreign]
    config: Mapping[str, Any] | None = None


def open_source(path: str | os.PathLike[str]) -> Source:
    """A .safetensors file, a file of torch.save, or a folder of diffusers.

    Raises WeightsError for a file that is missing, broken or holds no tensors.
    """
    file = Path(path)
    if file.is_dir():
        found = [file / name for name in DIFFUSERS_FILES if (file / name).exists()]
        if not found:
            raise WeightsError(f"{file}: expected a folder with {' or '.join(DIFFUSERS_FILES)}, or a file")
        source = open_source(found[0])
        return Source(source.path, source.part, source.tensors, read_json(file / "config.json"))
    if file.suffix == ".safetensors":
        tensors = TensorFile(file)
        return Source(file, "", {name: Foreign(shape, _reader(tensors, name)) for name, shape in tensors.shapes.items()})
    content = TorchFile(file).content
    part = ""
    if isinstance(content, dict):
        part = next((name for name in PARTS if isinstance(content.get(name), dict) and content[name]), "")
    stored = content[part] if part else content
    if not isinstance(stored, dict) or not any(isinstance(value, StoredTensor) for value in stored.values()):
        raise WeightsError(f"{file}: expected tensors by name, alone or under {', '.join(PARTS)}")
    return Source(
        file, part, {str(name): Foreign(t.shape, t.read) for name, t in stored.items() if isinstance(t, StoredTensor)}
    )


def _reader(file: TensorFile, name: str) -> Callable[[], NDArray[Any]]:
    return lambda: file.read(name)
