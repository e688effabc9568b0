"""Models that compute in bfloat16, int8 and int4: near float32, the same bits however they are called, and files that keep
every number."""

import pickle

import api_models
import numerics
import numpy as np
import pytest

import textok
from textok import DiT, TexTok, _core, cpu_info, int4
from textok._core import Kernels

LOW = {"bfloat16": numerics.MODEL_BFLOAT16, "int8": numerics.MODEL_INT8, "int4": numerics.MODEL_INT4}


class Side(dict):
    """Hashable, since api_models.textok remembers models by their arguments."""

    def __hash__(self):
        return hash(tuple(sorted(self.items())))


# Widths that are no multiples of the padding of a product, wide enough for rounding errors to average out.
SIDES = {
    "tokenizer": Side(hidden_size=120, depth=2, num_heads=3, mlp_ratio=2.5),
    "detokenizer": Side(hidden_size=80, depth=2, num_heads=5, mlp_ratio=4),
}
TEXTOK = {
    "in context": {"text_mask": True},
    "cross-attention": {"text_mask": True, "text_injection": "cross_attention"},
    "class": {"text_source": "class"},
    "no text": {"text_condition": "none"},
}
DIT = {"class": {}, "text": {"condition": "text"}}


def textok_arguments(model, batch):
    config = model.config
    if config.text_condition == "none":
        return {}
    if config.text_source == "class":
        return {"labels": np.arange(batch) % config.num_classes}
    return {"text": api_models.text_of(model, batch), "text_lengths": np.arange(batch) % config.num_text_tokens + 1}


def dit_arguments(model, batch):
    config = model.config
    if config.condition == "class":
        return {"labels": np.arange(batch) % (config.num_classes + 1)}
    return {"text": api_models.text_of(model, batch), "text_lengths": np.arange(batch) % config.num_text_tokens + 1}


def pair(kind, changes, dtype):
    """The same weights in float32 and in `dtype`."""
    plain = api_models.textok(**changes, **SIDES) if kind is TexTok else api_models.dit(**changes, hidden_size=96, num_heads=4)
    return plain, kind(plain.config, plain.weights(), dtype=dtype)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("changes", TEXTOK.values(), ids=TEXTOK)
def test_textok_near_float32(changes, dtype):
    plain, low = pair(TexTok, changes, dtype)
    x, z = api_models.pictures_of(plain), api_models.latents_of(plain)
    arguments = textok_arguments(plain, len(x))
    for expected, result in [
        (plain.encode(x, **arguments), low.encode(x, **arguments)),
        (plain.decode(z, **arguments, output="float32"), low.decode(z, **arguments, output="float32")),
    ]:
        numerics.check_rms(result, expected, LOW[dtype])
        assert not np.array_equal(result, expected), "computed in float32 after all"


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("changes", DIT.values(), ids=DIT)
def test_dit_near_float32(changes, dtype):
    plain, low = pair(DiT, changes, dtype)
    x, t = api_models.latents_of(plain), np.array([0, 500, 999])
    arguments = dit_arguments(plain, len(x))
    expected, result = plain.denoise(x, t, **arguments), low.denoise(x, t, **arguments)
    numerics.check_rms(result, expected, LOW[dtype])
    assert not np.array_equal(result, expected), "computed in float32 after all"


