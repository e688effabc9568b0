"""Trains a DiT, on classes or on text, over latents that the C engine encoded beforehand.

The task of `loop.Run`. Before the first step the tokenizer encodes every picture once (with `data.flip` also its mirror
image), or the latents come from shards that `textok encode` wrote, on as many machines as it likes; they stay in the run's
folder. What the generator works on is (z - mean) / std, whose means and deviations over the training split go into its
config. The loss is that of `diffusion`; a share of the conditions is dropped for guidance.
"""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from .. import dit as engine
from .. import image_tokenizer as tokenizer
from ..bundled import find_model
from ..captions import agreed_use
from ..config import DiTConfig, EncoderUse, TexTokConfig
from ..data.base import Sample, Skip
from ..data.fingerprint import encoder_of, fingerprint
from ..data.folders import INDEX_FILE
from ..data.latent_statistics import LatentStatistics
from ..data.latents import latent_of
from ..data.sources import open_sources
from ..errors import ConfigError, DataError, shown
from ..files import read_json, take_disk, write_json
from ..sampling import Sampling
from . import config as configs
from . import data
from .diffusion import Flow, process_of
from .encoded import EncodedTexts
from .export import load_average, starting
from .image_tokenizer import Pictures, padded
from .loop import CONFIG_FILE, STATE_FILE, Devices, Run, Trainee, TrainingError, check_settings, hold, stored_model
from .modules import DiT

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]

LATENTS = ("latents.npy", "latents-flipped.npy")
CARD_FILE = "latents.json"
CHUNK = 1024  # pictures that are encoded between two looks at the bar; a kill costs no more


SECTIONS = {
    "model": dict,
    "data": configs.DataSettings,
    "latents": configs.LatentSettings,
    "run": configs.RunSettings,
    "optim": configs.OptimSettings,
    "diffusion": configs.DiffusionSettings,
}


# --- Latents ------------------------------------------------------------------------------------------------------------------


def load_tokenizer(name: str, dtype: str = "float32", threads: int | None = None) -> tuple[tokenizer.TexTok, str]:
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


def condition_of(pictures: Pictures, rows: I64) -> dict[str, Any]:
    """What a TexTok of the engine takes beside `pictures` of `rows`, as keyword arguments."""
    return {name: value.numpy() for name, value in pictures.condition(rows).items()}


def encoded(model: tokenizer.TexTok, pictures: Pictures, flip: bool, start: int) -> Iterator[list[F32]]:
    """From picture `start` on, CHUNK pictures at a time: their latents float32 [n,N,d], and with `flip` the mirrored ones'."""
    for first in range(start, len(pictures.pairs.records), CHUNK):
        rows = np.arange(first, min(first + CHUNK, len(pictures.pairs.records)))
        images, condition = pictures.pairs.images[rows], condition_of(pictures, rows)
        yield [model.encode(side, **condition) for side in (images, images[:, :, ::-1])[: 1 + flip]]


def shard_samples(settings: configs.DataSettings, given: configs.LatentSettings, skips: list[Skip]) -> Iterator[Sample]:
    """The usable samples of latents that `textok encode` wrote to `given.paths`; the rest to `skips`."""
    sources = open_sources(list(given.paths))
    return (sample for sample, _ in data.events(sources, settings.caption, settings.template, skips, need=()))


def shard_pairs(settings: configs.DataSettings, given: configs.LatentSettings, tokenizer_name: str) -> data.Pairs:
    """What is known of the pictures whose latents are in shards, `Pairs` without images; DataErrors where they do not fit."""
    for path in map(Path, given.paths):
        index = path / INDEX_FILE
        if path.is_dir() and not index.exists():
            raise DataError(f"{path}: expected a finished run of textok encode, which has {INDEX_FILE}")
        if path.is_dir() and not (Path(tokenizer_name) / STATE_FILE).exists():
            by = encoder_of(path)
            if by.get("sha256") != fingerprint(tokenizer_name)["sha256"]:
                raise DataError(f"{path}: encoded by {by.get('name')}, another model than latents.tokenizer {tokenizer_name}")
    skips: list[Skip] = []
    records = [data.record_of(sample) for sample in shard_samples(settings, given, skips)]
    pairs = data.Pairs(None, records, skips)
    data.tell_skips(given.paths, pairs, settings.caption)
    data.hold_out(records, settings.held_out or None)
    return pairs


