"""The public name of `textok.networks` and of the perceptual distance: what metrics look at pictures with."""

from ..networks import STAND_IN, FeatureNetwork, load_network
from .perceptual_distance import perceptual_distance

__all__ = ["STAND_IN", "FeatureNetwork", "load_network", "perceptual_distance"]
