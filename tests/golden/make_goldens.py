"""Stores what PyTorch and diffusers answer to the cases of recipe.py. Needs torch and diffusers; the tests need neither.

    python tests/golden/make_goldens.py

textok.npz   CASE/latents, CASE/image (of the stored case's latents *inputs*), and every intermediate of both sides
dit.npz      CASE/output and every intermediate
samplers.npz CASE/latents, the end of a run

Model results are computed in float64 and stored as float32; the float32 run of the same modules is compared with them here, and
its error, max |a - b| / max |b|, is stored as CASE/float32_error/NAME. Rows of all samples are concatenated and padding is
left out. Samplers: the float64 model or toy, in the arithmetic of the schedulers of diffusers.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import recipe

from textok.train.modules import DiT, TexTok


def build(kind, config, case, dtype):
    """A module with the case's weights."""
    model = kind(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    weights = recipe.make_weights(shapes, case)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model.to(dtype).eval()


def tensors(condition, dtype):
    """NumPy arguments as torch's; text in the model's type."""
    out = {name: torch.from_numpy(np.array(value)) for name, value in condition.items()}
    return {name: value.to(dtype) if name == "text" else value for name, value in out.items()}


def ragged(value, lengths, whole):
    """[B,T,D] -> [rows,D]: of sample b the first whole + lengths[b] rows, where T has the padded text behind."""
    if lengths is None or value.shape[1] <= whole:
        return value.flatten(0, -2) if value.ndim > 2 else value
    return torch.cat([sample[: whole + int(n)] for sample, n in zip(value, lengths, strict=True)])


@torch.no_grad()
def run_textok(name, dtype):
    """Outputs and intermediates of a case, {name: float64 or float32 array}."""
    config = recipe.textok_config(name)
    model = build(TexTok, config, name, dtype)
    images, latents, condition = recipe.textok_inputs(name)
    condition = tensors(condition, dtype)
    trace = {}
    out = {
        "latents": model.encode(torch.from_numpy(images).to(dtype), **condition, trace=trace),
        "image": model.decode(torch.from_numpy(latents).to(dtype), **condition, trace=trace),
    }
    whole = model.tokenizer.num_patches + model.tokenizer.num_latents
    lengths = condition.get("text_lengths")
    out |= {key: ragged(value, lengths, whole) for key, value in trace.items()}
    return {key: value.numpy() for key, value in out.items()}


@torch.no_grad()
def run_dit(name, dtype):
    """Output and intermediates of a case; the last sample has the null condition."""
    config = recipe.dit_config(name)
    model = build(DiT, config, name, dtype)
    x, t, condition = recipe.dit_inputs(name)
    condition = tensors(condition, dtype)
    if "text" in condition:
        condition["null"] = torch.tensor([False] * (len(x) - 1) + [True])
    trace = {}
    out = {"output": model(torch.from_numpy(x).to(dtype), torch.from_numpy(t), **condition, trace=trace)}
    out |= {key: ragged(value, None, 0) for key, value in trace.items()}
    return {key: value.numpy() for key, value in out.items()}


def model_goldens(cases, run):
    """All cases as one dict of arrays to store."""
    stored, worst = {}, 0.0
    for name in cases:
        exact, rounded = run(name, torch.float64), run(name, torch.float32)
        for key, value in exact.items():
            error = np.abs(rounded[key] - value).max() / np.abs(value).max()
            worst = max(worst, error)
            stored[f"{name}/{key}"] = value.astype(np.float32)
            stored[f"{name}/float32_error/{key}"] = np.float32(error)
    print(f"{run.__name__}: {len(cases)} cases, float32 within {worst:.2g}")
    return stored


def make_scheduler(case):
    """The scheduler of diffusers that a case names, ready for its steps, and its steps' extra arguments."""
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    shared = {
        "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear",
        "prediction_type": {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}[case["prediction"]],
        "timestep_spacing": case["spacing"], "steps_offset": 0,
    }  # fmt: skip
    if case["solver"] == "ddim":
        scheduler = DDIMScheduler(**shared, clip_sample=False, set_alpha_to_one=True)
    elif case["solver"] == "ddpm":
        kind = "learned_range" if case["learn_sigma"] else "fixed_small"
        scheduler = DDPMScheduler(**shared, clip_sample=False, variance_type=kind)
    else:
        scheduler = DPMSolverMultistepScheduler(
            **shared, solver_order=2, algorithm_type="dpmsolver++", solver_type="midpoint", final_sigmas_type="zero"
        )
    if case["solver"] != "dpmsolver++":
        # Its tables are float32 products of 1000 terms; the same in float64 let the formulas be compared closely.
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        scheduler.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        scheduler.final_alpha_cumprod = scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(case["steps"])
    return scheduler


def make_denoiser(case, condition):
    """A function (x [B,N,C] float64, t, null bool) -> [B,N,C or 2C] float64."""
    if case["model"] == "toy":

        def denoise(x, t, null):
            labels = np.full(3, 4) if null else condition["labels"]
            return recipe.toy_denoiser(x, t, labels, case["learn_sigma"])

        return denoise
    config = recipe.dit_config(case["model"])
    model = build(DiT, config, case["model"], torch.float64)
    given = tensors(condition, torch.float64)

    @torch.no_grad()
    def denoise(x, t, null):
        args = dict(given)
        if "text" in args:
            args["null"] = torch.full((len(x),), null)
        elif null:
            args["labels"] = torch.full_like(args["labels"], config["num_classes"])
        return model(torch.from_numpy(x), torch.full((len(x),), t), **args).numpy()

    return denoise


def run_sampler(name):
    """The final latents of a run, float64 [B,N,C]."""
    import diffusers.schedulers.scheduling_ddpm as ddpm

    case = recipe.sampler_case(name)
    noise, step_noise, condition = recipe.sampler_inputs(name)
    scheduler, denoise = make_scheduler(case), make_denoiser(case, condition)
    x, channels = noise.astype(np.float64), noise.shape[-1]
    low, high = case["guidance_interval"] or (0, 1000)
    for k, t in enumerate(scheduler.timesteps):
        output = denoise(x, int(t), False)
        if case["guidance_scale"] != 1 and low <= t <= high:
            output = recipe.guide(
                output, denoise(x, int(t), True), case["guidance_scale"], channels, case["guidance_channels"]
            )
        step = torch.from_numpy(step_noise[k].astype(np.float64))
        extra = {}
        if case["solver"] == "ddim":
            extra = {"eta": case["eta"], "variance_noise": step if case["eta"] else None}
        if case["solver"] == "ddpm":
            # It splits channels at dimension 1, so they go there and back; it draws noise itself, so it is handed ours.
            turned = step.swapaxes(1, 2)
            ddpm.randn_tensor = lambda *_, turned=turned, **__: turned
            output, x = (torch.from_numpy(np.ascontiguousarray(a.swapaxes(1, 2))) for a in (output, x))
            x = scheduler.step(output, t, x).prev_sample.swapaxes(1, 2).numpy()
        else:
            output = torch.from_numpy(output[..., :channels])  # these read no variance
            x = scheduler.step(output, t, torch.from_numpy(x), **extra).prev_sample.numpy()
        x = np.asarray(x, np.float64)
    return x


def main():
    warnings.simplefilter("ignore")
    np.savez_compressed(HERE / "textok.npz", **model_goldens(recipe.TEXTOK_CASES, run_textok))
    np.savez_compressed(HERE / "dit.npz", **model_goldens(recipe.DIT_CASES, run_dit))
    answers = {f"{name}/latents": run_sampler(name).astype(np.float32) for name in recipe.SAMPLER_CASES}
    np.savez_compressed(HERE / "samplers.npz", **answers)
    for file in sorted(HERE.glob("*.npz")):
        print(file.name, file.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