def gathered(
    settings: configs.DataSettings, given: configs.LatentSettings, shape: tuple[int, ...], flip: bool, start: int
) -> Iterator[list[F32]]:
    """As `encoded`, out of shards."""
    for samples in data.chunks(itertools.islice(shard_samples(settings, given, []), start, None), CHUNK):
        found = [latent_of(sample) for sample in samples]
        sides: list[Any] = [[one.latent for one in found], [one.flipped for one in found]][: 1 + flip]
        for one in found:
            for side in (one.latent, one.flipped)[: 1 + flip]:
                if side is None:
                    raise DataError(f"{one.source}: {one.key}: no latents of the mirrored picture: textok encode --flip")
                if side.shape != shape:
                    raise DataError(f"{one.source}: {one.key}: expected latents {list(shape)}, got {list(side.shape)}")
        yield [np.stack(side) for side in sides]


def allocate(path: Path, shape: tuple[int, ...]) -> None:
    """A new .npy, float32 of that shape, all of whose disk is taken now."""
    start = np.lib.format.open_memmap(path, "w+", np.float32, shape).offset
    try:
        with path.open("r+b") as file:
            take_disk(file, start, path.stat().st_size)
    except OSError as problem:
        path.unlink()
        raise OSError(problem.errno, os.strerror(problem.errno or 0), str(path)) from None


class Latents:
    """The latents of all pictures, in the run's folder: encoded there, or gathered from shards. Made once, going on where a run
    was killed; and made again where tokenizer, pictures or captions are others and no run was trained on those that there are.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: SimpleNamespace,
        model: tokenizer.TexTok,
        stamp: str,
        pictures: Pictures,
        devices: Devices,
    ) -> None:
        self.folder, flip, given = Path(folder), pictures.flip, config.latents
        self.count, self.shape = len(pictures.pairs.records), model.config.latent_shape
        self.paths = [self.folder / name for name in LATENTS[: 1 + flip]]
        paths = list(given.paths or config.data.paths)
        self.told = {
            "sources": [[source.name, source.state(0, None)] for source in open_sources(paths)],
            "pictures": pictures.pairs.stamp("key", "label", pictures.caption),
            "flip": flip,
        }
        if given.paths:
            self.told["encoders"] = [encoder_of(Path(path)).get("sha256") for path in given.paths]
        else:
            self.told |= {"tokenizer": stamp, "dtype": given.dtype, "size": config.data.size}
            if model.config.has_text("tokenizer") and pictures.texts is not None:
                texts, cache = pictures.texts, config.data.cache
                self.told["embeddings"] = texts.encoder.identity if isinstance(texts, EncodedTexts) else fingerprint(cache)

        def chunks(start: int) -> Iterator[list[F32]]:
            if given.paths:
                return gathered(config.data, given, self.shape, flip, start)
            return encoded(model, pictures, flip, start)

        self.main = devices.main
        if self.main and self.done() is None:
            self.check_unused()
            (self.folder / CARD_FILE).unlink(missing_ok=True)
        devices.wait()  # from here on a card is one of these latents
        devices.make(lambda: self.fill(chunks), lambda: self.done() == self.count)
        self.arrays = [np.load(path, mmap_mode="r") for path in self.paths]
        statistics = LatentStatistics(self.shape[-1])
        for array in self.arrays:
            for rows in data.chunks(pictures.train.tolist(), CHUNK):
                statistics.update(array[rows])
        self.mean, self.std = statistics.mean, statistics.std
        if not (self.std > 0).all():
            raise ConfigError(f"latents.tokenizer: expected latents that vary, channel {int(self.std.argmin())} is constant")

    def done(self) -> int | None:
        """How many of the first pictures have their latents on disk; None where nothing fits."""
        card = self.folder / CARD_FILE
        held = read_json(card) if card.exists() else {}
        # Where another machine's copy of the sources lies, and since when, is its own affair.
        other = {} if self.main else {"sources": None}
        same = held.get("of", {}) | other == self.told | other
        return held["done"] if same and all(path.exists() for path in self.paths) else None

    def check_unused(self) -> None:
        """A TrainingError where others would take the place of the latents that the folder's run was trained on, over which
        alone its weights mean something. Sources that were moved or touched are no others.
        """
        card = self.folder / CARD_FILE
        held = read_json(card).get("of", {}) if card.exists() and (self.folder / STATE_FILE).exists() else {}
        for name, here in self.told.items():
            if name != "sources" and (there := held.get(name, here)) != here:
                raise TrainingError(
                    f"{self.folder} holds a run on other latents ({name}: {shown(there, 40)} there, {shown(here, 40)} here): "
                    f"give another folder, and --init this one"
                )

    def fill(self, chunks: Callable[[int], Iterator[list[F32]]]) -> None:
        """Write what is missing; a card beside says of what, and how far it is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        start = self.done()
        if start is None:
            for path in self.paths:
                allocate(path, (self.count, *self.shape))
            start = 0
        outs = [np.load(path, mmap_mode="r+") for path in self.paths]
        with tqdm(total=self.count, initial=start, desc="latents", unit="picture", disable=None) as bar:
            for part in chunks(start) if start < self.count else ():
                stop = start + len(part[0])
                for out, latents in zip(outs, part, strict=True):
                    out[start:stop] = latents
                    out.flush()
                write_json(self.folder / CARD_FILE, {"of": self.told, "done": stop})
                bar.update(stop - start)
                start = stop
        if start != self.count:
            raise DataError(f"{self.folder}: the sources changed while their latents were read")

    def batch(self, rows: I64, flips: NDArray[np.bool_] | None = None) -> Tensor:
        """Normalised latents float32 [B,N,d] of `rows`; of the mirrored pictures where `flips` [B]."""
        z = (
            self.arrays[0][rows]
            if flips is None
            else np.where(flips[:, None, None], self.arrays[1][rows], self.arrays[0][rows])
        )
        return torch.from_numpy(((z - self.mean) / self.std).astype(np.float32))


