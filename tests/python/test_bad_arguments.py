"""Every public argument against every class of bad value: the exception's type and what it says.

A message starts with the argument's name, and says what was expected and what came. After each error the model gives the same
result as before, and nothing was written to an argument.
"""

import api_models
import numpy as np
import pytest

import textok
from textok import ConfigError, DiT, TexTok
from textok.errors import DataError

TT = api_models.textok(text_mask=True)  # 16 px, 6 tokens x 5, text up to 7 x 12
CLASSES = api_models.textok(text_source="class")  # 9 classes
CLASS_DIT = api_models.dit()  # 6 x 5, 9 classes
TEXT_DIT = api_models.dit(condition="text")
X, Z, TEXT = api_models.pictures_of(TT), api_models.latents_of(TT), api_models.text_of(TT)
LABELS = [0, 4, 8]


def nan_at(array, where, value=np.nan):
    array = array.astype(np.float32)
    array[where] = value
    return array


class Opaque:
    pass


class BrokenArray:
    def __array__(self, *_, **__):
        raise RuntimeError("no array today")


# Whatever is no array of numbers, for any array argument: value -> (exception, a part of its message).
NO_ARRAYS = {
    "string": ("abc", TypeError, "expected an array, got str"),
    "bytes": (b"abc", TypeError, "expected an array, got bytes"),
    "dict": ({}, TypeError, "expected an array, got dict"),
    "set": ({1, 2}, TypeError, "expected an array, got set"),
    "object": (Opaque(), TypeError, "expected an array, got Opaque"),
    "function": (len, TypeError, "expected an array, got builtin_function_or_method"),
    "raises": (BrokenArray(), TypeError, "expected an array, got BrokenArray (no array today)"),
    "ragged": ([[1.0], [1.0, 2.0]], ValueError, "expected an array, got something NumPy cannot make one of"),
    "strings": (np.array(["a", "b"]), ValueError, "expected an array of numbers, got <U1 [2]"),
    "objects": (np.array([None, 1], object), ValueError, "expected an array of numbers, got object [2]"),
    "complex": (np.ones(3, complex), ValueError, "expected an array of numbers, got complex128 [3]"),
    "dates": (np.zeros(3, "datetime64[s]"), ValueError, "expected an array of numbers, got datetime64[s] [3]"),
    "records": (np.zeros(3, [("a", "f4")]), ValueError, "expected an array of numbers"),
    "masked": (np.ma.masked_array([1.0, 2.0], [True, False]), ValueError, "expected a plain array, got a masked one"),
}
# The same for `text`, where strings are captions in the wrong place.
NO_EMBEDDINGS = NO_ARRAYS | {
    "string": ("abc", TypeError, "got strings; give them as captions=[...]"),
    "list of strings": (["a", "b"], TypeError, "got strings; give them as captions=[...]"),
}

