"""A Python client: streams and clips on a ResQ server, results as NumPy arrays.

>>> from service.client import Client
>>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
...     for result in client.stream("clip.mp4", model="street", period=8):
...         print(result.saving, result.mask.shape, result.frame.shape)

`AsyncClient` is the same for asyncio. `connect` is the protocol below, frame by frame.
"""

from resq_core.errors import InputError, OptionError
from service.client.aio import AsyncClient
from service.client.blocking import Client, Clip, Clips, Stream
from service.client.clips import AsyncClip, AsyncClips, ClipResult
from service.client.connection import Answer, ClientStream, Result, connect
from service.client.errors import KeyRefusedError, OutcomeError, RemoteError, UnreachableError
from service.client.instances import Instances
from service.client.models import ClipInfo, ModelInfo
from service.client.results import FrameResult
from service.client.streaming import AsyncStream
from service.decoder import ClipError

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncClip",
    "AsyncClips",
    "AsyncStream",
    "Client",
    "ClientStream",
    "Clip",
    "ClipError",
    "ClipInfo",
    "ClipResult",
    "Clips",
    "FrameResult",
    "InputError",
    "Instances",
    "KeyRefusedError",
    "ModelInfo",
    "OptionError",
    "OutcomeError",
    "RemoteError",
    "Result",
    "Stream",
    "UnreachableError",
    "connect",
]
