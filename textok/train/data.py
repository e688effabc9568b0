"""Captioned pictures for training: where they are read from, their text embeddings, and the order of the batches.

    load           pairs, embeddings of one kind of caption, and the lengths that order the batches
    load_pairs     every usable sample of shards, folders or tables: pictures uint8 [n,S,S,3] by row, and their records
    Streamed       pictures that do not fit in memory, read where they lie
    embed_captions MiniLM token embeddings of any captions, ragged, by the engine
    encoder_of     what a model's config says of the encoder whose embeddings it is trained on
    TextStore      ragged token rows [total,Dt] with offsets [n+1] in memory; padded batches out of it
    StoredTexts    the same out of an embedding store on disk; of captions that are embedded as they are read: `encoded`
    Batches        an endless order of batches of captions of similar length, a function of seed and step
    mirrored       which pictures of a batch are flipped, a function of seed and step

What a step reads depends on its seed and number alone: not on the number of processes, nor on what was read before, so that a
training that was killed goes on exactly.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, Union

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from .. import _core
from ..captions import encoder_use
from ..conditions import full_text
from ..config import EncoderUse
from ..data.base import Sample, Skip, Source, usable
from ..data.folders import SKIPS_FILE
from ..data.folders import SPLITS as SPLIT_NAMES
from ..data.sources import open_sources
from ..errors import ConfigError, DataError
from ..files import replacing, write_text
from ..pictures.preprocess import decode_picture
from ..text.batches import by_length, embedded_rows
from ..text.embedding_store import EmbeddingStore
from ..text.embeddings import shortened
from ..text.encoder import TextEncoder
from ..text.encoder_places import encoder_place
from ..text.engine_embeddings import StoreEncoder
from ..text.open_embeddings import open_embeddings
from ..text.ragged_tokens import RaggedTokens, padded
from ..text.templates import fill_template, known_spelling
from .encoded import CaptionEncoder, EncodedTexts

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]
F16 = NDArray[np.float16]
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Place = tuple[int, Any]  # the number of a source, and where in it: the path of a folder's picture, or a position
Texts = Union["TextStore", "StoredTexts", EncodedTexts]
Item = TypeVar("Item")

MINILM, MAX_TOKENS = "minilm", 112
GIGABYTE = 1 << 30
CHUNK = 256  # samples that are decoded together
# What training reads of the names of splits; a validation set is a test set to it.
SPLITS = {name: "train" if name.startswith("train") else "test" for name in SPLIT_NAMES} | {"pair": "pair"}
TOLD = 10  # names of samples that were left out; all of them are in `Pairs.skips`
NOT_OURS = "arrays made elsewhere"
LOG = logging.getLogger(__name__)


@dataclass
class Pairs:
    """Pictures and what is known of them, in the order of the sources."""

    images: Any  # uint8 [n,S,S,3], an array or a Streamed; both take an array of rows; None where they are latents already
    records: list[dict[str, Any]]  # n dicts: key, split, and where there are such captions, label, style, ...
    skips: list[Skip] = field(default_factory=list)  # what was left out: Skip(key, source, reason)

    def rows(self, split: str) -> I64:
        """The indices of a split ("train", "test" or, where pairs are held out, "pair"), int64 [m]."""
        return np.flatnonzero([r["split"] == split for r in self.records])

    def column(self, field: str) -> list[Any]:
        """One field of every record, as a list; None where a record lacks it."""
        return [r.get(field) for r in self.records]

    def stamp(self, *fields: str) -> str:
        """What tells these samples apart from others: how many, and a hash of those fields of all of them."""
        told = digest(json.dumps([record.get(field) for field in fields], default=str) for record in self.records)
        return f"{len(self.records)} samples {told[:16]}"


def load_pairs(
    paths: Paths,
    held_out: str | os.PathLike[str] | None = None,
    *,
    size: int | None = None,
    caption: str | None = None,
    template: str = "a picture of a {name}",
    memory: float = 4.0,
    workers: int | None = None,
    index: str | os.PathLike[str] | None = None,
) -> Pairs:
    """Every usable sample below `paths`, whatever `textok.data.open_sources` reads: shards, folders, tables, arrays.

    Parameters
    ----------
    paths
        One or several.
    held_out
        A file with a key a line. These samples leave "train" for a split of their own, "pair": tests by pair, where the
        training data has the same thing in another style. A sample without "split" in its metadata is in "train"; "training" is
        "train", and "testing", "val", "valid", "validation", "dev" and "eval" are "test", in any case.
    size
        Side of the pictures, which are cropped as `textok.preprocess` does; None for that of the first, which all then must
        have.
    caption
        The field that a sample must have; None for none. In a folder of class folders a sample without it gets `template` with
        the class's name, see `textok.text.templates`.
    memory
        Gigabytes of pictures that are held in memory. Where there are more they are read from their files when wanted; shards
        must then be uncompressed.
    workers
        Threads that decode; None for one a core that the process may use.
    index
        A file (.jsonl) that keeps what a pass over a streamed set found, so that the next start does without.

    Returns
    -------
    Pairs. Every picture was decoded once: a sample whose picture or metadata cannot be read is in `skips`, by name, and the
    first of them in the log.
    """
    sources = open_sources(paths)
    workers = workers or _core.cpu_info()["cpus"]
    stamp = [[source.name, source.kind, source.state(0, None)] for source in sources] + [size, caption, template]
    if index is not None and Path(index).exists():
        pairs = read_index(index, stamp, sources, size, workers)
        if pairs is not None:
            hold_out(pairs.records, held_out)
            return pairs
    images: U8 | None = None
    places: list[Place] = []
    records: list[dict[str, Any]] = []
    skips: list[Skip] = []
    kept, side = True, size or 0  # 0: that of the first picture
    with ThreadPoolExecutor(workers) as pool, tqdm(unit="picture", desc="reading", disable=None) as bar:
        for chunk in chunks(events(sources, caption, template, skips), CHUNK):
            decoded, pictures = pool.map(functools.partial(decode, size=size), [sample for sample, _ in chunk]), []
            for (sample, place), picture in zip(chunk, decoded, strict=True):
                if not isinstance(picture, str):
                    side = side or len(picture)
                    if len(picture) != side:
                        picture = (
                            f"expected {side} x {side} pixels as the first picture has, got {len(picture)}; or give a size"
                        )
                if isinstance(picture, str):
                    skips.append(Skip(sample.key, sample.source, picture))
                    continue
                pictures.append(picture)
                places.append(place)
                records.append(record_of(sample))
            bar.update(len(chunk))
            if kept and pictures:
                images = np.empty((0, side, side, 3), np.uint8) if images is None else images
                start = len(images)
                images.resize((start + len(pictures), side, side, 3), refcheck=False)  # in place: never twice in memory
                images[start:] = pictures
                if images.nbytes > memory * GIGABYTE:
                    check_streamed(sources)
                    kept, images = False, None
    pairs = Pairs(images, records, skips)
    tell_skips(paths, pairs, caption)
    if not kept:
        pairs.images = Streamed(sources, places, side, workers)
    if index is not None and not kept:
        write_index(index, stamp, pairs)
    hold_out(records, held_out)
    return pairs


def split_of(told: Any) -> Any:
    """A split by the name that training has for it, "train", "test" or "pair"; one that it does not know as it is."""
    return SPLITS.get(told.lower(), told) if isinstance(told, str) else told


def record_of(sample: Sample) -> dict[str, Any]:
    """What is known of a sample."""
    return sample.metadata | {"split": split_of(sample.metadata.get("split", "train")), "key": sample.key}


def tell_splits(records: Sequence[Mapping[str, Any]]) -> None:
    """How many records are in splits that training does not know, to the log; a DataError where it has none to train on."""
    found = Counter(str(record["split"]) for record in records)
    said = ", ".join(f"{count} in {name!r}" for name, count in itertools.islice(found.items(), TOLD))
    others = sum(count for name, count in found.items() if name not in SPLITS.values())
    if others:
        LOG.warning("%d of %d pictures are in no split of train, test and pair and not read: %s", others, len(records), said)
    if not found["train"]:
        raise DataError(f"expected pictures of the split 'train', where those without a split are too, got {said}")


def tell_skips(paths: Paths, pairs: Pairs, caption: str | None) -> None:
    """The first samples that were left out, to the log; a DataError where there are no others."""
    skips, records = pairs.skips, pairs.records
    if not records:
        wanted = f" with a {caption!r} (data.caption = '' where no model reads any)" if caption else ""
        first = f"; the first of {len(skips)} left out: {skips[0].source} {skips[0].key}: {skips[0].reason}" if skips else ""
        raise DataError(f"{paths}: expected pictures{wanted}, found none{first}")
    for skip in skips[:TOLD]:
        LOG.warning("left out: %s %s: %s", skip.source, skip.key, skip.reason)
    if len(skips) > TOLD:
        LOG.warning(
            "left out: %d more, %d of %d in all: see %s of the run", len(skips) - TOLD, len(skips), len(skips) + len(records),
            SKIPS_FILE,
        )  # fmt: skip


def write_skips(folder: Path, skips: Sequence[Skip]) -> None:
    """What was left out, each with the reason, as skips.jsonl of a run's folder; no file where nothing was."""
    path = folder / SKIPS_FILE
    if not skips:
        path.unlink(missing_ok=True)
        return
    write_text(path, "".join(json.dumps(skip._asdict(), ensure_ascii=False) + "\n" for skip in skips))


