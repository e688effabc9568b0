"""Text encoders beside float64: in NumPy, and transformers' own code at the sizes of real models, where PyTorch's own error is
the measure; and T5's outliers, which int8 must not lose."""

import numerics
import numpy as np
import pytest
from reference import t5_encoder

from textok import TextEncoder

T5 = {
    "family": "t5",
    "vocab_size": 300,
    "hidden_size": 256,
    "depth": 4,
    "num_heads": 4,
    "head_dim": 48,
    "mlp_size": 640,
    "gated": True,
}


def scaled(encoder, seed=0):
    """A T5 whose scores have a trained one's size: queries of a random one are not divided by the root of their width."""
    weights = encoder.weights()
    for name in weights:
        if name.endswith("SelfAttention.q.weight"):
            weights[name] = weights[name] * np.float32(encoder.config.head_dim**-0.5)
    return TextEncoder(encoder.config.to_dict() | {"weights_digest": ""}, weights)


def captions(vocabulary, *lengths, seed=1):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, vocabulary, length) for length in lengths]


# ---- float64 in NumPy ----


def test_t5_beside_float64():
    encoder = scaled(TextEncoder.from_config(T5))
    for ids in captions(300, 1, 2, 9, 40, 300):
        exact = t5_encoder.forward(encoder.config, encoder.weights(), ids)
        numerics.check(encoder.encode_ids([ids])[0][0], exact, numerics.END_TO_END)


def test_every_distance_has_the_originals_bucket():
    """A bias that is the bucket's number, on values that tell which key had the weight: one far caption, all pairs."""
    torch = pytest.importorskip("torch")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention
    T = 600
    distance = torch.arange(T)[None, :] - torch.arange(T)[:, None]
    for count, farthest in ((32, 128), (16, 50), (32, 200)):
        theirs = t5._relative_position_bucket(distance, bidirectional=True, num_buckets=count, max_distance=farthest).numpy()
        assert np.array_equal(t5_encoder.buckets(T, count, farthest), theirs)
        config = T5 | {"depth": 1, "relative_buckets": count, "relative_distance": farthest, "num_heads": 1}
        encoder = TextEncoder.from_config(config)
        weights = encoder.weights()
        weights["encoder.block.0.layer.0.SelfAttention.q.weight"] *= 0
        weights["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (
            np.random.default_rng(0).normal(size=(count, 1)).astype(np.float32)
        )
        encoder = TextEncoder(encoder.config.to_dict(), weights)
        (ids,) = captions(300, T)
        exact = t5_encoder.forward(encoder.config, weights, ids)
        numerics.check(encoder.encode_ids([ids])[0][0], exact, numerics.END_TO_END)


# ---- outliers ----


def with_outliers(encoder, times=300, smaller=300, channels=5):
    """A few channels of what goes into `wo` are `times` as large, and their weights as much `smaller`: by as much, the same
    function."""
    weights = encoder.weights()
    generator = np.random.default_rng(2)
    for i in range(encoder.config.depth):
        p = f"encoder.block.{i}.layer.1.DenseReluDense."
        chosen = generator.choice(encoder.config.mlp_size, channels, replace=False)
        up, down = weights[f"{p}wi_1.weight"].copy(), weights[f"{p}wo.weight"].copy()
        up[chosen] *= times
        down[:, chosen] /= smaller
        weights |= {f"{p}wi_1.weight": up, f"{p}wo.weight": down}
    return weights


def test_t5_keeps_its_outliers_in_int8():
    """With outliers of 300 times int8 models err as without: `wo`'s columns are made even, and what is still large in a row is
    added apart. Its input in plain int8 would lose the sentence."""
    plain = scaled(TextEncoder.from_config(T5))
    config, weights = plain.config, with_outliers(plain)
    ids = captions(300, 5, 20, 37, 64)
    exact = np.concatenate([t5_encoder.forward(config, weights, row) for row in ids])
    errors = {}
    for name, given in (("plain", plain.weights()), ("outliers", weights)):
        for dtype in ("float32", "bfloat16", "int8"):
            text, lengths = TextEncoder(config, given, dtype).encode_ids(ids)
            got = np.concatenate([row[:length] for row, length in zip(text, lengths, strict=True)])
            errors[name, dtype] = numerics.rms_error(got, exact)
            if dtype != "float32":
                numerics.check_rms(got, exact, getattr(numerics, f"T5_{dtype.upper()}"))
    lost = np.concatenate([t5_encoder.forward(config, weights, row, t5_encoder.int8) for row in ids])
    assert (
        numerics.rejects_rms(lost, exact, numerics.T5_INT8) and numerics.rms_error(lost, exact) > 5 * errors["outliers", "int8"]
    )
    assert errors["outliers", "int8"] < 1.25 * errors["plain", "int8"] and errors["outliers", "float32"] < 1e-5
    print(
        "\nrelative RMS error:",
        {" ".join(key): f"{value:.2e}" for key, value in errors.items()},
        f"wo's input in int8 {numerics.rms_error(lost, exact):.2e}",
    )


