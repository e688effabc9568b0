"""textok's PyTorch reference modules as a user who wants speed runs them: fused attention, weights straight from the file."""


import torch
from torch import nn
from torch.nn import functional

from textok.train import modules

from .torch_arguments import arguments, positions

SPELLED_OUT_ATTENTION = modules.attention


def fused_attention(q, k, v, num_heads, key_mask=None):
    """The reference spells attention out; this is PyTorch's own."""
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    mask = None if key_mask is None else key_mask[:, None, None, :]
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def one_product(self, x, key_mask=None, rows=None, angles=None):
    """SelfAttention's forward for quantised layers, whose weight cannot be cut in two: all queries, then the rows' own."""
    q, k, v = self.qkv(x).chunk(3, dim=-1)
    q, k = modules.rotated(q, angles), modules.rotated(k, angles)
    q = q if rows is None else q[:, rows]
    return self.proj(modules.attention(q, k, v, self.num_heads, key_mask))


class Evaluation(nn.Module):
    """A DiT whose timestep comes as its waves, and its positions as an argument: one graph for any number of tokens."""

    def __init__(self, dit):
        super().__init__()
        self.dit = dit

    def forward(self, x, waves, labels, positions):
        dit = self.dit
        patch, is_2d = dit.config["patch_size"], dit.config["input_size"]
        h = dit.x_embedder(modules.latent_patches(x, patch) if is_2d else x) + positions
        c = dit.t_embedder.mlp(waves) + dit.y_embedder(labels)
        for block in dit.blocks:
            h = block(h, c, None, None)
        h = dit.final_layer(h, c)
        return modules.latent_image(h, patch) if is_2d else h


def example(case, store):
    """(arguments, their dynamic sizes) for an export; a DiT's graph holds for any number of tokens."""
    from cases import inputs

    given = arguments(case, positions(case, store))(inputs(case, 0))
    tokens = torch.export.Dim("tokens", min=2, max=4096)
    sizes = {"x": {1: tokens}, "positions": {0: tokens}} if case.what == "denoise" else {}
    return tuple(map(torch.from_numpy, given.values())), {name: sizes.get(name) for name in given}


def load_module(case, store, dtype="float32", attention=fused_attention):
    """The module of a case in eval mode, its weights from the file of that dtype and only those that it needs."""
    from safetensors.torch import load_file

    modules.attention = attention
    config = {key: value for key, value in case.config.items() if key != "model_type"}
    weights = {}
    prefix = {"encode": "tokenizer.", "decode": "detokenizer.", "denoise": ""}[case.what]
    for path in sorted(store.weights(case, dtype).glob("*.safetensors")):
        weights |= {name: tensor for name, tensor in load_file(path).items() if name.startswith(prefix)}
    with torch.device("meta"):  # no memory for weights that the file replaces at once
        model = modules.DiT(config) if case.what == "denoise" else modules.TexTok(config)
    model.load_state_dict(weights, assign=True, strict=case.what == "denoise")
    if case.what == "denoise":
        model.t_embedder.freqs = None  # not used: `waves`
        module = Evaluation(model)
    else:
        module = model.tokenizer if case.what == "encode" else model.detokenizer
    module = module.eval().requires_grad_(False)
    return module.to(torch.bfloat16) if dtype == "bfloat16" else module


def runner(module, case, dtype, pos):
    """A function from `cases.inputs` to a float32 array."""
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    named = arguments(case, pos)

    def tensor(array):
        array = torch.from_numpy(array)
        return array.to(kind) if array.is_floating_point() else array

    def run(a):
        with torch.inference_mode():
            return module(*(tensor(array) for array in named(a).values())).float().numpy()

    return run
