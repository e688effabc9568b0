"""The cases of the goldens, and how their weights and inputs are made again from seeds: NumPy only.

Weights and inputs are not stored. Every array draws from its own generator,

    numpy.random.Generator(Philox(SeedSequence([seed, crc32 of its name])))

in float64 and is rounded to float32, so one array depends on no other and on no order. `make_goldens.py` stores in
`textok.npz`, `dit.npz` and `samplers.npz`, under `CASE/NAME`, what PyTorch and diffusers answer to them.
"""

import zlib

import numpy as np

SIDE = {"hidden_size": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 4}

TEXTOK_BASE = {
    "image_size": 12, "patch_size": 4, "num_latent_tokens": 5, "latent_dim": 3, "text_dim": 10, "num_text_tokens": 6,
    "text_mask": False, "text_condition": "both", "text_injection": "in_context", "text_source": "embedding", "num_classes": 0,
    "norm_eps": 1e-6, "gelu": "erf", "qkv_bias": True, "output_activation": "none", "kl": False,
    "tokenizer": SIDE, "detokenizer": SIDE,
}  # fmt: skip

CLASSES = {"text_source": "class", "num_classes": 4, "num_text_tokens": 1}

# name -> (changes to TEXTOK_BASE, rows of text given). Lengths are drawn where the config masks; a batch is two images.
TEXTOK_CASES = {
    "both": ({}, 6),
    "both-short": ({}, 4),
    "tokenizer": ({"text_condition": "tokenizer"}, 6),
    "detokenizer": ({"text_condition": "detokenizer"}, 6),
    "none": ({"text_condition": "none"}, 0),
    "mask": ({"text_mask": True}, 6),
    "mask-short": ({"text_mask": True, "gelu": "tanh"}, 5),
    "cross": ({"text_injection": "cross_attention"}, 6),
    "cross-mask": ({"text_injection": "cross_attention", "text_mask": True}, 5),
    "cross-tokenizer": ({"text_injection": "cross_attention", "text_condition": "tokenizer", "qkv_bias": False}, 6),
    "class": (CLASSES, 0),
    "class-cross": ({**CLASSES, "text_injection": "cross_attention"}, 0),
    "tanh-gelu": ({"gelu": "tanh", "output_activation": "tanh"}, 6),
    "no-bias-kl": ({"qkv_bias": False, "kl": True, "norm_eps": 1e-5}, 6),
    "sides": (
        {
            "tokenizer": {"hidden_size": 20, "depth": 1, "num_heads": 1, "mlp_ratio": 3},
            "detokenizer": {"hidden_size": 36, "depth": 3, "num_heads": 3, "mlp_ratio": 2.5},
            "text_mask": True,
        },
        6,
    ),
    "patches": ({"image_size": 18, "patch_size": 3, "num_latent_tokens": 1, "latent_dim": 8, "text_condition": "none"}, 0),
}  # fmt: skip

DIT_BASE = {
    "num_tokens": 5, "in_channels": 3, "hidden_size": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 4, "num_classes": 4,
    "learn_sigma": True, "norm_eps": 1e-6, "time_freq_dim": 16, "condition": "class", "text_dim": 0, "num_text_tokens": 0,
    "patch_size": 1, "guidance_channels": None, "latent_mean": 0.0, "latent_std": 1.0, "num_train_timesteps": 1000,
    "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "prediction": "epsilon",
}  # fmt: skip

TEXT = {"condition": "text", "num_classes": 0, "text_dim": 10, "num_text_tokens": 6}

# name -> (changes to DIT_BASE, rows of text given). A batch is four samples; the last takes the null condition.
DIT_CASES = {
    "class": ({}, 0),
    "class-plain": ({"learn_sigma": False, "prediction": "v", "norm_eps": 1e-5}, 0),
    "class-wide": ({"hidden_size": 60, "num_heads": 3, "mlp_ratio": 2, "in_channels": 8, "time_freq_dim": 256}, 0),
    "class-deep": ({"depth": 4, "num_heads": 4, "learn_sigma": False, "prediction": "sample"}, 0),
    "text": (TEXT, 6),
    "text-short": (TEXT, 4),
    "text-plain": ({**TEXT, "learn_sigma": False, "prediction": "v", "num_heads": 1}, 5),
}

TIMESTEPS = [0, 1, 517, 999]

# Runs of the samplers. `model` is "toy" or a case of DIT_CASES; "prediction" and "learn_sigma" are the toy's.
SAMPLER_BASE = {
    "model": "toy", "prediction": "epsilon", "learn_sigma": False, "solver": "ddim", "steps": 7, "spacing": "leading",
    "eta": 0.0, "guidance_scale": 1.0, "guidance_channels": None, "guidance_interval": None,
}  # fmt: skip

