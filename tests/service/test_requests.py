"""The id of a request: taken from its caller where it is sane, and in every answer."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest

from tests.service.test_resume import START, text
from tests.service.test_streams import raw

Serve = Callable[..., str]
HEADER = "x-request-id"


@pytest.mark.parametrize("sane", ["a", "A-z_0.9", "x" * 64])
def test_a_sane_id_is_kept(serve: Serve, sane: str) -> None:
    answer = httpx.get(f"{serve()}/v1/clips/none", headers={HEADER: sane})
    assert answer.headers[HEADER] == answer.json()["request_id"] == sane


@pytest.mark.parametrize("odd", ["", "x" * 65, "a b", "a/b", "a\tb", "é", '"};{"'])
def test_another_is_made_for_one_that_is_not(serve: Serve, odd: str) -> None:
    headers = [(HEADER.encode(), odd.encode())]
    answer = httpx.get(f"{serve()}/v1/clips/none", headers=headers)
    assert re.fullmatch("[0-9a-f]{16}", answer.headers[HEADER])
    assert answer.json()["request_id"] == answer.headers[HEADER]


def test_each_request_has_its_own_and_refusals_have_one(serve: Serve) -> None:
    address = serve(require_keys=True)
    answers = [httpx.get(f"{address}{path}") for path in ("/healthz", "/healthz", "/v1/models")]
    assert len({answer.headers[HEADER] for answer in answers}) == 3
    assert answers[2].status_code == 401
    assert answers[2].json()["request_id"] == answers[2].headers[HEADER]


async def test_a_connection_has_one(serve: Serve) -> None:
    async with raw(serve(), START, headers={HEADER: "mine"}) as socket:
        await text(socket)
        assert socket.response.headers[HEADER] == "mine"
