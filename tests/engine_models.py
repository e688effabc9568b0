"""Tiny models of every variant: configs, random weights in which every term counts, inputs, and calls of the engine with a
trace."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from reference import dit_model, textok_model

from textok import _core
from textok.config import DiTConfig, TexTokConfig

SIDE = {"hidden_size": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 4}


def textok_config(**changes):
    """A whole config, as to_dict gives it, of a model that runs in about a millisecond."""
    base = {
        "image_size": 16, "patch_size": 4, "num_latent_tokens": 6, "latent_dim": 5, "text_dim": 12, "num_text_tokens": 7,
        "tokenizer": dict(SIDE), "detokenizer": dict(SIDE),
    }
    if changes.get("text_source") == "class":
        base["num_classes"] = 9
    return TexTokConfig.from_dict(base | changes).to_dict()


def dit_config(**changes):
    base = {"in_channels": 5, "hidden_size": 32, "depth": 2, "num_heads": 2, "time_freq_dim": 16}
    if "input_size" not in changes:
        base["num_tokens"] = 6
    if changes.get("condition") == "text":
        base |= {"text_dim": 12, "num_text_tokens": 7}
    else:
        base["num_classes"] = 9
    return DiTConfig.from_dict(base | changes).to_dict()


def random_weights(config, seed=0):
    """Weights in which no term is zero or one: norms near 1, biases and gates that show, attention that is far from uniform."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in _core.weight_table(config["model_type"], config):
        values = rng.standard_normal(shape, np.float32)
        if len(shape) == 2 and name.endswith("weight") and "embedding_table" not in name:
            # DiT's last layer gives variance fractions, which mean something from -1 to 1: far outside, sampling explodes.
            values *= np.float32((0.4 if name.startswith("final_layer.linear") else 1.5) / np.sqrt(shape[1]))
        elif "norm" in name and name.endswith("weight"):
            values = np.float32(1) + np.float32(0.2) * values
        else:
            values *= np.float32(0.3)
        weights[name] = values
    return weights


def gathered(trace):
    """A trace's parts joined: {name: [rows, D]}."""
    return {name: np.concatenate(parts) for name, parts in trace.items()}


@dataclass
class TinyTexTok:
    """One model in the engine and in the specification, called alike; arguments are batches."""

    config: dict[str, Any]
    seed: int = 0

    def __post_init__(self):
        self.weights = random_weights(self.config, self.seed)

    @cached_property
    def engine(self):
        return _core.Model("textok", self.config, self.weights)

    def has_text(self, side):
        return self.config["text_condition"] in ("both", side)

    def inputs(self, batch=3, seed=1, rows=None):
        """Images, latents and the captions' part of the arguments: {text, text_lengths} or {labels}, as the model takes it."""
        rng = np.random.default_rng(seed)
        c = self.config
        x = rng.uniform(-1, 1, (batch, c["image_size"], c["image_size"], 3)).astype(np.float32)
        z = rng.standard_normal((batch, c["num_latent_tokens"], c["latent_dim"])).astype(np.float32)
        if c["text_condition"] == "none":
            return x, z, {}
        if c["text_source"] == "class":
            return x, z, {"labels": rng.integers(0, c["num_classes"], batch).astype(np.int32)}
        rows = rows or c["num_text_tokens"]
        text = rng.standard_normal((batch, rows, c["text_dim"])).astype(np.float32)
        return x, z, {"text": text, "text_lengths": rng.integers(1, rows + 1, batch).astype(np.int32)}

    def _captions(self, side, batch, captions):
        """What the engine wants for a side: it masks by lengths always, so without `text_mask` all rows count."""
        if not self.has_text(side) or not captions:
            return None, None, None
        if "labels" in captions:
            return None, None, captions["labels"]
        lengths = captions["text_lengths"]
        if not self.config["text_mask"]:
            lengths = np.full(batch, captions["text"].shape[1], np.int32)
        return captions["text"], lengths, None

    def encode(self, x, captions, threads=0, trace=None):
        c = self.config
        out = np.empty((len(x), c["num_latent_tokens"], c["latent_dim"]), np.float32)
        self.engine.encode(x, *self._captions("tokenizer", len(x), captions), out, threads, trace)
        return out

    def decode(self, z, captions, threads=0, trace=None, dtype=np.float32):
        size = self.config["image_size"]
        out = np.empty((len(z), size, size, 3), dtype)
        self.engine.decode(z, *self._captions("detokenizer", len(z), captions), out, threads, trace)
        return out

    def _each(self, function, side, batch, captions, trace, config, weights):
        """The specification, image by image."""
        out = []
        for b, image in enumerate(batch):
            caption = length = None
            if self.has_text(side) and captions:
                caption = captions["labels"][b] if "labels" in captions else captions["text"][b]
                length = captions.get("text_lengths", [None] * len(batch))[b]
            out.append(function(config or self.config, weights or self.weights, image, caption, length, trace))
        return np.stack(out)

    def encode_spec(self, x, captions, trace=None, config=None, weights=None):
        return self._each(textok_model.encode, "tokenizer", x, captions, trace, config, weights)

    def decode_spec(self, z, captions, trace=None, config=None, weights=None):
        return self._each(textok_model.decode, "detokenizer", z, captions, trace, config, weights)


