"""The native executor against the reference, which defines what is right."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import resq_core
from resq_core.backends.extension import native_status
from tests.resq_core.backends.drawn import (
    Course,
    Network,
    assert_same,
    courses,
    frames_of,
    networks,
    on,
)

STATUS = native_status()
pytestmark = pytest.mark.skipif(
    STATUS.isa is None, reason=f"no native backend here: {STATUS.reason}"
)

EXAMPLES = os.environ.get("RESQ_EXAMPLES")
"""How many networks to draw, and then others each time; for a long search by hand."""


def example_settings(default: int) -> settings:
    return settings(
        max_examples=int(EXAMPLES or default),
        derandomize=EXAMPLES is None,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


def run_both(network: Network, course: Course, grid: str, granularity: str) -> None:
    frames = frames_of(network.shapes, course.frames)
    model = resq_core.quantize(
        network,
        course.precision,
        grid=grid,
        granularity=granularity,
        backend="reference",
        policy=course.policy,
        threshold=course.threshold,
    )
    mild = frames_of(network.shapes, ["new", "move", "move", "new"])
    model.calibrate([mild], samples=3, points=4)
    streams = [
        on(model, backend).stream(period=course.period, reference=course.reference)
        for backend in ("reference", "native")
    ]
    when, period, threshold = course.update
    for i, frame in enumerate(frames):
        if i == when:
            for stream in streams:
                stream.update(period=period, threshold=threshold)
        expected, got = (s.step(frame, bit_map=True, layers=True) for s in streams)
        assert_same(expected, got)


@given(networks(), courses(), st.sampled_from(["aligned", "free"]), st.sampled_from(["channel", "tensor"]))
@example_settings(25)
def test_drawn_networks(network: Network, course: Course, grid: str, granularity: str) -> None:
    note(repr(network))
    run_both(network, course, grid, granularity)
