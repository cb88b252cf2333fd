"""Keys and the URLs of cameras never reach a log, whoever logs them."""

from __future__ import annotations

import logging
import re

__all__ = ["Redaction", "redact", "redact_logs"]

# our keys, whole or mistyped, as they are or as a subprotocol, what resumes a stream, and whatever
# else is a bearer's or a login
_SECRETS = re.compile(
    r"(resq_[0-9A-Fa-f]{1,16}_|resq\.bearer\.|\bresume_|\bbearer\s+|"
    r"\bauthorization\W{1,6}basic\s+)[^\s,;\"'&]+",
    re.I,
)
_LOGINS = re.compile(r"(?<=://)[^\s/?#\"']+@")  # of a URL
_QUERIES = re.compile(  # of a URL as well, by how they are named
    r"([?&][^\s=&]*(?:key|token|secret|pass|pwd|auth|cred|signature)[^\s=&]*=)[^\s&\"']+",
    re.I,
)

_TALKATIVE = ("httpx", "httpcore")


class Redaction(logging.Filter):
    """Replaces secrets in messages, whole with their arguments, and in tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; it always passes."""
        # not the format and each argument: a secret may begin in one and end in the other
        record.msg, record.args = str(redact(_message(record))), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = str(redact(record.exc_text))
        return True


def redact_logs() -> None:
    """Put the filter on every handler that the server's logs go through, and keep libraries quiet
    that log whole URLs and headers, in which cameras take secrets; may be called again."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    loggers = (logging.getLogger(name) for name in (None, "uvicorn", "uvicorn.access", "resq"))
    handlers = {handler for logger in loggers for handler in logger.handlers}
    if logging.lastResort is not None:
        handlers.add(logging.lastResort)
    for handler in handlers:
        if not any(isinstance(f, Redaction) for f in handler.filters):
            handler.addFilter(Redaction())


def redact(value: object) -> object:
    """A value without secrets: text if there were any, else as it was."""
    if isinstance(value, (int, float)):  # a format may need the number
        return value
    text = str(value)
    clean = _QUERIES.sub(r"\1…", _LOGINS.sub("…@", _SECRETS.sub(r"\1…", text)))
    return value if clean == text else clean


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # `logging` would print the arguments as they are
        return f"a message of {record.module}:{record.lineno} cannot be written: {error}"
