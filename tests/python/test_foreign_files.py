"""Checkpoints as people have them: wrapped, sharded, halved, beside other things; and as nobody should have them."""

import io
import json
import resource
import shutil
import struct
import time
import zipfile
from pathlib import Path

import numerics
import numpy as np
import pytest
import torch_files
from safetensors.numpy import load_file, save_file
from test_convert import FOREIGN, answers

from textok import ConfigError, WeightsError, importers
from textok.cli import main
from textok.importers.source import open_source

HEADS = {"num_heads": 4}
Call = torch_files.Call


@pytest.fixture(scope="module")
def dit():
    """Tensors of facebookresearch's DiT, and what its own code answers."""
    return {name: tensor.read() for name, tensor in open_source(FOREIGN / "dit_reference" / "model.pt").tensors.items()}


def diffusers(folder, **changes):
    """A copy of diffusers' folder: its tensors, with changes to its config, whose None takes a key out."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((FOREIGN / "diffusers_dit" / "transformer" / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return load_file(FOREIGN / "diffusers_dit" / "transformer" / "diffusion_pytorch_model.safetensors")


def check_dit(model, stored=None):
    """It is the original DiT: equal answers."""
    stored = stored or answers("dit_reference")
    assert model.config.hidden_size == 96
    numerics.check(model.denoise(stored["x"], stored["t"], labels=stored["y"]), stored["out"], numerics.END_TO_END)


def check_diffusers(model):
    stored = answers("diffusers_dit")
    numerics.check(model.denoise(stored["x"], stored["t"], labels=stored["y"]), stored["out"], numerics.END_TO_END)


# ---- files people have ----


@pytest.mark.parametrize("wrap", ("module.{}", "_orig_mod.{}", "module._orig_mod.{}", "blocks"))
def test_modules_that_wrap_others(tmp_path, dit, wrap):
    """DistributedDataParallel and torch.compile put their names before every tensor's, or inside."""
    if wrap == "blocks":
        tensors = {name.replace("blocks.1.", "blocks.1._orig_mod."): array for name, array in dit.items()}
    else:
        tensors = {wrap.format(name): array for name, array in dit.items()}
    check_dit(importers.load(torch_files.save(tmp_path / "a.pt", {"ema": tensors}), HEADS))


def test_two_tensors_of_one_name(tmp_path, dit):
    tensors = dit | {"module.pos_embed": dit["pos_embed"]}
    with pytest.raises(WeightsError, match="two tensors are pos_embed without the names of what wraps modules"):
        importers.load(torch_files.save(tmp_path / "a.pt", tensors), HEADS)


BESIDE = {
    "a NumPy scalar": Call("numpy._core.multiarray.scalar", Call("numpy.dtype", "i8", False, True), "\x03\0\0\0\0\0\0\0"),
    "a path": Call("argparse.Namespace", state={"out": Call("pathlib.PosixPath", "x")}),
    "an OmegaConf": Call(
        "omegaconf.dictconfig.DictConfig", state={"_metadata": Call("omegaconf.base.ContainerMetadata"), "_content": {}}
    ),
    "a command": Call("os.system", "touch {ran}"),
    "a set": {1, 2, 3},
    "an optimizer": {
        "state": {0: {"exp_avg": np.ones(3, np.float32), "step": 3}},
        "param_groups": [{"lr": 1e-4, "params": [0, 1]}],
    },
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_stands_beside_weights_is_not_executed(tmp_path, dit, what):
    beside = BESIDE[what]
    if what == "a command":
        beside = Call("os.system", f"touch {tmp_path / 'ran'}")
    check_dit(importers.load(torch_files.save(tmp_path / "a.pt", {"ema": dit, "step": 7, "args": beside}), HEADS))
    assert not (tmp_path / "ran").exists()


def test_published_diffusers_config(tmp_path):
    """facebook/DiT-XL-2-256: of the class Transformer2DModel, without norm_eps, as .bin."""
    more = {"only_cross_attention": False, "use_linear_projection": False, "_diffusers_version": "0.12.0.dev0"}
    tensors = diffusers(tmp_path / "transformer", _class_name="Transformer2DModel", norm_eps=None, **more)
    torch_files.save(tmp_path / "transformer" / "diffusion_pytorch_model.bin", tensors)
    check_diffusers(importers.load(tmp_path / "transformer"))
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "DiTPipeline", "transformer": ["diffusers", "Transformer2DModel"]}'
    )
    check_diffusers(importers.load(tmp_path))


