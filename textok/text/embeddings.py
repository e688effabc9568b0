"""What all that has embeddings of captions has in common: a store, arrays, the captions of a pipeline."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..errors import DataError

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


class Embeddings(Protocol):
    """Embeddings found by name; `by` says what a name is: "caption", "key" (of a sample) or "index"."""

    @property
    def by(self) -> str: ...
    @property
    def text_dim(self) -> int: ...
    @property
    def longest(self) -> int: ...
    def __len__(self) -> int: ...
    def __contains__(self, name: object) -> bool: ...
    def embeddings(self, names: Any) -> tuple[F32, I32]: ...


def positions(names: Any, known: dict[str, int] | None, count: int, by: str) -> list[int]:
    """The positions of names, strings or integers, among `count` embeddings."""
    wanted = [names] if isinstance(names, str) else names
    wanted = wanted.tolist() if isinstance(wanted, np.ndarray) and wanted.dtype.kind in "UO" else wanted
    if isinstance(wanted, list | tuple) and any(isinstance(name, str) for name in wanted):
        if known is None:
            raise DataError(
                f"names: expected positions, 0 to {count - 1}, in embeddings that come without captions, "
                f"got {shortened(wanted[0])}"
            )
        lost = [name for name in wanted if name not in known]
        if lost:
            raise DataError(
                f"names: expected {by}s that have an embedding, got {len(lost)} of {len(wanted)} without, "
                f"first {shortened(lost[0])}"
            )
        return [known[name] for name in wanted]
    found: list[int] = arrays.integers(wanted, "names", None, 0, count - 1, f"positions among {count} embeddings").tolist()
    return found


def caption_list(captions: Any) -> Any:
    """`captions` themselves, of NumPy's strings a list; a TypeError for a bare string, whose letters nobody means."""
    if isinstance(captions, str | bytes):
        raise TypeError(f"captions: expected a list of strings, got {shortened(captions)} alone; put it in a list")
    return captions.tolist() if isinstance(captions, np.ndarray) and captions.dtype.kind in "UO" else captions


def shortened(name: Any) -> str:
    """A name in an error."""
    return repr(f"{name[:57]}..." if isinstance(name, str) and len(name) > 60 else name)
