"""Where the results of a stream go besides its client, as checked, frozen models. No I/O."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.outbound import parse_target

__all__ = [
    "MQTT_SCHEMES",
    "MqttSink",
    "NdjsonSink",
    "SinkOptions",
    "WebhookSink",
    "signing_key",
]

MQTT_SCHEMES = ("mqtt", "mqtts")

_PREFIX = "whsec_"
_MIN_KEY, _MAX_KEY = 24, 64  # bytes, as Standard Webhooks wants them


class _Options(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class NdjsonSink(_Options):
    """A file under `results` in the data folder, which the server names."""

    kind: Literal["ndjson"]


class WebhookSink(_Options):
    """Batches as POST requests, signed as Standard Webhooks says. `secret`: `whsec_` and the
    base64 of 24 to 64 bytes."""

    kind: Literal["webhook"]
    url: Annotated[str, Field(max_length=2048, repr=False)]
    secret: Annotated[str, Field(max_length=128, repr=False)]

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if parse_target(url, ("http", "https")).username is not None:
            raise ValueError("a URL without user and password: the signature says who sends")
        return url

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, secret: str) -> str:
        signing_key(secret)
        return secret


class MqttSink(_Options):
    """A message for each result, to `topic`/STREAM/results."""

    kind: Literal["mqtt"]
    url: Annotated[str, Field(max_length=2048, repr=False)]
    topic: Annotated[str, Field(pattern=r"^[^+#\x00/$][^+#\x00]{0,199}$")] = "resq"
    qos: Literal[0, 1] = 0
    username: str | None = Field(None, max_length=256, repr=False)
    password: str | None = Field(None, max_length=1024, repr=False)

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        target = parse_target(url, MQTT_SCHEMES)
        if target.username is not None or target.path != "/":
            raise ValueError("mqtts://host or mqtts://host:port; the rest has fields of its own")
        return url


SinkOptions = Annotated[NdjsonSink | WebhookSink | MqttSink, Field(discriminator="kind")]


def signing_key(secret: str) -> bytes:
    """The bytes of a webhook's secret.

    Raises:
        ValueError: it is of another form or length.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or not _MIN_KEY <= len(key) <= _MAX_KEY:
        raise ValueError(f"{_PREFIX} and the base64 of {_MIN_KEY} to {_MAX_KEY} bytes")
    return key
