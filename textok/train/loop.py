"""What every training has: its folder, updates, checkpoints, log, evaluation and bar.

    Trainee  a model with its optimisers, learning rate and moving average
    Run      a folder in which trainees are trained by a task, from the start or from where it was killed

A task is what is particular to a training. It has

    trainees         {name: Trainee}; the one called "model" is what is exported
    extras           {name: module} whose state belongs to a checkpoint too
    active(position) the names of the trainees that are updated there
    backward(step, part, parts)
                     adds the gradients of one of the `parts` of the step's batch; returns {name: scalar}
    after(means)     after the update, with those scalars averaged over parts and devices (optional)
    evaluate(step)   {name: number}, {name: uint8 picture [h,w,3]}: scores and pictures of the averaged weights
    data             a string that tells its data apart from others (optional)
    least            how names of its scores begin that are losses, by which more training may be too much (optional)
    position         set by the run before each step: how far it is, by which all that begins and ends at some time goes; the
                     step itself, or with `run.minutes` the share of the time that is over, times `run.steps`

Everything random in a step is drawn from a seed made of the run's seed and the step, and its batch is a function of the two,
so that the state of a run is its weights, optimisers, averages and step: killed at any moment it goes on from its last
checkpoint to the same bits (but for `run.minutes`, where the clock decides what a step is). Devices are those of `accelerate
launch`; each takes its slice of every batch, and gradients are averaged over them.
"""

import contextlib
import csv
import dataclasses
import fcntl
import json
import math
import os
import pickle
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import ConfigError, TextokError, shown
from ..errors import told as shortened
from ..files import clear_unfinished, read_json, replacing, write_json
from ..text.templates import checked_template
from . import config as configs
from .config import OptimSettings, RunSettings
from .optim import Ema, build_optimisers, rate_share

U8 = NDArray[np.uint8]
Scalar = Tensor | float

LOOK_SECONDS = 0.5
QUIET = ("lr_", "norm_", "logits_", "slope_", "gan_weight", "accuracy", "lecam", "r1")  # of the log, not of the terminal
STATE_FILE = "state.pt"
CONFIG_FILE = "config.json"
SETTINGS_FILE = "training.json"
LOCK_FILE = "lock"
CLEARLY = 1.05  # times the lowest: a loss that more training made worse
DECISIVE = ("seed", "batch_size", "init", "add_text")  # of [run]
PLACES = ("paths", "cache", "memory", "index", "held_out")  # of [data]: where it lies; what it is, a task's `data` tells


class TrainingError(TextokError, ValueError):
    """A training that cannot go on: gradients that stay without finite values, a folder of another run."""


def spoken(seconds: float) -> str:
    """A time as people say it."""
    if not seconds < 5400:
        return "? h" if math.isnan(seconds) else f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


class Devices:
    """The processes of a run and their device, by accelerate where it launched them; one process without it."""

    def __init__(self) -> None:
        self.count, self.rank, self.device = 1, 0, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.accelerator: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator

            self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
            self.count, self.rank = self.accelerator.num_processes, self.accelerator.process_index
            self.device = self.accelerator.device

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes, in place; one message in all."""
        if self.count > 1 and tensors:
            flat = torch.cat([t.detach().float().reshape(-1) for t in tensors])
            torch.distributed.all_reduce(flat)
            flat /= self.count
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            self.accelerator.wait_for_everyone()

    def make(self, make: Callable[[], object], made: Callable[[], bool]) -> None:
        """The writing process calls make(); the others look now and then until made() holds. A barrier would time out."""
        if self.main:
            make()
        else:
            while not made():
                time.sleep(LOOK_SECONDS)


def freeze(model: nn.Module, parts: Iterable[str]) -> None:
    """Lets the tensors of `parts`, "tokenizer" or "detokenizer.blocks", keep their values; a ConfigError for a part of none."""
    for part in parts:
        held = [p for name, p in model.named_parameters() if f"{name}.".startswith(f"{part}.")]
        if not held:
            known = ", ".join(name for name, _ in model.named_children())
            raise ConfigError(f"optim.frozen: expected a part of the model ({known}, or of these), got {part!r}")
        for parameter in held:
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"optim.frozen: expected some part that is trained, got {', '.join(parts)}, which is all of it")


class Trainee:
    """A model, its optimisers and their rate; with `ema` above 0 a moving average of its weights.

    `settings` are OptimSettings; steps are counted from `start`, the run's first step that updates this model.
    """

    def __init__(self, model: nn.Module, settings: OptimSettings, steps: int, start: int = 0) -> None:
        self.model, self.settings, self.steps, self.start = model, settings, steps, start
        freeze(model, settings.frozen)
        self.optimisers = build_optimisers(model, settings.kind, settings.lr, settings.betas, settings.weight_decay)
        self.ema = Ema(model, settings.ema) if settings.ema > 0 else None
        self.norm = math.nan

    def rate(self, position: float) -> float:
        """The learning rate at a position of the run, in steps."""
        s = self.settings
        warmup, decay = (configs.steps_of(when, self.steps) for when in (s.warmup, s.decay))
        return s.lr * rate_share(position, self.steps, s.schedule, warmup, decay, s.floor, self.start)

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.model.parameters() if p.grad is not None]

    def clip(self) -> bool:
        """Clips the gradients; whether their norm is finite."""
        most = self.settings.clip if self.settings.clip > 0 else math.inf
        self.norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), most).item()
        return math.isfinite(self.norm)

    def update(self, step: int, position: float) -> None:
        rate = self.rate(position)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
        if self.ema:
            self.ema.update(self.model, max(1, step - self.start + 1))

    def averaged(self) -> dict[str, Tensor]:
        """{name: float32 tensor} of the moving average, or of the model where it has none."""
        weights = self.ema.weights if self.ema else dict(self.model.named_parameters())
        return {name: value.detach() for name, value in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.weights if self.ema else None,
            "optimisers": [o.state_dict() for o in self.optimisers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for optimiser, held in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(held)
        if self.ema:
            self.ema.load(state["ema"])


class Means:
    """Means of named scalars since they were last taken."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Scalar]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """{name: mean}; begins anew."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


