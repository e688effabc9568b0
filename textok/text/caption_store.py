"""A store of captions with their text embeddings: what class-conditional generation draws captions from.

A folder with `captions.jsonl`, one object a line with "caption" and, where it belongs to a class, "label" (other keys are
kept), and `embeddings.safetensors`: `tokens` [total,Dt], the real tokens of all captions one after another, and `offsets`
int64 [n+1], where each caption starts and the last ends. Tokens are float16, or int8 with `scales` float32 [total] beside
them, half the size: row i stands for tokens[i] * scales[i].
"""

import json
import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import arrays, files, noise, weights
from ..errors import WeightsError, shown
from .embedding_store import STORE_FILE
from .embeddings import Embeddings, positions
from .ragged_tokens import RaggedTokens, padded

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

CAPTIONS_FILE = "captions.jsonl"
EMBEDDINGS_FILE = "embeddings.safetensors"
NO_LABEL = -1
CLASS_NAME_FIELDS = ("label_name", "class_name", "name")
MAX_LINE_BYTES = 16 << 20  # of captions.jsonl


class CaptionStore:
    """Captions, their classes and their embeddings, in the order of the files.

    Parameters
    ----------
    records
        One dict a caption with "caption" (str) and, where it belongs to a class, "label" (int >= 0).
    tokens
        float [total,Dt], the embeddings of all captions' tokens one after another; kept as float16.
    offsets
        int [n+1], rising from 0 to total: caption i has the rows offsets[i] to offsets[i+1], at least one.

    Raises
    ------
    WeightsError
        Records and arrays that do not fit each other.
    """

    def __init__(self, records: Sequence[dict[str, Any]], tokens: ArrayLike, offsets: ArrayLike) -> None:
        self.records = [_checked_record(record, f"caption {index}") for index, record in enumerate(records)]
        self._tokens = _halves(tokens, offsets, len(self.records))
        labels = np.array([record.get("label", NO_LABEL) for record in self.records], np.int64)
        self._by_label = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
        self._by_caption = {record["caption"]: index for index, record in reversed(list(enumerate(self.records)))}

    @classmethod
    def from_embeddings(cls, records: Sequence[dict[str, Any]], embeddings: Embeddings) -> Self:
        """Captions with what a store, or anything else that finds embeddings by caption, has for them.

        Examples
        --------
        >>> store = textok.EmbeddingStore.open("store")  # doctest: +SKIP
        >>> CaptionStore.from_embeddings([{"caption": "a red apple", "label": 3}], store).save("captions")  # doctest: +SKIP
        """
        if not hasattr(embeddings, "embeddings"):
            came = f"{type(embeddings).__name__} {shown(embeddings)}"
            raise TypeError(f"embeddings: expected a store or what open_embeddings gives, got {came}")
        rows = []
        for index, record in enumerate(records):
            text, lengths = embeddings.embeddings([_checked_record(record, f"caption {index}")["caption"]])
            rows.append(text[0, : lengths[0]])
        tokens = np.concatenate(rows) if rows else np.zeros((0, embeddings.text_dim), np.float32)
        return cls(records, tokens, np.cumsum([0, *map(len, rows)]))

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> Self:
        """Read a folder; a WeightsError names the file that is missing or broken."""
        path = Path(folder)
        if (path / STORE_FILE).is_file() and not (path / CAPTIONS_FILE).exists():
            raise WeightsError(
                f"{path}: expected {CAPTIONS_FILE} and {EMBEDDINGS_FILE}, which `textok embed --captions` writes, got an "
                "embedding store; textok.open_embeddings opens it"
            )
        records = read_records(path / CAPTIONS_FILE)
        file = weights.TensorFile(path / EMBEDDINGS_FILE)
        if set(file.shapes) - {"scales"} != {"tokens", "offsets"}:
            raise WeightsError(
                f"{file.path}: expected tensors tokens and offsets, got {', '.join(sorted(file.shapes)) or 'none'}"
            )
        tokens = file.read("tokens")
        try:
            if "scales" in file.shapes:
                tokens = _scaled(tokens, file.read("scales"))
            return cls(records, tokens, file.read("offsets"))
        except WeightsError as problem:
            raise WeightsError(f"{path}: {problem}") from None

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the two files; each appears whole or not at all."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        weights.write_tensors(path / EMBEDDINGS_FILE, {"tokens": self._tokens.tokens, "offsets": self._tokens.offsets})
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in self.records)
        files.write_text(path / CAPTIONS_FILE, "".join(lines))

    def __len__(self) -> int:
        return len(self.records)

    @property
    def by(self) -> str:
        """What `embeddings` finds them by, besides their indices."""
        return "caption"

    @property
    def text_dim(self) -> int:
        """Width Dt of the embeddings."""
        return self._tokens.text_dim

    @property
    def longest(self) -> int:
        """Tokens of the longest caption."""
        return int(self._tokens.lengths.max())

    @property
    def class_names(self) -> dict[int, str]:
        """The names of the classes that have one: each record's "label_name", "class_name" or "name"."""
        found: dict[int, str] = {}
        for record in self.records:
            name = next((record[key] for key in CLASS_NAME_FIELDS if isinstance(record.get(key), str)), None)
            if "label" in record and name is not None:
                found.setdefault(record["label"], name)
        return dict(sorted(found.items()))

    def captions(self, indices: ArrayLike) -> list[str]:
        """The captions at these indices."""
        return [self.records[index]["caption"] for index in self._checked(indices)]

    def __contains__(self, caption: object) -> bool:
        return caption in self._by_caption

    def embeddings(self, names: Any) -> tuple[F32, I32]:
        """`text` [B,t,Dt], padded with zeros to the longest of these, and `text_lengths` [B]; of captions or indices."""
        rows = positions(names, self._by_caption, len(self), "caption")
        return padded([self._tokens.row(row) for row in rows], self.text_dim)

    def draw(self, labels: Sequence[int], seed: int, first_index: int = 0, any_label: int | None = None) -> list[int]:
        """The index of a caption of each class.

        Caption k is drawn from the stream of sample first_index + k that is apart from its noise (see `noise`), so it is the
        same in any batch and changes no image. For `any_label`, a model's null class, all captions are drawn from.
        """
        drawn: list[int] = []
        for place, label in enumerate(labels):
            if isinstance(label, bool) or not isinstance(label, Integral):
                raise TypeError(f"labels: expected integers, got {type(label).__name__} {label!r} at [{place}]")
            choices = np.arange(len(self)) if label == any_label else self._by_label.get(int(label))
            if choices is None:
                raise ValueError(f"labels: expected classes that have captions, got {label} at [{place}], which has none")
            drawn.append(int(choices[noise.generator(seed, first_index + place, 1).integers(len(choices))]))
        return drawn

    def _checked(self, indices: ArrayLike) -> I32:
        return arrays.integers(indices, "indices", None, 0, len(self) - 1, "captions of the store")

    def __repr__(self) -> str:
        classes = len(self._by_label.keys() - {NO_LABEL})
        return f"CaptionStore({len(self)} captions of {classes} classes, {len(self._tokens.tokens)} tokens x {self.text_dim})"


