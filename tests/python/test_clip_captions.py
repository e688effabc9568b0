"""TA-TiTok with CLIP's text encoder: strings in, all states of the padding in the detokenizer, as open_clip fills captions up.

Weights are random, and the vocabulary is trained here on the captions of the bundled pictures, since neither can be had.
"""

import json
from pathlib import Path

import engine_models as tiny
import numerics
import numpy as np
import pytest
import text_encoders
from safetensors.numpy import save_file

import textok
from textok import ConfigError, TextEncoder, TexTok, captions
from textok.cli import main
from textok.errors import DataError
from textok.torch_files import TorchFile

pytest.importorskip("tokenizers")
FOREIGN = Path(__file__).parents[1] / "golden" / "foreign" / "tatitok_vae"
HEADS = ["tokenizer.num_heads=2", "detokenizer.num_heads=3"]
WIDTH, PLACES = 48, 77
CAPTIONS = ["a dog", "two red apples on the beach, seen from far above by a smiling man with a hat", ""]


def texts():
    path = Path(textok.__file__).parent / "models" / "emoji-heldout" / "captions.jsonl"
    return [json.loads(line)["caption"] for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP's text model, as transformers' folders are."""
    folder = tmp_path_factory.mktemp("clip")
    words = text_encoders.make_clip_vocabulary(folder, texts())
    config = {"family": "clip", "vocab_size": words, "hidden_size": WIDTH, "depth": 3, "num_heads": 4, "mlp_size": 96,
              "max_positions": PLACES, "projection_dim": 0, "activation": "quick_gelu"}  # fmt: skip
    weights = TextEncoder.from_config(config, seed=3).weights()
    save_file(weights, folder / "model.safetensors")
    said = {"model_type": "clip_text_model", "vocab_size": words, "hidden_size": WIDTH, "num_hidden_layers": 3,
            "num_attention_heads": 4, "intermediate_size": 96, "max_position_embeddings": PLACES, "projection_dim": WIDTH,
            "hidden_act": "quick_gelu", "bos_token_id": words - 2, "eos_token_id": words - 1}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(said))
    return folder


def hub_folder(folder, width=WIDTH, heads=True):
    """A TA-TiTok as its hub has it, of 77 text rows `width` wide: the golden model with more rows."""
    tensors = {name: tensor.read() for name, tensor in TorchFile(FOREIGN / "model.pt").content.items()}
    rng = np.random.default_rng(0)
    for name, shape in (("positional_embedding", (PLACES, 96)), ("proj.weight", (96, width))):
        tensors[f"decoder.text_guidance_{name}"] = rng.standard_normal(shape).astype(np.float32) * 0.2
    folder.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors")
    config = json.loads((FOREIGN / "meta.json").read_text())["config"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def converted(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tatitok")
    given = [*HEADS, f"text_encoder.name={clip}"]
    assert main(["convert", str(hub_folder(folder / "hub")), str(folder / "ours"), "--set", *given]) == 0
    return folder / "ours"


def filled(encoder, strings):
    """Token numbers, 77 a caption, as open_clip makes them: zeros behind the end token."""
    ids = encoder.tokenize(strings, PLACES)
    return [row + [0] * (PLACES - len(row)) for row in ids]


def test_strings_become_all_states(converted, clip):
    model, encoder = TexTok.from_pretrained(converted), TextEncoder.from_pretrained(clip)
    use = model.config.text_encoder
    assert (use.name, use.identity) == (str(clip), encoder.identity)
    assert (use.max_tokens, use.pad_to, use.pad_token, use.end_token) == (PLACES, PLACES, 0, True)
    pictures = np.random.default_rng(1).integers(0, 256, (3, *model.config.image_shape), np.uint8)
    text, _ = encoder.encode_ids(filled(encoder, CAPTIONS))
    assert text.shape == (3, PLACES, WIDTH) and np.abs(text).min(axis=2).all()
    z = model.encode(pictures, captions=CAPTIONS)
    expected = model.decode(z, text, output="float32")
    np.testing.assert_array_equal(model.decode(z, captions=CAPTIONS, output="float32"), expected)
    np.testing.assert_array_equal(model.reconstruct(pictures, captions=CAPTIONS, output="float32"), expected)
    np.testing.assert_array_equal(model.reconstruct(pictures[:1], captions="a dog", output="float32"), expected[:1])
    assert model.decode(z[:0], captions=[]).shape == (0, *model.config.image_shape)
    own, _ = encoder(CAPTIONS, pad_to=PLACES)  # filled up with the tokenizer's own token: another picture
    assert np.abs(model.decode(z, own, output="float32") - expected).max() > 1e-3
    for dtype in ("bfloat16", "int8"):
        narrow = TexTok.from_pretrained(converted, dtype)
        assert narrow.encoder.dtype == dtype
        assert numerics.rms_error(narrow.decode(z, captions=CAPTIONS, output="float32"), expected) < 0.08


def test_states_are_those_of_transformers(converted, clip):
    """The whole way in PyTorch: transformers' CLIP over numbers filled up with zeros."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, theirs = TexTok.from_pretrained(converted), transformers.CLIPTextModel.from_pretrained(clip).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    ids = [row + [0] * (PLACES - len(row)) for row in tokenizer(CAPTIONS, truncation=True, max_length=PLACES)["input_ids"]]
    with torch.inference_mode():
        text = theirs(torch.tensor(ids)).last_hidden_state.numpy()
    z = np.random.default_rng(2).standard_normal((3, *model.config.latent_shape)).astype(np.float32)
    numerics.check(
        model.decode(z, captions=CAPTIONS, output="float32"), model.decode(z, text, output="float32"), numerics.END_TO_END
    )


def test_what_the_published_model_names(tmp_path, capsys, clip):
    """Sizes of CLIP ViT-L/14 name the encoder; nothing is fetched for it until somebody says hf://."""
    source = hub_folder(tmp_path / "hub", width=768)
    assert main(["convert", str(source), str(tmp_path / "ours"), "--set", *HEADS]) == 0
    assert "captions as strings need CLIP's text encoder" in capsys.readouterr().out
    model = TexTok.from_pretrained(tmp_path / "ours")
    use = model.config.text_encoder
    assert (use.name, use.identity, use.pad_to, use.pad_token) == ("openai/clip-vit-large-patch14-336", "", PLACES, 0)
    z = np.zeros((1, *model.config.latent_shape), np.float32)
    with pytest.raises(textok.WeightsError, match="no such folder, .* hf://openai/clip-vit-large-patch14-336"):
        model.decode(z, captions="a dog")
    with pytest.raises(ConfigError, match="expected embeddings 768 wide, as those of openai/clip.*whose are 48 wide"):
        model.encoder = TextEncoder.from_pretrained(clip)
    assert main(["convert", str(source), str(tmp_path / "bad"), "--set", *HEADS, f"text_encoder.name={clip}"]) == 1
    assert "whose are 48 wide" in capsys.readouterr().err
    other = TextEncoder.from_config({"family": "clip", "vocab_size": 50, "hidden_size": 768, "depth": 1, "num_heads": 12,
                                     "mlp_size": 64, "max_positions": PLACES}, seed=1)  # fmt: skip
    model.encoder = other  # one that fits is taken, since the files say no identity


def test_stores_and_the_shell(converted, clip, tmp_path, capsys):
    """`textok embed --pad-to` makes what such a model takes; a store without padding is refused."""
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS[:2]) + "\n")
    embed = ["embed", str(tmp_path / "captions.txt"), "--encoder", str(clip), "--max-tokens", "77"]
    assert main([*embed, "--out", str(tmp_path / "store"), "--pad-to", "77", "--pad-token", "0"]) == 0
    store, encoder = textok.EmbeddingStore.open(tmp_path / "store"), TextEncoder.from_pretrained(clip)
    text, lengths = store.embeddings(CAPTIONS[:2])
    assert lengths.tolist() == [77, 77]
    np.testing.assert_allclose(text, encoder.encode_ids(filled(encoder, CAPTIONS[:2]))[0], atol=4e-3)
    assert main([*embed, "--out", str(tmp_path / "plain")]) == 0
    model = TexTok.from_pretrained(converted)
    captions.check_store(store, model.config)
    with pytest.raises(
        DataError, match="filled up to 77 with 0, .* got padding not computed; .*--max-tokens 77 --pad-to 77 --pad-token 0"
    ):
        captions.check_store(textok.EmbeddingStore.open(tmp_path / "plain"), model.config)
    unpadded = TexTok.from_config(
        tiny.textok_config(text_dim=WIDTH, text_encoder={"name": str(clip), "identity": encoder.identity})
    )
    with pytest.raises(DataError, match="expected captions without padding, .* got them filled up to 77 with 0"):
        captions.check_store(store, unpadded.config)
    capsys.readouterr()
    for given, message in (
        (["--pad-token", "0"], "expected --pad-to beside --pad-token"),
        (["--pad-to", "5"], "pad_to: expected 77 or more, the most tokens of a caption, got 5"),
        (["--pad-to", "77", "--engine", "torch"], "--engine torch: expected no --pad-to"),
    ):
        assert main([*embed, "--out", str(tmp_path / "none"), *given]) == 1
        assert message in capsys.readouterr().err