def test_half_precision_variants(tmp_path):
    """A folder with the variant alone, and its file by name; the plain weights go before it."""
    tensors = diffusers(tmp_path)
    half = {name: array.astype(np.float16) for name, array in tensors.items()}
    variant = tmp_path / "diffusion_pytorch_model.fp16.safetensors"
    save_file(half, variant)
    rounded = diffusers(tmp_path / "rounded") | {name: array.astype(np.float32) for name, array in half.items()}
    save_file(rounded, tmp_path / "rounded" / "model.safetensors")
    expected = importers.load(tmp_path / "rounded").weights()
    for path in (tmp_path, variant):
        found = importers.load(path).weights()
        assert all(np.array_equal(found[name], array) for name, array in expected.items())
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    check_diffusers(importers.load(tmp_path))
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    save_file(tensors, tmp_path / "diffusion_pytorch_model.bf16.safetensors")
    with pytest.raises(WeightsError, match="expected one set of weights, got .*bf16.*fp16.*: give the file"):
        importers.load(tmp_path)


@pytest.mark.parametrize("kind", ("safetensors", "bin"))
def test_shards(tmp_path, kind):
    tensors = diffusers(tmp_path)
    names, places = list(tensors), {}
    for part in range(2):
        mine = {name: tensors[name] for name in names[part::2]}
        file = f"diffusion_pytorch_model-{part + 1:05d}-of-00002.{kind}"
        save_file(mine, tmp_path / file) if kind == "safetensors" else torch_files.save(tmp_path / file, mine)
        places |= dict.fromkeys(mine, file)
    index = tmp_path / f"diffusion_pytorch_model.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    check_diffusers(importers.load(tmp_path))
    index.write_text(json.dumps({"weight_map": places | {"there.is.none": file}}))
    with pytest.raises(WeightsError, match=r"do not have there.is.none"):
        importers.load(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(WeightsError, match=f"{file}: no such file"):
        importers.load(tmp_path)
    for hostile in ("../a.bin", "/etc/passwd", "a\0b", "\ud800", ""):
        index.write_text(json.dumps({"weight_map": {"a": hostile}}))
        with pytest.raises(WeightsError, match="expected names of files in its own folder"):
            importers.load(tmp_path)


def test_tied_tensors(tmp_path):
    """safetensors keeps one of several tensors that are one, and names the others in the metadata."""
    tensors = diffusers(tmp_path)
    kept = "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    gone = kept.replace("blocks.0.", "blocks.1.")
    save_file(
        {name: array for name, array in tensors.items() if name != gone}, tmp_path / "model.safetensors", metadata={gone: kept}
    )
    check_diffusers(importers.load(tmp_path))


def test_hub_folder_of_titok(tmp_path):
    """config.json and model.safetensors; a codebook and the legacy layout are refused by name."""
    shutil.copy(FOREIGN / "titok_vae" / "model.pt", tmp_path / "pytorch_model.bin")
    said = json.loads((FOREIGN / "titok_vae" / "meta.json").read_text())["config"]
    (tmp_path / "config.json").write_text(json.dumps(said))
    heads = {"tokenizer.num_heads": 2, "detokenizer.num_heads": 3}
    model, stored = importers.load(tmp_path, heads), answers("titok_vae")
    images = np.ascontiguousarray(stored["x"].transpose(0, 2, 3, 1)) * 2 - 1
    numerics.check(model.encode(images), stored["z"][:, :, 0].transpose(0, 2, 1), numerics.END_TO_END)
    for change, message in (
        ({"quantize_mode": "vq"}, "quantize_mode: expected 'vae', got 'vq'"),
        ({"is_legacy": True}, "is_legacy"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"model": {"vq_model": said["model"]["vq_model"] | change}}))
        with pytest.raises(ConfigError, match=message):
            importers.load(tmp_path, heads)