def chunks(items: Iterable[Item], count: int) -> Iterator[list[Item]]:
    items = iter(items)
    while chunk := list(itertools.islice(items, count)):
        yield chunk


def events(
    sources: Sequence[Source], caption: str | None, template: str, skips: list[Skip], need: tuple[str, ...] = ("picture",)
) -> Iterator[tuple[Sample, Place]]:
    """(sample, (number of its source, where to read it from)) of everything usable; the rest to `skips`."""
    need = (*need, "caption") if caption else need
    for number, source in enumerate(sources):
        begin = 0
        for event in source.read():
            if isinstance(event, Sample):
                if caption and "class_name" in event.metadata and event.caption(caption) is None:
                    event.metadata[caption] = fill_template(template, event.metadata)
                place = (number, event.source if source.kind == "folder" else begin)
                begin = event.position
                event = usable(event, need, caption or "caption")
            if isinstance(event, Skip):
                skips.append(event)
            else:
                yield event, place


def decode(sample: Sample, size: int | None) -> U8 | str:
    """The picture uint8 [S,S,3] of a sample, or what is wrong with it."""
    try:
        return decode_picture(sample.picture, size, sample.key)
    except ValueError as problem:
        return str(problem).removeprefix(f"{sample.key}: ")


class Streamed:
    """Pictures that are read from their files when they are asked for: `streamed[rows]` is uint8 [len(rows),S,S,3].

    places: for each row the number of its source and where in it the sample is: the path of a folder's picture, or a position.
    """

    def __init__(self, sources: Sequence[Source], places: list[Place], size: int, workers: int) -> None:
        self.sources, self.places, self.size = sources, places, size
        self.shape = (len(places), size, size, 3)
        self.pool = ThreadPoolExecutor(workers)
        self.coming: dict[int, Future[U8]] = {}  # row -> picture to be

    def __len__(self) -> int:
        return self.shape[0]

    def expect(self, rows: I64) -> None:
        """Begin to read `rows` in the background; a later `[rows]` takes them from there."""
        for row in rows.tolist():
            if row not in self.coming:
                self.coming[row] = self.pool.submit(self.read, row)

    def __getitem__(self, rows: Any) -> U8:
        if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "iu":
            rows = np.arange(len(self))[rows]  # a slice, a number, a mask
        if rows.ndim == 0:
            return self.read(int(rows))
        held = [self.coming.pop(row) if row in self.coming else self.pool.submit(self.read, row) for row in rows.tolist()]
        return np.stack([picture.result() for picture in held])

    def read(self, row: int) -> U8:
        number, place = self.places[row]
        source = self.sources[number]
        sample: Sample | None
        if source.kind == "folder":
            sample = Sample(place, Path(place).read_bytes(), {}, place)
        else:
            sample = next((event for event in source.read(place) if isinstance(event, Sample)), None)
        picture = "the file ends" if sample is None else decode(sample, self.size)
        if isinstance(picture, str):
            raise DataError(f"{source.name} at {place}: {picture}; it was whole when the training began")
        return picture


