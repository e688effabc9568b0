"""Every metric that `textok eval` measures: its name in result files, what computes it, which way is better, its column in a
report.

A new one is a row here. A result file writes NAME, or NAME@NETWORK of what a network's features make; of reconstructions the
metrics of sets are rNAME.
"""

import functools
from dataclasses import dataclass
from typing import Any

from .distances import clip_score, inception_score, kernel_distance, kernel_distance_subsets, precision_recall
from .gathered import MOST, GatheredFeatures
from .pictures import psnr, ssim

SPLITS = 10
NEIGHBOURS = 3
SUBSETS, SUBSET_SIZE = 100, 1000
SET_SETTINGS = {
    "inception_score_splits": SPLITS,
    "precision_recall_k": NEIGHBOURS,
    "kid": "unbiased, whole sets; degree 3, gamma 1/d, coef 1",
    "most_pictures_of_is_kid_precision_recall": MOST,
}


@dataclass(frozen=True)
class Comparison:
    """The features of a set beside those of the real pictures; `paired` where they are reconstructions of them."""

    made: GatheredFeatures
    real: GatheredFeatures
    paired: bool
    seed: int

    @functools.cached_property
    def fewest(self) -> int:
        return 0 if self.real.features is None else min(len(self.made.features), len(self.real.features))

    @functools.cached_property
    def precision_recall(self) -> tuple[float | None, float | None]:
        if self.paired or self.fewest <= NEIGHBOURS:
            return None, None
        return precision_recall(self.made.features, self.real.features, NEIGHBOURS)


def _fid(both: Comparison) -> float:
    made, real = both.made.statistics, both.real.statistics
    assert made is not None and real is not None
    return made.distance(real)


def _kid(both: Comparison) -> float | None:
    if both.real.features is None:
        return None
    made, real = both.made.features, both.real.features
    return kernel_distance(made, real, reference_mean=both.real.mean_kernel, paired=both.paired)


def _kid_subsets(both: Comparison) -> tuple[float, float] | None:
    if both.fewest < SUBSET_SIZE:
        return None
    made, real = both.made.features, both.real.features
    return kernel_distance_subsets(made, real, subsets=SUBSETS, subset_size=SUBSET_SIZE, seed=both.seed, paired=both.paired)


def _inception_score(both: Comparison) -> tuple[float, float] | None:
    if (rows := both.made.probabilities) is None:
        return None
    return inception_score(rows, min(SPLITS, len(rows)), both.seed)


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes
    ----------
    name
        In result files.
    column
        Its heading in a report.
    better
        "higher" or "lower".
    function
        Of pictures: of pictures and originals, one number a pair. Of sets: of a `Comparison`, a number, a number and its
        deviation, or None where it cannot be had. Of text: of embeddings of pictures and captions. None where the network's own
        function is meant.
    """

    name: str
    column: str
    better: str
    function: Any = None


PAIR_METRICS = (Metric("psnr", "PSNR, dB", "higher", psnr), Metric("ssim", "SSIM", "higher", ssim))
PERCEPTUAL_METRICS = (
    Metric("perceptual", "perceptual distance", "lower"),
    Metric("lpips-vgg16", "LPIPS (VGG-16)", "lower"),
    Metric("lpips-alexnet", "LPIPS (AlexNet)", "lower"),
)
SET_METRICS = (
    Metric("fid", "gFID", "lower", _fid),
    Metric("kid", "KID", "lower", _kid),
    Metric("kid_subsets", "KID, mean of subsets", "lower", _kid_subsets),
    Metric("precision", "precision", "higher", lambda both: both.precision_recall[0]),
    Metric("recall", "recall", "higher", lambda both: both.precision_recall[1]),
    Metric("is", "IS", "higher", _inception_score),
)
TEXT_METRIC = Metric("clip_score", "CLIP score", "higher", clip_score)

# By the name in a result file, without the network's.
METRICS = {metric.name: metric for metric in (*PAIR_METRICS, *PERCEPTUAL_METRICS, *SET_METRICS, TEXT_METRIC)}
METRICS |= {f"r{m.name}": Metric(f"r{m.name}", f"r{m.column.removeprefix('g')}", m.better, m.function) for m in SET_METRICS}
