"""Text encoders as people have them: folders of transformers and open_clip in every layout, against the golden states of the
same weights; and what is wrong with a folder or an argument, named."""

import json
import shutil
from pathlib import Path

import numerics
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import textok
from textok import ConfigError, TextEncoder, WeightsError, cli

GOLDEN = Path(__file__).parents[1] / "golden" / "foreign"
FAMILIES = ("t5_v1_1", "t5_original", "bert", "clip_text")


def golden(family):
    with np.load(GOLDEN / family / "io.npz") as file:
        return [file[f"ids{k}"] for k in range(4)], [file[f"states{k}"] for k in range(4)]


def states(encoder, ids):
    text, lengths = encoder.encode_ids(ids)
    return np.concatenate([row[:length] for row, length in zip(text, lengths, strict=True)])


def check_folder(folder, family):
    ids, expected = golden(family)
    numerics.check(states(TextEncoder.from_pretrained(folder), ids), np.concatenate(expected), numerics.END_TO_END)


def write(folder, family, change=dict, config=None, name="model.safetensors"):
    """A folder with the golden's weights after `change`, its config updated by `config`."""
    folder.mkdir(exist_ok=True)
    values = json.loads((GOLDEN / family / "config.json").read_text()) | (config or {})
    (folder / "config.json").write_text(json.dumps(values))
    save_file(
        {key: np.ascontiguousarray(value) for key, value in change(load_file(GOLDEN / family / "model.safetensors")).items()},
        folder / name,
    )
    return folder


# ---- layouts ----


def whole_t5(tensors):
    extra = {f"decoder.block.0.layer.{i}.x.weight": np.zeros((3, 3), np.float32) for i in range(2)}
    return (
        tensors | extra | {"lm_head.weight": tensors["shared.weight"], "encoder.embed_tokens.weight": tensors["shared.weight"]}
    )


LAYOUTS = {
    "a whole T5": ("t5_v1_1", whole_t5, {}),
    "T5 without shared": (
        "t5_original",
        lambda t: {k.replace("shared.weight", "encoder.embed_tokens.weight"): v for k, v in t.items()},
        {},
    ),
    "mT5": ("t5_v1_1", dict, {"model_type": "mt5"}),
    "BERT with a prefix, a pooler and places": (
        "bert",
        lambda t: (
            {f"bert.{k}": v for k, v in t.items()}
            | {
                "bert.pooler.dense.weight": np.zeros((48, 48), np.float32),
                "cls.predictions.bias": np.zeros(120, np.float32),
                "bert.embeddings.position_ids": np.arange(80)[None],
            }
        ),
        {},
    ),
    "BERT with gamma and beta": (
        "bert",
        lambda t: {k.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for k, v in t.items()},
        {},
    ),
    "CLIP without text_model": ("clip_text", lambda t: {k.removeprefix("text_model."): v for k, v in t.items()}, {}),
    "a whole CLIP": (
        "clip_text",
        lambda t: (
            t
            | {
                "vision_model.embeddings.class_embedding": np.zeros(3, np.float32),
                "logit_scale": np.zeros((), np.float32),
                "visual_projection.weight": np.zeros((3, 3), np.float32),
                "text_model.embeddings.position_ids": np.arange(77)[None],
            }
        ),
        {},
    ),
}


