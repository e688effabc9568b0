"""Pictures in and out: preparing them for a model, pixels from floats, and contact sheets with captions.

`preprocess` crops as ADM and the DiT of Peebles and Xie do (their data loaders' centre crop), because metrics only compare
between images that were cropped the same way. Pillow is imported on first use.
"""

import io
import os
import stat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import arrays

if TYPE_CHECKING:
    from PIL import Image

U8 = NDArray[np.uint8]

# The long side of a resized picture is cut off again; beyond this ratio it is a mistake, and a way to ask for gigabytes.
MAX_ASPECT = 100


def to_uint8(x: ArrayLike) -> U8:
    """Float pixels in [-1, 1] to uint8: clip, then round half up of (x + 1) * 127.5; uint8 stays as it is.

    The engine's own rule for `decode`, here for arrays that are floats already. A ValueError where they are neither.

    Examples
    --------
    >>> to_uint8([-1.0, 0.0, 1.0, 3.0])
    array([  0, 128, 255, 255], dtype=uint8)
    """
    given = arrays.view(x, "x")
    if given.dtype == np.uint8:
        return given
    if not arrays.is_float(given.dtype):
        raise ValueError(f"x: expected uint8, or floats in [-1, 1], got {given.dtype}")
    values = arrays.as_float32(np.atleast_1d(given), "x")
    return np.floor((np.clip(values, -1, 1) + 1) * np.float32(127.5) + np.float32(0.5)).astype(np.uint8).reshape(np.shape(x))


def preprocess(pictures: Any, size: int) -> U8:
    """Pictures of any kind as one uint8 batch.

    Parameters
    ----------
    pictures
        One picture or a list of them: paths, PIL images, or arrays [H,W], [H,W,1], [H,W,3] or [H,W,4], uint8, uint16 or floats
        in [-1, 1]. An array [B,H,W,3] is a list too.
    size
        Side of the results in pixels.

    Returns
    -------
    uint8 [B,size,size,3]. Photographs are turned as their EXIF tag says; transparency is put on white; 16-bit and palette
    pictures become 8-bit RGB. Then the centre crop: halved with a box filter while the short side is at least twice `size`,
    scaled with a bicubic filter so that the short side is `size`, and cut.

    Raises
    ------
    ValueError
        A file that is no picture, a picture without pixels or more than 100 times as long as wide, an array of another shape or
        type; whatever Pillow makes of a damaged file.
    FileNotFoundError
        A path where there is no file.

    Warns
    -----
    UserWarning
        Floats that lie in [0, 1] all of them: 0 is grey here, and pictures in [0, 1] want 2 * x - 1.

    Examples
    --------
    >>> preprocess(np.zeros((300, 400, 3), np.uint8), 256).shape
    (1, 256, 256, 3)
    """
    size = arrays.whole(size, "size", 1, 16384)
    items = _as_list(pictures)
    batch = np.empty((len(items), size, size, 3), np.uint8)
    for index, item in enumerate(items):
        name = os.fspath(item) if isinstance(item, str | os.PathLike) else f"pictures[{index}]"
        batch[index] = _center_crop(_open(item, name), size, name)
    arrays.warn_of_unit_range(items, "pictures")
    return batch


def _as_list(pictures: Any) -> Any:
    from PIL import Image

    if isinstance(pictures, str | os.PathLike | Image.Image):
        return [pictures]
    if isinstance(pictures, list | tuple):
        return pictures
    array = arrays.view(pictures, "pictures")
    if array.ndim == 4 or array.shape == (0,):
        return array
    return [array]


def _open(item: Any, name: str) -> "Image.Image":
    """An upright 8-bit RGB picture."""
    from PIL import Image

    if isinstance(item, str | os.PathLike):
        try:
            return _from_file(item)
        except FileNotFoundError:
            raise FileNotFoundError(f"{name}: no such picture") from None
        except ValueError as problem:
            raise ValueError(f"{name}: expected a picture that Pillow can read, got: {problem}") from None
    try:
        return _as_rgb(_upright(item)) if isinstance(item, Image.Image) else _as_rgb(_from_array(item, name))
    except ValueError as problem:
        raise ValueError(f"{name}: {str(problem).removeprefix(f'{name}: ')}") from None


