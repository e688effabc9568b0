"""PyTorch compiled by Inductor, weights frozen into the program, so that they are packed once."""

NAME = "PyTorch compiled"
SETTINGS = "torch.compile with freezing"
VERSIONS = ("torch",)
PRECISIONS = ("float32", "bfloat16")
PRECISIONS_WHY = {
    "int8": "not included: dynamically quantised linears do not pass through torch.compile, and torchao is not among the peers"
}


def lacks(case, precision):
    return "has no VAE here: see diffusers" if case.what == "vae" else None


def prepare(case, precision, store):
    store.make_weights(case, precision)


def load(case, precision, store, threads):
    import os

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(store.path("inductor")))
    import torch
    from torch._inductor import config

    from . import torch_models

    torch.set_num_threads(threads)
    config.freezing = True
    module = torch_models.load_module(case, store, precision)
    compiled = torch.compile(module, dynamic=False)
    return torch_models.runner(compiled, case, precision, torch_models.positions(case, store))
