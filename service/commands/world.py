"""`resq world`: the procedural street as a video file, with its exact labels if asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track

from resq_core.errors import OptionError
from service.commands.shared import Json, parse_size, print_json

if TYPE_CHECKING:
    from resq_core.world import Street, StreetFrame

__all__ = ["draw_clip", "world"]

_MAX_FRAMES = 100_000


def world(
    out: Annotated[Path, typer.Option(help="Folder for clip.mp4, and the labels.")],
    frames: Annotated[int, typer.Option(help="Length of the clip.")] = 150,
    camera: Annotated[str, typer.Option(help="static or moving.")] = "static",
    seed: Annotated[int, typer.Option(help="Which street.")] = 0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels.")] = "480x360",
    fps: Annotated[float, typer.Option(help="Frames per second.")] = 15.0,
    noise: Annotated[float, typer.Option(help="Sensor noise, grey levels.")] = 2.0,
    crf: Annotated[int, typer.Option(help="H.264 quality, 0 (lossless) to 51.")] = 23,
    labels: Annotated[bool, typer.Option("--labels", help="Write the exact labels too.")] = False,
    as_json: Json = False,
) -> None:
    """Draw a street with traffic and people: a sample clip, test data, training data."""
    from resq_core.world import Street

    street = Street(seed, parse_size(size, "size"), camera, fps, noise)
    keep = _label_writer(out) if labels else None
    draw_clip(out / "clip.mp4", street, frames, crf, keep)
    if as_json:
        print_json({"clip": str(out / "clip.mp4"), "frames": frames, "labels": labels})
    else:
        typer.echo(f"{frames} frames in {out / 'clip.mp4'}")


def draw_clip(
    path: Path,
    street: Street,
    frames: int,
    crf: int = 23,
    keep: Callable[[int, StreetFrame], None] | None = None,
) -> None:
    """Write an H.264 MP4 of a street, whose codec adds its own noise to the sensor's.

    Args:
        path: of the file; its folder is made.
        street: what to draw, at 1 to 240 frames per second.
        frames: how many, 1 to 100,000.
        crf: quality, 0 to 51.
        keep: called with every index and frame.

    Raises:
        OptionError: frames, crf or the street's fps out of range.
    """
    from service.encoder import VideoWriter

    if not 1 <= frames <= _MAX_FRAMES:
        raise OptionError(f"frames is {frames}; expected 1 to {_MAX_FRAMES}")
    if not 0 <= crf <= 51:
        raise OptionError(f"crf is {crf}; expected 0 to 51")
    if street.fps < 1:
        raise OptionError(f"fps is {street.fps:g}; a video has 1 to 240")
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, street.fps, street.size, crf) as video:
        for t in track(range(frames), "drawing the street", console=Console(stderr=True)):
            frame = street.frame(t)
            video.write(frame.image)
            if keep is not None:
                keep(t, frame)


def _label_writer(out: Path) -> Callable[[int, StreetFrame], None]:
    """classes/ (palette PNG), instances/ (16-bit PNG) and people.ndjson."""
    import numpy as np
    from PIL import Image

    from resq_core.tasks import CAMVID11
    from resq_core.world import JOINTS
    from service.masks import mask_png

    for name in ("classes", "instances"):
        (out / name).mkdir(parents=True, exist_ok=True)
    people = out / "people.ndjson"
    people.write_text("", "utf-8")

    def keep(t: int, frame: StreetFrame) -> None:
        name = f"{t:06d}.png"
        (out / "classes" / name).write_bytes(mask_png(frame.classes, CAMVID11.palette))
        Image.fromarray(frame.instances.astype(np.uint16)).save(out / "instances" / name)
        found = [
            {
                "instance": person.instance,
                "joints": {
                    joint: [round(float(x), 2), round(float(y), 2), bool(seen)]
                    for joint, (x, y), seen in zip(
                        JOINTS, person.joints, person.visible, strict=True
                    )
                },
            }
            for person in frame.people
        ]
        with people.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"frame": t, "people": found}) + "\n")

    return keep
