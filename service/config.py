"""What an operator may set, in the environment or in a file, every limit finite."""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, HttpUrl, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from resq_core.backends import Backend
from resq_core.backends.machine import usable_cores
from resq_core.errors import OptionError
from service.config_file import read_file
from service.degrade import Measure
from service.logs import LogFormat, LogLevel
from service.outbound import parse_hosts
from service.redaction import redact

__all__ = [
    "PREFIX",
    "SECRET",
    "Config",
    "ConfigError",
    "EngineKind",
    "Settings",
    "doubtful_variables",
    "load_config",
    "load_settings",
]

PREFIX = "RESQ_"
SECRET = frozenset({"database_url"})
"""Settings whose values are never shown."""
_MIB = 1 << 20
_MAX_SHOWN = 80  # characters of a wrong value
_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


class EngineKind(StrEnum):
    """Where frames are inferred: in the server's process, or by workers of a cluster of Ray."""

    LOCAL = "local"
    RAY = "ray"


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


def _device(value: str) -> str:
    if value == "cpu":  # most: without torch, which takes a second to import
        return value
    from resq_core.device import checked_device

    try:
        return str(checked_device(value))
    except OptionError as error:
        raise ValueError(str(error).partition("; ")[2]) from error  # the value is named already


def _exportable(value: HttpUrl) -> HttpUrl:
    try:
        found = find_spec(_EXPORTER)
    except ImportError:
        found = None
    if found is None:
        raise ValueError("traces need OpenTelemetry: pip install 'resq[otel]'")
    return value


def _installed(value: EngineKind) -> EngineKind:
    if value is EngineKind.RAY and find_spec("ray") is None:
        raise ValueError("this engine needs Ray: pip install 'resq[ray]'")
    return value


