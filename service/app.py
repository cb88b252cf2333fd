"""The web application: routes, errors, start and end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.staticfiles import StaticFiles

from resq_core.backends.choice import serving_here
from resq_core.device import checked_device
from service.access import Access
from service.admission import measure
from service.capacity import Capacity
from service.children import Children
from service.config import Config
from service.decoder_process import DecoderPool
from service.degrade import levels
from service.engine import Engine
from service.errors import PROBLEM_TYPE, Problem
from service.heap import keep_trimmed
from service.job_store import JobStore, StoreError
from service.jobs import Jobs
from service.metrics import Metrics
from service.outbound import AllowedHosts
from service.pulls import Pulls
from service.registry import Registry
from service.requests import Requests
from service.routes import clips, health, models, streams
from service.routes.answers import complete
from service.routes.context import Context
from service.scheduler import Scheduler
from service.security import Failures, Guard, SecurityHeaders
from service.services import Services
from service.threads import thread_pool
from service.traces import open_traces

__all__ = ["ROUTERS", "create_app"]

_log = logging.getLogger("resq.app")
_TICK_SECONDS = 0.25
_SHARE_SECONDS = 0.5
_OTHER_LANES, _MOST_WAITING = 8, 256  # of clips and measurements; threads at all
_BLOCKING_THREADS = 8  # of `asyncio.to_thread`: files, the store, the start of decoders
_WEB = Path(__file__).parent / "web"
ROUTERS = (streams.router, clips.router, models.router, health.router)


def create_app(config: Config, engine: Engine) -> FastAPI:
    """Build the application; nothing is loaded before it starts.

    Args:
        config: limits and defaults.
        engine: where frames are inferred.

    Raises:
        StoreError: see `JobStore`.
        ConfigError: see `Access`.
    """
    access = Access(config)
    url = config.database_url
    store = JobStore(config.data_dir.resolve(), url.get_secret_value() if url else None)
    app = FastAPI(title="ResQ", lifespan=_lifespan, docs_url=None, redoc_url=None)
    app.state.config, app.state.engine, app.state.access = config, engine, access
    app.state.store = store
    app.add_middleware(Guard, access=access)
    app.add_middleware(Failures)
    app.add_middleware(SecurityHeaders)  # around the others: refusals carry them as well
    traces = app.state.traces = open_traces(config)
    app.add_middleware(Requests, traces=traces)
    for router in ROUTERS:
        app.include_router(router)
    app.add_api_route("/", _page, include_in_schema=False)
    app.mount("/web", StaticFiles(directory=_WEB))
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(StoreError, _on_store)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """Complete the document of `/openapi.json`, which FastAPI makes once."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = complete(made())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    # a server that is short of memory could start no thread for them later
    asyncio.get_running_loop().set_default_executor(thread_pool(_BLOCKING_THREADS, "resq-block"))
    config: Config = app.state.config
    engine: Engine = app.state.engine
    metrics, scheduler = Metrics(), Scheduler(_threads(config, engine))
    here = serving_here(config.backend, checked_device(config.device))
    metrics.backend.labels(here.backend.split()[0], here.isa or "", here.device).set(1)
    decoders = DecoderPool(config.decoders, config.decoder_timeout, config.decoder_memory)
    workers = config.workers if engine.slots is None else engine.slots
    capacity = Capacity(workers, config.capacity, levels(config.degrade))
    _show_load(capacity, metrics)
    metrics.decoders.set_function(lambda: decoders.busy)
    metrics.registry.register(Children(lambda: decoders.pids))
    hosts = AllowedHosts(config.allowed_hosts)
    traces = app.state.traces
    services = Services(config, engine, scheduler, capacity, decoders, metrics, hosts, traces)
    jobs = Jobs(config, engine, scheduler, metrics, decoders, app.state.store)
    registry = Registry(config.max_streams, config.streams_per_client)
    pulls = Pulls(services, registry, app.state.store)
    context = Context(services, registry, jobs, app.state.access, pulls)
    app.state.context = context
    await asyncio.to_thread(decoders.fill)
    await jobs.start()
    background = (
        _warm(context),
        _adapt(capacity),
        _share(context),
        keep_trimmed(),
        pulls.restore(),  # loads models; nobody waits for that
    )
    tasks = [asyncio.create_task(work) for work in background]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        context.registry.drain("shutdown")
        await pulls.close()
        await jobs.close()
        await asyncio.to_thread(decoders.close)
        await asyncio.to_thread(scheduler.close)
        if traces is not None:
            await asyncio.to_thread(traces.close)


async def _warm(context: Context) -> None:
    """Load the default model, and learn what its frames take."""
    services = context.services
    spec = services.spec()
    try:
        await measure(services, spec.model, spec.precision, services.scheduler.lane())
        context.ready = True
        _log.info("ready", extra={"facts": {"model": spec.model}})
    except Exception:  # not ready is the answer; why stands in the log
        _log.exception("the default model cannot be used")


async def _adapt(capacity: Capacity) -> None:
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        capacity.tick(time.perf_counter())


def _threads(config: Config, engine: Engine) -> int:
    """Threads that infer, or wait for workers elsewhere: one for each frame on its way."""
    if engine.slots is None:
        return config.workers
    return min(config.max_streams + _OTHER_LANES, _MOST_WAITING)


async def _share(context: Context) -> None:
    """Tell other servers of the same engine what runs here, and hear what runs there."""
    services = context.services
    while services.engine.slots is not None:
        streams = {name: s.describe() for name, s in context.registry.sessions.items()}
        try:
            context.elsewhere = await asyncio.to_thread(services.engine.share, streams)
        except Exception:
            _log.exception("the other servers could not be told of this one")
        services.capacity.workers = services.engine.slots
        await asyncio.sleep(_SHARE_SECONDS)


def _show_load(capacity: Capacity, metrics: Metrics) -> None:
    metrics.capacity.set_function(lambda: capacity.limit)
    metrics.reserved.set_function(lambda: capacity.reserved)
    metrics.measured.set_function(lambda: capacity.measured(time.perf_counter()))
    metrics.degradation.set_function(lambda: capacity.effects.level)


async def _page() -> FileResponse:
    return FileResponse(_WEB / "index.html")


def _answer(problem: Problem) -> JSONResponse:
    return JSONResponse(problem.body(), problem.status, problem.headers, media_type=PROBLEM_TYPE)


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _answer(error)


async def _on_store(_: Request, error: Exception) -> Response:
    assert isinstance(error, StoreError)
    _log.warning("%s", error)
    if error.full:
        return _answer(Problem(507, "disk_full", error.public))
    return _answer(Problem(503, "store_unavailable", error.public, {"retry-after": "5"}))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Problem):  # while FastAPI read the body
        return _answer(error.__cause__)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request))) or headers["Allow"]
    return _answer(Problem(error.status_code, "http_error", str(error.detail), headers))


def _methods(request: Request) -> set[str]:
    """What a path answers to; Starlette names those of its first route alone."""
    return {
        method
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [
        {"field": ".".join(str(p) for p in e["loc"][1:]), "message": e["msg"]}
        for e in error.errors()
    ]
    detail = "; ".join(f"{p['field']}: {p['message']}" for p in problems)
    return _answer(Problem(422, "bad_options", detail, errors=problems))