def check_streamed(sources: Sequence[Source]) -> None:
    """DataError where pictures cannot be read one at a time."""
    for source in sources:
        if source.kind == "shard" and is_compressed(source.path):
            raise DataError(
                f"{source.name}: more pictures than data.memory allows, and a compressed shard is read in order only: unpack it"
            )
        if source.kind not in ("shard", "folder", "array"):
            raise DataError(
                f"{source.name}: more pictures than data.memory allows; give shards or a folder in place of a {source.kind}"
            )


def is_compressed(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def write_index(file: str | os.PathLike[str], stamp: list[Any], pairs: Pairs) -> None:
    with replacing(Path(file)) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as out:
        out.write(json.dumps({"stamp": stamp, "size": pairs.images.size, "skips": pairs.skips}) + "\n")
        for record, place in zip(pairs.records, pairs.images.places, strict=True):
            out.write(json.dumps([place, record], ensure_ascii=False) + "\n")


def read_index(
    file: str | os.PathLike[str], stamp: list[Any], sources: Sequence[Source], size: int | None, workers: int
) -> Pairs | None:
    """The pairs of an index, or None where the sources or settings are others now."""
    try:
        with Path(file).open(encoding="utf-8") as lines:
            head = json.loads(next(lines))
            if head["stamp"] != stamp:
                return None
            rows = [json.loads(line) for line in lines]
        records = [record | {"split": split_of(record["split"])} for _, record in rows]
        images = Streamed(sources, [place for place, _ in rows], size or head["size"], workers)
        return Pairs(images, records, [Skip(*skip) for skip in head["skips"]])
    except (ValueError, LookupError, TypeError, StopIteration) as problem:
        raise DataError(
            f"{file}: expected an index that a training wrote (data.index), got another file or a damaged one "
            f"({type(problem).__name__}): remove it, or give another name"
        ) from None


def hold_out(records: list[dict[str, Any]], file: str | os.PathLike[str] | None) -> None:
    """Puts the records whose keys are in `file`, a line each (None: none), into the split "pair", all of a key."""
    if file is None:
        return
    by_key: dict[str, list[dict[str, Any]]] = {}  # two sources may share a key
    for record in records:
        by_key.setdefault(record["key"], []).append(record)
    for key in filter(None, map(str.strip, Path(file).read_text(encoding="utf-8").split("\n"))):
        found = [record for record in by_key.get(key, []) if record["split"] not in ("test", "pair")]
        if not found:
            raise ValueError(f"{file}: expected keys, each once, of pictures outside the split test, got {key} in a line")
        for record in found:
            record["split"] = "pair"


def keep_tests(records: list[dict[str, Any]], share: float) -> None:
    """Puts this share of the records, one at least, into the split "test" where none is in it; which ones, a hash of their keys
    says.
    """
    if not share or any(record["split"] == "test" for record in records):
        return
    by_hash = sorted((r for r in records if r["split"] == "train"), key=lambda record: digest([record["key"]]))
    kept = by_hash[: max(1, round(share * len(by_hash)))]
    if len(kept) == len(by_hash):
        raise DataError(
            f"data.test_share: expected a share of the pictures that leaves some to train on, got {share:g} of {len(by_hash)}"
        )
    for record in kept:
        record["split"] = "test"
    LOG.info("no picture is marked as test: %d of %d are kept for tests (data.test_share)", len(kept), len(records))


def weighted(records: Sequence[Mapping[str, Any]], rows: I64, weights: Mapping[str, int]) -> I64:
    """`rows` with each as often as the source of its picture has weight (1 where it is not named); a ConfigError for the name
    of no source.
    """
    sources = [records[row].get("source", "") for row in rows]
    for name in weights:
        if name not in sources:
            found = ", ".join(sorted({str(source) for source in sources})[:20])
            raise ConfigError(f"data.weights: expected sources of the training pictures ({found}), got {name!r}")
    return np.repeat(rows, [weights.get(source, 1) for source in sources])


def load(
    paths: Paths,
    caption: str = "caption_long",
    held_out: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] = "captions.npz",
    order_by: str = "caption_long",
    **how: Any,
) -> tuple[Pairs, Texts | None, I64]:
    """Pairs, the texts of one kind of caption (caption_long, caption, caption_name, ...), and int64 [n] for `Batches`.

    Parameters
    ----------
    paths, caption, held_out, how
        As for `load_pairs`.
    cache
        Where the embeddings are: an embedding store that `textok embed` filled, or arrays of your own (.npy, .npz,
        .safetensors), see `textok.open_embeddings`; or a file .npz for those of MiniLM, which is written where it
        is not there, or was written for other captions.
    order_by
        The captions whose lengths order the batches, whichever are read: the order is then the same for every model of a seed.
        Where a sample has no such field, `caption`.
    """
    pairs = load_pairs(paths, held_out, caption=caption, **how)
    return pairs, *load_texts(pairs, caption, cache, order_by)