def _from_file(source: Any) -> "Image.Image":
    """An upright 8-bit RGB picture of a path or file; whatever Pillow raises of a damaged one is a ValueError that says why."""
    from PIL import Image, UnidentifiedImageError

    try:
        if isinstance(source, str | os.PathLike) and not stat.S_ISREG(os.stat(source).st_mode):
            raise ValueError("no file")
        with Image.open(source) as picture:
            if picture.format == "EPS":
                raise ValueError("EPS, which Pillow would have another program read")
            stored = picture.tile[0][3] if picture.tile else None
            picture.load()
            _mend_transparency(picture, stored)
            return _as_rgb(_upright(picture))
    except (FileNotFoundError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ValueError("no kind of picture that Pillow knows") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        raise ValueError(str(problem) or type(problem).__name__) from None
    except Exception as problem:  # noqa: BLE001  its plugins raise struct.error, TypeError, RuntimeError and more
        raise ValueError(f"{type(problem).__name__}: {problem}") from None


def _upright(picture: "Image.Image") -> "Image.Image":
    """Turned as its EXIF data says."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except MemoryError:
        raise
    except Exception as problem:  # noqa: BLE001  what it raises depends on the damage
        raise ValueError(f"its EXIF data is damaged: {problem}") from None


def _mend_transparency(picture: "Image.Image", stored: Any) -> None:
    """A PNG's transparent colour is in the units of the file; Pillow leaves it so where it widens or narrows the pixels."""
    colour = picture.info.get("transparency")
    if stored in ("L;2", "L;4") and isinstance(colour, int):
        picture.info["transparency"] = colour * {"L;2": 85, "L;4": 17}[stored]
    elif stored == "RGB;16B" and isinstance(colour, tuple):
        picture.info["transparency"] = tuple(value >> 8 for value in colour)


def _from_array(item: Any, name: str) -> "Image.Image":
    from PIL import Image

    array = arrays.view(item, name)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"{name}: expected [H, W, 3], got {arrays.describe(array)}; this looks like CHW: use .transpose(1, 2, 0)"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or array.size == 0:
        raise ValueError(f"{name}: expected [H, W], [H, W, 3] or [H, W, 4] with pixels in it, got {arrays.describe(array)}")
    if array.dtype == np.uint16:
        array = _from_16_bit(array)
    elif arrays.is_float(array.dtype):
        array = to_uint8(arrays.as_pixels(array, name))
    elif array.dtype != np.uint8:
        raise ValueError(f"{name}: expected uint8, uint16, or floats in [-1, 1], got {arrays.describe(array)}")
    return Image.fromarray(np.ascontiguousarray(array))


def _from_16_bit(values: NDArray[Any]) -> U8:
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _as_rgb(picture: "Image.Image") -> "Image.Image":
    from PIL import Image

    if min(picture.size) < 1:
        raise ValueError(f"expected a picture with pixels, got {picture.size[0]} x {picture.size[1]}")
    if picture.mode == "F":
        raise ValueError("expected 8- or 16-bit pixels, got a picture of floats, whose range is not known; convert it first")
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"expected 8- or 16-bit pixels, got values from {values.min()} to {values.max()}")
        grey = _from_16_bit(values)
        if isinstance(colour := picture.info.get("transparency"), int):
            grey[values == colour] = 255
        picture = Image.fromarray(grey)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _center_crop(picture: "Image.Image", size: int, name: str) -> U8:
    from PIL import Image

    if max(picture.size) > MAX_ASPECT * min(picture.size):
        raise ValueError(f"{name}: expected sides at most 1 : {MAX_ASPECT}, got {picture.size[0]} x {picture.size[1]}")
    while min(picture.size) >= 2 * size:
        width, height = picture.size
        picture = picture.resize((width // 2, height // 2), resample=Image.Resampling.BOX)
    scale = size / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    picture = picture.resize((width, height), resample=Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(picture)[top : top + size, left : left + size]


def decode_picture(picture: Any, size: int | None, name: str) -> U8:
    """One picture, the bytes of a file or an array, as `preprocess` makes it; every flaw is a ValueError that names it. Without
    a size it has its own, and must be square.
    """
    try:
        opened = _from_file(io.BytesIO(picture)) if isinstance(picture, bytes) else _open(picture, name)
        if not isinstance(picture, bytes):
            arrays.warn_of_unit_range([picture], "pictures")
        if size is not None or opened.width == opened.height:
            return _center_crop(opened, size or opened.width, name)
    except ValueError as problem:
        reason = str(problem).removeprefix("pictures[0]: ").removeprefix(f"{name}: ")
        size_told = f" ({len(picture)} bytes)" if isinstance(picture, bytes) and reason.startswith("no kind of picture") else ""
        raise ValueError(f"{name}: not a picture that can be read: {reason}{size_told}") from None
    raise ValueError(f"{name}: expected a square picture where no size is given, got {opened.width} x {opened.height}")
