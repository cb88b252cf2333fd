"""What the filter on every handler leaves of a record that holds a secret."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest

from service.redaction import Redaction, redact

KEY = "resq_0123abcd_" + "f" * 64


def said(message: object, *args: Any) -> str:
    """What a handler with the filter writes."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.addFilter(Redaction())
    handler.handle(logging.LogRecord("any", logging.INFO, "here.py", 7, message, args, None))
    return out.getvalue()


@pytest.mark.parametrize(
    ("message", "args", "clean"),
    [
        ("%s came", (KEY,), "resq_0123abcd_… came"),
        ("%(key)s came", ({"key": KEY},), "resq_0123abcd_… came"),
        ("resq_0123abcd_%s came", ("f" * 64,), "resq_0123abcd_… came"),
        ("Authorization: Bearer %s, %d", (KEY, 3), "Authorization: Bearer …, 3"),
        ("authorization: Basic %s", ("bWU6aHVzaA==",), "authorization: Basic …"),
        ("{'authorization': 'Basic %s'}", ("bWU6aHVzaA==",), "{'authorization': 'Basic …'}"),
        ("rtsp://%s:%s@camera/%d", ("me", "hush", 1), "rtsp://…@camera/1"),
        ("rtsp://me:hu@sh@camera/1", (), "rtsp://…@camera/1"),
        ("GET /snap?user=me&Password=%s&n=1", ("hush",), "GET /snap?user=me&Password=…&n=1"),
        ("http://c/x?api_key=hush", (), "http://c/x?api_key=…"),
        ('{"resume":"resume_%s"}', ("c2VjcmV0-_x",), '{"resume":"resume_…"}'),
        ("100 % of", (), "100 % of"),
        ("mail me@example.com or see http://a/b@c", (), "mail me@example.com or see http://a/b@c"),
    ],
)
def test_secrets_are_cut_out_wherever_they_come_from(
    message: str, args: tuple[Any, ...], clean: str
) -> None:
    assert said(message, *args) == clean + "\n"


def test_a_message_that_cannot_be_written_shows_no_argument(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Wrong:
        def __str__(self) -> str:
            raise ValueError(f"no text for {KEY}")

    for message, argument in (("no place", KEY), ("%d", KEY), ("%s", Wrong())):
        assert said(message, argument).startswith("a message of here:7 cannot be written: ")
        assert "f" * 64 not in said(message, argument)
    assert capsys.readouterr().err == "", "and `logging` does not print it either"


def test_numbers_stay_numbers() -> None:
    assert redact(3) == 3
    assert redact([KEY, 1]) == "['resq_0123abcd_…', 1]"
