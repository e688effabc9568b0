"""Models by their name on the hub, on request only: "hf://owner/name[@revision][/subfolder]".

Through `huggingface_hub` (extra "hub"), with its cache and its environment: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE,
HF_HUB_DOWNLOAD_TIMEOUT. Only what a model needs is fetched, of one commit; every file is compared with the hash that the hub
has of it before it is used, and what does not fit is taken out of the cache. `textok embed --encoder t5-...`
or `owner/model` asks it too (`text/encoder_places.py`); nothing else in textok does.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .errors import WeightsError
from .files import write_text
from .weights import PIPELINE_FILE, WEIGHT_SUFFIXES, choose_weights, read_index

PREFIX = "hf://"
_NAME = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>refs/[\w]+/[\w.-]+|[^/@\s]+))?(/(?P<folder>[^@]*?))?/?")
_BESIDE = (".json", ".model", ".txt", ".jsonl")  # configs and tokenizers
_MOST_BESIDE = 64 << 20
_CAPTIONS = "captions.jsonl"  # of a pipeline, which has no end
_BLOCK = 1 << 20


def is_hub_name(path: object) -> bool:
    return isinstance(path, str) and path.startswith(PREFIX)


def fetch(name: str) -> Path:
    """The folder of a model of the hub, fetched where it is not in the cache yet.

    Raises
    ------
    WeightsError
        A name that is none, a model that is not there or not for everybody, a hub that cannot be reached or sends something
        else than it says; tells which.
    ModuleNotFoundError
        Without huggingface_hub.
    """
    match = _NAME.fullmatch(name)
    if match is None or any(part in ("", ".", "..") for part in (match["folder"] or "x").split("/")):
        raise WeightsError(f"{name}: expected hf://owner/name, hf://owner/name@revision or hf://owner/name/subfolder")
    try:
        import huggingface_hub
    except ModuleNotFoundError as problem:
        raise ModuleNotFoundError(
            f"{name}: names of the hub need huggingface_hub: pip install 'textok-cpu[hub]'", name=problem.name
        ) from None
    repo, revision, folder = match["repo"], match["revision"], match["folder"] or ""
    download = _Download(name, repo, revision)
    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
    except Exception as problem:  # noqa: BLE001  of requests or httpx, by version
        return _from_cache(name, repo, revision, folder, problem)
    download.revision = info.sha
    download.sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or ()}
    if folder and not any(file.startswith(f"{folder}/") for file in download.sizes):
        raise WeightsError(f"{name}: no folder {folder!r} in {repo}")
    place = download.model(folder)
    if info.sha != revision:  # once all of it is here: without the hub this is how it is found
        ref = _ref(repo, revision)
        ref.parent.mkdir(parents=True, exist_ok=True)
        write_text(ref, info.sha or "")
    return place


class _Download:
    """Files of one commit of a repository, into the hub's cache."""

    def __init__(self, name: str, repo: str, revision: str | None) -> None:
        self.name, self.repo, self.revision = name, repo, revision
        self.sizes: dict[str, int] = {}

    def model(self, folder: str) -> Path:
        """What a model in `folder` needs; the folder here."""
        prefix = f"{folder}/" if folder else ""
        here = sorted(file.removeprefix(prefix) for file in self.sizes if file.startswith(prefix))
        names = [file for file in here if "/" not in file]
        if PIPELINE_FILE in names:
            self.file(prefix + PIPELINE_FILE)
            parts = sorted({file.partition("/")[0] for file in here if "/" in file})
            wanted = [part for part in parts if part == "transformer"] or parts
            places = [self.model(prefix + part) for part in wanted if self._has_model(prefix + part)]
            if not places:
                raise WeightsError(f"{self.name}: a pipeline without models in it")
            return places[0].parent
        weights = self._weights(names)
        place = Path()
        for file in [*(n for n in names if self._is_beside(prefix + n)), *weights]:
            place = self.file(prefix + file)
            if file.endswith(".index.json") and file in weights:
                for shard in read_index(place):
                    self.file(prefix + shard)
        return place.parent

    def _has_model(self, folder: str) -> bool:
        return any(file.startswith(f"{folder}/") and file.endswith((*WEIGHT_SUFFIXES, ".jsonl")) for file in self.sizes)

    def _weights(self, names: list[str]) -> list[str]:
        """The file of weights, or the index of its shards."""
        try:
            chosen = choose_weights(names)
        except ValueError as problem:
            raise WeightsError(f"{self.name}: {problem}") from None
        if chosen is not None:
            return [chosen]
        others = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
        if len(others) != 1:
            raise WeightsError(f"{self.name}: expected one set of weights, got {', '.join(others[:5]) or 'none'}")
        return others

    def _is_beside(self, file: str) -> bool:
        small = self.sizes[file] <= _MOST_BESIDE or file.rpartition("/")[2] == _CAPTIONS
        return file.endswith(_BESIDE) and not file.endswith(".index.json") and small

    def file(self, file: str) -> Path:
        """One file, checked; where it is here."""
        import huggingface_hub

        if file not in self.sizes:
            raise WeightsError(f"{self.name}: no file {file!r} in {self.repo}")
        try:
            known = huggingface_hub.try_to_load_from_cache(self.repo, file, revision=self.revision)
            place = Path(huggingface_hub.hf_hub_download(self.repo, file, revision=self.revision))
        except Exception as problem:  # noqa: BLE001  of requests or httpx, by version
            raise WeightsError(f"{self.name}: {file}: {_reason(problem)}") from None
        if not isinstance(known, str):
            self._check(place, file)
        return place

    def _check(self, place: Path, file: str) -> None:
        """Compare a file that just came with the name of its blob, which is the hash that the hub has of it."""
        blob = place.resolve()
        wrong = blob.stat().st_size != self.sizes[file] and self.sizes[file] > 0
        expected = blob.name
        if re.fullmatch(r"[0-9a-f]{64}", expected):
            wrong = wrong or _digest(hashlib.sha256(), blob) != expected
        elif re.fullmatch(r"[0-9a-f]{40}", expected):
            wrong = wrong or _digest(hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False), blob) != expected
        if wrong:
            place.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)
            raise WeightsError(
                f"{self.name}: {file}: what came has another hash than the hub says; it was thrown away"
            )


