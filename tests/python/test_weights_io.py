"""Model folders and caption stores: what is written comes back, in whatever form, and broken files say how they are broken."""

import json
import os
import re
import shutil
import struct
import threading

import api_models
import ml_dtypes
import numerics
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from textok import CaptionStore, ConfigError, DiT, Pipeline, TexTok, TextokError, WeightsError, _core, weights


@pytest.fixture
def folder(tmp_path):
    """A saved TexTok whose files a test may break."""
    api_models.textok().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder, change):
    """Change the tensors of a folder: `change` takes and may return the dict."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(change(tensors) or tensors, path)


def load_error(folder, kind=WeightsError, model=TexTok):
    with pytest.raises(kind) as caught:
        model.from_pretrained(folder)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message and len(message) < 1000, message
    assert isinstance(caught.value, TextokError) and isinstance(caught.value, ValueError)
    return message


# ---- round trips ----


@pytest.mark.parametrize(
    "model",
    [api_models.textok(), api_models.textok(text_source="class"), api_models.dit(), api_models.dit(condition="text")],
)
def test_save_and_load(model, tmp_path):
    model.save_pretrained(tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["config.json", "model.safetensors"]
    again = type(model).from_pretrained(str(tmp_path / "a" / "b"))
    assert again.config == model.config
    assert_same_weights(again.weights(), model.weights())
    values = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert values["model_type"] == model.model_type and list(model.weights()) == [name for name, _ in model._table()]


def assert_same_weights(result, expected):
    assert result.keys() == expected.keys()
    for name, array in expected.items():
        assert result[name].dtype == np.float32 and np.array_equal(result[name], array), name


def test_saving_obeys_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        api_models.textok().save_pretrained(tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def test_saving_replaces(folder):
    other = TexTok.from_config(api_models.textok().config, seed=9)
    other.save_pretrained(folder)
    assert_same_weights(TexTok.from_pretrained(folder).weights(), other.weights())
    assert len(list(folder.iterdir())) == 2


def test_failed_saving_leaves_the_old_file(folder, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr("safetensors.numpy.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        TexTok.from_config(api_models.textok().config, seed=9).save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before and len(list(folder.iterdir())) == 2


def test_saving_where_it_cannot(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        api_models.textok().save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_stored_float_types(folder, dtype):
    """They widen, or narrow, to float32 exactly as NumPy does."""
    expected = {name: array.astype(dtype).astype(np.float32) for name, array in api_models.textok().weights().items()}
    rewrite(folder, lambda tensors: {name: array.astype(dtype) for name, array in tensors.items()})
    assert_same_weights(TexTok.from_pretrained(folder).weights(), expected)


def quantised(tensors):
    """Matrices as int8 rows with scales, the rest as bfloat16."""
    result = {}
    for name, array in tensors.items():
        if array.ndim == 2 and name.endswith(".weight"):
            scale = np.abs(array).max(axis=1) / np.float32(127)
            result[name], result[f"{name}.scale"] = np.rint(array / scale[:, None]).astype(np.int8), scale
        else:
            result[name] = array.astype(ml_dtypes.bfloat16)
    return result


def test_stored_int8(folder):
    stored = quantised(api_models.textok().weights())
    expected = {
        name: array.astype(np.float32) * (stored[f"{name}.scale"][:, None] if array.dtype == np.int8 else 1)
        for name, array in stored.items()
        if not name.endswith(".scale")
    }
    rewrite(folder, lambda _: stored)
    model = TexTok.from_pretrained(folder)
    assert_same_weights(model.weights(), expected)
    # Near the latents of the unrounded model, and not equal.
    args = api_models.pictures_of(model), api_models.text_of(model)
    error = numerics.relative_error(model.encode(*args), api_models.textok().encode(*args))
    numerics.check(model.encode(*args), api_models.textok().encode(*args), numerics.STORED_INT8)
    assert error > 1e-5
    name = "tokenizer.to_latent.weight"
    rewrite(folder, lambda _: stored | {f"{name}.scale": stored[f"{name}.scale"] * np.float32(1.1)})
    planted = TexTok.from_pretrained(folder).encode(*args)
    assert numerics.rejects(planted, api_models.textok().encode(*args), numerics.STORED_INT8)


def test_shards(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{1 + k % 3}-of-3.safetensors" for k, name in enumerate(tensors)}
    for place in set(places.values()):
        save_file({name: array for name, array in tensors.items() if places[name] == place}, folder / place)
    write_index(folder, places)
    assert_same_weights(TexTok.from_pretrained(folder).weights(), tensors)


def write_index(folder, places):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_symbolic_links(folder, tmp_path):
    """As the caches of model hubs lay their files out."""
    (tmp_path / "linked").mkdir()
    for path in folder.iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    assert_same_weights(TexTok.from_pretrained(tmp_path / "linked").weights(), api_models.textok().weights())


def test_arrays_of_any_float_type_and_stride():
    tensors = api_models.textok().weights()
    model = TexTok(
        api_models.textok().config.to_dict(),
        {name: np.asfortranarray(array).astype(np.float64) for name, array in tensors.items()},
    )
    assert_same_weights(model.weights(), tensors)
    frozen = {name: array.copy() for name, array in tensors.items()}
    for array in frozen.values():
        array.flags.writeable = False
    assert_same_weights(TexTok(api_models.textok().config, frozen).weights(), tensors)


# ---- folders that are not what they should be ----


def test_no_such_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("no-such-model", "../no-such-model", "", "emoji-textok/../emoji-textok", "a\0b", "x" * 5000):
        with pytest.raises(WeightsError, match="no such folder, and no bundled model of that name; bundled are"):
            TexTok.from_pretrained(path)
    for path in (None, 3, b"model", ["model"]):
        with pytest.raises(TypeError, match="path: expected a folder or the name of a bundled model"):
            TexTok.from_pretrained(path)


def test_a_folder_goes_before_a_bundled_name(tmp_path, monkeypatch):
    api_models.textok().save_pretrained(tmp_path / "emoji-textok")
    monkeypatch.chdir(tmp_path)
    assert TexTok.from_pretrained("emoji-textok").config == api_models.textok().config


def test_a_file_in_place_of_the_folder(folder):
    with pytest.raises(WeightsError, match="expected a folder with config.json and model.safetensors, got a file"):
        TexTok.from_pretrained(folder / "model.safetensors")


def test_missing_files(folder):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert "no model.safetensors and no model.safetensors.index.json in it" in load_error(folder)
    (folder / "config.json").unlink()
    assert "config.json: no such file" in load_error(folder, ConfigError)


def test_a_pipeline_in_place_of_a_model(tmp_path):
    api_models.class_pipeline().save_pretrained(tmp_path)
    assert "expected a model, got a pipeline; load it with textok.Pipeline" in load_error(tmp_path, ConfigError)
    told = load_error(tmp_path / "textok", ConfigError, Pipeline)
    assert "expected a pipeline, got a model of type 'textok'; load it with textok.TexTok.from_pretrained" in told


def test_wrong_kind_of_model(folder):
    assert 'expected "model_type": "dit", got \'textok\'' in load_error(folder, ConfigError, DiT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a JSON file"),
        (b"{", "not a JSON file"),
        (b"[]", "expected an object, got list"),
        (b"\xff\xfe", "not a JSON file"),
        (b'{"model_type": "textok", "model_type": "dit"}', "the name 'model_type' is there twice"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"model_type": "textok", "norm_eps": NaN}', "norm_eps: expected a number"),
        (b'{"model_type": "textok", "depth": 3}', "unknown config key: depth"),
        (b'{"image_size": 256}', "got None"),
    ],
)
def test_broken_config(folder, content, message):
    (folder / "config.json").write_bytes(content)
    assert message in load_error(folder, ConfigError)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_something_else_than_a_file(folder, name):
    kind = ConfigError if name == "config.json" else WeightsError
    (folder / name).unlink()
    (folder / name).mkdir()
    assert "expected a file, got a folder" in load_error(folder, kind)
    (folder / name).rmdir()
    os.mkfifo(folder / name)  # opening it would wait for ever
    assert "expected a file, got something else" in load_error(folder, kind)


def header(**tensors):
    text = json.dumps({name: dict(zip(("dtype", "shape", "data_offsets"), entry)) for name, entry in tensors.items()}).encode()
    return struct.pack("<Q", len(text)) + text


BROKEN = {
    "empty": b"",
    "seven bytes": b"1234567",
    "header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "header of exabytes": struct.pack("<Q", 2**63) + b"{}",
    "header no JSON": struct.pack("<Q", 5) + b"{oops",
    "header no object": struct.pack("<Q", 2) + b"[]",
    "header not UTF-8": struct.pack("<Q", 4) + b'{"\xff"',
    "header too deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "pickle": b"\x80\x04\x95" + bytes(100),
    "no data": header(a=("F32", [4], [0, 16])),
    "data too short": header(a=("F32", [4], [0, 16])) + bytes(8),
    "data too long": header(a=("F32", [4], [0, 16])) + bytes(32),
    "offsets backwards": header(a=("F32", [4], [16, 0])) + bytes(16),
    "offsets overlap": header(a=("F32", [4], [0, 16]), b=("F32", [4], [8, 24])) + bytes(24),
    "offsets with a hole": header(a=("F32", [4], [0, 16]), b=("F32", [4], [20, 36])) + bytes(36),
    "negative offset": header(a=("F32", [4], [-16, 0])) + bytes(16),
    "size not of the shape": header(a=("F32", [5], [0, 16])) + bytes(16),
    "shape that overflows": header(a=("F32", [2**40, 2**40], [0, 16])) + bytes(16),
    "negative shape": header(a=("F32", [-4], [0, 16])) + bytes(16),
    "unknown dtype": header(a=("F31", [4], [0, 16])) + bytes(16),
    "key missing": struct.pack("<Q", 20) + b'{"a":{"dtype":"F32"}' + bytes(16),
    "duplicate name": (lambda text: struct.pack("<Q", len(text)) + text + bytes(8))(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
    ),
}


@pytest.mark.parametrize("flaw", BROKEN)
def test_broken_safetensors(folder, flaw):
    (folder / "model.safetensors").write_bytes(BROKEN[flaw])
    message = load_error(folder)
    assert "model.safetensors: not a safetensors file that can be read" in message
    if flaw == "duplicate name":
        assert "the name 'a' is there twice" in message


def test_every_cut_of_a_file(folder):
    """A file cut anywhere is an error, never a crash."""
    whole = (folder / "model.safetensors").read_bytes()
    for length in [*range(64), *range(64, len(whole), len(whole) // 40), len(whole) - 1]:
        (folder / "model.safetensors").write_bytes(whole[:length])
        load_error(folder)


def test_a_file_that_shrinks_while_it_is_read(folder):
    """The mapping's pages would be gone and the process with them."""
    file = weights.TensorFile(folder / "model.safetensors")
    name = next(iter(file.shapes))
    os.truncate(folder / "model.safetensors", 1000)
    with pytest.raises(WeightsError, match="the file changed while it was read"):
        file.read(name)


