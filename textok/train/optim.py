"""Optimisers, learning rates and moving averages of weights.

Muon for hidden matrices with AdamW for everything else is what the bundled models are trained with; Adam and AdamW alone are
there too. Muon (Jordan et al., 2024) takes the momentum of a matrix and steps along the nearest matrix whose singular values
are all one, found by a few Newton-Schulz iterations. Here matrices of one shape are stacked and orthogonalised together, so
that a CPU sees few and large products.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from .config import in_bfloat16


def orthogonalise(stack: Tensor, iterations: int = 5) -> Tensor:
    """[n,r,c] -> [n,r,c]: singular values driven near one by Newton-Schulz iterations.

    The odd quintic f(s) = a s + b s^3 + c s^5 is steep at zero and stays within 0.7..1.2 at one. bfloat16 is enough for it, and
    is used where the device multiplies it fast: a CPU without AVX512-BF16 takes 80 times as long in it as in float32.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = stack.shape[1] > stack.shape[2]
    fast = torch.bfloat16 if in_bfloat16("auto", stack.device.type) else torch.float32
    x = (stack.mT if tall else stack).to(fast)  # [n,r,c], r <= c
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT  # [n,r,r]
        x = a * x + (b * gram + c * gram @ gram) @ x  # [n,r,c]
    return x.mT if tall else x


def square_parts(name: str, matrix: Tensor) -> tuple[Tensor, ...]:
    """The square parts of a fused projection: q, k, v are three matrices, not one."""
    rows, columns = matrix.shape
    fused = rows > columns and rows % columns == 0 and (".qkv." in name or ".kv." in name)
    return matrix.chunk(rows // columns) if fused else (matrix,)


class Muon(torch.optim.Optimizer):
    """Muon over named matrices; a step has the root mean square that AdamW's would have.

    The update is scaled by 0.2 sqrt(max(rows, columns)), so learning rate and weight decay mean
    what they mean to AdamW.
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        named = list(named)
        self.names = {id(p): n for n, p in named}
        super().__init__([p for _, p in named], {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing here evaluates the model again
        for group in self.param_groups:
            stacks: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}  # shape -> [(part of a weight, part of its update)]
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


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes a parameter: the matrices inside transformer blocks."""
    return parameter.ndim == 2 and any(part in name for part in (".attn.", ".mlp.", ".cross.")) and "embedder" not in name


def build_optimisers(
    model: nn.Module, kind: str, lr: float, betas: Sequence[float] = (0.9, 0.98), weight_decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """A list of optimisers over the model, each parameter in one of them.

    `kind`: "adam" or "adamw" for all of it (with Adam the decay is added to the gradient), "muon" for Muon on the matrices
    inside blocks and AdamW on the rest. Only matrices named `*.weight` decay.
    """
    hidden: list[tuple[str, nn.Parameter]] = []
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        if kind == "muon" and is_hidden_matrix(name, p):
            hidden.append((name, p))
        else:
            (matrices if p.ndim >= 2 and name.endswith(".weight") else others).append(p)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    adam = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
    plain = adam([g for g in groups if g["params"]], lr=lr, betas=(betas[0], betas[1]), fused=True)
    return [plain, Muon(hidden, lr, weight_decay=weight_decay)] if hidden else [plain]


def rate_share(
    step: float, steps: int, schedule: str, warmup: int, decay: float = 0.0, floor: float = 0.0, start: int = 0
) -> float:
    """The learning rate of `step` (from 0) of `steps` as a share of its peak.

    It rises linearly over `warmup` steps from `start` on. Then "cosine" falls to `floor` at the end of the run; "trapezoid" is
    one until the last `decay` steps and falls linearly to zero over them; "constant" is one.
    """
    share = 1.0
    if schedule == "cosine":
        done = min(1.0, max(0, step - warmup) / max(1, steps - warmup))
        share = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
    elif schedule == "trapezoid":
        share = max(0.0, min(1.0, (steps - step) / max(1, decay)))
    return min(share, (step - start + 1) / max(1, warmup))


class Ema:
    """An exponential moving average of a model's parameters, with a short memory at the start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After step number `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), [p.detach() for p in model.parameters()], 1 - decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Takes stored weights over."""
        for name, held in self.weights.items():
            held.copy_(weights[name])