@contextlib.contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Gives a list to which the first SIGINT or SIGTERM is added while this lasts; a second one does what it did before.
    Signals that are ignored stay so, and all do in a thread that is not the main one.
    """
    asked: list[int] = []
    held: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in held.items():
            signal.signal(number, handler)

    def ask(number: int, _: object) -> None:
        asked.append(number)
        restore()
        with contextlib.suppress(OSError):  # not by print, which may be what was interrupted
            os.write(2, b"\ntextok: stopping after this step, with a checkpoint; once more stops at once\n")

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                held[number] = handler
                signal.signal(number, ask)
    try:
        yield asked
    finally:
        restore()


@contextlib.contextmanager
def fast_products() -> Iterator[None]:
    """float32 products may run in bfloat16 meanwhile; what the process had set comes back afterwards."""
    held = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(held)


def decisive(told: dict[str, Any], defaults: bool = False) -> dict[str, Any]:
    """What of a training config makes it another run, by name: all but places, lengths and how often things are done. With
    `defaults` fields that it lacks have theirs: it may have been written before they were there.
    """
    found: dict[str, Any] = {}
    for section, given in json.loads(json.dumps(told)).items():
        if section not in configs.SETTINGS:
            found[section] = given
            continue
        fields = json.loads(json.dumps(dataclasses.asdict(configs.SETTINGS[section]()))) | given if defaults else given
        if "template" in fields:
            fields["template"] = checked_template(fields["template"])  # a run of before may have another spelling
        if section == "run":
            names = [name for name in DECISIVE if name in fields]
        else:
            names = [name for name in fields if section != "data" or name not in PLACES]
        found |= {f"{section}.{name}": fields[name] for name in names}
    return found


def same_place(one: str, other: str) -> bool:
    """Whether two names, neither "", may be of one folder. A run may be gone on with from another working folder than it was
    begun in: of a relative name and another only the ends can be compared.
    """
    if not (one and other):
        return False
    if Path(one).resolve() == Path(other).resolve():
        return True
    ends = [[part for part in Path(os.path.normpath(name)).parts if part != ".."][::-1] for name in (one, other)]
    absolute = Path(one).is_absolute() and Path(other).is_absolute()
    return not absolute and all(a == b for a, b in zip(*ends, strict=False))


def stored_model(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The section [model] of the run that a folder holds; None where there is none yet."""
    folder = Path(folder)
    if not (folder / STATE_FILE).exists():
        return None
    return read_json(folder / SETTINGS_FILE).get("model", {})