@pytest.mark.parametrize("dtype", LOW)
def test_tolerances_reject_a_wrong_weight(dtype):
    """One block's projection with its rows swapped."""
    plain, _low = pair(TexTok, TEXTOK["no text"], dtype)
    weights = dict(plain.weights())
    weights["tokenizer.blocks.0.attn.proj.weight"] = weights["tokenizer.blocks.0.attn.proj.weight"][::-1]
    wrong = TexTok(plain.config, weights, dtype=dtype)
    x = api_models.pictures_of(plain)
    assert numerics.rejects_rms(wrong.encode(x), plain.encode(x), LOW[dtype])


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("changes", TEXTOK.values(), ids=TEXTOK)
def test_textok_same_bits(changes, dtype):
    """Alone, in a batch, shuffled, on one thread."""
    _, model = pair(TexTok, changes, dtype)
    x, z = api_models.pictures_of(model, 33), api_models.latents_of(model, 33)
    arguments = textok_arguments(model, len(x))
    whole = model.encode(x, **arguments), model.decode(z, **arguments, output="float32")
    for rows in ([0], [32], [5, 4], list(range(20)), np.random.default_rng(0).permutation(33)):
        part = {name: value[rows] for name, value in arguments.items()}
        for threads in (1, 3):
            assert np.array_equal(model.encode(x[rows], **part, threads=threads), whole[0][rows])
            assert np.array_equal(model.decode(z[rows], **part, output="float32", threads=threads), whole[1][rows])


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("changes", DIT.values(), ids=DIT)
def test_dit_same_bits(changes, dtype):
    _, model = pair(DiT, changes, dtype)
    arguments = dit_arguments(model, 5)
    run = {"steps": 4, "guidance_scale": 2.0, "seed": 1}
    whole = model.sample(**arguments, **run)
    for k in range(5):
        alone = model.sample(**{name: value[k : k + 1] for name, value in arguments.items()}, **run, first_index=k, threads=1)
        assert np.array_equal(alone[0], whole[k])


@pytest.mark.parametrize("kind", [TexTok, DiT])
@pytest.mark.parametrize("dtype", ["float32", *LOW])
def test_files_keep_every_number(tmp_path, kind, dtype):
    """Saved, loaded in the same dtype and saved again: the same tensors, and the same results as before; so do pickles and
    copies."""
    _plain, model = pair(kind, {}, dtype)
    model.save_pretrained(tmp_path / "one")
    again = kind.from_pretrained(tmp_path / "one", dtype=dtype)
    for other in (again, pickle.loads(pickle.dumps(model))):
        assert other.dtype == dtype
        ours, theirs = model.weights(), other.weights()
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            assert array.dtype == theirs[name].dtype and array.tobytes() == theirs[name].tobytes(), name


def test_int8_files_have_rows_and_scales(tmp_path):
    _, model = pair(TexTok, {}, "int8")
    weights = model.weights()
    rows, scale = weights["tokenizer.blocks.0.mlp.fc1.weight"], weights["tokenizer.blocks.0.mlp.fc1.weight.scale"]
    assert rows.dtype == np.int8 and scale.dtype == np.float32 and scale.shape == rows.shape[:1]
    original = api_models.textok(**SIDES).weights()["tokenizer.blocks.0.mlp.fc1.weight"]
    step = np.abs(original).max(axis=1, keepdims=True) / 127
    expected = np.rint(original / step).astype(np.int8), (step[:, 0] * 1).astype(np.float32)
    Kernels(cpu_info()["isa"]).fit_int8(*expected)  # some rows of kernels round once more
    assert np.array_equal(rows, expected[0]) and np.allclose(scale, expected[1], rtol=1e-6)
    assert (np.abs(rows * scale[:, None] - original) <= (scale[:, None] + step) * 0.5001).all()
    assert weights["tokenizer.text_proj.weight"].dtype.name == "bfloat16"


def test_int4_files_have_rows_and_two_scales(tmp_path):
    _, model = pair(TexTok, {}, "int4")
    weights, name = model.weights(), "tokenizer.blocks.0.mlp.fc1.weight"
    original = api_models.textok(**SIDES).weights()[name]  # [300,120]
    rows, scale, group_scale = weights[name], weights[f"{name}.scale"], weights[f"{name}.group_scale"]
    assert rows.dtype == np.uint8 and rows.shape == (300, 60) and scale.shape == (300,) and group_scale.shape == (300, 4)
    assert group_scale.max() <= int4.MOST_SCALE and np.array_equal(int4.pack(int4.unpack(rows, 120)), rows)
    step = (scale[:, None] * group_scale).repeat(32, 1)[:, :120]
    near = np.abs(int4.widened(rows, scale, group_scale, 120) - original) <= step * 0.5001
    assert near.mean() > 0.98  # but for the few that a smaller step cuts off


