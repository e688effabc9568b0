"""Training configs: TOML files whose sections are the dataclasses below, with `key=value` overrides.

    [model]  fields of config.json: textok.config.TexTokConfig (tokenizer) or DiTConfig (dit)
    [data] [run] [optim] [loss] [gan]   the dataclasses of the same name

A field that says *when* is a whole number of steps (80000) or a share of the run's steps with a point (0.5). Defaults are the
paper's values where it gives them (arXiv 2412.05796, appendix).
"""

import contextlib
import dataclasses
import difflib
import json
import logging
import os
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .._core import cpu_info
from ..errors import ConfigError
from ..text.templates import checked_template

When = int | float
CONFIGS = Path(__file__).parent / "configs"
SEEDS = 1 << 32  # of which the loop makes seeds of 64 bits, one a step and part
LOG = logging.getLogger(__name__)


@dataclass
class RunSettings:
    """How long, how often and in what arithmetic.

    `minutes` above 0: so long by the clock, in place of `steps`. Learning rates and all that says when then go by the time, in
    which the run is taken to have `steps`, so that its end is reached on any machine; it is not the same to the bit twice.
    `init`: a model's folder, a bundled name, or the folder of a training, whose weights and [model] the run begins with.
    `add_text`: a tokenizer of `init` that reads no text gets what [model] says of it, by cross-attention, silent at first.
    `batch_size` is the batch of one step over all devices and its `accumulate` parts. `threads` 0 leaves PyTorch's number.
    `precision`: "auto" is bfloat16 on GPUs and on CPUs with instructions for it, float32 on others.
    `log_every`, `eval_every` are steps; `save_seconds` seconds. `nan_limit`: as many steps in a row without finite gradients
    end the run. `eval_images`: how many pictures of each test set (0: all); `sample_images`: how many of them are drawn.
    """

    steps: int = 100_000
    minutes: float = 0.0
    init: str = ""
    add_text: bool = False
    batch_size: int = 256
    accumulate: int = 1
    seed: int = 0
    threads: int = 0
    precision: str = "bfloat16"
    compile: bool = True
    log_every: int = 100
    eval_every: int = 5000
    save_seconds: float = 180.0
    nan_limit: int = 10
    eval_images: int = 512
    sample_images: int = 8
    tensorboard: bool = True

    def __post_init__(self) -> None:
        if self.seed >= SEEDS:
            raise fail("run.seed", f"a whole number below {SEEDS}", self.seed)


@dataclass
class DataSettings:
    """The pictures and captions: see `data.load_pairs` and `data.load`.

    `paths`: shards, folders, tables. `caption`: the field that is read; "" for pictures without captions, and a model
    that reads none. `captions`: fields of which each batch of training reads one, drawn afresh, where a sample
    lacks it `caption`; () for `caption` alone, which is also what tests read. `drop_words`: half of those batches
    read captions without this share of their words, dropped afresh each time. `encoder`: a bundled text encoder, or the
    folder of one, which embeds captions as they are read. `cache`: embeddings that there are in its place, a store that
    `textok embed` filled or arrays of your own; or an .npz file for MiniLM's of `caption`, made where missing.
    `held_out`: a file with the keys of the test set by pair. `template`: the caption of a class folder's
    pictures, see `textok.text.templates`.
    `test_share`: where no sample is marked as of the split "test", this share of them is kept out of training for tests
    and previews, which ones by a hash of their keys; 0: none.
    `size`: side that pictures are cropped to (0: they have it). `memory`: gigabytes of pictures to hold; more are streamed,
    with `near` batches at a time from neighbouring rows and `index` to remember what is there. `flip`: mirror half of the
    pictures; not where captions name left and right. `weights`: how many times an epoch has each picture of a source, by
    the field "source" of its metadata; 0 leaves it out of training, and sources without a weight have 1.
    """

    paths: tuple[str, ...] = ()
    caption: str = "caption_long"
    captions: tuple[str, ...] = ()
    drop_words: float = 0.0
    encoder: str = "minilm"
    cache: str = ""
    held_out: str = ""
    test_share: float = 0.0
    template: str = "a picture of a {name}"
    size: int = 0
    memory: float = 4.0
    near: int = 0
    index: str = ""
    flip: bool = False
    weights: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.template = checked_template(self.template)
        except ValueError as problem:
            raise ConfigError(f"data.{problem}") from None
        if self.drop_words >= 1:
            raise fail("data.drop_words", "a share of the words, less than 1", self.drop_words)
        if self.test_share >= 1:
            raise fail("data.test_share", "a share of the pictures, less than 1", self.test_share)
        if (self.captions or self.drop_words) and not self.caption:
            raise fail(
                "data.caption",
                "the field of the captions that tests read, beside data.captions and data.drop_words",
                self.caption,
            )


