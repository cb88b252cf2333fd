"""Marking in the console: objects to follow, and the person whose pose is wanted."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from resq_core.pipelines import QuantizedStm
from resq_core.world import Street
from service.config import Config
from service.encoder import VideoWriter
from service.local_engine import LocalEngine, Model
from service.server import Server, running
from tests.service.browsing import NEEDS_CHROMIUM, PATIENCE, Console, console
from tests.service.conftest import STM_CARD

pytestmark = NEEDS_CHROMIUM
Serve = Callable[..., str]


@pytest.fixture(scope="module")
def address(quantized_stm: QuantizedStm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that follows objects, badly."""
    engine = LocalEngine({"stm": Model(STM_CARD, lambda: quantized_stm)})
    config = Config(model="stm", threads=1, data_dir=tmp_path_factory.mktemp("data"))
    with ExitStack() as stack:
        yield stack.enter_context(running(Server(config, engine, log_level="error")))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "street.mp4"
    street = Street(seed=1, size=(240, 320))
    with VideoWriter(path, 2, street.size) as video:
        for i in range(20):
            video.write(street.frame(4 * i).image)
    return path


async def drag(tab: Console, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Over the marks, in parts of the picture."""
    box = await tab.page.locator("#marks").bounding_box()
    assert box is not None
    for act, (x, y) in (("move", start), ("down", start), ("move", end), ("up", end)):
        if act == "move":
            await tab.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        else:
            await getattr(tab.page.mouse, act)()


async def test_objects_are_marked_and_followed(
    address: str, browser: Browser, clip: Path, pictures: Path | None
) -> None:
    async with console(browser, address, pictures) as tab:
        page = tab.page
        await expect(page.locator("#modelHelp")).to_contain_text("follows objects that you mark")
        await page.set_input_files("#file", clip)
        await expect(page.locator("#markWords")).to_contain_text("Mark what to follow")
        await drag(tab, (0.13, 0.22), (0.37, 0.53))
        await expect(page.locator("#markWords")).to_contain_text("A box for object 1")
        await page.click("#markAdd")
        await page.get_by_role("radio", name="Brush").check()
        await page.locator("#markSize").fill("16")
        await drag(tab, (0.6, 0.7), (0.9, 0.7))
        await tab.state("marking", dark=True)
        await page.click("#markDone")
        await tab.runs()
        await expect(page.locator("#legend")).to_contain_text("object 1", timeout=PATIENCE)
        await expect(page.locator("#picture")).to_have_attribute("aria-label", re.compile("object"))
        first = json.loads((await tab.saved("#save")).splitlines()[0])
        assert first["index"] == 0

        await page.get_by_role("button", name="Add objects").click()
        await expect(page.locator("#marks")).to_be_focused()
        await page.get_by_role("radio", name="Box").check()
        await page.locator("#marks").focus()
        await page.keyboard.press("Enter")
        for _ in range(2):
            await page.keyboard.press("ArrowRight")
            await page.keyboard.press("ArrowDown")
        await expect(page.locator("#markWords")).to_contain_text("Enter closes the box")
        await page.keyboard.press("Enter")
        await expect(page.locator("#markWords")).to_contain_text("9 by 9 pixels")
        await page.click("#markDone")
        await tab.says("Following.")
        await expect(page.locator("#legend")).to_contain_text("object 3", timeout=PATIENCE)
        await asyncio.sleep(3 if pictures else 0)  # residual frames are the ones to see
        await tab.state("objects")
        await page.click("#stop")
        await tab.says("Finished:")


async def test_marking_can_be_left(address: str, browser: Browser, clip: Path) -> None:
    async with console(browser, address) as tab:
        await tab.says("Choose a source.")
        await tab.page.set_input_files("#file", clip)
        await expect(tab.page.locator("#marks")).to_be_visible()
        await drag(tab, (0.1, 0.1), (0.5, 0.5))
        await tab.page.click("#markUndo")
        await tab.page.click("#markDone")
        await tab.says("Nothing was marked.")


async def test_a_pose_is_drawn_and_its_person_chosen(serve: Serve, browser: Browser) -> None:
    async with console(browser, serve(model="marker")) as tab:
        page = tab.page
        await tab.start()
        await expect(page.locator("#picture")).to_have_attribute(
            "aria-label", re.compile(r"a pose with \d+ of 15 joints")
        )
        await page.click("#markMore")
        await expect(page.locator("#marks")).to_be_visible()
        await drag(tab, (0.25, 0.25), (0.5, 0.75))
        await page.click("#markDone")
        await tab.says("Following.")
        async with asyncio.timeout(PATIENCE / 1000):
            while b"crop_moved" not in await tab.saved("#save"):  # noqa: ASYNC110 - as it fills
                await asyncio.sleep(0.2)
