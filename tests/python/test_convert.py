"""Checkpoints of other projects, small and with random weights, against what their own code answered to them (golden/foreign).

io.npz holds inputs and outputs as that code has them (pictures NCHW), meta.json says where they are from.
"""

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numerics
import numpy as np
import pytest
from fresh_process import environment

import textok
from textok import ConfigError, WeightsError, importers
from textok.cli import main

FOREIGN = Path(__file__).parent.parent / "golden" / "foreign"


def answers(name):
    return dict(np.load(FOREIGN / name / "io.npz"))


def channels_last(pictures):
    return pictures.transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def original():
    return importers.load(FOREIGN / "dit_reference" / "model.pt", {"num_heads": 4}), answers("dit_reference")


@pytest.fixture(scope="module")
def diffusers():
    return importers.load(FOREIGN / "diffusers_dit" / "transformer"), answers("diffusers_dit")


@pytest.fixture(scope="module")
def pranoyr():
    return importers.load(FOREIGN / "pranoyr_textok" / "model.pt", {"num_heads": 4}), answers("pranoyr_textok")


# ---- the same answers ----


def test_original_dit(original):
    dit, told = original
    numerics.check(dit.denoise(told["x"], told["t"], labels=told["y"]), told["out"], numerics.END_TO_END)


def test_original_dit_guidance(original):
    """Three of four channels; in its guided batch the second half is the null class and shares the first half's latents."""
    dit, told = original
    x, t, y = (told[f"cfg_{name}"][:2] for name in "zty")
    c, u = dit.denoise(x, t, labels=y), dit.denoise(x, t, null=True)
    c[:, :3] = u[:, :3] + 3 * (c[:, :3] - u[:, :3])
    numerics.check(c, told["cfg_out"][:2], numerics.END_TO_END)


@pytest.mark.parametrize("solver", ("ddpm", "ddim"))
def test_original_dit_sampling(original, solver):
    dit, told = original
    arguments = {"labels": told["cfg_y"][:2], "steps": 8, "solver": solver, "guidance_scale": 3, "noise": told["cfg_z"][:2],
                 "step_noise": told["ddpm8_noise"][:, :2]}
    numerics.check(dit.sample(**arguments), told[f"{solver}8"][:2], numerics.SAMPLING)
    arguments["guidance_scale"] = 3.01
    assert numerics.rejects(dit.sample(**arguments), told[f"{solver}8"][:2], numerics.SAMPLING)


def test_diffusers_dit(diffusers):
    dit, told = diffusers
    numerics.check(dit.denoise(told["x"], told["t"], labels=told["y"]), told["out"], numerics.END_TO_END)


@pytest.mark.parametrize(("solver", "spacing", "key"), (("ddim", "leading", "ddim8"), ("dpmsolver++", "linspace", "dpm8")))
def test_diffusers_dit_sampling(diffusers, solver, spacing, key):
    dit, told = diffusers
    result = dit.sample(labels=told["labels"], steps=8, solver=solver, spacing=spacing, guidance_scale=3, noise=told["z"])
    numerics.check(result, told[key], numerics.SAMPLING)


def test_planted_time_frequencies_are_rejected(diffusers):
    """The original's in place of diffusers' would be found out."""
    dit, told = diffusers
    planted = textok.DiT(dit.config.to_dict() | {"time_freq_shift": 0}, dit.weights())
    assert numerics.rejects(planted.denoise(told["x"], told["t"], labels=told["y"]), told["out"], numerics.END_TO_END)
    assert dit.config.mlp_norm_eps == 1e-5


@pytest.mark.parametrize("rows", (12, 7))
def test_pranoyr_textok(pranoyr, rows):
    model, told = pranoyr
    suffix = "" if rows == 12 else "_text7"
    text = told["text"][:, :rows]
    numerics.check(model.encode(channels_last(told["x"]), text), told[f"z{suffix}"], numerics.END_TO_END)
    pictures = model.decode(told[f"z{suffix}"], text, output="float32")
    numerics.check(pictures, channels_last(told[f"recon{suffix}"]), numerics.END_TO_END)


