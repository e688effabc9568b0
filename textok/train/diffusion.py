"""The noise process and the training loss of the generators.

Forward: q(x_t | x_0) = N(sqrt(a_t) x_0, 1 - a_t), a_t the product of 1 - beta up to t (Ho et al., 2020). The model predicts the
noise, the velocity sqrt(a_t) noise - sqrt(1 - a_t) x_0 (Salimans and Ho, 2022) or x_0 and, where it learns sigma, a fraction in
[-1, 1] that places the log-variance of a reverse step between its two bounds, log beta_t and log of the posterior's (Nichol and
Dhariwal, 2021). The loss is the mean squared error of what is predicted plus the variational bound with the mean held fixed, so
that the bound teaches only the variance.
"""

import math

import torch
from torch import Tensor


class Diffusion:
    """Tables of a linear beta schedule, float32 [T] each, and the loss over them. `prediction`: "epsilon", "v" or "sample"."""

    def __init__(
        self, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, prediction: str = "epsilon"
    ) -> None:
        self.steps = steps
        self.prediction = prediction
        beta = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)  # [T]
        alpha_bar = torch.cumprod(1 - beta, dim=0)  # [T]
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])  # [T]
        posterior = beta * (1 - before) / (1 - alpha_bar)  # [T], zero at t = 0
        posterior[0] = posterior[1]
        # The reverse step's mean is a sum of x_0 and x_t with these weights.
        self.from_x0 = (beta * before.sqrt() / (1 - alpha_bar)).float()  # [T]
        self.from_xt = ((1 - beta).sqrt() * (1 - before) / (1 - alpha_bar)).float()  # [T]
        self.signal = alpha_bar.sqrt().float()  # [T]
        self.noise = (1 - alpha_bar).sqrt().float()  # [T]
        self.log_high = beta.log().float()  # [T]
        self.log_low = posterior.log().float()  # [T]

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
