"""What an operator may set: `RESQ_*` in the environment, every limit finite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from resq_core.backends import Backend
from resq_core.backends.machine import usable_cores

__all__ = ["Config", "ConfigError", "load_config"]

_MIB = 1 << 20


class ConfigError(ValueError):
    """Settings that do not make sense; the message lists every one of them."""


class Config(BaseSettings):
    """Settings with their defaults. Times are seconds, sizes bytes unless the name says else.

    Attributes:
        data_dir: where clips and their results are kept.
        models_dir: a folder of models of your own, NAME/card.json beside NAME/NAME.resq.
        backend: what runs models: auto, native or reference.
        threads: frames that are inferred at the same time; 0 takes one per usable core.
        max_streams: WebSocket connections at the same time.
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
    """

    model_config = SettingsConfigDict(env_prefix="RESQ_", frozen=True, protected_namespaces=())

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    data_dir: Path = Path("out/data")
    models_dir: Path | None = None
    backend: Backend = Backend.AUTO
    threads: Annotated[int, Field(ge=0, le=256)] = 0

    max_streams: Annotated[int, Field(ge=1, le=10_000)] = 8
    max_frame_bytes: Annotated[int, Field(ge=1024, le=256 * _MIB)] = 8 * _MIB
    max_pixels: Annotated[int, Field(ge=256, le=64_000_000)] = 3840 * 2160
    credits: Annotated[int, Field(ge=1, le=256)] = 4
    intake: Annotated[int, Field(ge=1, le=1024)] = 64
    idle_timeout: Annotated[float, Field(gt=0, le=3600)] = 30.0
    send_timeout: Annotated[float, Field(gt=0, le=600)] = 10.0

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
