"""The noise processes and the training losses of the generators: `process_of` chooses by what a model predicts.

Diffusion: q(x_t | x_0) = N(sqrt(a_t) x_0, 1 - a_t), a_t the product of 1 - beta up to t (Ho et al., 2020). The model predicts
the noise, the velocity sqrt(a_t) noise - sqrt(1 - a_t) x_0 (Salimans and Ho, 2022) or x_0 and, where it learns sigma, a
fraction in [-1, 1] that places the log-variance of a reverse step between its two bounds, log beta_t and log of the posterior's
(Nichol and Dhariwal, 2021). The loss is the mean squared error of what is predicted plus the variational bound with the mean
held fixed, so that the bound teaches only the variance.

Flow matching: x_t = (1 - t) x_0 + t noise for t from 0 to 1, and the model predicts the velocity noise - x_0 (Lipman et al.,
2023; SiT, Ma et al., 2024). The loss is the mean squared error.
"""

import math

import torch
from torch import Tensor

from ..config import DiTConfig
from ..errors import ConfigError
from ..schedules import cumulative_alphas


class Diffusion:
    """Tables of the config's beta schedule, float32 [T] each, and the loss over them."""

    def __init__(self, config: DiTConfig) -> None:
        self.steps = config.num_train_timesteps
        if self.steps < 2:
            raise ConfigError(f"model.num_train_timesteps: expected at least 2 to train with, got {self.steps}")
        self.prediction = config.prediction
        alpha_bar = torch.from_numpy(cumulative_alphas(config))  # [T]
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])  # [T]
        beta = 1 - alpha_bar / before  # [T]
        posterior = beta * (1 - before) / (1 - alpha_bar)  # [T], zero at t = 0
        posterior[0] = posterior[1]
        # The reverse step's mean is a sum of x_0 and x_t; the weight of x_0.
        self.from_x0 = (beta * before.sqrt() / (1 - alpha_bar)).float()  # [T]
        self.signal = alpha_bar.sqrt().float()  # [T]
        self.noise = (1 - alpha_bar).sqrt().float()  # [T]
        self.log_high = beta.log().float()  # [T]
        self.log_low = posterior.log().float()  # [T]

    def draw(self, count: int, generator: torch.Generator | None, times: str = "uniform") -> Tensor:
        """Timesteps int64 [B], evenly spread, the only way there is."""
        return torch.randint(self.steps, (count,), generator=generator)

    @staticmethod
    def at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """table [T] at t [B], shaped to multiply `like` [B,...]."""
        return table.to(like.device)[t].reshape(-1, *[1] * (like.ndim - 1))

    def add_noise(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x0 [B,N,C], t int64 [B], noise [B,N,C] -> x_t [B,N,C]."""
        return self.at(self.signal, t, x0) * x0 + self.at(self.noise, t, x0) * noise

    def target(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the model is to predict, [B,N,C]."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return x0
        return self.at(self.signal, t, x0) * noise - self.at(self.noise, t, x0) * x0

    def guess(self, predicted: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """x_0 as a prediction has it, [B,N,C]."""
        signal, noise = self.at(self.signal, t, xt), self.at(self.noise, t, xt)
        if self.prediction == "epsilon":
            return (xt - noise * predicted) / signal
        if self.prediction == "sample":
            return predicted
        return signal * xt - noise * predicted

    def losses(self, output: Tensor, x0: Tensor, xt: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Per sample: squared error [B] and variational bound in bits a number [B].

        output [B,N,C] or, with the variance fraction behind the prediction, [B,N,2C].
        """
        channels = x0.shape[-1]
        predicted = output[..., :channels]  # [B,N,C]
        error = (predicted - self.target(x0, t, noise)).square().mean(dim=(1, 2))  # [B]
        if output.shape[-1] == channels:
            return error, torch.zeros_like(error)
        return error, self.bound(self.guess(predicted.detach(), xt, t), output[..., channels:], x0, t)

    def bound(self, guess: Tensor, fraction: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """The bound's term at t, [B], for a guess of x_0: a KL divergence of Gaussians; at t = 0 a likelihood."""
        high, low = self.at(self.log_high, t, x0), self.at(self.log_low, t, x0)
        log_variance = low + (fraction + 1) / 2 * (high - low)  # [B,N,C]
        gap = self.at(self.from_x0, t, x0) * (x0 - guess)  # of the means, [B,N,C]
        scaled = gap.square() * torch.exp(-log_variance)
        divergence = 0.5 * (log_variance - low - 1 + torch.exp(low - log_variance) + scaled)
        last = x0 - guess  # at t = 0 the mean is the guess itself
        nll = 0.5 * (math.log(2 * math.pi) + log_variance + last.square() * torch.exp(-log_variance))
        term = torch.where(t[:, None, None] == 0, nll, divergence)  # [B,N,C]
        return term.mean(dim=(1, 2)) / math.log(2)  # [B]


class Flow:
    """Flow matching along straight lines."""

    def draw(self, count: int, generator: torch.Generator | None, times: str = "uniform") -> Tensor:
        """Times float32 [B] from 0 to 1: evenly spread, or "logit_normal", the logistic function of a standard normal
        variable, which are denser in the middle, where the velocity is hardest to tell (Esser et al., 2024, section 3.1).
        """
        if times == "logit_normal":
            return torch.randn(count, generator=generator).sigmoid()
        return torch.rand(count, generator=generator)

    def add_noise(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x0 [B,N,C], t [B], noise [B,N,C] -> x_t [B,N,C]."""
        t = t.reshape(-1, *[1] * (x0.ndim - 1))  # [B,1,1]
        return (1 - t) * x0 + t * noise

    def losses(self, output: Tensor, x0: Tensor, xt: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Per sample: squared error [B] of the velocity, output [B,N,C] or the first half of [B,N,2C]; and zeros, there being
        no bound."""
        error = (output[..., : x0.shape[-1]] - (noise - x0)).square().mean(dim=(1, 2))  # [B]
        return error, torch.zeros_like(error)


def process_of(config: DiTConfig) -> Diffusion | Flow:
    """The noise process of a generator."""
    return Flow() if config.prediction == "velocity" else Diffusion(config)