def test_missing_extra_and_misshapen_tensors(folder):
    """One error lists them all, the first few by name."""

    def change(tensors):
        del tensors["tokenizer.norm.bias"]
        tensors["tokenizer.blocks.9.norm1.bias"] = np.zeros(3, np.float32)
        tensors["detokenizer.norm.weight"] = np.ones((1, 32), np.float32)

    rewrite(folder, change)
    message = load_error(folder)
    assert "missing 1 tensor (tokenizer.norm.bias)" in message
    assert "not in this model 1 tensor (tokenizer.blocks.9.norm1.bias)" in message
    assert "of another shape 1 tensor (detokenizer.norm.weight: expected [32], got [1, 32])" in message


def test_the_weights_of_another_model(folder):
    shutil.copy(folder / "model.safetensors", folder.parent / "keep")
    api_models.dit().save_pretrained(folder)
    api_models.textok().save_pretrained(folder.parent / "other")
    shutil.copy(folder.parent / "other" / "config.json", folder)
    message = load_error(folder)
    assert "missing" in message and "not in this model" in message and ", ..." in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(folder, value):
    def change(tensors):
        tensors["tokenizer.pos_embed"][3, 5] = value

    rewrite(folder, change)
    assert f"tokenizer.pos_embed: expected finite numbers, got {value} at [3, 5]" in load_error(folder)


