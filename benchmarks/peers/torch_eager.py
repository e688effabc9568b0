"""PyTorch as it comes: eager mode, fused attention; int8 by its dynamic quantisation."""

NAME = "PyTorch eager"
SETTINGS = "inference mode, fused attention; int8: dynamic quantisation of all linears (oneDNN), attention in bfloat16"
VERSIONS = ("torch",)
PRECISIONS = ("float32", "bfloat16", "int8")


def lacks(case, precision):
    return "has no VAE here: see diffusers" if case.what == "vae" else None


def prepare(case, precision, store):
    store.make_weights(case, "bfloat16" if precision == "bfloat16" else "float32")


def load(case, precision, store, threads):
    import torch

    from . import torch_models

    torch.set_num_threads(threads)
    pos = torch_models.positions(case, store)
    if precision != "int8":
        return torch_models.runner(torch_models.load_module(case, store, precision), case, precision, pos)
    return torch_models.runner(dynamic_int8(case, store), case, "float32", pos)


def dynamic_int8(case, store):
    import torch
    from torch.ao.quantization import quantize_dynamic

    from . import torch_models

    def attention(q, k, v, num_heads, key_mask=None):
        kind = torch.bfloat16
        return torch_models.fused_attention(q.to(kind), k.to(kind), v.to(kind), num_heads, key_mask).float()

    torch.backends.quantized.engine = "onednn"
    torch_models.modules.SelfAttention.forward = torch_models.one_product
    module = torch_models.load_module(case, store, attention=attention)
    return quantize_dynamic(module, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)