SAMPLER_CASES = {
    "ddim-leading": {},
    "ddim-leading-one": {"steps": 1},
    "ddim-leading-v": {"prediction": "v", "steps": 10},
    "ddim-leading-sample": {"prediction": "sample"},
    "ddim-leading-eta": {"eta": 1.0},
    "ddim-leading-eta-half": {"eta": 0.5, "prediction": "v", "learn_sigma": True},
    "ddim-trailing": {"spacing": "trailing", "steps": 10},
    "ddim-trailing-uneven": {"spacing": "trailing"},
    "ddim-trailing-eta": {"spacing": "trailing", "steps": 8, "eta": 0.7},
    "ddim-guided": {"guidance_scale": 3.0},
    "ddim-guided-channels": {"guidance_scale": 3.0, "guidance_channels": 2, "learn_sigma": True, "eta": 0.3},
    "ddim-guided-interval": {"guidance_scale": 2.0, "guidance_interval": (200, 600), "steps": 10},
    "dpm-linspace": {"solver": "dpmsolver++", "spacing": "linspace"},
    "dpm-linspace-one": {"solver": "dpmsolver++", "spacing": "linspace", "steps": 1},
    "dpm-linspace-two": {"solver": "dpmsolver++", "spacing": "linspace", "steps": 2},
    "dpm-linspace-many": {"solver": "dpmsolver++", "spacing": "linspace", "steps": 25},
    "dpm-linspace-v": {"solver": "dpmsolver++", "spacing": "linspace", "prediction": "v"},
    "dpm-linspace-sample": {"solver": "dpmsolver++", "spacing": "linspace", "prediction": "sample"},
    "dpm-leading": {"solver": "dpmsolver++", "steps": 10},
    "dpm-trailing": {"solver": "dpmsolver++", "spacing": "trailing", "learn_sigma": True},
    "dpm-guided": {"solver": "dpmsolver++", "spacing": "linspace", "guidance_scale": 4.0, "steps": 12},
    "ddpm-leading": {"solver": "ddpm", "steps": 10},
    "ddpm-leading-learned": {"solver": "ddpm", "steps": 10, "learn_sigma": True},
    "ddpm-leading-v": {"solver": "ddpm", "steps": 8, "learn_sigma": True, "prediction": "v"},
    "ddpm-leading-guided": {"solver": "ddpm", "steps": 10, "learn_sigma": True, "guidance_scale": 2.0},
    "dit-ddim": {"model": "class", "guidance_scale": 2.0, "steps": 10},
    "dit-ddim-eta": {"model": "class-plain", "eta": 1.0},
    "dit-dpm": {"model": "class", "solver": "dpmsolver++", "spacing": "linspace", "guidance_scale": 1.5},
    "dit-dpm-sample": {"model": "class-deep", "solver": "dpmsolver++", "spacing": "linspace"},
    "dit-ddpm": {"model": "class", "solver": "ddpm", "steps": 10},
    "dit-text-ddim": {"model": "text", "guidance_scale": 2.0, "steps": 5},
    "dit-text-dpm": {"model": "text-short", "solver": "dpmsolver++", "spacing": "linspace", "guidance_scale": 1.5},
}

TOY_SHAPE = (3, 5, 3)  # B, N, C


def textok_config(name):
    """The whole config of a TexTok case, with its model_type."""
    return {"model_type": "textok"} | TEXTOK_BASE | TEXTOK_CASES[name][0]


def dit_config(name):
    """The whole config of a DiT case."""
    return {"model_type": "dit"} | DIT_BASE | DIT_CASES[name][0]


def sampler_case(name):
    """All fields of a sampler case; for a DiT its own prediction and learn_sigma."""
    case = SAMPLER_BASE | SAMPLER_CASES[name]
    if case["model"] != "toy":
        config = dit_config(case["model"])
        case |= {"prediction": config["prediction"], "learn_sigma": config["learn_sigma"]}
    return case


def draw(name, shape, seed=0):
    """Standard normal float64 of `shape` that depend on name and seed alone."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
    return np.random.Generator(np.random.Philox(sequence)).standard_normal(shape)


def draw_integers(name, low, high, count, seed=0):
    """`count` integers of low..high-1."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
    return np.random.Generator(np.random.Philox(sequence)).integers(low, high, count)


