"""Small models of the Python face, with random weights, for tests of everything but their arithmetic."""

from functools import cache

import numpy as np
from engine_models import dit_config, textok_config

from textok import CaptionStore, DiT, Pipeline, TexTok

RNG = np.random.default_rng(0)


@cache
def textok(**changes):
    return TexTok.from_config(textok_config(**changes), seed=1)


@cache
def dit(**changes):
    return DiT.from_config(dit_config(**changes), seed=2)


def text_of(model, batch=3, rows=None, seed=0):
    """Caption embeddings as `model` takes them."""
    config = model.config
    return (
        np.random.default_rng(seed).standard_normal((batch, rows or config.num_text_tokens, config.text_dim)).astype(np.float32)
    )


def pictures_of(model, batch=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, *model.config.image_shape), np.uint8)


def latents_of(model, batch=3, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, *model.config.latent_shape)).astype(np.float32)


@cache
def captions(count=18, classes=9, text_dim=12, longest=7):
    """Two captions of each class, of 1 to `longest` tokens."""
    lengths = np.arange(count) % longest + 1
    offsets = np.append(0, np.cumsum(lengths))
    records = [{"caption": f"caption {i}", "label": i % classes, "source": "made up"} for i in range(count)]
    return CaptionStore(records, np.random.default_rng(3).standard_normal((offsets[-1], text_dim)).astype(np.float32), offsets)


@cache
def class_pipeline():
    return Pipeline(textok(text_mask=True), dit(), captions())


@cache
def text_pipeline():
    return Pipeline(textok(text_mask=True), dit(condition="text"))