def test_int4_has_the_bits_of_its_numbers_in_int8():
    """A weight of 4 bits is a byte with the row's scale: an int8 model of the same file computes the same."""
    for kind, call in (
        (TexTok, lambda m: m.encode(api_models.pictures_of(m))),
        (DiT, lambda m: m.sample(labels=[1, 2], steps=2, seed=0)),
    ):
        _, model = pair(kind, TEXTOK["no text"] if kind is TexTok else {}, "int4")
        weights = model.weights()
        assert np.array_equal(call(kind(model.config, weights, dtype="int8")), call(model))
        plain = kind(model.config, weights)  # float32 of the same numbers
        name = next(name for name in weights if name.endswith("fc1.weight"))
        columns = plain.weights()[name].shape[1]
        assert np.array_equal(
            plain.weights()[name],
            int4.widened(weights[name], weights[f"{name}.scale"], weights[f"{name}.group_scale"], columns),
        )


def test_broken_int4_files_are_refused():
    _, model = pair(TexTok, TEXTOK["no text"], "int4")
    name = "tokenizer.blocks.0.attn.qkv.weight"
    rows, groups = model.weights()[name], model.weights()[f"{name}.group_scale"]
    for change, text in [
        ({f"{name}.group_scale": None}, f"{name} is int4, and its {name}.group_scale is missing"),
        ({f"{name}.group_scale": groups[:, 1:]}, r"group_scale: expected U8 \[360, 4\], got U8 \[360, 3\]"),
        ({f"{name}.group_scale": np.full_like(groups, 17)}, "group_scale: expected 0 to 16, got 17"),
        ({f"{name}.scale": None}, f"{name} is int4, and its {name}.scale is missing"),
        ({name: rows[:, 1:]}, r"of another shape 1 tensor \(.*: expected \[360, 120\], got \[360, 59\]\)"),
    ]:
        weights = {key: value for key, value in (model.weights() | change).items() if value is not None}
        with pytest.raises(textok.WeightsError, match=text):
            TexTok(model.config, weights, dtype="int4")


@pytest.mark.parametrize("stored", ["bfloat16", "int8", "int4"])
def test_stored_dtype_and_compute_dtype_are_free(tmp_path, stored):
    """A file of any dtype loads into a model of any other."""
    plain, model = pair(TexTok, TEXTOK["no text"], stored)
    model.save_pretrained(tmp_path)
    x = api_models.pictures_of(plain)
    exact = plain.encode(x)
    for dtype in ("float32", *LOW):
        worst = max(stored, dtype, key=("float32", "bfloat16", "int8", "int4").index)
        loaded = TexTok.from_pretrained(tmp_path, dtype=dtype)
        assert loaded.dtype == dtype
        numerics.check_rms(loaded.encode(x), exact, getattr(numerics, f"MODEL_{worst.upper()}"))
    if stored == "bfloat16":
        assert numerics.rejects_rms(TexTok.from_pretrained(tmp_path, dtype="int4").encode(x), exact, numerics.MODEL_BFLOAT16)


@pytest.mark.parametrize("dtype", LOW)
def test_low_models_are_smaller(dtype):
    config = {"num_tokens": 4, "hidden_size": 512, "depth": 2, "num_heads": 8, "num_classes": 10}
    plain, low = (DiT.from_config(config, dtype=d)._model.weight_bytes for d in ("float32", dtype))
    assert low < plain * {"bfloat16": 0.56, "int8": 0.32, "int4": 0.2}[dtype]


def test_unknown_dtype():
    with pytest.raises(ValueError, match="dtype: expected one of 'float32', 'bfloat16', 'int8', 'int4', got 'float16'"):
        textok.DiT.from_config({"num_tokens": 4, "hidden_size": 32, "depth": 1, "num_heads": 2}, dtype="float16")


def test_rows_too_long_for_int32_sums():
    """Products of int8 are summed in int32: a wider model is refused before a weight is asked for."""
    config = textok.DiTConfig.from_dict(
        {"num_tokens": 4, "num_classes": 3, "hidden_size": 2065, "depth": 1, "num_heads": 1, "mlp_ratio": 64.0}
    )
    with pytest.raises(
        ValueError,
        match=r"blocks\.0\.mlp\.fc2\.weight has rows of 132160 numbers, expected at most 132104 in an int8 or int4 model",
    ):
        _core.Model("dit", config.to_dict(), {}, "int8")
    with pytest.raises(ValueError, match="is missing"):  # as any model, where it is narrow enough
        _core.Model("dit", config.to_dict() | {"hidden_size": 2064}, {}, "int8")