def test_float64_weights_beyond_float32(folder):
    rewrite(folder, lambda tensors: tensors | {"tokenizer.norm.bias": np.full(32, 1e300)})
    assert "tokenizer.norm.bias: expected finite numbers, got inf" in load_error(folder)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_])
def test_types_that_are_no_weights(folder, dtype):
    rewrite(folder, lambda tensors: tensors | {"tokenizer.norm.bias": np.zeros(32, dtype)})
    told = r"tokenizer.norm.bias: expected (F32, F16, F64, BF16, I8 or U8 \(int4\), got|int4 weights as)"
    assert re.search(told, load_error(folder))


def test_broken_int8(folder):
    stored = quantised(api_models.textok().weights())
    name = "tokenizer.to_latent.weight"
    for change, message in [
        (lambda t: t.pop(f"{name}.scale"), f"{name} is int8, and its {name}.scale is missing"),
        (lambda t: t.update({f"{name}.scale": np.ones(3, np.float32)}), f"{name}.scale: expected F32 [5], got F32 [3]"),
        (lambda t: t.update({f"{name}.scale": np.ones(5, np.float64)}), f"{name}.scale: expected F32 [5], got F64 [5]"),
        (
            lambda t: t.update({f"{name}.scale": np.full(5, np.nan, np.float32)}),
            f"{name}.scale: expected finite numbers, got nan",
        ),
        (
            lambda t: t.update({"tokenizer.norm.bias": np.zeros(32, np.int8)}),
            "tokenizer.norm.bias: expected int8 weights as [out, in], got [32]",
        ),
        (
            lambda t: t.update({"tokenizer.norm.bias.scale": np.ones(32, np.float32)}),
            "not in this model 1 tensor (tokenizer.norm.bias.scale)",
        ),
    ]:  # fmt: skip
        tensors = dict(stored)
        change(tensors)
        rewrite(folder, lambda _, tensors=tensors: tensors)
        assert message in load_error(folder)


@pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "a\\b", "a\0b"])
def test_index_may_not_leave_its_folder(folder, place):
    names = load_file(folder / "model.safetensors").keys()
    shutil.move(folder / "model.safetensors", folder.parent / "model.safetensors")
    write_index(folder, dict.fromkeys(names, place))
    assert "expected names of files in its own folder, got" in load_error(folder)


def test_broken_index(folder):
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    for places, message in [
        ({}, 'expected a "weight_map"'),
        ([], 'expected a "weight_map"'),
        (dict.fromkeys(names, 3), 'expected a "weight_map"'),
        (dict.fromkeys(names, "gone.safetensors"), "gone.safetensors: no such file"),
        (dict.fromkeys(names[1:], "part.safetensors"), f"does not agree with part.safetensors about 1 tensor ({names[0]})"),
        (dict.fromkeys([*names, "more"], "part.safetensors"), "does not agree with part.safetensors about 1 tensor (more)"),
    ]:
        write_index(folder, places)
        assert message in load_error(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    assert "model.safetensors.index.json: not a JSON file" in load_error(folder)


def test_config_numbers_that_do_not_fit_the_tensors(folder):
    """A config that asks for much more than the file has is answered from the header, without taking memory."""
    values = json.loads((folder / "config.json").read_text())
    values["tokenizer"] |= {"hidden_size": 65536, "num_heads": 1024, "depth": 1024}
    (folder / "config.json").write_text(json.dumps(values))
    assert "missing" in load_error(folder)


def test_random_weights_that_no_machine_holds():
    side = {"hidden_size": 65536, "num_heads": 1024, "depth": 1024}
    with pytest.raises(MemoryError, match="GiB"):
        TexTok.from_config({"tokenizer": side, "detokenizer": side})


def test_dictionaries_of_arrays():
    config, tensors = api_models.textok().config, api_models.textok().weights()
    name = "tokenizer.norm.bias"
    for change, error, message in [
        (None, TypeError, "weights: expected a dict of arrays, got NoneType"),
        ([], TypeError, "weights: expected a dict of arrays, got list"),
        ({}, WeightsError, "missing"),
        (tensors | {"more": np.zeros(3)}, WeightsError, r"not in this model 1 tensor \(more\)"),
        (tensors | {name: np.zeros(31, np.float32)}, WeightsError, r"expected \[32\], got \[31\]"),
        (tensors | {name: np.zeros(32, np.int32)}, WeightsError, "expected float32, float16, float64 or bfloat16, got int32"),
        (tensors | {name: np.full(32, np.nan)}, WeightsError, "expected finite numbers, got nan"),
        (tensors | {name: None}, TypeError, f"weights: {name}: expected an array, got NoneType"),
    ]:
        with pytest.raises(error, match=message):
            TexTok(config, change)


def test_random_weights_are_the_seeds():
    config = api_models.textok().config
    assert_same_weights(TexTok.from_config(config, seed=1).weights(), api_models.textok().weights())
    others = TexTok.from_config(config, seed=2).weights()
    assert all(not np.array_equal(others[name], array) for name, array in api_models.textok().weights().items())


@pytest.mark.parametrize("depth", [1, 24])
def test_random_weights_keep_the_scale(depth):
    """Latents, pixels and predictions stay of the size of one at any depth, and every input shows in them."""
    side = {"hidden_size": 64, "depth": depth, "num_heads": 4}
    model = TexTok.from_config(
        {"image_size": 32, "num_latent_tokens": 8, "text_dim": 32, "num_text_tokens": 5, "tokenizer": side, "detokenizer": side}
    )
    text = api_models.text_of(model, 4)
    z = model.encode(api_models.pictures_of(model, 4), text)
    assert 0.3 < z.std() < 3 and np.abs(z[0] - z[1]).mean() > 0.03
    assert np.abs(model.encode(api_models.pictures_of(model, 4), text + 1) - z).mean() > 0.01
    assert 0.3 < model.decode(z, text, output="float32").std() < 3
    dit = DiT.from_config({"num_tokens": 8, "hidden_size": 64, "depth": depth, "num_heads": 4, "num_classes": 9})
    x = api_models.latents_of(dit, 2)
    out = dit.denoise(x, [10, 500], labels=[1, 1])
    assert 0.3 < out.std() < 3
    assert np.abs(dit.denoise(x, [10, 500], labels=[2, 9]) - out).mean() > 0.01
    assert np.abs(dit.denoise(x, [500, 10], labels=[1, 1]) - out).mean() > 0.01


# ---- pipelines and caption stores ----


def test_pipeline_round_trip(tmp_path):
    pipeline = api_models.class_pipeline()
    pipeline.save_pretrained(tmp_path / "pipe")
    again = Pipeline.from_pretrained(tmp_path / "pipe")
    first, second = pipeline([1, 2], seed=3, steps=2), again([1, 2], seed=3, steps=2)
    assert (first.images == second.images).all() and first.captions == second.captions
    assert again.captions.records == pipeline.captions.records
    api_models.text_pipeline().save_pretrained(tmp_path / "t2i")
    assert Pipeline.from_pretrained(tmp_path / "t2i").captions is None


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "_class_name"),
        ({"_class_name": "DiTPipeline"}, 'expected "_class_name": "Pipeline", got \'DiTPipeline\''),
        ({"_class_name": "Pipeline"}, "textok: expected the plain name of a folder beside it, got None"),
        *(
            ({"_class_name": "Pipeline", "textok": place, "dit": "dit"}, "textok: expected the plain name of a folder")
            for place in ("../x", "/etc", "", ".", "..", 3, ["textok"], "a\\b", "a\0b")
        ),
        (
            {"_class_name": "Pipeline", "textok": "gone", "dit": "dit"},
            "textok: no folder 'gone' beside it and no bundled model of that name",
        ),
        (
            {"_class_name": "Pipeline", "textok": "textok", "dit": "dit", "captions": "emoji"},
            "captions: no folder 'emoji' beside it",
        ),
        (
            {"_class_name": "Pipeline", "textok": "textok", "dit": "dit", "captions": "captions", "vae": "vae"},
            "unknown key 'vae'",
        ),
    ],
)
def test_broken_pipelines(tmp_path, index, message):
    api_models.class_pipeline().save_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert message in load_error(tmp_path, ConfigError, Pipeline)


