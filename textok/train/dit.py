"""Trains a DiT, on classes or on text, over latents that the C engine encoded beforehand.

The task of `loop.Run`. Before the first step the tokenizer encodes every picture once (with `data.flip` also its mirror image)
and the latents stay in the run's folder; what the generator works on is (z - mean) / std, whose means and deviations over the
training split go into its config. The loss is that of `diffusion`; a share of the conditions is dropped for guidance.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .. import dit as engine
from .. import tokenizer
from ..bundled import find_model
from ..config import DiTConfig
from ..errors import ConfigError
from . import config as configs
from .diffusion import Diffusion
from .export import load_average
from .loop import STATE_FILE, Run, Trainee
from .modules import DiT
from .tokenizer import Pictures, padded

LATENTS = ("latents.npy", "latents-flipped.npy")
CHUNK = 1024  # pictures that are encoded between two looks at the bar


@dataclass
class LatentSettings:
    """Where the latents come from.

    `tokenizer`: a model's folder, the name of a bundled one, or the folder of a tokenizer's training, whose averaged weights
    are taken. `dtype`: what the engine encodes in. With `data.flip` also mirrored pictures are encoded, and each taken half of
    the time.
    """

    tokenizer: str = ""
    dtype: str = "float32"


@dataclass
class DiffusionSettings:
    """`dropout`: the share of conditions that are replaced by the null one. `bound`: weight of the variational bound.

    `sample_steps`, `sample_guidance`: of the sample pictures, by DPM-Solver++.
    """

    dropout: float = 0.1
    bound: float = 1.0
    sample_steps: int = 20
    sample_guidance: float = 3.0


SECTIONS = {
    "model": dict,
    "data": configs.DataSettings,
    "latents": LatentSettings,
    "run": configs.RunSettings,
    "optim": configs.OptimSettings,
    "diffusion": DiffusionSettings,
}


# --- Latents ------------------------------------------------------------------------------------------------------------------


def load_tokenizer(name, dtype="float32", threads=None):
    """The TexTok of the engine: from a model's folder, a bundled name, or a training's folder; and what tells its weights
    apart.
    """
    folder = Path(name)
    if (folder / STATE_FILE).exists():
        config, weights, _ = load_average(folder)
        stamp = hashlib.sha256(b"".join(weights[key].tobytes() for key in sorted(weights))).hexdigest()
        return tokenizer.TexTok(config, weights, dtype=dtype, threads=threads), stamp
    stamp = hashlib.sha256((find_model(name) / "model.safetensors").read_bytes()).hexdigest()
    return tokenizer.TexTok.from_pretrained(name, dtype=dtype, threads=threads), stamp


def condition_of(model, pictures, rows):
    """What `model`, a TexTok of the engine, takes beside pictures, as keyword arguments."""
    return {name: value.numpy() for name, value in pictures.condition(rows).items()}


def encode(model, pictures, path, flip):
    """Writes the latents float32 [n,N,d] of every picture to `path`, an .npy that appears whole."""
    count = len(pictures.pairs.records)
    part = path.with_suffix(".part")
    out = np.lib.format.open_memmap(part, "w+", np.float32, (count, *model.config.latent_shape))
    for start in range(0, count, CHUNK):
        rows = np.arange(start, min(start + CHUNK, count))
        images = pictures.pairs.images[rows]
        model.encode(
            images[:, :, ::-1] if flip else images, **condition_of(model, pictures, rows), out=out[rows[0] : rows[-1] + 1]
        )
    out.flush()
    del out
    os.replace(part, path)


def statistics(arrays, rows):
    """Means and standard deviations, float64 [d] each, of the latents [n,N,d] of `rows` in all `arrays`; in chunks."""
    count, total, squares = 0, 0.0, 0.0
    for array in arrays:
        middle = np.asarray(array[rows[:CHUNK]], np.float64).mean(axis=(0, 1))  # so that squares do not cancel
        break
    for array in arrays:
        for start in range(0, len(rows), CHUNK):
            z = np.asarray(array[rows[start : start + CHUNK]], np.float64).reshape(-1, array.shape[-1]) - middle
            count, total, squares = count + len(z), total + z.sum(axis=0), squares + np.square(z).sum(axis=0)
    mean = total / count
    return middle + mean, np.sqrt((squares - count * np.square(mean)) / (count - 1))


class Latents:
    """The latents of all pictures, in the run's folder; encoded once, and again where tokenizer, pictures or captions are
    others.
    """

    def __init__(self, folder, settings, model, stamp, pictures, devices):
        self.folder, self.pictures = Path(folder), pictures
        names = LATENTS[: 1 + pictures.flip]
        keys = hashlib.sha256("\n".join(pictures.pairs.column("key")).encode()).hexdigest()
        told = {"tokenizer": stamp, "dtype": settings.dtype, "keys": keys, "caption": pictures.caption, "flip": pictures.flip}
        card = self.folder / "latents.json"
        if devices.main and not (card.exists() and json.loads(card.read_text()) == told):
            self.folder.mkdir(parents=True, exist_ok=True)
            card.unlink(missing_ok=True)
            for name in names:
                encode(model, pictures, self.folder / name, name == LATENTS[1])
            card.write_text(json.dumps(told, indent=1) + "\n")
        devices.wait()
        self.arrays = [np.load(self.folder / name, mmap_mode="r") for name in names]
        self.mean, self.std = statistics(self.arrays, pictures.train)
        if not (self.std > 0).all():
            raise ConfigError(f"latents.tokenizer: expected latents that vary, channel {int(self.std.argmin())} is constant")

    def batch(self, rows, flips=None):
        """Normalised latents float32 [B,N,d] of `rows`; of the mirrored pictures where `flips` [B]."""
        z = (
            self.arrays[0][rows]
            if flips is None
            else np.where(flips[:, None, None], self.arrays[1][rows], self.arrays[0][rows])
        )
        return torch.from_numpy(((z - self.mean) / self.std).astype(np.float32))


# --- The task -----------------------------------------------------------------------------------------------------------------


def model_config(given, tokenizer_config, pictures, latents):
    """The DiT's whole config: what the tokenizer, the captions and the labels decide is filled in, or must agree."""
    decided = {"num_tokens": tokenizer_config.num_latent_tokens, "in_channels": tokenizer_config.latent_dim}
    if given.get("condition", "class") == "class":
        if pictures.labels is None:
            raise ConfigError("model.condition: expected a label for every picture, some have none; or condition = 'text'")
        least = int(pictures.labels.max()) + 1
        classes = given.get("num_classes", least)
        if classes < least:
            raise ConfigError(f"model.num_classes: expected at least {least}, the labels of the data, got {classes}")
        decided["num_classes"] = classes
    else:
        decided |= {"num_classes": 0, "text_dim": pictures.texts.batch(np.arange(1))[0].shape[2]}
        decided["num_text_tokens"] = given.get("num_text_tokens", tokenizer_config.num_text_tokens)
    for name, value in decided.items():
        if given.get(name, value) != value:
            raise ConfigError(f"model.{name}: expected {value}, as the tokenizer and the data have it, got {given[name]}")
    return DiTConfig.from_dict(
        given | decided | {"latent_mean": latents.mean.tolist(), "latent_std": latents.std.tolist()}
    ).to_dict()


