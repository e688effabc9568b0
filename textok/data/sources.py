"""Where samples come from: shards, folders, tables and arrays, as one stream of samples in a fixed order.

    open_sources(paths)    finds what the paths are; opens nothing large
    Source.read(start)     its samples and skips from a position on, in order
    read_samples(paths)    the usable samples of all of them; what is left out is named, never dropped in silence

What a path may be:

    x.tar, .tar.gz, .tgz   a WebDataset shard: KEY.png (.jpg, .webp, ...) with KEY.json, KEY.txt and KEY.cls
    a folder               the shards in and below it, by name; then the pictures, with KEY.txt, KEY.json or KEY.cls beside
                           them, rows of metadata.jsonl or metadata.csv ("file_name"), or folders that are classes, also below
                           folders that are called train, val or test
    x.jsonl, .csv, .tsv    a row a sample; "file_name" (or image, path) names a picture beside the table
    x.npy, x.npz           pictures [n,H,W,3]; in an .npz arr_0 and labels arr_1 (ADM's), or "images" and "labels"
    x.png, .jpg, ...       one picture; captions as in a folder
    x.txt, -               a caption a line; "-" is standard input

Text is UTF-8, or UTF-16 with its mark. A picture is what is called so (.png, .jpg, ...) or, under another name or without
extension, begins as one. What cannot be used is a skip with the reason: broken links, pipes, names and captions that UTF-8
cannot hold, rows that are not text. Passed over without a word: hidden files, and files that nothing takes for a picture.

Reading is sequential and holds one sample (of a folder: the names of one directory; of a table: the keys that its rows say).
Order: as in the file, or by name. Positions (bytes of a shard, rows of all else) allow a reader to go on where another stopped.
"""

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..errors import DataError
from .base import PICTURES, Sample, Skip, Source, is_picture, teller, usable
from .folders import FolderSource, PictureSource
from .rows import ArraySource
from .shards import ShardSource
from .tables import STDIN, LineSource, TableSource, is_file
from .texts import printable

SHARDS = (".tar", ".tar.gz", ".tgz")
TABLES = (".jsonl", ".csv", ".tsv")
ARRAYS = (".npy", ".npz")

Paths = Iterable[str | os.PathLike[str]] | str | os.PathLike[str]


def open_sources(paths: Paths, without: str | os.PathLike[str] | None = None) -> list[Source]:
    """The sources of paths, in their order; a folder becomes the shards in and below it and then its pictures, picture files
    that follow one another one source. Folders that are classes are numbered over all paths together, so that a label is of one
    name. What is to be said of how they are read goes to this module's log.

    Parameters
    ----------
    paths
        See the module.
    without
        A folder that is left out where it lies below one of them: that of a run's results.

    Raises
    ------
    DataError
        A path where there is nothing, or nothing that can be a source.

    Examples
    --------
    >>> open_sources(["emoji"])  # doctest: +SKIP
    [ShardSource('emoji/fluent.tar'), ShardSource('emoji/google.tar'), ShardSource('emoji/twitter.tar')]
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found = list(itertools.chain.from_iterable(_sources_of(os.fspath(path), without) for path in paths))
    result: list[Source] = []
    for source in found:
        if isinstance(source, PictureSource) and result and isinstance(result[-1], PictureSource):
            result[-1].paths += source.paths
        else:
            result.append(source)
    if not result:
        raise DataError("expected shards, folders, tables, arrays or pictures to read, got none")
    folders = [source for source in result if isinstance(source, FolderSource)]
    if len(folders) > 1:
        names = frozenset[str]().union(*(folder.class_names() for folder in folders))
        for folder in folders:
            folder.beside = names
    for source in result:
        if (note := source.note()) is not None:
            logging.getLogger(__name__).warning("%s: %s", printable(source.name), note)
    return result


def _sources_of(name: str, without: str | os.PathLike[str] | None) -> list[Source]:
    path = Path(name)
    lower = path.name.lower()
    if name == STDIN:
        return [LineSource(path)]
    if path.is_dir():
        folder = FolderSource(path, without)
        shards: list[Source] = [ShardSource(shard) for shard in folder.shards(SHARDS)]
        there = folder.has_pictures() if shards else next(folder._list(), None) is not None
        if not shards and not there:
            raise DataError(f"{name}: expected shards, pictures or captions in this folder or below it, found none")
        return [*shards, folder] if there else shards
    if not path.exists():
        raise DataError(f"{name}: no such file or folder")
    kinds: tuple[tuple[tuple[str, ...], Callable[[Path], Source]], ...] = (
        (SHARDS, ShardSource),
        (TABLES, TableSource),
        (ARRAYS, ArraySource),
        ((".txt",), LineSource),
        (tuple(f".{extension}" for extension in PICTURES), lambda file: PictureSource([file])),
    )
    for suffixes, make in kinds:
        if lower.endswith(suffixes):
            return [make(path)]
    if is_file(path):
        with path.open("rb") as file:
            if is_picture(file.read(16)):
                return [PictureSource([path])]
    raise DataError(f"{name}: expected a folder, a picture or one of {', '.join((*SHARDS, *TABLES, *ARRAYS, '.txt'))}")


def fields_of(paths: Paths, most: int = 1000) -> list[str]:
    """The fields of the first samples' metadata, for an error that says which there are."""
    fields: dict[str, None] = {}
    for source in open_sources(paths):
        source.pictures = False
        for event in itertools.islice(source.read(), most):
            if isinstance(event, Sample):
                fields |= dict.fromkeys(event.metadata)
    return list(fields)


def read_samples(
    paths: Paths,
    *,
    need: Iterable[str] = ("picture",),
    field: str = "caption",
    skips: list[Skip] | Callable[[Skip], object] | None = None,
    strict: bool = False,
    pictures: bool = True,
) -> Iterator[Sample]:
    """The usable samples of all paths, in a fixed order, one in memory at a time.

    Parameters
    ----------
    paths
        One or several; see the module.
    need
        What a sample must have: any of "picture", "caption" and "label". One that lacks it is skipped.
    field
        The metadata's field that is the caption.
    skips
        A list that takes, or a function that is called with, each `Skip`. With None they go to the log of this module, as
        warnings.
    strict
        Raise a DataError at the first skip instead.
    pictures
        False leaves picture files in folders and of tables alone, where only words are wanted; `picture` is None then.

    Examples
    --------
    >>> skips = []
    >>> for sample in read_samples("photos", need=("picture", "caption"), skips=skips):  # doctest: +SKIP
    ...     print(sample.key, sample.caption(), len(sample.picture))
    """
    need = tuple(need)
    for what in need:
        if what not in ("picture", "caption", "label"):
            raise ValueError(f"need: expected 'picture', 'caption' or 'label', got {what!r}")
    tell = teller(skips)
    for source in open_sources(paths):
        source.pictures = pictures
        for event in source.read():
            event = usable(event, need, field)
            if isinstance(event, Sample):
                yield event
            elif strict:
                raise DataError(f"{event.source}: {event.key or 'the file'}: {event.reason}")
            else:
                tell(event)