def test_pipelines_whose_parts_do_not_fit():
    for arguments, error, message in [
        (
            (api_models.textok(), api_models.dit(num_tokens=4), api_models.captions()),
            ConfigError,
            r"expected to make the tokenizer's latents \[6, 5\], got \[4, 5\]",
        ),
        ((api_models.textok(), api_models.dit()), ConfigError, "captions: expected a CaptionStore"),
        (
            (api_models.textok(text_dim=13), api_models.dit(), api_models.captions()),
            ConfigError,
            "captions: expected at most 7 tokens x 13, got up to 7 x 12",
        ),
        (
            (api_models.textok(num_text_tokens=6), api_models.dit(), api_models.captions()),
            ConfigError,
            "expected at most 6 tokens x 12, got up to 7 x 12",
        ),
        (
            (api_models.textok(text_dim=13), api_models.dit(condition="text")),
            ConfigError,
            "text of width 13, got text of width 12",
        ),
        (
            (api_models.textok(text_source="class"), api_models.dit(condition="text")),
            ConfigError,
            "9 classes, got text of width 12",
        ),
        (
            (api_models.textok(text_source="class", num_classes=8), api_models.dit()),
            ConfigError,
            "expected at most the tokenizer's 8 classes, got 9",
        ),
        ((api_models.dit(), api_models.dit()), TypeError, "textok: expected a TexTok, got DiT"),
        ((api_models.textok(), None), TypeError, "dit: expected a DiT, got NoneType"),
        ((api_models.textok(), api_models.dit(), []), TypeError, "captions: expected a CaptionStore or None, got list"),
    ]:
        with pytest.raises(error, match=message):
            Pipeline(*arguments)


