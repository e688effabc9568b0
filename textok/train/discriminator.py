"""The StyleGAN-type residual discriminator of the tokenizer's adversarial loss.

A 3x3 stem of `base_channels`; for each multiplier a residual level that halves the picture: 3x3, blurred downsampling, 3x3 to
multiplier x base channels, beside a blurred, bias-free 1x1 skip; at 4x4 a 3x3 and two dense layers to one logit. Leaky ReLU of
0.2 throughout; no norms and no minibatch statistics: with these the parameters are the 24.19 million (256 pixels) and 24.23
million (512 pixels) of TexTok's appendix (arXiv 2412.05796), to the digit given.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

FINAL_SIDE = 4  # of the picture that the dense layers see


class Blur(nn.Module):
    """Halves a picture under a [1,3,3,1] binomial window, so that high frequencies do not fold into low ones."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("window", torch.outer(taps, taps)[None, None], persistent=False)  # [1,1,4,4]

    def forward(self, x: Tensor) -> Tensor:
        """x [B,C,h,w] -> [B,C,h/2,w/2]."""
        channels = x.shape[1]
        window = self.window.to(x.dtype).expand(channels, 1, 4, 4)
        return functional.conv2d(x, window, stride=2, padding=1, groups=channels)


class Level(nn.Module):
    """One residual level: half the side, `out_channels` channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.blur = Blur()

    def forward(self, x: Tensor) -> Tensor:
        """x [B,C,h,w] -> [B,C',h/2,w/2]; the sum is scaled to keep the variance."""
        h = functional.leaky_relu(self.conv1(x), 0.2)
        h = functional.leaky_relu(self.conv2(self.blur(h)), 0.2)
        return (self.skip(self.blur(x)) + h) * 0.5**0.5


class Discriminator(nn.Module):
    """Pictures to logits: high for real ones.

    Parameters
    ----------
    image_size
        Side of the pictures: 4 times two to the number of levels.
    base_channels, multipliers
        Channels of the stem, and of each level as multiples of it; 128 and (1, 2, 4, 4, 4, 4) at 256 pixels.

    Raises
    ------
    ValueError
        Sizes that do not end at 4x4.
    """

    def __init__(self, image_size: int, base_channels: int = 128, multipliers: Sequence[float] = (1, 2, 4, 4, 4, 4)) -> None:
        super().__init__()
        if image_size != FINAL_SIDE * 2 ** len(multipliers):
            raise ValueError(
                f"gan.multipliers: expected as many as halve {image_size} pixels to {FINAL_SIDE}, got {len(multipliers)}, "
                f"which fit {FINAL_SIDE * 2 ** len(multipliers)} pixels"
            )
        widths = [base_channels, *(round(base_channels * m) for m in multipliers)]
        self.stem = nn.Conv2d(3, base_channels, 3, padding=1)
        self.levels = nn.ModuleList(Level(a, b) for a, b in itertools.pairwise(widths))
        last = widths[-1]
        self.conv = nn.Conv2d(last, last, 3, padding=1)
        self.dense = nn.Linear(FINAL_SIDE**2 * last, last)
        self.logit = nn.Linear(last, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, a=0.2, nonlinearity="leaky_relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_normal_(self.logit.weight)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stubs lack that form

    def forward(self, images: Tensor) -> Tensor:
        """images [B,S,S,3] in [-1,1] -> logits [B]."""
        x = images.permute(0, 3, 1, 2)  # [B,3,S,S], channels last in memory
        x = functional.leaky_relu(self.stem(x), 0.2)
        for level in self.levels:
            x = level(x)
        x = functional.leaky_relu(self.conv(x), 0.2).flatten(1)  # [B,16C]
        return self.logit(functional.leaky_relu(self.dense(x), 0.2))[:, 0]
