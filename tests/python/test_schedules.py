"""Coefficients of the solvers, run in NumPy on a toy model: against the papers' formulas and diffusers, stored and live."""

from pathlib import Path

import numerics
import numpy as np
import pytest
import schedule_runs
from reference import samplers

from textok.schedules import SPACINGS, cumulative_alphas, max_steps, spaced_timesteps
from textok.solvers import make_schedule, solvers_of

DIFFUSION = solvers_of(schedule_runs.config())
STORED = np.load(Path(__file__).parent.parent / "golden" / "schedules_diffusers.npz")


def ours(solver, spacing, prediction, steps, eta=0.0, **changes):
    schedule = make_schedule(schedule_runs.config(prediction, **changes), steps, solver, spacing, eta)
    return schedule, schedule_runs.execute(schedule, *schedule_runs.noises(steps))


@pytest.mark.parametrize("name", STORED.files)
def test_diffusers_stored(name):
    solver, spacing, prediction, steps, eta = name.split()
    _, result = ours(solver, spacing, prediction, int(steps), float(eta))
    numerics.check(result, STORED[name], numerics.SCHEDULE_DIFFUSERS, name)


def test_diffusers_live():
    """Other step counts, among them those that do not divide T, and the timesteps themselves."""
    pytest.importorskip("diffusers")
    for run in schedule_runs.diffusers_runs((3, 7, 77, 250)):
        schedule, result = ours(*run)
        timesteps, expected = schedule_runs.run_diffusers(*run)
        np.testing.assert_array_equal(schedule.timesteps, timesteps, err_msg=str(run))
        numerics.check(result, expected, numerics.SCHEDULE_DIFFUSERS, str(run))


@pytest.mark.parametrize("learned", (False, True))
@pytest.mark.parametrize("prediction", schedule_runs.PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("solver", DIFFUSION)
def test_formulas(solver, spacing, prediction, learned):
    """Against the samplers of the specification, which take one step at a time as the papers write it: both in float64."""
    for steps in (1, 2, 5, 50):
        config = schedule_runs.config(prediction, learn_sigma=learned)
        start, noise = schedule_runs.noises(steps)

        def predict(x, t):
            return schedule_runs.predict(x, t), schedule_runs.variance_fraction(x, t) if learned else None

        arguments = {"spacing": spacing} | ({"eta": 0.8} if solver == "ddim" else {})
        given = () if solver == "dpmsolver++" else (noise,)
        expected = samplers.SAMPLERS[solver](config.to_dict(), predict, start, steps, *given, **arguments)
        _, result = ours(solver, spacing, prediction, steps, arguments.get("eta", 0.0), learn_sigma=learned)
        numerics.check(result, expected, numerics.SCHEDULE, f"{solver} {spacing} {prediction} {steps}")


def test_planted_error_is_seen():
    """A last step that is not of first order, or an alpha off by one timestep, is far outside the tolerances."""
    expected = STORED["dpmsolver++ linspace epsilon 8 0.0"]
    schedule, _ = ours("dpmsolver++", "linspace", "epsilon", 8)
    schedule.update[-1, 4] = -0.1
    assert numerics.rejects(schedule_runs.execute(schedule, *schedule_runs.noises(8)), expected, numerics.SCHEDULE_DIFFUSERS)
    late = make_schedule(schedule_runs.config(beta_end=0.0201), 8, "dpmsolver++")
    assert numerics.rejects(schedule_runs.execute(late, *schedule_runs.noises(8)), expected, numerics.SCHEDULE_DIFFUSERS)


def test_timesteps_as_documented():
    assert spaced_timesteps(1000, 4, "ddpm", "linspace").tolist() == [999, 666, 333, 0]
    assert spaced_timesteps(1000, 1, "ddpm", "linspace").tolist() == [999]
    assert spaced_timesteps(1000, 4, "ddim", "leading").tolist() == [750, 500, 250, 0]
    assert spaced_timesteps(1000, 4, "ddim", "trailing").tolist() == [999, 749, 499, 249]
    assert spaced_timesteps(1000, 4, "dpmsolver++", "linspace").tolist() == [999, 749, 500, 250]
    # The 250 steps of the original DiT: every kept timestep is round(i * 999 / 249).
    assert spaced_timesteps(1000, 250, "ddpm", "linspace").tolist() == [round(i * 999 / 249) for i in reversed(range(250))]


@pytest.mark.parametrize("solver", DIFFUSION)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("total", (1, 2, 3, 10, 1000))
def test_every_step_count(solver, spacing, total):
    """Up to `max_steps` timesteps are distinct, in range and falling, and all coefficients finite."""
    config = schedule_runs.config(num_train_timesteps=total)
    counts = range(1, max_steps(config, solver, spacing) + 1)
    for steps in counts if total < 1000 else [*list(counts)[::37], counts[-1]]:
        schedule = make_schedule(config, steps, solver, spacing, 0.5 if solver == "ddim" else 0.0)
        assert len(schedule.timesteps) == steps and schedule.timesteps[0] < total and schedule.timesteps[-1] >= 0
        assert (np.diff(schedule.timesteps) < 0).all()
        assert np.isfinite(schedule.update).all()


def test_respacing_keeps_the_cumulative_alphas():
    """The recomputed betas of a respaced DDPM: their product is the kept alpha, so a clean prediction stays put."""
    config = schedule_runs.config("sample")
    schedule = make_schedule(config, 20, "ddpm")
    alphas = cumulative_alphas(config)[schedule.timesteps]
    signal = np.sqrt(alphas)
    for row, now, after in zip(schedule.update, signal, [*signal[1:], 1.0], strict=True):
        assert row[2] * now + row[3] == pytest.approx(after, rel=1e-12)


def test_noise_is_needed_where_it_is_added():
    needs = {
        (solver, steps, eta): make_schedule(schedule_runs.config(learn_sigma=learned), steps, solver, eta=eta).needs_noise
        for solver, steps, eta, learned in (
            ("ddpm", 5, 0.0, True),
            ("ddpm", 4, 0.0, False),
            ("ddpm", 1, 0.0, True),
            ("ddim", 5, 0.0, True),
            ("ddim", 5, 0.3, True),
            ("dpmsolver++", 5, 0.0, True),
        )
    }
    assert needs == {
        ("ddpm", 5, 0.0): True,
        ("ddpm", 4, 0.0): True,
        ("ddpm", 1, 0.0): False,
        ("ddim", 5, 0.0): False,
        ("ddim", 5, 0.3): True,
        ("dpmsolver++", 5, 0.0): False,
    }


def test_eta_one_is_ddpm():
    """DDIM with eta 1 is DDPM with the posterior's variance: same timesteps, same noise, same result."""
    _, ddim = ours("ddim", "linspace", "epsilon", 25, 1.0)
    _, ddpm = ours("ddpm", "linspace", "epsilon", 25)
    numerics.check(ddim, ddpm, numerics.SCHEDULE)
    _, less = ours("ddim", "linspace", "epsilon", 25, 1 - 1e-9)
    assert numerics.rejects(less, ddpm, numerics.SCHEDULE)  # planted