PICTURES = {
    "int64": (X.astype(np.int64), ValueError, "expected uint8, or floats in [-1, 1], got int64 [3, 16, 16, 3]"),
    "uint16": (X.astype(np.uint16), ValueError, "expected uint8, or floats in [-1, 1], got uint16"),
    "bool": (X > 3, ValueError, "expected uint8, or floats in [-1, 1], got bool"),
    "NCHW": (
        X.transpose(0, 3, 1, 2),
        ValueError,
        "got uint8 [3, 3, 16, 16]; this looks like NCHW: transpose it with .transpose(0, 2, 3, 1)",
    ),
    "CHW": (
        X[0].transpose(2, 0, 1),
        ValueError,
        "got uint8 [3, 16, 16]; this looks like one CHW picture: use .transpose(1, 2, 0)[None]",
    ),
    "one picture": (
        X[0],
        ValueError,
        "expected shape [B, S=16, S=16, 3], got uint8 [16, 16, 3]; the first axis is the batch: pass x[None]",
    ),
    "rank 2": (X[0, 0], ValueError, "got uint8 [16, 3]"),
    "rank 5": (X[None], ValueError, "got uint8 [1, 3, 16, 16, 3]"),
    "another size": (X[:, :8], ValueError, "got uint8 [3, 8, 16, 3]; textok.preprocess(pictures, size) makes such an array"),
    "gray": (X[..., :1], ValueError, "got uint8 [3, 16, 16, 1]"),
    "alpha": (X[..., [0, 1, 2, 0]], ValueError, "got uint8 [3, 16, 16, 4]"),
    "NaN": (nan_at(X / 255, (1, 2, 3, 0)), ValueError, "expected finite numbers, got nan at [1, 2, 3, 0]"),
    "infinity": (nan_at(X / 255, (2, 0, 0, 2), -np.inf), ValueError, "expected finite numbers, got -inf at [2, 0, 0, 2]"),
    "0 to 255": (
        X.astype(np.float32),
        ValueError,
        "expected float pixels in [-1, 1], got values from 0 to 255; clip them, or pass uint8",
    ),
    "below": (nan_at(X / 255, (0, 0, 0, 0), -1.01), ValueError, "expected float pixels in [-1, 1], got values from -1.01"),
    "too large for float32": (np.full(X.shape, 1e300), ValueError, "expected finite numbers, got inf"),
}
LATENTS = {
    "integers": (
        np.zeros(Z.shape, int),
        ValueError,
        "expected float16, float32, float64 or bfloat16 [B, N=6, d=5], got int64 [3, 6, 5]",
    ),
    "bool": (Z > 0, ValueError, "got bool [3, 6, 5]"),
    "one image": (Z[0], ValueError, "expected shape [B, N=6, d=5], got float32 [6, 5]; the first axis is the batch"),
    "rank 4": (Z[None], ValueError, "got float32 [1, 3, 6, 5]"),
    "tokens": (Z[:, :5], ValueError, "got float32 [3, 5, 5]"),
    "channels": (Z[..., :4], ValueError, "got float32 [3, 6, 4]"),
    "transposed": (Z.swapaxes(1, 2), ValueError, "got float32 [3, 5, 6]"),
    "NaN": (nan_at(Z, (2, 0, 1)), ValueError, "expected finite numbers, got nan at [2, 0, 1]"),
    "infinity": (nan_at(Z, (0, 5, 4), np.inf), ValueError, "expected finite numbers, got inf at [0, 5, 4]"),
    "too large for float32": (Z.astype(np.float64) * 1e200, ValueError, "expected finite numbers, got"),
}
TEXTS = {
    "integers": (
        np.zeros(TEXT.shape, int),
        ValueError,
        "expected float16, float32, float64 or bfloat16 [B=3, t, Dt=12], got int64 [3, 7, 12]",
    ),
    "one caption": (TEXT[0], ValueError, "expected shape [B=3, t, Dt=12], got float32 [7, 12]"),
    "token ids": (np.arange(21).reshape(3, 7), ValueError, "got int64 [3, 7]"),
    "width": (TEXT[..., :11], ValueError, "got float32 [3, 7, 11]"),
    "too many": (np.zeros((3, 8, 12)), ValueError, "expected 1 to 7 rows a caption, got float64 [3, 8, 12]"),
    "no rows": (TEXT[:, :0], ValueError, "expected 1 to 7 rows a caption, got float32 [3, 0, 12]"),
    "NaN": (nan_at(TEXT, (1, 6, 0)), ValueError, "expected finite numbers, got nan at [1, 6, 0]"),
    "infinity": (nan_at(TEXT, (1, 6, 0), np.inf), ValueError, "expected finite numbers, got inf at [1, 6, 0]"),
}
BATCH_OF_TEXTS = {"batch": (TEXT[:2], ValueError, "expected shape [B=3, t, Dt=12], got float32 [2, 7, 12]")}
LENGTHS = {
    "floats": ([1.0, 2.0, 3.0], ValueError, "expected integers [B], the real rows of each caption, got float64 [3]"),
    "bools": ([True, True, False], ValueError, "expected integers [B], the real rows of each caption, got bool [3]"),
    "one for all": (3, ValueError, "expected shape [B=3], got int64 []; pass a list, one an image"),
    "too few": ([1, 2], ValueError, "expected shape [B=3], got int64 [2]"),
    "rank 2": ([[1, 2, 3]], ValueError, "expected shape [B=3], got int64 [1, 3]"),
    "zero": ([1, 0, 3], ValueError, "expected 1 to 7, the real rows of each caption, got 0 at [1]"),
    "negative": ([1, 2, -1], ValueError, "expected 1 to 7, the real rows of each caption, got -1 at [2]"),
    "beyond the rows": ([8, 2, 3], ValueError, "expected 1 to 7, the real rows of each caption, got 8 at [0]"),
    "beyond int32": ([2**40, 2, 3], ValueError, "got 1099511627776 at [0]"),
    "beyond int64": (np.array([2**63 + 5, 2, 3], np.uint64), ValueError, "got 9223372036854775813 at [0]"),
    "beyond uint64": ([2**70, 2, 3], ValueError, "expected an array of numbers, got object [3]"),
}