def test_captions_auto(converted, tmp_path):
    """The command decodes with the captions that stand beside the latents."""
    import PIL.Image

    rng = np.random.default_rng(3)
    for name, caption in zip("ab", CAPTIONS):
        PIL.Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(caption)
    store, out = tmp_path / "latents", tmp_path / "out"
    assert main(["encode", str(converted), str(tmp_path), "--out", str(store)]) == 0
    assert main(["decode", str(converted), str(store), "--out", str(out), "--captions", "auto"]) == 0
    model = TexTok.from_pretrained(converted)
    pictures = np.stack([np.asarray(PIL.Image.open(tmp_path / f"{name}.png")) for name in "ab"])
    made = [np.asarray(PIL.Image.open(path)) for path in sorted(out.rglob("*.png"))]
    expected = model.decode(model.encode(pictures), captions=CAPTIONS[:2])
    assert len(made) == 2 and max(np.abs(a.astype(int) - b.astype(int)).max() for a, b in zip(made, expected)) <= 1


def test_wrong_padding_is_told(clip):
    encoder = TextEncoder.from_pretrained(clip)
    words = encoder.config.vocab_size
    for call, message in (
        (lambda: encoder("a", pad_token=0), "pad_token: expected pad_to beside it"),
        (lambda: encoder("a", pad_to=77, pad_token=words), f"pad_token: expected .* {words - 1}, got {words}"),
        (lambda: encoder("a", pad_to=78), "pad_to: expected .*77, got 78"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    for use, message in (
        ({"pad_token": 0}, "text_encoder.pad_token: expected null where pad_to is null, got 0"),
        ({"max_tokens": 9, "pad_to": 8}, "text_encoder.pad_to: expected an integer from 9"),
    ):
        with pytest.raises(ConfigError, match=message):
            TexTok.from_config(tiny.textok_config(text_encoder={"name": "x", **use}))
