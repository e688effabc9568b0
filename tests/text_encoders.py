"""Small text encoders in folders, for tests of captions as strings: one that knows a few words; CLIP's kind of vocabulary,
which is trained on captions, since CLIP's own cannot be had."""

import json

from textok import TextEncoder

WORDS = ["a", "red", "green", "blue", "apple", "dog", "cat", "two", "of", "the", "and"]
CONFIG = {
    "family": "bert", "vocab_size": len(WORDS) + 4, "hidden_size": 12, "depth": 2, "num_heads": 2, "mlp_size": 24,
    "max_positions": 16,
}  # fmt: skip


def make_folder(path, seed=5):
    """Writes the encoder; returns what a model's config says of it."""
    TextEncoder.from_config(CONFIG, seed=seed).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]) + "\n")
    return {"name": str(path), "identity": TextEncoder.from_pretrained(path).identity, "max_tokens": 6, "end_token": True}


def make_clip_vocabulary(folder, captions, size=700):
    """Writes vocab.json, merges.txt and their settings: byte-level BPE by CLIP's rules. Returns how many words there are."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(captions, trainer)
    model = json.loads(made.to_str())["model"]
    vocabulary = {word: number for number, word in enumerate(sorted(model["vocab"], key=model["vocab"].get))}
    for letter in alphabet:
        vocabulary.setdefault(f"{letter}</w>", len(vocabulary))
    for word in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[word] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]) + "\n")
    special = {
        "unk_token": "<|endoftext|>",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **special}))
    return len(vocabulary)
