"""How close two sets of pictures are, from features or class probabilities of a network. All in float64.

No pictures and no networks here: a feature is a row of an array. Sets of 50,000 are compared in blocks of rows,
which alone are copied.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import arrays
from ..noise import generator

F64 = NDArray[np.float64]

BLOCK = 1 << 22  # distances or kernels in memory at a time: 32 MiB


def _features(value: ArrayLike, name: str, least: int = 1) -> NDArray[Any]:
    """Checked, and as it is: sets are long, so float64 is made of a block of rows at a time."""
    array = arrays.view(value, name)
    if array.ndim != 2 or len(array) < least or array.shape[1] < 1 or array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected numbers [n, d] with n at least {least}, got {array.dtype} {list(array.shape)}")
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity in row {row}")
    return array


def _two_sets(features: ArrayLike, reference: ArrayLike, least: int, paired: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
    x, y = _features(features, "features", least), _features(reference, "reference", least)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features: expected the reference's width {y.shape[1]}, got {x.shape[1]}")
    if paired and len(x) != len(y):
        raise ValueError(f"features: expected {len(y)} rows, one for each of the reference, got {len(x)}")
    return x, y


def covariance_root(covariance: F64) -> F64:
    """F [d,r] with F F^T the covariance; directions that are rounding errors are left out."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    keep = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0)
    return vectors[:, keep] * np.sqrt(values[keep])


def frechet_distance(
    mean: ArrayLike, covariance: ArrayLike, reference_mean: ArrayLike, reference_covariance: ArrayLike
) -> float:
    """Squared Frechet distance of two Gaussians; of Inception-v3's features it is FID.

    Parameters
    ----------
    mean, reference_mean
        [d].
    covariance, reference_covariance
        [d,d], symmetric.

    Returns
    -------
    |m - n|^2 + tr(S) + tr(T) - 2 tr((S T)^(1/2)), at least 0 up to rounding. With S = F F^T and T = G G^T the last trace is
    the sum of the singular values of F^T G: real without a matrix square root, and as accurate where a covariance is
    singular, as it is when there are fewer pictures than features. Source: Heusel et al. (2017).

    Examples
    --------
    >>> frechet_distance([0.0, 0.0], np.eye(2), [3.0, 4.0], np.eye(2))
    25.0
    """
    given = {
        "mean": mean,
        "reference_mean": reference_mean,
        "covariance": covariance,
        "reference_covariance": reference_covariance,
    }
    m, n, s, t = (arrays.view(value, name).astype(np.float64) for name, value in given.items())
    for array, name in ((n, "reference_mean"), (s, "covariance"), (t, "reference_covariance")):
        wanted = (m.size,) if array is n else (m.size, m.size)
        if m.ndim != 1 or array.shape != wanted:
            raise ValueError(f"{name}: expected shape {list(wanted)} beside a mean of {list(m.shape)}, got {list(array.shape)}")
    for array, name in ((m, "mean"), (n, "reference_mean"), (s, "covariance"), (t, "reference_covariance")):
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return frechet_of_roots(m, covariance_root(s), n, covariance_root(t))


def frechet_of_roots(mean: F64, root: F64, reference_mean: F64, reference_root: F64) -> float:
    """`frechet_distance` from `covariance_root`s, most of its work, which many distances from one set share."""
    overlap = np.linalg.svd(root.T @ reference_root, compute_uv=False).sum() if root.size and reference_root.size else 0.0
    spread = np.square(root).sum() + np.square(reference_root).sum()
    return float(np.square(mean - reference_mean).sum() + spread - 2 * overlap)


def _blocks(count: int) -> Iterator[slice]:
    """Slices of `count` rows; of two of them, all pairs are in memory at once."""
    rows = max(1, math.isqrt(BLOCK))
    return (slice(start, min(start + rows, count)) for start in range(0, count, rows))


def _rows(x: NDArray[Any], part: slice, middle: F64 | None = None) -> F64:
    """Some rows in float64, seen from `middle`."""
    rows = x[part].astype(np.float64)
    return rows if middle is None else np.subtract(rows, middle, out=rows)


def _without_own(values: F64, part: slice, other: slice, instead: float) -> None:
    """Put `instead` in the place of each row's pair with the row of the same number."""
    same = np.arange(max(part.start, other.start), min(part.stop, other.stop))
    values[same - part.start, same - other.start] = instead


