"""Generator and tokenizer together: from classes or captions to pictures."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from . import arrays, bundled, files, weights
from .captions import checked_captions, embed, is_strings, most_tokens
from .conditions import full_text
from .dit import DiT
from .errors import ConfigError
from .image_tokenizer import PIXEL_TYPES, TexTok
from .model import batch_parts
from .pipeline_result import PipelineResult
from .progress import progress_bar
from .sampling import KEPT, Callback, RunOptions, Sampling
from .text.caption_store import CaptionStore
from .text.encoder import TextEncoder

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

PARTS = ("textok", "dit", "captions")


class Pipeline:
    """A DiT and the TexTok whose latents it makes, with captions for a DiT of classes.

    Parameters
    ----------
    textok, dit
        The two models. Of `textok` the detokenizer is enough.
    captions
        Where `dit` is class-conditional and the detokenizer takes text: what to draw each image's caption from. Not needed
        otherwise.
    sampling
        What this pipeline samples with where a call leaves `steps`, `solver`, `guidance_scale` or `guidance_interval` open;
        what it leaves open itself is `sampling.DEFAULTS`'.
    class_names
        A name for each class of a class-conditional `dit`, in the order of the labels; None where the captions have them, or
        nobody knows.

    Raises
    ------
    ConfigError
        Models that do not fit each other; says in what.

    Notes
    -----
    Class-conditional: DiT(class) makes the latents, a caption of that class is drawn, and its embedding goes to the
    detokenizer. Text-to-image: one caption's embedding goes to both. Source: TexTok (arXiv 2412.05796), sections 3.3 and 4.1.

    Examples
    --------
    >>> pipe = Pipeline.from_pretrained("emoji")  # doctest: +SKIP
    >>> pipe(labels=[3, 7], seed=0).images.shape  # doctest: +SKIP
    (2, 64, 64, 3)
    >>> Pipeline.from_pretrained("emoji-t2i")("a red apple", seed=0).save("apples")  # doctest: +SKIP
    """

    def __init__(
        self,
        textok: TexTok,
        dit: DiT,
        captions: CaptionStore | None = None,
        sampling: Sampling | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        for name, part, kind in (("textok", textok, TexTok), ("dit", dit, DiT)):
            if not isinstance(part, kind):
                raise TypeError(f"{name}: expected a {kind.__name__}, got {type(part).__name__}")
        if captions is not None and not isinstance(captions, CaptionStore):
            raise TypeError(f"captions: expected a CaptionStore or None, got {type(captions).__name__}")
        if sampling is not None and not isinstance(sampling, Sampling):
            raise TypeError(f"sampling: expected a Sampling or None, got {type(sampling).__name__}")
        self.textok, self.dit, self.captions = textok, dit, captions
        self.sampling = Sampling() if sampling is None else sampling
        self._class_names = None if class_names is None else _checked_names(class_names, dit.config)
        self._check_fit()
        self.dit = dit.for_latents_of(textok.config)
        try:
            settings = self.sampling.resolved(dit.config)
            settings.guidance(dit.config, settings.schedule(dit.config))
        except (ValueError, TypeError) as problem:
            raise ConfigError(f"sampling: {problem}") from None

    def _check_fit(self) -> None:
        t, d = self.textok.config, self.dit.config
        uses = [use for use in (t.text_encoder, d.text_encoder) if use is not None and use.identity]
        if len({use.identity for use in uses}) > 1:
            raise ConfigError(
                f"dit: expected the text encoder of the tokenizer, {uses[0].name} (identity {uses[0].identity}), got "
                f"{uses[1].name} (identity {uses[1].identity})"
            )
        if self.textok.side == "tokenizer":
            raise ConfigError("textok: expected a model that holds its detokenizer, got one of its tokenizer only")
        if t.latent_shape != d.latent_shape:
            raise ConfigError(
                f"dit: expected to make the tokenizer's latents {list(t.latent_shape)}, got {list(d.latent_shape)}"
            )
        if not t.has_text("detokenizer"):
            return
        if d.condition == "text":
            if t.text_source == "class" or t.text_dim != d.text_dim:
                wants = f"{t.num_classes} classes" if t.text_source == "class" else f"text of width {t.text_dim}"
                raise ConfigError(f"dit: expected what the detokenizer takes, {wants}, got text of width {d.text_dim}")
        elif t.text_source == "class":
            if t.num_classes < d.num_classes:
                raise ConfigError(f"dit: expected at most the tokenizer's {t.num_classes} classes, got {d.num_classes}")
        elif self.captions is None:
            raise ConfigError(
                "captions: expected a CaptionStore, since the DiT takes classes and the detokenizer text; got None"
            )
        elif self.captions.text_dim != t.text_dim or self.captions.longest > t.num_text_tokens:
            raise ConfigError(
                f"captions: expected at most {t.num_text_tokens} tokens x {t.text_dim}, got up to "
                f"{self.captions.longest} x {self.captions.text_dim}"
            )

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], dtype: str = "float32", threads: int | None = None, side: str = "both"
    ) -> Self:
        """Load a pipeline folder, or a bundled pipeline by its name; `dtype` and `threads` as in `TexTok.from_pretrained`.

        `side` is for the TexTok: making pictures needs its "detokenizer" only; "both", so that `pipe.textok` can encode too.

        The folder has a `model_index.json`: {"_class_name": "Pipeline", "textok": X, "dit": Y, "captions": Z, "sampling":
        {...}, "class_names": [...]}, where X, Y and Z name folders inside it, X and Y else bundled models. "captions" may be
        left out, and so may "class_names", one a class, and "sampling", whose keys are steps, solver,
        guidance_scale and guidance_interval. A ConfigError for an index that is none, or models that do not fit one another; a
        WeightsError for a name of none.

        Examples
        --------
        >>> Pipeline.from_pretrained("emoji-t2i").sampling.steps  # doctest: +SKIP
        5
        """
        folder = bundled.find_model(path)
        if not (folder / weights.PIPELINE_FILE).exists() and (folder / weights.CONFIG_FILE).exists():
            kind = files.read_json(folder / weights.CONFIG_FILE).get("model_type")
            known = {"textok": "TexTok", "dit": "DiT", "text_encoder": "TextEncoder"}
            how = f"; load it with textok.{known[kind]}.from_pretrained" if kind in known else ""
            raise ConfigError(f"{folder}: expected a pipeline, got a model of type {kind!r}{how}")
        index = files.read_json(folder / weights.PIPELINE_FILE)
        if index.get("_class_name") != "Pipeline":
            raise ConfigError(
                f'{folder / weights.PIPELINE_FILE}: expected "_class_name": "Pipeline", got {index.get("_class_name")!r}'
            )
        parts = {name: part_folder(folder, name, index) for name in PARTS if name != "captions" or index.get(name) is not None}
        unknown = sorted(index.keys() - {*PARTS, "_class_name", "sampling", "class_names"})
        if unknown:
            raise ConfigError(
                f"{folder / weights.PIPELINE_FILE}: unknown key {unknown[0]!r}; known are _class_name, "
                f"{', '.join(PARTS)}, sampling, class_names"
            )
        return cls(
            TexTok.from_pretrained(parts["textok"], dtype, threads, side),
            DiT.from_pretrained(parts["dit"], dtype, threads),
            CaptionStore.from_folder(parts["captions"]) if "captions" in parts else None,
            sampling_from(index.get("sampling", {}), f"{folder / weights.PIPELINE_FILE}: "),
            index.get("class_names"),
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the models, the captions and `model_index.json` to `folder`, made where missing; the index comes last."""
        path = Path(folder)
        self.textok.save_pretrained(path / "textok")
        self.dit.save_pretrained(path / "dit")
        index: dict[str, Any] = {"_class_name": "Pipeline", "textok": "textok", "dit": "dit"}
        if self.captions is not None:
            self.captions.save(path / "captions")
            index["captions"] = "captions"
        if settings := self.sampling.kept():
            index["sampling"] = settings
        if self._class_names is not None:
            index["class_names"] = self._class_names
        files.write_json(path / weights.PIPELINE_FILE, index)

    def __call__(
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
        output: str = "uint8",
        batch_size: int | None = None,
        threads: int | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        **unknown: Any,
    ) -> PipelineResult:
        """Pictures of classes, or of captions.

        Parameters
        ----------
        labels
            int [B] or their names (see `class_names`), classes; for a class-conditional DiT. A caption of each class is drawn
            for the detokenizer; for the null class, one of all. For a DiT-T2I strings in this first place are `captions`.
        captions
            B strings, embedded with `encoder`: for a DiT-T2I what the pictures show; for one of classes what the detokenizer
            sees in place of captions that are drawn.
        text, text_lengths
            Caption embeddings [B,t,Dt] and how many rows of each are real; for a DiT-T2I. The detokenizer sees them too, with
            zeros up to its `num_text_tokens` where it does not mask text.
        output
            "uint8" or "float32" images, as in `TexTok.decode`.
        steps ... callback
            As in `DiT.sample`, with the pipeline's `sampling` in place of its defaults. The captions drawn are, like the noise,
            determined by `seed` and a sample's index.

        Returns
        -------
        `PipelineResult` with images, latents, captions, labels and seed.

        Raises
        ------
        ValueError, TypeError
            An argument that does not fit; says what came and what was expected.

        Examples
        --------
        >>> Pipeline.from_pretrained("emoji-t2i")("a red apple", seed=0).images.shape  # doctest: +SKIP
        (1, 64, 64, 3)
        """
        arrays.no_unknown(unknown)
        arrays.choice(output, "output", list(PIXEL_TYPES))
        by_text = self.dit.config.condition == "text"
        if by_text and (is_strings(labels) or (isinstance(labels, list | tuple) and not labels)):
            if captions is not None:
                raise ValueError("captions: expected the captions once, got strings in the first place too")
            labels, captions = None, labels
        if not by_text:
            labels = self._numbers(labels)
        asked = Sampling(steps, solver, spacing, eta, guidance_scale, guidance_interval, noise, step_noise, seed, first_index)
        sampling = asked.over(self.sampling).resolved(self.dit.config)
        run = RunOptions(batch_size, threads, progress, callback)
        drawn = self._draw(labels, sampling) if captions is None else None
        if captions is not None:
            captions, text, text_lengths = self._embedded(captions, labels, text, threads)
        if by_text:
            conditions = self.dit.conditions(labels, text, text_lengths)
            self._check_rows(text)
        else:
            conditions = self.dit.conditions(labels, text if captions is None else None, None)
        latents = self.dit.run_sampling(conditions, sampling, run)
        if self.captions is not None and drawn is not None:
            captions = self.captions.captions(drawn)
            images = self._decode_drawn(self.captions, latents, drawn, output, run)
        else:
            same: dict[str, Any] = {"output": output, "batch_size": batch_size, "threads": threads, "progress": progress}
            if self.textok.config.text_source == "class":
                images = self.textok.decode(latents, labels=labels, **same)
            else:
                images = self.textok.decode(latents, self._full(text), text_lengths, **same)
        numbers = None if labels is None else arrays.view(labels, "labels").tolist()
        known = self.class_names
        names = [known.get(number) for number in numbers] if numbers is not None and known else None
        assert sampling.seed is not None, "settings that are resolved have a seed"
        return PipelineResult(images, latents, captions, numbers, sampling.seed, names, sampling.checked_first_index())

    @property
    def class_names(self) -> dict[int, str]:
        """The names of the classes, by number; empty where nothing gives any, and for text-to-image."""
        if self._class_names is not None:
            return dict(enumerate(self._class_names))
        return {} if self.captions is None or self.dit.config.condition == "text" else self.captions.class_names

    @property
    def encoder(self) -> TextEncoder:
        """The text encoder that the models' configs name, loaded when first asked for; see `TexTok.encoder`."""
        takers = self._takers()
        return next(
            (model for model in takers if model._encoder is not None or model.config.text_encoder is not None), takers[0]
        ).encoder

    @encoder.setter
    def encoder(self, encoder: TextEncoder) -> None:
        for model in self._takers():
            model.encoder = encoder

    def _takers(self) -> list[TexTok | DiT]:
        """The models that take text."""
        t = self.textok.config
        takers: list[TexTok | DiT] = [self.dit] if self.dit.config.condition == "text" else []
        if t.text_condition != "none" and t.text_source == "embedding":
            takers.append(self.textok)
        if not takers:
            raise ConfigError("encoder: expected a pipeline that takes text; neither of its models does")
        return takers

    def _numbers(self, labels: Any) -> Any:
        """Class numbers in place of names."""
        if not is_strings(labels):
            return labels
        known = self.class_names
        if not known:
            raise ValueError(
                f"labels: expected class numbers, 0 to {self.dit.config.num_classes}, got names, which this pipeline has "
                "none of"
            )
        by_name = {name: number for number, name in reversed(known.items())}
        names = [labels] if isinstance(labels, str) else [str(name) for name in labels]
        for name in names:
            if name not in by_name:
                import difflib

                near = difflib.get_close_matches(name, by_name, n=3, cutoff=0.4) or list(by_name)[:3]
                raise ValueError(
                    f"labels: expected names of classes, such as {', '.join(map(repr, near))}, got {name!r}; "
                    f"pipe.class_names has all {len(by_name)}, and only text-to-image pipelines take captions here"
                )
        return [by_name[name] for name in names]

    def _embedded(self, captions: Any, labels: Any, text: Any, threads: int | None) -> tuple[list[str], F32, Any]:
        """The captions as strings, and as both models take them."""
        if text is not None:
            raise ValueError("captions: expected captions or text, got both")
        by_text = self.dit.config.condition == "text"
        if not by_text and labels is None:
            raise ValueError("labels: expected classes [B] beside captions, which only the detokenizer sees; got None")
        texts = checked_captions(captions, None if by_text else np.size(arrays.view(labels, "labels")))
        shortest = min(self._takers(), key=lambda model: most_tokens(model.config))
        return texts, *embed(self.encoder, texts, shortest.config, threads)

    def _draw(self, labels: Any, sampling: Sampling) -> list[int] | None:
        """Checks the labels, also as the detokenizer's; where it takes text, the caption of each."""
        t, d = self.textok.config, self.dit.config
        if d.condition != "class" or labels is None or not t.has_text("detokenizer"):
            return None
        classes = arrays.integers(labels, "labels", None, 0, d.num_classes, f"of which {d.num_classes} is the null class")
        if self.captions is None or t.text_source == "class":
            arrays.integers(labels, "labels", None, 0, t.num_classes - 1, "the detokenizer's classes")
            return None
        assert sampling.seed is not None, "settings that are resolved have a seed"
        return self.captions.draw(classes.tolist(), sampling.seed, sampling.checked_first_index(), any_label=d.num_classes)

    def _decode_drawn(self, captions: CaptionStore, latents: F32, drawn: list[int], output: str, run: RunOptions) -> U8 | F32:
        """Images with the embeddings of the captions drawn, of which only those of a part are in memory at a time."""
        images: U8 | F32 = np.empty((len(latents), *self.textok.config.image_shape), PIXEL_TYPES[output])
        with progress_bar(run.progress, len(latents), "image") as bar:
            for part in batch_parts(len(latents), run.batch_size):
                text, lengths = captions.embeddings(drawn[part])
                self.textok.decode(
                    latents[part], self._full(text), lengths, output=output, out=images[part], threads=run.threads
                )
                bar.update(part.stop - part.start)
        return images

    def _check_rows(self, text: Any) -> None:
        """Whether the detokenizer takes as much text as the DiT did, before anything is computed."""
        most, rows = self.textok.config.num_text_tokens, arrays.view(text, "text").shape[1]
        if self.textok.config.has_text("detokenizer") and rows > most:
            raise ValueError(f"text: expected at most {most} rows a caption, which the detokenizer takes, got {rows}")

    def _full(self, text: Any) -> Any:
        """The captions' embeddings as the detokenizer takes them, so that no image depends on another's caption."""
        t = self.textok.config
        if text is None or not t.has_text("detokenizer"):
            return text
        return full_text(arrays.view(text, "text"), t.num_text_tokens, t.text_mask)

    def __repr__(self) -> str:
        parts = [self.textok, self.dit] + ([] if self.captions is None else [self.captions])
        return "Pipeline(\n  " + ",\n  ".join(map(repr, parts)) + ")"


