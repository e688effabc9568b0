"""What a model and its calls take, in a fresh process, against what memory_plan said beforehand."""

import json
import os
import subprocess
import sys

import pytest
from engine_models import textok_config
from fresh_process import environment

import textok

pytestmark = pytest.mark.measured

SIDE = {"hidden_size": 512, "depth": 6, "num_heads": 8}
TEXTOK = {
    "image_size": 128,
    "patch_size": 8,
    "num_latent_tokens": 32,
    "text_dim": 64,
    "num_text_tokens": 16,
    "tokenizer": SIDE,
    "detokenizer": SIDE,
}
# The table of tokens is two fifths of it, as in MiniLM a half: it is not to be in memory twice beside the rest.
TEXT = {"family": "t5", "gated": True, "vocab_size": 30000, "hidden_size": 512, "depth": 8, "num_heads": 8, "mlp_size": 1024,
        "max_tokens": 200}
DIT = {"num_tokens": 16, "hidden_size": 512, "depth": 8, "num_heads": 8, "num_classes": 10}
DIT_T2I = {"num_tokens": 16, "hidden_size": 512, "depth": 8, "num_heads": 8, "condition": "text", "text_dim": 64,
           "num_text_tokens": 64}
CROSS = TEXTOK | {"text_injection": "cross_attention", "patch_overlap": 4, "num_registers": 8, "text_mask": True}

# Run in the child: settles what the interpreter and the first calls take, loads, calls, and tells the peaks in between.
CHILD = """
import json, sys, tempfile
import numpy as np
import textok

kind, folder, dtype, side = sys.argv[1:]

def told(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))

cls = getattr(textok, kind)
small = {"hidden_size": 64, "depth": 1, "num_heads": 2}
if kind == "TexTok":
    warm = cls.from_config({"image_size": 16, "text_condition": "none", "tokenizer": small, "detokenizer": small}, dtype=dtype)
    warm.reconstruct(np.zeros((1, 16, 16, 3), np.uint8))
elif kind == "TextEncoder":
    warm = cls.from_config({"family": "t5", "vocab_size": 9, "mlp_size": 64, **small}, dtype=dtype)
    warm.encode_ids([[1]])
else:
    warm = cls.from_config({"num_tokens": 4, "num_classes": 3, **small}, dtype=dtype)
    warm.sample(labels=[1], steps=2, guidance_scale=2.0, seed=0)
with tempfile.TemporaryDirectory() as place:  # what reads weights is loaded once, and is not theirs
    warm.save_pretrained(place)
    cls.from_pretrained(place, dtype)
del warm
start = told("VmRSS")
model = cls.from_pretrained(folder, dtype, **({"side": side} if kind == "TexTok" else {}))
loaded = told("VmRSS")
load_peak = told("VmHWM")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
c = model.config
if kind == "TexTok":
    x = np.zeros((3, *c.image_shape), np.uint8)
    text = np.zeros((3, c.num_text_tokens, c.text_dim), np.float32)
    z = np.zeros((3, *c.latent_shape), np.float32)
    call = {"both": model.reconstruct, "tokenizer": model.encode, "detokenizer": model.decode}[side]
    call(z if side == "detokenizer" else x, text)
elif kind == "TextEncoder":
    model.encode_ids(np.ones((3, c.max_tokens), np.int32))
else:
    # Four conditions: 32 steps are 128 pairs, as many as have their modulations in memory at a time.
    text = np.zeros((3, c.num_text_tokens, c.text_dim), np.float32) if c.condition == "text" else None
    given = {"labels": [1, 2, 3]} if text is None else {"text": text}
    model.sample(**given, steps=32, guidance_scale=2.0, seed=0)
print(json.dumps({"weights": loaded - start, "load": load_peak - start, "call": told("VmHWM") - start, "plan":
model.memory_plan(3)}))
"""


