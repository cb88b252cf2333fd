"""The frames that a load sends: of a video file, or of a drawn street."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from resq_core.world import Street
from service.client.streaming import encode_picture
from service.commands.world import draw_clip
from service.decoder import open_clip

__all__ = ["drawn_clip", "encoded_clip"]

_FRAMES = 64  # sent forth and back


def encoded_clip(clip: Path | None) -> list[bytes]:
    """The first 64 frames of a clip as JPEGs, or of the drawn street. Raises ClipError."""
    if clip is None:
        return drawn_clip(Street())
    with open_clip(clip) as video:
        return [encode_picture(frame.image, "jpeg") for frame in islice(video, _FRAMES)]


def drawn_clip(street: Street) -> list[bytes]:
    """A drawn street as JPEGs, from a video of it: with what a codec leaves of the noise."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "street.mp4"
        draw_clip(path, street, _FRAMES)
        return encoded_clip(path)
