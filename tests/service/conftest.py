"""A small model behind a real server on a real socket."""

from __future__ import annotations

import builtins
import io
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from playwright.async_api import Browser
from torch import Tensor, nn

import resq_core
from resq_core import QuantizedModel
from resq_core.backends import Backend
from resq_core.models import STM, build
from resq_core.pipelines import QuantizedStm, VosClip, quantize_stm
from resq_core.zoo import ModelCard, Shelf
from service.config import Config
from service.engine import StepOutput, StreamSpec
from service.local_engine import LocalEngine, LocalStream, Model
from service.pictures import Picture
from service.server import Server, running
from tests.resq_core.models.golden import fill
from tests.service.browsing import chromium, draw_camera
from tests.service.prometheus import Prometheus, StartPrometheus

if TYPE_CHECKING:
    from tests.service.raying import Cluster

SIZE = (48, 64)


class Tiny(nn.Module):
    """Which of red, green and blue is strongest, through two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 3, 1)
        with torch.no_grad():
            self.first.weight.zero_()
            self.first.bias.fill_(4.0)
            self.second.weight.zero_()
            self.second.bias.zero_()
            for c in range(3):
                self.first.weight[c, c, 1, 1] = 1.0
                self.second.weight[c, c] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x).relu())
        return result


CARD = ModelCard(
    name="tiny",
    title="strongest colour",
    task="segmentation",
    architecture="none",
    classes=("red", "green", "blue"),
    palette=((255, 0, 0), (0, 255, 0), (0, 0, 255)),
    ignore_index=255,
    input_size=SIZE,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    licence="none",
    data="none",
    metrics={},
    training="none",
    precisions=("W8A8->W8A{0,4,8}", "W8A8->W8A4"),
)


@pytest.fixture(scope="session")
def quantized() -> QuantizedModel:
    torch.manual_seed(0)
    model = resq_core.quantize(Tiny(), "W8A8->W8A{0,4,8}", period=4)
    clip = 2 * torch.rand(8, 3, *SIZE).mul(2).sub(1)
    model.calibrate([clip], samples=6, also=["W8A8->W8A4"])
    return model


class Marker(nn.Module):
    """Heatmaps of 15 joints that all peak where the picture is reddest."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 15, 4, stride=4)
        with torch.no_grad():
            self.look.weight.zero_()
            self.look.weight[:, 0] = 0.05
            self.look.weight[:, 1:] = -0.03
            assert self.look.bias is not None
            self.look.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.look(x)
        return result


POSE_CARD = CARD.model_copy(
    update={"name": "marker", "task": "pose", "classes": (), "palette": (), "joints": "jhmdb15"}
)


@pytest.fixture(scope="session")
def quantized_pose() -> QuantizedModel:
    model = resq_core.quantize(Marker(), "W8A8->W8A{0,4,8}", period=4)
    torch.manual_seed(0)
    model.calibrate([2 * torch.rand(8, 3, *SIZE).mul(2).sub(1)], samples=6)
    return model


