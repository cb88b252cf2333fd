"""One picture of a result: the mask over the frame, the bits beside it, the figures below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.messages import Bops

__all__ = ["Figures", "Prediction", "annotate", "heat"]

_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

_BAR = 34
_GAP = 6
_MAX_HEIGHT = 720
_INK = (235, 238, 242)
_DIM = (150, 158, 168)
_PAPER = (18, 21, 26)
_ANCHOR = (255, 190, 60)
# 0 bits is night, 4 teal, 8 bits bright: readable without telling red from green
_STOPS = np.array([[26, 30, 44], [38, 148, 152], [250, 226, 110]], np.float32)
_BLEND = 0.5
_MIN_SCORE = 0.2  # of a joint that is drawn


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is drawn over the picture.

    Attributes:
        colours: RGB by class id, by object, or by joint.
        ids: class or object ids, uint8 [H, W]; what has no colour stays as the picture is.
        background: the id that stays as the picture is; None for none.
        keypoints: x, y in pixels and a score for each joint.
        skeleton: pairs of joints to connect.
    """

    colours: Sequence[tuple[int, int, int]]
    ids: NDArray[np.uint8] | None = None
    background: int | None = None
    keypoints: Sequence[Sequence[float]] = ()
    skeleton: Sequence[tuple[int, int]] = ()


class Figures(Protocol):
    """What is written under the picture; a `StepOutput` and a result's meta are such."""

    @property
    def index(self) -> int:
        """Place of the frame in its stream."""
        ...

    @property
    def is_anchor(self) -> bool:
        """Keyframes are marked."""
        ...

    @property
    def bops(self) -> Bops:
        """For the saving."""
        ...

    @property
    def mean_bits(self) -> float:
        """0 to 8."""
        ...

    @property
    def active_fraction(self) -> float:
        """0 to 1."""
        ...


def annotate(
    image: NDArray[np.uint8],
    prediction: Prediction,
    bit_map: NDArray[np.float32],
    figures: Figures,
    title: str,
) -> NDArray[np.uint8]:
    """Draw a result.

    Args:
        image: uint8 [H, W, 3] RGB.
        prediction: a mask or a pose.
        bit_map: float32 [h, w], 0 to 8 bits.
        figures: of the frame.
        title: model and precision.

    Returns:
        uint8 RGB; its size depends on the size of `image` alone, and both sides are even.
    """
    height, width = image.shape[:2]
    factor = min(1.0, _MAX_HEIGHT / height)
    shown = (max(round(width * factor), 2), max(round(height * factor), 2))
    panel = Image.new("RGB", _canvas(shown), _PAPER)
    overlay = _drawn(image, prediction).resize(shown)
    panel.paste(overlay, (0, 0))
    bits = Image.fromarray(heat(bit_map)).resize(shown, Image.Resampling.NEAREST)
    panel.paste(bits, (shown[0] + _GAP, 0))
    draw = ImageDraw.Draw(panel)
    size = max(10, min(18, panel.width // 60))
    font = ImageFont.load_default(size)
    if figures.is_anchor:
        draw.rectangle((0, 0, shown[0] - 1, shown[1] - 1), outline=_ANCHOR, width=3)
    middle = shown[1] + _BAR // 2
    kind = "keyframe" if figures.is_anchor else "residual"
    text = (
        f"{figures.index:5d}  {kind}   saving {figures.bops.saving:4.0%}   "
        f"{figures.mean_bits:.1f} bits   {figures.active_fraction:4.0%} active"
    )
    draw.text((8, middle), text, _ANCHOR if figures.is_anchor else _INK, font, anchor="lm")
    _legend(draw, font, panel.width - 8, middle, title)
    return np.asarray(panel)


def _canvas(shown: tuple[int, int]) -> tuple[int, int]:
    width, height = 2 * shown[0] + _GAP, shown[1] + _BAR
    return width + width % 2, height + height % 2


def _drawn(image: NDArray[np.uint8], prediction: Prediction) -> Image.Image:
    mixed = image if prediction.ids is None else _overlay(image, prediction.ids, prediction)
    picture = Image.fromarray(mixed)
    _draw_skeleton(picture, prediction)
    return picture


def _overlay(
    image: NDArray[np.uint8], ids: NDArray[np.uint8], prediction: Prediction
) -> NDArray[np.uint8]:
    colours = np.zeros((256, 3), np.float32)
    known = np.zeros(256, bool)
    colours[: len(prediction.colours)] = prediction.colours
    known[: len(prediction.colours)] = True
    if prediction.background is not None:
        known[prediction.background] = False
    mixed = image * (1 - _BLEND) + colours[ids] * _BLEND
    return np.where(known[ids][..., None], mixed, image).astype(np.uint8)


def _draw_skeleton(picture: Image.Image, prediction: Prediction) -> None:
    draw, points = ImageDraw.Draw(picture), prediction.keypoints
    width = max(2, picture.width // 200)
    seen = [point[2] > _MIN_SCORE for point in points]
    for a, b in prediction.skeleton:
        if seen[a] and seen[b]:
            line = (*points[a][:2], *points[b][:2])
            draw.line(line, prediction.colours[b], width)
    for point, colour, shown in zip(points, prediction.colours, seen, strict=False):
        if shown:
            x, y, radius = point[0], point[1], width + 1
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)


def heat(bits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colours uint8 [h, w, 3] of bits [h, w], 0 (dark) to 8 (bright)."""
    place = np.clip(bits, 0, 8)[..., None] / 4
    low = np.minimum(place.astype(np.int64), 1)
    share = place - low
    colours = _STOPS[low[..., 0]] * (1 - share) + _STOPS[low[..., 0] + 1] * share
    result: NDArray[np.uint8] = colours.astype(np.uint8)
    return result


def _legend(draw: ImageDraw.ImageDraw, font: _Font, right: int, middle: int, title: str) -> None:
    """From the right: swatches of 8, 4 and 0 bits, then the title while there is room."""
    for bits, colour in zip((8, 4, 0), _STOPS[::-1], strict=True):
        draw.text((right, middle), f"{bits}", _INK, font, anchor="rm")
        right -= 14
        box = (right - 12, middle - 6, right, middle + 6)
        draw.rectangle(box, fill=tuple(int(v) for v in colour), outline=_DIM)
        right -= 20
    if right - draw.textlength(title, font) > draw.im.size[0] // 2:
        draw.text((right, middle), title, _DIM, font, anchor="rm")