@dataclass
class OptimSettings:
    """The optimiser, its learning rate, and what is done to its gradients and weights.

    `kind`: "adam", "adamw" or "muon" (Muon for matrices inside blocks, AdamW for the rest). `schedule`: "cosine" (to `floor`
    times the peak), "trapezoid" (constant, then linear to zero over the last `decay` of the run) or "constant", each after
    `warmup`. `clip`: largest norm of all gradients together (0: no clipping). `ema`: decay of the moving average that is kept
    as the model. `frozen`: parts of the model that keep their weights, by how the names of their tensors begin: with
    "tokenizer" a detokenizer is trained on, and the latents that a generator was trained on stay what they are.
    """

    kind: str = "adam"
    lr: float = 1e-4
    betas: tuple[float, ...] = (0.0, 0.99)
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: When = 5000
    decay: When = 0.4
    floor: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_betas("optim.betas", self.betas)
        if self.ema >= 1:
            raise fail("optim.ema", "a decay below 1", self.ema)
        if self.floor > 1:
            raise fail("optim.floor", "a share of the peak, at most 1", self.floor)


@dataclass
class LossSettings:
    """Weights of the reconstruction losses; `perceptual_network` by name, from `perceptual_start` on."""

    l2: float = 1.0
    perceptual: float = 0.1
    perceptual_network: str = "lpips-vgg16"
    perceptual_weights: str = ""
    perceptual_start: When = 0
    kl: float = 1e-6


@dataclass
class GanSettings:
    """The adversarial part. `weight` 0: none.

    From `start` on the generator heeds the discriminator, with a weight that rises from 0 to `weight` over `warmup`; the
    discriminator has then trained for `ahead` already, with as long a warm-up of its learning rate. With `adaptive` the weight
    is a multiple of VQGAN's ratio of gradient norms. `r1` is taken every `r1_every` steps with `r1_every` times its weight.
    """

    weight: float = 0.1
    start: When = 80_000
    ahead: When = 0
    warmup: When = 0
    kind: str = "hinge"
    adaptive: bool = False
    r1: float = 10.0
    r1_every: int = 16
    lecam: float = 1e-4
    lecam_decay: float = 0.99
    base_channels: int = 128
    multipliers: tuple[float, ...] = (1, 2, 4, 4, 4, 4)
    optimiser: str = "adam"
    lr: float = 1e-4
    betas: tuple[float, ...] = (0.0, 0.99)
    clip: float = 1.0

    def __post_init__(self) -> None:
        check_betas("gan.betas", self.betas)
        if any(round(self.base_channels * multiple) < 1 for multiple in self.multipliers):
            raise fail("gan.multipliers", f"multiples of {self.base_channels} channels that are 1 or more", self.multipliers)


@dataclass
class LatentSettings:
    """Where the latents come from.

    `paths`: folders that `textok encode` wrote (with --flip, for `data.flip`), in place of `data.paths`; their samples'
    metadata tell captions, labels and splits. Without them the run encodes `data.paths` itself, in one process.

    `tokenizer`: a model's folder, the name of a bundled one, or the folder of a tokenizer's training, whose averaged weights
    are taken. `dtype`: what the engine encodes in. With `data.flip` also mirrored pictures are encoded, and each taken half of
    the time.
    """

    paths: tuple[str, ...] = ()
    tokenizer: str = ""
    dtype: str = "float32"


