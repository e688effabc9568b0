"""Sets of pictures for evaluations: read part by part, and paired with their originals."""

from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import read_json
from ..numpy_files import names_in_npz

if TYPE_CHECKING:
    from ..data.base import Skip

U8 = NDArray[np.uint8]

PART = 256  # pictures in memory at a time
DECODERS = 2  # threads that decode while the networks work


class Part(NamedTuple):
    """Some pictures of a set, uint8 [b,S,S,3], with their keys and captions ("" where there is none)."""

    keys: list[str]
    pictures: U8
    captions: list[str]


class PictureSet:
    """Pictures of any source, part by part.

    Parameters
    ----------
    source
        What `textok.data.read_samples` takes.
    size
        Pixels a side. With `crop` pictures are cropped to it, else they must have it. None takes the first picture's.
    caption
        The metadata's field that is the caption.

    Attributes
    ----------
    count, skips, unpaired
        Of the last reading: pictures, what could not be read and is left out, originals that no picture belongs to.
    """

    def __init__(self, source: Any, size: int | None = None, crop: bool = False, caption: str = "caption") -> None:
        self.source, self.size, self.crop, self.caption = source, size, crop, caption
        self.count, self.unpaired = 0, 0
        self.skips: list[Skip] = []

    def __iter__(self) -> Generator[Part]:
        part = Part([], np.empty(0, np.uint8), [])
        pictures: list[U8] = []
        for sample, picture in self.decoded(self.samples()):
            if picture is None:
                continue
            pictures.append(picture)
            part.keys.append(sample.key)
            part.captions.append(sample.caption(self.caption) or "")
            if len(pictures) == PART:
                yield part._replace(pictures=np.stack(pictures))
                part, pictures = Part([], np.empty(0, np.uint8), []), []
        if pictures:
            yield part._replace(pictures=np.stack(pictures))

    def decoded(self, samples: Iterable[Any]) -> Iterator[tuple[Any, U8 | None]]:
        """Samples with their pictures, cropped where the set is, decoded by threads ahead of their use; None for one that
        cannot be read, which goes from the count to the skips.
        """
        from ..data.ordered import ordered_map

        stream = iter(samples)
        while self.size is None and (first := next(stream, None)) is not None:  # its size is that of all
            yield first, self._accept(first, self._decode(first))
        for sample, result in ordered_map(self._decode, stream, DECODERS):
            yield sample, self._accept(sample, result)
        self._check_some()

    def samples(self) -> Iterator[Any]:
        """The samples as they are stored, not decoded."""
        from ..data.sources import read_samples

        self.count, self.skips = 0, []
        for sample in read_samples(self.source, need=("picture",), skips=self.skips):
            self.count += 1
            yield sample
        self._check_some()

    def _check_some(self) -> None:
        if not self.count:
            why = f"; {self.skips[0].source}: {self.skips[0].reason}" if self.skips else ""
            raise DataError(f"{self.source}: expected pictures, found none{why}")

    def _decode(self, sample: Any) -> U8 | ValueError | tuple[int, int]:
        """The picture, or what is wrong with it: the error, or a height and width that are not the set's."""
        from ..pictures.preprocess import decode_picture

        try:
            extent = _extent(sample)
            size = self.size or (extent[0] if extent else 1)
            if not self.crop and extent not in ((size, size), None):
                return extent
            return decode_picture(sample.picture, size, sample.key)
        except ValueError as problem:
            return problem

    def _accept(self, sample: Any, result: U8 | ValueError | tuple[int, int]) -> U8 | None:
        from ..data.base import Skip

        if isinstance(result, ValueError):
            self.count -= 1
            self.skips.append(Skip(sample.key, sample.source, str(result).removeprefix(f"{sample.key}: ")))
            return None
        if isinstance(result, tuple):
            size = self.size or result[0]
            shape: tuple[int, ...] = getattr(sample.picture, "shape", ())
            chw = len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3, 4)
            hint = "; this looks like CHW: use .transpose(0, 2, 3, 1)" if chw else ""
            raise DataError(
                f"{sample.source}: {sample.key}: expected square pictures of one size, {size} x {size} as the first, "
                f"got {result[0]} x {result[1]}{hint}"
            )
        self.size = len(result)
        return result

    def __repr__(self) -> str:
        return f"PictureSet({self.source!r}, {self.size or 'any'} pixels)"


def _extent(sample: Any) -> tuple[int, int] | None:
    """Height and width of a picture that is not decoded; None where there are none, and decoding will say why."""
    if not isinstance(sample.picture, bytes):
        return tuple(sample.picture.shape[:2])
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(sample.picture)) as picture:
            return picture.size[1], picture.size[0]
    except Exception:  # noqa: BLE001  Pillow's plugins raise many kinds
        return None


