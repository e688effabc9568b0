"""Makes samplers_diffusers.npz: what diffusers' schedulers answer, driving textok's PyTorch DiT in float64.

    python tests/golden/make_sampler_goldens.py         needs torch and diffusers

The file holds, for "class" and "text": the config, the weights, start noise [B,N,C] and the condition; and one result [B,N,C] for each
of `CASES`, under a name that says everything about the run.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).absolute().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from textok.train.modules import DiT  # noqa: E402
from tiny import TinyDiT, dit_config  # noqa: E402

OUT = HERE / "samplers_diffusers.npz"
# kind, prediction, solver, spacing, eta, steps, guidance scale, guided channels
CASES = [
    ("class", "epsilon", "ddim", "leading", 0.0, 10, 3.0, 5),
    ("class", "epsilon", "ddim", "trailing", 0.0, 7, 3.0, 3),
    ("class", "epsilon", "ddim", "leading", 0.6, 10, 3.0, 5),
    ("class", "v", "ddim", "trailing", 0.0, 20, 1.0, 5),
    ("class", "sample", "ddim", "leading", 1.0, 8, 2.0, 5),
    ("text", "v", "ddim", "leading", 0.3, 6, 4.0, 2),
    ("class", "epsilon", "dpmsolver++", "linspace", 0.0, 20, 3.0, 5),
    ("class", "epsilon", "dpmsolver++", "linspace", 0.0, 1, 3.0, 5),
    ("class", "epsilon", "dpmsolver++", "linspace", 0.0, 2, 3.0, 5),
    ("class", "v", "dpmsolver++", "leading", 0.0, 9, 2.0, 3),
    ("class", "sample", "dpmsolver++", "trailing", 0.0, 9, 1.0, 5),
    ("text", "epsilon", "dpmsolver++", "linspace", 0.0, 16, 5.0, 5),
    ("text", "epsilon", "dpmsolver++", "trailing", 0.0, 3, 5.0, 5),
]
BATCH = 2


def kinds():
    """The two models with their inputs: {kind: (TinyDiT, start, condition, step noise)}."""
    found = {}
    for kind in ("class", "text"):
        model = TinyDiT(dit_config(condition=kind))
        start, _, condition = model.inputs(BATCH)
        noise = np.random.default_rng(2).standard_normal((10, *start.shape)).astype(np.float32)
        found[kind] = model, start, condition, noise
    return found


def make_scheduler(prediction, solver, spacing):
    import diffusers

    shared = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", timestep_spacing=spacing,
                  prediction_type={"v": "v_prediction"}.get(prediction, prediction))
    if solver == "ddim":
        return diffusers.DDIMScheduler(clip_sample=False, **shared)
    return diffusers.DPMSolverMultistepScheduler(**shared)


@torch.no_grad()
def run(model, start, condition, noise, case):
    """One sampling run: guidance u + scale (c - u) on the first channels, then the scheduler's own step."""
    _, prediction, solver, spacing, eta, steps, scale, guided = case
    dit = DiT(model.config).double()
    dit.load_state_dict({name: torch.from_numpy(value) for name, value in model.weights.items()})
    if "labels" in condition:
        given = {"labels": torch.from_numpy(condition["labels"]).long()}
        null = {"labels": torch.full((len(start),), model.config["num_classes"])}
    else:
        given = {"text": torch.from_numpy(condition["text"]).double(), "text_lengths": torch.from_numpy(condition["text_lengths"]).long()}
        null = given | {"null": torch.ones(len(start), dtype=torch.bool)}
    scheduler = make_scheduler(prediction, solver, spacing)
    scheduler.set_timesteps(steps)
    x = torch.from_numpy(start).double()
    channels = x.shape[-1]
    for k, t in enumerate(scheduler.timesteps):
        times = torch.full((len(x),), float(t))
        out = dit(x, times, **given)[..., :channels]
        if scale != 1:
            u = dit(x, times, **null)[..., :guided]
            out[..., :guided] = u + scale * (out[..., :guided] - u)
        extra = {"eta": eta, "variance_noise": torch.from_numpy(noise[k]).double()} if eta else {}
        x = scheduler.step(out, t, x, **extra).prev_sample
    return x.numpy()


def results():
    """{case: result [B,N,C]}."""
    models = kinds()
    return {case: run(*models[case[0]], case) for case in CASES}


def main():
    arrays = {"cases": np.array([json.dumps(case) for case in CASES])}
    for kind, (model, start, condition, noise) in kinds().items():
        arrays |= {f"{kind}/config": np.array(json.dumps(model.config)), f"{kind}/start": start, f"{kind}/noise": noise}
        arrays |= {f"{kind}/condition/{name}": value for name, value in condition.items()}
        arrays |= {f"{kind}/weights/{name}": value for name, value in model.weights.items()}
    for k, result in enumerate(results().values()):
        arrays[f"result/{k}"] = result
    np.savez_compressed(OUT, **arrays)


if __name__ == "__main__":
    main()