def _checked_record(record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, dict) or not isinstance(record.get("caption"), str):
        raise WeightsError(f'{where}: expected an object with a "caption", got {str(record)[:80]}')
    label = record.get("label")
    if label is None:
        return {key: value for key, value in record.items() if key != "label"}
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < 2**31:
        raise WeightsError(f'{where}: expected a "label" that is an integer from 0, got {label!r}')
    return dict(record)


def _scaled(tokens: NDArray[Any], scales: NDArray[Any]) -> F32:
    """int8 rows [total,Dt] times their scales [total]."""
    if tokens.dtype != np.int8 or tokens.ndim != 2 or scales.dtype != np.float32 or scales.shape != tokens.shape[:1]:
        got = f"{arrays.describe(tokens)} and {arrays.describe(scales)}"
        raise WeightsError(f"tokens, scales: expected int8 [total, Dt] and float32 [total], got {got}")
    return tokens * scales[:, None]


def _halves(tokens: ArrayLike, offsets: ArrayLike, count: int) -> RaggedTokens:
    """The tokens of `count` captions as float16."""
    ends = arrays.view(offsets, "offsets")
    if ends.shape != (count + 1,):
        raise WeightsError(f"offsets: expected integers [{count + 1}], one more than captions, got {arrays.describe(ends)}")
    try:
        rows = RaggedTokens(tokens, ends)
    except ValueError as problem:
        raise WeightsError(str(problem)) from None
    with np.errstate(over="ignore"):
        halves = rows.tokens.astype(np.float16)
    if not np.isfinite(halves).all():
        raise WeightsError("tokens: expected finite numbers in the range of float16")
    return RaggedTokens(halves, rows.offsets)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The captions of a `captions.jsonl`, checked; a WeightsError tells the line that is none."""
    files.check_regular(path, WeightsError)
    records = []
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if len(line) == MAX_LINE_BYTES:
                    raise ValueError(f"expected lines of less than {MAX_LINE_BYTES >> 20} MB")
                if line.strip():
                    records.append(_checked_record(files.parse_object(line), "record"))
    except ValueError as problem:
        raise WeightsError(f"{path}, line {number}: {problem}") from None
    except OSError as problem:
        raise WeightsError(f"{path}: {problem.strerror}") from None
    return records
