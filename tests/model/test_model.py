"""The engine against the specification: every variant of TexTok and DiT, outputs and every intermediate."""

import itertools
import sys

import numerics
import numpy as np
import pytest
from engine_models import TinyDiT, TinyTexTok, dit_config, gathered, textok_config

MASKED = {"text_mask": True}
CROSS = {"text_injection": "cross_attention"}
ROPE = {"rope": {"rows": "patches"}}
SMALL = {"depth": 1, "mlp_ratio": 2}

# Where text enters, how, and from what: the full product.
TEXT_VARIANTS = [
    {"text_condition": condition, "text_injection": injection, "text_source": source}
    for condition, injection, source in itertools.product(
        ("both", "tokenizer", "detokenizer", "none"), ("in_context", "cross_attention"), ("embedding", "class"))
]
OTHER_VARIANTS = {
    "masked": MASKED,
    "masked, tokenizer only": MASKED | {"text_condition": "tokenizer"},
    "masked, cross-attention": MASKED | CROSS,
    "tanh GELU": {"gelu": "tanh"},
    "no qkv bias": {"qkv_bias": False},
    "no qkv bias, cross-attention": CROSS | {"qkv_bias": False},
    "tanh output": {"output_activation": "tanh"},
    "kl": {"kl": True},
    "norm_eps": {"norm_eps": 1e-2},
    "everything at once": MASKED
    | CROSS
    | {"gelu": "tanh", "qkv_bias": False, "output_activation": "tanh", "kl": True, "norm_eps": 1e-3},
    "one patch, one latent, one text row": {
        "patch_size": 16,
        "num_latent_tokens": 1,
        "num_text_tokens": 1,
        "latent_dim": 1,
        "text_dim": 1,
    },
    "patch 1": {"image_size": 6, "patch_size": 1},
    "patch 3 of 15": {"image_size": 15, "patch_size": 3},
    "patch 7 of 21": MASKED | {"image_size": 21, "patch_size": 7, "num_latent_tokens": 17, "latent_dim": 33},
    "registers": {"num_registers": 3},
    "registers of the tokenizer alone": {"num_registers": 3, "detokenizer_registers": False},
    "registers, masked": MASKED | {"num_registers": 1},
    "input norm": {"input_norm": True},
    "output conv": {"output_conv": True, "image_size": 20},
    "output conv of one pixel": {"output_conv": True, "image_size": 1, "patch_size": 1},
    "as TiTok has it": {
        "num_registers": 1,
        "input_norm": True,
        "output_conv": True,
        "kl": True,
        "norm_eps": 1e-5,
        "text_condition": "detokenizer",
    },
    "overlapping patches": {"patch_overlap": 2},
    "overlapping patches, all that stands after them": MASKED
    | {"image_size": 15, "patch_size": 5, "patch_overlap": 1, "output_conv": True, "output_activation": "tanh"},
    "rotary positions": ROPE,
    "rotary positions, in context, masked": ROPE | MASKED | {"num_registers": 1},
    "rotary positions, cross-attention, one block": ROPE | CROSS | {"tokenizer": {"hidden_size": 24, "num_heads": 3, **SMALL}},
    "rotary positions, many patches": ROPE | {"image_size": 34, "patch_size": 2, "text_condition": "none"},
    "codebook": {"codebook": {"runs": 2, "size": 33, "tau": 0.1}},
    "codebook of directions and lengths, kl": {"codebook": {"runs": 3, "size": 5, "tau": 2.0, "l2_norm": False}, "kl": True},
    "odd sequence": {"num_latent_tokens": 31, "num_text_tokens": 18, "text_dim": 65},
    "more than one strip of queries": {"image_size": 34, "patch_size": 2, "num_latent_tokens": 3},
    "head width 1": {
        "tokenizer": {"hidden_size": 3, "num_heads": 3, **SMALL},
        "detokenizer": {"hidden_size": 1, "num_heads": 1, **SMALL},
    },
    "head widths 8, 24": {
        "tokenizer": {"hidden_size": 24, "num_heads": 3, **SMALL},
        "detokenizer": {"hidden_size": 72, "num_heads": 3, **SMALL},
    },
    "head widths 40, 72": {
        "tokenizer": {"hidden_size": 80, "num_heads": 2, **SMALL},
        "detokenizer": {"hidden_size": 72, "num_heads": 1, **SMALL},
    },
    "head widths 64, 96": CROSS
    | {"tokenizer": {"hidden_size": 64, "num_heads": 1, **SMALL}, "detokenizer": {"hidden_size": 192, "num_heads": 2, **SMALL}},
    "sides of their own": MASKED
    | {
        "tokenizer": {"hidden_size": 20, "depth": 1, "num_heads": 2, "mlp_ratio": 3},
        "detokenizer": {"hidden_size": 48, "depth": 4, "num_heads": 3, "mlp_ratio": 2.5},
    },
    "MLP width rounded": {
        "tokenizer": {"hidden_size": 100, "depth": 1, "num_heads": 2, "mlp_ratio": 0.29},
        "detokenizer": {"hidden_size": 24, "depth": 1, "num_heads": 1, "mlp_ratio": 8 / 3},
    },
}
TEXTOK_VARIANTS = [pytest.param(v, id="-".join(v.values())) for v in TEXT_VARIANTS] + [
    pytest.param(v, id=name) for name, v in OTHER_VARIANTS.items()
]

