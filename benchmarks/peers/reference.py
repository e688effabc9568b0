"""The float32 PyTorch reference, attention spelled out (a VAE: diffusers' own): what every peer's output is compared
with. It is not timed.
"""

NAME = "reference"
SETTINGS = "textok.train.modules in float32"
VERSIONS = ("torch",)
PRECISIONS = ("float32",)


def lacks(case, precision):
    return None


def prepare(case, precision, store):
    from . import hf_diffusers

    if case.what == "vae":
        return hf_diffusers.prepare(case, precision, store)
    store.make_weights(case)
    if case.what == "picture":
        store.make_weights(case.halves[1])


def load(case, precision, store, threads):
    import torch

    from . import hf_diffusers, torch_models

    torch.set_num_threads(threads)
    if case.what == "vae":
        return hf_diffusers.load(case, precision, store, threads)
    module = torch_models.load_module(case, store, attention=torch_models.SPELLED_OUT_ATTENTION)
    return torch_models.runner(module, case, precision, torch_models.positions(case, store))
