"""What a sampling run is: noise levels of training, the timesteps that a run visits, a row of coefficients an evaluation.

The forward process of diffusion is x_t = sqrt(a_t) z + sqrt(1 - a_t) noise with a_t the cumulative product of 1 - beta; that of
flow matching (prediction "velocity") is x_t = (1 - t) z + t noise with t from 0 to 1, and the model predicts noise - z. A
solver (`solvers`) is a linear recipe for the next state from the state, the model's prediction, an estimate made at the
evaluation before, and noise, so a whole run is two arrays: the timesteps, and the coefficients that `_core.Model.sample`
applies. All of it is float64.

Respacing is as the authors of Improved DDPM (arXiv 2102.09672), DiT's code and the schedulers of diffusers do it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import MAX_TIMESTEPS, DiTConfig

SPACINGS = ("linspace", "leading", "trailing")

# Columns of an update row; the formulas are in _core.pyi.
X0_FROM_X, X0_FROM_MODEL, FROM_X, FROM_MODEL, FROM_LAST_X0, NOISE, LEARNED_NOISE, LOG_VARIANCE_LOW, LOG_VARIANCE_HIGH = range(9)
COLUMNS = 10

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """A whole sampling run.

    Attributes
    ----------
    timesteps
        [E], the train timestep that the model sees at each evaluation, falling: int64, or float64 in [0, 1] for a velocity.
    update
        float64 [E,10], the coefficients of each evaluation as `_core.Model.sample` takes them.
    ends
        bool [E], whether an evaluation ends a step: all but Heun's first halves do, so E is the number of steps with other
        solvers.
    guidance_times
        [E], the timesteps that a guidance interval looks at: those of the steps.
    """

    timesteps: NDArray[np.int64] | F64
    update: F64
    ends: NDArray[np.bool_]
    guidance_times: NDArray[np.int64] | F64

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return int(self.ends.sum())

    @property
    def needs_noise(self) -> bool:
        """Whether any step adds noise."""
        return bool(self.update[:, [NOISE, LEARNED_NOISE]].any())


def cumulative_alphas(config: DiTConfig) -> F64:
    """float64 [T], the cumulative product of 1 - beta of the training schedule.

    "linear": betas from beta_start to beta_end. "cosine": those of alpha_bar(t) = cos^2((t + 0.008) / 1.008 pi / 2) for t in
    [0, 1], each at most 0.999 (Improved DDPM, arXiv 2102.09672, section 3.2).
    """
    count = config.num_train_timesteps
    if config.beta_schedule == "cosine":
        alpha_bar = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    else:
        betas = np.linspace(config.beta_start, config.beta_end, count, dtype=np.float64)
    return np.cumprod(1.0 - betas, dtype=np.float64)


def max_steps(config: DiTConfig, solver: str, spacing: str) -> int:
    """The most steps of a run. Diffusion's timesteps must be distinct, and DPM-Solver++ leaves out timestep 0 except with
    "trailing"."""
    if config.prediction == "velocity":
        return MAX_TIMESTEPS
    leaves_out_zero = config.num_train_timesteps > 1 and solver == "dpmsolver++" and spacing != "trailing"
    return config.num_train_timesteps - (1 if leaves_out_zero else 0)


def spaced_timesteps(num_train: int, steps: int, solver: str, spacing: str) -> NDArray[np.int64]:
    """The train timesteps that a run visits, falling, int64 [steps].

    "linspace" is round(linspace(0, T-1, steps)), and T-1 alone for one step; "leading" and "trailing" count up from 0 and down
    from T-1 in strides of T/steps, as DDIMScheduler of diffusers does. For "dpmsolver++" they are
    DPMSolverMultistepScheduler's: linspace and leading lay steps + 1 points and drop the last, timestep 0.
    """
    points = steps + 1 if solver == "dpmsolver++" else steps
    if spacing == "linspace":
        rising = np.round(np.linspace(0, num_train - 1, points)) if points > 1 else np.array([num_train - 1.0])
    elif spacing == "leading":
        rising = np.arange(points) * (num_train // points)
    else:
        return np.round(np.arange(num_train, 0, -num_train / steps))[:steps].astype(np.int64) - 1
    return rising[::-1][:steps].astype(np.int64)
