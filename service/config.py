"""What an operator may set: `RESQ_*` in the environment, every limit finite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from resq_core.backends import Backend
from resq_core.backends.machine import usable_cores
from service.degrade import Measure
from service.outbound import parse_hosts

__all__ = ["Config", "ConfigError", "load_config"]

_MIB = 1 << 20


class ConfigError(ValueError):
    """Settings that do not make sense; the message lists every one of them."""


def _origins(value: object) -> object:
    """`https://a.example, http://b.example:8080` as a browser would write each."""
    if not isinstance(value, str):
        return value
    found = [part.strip().rstrip("/").lower() for part in value.split(",") if part.strip()]
    for origin in found:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or f"{parts.scheme}://{parts.netloc}" != origin:
            raise ValueError(f"{origin!r} is no origin; expected scheme://host or with :port")
    return tuple(found)


def _measures(value: object) -> object:
    """`period, threshold, rate`, in the order in which they are taken."""
    if not isinstance(value, str):
        return value
    found = [part.strip().lower() for part in value.split(",") if part.strip()]
    known = [str(measure) for measure in Measure]
    for name in found:
        if name not in known or found.count(name) > 1:
            raise ValueError(f"{name!r} in it; expected {', '.join(known)}, each once at most")
    return tuple(Measure(name) for name in found)


def _hosts(value: object) -> object:
    return parse_hosts(value) if isinstance(value, str) else value


class Config(BaseSettings):
    """Settings with their defaults. Times are seconds, sizes bytes unless the name says else.

    Attributes:
        data_dir: where clips and their results are kept.
        models_dir: a folder of models of your own, NAME/card.json beside NAME/NAME.resq.
        backend: what runs models: auto, native or reference.
        threads: frames that are inferred at the same time; 0 takes one per usable core.
        capacity: share of the workers' time that streams may claim which declare their rate.
        degrade: what is taken from such streams, in this order, before one more is refused or when
            they need more than was measured: `period`, `threshold`, `rate`; see
            `service/degrade.py`.
        max_streams: WebSocket connections at the same time.
        idle_timeout: how long a client may say nothing, or a stream whose connection broke waits.
        send_timeout: how long a client may not read.
        ping_timeout: after which a connection is asked whether it lives, and within which it must
            answer; twice that is to be less than idle_timeout, or what breaks cannot be resumed.
        credits: frames that a client may have on their way.
        intake: encoded video frames that may wait for the decoder.
        model, precision, period, threshold: what a stream gets that does not say;
            None takes the model's own.
        max_active: share of active outputs beyond which a residual frame is followed by keyframes,
            see `resq_core.stream.StreamOptions`; None takes the model's own.
        decoders: spare decoder processes that wait, warm, for the next stream or clip.
        decoder_timeout: how long one access unit, picture or frame of a clip may take to decode.
        decoder_memory: what a decoder process may allocate.
        max_clips_waiting: jobs that may wait for their turn.
        max_clips_kept: finished jobs whose files are kept; the oldest goes first.
        clips_max_age: how long a finished job and its files are kept.
        clips_max_bytes: what the files of finished jobs may take together; the oldest goes first,
            the newest stays.
        database_url: where jobs are remembered, see `service/job_store.py`; None takes a SQLite
            file in data_dir.
        require_keys: callers need a key even where none was made yet; see `service/access.py`.
        insecure: listen beyond this machine without any key.
        metrics_open: `/metrics` needs no key.
        allowed_hosts: where the server itself may connect to, for pulled streams and for results:
            names, *.suffix, addresses and networks, separated by commas; see
            `service/outbound.py`.
        source_timeout: how long a pulled stream's source may take to connect, and from one frame to
            the next; then it is tried again.
        results_max_bytes: what the files of results may take together; the oldest goes first.
        allowed_origins: of pages besides our own that may open streams, separated by commas.
        requests_per_minute, streams_per_minute, upload_bytes_per_day: of one client, which is a
            key, or an address where there are no keys; what it may have at once, and regains in
            that time.
        streams_per_client: streams of one client at the same time.
    """

    model_config = SettingsConfigDict(env_prefix="RESQ_", frozen=True, protected_namespaces=())

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    data_dir: Path = Path("out/data")
    models_dir: Path | None = None
    backend: Backend = Backend.AUTO
    threads: Annotated[int, Field(ge=0, le=256)] = 0

    capacity: Annotated[float, Field(gt=0, le=1)] = 0.8
    degrade: Annotated[tuple[Measure, ...], NoDecode, BeforeValidator(_measures)] = ()
    max_streams: Annotated[int, Field(ge=1, le=10_000)] = 8
    max_frame_bytes: Annotated[int, Field(ge=1024, le=256 * _MIB)] = 8 * _MIB
    max_pixels: Annotated[int, Field(ge=256, le=64_000_000)] = 3840 * 2160
    credits: Annotated[int, Field(ge=1, le=256)] = 4
    intake: Annotated[int, Field(ge=1, le=1024)] = 64
    idle_timeout: Annotated[float, Field(gt=0, le=3600)] = 30.0
    send_timeout: Annotated[float, Field(gt=0, le=600)] = 10.0
    ping_timeout: Annotated[float, Field(gt=0, le=600)] = 10.0

    decoders: Annotated[int, Field(ge=0, le=256)] = 2
    decoder_timeout: Annotated[float, Field(gt=0, le=600)] = 10.0
    decoder_memory: Annotated[int, Field(ge=128 * _MIB, le=64 << 30)] = 1024 * _MIB

    model: str = "street"
    precision: str | None = None
    period: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    max_active: Annotated[float, Field(ge=0, le=1)] | None = None

    max_clip_bytes: Annotated[int, Field(ge=1024, le=64 << 30)] = 512 * _MIB
    max_clip_seconds: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    max_clip_frames: Annotated[int, Field(ge=1, le=10_000_000)] = 36_000
    max_clips_waiting: Annotated[int, Field(ge=1, le=10_000)] = 16
    max_clips_kept: Annotated[int, Field(ge=1, le=100_000)] = 100
    clips_max_age: Annotated[float, Field(gt=0, le=3650 * 86_400)] = 30 * 86_400
    clips_max_bytes: Annotated[int, Field(ge=1024, le=1 << 50)] = 32 << 30
    database_url: SecretStr | None = None

    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_hosts)] = ()
    source_timeout: Annotated[float, Field(gt=0, le=600)] = 10.0
    results_max_bytes: Annotated[int, Field(ge=1024, le=1 << 50)] = 1 << 30

    require_keys: bool = False
    insecure: bool = False
    metrics_open: bool = False
    allowed_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = ()
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = 1200
    streams_per_minute: Annotated[int, Field(ge=1, le=100_000)] = 120
    streams_per_client: Annotated[int, Field(ge=1, le=10_000)] = 8
    upload_bytes_per_day: Annotated[int, Field(ge=1024, le=1 << 50)] = 16 << 30

    @property
    def workers(self) -> int:
        """Inference threads, at least 1."""
        return self.threads or usable_cores()

    @property
    def threads_per_frame(self) -> int:
        """Threads inside the inference of one frame, at least 1: the cores shared by workers."""
        return max(1, usable_cores() // self.workers)


def load_config(**given: Any) -> Config:
    """Settings from the environment, with those given instead; None counts as not given.

    Raises:
        ConfigError: naming every setting that is wrong, and what was expected.
    """
    try:
        return Config(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            name = "_".join(str(part) for part in problem["loc"]).upper()
            lines.append(f"RESQ_{name} is {problem['input']!r}: {problem['msg'].lower()}")
        raise ConfigError("\n".join(lines)) from error
