"""The programs that are timed, one module each; nothing heavy is imported before one is asked for.

A module has:

    NAME, SETTINGS                what tables call it, and how it was set up, a line
    VERSIONS                      the packages whose versions matter
    PRECISIONS                    of "float32", "bfloat16", "int8", those it can compute in
    lacks(case, precision)        why it cannot run a case, or None
    prepare(case, precision, store)          what can be done once: export, quantise; files in `store`, skipped where they are
    load(case, precision, store, threads)    -> a function from `cases.inputs` to a float32 array, in a process of its own
"""

import importlib
import itertools

MODULES = {
    "textok": "ours",
    "eager": "torch_eager",
    "compiled": "torch_compiled",
    "onnxruntime": "onnx_runtime",
    "openvino": "open_vino",
    "diffusers": "hf_diffusers",
    "reference": "reference",
}
PEERS = tuple(name for name in MODULES if name not in ("textok", "reference"))


def peer(name):
    return importlib.import_module(f"peers.{MODULES[name]}")


def lacks(name, case, precision):
    """Why a peer cannot run a case in a precision, or None."""
    module = peer(name)
    if precision not in module.PRECISIONS:
        return module.PRECISIONS_WHY[precision]
    return module.lacks(case, precision)


def flow_picture(denoise, decode, scale):
    """The same of a model that predicts a velocity: Euler-Maruyama, its diffusion 2t, the last step from t = 0.04 without
    noise."""
    import numpy as np
    from cases import NULL_CLASS, SDE_STEPS

    def run(a):
        x, labels = a["noise"], np.array([a["label"], NULL_CLASS])
        times = np.append(np.linspace(1, 0.04, SDE_STEPS), 0)
        for step, (t, after) in enumerate(itertools.pairwise(times)):
            v = denoise({"x": x.repeat(2, 0), "t": np.full(2, t, np.float32), "labels": labels})
            score = (-(1 - t) * v - x) / (t * t + (1 - t) * t)
            drift = v - t * score  # half of the diffusion
            drift = drift[1:] + scale * (drift[:1] - drift[1:])
            x = x + drift * (after - t)
            if step + 1 < SDE_STEPS:
                x = x + np.sqrt(2 * t * (t - after)) * a["step_noise"][step]
            x = x.astype(np.float32)
        return decode({"z": x})

    return run


def picture(denoise, decode, steps, scale):
    """A whole picture from a peer's two halves, with diffusers' DPM-Solver++ between them, as one writes it by hand."""
    import numpy as np
    import torch
    from diffusers import DPMSolverMultistepScheduler

    def run(a):
        scheduler = DPMSolverMultistepScheduler(
            num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, timestep_spacing="linspace"
        )
        scheduler.set_timesteps(steps)
        x = torch.from_numpy(a["noise"])
        labels = np.array([a["label"], 1000])
        for t in scheduler.timesteps:
            out = denoise({"x": x.numpy().repeat(2, 0), "t": np.full(2, float(t), np.float32), "labels": labels})
            out = torch.from_numpy(out[..., : x.shape[-1]])
            x = scheduler.step(out[1:] + scale * (out[:1] - out[1:]), t, x).prev_sample
        return decode({"z": x.numpy(), "text": a["text"]})

    return run
