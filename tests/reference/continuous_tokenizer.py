"""SoftVQ-VAE and MAETok under their own names, written from the papers and the layout of their files: a ViT of DINOv2's kind on
each side, rows are tokens. `w` is a dict of the file's tensors, `said` its config.json."""

import numpy as np

from .layers import attention, f64, gelu, layer_norm, linear, rotated
from .textok_model import patchify, soft_codes, unpatchify

EPS = 1e-6


def random_model(said, sides, patch, codebooks=None, registers=0, seed=0):
    """Tensors of a model; `sides` are (width, heads, blocks, MLP width) of encoder and decoder, `registers` what is beside the
    class token."""
    rng = np.random.default_rng(seed)
    N, d, P = said["num_latent_tokens"], said["codebook_embed_dim"], (said["image_size"] // patch) ** 2
    w = {}

    def put(name, *shape, scale=1.0, around=0.0):
        w[name] = (around + scale * rng.standard_normal(shape)).astype(np.float32)

    def put_linear(name, rows, columns):
        put(f"{name}.weight", rows, columns, scale=columns**-0.5)
        put(f"{name}.bias", rows, scale=0.1)

    for side, (D, _, depth, F) in zip(("encoder", "decoder"), sides, strict=True):
        model = f"{side}.model"
        put(f"{model}.cls_token", 1, 1, D)
        if registers:
            put(f"{model}.reg_token", 1, registers, D)
        put(f"{model}.pos_embed", 1, P + (registers == 0), D, scale=0.5)
        put(f"{side}.latent_pos_embed", 1, N, D, scale=0.5)
        for i in range(depth):
            b = f"{model}.blocks.{i}"
            for name, rows, columns in (("attn.qkv", 3 * D, D), ("attn.proj", D, D), ("mlp.fc1", F, D), ("mlp.fc2", D, F)):
                put_linear(f"{b}.{name}", rows, columns)
            for name in ("ls1.gamma", "ls2.gamma"):
                put(f"{b}.{name}", D, scale=0.7)
        for norm in (f"{model}.norm", *(f"{model}.blocks.{i}.norm{k}" for i in range(depth) for k in (1, 2))):
            put(f"{norm}.weight", D, scale=0.1, around=1.0)
            put(f"{norm}.bias", D, scale=0.1)
        if said["use_rope"]:
            put(f"{side}.freqs", 2, depth, D // 2, scale=0.4)
            places, width = np.arange(P), int(P**0.5)
            w |= {f"{side}.freqs_t_x": np.float32(places % width), f"{side}.freqs_t_y": np.float32(places // width)}
    put("encoder.model.patch_embed.proj.weight", sides[0][0], 3, patch, patch, scale=(3 * patch**2) ** -0.5)
    put("encoder.model.patch_embed.proj.bias", sides[0][0], scale=0.1)
    put("encoder.latent_tokens", 1, N, sides[0][0])
    put("decoder.mask_token", 1, 1, sides[1][0])
    put_linear("quant_conv", d, sides[0][0])
    put_linear("post_quant_conv", sides[1][0], d)
    put_linear("decoder.to_pixel.model", 3 * patch**2, sides[1][0])
    if codebooks:
        put("quantize.embedding", *codebooks, d)
    return w


def vit(w, said, side, heads, patches, latents, has_class):
    """[P,D] and [N,D] -> all rows after the last norm, and where the patches begin."""
    model = f"{side}.model"
    names = ("cls_token", "reg_token") if has_class else ()
    before = [f64(w[f"{model}.{name}"])[0] for name in names if f"{model}.{name}" in w]
    first = sum(map(len, before))
    positions = f64(w[f"{model}.pos_embed"])[0]
    of_class = positions[: len(positions) - len(patches)]  # none in ViTs with register tokens
    if side == "encoder" or not said["use_rope"]:
        patches = patches + positions[len(of_class) :]
        if before and len(of_class):
            before[0] = before[0] + of_class
    x = np.concatenate([*before, patches, latents + f64(w[f"{side}.latent_pos_embed"])[0]])
    depth = len({name.split(".")[3] for name in w if name.startswith(f"{model}.blocks.")})
    for i in range(depth):
        b = f"{model}.blocks.{i}"
        q, k, v = np.split(linear(w, f"{b}.attn.qkv", layer_norm(w, f"{b}.norm1", x, EPS)), 3, axis=1)
        if said["use_rope"]:
            along = f64(w[f"{side}.freqs"])[:, i].reshape(2, heads, 1, -1)
            turns = sum(along[axis] * f64(w[f"{side}.freqs_t_{'xy'[axis]}"])[:, None] for axis in (0, 1))
            q, k = (np.concatenate([rows[:first], rotated(rows[first:], turns)]) for rows in (q, k))
        added = linear(w, f"{b}.attn.proj", attention(q, k, v, heads))
        x = x + f64(w[f"{b}.ls1.gamma"]) * added
        added = linear(w, f"{b}.mlp.fc2", gelu(linear(w, f"{b}.mlp.fc1", layer_norm(w, f"{b}.norm2", x, EPS)), "erf"))
        x = x + f64(w[f"{b}.ls2.gamma"]) * added
    return layer_norm(w, f"{model}.norm", x, EPS), first


def encode(w, said, heads, image):
    """image [S,S,3] -> latents [N,d]."""
    kernel = f64(w["encoder.model.patch_embed.proj.weight"])
    patches = patchify(f64(image), kernel.shape[-1]) @ kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1).T
    patches = patches + f64(w["encoder.model.patch_embed.proj.bias"])
    rows, _ = vit(w, said, "encoder", heads, patches, f64(w["encoder.latent_tokens"])[0], True)
    z = linear(w, "quant_conv", rows[-said["num_latent_tokens"] :])
    if "quantize.embedding" not in w:
        return z
    codes = f64(w["quantize.embedding"])
    return soft_codes({"runs": len(codes), "l2_norm": said["codebook_l2_norm"], "tau": said["tau"]}, codes, z)


def decode(w, said, heads, z):
    """latents [N,d] -> image [S,S,3], unclipped."""
    patch = int((len(w["decoder.to_pixel.model.bias"]) // 3) ** 0.5)
    P = (said["image_size"] // patch) ** 2
    masks = np.repeat(f64(w["decoder.mask_token"])[0], P, axis=0)
    rows, first = vit(w, said, "decoder", heads, masks, linear(w, "post_quant_conv", f64(z)), said["dec_cls_token"])
    return unpatchify(linear(w, "decoder.to_pixel.model", rows[first : first + P]), said["image_size"], patch)