def label_errors(highest, meaning):
    return {
        "floats": ([1.0, 2.0, 3.0], ValueError, f"expected integers [B], {meaning}, got float64 [3]"),
        "bools": ([True, False, True], ValueError, f"expected integers [B], {meaning}, got bool [3]"),
        "scalar": (3, ValueError, "got int64 []; pass a list, one an image"),
        "rank 2": ([[1], [2], [3]], ValueError, "got int64 [3, 1]"),
        "negative": ([0, -1, 1], ValueError, f"expected 0 to {highest}, {meaning}, got -1 at [1]"),
        "too high": ([0, 1, highest + 1], ValueError, f"expected 0 to {highest}, {meaning}, got {highest + 1} at [2]"),
        "unsigned wrap": (np.array([0, 1, 2**64 - 1], np.uint64), ValueError, "got 18446744073709551615 at [2]"),
    }


BATCH_OF_LABELS = {"batch": ([1, 2], ValueError, "expected shape [B=3], got int64 [2]")}
THREADS = {
    "zero": (0, ValueError, "expected 1 to 1024, got 0"),
    "negative": (-2, ValueError, "expected 1 to 1024, got -2"),
    "absurd": (10**30, ValueError, "expected 1 to 1024"),
    "bool": (True, TypeError, "expected an integer, got bool True"),
    "float": (2.0, TypeError, "expected an integer, got float 2.0"),
    "string": ("2", TypeError, "expected an integer, got str '2'"),
}
BATCH_SIZES = {
    "zero": (0, ValueError, "expected 1 to"),
    "negative": (-1, ValueError, "expected 1 to"),
    "bool": (True, TypeError, "expected an integer"),
    "float": (2.5, TypeError, "expected an integer, got float 2.5"),
}
FLAGS = {
    "integer": (1, TypeError, "expected True or False, got int 1"),
    "string": ("yes", TypeError, "expected True or False, got str 'yes'"),
}


def choice_errors(*choices):
    listed = ", ".join(map(repr, choices))
    return {
        "unknown": ("euler", ValueError, f"expected one of {listed}, got 'euler'"),
        "empty": ("", ValueError, f"expected one of {listed}, got ''"),
        "none": (None, TypeError, f"expected one of {listed}, got NoneType None"),
        "integer": (3, TypeError, f"expected one of {listed}, got int 3"),
    }