@dataclass
class DiffusionSettings:
    """`dropout`: the share of conditions that are replaced by the null one. `bound`: weight of the variational bound.

    `times`: which times flow matching trains on, "uniform" or "logit_normal", denser in the middle; losses of test sets are
    always of the former. `sample_steps`, `sample_guidance`: of the sample pictures; 0 steps: as many as such a model takes
    elsewhere.
    """

    dropout: float = 0.1
    bound: float = 1.0
    times: str = "uniform"
    sample_steps: int = 0
    sample_guidance: float = 3.0

    def __post_init__(self) -> None:
        if self.dropout >= 1:
            raise fail("diffusion.dropout", "a share of the conditions, less than 1", self.dropout)


# The sections of both trainings, but for [model].
SETTINGS: dict[str, type] = {
    "data": DataSettings,
    "run": RunSettings,
    "optim": OptimSettings,
    "loss": LossSettings,
    "gan": GanSettings,
    "latents": LatentSettings,
    "diffusion": DiffusionSettings,
}

CHOICES = {
    ("run", "precision"): ("bfloat16", "float32", "auto"),
    ("optim", "kind"): ("adam", "adamw", "muon"),
    ("optim", "schedule"): ("cosine", "trapezoid", "constant"),
    ("diffusion", "times"): ("uniform", "logit_normal"),
    ("gan", "kind"): ("hinge", "non-saturating"),
    ("gan", "optimiser"): ("adam", "adamw"),
}
# Whole numbers that others are divided by, or that layers are as wide as.
POSITIVE = {
    *(("run", name) for name in ("steps", "batch_size", "accumulate", "nan_limit")),
    *(("gan", name) for name in ("r1_every", "base_channels")),
}


def fail(where: str, expected: str, value: Any) -> ConfigError:
    return ConfigError(f"{where}: expected {expected}, got {value!r}")


def check_betas(where: str, betas: tuple[float, ...]) -> None:
    if len(betas) != 2 or max(betas) >= 1:
        raise fail(where, "two numbers below 1", betas)


def check(where: str, value: Any, kind: Any) -> Any:
    """`value` as a field of type `kind`, or a ConfigError that names the field."""
    if kind is bool:
        if not isinstance(value, bool):
            raise fail(where, "true or false", value)
        return value
    if kind == When:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or value < 0
            or (isinstance(value, float) and value > 1)
        ):
            raise fail(where, "a whole number of steps, or a share of them from 0.0 to 1.0", value)
        return value
    if kind is int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise fail(where, "a whole number, 0 or more", value)
        return value
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise fail(where, "a finite number, 0 or more", value)
        return float(value)
    if kind is str:
        if not isinstance(value, str):
            raise fail(where, "a string", value)
        return value
    if typing.get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise fail(where, "a table of names and numbers, {name = 2}", value)
        return {name: check(f"{where}.{name}", v, typing.get_args(kind)[1]) for name, v in value.items()}
    if typing.get_origin(kind) in (tuple, list):
        if isinstance(value, str) and typing.get_args(kind)[0] is str:
            value = [value]
        if not isinstance(value, list | tuple):
            raise fail(where, "a list", value)
        return tuple(check(f"{where}[{i}]", v, typing.get_args(kind)[0]) for i, v in enumerate(value))
    raise TypeError(f"{where}: a field of type {kind}")


