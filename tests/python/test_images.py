"""Pictures in: every mode, orientation and shape; the centre crop; the float rule. Pictures out: contact sheets."""

import io

import numpy as np
import pytest
from PIL import Image

from textok import preprocess, to_uint8
from textok.pictures import sheets

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (48, 40, 3), np.uint8)


def picture(mode="RGB", size=(40, 48)):
    return Image.fromarray(NOISE).resize(size).convert(mode)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "picture.png"
    Image.fromarray(NOISE).save(file)
    return file


def test_to_uint8_rounds_half_up():
    exact = np.arange(256)
    assert (to_uint8(exact / 127.5 - 1) == exact).all()
    # Halves of the step are exact in float32 here: 0.5 / 127.5 is not, so take the bounds beside each half.
    below, above = (exact[:-1] + 0.499) / 127.5 - 1, (exact[:-1] + 0.501) / 127.5 - 1
    assert (to_uint8(below) == exact[:-1]).all() and (to_uint8(above) == exact[1:]).all()
    assert (to_uint8(exact.astype(np.uint8)) == exact).all()
    for other in (np.arange(3), np.array([True])):
        with pytest.raises(ValueError, match=f"x: expected uint8, or floats in .-1, 1., got {other.dtype}"):
            to_uint8(other)
    assert to_uint8([-1, -1.5, 1, 7.0, 0]).tolist() == [0, 0, 255, 255, 128]
    assert to_uint8(np.zeros((2, 3, 3), np.float16)).shape == (2, 3, 3)
    assert to_uint8(0.0) == 128
    with pytest.raises(ValueError, match=r"finite numbers, got nan at \[1\]"):
        to_uint8([0.0, np.nan])


