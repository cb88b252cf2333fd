"""A sheet of pictures in rows and columns, with captions, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from service.annotate import heat
from service.pictures import Picture

__all__ = ["draw_bits", "draw_sheet"]

_GAP = 6
_LINE = 15  # pixels of a caption's line
_INK = (26, 30, 38)
_PAPER = (255, 255, 255)


def draw_bits(bits: np.ndarray[tuple[int, int], np.dtype[np.generic]]) -> Picture:
    """Bits 0 to 8 [h, w] as colours uint8 [h, w, 3]: dark is 0, teal 4, yellow 8."""
    return heat(bits.astype(np.float32))


def draw_sheet(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Picture]]],
    path: Path,
    cell: tuple[int, int],
) -> None:
    """Write a PNG.

    Args:
        columns: a caption above each column, of one or more lines.
        rows: a caption to the left of each row, and its pictures uint8 [h, w, 3] RGB, one for
            each column; smaller ones are enlarged pixel by pixel.
        path: of the PNG.
        cell: (height, width) of each picture on the sheet.
    """
    height, width = cell
    font = ImageFont.load_default(12)
    top = _GAP + _LINE * max(caption.count("\n") + 1 for caption in columns)
    left = max(_text_width(caption, font) for caption, _ in rows) + 2 * _GAP
    sheet = Image.new(
        "RGB",
        (left + len(columns) * (width + _GAP), top + len(rows) * (height + _GAP)),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    for i, caption in enumerate(columns):
        place = (left + i * (width + _GAP) + width // 2, top - _GAP // 2)
        draw.multiline_text(place, caption, _INK, font, anchor="md", align="center", spacing=2)
    for j, (caption, pictures) in enumerate(rows):
        y = top + j * (height + _GAP)
        draw.multiline_text((_GAP, y + height // 2), caption, _INK, font, anchor="lm", spacing=2)
        for i, picture in enumerate(pictures):
            sheet.paste(_fitted(picture, cell), (left + i * (width + _GAP), y))
    sheet.save(path)


def _fitted(picture: Picture, cell: tuple[int, int]) -> Image.Image:
    smaller = picture.shape[0] < cell[0]
    way = Image.Resampling.NEAREST if smaller else Image.Resampling.LANCZOS
    return Image.fromarray(picture).resize((cell[1], cell[0]), way)


def _text_width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return max(int(font.getlength(line)) + 1 for line in text.split("\n"))
