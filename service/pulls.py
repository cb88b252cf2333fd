"""Streams that the server pulls from URLs: started, remembered over restarts, and forgotten."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from service.job_store import JobStore, PullRecord, StoreError
from service.messages import Outputs, StreamStart
from service.outbound import Target, parse_target
from service.pull import Pull
from service.registry import FullError, QuotaError, Registry
from service.services import Services
from service.session import Session

__all__ = ["PullRefusedError", "PullStart", "Pulls"]

_log = logging.getLogger("resq.pulls")
_SCHEMES = ("rtsp", "http", "https")


class PullStart(StreamStart):
    """A stream to pull: `url`, and what `stream.start` takes but `input`; no masks by default."""

    url: Annotated[str, Field(max_length=2048, repr=False)]
    input: Literal["rgb"] = Field("rgb", exclude=True)
    outputs: Outputs = Outputs(mask="none")


class PullRefusedError(Exception):
    """The stream was not started. code, field: as of an `error` message."""

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code, self.field = code, field


class Pulls:
    """All of one server. The event loop owns it."""

    def __init__(self, services: Services, registry: Registry, store: JobStore) -> None:
        self._services, self._registry, self._store = services, registry, store
        self._running: dict[str, asyncio.Task[None]] = {}

    async def add(self, wanted: PullStart, client: str) -> str:
        """Start a stream and remember it; its id.

        Args:
            client: whose place it takes.

        Raises:
            ForbiddenHostError: the URL is malformed, or its host not allowed.
            PullRefusedError: the options are bad, or the id is taken.
            FullError, QuotaError: there is no place for it.
            StoreError: it cannot be remembered.
        """
        name = wanted.id or secrets.token_hex(8)
        wanted = wanted.model_copy(update={"id": name})
        target = parse_target(wanted.url, _SCHEMES)
        self._services.hosts.check(target.host)
        session = await self._start(wanted, target, client)
        options = wanted.model_dump_json(exclude_none=True)
        record = PullRecord(name, time.time(), client, options)
        try:
            await asyncio.to_thread(self._store.save_pull, record)
        except StoreError:
            session.stop("deleted")
            raise
        return name

    async def delete(self, name: str) -> bool:
        """Forget a stream and end it, with its process and sockets; False if none is pulled."""
        known = await asyncio.to_thread(self._store.delete_pull, name)
        task = self._running.get(name)
        if task is None:
            return known
        session = self._registry.sessions.get(name)
        if session is not None:
            session.stop("deleted")
        await asyncio.wait([task])
        return True

    async def restore(self) -> None:
        """Start again what ran when the server before ended; what cannot start stays remembered."""
        for record in await asyncio.to_thread(self._store.load_pulls):
            try:
                wanted = PullStart.model_validate_json(record.options)
                await self._start(wanted, parse_target(wanted.url, _SCHEMES), record.client)
            except (ValidationError, ValueError) as error:
                _log.warning("stream %s is not pulled: %s", record.id, type(error).__name__)
            except (PullRefusedError, FullError, QuotaError) as error:
                _log.warning("stream %s is not pulled: %s", record.id, error)

    async def close(self) -> None:
        """Wait for all to end, when the registry drains."""
        if self._running:
            await asyncio.wait(list(self._running.values()))

    async def _start(self, wanted: PullStart, target: Target, client: str) -> Session:
        assert wanted.id is not None
        name, slot = wanted.id, self._registry.admit(client)
        fields = wanted.model_dump(exclude={"url", "input"})
        pull = Pull(self._services, target, StreamStart(**fields, input="rgb"))
        session = Session(self._services, pull, slot)
        task = asyncio.create_task(self._run(name, session, pull))
        opened = await pull.opened
        if opened.code is not None:
            await asyncio.wait([task])
            raise PullRefusedError(opened.code, opened.message, opened.field)
        self._running[name] = task
        task.add_done_callback(lambda _: self._running.pop(name, None))
        return session

    async def _run(self, name: str, session: Session, pull: Pull) -> None:
        await session.run()
        if not pull.opened.done() or pull.opened.result().code is not None:
            return
        if not self._registry.draining:
            await self._forget(name)

    async def _forget(self, name: str) -> None:
        try:
            await asyncio.to_thread(self._store.delete_pull, name)
        except StoreError as error:
            _log.warning("%s", error)