def outputs(right, overlapping):
    """Bad values of `out` where `right` would do and `overlapping` is an input's memory (or None)."""
    expected = f"expected {right.dtype} [{', '.join(map(str, right.shape))}], C-contiguous and writeable"
    frozen = right.copy()
    frozen.flags.writeable = False
    odd = np.empty(right.nbytes + 1, np.uint8)[1:].view(right.dtype).reshape(right.shape) if right.itemsize > 1 else None
    errors = {
        "list": (right.tolist(), TypeError, "expected a NumPy array"),
        "subclass": (right.view(np.ma.MaskedArray), TypeError, "expected a NumPy array"),
        "float64": (right.astype(np.float64), ValueError, f"{expected}, got float64"),
        "byte order": (right.astype(right.dtype.newbyteorder(">")), ValueError, "")
        if right.itemsize > 1
        else (right.astype(np.int8), ValueError, f"{expected}, got int8"),
        "extent": (right[:-1], ValueError, f"{expected}, got {right.dtype}"),
        "rank": (right[None], ValueError, expected),
        "Fortran order": (np.asfortranarray(right), ValueError, "got one that is not C-contiguous"),
        "read-only": (frozen, ValueError, "got one that is read-only"),
        "strided": (np.repeat(right, 2, axis=0)[::2], ValueError, "got one that is not C-contiguous"),
    }
    if odd is not None:
        errors["not aligned"] = (odd, ValueError, "got one that is not aligned")
    if overlapping is not None:
        errors["overlapping"] = (overlapping, ValueError, "expected an array of its own, got one that overlaps an input")
    return errors


