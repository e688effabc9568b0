"""DiT and SiT over the tokens of other tokenizers, as their own code runs them: the cosine schedule, velocities and their
solvers."""

import dataclasses
from pathlib import Path

import numerics
import numpy as np
import pytest

import textok
from textok import importers
from textok.sampling import Sampling, defaults_of
from textok.solvers import make_schedule, solvers_of

FOREIGN = Path(__file__).parent.parent / "golden" / "foreign"
NAMES = ("dit_1d", "sit")
RUNS = {
    "euler6": {"solver": "euler"},
    "euler6_cfg": {"solver": "euler", "guidance_scale": 2.5},
    "euler6_cfg_interval": {"solver": "euler", "guidance_scale": 2.5, "guidance_interval": (0.2, 0.7)},
    "heun6_cfg": {"solver": "heun", "guidance_scale": 2.5},
    "heun6_cfg_interval": {"solver": "heun", "guidance_scale": 2.5, "guidance_interval": (0.2, 0.7)},
    "sde6": {"solver": "sde"},
    "sde6_cfg": {"solver": "sde", "guidance_scale": 2.5},
}


def load(name):
    """The model, and what the original's code answered."""
    return importers.load(FOREIGN / name), np.load(FOREIGN / name / "io.npz")


@pytest.mark.parametrize("name", NAMES)
def test_one_evaluation(name):
    model, stored = load(name)
    out = model.denoise(stored["x"], stored["t"], labels=stored["y"])
    numerics.check(out, stored["out"], numerics.END_TO_END, name)
    shifted = model.denoise(stored["x"], stored["t"] * np.float32(0.99), labels=stored["y"])
    assert numerics.rejects(shifted, stored["out"], numerics.END_TO_END)


def test_ddpm_with_the_cosine_schedule():
    model, stored = load("dit_1d")
    run = {"steps": 8, "solver": "ddpm", "guidance_scale": 2.5, "noise": stored["z"], "step_noise": stored["step_noise"]}
    numerics.check(model.sample(stored["labels"], **run), stored["ddpm8_cfg"], numerics.SAMPLING, "ddpm")
    linear = textok.DiT(dataclasses.replace(model.config, beta_schedule="linear"), model.weights())
    assert numerics.rejects(linear.sample(stored["labels"], **run), stored["ddpm8_cfg"], numerics.SAMPLING)


@pytest.mark.parametrize("name", RUNS)
def test_velocity_solvers(name):
    model, stored = load("sit")
    run = {"steps": 6, "noise": stored["z"]} | ({"step_noise": stored["noise"]} if name.startswith("sde") else {})
    result = model.sample(stored["labels"], **run, **RUNS[name])
    numerics.check(result, stored[name], numerics.SAMPLING, name)
    others = [other for other in RUNS if other != name]
    assert all(numerics.rejects(stored[other], stored[name], numerics.SAMPLING) for other in others)


def test_heun_is_guided_by_its_steps_times():
    """Of an interval that ends between a step's two evaluations, both are in or both are out."""
    config = load("sit")[0].config
    schedule = make_schedule(config, 4, "heun")
    assert schedule.timesteps.tolist() == [1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]
    settings = Sampling(guidance_scale=3.0, guidance_interval=(0.6, 1.0)).resolved(config)
    assert settings.guidance(config, schedule).tolist() == [3, 3, 3, 3, 1, 1, 1]


@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2)])
def test_order_of_convergence(solver, order):
    """The error on dx/dt = -x falls with the first or the second power of the step; the model's part is played in NumPy."""
    config = textok.DiTConfig(num_tokens=4, prediction="velocity", learn_sigma=False)

    def error(steps):
        x, last = 1.0, 0.0
        for row in make_schedule(config, steps, solver).update:
            velocity = -x
            estimate = row[0] * x + row[1] * velocity
            x, last = row[2] * x + row[3] * velocity + row[4] * last, estimate
        return abs(x - np.e)

    assert error(40) / error(80) == pytest.approx(2**order, rel=0.1)


def test_callback_sees_steps():
    model, _ = load("sit")
    seen = []
    model.sample(
        [1, 2], steps=3, solver="heun", seed=0, batch_size=1, callback=lambda step, steps, x: seen.append((step, steps))
    )
    assert seen == [(0, 3), (1, 3), (2, 3)] * 2


def test_defaults_and_what_does_not_fit():
    flow, diffusion = load("sit")[0], load("dit_1d")[0]
    assert solvers_of(flow.config) == ["euler", "heun", "sde"] and solvers_of(diffusion.config) == [
        "ddpm",
        "ddim",
        "dpmsolver++",
    ]
    usual = defaults_of(flow.config)
    same = flow.sample([3], steps=usual.steps, solver=usual.solver, guidance_scale=usual.guidance_scale, seed=0)
    np.testing.assert_array_equal(flow.sample([3], seed=0), same)
    with pytest.raises(ValueError, match="solver: expected one of 'euler', 'heun', 'sde', got 'ddim'"):
        flow.sample([3], solver="ddim")
    with pytest.raises(ValueError, match="solver: expected one of 'ddpm', 'ddim', 'dpmsolver\\+\\+', got 'sde'"):
        diffusion.sample([3], solver="sde")
    with pytest.raises(ValueError, match="spacing: expected 'linspace'"):
        flow.sample([3], spacing="trailing")
    with pytest.raises(ValueError, match="guidance_interval: expected 0 to 1, got 500"):
        flow.sample([3], guidance_interval=(0, 500))
    with pytest.raises(ValueError, match="t: expected train timesteps from 0 to 1"):
        flow.denoise(np.zeros((1, 8, 16), np.float32), [2.0], labels=[1])


def test_time_scale():
    """A model told of times from 0 to 1000 is the one told of 0 to 1 whose times are scaled."""
    model, stored = load("sit")
    scaled = textok.DiT(dataclasses.replace(model.config, time_scale=0.5), model.weights())
    np.testing.assert_array_equal(
        scaled.denoise(stored["x"], stored["t"], labels=stored["y"]),
        model.denoise(stored["x"], stored["t"] / 2, labels=stored["y"]),
    )
