"""The page in a real Chromium: it asks for a key and draws a stream, within its own policy."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_raw

from service.keys import Scope, add_key, revoke_key
from tests.service.test_clips import clip_bytes
from tests.service.test_resume import Network
from tests.service.test_streams import eventually

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
]
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
WATCH = """
  window.violations = [];
  document.addEventListener("securitypolicyviolation", (e) =>
    window.violations.push(`${e.violatedDirective} ${e.blockedURI}`));
"""


class Page:
    """A tab, by the DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self.log: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        async with asyncio.timeout(60):
            while True:
                message = json.loads(await self._socket.recv())
                if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                    self.log.append(json.dumps(message["params"]))
                if message.get("id") == number:
                    assert "error" not in message, message
                    result: dict[str, Any] = message["result"]
                    return result

    async def value(self, expression: str) -> Any:
        done = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, expression: str, seconds: float = 60.0) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not await self.value(expression):
            status = await self.value("document.getElementById('status')?.textContent")
            late = asyncio.get_running_loop().time() > deadline
            assert not late, f"{expression} did not come true; status {status!r}, log {self.log}"
            await asyncio.sleep(0.1)

    async def use_key(self, key: str) -> None:
        await self.value(f"document.getElementById('key').value = {key!r}")
        await self.value("document.querySelector('#keyForm button').click()")


@contextlib.asynccontextmanager
async def page(address: str, folder: Path) -> AsyncIterator[Page]:
    assert CHROMIUM is not None
    with (folder.parent / "chromium.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            CHROMIUM, *OPTIONS, f"--user-data-dir={folder}", "about:blank", stdout=log, stderr=log
        )
        try:
            port_file = folder / "DevToolsActivePort"
            await eventually(
                lambda: port_file.exists() and len(port_file.read_text().split()) == 2, 60
            )
            port, path = port_file.read_text().split()
            async with connect_raw(f"ws://127.0.0.1:{port}{path}", max_size=None) as browser:
                targets = await Page(browser).call("Target.getTargets")
            tab = next(t["targetId"] for t in targets["targetInfos"] if t["type"] == "page")
            url = f"ws://127.0.0.1:{port}/devtools/page/{tab}"
            async with connect_raw(url, max_size=None) as socket:
                found = Page(socket)
                for name in ("Page", "Runtime", "Log", "DOM"):
                    await found.call(f"{name}.enable")
                await found.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
                await found.call("Page.navigate", url=address)
                ready = "document.readyState === 'complete'"
                await found.until(f"location.href.startsWith({address!r}) && {ready}")
                yield found
        finally:
            process.terminate()
            await process.wait()


FORM = "!document.getElementById('keyForm').hidden"
MODELS = "document.getElementById('model').options.length > 0"
SHOWN = "document.getElementById('fps').textContent !== '–'"
STATUS = "document.getElementById('status').textContent"


async def test_the_page_with_a_key(serve: Callable[..., str], tmp_path: Path) -> None:
    key = add_key(tmp_path / "data", "page", (Scope.STREAM,))[1]
    clips = add_key(tmp_path / "data", "clips", (Scope.CLIPS,))[1]
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(clip_bytes(20, (96, 128)))
    async with page(serve(), tmp_path / "profile") as tab:
        await tab.until(FORM)
        assert await tab.value(STATUS) == "this server needs an API key"
        await tab.use_key("resq_00000000_" + "0" * 64)
        await tab.until(f"{FORM} && {STATUS} === 'the API key is unknown or revoked'")
        await tab.use_key(clips)
        await tab.until(MODELS)
        await tab.value("document.getElementById('camera').click()")
        await tab.until(f"{FORM} && {STATUS}.includes('expected stream')")
        await tab.use_key(key)
        await tab.until(f"!({FORM})")

        await tab.value("document.getElementById('camera').click()")
        await tab.until(SHOWN)
        await tab.value("document.getElementById('stop').click()")

        document = await tab.call("DOM.getDocument")
        node = await tab.call(
            "DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#file"
        )
        await tab.call("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(clip)])
        await tab.until(f"{STATUS}.startsWith('Finished')")

        await tab.value("document.getElementById('camera').click()")
        await tab.until(f"{STATUS}.includes('tiny') || {STATUS}.includes('at W8A8')")
        revoke_key(tmp_path / "data", "page")
        await tab.until(f"{FORM} && {STATUS}.includes('revoked')")

        assert await tab.value("window.violations") == []
        assert not [line for line in tab.log if "Content Security Policy" in line], tab.log
        assert await tab.value("localStorage.length + document.cookie.length") == 0
        assert await tab.value("sessionStorage.getItem('resq.key')") == key
        assert key not in await tab.value("document.documentElement.outerHTML")


async def test_the_policy_stops_what_is_not_ours(serve: Callable[..., str], tmp_path: Path) -> None:
    async with page(serve(), tmp_path / "profile") as tab:
        await tab.until(MODELS)
        await tab.value("""
          const script = document.createElement("script");
          script.textContent = "window.injected = 1";
          document.body.append(script);
          const frame = document.createElement("iframe");
          frame.src = "/";
          document.body.append(frame);
          new Image().src = "http://127.0.0.1:9/leak";
          fetch("http://127.0.0.1:9/leak").catch(() => {});
        """)
        await tab.until("window.violations.length >= 4")
        found = await tab.value("window.violations")
        stopped = {line.split()[0] for line in found}
        assert stopped >= {"script-src-elem", "frame-src", "img-src", "connect-src"}
        assert await tab.value("window.injected === undefined")


async def test_the_page_comes_back_after_a_break(serve: Callable[..., str], tmp_path: Path) -> None:
    async with Network(serve()) as network, page(network.address, tmp_path / "profile") as tab:
        await tab.until(MODELS)
        await tab.value("document.getElementById('camera').click()")
        await tab.until(SHOWN)
        network.cut()
        network.whole = True
        await tab.until(f"{STATUS}.endsWith('connected again')")
        before = await tab.value("document.getElementById('picture').toDataURL()")
        await tab.until(f"document.getElementById('picture').toDataURL() !== {before!r}")
