"""What is timed: the models, their weights, and the inputs of every repeat, the same for every peer.

A case's name says all of it:

    encode-p8-n32-b1     ViT-Base tokenizer, 256px, patch 8, 32 latent tokens, batch 1 (decode-... likewise)
    dit-xl-t64           one evaluation of DiT-XL over 64 tokens with guidance: two rows, a class and the null class
    dit-xl2-t256         the same of the original DiT-XL/2: 256 tokens are latents [4,32,32], 1,024 are [4,64,64]
    decode-s512-p16-n32-b1   at 512px, patch 16, with the paper's wider text there
    vae-256              the original's VAE, which makes a 256px picture of latents [4,32,32]; vae-512 likewise
    small-...            any of them with two narrow blocks, to try things out
    picture-n32          a 256px picture of a class: DiT-XL over 32 tokens, guidance, the default steps, decoded at patch 8
    decode-softvq-l-64-b1    SoftVQ-VAE's published L-64 at 256px; encode-..., and maetok-b-128, likewise
    sit-xl-t64           as dit-xl-t64 of SiT-XL over their tokens of 32 numbers, which predicts a velocity
    picture-sit-n64      a picture of SiT-XL over 64 tokens: 50 steps of its SDE with guidance, decoded by SoftVQ-L-64

Weights are random, of a trained model's scale. Those of every DiT-XL over tokens are one file, whatever the number of
tokens, beside a small one with the positions.
"""

import json
import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SMALL = {"hidden_size": 64, "depth": 2, "num_heads": 2}
VIT_B = {"hidden_size": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4}
DIT_XL = {"model_type": "dit", "in_channels": 8, "hidden_size": 1152, "depth": 28, "num_heads": 16, "num_classes": 1000}
SIT_XL = {**DIT_XL, "in_channels": 32, "prediction": "velocity", "learn_sigma": False}
VIT_L = {"hidden_size": 1024, "depth": 24, "num_heads": 16, "mlp_ratio": 4}
FEW_TOKENS = {
    "model_type": "textok", "image_size": 256, "patch_size": 16, "latent_dim": 32, "text_condition": "none", "num_registers": 1,
}  # fmt: skip
PUBLISHED = {
    "softvq-l-64": {
        **FEW_TOKENS, "num_latent_tokens": 64, "codebook": {"runs": 4, "size": 8192}, "tokenizer": VIT_L, "detokenizer": VIT_L,
    },
    "maetok-b-128": {
        **FEW_TOKENS, "num_latent_tokens": 128, "rope": {"rows": "patches"}, "tokenizer": VIT_B, "detokenizer": VIT_B,
    },
}  # fmt: skip
TOKENS = (32, 64, 128, 256, 1024)
NULL_CLASS = 1000
GUIDANCE_SCALE = 4.0
SDE_STEPS = 50  # of a SiT's picture, what its authors publish
PIECES = (("body", lambda name: name != "pos_embed"), ("positions", lambda name: name == "pos_embed"))


@dataclass(frozen=True)
class Case:
    """One piece of work. `what` is encode, decode, denoise, picture or vae; `model` names the weights."""

    name: str
    what: str
    model: str
    config: dict
    batch: int

    @property
    def is_2d(self):
        return self.config.get("patch_size") == 2 and self.config["model_type"] == "dit"

    @property
    def is_flow(self):
        return self.config.get("prediction") == "velocity"

    @property
    def takes_text(self):
        return self.config["model_type"] == "textok" and self.config.get("text_condition") != "none"

    @property
    def family(self):
        """What all numbers of tokens have in common: the DiT's weights but its positions."""
        return self.model.rpartition("-t")[0]

    @property
    def halves(self):
        """A picture's: the case that evaluates its DiT, and the one that decodes its latents."""
        if self.is_flow:
            return case(self.name.replace("picture-sit-n", "sit-xl-t")), case("decode-softvq-l-64-b1")
        name = self.name.replace("picture-n", "dit-xl-t"), self.name.replace("picture", "decode-p8") + "-b1"
        return tuple(case(half) for half in name)


def case(name):
    """The case of a name; ValueError for one that means nothing."""
    small = SMALL if name.startswith("small-") else {}
    model, rest = ("small-", name[6:]) if small else ("", name)
    if m := re.fullmatch(r"(encode|decode)(-s512)?-p(8|16)-n(32|64|128|256)-b(\d+)", rest):
        size, side = (512 if m[2] else 256), VIT_B | small
        config = {
            "model_type": "textok", "image_size": size, "patch_size": int(m[3]), "num_latent_tokens": int(m[4]),
            "text_dim": {256: 2048, 512: 4096}[size], "num_text_tokens": 128, "tokenizer": side, "detokenizer": side,
        }  # fmt: skip
        return Case(name, m[1], f"{model}textok{m[2] or ''}-p{m[3]}-n{m[4]}", config, int(m[5]))
    if m := re.fullmatch(rf"(encode|decode)-({'|'.join(PUBLISHED)})-b(\d+)", rest):
        sides = {"tokenizer": small, "detokenizer": small} if small else {}
        return Case(name, m[1], f"{model}{m[2]}", PUBLISHED[m[2]] | sides, int(m[3]))
    if (m := re.fullmatch(r"(dit-xl-t|sit-xl-t|picture-n|picture-sit-n)(\d+)", rest)) and int(m[2]) in TOKENS:
        work, batch = ("denoise", 2) if "-xl-t" in m[1] else ("picture", 1)
        kind, config = ("sit", SIT_XL) if "sit" in m[1] else ("dit", DIT_XL)
        return Case(name, work, f"{model}{kind}-xl-t{m[2]}", {**config, **small, "num_tokens": int(m[2])}, batch)
    if m := re.fullmatch(r"dit-xl2-t(256|1024)", rest):
        tokens = int(m[1])
        config = {
            **DIT_XL,
            **small,
            "num_tokens": tokens,
            "in_channels": 4,
            "patch_size": 2,
            "input_size": 2 * math.isqrt(tokens),
        }
        return Case(name, "denoise", f"{model}dit-xl2-t{tokens}", config, 2)
    if m := re.fullmatch(r"vae-(256|512)", rest):
        return Case(name, "vae", "vae", {"model_type": "vae", "image_size": int(m[1])}, 1)
    raise ValueError(f"no case {name!r}; names are like encode-p8-n32-b1, dit-xl-t64, dit-xl2-t256, picture-n32")