def paired(made: PictureSet, originals: PictureSet) -> Iterator[tuple[Part, U8]]:
    """Parts of a set, each with the originals of the same keys.

    The parts get the originals' keys. A picture's original has its key, or its key behind the name of its shard, as `decode`
    names pictures of several; else the key without the folders (or the shard) that the picture's begins with; else the key with
    folders more. A DataError, where it is not clear which is meant. Of a key that several originals have, the first is taken
    first, if there are as many pictures. Where one side is an array, which has no keys, pictures are paired by place.

    Originals are read twice, first for their keys. One passed over waits, as it is stored, for a picture that comes later;
    those without one in the end are counted in `originals.unpaired`. Where the orders agree nothing is held, and where they do
    not, up to the originals' files.
    """
    by_place = _is_array(made.source) or _is_array(originals.source)
    names = None if by_place else _Names(made, originals)
    stream = enumerate(originals.samples())
    originals.unpaired = 0
    waiting: dict[int, Any] = {}

    def sample_at(place: int | None) -> Any:
        if place in waiting:
            return waiting.pop(place)
        for there, sample in () if place is None else stream:
            if there == place:
                return sample
            waiting[there] = sample
        return None

    def original_of(key: str, number: int) -> Any:
        sample = sample_at(number if names is None else names.place_of(key))
        if sample is None:
            raise DataError(f"{made.source}: {key}: expected an original of this key in {originals.source}, found none")
        return sample

    before = 0
    for part in made:
        found = [original_of(key, number) for number, key in enumerate(part.keys, before)]
        wanted = []
        for key, (sample, picture) in zip(part.keys, originals.decoded(found)):
            if picture is None:
                raise DataError(
                    f"{sample.source}: {sample.key}: expected an original of {key}, got: {originals.skips[-1].reason}"
                )
            wanted.append(picture)
        before += len(found)
        yield part._replace(keys=[sample.key for sample in found]), np.stack(wanted)
    left = sum(1 for _ in stream)
    if by_place and left:
        raise DataError(f"{made.source}: expected as many pictures as {originals.source}, got {left} fewer")
    if names is not None:
        names.check_shared()
    originals.unpaired = left + len(waiting)


class _Names:
    """Which of the originals a picture belongs to, by its key; reads them once for their keys, and keeps 16 bytes of each
    name."""

    def __init__(self, made: PictureSet, originals: PictureSet) -> None:
        from ..data.base import key_in_shard

        self.made, self.originals = made, originals
        self.full = _Places()  # of originals by their keys, alone or behind the name of their shard
        self.inner = _Places()  # ... and by what remains of a key without its first folders
        self.shared: dict[str, Iterator[int]] = {}  # what is left of keys that several originals have
        for place, sample in enumerate(originals.samples()):
            for name in {sample.key, key_in_shard(sample)}:
                self.full.add(name, place)
            for tail in _tails(sample.key)[1:]:
                self.inner.add(tail, place)

    def place_of(self, key: str) -> int | None:
        for tail in _tails(key):
            of_full = self.full.of(tail)
            found = of_full or self.inner.of(tail)
            if not found:
                continue
            if len(found) == 1:
                return found[0]
            if tail == key and of_full:
                return next(self.shared.setdefault(key, iter(found)), None)
            raise self._unclear(key, f"{len(found)} called {tail}")
        return None

    def check_shared(self) -> None:
        for key, rest in self.shared.items():
            if next(rest, None) is not None:
                raise self._unclear(key, "several, and fewer pictures of it")

    def _unclear(self, key: str, found: str) -> DataError:
        return DataError(
            f"{self.made.source}: {key}: expected one original of this key in {self.originals.source}, found {found}"
        )


class _Places:
    """Names to the places that were added under them, without the names: by their hashes of 64 bits."""

    def __init__(self) -> None:
        self._hashes, self._places = array("q"), array("q")
        self._sorted: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def add(self, name: str, place: int) -> None:
        self._hashes.append(hash(name))
        self._places.append(place)

    def of(self, name: str) -> list[int]:
        """In the order in which they were added."""
        if self._sorted is None:
            hashes, places = np.array(self._hashes), np.array(self._places)
            order = np.argsort(hashes, kind="stable")
            self._sorted = hashes[order], places[order]
            self._hashes, self._places = array("q"), array("q")
        hashes, places = self._sorted
        return places[np.searchsorted(hashes, hash(name)) : np.searchsorted(hashes, hash(name), "right")].tolist()


def _tails(key: str) -> list[str]:
    """A key, and what remains of it without its first folders."""
    parts = key.split("/")
    return ["/".join(parts[first:]) for first in range(len(parts))]


def _is_array(source: Any) -> bool:
    return str(source).lower().endswith((".npz", ".npy"))


def chosen_of(pictures: PictureSet, places: Sequence[int]) -> dict[int, tuple[str, U8, str]]:
    found, start = {}, 0
    for part in pictures:
        for place in places:
            if start <= place < start + len(part.keys):
                found[place] = (part.keys[place - start], part.pictures[place - start], part.captions[place - start])
        start += len(part.keys)
        if found.keys() >= set(places):
            break
    return found


def is_statistics(source: Any) -> bool:
    """Whether a source is a .npz of mu and sigma, and not of pictures."""
    there = _arrays_in(source)
    return {"mu", "sigma"} <= there and "arr_0" not in there


def has_statistics_of(source: Any, network: str, width: int) -> bool:
    """Whether a source is a .npz of mu and sigma that a network's features compare with.

    ADM's reference batches have those of Inception-v3 beside their pictures: for any other network the pictures count.
    """
    if not {"mu", "sigma"} <= (there := _arrays_in(source)):
        return False
    return "arr_0" not in there or (width == 2048 and "inception" in network.lower())


def _arrays_in(source: Any) -> set[str]:
    path = Path(str(source))
    if path.suffix != ".npz" or not path.is_file():
        return set()
    try:
        return set(names_in_npz(path, DataError))
    except DataError:  # of which its reader says what is wrong
        return set()


def made_with(source: Any) -> dict[str, Any]:
    """What the folder of `textok sample` or `decode` says of how it was made: solver, steps, guidance, dtype, seed."""
    path = Path(str(source))
    from ..data.folders import INDEX_FILE

    index = next((file for file in (path / INDEX_FILE, path.parent / INDEX_FILE) if file.is_file()), None)
    if index is None:
        return {}
    try:
        task = read_json(index, DataError).get("task")
    except DataError:  # somebody else's file of that name
        return {}
    names = ("name", "solver", "steps", "guidance_scale", "guidance_interval", "dtype", "seed")
    return {name: task[name] for name in names if isinstance(task, dict) and task.get(name) is not None}