def test_captions_round_trip(tmp_path):
    store = api_models.captions()
    store.save(tmp_path)
    again = CaptionStore.from_folder(tmp_path)
    assert again.records == store.records and repr(again) == repr(store) and len(again) == 18
    text, lengths = again.embeddings([2, 0, 6])
    assert text.shape == (3, 7, 12) and lengths.tolist() == [3, 1, 7] and text.dtype == np.float32
    assert (text[0, 3:] == 0).all() and (text[0, :3] != 0).all()
    assert again.captions([3, 1]) == ["caption 3", "caption 1"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ("[]", "expected an object, got list"),
        ("{}", 'line 2: record: expected an object with a "caption"'),
        ('{"caption": 3}', 'with a "caption"'),
        ('{"caption": "x", "label": -1}', 'expected a "label" that is an integer from 0, got -1'),
        ('{"caption": "x", "label": true}', "got True"),
        ('{"caption": "x", "label": 1.5}', "got 1.5"),
        ('{"caption": "x"}', "offsets: expected integers [20], one more than captions"),
    ],
)
def test_broken_caption_lines(tmp_path, line, message):
    api_models.captions().save(tmp_path)
    lines = (tmp_path / "captions.jsonl").read_text().splitlines()
    (tmp_path / "captions.jsonl").write_text("\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises(WeightsError) as caught:
        CaptionStore.from_folder(tmp_path)
    assert message in str(caught.value) and str(tmp_path) in str(caught.value)


def test_broken_caption_embeddings(tmp_path):
    records, total = [{"caption": "a"}, {"caption": "b"}], np.ones((5, 3), np.float16)
    for tokens, offsets, message in [
        (total, [0, 2], "offsets: expected integers [3], one more than captions, got int64 [2]"),
        (total, [0, 2, 4], "offsets: expected to rise from 0 to 5"),
        (total, [1, 2, 5], "offsets: expected to rise"),
        (total, [0, 0, 5], "at least one row"),
        (total, [0, 7, 5], "offsets: expected to rise"),
        (total, [0.0, 2.0, 5.0], "offsets: expected integers"),
        (total[0], [0, 2, 5], "tokens: expected floats [total, Dt]"),
        (total.astype(np.int8), [0, 2, 5], "tokens: expected floats"),
        (total * np.float16(np.nan), [0, 2, 5], "tokens: expected finite numbers"),
        (total.astype(np.float32) * 1e6, [0, 2, 5], "in the range of float16"),
    ]:
        with pytest.raises(WeightsError) as caught:
            CaptionStore(records, tokens, np.array(offsets))
        assert message in str(caught.value)
    with pytest.raises(WeightsError, match="offsets: expected to rise"):
        CaptionStore([], np.zeros((0, 3), np.float16), [0])
    with pytest.raises(WeightsError, match="captions.jsonl: no such file"):
        CaptionStore.from_folder(tmp_path)
    api_models.captions().save(tmp_path)
    save_file({"tokens": total}, tmp_path / "embeddings.safetensors")
    with pytest.raises(WeightsError, match="expected tensors tokens and offsets, got tokens"):
        CaptionStore.from_folder(tmp_path)


def test_captions_in_int8(tmp_path):
    """Rows with scales stand for their products; what is no such pair is told."""
    api_models.captions().save(tmp_path)
    file = tmp_path / "embeddings.safetensors"
    held = load_file(file)
    tokens = np.random.default_rng(0).integers(-127, 128, held["tokens"].shape).astype(np.int8)
    scales = np.linspace(0.01, 0.1, len(tokens), dtype=np.float32)
    save_file({"tokens": tokens, "scales": scales, "offsets": held["offsets"]}, file)
    text, lengths = CaptionStore.from_folder(tmp_path).embeddings([0])
    assert np.array_equal(text[0], (tokens * scales[:, None])[: lengths[0]].astype(np.float16).astype(np.float32))
    for wrong in ({"tokens": tokens, "scales": scales[1:]}, {"tokens": tokens.astype(np.float32), "scales": scales}):
        save_file(wrong | {"offsets": held["offsets"]}, file)
        with pytest.raises(WeightsError, match=r"tokens, scales: expected int8 \[total, Dt\] and float32 \[total\], got"):
            CaptionStore.from_folder(tmp_path)


def test_loading_from_several_threads(folder):
    """Reading shares nothing: as many threads as like load one folder."""
    found = []
    threads = [threading.Thread(target=lambda: found.append(TexTok.from_pretrained(folder).weights())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for tensors in found:
        assert_same_weights(tensors, api_models.textok().weights())


def test_every_tensor_of_the_table_is_read_once():
    """The table is the whole model: as many numbers as the engine says it holds."""
    for model in (api_models.textok(), api_models.dit(condition="text")):
        table = _core.weight_table(model.model_type, model.config.to_dict())
        assert len(dict(table)) == len(table) and sum(int(np.prod(shape)) for _, shape in table) == model.num_parameters
