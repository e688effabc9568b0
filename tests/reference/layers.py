"""The parts that all three models are made of. Rows are tokens: x [T,D], text [t,D]; `w` is a dict of weights by name."""

import math

import numpy as np

erf = np.vectorize(math.erf, otypes=[np.float64])


def f64(array):
    return np.asarray(array, np.float64)


def linear(w, name, x):
    """x W^T + b, where there is a b."""
    y = x @ f64(w[f"{name}.weight"]).T
    return y + f64(w[f"{name}.bias"]) if f"{name}.bias" in w else y


def normalise(x, eps):
    """Each row to mean 0 and variance 1, with the population's variance."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)


def layer_norm(w, name, x, eps):
    return normalise(x, eps) * f64(w[f"{name}.weight"]) + f64(w[f"{name}.bias"])


def gelu(x, kind):
    if kind == "erf":
        return x * (1 + erf(x / math.sqrt(2))) / 2
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def silu(x):
    return x / (1 + np.exp(-x))


def attention(q, k, v, heads, mask=None):
    """softmax(q k^T / sqrt(Dh)) v, head by head: q [Tq,D], k and v [Tk,D]; mask bool [Tk], False for keys that nobody sees."""
    out = np.empty_like(q)
    width = q.shape[1] // heads
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        scores = q[:, part] @ k[:, part].T / math.sqrt(width)
        if mask is not None:
            scores[:, ~mask] = -np.inf
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, part] = shares / shares.sum(axis=1, keepdims=True) @ v[:, part]
    return out


def rotated(x, angles):
    """x [T,D] whose first P rows are turned: in head h of row p, columns 2j and 2j + 1 by angles[h,p,j]."""
    heads, rows, pairs = angles.shape
    result = x.copy()
    for h in range(heads):
        for j in range(pairs):
            a, b = h * 2 * pairs + 2 * j, h * 2 * pairs + 2 * j + 1
            cos, sin = np.cos(angles[h, :, j]), np.sin(angles[h, :, j])
            result[:rows, a] = x[:rows, a] * cos - x[:rows, b] * sin
            result[:rows, b] = x[:rows, a] * sin + x[:rows, b] * cos
    return result


def self_attention(w, name, x, heads, mask, angles=None):
    q, k, v = np.split(linear(w, f"{name}.qkv", x), 3, axis=1)
    if angles is not None:
        q, k = rotated(q, angles), rotated(k, angles)
    return linear(w, f"{name}.proj", attention(q, k, v, heads, mask))


def cross_attention(w, name, x, text, heads, mask):
    k, v = np.split(linear(w, f"{name}.kv", text), 2, axis=1)
    return linear(w, f"{name}.proj", attention(linear(w, f"{name}.q", x), k, v, heads, mask))


def mlp(w, name, x, kind):
    return linear(w, f"{name}.fc2", gelu(linear(w, f"{name}.fc1", x), kind))


def block(w, name, x, sizes, note, mask=None, text=None, text_mask=None, angles=None):
    """x += attn(norm1(x)); x += cross(norm_cross(x), text) where there is text; x += mlp(norm2(x))."""
    eps, heads, kind = sizes
    x = x + self_attention(w, f"{name}.attn", layer_norm(w, f"{name}.norm1", x, eps), heads, mask, angles)
    note(f"{name}.attn", x)
    if text is not None:
        x = x + cross_attention(w, f"{name}.cross", layer_norm(w, f"{name}.norm_cross", x, eps), text, heads, text_mask)
        note(f"{name}.cross", x)
    x = x + mlp(w, f"{name}.mlp", layer_norm(w, f"{name}.norm2", x, eps), kind)
    note(name, x)
    return x
