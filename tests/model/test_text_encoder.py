"""Text encoders in C against what transformers' own code answers (golden/foreign: t5_v1_1, t5_original, bert, clip_text), and
the promises of the other models for these: bits, interrupts, memory known in advance."""

import pickle
from pathlib import Path

import numerics
import numpy as np
import pytest

from textok import TextEncoder, cpu_info

GOLDEN = Path(__file__).parents[1] / "golden" / "foreign"
FAMILIES = ("t5_v1_1", "t5_original", "bert", "clip_text")
DTYPES = ("float32", "bfloat16", "int8")


@pytest.fixture(scope="module")
def encoders():
    made = {}

    def get(family, dtype="float32"):
        if (family, dtype) not in made:
            made[family, dtype] = TextEncoder.from_pretrained(GOLDEN / family, dtype)
        return made[family, dtype]

    return get


def golden(family):
    """Token numbers, states and, of CLIP, pooled vectors of four captions."""
    with np.load(GOLDEN / family / "io.npz") as file:
        return [[file[f"{kind}{k}"] for k in range(4)] for kind in ("ids", "states", "pooled") if f"{kind}0" in file]


def rows(text, lengths):
    return [row[:length] for row, length in zip(text, lengths, strict=True)]


# ---- numbers ----


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_the_originals(encoders, family):
    ids, states, *_ = golden(family)
    text, lengths = encoders(family).encode_ids(ids)
    assert text.dtype == np.float32 and lengths.dtype == np.int32 and lengths.tolist() == [len(row) for row in ids]
    for got, expected, row in zip(rows(text, lengths), states, text, strict=True):
        numerics.check(got, expected, numerics.END_TO_END)
        assert not row[len(got) :].any()


def test_pooled_vectors_are_the_originals(encoders):
    ids, _, pooled = golden("clip_text")
    result = encoders("clip_text").pooled_ids(ids)
    numerics.check(result, np.stack(pooled), numerics.END_TO_END)
    assert numerics.rejects(np.roll(result, 1, 0), np.stack(pooled), numerics.END_TO_END)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_encoder_is_told_from_the_right_one(encoders, family):
    """Planted errors: a shifted bias or mask, another activation, another epsilon, one weight."""
    ids, states, *_ = golden(family)
    right = encoders(family)
    config = right.config.to_dict()
    changes = [{"activation": "gelu_erf" if config["activation"] != "gelu_erf" else "gelu_tanh"}, {"norm_eps": 1e-2}]
    if family.startswith("t5"):
        changes += [{"relative_distance": 100}]
    for change in changes:
        wrong = TextEncoder(config | change, right.weights())
        text, lengths = wrong.encode_ids(ids)
        assert numerics.rejects(rows(text, lengths)[3], states[3], numerics.END_TO_END), change
    weights = right.weights()
    name = next(name for name in weights if name.endswith(("o.weight", "out_proj.weight", "output.dense.weight")))
    weights[name] = weights[name].copy()
    weights[name][3, 5] += 0.05
    text, lengths = TextEncoder(config, weights).encode_ids(ids)
    assert numerics.rejects(rows(text, lengths)[3], states[3], numerics.END_TO_END)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_and_int8(encoders, family):
    ids, states, *_ = golden(family)
    kind = "T5" if family.startswith("t5") else "BERT" if family == "bert" else "CLIP"
    for dtype in ("bfloat16", "int8"):
        tolerance = getattr(numerics, f"{kind}_{dtype.upper()}")
        text, lengths = encoders(family, dtype).encode_ids(ids)
        got, expected = np.concatenate(rows(text, lengths)), np.concatenate(states)
        numerics.check_rms(got, expected, tolerance)
        assert numerics.rejects_rms(np.roll(got, 1, 0), expected, tolerance)
        assert numerics.rejects_rms(got * (1 + 2 * tolerance.limit), expected, tolerance)


