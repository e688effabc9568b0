"""How close pictures are to their originals."""

import numpy as np
from numpy.typing import NDArray

from . import arrays

F64 = NDArray[np.float64]


def _pair(pictures: NDArray[np.uint8], originals: NDArray[np.uint8]) -> None:
    for array, name in ((pictures, "pictures"), (originals, "originals")):
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
            raise ValueError(f"{name}: expected uint8 [B, H, W, 3], got {arrays.describe(array)}")
    if pictures.shape != originals.shape:
        raise ValueError(f"pictures: expected the shape of the originals, {list(originals.shape)}, got {list(pictures.shape)}")


def psnr(pictures: NDArray[np.uint8], originals: NDArray[np.uint8]) -> F64:
    """Peak signal-to-noise ratio of each picture in dB, float64 [B], for uint8 [B,H,W,3]; infinite where they are equal."""
    _pair(pictures, originals)
    error = np.square(pictures.astype(np.float64) - originals).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255.0**2 / error)


def ssim(pictures: NDArray[np.uint8], originals: NDArray[np.uint8]) -> F64:
    """Structural similarity of each picture, float64 [B], at most 1, for uint8 [B,H,W,3].

    As Wang et al. (2004) define it: Gaussian weights of sigma 1.5, population covariance, the mean over pixels and channels. By
    scikit-image, which the extra "demo" installs.
    """
    from skimage.metrics import structural_similarity

    _pair(pictures, originals)
    return np.array(
        [
            structural_similarity(
                original, picture, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            )
            for picture, original in zip(pictures, originals)
        ]
    )
