"""The pure parts of the comparison; nothing here measures time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.clips import load, moving_box
from benchmarks.cpu import parser
from benchmarks.efficiency import Convolution, Products
from benchmarks.figures import (
    as_markdown,
    largest_passing,
    percentile,
    ratios,
    straight_line,
    timing,
)
from benchmarks.job import Job
from benchmarks.linear import SHARES, replaced
from benchmarks.subjects import Subject, batch_norm_folded
from benchmarks.table import RUNS
from resq_core.backends.native_executor import StepTime
from resq_core.bops import LayerReport
from resq_core.errors import InputError, OptionError
from resq_core.linear_op import Kind, LinearOp


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100), (0.001, 1)]
)
def test_percentile_is_the_nearest_rank(share: float, expected: int) -> None:
    assert percentile(range(100, 0, -1), share) == expected


def test_timing_keeps_keyframes_and_residual_frames_apart() -> None:
    found = timing([10.0, 2.0, 4.0, 12.0, 2.0, 6.0], [True, False, False] * 2, threads=2)
    assert found["keyframe_ms"] == {"median": 11.0, "p99": 12.0, "frames": 2}
    assert found["residual_ms"] == {"median": 3.0, "p99": 6.0, "frames": 4}
    assert found["amortized_ms"] == pytest.approx(6.0)
    assert found["frames_per_second_per_core"] == pytest.approx(1000 / 6 / 2)
    assert "residual_ms" not in timing([1.0], [True], threads=1)


def row(name: str, keyframe: float, amortized: float) -> dict[str, Any]:
    figures = {"median": keyframe, "p99": keyframe, "frames": 1}
    return {
        "name": name,
        "keyframe_ms": figures,
        "amortized_ms": amortized,
        "agreement_fp32": 0.99,
    }


def test_ratios_compare_with_the_faster_int8_peer() -> None:
    rows = [
        row("torch_fp32", 100.0, 110.0),
        row("onnxruntime_int8", 30.0, 31.0),
        row("openvino_int8", 20.0, 22.0),
        row("resq", 25.0, 11.0),
    ]
    assert ratios(rows) == {
        "best_int8": 2.0,
        "best_int8_name": "openvino_int8",
        "torch_fp32": 10.0,
        "keyframe_vs_openvino_int8": 0.8,
    }
    without = ratios([row for row in rows if row["name"] != "openvino_int8"])
    assert without["best_int8_name"] == "onnxruntime_int8"
    assert "keyframe_vs_openvino_int8" not in without
    assert ratios(rows[:-1]) == {}


@pytest.mark.parametrize("last", range(-1, 7))
def test_the_search_finds_the_last_candidate_that_passes(last: int) -> None:
    tried: list[float] = []

    def passes(candidate: float) -> bool:
        tried.append(candidate)
        return candidate <= last

    found = largest_passing(range(7), passes)
    assert found == (None if last < 0 else last)
    assert len(tried) == len(set(tried)) <= 3


def test_the_summary_has_a_line_for_every_run_and_runtime() -> None:
    rows = [row("openvino_int8", 20.0, 22.0), row("resq", 25.0, 11.0)]
    skipped = [{"name": "torch_compile", "reason": "no compiler"}]
    result = {"ratios": ratios(rows), "runtimes": rows, "skipped": skipped}
    text = as_markdown({"street": result})
    assert "| street | 2.00 | openvino_int8 | – | 0.80 | torch_compile |" in text
    assert "| street | resq | 25.0 | – | 11.0 | 25.0 | 0.9900 |" in text


def test_a_job_hands_over_frames_and_outputs(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).standard_normal((3, 3, 4, 5)).astype(np.float32)
    job = Job(
        folder=str(tmp_path),
        cache="cache",
        shape=(1, 3, 4, 5),
        frames=3,
        threads=2,
        period=8,
        reference="tracking",
        threshold=None,
        factors={"first": 2.0},
        max_active=1.0,
        backend=None,
    )
    job.write(frames)
    read = Job.read(str(tmp_path))
    assert read == job
    assert json.loads((tmp_path / "job.json").read_text())["frames"] == 3
    np.testing.assert_array_equal(read.frame(1), frames[1:2])
    for index in range(3):
        read.keep("peer", frames[index].transpose(0, 2, 1)[None])
    np.testing.assert_array_equal(
        job.outputs("peer", (1, 3, 5, 4))[:, 0], frames.transpose(0, 1, 3, 2)
    )


def test_efficiency_is_of_wide_layers_at_moderate_activity_weighted_by_macs() -> None:
    x = torch.zeros(1, 64, 10, 10)
    ops = {
        "wide": LinearOp("wide", Kind.CONV2D, torch.zeros(64, 64, 1, 1)),
        "wider": LinearOp("wider", Kind.CONV2D, torch.zeros(128, 64, 3, 3), padding="same"),
        "thin": LinearOp("thin", Kind.CONV2D, torch.zeros(32, 64, 1, 1)),
        "grouped": LinearOp("grouped", Kind.CONV2D, torch.zeros(64, 1, 3, 3), groups=64),
        "linear": LinearOp("linear", Kind.LINEAR, torch.zeros(64, 64)),
    }
    found = {name: Convolution.of(op, x) for name, op in ops.items()}
    layers = {name: shape for name, shape in found.items() if shape is not None}
    assert sorted(layers) == ["wide", "wider"]
    assert layers["wider"].padding == (1, 1)

    products = Products(layers)
    assert products.efficiency(lambda _: 1.0) is None
    for share, seconds in ((0.04, 9.0), (0.1, 1.0), (0.3, 3.0), (0.31, 9.0)):
        reports = [LayerReport(n, 1, 1, 0, 8.0, share, 0.0, share) for n in ops]
        times = [StepTime(n, 2 * seconds, seconds, 10) for n in ("import", *ops)]
        products.add(reports, times)
    wide, wider = 64 * 64, 128 * 64 * 9  # MACs of a pixel; 20 pixels in 4 seconds of each
    assert products.macs == {layers["wide"]: 20 * wide, layers["wider"]: 20 * wider}
    eta = products.efficiency(lambda shape: 10.0 * shape.macs_per_pixel)
    assert eta == pytest.approx(0.5)
    weighted = products.efficiency(lambda shape: 5.0 * wide if shape == layers["wide"] else wider)
    assert weighted == pytest.approx((wide * 1.0 + wider * 5.0) / (wide + wider))


def test_the_line_through_points_on_a_line_is_that_line() -> None:
    active = [0.0, 0.1, 0.5, 1.0]
    exact = straight_line(active, [2 + 30 * x for x in active])
    assert exact == pytest.approx({"intercept_ms": 2, "slope_ms": 30, "r2": 1})
    assert straight_line([0, 1, 2, 3], [0, 1, 1, 0])["r2"] == pytest.approx(0)


@pytest.mark.parametrize("share", SHARES)
def test_a_share_of_the_picture_is_replaced_and_the_rest_stays(share: float) -> None:
    picture = torch.zeros(1, 3, 90, 120)
    changed = replaced(picture, torch.ones_like(picture), share) == 1
    assert float(changed.float().mean()) == pytest.approx(share, abs=0.01)
    assert not bool(picture.any())


def test_controls_are_what_they_say() -> None:
    still = load("still", (64, 96), 3).pictures
    assert len(still) == 3
    assert all(np.array_equal(picture, still[0]) for picture in still)
    noise = load("noise", (64, 96), 2).pictures
    assert float((noise[0] != noise[1]).mean()) > 0.98
    walking = load("pedestrians", (64, 96), 2)
    assert not np.array_equal(*walking.pictures)
    assert walking.labels is not None
    with pytest.raises(InputError, match="no clip nowhere"):
        load("nowhere", (64, 96), 2)


def test_the_moving_box_is_where_the_clip_changes() -> None:
    pictures = [np.zeros((40, 60, 3), np.uint8) for _ in range(3)]
    pictures[1][10:20, 30:50] = 200
    box = moving_box(pictures)
    assert (box.x, box.y) == (30, 10)
    assert 18 <= box.width <= 20
    assert 9 <= box.height <= 10
    assert moving_box(pictures[:1]).width == 60


def test_folding_keeps_outputs_and_leaves_other_norms() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
    )
    x = torch.randn(2, 3, 8, 8)
    network(x)
    network.eval().requires_grad_(False)
    before = network(x)
    folded = batch_norm_folded(network, x)
    torch.testing.assert_close(folded(x), before)
    assert [type(m) for m in folded][:4] == [nn.Conv2d, nn.Identity, nn.ReLU, nn.BatchNorm2d]


def test_joints_agree_within_a_twentieth_of_the_heatmap() -> None:
    subject = Subject("hrnet_w32_pose", (256, 256))
    maps = np.zeros((1, 2, 64, 64), np.float32)
    maps[0, 0, 10, 10] = maps[0, 1, 20, 20] = 1
    moved = np.roll(maps, (3, 0), (2, 3))
    moved[0, 1] = np.roll(maps[0, 1], 4, 0)
    both = [subject.answers([m]) for m in (maps, moved)]
    assert subject.agreement(*both, maps.shape) == 0.5  # 3 cells are near, 4 are not


def test_every_run_of_the_table_can_be_asked_for() -> None:
    for run in RUNS:
        options = {"model": run.model, "size": run.size, "clip": run.clip, "period": run.period}
        arguments = parser().parse_args([f"--{name}={value}" for name, value in options.items()])
        assert arguments.size == Subject(run.model, arguments.size).size
        assert run.found
    runs = {(run.model, run.size, run.found, run.period) for run in RUNS}
    assert len({run.name for run in RUNS}) == len(runs)
    with pytest.raises(OptionError, match="masks"):
        Subject("stm", (256, 256))