@dataclass
class TinyDiT:
    """One DiT in the engine and in the specification."""

    config: dict[str, Any]
    seed: int = 0

    def __post_init__(self):
        self.weights = random_weights(self.config, self.seed)

    @cached_property
    def engine(self):
        return _core.Model("dit", self.config, self.weights)

    def inputs(self, batch=3, seed=1, rows=None):
        """Noisy latents, timesteps and the condition: {labels} or {text, text_lengths}."""
        rng = np.random.default_rng(seed)
        c = self.config
        x = rng.standard_normal((batch, *DiTConfig.from_dict(c).latent_shape)).astype(np.float32)
        t = rng.integers(0, c["num_train_timesteps"], batch).astype(np.float32)
        if c["condition"] == "class":
            return x, t, {"labels": rng.integers(0, c["num_classes"] + 1, batch).astype(np.int32)}
        rows = rows or c["num_text_tokens"]
        text = rng.standard_normal((batch, rows, c["text_dim"])).astype(np.float32)
        return x, t, {"text": text, "text_lengths": rng.integers(1, rows + 1, batch).astype(np.int32)}

    def denoise(self, x, t, condition=None, threads=0, trace=None):
        """`condition` None: the null condition for every image."""
        out = np.empty((len(x), *DiTConfig.from_dict(self.config).output_shape), np.float32)
        given = condition or {}
        self.engine.denoise(
            x, t, given.get("labels"), given.get("text"), given.get("text_lengths"), condition is None, out, threads, trace
        )
        return out

    def sample(self, start, schedule, condition, guidance, step_noise=None, callback=None, threads=0):
        """A whole run from `start` with the rows of a `textok.schedules.Schedule`; guidance a number or one a step."""
        x = start.copy()
        scales = np.broadcast_to(np.asarray(guidance, np.float32), len(schedule.timesteps)).copy()
        self.engine.sample(
            x,
            schedule.timesteps.astype(np.float32),
            schedule.update,
            scales,
            step_noise,
            condition.get("labels"),
            condition.get("text"),
            condition.get("text_lengths"),
            callback,
            threads,
        )
        return x

    def condition_of(self, condition, b):
        """Image b's condition as the specification takes it."""
        if condition is None:
            return dit_model.NULL
        if "labels" in condition:
            return int(condition["labels"][b])
        return condition["text"][b, : condition["text_lengths"][b]]

    def denoise_spec(self, x, t, condition=None, trace=None, config=None, weights=None):
        return np.stack(
            [
                dit_model.evaluate(
                    config or self.config, weights or self.weights, x[b], t[b], self.condition_of(condition, b), trace
                )
                for b in range(len(x))
            ]
        )
