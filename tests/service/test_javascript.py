"""The JavaScript client on a page of somebody else's, in a real Chromium."""

from __future__ import annotations

import asyncio
import functools
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from tests.service.browsing import NEEDS_CHROMIUM, PATIENCE
from tests.service.conftest import SlowEngine
from tests.service.test_resume import Network

pytestmark = NEEDS_CHROMIUM
Serve = Callable[..., str]
ROOT = Path(__file__).resolve().parents[2]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A web server of another origin with the example and a copy of the client."""
    folder = tmp_path / "site"
    (folder / "web").mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "browser.html", folder)
    shutil.copy(ROOT / "service" / "web" / "resq.js", folder / "web")
    (folder / "empty.html").write_text("<!doctype html><title>empty</title>")
    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def test_the_example(serve: Serve, browser: Browser, site: str) -> None:
    address = serve(allowed_origins=[site])
    context = await browser.new_context(permissions=["camera"])
    page = await context.new_page()
    await page.goto(f"{site}/browser.html?server={address}")
    shown = page.locator("output")
    await expect(shown).to_contain_text(
        re.compile(r"frame [1-9]\d+: 320×240, \d"), timeout=PATIENCE
    )
    await context.close()


async def test_the_example_says_what_the_server_said(
    serve: Serve, browser: Browser, site: str
) -> None:
    context = await browser.new_context(permissions=["camera"])
    page = await context.new_page()
    await page.goto(f"{site}/browser.html?server={serve()}")
    await expect(page.locator("output")).to_contain_text("expected this server's", timeout=PATIENCE)
    await context.close()


SEND = """async ([server, count, outputs]) => {
  const { ResqStream } = await import("/web/resq.js");
  const seen = { results: [], drops: [], events: [] };
  const over = new Promise((done) => {
    window.stream = new ResqStream({ server, start: { mode: "lossless", outputs }, patience: 20 }, {
      started: ({ id }) => seen.events.push("started"),
      waiting: (why) => seen.events.push(why),
      resumed: () => seen.events.push("resumed"),
      result: ({ meta, mask, bitMap, layers }) => seen.results.push({
        seq: meta.seq, mask: mask && (mask.ids ? [mask.width, mask.height, mask.ids.length] : mask),
        bits: bitMap && [bitMap.width, bitMap.height, Math.max(...bitMap.bits)],
        layers: layers && layers.map((layer) => layer.name),
      }),
      drop: ({ seq, reason }) => seen.drops.push([seq, reason]),
      problem: (problem) => done({ ...seen, problem }),
      ended: (ended) => done({ ...seen, ended }),
    });
  });
  const picture = new OffscreenCanvas(64, 48);
  const pen = picture.getContext("2d");
  for (let i = 0; i < count; i++) {
    pen.fillStyle = ["red", "lime", "blue"][i % 3];
    pen.fillRect(0, 0, 64, 48);
    const blob = await picture.convertToBlob({ type: "image/png" });
    await stream.ready();
    if (stream.over) break;
    stream.send(await blob.arrayBuffer(), { anchor: i === 2 });
  }
  stream.end();
  return await over;
}"""


async def talk(browser: Browser, site: str, *arguments: Any) -> dict[str, Any]:
    page = await browser.new_page()
    await page.goto(f"{site}/empty.html")
    found: dict[str, Any] = await page.evaluate(SEND, list(arguments))
    await page.close()
    return found


async def test_each_frame_has_one_answer_in_order(
    serve: Serve, browser: Browser, site: str
) -> None:
    address = serve(allowed_origins=[site])
    outputs = {"mask": "zlib", "bit_map": True, "layers": True}
    found = await talk(browser, site, address, 12, outputs)
    assert [r["seq"] for r in found["results"]] == list(range(12))
    assert found["ended"]["received"] == found["ended"]["results"] == 12
    for result in found["results"]:
        assert result["mask"] == [64, 48, 64 * 48]
        assert result["bits"][:2] == [8, 6]
        assert result["layers"] == ["first", "second"]
    assert found["results"][0]["bits"][2] == 8


async def test_masks_as_polygons(serve: Serve, browser: Browser, site: str) -> None:
    found = await talk(browser, site, serve(allowed_origins=[site]), 1, {"mask": "polygons"})
    (result,) = found["results"]
    assert result["mask"]["format"] == "polygons"
    assert result["mask"]["size"] == [48, 64]
    assert [each["id"] for each in result["mask"]["objects"]] == [0], "red all over"


async def test_a_refusal_comes_in_the_servers_words(
    serve: Serve, browser: Browser, site: str
) -> None:
    address = serve(allowed_origins=[site], max_streams=1)
    bad = await talk(browser, site, address, 1, {"mask": "oil"})
    assert "oil" in bad["problem"]["message"]
    assert bad["problem"]["fatal"]


async def test_it_comes_back_and_answers_for_every_frame(
    serve: Serve, engine: SlowEngine, browser: Browser, site: str
) -> None:
    engine.seconds = 0.05
    async with Network(serve(allowed_origins=[site])) as network:
        page = await browser.new_page()
        await page.goto(f"{site}/empty.html")
        talking = page.evaluate(SEND, [network.address, 30, {"mask": "none"}])
        task = asyncio.ensure_future(talking)
        await page.wait_for_function("window.stream?.seq > 8")
        network.cut()
        network.whole = True
        found = await task
        await page.close()
    assert found["events"] == ["started", "broken", "resumed"]
    assert {reason for _, reason in found["drops"]} <= {"disconnected"}
    settled = [r["seq"] for r in found["results"]] + [seq for seq, _ in found["drops"]]
    assert sorted(settled) == list(range(30))