def load_texts(
    pairs: Pairs,
    caption: str,
    cache: str | os.PathLike[str],
    order_by: str = "caption_long",
    encoder: CaptionEncoder | None = None,
) -> tuple[Texts | None, I64]:
    """The last two of what `load` returns; no texts and lengths of 0 where `caption` is "". Without a `cache` captions are
    embedded by the `encoder` as they are read.
    """
    if not caption:
        return None, np.zeros(len(pairs.records), np.int64)
    ordering = [record.get(order_by) or record[caption] for record in pairs.records]
    texts = open_texts(pairs, caption, cache) if encoder is None or cache else EncodedTexts(pairs.column(caption), encoder)
    if not isinstance(texts, TextStore):
        return texts, np.array([len(text) for text in ordering])
    same = ordering == pairs.column(caption)
    return texts, texts.lengths.astype(np.int64) if same else np.array(
        [len(ids) for ids in minilm().tokenize(ordering, MAX_TOKENS)]
    )


def open_texts(pairs: Pairs, caption: str, cache: str | os.PathLike[str]) -> Texts:
    """The embeddings of every record's `caption`, for `cache` see `load`."""
    if Path(cache).suffix == ".npz" and kept_digest(cache) != NOT_OURS:
        return embed_captions(pairs.column(caption), cache)
    return StoredTexts(cache, pairs, caption)


