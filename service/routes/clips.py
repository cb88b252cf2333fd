"""Uploaded clips: jobs, their results, their annotated video."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import Message

from resq_core.errors import OptionError
from service.durable import disk_full
from service.engine import EngineError, Priority, StreamSpec, WorkerLost
from service.errors import Problem
from service.jobs import Job, JobsFullError, JobState
from service.messages import PoseStart, VosStart, parse_box
from service.routes.answers import ClipInfo, ClipList, binary, ndjson, problems
from service.routes.context import Context, Here

__all__ = ["router"]

router = APIRouter(prefix="/v1/clips", tags=["clips"])
_CHUNK = 64 * 1024
_MAX_MASKS = 1 << 20
_FORM_OVERHEAD = _MAX_MASKS + 64 * 1024

_FILE = {"type": "string", "format": "binary"}
_FORM = {
    "type": "object",
    "properties": {"clip": _FILE, "masks": _FILE},
    "required": ["clip"],
}
_BODY = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": _FILE},
        "multipart/form-data": {"schema": _FORM},
    },
}

_REPORT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"schema": {"type": "object"}}}}
}

Name = Annotated[str | None, Query(min_length=1, max_length=64)]


@router.post(
    "",
    status_code=202,
    response_model=ClipInfo,
    responses=problems(400, 413, 422, 503, 507),
    openapi_extra={"requestBody": _BODY},
)
async def post_clip(
    request: Request,
    here: Here,
    model: Name = None,
    precision: Name = None,
    period: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    threshold: Annotated[float | None, Query(ge=0, allow_inf_nan=False)] = None,
    policy: Annotated[Literal["paper", "relative"] | None, Query()] = None,
    reference: Annotated[Literal["keyframe", "previous", "tracking"] | None, Query()] = None,
    box: Annotated[str | None, Query(max_length=100)] = None,
) -> JSONResponse:
    """Upload a clip, as the raw body or as a form with one file; options go in the query.

    A model that follows objects needs a form with a second file, `masks`: a palette PNG of the
    first frame whose indices are the object ids.
    """
    config = here.services.config
    pose = None if box is None else PoseStart(box=_box(box))
    spec = here.services.spec(model, precision, period, threshold, policy, reference, pose)
    _check_length(request, config.max_clip_bytes)
    try:
        follows = here.services.engine.card(spec.model).task == "vos"
        if not follows:  # objects come with the upload, everything else is checked before it
            await _check_options(here, spec)
        job = here.jobs.create(spec)
    except EngineError as error:
        raise _bad_options(error) from error
    except JobsFullError as error:
        raise Problem(503, "full", str(error), {"retry-after": "10"}) from error
    try:
        masks = await _store(request, job.part, config.max_clip_bytes)
        if masks is not None and not follows:
            detail = f"{spec.model} follows no objects; expected a form without masks"
            raise Problem(422, "bad_form", detail)
        if follows:
            job.spec = replace(spec, vos=VosStart(png=masks))
            await _check_options(here, job.spec)
        await here.jobs.submit(job)
    except BaseException as error:
        await asyncio.shield(here.jobs.delete(job))
        if isinstance(error, EngineError):
            raise _bad_options(error) from error
        if isinstance(error, WorkerLost):
            raise Problem(503, "no_worker", str(error), {"retry-after": "5"}) from error
        if isinstance(error, OSError) and disk_full(error):
            detail = f"the clip does not fit on the disk of the server ({error.strerror})"
            raise Problem(507, "disk_full", detail) from error
        if isinstance(error, ClientDisconnect):  # nobody hears it; the log needs no more either
            raise Problem(400, "cut_off", "the upload broke off") from error
        raise
    return JSONResponse(job.describe(), 202, {"location": f"/v1/clips/{job.id}"})


async def _check_options(here: Context, spec: StreamSpec) -> None:
    lane = here.services.scheduler.lane(Priority.CLIP)
    await lane.run(lambda: here.services.engine.open(spec).close())


def _bad_options(error: EngineError) -> Problem:
    return Problem(422, "bad_options", str(error), field=error.field)


@router.get("", response_model=ClipList, responses=problems())
async def list_clips(here: Here) -> dict[str, Any]:
    """All jobs, oldest first."""
    return {"clips": [job.describe() for job in here.jobs.all()]}


@router.get("/{name}", response_model=ClipInfo, responses=problems(404))
async def get_clip(name: str, here: Here) -> dict[str, Any]:
    """One job's state and progress."""
    return _find(here, name).describe()