ENCODE = {"x": X, "text": TEXT, "text_lengths": [1, 7, 3]}
DECODE = {"z": Z, "text": TEXT, "text_lengths": [1, 7, 3]}
DENOISE = {"x": Z, "t": [0, 500, 999], "labels": LABELS}
SAMPLE = {"labels": LABELS, "steps": 2, "seed": 0}
FROM_TEXT = {"text": TEXT, "text_lengths": [1, 7, 3], "steps": 2, "seed": 0}
RUN = {"threads": THREADS, "batch_size": BATCH_SIZES, "progress": FLAGS}
CLASS_LABELS = label_errors(8, "the tokenizer's classes")
DIT_LABELS = label_errors(9, "of which 9 is the null class")
NAMES = {"string": "abc", "strings": np.array(["a", "b"])}  # of classes, where a pipeline has names
NO_LABELS = {"labels": (LABELS, ValueError, "expected None, this model takes text [B,t,Dt] or captions; got labels")}
NO_TEXT = {"text": (TEXT, ValueError, "expected None, this model takes labels [B]; got text")}
STEPS = {
    "zero": (0, ValueError, "expected 1 to 999, got 0"),
    "more than timesteps": (1000, ValueError, "expected 1 to 999, got 1000"),
    "bool": (True, TypeError, "expected an integer"),
    "float": (50.0, TypeError, "expected an integer, got float 50.0"),
}
SOLVING = {
    "steps": STEPS,
    "solver": {name: case for name, case in choice_errors("ddpm", "ddim", "dpmsolver++").items() if name != "none"},
    "spacing": choice_errors("linspace", "leading", "trailing"),
    "eta": {
        "negative": (-0.1, ValueError, "expected 0 to 1, got -0.1"),
        "above one": (1.5, ValueError, "expected 0 to 1, got 1.5"),
        "NaN": (np.nan, ValueError, "expected 0 to 1, got nan"),
        "string": ("0", TypeError, "expected a number, got str '0'"),
        "bool": (True, TypeError, "expected a number, got bool True"),
        "not ddim": (0.5, ValueError, "expected 0 with solver 'dpmsolver++'"),
    },
    "guidance_scale": {
        "NaN": (np.nan, ValueError, "expected -1000 to 1000, got nan"),
        "infinity": (np.inf, ValueError, "expected -1000 to 1000, got inf"),
        "absurd": (1e9, ValueError, "expected -1000 to 1000"),
        "array": (np.ones(3), TypeError, "expected a number, got ndarray"),
        "bool": (False, TypeError, "expected a number, got bool False"),
    },
    "guidance_interval": {
        "number": (3, ValueError, "expected a pair (low, high) of train timesteps, got 3"),
        "three": ((1, 2, 3), ValueError, "expected a pair"),
        "string": ("ab", ValueError, "expected a pair"),
        "backwards": ((500, 100), ValueError, "expected (low, high) with low <= high, got (500, 100)"),
        "beyond T": ((0, 1000), ValueError, "expected 0 to 999, got 1000"),
        "negative": ((-1, 5), ValueError, "expected 0 to 999, got -1"),
        "NaN": ((0, np.nan), ValueError, "expected 0 to 999, got nan"),
        "not numbers": (("a", "b"), TypeError, "expected a number, got str 'a'"),
    },
    "seed": {
        "negative": (-1, ValueError, "expected 0 to"),
        "beyond 128 bits": (2**128, ValueError, "expected 0 to"),
        "float": (1.0, TypeError, "expected an integer, got float 1.0"),
        "bool": (True, TypeError, "expected an integer, got bool True"),
        "generator": (np.random.default_rng(0), TypeError, "expected an integer, got Generator"),
    },
    "first_index": {
        "negative": (-1, ValueError, "expected 0 to"),
        "none": (None, TypeError, "expected an integer, got NoneType"),
        "float": (0.5, TypeError, "expected an integer"),
    },
    "noise": NO_ARRAYS
    | LATENTS
    | {
        "batch": (Z[:2], ValueError, "expected shape [B=3, N=6, C=5], got float32 [2, 6, 5]"),
        **{
            name: (LATENTS[name][0], ValueError, message)
            for name, message in {
                "integers": "expected float16, float32, float64 or bfloat16 [B=3, N=6, C=5], got int64 [3, 6, 5]",
                "one image": "expected shape [B=3, N=6, C=5], got float32 [6, 5]; the first axis is the batch",
            }.items()
        },
    },
    "callback": {"not callable": (3, TypeError, "expected a function (step, steps, x), got int")},
}
STEP_NOISE = NO_ARRAYS | {
    "integers": (
        np.zeros((2, *Z.shape), int),
        ValueError,
        "expected float16, float32, float64 or bfloat16 [steps=2, B=3, N=6, C=5], got int64",
    ),
    "one step": (Z, ValueError, "expected shape [steps=2, B=3, N=6, C=5], got float32 [3, 6, 5]"),
    "steps": (np.zeros((3, *Z.shape)), ValueError, "got float64 [3, 3, 6, 5]"),
    "NaN": (nan_at(np.stack([Z, Z]), (0, 1, 2, 3)), ValueError, "expected finite numbers, got nan at [0, 1, 2, 3]"),
}

