"""What a result depends on beside its samples: models and embeddings, by the content of their files."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import files, weights
from ..bundled import FOLDER, find_model
from ..errors import DataError
from ..pipeline import PARTS
from ..text.caption_store import CAPTIONS_FILE, EMBEDDINGS_FILE
from ..text.embedding_store import STORE_FILE
from .folders import INDEX_FILE


def fingerprint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Name and content of a model's folder, a pipeline's, a file's or an embedding store's (its encoder: what is in it never
    changes).
    """
    place = Path(path)
    if place.is_dir() and (place / STORE_FILE).is_file():
        return {"store": files.read_json(place / STORE_FILE, DataError)}
    if place.is_file():
        return {"name": place.name, "sha256": _hash_files([place])}
    folder = find_model(path)
    found = [folder / name for name in (weights.CONFIG_FILE, weights.PIPELINE_FILE, CAPTIONS_FILE, EMBEDDINGS_FILE)]
    found += sorted(folder.glob("*.safetensors")) if EMBEDDINGS_FILE not in os.listdir(folder) else []
    found = [file for file in found if file.is_file()]
    result: dict[str, Any] = {"name": folder.name, "sha256": _hash_files(found)}
    if (folder / weights.PIPELINE_FILE).is_file():
        index = files.read_json(folder / weights.PIPELINE_FILE)
        for part in PARTS:
            if isinstance(index.get(part), str):
                inside = folder / index[part]
                result[part] = fingerprint(inside if inside.is_dir() else FOLDER / index[part])
    return result


def encoder_of(folder: Path) -> dict[str, Any]:
    """What a finished run of `encode` says of its model, {"name", "sha256"}; {} where `folder` has no such run."""
    try:
        task = files.read_json(folder / INDEX_FILE, DataError)["task"]
        return dict(task["model"]) if task["name"] == "encode" else {}
    except (DataError, LookupError, TypeError, ValueError):  # another program's file of that name, or none
        return {}


def _hash_files(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
