"""Trains the bundled models on captioned emoji.

    python -m textok.train.emoji tokenizer --data DIR --out RUN --text both --steps 5000
    python -m textok.train.emoji tokenizer --data DIR --out RUN0 --text none --steps 5000
    python -m textok.train.emoji dit --data DIR --tokenizer RUN --out RUN2 --condition class
    python -m textok.train.emoji dit --data DIR --tokenizer RUN --out RUN3 --condition text

A run keeps `state.pt` (weights, average, optimisers, step: killed at any time, the same command
goes on from it), `config.json` and `log.csv` in its folder. The number of steps is read again as
the run goes: `echo 6000 > RUN/steps` moves its end, and with it the decay of the learning rate.
Batches are a function of seed and step alone, and so the same for every model of a seed.
"""

import argparse
import csv
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from textok.train import data
from textok.train.diffusion import Diffusion
from textok.train.modules import DiT, TexTok
from textok.train.optim import Ema, build_optimisers

TEXT_WIDTH = 384


def tokenizer_config(args):
    """The config of the bundled tokenizers."""
    side = {"hidden_size": args.width, "depth": args.depth, "num_heads": args.heads, "mlp_ratio": 4}
    return {
        "model_type": "textok", "image_size": 64, "patch_size": 8, "num_latent_tokens": 16,
        "latent_dim": 8, "text_dim": TEXT_WIDTH, "num_text_tokens": data.MAX_TOKENS,
        "text_mask": True, "text_condition": args.text, "text_injection": "in_context",
        "text_source": "embedding", "num_classes": 0, "norm_eps": 1e-6, "gelu": "tanh",
        "qkv_bias": True, "output_activation": "none", "kl": False,
        "tokenizer": dict(side), "detokenizer": dict(side),
    }  # fmt: skip


def dit_config(args, num_classes, mean, std):
    """The config of the bundled generators over 16 tokens of 8 numbers."""
    by_text = args.condition == "text"
    return {
        "model_type": "dit", "num_tokens": 16, "in_channels": 8, "hidden_size": args.width,
        "depth": args.depth, "num_heads": args.heads, "mlp_ratio": 4,
        "num_classes": 0 if by_text else num_classes, "learn_sigma": True, "norm_eps": 1e-6,
        "time_freq_dim": 256, "condition": args.condition, "text_dim": TEXT_WIDTH if by_text else 0,
        "num_text_tokens": data.MAX_TOKENS if by_text else 0, "patch_size": 1, "guidance_channels": None,
        "latent_mean": mean, "latent_std": std, "num_train_timesteps": 1000, "beta_start": 1e-4,
        "beta_end": 0.02, "beta_schedule": "linear", "prediction": "epsilon",
    }  # fmt: skip


def psnr(pictures, originals):
    """Peak signal to noise of each picture, dB: uint8 [n,S,S,3] against uint8 -> float64 [n].

    A model's score is the mean of these over the split.
    """
    error = pictures.astype(np.float64) - originals  # [n,S,S,3]
    return 10 * np.log10(255.0**2 / np.square(error).mean(axis=(1, 2, 3)))


def to_uint8(x):
    """Float pixels around [-1,1], torch -> uint8 NumPy: clipped, rounded half up."""
    return ((x.clamp(-1, 1) + 1) * 127.5 + 0.5).floor().to(torch.uint8).numpy()


def from_uint8(images):
    """uint8 [n,S,S,3] -> float32 in [-1,1]."""
    return torch.from_numpy(images).float() / 127.5 - 1


def learning_rate(step, steps, warmup, decay):
    """A trapezoid of height one: up over `warmup` steps, down to zero over the last `decay` share."""
    left = (steps - step) / max(1, round(steps * decay))
    return max(0.0, min(1.0, (step + 1) / warmup, left))