@router.get(
    "/{name}/results",
    response_class=StreamingResponse,
    responses=problems(404, 422) | ndjson(),
)
async def get_results(
    name: str, here: Here, follow: Annotated[bool, Query()] = False
) -> StreamingResponse:
    """Results as NDJSON, a line per frame; with `follow` until the job is finished."""
    job = _find(here, name)
    if not await asyncio.to_thread(job.results_whole):
        raise Problem(500, "damaged", "the results of this clip are damaged on the disk")
    return StreamingResponse(_lines(job, follow), media_type="application/x-ndjson")


@router.get(
    "/{name}/video", response_class=FileResponse, responses=problems(404, 409) | binary("video/mp4")
)
async def get_video(name: str, here: Here) -> FileResponse:
    """The annotated MP4."""
    path = _file(_find(here, name), "annotated.mp4")
    return FileResponse(path, media_type="video/mp4", filename=f"{name}.mp4")


@router.get("/{name}/report", response_class=FileResponse, responses=problems(404, 409) | _REPORT)
async def get_report(name: str, here: Here) -> FileResponse:
    """Totals of the whole clip."""
    return FileResponse(_file(_find(here, name), "report.json"), media_type="application/json")


@router.delete("/{name}", status_code=204, responses=problems(404, 503))
async def delete_clip(name: str, here: Here) -> Response:
    """Stop the job if it runs, and remove everything of it."""
    await here.jobs.delete(_find(here, name))
    return Response(status_code=204)


def _box(text: str) -> list[float]:
    try:
        return parse_box(text)
    except OptionError as error:
        raise Problem(422, "bad_options", str(error), field="box") from error


def _find(here: Context, name: str) -> Job:
    job = here.jobs.get(name)
    if job is None:
        raise Problem(404, "unknown_clip", f"no clip has the id {name[:64]!r}")
    return job


def _file(job: Job, name: str) -> Path:
    path = job.folder / name
    if job.state is not JobState.DONE or not path.is_file():
        raise Problem(
            409, "not_done", f"the clip is {job.state}; expected it to be done", error=job.error
        )
    return path


def _check_length(request: Request, limit: int) -> None:
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit + _FORM_OVERHEAD:
        raise _too_big(limit)


def _too_big(limit: int) -> Problem:
    return Problem(413, "too_big", f"the clip is too big; expected at most {limit} bytes")


async def _store(request: Request, path: Path, limit: int) -> str | None:
    """Write the clip to disk; returns the masks of a form as base64, if it has some."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await _store_form(request, path, limit)
    size = 0
    with path.open("wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _too_big(limit)
            await asyncio.to_thread(file.write, chunk)
    if size == 0:
        raise Problem(422, "empty", "the body is empty; expected a video file")
    return None


async def _store_form(request: Request, path: Path, limit: int) -> str | None:
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > limit + _FORM_OVERHEAD:
            raise _too_big(limit)
        return message

    async with Request(request.scope, counted).form(max_files=2, max_fields=8) as form:
        uploads = {name: value for name, value in form.items() if isinstance(value, UploadFile)}
        masks = uploads.pop("masks", None)
        if len(uploads) != 1:
            raise Problem(
                422,
                "bad_form",
                f"the form holds {len(uploads)} clips; expected one file, and for object "
                "segmentation a second one called masks",
            )
        (clip,) = uploads.values()
        with path.open("wb") as file:
            await asyncio.to_thread(shutil.copyfileobj, clip.file, file)
        if masks is None:
            return None
        data = await masks.read(_MAX_MASKS + 1)
    if len(data) > _MAX_MASKS:
        raise Problem(413, "too_big", f"masks is too big; expected at most {_MAX_MASKS} bytes")
    return base64.b64encode(data).decode()


async def _lines(job: Job, follow: bool) -> AsyncIterator[bytes]:
    offset, path = 0, job.folder / "results.ndjson"
    while True:
        changed, finished = job.changed, job.finished
        chunk = await asyncio.to_thread(_read, path, offset)
        offset += len(chunk)
        if chunk:
            yield chunk
        elif finished or not follow:
            return
        else:
            await changed.wait()


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(_CHUNK)
    except FileNotFoundError:
        return b""
