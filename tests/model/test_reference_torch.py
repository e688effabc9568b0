"""The PyTorch reference, run live beside the engine on the same float32 weights; skipped where torch is not installed."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import numerics
from engine_models import TinyDiT, TinyTexTok, dit_config, gathered, random_weights, textok_config
from golden import recipe
from test_model import DIT_VARIANTS, TEXTOK_VARIANTS

import textok
from textok.train import modules


@pytest.fixture(autouse=True, scope="module")
def without_gradients():
    with torch.no_grad():
        yield


def loaded(kind, config, weights):
    """A reference model that shares the arrays' memory."""
    model = kind(config)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, assign=True)
    return model.eval()


def as_torch(arguments):
    return {
        name: torch.from_numpy(value.astype(np.int64) if value.dtype == np.int32 else value)
        for name, value in arguments.items()
    }


def real_rows(model, name, value, lengths):
    """A trace's [B,T,D] as the engine has it, [rows,D]: padded text, which means nothing there, left out."""
    side = name.split(".")[0]
    fixed = (
        (model.config["image_size"] // model.config["patch_size"]) ** 2
        + model.config["num_registers"]
        + model.config["num_latent_tokens"]
    )
    if lengths is None or value.shape[1] <= fixed or not model.config["text_mask"] or not model.has_text(side):
        return value.flatten(0, 1).numpy()
    return torch.cat([rows[: fixed + n] for rows, n in zip(value, lengths, strict=True)]).numpy()


@pytest.mark.parametrize("changes", TEXTOK_VARIANTS)
def test_textok(changes):
    """Every variant, outputs and intermediates."""
    model = TinyTexTok(textok_config(**changes))
    reference = loaded(modules.TexTok, model.config, model.weights)
    x, z, captions = model.inputs()
    for ours, theirs, batch in ((model.encode, reference.encode, x), (model.decode, reference.decode, z)):
        trace, expected = {}, {}
        result = ours(batch, captions, trace=trace)
        numerics.check(
            result, theirs(torch.from_numpy(batch), **as_torch(captions), trace=expected).numpy(), numerics.END_TO_END
        )
        trace = gathered(trace)
        assert set(trace) == set(expected)
        for name, value in expected.items():
            numerics.check(trace[name], real_rows(model, name, value, captions.get("text_lengths")), numerics.BLOCK, name)


@pytest.mark.parametrize("changes", DIT_VARIANTS.values(), ids=DIT_VARIANTS)
@pytest.mark.parametrize("null", (False, True), ids=("condition", "null"))
def test_dit(changes, null):
    model = TinyDiT(dit_config(**changes))
    reference = loaded(modules.DiT, model.config, model.weights)
    x, t, condition = model.inputs()
    given = as_torch(condition)
    if null and "labels" in condition:
        given["labels"] = torch.full((len(x),), model.config["num_classes"])
    elif null:
        given["null"] = torch.ones(len(x), dtype=torch.bool)
    trace, expected = {}, {}
    result = model.denoise(x, t, None if null else condition, trace=trace)
    numerics.check(
        result, reference(torch.from_numpy(x), torch.from_numpy(t), **given, trace=expected).numpy(), numerics.END_TO_END
    )
    trace = gathered(trace)
    assert set(trace) == set(expected)
    for name, value in expected.items():
        numerics.check(trace[name], value.flatten(0, -2).numpy(), numerics.BLOCK, name)


@pytest.mark.parametrize("patch", (16, pytest.param(8, marks=pytest.mark.large)))
def test_vit_base(patch):
    """The design point: ViT-Base on both sides, 256 pixels, 128 latents, 128 text tokens of width 2048, masked; one image."""
    config = textok.TexTokConfig(patch_size=patch, text_mask=True).to_dict()
    weights = random_weights(config)
    reference = loaded(modules.TexTok, config, weights)
    model = textok.TexTok(config, weights)
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (1, 256, 256, 3)).astype(np.float32)
    captions = {"text": rng.standard_normal((1, 128, 2048)).astype(np.float32), "text_lengths": np.array([50], np.int32)}
    z = model.encode(x, **captions)
    numerics.check(z, reference.encode(torch.from_numpy(x), **as_torch(captions)).numpy(), numerics.FULL_SIZE, "encode")
    image = model.decode(z, **captions, output="float32")
    numerics.check(image, reference.decode(torch.from_numpy(z), **as_torch(captions)).numpy(), numerics.FULL_SIZE, "decode")


