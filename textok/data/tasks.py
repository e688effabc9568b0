"""What `textok encode`, `decode` and `sample` do with a batch of samples, as objects that travel to other processes and
machines.

A task says what its results depend on (`settings`: models by the hash of their files), opens its models once a process
(`load`), and then turns samples into files. A sample that cannot be used becomes a `Skip` that says why; it never ends a run.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import arrays, files, weights
from ..bundled import FOLDER, find_model
from ..conditions import full_text
from ..config import DiTConfig, TexTokConfig
from ..dit import DiT
from ..errors import DataError
from ..image_tokenizer import TexTok
from ..pictures.preprocess import preprocess
from ..pipeline import PARTS, Pipeline
from ..text.caption_store import CAPTIONS_FILE, EMBEDDINGS_FILE
from ..text.embedding_store import STORE_FILE, EmbeddingStore
from ..text.open_embeddings import open_embeddings
from ..text.templates import known_spelling
from .jobs import NO_EMBEDDING, Product, Work
from .parts import RAW
from .shards import FLIPPED, FORMATS, LATENT, latent_of, pack_arrays, png_bytes
from .sources import Sample, Skip, Source

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

OUTPUTS = ("png", "shards", "npz")


def decode_picture(picture: Any, size: int, name: str) -> U8:
    """One picture, the bytes of a file or an array, as `preprocess` makes it; every flaw is a ValueError that names it."""
    from PIL import Image

    try:
        item = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        return preprocess([item], size)[0]
    except (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError) as problem:
        reason = str(problem).removeprefix("pictures[0]: ")
        if isinstance(problem, Image.UnidentifiedImageError):
            reason = f"no kind of picture that Pillow knows ({len(picture)} bytes)"
        raise ValueError(f"{name}: not a picture that can be read: {reason}") from None


# --- What a result depends on -------------------------------------------------------------------------------------------------


def fingerprint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Name and content of a model's folder, a pipeline's, a file's or an embedding store's (its encoder: what is in it never
    changes).
    """
    place = Path(path)
    if place.is_dir() and (place / STORE_FILE).is_file():
        return {"store": files.read_json(place / STORE_FILE, DataError)}
    if place.is_file():
        return {"name": place.name, "sha256": _hash_files([place])}
    folder = find_model(path)
    found = [folder / name for name in (weights.CONFIG_FILE, weights.PIPELINE_FILE, CAPTIONS_FILE, EMBEDDINGS_FILE)]
    found += sorted(folder.glob("*.safetensors")) if EMBEDDINGS_FILE not in os.listdir(folder) else []
    found = [file for file in found if file.is_file()]
    result = {"name": folder.name, "sha256": _hash_files(found)}
    if (folder / weights.PIPELINE_FILE).is_file():
        index = files.read_json(folder / weights.PIPELINE_FILE)
        for part in PARTS:
            if isinstance(index.get(part), str):
                inside = folder / index[part]
                result[part] = fingerprint(inside if inside.is_dir() else FOLDER / index[part])
    return result


