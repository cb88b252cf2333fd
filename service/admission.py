"""The door of the engine: a stream is opened with its share of the workers' time, or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from service.capacity import Share
from service.engine import Ask, Engine, EngineStream, StreamSpec
from service.messages import ObjectMask, Outputs, StreamStart, VosStart
from service.pictures import Picture
from service.scheduler import Lane
from service.services import Services

__all__ = ["measure", "open_stream", "probe"]

_PROBE_FRAMES = 6  # two to plan the work, then two of each kind


async def open_stream(
    services: Services, options: StreamStart, lane: Lane
) -> tuple[EngineStream, Share]:
    """Open a stream as its client asks.

    Raises:
        EngineError: options that the engine refuses.
        OverCapacityError: the workers have no time for it.
        WorkerLost: there is no worker for it.
    """
    spec = services.spec(
        options.model,
        options.precision,
        options.period,
        options.threshold,
        options.policy,
        options.reference,
        options.pose,
        options.vos,
    )
    stream = await lane.run(lambda: services.engine.open(spec))
    found = stream.spec
    assert found.precision is not None
    assert found.period is not None
    try:
        if options.fps is not None or options.deadline_ms is not None:
            await measure(services, found.model, found.precision, lane)
        share = services.capacity.admit(
            found.model,
            found.precision,
            found.period,
            options.fps,
            None if options.deadline_ms is None else options.deadline_ms / 1000,
            options.mode == "live",
            stream.room,
        )
        stream.claim(share.demand(services.capacity.effects))
    except BaseException:
        stream.close()
        raise
    return stream, share


async def measure(services: Services, model: str, precision: str | None, lane: Lane) -> None:
    """See to it that there are figures of a model: run some frames if there are none.

    Raises:
        EngineError: the model cannot be used at this precision.
    """
    if precision is not None and services.capacity.costs(model, precision) is not None:
        return
    spec = services.spec(model, precision)
    found, frames = await lane.run(lambda: probe(services.engine, spec))
    for is_anchor, seconds in frames:
        services.capacity.measure(model, found, is_anchor, seconds)


def probe(engine: Engine, spec: StreamSpec) -> tuple[str, list[tuple[bool, float]]]:
    """The precision in force, and what frames took: whether each was an anchor, and seconds.

    A quarter of the picture changes from frame to frame.

    Raises:
        EngineError: the model cannot be used as the spec says.
        WorkerLost: there is no worker for it.
    """
    card = engine.card(spec.model)
    height, width = card.input_size
    if card.task == "vos":
        box = [width / 4, height / 4, width / 2, height / 2]
        spec = replace(spec, vos=VosStart(objects=[ObjectMask(id=1, box=box)]))
    stream = engine.open(replace(spec, period=_PROBE_FRAMES + 1))
    try:
        taken: list[tuple[bool, float]] = []
        for index in range(_PROBE_FRAMES):
            image = _picture(height, width, index)
            anchor = "measured" if index % 2 == 0 else None
            answer = stream.answer(image, Ask(Outputs(), anchor=anchor))
            assert answer is not None
            taken.append((answer.out.is_anchor, answer.infer + answer.encode))
        assert stream.spec.precision is not None
        return stream.spec.precision, taken[2:]
    finally:
        stream.close()


def _picture(height: int, width: int, index: int) -> Picture:
    """A grey ramp with a square of its half sides in one of three places."""
    ramp = np.linspace(40, 200, width, dtype=np.uint8)
    image = np.repeat(ramp[None, :, None], height, 0).repeat(3, 2)
    left = (width // 4) * (index % 3)
    image[height // 4 : height // 4 * 3, left : left + width // 2] = (220, 120, 60)
    return image
