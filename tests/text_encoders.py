"""A small text encoder with a vocabulary of a few words, in a folder, for tests of captions as strings."""

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
