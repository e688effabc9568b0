"""What must not change a result: to the bit, whatever kernels run.

Batch mates, the order of a batch, the number of threads, where a batch is cut (the engine computes some 1,000 rows at a time,
2,000 in DiT, and holds modulations for 128 pairs of a timestep and a condition), strides and types of what is passed, padding
of masked captions. .ci/run repeats this with the reference row, where OpenBLAS multiplies, and there with OpenBLAS's kernels
for older CPUs too: its bits change with the number of rows of a product.
"""

import numerics
import numpy as np
import pytest
from engine_models import TinyDiT, TinyTexTok, dit_config, textok_config

import textok
from textok import _core
from textok.solvers import make_schedule

TEXTOK = {
    "in context, masked": {"text_mask": True},
    "cross-attention, masked": {"text_mask": True, "text_injection": "cross_attention"},
    "class": {"text_source": "class"},
    "no text": {"text_condition": "none"},
    "odd sizes": {"text_mask": True, "image_size": 15, "patch_size": 3, "latent_dim": 3, "text_dim": 17,
                  "tokenizer": {"hidden_size": 40, "depth": 2, "num_heads": 5, "mlp_ratio": 2.5},
                  "detokenizer": {"hidden_size": 72, "depth": 1, "num_heads": 1, "mlp_ratio": 3}},
    "wide": {"tokenizer": {"hidden_size": 288, "depth": 1, "num_heads": 4, "mlp_ratio": 4},
             "detokenizer": {"hidden_size": 264, "depth": 1, "num_heads": 3, "mlp_ratio": 4}},
}
DIT = {"class": {}, "text": {"condition": "text"}, "wide": {"hidden_size": 288, "num_heads": 4, "depth": 1}}
# Some 29 rows an image: 35 of them at a time, so that 33 are one part and 80 are three.
BATCHES = (1, 2, 3, 5, 8, 13, 21, 33, 80)


def take(arguments, rows):
    return {name: np.ascontiguousarray(value[rows]) for name, value in arguments.items()}


def both_ways(model, x, z, captions, threads=0):
    return model.encode(x, captions, threads), model.decode(z, captions, threads)


def assert_same_bits(a, b, what=""):
    for one, other in zip(a, b, strict=True):
        assert np.array_equal(one.view(np.uint32), other.view(np.uint32)), (
            f"{what}: largest difference {np.abs(one - other).max()}"
        )


@pytest.mark.parametrize("changes", TEXTOK.values(), ids=TEXTOK)
def test_textok_batches_and_order(changes):
    """Each image alone, in batches of many sizes, and in a shuffled batch."""
    model = TinyTexTok(textok_config(**changes))
    x, z, captions = model.inputs(batch=max(BATCHES))
    alone = [both_ways(model, x[[b]], z[[b]], take(captions, [b])) for b in range(len(x))]
    expected = [np.concatenate(parts) for parts in zip(*alone, strict=True)]
    for batch in BATCHES:
        rows = slice(0, batch)
        assert_same_bits(
            both_ways(model, x[rows], z[rows], take(captions, rows)), [part[rows] for part in expected], f"batch {batch}"
        )
    order = np.random.default_rng(0).permutation(len(x))
    assert_same_bits(
        both_ways(model, x[order], z[order], take(captions, order)), [part[order] for part in expected], "shuffled"
    )


@pytest.mark.parametrize("changes", TEXTOK.values(), ids=TEXTOK)
def test_textok_threads(changes):
    model = TinyTexTok(textok_config(**changes))
    x, z, captions = model.inputs(batch=5)
    expected = both_ways(model, x, z, captions, threads=1)
    for threads in (2, 3, 7, 16):
        for _ in range(3):
            assert_same_bits(both_ways(model, x, z, captions, threads), expected, f"{threads} threads")


def test_textok_more_rows_than_a_part():
    """An image that is a part by itself, and more queries than one strip."""
    model = TinyTexTok(
        textok_config(
            image_size=33,
            patch_size=1,
            text_condition="none",
            tokenizer={"hidden_size": 16, "depth": 1, "num_heads": 1},
            detokenizer={"hidden_size": 16, "depth": 1, "num_heads": 2},
        )
    )
    x, z, _ = model.inputs(batch=2)
    expected = [
        np.concatenate(parts) for parts in zip(*(both_ways(model, x[[b]], z[[b]], {}, 1) for b in range(2)), strict=True)
    ]
    assert_same_bits(both_ways(model, x, z, {}, 3), expected)