# (what is called, its good arguments, {argument: {class of error: (value, exception, part of the message)}})
CALLS = {
    "TexTok.encode": (
        TT.encode,
        ENCODE,
        {
            "x": NO_ARRAYS | PICTURES | {"none": (None, TypeError, "expected an array, got NoneType")},
            "text": NO_EMBEDDINGS
            | TEXTS
            | BATCH_OF_TEXTS
            | {
                "none": (
                    None,
                    ValueError,
                    "expected caption embeddings [B, t <= 7, 12], which the tokenizer of this model needs, got None",
                )
            },
            "text_lengths": NO_ARRAYS | LENGTHS,
            "labels": NO_LABELS,
            **RUN,
            "out": outputs(np.empty((3, 6, 5), np.float32), None),
        },
    ),
    "TexTok.decode": (
        TT.decode,
        DECODE,
        {
            "z": NO_ARRAYS | LATENTS | {"none": (None, TypeError, "expected an array, got NoneType")},
            "text": NO_EMBEDDINGS
            | TEXTS
            | BATCH_OF_TEXTS
            | {"none": (None, ValueError, "which the detokenizer of this model needs, got None")},
            "text_lengths": NO_ARRAYS | LENGTHS,
            "labels": NO_LABELS,
            **RUN,
            "output": choice_errors("uint8", "float32"),
            "out": outputs(np.empty((3, 16, 16, 3), np.uint8), None),
        },
    ),
    "TexTok.reconstruct": (
        TT.reconstruct,
        ENCODE,
        {
            "x": NO_ARRAYS | PICTURES,
            "text": NO_EMBEDDINGS | TEXTS | BATCH_OF_TEXTS,
            "text_lengths": NO_ARRAYS | LENGTHS,
            "labels": NO_LABELS,
            **RUN,
            "output": choice_errors("uint8", "float32"),
            "out": outputs(np.empty((3, 16, 16, 3), np.uint8), X),
        },
    ),
    "TexTok.encode, classes": (
        CLASSES.encode,
        {"x": X, "labels": LABELS},
        {
            "labels": NO_ARRAYS
            | CLASS_LABELS
            | BATCH_OF_LABELS
            | {"none": (None, ValueError, "expected integers [B], 0 to 8, got None")},
            "text": NO_TEXT,
        },
    ),
    "DiT.denoise": (
        CLASS_DIT.denoise,
        DENOISE,
        {
            "x": NO_ARRAYS
            | {name: (value, error, message.replace("d=5", "C=5")) for name, (value, error, message) in LATENTS.items()},
            "t": NO_ARRAYS
            | {
                "scalar": (3, ValueError, "expected shape [B=3], got int64 []; pass one timestep an image"),
                "batch": ([1, 2], ValueError, "expected shape [B=3], got int64 [2]"),
                "negative": ([0, -1, 3], ValueError, "expected train timesteps from 0 to 999, got -1 to 3"),
                "beyond T": ([0, 1, 1000], ValueError, "from 0 to 999, got 0 to 1000"),
                "NaN": ([0.0, np.nan, 1.0], ValueError, "expected finite numbers, got nan at [1]"),
                "bool": ([True, False, True], ValueError, "expected train timesteps [B], integers or floats, got bool"),
            },
            "labels": NO_ARRAYS
            | DIT_LABELS
            | BATCH_OF_LABELS
            | {"none": (None, ValueError, "expected integers [B], 0 to 9, got None")},
            "text": NO_TEXT,
            "null": FLAGS | {"with labels": (True, ValueError, "expected no labels and no text with null=True, got labels")},
            "threads": THREADS,
            "batch_size": BATCH_SIZES,
            "out": outputs(np.empty((3, 6, 10), np.float32), None),
        },
    ),
    "DiT.denoise, text": (
        TEXT_DIT.denoise,
        {"x": Z, "t": [1.5, 2, 3], "text": TEXT},
        {
            "text": NO_EMBEDDINGS
            | TEXTS
            | BATCH_OF_TEXTS
            | {"none": (None, ValueError, "expected caption embeddings [B, t <= 7, 12]")},
            "text_lengths": NO_ARRAYS | LENGTHS,
            "labels": NO_LABELS,
            "null": {"with text": (True, ValueError, "expected no labels and no text with null=True, got text")},
        },
    ),
    "DiT.sample": (
        CLASS_DIT.sample,
        SAMPLE,
        {
            "labels": NO_ARRAYS | DIT_LABELS | {"none": (None, ValueError, "expected integers [B], 0 to 9, got None")},
            "text": NO_TEXT,
            **RUN,
            **SOLVING,
            "out": outputs(np.empty((3, 6, 5), np.float32), None),
        },
    ),
    "DiT.sample, text": (
        TEXT_DIT.sample,
        FROM_TEXT,
        {
            "text": NO_EMBEDDINGS
            | {name: (value, error, message.replace("B=3", "B")) for name, (value, error, message) in TEXTS.items()}
            | {"none": (None, ValueError, "expected caption embeddings")},
            "text_lengths": NO_ARRAYS | LENGTHS,
            "labels": NO_LABELS,
        },
    ),
    "DiT.sample, ddpm": (
        CLASS_DIT.sample,
        SAMPLE | {"solver": "ddpm"},
        {"step_noise": STEP_NOISE, "steps": {"too many": (1001, ValueError, "expected 1 to 1000, got 1001")}},
    ),
    "Pipeline": (
        api_models.class_pipeline(),
        SAMPLE,
        {
            "labels": NO_ARRAYS
            | DIT_LABELS
            | {name: (value, ValueError, "expected class numbers, 0 to 9") for name, value in NAMES.items()}
            | {"none": (None, ValueError, "expected integers [B], 0 to 9, got None")},
            "text": NO_TEXT,
            "output": choice_errors("uint8", "float32"),
            **RUN,
            **SOLVING,
        },
    ),
    "Pipeline, text": (
        api_models.text_pipeline(),
        FROM_TEXT,
        {
            "text": NO_EMBEDDINGS | {"none": (None, ValueError, "expected caption embeddings"), "NaN": TEXTS["NaN"]},
            "text_lengths": NO_ARRAYS | LENGTHS,
            "labels": NO_LABELS,
            **RUN,
        },
    ),
    "TexTok.from_config": (
        TexTok.from_config,
        {"config": TT.config},
        {
            "seed": SOLVING["seed"],
            "threads": THREADS,
            "config": {
                "none": (None, ConfigError, "expected a dict as in config.json, got NoneType"),
                "another model's": (CLASS_DIT.config, ConfigError, "expected a dict as in config.json, got DiTConfig"),
            },
            "dtype": choice_errors("float32", "bfloat16", "int8", "int4")
            | {"none": (None, ValueError, "expected one of"), "integer": (3, ValueError, "expected one of")},
        },
    ),
    "memory_plan": (TT.memory_plan, {"batch": 3}, {"batch": BATCH_SIZES}),
    "list of captions": (
        api_models.captions().embeddings,
        {"names": [0, 1]},
        {
            "names": {name: case for name, case in NO_ARRAYS.items() if name != "strings"}
            | {
                "strings": (np.array(["a", "b"]), DataError, "expected captions that have an embedding, got 2 of 2 without"),
                "string": ("abc", DataError, "expected captions that have an embedding, got 1 of 1 without, first 'abc'"),
                "too high": ([18], ValueError, "expected 0 to 17, positions among 18 embeddings, got 18 at [0]"),
                "negative": ([-1], ValueError, "got -1 at [0]"),
            },
        },
    ),
}
CASES = [
    (call, argument, flaw)
    for call, (_, _, arguments) in CALLS.items()
    for argument, errors in arguments.items()
    for flaw in errors
]