def test_outliers_that_stay_large_are_added_apart():
    """Weights that are not as much smaller: the outliers' part of the sum is large, and the rest keeps its digits. A caption's
    bits do not depend on the others."""
    plain = scaled(TextEncoder.from_config(T5))
    weights = with_outliers(plain, times=300, smaller=20)
    ids = captions(300, 5, 20, 37, 64)
    exact = np.concatenate([t5_encoder.forward(plain.config, weights, row) for row in ids])
    encoder = TextEncoder(plain.config, weights, "int8")
    text, lengths = encoder.encode_ids(ids)
    numerics.check_rms(np.concatenate([row[:n] for row, n in zip(text, lengths, strict=True)]), exact, numerics.T5_INT8)
    for row, states in zip(ids, text, strict=True):
        assert np.array_equal(encoder.encode_ids([row])[0][0], states[: len(row)])
    stored = TextEncoder(plain.config, encoder.weights(), "int8")
    assert np.array_equal(stored.encode_ids(ids)[0], text)


def test_int8_models_keep_no_matrix_in_more():
    weights = TextEncoder.from_config(T5, dtype="int8").weights()
    kinds = {array.dtype.name for name, array in weights.items() if array.ndim == 2 and "block" in name and "bias" not in name}
    assert kinds == {"int8"}


# ---- transformers ----


def peer(config):
    """transformers' model of the same config, in float64."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    if config["family"] == "t5":
        kind = transformers.UMT5EncoderModel if config.get("relative_per_block") else transformers.T5EncoderModel
        made = kind(
            kind.config_class(
                vocab_size=config["vocab_size"],
                d_model=config["hidden_size"],
                d_kv=config["head_dim"],
                d_ff=config["mlp_size"],
                num_layers=config["depth"],
                num_heads=config["num_heads"],
                feed_forward_proj="gated-gelu" if config["gated"] else "relu",
                dropout_rate=0.0,
            )
        )
    elif config["family"] == "bert":
        made = transformers.BertModel(
            transformers.BertConfig(
                vocab_size=config["vocab_size"],
                hidden_size=config["hidden_size"],
                num_hidden_layers=config["depth"],
                num_attention_heads=config["num_heads"],
                intermediate_size=config["mlp_size"],
            ),
            add_pooling_layer=False,
        )
    else:
        made = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=config["vocab_size"],
                hidden_size=config["hidden_size"],
                num_hidden_layers=config["depth"],
                num_attention_heads=config["num_heads"],
                intermediate_size=config["mlp_size"],
                hidden_act="quick_gelu",
            )
        )
    return made.double().eval()


SIZES = {
    "T5-small": T5 | {"hidden_size": 512, "depth": 8, "num_heads": 6, "head_dim": 64, "mlp_size": 1024},
    "umT5": T5 | {"relative_per_block": True},
    "BERT": {
        "family": "bert",
        "vocab_size": 500,
        "hidden_size": 384,
        "depth": 6,
        "num_heads": 12,
        "mlp_size": 1536,
        "max_positions": 512,
    },
    "CLIP": {
        "family": "clip",
        "vocab_size": 500,
        "hidden_size": 768,
        "depth": 3,
        "num_heads": 12,
        "mlp_size": 3072,
        "max_positions": 77,
        "activation": "quick_gelu",
    },
}
LARGE = {
    "T5-XL, 2 blocks": T5 | {"hidden_size": 2048, "depth": 2, "num_heads": 32, "head_dim": 64, "mlp_size": 5120},
    "T5-XXL, 1 block": T5 | {"hidden_size": 4096, "depth": 1, "num_heads": 64, "head_dim": 64, "mlp_size": 10240},
}


def compare(config):
    """Errors of ours and of PyTorch's float32 against float64, and of ours in bfloat16 and int8."""
    torch = pytest.importorskip("torch")
    exact = peer(config)
    weights = {
        name: value.float().numpy()
        for name, value in exact.state_dict().items()
        if not name.endswith(("embed_tokens.weight", "position_ids"))
    }
    if config["family"] == "clip":
        weights = {name if name.startswith("text_") else f"text_model.{name}": value for name, value in weights.items()}
    exact.load_state_dict({name: value.float().double() for name, value in exact.state_dict().items()})
    ids = captions(config["vocab_size"], 5, 33, 77)
    with torch.inference_mode():

        def run():
            return np.concatenate([exact(torch.from_numpy(row)[None]).last_hidden_state[0].numpy() for row in ids])

        truth = run()
        exact.float()
        theirs = run()
    errors = {"PyTorch": numerics.relative_error(theirs, truth)}
    for dtype in ("float32", "bfloat16", "int8"):
        text, lengths = TextEncoder(config, weights, dtype).encode_ids(ids)
        got = np.concatenate([row[:length] for row, length in zip(text, lengths, strict=True)])
        errors[dtype] = numerics.relative_error(got, truth) if dtype == "float32" else numerics.rms_error(got, truth)
    print("\n", {name: f"{value:.2e}" for name, value in errors.items()})
    return errors