@pytest.mark.parametrize("name", ("titok_vae", "tatitok_vae"))
def test_titok(name):
    """A class token, a norm before the first block, a convolution at the end; its pictures are in [0, 1], its latents
    [B,C,1,N]."""
    model = importers.load(FOREIGN / name / "model.pt", {"tokenizer.num_heads": 2, "detokenizer.num_heads": 3})
    told = answers(name)
    latents = told["z"][:, :, 0].transpose(0, 2, 1)
    numerics.check(model.encode(2 * channels_last(told["x"]) - 1), latents, numerics.END_TO_END)
    text = told["text"] if name == "tatitok_vae" else None
    pictures = model.decode(latents, text, output="float32")
    numerics.check((pictures + 1) / 2, channels_last(told["recon"]), numerics.END_TO_END)
    for change in ({"num_registers": 0}, {"input_norm": False}, {"output_conv": False}, {"norm_eps": 1e-6}):
        with pytest.raises(ConfigError) if change.keys() != {"norm_eps"} else nullcontext():
            given = {"tokenizer.num_heads": 2, "detokenizer.num_heads": 3, **change}
            assert importers.load(FOREIGN / name / "model.pt", given).config.norm_eps == 1e-6


def test_planted_heads_are_rejected():
    """The one thing that is asked for shows in the result."""
    told = answers("dit_reference")
    dit = importers.load(FOREIGN / "dit_reference" / "model.pt", {"num_heads": 8})
    assert numerics.rejects(dit.denoise(told["x"], told["t"], labels=told["y"]), told["out"], numerics.END_TO_END)


# ---- the shell ----


def test_command(tmp_path, capsys, original):
    source, out = FOREIGN / "dit_reference" / "model.pt", tmp_path / "dit"
    assert main(["convert", str(source), str(out), "--set", "num_heads=4"]) == 0
    assert "DiT(4 x 8 x 8 latents" in capsys.readouterr().out
    dit, told = original
    again = textok.DiT.from_pretrained(out)
    assert again.config == dit.config
    assert np.array_equal(
        again.denoise(told["x"], told["t"], labels=told["y"]), dit.denoise(told["x"], told["t"], labels=told["y"])
    )
    assert main(["convert", str(source), str(out), "--set", "num_heads=4"]) == 1
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err
    (tmp_path / "given.json").write_text('{"num_heads": 2, "guidance_channels": null}')
    given = ["--config", str(tmp_path / "given.json"), "--set", "num_heads=4", "--overwrite", "--dtype", "int8"]
    assert main(["convert", str(source), str(out), *given]) == 0
    config = textok.DiT.from_pretrained(out).config
    assert (config.num_heads, config.guidance_channels) == (4, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ([], "does not say num_heads: give it, as num_heads=16"),
        (["--set", "num_heads"], "expected KEY=VALUE"),
        (["--set", "num_heads=5"], "num_heads: expected a divisor of hidden_size, 96, got 5"),
        (["--set", "num_heads=4", "heads=4"], "unknown config key"),
        (
            ["--set", "num_heads=4", "condition=text", "text_dim=3", "num_text_tokens=2", "num_classes=0"],
            "would have to come from elsewhere",
        ),
        (["--set", "num_heads=4", "num_classes=9"], "y_embedder.embedding_table.weight [11, 96], expected [10, 96]"),
        (["--set", "num_heads=4", "depth=4"], "missing 10 tensors (blocks.3."),
        (["--set", "num_heads=4", "depth=2"], "unknown 10 tensors (blocks.2."),
        (["--config", "no.json"], "no.json: no such file"),
    ),
)
def test_command_errors(tmp_path, capsys, arguments, message):
    assert main(["convert", str(FOREIGN / "dit_reference" / "model.pt"), str(tmp_path / "out"), *arguments]) == 1
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and not (tmp_path / "out").exists()


