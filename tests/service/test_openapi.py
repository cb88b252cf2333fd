"""The document of `/openapi.json` against the server that it describes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.service.conftest import SlowEngine
from tests.service.test_clips import clip_bytes, finished, post

EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "3")
SEED = os.environ.get("FUZZ_SEED", "0")


def test_the_server_does_what_its_document_says(serve: Callable[..., str], tmp_path: Path) -> None:
    """All that Schemathesis checks, but whether everything that fits the schema is accepted: which
    models there are, which hosts are allowed and what is a video stands in no schema.
    """
    address = serve(requests_per_minute=1_000_000, max_clips_waiting=1000)
    finished(address, post(address, clip_bytes(3)).json()["id"])
    command = [str(Path(sys.executable).with_name("schemathesis")), "run"]
    command += [f"{address}/openapi.json", "--checks", "all", "--seed", SEED]
    command += ["--exclude-checks", "positive_data_acceptance", "--max-examples", EXAMPLES]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    assert "Tested: 17" in found.stdout, found.stdout[-2000:]


def test_a_failure_is_a_problem_with_all_headers(
    serve: Callable[..., str], engine: SlowEngine
) -> None:
    address = serve()
    engine.serving = None  # type: ignore[assignment,method-assign]
    answer = httpx.get(f"{address}/v1/models")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_body_of_json_has_a_limit(serve: Callable[..., str]) -> None:
    answer = httpx.post(f"{serve()}/v1/streams", json={"url": "x" * 300_000})
    assert answer.status_code == 413
    assert "at most 262144 bytes" in answer.json()["detail"]


def test_a_wrong_method_is_told_the_right_ones(serve: Callable[..., str]) -> None:
    address = serve()
    for path, allowed in (("/v1/streams", "GET, POST"), ("/v1/clips/x", "DELETE, GET")):
        answer = httpx.options(f"{address}{path}")
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
