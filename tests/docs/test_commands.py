"""Every command and every Python block in the documents is run, page by page.

A page's blocks run in one empty folder, in order. A block that holds `resq serve` or stands below
the comment `<!-- background -->` runs until the page ends; the server's port is a free one. A block
below `<!-- not run: REASON -->` is not run. Blocks without a language are not commands.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
)
ELSEWHERE = {"docs/client.md"}  # tests/examples/test_docs.py runs it beside a server
BLOCK = re.compile(
    r"(?:<!-- (?P<note>[^>]*) -->\n)?^```(?P<language>sh|python)\n(?P<text>.*?)^```$", re.M | re.S
)
SECONDS = 240
UNTESTED = {
    "needs a camera",
    "needs a cluster",
    "needs Docker and a registry",
    "needs debootstrap, buildah and podman; some minutes",
    "makes the virtual environment that the tests run in",
    "needs the weights of STM, and a clip with masks",
    "needs the data set",
    "downloads, and takes most of an hour",
    "docs/tutorial.md has it whole",
    "docs/client.md has it whole",
}


@dataclass(frozen=True)
class Block:
    note: str
    language: str
    text: str

    @property
    def skipped(self) -> str | None:
        _, found, reason = self.note.partition("not run: ")
        return reason if found else None

    @property
    def stays(self) -> bool:
        return self.note == "background" or re.search(r"^resq serve", self.text, re.M) is not None


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text("utf-8")
    return [
        Block(found["note"] or "", found["language"], found["text"])
        for found in BLOCK.finditer(text)
    ]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def background(script: str, folder: Path, environment: dict[str, str], url: str) -> Iterator[None]:
    """A block that goes on, from when `url` answers."""
    log = folder / f"log-{len(list(folder.iterdir()))}"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-e", "-c", script],
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 120
            while True:
                assert process.poll() is None, log.read_text("utf-8")
                try:
                    if httpx.get(url).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                assert time.monotonic() < deadline, log.read_text("utf-8")
                time.sleep(0.1)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page) and page not in ELSEWHERE])
def test_what_a_page_says_runs(page: str, tmp_path: Path) -> None:
    ports = {"8000": free_port(), "9000": free_port()}
    bin_folder = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": bin_folder + os.pathsep + os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "RESQ_PORT": str(ports["8000"]),
    }
    with ExitStack() as running:
        for block in blocks(page):
            if block.skipped is not None:
                assert block.skipped in UNTESTED, f"why is this not run? {block.skipped}"
                continue
            text = block.text
            for port, ours in ports.items():
                text = re.sub(rf"(127\.0\.0\.1:|http\.server ){port}\b", rf"\g<1>{ours}", text)
            if block.stays:
                ready = f"http://127.0.0.1:{ports['8000']}/readyz"
                if "resq serve" not in text:
                    ready = f"http://127.0.0.1:{ports['9000']}/"
                running.enter_context(background(text, tmp_path, environment, ready))
                continue
            command = ["bash", "-e", "-o", "pipefail", "-c", text]
            if block.language == "python":
                command = [sys.executable, "-c", text]
            done = subprocess.run(
                command,
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