def test_tensors_of_no_use(tmp_path, dit, capsys):
    path = tmp_path / "a.safetensors"
    save_file(dit | {"projectors.0.weight": np.zeros((2, 2), np.float32), "scaled_fp8": np.zeros(0, np.float32)}, path)
    with pytest.raises(
        WeightsError, match=r"unknown 2 tensors \(projectors.0.weight, scaled_fp8\); .* --ignore projectors.0.weight"
    ):
        importers.load(path, HEADS)
    check_dit(importers.load(path, HEADS, ignore=("projectors.*", "scaled_fp8")))
    assert (
        main(["convert", str(path), str(tmp_path / "out"), "--set", "num_heads=4", "--ignore", "projectors.*", "scaled_*"]) == 0
    )
    assert "taken for a DDPM that predicts noise (DiT)" in capsys.readouterr().out


def test_no_null_class(tmp_path, dit):
    """Trained without class dropout: as many rows as classes; a single row is one class."""
    path = torch_files.save(tmp_path / "a.pt", dit)
    assert importers.load(path, HEADS).config.num_classes == 10
    model = importers.load(path, HEADS | {"num_classes": 11})
    assert model.config.num_classes == 11 and not model.config.null_class
    stored = answers("dit_reference")
    numerics.check(model.denoise(stored["x"], stored["t"], labels=stored["y"]), stored["out"], numerics.END_TO_END)
    with pytest.raises(ValueError, match="labels: expected 0 to 10, and this model has no null class, got 11"):
        model.denoise(stored["x"][:1], stored["t"][:1], labels=[11])
    with pytest.raises(ValueError, match="guidance_scale: expected 1: this model was trained without class dropout"):
        model.sample(labels=[3], steps=2, guidance_scale=2.0, seed=0)
    assert model.sample(labels=[3], steps=2, seed=0).shape == (1, 4, 8, 8)
    model.save_pretrained(tmp_path / "saved")
    assert not type(model).from_pretrained(tmp_path / "saved").config.null_class
    one = dit | {"y_embedder.embedding_table.weight": dit["y_embedder.embedding_table.weight"][:1]}
    found = importers.read(torch_files.save(tmp_path / "one.pt", one), HEADS)
    assert (found.config.num_classes, found.config.null_class) == (1, False) and "cannot be guided" in found.notes[0]


def test_integers_are_no_weights(tmp_path, dit):
    whole = {name: (100 * array).astype(np.int8) for name, array in dit.items()}
    with pytest.raises(WeightsError, match=r"expected F32, F16, F64, BF16, got integers .* 42 tensors \(.* int8"):
        importers.load(torch_files.save(tmp_path / "a.pt", whole), HEADS)


# ---- SiT ----


def test_sit_is_no_ddpm(tmp_path, dit):
    """willisma/SiT's tensors are DiT's; its time runs from noise to data, and of its learned sigma nothing is used."""
    said = Call("argparse.Namespace", state={"model": "SiT-XL/2", "path_type": "Linear", "prediction": "velocity"})
    path = torch_files.save(tmp_path / "a.pt", {"ema": dit, "args": said})
    plain = torch_files.save(tmp_path / "b.pt", {"ema": dit})
    stored = answers("dit_reference")
    ddpm = importers.load(plain, HEADS)
    t = np.linspace(0, 1, len(stored["x"])).astype(np.float32)
    theirs = ddpm.denoise(stored["x"], 1 - t, labels=stored["y"])[:, :4]  # at their time; data - noise
    for model in (importers.load(path, HEADS), importers.load(plain, HEADS | {"prediction": "velocity"})):
        assert model.config.prediction == "velocity" and not model.config.learn_sigma
        numerics.check(model.denoise(stored["x"], t, labels=stored["y"]), -theirs, numerics.END_TO_END)
    assert ddpm.config.prediction == "epsilon" and "taken for a DDPM" in importers.read(plain, HEADS).notes[-1]
    assert not importers.read(path, HEADS).notes
    said.state["path_type"] = "GVP"
    with pytest.raises(
        ConfigError, match="expected a SiT of the linear path that predicts the velocity, got one of the GVP path"
    ):
        importers.load(torch_files.save(tmp_path / "c.pt", {"ema": dit, "args": said}), HEADS)


def test_heads_of_a_training_that_says_its_model(tmp_path, dit):
    said = Call("argparse.Namespace", state={"model": "DiT-B/2"})
    assert importers.load(torch_files.save(tmp_path / "a.pt", {"ema": dit, "args": said})).config.num_heads == 12


# ---- files nobody should have ----


def measured(path, settings=None):
    """The WeightsError of a file, which comes at once and takes no memory to speak of."""
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError) as caught:
        importers.load(path, settings or HEADS)
    assert time.process_time() - began < 2 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    assert len(str(caught.value)) < 400
    return str(caught.value)


