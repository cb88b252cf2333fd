"""The client of asyncio programs; that of all others is a shell around it."""

from __future__ import annotations

from types import TracebackType
from typing import Unpack
from weakref import WeakSet

from service.client.address import DEFAULT_URL, Address
from service.client.clips import AsyncClips
from service.client.errors import RemoteError
from service.client.models import ModelInfo
from service.client.options import StreamOptions
from service.client.rest import Rest
from service.client.sources import SourceLike
from service.client.streaming import AsyncStream

__all__ = ["AsyncClient"]


class AsyncClient:
    """A ResQ server. Use as an async context manager, in one event loop.

    Args:
        url: `http://host:port`, or https.
        key: an API key; None takes RESQ_KEY, and none where that is unset.
        timeout: seconds without an answer after which a request is given up.

    Attributes:
        clips: jobs on whole files.

    Raises:
        OptionError: the URL is none.
    """

    def __init__(
        self, url: str = DEFAULT_URL, key: str | None = None, timeout: float = 30.0
    ) -> None:
        self._address, self._key = Address.of(url, key), key
        self._rest = Rest(self._address, timeout)
        self.clips = AsyncClips(self._rest)
        self._streams: WeakSet[AsyncStream] = WeakSet()

    def stream(self, source: SourceLike, **options: Unpack[StreamOptions]) -> AsyncStream:
        """A stream of frames, opened when it is iterated or entered.

        Args:
            source: a video file, a folder of pictures, `webcam:0`, an `rtsp://` URL that this
                machine reaches, or any iterable of pictures uint8 [H, W, 3] RGB, which is read in
                a thread of its own.
            options: see `StreamOptions`.

        Raises:
            OptionError: bad options. What else can go wrong shows when it is opened, see
                `AsyncStream`.
        """
        stream = AsyncStream(self._address.http, self._key, source, **options)
        self._streams.add(stream)
        return stream

    async def models(self) -> tuple[ModelInfo, ...]:
        """What the server has to offer."""
        answer = await self._rest.json("GET", "/v1/models")
        try:
            return tuple(
                ModelInfo.model_validate(card | {"default": card["name"] == answer["default"]})
                for card in answer["models"]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise RemoteError("the server lists its models in a way that is not known") from error

    async def version(self) -> str:
        """Of the server's software."""
        return str((await self._rest.json("GET", "/v1/version"))["version"])

    async def close(self) -> None:
        """End all streams, and close the connections."""
        for stream in tuple(self._streams):
            await stream.close()
        await self._rest.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
