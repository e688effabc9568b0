"""Batches of samples as arrays, for code of one's own."""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..errors import DataError
from .base import Sample, Skip, decode_pictures, teller
from .conditioning import TextFinder
from .options import BATCH_SIZE
from .ordered import ordered_map
from .sources import open_sources, read_samples


class Batch(NamedTuple):
    """Samples as arrays.

    Attributes
    ----------
    keys
        The samples' names.
    pictures
        uint8 [B,S,S,3], as `textok.preprocess` makes them.
    text, text_lengths
        float32 [B,t,Dt] and int32 [B], the embeddings of the captions, t the longest of them (a model that does not mask text
        wants `textok.conditions.full_text` of it); None without embeddings.
    metadata
        What is known of each.
    """

    keys: list[str]
    pictures: NDArray[np.uint8]
    text: NDArray[np.float32] | None
    text_lengths: NDArray[np.int32] | None
    metadata: list[dict[str, Any]]


def batches(
    paths: Any,
    size: int,
    *,
    batch_size: int = BATCH_SIZE,
    embeddings: Any = None,
    field: str = "caption",
    need: tuple[str, ...] = ("picture",),
    threads: int = 2,
    skips: list[Skip] | Callable[[Skip], object] | None = None,
    strict: bool = False,
) -> Iterator[Batch]:
    """Batches of preprocessed pictures in the order of the samples, decoded by threads ahead of their use.

    Parameters
    ----------
    paths, field, need, skips, strict
        As in `read_samples`.
    size
        Side of the pictures.
    batch_size
        Samples a batch; those that cannot be used are left out of theirs, and an empty batch is not given.
    embeddings
        What has the captions' embeddings, a path for `open_embeddings` or what it returns. Those without names go by position,
        with one array, table or folder only.
    threads
        That decode.

    Examples
    --------
    >>> for batch in batches("emoji", 64, embeddings="captions"):  # doctest: +SKIP
    ...     z = model.encode(batch.pictures, batch.text, batch.text_lengths)
    """
    threads = arrays.thread_count(threads, 1)
    finder = None
    if embeddings is not None:
        finder = TextFinder(str(embeddings), field)
        if not isinstance(embeddings, str) and hasattr(embeddings, "embeddings"):
            finder.__dict__["opened"] = embeddings
        paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        finder.check_positions(open_sources(paths))
        if finder.by == "caption" and "caption" not in need:
            need = (*need, "caption")
    tell = teller(skips)

    def make(samples: list[Sample]) -> tuple[Batch, list[Skip]]:
        pictures, problems = decode_pictures(samples, size)
        for place, sample in enumerate(samples):
            if place not in problems and finder is not None and (problem := finder.problem(sample)) is not None:
                problems[place] = problem
        good = [place for place in range(len(samples)) if place not in problems]
        kept = [samples[place] for place in good]
        text, lengths = finder.opened.embeddings(finder.names(kept)) if finder is not None and kept else (None, None)
        found = [Skip(samples[place].key, samples[place].source, problem) for place, problem in sorted(problems.items())]
        return Batch(
            [sample.key for sample in kept], pictures[good], text, lengths, [sample.metadata for sample in kept]
        ), found

    events = read_samples(paths, need=need, field=field, skips=tell, strict=strict)
    for _, (batch, found) in ordered_map(
        make, _groups(events, arrays.whole(batch_size, "batch_size", 1, arrays.MAX_BATCH)), threads
    ):
        for skip in found:
            if strict:
                raise DataError(f"{skip.source}: {skip.key}: {skip.reason}")
            tell(skip)
        if batch.keys:
            yield batch


def _groups(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    for sample in samples:
        group.append(sample)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