def test_no_pytorch_is_needed():
    """The importers read PyTorch's files by themselves, also where it is installed."""
    code = (
        f"import sys; from textok import importers; importers.load({str(FOREIGN / 'dit_reference' / 'model.pt')!r}, "
        "dict(num_heads=4)); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment(), timeout=60).returncode == 0


# ---- files with flaws ----


def copy_of_diffusers(tmp_path, config=None, **tensors):
    """The folder with some config keys and tensors changed; None takes one out."""
    from safetensors.numpy import load_file, save_file

    folder = FOREIGN / "diffusers_dit" / "transformer"
    values = json.loads((folder / "config.json").read_text()) | (config or {})
    (tmp_path / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    arrays = load_file(folder / "diffusion_pytorch_model.safetensors") | {
        key.replace("__", "."): value for key, value in tensors.items()
    }
    save_file(
        {key: value for key, value in arrays.items() if value is not None}, tmp_path / "diffusion_pytorch_model.safetensors"
    )
    return tmp_path


@pytest.mark.parametrize(("config", "message"), (
    ({"norm_type": "ada_norm"}, "norm_type: expected 'ada_norm_zero', got 'ada_norm'"),
    ({"activation_fn": "geglu"}, "activation_fn: expected 'gelu-approximate'"),
    ({"_class_name": "UNet2DModel"}, "_class_name"),
    ({"num_attention_heads": None}, "expected a number for num_attention_heads"),
    ({"sample_size": "8"}, "expected a number for sample_size"),
), ids=str)
def test_diffusers_configs_that_are_something_else(tmp_path, config, message):
    with pytest.raises(ConfigError) as caught:
        importers.load(copy_of_diffusers(tmp_path, config))
    assert message in str(caught.value)


def test_diffusers_tensors_that_do_not_fit(tmp_path):
    one = np.zeros(1, np.float32)
    with pytest.raises(WeightsError, match=r"missing 1 tensor \(proj_out_2.bias\); unknown 1 tensor \(lora.up\)"):
        importers.load(copy_of_diffusers(tmp_path, proj_out_2__bias=None, lora__up=one))
    with pytest.raises(WeightsError, match=r"proj_out_2.bias \[\[1\]\]: become final_layer.linear.bias \[1\], expected \[32\]"):
        importers.load(copy_of_diffusers(tmp_path, proj_out_2__bias=one))
    name = "transformer_blocks__1__norm1__emb__timestep_embedder__linear_1__bias"
    with pytest.raises(WeightsError, match="expected equal copies of it in every block, they differ"):
        importers.load(copy_of_diffusers(tmp_path, **{name: np.ones(96, np.float32)}))


def test_folders_and_files_of_no_layout(tmp_path):
    with pytest.raises(WeightsError, match="expected a folder with diffusion_pytorch_model.safetensors"):
        importers.load(tmp_path)
    with pytest.raises(WeightsError, match="no such file"):
        importers.load(tmp_path / "model.pt")
    from safetensors.numpy import save_file

    save_file({"a.weight": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="expected tensors of facebookresearch/DiT, .* got a.weight"):
        importers.load(tmp_path / "model.safetensors")


def torch_file(path, pickled, storage=b""):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", storage)
    return path


class Named:
    """Pickles as a call of any function by its name."""

    def __init__(self, module, name, *arguments):
        self.parts = module, name, arguments


def pickled(content):
    """`content` with `Named` calls as protocol-2 opcodes."""
    stream = io.BytesIO()

    class Pickler(pickle._Pickler):
        def save(self, value, *rest):
            if not isinstance(value, Named):
                return super().save(value, *rest)
            module, name, arguments = value.parts
            self.write(f"c{module}\n{name}\n".encode())
            if arguments:
                self.save(arguments)
                self.write(b"R")

        def persistent_id(self, value):
            return None

    Pickler(stream, 2).dump(content)
    return stream.getvalue()


@pytest.mark.parametrize(
    "name", (("os", "system"), ("builtins", "eval"), ("builtins", "__import__"), ("torch", "load"), ("numpy", "load"))
)
def test_pickles_that_ask_for_code(tmp_path, name):
    """Nothing of it runs: the name alone is an error."""
    ran = tmp_path / "ran"
    path = torch_file(tmp_path / "model.pt", pickled({"a": Named(*name, f"touch {ran}")}))
    with pytest.raises(WeightsError, match=f"its pickle asks for {name[0]}.{name[1]}, which textok does not run"):
        importers.load(path)
    assert not ran.exists()


@pytest.mark.parametrize(
    "flaw", ("empty", "no zip", "old format", "cut pickle", "no pickle", "a number", "no tensors", "no storage")
)
def test_files_that_are_broken(tmp_path, flaw):
    path = tmp_path / "model.pt"
    if flaw in ("empty", "no zip", "old format"):
        path.write_bytes(
            {"empty": b"", "no zip": b"PK\x03\x04" + bytes(100), "old format": pickle.dumps(0x1950A86A20F9469CFC6C)}[flaw]
        )
    elif flaw == "no pickle":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/version", "3")
    elif flaw == "no storage":
        whole = (FOREIGN / "dit_reference" / "model.pt").read_bytes()
        with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.infolist():
                if not entry.filename.endswith("data/3"):
                    new.writestr(entry, old.read(entry))
    else:
        torch_file(
            path, {"cut pickle": pickled({"a": [1, 2]})[:-3], "a number": pickled(3), "no tensors": pickled({"a": 3})}[flaw]
        )
    with pytest.raises(WeightsError) as caught:
        importers.load(path, {"num_heads": 4})
    assert str(path) in str(caught.value) and len(str(caught.value)) < 400


def tensor_pickle(count, offset, shape, strides, dtype="FloatStorage", key="0"):
    """A dict of one tensor as torch.save writes it, by hand."""
    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def whole(value):
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    def numbers(values):
        return b"(" + b"".join(map(whole, values)) + b"t"

    storage = b"(" + text("storage") + f"ctorch\n{dtype}\n".encode() + text(key) + text("cpu") + whole(count) + b"tQ"
    arguments = b"(" + storage + whole(offset) + numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)Rt"
    return b"\x80\x02}" + text("a.weight") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def test_tensors_of_a_torch_file(tmp_path):
    """Offsets and strides as PyTorch means them; bfloat16 and integers."""
    from textok.importers.source import open_source

    data = np.arange(24, dtype=np.float32)
    path = torch_file(tmp_path / "a.pt", tensor_pickle(24, 3, (4, 5), (1, 4)), data.tobytes())
    assert np.array_equal(open_source(path).tensors["a.weight"].read(), data[3:23].reshape(5, 4).T)
    path = torch_file(tmp_path / "b.pt", tensor_pickle(2, 0, (2,), (1,), "BFloat16Storage"), struct.pack("<2H", 0x3F80, 0xC000))
    assert np.array_equal(open_source(path).tensors["a.weight"].read().astype(np.float32), [1, -2])
    path = torch_file(tmp_path / "c.pt", tensor_pickle(0, 0, (0, 3), (3, 1)))
    assert open_source(path).tensors["a.weight"].read().shape == (0, 3)


@pytest.mark.parametrize(("count", "offset", "shape", "strides", "message"), (
    (24, 5, (4, 5), (5, 1), "reaches beyond its storage"),
    (24, 0, (4, 5), (2**40, 1), "reaches beyond its storage"),
    (24, -1, (4,), (1,), "a tensor that is none"),
    (24, 0, (4,), (-1,), "a tensor that is none"),
    (24, 0, (4, 5), (1,), "a tensor that is none"),
    (2**50, 0, (2**50,), (1,), "expected 1125899906842624 x float32"),
))
def test_tensors_that_lie_elsewhere(tmp_path, count, offset, shape, strides, message):
    from textok.importers.source import open_source

    path = torch_file(tmp_path / "a.pt", tensor_pickle(count, offset, shape, strides), bytes(96))
    with pytest.raises(WeightsError, match=message):
        open_source(path).tensors["a.weight"].read()


def test_training_files(tmp_path):
    """The running average before the weights; a command line in the file is no harm."""
    from textok.importers.source import open_source

    assert open_source(FOREIGN / "dit_reference" / "model.pt").part == "ema"
    assert open_source(FOREIGN / "pranoyr_textok" / "model.pt").part == "g_state_dict", "its average is None"
    whole = tensor_pickle(3, 0, (3,), (1,))
    inner = whole[2:-1]
    both = b"\x80\x02}X\x05\x00\x00\x00model" + inner + b"sX\x03\x00\x00\x00ema" + inner + b"sX\x04\x00\x00\x00args"
    path = torch_file(tmp_path / "a.pt", both + b"cargparse\nNamespace\n)\x81}b" + b"s.", bytes(12))
    source = open_source(path)
    assert source.part == "ema" and list(source.tensors) == ["a.weight"]
