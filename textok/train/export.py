"""From a training run to a model's folder (`textok export`).

A run is a folder of `textok train`, finished or not; what is exported is its moving average.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from ..bundled import find_model
from ..dit import DiT
from ..errors import ConfigError
from ..files import read_json
from ..image_tokenizer import TexTok
from ..pipeline import part_of
from ..weights import PIPELINE_FILE, save_model
from .loop import CONFIG_FILE, SETTINGS_FILE, STATE_FILE, load_state

F32 = NDArray[np.float32]

STORAGES = ("float32", "bfloat16", "int8")


def to_bfloat16(x: F32) -> NDArray[Any]:
    """float32 array to bfloat16, rounded to nearest even."""
    return x.astype(ml_dtypes.bfloat16)


def to_int8(weight: F32) -> tuple[NDArray[np.int8], F32]:
    """[out,in] float32 -> int8 rows and their float32 scales [out]; zero rows have scale one."""
    largest = np.abs(weight).max(axis=1)  # [out]
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.clip(np.rint(weight / scale[:, None]), -127, 127).astype(np.int8), scale


def is_linear(name: str, array: NDArray[Any]) -> bool:
    """Whether a tensor is the matrix of a linear layer."""
    return array.ndim == 2 and name.endswith(".weight") and "embedding_table" not in name


def check_place(out: Path, kind: str) -> None:
    """A FileExistsError where the folder holds something else than a model of this kind."""
    if (out / PIPELINE_FILE).exists():
        raise FileExistsError(f"{out}: expected a folder for a model, got a pipeline's; give another one")
    if (out / STATE_FILE).exists():
        raise FileExistsError(f"{out}: expected a folder for a model, got a training's; give another one")
    there = read_json(out / CONFIG_FILE).get("model_type") if (out / CONFIG_FILE).exists() else kind
    if there != kind:
        raise FileExistsError(f"{out}: expected a folder for a model of type {kind!r}, got one that holds a {there!r}")


def pack(weights: Mapping[str, F32], storage: str) -> dict[str, NDArray[Any]]:
    """float32 tensors as stored: as they are, all `bfloat16`, or the matrices of linears `int8` and the rest bfloat16."""
    if storage == "float32":
        return dict(weights)
    packed: dict[str, NDArray[Any]] = {}
    for name, array in weights.items():
        if storage == "int8" and is_linear(name, array):
            packed[name], packed[f"{name}.scale"] = to_int8(array)
        else:
            packed[name] = to_bfloat16(array)
    return packed


def load_average(run: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, F32], dict[str, Any]]:
    """A run's config, averaged float32 weights and progress."""
    run = Path(run)
    if not (run / STATE_FILE).is_file():
        raise FileNotFoundError(f"{run}: expected the folder of a training run, with {STATE_FILE}")
    config, settings = (read_json(run / name) for name in (CONFIG_FILE, SETTINGS_FILE))
    state = load_state(run)
    part = state["parts"]["model"]
    weights = {name: value.numpy() for name, value in (part["ema"] or part["model"]).items()}
    history = {
        "steps": state["step"],
        "images": state["step"] * settings["run"]["batch_size"],
        "cpu_hours": state["cpu_seconds"] / 3600,
    }
    return config, weights, history


def starting(name: str, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The config, without its "model_type", and the float32 weights that a training begins with (`run.init`).

    Parameters
    ----------
    name
        The folder of a training, whose average is taken, a model's folder, or the name of a bundled one; of a pipeline its part
        of that kind.
    kind
        The "model_type" that it must have: "textok" or "dit".
    """
    folder = Path(name)
    if (folder / STATE_FILE).is_file():
        config, weights, _ = load_average(folder)
    else:
        folder = part_of(find_model(name), kind)
        config, weights = read_json(folder / CONFIG_FILE), None
    if (found := config.pop("model_type", kind)) != kind:
        raise ConfigError(f"run.init: expected a model of type {kind!r}, got {name}, which is {found!r}")
    if weights is None:  # by the engine, which knows all forms of storage
        weights = (TexTok if kind == "textok" else DiT).from_pretrained(folder).weights()
    return config, {key: torch.from_numpy(value.copy()) for key, value in weights.items()}


def export_run(
    run: str | os.PathLike[str], out: str | os.PathLike[str], storage: str = "float32"
) -> tuple[dict[str, Any], dict[str, F32], dict[str, Any]]:
    """Writes a run's averaged weights to the folder `out` as a model; returns what `load_average` does. A model of that kind
    that is there is replaced; a FileExistsError for anything else.
    """
    config, weights, history = load_average(run)
    check_place(Path(out), config["model_type"])
    save_model(out, config, {name: np.ascontiguousarray(array) for name, array in pack(weights, storage).items()})
    return config, weights, history