def _kernel_sum(
    x: NDArray[Any], y: NDArray[Any], degree: int, gamma: float, coef: float, without_diagonal: bool = False
) -> float:
    total = 0.0
    for part in _blocks(len(x)):
        rows = _rows(x, part)
        for other in _blocks(len(y)):
            kernel = rows @ _rows(y, other).T
            kernel *= gamma
            kernel += coef
            base = kernel.copy()
            for _ in range(degree - 1):  # much faster than NumPy's power
                kernel *= base
            if without_diagonal:
                _without_own(kernel, part, other, 0.0)
            total += float(kernel.sum())
    return total


def _checked_kernel(degree: int, gamma: float | None, coef: float, width: int) -> tuple[int, float, float]:
    scale = 1 / width if gamma is None else arrays.number(gamma, "gamma", 0, 1e30)
    return arrays.whole(degree, "degree", 1, 64), scale, arrays.number(coef, "coef", -1e30, 1e30)


def kernel_mean(features: ArrayLike, *, degree: int = 3, gamma: float | None = None, coef: float = 1.0) -> float:
    """Mean kernel of two different rows of a set, the term of `kernel_distance` that all comparisons with it share."""
    x = _features(features, "features", 2)
    degree, gamma, coef = _checked_kernel(degree, gamma, coef, x.shape[1])
    return _kernel_sum(x, x, degree, gamma, coef, True) / (len(x) * (len(x) - 1))


def kernel_distance(
    features: ArrayLike,
    reference: ArrayLike,
    *,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
    reference_mean: float | None = None,
    paired: bool = False,
) -> float:
    """Unbiased squared maximum mean discrepancy of two whole sets, features [n,d] and [m,d]; of Inception-v3's features, KID.

    The kernel is (gamma x.y + coef)^degree, with gamma 1/d for None. Values below zero occur, since the mean over draws is
    the truth. Needs two rows of each. `reference_mean` is the reference's `kernel_mean` with the same kernel, where it is
    known: most of the work with a large reference. Source: Binkowski et al. (2018).

    With `paired`, row i of `features` was made from row i of `reference`, as reconstructions are: the n pairs, which are closer
    than two draws, are left out of the mean between the sets, or it would be too low. Source: Gretton et al. (2012), lemma 6.

    Examples
    --------
    >>> kernel_distance([[0.0], [2.0]], [[0.0], [2.0]])
    -62.0
    >>> kernel_distance([[0.0], [2.0]], [[0.0], [2.0]], paired=True)
    0.0
    """
    x, y = _two_sets(features, reference, 2, paired)
    degree, gamma, coef = _checked_kernel(degree, gamma, coef, x.shape[1])
    within = kernel_mean(x, degree=degree, gamma=gamma, coef=coef)
    if reference_mean is None:
        reference_mean = kernel_mean(y, degree=degree, gamma=gamma, coef=coef)
    pairs = len(x) * (len(y) - paired)
    return within + reference_mean - 2 * _kernel_sum(x, y, degree, gamma, coef, paired) / pairs


def kernel_distance_subsets(
    features: ArrayLike,
    reference: ArrayLike,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
    paired: bool = False,
    **kernel: Any,
) -> tuple[float, float]:
    """Mean and population standard deviation of `kernel_distance` over random subsets, as KID is usually reported.

    Each of `subsets` draws `subset_size` rows of each set without replacement, the reference's first; with `paired` the same
    rows of both. `paired` and `kernel` as in `kernel_distance`. Subset k of a seed is always the same. The deviation is of one
    subset, not of the mean.
    """
    x, y = _two_sets(features, reference, 2, paired)
    if not 2 <= subset_size <= min(len(x), len(y)) or subsets < 1:
        raise ValueError(
            f"subset_size: expected 2 to {min(len(x), len(y))}, the smaller set, and subsets at least 1, "
            f"got {subset_size} and {subsets}"
        )
    values = []
    for number in range(subsets):
        draw = generator(seed, number)
        of_reference = draw.permutation(len(y))[:subset_size]
        of_features = of_reference if paired else draw.permutation(len(x))[:subset_size]
        values.append(kernel_distance(x[of_features], y[of_reference], paired=paired, **kernel))
    return float(np.mean(values)), float(np.std(values))


