"""How a sample is made, and how a call runs: what `DiT.sample`, `Pipeline` and `textok.data.sample` take as keywords and hand
on.

`Sampling` holds what a result depends on beside its condition, `RunOptions` what it never depends on. Where a caller leaves
`steps`, `solver` or `guidance_scale` open, a pipeline's own defaults count (the "sampling" of its `model_index.json`), and
after them the table here, by what the model predicts.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from . import arrays
from .config import DiTConfig
from .noise import MAX_INDEX, resolve_seed
from .schedules import SPACINGS, Schedule, max_steps
from .solvers import make_schedule, solvers_of

F32 = NDArray[np.float32]
Callback = Callable[[int, int, F32], object]

MAX_GUIDANCE = 1000.0
KEPT = ("steps", "solver", "guidance_scale", "guidance_interval")  # what a pipeline's model_index.json may say


@dataclass(frozen=True)
class Sampling:
    """What a sample depends on beside its condition; each field as the keyword of `DiT.sample` of its name.

    None for `steps`, `solver` and `guidance_scale` takes the default: `over` fills them.
    """

    steps: int | None = None
    solver: str | None = None
    spacing: str = "linspace"
    eta: float = 0.0
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    noise: Any = None
    step_noise: Any = None
    seed: int | None = None
    first_index: int = 0

    def over(self, defaults: "Sampling") -> Self:
        """These settings, with what is open taken from `defaults`: a number of steps only where the solver is its own or the
        default's."""
        taken = {
            name: getattr(defaults, name)
            for name in ("solver", "guidance_scale", "guidance_interval")
            if getattr(self, name) is None
        }
        if self.steps is None and self.solver in (None, defaults.solver):
            taken["steps"] = defaults.steps
        return dataclasses.replace(self, **taken)

    def kept(self) -> dict[str, Any]:
        """The settings that a pipeline's index holds, those that are set."""
        return {name: _plain(value) for name in KEPT if (value := getattr(self, name)) is not None}

    def told(self) -> str:
        """The settings that are set, in words."""
        return ", ".join(f"{name} {value}" for name, value in self.kept().items()) or "the defaults"

    def resolved(self, config: DiTConfig) -> Self:
        """These settings with nothing left open that `defaults_of` knows, and a seed."""
        default = defaults_of(config)
        settings = self.over(default)
        steps = default.steps if settings.steps is None else settings.steps
        return dataclasses.replace(settings, steps=steps, seed=resolve_seed(settings.seed))

    def schedule(self, config: DiTConfig) -> Schedule:
        """The timesteps and coefficients of a run; for settings that are `resolved`."""
        solver = arrays.choice(self.solver, "solver", solvers_of(config))
        spacing = arrays.choice(self.spacing, "spacing", SPACINGS)
        if spacing != "linspace" and config.prediction == "velocity":
            raise ValueError(f"spacing: expected 'linspace' for a model that predicts 'velocity', got {spacing!r}")
        steps = arrays.whole(self.steps, "steps", 1, max_steps(config, solver, spacing))
        eta = arrays.number(self.eta, "eta", 0, 1)
        if eta and solver != "ddim":
            raise ValueError(f"eta: expected 0 with solver {solver!r}, only 'ddim' has an eta; got {eta}")
        return make_schedule(config, steps, solver, spacing, eta)

    def guidance(self, config: DiTConfig, schedule: Schedule) -> F32:
        """The guidance scale of each evaluation, float32 [E]; for settings that are `resolved`."""
        scale = arrays.number(self.guidance_scale, "guidance_scale", -MAX_GUIDANCE, MAX_GUIDANCE)
        scales = np.full(len(schedule.timesteps), scale, np.float32)
        if self.guidance_interval is not None:
            low, high = self._interval(config.last_time)
            scales[(schedule.guidance_times < low) | (schedule.guidance_times > high)] = 1
        if not config.null_class and (scales != 1).any():
            raise ValueError(
                "guidance_scale: expected 1: this model was trained without class dropout and has no null class (null_class is "
                f"false in its config) to be guided by, got {scale:g}"
            )
        return scales

    def _interval(self, last: float) -> tuple[float, float]:
        interval = self.guidance_interval
        if not isinstance(interval, tuple | list | np.ndarray) or np.shape(interval) != (2,):
            raise ValueError(f"guidance_interval: expected a pair (low, high) of train timesteps, got {interval!r}")
        low, high = (arrays.number(bound, "guidance_interval", 0, last) for bound in interval)
        if low > high:
            raise ValueError(f"guidance_interval: expected (low, high) with low <= high, got {interval!r}")
        return low, high

    def checked_first_index(self) -> int:
        """`first_index`, a whole number."""
        return arrays.whole(self.first_index, "first_index", 0, MAX_INDEX)


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    return np.asarray(value).tolist()


# What is sampled with where nobody says otherwise, by what a model predicts.
#   noise, v, clean samples: as few steps of dpmsolver++ as give samples as near the data as 250 of DDPM on the two DiTs bundled
#     then (measured on the emoji: see docs/numbers.md);
#   velocity: what the sampler of the published SiT over tokens does, 50 steps of Euler-Maruyama.
_OF_DIFFUSION = Sampling(steps=20, solver="dpmsolver++", guidance_scale=1.0)
DEFAULTS: dict[str, Sampling] = {
    "epsilon": _OF_DIFFUSION,
    "v": _OF_DIFFUSION,
    "sample": _OF_DIFFUSION,
    "velocity": Sampling(steps=50, solver="sde", guidance_scale=1.0),
}


def defaults_of(config: DiTConfig) -> Sampling:
    """The steps, solver and guidance scale that a model is sampled with where nobody says otherwise."""
    return DEFAULTS[config.prediction]


@dataclass(frozen=True)
class RunOptions:
    """How a call runs; a result never depends on it. Each field as the keyword of `DiT.sample` of its name."""

    batch_size: int | None = None
    threads: int | None = None
    progress: bool = False
    callback: Callback | None = None
    out: F32 | None = None

    def checked_callback(self) -> Callback | None:
        """`callback`, which can be called if there is one."""
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"callback: expected a function (step, steps, x), got {type(self.callback).__name__}")
        return self.callback
