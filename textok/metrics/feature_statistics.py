"""Mean and covariance of features, gathered in parts on one machine or many, and their files."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import arrays
from ..errors import told
from ..files import replacing
from ..moments import joined_means
from ..numpy_files import names_in_npz, read_npz
from .distances import covariance_root, frechet_of_roots

F64 = NDArray[np.float64]


class Statistics:
    """Count, mean and covariance of rows that come in parts; float64, and mergeable.

    Parameters
    ----------
    width
        Numbers d in a row.

    Attributes
    ----------
    count
        Rows so far; None for a file that does not say (pytorch-fid's and ADM's do not), which then cannot be merged.
    mean
        float64 [d].

    Notes
    -----
    Parts are merged as `textok.moments` does it, which does not cancel as sums of squares do: any split and order gives the
    same up to rounding.

    Examples
    --------
    >>> whole = Statistics.of([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 0.0]]])
    >>> whole.count, whole.mean.tolist(), whole.covariance().tolist()
    (3, [3.0, 2.0], [[4.0, -2.0], [-2.0, 4.0]])
    """

    def __init__(self, width: int) -> None:
        if width < 1:
            raise ValueError(f"width: expected at least 1, got {width}")
        self.count: int | None = 0
        self.mean = np.zeros(width)
        self._scatter = np.zeros((width, width))  # sum of (x - mean)(x - mean)^T; the covariance itself where count is None
        self._root: F64 | None = None  # of the covariance, once it was needed

    @classmethod
    def of(cls, parts: Iterable[ArrayLike]) -> Self:
        """Of an iterable of arrays [n,d]; an array [n,d] is not one: put it in a list."""
        result: Self | None = None
        for part in parts:
            rows = arrays.view(part, "parts")
            if result is None:
                result = cls(rows.shape[-1] if rows.ndim == 2 else 1)
            result.add(rows)
        if result is None:
            raise ValueError("parts: expected arrays [n, d], got none")
        return result

    def add(self, rows: ArrayLike) -> Self:
        """Take in [n,d]; returns self."""
        x = arrays.view(rows, "rows").astype(np.float64)
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise ValueError(f"rows: expected [n, {len(self.mean)}], got {list(x.shape)}")
        if not np.isfinite(x).all():
            raise ValueError(
                f"rows: expected finite numbers, got NaN or infinity in row {int(np.argwhere(~np.isfinite(x))[0, 0])}"
            )
        if len(x):
            mean = x.mean(axis=0)
            centred = x - mean
            self._take(len(x), mean, centred.T @ centred)
        return self

    def merge(self, other: "Statistics") -> Self:
        """Take in another's rows; returns self."""
        arrays.instance(other, "other", Statistics)
        if len(other.mean) != len(self.mean):
            raise ValueError(f"other: expected width {len(self.mean)}, got {len(other.mean)}")
        if other.count is None:
            raise ValueError(
                "other: expected statistics that know their count, got a file's of another project, which does not"
            )
        if other.count:
            self._take(other.count, other.mean, other._scatter)
        return self

    def _take(self, count: int, mean: F64, scatter: F64) -> None:
        if self.count is None:
            raise ValueError("expected statistics that know their count, got a file's of another project, which does not")
        self.count, self.mean, apart, weight = joined_means(self.count, self.mean, count, mean)
        self._scatter = self._scatter + scatter + np.outer(apart, apart) * weight
        self._root = None

    def covariance(self) -> F64:
        """float64 [d,d], with divisor count - 1, as FID's; ValueError for fewer than two rows."""
        if self.count is None:
            return self._scatter
        if self.count < 2:
            raise ValueError(f"expected at least 2 rows for a covariance, got {self.count}")
        return self._scatter / (self.count - 1)

    def distance(self, other: "Statistics") -> float:
        """`frechet_distance` between the two."""
        arrays.instance(other, "other", Statistics)
        if len(other.mean) != len(self.mean):
            raise ValueError(f"other: expected width {len(self.mean)}, got {len(other.mean)}")
        return frechet_of_roots(self.mean, self._covariance_root(), other.mean, other._covariance_root())

    def _covariance_root(self) -> F64:
        if self._root is None:
            self._root = covariance_root(self.covariance())
        return self._root

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .npz with `mu`, `sigma` (as pytorch-fid's and ADM's) and `count`; it appears whole or not at all."""
        saved: dict[str, Any] = {"mu": self.mean, "sigma": self.covariance()}
        if self.count is not None:
            saved["count"] = np.int64(self.count)
        with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **saved)

    @classmethod
    def load(cls, path: str | os.PathLike[str], spatial: bool = False) -> Self:
        """Read `save`'s file, pytorch-fid's (mu, sigma) or an ADM reference (the same; with `spatial` mu_s and sigma_s)."""
        names = ("mu_s", "sigma_s") if spatial else ("mu", "sigma")
        place = Path(path)
        if not place.exists():
            raise FileNotFoundError(f"{path}: no such file of statistics")
        there = names_in_npz(place, ValueError)
        read = read_npz(place, ValueError, (*names, "count"))
        if wrong := next((f"{key} {value.dtype}" for key, value in read.items() if value.dtype.kind not in "fiu"), ""):
            raise ValueError(f"{path}: expected numbers, got {wrong}")
        found = {key: value.astype(np.float64) for key, value in read.items()}
        if not set(names) <= set(found):
            hint = "; it holds pictures, whose features are to be computed" if "arr_0" in there else ""
            got = told(", ".join(there), 200) or "none"
            raise ValueError(f"{path}: expected arrays {' and '.join(names)}, got {got}{hint}")
        mean, covariance = found[names[0]], found[names[1]]
        rows = found.get("count", np.zeros(0))
        if not np.isfinite(rows).all():
            raise ValueError(f"{path}: expected a finite count of rows")
        count = int(rows.reshape(-1)[0]) if rows.size == 1 and not spatial else None
        if mean.ndim != 1 or covariance.shape != (mean.size, mean.size) or not mean.size:
            raise ValueError(f"{path}: expected {names[0]} [d] and {names[1]} [d, d], got {mean.shape} and {covariance.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()) or (count is not None and count < 2):
            raise ValueError(f"{path}: expected finite numbers of at least 2 rows")
        result = cls(mean.size)
        result.count, result.mean = count, mean
        result._scatter = covariance if count is None else covariance * (count - 1)
        return result

    def __len__(self) -> int:
        return self.count or 0

    def __repr__(self) -> str:
        return f"Statistics({'unknown count' if self.count is None else f'{self.count} rows'} of {len(self.mean)})"
