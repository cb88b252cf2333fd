"""The ASGI application: what is shared by all requests, and which routes there are."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from service.config import Config
from service.engine import Engine, LocalEngine
from service.errors import PROBLEM_TYPE, Problem
from service.metrics import Metrics
from service.registry import Registry
from service.routes import health, models, page, streams
from service.scheduler import Scheduler
from service.session import Services

__all__ = ["create_app"]


def create_app(config: Config, engine: Engine | None = None) -> FastAPI:
    """Build the service.

    Args:
        config: settings.
        engine: runs the models; None takes the models that come with the package.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        threads = max(1, (os.cpu_count() or 1) // config.workers)
        decoders = ThreadPoolExecutor(config.workers, thread_name_prefix="resq-decode")
        scheduler = Scheduler(config.workers)
        app.state.config = config
        app.state.registry = Registry(config.max_streams)
        app.state.services = Services(
            config, engine or LocalEngine(torch_threads=threads), scheduler, decoders, Metrics()
        )
        try:
            yield
        finally:
            app.state.registry.drain("shutdown")
            scheduler.close()
            decoders.shutdown(wait=True, cancel_futures=True)

    app = FastAPI(title="ResQ", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.middleware("http")(_secure)
    for router in (health.router, models.router, page.router, streams.router):
        app.include_router(router)
    return app


async def _secure(request: Request, call_next: object) -> Response:
    assert callable(call_next)
    response: Response = await call_next(request)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "no-referrer")
    response.headers.setdefault("Content-Security-Policy", "default-src 'none'")
    return response


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return JSONResponse(error.body(), error.status, headers=error.headers, media_type=PROBLEM_TYPE)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return await _problem(request, Problem(422, "bad_request", f"{where}: {first['msg']}"))
