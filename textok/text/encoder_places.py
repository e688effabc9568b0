"""Where a text encoder is that is asked for by name: a folder, a bundled one, or a repository of a hub, downloaded once."""

import os
import re
from pathlib import Path

from ..bundled import find_model, list_models
from ..errors import DataError
from ..hub import is_hub_name

STAND_IN = "minilm"
# Names without an owner, as people write them, and where they are.
HUB = (
    (re.compile(r"t5-v1_1-(small|base|large|xl|xxl)"), "google/{}"),
    (re.compile(r"flan-t5-(small|base|large|xl|xxl)"), "google/{}"),
    (re.compile(r"t5-(small|base|large|3b|11b)"), "google-t5/{}"),
)
# What is fetched of a repository.
SETTINGS_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "vocab.txt",
)
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def encoder_place(name: str) -> str:
    """What `TextEncoder.from_pretrained` takes for an encoder that is asked for by `name`: a folder's whole path, a bundled
    encoder's name, an address on the hub."""
    if os.path.isdir(name):
        return os.path.abspath(name)
    repository = next((place.format(name) for pattern, place in HUB if pattern.fullmatch(name)), name)
    return f"hf://{repository}" if re.fullmatch(r"[\w.-]+/[\w.-]+", repository) and name not in list_models() else name


def encoder_folder(name: str) -> Path:
    """The folder of an encoder; a DataError says what to do where there is none and none may be downloaded."""
    if os.path.isdir(name) or name in list_models() or is_hub_name(name):
        return find_model(name)
    repository = next((place.format(name) for pattern, place in HUB if pattern.fullmatch(name)), name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise DataError(
            f"{name!r}: no such folder and no encoder of that name; expected t5-v1_1-SIZE, flan-t5-SIZE, t5-SIZE, "
            f"owner/model, a folder, or {STAND_IN}, which needs no download"
        )
    return _fetched(name, repository)


def _fetched(name: str, repository: str) -> Path:
    """The copy here of a repository of the hub, downloaded where that is allowed: settings, tokenizer, one form of weights."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    offline = any(
        os.environ.get(flag, "").upper() in ("1", "ON", "YES", "TRUE") for flag in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )
    try:
        for weights in WEIGHTS:
            patterns = [*SETTINGS_FILES, weights, f"{weights}.index.json"]
            folder = Path(snapshot_download(repository, allow_patterns=patterns, local_files_only=offline))
            if any(folder.glob(weights)):
                return folder
        problem = "its copy here has no weights" if offline else "it has no weights that transformers reads"
    except LocalEntryNotFoundError:
        problem = "it is not on this machine" + ("" if offline else ", and the hub cannot be reached")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        problem = first_line(error)
    wish = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; " if offline else ""
    raise DataError(
        f"{name} ({repository}): {problem}; {wish}fetch it where there is a network with `hf download {repository}` "
        f"and give its folder, or use --encoder {STAND_IN}, a stand-in that needs no download"
    )


def first_line(problem: Exception) -> str:
    """What an exception says, in short."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]
