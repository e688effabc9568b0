"""How the Python face behaves: kinds of arrays, batches, outputs, callbacks, bars, seeds, copies, threads."""

import ast
import copy
import doctest
import importlib
import inspect
import os
import pickle
import subprocess
import sys
import threading
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import api_models
import ml_dtypes
import numerics
import numpy as np
import pytest
from fresh_process import environment
from PIL import Image

import textok
from textok import DiT, Pipeline, TexTok
from textok.noise import generator
from textok.sampling import Sampling

MASKED = api_models.textok(text_mask=True)
CLASS_DIT = api_models.dit()
TEXT_DIT = api_models.dit(condition="text")
X, Z, TEXT = (make(MASKED, 5) for make in (api_models.pictures_of, api_models.latents_of, api_models.text_of))
LENGTHS = [1, 7, 3, 2, 5]
LABELS = [0, 4, 8, 9, 4]


def python(code, **variables):
    """A fresh interpreter: its output and exit status."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(**variables), timeout=120
    )


# ---- kinds of arrays ----


class Dlpack:
    """An array that offers nothing but DLPack."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, *args, **kwargs):
        return self._array.__dlpack__(*args, **kwargs)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class Interface:
    """An array that offers nothing but __array_interface__."""

    def __init__(self, array):
        self._array = array
        self.__array_interface__ = array.__array_interface__


def strided(array):
    """The same numbers, every axis with gaps and backwards."""
    large = np.zeros([2 * size for size in array.shape], array.dtype)
    part = large[tuple(slice(None, None, -2) for _ in array.shape)]
    part[...] = array
    return part


def frozen(array):
    result = array.copy()
    result.flags.writeable = False
    return result


