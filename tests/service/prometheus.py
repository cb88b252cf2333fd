"""A real Prometheus that scrapes a server under test."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

__all__ = ["Prometheus", "StartPrometheus", "needs_prometheus"]

StartPrometheus = Callable[..., "Prometheus"]

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="Prometheus is not installed (Debian: apt-get install prometheus)",
)


class Prometheus:
    """A running one that scrapes `target` as the job `resq`; `address`: of its HTTP interface."""

    def __init__(self, folder: Path, target: str, rules: tuple[Path, ...] = ()) -> None:
        host = target.removeprefix("http://")
        every = "250ms"
        config = folder / "prometheus.yml"
        settings = {
            "global": {
                "scrape_interval": every,
                "scrape_timeout": every,
                "evaluation_interval": every,
            },
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [{"job_name": "resq", "static_configs": [{"targets": [host]}]}],
        }
        config.write_text(json.dumps(settings))  # JSON is YAML
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an expression gives now; none before it has started."""
        found: list[dict[str, Any]] = self._ask("query", query=expression).get("result", [])
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with its state and what its last evaluation said."""
        groups = self._ask("rules").get("groups", [])
        return [rule for group in groups for rule in group["rules"]]

    def _ask(self, path: str, **given: str) -> dict[str, Any]:
        try:
            answer = httpx.get(f"{self.address}/api/v1/{path}", params=given)
        except httpx.TransportError:  # it has not begun to listen
            return {}
        if answer.status_code == 503:  # it is starting
            return {}
        body = answer.json()
        assert body["status"] == "success", body
        data: dict[str, Any] = body["data"]
        return data

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()