class DitTask:
    """See `loop`. `pictures`: a `tokenizer.Pictures`; `latents`: a `Latents`; `decoder`: the engine's TexTok."""

    def __init__(self, config, model, pictures, latents, decoder, device="cpu"):
        self.config, self.model, self.pictures, self.latents, self.decoder = config, model, pictures, latents, decoder
        self.device = torch.device(device)
        c = model.config
        self.by_text = c["condition"] == "text"
        self.diffusion = Diffusion(c["num_train_timesteps"], c["beta_start"], c["beta_end"], c["prediction"])
        model.to(device)
        self.trainees, self.extras = {"model": Trainee(model, config.optim, config.run.steps)}, {}
        self.forward = torch.compile(model, dynamic=False) if config.run.compile else model

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.run.precision == "bfloat16")

    def condition(self, rows, drop):
        """The model's arguments for pictures `rows`; where `drop` bool [B] the null condition."""
        if not self.by_text:
            labels = self.pictures.labels[rows]
            return {"labels": torch.where(drop, self.model.config["num_classes"], labels).to(self.device)}
        text, lengths = self.pictures.texts.batch(rows)
        most = self.model.config["num_text_tokens"]
        text = padded(text[:, :most], most)
        return {
            "text": text.to(self.device),
            "text_lengths": lengths.clamp(max=most).to(self.device),
            "null": drop.to(self.device),
        }

    def losses(self, network, rows, x0, dropout, generator=None):
        """Mean squared error and bound of pictures `rows` with latents x0; random from `generator` or PyTorch's own."""
        t = torch.randint(self.diffusion.steps, (len(rows),), generator=generator)  # [B]
        noise = torch.randn(x0.shape, generator=generator)  # [B,N,d]
        drop = torch.rand(len(rows), generator=generator) < dropout  # [B]
        x0, t, noise = x0.to(self.device), t.to(self.device), noise.to(self.device)
        xt = self.diffusion.add_noise(x0, t, noise)
        with self.autocast():
            output = network(xt, t, **self.condition(rows, drop))  # [B,N,C or 2C]
        error, bound = self.diffusion.losses(output.float(), x0, xt, t, noise)
        return error.mean(), bound.mean()

    def active(self, step):
        return ["model"]

    def backward(self, step, part, parts):
        rows = self.pictures.rows(step, part, parts)
        flips = torch.rand(len(rows)).numpy() < 0.5 if self.pictures.flip else None
        error, bound = self.losses(self.forward, rows, self.latents.batch(rows, flips), self.config.diffusion.dropout)
        loss = error + self.config.diffusion.bound * bound
        (loss / self.config.run.accumulate).backward()
        return {"error": error.detach(), "bound": bound.detach()}

    @torch.no_grad()
    def evaluate(self, step):
        """The loss on the test sets, with the same noise every time, and pictures by the C engine."""
        held = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        averaged = self.trainees["model"].averaged()
        scores, grids = {}, {}
        self.model.load_state_dict(averaged, strict=False)
        try:
            for name, rows in self.pictures.test_sets(self.config.run.eval_images).items():
                size = self.config.run.batch_size
                parts = [rows[start : start + size] for start in range(0, len(rows), size)]
                told = [
                    self.losses(self.model, part, self.latents.batch(part), 0.0, torch.Generator().manual_seed(number))
                    for number, part in enumerate(parts)
                ]
                shares = np.array([len(part) for part in parts]) / len(rows)
                scores[f"error_{name}"], scores[f"bound_{name}"] = (
                    shares[:, None] * [[e.item(), b.item()] for e, b in told]
                ).sum(axis=0)
        finally:
            self.model.load_state_dict(held, strict=False)
        sets = self.pictures.test_sets(self.config.run.sample_images)
        if sets:
            name, rows = next(iter(sets.items()))
            grids[name] = np.concatenate(list(self.sample(averaged, rows[: self.config.run.sample_images])), axis=1)
        return scores, grids

    def sample(self, weights, rows):
        """Pictures uint8 [n,S,S,3] of the classes or captions of test pictures `rows`, decoded with their captions."""
        model = engine.DiT(
            self.model.config, {name: value.cpu().numpy() for name, value in weights.items()}, threads=torch.get_num_threads()
        )
        settings = self.config.diffusion
        how = {"steps": settings.sample_steps, "guidance_scale": settings.sample_guidance, "seed": self.config.run.seed}
        if self.by_text:
            condition = {
                k: v.cpu().numpy()
                for k, v in self.condition(rows, torch.zeros(len(rows), dtype=torch.bool)).items()
                if k != "null"
            }
            z = model.sample(**condition, **how)
        else:
            z = model.sample(labels=self.pictures.labels[rows].numpy(), **how)
        return self.decoder.decode(z, **condition_of(self.decoder, self.pictures, rows))


def build_run(config, folder, devices=None):
    """The `Run` of a generator's training config (a namespace of SECTIONS) in `folder`."""
    from .loop import Devices

    devices = devices or Devices()
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    if not config.latents.tokenizer:
        raise ConfigError(
            "latents.tokenizer: expected a model's folder or name, or the folder of a tokenizer's training, got none"
        )
    model, stamp = load_tokenizer(config.latents.tokenizer, config.latents.dtype, config.run.threads or None)
    pictures = Pictures(config.data, model.config.to_dict(), config.run.batch_size, config.run.seed)
    latents = Latents(folder, config.latents, model, stamp, pictures, devices)
    told = model_config(config.model, model.config, pictures, latents)
    torch.manual_seed(config.run.seed)
    task = DitTask(config, DiT(told), pictures, latents, model, devices.device)
    return Run(folder, config.run, task, {"model_type": "dit", **told}, configs.as_dict(config), devices)


def train(path, overrides, folder):
    """Trains by the config file `path` with `overrides` ("key=value") in `folder`; an unfinished run there goes on."""
    build_run(configs.read(path, overrides, SECTIONS), folder).train()