class Run:
    """What every training has: its folder, optimisers, average, clock, log and checkpoints."""

    def __init__(self, args, model, config):
        self.args, self.model = args, model
        self.folder = Path(args.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.optimisers = build_optimisers(model, args.lr, args.weight_decay, args.muon)
        self.ema = Ema(model, args.ema)
        self.step, self.seconds, self.cpu_seconds = 0, 0.0, 0.0
        self.state_file = self.folder / "state.pt"
        if self.state_file.exists():
            self.load()
        write_json(self.folder / "config.json", config)
        write_json(self.folder / "args.json", vars(args))
        self.wall, self.cpu = time.monotonic(), time.process_time()
        self.saved = self.wall

    @property
    def steps(self):
        """The planned end, from the file `steps` where there is one."""
        file = self.folder / "steps"
        return int(file.read_text()) if file.exists() else self.args.steps

    def load(self):
        state = torch.load(self.state_file, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, held in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(held)
        self.ema.weights = state["ema"]
        self.step, self.seconds = state["step"], state["seconds"]
        self.cpu_seconds = state["cpu_seconds"]
        print(f"continuing at step {self.step}", flush=True)

    def tick(self):
        """Adds the time since the last tick to the run's clocks."""
        wall, cpu = time.monotonic(), time.process_time()
        self.seconds += wall - self.wall
        self.cpu_seconds += cpu - self.cpu
        self.wall, self.cpu = wall, cpu

    def save(self):
        """Writes the state beside the old one, then swaps them."""
        self.tick()
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.weights,
            "optimisers": [o.state_dict() for o in self.optimisers],
            "step": self.step,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }
        part = self.state_file.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.state_file)
        self.saved = self.wall

    def log(self, **values):
        """One line in log.csv and on the terminal."""
        self.tick()
        row = {"step": self.step, "images": self.step * self.args.batch_size,
               "seconds": round(self.seconds), "cpu_seconds": round(self.cpu_seconds)}  # fmt: skip
        row |= {k: f"{v:.5g}" for k, v in values.items()}
        file = self.folder / "log.csv"
        new = not file.exists()
        with file.open("a", newline="") as out:
            writer = csv.DictWriter(out, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(" ".join(f"{k} {v}" for k, v in row.items()), flush=True)

    def average(self):
        """A context in which the model has its averaged weights."""
        return Swapped(self.model, self.ema.weights)

    def optimise(self, loss):
        """One step down the gradient of `loss`; returns the learning rate."""
        share = learning_rate(self.step, self.steps, self.args.warmup, self.args.decay)
        rate = self.args.lr * share
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
        self.model.zero_grad()
        self.step += 1
        self.ema.update(self.model, self.step)
        return rate

    def due(self, every):
        """Whether this step is a multiple of `every` or the last."""
        return self.step % every == 0 or self.step >= self.steps


class Means:
    """Means of named scalars since they were last taken."""

    def __init__(self, *names):
        self.names = names
        self.sums, self.count = np.zeros(len(names)), 0

    def add(self, *values):
        self.sums += [value.item() for value in values]
        self.count += 1

    def take(self):
        """{name: mean}; begins anew."""
        means = dict(zip(self.names, self.sums / max(1, self.count), strict=True))
        self.sums, self.count = np.zeros(len(self.names)), 0
        return means


class Swapped:
    """Puts other weights in a model for the length of a `with`."""

    def __init__(self, model, weights):
        self.model, self.weights = model, weights

    def __enter__(self):
        self.held = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.put(self.weights)

    def __exit__(self, *_):
        self.put(self.held)

    @torch.no_grad()
    def put(self, weights):
        for name, p in self.model.named_parameters():
            p.copy_(weights[name])


def write_json(path, value):
    """Writes beside, then swaps."""
    part = Path(f"{path}.part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(part, path)


def load_data(args):
    """The pairs and the ragged embeddings of their long captions."""
    pairs = data.load_pairs(args.data)
    texts = data.embed_captions(pairs.column("caption_long"), args.cache)
    return pairs, texts


def padded_to(text, multiple):
    """text [B,t,Dt] -> the same with t a multiple, so that few shapes are compiled."""
    extra = -text.shape[1] % multiple
    return torch.nn.functional.pad(text, (0, 0, 0, extra))


@torch.no_grad()
def reconstruct(model, pairs, texts, rows, batch_size=64, autocast=True):
    """uint8 [len(rows),S,S,3]: the model's reconstructions, in bfloat16 autocast or in float32."""
    out = np.empty((len(rows), *pairs.images.shape[1:]), np.uint8)
    order = np.argsort(texts.lengths[rows], kind="stable")
    for start in range(0, len(rows), batch_size):
        places = order[start : start + batch_size]
        text, lengths = texts.batch(rows[places])
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            pixels = model(from_uint8(pairs.images[rows[places]]), text, lengths)  # [B,S,S,3]
        out[places] = to_uint8(pixels.float())
    return out


def train_tokenizer(args):
    """l2, then l2 and perceptual, on the train split; PSNR on the test split as it goes."""
    pairs, texts = load_data(args)
    train, test = pairs.rows("train"), pairs.rows("test")
    torch.manual_seed(args.seed)
    config = tokenizer_config(args)
    model = TexTok(config)
    run = Run(args, model, config)
    batches = data.Batches(texts.lengths[train], args.batch_size, args.seed)
    forward = torch.compile(model, dynamic=False) if args.compile else model
    sample = train[:: len(train) // 256]
    features = None
    means = Means("loss", "l2", "perceptual")
    while run.step < run.steps:
        rows = train[batches[run.step]]
        images = from_uint8(pairs.images[rows])  # [B,S,S,3]
        text = lengths = None
        if args.text != "none":
            text, lengths = texts.batch(rows)
            text = padded_to(text, 16)
        with torch.autocast("cpu", torch.bfloat16):
            pixels = forward(images, text, lengths)  # [B,S,S,3]
        l2 = (pixels.float() - images).square().mean()
        loss, perceptual = l2, torch.zeros(())
        if args.perceptual and run.step >= args.perceptual_from * run.steps:
            if features is None:
                from textok.train.perceptual import PerceptualLoss

                features = PerceptualLoss()
            perceptual = features(pixels.float(), images)
            loss = l2 + args.perceptual * perceptual
        rate = run.optimise(loss)
        means.add(loss, l2, perceptual)
        if run.due(args.log_every):
            with run.average():
                seen = psnr(reconstruct(model, pairs, texts, sample), pairs.images[sample])
                unseen = psnr(reconstruct(model, pairs, texts, test), pairs.images[test])
            run.log(lr=rate, **means.take(), train_psnr=seen.mean(), test_psnr=unseen.mean())
        if time.monotonic() - run.saved > args.save_every or run.step >= run.steps:
            run.save()


def load_run(folder):
    """A trained tokenizer with its averaged weights, in float32."""
    folder = Path(folder)
    model = TexTok(json.loads((folder / "config.json").read_text())).eval()
    state = torch.load(folder / "state.pt", weights_only=True)
    model.load_state_dict(state["ema"])
    return model


@torch.no_grad()
def encode_all(model, pairs, texts, batch_size=64):
    """Latents float32 [n,N,d] of every picture with its own caption."""
    out = []
    for start in range(0, len(pairs.images), batch_size):
        rows = np.arange(start, min(start + batch_size, len(pairs.images)))
        text, lengths = texts.batch(rows)
        out.append(model.encode(from_uint8(pairs.images[rows]), text, lengths))  # [B,N,d]
    return torch.cat(out)


def dit_latents(args, pairs, texts):
    """Normalised latents [n,N,d], and mean and standard deviation of the train split, lists of d.

    They are kept in the run's folder, so that a run goes on with what it began with.
    """
    file = Path(args.out) / "latents.pt"
    if file.exists():
        held = torch.load(file, weights_only=True)
        return held["latents"], held["mean"], held["std"]
    latents = encode_all(load_run(args.tokenizer), pairs, texts)  # [n,N,d]
    seen = latents[pairs.rows("train")].flatten(0, 1)  # [m*N,d]
    mean, std = seen.mean(dim=0), seen.std(dim=0)
    latents = (latents - mean) / std
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"latents": latents, "mean": mean.tolist(), "std": std.tolist()}, file)
    return latents, mean.tolist(), std.tolist()


def dit_condition(args, rows, labels, texts, drop, num_classes):
    """The model's arguments for a batch: rows [B] of the data, drop bool [B] takes the null one."""
    if args.condition == "class":
        return {"labels": torch.where(drop, num_classes, labels[rows])}
    text, lengths = texts.batch(rows)
    text = padded_to(text, data.MAX_TOKENS)
    return {"text": text, "text_lengths": lengths, "null": drop}


def train_dit(args):
    """The generator on the latents of the train split; its loss on the test split as it goes."""
    pairs, texts = load_data(args)
    train, test = pairs.rows("train"), pairs.rows("test")
    labels = torch.tensor(pairs.column("label"))  # [n]
    num_classes = int(labels.max()) + 1
    latents, mean, std = dit_latents(args, pairs, texts)  # [n,N,d]
    torch.manual_seed(args.seed)
    config = dit_config(args, num_classes, mean, std)
    model = DiT(config)
    run = Run(args, model, config)
    diffusion = Diffusion(config["num_train_timesteps"], config["beta_start"], config["beta_end"])
    batches = data.Batches(texts.lengths[train], args.batch_size, args.seed)
    forward = torch.compile(model, dynamic=False) if args.compile else model

    def losses(network, rows, generator, dropout):
        x0 = latents[rows]  # [B,N,d]
        t = torch.randint(diffusion.steps, (len(rows),), generator=generator)  # [B]
        noise = torch.randn(x0.shape, generator=generator)  # [B,N,d]
        drop = torch.rand(len(rows), generator=generator) < dropout  # [B]
        xt = diffusion.add_noise(x0, t, noise)  # [B,N,d]
        condition = dit_condition(args, rows, labels, texts, drop, num_classes)
        with torch.autocast("cpu", torch.bfloat16):
            output = network(xt, t, **condition)  # [B,N,2d]
        error, bound = diffusion.losses(output.float(), x0, xt, t, noise)
        return error.mean(), bound.mean()

    @torch.no_grad()
    def test_losses():
        """The same noise and timesteps every time: what falls is the model's doing."""
        whole = test[: len(test) // args.batch_size * args.batch_size].reshape(-1, args.batch_size)
        parts = [losses(model, rows, torch.Generator().manual_seed(i), 0.0) for i, rows in enumerate(whole)]
        return np.mean([[error.item(), bound.item()] for error, bound in parts], axis=0)

    means = Means("error", "bound")
    while run.step < run.steps:
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + run.step)
        error, bound = losses(forward, train[batches[run.step]], generator, args.dropout)
        rate = run.optimise(error + bound)
        means.add(error, bound)
        if run.due(args.log_every):
            with run.average():
                test_error, test_bound = test_losses()
            run.log(lr=rate, **means.take(), test_error=test_error, test_bound=test_bound)
        if time.monotonic() - run.saved > args.save_every or run.step >= run.steps:
            run.save()


def parser():
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = top.add_subparsers(dest="kind", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--data", required=True, help="folder of the .tar shards")
    shared.add_argument("--out", required=True, help="folder of this run; an old run goes on")
    shared.add_argument("--cache", default="captions.npz", help="file for the captions' embeddings")
    shared.add_argument("--steps", type=int, default=5000)
    shared.add_argument("--batch-size", type=int, default=64)
    shared.add_argument("--lr", type=float, default=2e-3)
    shared.add_argument("--weight-decay", type=float, default=0.02)
    shared.add_argument("--warmup", type=int, default=100, help="steps of rising learning rate")
    shared.add_argument("--decay", type=float, default=0.4, help="share of steps it falls over")
    shared.add_argument("--ema", type=float, default=0.998)
    shared.add_argument("--seed", type=int, default=0)
    shared.add_argument("--threads", type=int, default=1)
    shared.add_argument("--log-every", type=int, default=250)
    shared.add_argument("--save-every", type=float, default=180, help="seconds between checkpoints")
    shared.add_argument("--muon", action=argparse.BooleanOptionalAction, default=True)
    shared.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    tok = kinds.add_parser("tokenizer", parents=[shared], help="TexTok or its Baseline")
    tok.add_argument("--text", choices=["both", "tokenizer", "detokenizer", "none"], default="both")
    tok.add_argument("--width", type=int, default=192)
    tok.add_argument("--depth", type=int, default=4)
    tok.add_argument("--heads", type=int, default=3)
    tok.add_argument("--perceptual", type=float, default=0.0, help="weight beside l2")
    tok.add_argument("--perceptual-from", type=float, default=0.7, help="share of steps before it")
    dit = kinds.add_parser("dit", parents=[shared], help="a generator on a tokenizer's latents")
    dit.add_argument("--tokenizer", required=True, help="folder of the tokenizer's run")
    dit.add_argument("--condition", choices=["class", "text"], default="class")
    dit.add_argument("--width", type=int, default=192)
    dit.add_argument("--depth", type=int, default=8)
    dit.add_argument("--heads", type=int, default=3)
    dit.add_argument("--dropout", type=float, default=0.1, help="share of null conditions")
    return top


def main():
    args = parser().parse_args()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("medium")
    {"tokenizer": train_tokenizer, "dit": train_dit}[args.kind](args)


if __name__ == "__main__":
    main()