def check_settings(folder: Path, told: dict[str, Any]) -> None:
    """A TrainingError where the folder holds a run of another training config than `told`."""
    if not (folder / STATE_FILE).exists():
        return
    before, now = decisive(read_json(folder / SETTINGS_FILE), defaults=True), decisive(told)
    for name, here in now.items():
        if (there := before.get(name, here)) != here and not (name == "run.init" and same_place(there, here)):
            if isinstance(there, dict) and isinstance(here, dict):  # only what differs: [model] has dozens of fields
                pairs = ((there, here), (here, there))
                there, here = ({key: one[key] for key in one if one[key] != other.get(key, ...)} for one, other in pairs)
            raise TrainingError(
                f"{folder} holds a run with another [{name}]: {shown(there, 400)} there, {shown(here, 400)} here; "
                "give another folder, or that run's config"
            )


_held: dict[Path, TextIO] = {}  # folders that this process trains in: their lock files


def hold(folder: str | os.PathLike[str]) -> None:
    """Keeps other processes out of a run's folder until `release`, or until this one ends."""
    folder = Path(folder).resolve()
    if folder in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK_FILE).open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise TrainingError(f"{folder}: {holder} trains here: wait for it, stop it, or give another folder") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')},\n")
    file.flush()
    _held[folder] = file


def release(folder: str | os.PathLike[str]) -> None:
    if (file := _held.pop(Path(folder).resolve(), None)) is not None:
        file.close()