def inception_score(probabilities: ArrayLike, splits: int = 10, seed: int | None = 0) -> tuple[float, float]:
    """Mean and sample standard deviation over splits of exp(mean KL(p(y|x) || p(y))), from class probabilities [n,K].

    Pictures are shuffled by `seed` first, since sets are often sorted by class; None leaves them in order. Split sizes are
    ceil(n / splits), the last smaller, as torch.chunk's. The deviation is NaN for one split. Source: Salimans et al. (2016).

    Examples
    --------
    >>> inception_score(np.eye(4), splits=1)[0].__round__(9)
    4.0
    """
    p = _features(probabilities, "probabilities")
    sums = p.sum(axis=1, dtype=np.float64)
    if p.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        raise ValueError(f"probabilities: expected rows that add up to 1, got numbers from {p.min():g}, sums {sums.max():g}")
    if not 1 <= splits <= len(p):
        raise ValueError(f"splits: expected 1 to {len(p)}, the number of pictures, got {splits}")
    order = np.arange(len(p)) if seed is None else generator(seed).permutation(len(p))
    size = -(-len(p) // splits)
    scores = []
    for start in range(0, len(p), size):
        part = p[order[start : start + size]].astype(np.float64)
        mean = np.broadcast_to(part.mean(axis=0), part.shape)
        ratio = np.log(np.divide(part, mean, out=np.ones_like(part), where=part > 0))
        scores.append(np.exp((part * ratio).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores, ddof=1)) if len(scores) > 1 else float("nan")


def _squared_distances(x: F64, y: F64) -> F64:
    """[n,m]; what is below the rounding of the features themselves, float32 at best, counts as equal."""
    x2, y2 = np.square(x).sum(axis=1)[:, None], np.square(y).sum(axis=1)[None]
    distances = x @ y.T
    distances *= -2
    distances += x2
    distances += y2
    distances[distances < 1e-13 * (x2 + y2)] = 0
    return distances


def _radii(x: NDArray[Any], k: int, middle: F64) -> F64:
    """Squared distance of each row to its k-th nearest other row."""
    radii = np.empty(len(x))
    for part in _blocks(len(x)):
        rows = _rows(x, part, middle)
        nearest = np.empty((len(rows), 0))
        for other in _blocks(len(x)):
            distances = _squared_distances(rows, _rows(x, other, middle))
            _without_own(distances, part, other, np.inf)
            if distances.shape[1] > k:
                distances.partition(k - 1, axis=1)
            nearest = np.concatenate([nearest, distances[:, :k]], axis=1)
        radii[part] = np.partition(nearest, k - 1, axis=1)[:, k - 1]
    return radii


def precision_recall(features: ArrayLike, reference: ArrayLike, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall of generated `features` [n,d] against those of real pictures, `reference` [m,d].

    A set's manifold is the union of balls around its rows, each reaching to the k-th nearest other row of the set. Precision
    is the share of generated rows inside the real manifold, recall that of real rows inside the generated one; borders count
    as inside. Exact, with all pairs of distances. Source: Kynkaanniemi et al. (2019).

    Examples
    --------
    >>> precision_recall([[0.0], [1.0], [9.0]], [[0.0], [1.0], [2.0]], k=1)
    (0.6666666666666666, 1.0)
    """
    x, y = _two_sets(features, reference, 2)
    if not 1 <= k < min(len(x), len(y)):
        raise ValueError(f"k: expected 1 to {min(len(x), len(y)) - 1}, less than the smaller set, got {k}")
    middle = y.mean(axis=0, dtype=np.float64)  # distances are the same from there, and lose less to rounding
    radii_x, radii_y = _radii(x, k, middle), _radii(y, k, middle)
    inside_y, inside_x = np.zeros(len(x), bool), np.zeros(len(y), bool)
    for part in _blocks(len(x)):
        rows = _rows(x, part, middle)
        for other in _blocks(len(y)):
            distances = _squared_distances(rows, _rows(y, other, middle))
            inside_y[part] |= (distances <= radii_y[other]).any(axis=1)
            inside_x[other] |= (distances <= radii_x[part, None]).any(axis=0)
    return float(inside_y.mean()), float(inside_x.mean())


def clip_score(pictures: ArrayLike, texts: ArrayLike) -> F64:
    """CLIP score of each pair, float64 [n]: 100 max(0, cosine) of the embeddings of pictures and of texts, both [n,d].

    Papers on text-to-image report the mean (Hessel et al. 2021 scale by 2.5 in place of 100).

    Examples
    --------
    >>> clip_score([[1.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [-1.0, 0.0]]).tolist()
    [100.0, 0.0]
    """
    x, y = (_features(value, name).astype(np.float64) for value, name in ((pictures, "pictures"), (texts, "texts")))
    if x.shape != y.shape:
        raise ValueError(f"pictures: expected the shape of the texts' embeddings {list(y.shape)}, got {list(x.shape)}")
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    if not lengths.all():
        raise ValueError(f"pictures, texts: expected embeddings that are not zero, got one at [{int(np.argmin(lengths))}]")
    return 100 * np.maximum(0, (x * y).sum(axis=1) / lengths)
