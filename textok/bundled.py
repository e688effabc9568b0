"""The models and data that come inside the package, and how a name finds them, or one on the hub."""

import os
from pathlib import Path

from . import hub
from .errors import WeightsError
from .files import read_json

FOLDER = Path(__file__).parent / "models"
HELD_OUT = "emoji-heldout"  # test images and captions for the demo: data, not a model


def list_models() -> list[str]:
    """Names of the bundled models and pipelines, which every `from_pretrained` takes.

    Examples
    --------
    >>> textok.list_models()  # doctest: +SKIP
    ['emoji', 'emoji-baseline', 'emoji-dit', 'emoji-dit-t2i', 'emoji-t2i', 'emoji-textok', 'emoji-textok-4', 'minilm']
    """
    if not FOLDER.is_dir():
        return []
    return sorted(
        path.name for path in FOLDER.iterdir() if any((path / file).is_file() for file in ("config.json", "model_index.json"))
    )


def find_model(path: str | os.PathLike[str]) -> Path:
    """The folder of a model: of the hub where the name begins with hf://; `path` where it exists; else the bundled model of
    that name. A WeightsError lists those."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: expected a folder or the name of a bundled model, got {type(path).__name__} {path!r}")
    if hub.is_hub_name(path):
        return hub.fetch(str(path))
    if os.path.exists(path):  # unlike Path.exists false, not an error, for names that cannot be paths
        if not os.path.isdir(path):
            raise WeightsError(f"{os.fspath(path)}: expected a folder with config.json and model.safetensors, got a file")
        return Path(path)
    names = list_models()
    if os.fspath(path) in names:
        return FOLDER / os.fspath(path)
    text = os.fspath(path)
    like = text if text.count("/") == 1 and not text.startswith((".", "/")) else "owner/name"
    raise WeightsError(
        f"{text!r}: no such folder, and no bundled model of that name; bundled are {', '.join(names) or 'none'}; a model of "
        f"the hub is hf://{like}"
    )


def is_model(path: str | os.PathLike[str]) -> bool:
    """Whether a path or name is a model of textok's own, by its config; another project's is not."""
    if hub.is_hub_name(path):
        path = hub.fetch(str(path))
    folder = Path(path) if os.path.isdir(path) else FOLDER / path
    if not os.path.exists(path) and os.fspath(path) not in list_models():
        return False
    config = folder / "config.json"
    return folder.is_dir() and config.is_file() and read_json(config).get("model_type") in ("textok", "dit", "text_encoder")


def data_folder(name: str) -> Path:
    """The folder of bundled data."""
    folder = FOLDER / name
    if not folder.is_dir():
        raise WeightsError(f"the bundled data {name!r} is not there; install textok with its models")
    return folder