def has_texts(pairs: Pairs, caption: str, cache: str | os.PathLike[str]) -> bool:
    """Whether `open_texts` has nothing to embed."""
    return Path(cache).suffix != ".npz" or kept_digest(cache) in (NOT_OURS, digest(pairs.column(caption)))


def open_drawn(
    pairs: Pairs, caption: str, fields: Sequence[str], cache: str | os.PathLike[str], encoder: CaptionEncoder
) -> list[Texts]:
    """Texts of each field of which training draws, see `DataSettings.captions`; samples that lack it have `caption` there.

    They come from a store that has the captions of all fields; otherwise they are embedded as they are read, whatever .npz
    holds those of `caption`.
    """
    stored = bool(cache) and (Path(cache).suffix != ".npz" or kept_digest(cache) == NOT_OURS)
    found: list[Texts] = []
    for name in fields:
        column = [record.get(name) or record[caption] for record in pairs.records]
        if column == pairs.column(caption) and name != caption:
            raise ConfigError(f"data.captions: expected fields of the metadata, no sample has {name!r}")
        if not stored:
            found.append(EncodedTexts(column, encoder))
            continue
        seen = [{"key": record["key"], name: text} for record, text in zip(pairs.records, column, strict=True)]
        texts = StoredTexts(cache, dataclasses.replace(pairs, records=seen), name)
        if texts.store.by != "caption":
            raise ConfigError(
                f"data.captions: expected embeddings by caption as data.cache, got those of {cache} by {texts.store.by}"
            )
        found.append(texts)
    return found


class StoredTexts:
    """Texts whose embeddings lie in what `textok.open_embeddings` takes: an embedding store, which is mapped into
    memory, or arrays made elsewhere, which are found by caption, by key or by position.
    """

    def __init__(self, path: str | os.PathLike[str], pairs: Pairs, caption: str) -> None:
        self.store = open_embeddings(path)
        if self.store.by == "index":
            count = len(self.store)
            if count != len(pairs.records) or pairs.skips:
                raise DataError(
                    f"{path}: its {count} embeddings have positions only: expected one for each of {len(pairs.records)} "
                    f"samples, none of them left out ({len(pairs.skips)} are); or give a store, or an .npz with captions "
                    "or keys"
                )
            self.names: list[Any] = list(range(count))
            return
        self.names = pairs.column("key" if self.store.by == "key" else caption)
        missing = self.missing()
        if missing and self.store.by == "caption":
            self.names = [
                known_spelling(name, record, self.store) for name, record in zip(self.names, pairs.records, strict=True)
            ]
            missing = self.missing()
        if missing:
            raise DataError(
                f"{path}: no embedding of {len(missing)} of {len(set(self.names))} {self.store.by}s, "
                f"the first is {shortened(missing[0])}"
            )

    def missing(self) -> list[Any]:
        """The names that the store has not."""
        wanted = list(dict.fromkeys(self.names))
        return self.store.missing(wanted) if hasattr(self.store, "missing") else [n for n in wanted if n not in self.store]

    def batch(self, rows: Iterable[int]) -> tuple[Tensor, Tensor]:
        """As `TextStore.batch`."""
        text, lengths = self.store.embeddings([self.names[row] for row in rows])
        return torch.from_numpy(text), torch.from_numpy(lengths.astype(np.int64))