@pytest.mark.parametrize(("call", "argument", "flaw"), CASES)
def test_bad_argument(call, argument, flaw):
    function, good, arguments = CALLS[call]
    value, error, message = arguments[argument][flaw]
    before = value.copy() if type(value) is np.ndarray else None
    with pytest.raises(error) as caught:
        function(**good | {argument: value})
    told = str(caught.value)
    assert message in told and "\n" not in told and len(told) < 600, told
    if message:
        assert told.startswith((f"{argument}:", f"{argument}[")), told
        assert "expected" in told and (" got " in told), told
    if before is not None and before.dtype.kind != "O":
        np.testing.assert_array_equal(value, before)


@pytest.mark.parametrize("call", CALLS)
def test_good_arguments_still_work(call):
    """Were a good call of the matrix bad, its errors would prove nothing."""
    function, good, _ = CALLS[call]
    function(**good)


@pytest.mark.parametrize(
    ("count", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (10**30, (ValueError, OverflowError)),
        ("2", TypeError),
        (2.0, TypeError),
        (None, TypeError),
    ],
)
def test_number_of_threads(count, error):
    before = textok.get_num_threads()
    with pytest.raises(error):
        textok.set_num_threads(count)
    assert textok.get_num_threads() == before


@pytest.mark.parametrize(
    ("call", "argument", "name"),
    [
        ("TexTok.decode", "z", "z"),
        ("DiT.denoise", "x", "x"),
        ("DiT.sample, ddpm", "noise", "noise"),
        ("TexTok.encode", "text", "text"),
    ],
)
def test_out_may_not_overlap_an_input(call, argument, name):
    """Shapes differ, so the overlap is of memory: the result would be written over what is still to be read."""
    function, good, _ = CALLS[call]
    shape = {
        "TexTok.decode": (3, 16, 16, 3),
        "DiT.denoise": (3, 6, 10),
        "DiT.sample, ddpm": (3, 6, 5),
        "TexTok.encode": (3, 6, 5),
    }[call]
    memory = np.zeros(10_000, np.float32)
    given = np.asarray(good.get(argument, Z), np.float32)
    within = memory[: given.size].reshape(given.shape)
    within[...] = given
    out = memory[given.size - 1 : given.size - 1 + int(np.prod(shape))].reshape(shape)
    extra = {"output": "float32"} if call == "TexTok.decode" else {}
    with pytest.raises(ValueError, match="out: expected an array of its own, got one that overlaps an input"):
        function(**good | {argument: within, "out": out} | extra)
    out = memory[given.size : given.size + int(np.prod(shape))].reshape(shape)
    function(**good | {argument: within, "out": out} | extra)


