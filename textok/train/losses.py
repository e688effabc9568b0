"""The losses of the tokenizer: adversarial ones, R1, LeCAM, KL, and the adaptive weight.

Logits are [B], high for real pictures; every function returns a scalar tensor, a mean over the batch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """mean(max(0, 1 - real)) + mean(max(0, 1 + fake)), halved (Lim and Ye, 2017; halved as VQGAN does).

    R1 and LeCAM are not halved beside it: with the same weights they count twice as much as beside the plain hinge.
    """
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())


def generator_hinge(fake: Tensor) -> Tensor:
    """-mean(fake)."""
    return -fake.mean()


def discriminator_non_saturating(real: Tensor, fake: Tensor) -> Tensor:
    """mean(-log sigmoid(real)) + mean(-log(1 - sigmoid(fake))) (Goodfellow et al., 2014), halved as the hinge is."""
    return 0.5 * (functional.softplus(-real).mean() + functional.softplus(fake).mean())


def generator_non_saturating(fake: Tensor) -> Tensor:
    """mean(-log sigmoid(fake))."""
    return functional.softplus(-fake).mean()


# name in a config -> (the discriminator's loss of real and fake logits, the generator's of fake ones)
ADVERSARIAL = {
    "hinge": (discriminator_hinge, generator_hinge),
    "non-saturating": (discriminator_non_saturating, generator_non_saturating),
}


def r1_penalty(discriminator: nn.Module, images: Tensor, weight: float) -> Tensor:
    """weight / 2 times the mean squared gradient norm of the logits at real pictures (Mescheder et al., 2018).

    images [B,S,S,3]. Differentiable by the discriminator's weights. Where it is taken every k steps only, `weight` is to be k
    times as large (StyleGAN2's lazy regularisation).
    """
    images = images.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)  # [B,S,S,3]
    return 0.5 * weight * slope.square().sum(dim=(1, 2, 3)).mean()


class LeCam(nn.Module):
    """LeCAM regularisation (Tseng et al., 2021), with moving averages of the discriminator's own logits.

    R = mean((real - average_fake)^2) + mean((fake - average_real)^2): real logits are held near where the fake ones have
    been, and fake ones near where the real ones have been. That is the formula of the paper. Its authors' code
    (google/lecam-gan) has one-sided squares, relu(real - average_fake)^2 and relu(average_real - fake)^2; the two are equal
    while real logits lie above the average of the fake ones and fake logits below that of the real ones.

    The averages are buffers, so that a checkpoint holds them; the first update sets them, later ones move them by 1 - decay.
    """

    average_real: Tensor
    average_fake: Tensor
    updates: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("average_real", torch.zeros(()))
        self.register_buffer("average_fake", torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, real: float, fake: float) -> None:
        """Moves the averages towards the mean logits `real` and `fake` (floats) of a step."""
        share = 1.0 if self.updates == 0 else 1 - self.decay
        self.average_real += share * (real - self.average_real)
        self.average_fake += share * (fake - self.average_fake)
        self.updates += 1

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """The regulariser of logits real [B] and fake [B]; zero before the first update, when there are no averages yet."""
        if self.updates == 0:
            return 0.0 * (real.sum() + fake.sum())
        return (real - self.average_fake).square().mean() + (fake - self.average_real).square().mean()


def adaptive_weight(
    pixels: Tensor, last_weight: Tensor, slope_reconstruction: Tensor, slope_adversarial: Tensor, most: float = 1e4
) -> Tensor:
    """VQGAN's balance: norm of the reconstruction loss's gradient by `last_weight` over that of the adversarial loss's.

    pixels [B,S,S,3] with the graph that leads to `last_weight`, which is kept; the slopes are the gradients of the two losses
    by the pixels. The result is a constant (no gradient), at most `most` (Esser et al., 2021, eq. 7).
    """
    norms = [
        torch.autograd.grad(pixels, last_weight, slope, retain_graph=True)[0].float().norm()
        for slope in (slope_reconstruction, slope_adversarial)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, most).detach()


def kl_to_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)) from N(0, 1): summed over an image's numbers [B,N,d], averaged over
    images."""
    terms = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return terms.sum(dim=(1, 2)).mean()
