"""A perceptual distance of pictures and originals by its network's name."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..networks.base import BATCH, torch_threads
from ..networks.efficientnet import STAND_IN
from .pictures import lpips

U8 = NDArray[np.uint8]


def perceptual_distance(name: str, threads: int | None = None) -> Any:
    """A function of pictures and originals, both uint8 [B,H,W,3], that gives a perceptual distance of each pair, float64 [B].

    `name` is "efficientnet-lite0", a stand-in for LPIPS without linear weights (blocks 3, 5, 8 and 11 at the pictures' own
    size, their mean), or "lpips-vgg16=FILES" or "lpips-alexnet=FILES" with comma-separated files or a folder of the
    published weights. The function's attribute `fingerprint` is a hash of its weights.
    """
    import torch

    if name == STAND_IN:
        from ..networks.efficientnet_module import LayerFeatures

        layers = LayerFeatures()

        def stand_in(pictures: U8, originals: U8) -> NDArray[np.float64]:
            with torch_threads(threads), torch.inference_mode():
                a, b = (layers.features(torch.from_numpy(x.astype(np.float32) / 127.5 - 1)) for x in (pictures, originals))
                return lpips([x.numpy() for x in a], [x.numpy() for x in b]) / len(a)

        return _in_batches(stand_in, layers)
    kind, _, files = name.partition("=")
    if kind not in ("lpips-vgg16", "lpips-alexnet") or not files:
        raise ValueError(f"perceptual: expected {STAND_IN}, lpips-vgg16=FILES or lpips-alexnet=FILES, got {name!r}")
    from ..networks.lpips import Lpips

    model = Lpips.load(kind.removeprefix("lpips-"), files.split(","))

    def published(pictures: U8, originals: U8) -> NDArray[np.float64]:
        with torch_threads(threads), torch.inference_mode():
            a, b = (torch.from_numpy(x.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2) for x in (pictures, originals))
            return model(a, b).numpy().astype(np.float64)

    return _in_batches(published, model)


def _in_batches(function: Any, module: Any) -> Any:
    def whole(pictures: U8, originals: U8) -> NDArray[np.float64]:
        parts = range(0, len(pictures), BATCH)
        return np.concatenate([function(pictures[i : i + BATCH], originals[i : i + BATCH]) for i in parts])

    weights = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        weights.update(f"{name} {list(tensor.shape)}\n".encode())
        weights.update(tensor.contiguous().numpy().tobytes())
    whole.fingerprint = weights.hexdigest()  # type: ignore[attr-defined]  # functions have attributes
    return whole
