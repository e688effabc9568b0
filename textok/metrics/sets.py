"""Sets of pictures for evaluations: read part by part, and paired with their originals."""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..weights import read_json

U8 = NDArray[np.uint8]

PART = 256  # pictures in memory at a time


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
        Of the last reading: pictures, what could not be read, originals that no picture belongs to.
    """

    def __init__(self, source: Any, size: int | None = None, crop: bool = False, caption: str = "caption") -> None:
        self.source, self.size, self.crop, self.caption = source, size, crop, caption
        self.count, self.skips, self.unpaired = 0, [], 0

    def __iter__(self) -> Iterator[Part]:
        part = Part([], np.empty(0, np.uint8), [])
        pictures: list[U8] = []
        for sample in self.samples():
            pictures.append(self.picture(sample))
            part.keys.append(sample.key)
            part.captions.append(sample.caption(self.caption) or "")
            if len(pictures) == PART:
                yield part._replace(pictures=np.stack(pictures))
                part, pictures = Part([], np.empty(0, np.uint8), []), []
        if pictures:
            yield part._replace(pictures=np.stack(pictures))

    def samples(self) -> Iterator[Any]:
        """The samples as they are stored, not decoded."""
        from ..data.sources import read_samples

        self.count, self.skips = 0, []
        for sample in read_samples(self.source, need=("picture",), skips=self.skips):
            self.count += 1
            yield sample
        if not self.count:
            why = f"; {self.skips[0].source}: {self.skips[0].reason}" if self.skips else ""
            raise DataError(f"{self.source}: expected pictures, found none{why}")

    def picture(self, sample: Any) -> U8:
        """Decoded, and cropped where the set is."""
        from ..data.tasks import decode_picture

        height, width = _extent(sample)
        if self.size is None:
            self.size = height
        if not self.crop and (height, width) != (self.size, self.size):
            raise DataError(
                f"{sample.source}: {sample.key}: expected square pictures of one size, {self.size} x {self.size} as the first, "
                f"got {height} x {width}"
            )
        return decode_picture(sample.picture, self.size, sample.key)

    def __repr__(self) -> str:
        return f"PictureSet({self.source!r}, {self.size or 'any'} pixels)"


def _extent(sample: Any) -> tuple[int, int]:
    """Height and width of a picture that is not decoded."""
    if not isinstance(sample.picture, bytes):
        return tuple(sample.picture.shape[:2])
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(sample.picture)) as picture:
            return picture.size[1], picture.size[0]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        raise DataError(f"{sample.source}: {sample.key}: expected a picture that Pillow can read, got: {problem}") from None


def paired(made: PictureSet, originals: PictureSet) -> Iterator[tuple[Part, U8]]:
    """Parts of a set, each with the originals of the same keys.

    The parts get the originals' keys. Both sides are read once, in their order; an original passed over waits, as it is
    stored, for a picture that comes later; those without one in the end are counted in `originals.unpaired`. Where the orders
    agree nothing is held, and where they do not, up to the originals' files. Of a key that several originals have, the
    first is taken first. Where one side is an array, which has no keys, pictures are paired by place.
    """
    stream = originals.samples()
    originals.unpaired = 0
    by_place = _is_array(made.source) or _is_array(originals.source)
    waiting: dict[str, deque[Any]] = {}

    def original_of(key: str) -> Any:
        name = name_of_key(key)
        if waiting.get(name):
            return waiting[name].popleft()
        for sample in stream:
            if by_place or name_of_key(sample.key) == name:
                return sample
            waiting.setdefault(name_of_key(sample.key), deque()).append(sample)
        raise DataError(f"{made.source}: {key}: expected an original of this key in {originals.source}, found none")

    for part in made:
        chosen = [original_of(key) for key in part.keys]
        yield part._replace(keys=[sample.key for sample in chosen]), np.stack([originals.picture(sample) for sample in chosen])
    left = sum(1 for _ in stream)
    if by_place and left:
        raise DataError(f"{made.source}: expected as many pictures as {originals.source}, got {left} fewer")
    originals.unpaired = left + sum(map(len, waiting.values()))


def _is_array(source: Any) -> bool:
    return str(source).lower().endswith((".npz", ".npy"))


def name_of_key(key: str) -> str:
    return key.rpartition("/")[2]


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
    """Whether a source is a .npz of mu and sigma, not of pictures."""
    path = Path(str(source))
    if path.suffix != ".npz" or not path.is_file():
        return False
    try:
        with np.load(path, allow_pickle=False) as file:
            return {"mu", "sigma"} <= set(file.files)
    except (OSError, ValueError):
        return False


def made_with(source: Any) -> dict[str, Any]:
    """What the folder of `textok sample` or `decode` says of how it was made: solver, steps, guidance, dtype, seed."""
    path = Path(str(source))
    from ..data.sources import INDEX_FILE

    index = next((file for file in (path / INDEX_FILE, path.parent / INDEX_FILE) if file.is_file()), None)
    if index is None:
        return {}
    task = read_json(index, DataError).get("task")
    names = ("name", "solver", "steps", "guidance_scale", "guidance_interval", "dtype", "seed")
    return {name: task[name] for name in names if isinstance(task, dict) and task.get(name) is not None}
