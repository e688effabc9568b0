"""A small training set and config, for tests that train."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import fresh_process
import numpy as np
from PIL import Image

SIDE = 16
TEXT_WIDTH = 6

CONFIG = """
[model]
image_size = 16
patch_size = 4
num_latent_tokens = 4
latent_dim = 3
text_dim = 6
num_text_tokens = 8
text_mask = true
kl = true
tokenizer = {{ hidden_size = 16, depth = 1, num_heads = 2, mlp_ratio = 2 }}
detokenizer = {{ hidden_size = 16, depth = 1, num_heads = 2, mlp_ratio = 2 }}

[data]
paths = ["{folder}"]
cache = "{folder}/captions.npz"

[run]
steps = 30
batch_size = 8
threads = 1
precision = "float32"
compile = false
log_every = 5
eval_every = 15
eval_images = 4
save_seconds = 0.0
tensorboard = false

[optim]
kind = "adam"
lr = 3e-3
warmup = 3
ema = 0.9

[loss]
perceptual = 0.0

[gan]
start = 0.3
ahead = 0.1
warmup = 3
adaptive = true
r1_every = 4
base_channels = 4
multipliers = [1, 2]
"""


def picture(rng):
    """A disc of one colour on another, uint8 [16,16,3]."""
    colours = rng.integers(0, 256, (2, 3))
    y, x = np.mgrid[:SIDE, :SIDE]
    centre = rng.uniform(4, 12, 2)
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < rng.uniform(3, 6) ** 2
    return np.where(inside[..., None], *colours).astype(np.uint8)


def make(folder, count=48, seed=0):
    """A shard of `count` pictures, a sixth of them a test set, with captions' embeddings; returns the path of a config file."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    captions = [f"a disc, number {i}" for i in range(count)]
    with tarfile.open(folder / "discs.tar", "w") as tar:
        for i, caption in enumerate(captions):
            png = io.BytesIO()
            Image.fromarray(picture(rng)).save(png, "PNG")
            record = {"caption_long": caption, "label": i % 3, "split": "test" if i % 6 == 0 else "train"}
            for kind, content in (("png", png.getvalue()), ("json", json.dumps(record).encode())):
                info = tarfile.TarInfo(f"disc{i:03d}.{kind}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    lengths = rng.integers(3, 9, count)
    np.savez(
        folder / "captions.npz",
        tokens=rng.standard_normal((lengths.sum(), TEXT_WIDTH)).astype(np.float16),
        offsets=np.cumsum([0, *lengths]),
        digest=hashlib.sha256("\n".join(captions).encode()).hexdigest(),
    )
    config = folder / "config.toml"
    config.write_text(CONFIG.format(folder=folder))
    return config


def command(config, out, *overrides):
    """What a shell runs."""
    return [sys.executable, "-m", "textok", "train", "tokenizer", str(config), *overrides, "--out", str(out)]


def environment():
    """One thread a process, and this tree's textok."""
    return fresh_process.environment(OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true")


def start(arguments):
    return subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
