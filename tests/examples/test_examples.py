"""Every example, run as its first line says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resq_core.pipelines import QuantizedStm
from resq_core.tasks.vos import DAVIS_PALETTE
from service.client import Client
from service.config import Config
from service.decoder import open_clip
from service.encoder import VideoWriter
from service.local_engine import LocalEngine, Model
from service.server import Server, running
from tests.service.conftest import STM_CARD, square

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def run(name: str, *arguments: object) -> list[str]:
    """What an example prints, line by line."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_all_are_run_and_listed() -> None:
    here = Path(__file__).read_text("utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in here, f"{path.name} has no test"
        assert f"]({path.name})" in (EXAMPLES / "README.md").read_text("utf-8")


def test_camera(server: str, clip: Path) -> None:
    lines = run("camera.py", clip, server)
    anchors = [line.split()[1] == "keyframe" for line in lines[:-1]]
    assert anchors == [i % 8 == 0 for i in range(10)]
    assert lines[-1] == "dropped: {}"


def test_arrays(server: str) -> None:
    lines = run("arrays.py", server)
    assert len(lines) == 20
    assert all("(240, 320)" in line for line in lines)
    with Client(server) as client:
        [model] = [model for model in client.models() if model.default]
    assert all(line.split()[4] in model.classes for line in lines)


def test_detections(server: str, clip: Path, tmp_path: Path) -> None:
    pytest.importorskip("supervision")
    lines = run("detections.py", clip, tmp_path / "out", server)
    assert len(lines) == 10
    assert all("road" in line.lower() for line in lines)
    assert len(list((tmp_path / "out").glob("*.png"))) == 10


def test_clip(server: str, clip: Path, tmp_path: Path) -> None:
    lines = run("clip.py", clip, tmp_path / "a.mp4", server)
    assert len(lines) == 11
    with open_clip(tmp_path / "a.mp4") as video:
        assert len(list(video)) == 10
    with Client(server) as client:
        assert client.clips.list() == ()


def test_wall(server: str, clip: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.mp4"
    second.write_bytes(clip.read_bytes())
    lines = run("wall.py", server, clip, second)
    for source in (clip, second):
        mine = [line for line in lines if line.startswith(str(source))]
        assert mine[-1].startswith(f"{source}: dropped")
        assert " saved, " in mine[0]


def test_own_network() -> None:
    lines = run("own_network.py")
    assert len(lines) == 24
    savings = [float(line.split()[-5].removesuffix("%")) for line in lines]
    assert max(savings) > 30
    assert max(float(line.split()[-1]) for line in lines) < 0.1


def test_metrics(server: str) -> None:
    lines = run("metrics.py", server)
    assert any(line.startswith("resq_streams_active {") for line in lines)


def test_objects(quantized_stm: QuantizedStm, tmp_path: Path) -> None:
    pictures = [square(i) for i in range(4)]
    mask = pictures[0][..., 0] == 220
    with VideoWriter(tmp_path / "clip.mp4", 10, pictures[0].shape[:2]) as video:
        for picture in pictures:
            video.write(picture)
    png = Image.fromarray(mask.astype(np.uint8))
    png.putpalette(DAVIS_PALETTE.tobytes())
    png.save(tmp_path / "masks.png")
    engine = LocalEngine({"stm": Model(STM_CARD, lambda: quantized_stm)})
    config = Config(model="stm", data_dir=tmp_path / "data", decoders=0, threads=1)
    with running(Server(config, engine, log_level="warning")) as address:
        lines = run("objects.py", tmp_path / "clip.mp4", tmp_path / "masks.png", "stm", address)
    rows, columns = np.nonzero(mask)
    box = [int(v) for v in (columns.min(), rows.min(), columns.max(), rows.max())]
    assert lines[0] == f"frame 0: object 1 in {box}"