def condition(config: Mapping[str, Any], texts: Texts | None, labels: Tensor | None, rows: I64) -> dict[str, Tensor]:
    """What a TexTok of `config` (a dict) takes beside the pictures `rows`, as keyword arguments: text [B,t,Dt] with its
    lengths, labels [B], or nothing.
    """
    if config["text_condition"] == "none":
        return {}
    if config["text_source"] == "class":
        assert labels is not None  # a model on classes has its pictures' labels taken first
        return {"labels": labels[rows]}
    assert texts is not None  # `Pictures` refuses a model that reads text where there are no captions
    text, lengths = texts.batch(rows)
    most = config["num_text_tokens"]
    text = torch.from_numpy(full_text(text[:, :most].numpy(), most, config["text_mask"]))
    return {"text": text, "text_lengths": lengths.clamp(max=most)}


@functools.cache
def minilm() -> TextEncoder:
    """The bundled text encoder, in float32: what models are trained on is what `captions=` gives them later."""
    return TextEncoder.from_pretrained(MINILM)


def minilm_told() -> str:
    """What a file of MiniLM's embeddings says of them, as JSON."""
    return json.dumps(StoreEncoder(minilm(), MAX_TOKENS).described, sort_keys=True)


def encoder_of(texts: Texts | None) -> EncoderUse | None:
    """What a model's config says of the encoder whose embeddings `texts` are; None where they do not say."""
    if isinstance(texts, TextStore) and texts.text_dim == minilm().text_dim:
        return encoder_use(json.loads(minilm_told()))
    if isinstance(texts, EncodedTexts):
        made = texts.encoder
        return EncoderUse(encoder_place(str(made.name)), made.encoder.identity, made.max_tokens)
    store = texts.store if isinstance(texts, StoredTexts) else None
    return encoder_use(store.encoder) if isinstance(store, EmbeddingStore) else None


def minilm_rows(captions: Sequence[str], batch_size: int = 64) -> list[F16]:
    """Captions (n strings) -> a list of n float16 arrays [t_i, 384]: MiniLM's last state of every token. The same captions are
    embedded once."""
    distinct = list(dict.fromkeys(captions))
    rows = embedded_rows(StoreEncoder(minilm(), MAX_TOKENS), distinct, batch_size, progress=sys.stderr.isatty())
    held = dict(zip(distinct, (states.astype(np.float16) for states in rows), strict=True))
    return [held[caption] for caption in captions]


