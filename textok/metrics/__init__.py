"""What evaluations are made of, as plain functions on NumPy arrays; `textok eval` puts them together.

    psnr, ssim, lpips                        of pictures and their originals, one number a picture
    Statistics, frechet_distance             FID: mean and covariance in parts, mergeable, with their files
    kernel_distance, kernel_distance_subsets, kernel_mean
                                             KID
    inception_score, precision_recall        of class probabilities, of features
    clip_score                               of embeddings of pictures and texts

Everything computes in float64. Features come from any network; those that textok can run are in `textok.metrics.networks`.

    import textok.metrics as tm
    from textok.metrics.networks import load_network

    network = load_network("efficientnet-lite0")                 # a stand-in for Inception-v3
    real, made = (tm.Statistics.of(network(part).features for part in parts) for parts in (originals, samples))
    made.distance(real)
"""

from .distances import (
    clip_score,
    frechet_distance,
    inception_score,
    kernel_distance,
    kernel_distance_subsets,
    kernel_mean,
    precision_recall,
)
from .feature_statistics import Statistics
from .pictures import lpips, psnr, ssim

__all__ = [
    "Statistics",
    "clip_score",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "kernel_distance_subsets",
    "kernel_mean",
    "lpips",
    "precision_recall",
    "psnr",
    "ssim",
]
