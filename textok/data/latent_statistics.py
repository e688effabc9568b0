"""Mean and standard deviation of latents, which a DiT's config wants."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..errors import DataError
from ..moments import joined_means
from ..progress import progress_bar
from .base import Skip
from .latents import read_latents

F64 = NDArray[np.float64]


@dataclass
class LatentStatistics:
    """Mean and variance of each of d numbers, over all samples and tokens, in float64.

    `update` takes latents as they come, `merge` what was counted elsewhere.

    Examples
    --------
    >>> statistics = LatentStatistics(2)
    >>> statistics.update(np.array([[[1.0, 5.0], [3.0, 5.0]]]))
    >>> statistics.mean.tolist(), statistics.std.tolist()
    ([2.0, 5.0], [1.0, 0.0])
    """

    channels: int
    count: int = 0

    def __post_init__(self) -> None:
        self._mean: F64 = np.zeros(self.channels)
        self._squares: F64 = np.zeros(self.channels)  # sum of squared distances from the mean

    @property
    def mean(self) -> F64:
        """float64 [d]."""
        return self._mean.copy()

    @property
    def std(self) -> F64:
        """float64 [d], the population's (divided by the count)."""
        if not self.count:
            raise DataError("expected latents, got none: no standard deviation")
        return np.sqrt(self._squares / self.count)

    def update(self, latents: Any) -> None:
        """Count floats [..., d]."""
        array = arrays.view(latents, "latents")
        if not arrays.is_float(array.dtype) or array.ndim < 1 or array.shape[-1] != self.channels:
            raise ValueError(f"latents: expected floats [..., {self.channels}], got {arrays.describe(array)}")
        rows = array.reshape(-1, self.channels).astype(np.float64)
        if not np.isfinite(rows).all():
            raise ValueError("latents: expected finite numbers")
        if len(rows):
            mean = rows.mean(axis=0)
            self._join(len(rows), mean, np.square(rows - mean).sum(axis=0))

    def merge(self, other: "LatentStatistics") -> Self:
        """Add what `other` counted."""
        arrays.instance(other, "other", LatentStatistics)
        if other.channels != self.channels:
            raise ValueError(f"other: expected statistics of {self.channels} numbers, got {other.channels}")
        if other.count:
            self._join(other.count, other._mean, other._squares)
        return self

    def _join(self, count: int, mean: F64, squares: F64) -> None:
        self.count, self._mean, apart, weight = joined_means(self.count, self._mean, count, mean)
        self._squares += squares + np.square(apart) * weight

    def to_dict(self) -> dict[str, Any]:
        """{"latent_mean": [...], "latent_std": [...], "count": rows}, the first two as a DiT's config has them."""
        return {"latent_mean": self._mean.tolist(), "latent_std": self.std.tolist(), "count": self.count}


def latent_statistics(
    paths: Any, *, skips: list[Skip] | Callable[[Skip], object] | None = None, strict: bool = False, progress: bool = False
) -> LatentStatistics:
    """Over all latents of shards or arrays; those of mirrored pictures count too.

    Arguments as in `read_latents`.

    Examples
    --------
    >>> latent_statistics("latents").to_dict()["latent_mean"]  # doctest: +SKIP
    [-0.51, 0.52, 0.24, 0.33, -0.93, -0.6, -0.24, -0.28]
    """
    result: LatentStatistics | None = None
    shape: tuple[int, ...] = ()
    waiting: list[NDArray[Any]] = []
    with progress_bar(progress, None, "latent") as bar:
        for key, latent, flipped, _, source in read_latents(paths, skips=skips, strict=strict):
            if result is None:
                shape, result = latent.shape, LatentStatistics(latent.shape[1])
            for array in (latent, flipped):
                if array is not None:
                    if array.shape != shape:
                        raise DataError(
                            f"{source}: {key}: expected latents {list(shape)}, as the first have, got {list(array.shape)}"
                        )
                    waiting.append(array)
            if len(waiting) >= 256:
                result.update(np.stack(waiting))
                waiting.clear()
            bar.update()
    if result is None:
        raise DataError("expected latents, found none")
    if waiting:
        result.update(np.stack(waiting))
    return result
