"""The engine against stored answers of PyTorch and diffusers: needs neither. Those of other projects' checkpoints are in
test_convert.py.

`golden/make_goldens.py` made textok.npz, dit.npz and samplers.npz, in float64; `golden/recipe.py` makes weights and inputs
again.
"""

from pathlib import Path

import numerics
import numpy as np
import pytest
from engine_models import TinyDiT, TinyTexTok, gathered
from golden import recipe
from reference import samplers

import textok
from textok import _core

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module")
def stored():
    return {name: dict(np.load(GOLDEN / f"{name}.npz")) for name in ("textok", "dit", "samplers")}


def weights_of(config, case):
    return recipe.make_weights(dict(_core.weight_table(config["model_type"], config)), case)


def check_against(answers, case, results, tolerances):
    """Every stored array of a case has its result, and they agree."""
    expected = {key.removeprefix(f"{case}/"): value for key, value in answers.items() if key.startswith(f"{case}/")}
    expected = {key: value for key, value in expected.items() if not key.startswith("float32_error/")}
    assert set(results) == set(expected)
    for key, value in expected.items():
        numerics.check(results[key], value, tolerances.get(key, numerics.BLOCK), f"{case}: {key}")


def as_int32(arguments):
    return {key: value.astype(np.int32) if value.dtype.kind == "i" else value for key, value in arguments.items()}


@pytest.mark.parametrize("case", recipe.TEXTOK_CASES)
def test_textok(stored, case):
    """PyTorch's latents, image and all intermediates of both sides."""
    config = textok.TexTokConfig.from_dict(recipe.textok_config(case)).to_dict()
    model = TinyTexTok(config)
    model.weights = weights_of(config, case)
    images, latents, captions = recipe.textok_inputs(case)
    captions = as_int32(captions)
    if "text" in captions and "text_lengths" not in captions:
        captions["text_lengths"] = np.full(len(images), captions["text"].shape[1], np.int32)
    trace = {}
    results = {"latents": model.encode(images, captions, trace=trace), "image": model.decode(latents, captions, trace=trace)}
    check_against(stored["textok"], case, results | gathered(trace), dict.fromkeys(results, numerics.END_TO_END))


@pytest.mark.parametrize("case", recipe.DIT_CASES)
def test_dit(stored, case):
    """PyTorch's output and all intermediates; the last sample has the null condition."""
    config = textok.DiTConfig.from_dict(recipe.dit_config(case)).to_dict()
    model = TinyDiT(config)
    model.weights = weights_of(config, case)
    x, t, condition = recipe.dit_inputs(case)
    t, first = t.astype(np.float32), {key: value[:-1] for key, value in as_int32(condition).items()}
    trace, trace_of_last = {}, {}
    output = np.concatenate(
        [model.denoise(x[:-1], t[:-1], first, trace=trace), model.denoise(x[-1:], t[-1:], None, trace=trace_of_last)]
    )
    results = {key: np.concatenate([*value, *trace_of_last[key]]) for key, value in trace.items()}
    check_against(stored["dit"], case, results | {"output": output}, {"output": numerics.END_TO_END})


def of_model(toy):
    return [name for name in recipe.SAMPLER_CASES if (recipe.sampler_case(name)["model"] == "toy") == toy]


@pytest.mark.parametrize("name", of_model(toy=False))
def test_sampling(stored, name):
    """diffusers' schedulers on a DiT."""
    case = recipe.sampler_case(name)
    config = recipe.dit_config(case["model"]) | {"guidance_channels": case["guidance_channels"]}
    noise, step_noise, condition = recipe.sampler_inputs(name)
    dit = textok.DiT(config, weights_of(textok.DiTConfig.from_dict(config).to_dict(), case["model"]))
    result = dit.sample(
        **condition, noise=noise, step_noise=step_noise,
        **{key: case[key] for key in ("steps", "solver", "spacing", "eta", "guidance_scale", "guidance_interval")})
    numerics.check(result, stored["samplers"][f"{name}/latents"], numerics.SAMPLING)


@pytest.mark.parametrize("name", of_model(toy=True))
def test_specified_sampling(stored, name):
    """diffusers' schedulers on a formula: here the specification is what is tested, test_sampler.py holds the engine to it."""
    case = recipe.sampler_case(name)
    noise, step_noise, condition = recipe.sampler_inputs(name)
    channels = noise.shape[-1]
    low, high = case["guidance_interval"] or (0, 1000)

    def predict(x, t):
        output = recipe.toy_denoiser(x, t, condition["labels"], case["learn_sigma"])
        if case["guidance_scale"] != 1 and low <= t <= high:
            null = recipe.toy_denoiser(x, t, np.full(len(x), 4), case["learn_sigma"])
            output = recipe.guide(output, null, case["guidance_scale"], channels, case["guidance_channels"])
        return output[..., :channels], output[..., channels:] if case["learn_sigma"] else None

    config = textok.DiTConfig(num_tokens=1, prediction=case["prediction"]).to_dict()
    arguments = {"spacing": case["spacing"]}
    if case["solver"] != "dpmsolver++":
        arguments["noise"] = step_noise.astype(np.float64)
    if case["solver"] == "ddim":
        arguments["eta"] = case["eta"]
    result = samplers.SAMPLERS[case["solver"]](config, predict, noise.astype(np.float64), case["steps"], **arguments)
    numerics.check(result, stored["samplers"][f"{name}/latents"], numerics.SAMPLING)
