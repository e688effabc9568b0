"""Samplers, each step written as its paper has it.

The noised x_t is sqrt(a_t) x_0 + sqrt(1 - a_t) e with a_t the product of 1 - beta up to t. `predict(x, t)` gives the model's
prediction of e, of v = sqrt(a_t) e - sqrt(1 - a_t) x_0 or of x_0 ("epsilon", "v", "sample"), and the learned variance fraction
in [-1,1] or None. `noise` holds one array a step.
"""

import numpy as np


def cumulative_alphas(config):
    betas = np.linspace(config["beta_start"], config["beta_end"], config["num_train_timesteps"])
    return np.cumprod(1 - betas)


def timesteps(total, steps, solver, spacing):
    """The train timesteps of a run, from noisy to clean."""
    if spacing == "trailing":
        return [round(total - k * total / steps) - 1 for k in range(steps)]
    points = steps + 1 if solver == "dpmsolver++" else steps  # DPM-Solver++ leaves the last point, 0, out
    if spacing == "leading":
        return [k * (total // points) for k in reversed(range(points))][:steps]
    if points == 1:
        return [total - 1]
    return [round(k * (total - 1) / (points - 1)) for k in reversed(range(points))][:steps]


def split(x, prediction, a, kind):
    """The clean sample and the noise that a prediction stands for."""
    if kind == "epsilon":
        return (x - np.sqrt(1 - a) * prediction) / np.sqrt(a), prediction
    if kind == "v":
        return np.sqrt(a) * x - np.sqrt(1 - a) * prediction, np.sqrt(a) * prediction + np.sqrt(1 - a) * x
    return prediction, (x - np.sqrt(a) * prediction) / np.sqrt(1 - a)


def ddpm(config, predict, x, steps, noise, spacing="linspace"):
    """Ancestral sampling (Ho et al. 2020) over some of the timesteps, betas made anew for them (Nichol and Dhariwal 2021).

    The variance lies between the posterior's and beta in the log, as far as the model says; the posterior's where it says
    nothing.
    """
    alphas = cumulative_alphas(config)
    visited = timesteps(len(alphas), steps, "ddpm", spacing)
    for k, t in enumerate(visited):
        last = k == steps - 1
        a, a_prev = alphas[t], 1.0 if last else alphas[visited[k + 1]]
        beta = 1 - a / a_prev
        prediction, fraction = predict(x, t)
        x0, _ = split(x, prediction, a, config["prediction"])
        mean = np.sqrt(a_prev) * beta / (1 - a) * x0 + np.sqrt(a / a_prev) * (1 - a_prev) / (1 - a) * x
        if last:
            return mean
        posterior = beta * (1 - a_prev) / (1 - a)
        if fraction is None:
            variance = posterior
        else:
            share = (fraction + 1) / 2
            variance = np.exp(share * np.log(beta) + (1 - share) * np.log(posterior))
        x = mean + np.sqrt(variance) * noise[k]


def ddim(config, predict, x, steps, noise=None, spacing="linspace", eta=0.0):
    """Song et al. 2020, formula 12. "trailing" steps by T // steps whether or not the next timestep lies there, as diffusers
    does."""
    alphas = cumulative_alphas(config)
    visited = timesteps(len(alphas), steps, "ddim", spacing)
    for k, t in enumerate(visited):
        if spacing == "trailing":
            before = t - len(alphas) // steps
        else:
            before = visited[k + 1] if k + 1 < steps else -1
        a, a_prev = alphas[t], alphas[before] if before >= 0 else 1.0
        x0, e = split(x, predict(x, t)[0], a, config["prediction"])
        sigma = eta * np.sqrt((1 - a_prev) / (1 - a)) * np.sqrt(1 - a / a_prev)
        x = np.sqrt(a_prev) * x0 + np.sqrt(1 - a_prev - sigma**2) * e
        if eta:
            x = x + sigma * noise[k]
    return x


def dpmsolver(config, predict, x, steps, spacing="linspace"):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), to sigma 0; first and last step are of first order."""
    alphas = cumulative_alphas(config)
    visited = timesteps(len(alphas), steps, "dpmsolver++", spacing)
    alpha, sigma = np.sqrt(alphas[visited]), np.sqrt(1 - alphas[visited])
    lam = np.log(alpha / sigma)
    x0_before = None
    for k, t in enumerate(visited):
        x0, _ = split(x, predict(x, t)[0], alpha[k] ** 2, config["prediction"])
        if k == steps - 1:
            return x0  # sigma 0: x' = 0 x + 1 x0
        h = lam[k + 1] - lam[k]
        estimate = x0
        if k:
            r = (lam[k] - lam[k - 1]) / h
            estimate = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * x0_before
        x = sigma[k + 1] / sigma[k] * x - alpha[k + 1] * np.expm1(-h) * estimate
        x0_before = x0


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpmsolver++": dpmsolver}
