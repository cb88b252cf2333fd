"""Arguments and options that several experiments have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.shared import model_names

__all__ = ["ClipPath", "Frames", "Labels", "ModelName", "Out"]

ClipPath = Annotated[
    Path, typer.Argument(help="A video, or a folder of pictures; labels in CLIP_labels count.")
]
Labels = Annotated[
    Path | None, typer.Option(help="Class ids by frame: 000000.png and on, not all needed.")
]
ModelName = Annotated[
    str, typer.Option(help="Of the package or RESQ_MODELS_DIR.", autocompletion=model_names)
]
Frames = Annotated[int, typer.Option(help="Of the clip, from its start.", min=1)]
Out = Annotated[
    Path | None, typer.Option(help="A folder for the figures as JSON, and their pictures.")
]