def inputs(case, seed):
    """The arrays of one repeat. Two rows of a guided evaluation share latents and timestep."""
    rng = np.random.default_rng(seed)
    config = case.config
    if case.what in ("encode", "decode"):
        text = {}
        if case.takes_text:
            rows = (case.batch, config["num_text_tokens"], config["text_dim"])
            text = {"text": rng.standard_normal(rows, np.float32) * np.float32(0.2)}
        if case.what == "encode":
            shape = (case.batch, config["image_size"], config["image_size"], 3)
            return {"x": rng.uniform(-1, 1, shape).astype(np.float32), **text}
        shape = (case.batch, config["num_latent_tokens"], config.get("latent_dim", 8))
        return {"z": rng.standard_normal(shape, np.float32), **text}
    if case.what == "vae":
        return {"x": rng.standard_normal((1, 4, config["image_size"] // 8, config["image_size"] // 8), np.float32)}
    shape = (4, config["input_size"], config["input_size"]) if case.is_2d else (config["num_tokens"], config["in_channels"])
    x = rng.standard_normal((1, *shape), np.float32)
    label = int(rng.integers(0, NULL_CLASS))
    if case.what == "denoise":
        return {
            "x": x.repeat(2, 0),
            "t": np.full(2, rng.uniform(0.04, 1) if case.is_flow else rng.integers(1, 1000), np.float32),
            "labels": np.array([label, NULL_CLASS]),
        }
    if case.is_flow:
        return {"noise": x, "label": label, "step_noise": rng.standard_normal((SDE_STEPS, *x.shape), np.float32)}
    return {"noise": x, "label": label, "text": rng.standard_normal((1, 128, 2048), np.float32) * np.float32(0.2)}


def default_steps():
    """What `DiT.sample` runs where no number of steps is given: the same for every peer's picture."""
    from textok.sampling import DEFAULTS

    return DEFAULTS["epsilon"].steps


class Store:
    """The folder with what is prepared once: weights by dtype, exported models, reference outputs."""

    def __init__(self, root):
        self.root = Path(root).resolve() / "prepared"

    def path(self, *names):
        path = self.root.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def weights(self, work, dtype="float32"):
        """A checkpoint folder of `work`'s model in `dtype`; written by `make_weights`."""
        return self.path("weights", f"{work.model}-{dtype}")

    def make_weights(self, work, dtype="float32"):
        """Writes what `weights` names, unless it is there. bfloat16 and int8 are textok's roundings of the float32 weights."""
        folder = self.weights(work, dtype)
        if not (folder / "config.json").exists():
            if work.config["model_type"] == "dit":
                self._make_dit(work, dtype, folder)
            elif dtype == "float32":
                self._write(folder, _kind(work).from_config(work.config, seed=0))
            else:
                self.make_weights(work)
                self._write(folder, _kind(work).from_pretrained(self.weights(work), dtype=dtype))
        return folder

    def _write(self, folder, model):
        """Beside it first, so that a folder with this name is whole."""
        temporary = folder.with_name(folder.name + ".part")
        shutil.rmtree(temporary, ignore_errors=True)
        model.save_pretrained(temporary)
        temporary.rename(folder)

    def _make_dit(self, work, dtype, folder):
        from safetensors.numpy import save_file

        source = self.path("weights", f"{work.family}-{dtype}")
        if not (source / "positions.safetensors").exists():
            largest = {**work.config, "num_tokens": 1024} | ({"input_size": 64} if work.is_2d else {})
            if dtype == "float32":
                model = _kind(work).from_config(largest, seed=0)
            else:
                widest = case(f"{work.family}-t1024")
                model = _kind(work).from_pretrained(self.make_weights(widest), dtype=dtype)
            tensors = model.weights()
            del model
            source.mkdir(parents=True, exist_ok=True)
            for piece, belongs in PIECES:
                save_file({n: t for n, t in tensors.items() if belongs(n)}, source / f"{piece}.safetensors", {"format": "np"})
        from safetensors import safe_open

        folder.mkdir(parents=True, exist_ok=True)
        places = {}
        for piece, _ in PIECES:
            with safe_open(source / f"{piece}.safetensors", framework="np") as file:
                places |= dict.fromkeys(file.keys(), f"{piece}.safetensors")
                positions = file.get_tensor("pos_embed") if piece == "positions" else None
        body = folder / "body.safetensors"
        body.unlink(missing_ok=True)
        os.link(source / "body.safetensors", body)
        rows = positions[: work.config["num_tokens"]]
        save_file({"pos_embed": np.ascontiguousarray(rows)}, folder / "positions.safetensors", {"format": "np"})
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        (folder / "config.json").write_text(json.dumps(work.config))


def _kind(work):
    import textok

    return textok.TexTok if work.config["model_type"] == "textok" else textok.DiT