@pytest.mark.parametrize("config", SIZES.values(), ids=SIZES)
def test_sizes_of_real_models(config):
    errors = compare(config)
    assert errors["float32"] <= max(2 * errors["PyTorch"], 1e-6), errors
    assert errors["bfloat16"] <= numerics.T5_BFLOAT16.limit and errors["int8"] <= numerics.T5_INT8.limit, errors


@pytest.mark.large
@pytest.mark.parametrize("config", LARGE.values(), ids=LARGE)
def test_large_sizes(config):
    errors = compare(config)
    assert errors["float32"] <= 2 * errors["PyTorch"], errors
    assert errors["bfloat16"] <= numerics.T5_BFLOAT16.limit and errors["int8"] <= numerics.T5_INT8.limit, errors


# ---- transformers at sizes that nobody published ----

# Its class, and a config: heads of 1, 3, 5, 7 and 9, widths of no round number, one block, other buckets, whole models.
T5_ODD = {"vocab_size": 77, "dropout_rate": 0.0}
BERT_ODD = {"vocab_size": 77, "attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "max_position_embeddings": 151}
CLIP_ODD = {"vocab_size": 77, "bos_token_id": 1, "pad_token_id": 0, "max_position_embeddings": 151}
ODD = {
    "T5 v1.1, heads of 7": ("T5EncoderModel", T5_ODD | {
        "d_model": 40, "d_kv": 7, "num_heads": 5, "d_ff": 72, "num_layers": 1, "feed_forward_proj": "gated-gelu"}),
    "T5 v1.1, whole, untied": ("T5ForConditionalGeneration", T5_ODD | {
        "d_model": 88, "d_kv": 24, "num_heads": 3, "d_ff": 100, "num_layers": 3, "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 16, "relative_attention_max_distance": 64, "tie_word_embeddings": False}),
    "T5, heads of 9": ("T5EncoderModel", T5_ODD | {
        "d_model": 63, "d_kv": 9, "num_heads": 7, "d_ff": 130, "num_layers": 1, "feed_forward_proj": "relu"}),
    "umT5, heads of 15": ("UMT5EncoderModel", T5_ODD | {
        "d_model": 45, "d_kv": 15, "num_heads": 3, "d_ff": 70, "num_layers": 3}),
    "BERT, heads of 17": ("BertModel", BERT_ODD | {
        "hidden_size": 51, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 130, "hidden_act": "gelu_new",
        "type_vocab_size": 1}),
    "BERT, one head, whole": ("BertForMaskedLM", BERT_ODD | {
        "hidden_size": 35, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 33, "hidden_act": "relu",
        "type_vocab_size": 3}),
    "CLIP, heads of 11": ("CLIPTextModelWithProjection", CLIP_ODD | {
        "hidden_size": 33, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 130, "hidden_act": "gelu",
        "projection_dim": 35, "eos_token_id": 2}),
    "CLIP, one head": ("CLIPTextModel", CLIP_ODD | {
        "hidden_size": 17, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 15, "eos_token_id": 76}),
}  # fmt: skip


def scattered(made):
    """Random numbers in all parameters, of such sizes that each shows in the states."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, value in made.named_parameters():
        numbers = torch.randn(value.shape, generator=generator)
        if value.ndim == 1:
            numbers = numbers * 0.1 + (name.endswith("weight") and "norm" in name.lower())
        elif not any(part in name for part in ("embed", "shared", "relative")):
            numbers *= value.shape[1] ** -0.5 * (0.4 if ".q." in name else 1)
        value.data = numbers
    return made.eval()


@pytest.mark.parametrize("name", ODD)
def test_odd_sizes(tmp_path, name):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    kind, config = ODD[name]
    cls = getattr(transformers, kind)
    made = scattered(cls(cls.config_class(**config)))
    made.save_pretrained(tmp_path)
    encoder = TextEncoder.from_pretrained(tmp_path)
    ids = captions(config["vocab_size"] - 1, 1, 2, 33, 150)  # the last number is CLIP's end token
    for row in ids:
        row[-1] = config["vocab_size"] - 1
    text, lengths = encoder.encode_ids(ids)
    inner = {"T5ForConditionalGeneration": "encoder", "BertForMaskedLM": "bert"}.get(kind)
    for got, length, row in zip(text, lengths, ids, strict=True):
        with torch.inference_mode():
            answer = (getattr(made, inner) if inner else made)(input_ids=torch.from_numpy(row)[None])
        numerics.check(got[:length], answer.last_hidden_state[0].numpy(), numerics.END_TO_END, name)
        assert length == 1 or numerics.rejects(got[:length][::-1], answer.last_hidden_state[0].numpy(), numerics.END_TO_END)
        if encoder.config.family == "clip":
            pooled = answer.text_embeds if "WithProjection" in kind else answer.pooler_output
            numerics.check(encoder.pooled_ids([row])[0], pooled[0].numpy(), numerics.END_TO_END, f"{name}, pooled")
