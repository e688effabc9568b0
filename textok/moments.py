"""Joining what two groups of rows say of their mean and spread."""

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def joined_means(count: int, mean: F64, more: int, its_mean: F64) -> tuple[int, F64, F64, float]:
    """A group of `count` rows and one of `more`, float64 [d]: rows and mean of both, how far apart their means are, and a
    weight.

    The sum of squared distances from the mean (or of their outer products) of both is the sum of the two's, and weight times
    the square (or outer product) of what lies between the means: Chan, Golub and LeVeque (1979), of which Welford's update is
    the case of one new row. Nothing is lost where the mean is far from zero, and any split and order gives the same up to
    rounding.
    """
    total = count + more
    apart = its_mean - mean
    return total, mean + apart * (more / total), apart, count * more / total
