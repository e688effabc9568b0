"""The public name of `textok.networks.feature_networks`: what metrics look at pictures with."""

from ..networks.feature_networks import STAND_IN, FeatureNetwork, load_network, perceptual_distance

__all__ = ["STAND_IN", "FeatureNetwork", "load_network", "perceptual_distance"]
