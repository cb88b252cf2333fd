"""A real Chromium in front of a real server, by Playwright, for the tests of the console."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from PIL import Image
from playwright.async_api import Browser, Download, Page, async_playwright, expect

from resq_core.world import Street

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NEEDS_CHROMIUM = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
]
PATIENCE = 30_000  # ms; a busy machine is slow, and nothing here is a measurement
DESKTOP, PHONE = {"width": 1360, "height": 920}, {"width": 360, "height": 740}
_OPTIONS = ("--disable-gpu", "--disable-dev-shm-usage", "--use-fake-device-for-media-stream")
_WATCH = """
  window.violations = [];
  document.addEventListener("securitypolicyviolation", (e) =>
    window.violations.push(`${e.violatedDirective} ${e.blockedURI}`));
"""
_MOST_BYTES = 150_000


def draw_camera(path: Path, frames: int = 30) -> Path:
    """Motion JPEG of a drawn street, which Chromium's fake camera plays again and again."""
    street = Street(seed=0, size=(360, 480), camera="static")
    with path.open("wb") as file:
        for t in range(frames):
            Image.fromarray(street.frame(t).image).save(file, "JPEG", quality=90)
    return path


class Console:
    """The console in a tab.

    Attributes:
        page: Playwright's.
        log: what Chromium's own console said.
    """

    def __init__(self, page: Page, pictures: Path | None) -> None:
        self.page, self._pictures = page, pictures
        self.log: list[str] = []
        self.errors: list[str] = []
        page.on("console", lambda message: self.log.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    async def says(self, words: str) -> None:
        """Wait until the line at the top holds these words."""
        await expect(self.page.locator("#notice")).to_contain_text(words, timeout=PATIENCE)

    async def runs(self) -> None:
        """Wait for results."""
        await expect(self.page.locator("#rate")).to_contain_text("results/s", timeout=PATIENCE)

    async def until(self, expression: str) -> None:
        """Wait until JavaScript comes true; Playwright's own way needs `unsafe-eval`."""
        async with asyncio.timeout(PATIENCE / 1000):
            while not await self.page.evaluate(expression):  # noqa: ASYNC110 - the page changes
                await asyncio.sleep(0.1)

    async def use_key(self, key: str) -> None:
        await self.page.fill("#key", key)
        await self.page.press("#key", "Enter")

    async def start(self) -> None:
        await self.page.click("#camera")
        await self.runs()

    async def saved(self, button: str) -> bytes:
        """Press a button that saves a file; its bytes."""
        async with self.page.expect_download(timeout=PATIENCE) as downloading:
            await self.page.click(button)
        download: Download = await downloading.value
        path = Path(await download.path())
        return await asyncio.to_thread(path.read_bytes)

    async def slide(self, control: str, value: float) -> None:
        """Move a slider as a hand would: it says `input`."""
        await self.page.locator(control).fill(str(value))

    async def state(self, name: str, dark: bool = False) -> None:
        """What is shown now has no serious fault of accessibility, light and dark; with
        `--screenshots` it is kept as a picture."""
        for scheme in ("light", "dark"):
            await self.page.emulate_media(color_scheme=scheme)
            found = (await Axe().run(self.page)).response["violations"]
            bad = [fault(f) for f in found if f["impact"] in ("serious", "critical")]
            assert not bad, f"{name}, {scheme}: {bad}"
            if self._pictures is not None and (scheme == "light" or dark):
                await self._keep(f"{name}-dark" if scheme == "dark" else name)
        await self.page.emulate_media(color_scheme="light")

    async def _keep(self, name: str) -> None:
        assert self._pictures is not None
        self._pictures.mkdir(parents=True, exist_ok=True)
        await self.page.wait_for_timeout(300)  # the strip follows the colours
        with Image.open(io.BytesIO(await self.page.screenshot())) as picture:
            path = self._pictures / f"{name}.webp"
            picture.convert("RGB").save(path, "WEBP", quality=78, method=6)
        assert path.stat().st_size < _MOST_BYTES, f"{name} is too big a picture"


def fault(violation: dict[str, Any]) -> str:
    places = [node["target"] for node in violation["nodes"]]
    return f"{violation['id']}: {violation['help']} at {places}"


@contextlib.asynccontextmanager
async def chromium(camera: Path | None = None) -> AsyncIterator[Browser]:
    """A browser whose fake camera plays a file, or Chromium's own test picture."""
    film = [] if camera is None else [f"--use-file-for-fake-video-capture={camera}"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*_OPTIONS, *film], chromium_sandbox=False
        )
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def console(
    browser: Browser,
    address: str,
    pictures: Path | None = None,
    camera: bool = True,
    script: str = "",
    **options: Any,
) -> AsyncIterator[Console]:
    """The console in a fresh profile; at its end nothing may have broken the policy, nor failed."""
    context = await browser.new_context(
        **{
            "viewport": DESKTOP,
            "permissions": ["camera"] if camera else [],
            "reduced_motion": "reduce",
            **options,
        }
    )
    page = await context.new_page()
    page.set_default_timeout(PATIENCE)
    await page.add_init_script(_WATCH + script)
    found = Console(page, pictures)
    await page.goto(address)
    yield found
    assert found.errors == []
    assert await page.evaluate("window.violations") == []
    assert not [line for line in found.log if "Content Security Policy" in line]
    await context.close()