def make_weights(shapes, case):
    """Weights of a case, float32, from {name: shape} of its tensors: no term is zero or one, attention far from uniform.

    Matrices of linears have a standard deviation of 1.2 / sqrt(in), norms scatter around one, and all else has 0.3.
    """
    weights = {}
    for name, shape in shapes.items():
        values = draw(f"{case}/{name}", shape)
        if len(shape) == 2 and name.endswith(".weight") and "embedding_table" not in name:
            values = values * 1.2 / np.sqrt(shape[1])
        elif len(shape) == 1 and "norm" in name and name.endswith(".weight"):
            values = 1 + 0.2 * values
        else:
            values = 0.3 * values
        weights[name] = values.astype(np.float32)
    return weights


def captions(case, batch, rows, config):
    """{} or {text [B,t,Dt], text_lengths [B]}; lengths reach from one to all rows."""
    if not rows:
        return {}
    text = draw(f"{case}/text", (batch, rows, config["text_dim"])).astype(np.float32)
    lengths = draw_integers(f"{case}/lengths", 1, rows + 1, batch)
    lengths[0], lengths[-1] = rows, min(2, rows)
    return {"text": text, "text_lengths": lengths}


def textok_inputs(name, batch=2):
    """images [B,S,S,3] in [-1,1], latents [B,N,d] for the detokenizer, and {text, text_lengths} or {labels}."""
    config, (_, rows) = textok_config(name), TEXTOK_CASES[name]
    images = np.clip(0.5 * draw(f"{name}/images", (batch, config["image_size"], config["image_size"], 3)), -1, 1)
    latents = draw(f"{name}/latents", (batch, config["num_latent_tokens"], config["latent_dim"]))
    if config["text_source"] == "class":
        condition = {"labels": draw_integers(f"{name}/labels", 0, config["num_classes"], batch)}
    else:
        condition = captions(name, batch, rows, config)
        if not config["text_mask"]:
            condition.pop("text_lengths", None)
    return images.astype(np.float32), latents.astype(np.float32), condition


def dit_inputs(name, batch=4):
    """x [B,N,C], t [B], and {labels} or {text, text_lengths}; for the last sample the null condition is meant.

    Among labels the null one is num_classes; among captions the last one's rows are to be ignored.
    """
    config, (_, rows) = dit_config(name), DIT_CASES[name]
    x = draw(f"{name}/x", (batch, config["num_tokens"], config["in_channels"])).astype(np.float32)
    t = np.array(TIMESTEPS)
    if config["condition"] == "class":
        labels = draw_integers(f"{name}/labels", 0, config["num_classes"], batch)
        labels[-1] = config["num_classes"]
        return x, t, {"labels": labels}
    return x, t, captions(name, batch, rows, config)


def sampler_inputs(name):
    """Start noise [B,N,C], step noise [steps,B,N,C] and the condition, as dit_inputs gives it, of three samples."""
    case = sampler_case(name)
    shape, condition = TOY_SHAPE, {"labels": np.array([0, 1, 3])}
    if case["model"] != "toy":
        config = dit_config(case["model"])
        shape = (3, config["num_tokens"], config["in_channels"])
        condition = {k: v[:3] for k, v in dit_inputs(case["model"])[2].items()}
    noise = draw(f"{name}/noise", shape).astype(np.float32)
    step_noise = draw(f"{name}/step_noise", (case["steps"], *shape)).astype(np.float32)
    return noise, step_noise, condition


def toy_denoiser(x, t, labels, learn_sigma):
    """A stand-in for a model, float64: x [B,N,C], t a train timestep, labels [B] (4: none) -> [B,N,C or 2C].

    prediction = 0.6 tanh(x A) + 0.4 x cos(t / 400) + 0.1 sin(labels + 1); fraction = tanh(x B + t / 1000).
    """
    x = np.asarray(x, np.float64)
    channels = x.shape[-1]
    a, b = draw("toy/a", (channels, channels)), draw("toy/b", (channels, channels))
    bias = 0.1 * np.sin(np.asarray(labels, np.float64) + 1)[:, None, None]
    prediction = 0.6 * np.tanh(x @ a) + 0.4 * x * np.cos(t / 400) + bias
    return np.concatenate([prediction, np.tanh(x @ b + t / 1000)], axis=-1) if learn_sigma else prediction


def guide(conditional, unconditional, scale, channels, count):
    """u + scale (c - u) on the first `count` of the prediction's `channels`; the rest is the conditional's."""
    out = np.array(conditional)
    some = slice(0, channels if count is None else count)
    out[..., some] = unconditional[..., some] + scale * (conditional[..., some] - unconditional[..., some])
    return out
