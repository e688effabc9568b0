"""A model small enough for a formula, and the runs that textok's schedules are compared with diffusers' over it."""

import itertools
from unittest import mock

import numpy as np

from textok.config import DiTConfig
from textok.schedules import COLUMNS, SPACINGS, max_steps

SHAPE = (2, 3, 4)
PREDICTIONS = ("epsilon", "v", "sample")


def predict(x, t):
    """A smooth, nonlinear prediction for state x and train timestep t."""
    return np.tanh(x * (0.5 + t / 1000)) * 0.8 + 0.1 * np.cos(3 * x)


def variance_fraction(x, t):
    """What a model that learns sigma says of the variance, in [-1, 1]."""
    return np.sin(2 * x + t / 1000)


def noises(steps, seed=0):
    """Start noise and the noise of each step."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(SHAPE), rng.standard_normal((steps, *SHAPE))


def execute(schedule, x, step_noise):
    """What `_core.Model.sample` does with a schedule, in float64."""
    x, last = x.copy(), np.zeros_like(x)
    for t, u, noise in zip(schedule.timesteps, schedule.update, step_noise, strict=True):
        assert len(u) == COLUMNS
        m, w = predict(x, t), (variance_fraction(x, t) + 1) / 2
        x0 = u[0] * x + u[1] * m
        x = u[2] * x + u[3] * m + u[4] * last + u[5] * noise + u[6] * np.exp(0.5 * (w * u[8] + (1 - w) * u[7])) * noise
        last = x0
    return x


def config(prediction="epsilon", **changes):
    return DiTConfig(num_tokens=SHAPE[1], in_channels=SHAPE[2], prediction=prediction, **({"learn_sigma": False} | changes))


def diffusers_runs(step_counts):
    """(solver, spacing, prediction, steps, eta) of the runs in which textok and diffusers mean the same.

    They do not for DDIM with "linspace": textok goes from each timestep to the next, as the original DiT does, while diffusers
    subtracts T // steps, which is elsewhere. One step of DDPM with "linspace" is at T-1 here and at 0 there.
    """
    for solver, spacing, prediction, steps in itertools.product(
        ("ddim", "ddpm", "dpmsolver++"), SPACINGS, PREDICTIONS, step_counts
    ):
        if steps > max_steps(config(), solver, spacing) or (
            spacing == "linspace" and (solver == "ddim" or (solver == "ddpm" and steps == 1))
        ):
            continue
        for eta in (0.0, 0.6) if solver == "ddim" else (0.0,):
            yield solver, spacing, prediction, steps, eta


def run_diffusers(solver, spacing, prediction, steps, eta):
    """The timesteps and the final latents of diffusers' scheduler; needs torch and diffusers."""
    import torch
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    arguments = {"timestep_spacing": spacing, "prediction_type": "v_prediction" if prediction == "v" else prediction}
    if solver == "dpmsolver++":
        scheduler = DPMSolverMultistepScheduler(**arguments)
    else:
        scheduler = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}[solver](clip_sample=False, **arguments)
    scheduler.set_timesteps(steps)
    start, step_noise = noises(steps)
    x = torch.from_numpy(start)
    for t, noise in zip(scheduler.timesteps.tolist(), step_noise, strict=True):
        output = torch.from_numpy(predict(x.numpy(), t))
        if solver == "ddim":
            x = scheduler.step(output, t, x, eta=eta, variance_noise=torch.from_numpy(noise) if eta else None).prev_sample
        elif solver == "ddpm":
            # It draws its own noise, and takes none as an argument.
            with mock.patch(
                "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, noise=noise, **__: torch.from_numpy(noise)
            ):
                x = scheduler.step(output, t, x).prev_sample
        else:
            x = scheduler.step(output, t, x).prev_sample
    return scheduler.timesteps.numpy(), x.numpy()
