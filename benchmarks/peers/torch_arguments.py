"""What the exported graphs take, in NumPy: their processes need no PyTorch."""

import math

import numpy as np


def waves(t):
    """The 256 cosines and sines of each timestep, float32 [B,256]; angles in float64 as in the reference."""
    angles = t.astype(np.float64)[:, None] * np.exp(-math.log(1e4) / 128 * np.arange(128))
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def arguments(case, positions=None):
    """A function from `cases.inputs` to the module's arguments by name, in order, float32 and int64 arrays."""
    if case.what == "encode":
        return lambda a: {"image": a["x"], **({"text": a["text"]} if "text" in a else {})}
    if case.what == "decode":
        return lambda a: {"latents": a["z"], **({"text": a["text"]} if "text" in a else {})}
    return lambda a: {"x": a["x"], "waves": waves(a["t"]), "labels": a["labels"], "positions": positions}


def positions(case, store):
    """[T,D], of a DiT; None of a TexTok, whose modules keep their own."""
    if case.what != "denoise":
        return None
    from safetensors.numpy import load_file

    return load_file(store.weights(case) / "positions.safetensors")["pos_embed"]