def load_state(folder: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The state of a run's folder; a TrainingError where its file is damaged."""
    path = folder / STATE_FILE
    try:
        state = torch.load(path, weights_only=True, map_location=device)
    except (RuntimeError, pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError) as problem:
        raise TrainingError(
            f"{path}: not a checkpoint that can be read: {shortened(f'{type(problem).__name__}: {problem}')}"
        ) from None
    if not isinstance(state, dict) or not {"parts", "step"} <= state.keys():
        raise TrainingError(f"{path}: not a checkpoint that can be read: expected one of textok train, got {shown(state)}")
    return state


def trim_log(path: Path, step: int) -> None:
    """Drops what a killed run had logged beyond its last checkpoint."""
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            head, *rows = list(csv.reader(file)) or [[]]
        kept = [row for row in rows if row and row[0].isdigit() and int(row[0]) <= step]
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([head, *kept])


def too_long(log: Path, least: str | None) -> list[str]:
    """What is to be said of losses in a log, by how their names begin, that had been clearly lower before its end."""
    if least is None or not log.exists():
        return []
    with log.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = []
    for name in rows[0] if rows else ():
        told = [(float(row[name]), row["step"]) for row in rows if row[name]] if name.startswith(least) else []
        if not told:
            continue
        (lowest, step), (last, _) = min(told), told[-1]
        if lowest * CLEARLY < last:
            found.append(
                f"{name} was lowest, {lowest:.4g}, after {step} steps and is {last:.4g} now: pictures are learned by heart, "
                "and fewer steps do better on others"
            )
    return found


class Task(Protocol):
    """What a run asks of a training; beside it `after` and `data`, which a task may lack. See the module."""

    trainees: dict[str, Trainee]
    extras: dict[str, nn.Module]
    position: float

    def active(self, position: float) -> list[str]: ...

    def backward(self, step: int, part: int, parts: int) -> Mapping[str, Scalar]: ...

    def evaluate(self, step: int) -> tuple[dict[str, float], dict[str, U8]]: ...


class Run:
    """One training in its folder, which every process of it must see.

    Parameters
    ----------
    folder
        Where `config.json` (the model's), `training.json` (the settings), `state.pt`, `log.csv`, `pictures/` and TensorBoard's
        events go. One that holds a state is gone on with, if its settings are these.
    settings
        RunSettings.
    task
        See the module.
    model_config
        What `config.json` is to say.
    told
        The whole training config as plain values, kept as `training.json`.

    Raises
    ------
    TrainingError
        The folder is of another run, or another process trains there. From `train`, gradients that were not finite `nan_limit`
        times in a row; the last checkpoint from before stays.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: RunSettings,
        task: Task,
        model_config: dict[str, Any],
        told: dict[str, Any],
        devices: Devices | None = None,
    ) -> None:
        self.folder, self.settings, self.task = Path(folder), settings, task
        self.devices = devices or Devices()
        parts = self.devices.count * settings.accumulate
        if settings.batch_size % parts:
            raise TrainingError(
                f"run.batch_size: expected a multiple of {parts} ({self.devices.count} processes times accumulate "
                f"{settings.accumulate}), got {settings.batch_size}"
            )
        if self.devices.main:
            hold(self.folder)
        self.step, self.seconds, self.cpu_seconds, self.skipped, self.in_a_row = 0, 0.0, 0.0, 0, 0
        self.asked: list[int] = []
        self.stopped = False
        self.at: float = 0.0
        self.means, self.columns, self.board = Means(), None, None
        if (self.folder / STATE_FILE).exists():
            self.load(told)
        self.devices.wait()
        if self.devices.main:
            write_json(self.folder / CONFIG_FILE, model_config)
            write_json(self.folder / SETTINGS_FILE, told)
            trim_log(self.folder / "log.csv", self.step)
            if settings.tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self.board = SummaryWriter(self.folder / "tensorboard", purge_step=self.step + 1)
        self.wall, self.cpu = time.monotonic(), time.process_time()
        self.saved = self.wall
        self.position = self.clock()

    def clock(self) -> float:
        """How far the run is, from 0 to its `steps`: by steps, or by the time on all devices' clocks."""
        settings = self.settings
        if not settings.minutes:
            return self.step
        share = torch.tensor(
            (self.seconds + time.monotonic() - self.wall) / (60 * settings.minutes), device=self.devices.device
        )
        self.devices.average([share])
        return min(1.0, share.item()) * settings.steps

    @property
    def finished(self) -> bool:
        return self.position >= self.settings.steps

    def parts(self) -> dict[str, Trainee | nn.Module]:
        """What has a state, by name."""
        return {**self.task.trainees, **self.task.extras}

    def load(self, told: dict[str, Any]) -> None:
        """Goes on where the folder's run was."""
        check_settings(self.folder, told)
        state = load_state(self.folder, self.devices.device)
        trained_on, given = state.get("data"), getattr(self.task, "data", None)
        if trained_on not in (None, given):
            raise TrainingError(f"{self.folder} holds a run on other data: {trained_on}; here are {given}")
        for name, part in self.parts().items():
            part.load_state_dict(state["parts"][name])
        self.step, self.seconds, self.cpu_seconds = state["step"], state["seconds"], state["cpu_seconds"]
        self.skipped = state["skipped"]
        self.means.sums, self.means.counts = state.get("means", ({}, {}))  # states of before have none

    def save(self) -> None:
        """Writes the state beside the old one, then swaps them."""
        self.tick()
        self.saved = self.wall
        if not self.devices.main:
            return
        state = {
            "parts": {name: part.state_dict() for name, part in self.parts().items()},
            "data": getattr(self.task, "data", None),
            "step": self.step,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "skipped": self.skipped,
            "means": [self.means.sums, self.means.counts],
        }
        clear_unfinished(self.folder / STATE_FILE)  # of a run that was killed here: this one holds the folder
        try:
            with replacing(self.folder / STATE_FILE) as part, part.open("wb") as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as problem:  # PyTorch makes a RuntimeError of what befell its file
            cause = problem if isinstance(problem, OSError) else problem.__context__
            if not isinstance(cause, OSError):
                raise
            raise OSError(cause.errno, cause.strerror or str(cause), str(self.folder / STATE_FILE)) from None

    def tick(self) -> None:
        """Adds the time since the last tick to the run's clocks."""
        wall, cpu = time.monotonic(), time.process_time()
        self.seconds += wall - self.wall
        self.cpu_seconds += cpu - self.cpu
        self.wall, self.cpu = wall, cpu

    @fast_products()
    def advance(self) -> None:
        """One step: gradients of every part, averaged over devices, then the updates, unless they are not finite."""
        self.task.position = self.position
        trainees = [self.task.trainees[name] for name in self.task.active(self.position)]
        for trainee in trainees:
            trainee.model.zero_grad(set_to_none=True)
        parts = self.settings.accumulate * self.devices.count
        means = Means()
        for k in range(self.settings.accumulate):
            part = self.devices.rank * self.settings.accumulate + k
            torch.manual_seed((self.settings.seed * 1_000_003 + self.step) * 4096 + part)
            means.add(self.task.backward(self.step, part, parts))
        values = means.take()
        gradients = [g for trainee in trainees for g in trainee.gradients()]
        if self.devices.count > 1:
            told = torch.tensor([*values.values(), len(self.asked)], device=self.devices.device)
            self.devices.average([*gradients, told])
            *averages, stop = told.tolist()
            values, self.stopped = dict(zip(values, averages, strict=True)), stop > 0  # all of them after the same step
        finite = [trainee.clip() for trainee in trainees]
        if all(finite):
            for trainee in trainees:
                trainee.update(self.step, self.position)
            if hasattr(self.task, "after"):
                self.task.after(values)
            self.means.add(values)
            self.in_a_row = 0
        else:
            self.skipped += 1
            self.in_a_row += 1
            if self.in_a_row >= self.settings.nan_limit:
                raise TrainingError(
                    f"{self.folder}: gradients without finite values in {self.in_a_row} steps in a row up to step {self.step}; "
                    f"the last checkpoint is from before them: lower optim.lr, or look at the data"
                )
        if self.devices.count == 1:
            self.stopped = bool(self.asked)
        self.step += 1
        self.at, self.position = self.position, self.clock()

    def due(self, every: int) -> bool:
        """Whether this step is a multiple of `every` (0: none is) or the last."""
        return (every > 0 and self.step % every == 0) or self.finished

    def log(self, scores: dict[str, float], pictures: Mapping[str, U8]) -> None:
        """One line in log.csv and on the terminal; pictures in `pictures/`; both to TensorBoard."""
        self.tick()
        row: dict[str, Any] = {
            "step": self.step, "images": self.step * self.settings.batch_size, "seconds": round(self.seconds),
            "cpu_seconds": round(self.cpu_seconds), "skipped": self.skipped,
        }  # fmt: skip
        values: dict[str, float] = {}
        for name in self.task.active(self.at):
            trainee = self.task.trainees[name]
            values |= {f"lr_{name}": trainee.rate(self.at), f"norm_{name}": trainee.norm}
        values |= self.means.take() | scores
        if not self.devices.main:
            return
        row |= {k: f"{v:.5g}" for k, v in values.items()}
        self.write_row(row)
        tqdm.write(self.line(values), file=sys.stdout)
        sys.stdout.flush()
        for name, picture in pictures.items():
            path = self.folder / "pictures" / f"{name}-{self.step:07d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(picture).save(path)
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, self.step)
            for name, picture in pictures.items():
                self.board.add_image(name, picture, self.step, dataformats="HWC")
            self.board.flush()

    def line(self, values: Mapping[str, float]) -> str:
        """What the terminal shows of a row of the log: how far, how long, and the losses and scores."""
        share = self.position / self.settings.steps
        left = self.seconds / share - self.seconds if share else math.nan
        shown = " ".join(f"{name} {value:.4g}" for name, value in values.items() if not name.startswith(QUIET))
        skipped = f" ({self.skipped} skipped)" if self.skipped else ""
        return f"step {self.step}{skipped}, {share:.0%}, {spoken(self.seconds)}, {spoken(left)} to go: {shown}"

    def write_row(self, row: dict[str, Any]) -> None:
        """Appends to log.csv; where columns are new (a loss that begins later, scores) the file is written anew with them."""
        path = self.folder / "log.csv"
        held = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                held, columns = list(reader), list(reader.fieldnames or [])
        else:
            columns = []
        more = [name for name in row if name not in columns]
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*columns, *more], restval="")
            writer.writeheader()
            writer.writerows([*held, row])

    def train(self) -> None:
        """To the last step; logs, evaluates and saves on the way. The folder is free for others afterwards. SIGINT and SIGTERM
        do what they did before after the step at hand, which is saved, or at once when they come again.
        """
        if self.devices.main and self.devices.count > 1:
            print(f"{self.folder}: {self.devices.count} processes", flush=True)
        try:
            with asked_to_stop() as self.asked:
                self._train()
        finally:
            release(self.folder)
        if self.devices.main:
            go_on = "the same command goes on; " if self.stopped and not self.finished else ""
            print(f"{self.folder}: {self.step} steps; {go_on}a model of it: textok export {self.folder} MODEL", flush=True)
            for line in too_long(self.folder / "log.csv", getattr(self.task, "least", None)):
                print(f"{self.folder}: {line}", flush=True)
        if self.asked:
            signal.raise_signal(self.asked[0])

    def _train(self) -> None:
        settings = self.settings
        bar = tqdm(
            total=None if settings.minutes else settings.steps,
            initial=self.step,
            unit="step",
            disable=not (self.devices.main and sys.stderr.isatty()),
        )
        with bar:
            while not (self.finished or self.stopped):
                self.advance()
                bar.update()
                scored = self.due(settings.eval_every)
                if scored or self.due(settings.log_every):
                    scores, pictures = self.task.evaluate(self.step) if scored and self.devices.main else ({}, {})
                    self.log(scores, pictures)
                late = self.stopped or time.monotonic() - self.saved > settings.save_seconds
                if (late and self.in_a_row == 0) or self.finished:  # steps without finite gradients left no trace in weights
                    self.save()
        self.devices.wait()
        if self.board:
            self.board.close()
