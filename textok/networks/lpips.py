"""LPIPS as a PyTorch module: VGG-16 or AlexNet with the linear weights of the published metric, from the user's files.

One implementation for both uses: `textok eval` measures with it, and training may take its gradient. Needs PyTorch. Layers,
taps, scaling and the linear weights are those of Zhang et al. (2018), version 0.1; the formula alone, on arrays of any
network, is `textok.metrics.lpips`.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..errors import WeightsError

# Of the channels of pictures in [-1, 1]: ImageNet's mean and deviation, carried over from [0, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

# Layers of torchvision's `features`: convolutions (index: in, out, kernel, stride, padding), each with a ReLU; poolings
# (index: kernel); the convolutions whose ReLU is looked at.
VGG16: dict[str, Any] = {
    "convolutions": {
        index: (c_in, c_out, 3, 1, 1)
        for index, c_in, c_out in (
            (0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256), (14, 256, 256),
            (17, 256, 512), (19, 512, 512), (21, 512, 512), (24, 512, 512), (26, 512, 512), (28, 512, 512),
        )
    },
    "poolings": {4: 2, 9: 2, 16: 2, 23: 2},
    "taps": (2, 7, 14, 21, 28),
}  # fmt: skip
ALEXNET: dict[str, Any] = {
    "convolutions": {
        0: (3, 64, 11, 4, 2), 3: (64, 192, 5, 1, 2), 6: (192, 384, 3, 1, 1), 8: (384, 256, 3, 1, 1), 10: (256, 256, 3, 1, 1),
    },
    "poolings": {2: 3, 5: 3},
    "taps": (0, 3, 6, 8, 10),
}  # fmt: skip
BACKBONES = {"vgg16": VGG16, "alexnet": ALEXNET}


class Lpips(nn.Module):
    """The distance of pictures; `Lpips.load` reads published weights.

    Parameters
    ----------
    backbone
        "vgg16" or "alexnet".
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, backbone: str = "vgg16") -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone: expected {' or '.join(BACKBONES)}, got {backbone!r}")
        plan = BACKBONES[backbone]
        self.backbone, self.poolings, self.taps = backbone, plan["poolings"], plan["taps"]
        self.convolutions = nn.ModuleDict({str(i): nn.Conv2d(*shape) for i, shape in plan["convolutions"].items()})
        widths = [plan["convolutions"][tap][1] for tap in self.taps]
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(width)) for width in widths])
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)
        self.requires_grad_(False)

    @classmethod
    def load(cls, backbone: str, files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> "Lpips":
        """From .pth, .pt or .safetensors files that together have the backbone and the linear weights.

        The backbone's names are torchvision's (`features.0.weight`) or the lpips package's (`net.slice1.0.weight`), the
        linear layers' the package's (`lin0.model.1.weight`, [1,C,1,1]). A folder stands for all such files in it.
        """
        model = cls(backbone)
        paths = [files] if isinstance(files, str | os.PathLike) else list(files)
        tensors: dict[str, torch.Tensor] = {}
        for path in map(Path, paths):
            for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                if path != file and file.suffix not in (".pth", ".pt", ".safetensors"):
                    continue
                tensors |= {name: tensor for key, tensor in _read(file).items() if (name := _name(key)) is not None}
        own = model.state_dict()
        for name, tensor in own.items():
            given = tensors.get(name)
            if given is None or given.numel() != tensor.numel():
                came = "none" if given is None else str(list(given.shape))
                raise WeightsError(
                    f"{', '.join(map(str, paths))}: expected LPIPS' {backbone} with {name} {list(tensor.shape)}, got {came}"
                )
            own[name] = given.float().reshape(tensor.shape)
        model.load_state_dict(own)
        model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """images [B,3,H,W] in [-1,1] -> what each of the five layers makes of them, [B,C,h,w]."""
        x, result = (images - self.shift) / self.scale, []
        for index in range(max(self.taps) + 1):
            if index in self.poolings:
                x = functional.max_pool2d(x, self.poolings[index], 2)
            elif str(index) in self.convolutions:
                x = functional.relu(self.convolutions[str(index)](x))
                if index in self.taps:
                    result.append(x)
        return result

    def forward(self, images: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
        """The distance of each pair [B]; both [B,3,H,W] in [-1,1], of at least 32 pixels a side."""
        total = torch.zeros(len(images), device=images.device)
        for a, b, weight in zip(self.features(images), self.features(originals), self.weights, strict=True):
            squares = (_unit(a) - _unit(b)).square()
            total = total + torch.einsum("bchw,c->b", squares, weight) / (a.shape[2] * a.shape[3])
        return total


def _unit(x: torch.Tensor) -> torch.Tensor:
    # The root of a number a little above zero, for its gradient where a place is all zeros.
    return x / (torch.sqrt(x.square().sum(dim=1, keepdim=True) + 1e-20) + 1e-10)


def _name(key: str) -> str | None:
    """A published tensor's name in this module."""
    if match := re.fullmatch(r"(?:net\.)?(?:features|slice\d+)\.(\d+)\.(weight|bias)", key):
        return f"convolutions.{match[1]}.{match[2]}"
    if match := re.fullmatch(r"(?:lins\.|lin)(\d)\.model\.1\.weight", key):
        return f"weights.{match[1]}"
    return None


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except Exception as problem:  # noqa: BLE001  (torch and safetensors raise many kinds for a file that is not theirs)
        raise WeightsError(f"{path}: expected weights of PyTorch or safetensors, got: {str(problem).splitlines()[0]}") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise WeightsError(f"{path}: expected a state dict, got {type(tensors).__name__}")
    return tensors
