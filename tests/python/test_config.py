"""Configs: defaults, round trips, and an error that says what came for every bad value."""

import copy
import dataclasses
import json
import math
import pickle

import numpy as np
import pytest

from textok import ConfigError, DiTConfig, SideConfig, TexTokConfig

TEXT = {"condition": "text", "text_dim": 8, "num_text_tokens": 3}


def test_defaults_are_the_design_point():
    config = TexTokConfig()
    assert (config.image_size, config.patch_size, config.num_latent_tokens, config.latent_dim) == (256, 8, 128, 8)
    assert config.num_patches == 1024 and config.latent_shape == (128, 8) and config.image_shape == (256, 256, 3)
    assert config.tokenizer == config.detokenizer == SideConfig(768, 12, 12, 4.0)
    assert not config.text_mask and config.text_condition == "both" and config.gelu == "erf"
    dit = DiTConfig(num_tokens=128)
    assert (dit.hidden_size, dit.depth, dit.num_heads, dit.num_classes, dit.num_outputs) == (1152, 28, 16, 1000, 16)


@pytest.mark.parametrize(
    "config",
    [
        TexTokConfig(),
        TexTokConfig(text_source="class", num_classes=7),
        TexTokConfig(rope={"rows": "patches"}),
        TexTokConfig(text_condition="none", tokenizer={"depth": 3}),
        DiTConfig(num_tokens=4),
        DiTConfig(num_tokens=4, in_channels=2, latent_mean=[1, 2], latent_std=3, guidance_channels=1),
        DiTConfig(num_tokens=4, **TEXT),
    ],
)
def test_round_trip(config):
    values = json.loads(json.dumps(config.to_dict()))
    assert type(config).from_dict(values) == config
    del values["model_type"]
    assert type(config).from_dict(values) == config
    assert pickle.loads(pickle.dumps(config)) == config == copy.deepcopy(config)
    assert hash(config) == hash(type(config).from_dict(values))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.norm_eps = 1.0


def test_what_follows_from_other_fields():
    assert TexTokConfig(text_source="class", num_classes=7, num_text_tokens=128).num_text_tokens == 1
    assert DiTConfig(num_tokens=4, **TEXT).num_classes == 0
    assert DiTConfig(num_tokens=4, in_channels=3, latent_std=2).latent_std == (2.0, 2.0, 2.0)
    assert DiTConfig(num_tokens=4, learn_sigma=False).num_outputs == 8
    assert [TexTokConfig(text_condition=c).has_text("tokenizer") for c in ("both", "tokenizer", "detokenizer", "none")] == [
        True,
        True,
        False,
        False,
    ]


def test_numpy_numbers_become_python_numbers():
    config = DiTConfig.from_dict({"num_tokens": np.int64(4), "norm_eps": np.float32(1e-5), "latent_mean": np.zeros(8)})
    json.dumps(config.to_dict())
    assert type(config.num_tokens) is int


