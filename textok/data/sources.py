"""Where samples come from: shards, folders, tables and arrays, as one stream of samples in a fixed order.

    open_sources(paths)    finds what the paths are; opens nothing large
    Source.read(start)     its samples and skips from a position on, in order
    read_samples(paths)    the usable samples of all of them; what is left out is named, never dropped in silence

What a path may be:

    x.tar, .tar.gz, .tgz   a WebDataset shard: KEY.png (.jpg, .webp, ...) with KEY.json, KEY.txt and KEY.cls
    a folder with .tar     its shards, by name
    any other folder       pictures below it, with KEY.txt or KEY.json beside them, rows of metadata.jsonl ("file_name"),
                           or folders that are classes
    x.jsonl, .csv, .tsv    a row a sample; "file_name" (or image, path) names a picture beside the table
    x.npy, x.npz           pictures [n,H,W,3]; in an .npz arr_0 and labels arr_1 (ADM's), or "images" and "labels"
    x.png, .jpg, ...       one picture; captions as in a folder
    x.txt, -               a caption a line; "-" is standard input

Reading is sequential and holds one sample (of a folder: the names of one directory). Order: as in the file, or by name.
Positions (bytes of a shard, rows of all else) allow a reader to go on where another stopped.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..errors import DataError
from .folders import FolderSource, PictureSource
from .rows import ArraySource
from .samples import PICTURES, Sample, Skip, Source, teller, usable
from .shards import ShardSource
from .tables import STDIN, LineSource, TableSource

SHARDS = (".tar", ".tar.gz", ".tgz")
TABLES = (".jsonl", ".csv", ".tsv")
ARRAYS = (".npy", ".npz")

Paths = Iterable[str | os.PathLike[str]] | str | os.PathLike[str]


def open_sources(paths: Paths) -> list[Source]:
    """The sources of paths, in their order; a folder with shards becomes its shards, picture files that follow one another one
    source.

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
    found = list(itertools.chain.from_iterable(_sources_of(os.fspath(path)) for path in paths))
    result: list[Source] = []
    for source in found:
        if isinstance(source, PictureSource) and result and isinstance(result[-1], PictureSource):
            result[-1].paths += source.paths
        else:
            result.append(source)
    if not result:
        raise DataError("expected shards, folders, tables, arrays or pictures to read, got none")
    return result


def _sources_of(name: str) -> list[Source]:
    path = Path(name)
    lower = path.name.lower()
    if name == STDIN:
        return [LineSource(path)]
    if path.is_dir():
        shards = sorted(child for child in path.iterdir() if child.name.lower().endswith(SHARDS) and child.is_file())
        folder = FolderSource(path)
        if not shards and next(folder._list(), None) is None:
            raise DataError(f"{name}: expected shards, pictures or captions in this folder or below it, found none")
        return [ShardSource(shard) for shard in shards] or [folder]
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
    raise DataError(f"{name}: expected a folder, a picture or one of {', '.join((*SHARDS, *TABLES, *ARRAYS, '.txt'))}")


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
