"""A TexTok that holds one of its sides: the same bits as with both, nothing of the other, and words for what it cannot do."""

import copy
import json
import pickle

import api_models
import numpy as np
import pytest
from engine_models import textok_config
from safetensors.numpy import load_file, save_file

from textok import ConfigError, DiT, Pipeline, TexTok, WeightsError, _core, weights
from textok.data.decode import DecodeTask
from textok.data.encode import EncodeTask
from textok.data.sample import SampleTask
from textok.sampling import Sampling

ZEROS = np.zeros(3, np.float32)
DTYPES = ("float32", "bfloat16", "int8")
ONE = ("tokenizer", "detokenizer")
VARIANTS = {
    "plain": {},
    "masked": {"text_mask": True},
    "tokenizer sees text": {"text_condition": "tokenizer"},
    "detokenizer sees text": {"text_condition": "detokenizer"},
    "no text": {"text_condition": "none", "kl": True},
    "cross-attention": {"text_injection": "cross_attention"},
    "classes": {"text_source": "class"},
    "registers": {"num_registers": 3, "input_norm": True, "output_conv": True},
    "unlike sides": {"tokenizer": {"hidden_size": 48, "depth": 1, "num_heads": 3, "mlp_ratio": 2}},
}


def condition(model):
    """Text or labels of three images."""
    if model.config.text_condition == "none":
        return {}
    if model.config.text_source == "class":
        return {"labels": [4, 0, 8]}
    return {"text": api_models.text_of(model), "text_lengths": [7, 1, 4]}


def run(model, side):
    """What one side makes of three images, or of their latents."""
    if side == "tokenizer":
        return model.encode(api_models.pictures_of(model), **condition(model))
    return model.decode(api_models.latents_of(model), output="float32", **condition(model))


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def of_side(tensors, side):
    return {name: array for name, array in tensors.items() if name.startswith(f"{side}.")}


@pytest.fixture
def folder(tmp_path):
    """A saved TexTok of both sides."""
    api_models.textok().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def reads(monkeypatch):
    """The names of the tensors that are read from files from here on."""
    names = []
    read = weights.TensorFile.read

    def noted(self, name):
        names.append(name)
        return read(self, name)

    monkeypatch.setattr(weights.TensorFile, "read", noted)
    return names


# ---- the same model ----


