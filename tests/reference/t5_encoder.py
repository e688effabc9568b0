"""A T5 encoder in NumPy and float64: the specification, and a place to try what a coarser form of one product would cost."""

import numpy as np


def rms(x, weight, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def gelu_tanh(x):
    return x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def buckets(T, count, farthest):
    """[T,T] of query and key: T5's kinds of distance, key less query."""
    distance = np.arange(T)[None, :] - np.arange(T)[:, None]
    half, far = count // 2, np.abs(distance)
    exact = half // 2
    with np.errstate(divide="ignore", invalid="ignore"):
        large = exact + (np.log(far / exact) / np.log(farthest / exact) * (half - exact) + 1e-9).astype(int)
    return (distance > 0) * half + np.where(far < exact, far, np.minimum(large, half - 1))


def int8(x):
    """Rows rounded to int8 and back, as the engine quantises what goes into a product."""
    scale = np.abs(x).max(-1, keepdims=True) / 127
    return np.rint(x / scale) * scale


def forward(config, weights, ids, wo_in=lambda x: x):
    """States [T,D] of one caption of a gated T5; `wo_in` changes what goes into each `wo`."""
    w = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    H, Dh, T = config.num_heads, config.head_dim, len(ids)
    x = w["shared.weight"][ids]
    table = w["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    bias = table[buckets(T, config.relative_buckets, config.relative_distance)].transpose(2, 0, 1)
    for i in range(config.depth):
        p = f"encoder.block.{i}.layer."
        h = rms(x, w[f"{p}0.layer_norm.weight"], config.norm_eps)
        q, k, v = (np.reshape(h @ w[f"{p}0.SelfAttention.{n}.weight"].T, (T, H, Dh)).transpose(1, 0, 2) for n in "qkv")
        s = q @ k.transpose(0, 2, 1) + bias
        s = np.exp(s - s.max(-1, keepdims=True))
        a = (s / s.sum(-1, keepdims=True)) @ v
        x = x + a.transpose(1, 0, 2).reshape(T, H * Dh) @ w[f"{p}0.SelfAttention.o.weight"].T
        h = rms(x, w[f"{p}1.layer_norm.weight"], config.norm_eps)
        mlp = f"{p}1.DenseReluDense."
        inner = gelu_tanh(h @ w[f"{mlp}wi_0.weight"].T) * (h @ w[f"{mlp}wi_1.weight"].T)
        x = x + wo_in(inner) @ w[f"{mlp}wo.weight"].T
    return rms(x, w["encoder.final_layer_norm.weight"], config.norm_eps)
