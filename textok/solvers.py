"""Solvers of diffusion and flow matching: each makes a run's table of coefficients, a `Schedule`.

A new solver is a function that makes a `Schedule`, and its line in `SOLVERS`.

Sources: DDPM (arXiv 2006.11239) with the learned range of variances of Improved DDPM (2102.09672) and respacing as its authors'
code and DiT's do it; DDIM (2010.02502) and DPM-Solver++ 2M (2211.01095) as the schedulers of diffusers do them; Euler, Heun and
Euler-Maruyama as SiT (2401.08740) does over the tokens of SoftVQ-VAE (2412.10958) and MAETok (2502.03444).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import DiTConfig
from .schedules import (
    COLUMNS,
    F64,
    FROM_LAST_X0,
    FROM_MODEL,
    FROM_X,
    LEARNED_NOISE,
    LOG_VARIANCE_HIGH,
    LOG_VARIANCE_LOW,
    NOISE,
    X0_FROM_MODEL,
    X0_FROM_X,
    Schedule,
    cumulative_alphas,
    spaced_timesteps,
)


def make_schedule(config: DiTConfig, steps: int, solver: str, spacing: str = "linspace", eta: float = 0.0) -> Schedule:
    """The timesteps and coefficients of a run of `steps` steps.

    Parameters
    ----------
    config
        Its beta schedule, prediction type and `learn_sigma` are used.
    steps
        1 to `max_steps`; not checked here.
    solver
        One of `solvers_of(config)`; see `SOLVERS` for what each does.
    spacing
        See `spaced_timesteps`; for diffusion only.
    eta
        DDIM's share of noise, 0 (none) to 1 (as much as DDPM).

    Examples
    --------
    >>> make_schedule(DiTConfig(num_tokens=16), steps=4, solver="ddim").timesteps
    array([999, 666, 333,   0])
    """
    return SOLVERS[solver].schedule(config, steps, spacing, eta)


@dataclass(frozen=True)
class Solver:
    """One way from noise to a sample.

    Attributes
    ----------
    schedule
        Makes the run of (config, steps, spacing, eta).
    flow
        Whether it is for models that predict a velocity; else it is for those of diffusion.
    """

    schedule: Callable[[DiTConfig, int, str, float], Schedule]
    flow: bool = False


def solvers_of(config: DiTConfig) -> list[str]:
    """The names of the solvers that fit what a model predicts."""
    return [name for name, solver in SOLVERS.items() if solver.flow == (config.prediction == "velocity")]


def _all_steps(timesteps: NDArray[np.int64] | F64, update: F64) -> Schedule:
    """A schedule of one evaluation a step."""
    return Schedule(timesteps, update, np.ones(len(timesteps), bool), timesteps)


# --- Diffusion ----------------------------------------------------------------------------------------------------------------


def _diffusion(config: DiTConfig, timesteps: NDArray[np.int64]) -> tuple[F64, F64]:
    """The update rows with the clean estimate filled in, and the cumulative alphas of all train timesteps."""
    alphas = cumulative_alphas(config)
    update = np.zeros((len(timesteps), COLUMNS))
    update[:, X0_FROM_X : X0_FROM_MODEL + 1] = _clean_estimate(alphas[timesteps], config.prediction)
    return update, alphas


def _ddpm(config: DiTConfig, steps: int, spacing: str, eta: float) -> Schedule:
    timesteps = spaced_timesteps(config.num_train_timesteps, steps, "ddpm", spacing)
    update, alphas = _diffusion(config, timesteps)
    _fill_ddpm(update, alphas, timesteps, config.learn_sigma)
    return _all_steps(timesteps, update)


def _ddim(config: DiTConfig, steps: int, spacing: str, eta: float) -> Schedule:
    timesteps = spaced_timesteps(config.num_train_timesteps, steps, "ddim", spacing)
    update, alphas = _diffusion(config, timesteps)
    _fill_ddim(update, alphas, timesteps, spacing, eta)
    return _all_steps(timesteps, update)


def _dpmsolver(config: DiTConfig, steps: int, spacing: str, eta: float) -> Schedule:
    timesteps = spaced_timesteps(config.num_train_timesteps, steps, "dpmsolver++", spacing)
    update, alphas = _diffusion(config, timesteps)
    _fill_dpmsolver(update, alphas[timesteps])
    return _all_steps(timesteps, update)


def _clean_estimate(a: F64, prediction: str) -> F64:
    """Coefficients [S,2] of x and of the model's prediction in the estimate of the clean sample; a [S] cumulative alphas."""
    if prediction == "epsilon":
        pair = 1 / np.sqrt(a), -np.sqrt((1 - a) / a)
    elif prediction == "v":
        pair = np.sqrt(a), -np.sqrt(1 - a)
    else:
        pair = np.zeros_like(a), np.ones_like(a)
    return np.stack(pair, axis=1)


def _set_from_clean(update: F64, of_x: F64, of_clean: F64) -> None:
    """Write x' = of_x x + of_clean x0 with x0 replaced by its own formula."""
    update[:, FROM_X] = of_x + of_clean * update[:, X0_FROM_X]
    update[:, FROM_MODEL] = of_clean * update[:, X0_FROM_MODEL]


def _previous_alphas(alphas: F64, previous: NDArray[np.int64]) -> F64:
    """Cumulative alphas of the timesteps that steps lead to; 1, the clean sample, for those below 0."""
    return np.where(previous >= 0, alphas[np.maximum(previous, 0)], 1.0)


