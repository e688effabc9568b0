"""Captions that are embedded as they are read. Needs torch; without it these are skipped."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import textok
from textok.train import data
from textok.train.encoded import CaptionEncoder, EncodedTexts, without_words

CAPTIONS = ["a red cat with sunglasses", "two pears", "a house by the sea under a pale moon"]


@pytest.fixture(scope="module")
def encoder():
    return textok.TextEncoder.from_pretrained("minilm", dtype="int8", threads=1)


def test_states_are_the_engines(encoder):
    texts = EncodedTexts(CAPTIONS, CaptionEncoder("minilm", 8))
    text, lengths = texts.batch(np.array([2, 0]))
    expected, counts = encoder([CAPTIONS[2], CAPTIONS[0]], 8)
    assert text.dtype == torch.float32 and lengths.tolist() == counts.tolist() == [8, 7]
    np.testing.assert_array_equal(text.numpy(), expected.astype(np.float16).astype(np.float32))


def test_captions_are_embedded_once_while_there_is_room(monkeypatch):
    asked = []

    class Counting(CaptionEncoder):
        text_dim = 2

        @property
        def encoder(self):
            def embed(captions, most):
                asked.extend(captions)
                return np.ones((len(captions), 3, 2), np.float32), np.full(len(captions), 3, np.int32)

            return embed

    rows = Counting("none", 3, kept=2 * 3 * 2 * 2)
    assert len(rows.rows(["a", "b", "a"])) == 3 and asked == ["a", "b"]
    rows.rows(["b", "a", "c"])
    rows.rows(["c"])
    assert asked == ["a", "b", "c", "c"]  # no room was left for c
    ahead = Counting("none", 3, ahead=True)
    ahead.expect(["d", "e"])
    ahead.expect(["d", "e"])
    assert len(ahead.rows(["d", "e"])) == 2 and asked[4:] == ["d", "e"] and not ahead.coming
    dropped = EncodedTexts(["w x y z"], ahead, 0.5, (0, 1))
    dropped.batch(np.array([0]))
    assert list(ahead.held) == ["d", "e"]  # captions that never come again are not kept


def test_words_are_dropped_at_random_and_one_stays():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(1000)]
    kept = without_words(" ".join(words), 0.3, rng).split()
    assert 650 < len(kept) < 750 and [word for word in words if word in set(kept)] == kept
    assert all(without_words("one two", 0.999, rng) in ("one", "two") for _ in range(20))
    assert without_words("as it is", 0.0, rng) == "as it is"


def test_words_dropped_depend_on_seed_and_row_alone():
    """Afresh at every step; the same however a batch is parted."""
    captions = [" ".join(f"w{i}" for i in range(40))] * 6
    at = [EncodedTexts(captions, CaptionEncoder("minilm", 8), 0.4, (0, step)) for step in (1, 1, 2)]
    whole = at[0].of(np.arange(6))
    assert whole == at[1].of([0, 1, 2]) + at[1].of([3, 4, 5]) and len(set(whole)) == 6
    assert whole != at[2].of(np.arange(6))


def test_each_step_draws_a_field_and_half_lack_words(tmp_path):
    """A sample that lacks a field has its `caption` there."""
    records = [
        {"key": f"k{i}", "caption": f"a long caption of number {i}", **({"name": f"n{i}"} if i else {}), "split": "train"}
        for i in range(4)
    ]
    pairs, encoder = data.Pairs(np.zeros((4, 8, 8, 3), np.uint8), records), CaptionEncoder("minilm", 16)
    drawn = data.open_drawn(pairs, "caption", ("name", "caption"), "", encoder)
    assert [texts.captions[:2] for texts in drawn] == [["a long caption of number 0", "n1"], pairs.column("caption")[:2]]
    with pytest.raises(data.ConfigError, match="no sample has 'title'"):
        data.open_drawn(pairs, "caption", ("title",), "", encoder)
