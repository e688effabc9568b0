"""DiT: sampling a tokenizer's latents from a class or a caption."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import arrays
from .conditions import Conditions, class_labels, text_batch
from .config import DiTConfig
from .model import IMAGES_AT_ONCE, EngineModel, batch_parts
from .noise import MAX_INDEX, NoiseSource, resolve_seed
from .progress import progress_bar
from .schedules import DEFAULT_STEPS, SOLVERS, SPACINGS, Schedule, make_schedule, max_steps

F32 = NDArray[np.float32]
Callback = Callable[[int, int, F32], object]

MAX_GUIDANCE = 1000.0
STEP_NOISE_BYTES = 256 << 20  # of the noise of all steps, held at a time


class DiT(EngineModel):
    """A diffusion transformer over latent tokens, conditioned on a class or, as DiT-T2I, on a caption; or the original over latent images.

    `DiT.from_pretrained` loads one, `DiT.from_config` makes one with random weights; from arrays:

    Parameters
    ----------
    config
        A dict as in `config.json` (missing keys have their defaults) or a `DiTConfig`.
    weights
        A dict of arrays with the names and shapes of the checkpoint format, any float type; or int8 rows beside their scales.
    dtype
        What the model computes in: "float32", "bfloat16" or "int8"; see `from_pretrained`.
    threads
        The most threads that a call uses; None for all that the process may use.

    Raises
    ------
    ConfigError, WeightsError
        A config value that does not fit; tensors that are missing, too many, misshapen or not finite.

    Notes
    -----
    The model works on normalised latents (z - latent_mean) / latent_std: `denoise`'s x, all noise and what a callback sees are
    in that space; `sample` returns z. With `input_size` S in the config a sample is a latent image [C,S,S], and wherever [B,N,C]
    stands below, [B,C,S,S] is meant. What turns such images into pictures, a VAE with a scale factor of its own, is not here. Sources: DiT (arXiv 2212.09748); DiT-T2I, TexTok (2412.05796) section 3.3; the solvers
    are `schedules`'.
    """

    model_type: ClassVar[str] = "dit"
    config_class = DiTConfig

    @property
    def config(self) -> DiTConfig:
        """The frozen config."""
        return self._config

    def denoise(
        self,
        x: Any,
        t: Any,
        labels: Any = None,
        text: Any = None,
        text_lengths: Any = None,
        *,
        null: bool = False,
        batch_size: int | None = None,
        out: F32 | None = None,
        threads: int | None = None,
    ) -> F32:
        """One evaluation of the network.

        Parameters
        ----------
        x
            Noisy normalised latents [B,N,C] of any float type.
        t
            [B] train timesteps, 0..T-1, integers or floats.
        labels
            int [B], 0..num_classes, the last of which is the null class; for a class-conditional model.
        text, text_lengths
            Caption embeddings [B,t,Dt], t at most Nt, and how many rows of each are real; for a model with `condition` "text".
        null
            Take the null condition for every image, and none of the other three.
        batch_size, out, threads
            As in `TexTok`.

        Returns
        -------
        float32 [B,N,C], or [B,N,2C] where the model learns sigma: first the prediction, then the variance fraction in [-1, 1].
        Over latent images [B,C,S,S] or [B,2C,S,S].
        """
        config = self._config
        latents = self._latents(x, "x", None)
        batch = len(latents)
        times = self._timesteps(t, batch)
        if not isinstance(null, bool):
            raise TypeError(f"null: expected True or False, got {type(null).__name__} {null!r}")
        if null and not (labels is None and text is None):
            raise ValueError(
                "null: expected no labels and no text with null=True, got " + ("text" if labels is None else "labels")
            )
        conditions = Conditions() if null else self._conditions(batch, labels, text, text_lengths)
        result = arrays.output(out, "out", (batch, *config.output_shape), np.float32, [latents, times, *conditions.given()])
        count = self._call_threads(threads)
        for part in batch_parts(batch, batch_size):
            condition, lengths, classes = conditions.part(part)
            self._model.denoise(
                arrays.as_float32(latents[part], "x", part.start),
                times[part],
                classes,
                condition,
                lengths,
                null,
                result[part],
                count,
            )
        return result

    def sample(
        self,
        labels: Any = None,
        text: Any = None,
        text_lengths: Any = None,
        *,
        steps: int = DEFAULT_STEPS,
        solver: str = "dpmsolver++",
        spacing: str = "linspace",
        eta: float = 0.0,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        noise: Any = None,
        step_noise: Any = None,
        seed: int | None = None,
        first_index: int = 0,
        batch_size: int | None = None,
        out: F32 | None = None,
        threads: int | None = None,
        progress: bool = False,
        callback: Callback | None = None,
    ) -> F32:
        """Latents from noise.

        Parameters
        ----------
        labels
            int [B], 0..num_classes, the last of which is the null class; for a class-conditional model.
        text, text_lengths
            Caption embeddings [B,t,Dt], t at most Nt, and how many rows of each are real; for a model with `condition` "text".
        steps
            Evaluations of the network (two each where guidance is on), at most T.
        solver
            "dpmsolver++" (second order; 20 steps come as close to the data as 250 of "ddpm" on both bundled DiTs, on that of
            classes 15 do), "ddim" or "ddpm" (what the original DiT samples with, in 250 steps).
        spacing
            Which timesteps the steps visit, see `schedules.spaced_timesteps`: "linspace", "leading" or "trailing".
        eta
            For "ddim" only: the share of fresh noise, 0 to 1.
        guidance_scale
            s of classifier-free guidance u + s (c - u), from the null condition's prediction u and the condition's c; 1 runs
            only c. Channels beyond `guidance_channels`, and the variance, are the condition's.
        guidance_interval
            (low, high) train timesteps, both included, outside which only c runs.
        noise
            [B,N,C], in place of the start noise drawn from `seed`.
        step_noise
            [steps,B,N,C], in place of the noise drawn for the steps; not looked at by solvers that add none.
        seed
            None for fresh noise each call. Sample k draws from Generator(Philox(SeedSequence(seed, spawn_key=(first_index +
            k,)))), as float32 standard normals: first its start noise [N,C], then its step noise [steps,N,C]. So it is the same
            in any batch.
        first_index
            Index of the first sample, for runs in several parts.
        batch_size
            Samples that run at a time; None for 64, or fewer where their step noise is large. It never changes a result.
        out, threads
            As in `TexTok`.
        progress
            Whether to show a bar over steps.
        callback
            Called after every step of each part of the batch as callback(step, steps, x), step from 0, x the part's state
            [b,N,C], normalised. What it raises ends the run and comes out of this call.

        Returns
        -------
        float32 [B,N,C], latents that `TexTok.decode` takes.

        Raises
        ------
        ValueError, TypeError
            An argument that does not fit; says what came and what was expected.

        Examples
        --------
        >>> dit = DiT.from_config({"num_tokens": 4, "hidden_size": 32, "depth": 1, "num_heads": 2, "num_classes": 10})
        >>> dit.sample(labels=[3, 7], steps=4, guidance_scale=2.0, seed=0).shape
        (2, 4, 8)
        """
        config = self._config
        schedule = self._schedule(steps, solver, spacing, eta)
        guidance = self._guidance(schedule, guidance_scale, guidance_interval)
        conditions = self._conditions(None, labels, text, text_lengths)
        batch = conditions.batch
        draw = self._noise_source(batch, schedule, noise, step_noise, seed, first_index)
        result = arrays.output(out, "out", (batch, *config.latent_shape), np.float32, [*conditions.given(), *draw.given()])
        count = self._call_threads(threads)
        if callback is not None and not callable(callback):
            raise TypeError(f"callback: expected a function (step, steps, x), got {type(callback).__name__}")
        noise_bytes = 4 * len(schedule.timesteps) * math.prod(config.latent_shape) if schedule.needs_noise else 0
        parts = batch_parts(batch, batch_size, max(1, min(IMAGES_AT_ONCE, STEP_NOISE_BYTES // max(noise_bytes, 1))))
        times = schedule.timesteps.astype(np.float32)
        mean, deviation = (self._by_channel(value) for value in (config.latent_mean, config.latent_std))
        with progress_bar(progress, len(parts) * steps, "step") as bar:

            def tick(step: int, x: F32) -> None:
                bar.update()
                if callback is not None:
                    callback(step, steps, x)

            for part in parts:
                x = result[part]
                added = draw.fill(part, x)
                condition, lengths, classes = conditions.part(part)
                self._model.sample(
                    x,
                    times,
                    schedule.update,
                    guidance,
                    added,
                    classes,
                    condition,
                    lengths,
                    tick if progress or callback is not None else None,
                    count,
                )
                x *= deviation
                x += mean
        return result

    def _latents(self, value: Any, name: str, batch: int | None) -> NDArray[Any]:
        return arrays.floats(value, name, (("B", batch), *self._axes()))

    def _axes(self) -> tuple[tuple[str, int], ...]:
        """The axes of a sample, as `arrays.floats` checks them."""
        shape = self._config.latent_shape
        return tuple(zip(("N", "C") if len(shape) == 2 else ("C", "H", "W"), shape, strict=True))

    def _by_channel(self, values: Any) -> F32:
        """One number a channel, shaped to go with samples."""
        shape = (-1,) if self._config.input_size is None else (-1, 1, 1)
        return np.asarray(values, np.float32).reshape(shape)

    def _timesteps(self, t: Any, batch: int) -> F32:
        last = self._config.num_train_timesteps - 1
        array = arrays.view(t, "t")
        if array.dtype.kind not in "iu" and not arrays.is_float(array.dtype):
            raise ValueError(f"t: expected train timesteps [B], integers or floats, got {arrays.describe(array)}")
        arrays.check_shape(array, "t", (("B", batch),), "pass one timestep an image" if array.ndim == 0 else "")
        times = arrays.as_float32(array, "t")
        if times.size and not (times.min() >= 0 and times.max() <= last):
            raise ValueError(f"t: expected train timesteps from 0 to {last}, got {times.min():g} to {times.max():g}")
        return times

    def _conditions(self, batch: int | None, labels: Any, text: Any, text_lengths: Any) -> Conditions:
        config = self._config
        if config.condition == "class":
            return class_labels(labels, text, batch, config.num_classes, f"of which {config.num_classes} is the null class")
        if labels is not None:
            raise ValueError("labels: expected None, this model takes text [B,t,Dt]; got labels")
        return text_batch(text, text_lengths, batch, config.text_dim, config.num_text_tokens, "every image", lengths_count=True)

    def _schedule(self, steps: Any, solver: Any, spacing: Any, eta: Any) -> Schedule:
        config = self._config
        solver, spacing = arrays.choice(solver, "solver", SOLVERS), arrays.choice(spacing, "spacing", SPACINGS)
        steps = arrays.whole(steps, "steps", 1, max_steps(config, solver, spacing))
        eta = arrays.number(eta, "eta", 0, 1)
        if eta and solver != "ddim":
            raise ValueError(f"eta: expected 0 with solver {solver!r}, only 'ddim' has an eta; got {eta}")
        return make_schedule(config, steps, solver, spacing, eta)

    def _guidance(self, schedule: Schedule, scale: Any, interval: Any) -> F32:
        """The guidance scale of each step, float32 [S]."""
        scale = arrays.number(scale, "guidance_scale", -MAX_GUIDANCE, MAX_GUIDANCE)
        scales = np.full(len(schedule.timesteps), scale, np.float32)
        if interval is not None:
            if not isinstance(interval, tuple | list | np.ndarray) or len(interval) != 2:
                raise ValueError(f"guidance_interval: expected a pair (low, high) of train timesteps, got {interval!r}")
            last = self._config.num_train_timesteps - 1
            low, high = (arrays.number(bound, "guidance_interval", 0, last) for bound in interval)
            if low > high:
                raise ValueError(f"guidance_interval: expected (low, high) with low <= high, got {interval!r}")
            scales[(schedule.timesteps < low) | (schedule.timesteps > high)] = 1
        return scales

    def _noise_source(self, batch: int, schedule: Schedule, start: Any, steps: Any, seed: Any, first_index: Any) -> NoiseSource:
        if start is not None:
            start = self._latents(start, "noise", batch)
        if steps is not None:
            steps = arrays.floats(steps, "step_noise", (("steps", len(schedule.timesteps)), ("B", batch), *self._axes()))
        return NoiseSource(
            shape=self._config.latent_shape,
            steps=len(schedule.timesteps) if schedule.needs_noise else 0,
            start=start,
            step=steps if schedule.needs_noise else None,
            seed=resolve_seed(seed),
            first_index=arrays.whole(first_index, "first_index", 0, MAX_INDEX),
        )

    def __repr__(self) -> str:
        c = self._config
        condition = f"{c.num_classes} classes" if c.condition == "class" else f"text {c.num_text_tokens} x {c.text_dim}"
        sigma = ", learned sigma" if c.learn_sigma else ""
        sample = f"{c.num_tokens} tokens x {c.in_channels}"
        if c.input_size is not None:
            sample = f"{c.in_channels} x {c.input_size} x {c.input_size} latents, patch {c.patch_size}: {c.num_tokens} tokens"
        return (
            f"DiT({sample}; {condition}; {c.depth} x {c.hidden_size}, {c.num_heads} heads; "
            f"{c.prediction}{sigma}, {c.num_train_timesteps} train steps; " + self._tail()
        )