TEXT = {"condition": "text"}
DIT_VARIANTS = {
    "class": {},
    "text": TEXT,
    "no sigma": {"learn_sigma": False},
    "text, no sigma": TEXT | {"learn_sigma": False},
    "one of each": {"num_tokens": 1, "in_channels": 1, "num_classes": 1, "time_freq_dim": 2},
    "text, one of each": TEXT | {"num_tokens": 1, "in_channels": 1, "text_dim": 1, "num_text_tokens": 1},
    "odd sizes": {"num_tokens": 33, "in_channels": 17, "hidden_size": 72, "num_heads": 3},
    "text, odd sizes": TEXT
    | {"num_tokens": 17, "in_channels": 3, "hidden_size": 40, "num_heads": 1, "text_dim": 65, "num_text_tokens": 19},
    "head width 72": {"hidden_size": 144, "num_heads": 2, "depth": 1},
    "norm_eps, mlp": {"norm_eps": 1e-2, "mlp_ratio": 2.5, "time_freq_dim": 256},
    "latent images": {"input_size": 6, "patch_size": 2, "in_channels": 4},
    "latent images, no sigma": {"input_size": 6, "patch_size": 3, "learn_sigma": False},
    "latent images, text": TEXT | {"input_size": 6, "patch_size": 2, "in_channels": 3},
    "latent images, one patch": {"input_size": 3, "patch_size": 3, "in_channels": 1},
    "latent images, patch 1": {"input_size": 4},
    "as diffusers has it": {"input_size": 4, "patch_size": 2, "in_channels": 4, "mlp_norm_eps": 1e-2, "time_freq_shift": 1},
}


def assert_traces_agree(engine, specification):
    """Every intermediate of the engine, each with its namesake; and none left out."""
    assert set(engine) == set(specification)
    for name in specification:
        numerics.check(engine[name], specification[name], numerics.BLOCK, name)


@pytest.mark.parametrize("changes", TEXTOK_VARIANTS)
def test_textok(changes):
    model = TinyTexTok(textok_config(**changes))
    x, z, captions = model.inputs()
    for run, spec, batch in ((model.encode, model.encode_spec, x), (model.decode, model.decode_spec, z)):
        trace, expected = {}, {}
        result = run(batch, captions, trace=trace)
        reference = spec(batch, captions, trace=expected)
        assert_traces_agree(gathered(trace), gathered(expected))
        numerics.check(result, reference, numerics.END_TO_END, run.__name__)
        assert np.array_equal(run(batch, captions), result), "a trace changes nothing"


@pytest.mark.parametrize("changes", DIT_VARIANTS.values(), ids=DIT_VARIANTS)
@pytest.mark.parametrize("null", (False, True), ids=("condition", "null"))
def test_dit(changes, null):
    model = TinyDiT(dit_config(**changes))
    x, t, condition = model.inputs()
    condition = None if null else condition
    trace, expected = {}, {}
    result = model.denoise(x, t, condition, trace=trace)
    reference = model.denoise_spec(x, t, condition, trace=expected)
    assert_traces_agree(gathered(trace), gathered(expected))
    numerics.check(result, reference, numerics.END_TO_END)


def test_mlp_width_is_rounded():
    """100 x 0.29 is 28.999999999999996 in binary, and 29 rows."""
    config = textok_config(**OTHER_VARIANTS["MLP width rounded"])
    shapes = {
        side: TinyTexTok(config).weights[f"{side}.blocks.0.mlp.fc1.weight"].shape for side in ("tokenizer", "detokenizer")
    }
    assert shapes == {"tokenizer": (29, 100), "detokenizer": (64, 24)}


def test_dit_null_class_is_the_last_label():
    model = TinyDiT(dit_config())
    x, t, _ = model.inputs()
    nulls = np.full(len(x), model.config["num_classes"], np.int32)
    assert np.array_equal(model.denoise(x, t, {"labels": nulls}), model.denoise(x, t, None))


