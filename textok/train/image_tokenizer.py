"""Trains TexTok: l2, a perceptual distance, and a discriminator with R1 and LeCAM.

The task of `loop.Run`. The model's last layer stands outside of what is compiled, and the losses see the pixels as a leaf: the
gradients of the reconstruction and of the adversarial loss then meet at the pixels, each computed once, and VQGAN's adaptive
weight costs two products of the last layer.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import image_tokenizer as engine
from .. import metrics
from ..arrays import spread
from ..captions import agreed_use
from ..config import EncoderUse, TexTokConfig
from ..errors import ConfigError
from . import config as configs
from . import data, losses
from .discriminator import Discriminator
from .encoded import CaptionEncoder, EncodedTexts
from .export import starting
from .loop import Devices, Run, Scalar, Trainee, check_settings, stored_model
from .modules import TexTok

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

SECTIONS = {
    "model": dict,
    "data": configs.DataSettings,
    "run": configs.RunSettings,
    "optim": configs.OptimSettings,
    "loss": configs.LossSettings,
    "gan": configs.GanSettings,
}
LOG = logging.getLogger(__name__)
TEXT_SHAPES = 3  # of a compiled model, whose captions are padded to so many lengths: each shape is compiled for minutes
TESTS = {"concept": "test", "pair": "pair"}  # test set -> split of the data


# Of both sides: width, blocks, heads. B is the paper's (arXiv 2412.05796); S and L are those of its ablation, as third parties
# noted them.
SIZES = {"S": (512, 8, 8), "B": (768, 12, 12), "L": (1024, 24, 16)}


def model_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """The whole model config, a dict, from the section [model]: fields of config.json, or `size` S, B or L in place of the two
    sides'."""
    given = dict(given)
    size = given.pop("size", None)
    if size is not None:
        if size not in SIZES:
            raise ConfigError(f"model.size: expected {', '.join(SIZES)}, got {size!r}")
        for side in ("tokenizer", "detokenizer"):
            if side in given:
                raise ConfigError(f"model.{side}: expected none beside model.size")
            given[side] = dict(zip(("hidden_size", "depth", "num_heads"), SIZES[size], strict=True))
    return TexTokConfig.from_dict(given).to_dict()


def from_uint8(images: U8) -> Tensor:
    """uint8 [B,S,S,3] -> float32 in [-1,1]."""
    return torch.from_numpy(images).float() / 127.5 - 1


