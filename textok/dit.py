"""DiT: sampling a tokenizer's latents from a class or a caption."""

import copy
import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import arrays
from .conditions import Conditions, class_labels, text_batch
from .config import DiTConfig, TexTokConfig
from .image_model import ImageModel
from .model import IMAGES_AT_ONCE, batch_parts
from .noise import NoiseSource
from .progress import progress_bar
from .sampling import Callback, RunOptions, Sampling
from .schedules import Schedule

F32 = NDArray[np.float32]

STEP_NOISE_BYTES = 256 << 20  # of the noise of all steps, held at a time


class DiT(ImageModel):
    """A diffusion transformer over latent tokens, conditioned on a class or, as DiT-T2I, on a caption; or the original over
    latent images.

    `DiT.from_pretrained` loads one, `DiT.from_config` makes one with random weights; from arrays:

    Parameters
    ----------
    config
        A dict as in `config.json` (missing keys have their defaults) or a `DiTConfig`.
    weights
        A dict of arrays with the names and shapes of the checkpoint format, any float type; or int8 rows beside their scales.
    dtype
        What the model computes in: "float32", "bfloat16", "int8" or "int4"; see `from_pretrained`.
    threads
        The most threads that a call uses; None for all that the process may use.

    Raises
    ------
    ConfigError, WeightsError
        A config value that does not fit; tensors that are missing, too many, misshapen or not finite.

    Notes
    -----
    The model works on normalised latents (z - latent_mean) / latent_std: `denoise`'s x, all noise and what a callback sees are
    in that space; `sample` returns z. With `input_size` S in the config a sample is a latent image [C,S,S], and wherever
    [B,N,C] stands below, [B,C,S,S] is meant. What turns such images into pictures, a VAE with a scale factor of its own, is not
    here. Sources: DiT (arXiv 2212.09748); DiT-T2I, TexTok (2412.05796) section 3.3; the solvers are `solvers`'.
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
        captions: Any = None,
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
            [B] train timesteps, 0..T-1, integers or floats; times 0..1 for a model that predicts a velocity.
        labels
            int [B], 0..num_classes, the last of which is the null class; for a class-conditional model.
        text, text_lengths
            Caption embeddings [B,t,Dt], t at most Nt, and how many rows of each are real; for a model with `condition` "text".
        captions
            B strings in place of `text`, where the config names its text encoder: they are embedded with `encoder`.
        null
            Take the null condition for every image, and none of the other three.
        batch_size, out, threads
            As in `TexTok`.

        Returns
        -------
        float32 [B,N,C], or [B,N,2C] where the model learns sigma: first the prediction, then the variance fraction in [-1, 1].
        Over latent images [B,C,S,S] or [B,2C,S,S].

        Raises
        ------
        ValueError, TypeError
            An argument that does not fit; says what came and what was expected.

        Examples
        --------
        >>> dit = DiT.from_config({"num_tokens": 4, "hidden_size": 32, "depth": 1, "num_heads": 2, "num_classes": 3})
        >>> dit.denoise(np.zeros((2, 4, 8)), [999, 10], labels=[0, 2]).shape  # noise and variance
        (2, 4, 16)
        """
        config = self._config
        latents = self._latents(x, "x", None)
        batch = len(latents)
        times = self._timesteps(t, batch)
        if not isinstance(null, bool):
            raise TypeError(f"null: expected True or False, got {type(null).__name__} {null!r}")
        if null and not (labels is None and text is None and captions is None):
            raise ValueError(
                "null: expected no labels and no text with null=True, got "
                + ("labels" if labels is not None else "text" if text is not None else "captions")
            )
        conditions = Conditions() if null else self._conditions(batch, labels, text, text_lengths, captions, threads)
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
        captions: Any = None,
        steps: int | None = None,
        solver: str | None = None,
        spacing: str = "linspace",
        eta: float = 0.0,
        guidance_scale: float | None = None,
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
        **unknown: Any,
    ) -> F32:
        """Latents from noise.

        Parameters
        ----------
        labels
            int [B], 0..num_classes, the last of which is the null class; for a class-conditional model.
        text, text_lengths
            Caption embeddings [B,t,Dt], t at most Nt, and how many rows of each are real; for a model with `condition` "text".
        captions
            B strings in place of `text`, where the config names its text encoder: they are embedded with `encoder`.
        steps
            Steps of the solver; None for `sampling.DEFAULTS`: 20 with "dpmsolver++", 50 with "sde". Each is one evaluation of
            the network, two with "heun"; and two each where guidance is on.
        solver
            For diffusion: "dpmsolver++" (second order, the default; 20 steps, or 15, come as close to the data as 250 of "ddpm"
            on emoji), "ddim" or "ddpm" (what the original DiT samples with, in 250 steps). For a model that predicts a
            velocity: "sde" (Euler-Maruyama, the default), "euler" or "heun". See `solvers.SOLVERS`.
        spacing
            Which timesteps the steps visit, see `schedules.spaced_timesteps`: "linspace", "leading" or "trailing".
        eta
            For "ddim" only: the share of fresh noise, 0 to 1.
        guidance_scale
            s of classifier-free guidance u + s (c - u), from the null condition's prediction u and the condition's c; 1 runs
            only c, and is the default. Channels beyond `guidance_channels`, and the variance, are the condition's.
        guidance_interval
            (low, high) train timesteps (times for a velocity), both included, outside which only c runs. Heun's second
            evaluation goes by its step's time.
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
            Called after every step of each part of the batch as callback(step, steps, x), step from 0, x a copy of the part's
            state [b,N,C], normalised. What it raises ends the run and comes out of this call.

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
        arrays.no_unknown(unknown)
        sampling = Sampling(
            steps, solver, spacing, eta, guidance_scale, guidance_interval, noise, step_noise, seed, first_index
        )
        run = RunOptions(batch_size, threads, progress, callback, out)
        return self.run_sampling(self.conditions(labels, text, text_lengths, captions, threads), sampling, run)

    def conditions(
        self, labels: Any, text: Any, text_lengths: Any, captions: Any = None, threads: int | None = None
    ) -> Conditions:
        """The conditions of a batch of any size, checked: what `run_sampling` takes."""
        return self._conditions(None, labels, text, text_lengths, captions, threads)

    def run_sampling(self, conditions: Conditions, sampling: Sampling, run: RunOptions) -> F32:
        """`sample`, from its keywords as they are bundled: the conditions checked, what is open in `sampling` still open."""
        config = self._config
        sampling = sampling.resolved(config)
        schedule = sampling.schedule(config)
        guidance = sampling.guidance(config, schedule)
        batch = conditions.batch
        draw = self._noise_source(batch, schedule, sampling)
        result = arrays.output(run.out, "out", (batch, *config.latent_shape), np.float32, [*conditions.given(), *draw.given()])
        count = self._call_threads(run.threads)
        callback = run.checked_callback()
        noise_bytes = 4 * len(schedule.timesteps) * math.prod(config.latent_shape) if schedule.needs_noise else 0
        most = max(1, min(IMAGES_AT_ONCE, STEP_NOISE_BYTES // max(noise_bytes, 1)))
        parts = batch_parts(batch, run.batch_size, most)
        times = (schedule.timesteps * config.time_scale).astype(np.float32)
        mean, deviation = (self._by_channel(value) for value in (config.latent_mean, config.latent_std))
        step_of = np.cumsum(schedule.ends) - 1
        with progress_bar(run.progress, len(parts) * schedule.steps, "step") as bar:

            def tick(evaluation: int, x: F32) -> None:
                if not schedule.ends[evaluation]:
                    return
                bar.update()
                if callback is not None:
                    callback(int(step_of[evaluation]), schedule.steps, x.copy())

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
                    tick if run.progress or callback is not None else None,
                    count,
                )
                x *= deviation
                x += mean
        return result

    def for_latents_of(self, tokenizer: TexTokConfig) -> "DiT":
        """This model, working on the tokenizer's latents as its config says: (z - latent_mean) / latent_std.

        Itself where the tokenizer does not say, or this model's config has statistics of its own. The weights are shared.
        """
        arrays.instance(tokenizer, "tokenizer", TexTokConfig)
        mean, std = tokenizer.latent_mean, tokenizer.latent_std
        own = any(self._config.latent_mean) or any(value != 1 for value in self._config.latent_std)
        if own or (mean is None and std is None):
            return self
        twin = copy.copy(self)
        twin._config = dataclasses.replace(self._config, latent_mean=mean or 0.0, latent_std=std or 1.0)
        return twin

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
        last = self._config.last_time
        array = arrays.view(t, "t")
        if array.dtype.kind not in "iu" and not arrays.is_float(array.dtype):
            raise ValueError(f"t: expected train timesteps [B], integers or floats, got {arrays.describe(array)}")
        arrays.check_shape(array, "t", (("B", batch),), "pass one timestep an image" if array.ndim == 0 else "")
        times = arrays.as_float32(array, "t")
        if times.size and not (times.min() >= 0 and times.max() <= last):
            raise ValueError(f"t: expected train timesteps from 0 to {last:g}, got {times.min():g} to {times.max():g}")
        return times * np.float32(self._config.time_scale)

    def _conditions(
        self, batch: int | None, labels: Any, text: Any, text_lengths: Any, captions: Any, threads: int | None
    ) -> Conditions:
        config = self._config
        if config.condition == "class":
            if captions is not None:
                raise ValueError("captions: expected None, this model takes labels [B]; got captions")
            classes = config.num_classes
            if not config.null_class:
                return class_labels(labels, text, batch, classes - 1, "and this model has no null class")
            return class_labels(labels, text, batch, classes, f"of which {classes} is the null class")
        if labels is not None:
            raise ValueError("labels: expected None, this model takes text [B,t,Dt] or captions; got labels")
        text, text_lengths = self._embedded(captions, text, text_lengths, batch, threads)
        return text_batch(text, text_lengths, batch, config.text_dim, config.num_text_tokens, "every image", lengths_count=True)

    def _noise_source(self, batch: int, schedule: Schedule, sampling: Sampling) -> NoiseSource:
        start, step, count = sampling.noise, sampling.step_noise, len(schedule.timesteps)
        if start is not None:
            start = self._latents(start, "noise", batch)
        if step is not None and schedule.needs_noise:
            step = arrays.floats(step, "step_noise", (("steps", count), ("B", batch), *self._axes()))
        seed = sampling.seed
        assert seed is not None, "settings that are resolved have a seed"
        return NoiseSource(
            shape=self._config.latent_shape,
            steps=count if schedule.needs_noise else 0,
            start=start,
            step=step if schedule.needs_noise else None,
            seed=seed,
            first_index=sampling.checked_first_index(),
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