def test_pickles_that_take_memory(tmp_path):
    path = tmp_path / "a.pt"
    torch_files.write(path, b"\x80\x02}r" + struct.pack("<I", 0x0FFFFFFF) + b".", {})
    assert "expected tensors by name" in measured(path)
    torch_files.write(path, b"\x80\x02" + b"}" * (32 << 20) + b".", {}, zipfile.ZIP_DEFLATED)
    assert "not compressed" in measured(path)
    torch_files.write(path, b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b".", {})
    assert "a number of more than 1024 bytes" in measured(path)


@pytest.mark.parametrize("member", ("archive/data.pkl", "archive/data/0"))
def test_members_that_claim_memory(tmp_path, dit, member):
    """In the archive a stored one is said to have 1 GiB, and to become as many bytes as there are."""
    path = torch_files.save(tmp_path / "a.pt", dit)
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02"))
    while data[place + 46 : place + 46 + len(member)] != member.encode():
        place = data.index(b"PK\x01\x02", place + 4)
    data[place + 20 : place + 24] = struct.pack("<I", 1 << 30)
    path.write_bytes(data)
    assert "more than can be in it" in measured(path)


def test_more_opcodes_than_any_training_writes(tmp_path, monkeypatch):
    from textok import torch_files as reader

    monkeypatch.setattr(reader, "MAX_OPCODES", 1000)
    torch_files.write(tmp_path / "a.pt", b"\x80\x02" + b"}0" * 1000 + b".", {})
    assert "more than 1000 opcodes" in measured(tmp_path / "a.pt")


def number_with_the_hash_of_all(k):
    """LONG1 of a multiple of the prime that Python's hash of integers goes by: all of them fall into one place of a dict."""
    number = k * ((1 << 61) - 1)
    data = number.to_bytes(number.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(data)]) + data


@pytest.mark.parametrize("kind", ("dict", "set", "memo"))
def test_keys_that_have_all_the_same_hash(tmp_path, kind):
    """A megabyte of them took a dict minutes."""
    numbers = range(1, 60_000)
    pickled = {
        "dict": lambda: b"}(" + b"".join(number_with_the_hash_of_all(k) + b"N" for k in numbers) + b"u.",
        "set": lambda: b"\x8f(" + b"".join(map(number_with_the_hash_of_all, numbers)) + b"\x90.",
        "memo": lambda: b"}" + b"".join(b"p%d\n" % (k * ((1 << 61) - 1)) for k in numbers) + b".",
    }[kind]()
    torch_files.write(tmp_path / "a.pt", b"\x80\x04" + pickled, {})
    measured(tmp_path / "a.pt")


def test_what_a_name_says_to_a_terminal(tmp_path, dit):
    """Names in a file come back in messages: on one line, and never a name of megabytes or what a terminal obeys."""
    torch_files.save(tmp_path / "a.pt", dit | {"a\nb\x1b]0;owned\x07" + "c" * 10_000: np.ones(3, np.float32)})
    message = measured(tmp_path / "a.pt")
    assert message.isprintable() and r"a\nb\x1b]0;owned\x07" in message
    torch_files.save(tmp_path / "b.pt", Call("os.system\u2028\x1b"))
    assert measured(tmp_path / "b.pt").isprintable()


def test_tensors_that_are_all_the_same_storage(tmp_path, dit, monkeypatch):
    """Of a file of 400 KB a model of 20 blocks, 6 MB."""

    class Shared(torch_files._Pickler):
        def tensor(self, array):
            self.storages = {}  # so that the next is called "0", too
            super().tensor(array)

    one = {name: array for name, array in dit.items() if "blocks.0." in name}
    blocks = {name.replace(".0.", f".{k}.", 1): array for name, array in one.items() for k in range(20)}
    monkeypatch.setattr(importers.reading, "_MOST_MORE", 0)
    torch_files.save(tmp_path / "own.pt", dit | blocks)
    assert importers.load(tmp_path / "own.pt", HEADS).config.depth == 20
    stream = io.BytesIO()
    Shared(stream).dump(dit | blocks)
    torch_files.write(tmp_path / "a.pt", stream.getvalue(), {"0": bytes(4 << 16)})
    assert "its config asks for" in measured(tmp_path / "a.pt")


