"""What REST answers look like: the schemas of `/openapi.json`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from resq_core.zoo import ModelCard
from service.errors import PROBLEM_TYPE
from service.jobs import JobState
from service.messages import SinkState

__all__ = [
    "ClipInfo",
    "ClipList",
    "ModelList",
    "ProblemDetails",
    "ServedModel",
    "Status",
    "StreamInfo",
    "StreamList",
    "VersionInfo",
    "binary",
    "complete",
    "ndjson",
    "problems",
]

_PROBLEMS = {
    400: "The request broke off, or is no HTTP that can be understood",
    401: "No key, a wrong one, or one that was revoked",
    403: "The key has not the scope, or the origin is not allowed",
    404: "Nothing of this id",
    409: "Not in this state",
    413: "The body is too big",
    421: "The host is none of this server's",
    422: "Options or a body that do not fit; `field` or `errors` say where",
    429: "Too much; `Retry-After` says when to come back",
    500: "The server failed; its log says more",
    503: "Full, not ready, or without its store; `Retry-After` says when to come back",
    507: "No room on the disk",
}
_ANY = (422, 500)
_GUARDED = (401, 403, 421, 429)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ProblemDetails(BaseModel):
    """An error, RFC 9457. `code` is short and stable, `detail` for people."""

    model_config = ConfigDict(extra="allow")

    type: Literal["about:blank"]
    title: str
    status: int
    code: str
    detail: str
    request_id: str | None = None


class Status(_Answer):
    """`ok` or `ready`."""

    status: str


class VersionInfo(_Answer):
    """Of the software and of its stream protocol."""

    version: str
    protocol: str


class ServingInfo(_Answer):
    """What runs a model, where, and why that is not the native backend."""

    backend: str
    device: str
    reason: str | None


class ServedModel(ModelCard):
    """A card, and what runs the model; null before its first use."""

    serving: ServingInfo | None


class ModelList(_Answer):
    """The models on offer; `default` is what a stream gets that names none."""

    default: str
    models: list[ServedModel]


class ClipInfo(_Answer):
    """A job. created: Unix time in seconds. progress: 0 to 1, null where it is not known."""

    id: str
    state: JobState
    error: str | None
    created: float
    model: str
    results: int
    progress: float | None


class ClipList(_Answer):
    """Jobs, the oldest first."""

    clips: list[ClipInfo]


class SourceInfo(_Answer):
    """Where a pulled stream comes from. next_try: Unix time in seconds."""

    url: str
    state: Literal["connecting", "running", "retrying", "ended"]
    connections: int
    error: str | None
    next_try: float | None


class StreamInfo(_Answer):
    """A stream; one that is starting has `id` and `state` alone. `workers` is what its declared
    `fps` claims, `source` is there of pulled ones.
    """

    id: str | None
    state: Literal["starting", "running", "waiting_for_client"] | None = None
    model: str | None = None
    precision: str | None = None
    period: int | None = None
    threshold: float | None = None
    mode: Literal["live", "lossless"] | None = None
    fps: float | None = None
    workers: float | None = None
    degradation: int | None = None
    received: int | None = None
    results: int | None = None
    drops: int | None = None
    seconds: float | None = None
    state_bytes: int | None = None
    sinks: list[SinkState] | None = None
    source: SourceInfo | None = None


class LoadInfo(_Answer):
    """In workers, but `degradation`, which is a level: all there are, those that declared streams
    may claim, those that they claim, and how many were busy lately.
    """

    workers: int
    limit: float
    reserved: float
    measured: float
    degradation: int


class StreamList(_Answer):
    """Active streams, of all clients or the caller's own, and the load."""

    all: bool
    streams: list[StreamInfo]
    load: LoadInfo


def problems(*statuses: int, guarded: bool = True) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: these statuses, and those of every route that needs a key."""
    schema = {"$ref": f"#/components/schemas/{ProblemDetails.__name__}"}
    return {
        status: {
            "description": _PROBLEMS[status],
            "content": {PROBLEM_TYPE: {"schema": schema}},
        }
        for status in sorted({*statuses, *_ANY, *(_GUARDED if guarded else ())})
    }


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Add to a document of OpenAPI what `problems` refers to, and how a key is sent."""
    parts = document.setdefault("components", {})
    parts.setdefault("schemas", {})[ProblemDetails.__name__] = ProblemDetails.model_json_schema()
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}, {}]  # none where no key was made
    return document


def ndjson() -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers lines of JSON."""
    return _content("application/x-ndjson", {"type": "string"})


def binary(media_type: str) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers a file."""
    return _content(media_type, {"type": "string", "format": "binary"})


def _content(media_type: str, schema: dict[str, str]) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {media_type: {"schema": schema}}}}