def adm_crop(array, size):
    """The centre crop of ADM and DiT, step by step, on an RGB array."""
    result = Image.fromarray(array)
    while min(result.size) >= 2 * size:
        result = result.resize((result.size[0] // 2, result.size[1] // 2), Image.BOX)
    factor = size / min(result.size)
    result = result.resize((round(result.size[0] * factor), round(result.size[1] * factor)), Image.BICUBIC)
    top, left = (result.size[1] - size) // 2, (result.size[0] - size) // 2
    return np.array(result)[top : top + size, left : left + size]


@pytest.mark.parametrize(
    "shape", [(48, 40), (40, 48), (64, 64), (63, 65), (127, 128), (128, 500), (333, 130), (5, 7), (1, 1), (3, 300)]
)
@pytest.mark.parametrize("size", [1, 16, 32, 64])
def test_center_crop(shape, size):
    array = RNG.integers(0, 256, (*shape, 3), np.uint8)
    assert (preprocess(array, size)[0] == adm_crop(array, size)).all()


def test_a_picture_of_the_right_size_stays_as_it_is():
    square = NOISE[:40, :40]
    assert (preprocess(square, 40)[0] == square).all()


def test_kinds_of_input(path):
    """Paths, PIL images and arrays, alone and in lists, all give the same pixels; nothing is written to."""
    expected = preprocess(NOISE, 32)
    frozen = NOISE.copy()
    frozen.flags.writeable = False
    kinds = [
        str(path),
        path,
        Image.fromarray(NOISE),
        frozen,
        NOISE[:, ::-1][:, ::-1],
        np.asfortranarray(NOISE),
        NOISE[None],
        [NOISE],
        (NOISE,),
        [path],
        np.dstack([NOISE, np.full((48, 40), 255, np.uint8)]),
        NOISE / 127.5 - 1,
        (NOISE / 127.5 - 1).astype(np.float32),
        NOISE.astype(np.uint16) * 257,
    ]
    for kind in kinds:
        assert (preprocess(kind, 32) == expected).all()
    mixed = preprocess([path, NOISE, Image.fromarray(NOISE)], 32)
    assert mixed.shape == (3, 32, 32, 3) and mixed.dtype == np.uint8 and (mixed == expected).all()
    assert preprocess([], 32).shape == (0, 32, 32, 3)


def test_gray():
    gray = NOISE[:, :, 0]
    expected = preprocess(np.dstack([gray] * 3), 32)
    for kind in (gray, gray[:, :, None], Image.fromarray(gray)):
        assert (preprocess(kind, 32) == expected).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB", "LA", "RGBA", "PA", "RGBX"])
def test_modes(mode):
    """Every mode becomes RGB; an opaque picture what Pillow converts it to."""
    original = picture("RGBA").convert(mode) if mode in ("LA", "PA") else picture(mode)
    result = preprocess(original, 40)
    assert result.shape == (1, 40, 40, 3)
    assert (result == preprocess(original.convert("RGB"), 40)).all()


def test_16_bit(tmp_path):
    """Each 16-bit value becomes the nearest 8-bit one, from a file as from an array."""
    values = RNG.integers(0, 65536, (32, 32)).astype(np.uint16)
    values[0, :4] = 0, 65535, 128, 129
    file = tmp_path / "deep.png"
    Image.fromarray(values).save(file)
    expected = np.round(values / 257).astype(np.uint8)
    for kind in (values, file, Image.fromarray(values), Image.fromarray(values.astype(np.int32))):
        assert (preprocess(kind, 32)[0] == expected[:, :, None]).all()


def test_transparency_is_put_on_white(tmp_path):
    alpha = np.zeros((32, 32, 4), np.uint8)
    alpha[:16] = (200, 0, 0, 255)
    alpha[16:24] = (0, 0, 0, 128)
    result = preprocess(alpha, 32)[0]
    assert (result[:16] == (200, 0, 0)).all() and (result[24:] == 255).all()
    assert (np.abs(result[16:24].astype(int) - 127) <= 1).all()
    # A palette, a gray and an RGB picture with one transparent colour, through a PNG file.
    for mode, color, key in (("P", 0, 0), ("L", 7, 7), ("RGB", (1, 2, 3), (1, 2, 3))):
        file = tmp_path / f"{mode}.png"
        Image.new(mode, (32, 32), color).save(file, transparency=key)
        assert (preprocess(file, 32) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turn(orientation, tmp_path):
    """A photograph lies as its EXIF tag says: the pixels of each of the eight orientations turned by hand."""
    array = RNG.integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "turned.png"
    Image.fromarray(array).save(file, exif=exif)
    turns = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.swapaxes(0, 1),
        6: np.rot90(array, -1),
        7: np.rot90(array, 2).swapaxes(0, 1),
        8: np.rot90(array),
    }
    assert (preprocess(file, 64)[0] == turns[orientation]).all()


def test_animation_gives_its_first_frame(tmp_path):
    file = tmp_path / "frames.gif"
    Image.new("RGB", (16, 16), "red").save(file, save_all=True, append_images=[Image.new("RGB", (16, 16), "blue")])
    assert (preprocess(file, 16) == (255, 0, 0)).all()


BAD = [
    (3, ValueError, r"pictures\[0\]: expected \[H, W\], .* got int64 \[\]"),
    (None, TypeError, "pictures: expected an array, got NoneType"),
    ([None], TypeError, r"pictures\[0\]: expected an array, got NoneType"),
    ([NOISE, object()], TypeError, r"pictures\[1\]: expected an array, got object"),
    (
        NOISE.astype(np.int64),
        ValueError,
        r"pictures\[0\]: expected uint8, uint16, or floats in \[-1, 1\], got int64 \[48, 40, 3\]",
    ),
    (
        NOISE.astype(np.float32),
        ValueError,
        r"expected float pixels in \[-1, 1\], got values from 0 to 255; clip them, or pass uint8",
    ),
    (np.full((4, 4, 3), np.nan), ValueError, "expected finite numbers, got nan"),
    (np.full((4, 4, 3), np.inf), ValueError, "expected finite numbers, got inf"),
    (NOISE.transpose(2, 0, 1), ValueError, r"got uint8 \[3, 48, 40\]; this looks like CHW: use .transpose\(1, 2, 0\)"),
    (NOISE[None].transpose(0, 3, 1, 2), ValueError, "this looks like CHW"),
    (
        np.zeros((4, 4, 2), np.uint8),
        ValueError,
        r"expected \[H, W\], \[H, W, 3\] or \[H, W, 4\] with pixels in it, got uint8 \[4, 4, 2\]",
    ),
    (np.zeros((0, 4, 3), np.uint8), ValueError, r"with pixels in it, got uint8 \[0, 4, 3\]"),
    (np.zeros(4, np.uint8), ValueError, r"got uint8 \[4\]"),
    (np.zeros((2, 2, 2, 2, 3), np.uint8), ValueError, r"got uint8 \[2, 2, 2, 2, 3\]"),
    (np.zeros((2, 500, 3), np.uint8), ValueError, "expected sides at most 1 : 100, got 500 x 2"),
    (np.zeros((4, 4), complex), ValueError, "expected an array of numbers, got complex128"),
    (Image.new("F", (4, 4)), ValueError, "a picture of floats, whose range is not known"),
    (Image.fromarray(np.full((4, 4), -1, np.int32)), ValueError, "expected 8- or 16-bit pixels, got values from -1 to -1"),
]


@pytest.mark.parametrize(("pictures", "error", "message"), BAD)
def test_errors(pictures, error, message):
    with pytest.raises(error, match=message):
        preprocess(pictures, 16)


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-1, ValueError), (10**9, ValueError), (True, TypeError), (16.0, TypeError)]
)
def test_bad_sizes(size, error):
    with pytest.raises(error, match="size: expected"):
        preprocess(NOISE, size)


def test_broken_files(tmp_path, path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.png: no such picture"):
        preprocess(tmp_path / "nowhere.png", 16)
    whole = path.read_bytes()
    for name, content in {"empty.png": b"", "text.png": b"no picture", "cut.png": whole[:300], "head.png": whole[:20]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: expected a picture that Pillow can read"):
            preprocess([path, tmp_path / name], 16)
    with pytest.raises(ValueError, match="expected a picture that Pillow can read"):
        preprocess(tmp_path, 16)


def test_contact_sheet():
    """Pictures lie where they should, captions beside them; a caption of any length fits."""
    entries = [
        sheets.Entry([NOISE[:40, :40], np.zeros((40, 40, 3), np.uint8)], f"title {i}", "word " * 10**i) for i in range(4)
    ]
    sheet = sheets.contact_sheet(entries, columns=2, headings=["left", "right"], side=40, text_width=120)
    assert sheet.size == (12 + 2 * (2 * 52 + 132), 36 + 2 * 52)
    pixels = np.asarray(sheet)
    assert (pixels[36:76, 12:52] == NOISE[:40, :40]).all() and (pixels[36:76, 64:104] == 0).all()
    assert (pixels[36:76, 116:236] < 128).any(), "no text"
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    assert sheets.contact_sheet([sheets.Entry([NOISE])], side=8).size == (12 + 20, 12 + 20)
    assert sheets.contact_sheet([]).size[0] > 0
