"""DiT over tokens or latent images: one evaluation, and classifier-free guidance.

`config` is a whole config as `DiTConfig.to_dict()` gives it. A condition is a class number (num_classes: none), caption
embeddings [n,Dt] of real rows only, or NULL.
"""

import math

import numpy as np

from .layers import cross_attention, f64, layer_norm, linear, mlp, normalise, self_attention, silu

NULL = object()


def time_embedding(config, w, t):
    half = config["time_freq_dim"] // 2
    angles = float(t) * np.exp(-math.log(1e4) * np.arange(half) / (half - config["time_freq_shift"]))
    waves = np.concatenate([np.cos(angles), np.sin(angles)])
    return linear(w, "t_embedder.mlp.2", silu(linear(w, "t_embedder.mlp.0", waves)))


def embed_condition(config, w, condition):
    """The condition's part of c [D], and its projected text [n,D] or None."""
    if config["condition"] == "class":
        row = config["num_classes"] if condition is NULL else condition
        return f64(w["y_embedder.embedding_table.weight"])[row], None
    rows = f64(w["null_text"] if condition is NULL else condition)
    return linear(w, "text_pool", rows.mean(axis=0)), linear(w, "text_proj", rows)


def modulate(x, shift, scale, eps):
    return (1 + scale) * normalise(x, eps) + shift


def patchify(image, p):
    """[C,S,S] -> [T,C p p]: patches in raster order, each (channel, row, column)."""
    places = [(y, x) for y in range(0, image.shape[1], p) for x in range(0, image.shape[2], p)]
    return np.stack([image[:, y : y + p, x : x + p].reshape(-1) for y, x in places])


def unpatchify(rows, size, p):
    """[T,p p C], each (row, column, channel) -> [C,S,S]."""
    image = np.empty((rows.shape[1] // p**2, size, size))
    places = [(y, x) for y in range(0, size, p) for x in range(0, size, p)]
    for (y, x), row in zip(places, rows, strict=True):
        image[:, y : y + p, x : x + p] = row.reshape(p, p, -1).transpose(2, 0, 1)
    return image


def evaluate(config, w, x, t, condition, trace=None):
    """x [N,C], t a train timestep -> [N,C], or [N,2C]: prediction, then variance fraction; [C,S,S] and [2C,S,S] with
    input_size."""

    def note(name, value):
        if trace is not None:
            trace.setdefault(name, []).append(np.atleast_2d(value))

    eps, heads, size, p = config["norm_eps"], config["num_heads"], config["input_size"], config["patch_size"]
    mlp_eps = eps if config["mlp_norm_eps"] is None else config["mlp_norm_eps"]
    y, text = embed_condition(config, w, condition)
    c = time_embedding(config, w, t) + y
    note("c", c)
    x = linear(w, "x_embedder", patchify(f64(x), p) if size else f64(x)) + f64(w["pos_embed"])
    note("embed", x)
    for i in range(config["depth"]):
        name = f"blocks.{i}"
        shift1, scale1, gate1, shift2, scale2, gate2 = np.split(linear(w, f"{name}.adaLN_modulation.1", silu(c)), 6)
        x = x + gate1 * self_attention(w, f"{name}.attn", modulate(x, shift1, scale1, eps), heads, None)
        note(f"{name}.attn", x)
        if text is not None:
            x = x + cross_attention(w, f"{name}.cross", layer_norm(w, f"{name}.norm_cross", x, eps), text, heads, None)
            note(f"{name}.cross", x)
        x = x + gate2 * mlp(w, f"{name}.mlp", modulate(x, shift2, scale2, mlp_eps), "tanh")
        note(name, x)
    shift, scale = np.split(linear(w, "final_layer.adaLN_modulation.1", silu(c)), 2)
    x = modulate(x, shift, scale, eps)
    note("final", x)
    x = linear(w, "final_layer.linear", x)
    return unpatchify(x, size, p) if size else x


def guided(config, w, x, t, condition, scale):
    """The prediction with guidance and the variance fraction (None where it is not learned), each of x's shape.

    u + scale (c - u) on the first `guidance_channels` channels; the rest, and the variance, are the conditional's.
    """
    channels, axis = config["in_channels"], 0 if config["input_size"] else 1
    c = evaluate(config, w, x, t, condition)
    parts = np.split(c, [channels], axis)
    prediction, variance = parts[0].copy(), parts[1] if config["learn_sigma"] else None
    if scale != 1:
        u = evaluate(config, w, x, t, NULL)
        some = (slice(None),) * axis + (slice(0, config["guidance_channels"] or channels),)
        prediction[some] = u[some] + scale * (c[some] - u[some])
    return prediction, variance
