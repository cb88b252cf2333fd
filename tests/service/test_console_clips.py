"""The console's clips: uploaded, followed, shown, deleted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, expect

from resq_core.world import Street
from service.commands.world import draw_clip
from service.keys import Scope, add_key
from tests.service.browsing import NEEDS_CHROMIUM, PATIENCE, console
from tests.service.conftest import SlowEngine

pytestmark = NEEDS_CHROMIUM
Serve = Callable[..., str]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "street.mp4"
    draw_clip(path, Street(seed=1, size=(240, 320)), 12)
    return path


async def test_a_clip_from_upload_to_its_video(
    street: str, browser: Browser, clip: Path, pictures: Path | None
) -> None:
    async with console(browser, street, pictures) as tab:
        page = tab.page
        await page.click("nav a[href='#clips']")
        await page.set_input_files("#clipFile", clip)
        await page.fill("#clipPeriod", "3")
        await page.click("#clipSend")
        await tab.says("street.mp4 is on the server.")
        row = page.locator("#clipList li")
        await expect(row).to_contain_text("done", timeout=PATIENCE)
        await expect(row).to_contain_text("12 results")
        await page.get_by_role("button", name="Show: street.mp4").click()
        await expect(row).to_contain_text("12 of 12")
        await expect(row).to_contain_text("3, ")
        await tab.until("document.querySelector('#clipList video')?.videoWidth > 0")
        await page.evaluate("document.querySelector('#clipList video').currentTime = 0.25")
        await tab.state("clips", dark=True)
        lines = (await tab.saved("#clipList button[aria-label^='Results']")).splitlines()
        assert [json.loads(line)["index"] for line in lines] == list(range(12))
        await page.get_by_role("button", name="Delete: street.mp4").click()
        await expect(page.locator("#clipsEmpty")).to_be_visible()
        assert await page.evaluate("document.activeElement.id") == "clipsTitle"
    assert httpx.get(f"{street}/v1/clips").json() == {"clips": []}


async def test_progress_is_shown_and_the_video_comes_with_the_key(
    serve: Serve, engine: SlowEngine, browser: Browser, clip: Path, tmp_path: Path
) -> None:
    key = add_key(tmp_path / "data", "page", (Scope.CLIPS,))[1]
    engine.seconds = 0.3
    async with console(browser, serve()) as tab:
        await tab.use_key(key)
        await tab.page.click("nav a[href='#clips']")
        await tab.page.set_input_files("#clipFile", clip)
        await tab.page.click("#clipSend")
        row = tab.page.locator("#clipList li")
        await expect(row.locator(".badge")).to_have_text("running", timeout=PATIENCE)
        await tab.until("document.querySelector('#clipList progress').value > 0.1")
        engine.seconds = 0.0
        await expect(row.locator(".badge")).to_have_text("done", timeout=PATIENCE)
        await tab.page.get_by_role("button", name="Show: street.mp4").click()
        await tab.until("document.querySelector('#clipList video')?.videoWidth > 0")


async def test_a_file_that_is_no_clip(
    serve: Serve, browser: Browser, tmp_path: Path, pictures: Path | None
) -> None:
    (tmp_path / "notes.mp4").write_text("no video at all")
    async with console(browser, serve(), pictures) as tab:
        await tab.page.click("nav a[href='#clips']")
        await tab.page.set_input_files("#clipFile", tmp_path / "notes.mp4")
        await tab.page.click("#clipSend")
        row = tab.page.locator("#clipList li")
        await expect(row.locator(".badge")).to_have_text("failed", timeout=PATIENCE)
        await tab.state("clip-failed")


async def test_a_clip_beyond_the_limit(serve: Serve, browser: Browser, clip: Path) -> None:
    async with console(browser, serve(max_clip_bytes=1024)) as tab:
        await tab.page.click("nav a[href='#clips']")
        await tab.page.set_input_files("#clipFile", clip)
        await tab.page.click("#clipSend")
        await tab.says("expected at most 1024 bytes")
