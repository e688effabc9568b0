"""How close pictures are to their originals, picture by picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import arrays

U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]

SSIM_SETTINGS: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}


def _pair(pictures: ArrayLike, originals: ArrayLike) -> tuple[U8, U8]:
    """Both, checked to be uint8 [B,H,W,3] of one shape; torch's tensors and lists of arrays alike."""
    a, b = arrays.view(pictures, "pictures"), arrays.view(originals, "originals")
    for array, name in ((a, "pictures"), (b, "originals")):
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
            chw = array.ndim == 4 and array.shape[1] == 3 and array.shape[3] != 3
            hint = "; this looks like NCHW: transpose it with .transpose(0, 2, 3, 1)" if chw else ""
            raise ValueError(f"{name}: expected uint8 [B, H, W, 3], got {arrays.describe(array)}{hint}")
    if a.shape != b.shape:
        raise ValueError(f"pictures: expected the shape of the originals, {list(b.shape)}, got {list(a.shape)}")
    return a, b


def psnr(pictures: ArrayLike, originals: ArrayLike) -> F64:
    """Peak signal-to-noise ratio of each picture in dB, float64 [B], for uint8 [B,H,W,3]; infinite where they are equal.

    10 log10(255^2 / mean squared error); a set's value is the mean of its pictures', not that of the pooled error.
    """
    made, wanted = _pair(pictures, originals)
    error = np.square(made.astype(np.float64) - wanted).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(255.0**2 / error), np.float64)


def ssim(pictures: ArrayLike, originals: ArrayLike) -> F64:
    """Structural similarity of each picture, float64 [B], at most 1, for uint8 [B,H,W,3] of at least 11 x 11 pixels.

    As Wang et al. (2004) define it: Gaussian weights of sigma 1.5 in a window of 11 x 11, population covariance, data range
    255; the mean over pixels whose window lies inside the picture, and over channels. By scikit-image, which the extras "demo"
    and "eval" install.
    """
    from skimage.metrics import structural_similarity

    made, wanted = _pair(pictures, originals)
    if min(made.shape[1:3]) < 11:
        raise ValueError(f"pictures: expected at least 11 x 11 pixels, the window's size, got {arrays.describe(made)}")
    return np.array(
        [structural_similarity(original, picture, channel_axis=2, **SSIM_SETTINGS) for picture, original in zip(made, wanted)],
        np.float64,
    )


def lpips(
    features: Sequence[ArrayLike],
    originals: Sequence[ArrayLike],
    weights: Sequence[ArrayLike] | None = None,
    eps: float = 1e-10,
) -> F64:
    """LPIPS of each picture from what a network's layers make of it and of its original; 0 where they are equal.

    Parameters
    ----------
    features, originals
        One array [B,C,h,w] a layer, of the pictures and of their originals.
    weights
        One array [C] a layer, not negative, the linear layer that was fitted to people's judgements; None for ones.
    eps
        Added to a place's length before dividing by it.

    Returns
    -------
    float64 [B]: channels scaled to unit length at every place, squared differences weighted, summed over channels, averaged
    over places and summed over layers. Source: Zhang et al. (2018), "The unreasonable effectiveness of deep features",
    version 0.1.

    Examples
    --------
    >>> layer = np.ones((1, 4, 2, 2))
    >>> float(lpips([layer], [3 * layer])[0])
    0.0
    """
    if len(features) != len(originals) or not len(features) or (weights is not None and len(weights) != len(features)):
        count = "none" if weights is None else len(weights)
        raise ValueError(
            f"features: expected as many layers as originals and weights, got {len(features)}, {len(originals)} and {count}"
        )
    total: Any = 0.0
    for place, (got, want) in enumerate(zip(features, originals)):
        a, b = (
            arrays.view(value, f"{name}[{place}]").astype(np.float64)
            for value, name in ((got, "features"), (want, "originals"))
        )
        if a.ndim != 4 or a.shape != b.shape:
            raise ValueError(
                f"features[{place}]: expected [B, C, h, w] as its original, got {list(a.shape)} and {list(b.shape)}"
            )
        weight = (
            np.ones(a.shape[1])
            if weights is None
            else arrays.view(weights[place], f"weights[{place}]").astype(np.float64).reshape(-1)
        )
        if weight.shape != (a.shape[1],):
            raise ValueError(f"weights[{place}]: expected one number for each of {a.shape[1]} channels, got {len(weight)}")
        a = a / (np.sqrt(np.square(a).sum(axis=1, keepdims=True)) + eps)
        b = b / (np.sqrt(np.square(b).sum(axis=1, keepdims=True)) + eps)
        total = total + np.einsum("bchw,c->b", np.square(a - b), weight) / (a.shape[2] * a.shape[3])
    return total