# --- The task -----------------------------------------------------------------------------------------------------------------


def model_config(
    given: Mapping[str, Any], tokenizer_config: TexTokConfig, pictures: Pictures, latents: Latents
) -> dict[str, Any]:
    """The DiT's whole config: what the tokenizer, the captions and the labels decide is filled in, or must agree."""
    text_encoder = EncoderUse.of(given.get("text_encoder"))
    decided = {"num_tokens": tokenizer_config.num_latent_tokens, "in_channels": tokenizer_config.latent_dim}
    if given.get("condition", "class") == "class":
        least = pictures.take_labels()
        classes = given.get("num_classes", least)
        if classes < least:
            raise ConfigError(f"model.num_classes: expected at least {least}, the labels of the data, got {classes}")
        decided["num_classes"] = classes
    else:
        if pictures.texts is None:
            raise ConfigError("data.caption: expected the field of captions, which model.condition = 'text' reads, got none")
        decided |= {"num_classes": 0, "text_dim": pictures.texts.batch(np.arange(1))[0].shape[2]}
        decided["num_text_tokens"] = given.get("num_text_tokens", tokenizer_config.num_text_tokens)
        text_encoder = agreed_use(text_encoder, data.encoder_of(pictures.texts))
    for name, value in decided.items():
        if given.get(name, value) != value:
            raise ConfigError(f"model.{name}: expected {value}, as the tokenizer and the data have it, got {given[name]}")
    return DiTConfig.from_dict(
        dict(given)
        | decided
        | {"text_encoder": text_encoder, "latent_mean": latents.mean.tolist(), "latent_std": latents.std.tolist()}
    ).to_dict()


def check_statistics(folder: Path, told: Mapping[str, Any]) -> None:
    """A TrainingError where the folder holds a run over latents that lie elsewhere: of other pictures by the same names."""
    if not (folder / STATE_FILE).exists():
        return
    held = read_json(folder / CONFIG_FILE)
    nearly = 1e-3 * np.array(held["latent_std"])  # another machine rounds otherwise
    for name in ("latent_mean", "latent_std"):
        if (np.abs(np.subtract(held[name], told[name])) > nearly).any():
            raise TrainingError(
                f"{folder} holds a run on other latents ({name}: {shown(held[name], 60)} there, {shown(told[name], 60)} here): "
                "bring the pictures of then back, or give another folder, and --init this one"
            )