def _digest(digest: Any, path: Path) -> str:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return str(digest.hexdigest())


def _from_cache(name: str, repo: str, revision: str | None, folder: str, problem: Exception) -> Path:
    """The model as it is in the cache, where the hub cannot be asked; else why it could not."""
    reason = _reason(problem)
    if not _is_unreachable(problem):
        raise WeightsError(f"{name}: {reason}") from None
    ref = _ref(repo, revision)
    commit = ref.read_text("utf-8").strip() if ref.is_file() else revision
    place = _cache(repo) / "snapshots" / (commit or "none") / folder
    if not place.is_dir():
        raise WeightsError(f"{name}: not in the cache, and {reason}")
    return place


def _cache(repo: str) -> Path:
    """The folder of a repository in the hub's cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def _ref(repo: str, revision: str | None) -> Path:
    """The file that says which commit a branch or tag was when it came."""
    return _cache(repo) / "refs" / (revision or "main")


def _is_unreachable(problem: Exception) -> bool:
    """Whether there was no answer at all, which an earlier download helps against."""
    return not any(
        kind.__name__.endswith(("HfHubHTTPError", "HTTPStatusError", "ValidationError")) for kind in type(problem).__mro__
    )


def _reason(problem: Exception) -> str:
    kinds: Iterable[str] = [kind.__name__ for kind in type(problem).__mro__]
    told: dict[str, Callable[[], str]] = {
        "OfflineModeIsEnabled": lambda: "HF_HUB_OFFLINE forbids to ask the hub",
        "GatedRepoError": lambda: "the hub gives it only to those who accepted its terms, with their token (HF_TOKEN)",
        "RevisionNotFoundError": lambda: "the hub has no such revision of it",
        "RepositoryNotFoundError": lambda: "the hub has no such model, or it is private and HF_TOKEN is not of a reader",
        "EntryNotFoundError": lambda: "the hub has no such file",
    }
    for kind in kinds:
        if kind in told:
            return told[kind]()
    status = getattr(getattr(problem, "response", None), "status_code", None)
    if status is not None:
        words = {
            401: "it wants a token (HF_TOKEN)",
            403: "not for this token",
            404: "no such model",
            429: "too many requests, wait",
        }
        return f"the hub answered {status}: {words.get(status, 'try again later')}"
    text = " ".join(str(problem).split())[:200] or type(problem).__name__
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return f"the hub at {endpoint} cannot be reached: {text}"