def _hash_files(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


# --- Conditions ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextFinder:
    """Finds the embeddings of samples.

    Parameters
    ----------
    path
        What `open_embeddings` takes, or None where labels condition or nothing does.
    field
        The metadata's field that is the caption.
    cycle
        Where it is not 0, embeddings go by the samples' positions and start over after so many.
    """

    path: str | None
    field: str = "caption"
    cycle: int = 0

    @cached_property
    def opened(self) -> Any:
        return None if self.path is None else open_embeddings(self.path)

    @property
    def by(self) -> str:
        return "index" if self.cycle else getattr(self.opened, "by", "caption")

    def check_positions(self, sources: Sequence[Source]) -> None:
        """Embeddings without names go with the rows of one array, table or folder only."""
        if self.path is not None and self.by == "index" and not (len(sources) == 1 and sources[0].ranges):
            raise DataError(
                f"{self.path}: these embeddings have positions only, which fit one array, table or folder, got "
                f"{', '.join(source.name for source in sources[:3])}{', ...' * (len(sources) > 3)}; "
                "give a store, or an .npz with `captions` or `keys`"
            )

    def names(self, samples: Sequence[Sample]) -> list[Any]:
        if self.by == "index":
            return [(sample.position - 1) % (self.cycle or 1 << 62) for sample in samples]
        if self.by == "key":
            return [sample.key for sample in samples]
        return [known_spelling(sample.caption(self.field), sample.metadata, self.opened) for sample in samples]

    def problem(self, sample: Sample) -> str | None:
        """Why a sample has no embedding; None mostly."""
        name = self.names([sample])[0]
        try:
            self.opened.embeddings([name])
        except (DataError, ValueError):
            if isinstance(self.opened, EmbeddingStore) and name in self.opened:
                raise  # it is there and damaged, as others may be
            short = f"{name[:57]}..." if isinstance(name, str) and len(name) > 60 else name
            return f"{NO_EMBEDDING} of its {self.by} {short!r} in {self.path}"
        return None


class Conditioner:
    """What one side of a TexTok, or a text-to-image DiT, is given for samples: text, labels or nothing."""

    def __init__(self, kind: str, finder: TextFinder, config: Any) -> None:
        self.kind, self.finder = kind, finder  # kind: "text", "class" or ""
        self.classes = config.num_classes
        self.rows, self.masked = config.num_text_tokens, getattr(config, "text_mask", True)  # a DiT masks always
        if kind == "text":
            if finder.path is None:
                raise DataError(
                    "this model takes text: give its captions' embeddings, --embeddings STORE; `textok embed` makes one"
                )
            width = finder.opened.text_dim
            if width != config.text_dim:
                raise DataError(
                    f"{finder.path}: expected embeddings {config.text_dim} wide, as the model takes them, got {width}"
                )

    @classmethod
    def of_side(cls, config: TexTokConfig, side: str, finder: TextFinder) -> "Conditioner":
        if not config.has_text(side):
            return cls("", finder, config)
        return cls("class" if config.text_source == "class" else "text", finder, config)

    def conditions(self, samples: Sequence[Sample], problems: dict[int, str]) -> dict[str, Any]:
        """The model's arguments for the samples without problems; those that have no condition get a problem."""
        if self.kind == "class":
            for place, sample in enumerate(samples):
                if not 0 <= sample.metadata["label"] < self.classes:
                    problems[place] = f"expected a label from 0 to {self.classes - 1}, got {sample.metadata['label']}"
            return {"labels": [sample.metadata["label"] for place, sample in enumerate(samples) if place not in problems]}
        if self.kind == "":
            return {}
        good = [sample for place, sample in enumerate(samples) if place not in problems]
        try:
            text, lengths = self.finder.opened.embeddings(self.finder.names(good))
        except (DataError, ValueError):
            found = {place: self.finder.problem(sample) for place, sample in enumerate(samples) if place not in problems}
            missing = {place: problem for place, problem in found.items() if problem is not None}
            if not missing:
                raise
            problems |= missing
            return self.conditions(samples, problems)
        if text.shape[1] > self.rows:  # embedded with a higher limit than the model's
            text, lengths = text[:, : self.rows], np.minimum(lengths, self.rows)
        return {"text": full_text(text, self.rows, self.masked), "text_lengths": lengths}


def needs(config: TexTokConfig, side: str, finder: TextFinder) -> tuple[str, ...]:
    """What a sample must have for a side of a TexTok beside its picture or latents."""
    if not config.has_text(side):
        return ()
    if config.text_source == "class":
        return ("label",)
    return ("caption",) if finder.by == "caption" else ()


def textok_config(model: str) -> TexTokConfig:
    return TexTokConfig.from_dict(weights.load_config(find_model(model), TexTok.model_type))


# --- encode -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodeTask:
    """Pictures to latents; see `textok.data.encode`."""

    model: str
    embeddings: str | None = None
    field: str = "caption"
    dtype: str = "float32"
    format: str = "npz"
    flip: bool = False

    def __post_init__(self) -> None:
        arrays.choice(self.format, "format", FORMATS)

    @cached_property
    def need(self) -> tuple[str, ...]:
        return ("picture", *needs(textok_config(self.model), "tokenizer", TextFinder(self.embeddings)))

    def settings(self) -> dict[str, Any]:
        embeddings = None if self.embeddings is None else fingerprint(self.embeddings)
        return {
            "name": "encode",
            "model": fingerprint(self.model),
            "dtype": self.dtype,
            "embeddings": embeddings,
            "field": self.field,
            "format": self.format,
            "flip": self.flip,
        }

    def load(self, threads: int) -> Work:
        model = TexTok.from_pretrained(self.model, self.dtype, threads, side="tokenizer")
        size = model.config.image_size
        conditioner = Conditioner.of_side(model.config, "tokenizer", TextFinder(self.embeddings, self.field))

        def work(samples: list[Sample]) -> list[Product | Skip]:
            pictures, problems = decode_pictures(samples, size)
            condition = conditioner.conditions(samples, problems)

            def encode(samples: list[Sample], places: list[int]) -> list[Product]:
                batch = pictures[places]
                found = {LATENT: model.encode(batch, **condition)}
                if self.flip:
                    found[FLIPPED] = model.encode(batch[:, :, ::-1], **condition)
                return [
                    _latent_product(sample, self.format, {name: array[row] for name, array in found.items()})
                    for row, sample in enumerate(samples)
                ]

            return with_skips(samples, problems, encode)

        return work


def decode_pictures(samples: Sequence[Sample], size: int) -> tuple[U8, dict[int, str]]:
    """uint8 [n,size,size,3], and by its place what is wrong with a picture that cannot be read, which is black there."""
    pictures = np.zeros((len(samples), size, size, 3), np.uint8)
    problems = {}
    for place, sample in enumerate(samples):
        try:
            pictures[place] = decode_picture(sample.picture, size, sample.key)
        except ValueError as problem:
            problems[place] = str(problem).removeprefix(f"{sample.key}: ")
    return pictures, problems


def with_skips(
    samples: list[Sample], problems: dict[int, str], compute: Callable[[list[Sample], list[int]], list[Product]]
) -> list[Product | Skip]:
    """Products of the samples that have no problem, among skips of those that have."""
    places = [place for place in range(len(samples)) if place not in problems]
    products = iter(compute([samples[place] for place in places], places) if places else [])
    return [
        Skip(sample.key, sample.source, problems[place], sample.position) if place in problems else next(products)
        for place, sample in enumerate(samples)
    ]


def _latent_product(sample: Sample, format: str, latents: dict[str, F32]) -> Product:
    # The bytes of a shard's JSON go through as they are; captions and labels of other files come in as fields.
    metadata = sample.files.get("json")
    if metadata is None or any(extension in sample.files for extension in ("txt", "cls")):
        metadata = json.dumps(sample.metadata, ensure_ascii=False, default=str).encode()
    return Product(sample.key, {format: pack_arrays(format, latents), "json": metadata}, {})


# --- decode -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DecodeTask:
    """Latents to pictures; see `textok.data.decode`."""

    model: str
    embeddings: str | None = None
    field: str = "caption"
    dtype: str = "float32"
    kind: str = "png"
    by_source: bool = False  # whether keys get the name of their shard before them

    @cached_property
    def need(self) -> tuple[str, ...]:
        return needs(textok_config(self.model), "detokenizer", TextFinder(self.embeddings))

    def settings(self) -> dict[str, Any]:
        embeddings = None if self.embeddings is None else fingerprint(self.embeddings)
        return {
            "name": "decode",
            "model": fingerprint(self.model),
            "dtype": self.dtype,
            "embeddings": embeddings,
            "field": self.field,
        }

    def load(self, threads: int) -> Work:
        model = TexTok.from_pretrained(self.model, self.dtype, threads, side="detokenizer")
        shape = model.config.latent_shape
        conditioner = Conditioner.of_side(model.config, "detokenizer", TextFinder(self.embeddings, self.field))

        def work(samples: list[Sample]) -> list[Product | Skip]:
            latents = np.zeros((len(samples), *shape), np.float32)
            problems: dict[int, str] = {}
            for place, sample in enumerate(samples):
                try:
                    latent = latent_of(sample).latent
                    if latent.shape != shape:
                        raise ValueError(f"expected latents {list(shape)}, as the model has them, got {list(latent.shape)}")
                    latents[place] = latent
                except ValueError as problem:
                    problems[place] = str(problem)
            condition = conditioner.conditions(samples, problems)

            def decode(samples: list[Sample], places: list[int]) -> list[Product]:
                pictures = model.decode(latents[places], **condition)
                keys = (key_in_shard(sample) if self.by_source else sample.key for sample in samples)
                return [
                    picture_product(key, picture, sample.metadata, self.kind)
                    for key, sample, picture in zip(keys, samples, pictures)
                ]

            return with_skips(samples, problems, decode)

        return work


def folder_of(source: str) -> str:
    """What the folder of a shard's pictures is called, where there are several shards."""
    return Path(source).name.partition(".")[0]


def key_in_shard(sample: Sample) -> str:
    """A sample's key behind the name of its shard, which tells apart those of several."""
    return f"{folder_of(sample.source)}/{sample.key}"


def picture_product(key: str, picture: U8, metadata: dict[str, Any], kind: str) -> Product:
    """A picture as a job of this kind writes it."""
    files = {RAW: picture.tobytes()} if kind == "npz" else {"png": png_bytes(picture)}
    return Product(key, files, metadata)


# --- sample -------------------------------------------------------------------------------------------------------------------


class Wishes(Source):
    """What `sample` is asked for: sample k has the k-th of these labels or captions, which start over at their end."""

    kind = "wishes"
    ranges = True

    def __init__(self, count: int, labels: Sequence[int] | None = None, captions: Sequence[str] | None = None) -> None:
        super().__init__("wishes")
        self.count = count
        self.labels = None if labels is None else list(labels)
        self.captions = None if captions is None else list(captions)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Sample]:
        digits = max(6, len(str(self.count - 1)))
        for k in range(start, self.count if stop is None else stop):
            metadata: dict[str, Any] = {}
            if self.labels is not None:
                metadata["label"] = self.labels[k % len(self.labels)]
            if self.captions is not None:
                metadata["caption"] = self.captions[k % len(self.captions)]
            yield Sample(f"{k:0{digits}d}", None, metadata, self.name, position=k + 1)

    def files(self) -> Iterator[Path]:
        return iter(())

    def state(self, start: int, stop: int | None) -> str:
        return self._state

    @cached_property
    def _state(self) -> str:
        return hashlib.sha256(json.dumps([self.labels, self.captions]).encode()).hexdigest()

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class SampleTask:
    """Noise to pictures, or to latents where there is no detokenizer; see `textok.data.sample`."""

    model: str
    seed: int
    embeddings: str | None = None
    dtype: str = "float32"
    kind: str = "png"
    options: tuple[tuple[str, Any], ...] = ()  # of DiT.sample: steps, solver, guidance_scale, ...
    cycle: int = 0  # samples after which embeddings by position start over; 0: never
    need: tuple[str, ...] = ()
    field: str = "caption"

    def settings(self) -> dict[str, Any]:
        return {
            "name": "sample",
            "model": fingerprint(self.model),
            "dtype": self.dtype,
            "embeddings": None if self.embeddings is None else fingerprint(self.embeddings),
            "seed": self.seed,
            **dict(self.options),
        }

    def load(self, threads: int) -> Work:
        pipeline = None
        if is_pipeline(self.model):
            pipeline = Pipeline.from_pretrained(self.model, self.dtype, threads, side="detokenizer")
        dit = DiT.from_pretrained(self.model, self.dtype, threads) if pipeline is None else pipeline.dit
        by_text = dit.config.condition == "text"
        conditioner = Conditioner("text" if by_text else "", TextFinder(self.embeddings, cycle=self.cycle), dit.config)
        options = dict(self.options)

        def generate(samples: list[Sample], condition: dict[str, Any]) -> list[Product]:
            first = samples[0].position - 1
            if pipeline is None:
                latents = dit.sample(**condition, seed=self.seed, first_index=first, **options)
                return [_latent_product(sample, "npz", {LATENT: latent}) for sample, latent in zip(samples, latents)]
            result = pipeline(**condition, seed=self.seed, first_index=first, **options)
            captions = [{}] * len(samples) if result.captions is None else [{"caption": caption} for caption in result.captions]
            return [
                picture_product(sample.key, picture, sample.metadata | caption, self.kind)
                for sample, picture, caption in zip(samples, result.images, captions)
            ]

        def work(samples: list[Sample]) -> list[Product | Skip]:
            problems: dict[int, str] = {}
            condition = conditioner.conditions(samples, problems)
            if not by_text:
                condition = {"labels": [sample.metadata["label"] for sample in samples]}

            def run(good: list[Sample], places: list[int]) -> list[Product]:
                # Noise goes by a sample's number, so a call takes numbers that follow one another.
                products: list[Product] = []
                for part in _consecutive(good):
                    products += generate(good[part], {name: values[part] for name, values in condition.items()})
                return products

            return with_skips(samples, problems, run)

        return work


def _consecutive(samples: list[Sample]) -> Iterator[slice]:
    """Runs of samples whose positions follow one another; one, where none was skipped between."""
    start = 0
    for place in range(1, len(samples) + 1):
        if place == len(samples) or samples[place].position != samples[place - 1].position + 1:
            yield slice(start, place)
            start = place


def is_pipeline(model: str) -> bool:
    return (find_model(model) / weights.PIPELINE_FILE).is_file()


def dit_config(model: str) -> DiTConfig:
    """The config of a DiT, or of a pipeline's."""
    folder = find_model(model)
    if (folder / weights.PIPELINE_FILE).is_file():
        name = files.read_json(folder / weights.PIPELINE_FILE).get("dit", "dit")
        folder = folder / name if (folder / name).is_dir() else find_model(name)
    return DiTConfig.from_dict(weights.load_config(folder, DiT.model_type))
