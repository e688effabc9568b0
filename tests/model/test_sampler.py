"""Whole sampling runs in C against the samplers of the specification, in float64, on the same noise.

That the specification is right is shown in test_goldens.py, by what diffusers and the original DiT answer.
"""

import numerics
import numpy as np
import pytest
from engine_models import TinyDiT, dit_config
from reference import dit_model, samplers

import textok

TEXT = {"condition": "text"}
VARIANTS = {
    "class": {},
    "text": TEXT,
    "v": {"prediction": "v"},
    "sample": {"prediction": "sample"},
    "text, v, no sigma": TEXT | {"prediction": "v", "learn_sigma": False},
    "no sigma": {"learn_sigma": False},
    "three channels guided": {"guidance_channels": 3},
    "text, one channel guided": TEXT | {"guidance_channels": 1},
    "latent images": {"input_size": 4, "patch_size": 2, "in_channels": 4},
    "latent images, three channels guided": {"input_size": 4, "patch_size": 2, "in_channels": 4, "guidance_channels": 3},
    "another schedule": {"num_train_timesteps": 300, "beta_start": 1e-3, "beta_end": 0.03},
}
# Solver and its arguments.
RUNS = {
    "ddpm": ("ddpm", {}),
    "ddpm leading": ("ddpm", {"spacing": "leading"}),
    "ddim": ("ddim", {}),
    "ddim eta": ("ddim", {"eta": 0.7}),
    "ddim leading": ("ddim", {"spacing": "leading"}),
    "ddim trailing": ("ddim", {"spacing": "trailing"}),
    "dpmsolver++": ("dpmsolver++", {}),
    "dpmsolver++ leading": ("dpmsolver++", {"spacing": "leading"}),
    "dpmsolver++ trailing": ("dpmsolver++", {"spacing": "trailing"}),
}
STEPS = 7


def noises(model, batch, steps, seed=5):
    rng = np.random.default_rng(seed)
    shape = (batch, *textok.DiTConfig.from_dict(model.config).latent_shape)
    return rng.standard_normal(shape).astype(np.float32), rng.standard_normal((steps, *shape)).astype(np.float32)


def specified(model, condition, start, noise, solver, steps, guidance=1.0, interval=(0, np.inf), **arguments):
    """The same run by the specification: one image after the other."""
    images = []
    for b in range(len(start)):
        def predict(x, t, b=b):
            scale = guidance if interval[0] <= t <= interval[1] else 1.0
            return dit_model.guided(model.config, model.weights, x, t, model.condition_of(condition, b), scale)

        noise_of_image = () if solver == "dpmsolver++" else (noise[:, b].astype(np.float64),)
        images.append(
            samplers.SAMPLERS[solver](model.config, predict, start[b].astype(np.float64), steps, *noise_of_image, **arguments)
        )
    return np.stack(images)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_run(variant, run):
    """Every solver on every kind of model, guided; labels and lengths differ in the batch."""
    solver, arguments = RUNS[run]
    model = TinyDiT(dit_config(**VARIANTS[variant]))
    _, _, condition = model.inputs(batch=2)
    start, noise = noises(model, 2, STEPS)
    dit = textok.DiT(model.config, model.weights)
    result = dit.sample(**condition, steps=STEPS, solver=solver, guidance_scale=2.5, noise=start, step_noise=noise, **arguments)
    expected = specified(model, condition, start, noise, solver, STEPS, 2.5, **arguments)
    numerics.check(result, expected, numerics.SAMPLING, f"{variant}, {run}")


@pytest.mark.parametrize("solver", ("ddpm", "ddim", "dpmsolver++"))
@pytest.mark.parametrize("steps", (1, 2, 3, 64, 65))
def test_step_counts(solver, steps):
    """The first and last steps are special, and modulations are made for 64 steps of a guided sample at a time."""
    model = TinyDiT(dit_config(depth=1, num_tokens=2))
    condition = {"labels": np.array([4], np.int32)}
    start, noise = noises(model, 1, steps)
    dit = textok.DiT(model.config, model.weights)
    result = dit.sample(**condition, steps=steps, solver=solver, guidance_scale=1.5, noise=start, step_noise=noise)
    numerics.check(result, specified(model, condition, start, noise, solver, steps, 1.5), numerics.SAMPLING)


@pytest.mark.parametrize("interval", ((0, 999), (300, 700), (0, 0), (999, 999), (400, 400.5)))
def test_guidance_interval(interval):
    model = TinyDiT(dit_config(condition="text"))
    _, _, condition = model.inputs(batch=2)
    start, noise = noises(model, 2, STEPS)
    dit = textok.DiT(model.config, model.weights)
    result = dit.sample(**condition, steps=STEPS, solver="ddim", guidance_scale=3, guidance_interval=interval, noise=start)
    numerics.check(result, specified(model, condition, start, noise, "ddim", STEPS, 3, interval), numerics.SAMPLING)


