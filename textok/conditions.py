"""What an image is conditioned on: caption embeddings with their lengths, or class labels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arrays

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


@dataclass(frozen=True)
class Conditions:
    """Checked but not yet converted conditions of a batch; all None where a model, or a side of it, has none."""

    text: NDArray[Any] | None = None  # [B,t,Dt] of any float type
    lengths: I32 | None = None  # [B], the rows of `text` that take part
    labels: I32 | None = None  # [B]

    @property
    def batch(self) -> int:
        """Images B; 0 where there are no conditions."""
        return max((len(array) for array in (self.text, self.labels) if array is not None), default=0)

    def part(self, rows: slice) -> tuple[F32 | None, I32 | None, I32 | None]:
        """Text, lengths and labels of some images, as `_core` takes them."""
        text, lengths, labels = (None if array is None else array[rows] for array in (self.text, self.lengths, self.labels))
        return None if text is None else arrays.as_float32(text, "text", rows.start), lengths, labels

    def given(self) -> list[NDArray[Any]]:
        """The caller's memory, which a result must not overlap."""
        return [] if self.text is None else [self.text]


def text_batch(
    text: Any, text_lengths: Any, batch: int | None, width: int, most: int, who: str, lengths_count: bool
) -> Conditions:
    """Captions [B,t,width] with t in 1..most; `batch` None takes any B.

    Where `lengths_count` is false the model makes no difference between real and padded rows, and all take part.
    """
    if text is None:
        raise ValueError(
            f"text: expected caption embeddings [B, t <= {most}, {width}], which {who} of this model needs, got None; "
            "strings go in as captions=[...]"
        )
    if isinstance(text, str) or (isinstance(text, list | tuple) and text and isinstance(text[0], str)):
        raise TypeError(
            f"text: expected caption embeddings [B, t <= {most}, {width}], got strings; give them as captions=[...]"
        )
    array = arrays.floats(text, "text", (("B", batch), ("t", None), ("Dt", width)))
    rows = array.shape[1]
    if not 1 <= rows <= most:
        raise ValueError(f"text: expected 1 to {most} rows a caption, got {arrays.describe(array)}")
    if text_lengths is None:
        lengths = np.full(len(array), rows, np.int32)
    else:
        lengths = arrays.integers(text_lengths, "text_lengths", len(array), 1, rows, "the real rows of each caption")
    return Conditions(array, lengths if lengths_count else np.full(len(array), rows, np.int32))


def full_text(text: NDArray[Any], most: int, masked: bool) -> NDArray[Any]:
    """Captions [B,t,Dt] that were padded together, as a model of `most` text rows is trained on them and used.

    Where the model masks text (`masked`), padding takes no part and they stay as they are. Where it does not, padding is part
    of the sequence: zeros up to `most` for every caption, so that a result does not depend on the longest caption of its batch.
    """
    if masked or text.shape[1] >= most:
        return text
    full = np.zeros((len(text), most, text.shape[2]), text.dtype)
    full[:, : text.shape[1]] = text
    return full


def class_labels(labels: Any, text: Any, batch: int | None, highest: int, meaning: str) -> Conditions:
    """Labels [B], 0..highest; `batch` None takes any B."""
    if text is not None:
        raise ValueError("text: expected None, this model takes labels [B]; got text")
    if labels is None:
        raise ValueError(f"labels: expected integers [B], 0 to {highest}, got None")
    return Conditions(labels=arrays.integers(labels, "labels", batch, 0, highest, meaning))
