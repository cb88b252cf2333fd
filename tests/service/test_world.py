"""`resq world` writes what the street is, as a file that a decoder reads back."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from resq_core.errors import OptionError
from resq_core.world import Street
from service.cli import app


def test_a_slow_clip_shows_more_of_the_street(tmp_path: Path) -> None:
    drawn = ["world", "--out", str(tmp_path), "--frames", "3", "--size", "96x64", "--fps", "5"]
    done = CliRunner().invoke(app, [*drawn, "--seed", "4", "--labels"])
    assert done.exit_code == 0, done.output
    with av.open(str(tmp_path / "clip.mp4")) as video:
        assert video.streams.video[0].average_rate == 5
        assert sum(1 for _ in video.decode(video=0)) == 3
    labels = np.array(Image.open(tmp_path / "classes" / "000002.png"))
    np.testing.assert_array_equal(labels, Street(4, (64, 96), fps=5.0).frame(2).classes)
    assert not np.array_equal(labels, Street(4, (64, 96)).frame(2).classes)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--fps", "0.5", "fps is 0.5; a video has 1 to 240"),
        ("--fps", "241", "fps is 241.0; expected above 0, at most 240"),
        ("--frames", "0", "frames is 0"),
        ("--crf", "52", "crf is 52"),
    ],
)
def test_what_no_video_has_is_refused(
    tmp_path: Path, option: str, value: str, message: str
) -> None:
    out = tmp_path / "world"
    refused = CliRunner().invoke(app, ["world", "--out", str(out), option, value])
    assert isinstance(refused.exception, OptionError)
    assert message in str(refused.exception)
    assert not out.exists()