@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "int8"))
def test_what_an_earlier_call_left_in_memory_does_not_show(dtype):
    """A call computes in the memory of the one before, here full of NaN."""
    model, other = TinyTexTok(textok_config(**TEXTOK["odd sizes"])), TinyTexTok(textok_config(**TEXTOK["wide"]))
    model.engine = _core.Model("textok", model.config, model.weights, dtype)
    x, z, captions = model.inputs()
    expected = both_ways(model, x, z, captions)
    for side in range(2):
        a, b, c = other.inputs(batch=33)
        left = other.encode(np.full_like(a, np.nan), c) if side == 0 else other.decode(np.full_like(b, np.nan), c)
        assert np.isnan(left).any()
        assert_same_bits(both_ways(model, x, z, captions), expected, "encode" if side == 0 else "decode")


@pytest.mark.parametrize("injection", ("in_context", "cross_attention"))
def test_masked_padding_counts_for_nothing(injection):
    """Padded, cut and batched with longer captions: the same bits, whatever the padding holds. Where the config does not mask,
    padding is part of the sequence, and the result another."""
    model = TinyTexTok(textok_config(text_mask=True, text_injection=injection))
    x, z, captions = model.inputs(batch=6)
    text, lengths = captions["text"], captions["text_lengths"]
    lengths[:] = [1, 2, 3, 4, 5, 7]
    padded = both_ways(model, x, z, captions)
    cut = [both_ways(model, x[[b]], z[[b]], {"text": np.ascontiguousarray(text[[b], :n]), "text_lengths": lengths[[b]]})
           for b, n in enumerate(lengths)]
    assert_same_bits(padded, [np.concatenate(parts) for parts in zip(*cut, strict=True)])
    junk = text.copy()
    for b, n in enumerate(lengths):
        junk[b, n:] = 1e30
    assert_same_bits(padded, both_ways(model, x, z, {"text": junk, "text_lengths": lengths}))
    model.config["text_mask"] = False
    assert not np.array_equal(padded[0], model.encode(x, captions))


def evaluations(model, x, t, condition, threads=0):
    return [model.denoise(x, t, condition, threads)]


@pytest.mark.parametrize("changes", DIT.values(), ids=DIT)
@pytest.mark.parametrize("null", (False, True), ids=("condition", "null"))
def test_dit_batches_order_and_threads(changes, null):
    """6 rows an image: 341 at a time, so that 400 are two parts."""
    model = TinyDiT(dit_config(**changes))
    x, t, condition = model.inputs(batch=400)
    alone = [model.denoise(x[[b]], t[[b]], None if null else take(condition, [b]), 1) for b in range(40)]
    for batch in (1, 2, 7, 33, 400):
        rows = slice(0, batch)
        for threads in (1, 2, 5):
            result = model.denoise(x[rows], t[rows], None if null else take(condition, rows), threads)
            count = min(batch, 40)
            assert_same_bits([result[:count]], [np.concatenate(alone[:count])], f"batch {batch}, {threads} threads")
    order = np.random.default_rng(0).permutation(400)
    shuffled = model.denoise(x[order], t[order], None if null else take(condition, order))
    assert_same_bits([shuffled], [result[order]], "shuffled")


@pytest.mark.parametrize("changes", DIT.values(), ids=DIT)
def test_a_sample_alone_and_in_a_batch(changes):
    """With its modulations made for 64 steps at a time where it is alone, for one where 130 are together."""
    model = TinyDiT(dit_config(**changes) | {"depth": 1, "num_tokens": 2})
    model.__post_init__()
    steps, batch = 9, 130
    x, _, condition = model.inputs(batch=batch)
    noise = np.random.default_rng(3).standard_normal((steps, *x.shape)).astype(np.float32)
    schedule = make_schedule(textok.DiTConfig.from_dict(model.config), steps, "ddpm")
    expected = model.sample(x, schedule, condition, 2.0, noise, threads=1)
    for size in (1, 3, 20):
        rows = slice(40, 40 + size)
        result = model.sample(x[rows], schedule, take(condition, rows), 2.0, np.ascontiguousarray(noise[:, rows]), threads=3)
        assert_same_bits([result], [expected[rows]], f"{size} of {batch}")


def test_first_steps_of_a_longer_run():
    """Steps are computed ahead in groups: a run of 70 steps passes through the states of its first 5 alone."""
    model = TinyDiT(dit_config(depth=1))
    x, _, condition = model.inputs(batch=1)
    schedule = make_schedule(textok.DiTConfig.from_dict(model.config), 70, "ddim")
    states = []
    model.sample(x, schedule, condition, 2.0, callback=lambda step, state: states.append(state.copy()))

    def part(rows):
        """Some evaluations of the schedule, as a schedule."""
        fields = (schedule.timesteps, schedule.update, schedule.ends, schedule.guidance_times)
        return textok.schedules.Schedule(*(np.ascontiguousarray(field[rows]) for field in fields))

    few = part(slice(5))
    assert_same_bits([model.sample(x, few, condition, 2.0)], [states[4]])
    late = part(slice(60, None))
    assert_same_bits([model.sample(states[59], late, condition, 2.0)], [states[69]])