INTEGERS = (True, 1.0, "1", None, -1, 0, 10**9, 10**30, math.nan, [1])
TEXTOK_BAD = [
    *(
        ({name: value}, name)
        for name in ("image_size", "patch_size", "num_latent_tokens", "latent_dim", "text_dim", "num_text_tokens")
        for value in INTEGERS
    ),
    *(
        ({side: {name: value}}, f"{side}.{name}")
        for side in ("tokenizer", "detokenizer")
        for name in ("hidden_size", "depth", "num_heads")
        for value in INTEGERS
    ),
    *(({"norm_eps": value}, "norm_eps") for value in (True, "1e-6", None, -1e-6, 0, 2, math.nan, math.inf)),
    *(
        ({"tokenizer": {"mlp_ratio": value}}, "tokenizer.mlp_ratio")
        for value in (True, "4", None, -4, 0, 1e9, math.nan, 4.0001)
    ),
    *(({name: value}, name) for name in ("text_mask", "qkv_bias", "kl") for value in (0, 1, "true", None)),
    *(
        ({name: value}, name)
        for name in ("text_condition", "text_injection", "text_source", "gelu", "output_activation")
        for value in ("relu", "", None, 3, ["both"])
    ),
    ({"image_size": 255}, "patch_size: expected a divisor of image_size, 255, got 8"),
    ({"image_size": 16384, "patch_size": 2}, "at most 1048576 patches"),
    ({"patch_overlap": 5}, "patch_overlap: expected an integer from 0 to 4, got 5"),
    ({"tokenizer": {"num_heads": 7}}, "tokenizer.num_heads: expected a divisor of hidden_size, 768, got 7"),
    ({"tokenizer": None}, "tokenizer: expected an object"),
    ({"tokenizer": [768, 12]}, "tokenizer: expected an object"),
    ({"text_source": "class"}, "num_classes"),
    ({"text_source": "class", "num_classes": True}, "num_classes"),
    ({"num_classes": 10}, 'num_classes: expected 0 where text_source is "embedding", got 10'),
    ({"imagesize": 256}, "unknown config key: imagesize (did you mean 'image_size'?)"),
    ({"zzz": 1, "qqq": 2}, "unknown config keys: zzz, qqq; known are image_size,"),
    ({"tokenizer": {"width": 3}}, "unknown config key: tokenizer.width"),
    ({"model_type": "dit"}, "model_type: expected 'textok', got 'dit'"),
]
DIT_BAD = [
    *(
        ({name: value}, name)
        for name in ("num_tokens", "in_channels", "hidden_size", "depth", "num_heads", "num_train_timesteps")
        for value in INTEGERS
    ),
    *(({"num_classes": value}, "num_classes") for value in (True, 1.0, "1", -1, 0, 10**9)),
    *(({"guidance_channels": value}, "guidance_channels") for value in (True, 1.0, "1", -1, 0, 9)),
    *(({"time_freq_dim": value}, "time_freq_dim") for value in (0, 1, 255, True, 256.0)),
    *(
        ({name: value}, name)
        for name in ("beta_start", "beta_end")
        for value in (True, "1", None, 0, -1, 1, math.nan, math.inf)
    ),
    *(
        ({name: value}, name)
        for name in ("latent_mean", "latent_std")
        for value in ("0", None, {}, [1] * 7, [[1]] * 8, math.nan, [math.inf] * 8)
    ),
    ({"latent_std": 0}, "latent_std"),
    ({"beta_start": 0.03}, "beta_end: expected a number from 0.03 to 0.999, got 0.02"),
    ({"num_train_timesteps": 50_000}, "keeps some of the signal"),
    *(({name: value}, name) for name in ("condition", "beta_schedule", "prediction") for value in ("square", "", None, 1)),
    ({"learn_sigma": 1}, "learn_sigma"),
    ({"text_dim": 8}, 'text_dim: expected 0 where condition is "class", got 8'),
    ({"condition": "text"}, 'text_dim (with condition "text")'),
    ({**TEXT, "num_classes": 10}, 'num_classes: expected 0 where condition is "text", got 10'),
    ({**TEXT, "num_text_tokens": 0}, "num_text_tokens"),
    ({"patch_size": 2}, "patch_size: expected 1 without input_size, the side of a latent image, got 2"),
    (
        {"patch_size": 2, "input_size": 32},
        "num_tokens: expected the 256 patches of input_size 32 and patch_size 2, or nothing, got 16",
    ),
    ({"patch_size": 3, "input_size": 8}, "patch_size: expected a divisor of input_size, 8, got 3"),
    ({"patch_size": 0, "input_size": 8}, "patch_size"),
    *(({"input_size": value}, "input_size") for value in (0, -1, 1.5, "8", True)),
    ({"input_size": 16384}, "at most 1048576 patches"),
    *(({"mlp_norm_eps": value}, "mlp_norm_eps") for value in (0, 1, "1e-5")),
    *(({"time_freq_shift": value}, "time_freq_shift") for value in (-1, 2, None)),
    ({"time_freq_shift": 1, "time_freq_dim": 2}, "time_freq_dim: expected an integer from 4"),
    ({"hidden": 3}, "did you mean"),
]


@pytest.mark.parametrize(("changes", "message"), TEXTOK_BAD)
def test_textok_errors(changes, message):
    with pytest.raises(ConfigError) as caught:
        TexTokConfig.from_dict(changes)
    assert message in str(caught.value) and len(str(caught.value)) < 500
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("changes", "message"), DIT_BAD)
def test_dit_errors(changes, message):
    with pytest.raises(ConfigError) as caught:
        DiTConfig.from_dict({"num_tokens": 16} | changes)
    assert message in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("values", [None, 3, "config.json", [("num_tokens", 4)]])
def test_not_a_dict(values):
    with pytest.raises(ConfigError, match="expected a dict"):
        DiTConfig.from_dict(values)


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match="config key missing: num_tokens"):
        DiTConfig.from_dict({})


def test_latent_images():
    """The original DiT-XL/2 at 256 pixels: tokens are counted, samples are images."""
    config = DiTConfig.from_dict({"input_size": 32, "patch_size": 2, "in_channels": 4, "guidance_channels": 3})
    assert (config.num_tokens, config.latent_shape, config.output_shape) == (256, (4, 32, 32), (8, 32, 32))
    assert DiTConfig.from_dict(config.to_dict()) == config
    assert DiTConfig(num_tokens=4).output_shape == (4, 16)


def test_long_values_are_cut_in_messages():
    with pytest.raises(ConfigError) as caught:
        TexTokConfig(gelu="x" * 10**6)
    assert len(str(caught.value)) < 200
