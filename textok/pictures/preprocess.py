"""Pictures in and out: preparing them for a model, pixels from floats, and contact sheets with captions.

`preprocess` crops as ADM and the DiT of Peebles and Xie do (their data loaders' centre crop), because metrics only compare
between images that were cropped the same way. Pillow is imported on first use.
"""

import io
import os
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
    """Float pixels in [-1, 1] to uint8: clip, then round half up of (x + 1) * 127.5.

    The engine's own rule for `decode`, here for arrays that are floats already.

    Examples
    --------
    >>> to_uint8([-1.0, 0.0, 1.0, 3.0])
    array([  0, 128, 255, 255], dtype=uint8)
    """
    values = arrays.as_float32(np.atleast_1d(arrays.view(x, "x")), "x")
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
        type.
    FileNotFoundError
        A path where there is no file.

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
    from PIL import Image, ImageOps

    if isinstance(item, str | os.PathLike):
        try:
            with Image.open(item) as picture:
                picture.load()
                return _as_rgb(ImageOps.exif_transpose(picture), name)
        except FileNotFoundError:
            raise FileNotFoundError(f"{name}: no such picture") from None
        except (OSError, SyntaxError, EOFError, Image.DecompressionBombError, ValueError) as error:
            raise ValueError(f"{name}: expected a picture that Pillow can read, got: {error}") from None
    if isinstance(item, Image.Image):
        return _as_rgb(ImageOps.exif_transpose(item), name)
    return _as_rgb(_from_array(item, name), name)


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


def _as_rgb(picture: "Image.Image", name: str) -> "Image.Image":
    from PIL import Image

    if min(picture.size) < 1:
        raise ValueError(f"{name}: expected a picture with pixels, got {picture.size[0]} x {picture.size[1]}")
    if picture.mode == "F":
        raise ValueError(
            f"{name}: expected 8- or 16-bit pixels, got a picture of floats, whose range is not known; convert it first"
        )
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"{name}: expected 8- or 16-bit pixels, got values from {values.min()} to {values.max()}")
        picture = Image.fromarray(_from_16_bit(values))
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


def decode_picture(picture: Any, size: int, name: str) -> U8:
    """One picture, the bytes of a file or an array, as `preprocess` makes it; every flaw is a ValueError that names it."""
    from PIL import Image, UnidentifiedImageError

    try:
        item = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        return preprocess([item], size)[0]
    except (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError) as problem:
        reason = str(problem).removeprefix("pictures[0]: ")
        if isinstance(problem, UnidentifiedImageError):
            reason = f"no kind of picture that Pillow knows ({len(picture)} bytes)"
        raise ValueError(f"{name}: not a picture that can be read: {reason}") from None
