"""The console around its live view: the key, the policy, streams and models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from service.client import connect
from service.keys import Scope, add_key, revoke_key
from service.messages import Outputs, StreamStart
from tests.service.browsing import NEEDS_CHROMIUM, PATIENCE, console
from tests.service.cameras import Camera, file, video

pytestmark = NEEDS_CHROMIUM
Serve = Callable[..., str]
QUIET = StreamStart(id="yard", mode="lossless", outputs=Outputs(mask="none"))


@pytest.fixture
def camera() -> Iterator[Camera]:
    with Camera() as found:
        yield found


async def test_the_key(
    serve: Serve, browser: Browser, tmp_path: Path, pictures: Path | None
) -> None:
    key = add_key(tmp_path / "data", "page", (Scope.STREAM,))[1]
    clips = add_key(tmp_path / "data", "clips", (Scope.CLIPS,))[1]
    async with console(browser, serve(), pictures) as tab:
        page, form = tab.page, tab.page.locator("#keyForm")
        await tab.says("This server needs an API key.")
        await expect(form).to_be_visible()
        await tab.state("key")
        await tab.use_key("resq_00000000_" + "0" * 64)
        await tab.says("The API key is unknown or revoked.")
        await tab.use_key(clips)
        await expect(page.locator("#model")).to_have_value("tiny", timeout=PATIENCE)
        await page.click("#camera")
        await tab.says("expected stream")
        await tab.use_key(key)
        await expect(form).to_be_hidden()
        await tab.start()
        await page.click("nav a[href='#streams']")
        await expect(page.locator("#streamsScope")).to_contain_text("The streams of your key.")
        await expect(page.locator("#streamList li")).to_have_count(1)
        revoke_key(tmp_path / "data", "page")
        await tab.says("The API key was revoked.")
        await expect(form).to_be_visible()

        assert await page.evaluate("localStorage.length + document.cookie.length") == 0
        assert await page.evaluate("sessionStorage.getItem('resq.key')") == key
        assert key not in await page.content()


async def test_the_policy_stops_what_is_not_ours(serve: Serve, browser: Browser) -> None:
    async with console(browser, serve()) as tab:
        await tab.says("Choose a source.")
        await tab.page.evaluate("""() => {
          const script = document.createElement("script");
          script.textContent = "window.injected = 1";
          document.body.append(script);
          const frame = document.createElement("iframe");
          frame.src = "/";
          document.body.append(frame);
          new Image().src = "http://127.0.0.1:9/leak";
          fetch("http://127.0.0.1:9/leak").catch(() => {});
        }""")
        await tab.until("window.violations.length >= 4")
        found = await tab.page.evaluate("window.violations.splice(0)")
        stopped = {line.split()[0] for line in found}
        assert stopped >= {"script-src-elem", "frame-src", "img-src", "connect-src"}
        assert await tab.page.evaluate("window.injected === undefined")
        tab.log.clear()


async def test_streams_are_listed_watched_and_ended(
    serve: Serve, browser: Browser, pictures: Path | None
) -> None:
    address = serve()
    async with (
        console(browser, address, pictures) as tab,
        connect(address, QUIET) as stream,
    ):
        page = tab.page
        await page.click("nav a[href='#streams']")
        row = page.locator("#streamList li")
        await expect(row).to_contain_text("yard")
        await expect(row).to_contain_text("Sent by its client.")
        await tab.state("streams", dark=True)
        await page.click("#streamList button[aria-label^='End']")
        await expect(page.locator("#streamsEmpty")).to_be_visible(timeout=PATIENCE)
        ended = [answer async for answer in stream][-1]
        assert getattr(ended, "reason", None) == "deleted"


async def test_a_stream_of_the_console_is_ended_by_an_operator(
    serve: Serve, browser: Browser
) -> None:
    async with console(browser, serve()) as tab:
        await tab.start()
        await tab.page.click("nav a[href='#streams']")
        await tab.page.click("#streamList button[aria-label^='End']")
        await tab.says("An operator ended the stream.")


async def test_a_url_that_the_server_may_not_pull(serve: Serve, browser: Browser) -> None:
    async with console(browser, serve()) as tab:
        await tab.page.fill("#url", "http://camera.example/live")
        await tab.page.click("#urlForm button")
        await tab.says("RESQ_ALLOWED_HOSTS")
        await expect(tab.page.locator("#alert")).to_contain_text("camera.example")


async def test_a_url_is_pulled_by_the_server(
    serve: Serve, browser: Browser, camera: Camera, pictures: Path | None
) -> None:
    camera.answers["/live"] = camera.live
    camera.answers["/clip"] = file(video("mpegts", 40))
    async with console(browser, serve(allowed_hosts=["127.0.0.0/8"]), pictures) as tab:
        page = tab.page
        await page.fill("#url", f"http://{camera.address}/live")
        await page.click("#urlForm button")
        await tab.runs()
        await tab.says("running")
        await expect(page.locator("#sending")).to_contain_text("The server pulls this stream")
        colours = "Array.from(document.getElementById('picture').getContext('2d')"
        colours += ".getImageData(5, 24, 1, 1).data).slice(0, 3).sort().join()"
        await tab.until(f"{colours} === '0,0,255'")
        await page.click("nav a[href='#streams']")
        await expect(page.locator("#streamList")).to_contain_text(
            f"Pulled from http://{camera.address}/live"
        )
        await page.click("nav a[href='#live']")
        await page.click("#stop")
        await tab.says("The stream has ended.")

        await page.fill("#url", f"http://{camera.address}/clip")
        await page.get_by_label("it is a file: take every frame").check()
        await page.click("#urlForm button")
        await tab.says("The stream has ended.")


async def test_models_show_their_cards(
    street: str, browser: Browser, pictures: Path | None
) -> None:
    async with console(browser, street, pictures) as tab:
        await tab.page.click("nav a[href='#models']")
        card = tab.page.locator("#modelList li[data-name=street]")
        for words in ("Street scenes", "Licence: CC BY-NC 4.0", "480×360", "pavement"):
            await expect(card).to_contain_text(words)
        await card.get_by_text("Data and training").click()
        await expect(card).to_contain_text("Trained on CamVid")
        await tab.state("models")


async def test_a_server_that_is_not_there(serve: Serve, browser: Browser) -> None:
    async with console(browser, serve()) as tab:
        await tab.says("Choose a source.")
        await tab.page.route("**/v1/**", lambda route: asyncio.ensure_future(route.abort()))
        await tab.page.click("nav a[href='#clips']")
        await tab.says("There is no connection to the server. Is the server running")