class Config(BaseSettings):
    """Settings with their defaults. Times are seconds, sizes bytes unless the name says else."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    data_dir: Path = Path("out/data")
    """Where clips, their results and the keys are kept."""
    models_dir: Path | None = None
    """A folder of models of your own, NAME/card.json beside NAME/NAME.resq."""
    backend: Backend = Backend.AUTO
    """What runs models: auto, native or reference."""
    device: Annotated[str, AfterValidator(_device)] = "cpu"
    """Where models run: cpu; cuda or cuda:N, a GPU, with the reference backend; or auto, a GPU
    where there is one."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Frames that are inferred at the same time; 0 takes one per usable core. Of the engine `ray`,
    those of each worker, which takes as many CPUs; 0 takes one."""
    engine: Annotated[EngineKind, AfterValidator(_installed)] = EngineKind.LOCAL
    """Where frames are inferred: local, in this process, or ray, by workers of a cluster, which
    needs the extra `ray`."""
    ray_address: str | None = None
    """Of the cluster, host:port of its head, or auto for the one of this machine; left out, one is
    started on this machine that ends with the server."""
    ray_workers: Annotated[int, Field(ge=1, le=1000)] = 1
    """Workers of the engine `ray`."""
    ray_max_workers: Annotated[int, Field(ge=0, le=1000)] = 0
    """How many there may be when streams need more; 0 never takes more than ray_workers."""
    log_level: LogLevel = LogLevel.INFO
    """What is logged: debug, info, warning or error, and what is worse."""
    log_format: LogFormat = LogFormat.TEXT
    """text for people; json for programs, an object a line."""
    traces: Annotated[HttpUrl, AfterValidator(_exportable)] | None = None
    """Address of an OpenTelemetry collector (OTLP over HTTP) that gets traces, with its path, such
    as http://collector:4318/v1/traces; needs the extra `otel`."""
    traces_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the requests, connections and frames that are traced."""
    capacity: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the workers' time that streams may claim which declare their rate."""
    degrade: Annotated[tuple[Measure, ...], NoDecode, BeforeValidator(_measures)] = ()
    """What is taken from such streams, in this order, before one more is refused or when they need
    more than was measured: period, threshold, rate."""
    max_streams: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Streams at the same time, those that wait for their client included."""
    max_frame_bytes: Annotated[int, Field(ge=1024, le=256 * _MIB)] = 8 * _MIB
    """Size of one encoded frame."""
    max_pixels: Annotated[int, Field(ge=256, le=64_000_000)] = 3840 * 2160
    """Width times height of one frame."""
    credits: Annotated[int, Field(ge=1, le=256)] = 4
    """Frames that a client may have on their way."""
    intake: Annotated[int, Field(ge=1, le=1024)] = 64
    """Encoded video frames that may wait for the decoder."""
    idle_timeout: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """How long a client may say nothing, or a stream whose connection broke waits."""
    send_timeout: Annotated[float, Field(gt=0, le=600)] = 10.0
    """How long a client may not read."""
    ping_timeout: Annotated[float, Field(gt=0, le=600)] = 10.0
    """After which a connection is asked whether it lives, and within which it must answer; twice
    that is to be less than idle_timeout, or what breaks cannot be resumed."""
    decoders: Annotated[int, Field(ge=0, le=256)] = 2
    """Spare decoder processes that wait, warm, for the next stream or clip."""
    decoder_timeout: Annotated[float, Field(gt=0, le=600)] = 10.0
    """How long one access unit, picture or frame of a clip may take to decode."""
    decoder_memory: Annotated[int, Field(ge=128 * _MIB, le=64 << 30)] = 1024 * _MIB
    """What a decoder process may allocate."""
    model: str = "street"
    """What a stream gets that names no model."""
    precision: str | None = None
    """What a stream gets that names none; left out, the model's own."""
    period: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """T of a stream that names none; left out, the model's own."""
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Of the policy, for a stream that names none; left out, the model's own."""
    max_active: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of active pixels beyond which a residual frame becomes a keyframe, or of active outputs
    beyond which those like it do; left out, the model's own."""
    max_clip_bytes: Annotated[int, Field(ge=1024, le=64 << 30)] = 512 * _MIB
    """Size of an uploaded clip."""
    max_clip_seconds: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """Length of an uploaded clip."""
    max_clip_frames: Annotated[int, Field(ge=1, le=10_000_000)] = 36_000
    """Frames of an uploaded clip."""
    max_clips_waiting: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Jobs that may wait for their turn."""
    max_clips_kept: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Finished jobs whose files are kept; the oldest goes first."""
    clips_max_age: Annotated[float, Field(gt=0, le=3650 * 86_400)] = 30 * 86_400
    """How long a finished job and its files are kept."""
    clips_max_bytes: Annotated[int, Field(ge=1024, le=1 << 50)] = 32 << 30
    """What the files of finished jobs may take together; the oldest goes first, the newest
    stays."""
    database_url: SecretStr | None = None
    """Where jobs are remembered, such as postgresql+psycopg://…; left out, a SQLite file in
    data_dir."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_hosts)] = ()
    """Where the server itself may connect to, for pulled streams and for results: names, *.suffix,
    addresses and networks."""
    source_timeout: Annotated[float, Field(gt=0, le=600)] = 10.0
    """How long a pulled stream's source may take to connect, and from one frame to the next; then
    it is tried again."""
    results_max_bytes: Annotated[int, Field(ge=1024, le=1 << 50)] = 1 << 30
    """What the files of results may take together; the oldest goes first."""
    require_keys: bool = False
    """Callers need a key even where none was made yet."""
    insecure: bool = False
    """Listen beyond this machine without any key."""
    metrics_open: bool = False
    """/metrics needs no key."""
    allowed_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = ()
    """Pages besides our own that may open streams, such as https://a.example."""
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = 1200
    """REST calls of one client, which is a key, or an address where there are no keys: what it may
    have at once, and regains in that time."""
    streams_per_minute: Annotated[int, Field(ge=1, le=100_000)] = 120
    """New streams of one client."""
    streams_per_client: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Streams of one client at the same time."""
    upload_bytes_per_day: Annotated[int, Field(ge=1024, le=1 << 50)] = 16 << 30
    """Bodies of one client's REST calls."""

    @property
    def workers(self) -> int:
        """Inference threads, at least 1."""
        return self.threads or usable_cores()

    @property
    def threads_per_frame(self) -> int:
        """Threads inside the inference of one frame, at least 1: the cores shared by workers."""
        return max(1, usable_cores() // self.workers)


@dataclass(frozen=True, slots=True)
class Settings:
    """What is in force, and where each setting that is not a default came from, by its name."""

    config: Config
    origins: dict[str, str]


def load_config(**given: Any) -> Config:
    """As `load_settings`, with the file that RESQ_CONFIG names."""
    return load_settings(None, **given).config


def load_settings(file: Path | None, **given: Any) -> Settings:
    """Settings as given, else of RESQ_* variables, else of a TOML file; None is not given.

    Args:
        file: of TOML; None takes the one that RESQ_CONFIG names, if any.
        given: by the names of `Config`.

    Raises:
        ConfigError: naming everything that is wrong, where it stands, and what was expected.
    """
    named = os.environ.get(f"{PREFIX}CONFIG")
    file = file or (Path(named) if named else None)
    problems: list[str] = []
    origins: dict[str, str] = {}
    in_file = {} if file is None else read_file(file, Config.model_fields, problems)
    environment = {name.upper() for name in os.environ}
    values: dict[str, Any] = {}
    for name in Config.model_fields:
        variable = f"{PREFIX}{name.upper()}"
        if given.get(name) is not None:
            values[name], origins[name] = given[name], f"--{name.replace('_', '-')}"
        elif variable in environment:
            origins[name] = variable
        elif name in in_file:
            values[name], origins[name] = in_file[name], f"{name} in {file}"
    try:
        config = Config(**values)
    except ValidationError as error:
        problems += [_problem(found, origins) for found in error.errors(include_url=False)]
    if problems:
        raise ConfigError("\n".join(problems))
    return Settings(config, origins)


def doubtful_variables() -> list[str]:
    """What to say of variables that look like settings and are none."""
    settings = [f"{PREFIX}{name.upper()}" for name in Config.model_fields]
    words = []
    for name in sorted(os.environ):
        near = get_close_matches(name, settings, 1, 0.85)
        if name.startswith(PREFIX) and near and name not in settings:
            words.append(f"{name} is no setting and changes nothing; did you mean {near[0]}?")
    return words


def _problem(found: ErrorDetails, origins: dict[str, str]) -> str:
    name = str(found["loc"][0])
    shown = "" if name in SECRET else f" is {_short(redact(repr(found['input'])))}"
    return f"{origins.get(name, name)}{shown}: {redact(_expected(found))}"


def _expected(found: ErrorDetails) -> str:
    if found["type"] == "path_type":
        return "input should be a path"
    if found["type"] == "value_error":  # of our own validators
        return str(found["ctx"]["error"])
    return found["msg"].replace("Input", "input", 1)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
