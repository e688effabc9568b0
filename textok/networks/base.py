"""What runs a network over pictures, and what all of them share: batches, hashes, threads."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import arrays

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

BATCH = 8  # pictures that go through a network at a time, few since caches are small; never changes a result beyond rounding


@dataclass(frozen=True)
class Output:
    """What a network makes of pictures: features float32 [B,D], class probabilities float32 [B,K] or None."""

    features: F32
    probabilities: F32 | None = None


class FeatureNetwork:
    """A network as a function of pictures, uint8 [B,H,W,3].

    Attributes
    ----------
    name
        What its numbers are to be called by.
    preprocessing
        What happens to a picture before the network, in words.
    stand_in
        Of which network it takes the place, "" for none.
    fingerprint
        A hash of weights and preprocessing: features of equal fingerprints may be mixed.
    """

    name = ""
    preprocessing = ""
    stand_in = ""
    fingerprint = ""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads

    def __call__(self, pictures: U8) -> Output:
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
            raise ValueError(f"pictures: expected uint8 [B, H, W, 3], got {arrays.describe(pictures)}")
        if not len(pictures):
            raise ValueError(f"pictures: expected some, got {arrays.describe(pictures)}")
        with torch_threads(self.threads):
            parts = [self._run(pictures[start : start + BATCH]) for start in range(0, len(pictures), BATCH)]
        for part in parts:
            if not np.isfinite(part.features).all():
                raise ValueError(
                    f"{self.name}: expected finite features, got NaN or infinity; do its weights and FILE.json fit?"
                )
        features = np.concatenate([part.features for part in parts]).astype(np.float32, copy=False)
        if parts[0].probabilities is None:
            return Output(features)
        return Output(features, np.concatenate([part.probabilities for part in parts if part.probabilities is not None]))

    def _run(self, pictures: U8) -> Output:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What a result file says of it."""
        return {
            "name": self.name,
            "stand_in_for": self.stand_in or None,
            "preprocessing": self.preprocessing,
            "fingerprint": self.fingerprint,
        }

    def __repr__(self) -> str:
        stand_in = f", a stand-in for {self.stand_in}" if self.stand_in else ""
        return f"{type(self).__name__}({self.name}{stand_in}; {self.preprocessing})"


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """PyTorch's threads for a while; its setting is put back."""
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def file_hash(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def fingerprint(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