KINDS = {
    "list": lambda a: a.tolist(),
    "list of arrays": list,
    "Fortran": np.asfortranarray,
    "strided": strided,
    "read-only": frozen,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "not aligned": lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    "DLPack": Dlpack,
    "interface": Interface,
    "memoryview": memoryview,
    "subclass": lambda a: a.view(np.recarray),
    "broadcast": lambda a: np.broadcast_to(a[None], (2, *a.shape))[1],
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_arrays(kind):
    """Whatever holds the numbers, the result is the same to the bit, and they are not written to."""
    make = KINDS[kind]
    z, text = make(Z), make(TEXT)
    expected = MASKED.decode(Z, TEXT, LENGTHS)
    assert (MASKED.decode(z, text, make(np.array(LENGTHS)) if kind != "not aligned" else LENGTHS) == expected).all()
    after = np.asarray(z._array if isinstance(z, Dlpack) else z, np.float32)
    assert (after == Z).all()
    pixels = X if kind == "list" else make(X)  # nested lists of integers are no uint8
    if kind != "list":
        assert (MASKED.encode(pixels, TEXT, LENGTHS) == MASKED.encode(X, TEXT, LENGTHS)).all()
    drawn = CLASS_DIT.sample(make(np.array(LABELS)), noise=z, steps=2)
    assert (drawn == CLASS_DIT.sample(LABELS, noise=Z, steps=2)).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_float_types(dtype):
    """They give what their values in float32 give."""
    z, text = Z.astype(dtype), TEXT.astype(dtype)
    assert (MASKED.decode(z, text) == MASKED.decode(z.astype(np.float32), text.astype(np.float32))).all()
    x = (X / np.float32(127.5) - 1).astype(dtype)
    assert (MASKED.encode(x, text) == MASKED.encode(x.astype(np.float32), text)).all()


def test_float_pixels_are_those_of_uint8():
    """uint8 p stands for p / 127.5 - 1; the engine's float arithmetic may round that in another place."""
    numerics.check(MASKED.encode(X / 127.5 - 1, TEXT), MASKED.encode(X, TEXT), numerics.END_TO_END)


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    expected = MASKED.decode(Z, TEXT, LENGTHS)
    z, text = torch.from_numpy(Z.copy()).requires_grad_(), torch.from_numpy(TEXT)
    assert (MASKED.decode(z, text, torch.tensor(LENGTHS)) == expected).all()
    assert (MASKED.decode(list(z), text.transpose(1, 2).contiguous().transpose(1, 2), LENGTHS) == expected).all()
    half = text.bfloat16()
    assert (MASKED.decode(z, half, LENGTHS) == MASKED.decode(Z, half.float().numpy(), LENGTHS)).all()
    assert (MASKED.encode(torch.from_numpy(X), text) == MASKED.encode(X, TEXT)).all()


def test_pictures_of_pillow():
    assert (MASKED.encode([Image.fromarray(x) for x in X], TEXT) == MASKED.encode(X, TEXT)).all()


def test_preprocess_feeds_encode():
    pictures = [np.full((40, 30, 3), 10 * i, np.uint8) for i in range(5)]
    assert MASKED.encode(textok.preprocess(pictures, 16), TEXT).shape == (5, 6, 5)


# ---- batches ----

ALL = {"text": TEXT, "text_lengths": LENGTHS}


def calls(rows, **arguments):
    """Every batched operation on some images; each a function of what else to pass."""
    pick = np.asarray(rows)
    some = {"text": TEXT[pick], "text_lengths": np.array(LENGTHS)[pick]}
    labels = np.array(LABELS)[pick]
    return {
        "encode": MASKED.encode(X[pick], **some, **arguments),
        "decode": MASKED.decode(Z[pick], **some, **arguments),
        "reconstruct": MASKED.reconstruct(X[pick], **some, output="float32", **arguments),
        "denoise": CLASS_DIT.denoise(Z[pick], 100.0 * pick, labels, **arguments),
        "denoise text": TEXT_DIT.denoise(Z[pick], 100.0 * pick, **some, **arguments),
        "sample": CLASS_DIT.sample(labels, noise=Z[pick], steps=3, guidance_scale=3, **arguments),
        "sample text": TEXT_DIT.sample(**some, noise=Z[pick], steps=3, guidance_scale=3, **arguments),
    }


def assert_same(result, expected, what=""):
    assert result.keys() == expected.keys()
    for name in expected:
        assert np.array_equal(result[name], expected[name]), f"{name} {what}"


def test_batches_do_not_matter():
    """The same bits for each image: alone, in any order, in parts of any size, on any number of threads."""
    whole = calls(range(5))
    for rows in ([2], [4, 0], [3, 1, 4, 0, 2], [1, 1, 1]):
        assert_same(calls(rows), {name: result[rows] for name, result in whole.items()}, f"rows {rows}")
    for size in (1, 2, 4, 5, 10**6):
        assert_same(calls(range(5), batch_size=size), whole, f"batch_size {size}")
    for threads in (1, 2, 3):
        assert_same(calls(range(5), threads=threads), whole, f"threads {threads}")


def test_more_than_runs_at_a_time():
    """A batch that is split by default."""
    count = 2 * textok.model.IMAGES_AT_ONCE + 3
    z = np.resize(Z, (count, *Z.shape[1:]))
    model = api_models.textok(text_condition="none")
    result = model.decode(z)
    assert (result == model.decode(z, batch_size=count)).all() and (result[:5] == result[5:10]).all()


def test_step_noise_bounds_the_parts(monkeypatch):
    """Samples run in smaller parts where the noise of all their steps would take much memory; the result does not change."""
    expected = CLASS_DIT.sample(LABELS, steps=4, solver="ddpm", seed=1)
    monkeypatch.setattr(textok.dit, "STEP_NOISE_BYTES", 2 * 4 * 4 * 6 * 5)
    sizes = []
    result = CLASS_DIT.sample(LABELS, steps=4, solver="ddpm", seed=1, callback=lambda step, steps, x: sizes.append(len(x)))
    assert (result == expected).all() and sizes == [2] * 4 + [2] * 4 + [1] * 4


def test_numbers_that_are_none_are_named_where_they_are(monkeypatch):
    """Also in a later part."""
    noise = np.zeros((4, 5, 6, 5), np.float32)
    noise[1, 3, 2, 0] = np.nan
    monkeypatch.setattr(textok.dit, "STEP_NOISE_BYTES", 2 * 4 * 4 * 6 * 5)
    with pytest.raises(ValueError, match=r"step_noise: expected finite numbers, got nan at \[1, 3, 2, 0\]"):
        CLASS_DIT.sample(LABELS, steps=4, solver="ddpm", step_noise=noise, batch_size=2)


def test_a_guidance_interval_is_a_pair():
    for interval in (np.array(3.0), np.zeros((2, 2)), (1, 2, 3), [5]):
        with pytest.raises(ValueError, match="guidance_interval: expected a pair"):
            CLASS_DIT.sample(LABELS, steps=2, guidance_scale=2, guidance_interval=interval)


@pytest.mark.parametrize(("name", "kind"), (("emoji-textok", "TexTok"), ("emoji-dit", "DiT"), ("minilm", "TextEncoder")))
def test_a_model_is_no_pipeline(name, kind):
    with pytest.raises(textok.ConfigError, match=f"expected a pipeline, got a model .* load it with textok.{kind}.from_pre"):
        Pipeline.from_pretrained(name)


def test_the_last_images_of_all():
    pipeline = api_models.class_pipeline()
    assert pipeline([1], steps=1, seed=0, first_index=2**62 + 1).first_index == 2**62 + 1


def test_no_images():
    """An empty batch gives an empty result."""
    none = np.zeros((0, 7, 12))
    assert MASKED.encode(X[:0], none).shape == (0, 6, 5)
    assert MASKED.decode(Z[:0], none, []).shape == (0, 16, 16, 3)
    assert MASKED.reconstruct(X[:0], none, output="float32").dtype == np.float32
    assert CLASS_DIT.sample([], steps=3).shape == (0, 6, 5)
    assert CLASS_DIT.denoise(Z[:0], [], []).shape == (0, 6, 10)
    assert TEXT_DIT.sample(text=none, seed=0).shape == (0, 6, 5)
    result = api_models.class_pipeline()([])
    assert len(result) == 0 and result.captions == [] and result.labels == []


def test_reconstruct_is_decode_of_encode():
    z = MASKED.encode(X, **ALL)
    for output in ("uint8", "float32"):
        assert (MASKED.reconstruct(X, **ALL, output=output) == MASKED.decode(z, **ALL, output=output)).all()
    assert (textok.to_uint8(MASKED.decode(z, **ALL, output="float32")) == MASKED.decode(z, **ALL)).all()


# ---- text ----


def test_padding_of_masked_text():
    """Rows beyond a caption's length change nothing, and shorter arrays are as good as padded ones."""
    short = TEXT[:, :5], [1, 5, 3, 2, 5]
    padded = np.concatenate([short[0], np.full((5, 2, 12), 7.0)], axis=1)
    assert (MASKED.encode(X, *short) == MASKED.encode(X, padded, short[1])).all()
    assert (
        TEXT_DIT.sample(text=short[0], text_lengths=short[1], noise=Z, steps=2)
        == TEXT_DIT.sample(text=padded, text_lengths=short[1], noise=Z, steps=2)
    ).all()
    assert (MASKED.encode(X, TEXT) == MASKED.encode(X, TEXT, [7] * 5)).all()


def test_padding_of_unmasked_text():
    """Where the config does not mask, all rows are part of the sequence, whatever the lengths."""
    model = api_models.textok()
    assert (model.encode(X, TEXT, LENGTHS) == model.encode(X, TEXT)).all()
    assert (model.encode(X, TEXT[:, :4]) != model.encode(X, TEXT)).any()


@pytest.mark.parametrize("condition", ["both", "tokenizer", "detokenizer", "none"])
def test_a_side_without_text_ignores_it(condition):
    model = api_models.textok(text_condition=condition)
    for side, call in (
        ("tokenizer", lambda **given: model.encode(X, **given)),
        ("detokenizer", lambda **given: model.decode(Z, **given)),
    ):
        if model.config.has_text(side):
            assert (call(text=TEXT) != call(text=TEXT + 1)).any()
            with pytest.raises(ValueError, match=f"which the {side} of this model needs"):
                call()
        else:
            assert (call(text=TEXT) == call()).all() and (call(text=TEXT[:1], text_lengths=[99]) == call()).all()


def test_classes_in_place_of_text():
    model = api_models.textok(text_source="class")
    z = model.encode(X, labels=[0, 1, 2, 3, 8])
    assert (z[1:2] == model.encode(X[1:2], labels=[1])).all() and (z[1:2] != model.encode(X[1:2], labels=[2])).any()
    assert model.reconstruct(X, labels=[0, 1, 2, 3, 8]).shape == X.shape


# ---- out ----


@pytest.mark.parametrize(
    "call",
    [
        lambda out: MASKED.encode(X, **ALL, out=out),
        lambda out: MASKED.decode(Z, **ALL, out=out),
        lambda out: MASKED.reconstruct(X, **ALL, out=out),
        lambda out: MASKED.decode(Z, **ALL, out=out, output="float32"),
        lambda out: CLASS_DIT.denoise(Z, [1] * 5, LABELS, out=out),
        lambda out: CLASS_DIT.sample(LABELS, seed=1, steps=2, out=out),
    ],
)
def test_out(call):
    expected = call(None)
    out = np.empty_like(expected)
    assert call(out) is out and (out == expected).all()
    # A part of a larger array will do, and nothing beside it is touched.
    larger = np.full((7, *expected.shape[1:]), 99, expected.dtype)
    call(larger[1:6])
    assert (larger[1:6] == expected).all() and (larger[[0, 6]] == 99).all()


def test_out_in_a_file(tmp_path):
    """A data set's latents go straight to disk."""
    out = np.memmap(tmp_path / "latents", np.float32, "w+", shape=(5, 6, 5))
    assert MASKED.encode(X, **ALL, out=out) is out and (np.fromfile(tmp_path / "latents", np.float32) == out.ravel()).all()


# ---- sampling ----


def test_the_recipe_of_the_noise():
    """As documented: one Philox stream a sample, its start noise first, then its step noise."""
    steps, shape = 3, (6, 5)
    start, noise = [], []
    for k in range(2):
        stream = np.random.Generator(np.random.Philox(np.random.SeedSequence(7, spawn_key=(10 + k,))))
        start.append(stream.standard_normal(shape, dtype=np.float32))
        noise.append(stream.standard_normal((steps, *shape), dtype=np.float32))
    arguments = {"labels": [1, 2], "steps": steps, "solver": "ddpm"}
    result = CLASS_DIT.sample(**arguments, seed=7, first_index=10)
    assert (result == CLASS_DIT.sample(**arguments, noise=start, step_noise=np.stack(noise, axis=1))).all()
    assert (result == CLASS_DIT.sample(**arguments, noise=start, seed=7, first_index=10)).all(), "step noise moved"
    assert (result == CLASS_DIT.sample(**arguments, step_noise=np.stack(noise, axis=1), seed=7, first_index=10)).all()


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmsolver++"])
def test_shards(solver):
    """A run in two parts with first_index is the whole run."""
    arguments = {"steps": 3, "solver": solver, "seed": 5, "eta": 0.5 if solver == "ddim" else 0.0}
    whole = CLASS_DIT.sample(LABELS, **arguments)
    parts = [CLASS_DIT.sample(LABELS[:2], **arguments), CLASS_DIT.sample(LABELS[2:], **arguments, first_index=2)]
    assert (np.concatenate(parts) == whole).all()
    assert (CLASS_DIT.sample(LABELS, **arguments, batch_size=2) == whole).all()


def test_seeds():
    runs = [CLASS_DIT.sample([1, 1], steps=2, seed=seed) for seed in (0, 1, 2**64 + 1, None, None)]
    assert (CLASS_DIT.sample([1, 1], steps=2, seed=np.int64(1)) == runs[1]).all()
    assert len({run.tobytes() for run in runs}) == 5 and (runs[0][0] != runs[0][1]).any()


def test_every_combination_of_sampling():
    """Solvers, spacings, kinds of model and prediction, guided or not: all run, and differ."""
    for changes in (
        {},
        {"learn_sigma": False},
        {"prediction": "v"},
        {"prediction": "sample"},
        {"condition": "text"},
        {"guidance_channels": 2},
    ):
        model = api_models.dit(**changes)
        condition = {"text": TEXT[:2]} if "condition" in changes else {"labels": [3, 9]}
        results = set()
        for solver in ("ddpm", "ddim", "dpmsolver++"):
            for spacing in ("linspace", "leading", "trailing"):
                for scale in (1, 2.5, 0, -1):
                    result = model.sample(
                        **condition, steps=4, solver=solver, spacing=spacing, guidance_scale=scale, noise=Z[:2], seed=0
                    )
                    assert np.isfinite(result).all()
                    results.add(result.tobytes())
        assert len(results) == 36


def test_guidance():
    """Scale 1 is the condition alone, 0 the null class alone; an interval guides the steps inside it, bounds included."""
    arguments = {"steps": 4, "solver": "ddim", "noise": Z[:2]}
    conditional, null = CLASS_DIT.sample([1, 2], **arguments), CLASS_DIT.sample([9, 9], **arguments)
    numerics.check(CLASS_DIT.sample([1, 2], **arguments, guidance_scale=0), null, numerics.SAMPLING)
    guided = CLASS_DIT.sample([1, 2], **arguments, guidance_scale=3)
    assert (CLASS_DIT.sample([1, 2], **arguments, guidance_scale=3, guidance_interval=(0, 999)) == guided).all()
    # Steps are at 999, 666, 333 and 0.
    for inside, outside in (((333, 666), (334, 665)), ((0, 0), (1, 332)), ((999, 999), (667, 998))):
        some = CLASS_DIT.sample([1, 2], **arguments, guidance_scale=3, guidance_interval=inside)
        assert (some != guided).any() and (some != conditional).any()
        assert (CLASS_DIT.sample([1, 2], **arguments, guidance_scale=3, guidance_interval=outside) == conditional).all()


def test_null_condition():
    x, t = Z[:2], [3, 800]
    assert (CLASS_DIT.denoise(x, t, null=True) == CLASS_DIT.denoise(x, t, [9, 9])).all()
    assert TEXT_DIT.denoise(x, t, null=True).shape == (2, 6, 10)
    weights = TEXT_DIT.weights()
    as_text = np.broadcast_to(weights["null_text"], (2, 7, 12))
    numerics.check(TEXT_DIT.denoise(x, t, null=True), TEXT_DIT.denoise(x, t, text=as_text), numerics.END_TO_END)


def test_latents_are_put_back_to_scale():
    """The state is normalised; what comes out is times the deviation plus the mean of each channel."""
    mean, deviation = [1, 2, 3, 4, 5], [0.5, 1, 2, 3, 4]
    model = DiT(api_models.dit().config.to_dict() | {"latent_mean": mean, "latent_std": deviation}, api_models.dit().weights())
    states = []
    result = model.sample([1, 2], steps=3, seed=0, callback=lambda step, steps, x: states.append(x))
    assert (states[-1] == CLASS_DIT.sample([1, 2], steps=3, seed=0)).all()
    np.testing.assert_array_equal(result, states[-1] * np.float32(deviation) + np.float32(mean))
    assert (model.denoise(Z, [5] * 5, LABELS) == CLASS_DIT.denoise(Z, [5] * 5, LABELS)).all()


def test_callback_sees_every_step():
    seen = []
    result = CLASS_DIT.sample(
        LABELS, steps=4, seed=0, batch_size=3, callback=lambda step, steps, x: seen.append((step, steps, x.shape, x))
    )
    assert [entry[:3] for entry in seen] == [(step, 4, (count, 6, 5)) for count in (3, 2) for step in range(4)]
    assert (np.concatenate([seen[3][3], seen[7][3]]) == result).all() and (seen[0][3] != seen[1][3]).any()


def test_callback_may_raise():
    class Enough(Exception):
        pass

    def stop(step, steps, x):
        if step == 2:
            raise Enough("at step 2")

    expected = CLASS_DIT.sample(LABELS, steps=4, seed=0)
    seen = []
    with pytest.raises(Enough, match="at step 2"):
        CLASS_DIT.sample(LABELS, steps=4, seed=0, callback=lambda *args: (seen.append(args[0]), stop(*args)))
    assert seen == [0, 1, 2]
    assert (CLASS_DIT.sample(LABELS, steps=4, seed=0) == expected).all()


def test_progress(capfd):
    """A bar on stderr where asked for; nothing anywhere where not."""
    plain = MASKED.encode(X, TEXT), CLASS_DIT.sample(LABELS, steps=3, seed=0)
    api_models.class_pipeline()([1, 2], steps=2)
    assert capfd.readouterr() == ("", "")
    assert (MASKED.encode(X, TEXT, progress=True, batch_size=2) == plain[0]).all()
    out, err = capfd.readouterr()
    assert out == "" and "5/5" in err and "image" in err
    assert (CLASS_DIT.sample(LABELS, steps=3, seed=0, progress=True, batch_size=2) == plain[1]).all()
    out, err = capfd.readouterr()
    assert out == "" and "9/9" in err and "step" in err


# ---- pipelines ----


def test_pipeline_of_classes():
    pipeline = api_models.class_pipeline()
    result = pipeline([1, 4, 8], steps=3, seed=11, guidance_scale=2.0)
    assert (
        result.images.shape == (3, 16, 16, 3)
        and result.images.dtype == np.uint8
        and result.labels == [1, 4, 8]
        and result.seed == 11
    )
    assert (result.latents == CLASS_DIT.sample([1, 4, 8], steps=3, seed=11, guidance_scale=2.0)).all(), (
        "drawing captions moved the noise"
    )
    indices = [int(caption.split()[1]) for caption in result.captions]
    assert [index % 9 for index in indices] == [1, 4, 8]
    text, lengths = pipeline.captions.embeddings(indices)
    assert (result.images == pipeline.textok.decode(result.latents, text, lengths)).all()
    later = pipeline([4, 8], steps=3, seed=11, guidance_scale=2.0, first_index=1)
    assert (later.images == result.images[1:]).all() and later.captions == result.captions[1:]
    apart = pipeline([1, 4, 8], steps=3, seed=11, guidance_scale=2.0, batch_size=2)
    assert (apart.images == result.images).all() and apart.captions == result.captions
    floats = pipeline([1, 4, 8], steps=3, seed=11, guidance_scale=2.0, output="float32").images
    assert (textok.to_uint8(floats) == result.images).all()


def test_captions_are_drawn_from_the_documented_stream():
    store = api_models.captions()
    choices = [3, 12]  # of class 3
    for index in range(5):
        drawn = generator(9, index, 1).integers(2)
        assert store.draw([3], seed=9, first_index=index) == [choices[drawn]]
    assert {store.draw([3], seed=seed)[0] for seed in range(20)} == {3, 12}
    assert len({store.draw([9], seed=seed, any_label=9)[0] for seed in range(60)}) > 10
    with pytest.raises(ValueError, match=r"labels: expected classes that have captions, got 9 at \[1\]"):
        store.draw([3, 9], seed=0)


def test_pipeline_without_a_seed():
    result = api_models.class_pipeline()([1, 2], steps=2)
    again = api_models.class_pipeline()([1, 2], steps=2, seed=result.seed)
    assert (again.images == result.images).all() and again.captions == result.captions


def test_pipeline_of_text():
    pipeline = api_models.text_pipeline()
    result = pipeline(text=TEXT, text_lengths=LENGTHS, steps=3, seed=1)
    assert result.captions is None and result.labels is None
    assert (result.latents == TEXT_DIT.sample(text=TEXT, text_lengths=LENGTHS, steps=3, seed=1)).all()
    assert (result.images == pipeline.textok.decode(result.latents, TEXT, LENGTHS)).all()


def test_pipeline_kinds():
    """A detokenizer without text needs no captions; one of classes gets the labels."""
    bare = Pipeline(api_models.textok(text_condition="none"), CLASS_DIT)
    assert bare([1, 9], steps=2).captions is None
    half = Pipeline(api_models.textok(text_condition="tokenizer"), CLASS_DIT)
    assert half([1], steps=2).images.shape == (1, 16, 16, 3)
    classes = Pipeline(api_models.textok(text_source="class"), CLASS_DIT)
    result = classes([1, 2], steps=2, seed=0)
    assert (result.images == classes.textok.decode(result.latents, labels=[1, 2])).all()
    with pytest.raises(ValueError, match=r"labels: expected 0 to 8, the detokenizer's classes, got 9 at \[1\]"):
        classes([1, 9], steps=2)
    assert api_models.class_pipeline()([9], steps=2).captions[0].startswith("caption")
    text = Pipeline(api_models.textok(text_condition="none"), TEXT_DIT)
    assert text(text=TEXT[:1], steps=2).images.shape == (1, 16, 16, 3)


def test_a_pipeline_puts_the_tokenizers_scale_into_its_generator(tmp_path):
    tokenizer = TexTok(MASKED.config.to_dict() | {"latent_mean": 0.5, "latent_std": 0.25}, MASKED.weights())
    pipeline = Pipeline(tokenizer, TEXT_DIT, sampling=Sampling(steps=np.int64(3), guidance_scale=np.float32(2)))
    result = pipeline(text=TEXT, text_lengths=LENGTHS, seed=1)
    plain = TEXT_DIT.sample(text=TEXT, text_lengths=LENGTHS, steps=3, seed=1, guidance_scale=2.0)
    np.testing.assert_array_equal(result.latents, plain * np.float32(0.25) + np.float32(0.5))
    pipeline.save_pretrained(tmp_path / "p")
    again = Pipeline.from_pretrained(tmp_path / "p")(text=TEXT, text_lengths=LENGTHS, seed=1)
    np.testing.assert_array_equal(again.latents, result.latents)


def test_more_text_than_the_detokenizer_takes_is_refused_before_any_step():
    short = Pipeline(api_models.textok(num_text_tokens=3), TEXT_DIT)
    with pytest.raises(ValueError, match="text: expected at most 3 rows a caption, which the detokenizer takes, got 7"):
        short(text=TEXT, text_lengths=LENGTHS, steps=2, callback=lambda *_: pytest.fail("it began"))
    assert short(text=TEXT[:, :3], steps=2).images.shape == (5, 16, 16, 3)


def test_step_noise_that_no_solver_adds_is_not_looked_at():
    plain = CLASS_DIT.sample(LABELS, steps=3, solver="ddim", seed=0)
    assert (CLASS_DIT.sample(LABELS, steps=3, solver="ddim", seed=0, step_noise=np.ones((9, 5, 6, 5))) == plain).all()


def test_results_in_a_notebook():
    by_class = api_models.class_pipeline()([1, 2, 3], steps=2)
    for result in (by_class, api_models.text_pipeline()(text=TEXT, steps=2, output="float32")):
        assert result._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
        assert "images" in repr(result) and str(result.seed) in repr(result)


# ---- the models themselves ----


def test_reprs():
    assert repr(MASKED).startswith(
        "TexTok(16 px, patch 4 -> 6 tokens x 5; text 7 x 12 in both sides (in context, masked); tokenizer 2 x 32,"
    )
    assert "no text" in repr(api_models.textok(text_condition="none"))
    assert "9 classes" in repr(api_models.textok(text_source="class"))
    assert repr(CLASS_DIT).startswith("DiT(6 tokens x 5; 9 classes; 2 x 32, 2 heads; epsilon, learned sigma, 1000 train steps;")
    assert "text 7 x 12" in repr(TEXT_DIT) and f"{textok.cpu_info()['isa']} kernels" in repr(TEXT_DIT)
    assert (
        repr(api_models.class_pipeline()).count("\n") == 3
        and repr(api_models.captions()) == "CaptionStore(18 captions of 9 classes, 66 tokens x 12)"
    )


def test_memory_plan_of_a_dit_covers_its_steps():
    """The modulations of many steps are held at a time: more than one step takes, as much as a run of 50."""
    model = api_models.dit()
    planned = model.memory_plan(3)["workspace"]
    one, fifty = (model._model.memory_plan(3, 0, steps)["workspace"] for steps in (1, 50))
    assert one < planned == fifty


def test_properties():
    assert MASKED.config.text_mask and MASKED.dtype == "float32" and MASKED.threads is None
    assert TexTok.from_config(MASKED.config, threads=2).threads == 2
    with pytest.raises(AttributeError):
        MASKED.config = None
    plan = MASKED.memory_plan(5)
    assert plan["total"] == plan["weights"] + plan["workspace"] and plan["weights"] >= 4 * MASKED.num_parameters


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(duplicate):
    model = TexTok.from_config(MASKED.config, seed=4, threads=2)
    twin = duplicate(model)
    assert twin is not model and twin.config == model.config and twin.threads == 2
    assert (twin.reconstruct(X, **ALL) == model.reconstruct(X, **ALL)).all()
    assert (duplicate(CLASS_DIT).sample(LABELS, seed=1, steps=2) == CLASS_DIT.sample(LABELS, seed=1, steps=2)).all()
    pipeline = duplicate(api_models.class_pipeline())
    assert (pipeline([3], seed=1, steps=2).images == api_models.class_pipeline()([3], seed=1, steps=2).images).all()


def test_copies_share_the_weights():
    assert copy.copy(MASKED)._model is MASKED._model and copy.deepcopy(MASKED)._model is MASKED._model


def test_changing_the_arrays_given_changes_no_model():
    weights = MASKED.weights()
    model = TexTok(MASKED.config, weights)
    for array in weights.values():
        array[...] = 0
    assert (model.encode(X, TEXT) == MASKED.encode(X, TEXT)).all()


def test_one_model_in_several_python_threads():
    expected = calls(range(5))
    barrier = threading.Barrier(4)

    def work(_):
        barrier.wait()
        return [calls(range(5)) for _ in range(3)]

    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(work, range(4)):
            for result in results:
                assert_same(result, expected)


def test_threads_of_a_model():
    """A model's cap, a call's cap and the process's: no bit changes."""
    model = TexTok.from_config(MASKED.config, seed=1, threads=1)
    expected = MASKED.encode(X, TEXT)
    assert (model.encode(X, TEXT) == expected).all() and (model.encode(X, TEXT, threads=2) == expected).all()
    before = textok.get_num_threads()
    try:
        textok.set_num_threads(1)
        assert textok.get_num_threads() == 1 and (MASKED.encode(X, TEXT) == expected).all()
    finally:
        textok.set_num_threads(before)


# ---- the package ----


def test_public_names():
    assert set(textok.__all__) <= set(dir(textok)) and textok.__version__.count(".") == 2
    assert all(getattr(textok, name).__doc__ for name in textok.__all__)
    info = textok.cpu_info()
    assert info["isa"] in info["rows"] and textok.list_models() == sorted(textok.list_models())
    for kind in (TexTok, DiT, Pipeline):
        undocumented = [name for name, value in vars(kind).items() if callable(value) and name[0] != "_" and not value.__doc__]
        assert not undocumented


@pytest.mark.parametrize("module", ["image_tokenizer", "dit", "solvers", "pictures.preprocess"])
def test_examples_of_the_docstrings(module):
    names = {name: getattr(textok, name) for name in textok.__all__}
    names |= {"np": np, "textok": textok}
    failed, attempted = doctest.testmod(importlib.import_module(f"textok.{module}"), extraglobs=names)
    assert attempted and not failed


def test_parts_are_there_after_a_plain_import():
    """`textok.data` and the others, without an import of their own; and no more than is used."""
    code = "import sys, textok; textok.data.encode, textok.metrics.psnr; "
    code += "print('textok.ray' in sys.modules, 'data' in dir(textok));"
    code += "textok.images.contact_sheet, textok.text_encoders.STAND_IN;"
    done = python(code + "textok.viz.axes, textok.ray.Encoder; print('ray' in sys.modules); textok.nothing")
    assert done.stdout.split() == ["False", "True", "False"], done.stderr
    assert done.stderr.endswith("AttributeError: module 'textok' has no attribute 'nothing'\n")


def test_import_is_light_and_silent():
    """Importing loads nothing, all names together neither Pillow nor what reads files, and neither says anything."""
    heavy = ("PIL", "safetensors", "ml_dtypes", "tqdm", "skimage", "torch")
    code = "import sys, textok; print([name for name in sys.modules if 'textok.' in name or name == 'numpy'])\n"
    done = python(f"{code}from textok import *; print([name for name in {heavy!r} if name in sys.modules])")
    assert (done.returncode, done.stdout, done.stderr) == (0, "['textok.version']\n[]\n", "")


@pytest.mark.parametrize("method", [TexTok.decode, TexTok.reconstruct])
def test_a_type_checker_sees_every_argument(method):
    known = [name for name in inspect.signature(method).parameters if name != "unknown"]
    typed = typing.get_overloads(method)
    assert len(typed) == 3 and all(list(inspect.signature(one).parameters) == known for one in typed)


def test_names_that_come_later_are_those_a_type_checker_sees():
    """The table that imports a name when it is asked for says what the imports beside it say to editors and type checkers."""
    tree = ast.parse(Path(textok.__file__).read_text("utf-8"))
    (seen,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    assert {line.module: tuple(alias.name for alias in line.names) for line in seen.body} == textok._HOMES
    assert sorted(textok.__all__) == sorted(name for names in textok._HOMES.values() for name in names)
    assert all(name in vars(textok) for name in textok.__all__ if getattr(textok, name))  # kept, not looked up each time


def test_models_run_without_what_they_do_not_need():
    """TexTok.from_config and its calls import nothing beyond NumPy."""
    done = python(
        "import sys, textok, numpy as np\n"
        "side = {'hidden_size': 16, 'depth': 1, 'num_heads': 1}\n"
        "config = {'image_size': 16, 'text_condition': 'none', 'tokenizer': side, 'detokenizer': side}\n"
        "model = textok.TexTok.from_config(config)\n"
        "model.reconstruct(np.zeros((1, 16, 16, 3), np.uint8))\n"
        "print([name for name in ('PIL', 'safetensors', 'tqdm') if name in sys.modules])"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_unknown_isa():
    done = python("import textok; textok.TexTok", TEXTOK_ISA="avx9000")
    assert done.returncode == 1 and "ImportError" in done.stderr and "avx9000" in done.stderr and "ref" in done.stderr


def test_reference_kernels_give_nearly_the_same():
    """TEXTOK_ISA=ref is used by a fresh process, and close to the row in use here."""
    code = (
        "import sys; sys.path.insert(0, {!r}); import api_models, textok, numpy as np\n"
        "model = api_models.textok(); z = model.encode(api_models.pictures_of(model), api_models.text_of(model))\n"
        "print(textok.cpu_info()['isa'], float(z.sum()))"
    )
    done = python(code.format(os.path.dirname(os.path.dirname(__file__))), TEXTOK_ISA="ref")
    assert done.returncode == 0, done.stderr
    isa, total = done.stdout.split()
    model = api_models.textok()
    assert isa == "ref" and float(total) == pytest.approx(
        float(model.encode(api_models.pictures_of(model), api_models.text_of(model)).sum()), rel=1e-3, abs=1e-3
    )
