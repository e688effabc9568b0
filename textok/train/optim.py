"""The optimiser of the bundled models: Muon for hidden matrices, AdamW for everything else.

Muon (Jordan et al., 2024) takes the momentum of a matrix and steps along the nearest matrix whose
singular values are all one, found by a few Newton-Schulz iterations. Here matrices of one shape
are stacked and orthogonalised together, so that a CPU sees few and large products.
"""

import torch


def orthogonalise(stack, iterations=5):
    """[n,r,c] -> bfloat16 [n,r,c]: singular values driven near one by Newton-Schulz iterations.

    The odd quintic f(s) = a s + b s^3 + c s^5 is steep at zero and stays within 0.7..1.2 at one.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = stack.shape[1] > stack.shape[2]
    x = (stack.mT if tall else stack).bfloat16()  # [n,r,c], r <= c
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT  # [n,r,r]
        x = a * x + (b * gram + c * gram @ gram) @ x  # [n,r,c]
    return x.mT if tall else x


def square_parts(name, matrix):
    """The square parts of a fused projection: q, k, v are three matrices, not one."""
    rows, columns = matrix.shape
    fused = rows > columns and rows % columns == 0 and (".qkv." in name or ".kv." in name)
    return matrix.chunk(rows // columns) if fused else (matrix,)


class Muon(torch.optim.Optimizer):
    """Muon over named matrices; a step has the root mean square that AdamW's would have.

    The update is scaled by 0.2 sqrt(max(rows, columns)), so learning rate and weight decay mean
    what they mean to AdamW.
    """

    def __init__(self, named, lr, momentum=0.95, weight_decay=0.0):
        named = list(named)
        self.names = {id(p): n for n, p in named}
        super().__init__(
            [p for _, p in named], {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            stacks = {}  # shape -> [(part of a weight, part of its update)]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                held = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(held, group["momentum"])  # Nesterov
                p.mul_(1 - group["lr"] * group["weight_decay"])
                name = self.names[id(p)]
                parts = zip(square_parts(name, p), square_parts(name, update), strict=True)
                for weight, part in parts:
                    stacks.setdefault(weight.shape, []).append((weight, part))
            for shape, pairs in stacks.items():
                steps = orthogonalise(torch.stack([part for _, part in pairs])).float()
                steps *= -group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_add_([weight for weight, _ in pairs], list(steps))


def build_optimisers(model, lr, weight_decay, muon=True):
    """A list of optimisers over the model: matrices inside blocks to Muon, the rest to AdamW."""
    hidden, matrices, others = [], [], []
    for name, p in model.named_parameters():
        inside = any(part in name for part in (".attn.", ".mlp.", ".cross."))
        if muon and inside and p.ndim == 2 and "embedder" not in name:
            hidden.append((name, p))
        elif p.ndim == 2 and name.endswith(".weight"):
            matrices.append(p)
        else:
            others.append((name, p))
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": [p for _, p in others], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    return [adam, Muon(hidden, lr, weight_decay=weight_decay)] if hidden else [adam]


class Ema:
    """An exponential moving average of a model's parameters, with a short memory at the start."""

    def __init__(self, model, decay):
        self.decay = decay
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model, step):
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.weights.values()), [p.detach() for p in model.parameters()], 1 - decay
        )
