"""What the server logs: lines for people, or JSON objects for programs, each with what it is about.

`noted` and `note` say what the code below them works for (a stream, a job, a request); every record
that is made there carries it. Frames, keys and other secrets are in none, see `redaction.py`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from service.redaction import redact, redact_logs

__all__ = ["LogFormat", "LogLevel", "about", "note", "noted", "set_up_logs"]

_about: ContextVar[Mapping[str, str]] = ContextVar("resq_about")
_NAMES = (None, "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
# with these a client could write lines of its own
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ACCESS = ("client", "method", "path", "http_version", "status")  # uvicorn's arguments


class LogLevel(StrEnum):
    """The least that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """Lines for people, or one JSON object a line."""

    TEXT = "text"
    JSON = "json"


def about() -> Mapping[str, str]:
    """What the code at hand works for, by name: stream, model, job, request."""
    return _about.get({})


def note(**facts: str) -> None:
    """Add to it, for the rest of this task and for tasks that it starts from now on."""
    _about.set({**about(), **facts})


@contextmanager
def noted(**facts: str) -> Iterator[None]:
    """Add to it, for a while."""
    token = _about.set({**about(), **facts})
    try:
        yield
    finally:
        _about.reset(token)


def set_up_logs(level: LogLevel, form: LogFormat) -> None:
    """Send everything that is logged to stderr, in one format; may be called again."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form is LogFormat.JSON else _Text())
    for name in _NAMES:
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name is None else []
        logger.propagate = True
        logger.setLevel(level.upper())
    logging.getLogger("uvicorn.access").addFilter(_keep_access)
    logging.captureWarnings(True)
    redact_logs()


def _keep_access(record: logging.LogRecord) -> bool:
    """Keep what a line of the access log is made of, before it is one text."""
    if isinstance(record.args, tuple) and len(record.args) == len(_ACCESS):
        record.access = dict(zip(_ACCESS, record.args, strict=True))
    return True


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = record.getMessage().strip()
        said += "".join(f" {name}={value}" for name, value in _facts(record).items())
        line = f"{_time(record)} {record.levelname:7} {record.name}: {_BREAKS.sub(_escape, said)}"
        return line + (f"\n{textwrap.indent(record.exc_text, '  ')}" if record.exc_text else "")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        line |= {name: redact(value) for name, value in getattr(record, "access", {}).items()}
        if record.exc_text:
            line["exception"] = record.exc_text
        return json.dumps(line, default=str)


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """What it is about, and the facts that came with it, as `extra={"facts": {…}}`."""
    facts = {**about(), **getattr(record, "facts", {})}
    return {name: redact(value) for name, value in facts.items()}


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