def _fill_ddpm(update: F64, alphas: F64, timesteps: NDArray[np.int64], learned: bool) -> None:
    a = alphas[timesteps]
    a_prev = _previous_alphas(alphas, np.append(timesteps[1:], -1))
    alpha = a / a_prev
    beta = 1 - alpha
    _set_from_clean(update, of_x=np.sqrt(alpha) * (1 - a_prev) / (1 - a), of_clean=np.sqrt(a_prev) * beta / (1 - a))
    # The posterior's variance is 0 at the last step, which adds no noise; every other one is positive.
    variance = (beta * (1 - a_prev) / (1 - a))[:-1]
    if learned:
        update[:-1, LEARNED_NOISE] = 1
        update[:-1, LOG_VARIANCE_LOW] = np.log(variance)
        update[:-1, LOG_VARIANCE_HIGH] = np.log(beta[:-1])
    else:
        update[:-1, NOISE] = np.sqrt(variance)


def _fill_ddim(update: F64, alphas: F64, timesteps: NDArray[np.int64], spacing: str, eta: float) -> None:
    if spacing == "trailing":
        # diffusers steps down by T // steps from every timestep, whether or not the next one lies there.
        previous = timesteps - len(alphas) // len(timesteps)
    else:
        previous = np.append(timesteps[1:], -1)
    a, a_prev = alphas[timesteps], _previous_alphas(alphas, previous)
    deviation = eta * np.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
    # The noise direction is (x - sqrt(a) x0) / sqrt(1 - a) whatever the model predicts.
    direction = np.sqrt(np.maximum(1 - a_prev - deviation**2, 0)) / np.sqrt(1 - a)
    _set_from_clean(update, of_x=direction, of_clean=np.sqrt(a_prev) - direction * np.sqrt(a))
    update[:, NOISE] = deviation


def _fill_dpmsolver(update: F64, a: F64) -> None:
    alpha, sigma = np.append(np.sqrt(a), 1.0), np.append(np.sqrt(1 - a), 0.0)
    log_snr = np.log(alpha[:-1]) - np.log(sigma[:-1])
    gains = np.diff(log_snr)  # h of every step but the last, where it is infinite: sigma is 0 after it
    of_clean = alpha[1:] * np.append(-np.expm1(-gains), 1.0)
    of_x = sigma[1:] / sigma[:-1]
    # Second order: half of h / h_before of the change since the last estimate, which the first step lacks and the last omits.
    change = np.zeros(len(a))
    change[1:-1] = 0.5 * gains[1:] / gains[:-1]
    _set_from_clean(update, of_x=of_x, of_clean=of_clean * (1 + change))
    update[:, FROM_LAST_X0] = -of_clean * change


# --- Flow matching ------------------------------------------------------------------------------------------------------------


def _euler(config: DiTConfig, steps: int, spacing: str, eta: float) -> Schedule:
    times = np.linspace(1.0, 0.0, steps + 1)
    update = np.zeros((steps, COLUMNS))
    update[:, FROM_X] = 1
    update[:, FROM_MODEL] = np.diff(times)
    return _all_steps(times[:-1], update)


def _heun(config: DiTConfig, steps: int, spacing: str, eta: float) -> Schedule:
    """Each step but the last is two evaluations: Euler's step, then half of it taken back and half a step with the new velocity
    added."""
    times = np.linspace(1.0, 0.0, steps + 1)
    gain = np.diff(times)
    count = 2 * steps - 1
    first, second = slice(0, count, 2), slice(1, count, 2)
    seen, guided = np.empty(count), np.empty(count)
    seen[first], seen[second] = times[:-1], times[1:-1]
    guided[first], guided[second] = times[:-1], times[:-2]
    update = np.zeros((count, COLUMNS))
    update[:, FROM_X] = 1
    update[first, X0_FROM_MODEL] = 1  # what the second half finds as the estimate before: the first half's velocity
    update[first, FROM_MODEL] = gain
    update[second, FROM_MODEL] = gain[:-1] / 2
    update[second, FROM_LAST_X0] = -gain[:-1] / 2
    ends = np.zeros(count, bool)
    ends[second] = ends[-1] = True
    return Schedule(seen, update, ends, guided)


LAST_SDE_TIME = 0.04  # the last step leads from here to 0 and adds no noise


def _sde(config: DiTConfig, steps: int, spacing: str, eta: float) -> Schedule:
    """Euler-Maruyama with diffusion w = 2t: the drift v - w score / 2 is x + (2 - t) v, since the score is -((1 - t) v + x) /
    t."""
    times = np.append(np.linspace(1.0, LAST_SDE_TIME, steps), 0.0)
    t, gain = times[:-1], np.diff(times)
    update = np.zeros((steps, COLUMNS))
    update[:, FROM_X] = 1 + gain
    update[:, FROM_MODEL] = gain * (2 - t)
    update[:-1, NOISE] = np.sqrt(2 * t * -gain)[:-1]
    return _all_steps(t, update)


# "ddpm": ancestral sampling over the kept timesteps with betas recomputed from their cumulative alphas; the variance is the
# model's where it learns sigma, else the posterior's. "ddim": with `eta`. "dpmsolver++": second order multistep, midpoint, to
# sigma 0, first and last step of first order. "euler", "heun": the probability flow's equation, of first and second order.
# "sde": Euler-Maruyama.
SOLVERS: dict[str, Solver] = {
    "ddpm": Solver(_ddpm),
    "ddim": Solver(_ddim),
    "dpmsolver++": Solver(_dpmsolver),
    "euler": Solver(_euler, flow=True),
    "heun": Solver(_heun, flow=True),
    "sde": Solver(_sde, flow=True),
}