def test_results_after_errors():
    """An error leaves nothing behind: all calls with a bad value, then the same bits as before."""
    first = TT.reconstruct(**ENCODE), CLASS_DIT.sample(**SAMPLE)
    for call, argument, flaw in CASES:
        if call.startswith(("TexTok.reconstruct", "DiT.sample")):
            function, good, arguments = CALLS[call]
            with pytest.raises((ValueError, TypeError)):
                function(**good | {argument: arguments[argument][flaw][0]})
    assert (TT.reconstruct(**ENCODE) == first[0]).all() and (CLASS_DIT.sample(**SAMPLE) == first[1]).all()


def test_a_nan_far_into_a_large_batch():
    """Arguments are converted a part at a time; the index is the batch's."""
    x = np.zeros((70, 16, 16, 3))
    x[68, 1, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"x: expected finite numbers, got nan at \[68, 1, 2, 0\]"):
        api_models.textok(text_condition="none").encode(x)


def test_positional_mistakes():
    with pytest.raises(TypeError):
        TT.encode()
    with pytest.raises(TypeError):
        CLASS_DIT.denoise(Z)
    with pytest.raises(TypeError, match="unexpected keyword"):
        CLASS_DIT.sample(LABELS, num_inference_steps=3)


def test_cpu_tensors_only():
    torch = pytest.importorskip("torch")
    with pytest.raises(
        ValueError, match=r"z: expected an array in the CPU's memory, got a tensor on meta; call .cpu\(\) first"
    ):
        TT.decode(torch.empty(3, 6, 5, device="meta"), TEXT)
    with pytest.raises(TypeError, match="z: expected an array, got Tensor"):
        TT.decode(torch.zeros(3, 6, 5).to_sparse(), TEXT)


def test_configs_that_are_not_the_weights():
    """Wrong config for the weights, through the constructors."""
    for model, changes in (
        (TT, {"text_mask": True, "text_condition": "none"}),
        (CLASS_DIT, {"depth": 3}),
        (TEXT_DIT, {"learn_sigma": False}),
    ):
        config = model.config.to_dict() | changes
        with pytest.raises(textok.WeightsError, match="weights: the tensors are not those of the config"):
            type(model)(config, model.weights())
    with pytest.raises(ConfigError, match="model_type: expected 'dit', got 'textok'"):
        DiT(TT.config.to_dict(), TT.weights())