# ---- the same bits ----


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_batch_mates_order_and_threads_change_no_bit(encoders, family, dtype):
    """Alone, in batches of several sizes and orders that the engine cuts in groups of some thousand rows, on any number of
    threads."""
    encoder, generator = encoders(family, dtype), np.random.default_rng(3)
    c = encoder.config
    captions = [generator.integers(0, c.vocab_size, length) for length in [*generator.integers(1, 60, 130), 1, 2, 60]]
    alone = [encoder.encode_ids([ids])[0][0] for ids in captions]
    for order in (slice(None), slice(7, 9), slice(0, 33), slice(None, None, -1)):
        for threads in (1, 2, 3, 7):
            text, lengths = encoder.encode_ids(captions[order], threads=threads)
            for got, expected in zip(rows(text, lengths), alone[order], strict=True):
                assert got.tobytes() == expected.tobytes()
    if c.family == "clip":
        captions = [np.append(ids, c.end_token_id) for ids in captions]
        one = np.concatenate([encoder.pooled_ids([ids], threads=1) for ids in captions])
        assert encoder.pooled_ids(captions).tobytes() == one.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ("t5_v1_1", "bert", "clip_text"))
def test_padding_that_is_asked_for(encoders, family, dtype):
    """The padded places are computed, and leave what comes before them as it is: to the bit, but where a BLAS multiplies, whose
    bits change with the rows of a caption."""
    encoder, (ids, *_) = encoders(family, dtype), golden(family)
    text, lengths = encoder.encode_ids(ids[:3], pad_to=70)
    plain, _ = encoder.encode_ids(ids[:3])
    assert text.shape[1] == 70 and lengths.tolist() == [len(row) for row in ids[:3]]
    blas = cpu_info()["gemm"] == "openblas" and dtype != "int8"  # whose sums are exact there, too
    for padded, row, length in zip(text, plain, lengths, strict=True):
        if blas:
            if dtype == "bfloat16":
                numerics.check_rms(padded[:length], row[:length], numerics.T5_BFLOAT16)
            else:
                numerics.check(padded[:length], row[:length], numerics.END_TO_END)
        assert (blas or padded[:length].tobytes() == row[:length].tobytes()) and padded[length:].any(1).all()
    if family == "clip_text":
        pad = np.concatenate([ids[0], np.full(70 - len(ids[0]), encoder.config.pad_token_id)])
        assert text[0].tobytes() == encoder.encode_ids([pad])[0][0].tobytes()


# ---- files, copies, memory ----


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_pickled_encoders_are_the_same(encoders, family, dtype, tmp_path):
    encoder, (ids, *_) = encoders(family, dtype), golden(family)
    expected, _ = encoder.encode_ids(ids)
    encoder.save_pretrained(tmp_path / "saved")
    for again in (TextEncoder.from_pretrained(tmp_path / "saved", dtype), pickle.loads(pickle.dumps(encoder))):
        assert again.encode_ids(ids)[0].tobytes() == expected.tobytes()
        assert again.identity == encoder.identity == encoders(family).identity
        assert again.config == encoder.config


def test_identity_knows_weights_and_settings(encoders):
    right = encoders("bert")
    config = right.config.to_dict() | {"weights_digest": ""}
    same = TextEncoder(config, right.weights())
    other = right.weights()
    other["embeddings.LayerNorm.weight"] = other["embeddings.LayerNorm.weight"] * 1.001
    assert same.identity == right.identity
    assert TextEncoder(config, other).identity != right.identity
    assert TextEncoder(config | {"norm_eps": 1e-6}, right.weights()).identity != right.identity
    assert TextEncoder(config | {"max_tokens": 7}, right.weights()).identity == right.identity


def test_memory_does_not_grow_with_the_batch(encoders):
    encoder = encoders("t5_v1_1")
    few, many = encoder.memory_plan(32, 64), encoder.memory_plan(5000, 64)
    assert few["weights"] == many["weights"] and many["workspace"] <= 1.01 * encoder.memory_plan(64, 64)["workspace"]
    assert few["total"] == few["weights"] + few["workspace"]
    assert encoder.memory_plan(1, 64)["workspace"] < few["workspace"]