def padded(text: Tensor, most: int) -> Tensor:
    """text [B,t,Dt] -> the same with t the next of TEXT_SHAPES equal shares of `most`, for a compiled model."""
    rows = next(rows for k in range(TEXT_SHAPES) if (rows := -(-most * (k + 1) // TEXT_SHAPES)) >= text.shape[1])
    return torch.nn.functional.pad(text, (0, 0, 0, rows - text.shape[1]))


def load_pictures(settings: configs.DataSettings, side: int) -> data.Pairs:
    """The pictures of DataSettings, `side` pixels wide."""
    if not settings.paths:
        raise ConfigError("data.paths: expected shards, folders or tables of pictures, got none")
    pairs = data.load_pairs(
        list(settings.paths), settings.held_out or None, caption=settings.caption or None, template=settings.template,
        size=settings.size or None, memory=settings.memory, index=settings.index or None,
    )  # fmt: skip
    if pairs.images.shape[1] != side:
        raise ConfigError(
            f"model.image_size: expected that of the pictures, {pairs.images.shape[1]}, got {side}; or give data.size"
        )
    return pairs


class Pictures:
    """Batches and test sets of captioned pictures, for a tokenizer of `model_config`."""

    def __init__(
        self,
        settings: configs.DataSettings,
        model_config: dict[str, Any],
        batch_size: int,
        seed: int,
        devices: Devices | None = None,
        pairs: data.Pairs | None = None,
    ) -> None:
        self.config, self.caption, self.flip, self.seed = model_config, settings.caption, settings.flip, seed
        self.text_encoder: EncoderUse | None = None  # whose embeddings a model that reads them is given, where that is known
        self.pairs = load_pictures(settings, model_config["image_size"]) if pairs is None else pairs
        data.keep_tests(self.pairs.records, settings.test_share)
        data.tell_splits(self.pairs.records)
        reads = model_config["text_condition"] != "none"
        self.reads_captions = reads and model_config["text_source"] == "embedding"
        if self.reads_captions and not settings.caption:
            raise ConfigError("data.caption: expected the field of the captions, which this model reads, got none")
        if devices is not None and devices.count > 1 and settings.caption and settings.cache:
            told = self.pairs, settings.caption, settings.cache
            devices.make(lambda: data.open_texts(*told), lambda: data.has_texts(*told))
        ahead = devices is not None and devices.device.type != "cpu"
        encoder = CaptionEncoder(settings.encoder, model_config["num_text_tokens"], ahead)
        self.texts, lengths = data.load_texts(self.pairs, settings.caption, settings.cache, encoder=encoder)
        fields = settings.captions or ((settings.caption,) if settings.drop_words else ())
        self.drawn = data.open_drawn(self.pairs, settings.caption, fields, settings.cache, encoder)
        self.drop_words = settings.drop_words
        if self.drop_words and not all(isinstance(texts, EncodedTexts) for texts in self.drawn):
            raise ConfigError(
                "data.drop_words: expected no data.cache, since such captions are embedded as they are read, got "
                f"{settings.cache}"
            )
        if self.reads_captions and self.texts is not None:
            width = self.texts.batch(np.arange(1))[0].shape[2]
            if width != model_config["text_dim"]:
                raise ConfigError(f"model.text_dim: expected that of the embeddings, {width}, got {model_config['text_dim']}")
            named = EncoderUse.of(model_config["text_encoder"])
            self.text_encoder = agreed_use(named, data.encoder_of(self.texts))
        self.train = data.weighted(self.pairs.records, self.pairs.rows("train"), settings.weights)
        self.batches = data.Batches(lengths[self.train], batch_size, seed, near=settings.near or None)
        self.labels: Tensor | None = None
        if reads and model_config["text_source"] == "class":
            self.take_labels(model_config["num_classes"])

    def take_labels(self, classes: int | None = None) -> int:
        """Look at the pictures' labels, each from 0 to `classes` less 1; returns how many classes that takes."""
        labels = self.pairs.column("label")
        most = (1 << 31) if classes is None else classes
        names: dict[int, str] = {}
        told: set[int] = set()
        for record, label in zip(self.pairs.records, labels, strict=True):
            if type(label) is not int or not 0 <= label < most:
                raise ConfigError(
                    f"{record['key']}: expected a label{'' if classes is None else f' from 0 to {classes - 1}'} (an integer), "
                    f"which this model takes, got {label!r}"
                )
            name = str(record.get("class_name", ""))
            if name and names.setdefault(label, name) != name and label not in told:
                told.add(label)
                LOG.warning("label %d is of %r and of %r: one class to this model", label, names[label], name)
        self.labels = torch.tensor(labels)
        return max(labels) + 1

    def texts_at(self, step: int) -> data.Texts | None:
        """What a step reads: captions of one field for the whole batch, since fields are of different lengths, half of the time
        without some of their words."""
        if not self.drawn:
            return self.texts
        rng = np.random.default_rng([self.seed, step, 2])
        texts = self.drawn[rng.integers(len(self.drawn))]
        if self.drop_words and rng.random() < 0.5:
            assert isinstance(texts, EncodedTexts)
            return dataclasses.replace(texts, dropped=self.drop_words, seed=(self.seed, step, 3))
        return texts

    def expect_texts(self, step: int, part: int, parts: int) -> None:
        """Begin to embed in the background what a part of a step reads, where that is free."""
        if isinstance(texts := self.texts_at(step), EncodedTexts):
            texts.expect(self.rows(step, part, parts))

    def condition(self, rows: I64, step: int | None = None) -> dict[str, Tensor]:
        """What the model takes beside the pictures `rows`, as keyword arguments; in training at `step`."""
        texts = self.texts if step is None else self.texts_at(step)
        return data.condition(self.config, texts, self.labels, rows)

    def rows(self, step: int, part: int, parts: int) -> I64:
        """The rows of one part of a step's batch."""
        return np.array_split(self.train[self.batches[step]], parts)[part]

    def batch(self, step: int, part: int, parts: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures float32 [B/parts,S,S,3] of one part of a step's batch, and their condition."""
        rows = self.rows(step, part, parts)
        images = self.pairs.images[rows]
        if self.flip:
            images = data.mirrored(images, self.seed, step, part, parts)
        if isinstance(self.pairs.images, data.Streamed):
            self.pairs.images.expect(self.rows(step + 1, part, parts))
        if self.reads_captions:
            self.expect_texts(step + 1, part, parts)
        return from_uint8(images), self.condition(rows, step)

    def test_sets(self, count: int) -> dict[str, I64]:
        """{name: rows of at most `count` pictures, evenly spread} (0: all) of the test sets that there are."""
        sets = {name: self.pairs.rows(split) for name, split in TESTS.items()}
        return {name: rows[spread(len(rows), count)] if count else rows for name, rows in sets.items() if len(rows)}


def picture_grid(originals: U8, pictures: U8) -> U8:
    """uint8 [n,S,S,3] twice -> one picture [2S,nS,3]: originals above what the model makes of them."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in (originals, pictures)])


class TokenizerTask:
    """See `loop`. `config`: a namespace of SECTIONS; `pictures`: a `Pictures` or what has its methods."""

    def __init__(self, config: SimpleNamespace, model: TexTok, pictures: Pictures, device: str | torch.device = "cpu") -> None:
        self.config, self.model, self.pictures, self.device = config, model, pictures, torch.device(device)
        self.position: float = 0.0
        self.data = pictures.pairs.stamp("key", "split", pictures.caption)
        run, loss, gan, steps = config.run, config.loss, config.gan, config.run.steps
        self.perceptual_start = configs.steps_of(loss.perceptual_start, steps) if loss.perceptual else steps
        self.gan_start = configs.steps_of(gan.start, steps) if gan.weight else steps
        self.judge_start = max(0, self.gan_start - configs.steps_of(gan.ahead, steps)) if gan.weight else steps
        self.gan_warmup = configs.steps_of(gan.warmup, steps)
        self.latent_shape = (model.config["num_latent_tokens"], model.config["latent_dim"])
        model.to(device)
        self.trainees = {"model": Trainee(model, config.optim, steps)}
        self.extras: dict[str, nn.Module] = {}
        if gan.weight:
            torch.manual_seed(run.seed + 1)  # the discriminator's start is the same whatever the model
            self.discriminator = Discriminator(model.config["image_size"], gan.base_channels, gan.multipliers).to(device)
            settings = dataclasses.replace(
                config.optim,
                kind=gan.optimiser,
                lr=gan.lr,
                betas=gan.betas,
                clip=gan.clip,
                warmup=gan.warmup,
                weight_decay=0.0,
                ema=0.0,
                frozen=(),
            )
            self.trainees["discriminator"] = Trainee(self.discriminator, settings, steps, self.judge_start)
            self.lecam = losses.LeCam(gan.lecam_decay).to(device)
            self.extras["lecam"] = self.lecam
            self.of_discriminator, self.of_generator = losses.ADVERSARIAL[gan.kind]
        self.features = torch.compile(self.plain_features, dynamic=False) if run.compile else self.plain_features
        # On CPUs the two convolutional networks are fastest uncompiled in float32: a third less time than compiled, half of
        # bfloat16's.
        self.fast_convolutions = self.device.type != "cpu"
        if gan.weight:
            self.judge = self.convolutional(self.discriminator)
            if self.gan_start >= steps:
                LOG.warning("gan.start: step %d of %d, so this run has no adversarial loss", self.gan_start, steps)
        if self.perceptual_start < steps:
            _ = self.perceptual  # what is wrong with it shows now, not hours later

    @functools.cached_property
    def perceptual(self) -> Callable[..., Tensor]:
        """The perceptual loss."""
        from .perceptual_loss import perceptual_loss

        loss = self.config.loss
        return self.convolutional(perceptual_loss(loss.perceptual_network, loss.perceptual_weights).to(self.device))

    def convolutional(self, network: nn.Module) -> Callable[..., Tensor]:
        """A network of convolutions, compiled where that pays."""
        return torch.compile(network, dynamic=False) if self.config.run.compile and self.fast_convolutions else network

    def autocast(self, pays: bool = True) -> torch.autocast:
        """bfloat16 where the config wants it and it `pays`."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=pays and configs.in_bfloat16(self.config.run.precision, self.device.type)
        )

    def plain_features(self, images: Tensor, noise: Tensor | None, **condition: Any) -> tuple[Tensor, Tensor]:
        """images [B,S,S,3] -> the last layer's input [B,P,D], and the latents' moments [B,N,d or 2d]."""
        moments = self.model.tokenizer(images, **condition)
        z = moments
        if noise is not None:
            z, log_variance = moments.chunk(2, dim=-1)
            z = z + (0.5 * log_variance).exp() * noise
        z = self.model.tokenizer.quantize(z)
        return self.model.detokenizer.features(z, **condition), moments

    def active(self, position: float) -> list[str]:
        return ["model", "discriminator"] if position >= self.judge_start else ["model"]

    def backward(self, step: int, part: int, parts: int) -> dict[str, Scalar]:
        images, condition = self.pictures.batch(step, part, parts)
        images = images.to(self.device)
        if "text" in condition and self.config.run.compile:
            condition["text"] = padded(condition["text"], self.model.config["num_text_tokens"])
        condition = {name: value.to(self.device) for name, value in condition.items()}
        kl, share = self.model.config["kl"], 1 / self.config.run.accumulate
        values: dict[str, Scalar] = {}
        noise = None
        if kl:
            noise = torch.randn(len(images), *self.latent_shape, device=self.device)
        with self.autocast():
            features, moments = self.features(images, noise, **condition)
            pixels = self.model.detokenizer.pixels(features).float()  # [B,S,S,3]
        leaf = pixels.detach().requires_grad_(True)
        slope = self.reconstruction_slope(leaf, images, values)  # [B,S,S,3]
        if self.position >= self.gan_start:
            slope = slope + self.adversarial_slope(leaf, slope, pixels, values)
        ends, slopes = [pixels], [slope * share]
        if kl:
            divergence = losses.kl_to_normal(*moments.float().chunk(2, dim=-1))
            values["kl"] = divergence.detach()
            if divergence.requires_grad:  # not of a frozen tokenizer
                ends.append(divergence)
                slopes.append(torch.tensor(self.config.loss.kl * share, device=self.device))
        torch.autograd.backward(ends, slopes)
        if self.position >= self.judge_start:
            self.discriminator_backward(step, images, leaf.detach(), share, values)
        return values

    def reconstruction_slope(self, leaf: Tensor, images: Tensor, values: dict[str, Scalar]) -> Tensor:
        """The gradient of the reconstruction losses by the pixels `leaf`."""
        l2 = (leaf - images).square().mean()
        values["l2"] = l2.detach()
        loss = self.config.loss.l2 * l2
        if self.position >= self.perceptual_start:
            with self.autocast(self.fast_convolutions):
                perceptual = self.perceptual(leaf, images).float()
            values["perceptual"] = perceptual.detach()
            loss = loss + self.config.loss.perceptual * perceptual
        return torch.autograd.grad(loss, leaf)[0]

    def adversarial_slope(self, leaf: Tensor, slope: Tensor, pixels: Tensor, values: dict[str, Scalar]) -> Tensor:
        """The gradient of the weighted adversarial loss by the pixels; `slope` is that of the reconstruction."""
        gan = self.config.gan
        self.discriminator.requires_grad_(False)
        with self.autocast(self.fast_convolutions):
            logits = self.judge(leaf)
        adversarial = self.of_generator(logits.float())
        (own,) = torch.autograd.grad(adversarial, leaf)
        self.discriminator.requires_grad_(True)
        weight = gan.weight * min(1.0, (self.position - self.gan_start + 1) / max(1, self.gan_warmup))
        if gan.adaptive:
            weight = weight * losses.adaptive_weight(pixels, self.model.detokenizer.to_pixels.weight, slope, own)
        values["adversarial"] = adversarial.detach()
        values["gan_weight"] = weight
        values["slope_ratio"] = (own.norm() / slope.norm()).detach()
        return weight * own

    def discriminator_backward(
        self, step: int, images: Tensor, pictures: Tensor, share: float, values: dict[str, Scalar]
    ) -> None:
        """Adds the discriminator's gradients."""
        gan = self.config.gan
        with self.autocast(self.fast_convolutions):
            real, fake = self.judge(torch.cat([images, pictures])).float().chunk(2)
        judged = self.of_discriminator(real, fake)
        lecam = self.lecam(real, fake)
        loss = judged + gan.lecam * lecam
        (loss * share).backward()
        if gan.r1 and (step - self.judge_start) % gan.r1_every == 0:
            r1 = losses.r1_penalty(self.discriminator, images, gan.r1 * gan.r1_every)
            (r1 * share).backward()
            values["r1"] = r1.detach() / gan.r1_every
        right = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        values |= {"discriminator": judged.detach(), "lecam": lecam.detach(), "accuracy": right}
        values |= {"logits_real": real.detach().mean(), "logits_fake": fake.detach().mean()}

    def after(self, means: Mapping[str, float]) -> None:
        """The moving averages of the logits, over the whole batch."""
        if "logits_real" in means:
            self.lecam.update(means["logits_real"], means["logits_fake"])

    def evaluate(self, step: int) -> tuple[dict[str, float], dict[str, U8]]:
        """PSNR on the test sets by the C engine, and originals above reconstructions."""
        weights = {name: value.cpu().numpy() for name, value in self.trainees["model"].averaged().items()}
        model = engine.TexTok(self.model.config, weights, threads=torch.get_num_threads())
        scores: dict[str, float] = {}
        grids: dict[str, U8] = {}
        for name, rows in self.pictures.test_sets(self.config.run.eval_images).items():
            originals = self.pictures.pairs.images[rows]
            condition: dict[str, Any] = {key: value.numpy() for key, value in self.pictures.condition(rows).items()}
            pictures = cast(U8, model.reconstruct(originals, **condition))
            scores[f"psnr_{name}"] = float(metrics.psnr(pictures, originals).mean())
            if some := spread(len(rows), self.config.run.sample_images):
                grids[name] = picture_grid(originals[some], pictures[some])
        return scores, grids


def check_adaptive(config: SimpleNamespace) -> None:
    """A ConfigError where `gan.adaptive` is to look at gradients of a layer that `optim.frozen` leaves without."""
    last, frozen = "detokenizer.to_pixels.weight", config.optim.frozen
    if {"tokenizer", "detokenizer"} <= set(frozen):
        return  # all of it, of which `loop.freeze` has more to say
    if config.gan.weight and config.gan.adaptive and any(f"{last}.".startswith(f"{part}.") for part in frozen):
        raise ConfigError(
            f"gan.adaptive: expected false where optim.frozen has the detokenizer's last layer, by whose gradients the weight "
            f"goes, got true and {list(frozen)}"
        )


def text_fields(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a section [model] says of text."""
    return {key: value for key, value in asked.items() if key.startswith("text_") or key == "num_text_tokens"}


def with_text(config: Mapping[str, Any], asked: Mapping[str, Any], init: str) -> dict[str, Any]:
    """The config of a model that reads no text, `init`, with what the config `asked` for says of text."""
    if not init or config.get("text_condition", "both") != "none":
        raise ConfigError(f"run.add_text: expected run.init to be a tokenizer that reads no text, got {init!r}")
    told = text_fields(asked)
    if told.get("text_injection") != "cross_attention" or told.get("text_condition") == "none":
        raise ConfigError("run.add_text: expected a [model] that reads text by text_injection = 'cross_attention', got none")
    return {**config, "text_condition": "both", **told}


def build_run(
    config: SimpleNamespace, folder: str | os.PathLike[str], devices: Devices | None = None, overrides: Iterable[str] = ()
) -> Run:
    """The `Run` of a tokenizer's training config (a namespace of SECTIONS) in `folder`. Of `overrides`, which the config has
    already, those of the model must be so in `run.init`; with `run.add_text` those of text are new.
    """
    devices = devices or Devices()
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    check_adaptive(config)
    weights: dict[str, Tensor] | None = None
    configs.warn_of_slow_precision(config.run.precision, devices.device.type)
    asked, held = config.model, stored_model(folder)
    if config.run.init and held is not None:  # its own weights come with the state: the model that it began with may be gone
        config.model = held | (text_fields(asked) if config.run.add_text else {})
    else:
        if config.run.init:
            config.model, weights = starting(config.run.init, "textok")
        if config.run.add_text:
            config.model = with_text(config.model, asked, config.run.init)
    if config.run.init:
        free = text_fields(asked) if config.run.add_text else ()
        configs.check_model(overrides, TexTokConfig.from_dict(config.model).to_dict(), config.run.init, free)
    check_settings(Path(folder), configs.as_dict(config))  # before pictures are read
    model = model_config(config.model)
    pictures = Pictures(config.data, model, config.run.batch_size, config.run.seed, devices)
    if pictures.text_encoder is not None:
        model["text_encoder"] = pictures.text_encoder.to_dict()
    torch.manual_seed(config.run.seed)
    network = TexTok(model)
    if weights is not None:
        network.load_state_dict(weights, strict=not config.run.add_text)
    task = TokenizerTask(config, network, pictures, devices.device)
    made = Run(folder, config.run, task, {"model_type": "textok", **model}, configs.as_dict(config), devices)
    if devices.main:
        data.write_skips(made.folder, pictures.pairs.skips)
    return made


def train(path: str | os.PathLike[str], overrides: Iterable[str], folder: str | os.PathLike[str]) -> None:
    """Trains by the config file `path` with `overrides` ("key=value") in `folder`; an unfinished run there goes on."""
    overrides = list(overrides)
    build_run(configs.read(path, overrides, SECTIONS), folder, overrides=overrides).train()
