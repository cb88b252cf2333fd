"""The console's live view in a real Chromium whose camera plays a drawn street."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from PIL import Image
from playwright.async_api import Browser, expect

from service.client import connect
from service.config import Config
from service.messages import Outputs, StreamStart
from service.server import Server, running
from tests.service.browsing import (
    NEEDS_CHROMIUM,
    PATIENCE,
    PHONE,
    Console,
    console,
)
from tests.service.conftest import SlowEngine
from tests.service.test_clips import clip_bytes
from tests.service.test_resume import Network

pytestmark = NEEDS_CHROMIUM
Serve = Callable[..., str]


async def records(tab: Console) -> list[dict[str, Any]]:
    """The figures that the console saves."""
    return [json.loads(line) for line in (await tab.saved("#save")).splitlines()]


async def more(tab: Console, count: int) -> list[dict[str, Any]]:
    """The figures of so many further frames."""
    before = len(await records(tab))
    async with asyncio.timeout(PATIENCE / 1000):
        while len(found := await records(tab)) < before + count:  # noqa: ASYNC110 - as it fills
            await asyncio.sleep(0.2)
    return found[before:]


async def test_a_webcam_shows_masks_and_obeys_its_sliders(
    street: str, browser: Browser, pictures: Path | None
) -> None:
    async with console(browser, street, pictures) as tab:
        page = tab.page
        await tab.says("Choose a source.")
        await tab.state("idle", dark=True)
        await tab.start()
        await tab.says("street at W8A8->W8A{0,4,8}")
        await expect(page.locator("#legend")).to_contain_text("road")
        await expect(page.locator("#legend")).to_contain_text("building")
        await expect(page.locator("#picture")).to_have_attribute("aria-label", re.compile("road"))
        await expect(page.locator("#bitsPicture")).to_have_attribute(
            "aria-label", re.compile("none")
        )
        await expect(page.locator("#sending")).to_contain_text("H.264")
        await more(tab, 120 if pictures else 5)
        await tab.state("live", dark=True)

        await tab.slide("#period", 3)
        await expect(page.locator("#periodOut")).to_have_text("3 frames")
        anchors = [r["index"] for r in await more(tab, 24) if r["is_anchor"]][-5:]
        assert {b - a for a, b in pairwise(anchors)} == {3}
        await tab.slide("#threshold", 0.005)
        fine = bits(await more(tab, 12))
        await tab.slide("#threshold", 0.3)
        assert bits(await more(tab, 12)) < fine - 1

        await page.get_by_label("Over", exact=True).check()
        await page.check("#byLayer")
        await expect(page.locator("#layerWords")).to_contain_text("layers; most bit operations")
        await page.get_by_text("As a table").click()
        await expect(page.locator("#layerTable tr").first).to_contain_text("GBOP")
        await tab.slide("#period", 8)
        await tab.slide("#threshold", 0.03)
        await more(tab, 60 if pictures else 5)
        await tab.state("bits-over")
        await page.get_by_text("As a table").click()
        await page.locator("#layers").scroll_into_view_if_needed()
        await tab.state("layers")
        await page.click("#stop")
        await tab.says("of the bit operations saved")


def bits(found: list[dict[str, Any]]) -> float:
    """Mean bits of the later residual frames."""
    values = [r["mean_bits"] for r in found if not r["is_anchor"]][-4:]
    return sum(values) / len(values)


async def test_what_is_seen_can_be_kept(serve: Serve, browser: Browser) -> None:
    async with console(browser, serve()) as tab:
        page = tab.page
        await tab.start()
        await page.click("#record")
        await expect(page.locator("#record")).to_contain_text("Save 0:01", timeout=PATIENCE)
        with av.open(io.BytesIO(await tab.saved("#record"))) as video:
            assert next(video.decode(video=0)).width == 480
        with Image.open(io.BytesIO(await tab.saved("#snapshot"))) as picture:
            assert (picture.format, picture.size) == ("PNG", (480, 360))

        await page.click("#pause")
        await expect(page.locator("#pause")).to_have_text("Go on")
        await asyncio.sleep(0.5)  # what is on its way arrives
        before = len(await records(tab))
        await asyncio.sleep(0.5)
        assert len(await records(tab)) == before
        await page.click("#pause")
        await more(tab, 3)


async def test_without_an_encoder_jpeg_is_sent(serve: Serve, browser: Browser) -> None:
    async with console(browser, serve(), script="delete window.VideoEncoder") as tab:
        await tab.start()
        await expect(tab.page.locator("#sending")).to_contain_text("JPEG")


async def test_files_play_to_their_end(serve: Serve, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip_bytes(20, (96, 128)))
    (tmp_path / "notes.mp4").write_text("no video")
    async with console(browser, serve()) as tab:
        await tab.page.set_input_files("#file", tmp_path / "notes.mp4")
        await tab.says("Notes.mp4 does not play in this browser.")
        await tab.says("upload it under Clips")
        await tab.page.set_input_files("#file", tmp_path / "clip.mp4")
        await tab.says("Finished:")


async def test_a_camera_that_is_refused(
    serve: Serve, browser: Browser, pictures: Path | None
) -> None:
    async with console(browser, serve(), pictures, camera=False) as tab:
        await tab.page.click("#camera")
        await tab.says("The browser was not allowed to use the camera.")
        await tab.says("Allow the camera in the browser's address bar")
        await tab.state("camera-refused")
        await expect(tab.page.locator("#camera")).to_be_visible()


async def test_a_server_that_is_full(serve: Serve, browser: Browser, pictures: Path | None) -> None:
    address = serve(max_streams=1)
    async with console(browser, address, pictures) as tab:
        async with connect(address, StreamStart(outputs=Outputs(mask="none"))):
            await tab.page.click("#camera")
            await tab.says("All 1 streams are taken; try again later.")
            await tab.says("Stop a stream under Streams")
            await tab.state("server-full")
        await tab.start()


async def test_a_rate_beyond_the_server_is_refused_with_what_would_fit(
    serve: Serve, engine: SlowEngine, browser: Browser
) -> None:
    engine.seconds = 0.05
    async with console(browser, serve()) as tab:
        await tab.page.get_by_text("More options").first.click()
        await tab.page.fill("#fps", "200")
        await tab.page.click("#camera")
        await tab.says("Ask for a lower rate under More options")
        words = await tab.page.inner_text("#alert")
        assert "200" in words


async def test_a_connection_that_breaks_comes_back(serve: Serve, browser: Browser) -> None:
    async with (
        Network(serve()) as network,
        console(browser, network.address) as tab,
    ):
        await tab.start()
        network.cut()
        await tab.says("The connection broke.")
        network.whole = True
        await tab.says("connected again. The stream goes on where it was.")
        assert (await more(tab, 5))[-1]["index"] > 5


async def test_a_server_that_restarts(
    engine: SlowEngine, browser: Browser, tmp_path: Path, pictures: Path | None
) -> None:
    def server(name: str) -> Any:
        config = Config(model="tiny", threads=1, decoders=0, data_dir=tmp_path / name)
        return running(Server(config, engine, log_level="warning"))

    with ExitStack() as first:
        old = first.enter_context(server("one"))
        async with Network(old) as network, console(browser, network.address, pictures) as tab:
            await tab.start()
            await asyncio.to_thread(first.close)
            network.cut()
            await tab.says("to come back by itself")
            await tab.state("waiting")
            with server("two") as address:
                network.move(address)
                await tab.says("The server had restarted: this is a new stream.")
                assert (await more(tab, 3))[-1]["anchor_reason"] in (None, "period")
                await tab.page.click("#stop")
                await tab.says("Finished:")


async def test_by_keyboard_alone(serve: Serve, browser: Browser) -> None:
    async with console(browser, serve()) as tab:
        page = tab.page
        await tab.says("Choose a source.")
        await reach(tab, "camera")
        await page.keyboard.press("Enter")
        await tab.runs()
        assert await focused(tab) == "stop", "what can be done next has the focus"
        await reach(tab, "period")
        before = await page.input_value("#period")
        await page.keyboard.press("ArrowRight")
        assert int(await page.input_value("#period")) == int(before) + 1
        await reach(tab, "stop", "Shift+Tab")
        await page.keyboard.press("Space")
        await tab.says("Finished:")
        assert await focused(tab) == "camera"


async def focused(tab: Console) -> str:
    found: str = await tab.page.evaluate("document.activeElement.id")
    return found


async def reach(tab: Console, name: str, key: str = "Tab") -> None:
    """Press a key until an element has the focus."""
    for _ in range(40):
        await tab.page.keyboard.press(key)
        if await focused(tab) == name:
            return
    raise AssertionError(f"{key} never reaches {name}")


async def test_on_a_phone(street: str, browser: Browser, pictures: Path | None) -> None:
    options = {"viewport": PHONE, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
    async with console(browser, street, pictures, **options) as tab:
        await tab.says("Choose a source.")
        await tab.state("phone-idle")
        box = await tab.page.locator("#urlForm button").bounding_box()
        assert box is not None
        assert box["x"] + box["width"] < PHONE["width"]
        for view in ("clips", "streams", "models", "live"):
            await tab.page.tap(f"nav a[href='#{view}']")
            await expect(tab.page.locator(f"#{view}")).to_be_visible()
            wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert await tab.page.evaluate(wide) == 0, view
        await tab.page.tap("#camera")
        await tab.runs()
        await more(tab, 60 if pictures else 3)
        await tab.state("phone-live", dark=True)
        await tab.page.tap("#stop")
        await tab.says("Finished:")