def unknown(where: str, key: str, known: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return ConfigError(f"unknown key {where}{key}{hint}; known are {', '.join(sorted(known))}")


def make(name: str, kind: type, values: Any) -> Any:
    """The dataclass `kind` of the section `name` from its values in the file."""
    if not isinstance(values, dict):
        raise fail(name, "a section", values)
    if kind is dict:  # its reader checks it
        return values
    fields = {f.name: f.type for f in dataclasses.fields(kind)}
    made = {}
    for key, value in values.items():
        if key not in fields:
            raise unknown(f"{name}.", key, fields)
        made[key] = check(f"{name}.{key}", value, fields[key])
        choices = CHOICES.get((name, key))
        if choices and value not in choices:
            raise fail(f"{name}.{key}", " or ".join(map(repr, choices)), value)
        if (name, key) in POSITIVE and value < 1:
            raise fail(f"{name}.{key}", "a whole number, 1 or more", value)
    return kind(**made)


def packaged() -> list[str]:
    """The names of the configs that come with textok."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def find(name: str) -> Path:
    """The file of a config: a path, or the name of one of `configs/` beside this module."""
    for path in (Path(name), CONFIGS / f"{name}.toml"):
        if path.is_file():
            return path
    raise ConfigError(f"{name}: no such file, and no packaged config of that name; there are {', '.join(packaged())}")


def parse_override(text: str) -> tuple[list[str], Any]:
    """ "gan.start=0.5" -> (["gan", "start"], 0.5): the value as TOML has it, or else a string as it stands."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"expected key=value, got {text!r}")
    with contextlib.suppress(tomllib.TOMLDecodeError):
        value = tomllib.loads(f"value = {value}")["value"]
    return key.strip().split("."), value


def read(path: str | os.PathLike[str], overrides: Iterable[str], sections: Mapping[str, type]) -> SimpleNamespace:
    """A training config.

    Parameters
    ----------
    path
        The TOML file.
    overrides
        Strings "section.key=value"; they win over the file.
    sections
        {name: dataclass} of what may be in it; `dict` for a section that its reader checks.

    Returns
    -------
    A namespace with one attribute a section.

    Raises
    ------
    ConfigError, OSError
        No TOML, an unknown section or key, a value of the wrong type or out of range.

    Examples
    --------
    >>> config = read("emoji.toml", ["run.steps=100"], {"run": RunSettings, "model": dict})   # doctest: +SKIP
    >>> config.run.steps                                                                       # doctest: +SKIP
    100
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{path}: not TOML: {problem}") from None
    for text in overrides:
        keys, value = parse_override(text)
        place = values
        for key in keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{'.'.join(keys)}: {key} is a value, not a section")
        place[keys[-1]] = value
    for name in values:
        if name not in sections:
            raise unknown("", name, sections)
    return SimpleNamespace(**{name: make(name, kind, values.get(name, {})) for name, kind in sections.items()})


def check_model(overrides: Iterable[str], model: Mapping[str, Any], init: str, free: Iterable[str] = ()) -> None:
    """A ConfigError for an override "model.key=value" that is not so in the `model` that a run of `run.init` has, whose config
    stands for the whole section; but for the keys `free`.
    """
    for text in overrides:
        keys, value = parse_override(text)
        if keys[0] != "model" or (keys[1:2] and keys[1] in free):
            continue
        here: Any = model
        for key in keys[1:]:
            if not isinstance(here, Mapping) or key not in here:
                raise unknown("model.", ".".join(keys[1:]), model)
            here = here[key]
        if json.loads(json.dumps(here)) != value:
            raise ConfigError(f"{'.'.join(keys)}: expected {here!r}, as run.init = {init!r} has it, got {value!r}")


def as_dict(config: SimpleNamespace) -> dict[str, Any]:
    """A config as plain values, for a run's folder."""
    return {
        name: dataclasses.asdict(v) if dataclasses.is_dataclass(v) and not isinstance(v, type) else v
        for name, v in vars(config).items()
    }


def in_bfloat16(precision: str, device: str) -> bool:
    """Whether the models of `run.precision` compute in bfloat16 on a device, "cpu" or "cuda"."""
    if precision != "auto":
        return precision == "bfloat16"
    return device != "cpu" or cpu_info()["features"]["avx512_bf16"]


def warn_of_slow_precision(precision: str, device: str) -> None:
    """A line in the log where bfloat16 was asked for on a CPU that computes it in software, 50 to 80 times slower."""
    if precision == "bfloat16" and not in_bfloat16("auto", device):
        LOG.warning(
            "run.precision = 'bfloat16': this CPU has no instructions for it, steps take many times longer than in float32; "
            "'auto' takes what is fast on each machine"
        )


def steps_of(when: When, steps: int) -> int:
    """A `When` as a number of steps: a whole number as it is, a share of `steps`."""
    return round(when * steps) if isinstance(when, float) else when