@pytest.fixture
def shelf(
    tmp_path: Path,
    quantized: QuantizedModel,
    quantized_pose: QuantizedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> Shelf:
    """The tiny models in a folder of models, as a package's architecture is."""
    folder = tmp_path / "models"
    offered = {"tiny": (CARD, quantized), "marker": (POSE_CARD, quantized_pose)}
    for name, (card, model) in offered.items():
        (folder / name).mkdir(parents=True)
        model.save(folder / name / f"{name}.resq")
        (folder / name / "card.json").write_text(card.model_dump_json())
    monkeypatch.setenv("RESQ_MODELS_DIR", str(folder))

    def load(shelf: Shelf, name: str, backend: Backend, device: str) -> QuantizedModel:
        return resq_core.load(shelf.path(name), offered[name][1].module, backend, device)

    monkeypatch.setattr("service.local_engine._load", load)
    return Shelf(folder)


STM_CARD = CARD.model_copy(
    update={
        "name": "stm",
        "title": "objects, badly",
        "task": "vos",
        "architecture": "stm",
        "classes": (),
        "palette": (),
    }
)


@pytest.fixture(scope="session")
def quantized_stm() -> QuantizedStm:
    """An STM of drawn weights: where objects go is chance, where they begin is not."""
    net = build("stm", width=16).eval()
    assert isinstance(net, STM)
    fill(net, ["Encoder_M.mean", "Encoder_M.std", "Encoder_Q.mean", "Encoder_Q.std"])
    model = quantize_stm(net, "W8A8->W8A{0,4,8}", period=3)
    frames = [square(i) for i in range(4)]
    model.calibrate([VosClip.of(frames, {1: square(0)[..., 0] == 220})], samples=2, points=5)
    return model


def square(index: int) -> NDArray[np.uint8]:
    """A still ramp with a square that walks."""
    picture = np.repeat(np.linspace(40, 160, SIZE[1], dtype=np.uint8)[None], SIZE[0], 0)
    picture = np.repeat(picture[..., None], 3, 2)
    picture[10:26, 8 + 2 * index : 24 + 2 * index] = (220, 60, 40)
    return picture


class SlowEngine(LocalEngine):
    """An engine whose every step takes a while, and whose streams can be counted.

    Attributes:
        fault: "7 RuntimeError" lets the step of a stream with 7 frames behind it raise that, once.
    """

    def __init__(
        self, model: QuantizedModel, seconds: float = 0.0, pose: QuantizedModel | None = None
    ) -> None:
        models = {"tiny": Model(CARD, lambda: model)}
        if pose is not None:
            models["marker"] = Model(POSE_CARD, lambda: pose)
        super().__init__(models)
        self.seconds, self.anchor_seconds, self.fault = seconds, 0.0, ""
        self.opened: list[SlowStream] = []

    def open(self, spec: StreamSpec) -> SlowStream:
        stream = SlowStream(super().open(spec), self)
        self.opened.append(stream)
        return stream

    @property
    def held(self) -> int:
        """Bytes of state of all streams ever opened."""
        return sum(stream.nbytes for stream in self.opened)


class SlowStream(LocalStream):
    def __init__(self, inner: LocalStream, engine: SlowEngine) -> None:
        self.__dict__.update(inner.__dict__)
        self._engine = engine
        self.running = threading.Lock()
        self.starts: list[float] = []

    def step(self, image: Picture, bit_map: bool, layers: bool, anchor: str | None) -> StepOutput:
        assert self.running.acquire(blocking=False), "two threads in one stream"
        try:
            self.starts.append(time.perf_counter())
            time.sleep(self._engine.seconds)
            self._fail()
            out = super().step(image, bit_map, layers, anchor)
            time.sleep(self._engine.anchor_seconds if out.is_anchor else 0.0)
            return out
        finally:
            self.running.release()

    def _fail(self) -> None:
        frame, _, error = self._engine.fault.partition(" ")
        if error and self.totals.frames == int(frame):
            self._engine.fault = ""
            raise getattr(builtins, error)("of a test")


@pytest.fixture(scope="session")
def cluster(
    quantized: QuantizedModel,
    quantized_pose: QuantizedModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """Workers of Ray with the tiny models, which start when a test first asks for them."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'resq[ray]'")
    from tests.service.raying import Cluster

    folder = tmp_path_factory.mktemp("cluster")
    quantized.save(folder / "tiny.resq")
    quantized_pose.save(folder / "marker.resq")
    with closing(Cluster(folder, [CARD, POSE_CARD])) as cluster:
        yield cluster


@pytest.fixture
def engine(
    quantized: QuantizedModel, quantized_pose: QuantizedModel, request: pytest.FixtureRequest
) -> Iterator[SlowEngine]:
    """TEST_ENGINE=ray takes one whose worker is elsewhere."""
    if os.environ.get("TEST_ENGINE") != "ray":
        yield SlowEngine(quantized, pose=quantized_pose)
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    with closing(cluster.engine(workers=1)) as remote:
        yield cast(SlowEngine, remote)  # it has all that tests ask of one


@pytest.fixture
def serve(engine: SlowEngine, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start a server with settings; gives its address. Ends with the test."""
    with ExitStack() as stack:

        def start(**settings: Any) -> str:
            given: dict[str, Any] = {"model": "tiny", "threads": 1, "decoders": 0}
            given |= {"data_dir": tmp_path / "data", "requests_per_minute": 100_000}
            given |= settings  # tests ask again and again
            server = Server(Config(**given), engine, log_level="warning")
            return stack.enter_context(running(server))

        yield start


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[StartPrometheus]:
    """Start a Prometheus that scrapes an address; it ends with the test."""
    with ExitStack() as stack:

        def start(target: str, *rules: Path) -> Prometheus:
            return stack.enter_context(closing(Prometheus(tmp_path, target, rules)))

        yield start


@pytest.fixture(scope="module")  # other tests count the processes that there are
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the street model."""
    config = Config(threads=2, decoders=1, data_dir=tmp_path_factory.mktemp("data"))
    with ExitStack() as stack:
        yield stack.enter_context(running(Server(config, LocalEngine(), log_level="warning")))


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fake camera of `browser` plays."""
    return draw_camera(tmp_path_factory.mktemp("camera") / "street.mjpeg")


@pytest.fixture
async def browser(film: Path) -> AsyncIterator[Browser]:
    async with chromium(film) as found:
        yield found


@pytest.fixture
def pictures(request: pytest.FixtureRequest) -> Path | None:
    """Where pictures of the console go, if any are wanted."""
    folder: Path | None = request.config.getoption("--screenshots")
    return folder


def colour(index: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A picture of one strong colour on the left, another on the right; varies with the index."""
    picture = np.full((*size, 3), 20, np.uint8)
    half = size[1] // 2
    picture[:, :half, index % 3] = 220
    picture[:, half:, (index + 1) % 3] = 220
    return picture


def encoded(picture: NDArray[np.uint8], form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, form)
    return out.getvalue()