def measured(kind, folder, dtype, side):
    command = [sys.executable, "-c", CHILD, kind, str(folder), dtype, side]
    variables = environment(MALLOC_TRIM_THRESHOLD_="65536")
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The two models in the form that their dtype is stored in."""
    made = {}

    def folder(kind, config, dtype):
        key = kind, str(config), dtype
        if key not in made:
            made[key] = tmp_path_factory.mktemp(f"{kind}-{dtype}")
            getattr(textok, kind).from_config(config, dtype=dtype).save_pretrained(made[key])
        return made[key]

    return folder


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be started anew here")
@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "int8", "int4"))
@pytest.mark.parametrize(
    ("kind", "config", "side"),
    (("TexTok", TEXTOK, "both"), ("TexTok", TEXTOK, "tokenizer"), ("TexTok", TEXTOK, "detokenizer"), ("DiT", DIT, "both"),
     ("TexTok", CROSS, "both"), ("DiT", DIT_T2I, "both"), ("TextEncoder", TEXT, "both")),
    ids=("TexTok", "tokenizer", "detokenizer", "DiT", "cross-attention", "DiT-T2I", "TextEncoder"),
)
def test_plan_is_the_peak(folders, kind, config, side, dtype):
    """Weights, and what a call adds, each within a tenth, and a little for what Python does meanwhile."""
    seen = measured(kind, folders(kind, config, dtype), dtype, side)
    plan, slack = seen["plan"], 4 << 20
    assert abs(seen["weights"] - plan["weights"]) <= plan["weights"] / 10 + slack, seen
    grown = seen["call"] - seen["weights"]
    assert abs(grown - plan["workspace"]) <= plan["workspace"] / 10 + slack // 2, seen
    assert abs(grown - plan["workspace"] // 2) > plan["workspace"] / 10 + slack // 2, seen  # planted: half of it
    largest = 4 * 2048 * 512  # one tensor at a time is in memory twice, in float32 at most
    assert seen["load"] <= plan["weights"] * 1.1 + 2 * largest + slack, seen


def test_what_is_made_at_load_is_counted():
    """Queries, keys and values of the learned tokens: their bytes are in the plan, whatever else there is."""
    one, two = (textok.TexTok.from_config(textok_config(num_latent_tokens=n, text_condition="none")) for n in (64, 128))
    width = 32
    tensors = 64 * 2 * width * 4 + 64 * width * 4  # positions on both sides, latent tokens
    fixed = 64 * 3 * width * 4
    grown = two.memory_plan(1)["weights"] - one.memory_plan(1)["weights"]
    assert fixed + tensors <= grown <= (fixed + tensors) * 1.3, grown


@pytest.mark.parametrize("condition", ("class", "text"))
def test_what_an_image_more_takes_of_a_dit(condition):
    """Its modulations, its text and the sampler's state; rows of tokens are computed a few images at a time. Python passes on
    64 at a time."""
    width, depth, tokens, text = 64, 4, 64, 8
    size = {
        "num_tokens": tokens,
        "hidden_size": width,
        "depth": depth,
        "num_heads": 2,
        "time_freq_dim": width,
        "condition": condition,
    }
    conditions = {"class": {"num_classes": 10}, "text": {"num_text_tokens": text, "text_dim": width}}
    model = textok.DiT.from_config(size | conditions[condition])
    rows = depth * 6 + 2 + 4  # modulations, the last layer's, what they are made of
    if condition == "text":
        rows += text * (depth * 2 + 2) + 1  # keys and values, what they are made of, the mean
    state = tokens * model.config.in_channels * 7  # two predictions of mean and variance, the guided one, x0 before
    few, many = (model._model.memory_plan(n, text)["workspace"] for n in (64, 256))
    assert (
        1 <= (many - few) / (256 - 64) / (4 * (rows * width + state)) <= 1.25
    )  # rows begin an odd number of cache lines apart
    assert model.memory_plan(64) == model.memory_plan(1000)


def test_workspace_does_not_grow_with_the_batch():
    """Images are computed a few at a time: 64 take what 8 do, but for a handful of bytes an image."""
    model = textok.TexTok.from_config(textok_config(image_size=64))
    few, many = (model.memory_plan(n)["workspace"] for n in (8, 64))
    assert many <= few * 1.05