@pytest.mark.parametrize("side", ONE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_same_bits(variant, dtype, side, tmp_path):
    """From a seed, arrays, a file of both sides and a file of its own, one side is what it is in a model of both."""
    config = textok_config(**VARIANTS[variant])
    both = TexTok.from_config(config, seed=5, dtype=dtype)
    expected = run(both, side)
    assert np.isfinite(expected).all() and expected.std() > 0
    stored = both.weights()
    both.save_pretrained(tmp_path / "both")
    TexTok.from_pretrained(tmp_path / "both", dtype, side=side).save_pretrained(tmp_path / "one")
    for one in (
        TexTok.from_config(config, seed=5, dtype=dtype, side=side),
        TexTok(config, stored, dtype, side=side),
        TexTok(config, of_side(stored, side), dtype, side=side),
        TexTok.from_pretrained(tmp_path / "both", dtype, side=side),
        TexTok.from_pretrained(tmp_path / "one", dtype, side=side),
    ):
        assert same(run(one, side), expected) and one.side == side and one.config == both.config
        held = one.weights()
        assert held.keys() == of_side(stored, side).keys()
        assert all(same(array, stored[name]) for name, array in held.items())
    assert not same(run(TexTok.from_config(config, seed=6, dtype=dtype, side=side), side), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_are_of_what_is_held(dtype):
    config = textok_config(**VARIANTS["unlike sides"], image_size=32)
    both, tokenizer, detokenizer = (TexTok.from_config(config, dtype=dtype, side=side) for side in weights.SIDES)
    assert tokenizer.num_parameters + detokenizer.num_parameters == both.num_parameters
    assert tokenizer.num_parameters == sum(int(np.prod(s)) for n, s in both._table() if n.startswith("tokenizer."))
    plans = [model.memory_plan(3) for model in (both, tokenizer, detokenizer)]
    assert sum(plan["weights"] for plan in plans[1:]) == pytest.approx(plans[0]["weights"], abs=4096)  # an arena's last line
    assert max(plan["workspace"] for plan in plans[1:]) == plans[0]["workspace"]
    assert plans[1]["workspace"] != plans[2]["workspace"]
    assert all(plan["total"] == plan["weights"] + plan["workspace"] < plans[0]["total"] for plan in plans[1:])


@pytest.mark.parametrize("side", ONE)
def test_copies_and_pickles(side):
    model = TexTok.from_config(textok_config(), dtype="int8", threads=2, side=side)
    for twin in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert (twin.side, twin.dtype, twin.threads, repr(twin)) == (side, "int8", 2, repr(model))
        assert same(run(twin, side), run(model, side))


def test_repr_says_it():
    both, tokenizer, detokenizer = (repr(TexTok.from_config(textok_config(), side=side)) for side in weights.SIDES)
    assert "; tokenizer 2 x 32, detokenizer 2 x 32; " in both
    assert "; tokenizer 2 x 32, no detokenizer; " in tokenizer
    assert "; no tokenizer, detokenizer 2 x 32; " in detokenizer


# ---- files ----


@pytest.mark.parametrize("side", weights.SIDES)
@pytest.mark.parametrize("stored", DTYPES)
def test_only_the_side_is_read(stored, side, tmp_path, reads):
    model = TexTok.from_config(textok_config(), dtype=stored)
    model.save_pretrained(tmp_path)
    TexTok.from_pretrained(tmp_path, side=side)
    assert sorted(reads) == sorted(model.weights() if side == "both" else of_side(model.weights(), side))


def test_shards(folder):
    """Of which one holds this side and some of the other."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: "a.safetensors" if name.startswith("tokenizer.") else "b.safetensors" for name in tensors}
    places["detokenizer.patch_tokens"] = "a.safetensors"
    for place in ("a.safetensors", "b.safetensors"):
        save_file({name: array for name, array in tensors.items() if places[name] == place}, folder / place)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    for side in ONE:
        assert same(run(TexTok.from_pretrained(folder, side=side), side), run(api_models.textok(), side))


@pytest.mark.parametrize("side", ONE)
def test_a_file_of_one_side(side, folder):
    model, other = TexTok.from_pretrained(folder, side=side), ONE[ONE.index(side) - 1]
    model.save_pretrained(folder)
    assert load_file(folder / "model.safetensors").keys() == model.weights().keys()
    for wanted in ("both", other):
        message = rf'missing \d+ tensors \({other}\..*; there is only the {side}, which side="{side}" loads$'
        with pytest.raises(WeightsError, match=message):
            TexTok.from_pretrained(folder, side=wanted)
    with pytest.raises(WeightsError, match=f"there is only the {side}"):
        TexTok(model.config, model.weights())
    assert same(run(TexTok.from_pretrained(folder, side=side), side), run(api_models.textok(), side))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("tokenizer.norm.weight"), r"missing 1 tensor \(tokenizer.norm.weight\)$"),
        (lambda t: t.update({"tokenizer.extra": ZEROS}), r"not in this model 1 tensor \(tokenizer.extra\)$"),
        (lambda t: t.update({"detokenizer.extra": ZEROS}), r"not in this model 1 tensor \(detokenizer.extra\)$"),
        (lambda t: t.update({"discriminator.a": ZEROS}), r"not in this model 1 tensor \(discriminator.a\)$"),
        (lambda t: t.update({"detokenizer.norm.weight": ZEROS}), r"detokenizer.norm.weight: expected \[32\], got \[3\]\)$"),
        (lambda t: t.update({"tokenizer.norm.weight": np.full(32, np.nan, np.float32)}), "tokenizer.norm.weight: .*finite"),
    ],
)
def test_flaws_are_still_found(folder, change, message):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=message):
        TexTok.from_pretrained(folder, side="tokenizer")


def test_the_other_side_may_lack_tensors(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["detokenizer.norm.weight"]
    save_file(tensors, path)
    assert same(run(TexTok.from_pretrained(folder, side="tokenizer"), "tokenizer"), run(api_models.textok(), "tokenizer"))


# ---- what it cannot do ----


@pytest.mark.parametrize("batch", (0, 2))
@pytest.mark.parametrize(
    ("side", "method", "wanted"),
    [
        ("tokenizer", "decode", "its detokenizer"),
        ("tokenizer", "reconstruct", "both sides"),
        ("detokenizer", "encode", "its tokenizer"),
        ("detokenizer", "reconstruct", "both sides"),
    ],
)
def test_calls_that_need_the_other_side(side, method, wanted, batch):
    model = TexTok.from_config(textok_config(text_condition="none"), side=side)
    given = (api_models.latents_of if method == "decode" else api_models.pictures_of)(model, batch)
    message = f"^{method}: expected a model that holds {wanted}, got one of its {side} only; "
    with pytest.raises(WeightsError, match=message + 'side="both", the default, loads both$'):
        getattr(model, method)(given)


def test_the_engine_refuses_too():
    """Whoever calls it."""
    config = textok_config(text_condition="none")
    x, z = np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 6, 5), np.float32)
    for side, method, arguments in (("tokenizer", "decode", (z, x)), ("detokenizer", "encode", (x, z))):
        engine = TexTok.from_config(config, side=side)._model
        with pytest.raises(ValueError, match=f"{method}: this model holds its {side} only"):
            getattr(engine, method)(arguments[0], None, None, None, arguments[1])
    with pytest.raises(ValueError, match='side: expected "both", "tokenizer" or "detokenizer", got "left"'):
        _core.Model("textok", config, {}, "float32", "left")


@pytest.mark.parametrize("side", ("encoder", "", None, 1, ["tokenizer"]))
def test_no_such_side(side, folder):
    for make in (
        lambda: TexTok.from_pretrained(folder, side=side),
        lambda: TexTok.from_config(textok_config(), side=side),
        lambda: TexTok(textok_config(), {}, side=side),
    ):
        with pytest.raises(ValueError if isinstance(side, str) else TypeError, match="side: expected .*both.*tokenizer.*, got"):
            make()


# ---- those that need one ----


def test_pipeline(tmp_path, reads):
    """Pictures need the detokenizer only; what a pipeline of it saves has it only."""
    whole = api_models.class_pipeline()
    whole.save_pretrained(tmp_path / "whole")
    assert Pipeline.from_pretrained(tmp_path / "whole").textok.side == "both"
    reads.clear()
    pipeline = Pipeline.from_pretrained(tmp_path / "whole", side="detokenizer")
    assert reads and not [name for name in reads if name.startswith("tokenizer.")]
    expected = whole(labels=[3, 7], seed=0, steps=2)
    assert same(pipeline(labels=[3, 7], seed=0, steps=2).images, expected.images)
    pipeline.save_pretrained(tmp_path / "half")
    again = Pipeline.from_pretrained(tmp_path / "half", side="detokenizer")
    assert same(again(labels=[3, 7], seed=0, steps=2).images, expected.images)
    with pytest.raises(WeightsError, match="there is only the detokenizer"):
        Pipeline.from_pretrained(tmp_path / "half")
    with pytest.raises(ConfigError, match="textok: expected a model that holds its detokenizer, got one of its tokenizer only"):
        Pipeline.from_pretrained(tmp_path / "whole", side="tokenizer")


def test_commands_load_what_they_need(tmp_path, reads):
    """`textok encode`, `decode` and `sample`; the first two work on a folder of their side alone."""
    model = TexTok.from_config(textok_config(text_condition="none"))
    both, lone, pipeline = (str(tmp_path / name) for name in ("both", "lone", "pipeline"))
    model.save_pretrained(both)
    Pipeline(model, DiT.from_config(api_models.dit().config)).save_pretrained(pipeline)
    for side, task in {"tokenizer": EncodeTask, "detokenizer": DecodeTask}.items():
        TexTok.from_pretrained(both, side=side).save_pretrained(lone)
        for path in (both, lone):
            reads.clear()
            task(path).load(1)
            assert set(reads) == set(of_side(model.weights(), side))
    reads.clear()
    SampleTask(pipeline, Sampling(steps=2, seed=0)).load(1)
    assert of_side(dict.fromkeys(reads), "detokenizer") and not of_side(dict.fromkeys(reads), "tokenizer")


def test_actor_of_a_cluster_loads_what_it_needs(tmp_path, reads):
    pytest.importorskip("ray")
    from textok.ray import Encoder

    model = TexTok.from_config(textok_config(text_condition="none"))
    model.save_pretrained(tmp_path / "both")
    reads.clear()
    Encoder(tmp_path / "both")
    assert set(reads) == set(of_side(model.weights(), "tokenizer"))
