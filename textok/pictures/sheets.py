"""Contact sheets: pictures in rows, with captions under them. Pillow is imported on first use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image, ImageFont

U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Entry:
    """One place of a contact sheet: pictures uint8 [S,S,3] side by side, a coloured line and a caption to their right."""

    pictures: Sequence[U8]
    title: str = ""
    caption: str = ""


def contact_sheet(
    entries: Sequence[Entry], *, columns: int = 1, headings: Sequence[str] = (), side: int = 160, text_width: int = 330
) -> "Image.Image":
    """Pictures with their captions on one white sheet.

    Parameters
    ----------
    entries
        What to show, row by row; all with the same number of pictures.
    columns
        Entries side by side.
    headings
        Words over the pictures of each column, one a picture.
    side, text_width
        Pixels that a picture (scaled with a Lanczos filter) and a caption take. The font shrinks until a long caption fits.
    """
    from PIL import Image, ImageDraw

    gap = 12
    per_entry = max((len(entry.pictures) for entry in entries), default=1)
    has_text = any(entry.title or entry.caption for entry in entries)
    entry_width = per_entry * (side + gap) + (text_width + gap if has_text else 0)
    rows = -(-len(entries) // columns)
    top = gap + (24 if headings else 0)
    sheet = Image.new("RGB", (gap + columns * entry_width, top + rows * (side + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for column in range(min(columns, len(entries))):
        for position, heading in enumerate(headings):
            middle = gap + column * entry_width + position * (side + gap) + side // 2
            draw.text((middle, gap + 6), heading, fill="black", font=_font(15), anchor="mm")
    for index, entry in enumerate(entries):
        left, y = gap + index % columns * entry_width, top + index // columns * (side + gap)
        for position, picture in enumerate(entry.pictures):
            enlarged = Image.fromarray(np.ascontiguousarray(picture)).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(enlarged, (left + position * (side + gap), y))
        _write(draw, entry, (left + per_entry * (side + gap), y), text_width, side)
    return sheet


def _font(size: float) -> "ImageFont.ImageFont | ImageFont.FreeTypeFont":
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _write(draw: Any, entry: Entry, corner: tuple[int, int], width: int, height: int) -> None:
    """Title and caption in a box, in the largest of a few sizes at which they fit; at the smallest they may be cut."""
    for size in (14, 13, 12, 11, 10, 9):
        font, line_height = _font(size), round(size * 1.3)
        title = _wrap(entry.title, font, width)
        lines = title + _wrap(entry.caption, font, width)
        room = height // line_height
        if len(lines) <= room:
            break
    if len(lines) > room:
        lines = [*lines[: room - 1], lines[room - 1] + " ..."]
    for number, line in enumerate(lines):
        color = "#1f5fa8" if number < len(title) else "black"
        draw.text((corner[0], corner[1] + number * line_height), line, fill=color, font=font)


def _wrap(text: str, font: Any, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