def _checked_names(names: Any, config: Any) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"class_names: expected a list of strings, got {type(names).__name__}")
    if len(names) != config.num_classes:
        raise ConfigError(f"class_names: expected {config.num_classes}, one a class of the DiT, got {len(names)}")
    return list(names)


def sampling_of(path: str | os.PathLike[str]) -> Sampling:
    """What a pipeline samples with where nobody says otherwise, from its index alone; nothing of a DiT's folder."""
    index = bundled.find_model(path) / weights.PIPELINE_FILE
    return sampling_from(files.read_json(index).get("sampling", {}), f"{index}: ") if index.is_file() else Sampling()


def part_of(folder: Path, name: str) -> Path:
    """The folder itself, or where it is a pipeline of textok's that of its part, "textok" or "dit"."""
    file = folder / weights.PIPELINE_FILE
    index = files.read_json(file) if file.is_file() else {}
    return part_folder(folder, name, index) if index.get("_class_name") == "Pipeline" else folder


def part_folder(folder: Path, name: str, index: Mapping[str, Any]) -> Path:
    """The folder of a part: a plain name of one inside the pipeline's, or for models of a bundled one."""
    value = index.get(name)
    if not isinstance(value, str) or value in ("", ".", "..") or any(character in value for character in "/\\\0"):
        raise ConfigError(
            f"{folder / weights.PIPELINE_FILE}: {name}: expected the plain name of a folder beside it, got {value!r}"
        )
    if (folder / value).is_dir():
        return folder / value
    if name != "captions" and value in bundled.list_models():
        return bundled.FOLDER / value
    elsewhere = (
        ""
        if name == "captions"
        else f" and no bundled model of that name; bundled are {', '.join(bundled.list_models()) or 'none'}"
    )
    raise ConfigError(f"{folder / weights.PIPELINE_FILE}: {name}: no folder {value!r} beside it{elsewhere}")


def sampling_from(values: Any, where: str) -> Sampling:
    """The defaults of a pipeline's index; their values are checked beside the models."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}sampling: expected an object, got {type(values).__name__}")
    if unknown := sorted(values.keys() - set(KEPT)):
        raise ConfigError(f"{where}sampling: unknown key {unknown[0]!r}; known are {', '.join(KEPT)}")
    return Sampling(**values)