class TextStore(RaggedTokens):
    """Embeddings of n captions, float16, as batches of tensors."""

    @classmethod
    def join(cls, rows: Sequence[NDArray[Any]]) -> "TextStore":
        """From a list of [t_i, Dt] arrays."""
        return super().join([row.astype(np.float16) for row in rows])

    def batch(self, rows: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Caption indices [B] -> float32 [B,t,Dt], zero-padded to the longest, and lengths int64 [B]."""
        text, lengths = padded([self.row(i) for i in rows], self.text_dim)
        return torch.from_numpy(text), torch.from_numpy(lengths.astype(np.int64))


def digest(strings: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(strings).encode()).hexdigest()


def kept_digest(cache: str | os.PathLike[str]) -> str | None:
    """The digest of the captions whose embeddings a .npz file holds; None where there is no file or they are another encoder's,
    NOT_OURS where it holds other arrays, which are never written over.
    """
    if not Path(cache).exists():
        return None
    with np.load(cache) as stored:
        if "digest" not in stored.files:
            return NOT_OURS
        if "encoder" in stored.files and str(stored["encoder"]) != minilm_told():
            return None
        return str(stored["digest"])


def embed_captions(captions: Sequence[str], cache: str | os.PathLike[str]) -> TextStore:
    """A TextStore for `captions`, kept in the file `cache` (.npz) under a hash of them and what the encoder is.

    A file from before 0.2 says nothing of its encoder, which was MiniLM in PyTorch: it still fits, so that a training goes on
    with what it began with, and the log says so.
    """
    cache, told = Path(cache), digest(captions)
    if kept_digest(cache) == told:
        with np.load(cache) as stored:
            if "encoder" not in stored.files:
                LOG.warning(
                    "%s: MiniLM's embeddings as PyTorch made them are kept; those of textok's engine, which captions as "
                    "strings become, differ by 3%%. Delete the file to train on these",
                    cache,
                )
            return TextStore(stored["tokens"], stored["offsets"])
    store = TextStore.join(minilm_rows(captions))
    cache.parent.mkdir(parents=True, exist_ok=True)
    with replacing(cache) as part, part.open("wb") as file:  # a name of its own for every writer
        np.savez(file, tokens=store.tokens, offsets=store.offsets, digest=told, encoder=minilm_told())
    return store


class Batches:
    """An endless order of batches, the same for the same seed.

    Every epoch shuffles the rows, cuts them into pools of `pool` batches, sorts a pool by caption length, cuts it into batches
    and shuffles these: a batch's captions are then of similar length and little of it is padding. The order does not depend on
    whether a model reads the text.

    With `near` rows are not shuffled over the whole epoch but so that a stretch of `near` batches comes from neighbouring rows,
    in stretches of random order and borders: what is streamed from shards is then read from few of them at a time.
    """

    def __init__(self, lengths: I64, batch_size: int, seed: int, pool: int = 8, near: int | None = None) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.pool = pool
        self.near = near
        if len(self.lengths) < batch_size:
            raise ValueError(
                f"run.batch_size: expected at most {len(self.lengths)}, the pictures of the training split, got {batch_size}"
            )
        self.per_epoch = len(self.lengths) // batch_size
        self._held: tuple[int, I64] = (-1, np.empty((0, 0), np.int64))  # the last epoch asked for

    def epoch(self, number: int) -> I64:
        """The batches of one epoch: int64 [per_epoch, batch_size] of row numbers."""
        rng = np.random.default_rng([self.seed, number])
        order = self.shuffled(rng)[: self.per_epoch * self.batch_size]
        batches = []
        step = self.pool * self.batch_size
        for start in range(0, len(order), step):
            rows = order[start : start + step]
            batches.append(np.stack([rows[places] for places in by_length(self.lengths[rows], self.batch_size)]))
        if self.near:
            return np.concatenate([rng.permutation(batch) for batch in batches])
        return rng.permutation(np.concatenate(batches))

    def shuffled(self, rng: np.random.Generator) -> I64:
        """All rows in the order of an epoch, int64 [n]."""
        if not self.near:
            return rng.permutation(len(self.lengths))
        rows = np.roll(np.arange(len(self.lengths)), rng.integers(len(self.lengths)))
        stretch = self.near * self.batch_size
        stretches = [rng.permutation(rows[start : start + stretch]) for start in range(0, len(rows), stretch)]
        return np.concatenate([stretches[place] for place in rng.permutation(len(stretches))])

    def __getitem__(self, step: int) -> I64:
        """The rows of batch number `step`, counted over all epochs: int64 [batch_size]."""
        number, place = divmod(step, self.per_epoch)
        if self._held[0] != number:
            self._held = (number, self.epoch(number))
        return self._held[1][place]


def mirrored(images: U8, seed: int, step: int, part: int = 0, parts: int = 1) -> U8:
    """uint8 [B,S,S,3], one of the equal parts of a step, with about half of the pictures flipped left to right.

    Which ones is a function of seed and step, however the step is parted. Not for data whose captions name left and right.
    """
    flips = np.random.default_rng([seed, step, 1]).random(len(images) * parts) < 0.5
    flips = flips[part * len(images) : (part + 1) * len(images)]
    return np.where(flips[:, None, None, None], images[:, :, ::-1], images)