@pytest.mark.parametrize("case", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_transformers(case, tmp_path):
    family, change, config = case
    if "vision_model.embeddings.class_embedding" in change(
        load_file(GOLDEN / family / "model.safetensors")
    ):
        config = {
            "model_type": "clip",
            "projection_dim": 40,
            "text_config": json.loads((GOLDEN / family / "config.json").read_text()),
        }
    check_folder(write(tmp_path / "model", family, change, config), family)


def test_umt5_has_a_bias_a_block(tmp_path):
    """The same table in every block is T5; another one in one block is not."""
    names = [f"encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight" for i in range(3)]

    def repeated(t):
        return t | dict.fromkeys(names, t[names[0]])

    folder = write(tmp_path / "model", "t5_v1_1", repeated, {"model_type": "umt5"})
    check_folder(folder, "t5_v1_1")
    ids, expected = golden("t5_v1_1")
    write(folder, "t5_v1_1", lambda t: repeated(t) | {names[2]: t[names[0]][::-1]}, {"model_type": "umt5"})
    assert numerics.rejects(states(TextEncoder.from_pretrained(folder), ids), np.concatenate(expected), numerics.END_TO_END)


@pytest.mark.parametrize("family", FAMILIES)
def test_shards(family, tmp_path):
    folder = write(tmp_path / "model", family)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {}
    for part in range(3):
        file = f"model-{part + 1:05}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names[part::3]}, folder / file)
        places |= dict.fromkeys(names[part::3], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    check_folder(folder, family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sharded", (False, True))
def test_files_of_torch_save(family, sharded, tmp_path):
    torch = pytest.importorskip("torch")
    folder = write(tmp_path / "model", family)
    tensors = {name: torch.from_numpy(value) for name, value in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    if not sharded:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        names, places = sorted(tensors), {}
        for part in range(2):
            file = f"pytorch_model-{part + 1:05}-of-00002.bin"
            torch.save({name: tensors[name] for name in names[part::2]}, folder / file)
            places |= dict.fromkeys(names[part::2], file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    check_folder(folder, family)


@pytest.mark.parametrize("stored", ("float16", "float64", "bfloat16"))
def test_stored_types(stored, tmp_path):
    """Any float type is taken; the same numbers have one identity, whatever type and file they are in."""
    import ml_dtypes

    dtype = ml_dtypes.bfloat16 if stored == "bfloat16" else stored
    cast = lambda t: {key: value.astype(dtype) for key, value in t.items()}
    back = lambda t: {key: value.astype(dtype).astype(np.float32) for key, value in t.items()}
    one, two = write(tmp_path / "one", "t5_v1_1", cast), write(tmp_path / "two", "t5_v1_1", back)
    one, two = TextEncoder.from_pretrained(one), TextEncoder.from_pretrained(two)
    ids, _ = golden("t5_v1_1")
    assert states(one, ids).tobytes() == states(two, ids).tobytes()
    assert one.identity == two.identity
    assert (one.identity == TextEncoder.from_pretrained(GOLDEN / "t5_v1_1").identity) == (stored == "float64")


def open_clip(tensors):
    """The golden CLIP as open_clip names and lays it out."""
    t = {name.removeprefix("text_model."): value for name, value in tensors.items()}
    result = {
        "token_embedding.weight": t["embeddings.token_embedding.weight"],
        "positional_embedding": t["embeddings.position_embedding.weight"],
        "ln_final.weight": t["final_layer_norm.weight"],
        "ln_final.bias": t["final_layer_norm.bias"],
        "text_projection": t["text_projection.weight"].T,
        "logit_scale": np.float32([3]),
        "attn_mask": np.zeros((77, 77), np.float32),
        "visual.conv1.weight": np.zeros((3, 3), np.float32),
        "visual.transformer.resblocks.0.ln_1.weight": np.zeros(3, np.float32),
    }
    for i in range(3):
        old, new = f"encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for kind in ("weight", "bias"):
            result[f"{new}attn.in_proj_{kind}"] = np.concatenate([t[f"{old}self_attn.{part}_proj.{kind}"] for part in "qkv"])
            for ours, theirs in (
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("attn.out_proj", "self_attn.out_proj"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                result[f"{new}{ours}.{kind}"] = t[f"{old}{theirs}.{kind}"]
    return result


@pytest.mark.parametrize("name", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"))
def test_a_folder_of_open_clip(name, tmp_path):
    tensors = open_clip(load_file(GOLDEN / "clip_text" / "model.safetensors"))
    if name.endswith(".bin"):
        torch = pytest.importorskip("torch")
        torch.save({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in tensors.items()}, tmp_path / name)
    else:
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, tmp_path / name)
    text = {"context_length": 77, "vocab_size": 150, "width": 64, "heads": 4, "layers": 3, "mlp_ratio": 2.5}
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {"embed_dim": 40, "quick_gelu": True, "text_cfg": text}})
    )
    check_folder(tmp_path, "clip_text")
    ids, _ = golden("clip_text")
    with np.load(GOLDEN / "clip_text" / "io.npz") as file:
        pooled = np.stack([file[f"pooled{k}"] for k in range(4)])
    encoder = TextEncoder.from_pretrained(tmp_path)
    assert encoder.config.end_token_id is None  # the end of text is the largest number there
    with_end = [np.append(row[:-1], 149) for row in ids]
    assert all(np.array_equal(row, other) for row, other in zip(ids, with_end, strict=True))
    numerics.check(encoder.pooled_ids(ids), pooled, numerics.END_TO_END)


def test_convert_a_file_of_open_clip(tmp_path, capsys):
    tensors = open_clip(load_file(GOLDEN / "clip_text" / "model.safetensors"))
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, tmp_path / "clip.safetensors")
    out = tmp_path / "out"
    assert cli.main(["convert", str(tmp_path / "clip.safetensors"), str(out)]) == 1
    assert "does not say num_heads and activation" in capsys.readouterr().err
    assert (
        cli.main(["convert", str(tmp_path / "clip.safetensors"), str(out), "--set", "num_heads=4", "activation=quick_gelu"])
        == 0
    )
    check_folder(out, "clip_text")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ("bfloat16", "int8"))
def test_convert(family, dtype, tmp_path, capsys):
    """What is converted computes as what it was made of would in that dtype, and says that it is the same encoder."""
    out = tmp_path / "out"
    assert cli.main(["convert", str(GOLDEN / family), str(out), "--dtype", dtype]) == 0
    original, converted = TextEncoder.from_pretrained(GOLDEN / family, dtype), TextEncoder.from_pretrained(out, dtype)
    ids, _ = golden(family)
    assert states(original, ids).tobytes() == states(converted, ids).tobytes()
    assert original.identity == converted.identity and repr(converted) in capsys.readouterr().out.replace("out:", f"{out}:", 2)
    assert cli.main(["info", str(out)]) == 0
    assert "one caption" in capsys.readouterr().out


def test_large_files_are_written_in_parts(tmp_path, monkeypatch):
    from textok.text import encoder

    original = TextEncoder.from_pretrained(GOLDEN / "t5_v1_1")
    original.save_pretrained(tmp_path)
    monkeypatch.setattr(encoder, "SHARD_BYTES", 50_000)
    original.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists() and len(list(tmp_path.glob("model-*.safetensors"))) > 3
    check_folder(tmp_path, "t5_v1_1")


# ---- what is wrong ----


def broken(change=dict, config=None, family="t5_v1_1"):
    return lambda folder: write(folder, family, change, config)


WRONG = {
    "another model": (
        broken(config={"model_type": "gpt2"}),
        ConfigError,
        "expected a text encoder, a \"model_type\" of .*got 'gpt2'",
    ),
    "no sizes": (
        lambda f: (f.mkdir(), (f / "config.json").write_text('{"model_type": "t5"}')),
        ConfigError,
        "missing vocab_size, d_model",
    ),
    "an activation": (
        broken(config={"feed_forward_proj": "gated-mish"}),
        ConfigError,
        "expected an activation of .*got 'mish'",
    ),
    "a tensor too few": (
        broken(lambda t: {k: v for k, v in t.items() if "wo" not in k}),
        WeightsError,
        "missing 3 tensors .*wo.weight",
    ),
    "a tensor too many": (
        broken(lambda t: t | {"encoder.more": np.zeros(3, np.float32)}),
        WeightsError,
        "not in this model 1 tensor .encoder.more",
    ),
    "a shape": (broken(config={"d_ff": 100}), WeightsError, "wi_0.weight: expected .100, 48., got .112, 48."),
    "a NaN": (
        broken(lambda t: t | {"shared.weight": t["shared.weight"] * np.nan}),
        WeightsError,
        "shared.weight: expected finite numbers",
    ),
    "no weights": (
        lambda f: (write(f, "bert"), (f / "model.safetensors").unlink()),
        WeightsError,
        "no model.safetensors, pytorch_model.bin",
    ),
    "heads": (
        broken(config={"num_attention_heads": 5}, family="bert"),
        ConfigError,
        "num_heads: expected a divisor of hidden_size, 48",
    ),
    "positions": (
        broken(config={"position_embedding_type": "relative_key"}, family="bert"),
        ConfigError,
        "expected absolute positions",
    ),
    "buckets": (
        broken(config={"relative_attention_num_buckets": 30}),
        ConfigError,
        "relative_buckets: expected a multiple of 4",
    ),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_wrong_folders_are_named(case, tmp_path):
    make, error, text = case
    make(tmp_path / "model")
    with pytest.raises(error, match=text) as caught:
        TextEncoder.from_pretrained(tmp_path / "model")
    assert str(tmp_path) in str(caught.value)


def test_wrong_arguments_are_named():
    encoder, clip = TextEncoder.from_pretrained(GOLDEN / "t5_v1_1"), TextEncoder.from_pretrained(GOLDEN / "clip_text")
    for call, error, text in [
        (lambda: encoder("a cat"), ConfigError, "none of tokenizer.json, .*pass token numbers to encode_ids"),
        (lambda: encoder.encode_ids([[1, 2], []]), ValueError, r"ids\[1\]: expected 1 to .* tokens, got 0"),
        (lambda: encoder.encode_ids([1, 2]), ValueError, r"pass \[ids\] for one caption"),
        (lambda: encoder.encode_ids([[1, 100]]), ValueError, r"ids\[0\]: expected 0 to 99, token numbers, got 100 at \[1\]"),
        (lambda: encoder.encode_ids([[1.5]]), ValueError, r"ids\[0\]: expected integers"),
        (lambda: encoder.encode_ids("abc"), TypeError, "ids: expected a list of token numbers for each caption, got str"),
        (lambda: encoder.encode_ids([[1, 2, 3]], pad_to=2), ValueError, "pad_to: expected 3 to"),
        (lambda: clip.encode_ids([[1] * 78]), ValueError, r"ids\[0\]: expected 1 to 77 tokens, got 78"),
        (lambda: clip.pooled_ids([[1, 2, 3]]), ValueError, r"ids\[0\]: expected the end token 149 in it"),
        (lambda: encoder.pooled_ids([[1]]), ValueError, "pooled: expected a CLIP, got a t5"),
        (lambda: encoder.encode_ids([[1]], threads=0), ValueError, "threads: expected 1"),
        (lambda: encoder([3]), TypeError, r"captions\[0\]: expected a string, got int 3"),
        (lambda: encoder(None), TypeError, "captions: expected a string or a list of strings, got NoneType"),
        (lambda: encoder("\ud800"), ValueError, r"captions\[0\]: expected text that has a form in UTF-8"),
        (lambda: encoder.memory_plan(0), ValueError, "batch: expected 1 to"),
        (lambda: TextEncoder.from_pretrained(GOLDEN / "t5_v1_1", "int2"), ValueError, "dtype: expected one of"),
        (
            lambda: TextEncoder.from_pretrained("no-such-thing"),
            WeightsError,
            "no bundled model of that name; bundled are .*minilm",
        ),
    ]:
        with pytest.raises(error, match=text):
            call()
    assert encoder.encode_ids([])[0].shape == (0, 0, 48)


def test_minilm_is_bundled():
    encoder = TextEncoder.from_pretrained("minilm", "int8")
    assert "minilm" in textok.list_models() and encoder.name == "minilm" and encoder.text_dim == 384
    text, lengths = encoder.encode_ids([[101, 1037, 2417, 6207, 102]])
    assert text.shape == (1, 5, 384) and lengths.tolist() == [5]
    folder = Path(textok.__file__).parent / "models"
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 60e6


def test_a_folder_may_be_moved_while_it_is_used(tmp_path):
    shutil.copytree(GOLDEN / "bert", tmp_path / "model")
    encoder = TextEncoder.from_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "model")
    encoder.save_pretrained(tmp_path / "again")
    check_folder(tmp_path / "again", "bert")