def test_bytes_in_and_out():
    """uint8 pixels go in as v / 127.5 - 1, and come out clipped and rounded half up."""
    model = TinyTexTok(textok_config(text_condition="none"))
    x = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    numerics.check(model.encode(x, {}), model.encode_spec(x, {}), numerics.END_TO_END)
    z = model.encode(x, {})
    floats = model.decode(z, {}).astype(np.float64)
    expected = np.floor((np.clip(floats, -1, 1) + 1) * 127.5 + 0.5).astype(np.uint8)
    assert (np.abs(floats) > 1).any(), "nothing to clip: the test shows too little"
    # In float32 a value a hair's breadth from a half may round the other way.
    sure = np.abs((np.clip(floats, -1, 1) + 1) * 127.5 % 1 - 0.5) > 1e-4
    assert np.array_equal(model.decode(z, {}, dtype=np.uint8)[sure], expected[sure])


def with_change(config, weights, key):
    """A config or weights with one small mistake, such as an implementation could make."""
    config, weights = dict(config), dict(weights)
    if key == "eps":
        config["norm_eps"] = 1e-5
    elif key == "gelu":
        config["gelu"] = "tanh"
    elif key == "mask":
        config["text_mask"] = False
    elif key == "position":
        name = "tokenizer.pos_embed"
        weights[name] = np.roll(weights[name], 1, axis=0)
    elif key == "q and k exchanged":
        name = "tokenizer.blocks.1.attn.qkv.weight"
        q, k, v = np.split(weights[name], 3)
        weights[name] = np.concatenate([k, q, v])
    else:
        name = "tokenizer.blocks.0.mlp.fc1.weight"
        weights[name] = weights[name].copy()
        weights[name][3, 5] *= 1.01
    return config, weights


@pytest.mark.parametrize("key", ("eps", "gelu", "mask", "position", "q and k exchanged", "one weight off by a hundredth"))
def test_planted_errors_are_rejected(key):
    """The tolerances would notice an epsilon of 1e-5 for 1e-6, the other GELU, and the like: at the block and at the end."""
    model = TinyTexTok(textok_config(text_mask=True))
    x, _, captions = model.inputs()
    config, weights = with_change(model.config, model.weights, key)
    trace, wrong = {}, {}
    result = model.encode(x, captions, trace=trace)
    planted = model.encode_spec(x, captions, wrong, config, weights)
    engine, wrong = gathered(trace), gathered(wrong)
    last = "tokenizer.blocks.1"
    assert numerics.rejects(result, planted, numerics.END_TO_END)
    assert numerics.rejects(engine[last], wrong[last], numerics.BLOCK)


@pytest.mark.parametrize("change", (
    {"norm_eps": 1e-4}, {"mlp_norm_eps": 1e-3}, {"time_freq_dim": 14}, {"time_freq_shift": 1}, {"num_heads": 4},
), ids=str)
def test_planted_errors_are_rejected_by_dit(change):
    model = TinyDiT(dit_config())
    x, t, condition = model.inputs()
    weights = dict(model.weights)
    if "time_freq_dim" in change:
        name = "t_embedder.mlp.0.weight"
        weights[name] = np.ascontiguousarray(weights[name][:, [*range(7), *range(8, 15)]])
    planted = model.denoise_spec(x, t, condition, None, model.config | change, weights)
    assert numerics.rejects(model.denoise(x, t, condition), planted, numerics.END_TO_END)


@pytest.mark.parametrize("layer", ("x_embedder", "final_layer.linear"))
def test_planted_patch_orders_are_rejected(layer):
    """(row, column, channel) where (channel, row, column) belongs, and the other way round."""
    model = TinyDiT(dit_config(input_size=6, patch_size=2, in_channels=4))
    x, t, condition = model.inputs()
    weights = dict(model.weights)
    name = f"{layer}.weight"
    if layer == "x_embedder":
        weights[name] = weights[name].reshape(-1, 4, 2, 2).transpose(0, 2, 3, 1).reshape(weights[name].shape)
    else:
        weights[name] = weights[name].reshape(2, 2, 8, -1).transpose(2, 0, 1, 3).reshape(weights[name].shape)
    planted = model.denoise_spec(x, t, condition, weights=weights)
    assert numerics.rejects(model.denoise(x, t, condition), planted, numerics.END_TO_END)


@pytest.mark.parametrize("model", (TinyTexTok(textok_config()), TinyDiT(dit_config()), TinyDiT(dit_config(condition="text"))),
                         ids=("TexTok", "DiT", "DiT of text"))
def test_plans_do_not_wrap(model):
    """What could is refused by name, and the most that is not takes more than less does."""
    most, plan = 1 << 30, model.engine.memory_plan
    for wrong in ((most + 1, 1), (1, most + 1), (1, 1, most + 1), (1 << 32, 1 << 32), (1 << 62, 1), (1, 1, sys.maxsize)):
        with pytest.raises(ValueError, match="batch, text_tokens and steps of at most 1073741824"):
            plan(*wrong)
    sizes = [plan(batch, tokens)["workspace"] for batch, tokens in ((1, 1), (1 << 20, 1 << 20), (most, 1 << 20), (most, most))]
    assert sizes == sorted(sizes) and sizes[-1] > most
