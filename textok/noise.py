"""Where randomness comes from: one stream of random numbers a sample, so that a sample is the same in any batch or shard.

Sample k of a run with seed s and first index f has SeedSequence(s, spawn_key=(f + k,)) for its noise, and (f + k, 1) for
choices that must not disturb it, such as the caption of a class. The bits are Philox's; normals are NumPy's float32 ziggurat.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arrays

F32 = NDArray[np.float32]

MAX_SEED = 2**128 - 1
MAX_INDEX = 2**63 - 1


def resolve_seed(seed: int | None) -> int:
    """`seed` itself, or a fresh one from the system's entropy for None."""
    if seed is None:
        return int.from_bytes(os.urandom(16))
    return arrays.whole(seed, "seed", 0, MAX_SEED)


def generator(seed: int, *key: int) -> "np.random.Generator":
    """The generator of one sample (key: its index) or of its choices (key: its index, 1)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


@dataclass(frozen=True)
class NoiseSource:
    """The start noise and step noise of a batch, given by the caller or drawn."""

    shape: tuple[int, ...]  # of a sample: (N, C), or (C, S, S)
    steps: int  # steps that need noise: all or 0
    start: NDArray[Any] | None  # [B,N,C]
    step: NDArray[Any] | None  # [steps,B,N,C]
    seed: int
    first_index: int

    def given(self) -> list[NDArray[Any]]:
        """The caller's arrays."""
        return [array for array in (self.start, self.step) if array is not None]

    def fill(self, part: slice, x: F32) -> F32 | None:
        """Write the start noise of some samples to x [b,N,C]; returns their step noise [steps,b,N,C], None without need."""
        drawn_steps = self.steps if self.step is None else 0
        step_noise = np.empty((drawn_steps, *x.shape), np.float32)
        if self.start is None or drawn_steps:
            for row in range(len(x)):
                stream = generator(self.seed, self.first_index + part.start + row)
                x[row] = stream.standard_normal(self.shape, dtype=np.float32)
                for noise in step_noise[:, row]:  # one at a time, so that Ctrl-C need not wait for all
                    noise[:] = stream.standard_normal(self.shape, dtype=np.float32)
        if self.start is not None:
            # After the draws: the step noise of a seed is the same whether or not its start noise is replaced.
            x[:] = arrays.as_float32(self.start[part], "noise", part.start)
        if self.step is not None:
            return arrays.as_float32(self.step[:, part], "step_noise", 0, part.start)
        return step_noise if drawn_steps else None
