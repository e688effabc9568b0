"""The tokenizer's losses and discriminator against plain formulas in float64. Needs torch; without it these are skipped."""

import numerics
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from textok.train import losses
from textok.train.discriminator import Blur, Discriminator

RNG = np.random.default_rng(0)
REAL, FAKE = RNG.standard_normal((2, 33)) * 2


def softplus(x):
    return np.logaddexp(0, x)


FORMULAS = {
    "hinge": (lambda r, f: (np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean()) / 2, lambda f: -f.mean()),
    "non-saturating": (lambda r, f: (softplus(-r).mean() + softplus(f).mean()) / 2, lambda f: softplus(-f).mean()),
}


def check(result, expected, planted):
    """`result` is `expected`, and neither is the formula with an error in it."""
    numerics.check(float(torch.as_tensor(result).detach()), expected, numerics.LOSS)
    assert numerics.rejects(float(torch.as_tensor(result).detach()), planted, numerics.LOSS)


@pytest.mark.parametrize("name", FORMULAS)
def test_adversarial_losses(name):
    of_discriminator, of_generator = losses.ADVERSARIAL[name]
    formula, generator = FORMULAS[name]
    real, fake = torch.tensor(REAL).float(), torch.tensor(FAKE).float()
    check(of_discriminator(real, fake), formula(REAL, FAKE), formula(FAKE, REAL))  # planted: the two exchanged
    check(of_generator(fake), generator(FAKE), generator(-FAKE))


@pytest.mark.parametrize(
    ("size", "base", "multipliers", "parameters"),
    [
        (256, 128, (1, 2, 4, 4, 4, 4), 24_192_385),
        (512, 128, (0.5, 1, 2, 4, 4, 4, 4), 24_229_377),
        (64, 16, (1, 2, 4, 4), 223_153),
    ],
)
def test_discriminator_sizes(size, base, multipliers, parameters):
    """24.19 and 24.23 million are the appendix's; the last digits are the arithmetic of the layers."""
    with torch.device("meta"):
        network = Discriminator(size, base, multipliers)
        assert sum(p.numel() for p in network.parameters()) == parameters
        assert network(torch.empty(2, size, size, 3)).shape == (2,)


def test_discriminator_of_a_size_that_does_not_end_at_four_is_refused():
    with pytest.raises(ValueError, match="halve 96 pixels to 4, got 4"):
        Discriminator(96, 16, (1, 2, 4, 4))


def test_blur_is_the_binomial_window():
    x = RNG.standard_normal((8, 8))
    padded = np.pad(x, 1)
    taps = np.array([1, 3, 3, 1]) / 8
    expected = np.array([[taps @ padded[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] @ taps for j in range(4)] for i in range(4)])
    result = Blur()(torch.tensor(x)[None, None].float())[0, 0]
    numerics.check(result.numpy(), expected, numerics.LOSS)
    assert numerics.rejects(result.numpy(), x.reshape(4, 2, 4, 2).mean(axis=(1, 3)), numerics.LOSS)  # planted: a plain mean


def test_r1_is_half_the_weight_times_the_squared_slope():
    """Of a quadratic judge the slope is known."""
    matrix = torch.tensor(RNG.standard_normal((12, 12)))

    def judge(images):
        flat = images.flatten(1)
        return (flat @ matrix * flat).sum(dim=1)

    images = RNG.standard_normal((5, 2, 2, 3))
    slopes = images.reshape(5, 12) @ (matrix + matrix.T).numpy()
    expected = 10 / 2 * np.square(slopes).sum(axis=1).mean()
    check(losses.r1_penalty(judge, torch.tensor(images), 10.0), expected, 10 / 2 * np.square(slopes).mean())


def test_r1_teaches_the_discriminator():
    network = Discriminator(8, 4, (1,))
    losses.r1_penalty(network, torch.rand(2, 8, 8, 3), 10.0).backward()
    assert network.stem.weight.grad.abs().max() > 0


def test_lecam_holds_each_side_near_the_average_of_the_other():
    lecam = losses.LeCam(decay=0.9)
    assert lecam(torch.tensor(REAL), torch.tensor(FAKE)) == 0
    lecam.update(1.0, -2.0)
    lecam.update(3.0, -4.0)
    real, fake = 0.9 * 1 + 0.1 * 3, 0.9 * -2 + 0.1 * -4
    numerics.check([lecam.average_real, lecam.average_fake], [real, fake], numerics.LOSS)
    expected = np.square(REAL - fake).mean() + np.square(FAKE - real).mean()
    planted = np.square(REAL - real).mean() + np.square(FAKE - fake).mean()  # planted: each towards its own
    check(lecam(torch.tensor(REAL), torch.tensor(FAKE)), expected, planted)
    assert set(lecam.state_dict()) == {"average_real", "average_fake", "updates"}


def test_adaptive_weight_is_the_ratio_of_the_gradients_of_the_last_layer():
    hidden, weight = (torch.tensor(RNG.standard_normal(shape)) for shape in ((2, 4, 5), (12, 5)))
    weight.requires_grad_(True)
    pixels = (hidden @ weight.T).reshape(2, 4, 4, 3)
    slopes = RNG.standard_normal((2, 2, 4, 4, 3))
    norms = [np.linalg.norm(s.reshape(8, 12).T @ hidden.reshape(8, 5).numpy()) for s in slopes]
    result = losses.adaptive_weight(pixels, weight, *map(torch.tensor, slopes))
    check(result, norms[0] / (norms[1] + 1e-4), np.linalg.norm(slopes[0]) / np.linalg.norm(slopes[1]))
    assert losses.adaptive_weight(pixels, weight, torch.tensor(slopes[0]), torch.zeros_like(pixels)) == 1e4
    assert not result.requires_grad and weight.grad is None


def test_kl_is_that_of_gaussians():
    mean, log_variance = RNG.standard_normal((2, 3, 4, 2))
    model = torch.distributions.Normal(torch.tensor(mean), torch.tensor(np.exp(log_variance / 2)))
    expected = torch.distributions.kl_divergence(model, torch.distributions.Normal(0.0, 1.0)).sum(dim=(1, 2)).mean().item()
    check(losses.kl_to_normal(torch.tensor(mean), torch.tensor(log_variance)), expected, expected / 8)