# ---- the public face: batch_size, seeds, strides, types ----


def as_strided_copies(array):
    """The same numbers in other layouts: (name, array)."""
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    reversed_ = np.ascontiguousarray(array[::-1])[::-1]
    fortran = np.asfortranarray(array)
    unaligned = np.frombuffer(b"\0" + array.tobytes(), array.dtype, offset=1).reshape(array.shape)
    read_only = array.copy()
    read_only.flags.writeable = False
    return [("every other number", wide[..., ::2]), ("reversed", reversed_), ("Fortran", fortran), ("unaligned", unaligned),
            ("read-only", read_only), ("other byte order", array.astype(array.dtype.newbyteorder())),
            ("float64", array.astype(np.float64)) if array.dtype == np.float32 else ("again", array)]


@pytest.fixture(scope="module")
def pair():
    model = TinyTexTok(textok_config(text_mask=True))
    return model, textok.TexTok(model.config, model.weights)


@pytest.mark.parametrize("bytes_", (False, True), ids=("float32", "uint8"))
def test_strides_and_types_of_images(pair, bytes_):
    model, tt = pair
    x, _, captions = model.inputs()
    if bytes_:
        x = ((x + 1) * 127.5).astype(np.uint8)
    expected = tt.encode(x, **captions)
    for name, copy in as_strided_copies(x):
        before = copy.tobytes()
        assert np.array_equal(tt.encode(copy, **captions), expected), name
        assert copy.tobytes() == before, name


def test_strides_and_types_of_latents_and_text(pair):
    model, tt = pair
    _, z, captions = model.inputs()
    expected = tt.decode(z, **captions)
    for name, copy in as_strided_copies(z):
        assert np.array_equal(tt.decode(copy, **captions), expected), name
    for name, copy in as_strided_copies(captions["text"]):
        assert np.array_equal(tt.decode(z, copy, captions["text_lengths"]), expected), name
    for kind in (np.int8, np.uint8, np.int64, ">i4"):
        assert np.array_equal(tt.decode(z, captions["text"], captions["text_lengths"].astype(kind)), expected), kind
    assert np.array_equal(tt.decode(z, captions["text"], list(captions["text_lengths"])), expected)
    half = captions["text"].astype(np.float16)
    assert np.array_equal(
        tt.decode(z, half, captions["text_lengths"]), tt.decode(z, half.astype(np.float32), captions["text_lengths"])
    )


@pytest.mark.parametrize("batch_size", (1, 2, 3, 7, 100))
def test_batch_size(pair, batch_size):
    model, tt = pair
    x, z, captions = model.inputs(batch=7)
    assert np.array_equal(tt.encode(x, **captions, batch_size=batch_size), tt.encode(x, **captions))
    assert np.array_equal(tt.decode(z, **captions, batch_size=batch_size), tt.decode(z, **captions))
    assert np.array_equal(tt.reconstruct(x, **captions, batch_size=batch_size), tt.decode(tt.encode(x, **captions), **captions))


@pytest.mark.parametrize("solver", ("ddpm", "ddim", "dpmsolver++"))
def test_seeds_in_batches_and_shards(solver):
    """Sample k of a run is the same in any batch, and in a shard that starts at k."""
    model = TinyDiT(dit_config())
    dit = textok.DiT(model.config, model.weights)
    labels = [1, 2, 3, 4, 9]
    arguments = {"steps": 4, "solver": solver, "guidance_scale": 1.5, "seed": 11}
    whole = dit.sample(labels=labels, **arguments)
    assert np.array_equal(dit.sample(labels=labels, **arguments, batch_size=2), whole)
    for k in range(5):
        assert np.array_equal(dit.sample(labels=labels[k : k + 2], **arguments, first_index=k), whole[k : k + 2])
    assert not np.array_equal(dit.sample(labels=labels, **arguments | {"seed": 12}), whole)


def test_ragged_batch_equals_the_mask_of_the_definition():
    """Rows that the engine leaves out are masked in the specification: within tolerance, for every length."""
    model = TinyTexTok(textok_config(text_mask=True))
    x, _, captions = model.inputs(batch=7)
    captions["text_lengths"][:] = range(1, 8)
    numerics.check(model.encode(x, captions), model.encode_spec(x, captions), numerics.END_TO_END)