@pytest.mark.large
def test_dit_xl():
    """DiT-XL, 675 million parameters, on 32 tokens: a class, and the null class."""
    config = textok.DiTConfig(num_tokens=32).to_dict()
    weights = random_weights(config)
    reference = loaded(modules.DiT, config, weights)
    model = textok.DiT(config, weights)
    x = np.random.default_rng(1).standard_normal((2, 32, 8)).astype(np.float32)
    t, labels = np.array([999, 3], np.float32), np.array([207, 1000])
    expected = reference(torch.from_numpy(x), torch.from_numpy(t), labels=torch.from_numpy(labels)).numpy()
    numerics.check(model.denoise(x, t, labels=labels), expected, numerics.FULL_SIZE)


@pytest.mark.large
@pytest.mark.parametrize("name", ("SoftVQ-L-64", "MAETok-L-128"))
def test_few_token_tokenizers_at_full_size(name):
    """Sides of ViT-Large (24 x 1024) at 256 pixels, patch 16, with soft codebooks of 8,192 codes a run or rotary patch rows."""
    side = {"hidden_size": 1024, "depth": 24, "num_heads": 16}
    special = {"codebook": {"runs": 1, "size": 8192}, "num_latent_tokens": 64}
    if name.startswith("MAETok"):
        special = {"rope": {"rows": "patches"}, "num_latent_tokens": 128}
    config = textok.TexTokConfig.from_dict(
        {
            "patch_size": 16,
            "latent_dim": 32,
            "text_condition": "none",
            "num_registers": 1,
            "tokenizer": side,
            "detokenizer": side,
        }
        | special
    ).to_dict()
    weights = random_weights(config)
    reference = loaded(modules.TexTok, config, weights)
    model = textok.TexTok(config, weights)
    x = np.random.default_rng(1).uniform(-1, 1, (1, 256, 256, 3)).astype(np.float32)
    z = reference.encode(torch.from_numpy(x))
    numerics.check(model.encode(x), z.numpy(), numerics.FULL_SIZE, "encode")
    numerics.check(model.decode(z.numpy(), output="float32"), reference.decode(z).numpy(), numerics.FULL_SIZE, "decode")


def test_full_size_rejects_planted_errors():
    """FULL_SIZE at ViT-Base would notice the other GELU, or one text row too few."""
    config = textok.TexTokConfig(
        patch_size=16, text_mask=True, detokenizer={"hidden_size": 12, "num_heads": 1, "depth": 1}
    ).to_dict()
    weights = random_weights(config)
    reference = loaded(modules.TexTok, config, weights)
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (1, 256, 256, 3)).astype(np.float32)
    text, lengths = rng.standard_normal((1, 128, 2048)).astype(np.float32), np.array([50])
    expected = reference.encode(torch.from_numpy(x), torch.from_numpy(text), torch.from_numpy(lengths)).numpy()
    planted = textok.TexTok(config | {"gelu": "tanh"}, weights).encode(x, text, lengths)
    assert numerics.rejects(planted, expected, numerics.FULL_SIZE)
    model = textok.TexTok(config, weights)
    numerics.check(model.encode(x, text, lengths), expected, numerics.FULL_SIZE)
    assert numerics.rejects(model.encode(x, text, lengths - 1), expected, numerics.FULL_SIZE)


@pytest.fixture(scope="module")
def maker():
    """golden/make_goldens.py as a module; it finds its neighbours by itself."""
    pytest.importorskip("diffusers")
    from golden import make_goldens

    return make_goldens


def check_stored(file, case, results):
    stored = np.load(Path(__file__).parent.parent / "golden" / file)
    for key, value in results.items():
        numerics.check(value, stored[f"{case}/{key}"], numerics.STORED, f"{case}/{key}")


@pytest.mark.parametrize("case", recipe.TEXTOK_CASES)
def test_textok_goldens_are_current(maker, case):
    """What is stored is what the reference answers today."""
    check_stored("textok.npz", case, maker.run_textok(case, torch.float64))


def test_stored_rejects_planted_errors(maker, monkeypatch):
    """STORED would notice an epsilon of 1e-5 for 1e-6."""
    monkeypatch.setitem(maker.recipe.TEXTOK_CASES, "both", ({"norm_eps": 1e-5}, 6))
    planted = maker.run_textok("both", torch.float64)["image"]
    assert numerics.rejects(
        planted, np.load(Path(__file__).parent.parent / "golden" / "textok.npz")["both/image"], numerics.STORED
    )


@pytest.mark.parametrize("case", recipe.DIT_CASES)
def test_dit_goldens_are_current(maker, case):
    check_stored("dit.npz", case, maker.run_dit(case, torch.float64))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", recipe.SAMPLER_CASES)
def test_sampler_goldens_are_current(maker, case):
    """And what the installed diffusers says."""
    check_stored("samplers.npz", case, {"latents": maker.run_sampler(case)})