def test_every_state_of_a_run():
    """What a callback sees after step k is the state after k + 1 steps, and it sees every step once."""
    model = TinyDiT(dit_config())
    _, _, condition = model.inputs(batch=2)
    start, noise = noises(model, 2, STEPS)
    seen = []
    dit = textok.DiT(model.config, model.weights)
    dit.sample(**condition, steps=STEPS, solver="ddpm", guidance_scale=2, noise=start, step_noise=noise,
               callback=lambda step, steps, x: seen.append((step, steps, x.copy())))
    assert [(step, steps) for step, steps, _ in seen] == [(k, STEPS) for k in range(STEPS)]
    states = []
    for b in range(2):
        path = []

        def predict(x, t, b=b, path=path):
            path.append(x)
            return dit_model.guided(model.config, model.weights, x, t, model.condition_of(condition, b), 2)

        path.append(samplers.ddpm(model.config, predict, start[b].astype(np.float64), STEPS, noise[:, b].astype(np.float64)))
        states.append(path)
    for k, (_, _, x) in enumerate(seen):
        numerics.check(x, np.stack([path[k + 1] for path in states]), numerics.SAMPLING, f"after step {k}")


def test_result_is_in_the_tokenizers_space():
    """z = x std + mean, channel by channel, and nothing else of a run changes."""
    mean, std = [0.5, -1.0, 0.0, 2.0, 3.0], [1.0, 0.5, 2.0, 0.1, 4.0]
    plain = TinyDiT(dit_config())
    scaled = plain.config | {"latent_mean": mean, "latent_std": std}
    _, _, condition = plain.inputs(batch=2)
    start, _ = noises(plain, 2, 1)
    x, z = (textok.DiT(config, plain.weights).sample(**condition, steps=3, noise=start) for config in (plain.config, scaled))
    assert np.array_equal(z, x * np.float32(std) + np.float32(mean))


def test_latent_images_are_scaled_by_channel():
    mean, std = [0.5, -1.0, 2.0], [1.0, 0.5, 4.0]
    plain = TinyDiT(dit_config(input_size=4, patch_size=2, in_channels=3))
    _, _, condition = plain.inputs(batch=2)
    start, _ = noises(plain, 2, 1)
    x, z = (textok.DiT(plain.config | changes, plain.weights).sample(**condition, steps=3, noise=start)
            for changes in ({}, {"latent_mean": mean, "latent_std": std}))
    assert np.array_equal(z, x * np.float32(std).reshape(3, 1, 1) + np.float32(mean).reshape(3, 1, 1))


def guided_with(model, condition, start, noise, change):
    """A planted error: the specification with one thing changed."""
    arguments = {"guidance": 2.5, "eta": 0.7} | {
        key: value for key, value in change.items() if key in ("guidance", "eta", "spacing")
    }
    changed = TinyDiT(model.config | {key: value for key, value in change.items() if key in model.config})
    changed.weights = model.weights
    return specified(changed, condition, start, noise, "ddim", STEPS, **arguments)


@pytest.mark.parametrize(
    "change",
    (
        {"guidance": 2.501},
        {"eta": 0.701},
        {"beta_end": 0.02001},
        {"prediction": "v"},
        {"spacing": "leading"},
        {"guidance_channels": 4},
    ),
    ids=str,
)
def test_planted_errors_are_rejected(change):
    model = TinyDiT(dit_config())
    _, _, condition = model.inputs(batch=1)
    start, noise = noises(model, 1, STEPS)
    dit = textok.DiT(model.config, model.weights)
    result = dit.sample(**condition, steps=STEPS, solver="ddim", eta=0.7, guidance_scale=2.5, noise=start, step_noise=noise)
    numerics.check(result, guided_with(model, condition, start, noise, {}), numerics.SAMPLING)
    assert numerics.rejects(result, guided_with(model, condition, start, noise, change), numerics.SAMPLING)


def test_planted_variances_are_rejected():
    """DDPM's learned range the wrong way round."""
    model = TinyDiT(dit_config())
    _, _, condition = model.inputs(batch=1)
    start, noise = noises(model, 1, STEPS)
    result = textok.DiT(model.config, model.weights).sample(
        **condition, steps=STEPS, solver="ddpm", noise=start, step_noise=noise
    )

    def predict(x, t):
        prediction, fraction = dit_model.guided(model.config, model.weights, x, t, model.condition_of(condition, 0), 1)
        return prediction, -fraction

    planted = samplers.ddpm(model.config, predict, start[0].astype(np.float64), STEPS, noise[:, 0].astype(np.float64))
    assert numerics.rejects(result[0], planted, numerics.SAMPLING)
