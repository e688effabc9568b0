"""Checkpoints of other projects as textok's models.

    source.py     names and tensors of a file, of shards, of a folder
    layout.py     what a layout is made of; and a file a project: what becomes what, as tables
    reading.py    the layout that a file has, and by its tables our config and tensors

What a file does not say has to be given, and a tensor that no table knows is an error: nothing is guessed.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..dit import DiT
from ..errors import ConfigError, shown
from ..files import read_json
from ..image_tokenizer import TexTok
from ..weights import CONFIG_FILE
from .reading import LAYOUTS, Imported, is_foreign, read

__all__ = ["LAYOUTS", "MODELS", "Imported", "is_foreign", "load", "make", "open_folder", "read"]

MODELS: dict[str, type[TexTok] | type[DiT]] = {kind.model_type: kind for kind in (TexTok, DiT)}


def load(
    path: str | os.PathLike[str],
    settings: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    ignore: Sequence[str] = (),
) -> TexTok | DiT:
    """A model of another project: a `TexTok` or a `DiT`.

    Parameters
    ----------
    path
        A .safetensors, .pt, .pth or .bin file, a folder with such files or their shards, a pipeline of diffusers; or on the
        hub, "hf://owner/name[@revision][/subfolder]". In a training file the running average is taken.
    settings
        Config keys that the file does not say, nested or with dots ("tokenizer.num_heads"); `num_heads` alone is both sides'.
        They go before what the file says.
    dtype
        As in `from_pretrained`.
    ignore
        Patterns, as a shell's, of tensors' names that are of no use here, such as "projectors.*".

    Raises
    ------
    WeightsError
        A file that is broken, of no known layout, or whose tensors are not all of that layout.
    ConfigError
        Something that neither the file nor `settings` say, or that textok does not compute; names it.

    Notes
    -----
    Known layouts: facebookresearch/DiT and SiT (REPA's too), diffusers' DiT, pranoyr/TexTok, bytedance's TiTok and TA-TiTok
    with a VAE's latents, whose pictures in [0, 1] become ours in [-1, 1], and Hhhhhhao's SoftVQ-VAE, MAETok and the DiT and SiT
    over their tokens. The latent images of the first two are those of a VAE with its factor applied (0.18215 for Stable
    Diffusion's), which is left to the caller.

    Examples
    --------
    >>> dit = load("DiT-XL-2-256x256.pt", {"num_heads": 16})  # doctest: +SKIP
    """
    return make(read(path, settings, ignore), dtype)


def open_folder(folder: Path, dtype: str = "float32") -> TexTok | DiT:
    """The model of a folder, textok's own or another project's; ConfigError where its config says neither."""
    if is_foreign(folder):
        return load(folder, dtype=dtype)
    kind = read_json(folder / CONFIG_FILE).get("model_type")
    if not isinstance(kind, str) or kind not in MODELS:
        known = " or ".join(map(json.dumps, MODELS))
        raise ConfigError(f'{folder / CONFIG_FILE}: expected "model_type": {known}, got {shown(kind)}')
    return MODELS[kind].from_pretrained(folder, dtype=dtype)


def make(found: Imported, dtype: str = "float32") -> TexTok | DiT:
    """The model."""
    return MODELS[found.model_type]._from_tensors(found.config, found.tensors, found.where, dtype)