def test_tensors_that_repeat_a_number(tmp_path, dit):
    """A table of 2^24 rows that are all the same stored number."""

    class Pickler(torch_files._Pickler):
        def tensor(self, array):
            if array.shape == (11, 96):
                array = np.lib.stride_tricks.as_strided(array, (1 << 24, 96), (0, 0))
                self._strided = True
            super().tensor(array) if array.shape[0] != 1 << 24 else self.repeated(array)

        def repeated(self, array):
            self._name("torch._utils._rebuild_tensor_v2")
            self.write(b"((")
            self.save("storage")
            self._name("torch.FloatStorage")
            for part in ("0", "cpu", 1):
                self.save(part)
            self.write(b"tQ")
            for part in (0, array.shape, (0, 0), False):
                self.save(part)
            self.write(b"ccollections\nOrderedDict\n)RtR")

    stream = io.BytesIO()
    pickler = Pickler(stream)
    pickler.dump(dit)
    torch_files.write(tmp_path / "a.pt", stream.getvalue(), pickler.storages)
    assert "expected a tensor no larger than its 1 stored numbers, got [16777216, 96]" in measured(tmp_path / "a.pt")


def test_what_is_made_stays_as_it_is(tmp_path):
    """BUILD would set the checked strides of a tensor anew, and read far outside its storage."""
    from test_convert import tensor_pickle

    whole = tensor_pickle(24, 0, (4, 6), (6, 1))
    assert whole.endswith(b"Rs.")
    evil = whole[:-2] + b"}X\x08\x00\x00\x00_strides(M\x00\x10K\x01tsbs."
    torch_files.write(tmp_path / "a.pt", evil, {"0": bytes(96)})
    assert "its pickle changes what is made already" in measured(tmp_path / "a.pt")


@pytest.mark.parametrize("flaw", ("0-d", "empty", "negative heads", "zero heads", "huge positions", "a pipe"))
def test_folders_that_are_wrong(tmp_path, flaw):
    changes = {"negative heads": {"num_attention_heads": -1}, "zero heads": {"num_attention_heads": 0}}
    changes["huge positions"] = {"sample_size": 2000}
    tensors = diffusers(tmp_path, **changes.get(flaw, {}))
    if flaw == "0-d":
        tensors["pos_embed.proj.weight"] = np.array(1, np.float32)
    if flaw == "empty":
        tensors["proj_out_1.weight"] = np.zeros((0, 96), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    if flaw == "a pipe":
        import os

        (tmp_path / "model.safetensors").unlink()
        os.mkfifo(tmp_path / "model.safetensors")
    expected = {
        "0-d": "pos_embed.proj.weight .*: not the axes", "empty": "become final_layer.adaLN_modulation.1.weight",
        "negative heads": "num_attention_heads",
        "zero heads": "num_attention_heads", "huge positions": "its config asks for",
        "a pipe": "expected a file, got something else",
    }  # fmt: skip
    with pytest.raises((WeightsError, ConfigError), match=expected[flaw]):
        importers.load(tmp_path)


def test_settings_that_do_not_fit(tmp_path, capsys):
    """In a line, with the key that is meant, from the shell too."""
    source = str(FOREIGN / "titok_vae" / "model.pt")
    for settings, message in (
        (["num_heads=2", "tokenizer=3"], "tokenizer: expected some of its parts, as tokenizer.num_heads=4, got 3"),
        (["tokenizer=3"], "tokenizer: expected some of its parts"),
        (["tokenizer.num_heads=2", "tokenizer=3"], "tokenizer: expected one value or some of its parts, got both"),
        (["num_heads=2", "norm_eps=" + "9" * 400], "norm_eps: expected a number from 1e-12 to 0.1"),
        (["num_heads=" + "[" * 2000], "num_heads: expected an integer"),
        (["num_heads=2", "nothing=2"], "unknown config key"),
    ):
        assert main(["convert", source, str(tmp_path / "out"), "--set", *settings]) == 1
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1 and "Traceback" not in said, said
    assert not (tmp_path / "out").exists()


def test_textoks_own(tmp_path):
    model = importers.load(FOREIGN / "dit_reference" / "model.pt", HEADS)
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="a model of textok already"):
        importers.load(tmp_path)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "model_index.json").write_text('{"textok": "a", "dit": "b"}')
    with pytest.raises(ConfigError, match="a pipeline of textok"):
        importers.load(Path(tmp_path / "p"))