class DitTask:
    """See `loop`. `pictures`: a `tokenizer.Pictures`; `latents`: a `Latents`; `decoder`: the engine's TexTok."""

    least = "error_"

    def __init__(
        self,
        config: SimpleNamespace,
        model: DiT,
        pictures: Pictures,
        latents: Latents,
        decoder: tokenizer.TexTok,
        device: str | torch.device = "cpu",
    ) -> None:
        self.config, self.model, self.pictures, self.latents, self.decoder = config, model, pictures, latents, decoder
        self.device, self.position = torch.device(device), 0.0
        self.data = pictures.pairs.stamp("key", "split", pictures.caption)
        c = model.config
        self.by_text = c["condition"] == "text"
        self.process = process_of(DiTConfig.from_dict(c))
        if config.diffusion.times != "uniform" and not isinstance(self.process, Flow):
            raise ConfigError(
                f"diffusion.times: expected 'uniform' where model.prediction is {c['prediction']!r}, got "
                f"{config.diffusion.times!r}, which is for flow matching ('velocity')"
            )
        self.check_previews(DiTConfig.from_dict(c))
        model.to(device)
        self.trainees = {"model": Trainee(model, config.optim, config.run.steps)}
        self.extras: dict[str, nn.Module] = {}
        self.forward = torch.compile(model, dynamic=False) if config.run.compile else model

    def sampling(self) -> Sampling:
        """What the sample pictures are sampled with."""
        settings = self.config.diffusion
        return Sampling(
            settings.sample_steps or None, guidance_scale=settings.sample_guidance, seed=self.config.run.seed
        )

    def check_previews(self, config: DiTConfig) -> None:
        """A ConfigError now, and not at the first evaluation, where sample pictures could not be made."""
        if not self.config.run.sample_images:
            return
        try:
            sampling = self.sampling().resolved(config)
            sampling.guidance(config, sampling.schedule(config))
        except ValueError as problem:
            raise ConfigError(f"diffusion.sample_steps, diffusion.sample_guidance: {problem}") from None

    def autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=configs.in_bfloat16(self.config.run.precision, self.device.type)
        )

    def condition(self, rows: I64, drop: Tensor, step: int | None = None) -> dict[str, Tensor]:
        """The model's arguments for pictures `rows`, in training at `step`; where `drop` bool [B] the null condition."""
        if not self.by_text:
            assert self.pictures.labels is not None  # `model_config` had them taken
            labels = self.pictures.labels[rows]
            return {"labels": torch.where(drop, self.model.config["num_classes"], labels).to(self.device)}
        texts = self.pictures.texts if step is None else self.pictures.texts_at(step)
        assert texts is not None  # `model_config` refuses a model on text without
        text, lengths = texts.batch(rows)
        most = self.model.config["num_text_tokens"]
        text = text[:, :most]
        if self.config.run.compile:
            text = padded(text, most)
        return {
            "text": text.to(self.device),
            "text_lengths": lengths.clamp(max=most).to(self.device),
            "null": drop.to(self.device),
        }

    def losses(
        self,
        network: Callable[..., Tensor],
        rows: I64,
        x0: Tensor,
        dropout: float,
        generator: torch.Generator | None = None,
        step: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean squared error and bound of pictures `rows` with latents x0, in training at `step`; random from `generator` or
        PyTorch's own."""
        # Test sets are measured at evenly spread times, so that runs can be compared whatever they train on.
        times = "uniform" if step is None else self.config.diffusion.times
        t = self.process.draw(len(rows), generator, times)  # [B]
        noise = torch.randn(x0.shape, generator=generator)  # [B,N,d]
        drop = torch.rand(len(rows), generator=generator) < dropout  # [B]
        x0, t, noise = x0.to(self.device), t.to(self.device), noise.to(self.device)
        xt = self.process.add_noise(x0, t, noise)
        with self.autocast():
            output = network(xt, t, **self.condition(rows, drop, step))  # [B,N,C or 2C]
        error, bound = self.process.losses(output.float(), x0, xt, t, noise)
        return error.mean(), bound.mean()

    def active(self, position: float) -> list[str]:
        return ["model"]

    def backward(self, step: int, part: int, parts: int) -> dict[str, Tensor]:
        rows = self.pictures.rows(step, part, parts)
        flips = torch.rand(len(rows)).numpy() < 0.5 if self.pictures.flip else None
        x0 = self.latents.batch(rows, flips)
        if self.by_text:
            self.pictures.expect_texts(step + 1, part, parts)
        error, bound = self.losses(self.forward, rows, x0, self.config.diffusion.dropout, step=step)
        loss = error + self.config.diffusion.bound * bound
        (loss / self.config.run.accumulate).backward()
        return {"error": error.detach(), "bound": bound.detach()}

    @torch.no_grad()
    def evaluate(self, step: int) -> tuple[dict[str, float], dict[str, U8]]:
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
        drawn = self.config.run.sample_images
        if drawn and (sets := self.pictures.test_sets(drawn)):
            name, rows = next(iter(sets.items()))
            grids[name] = np.concatenate(list(self.sample(averaged, rows)), axis=1)
        return scores, grids

    def sample(self, weights: Mapping[str, Tensor], rows: I64) -> U8:
        """Pictures uint8 [n,S,S,3] of the classes or captions of test pictures `rows`, decoded with their captions."""
        model = engine.DiT(
            self.model.config, {name: value.cpu().numpy() for name, value in weights.items()}, threads=torch.get_num_threads()
        )
        how: dict[str, Any] = {**self.sampling().kept(), "seed": self.config.run.seed}
        if self.by_text:
            condition: dict[str, Any] = {
                k: v.cpu().numpy()
                for k, v in self.condition(rows, torch.zeros(len(rows), dtype=torch.bool)).items()
                if k != "null"
            }
            z = model.sample(**condition, **how)
        else:
            assert self.pictures.labels is not None
            z = model.sample(labels=self.pictures.labels[rows].numpy(), **how)
        return cast(U8, self.decoder.decode(z, **condition_of(self.pictures, rows)))


def build_run(
    config: SimpleNamespace, folder: str | os.PathLike[str], devices: Devices | None = None, overrides: Iterable[str] = ()
) -> Run:
    """The `Run` of a generator's training config (a namespace of SECTIONS) in `folder`. Of `overrides`, which the config has
    already, those of the model must be so in `run.init`.
    """
    devices = devices or Devices()
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    configs.warn_of_slow_precision(config.run.precision, devices.device.type)
    if config.run.add_text:
        raise ConfigError("run.add_text: expected false for a generator, got true")
    if not config.latents.tokenizer:
        raise ConfigError(
            "latents.tokenizer: expected a model's folder or name, or the folder of a tokenizer's training, got none"
        )
    if devices.main:
        hold(folder)
    weights: dict[str, Tensor] | None = None
    held = stored_model(folder)
    if config.run.init and held is not None:  # its own weights come with the state: the model that it began with may be gone
        config.model = held
    elif config.run.init:
        config.model, weights = starting(config.run.init, "dit")
        for name in ("latent_mean", "latent_std"):  # of this run's latents
            config.model.pop(name)
    if config.run.init:
        configs.check_model(overrides, DiTConfig.from_dict(config.model).to_dict(), config.run.init)
    check_settings(Path(folder), configs.as_dict(config))  # before the latents of the run that is there are touched
    model, stamp = load_tokenizer(config.latents.tokenizer, config.latents.dtype, config.run.threads or None)
    pairs = shard_pairs(config.data, config.latents, config.latents.tokenizer) if config.latents.paths else None
    pictures = Pictures(config.data, model.config.to_dict(), config.run.batch_size, config.run.seed, devices, pairs)
    latents = Latents(folder, config, model, stamp, pictures, devices)
    told = model_config(config.model, model.config, pictures, latents)
    check_statistics(Path(folder), told)
    torch.manual_seed(config.run.seed)
    network = DiT(told)
    if weights is not None:
        network.load_state_dict(weights)
    task = DitTask(config, network, pictures, latents, model, devices.device)
    made = Run(folder, config.run, task, {"model_type": "dit", **told}, configs.as_dict(config), devices)
    if devices.main:
        data.write_skips(made.folder, pictures.pairs.skips)
    return made


def train(path: str | os.PathLike[str], overrides: Iterable[str], folder: str | os.PathLike[str]) -> None:
    """Trains by the config file `path` with `overrides` ("key=value") in `folder`; an unfinished run there goes on."""
    overrides = list(overrides)
    build_run(configs.read(path, overrides, SECTIONS), folder, overrides=overrides).train()
