"""Token numbers equal to transformers' on awkward captions, from each form that a vocabulary comes in; the vocabularies of T5
and CLIP are trained here on the repository's own captions, since theirs cannot be had, that of MiniLM is the published one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import text_encoders

import textok
from textok import ConfigError, TextEncoder
from textok.text.tokens import CaptionTokenizer, needed_files

tokenizers = pytest.importorskip("tokenizers")

MODELS = Path(textok.__file__).parent / "models"
AWKWARD = [
    "a smiling red apple",
    "Two  DOGS,\ton the   beach\r\n(sunset)...",
    "",
    " ",
    "\n\n",
    "naïve café — ½ ﬁ ＦＵＬＬ ﷽",
    "a\u0301e\u0301 \u00c5ngstro\u0308m",
    "🍎🍏 👩‍👩‍👧‍👦 🏳️‍🌈 ☃",
    "control \x00\x01\x7f chars \u200b\ufeff zero \u202e width",
    "汉字 and 한국어 العربية हिन्दी",
    "it's 3.14, isn't it? we've 1234567890",
    "<pad> </s> <unk> <extra_id_0> [SEP] [CLS] [MASK] <|endoftext|> <|startoftext|>",
    "x" * 5000,
    "word " * 10000,
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff",
    "▁▁ metaspace ▁",
    '#hash @at $100 50% a/b c\\d <html> & "quotes" `code`',
    "ß ẞ İ ı ſ",
    "Ünïcödé" * 30,
    "   leading and trailing   ",
]


def lines():
    captions = [json.loads(line)["caption"] for line in (MODELS / "emoji-heldout" / "captions.jsonl").read_text().splitlines()]
    return captions + [text for text in AWKWARD if len(text) < 200]


def check(folder, most=(16, 77, 512)):
    """Ours from the folder's files against transformers' from the same."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    names = needed_files(lambda name: (folder / name).is_file())
    ours = CaptionTokenizer({name: (folder / name).read_bytes() for name in names}, str(folder))
    for limit in most:
        for special in (True, False):
            expected = theirs(AWKWARD, truncation=True, max_length=limit, add_special_tokens=special)["input_ids"]
            for caption, got, wanted in zip(AWKWARD, ours(AWKWARD, limit, special), expected, strict=True):
                assert got == wanted, (caption[:60], limit, special)
    assert ours.pad_id(-1) == theirs.pad_token_id
    return ours


def test_minilm():
    ours = check(MODELS / "minilm")
    encoder = TextEncoder.from_pretrained("minilm", "int8")
    assert encoder.tokenize(AWKWARD) == ours(AWKWARD, 512)
    assert max(map(len, encoder.tokenize(AWKWARD, 20))) == 20 and encoder.tokenize("a cat") == encoder.tokenize(["a cat"])
    text, lengths = encoder(AWKWARD, max_tokens=20)
    alone = [encoder(caption, max_tokens=20)[0][0] for caption in AWKWARD]
    for row, length, one in zip(text, lengths, alone, strict=True):
        assert row[:length].tobytes() == one.tobytes()


def test_minilm_without_end_tokens():
    encoder = TextEncoder.from_pretrained("minilm", "int8", end_token=False)
    assert encoder.tokenize("a cat") == [TextEncoder.from_pretrained("minilm", "int8").tokenize("a cat")[0][1:-1]]
    with pytest.raises(
        ValueError,
        match=r"captions\[1\]: expected one token or more, got none for '', keep|captions\[1\]: .*keep the end token",
    ):
        encoder(["a", ""])


def test_bert_from_a_list_of_words(tmp_path):
    """As tokenizer.json, which the settings beside it must not be needed for."""
    vocabulary = json.loads((MODELS / "minilm" / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    ours = check(tmp_path)
    assert ours(AWKWARD, 512) == TextEncoder.from_pretrained("minilm", "int8").tokenize(AWKWARD)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": False}))
    assert check(tmp_path)(AWKWARD, 512) != ours(AWKWARD, 512)


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
    """A folder with SentencePiece's own file, of the kind that T5 has: unigram, nmt_nfkc, <pad> </s> <unk> first."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("t5")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines()),
        model_prefix=str(folder / "spiece"),
        vocab_size=600,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 100}))
    return folder


def test_t5_from_spiece_alone(spiece):
    pytest.importorskip("google.protobuf")
    check(spiece)


def test_t5_without_settings_is_the_same(spiece, tmp_path):
    shutil.copy(spiece / "spiece.model", tmp_path)
    one, two = (
        CaptionTokenizer({name: (f / name).read_bytes() for name in needed_files(lambda n, f=f: (f / n).is_file())}, "")
        for f in (spiece, tmp_path)
    )
    assert one(AWKWARD, 100) == two(AWKWARD, 100) and one(["", "a"], 9)[0] == [1]


def test_t5_agrees_with_sentencepiece(spiece):
    """On captions of plain words, which leave no room for opinions about blanks and special words."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(spiece / "spiece.model"))
    ours = CaptionTokenizer({"spiece.model": (spiece / "spiece.model").read_bytes()}, "")
    plain = [" ".join(text.split()) for text in lines()[:64]]
    assert ours(plain, 512) == [[*processor.encode(text)[:511], 1] for text in plain]


def test_t5_from_tokenizer_json(spiece, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("google.protobuf")
    transformers.AutoTokenizer.from_pretrained(spiece).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    assert (tmp_path / "tokenizer.json").is_file()
    check(tmp_path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A byte-level BPE with CLIP's rules, as vocab.json and merges.txt."""
    folder = tmp_path_factory.mktemp("clip")
    text_encoders.make_clip_vocabulary(folder, lines())
    (folder / "config.json").write_text(json.dumps({"model_type": "clip_text_model"}))
    return folder


def test_clip_from_vocabulary_and_merges(clip):
    ours = check(clip)
    first, last = (json.loads((clip / "vocab.json").read_text())[f"<|{word}oftext|>"] for word in ("start", "end"))
    assert ours([""], 77) == [[first, last]] and ours(["word " * 10000], 77)[0][-1] == last


def test_clip_from_tokenizer_json(clip, tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.AutoTokenizer.from_pretrained(clip).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip_text_model"}))
    assert (tmp_path / "tokenizer.json").is_file()
    check(tmp_path)


def test_what_is_no_tokenizer():
    for name, content in (
        ("tokenizer.json", b"{}"),
        ("spiece.model", b"\x0a\xff"),
        ("spiece.model", b""),
        ("vocab.txt", b"a\nb"),
        ("vocab.json", b"[]"),
    ):
        with pytest.raises(ConfigError, match=f"here/{name}|{name}: not a JSON file .* expected an object"):
            CaptionTokenizer({name: content}, "here")(["a"], 9)
    with pytest.raises(ValueError, match="max_tokens: expected 2 or more, room for the special tokens, got 1"):
        TextEncoder.from_pretrained("minilm", "int8")("a cat", max_tokens=1)


def test_without_the_library(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    encoder = TextEncoder.from_pretrained("minilm", "int8")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'textok-cpu\[text\]'"):
        encoder("a cat")
    assert np.isfinite(encoder.encode_ids([[101, 102]])[0]).all()
