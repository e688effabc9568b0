"""What a network made of a set of pictures, in bounded memory."""

import functools
from typing import Any

import numpy as np

from ..noise import generator
from .cache import Arrays
from .distances import kernel_mean
from .feature_statistics import Statistics

MOST = 50_000  # pictures of a set that KID, precision, recall and IS look at; FID looks at all


class GatheredFeatures:
    """Statistics of all pictures, and the rows of at most MOST of them, a fair draw by `seed`. Attributes: `statistics` (None
    before the first part), `features` and `probabilities`, float32 [n,...] or None.
    """

    def __init__(self, seed: int = 0, statistics: Statistics | None = None) -> None:
        self.statistics = statistics
        self._parts: list[Arrays] = []
        self._kept: Arrays = {}
        self._seen, self._draw = 0, generator(seed, 1)

    def add(self, part: Arrays) -> None:
        if not part:
            return
        if self.statistics is None:
            self.statistics = Statistics(part["features"].shape[1])
        self.statistics.add(part["features"])
        start, count = self._seen, len(part["features"])
        self._seen += count
        if self._seen <= MOST:
            self._parts.append(part)
            return
        room = max(0, MOST - start)
        if self._parts or room:
            self._parts.append({key: rows[:room] for key, rows in part.items()})
            self._kept = {key: np.concatenate([old[key] for old in self._parts]) for key in part}
            self._parts = []
        # Vitter's algorithm R: the k-th picture takes one of the places with a chance of MOST in k.
        for row, place in enumerate(self._draw.integers(0, np.arange(start + room, self._seen) + 1), room):
            if place < MOST:
                for key, rows in self._kept.items():
                    rows[place] = part[key][row]

    def _rows(self, key: str) -> Any:
        if self._parts:
            self._kept = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
            self._parts = [self._kept]
        return self._kept.get(key)

    @property
    def features(self) -> Any:
        return self._rows("features")

    @property
    def probabilities(self) -> Any:
        return self._rows("probabilities")

    @functools.cached_property
    def mean_kernel(self) -> float:
        """The term of KID that all sets share which are compared with this one."""
        return kernel_mean(self.features)
