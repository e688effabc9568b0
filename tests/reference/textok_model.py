"""TexTok: a tokenizer and a detokenizer, each a ViT over [patches; registers; latents; text].

`config` is a whole config as `TexTokConfig.to_dict()` gives it. `caption` is what one side is told about one image: embeddings
[t,Dt], a class number, or None. `length` is how many of the rows are real; with `text_mask` the others stay in the sequence and
are masked in every attention, which is how the definition has it (the engine leaves them out instead).
"""

import numpy as np

from .layers import block, f64, layer_norm, linear


def patchify(image, p, overlap=0):
    """[S,S,3] -> [P,3ww]: windows w = p + 2 overlap in raster order, each (row, column, channel); zeros around the image."""
    rows, w = range(0, image.shape[0], p), p + 2 * overlap
    padded = np.pad(image, ((overlap, overlap), (overlap, overlap), (0, 0)))
    return np.stack([padded[y : y + w, x : x + w].reshape(-1) for y in rows for x in rows])


def unpatchify(patches, size, p, overlap=0):
    """Back: windows are added up, what lies beyond the image is dropped."""
    w = p + 2 * overlap
    image = np.zeros((size + 2 * overlap, size + 2 * overlap, 3))
    places = [(y, x) for y in range(0, size, p) for x in range(0, size, p)]
    for (y, x), patch in zip(places, patches, strict=True):
        image[y : y + w, x : x + w] += patch.reshape(w, w, 3)
    return image[overlap : overlap + size, overlap : overlap + size]


def to_float(pixels):
    return f64(pixels) / 127.5 - 1 if pixels.dtype == np.uint8 else f64(pixels)


def to_bytes(image):
    return np.floor((np.clip(image, -1, 1) + 1) * 127.5 + 0.5).astype(np.uint8)


def encode(config, w, image, caption=None, length=None, trace=None):
    """image [S,S,3], uint8 or float in [-1,1] -> latents [N,d]."""
    side = Side(config, w, "tokenizer", trace)
    patches = linear(w, "tokenizer.patch_embed", patchify(to_float(image), config["patch_size"], config["patch_overlap"]))
    x = side.run(patches, f64(w["tokenizer.latent_tokens"]), caption, length)
    latents = linear(w, "tokenizer.to_latent", x[side.latents])
    latents = latents[:, : config["latent_dim"]]  # with kl the log-variances stand behind the means
    return latents if config["codebook"] is None else soft_codes(config["codebook"], f64(w["tokenizer.codebook"]), latents)


def soft_codes(settings, codebooks, tokens):
    """tokens [N,d] -> [N,d]: each the mean of its run's codes [K,d], weighted by a softmax over token . code / tau."""

    def unit(x):
        return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12) if settings["l2_norm"] else x

    rows = []
    for codes, run in zip(codebooks, np.split(tokens, settings["runs"]), strict=True):
        scores = unit(run) @ unit(codes).T / settings["tau"]
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        rows.append(shares / shares.sum(axis=1, keepdims=True) @ unit(codes))
    return np.concatenate(rows)


def decode(config, w, z, caption=None, length=None, trace=None):
    """latents [N,d] -> image [S,S,3], unclipped."""
    side = Side(config, w, "detokenizer", trace)
    latents = linear(w, "detokenizer.from_latent", f64(z))
    x = side.run(f64(w["detokenizer.patch_tokens"]), latents, caption, length)
    pixels = linear(w, "detokenizer.to_pixels", x[side.patches])
    if config["output_activation"] == "tanh":
        pixels = np.tanh(pixels)
    image = unpatchify(pixels, config["image_size"], config["patch_size"], config["patch_overlap"])
    return (
        convolve(image, f64(w["detokenizer.pixel_conv.weight"]), f64(w["detokenizer.pixel_conv.bias"]))
        if config["output_conv"]
        else image
    )


def convolve(image, weight, bias):
    """3 x 3 over [S,S,3] with zeros around; weight [3,27], each (row, column, channel)."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    size = len(image)
    windows = [padded[y : y + size, x : x + size] for y in range(3) for x in range(3)]
    return np.concatenate(windows, axis=-1) @ weight.T + bias


class Side:
    """One of the two transformers."""

    def __init__(self, config, w, name, trace=None):
        self.config, self.w, self.name, self.trace = config, w, name, trace
        patches = (config["image_size"] // config["patch_size"]) ** 2
        self.patches = slice(0, patches)
        self.registers = config["num_registers"] if name == "tokenizer" or config["detokenizer_registers"] else 0
        first = patches + self.registers
        self.latents = slice(first, first + config["num_latent_tokens"])
        self.kept = self.latents if name == "tokenizer" else self.patches
        self.has_text = config["text_condition"] in ("both", name)
        self.cross = self.has_text and config["text_injection"] == "cross_attention"

    def caption_rows(self, caption, length):
        """Projected text [t,D] and which of its rows are seen, bool [t]."""
        if self.config["text_source"] == "class":
            return f64(self.w[f"{self.name}.class_embed"])[[caption]], np.ones(1, bool)
        rows = linear(self.w, f"{self.name}.text_proj", f64(caption))
        seen = np.ones(len(rows), bool)
        if self.config["text_mask"] and length is not None:
            seen[length:] = False
        return rows, seen

    def run(self, patches, latents, caption, length):
        """Tokens without positions -> [T,D] after the last norm."""
        w, sizes = self.w, self.config[self.name]
        registers = [f64(w[f"{self.name}.registers"])] if self.registers else []
        x = np.concatenate([patches, *registers, latents])
        mask = np.ones(len(x), bool)
        text = seen = None
        if self.has_text:
            text, seen = self.caption_rows(caption, length)
            if not self.cross:
                x, mask = np.concatenate([x, text]), np.concatenate([mask, seen])
                text = seen = None
        x = x + f64(w[f"{self.name}.pos_embed"])[: len(x)]
        if self.config["input_norm"]:
            x = layer_norm(w, f"{self.name}.input_norm", x, self.config["norm_eps"])
        self.note(f"{self.name}.embed", x, mask)
        for i in range(sizes["depth"]):
            last = i == sizes["depth"] - 1
            x = block(
                w, f"{self.name}.blocks.{i}", x, (self.config["norm_eps"], sizes["num_heads"], self.config["gelu"]),
                lambda name, value, last=last: self.note(name, value, mask, last), mask, text, seen,
                f64(w[f"{self.name}.rope.{i}"]) if self.config["rope"] else None,
            )
        x = layer_norm(w, f"{self.name}.norm", x, self.config["norm_eps"])
        self.note(f"{self.name}.norm", x, mask, True)
        return x

    def note(self, name, x, mask, kept_only=False):
        """Into the trace, one array an image: the rows that mean something, and after the last attention those that are
        read."""
        if self.trace is not None:
            self.trace.setdefault(name, []).append(x[self.kept] if kept_only else x[mask])
