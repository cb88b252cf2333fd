"""Workers of Ray on this machine, with the tiny models, as slow as a test wants them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray

import resq_core
from resq_core.zoo import ModelCard
from service.cluster.engine import RayEngine
from service.cluster.joining import connect, join
from service.cluster.stream import RemoteStream
from service.config import Config
from service.engine import Answer, Ask, Kept, StepOutput, StreamSpec
from service.pictures import Picture
from service.placement import State
from tests.service.conftest import Marker, SlowEngine, Tiny

ROOT = Path(__file__).resolve().parents[2]
_KNOBS: dict[str, tuple[Callable[[str], Any], str]] = {  # what it is, and what it begins with
    "seconds": (float, "0"),
    "anchor_seconds": (float, "0"),
    "fault": (str, ""),
}


def slow_engine(folder: Path) -> SlowEngine:
    """A worker's engine, which looks up how slow it is to be before each frame."""
    tiny = resq_core.load(folder / "tiny.resq", Tiny())
    marker = resq_core.load(folder / "marker.resq", Marker())

    class Knobbed(SlowEngine):
        def __getattribute__(self, name: str) -> Any:
            if name in _KNOBS:
                return _KNOBS[name][0]((folder / name).read_text())
            return super().__getattribute__(name)

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "fault":  # it is over
                put(folder, name, value)
            super().__setattr__(name, value)

    return Knobbed(tiny, pose=marker)


def put(folder: Path, name: str, value: Any) -> None:
    """Set a knob for all who look at it."""
    new = folder / f"{name}.new"
    new.write_text(str(value))
    new.replace(folder / name)


class Watched:
    """A remote stream that remembers when its frames began, as `SlowStream` does."""

    def __init__(self, stream: RemoteStream) -> None:
        self._stream = stream
        self.starts: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def answer(self, image: Picture | Kept, ask: Ask) -> Answer | None:
        self.starts.append(time.perf_counter())
        answer = self._stream.answer(image, ask)
        if answer is None:
            self.starts.pop()
        else:  # the clock is the machine's, the same in all processes
            self.starts[-1] = time.perf_counter() - answer.infer - answer.encode
        return answer

    def step(self, *args: Any) -> StepOutput:
        self.starts.append(time.perf_counter())
        return self._stream.step(*args)


class KnobbedEngine(RayEngine):
    """A gateway's engine that tells its workers how slow to be."""

    def __init__(self, cards: Sequence[ModelCard], roster: Any, folder: Path) -> None:
        super().__init__(cards, roster)
        self._folder = folder
        self.opened: list[Any] = []
        self.seconds = self.anchor_seconds = 0.0
        self.fault = ""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _KNOBS:
            put(self._folder, name, value)
        super().__setattr__(name, value)

    def open(self, spec: StreamSpec) -> Any:
        stream = Watched(super().open(spec))
        self.opened.append(stream)
        return stream

    @property
    def held(self) -> int:
        """Bytes of state of all streams ever opened."""
        return sum(stream.nbytes for stream in self.opened)


class Cluster:
    """A cluster of this machine alone; `close` ends it."""

    def __init__(self, folder: Path, cards: Sequence[ModelCard]) -> None:
        self._folder, self._cards = folder, cards
        for name, (_, value) in _KNOBS.items():
            put(folder, name, value)
        before = os.environ.get("PYTHONPATH", "")
        os.environ["PYTHONPATH"] = f"{ROOT}:{before}"  # workers import this file
        try:
            connect(None, 4)
        finally:
            os.environ["PYTHONPATH"] = before

    def engine(self, workers: int) -> KnobbedEngine:
        """A gateway's engine; so many workers are ready when it is given, and nothing of an
        earlier test is left on them: streams that come now spread.
        """
        config = Config(model="tiny", ray_workers=workers, threads=1, decoders=0)
        joined = join(config, self._cards, partial(slow_engine, self._folder))
        found = KnobbedEngine(self._cards, joined.roster, self._folder)
        joined.close()
        deadline = time.monotonic() + 60
        while True:
            found.share({})
            members = [member.worker for member in found.members]
            ready = [w for w in members if w.state is State.READY and not w.load]
            if len(ready) >= workers:
                return found
            assert time.monotonic() < deadline, members
            time.sleep(0.1)

    def close(self) -> None:
        ray.shutdown()
