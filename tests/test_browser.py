"""The pages in a real headless Chromium, served with the built-in presenter, the still engine and an offline voice."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from tests.fakes.live import Live, serve

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed"),
]

PRESENTER = Path(__file__).parent.parent / "data" / "avatars" / "presenter"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--allow-loopback-in-peer-connection",
    "--autoplay-policy=no-user-gesture-required",
]
KEEP_PEERS = """
window.peers = [];
const Real = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Real {
  constructor(...args) { super(...args); window.peers.push(this); }
  addTransceiver(kind, init) {
    const transceiver = super.addTransceiver(kind, init);
    if (kind === 'video' && window.onlyCodec) {
      const codecs = RTCRtpReceiver.getCapabilities('video').codecs;
      transceiver.setCodecPreferences(codecs.filter(codec => codec.mimeType === window.onlyCodec));
    }
    return transceiver;
  }
};
"""
STATS = """
async () => {
  const found = {};
  for (const report of (await window.peers.at(-1).getStats()).values()) {
    if (report.type === 'inbound-rtp' && report.kind === 'video') {
      found.frames = report.framesDecoded; found.freezes = report.freezeCount; found.width = report.frameWidth;
    }
    if (report.type === 'inbound-rtp' && report.kind === 'audio') {
      found.energy = report.totalAudioEnergy;
    }
    if (report.type === 'codec' && report.mimeType.startsWith('video/')) found.codec = report.mimeType;
  }
  return found;
}
"""


@asynccontextmanager
async def browser_page(
    url: str, *, codec: str = "", width: int = 1280, height: int = 860
) -> AsyncIterator[tuple[Page, list[str]]]:
    """A page at `url`, and what it complains about."""
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = await browser.new_page(viewport={"width": width, "height": height})
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        await page.add_init_script(f"window.onlyCodec = '{codec}';" + KEEP_PEERS)
        await page.goto(url)
        yield page, complaints
        await browser.close()


@pytest.fixture
async def presenter(tmp_path: Path) -> AsyncIterator[Live]:
    (tmp_path / "avatars").mkdir()
    await asyncio.to_thread(shutil.copytree, PRESENTER, tmp_path / "avatars" / "presenter")
    async with serve(tmp_path, avatar_id="presenter", model="still", tts="hibari", llm="rules") as live:
        yield live


async def until(page: Page, condition: str, seconds: float) -> None:
    """Wait until the JavaScript `condition` holds. (Playwright's own wait needs eval, which the page forbids.)"""
    async with asyncio.timeout(seconds):
        while not await page.evaluate(condition):
            await asyncio.sleep(0.05)


async def start(page: Page) -> None:
    await page.click("#start")
    await until(page, "document.body.dataset.state === 'live'", 15)


async def stats(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = await page.evaluate(STATS)
    return found


SENTENCE = "Good morning. My name is Vera, and I can say whatever you type, with my lips moving in time."


async def test_the_dashboard_plays_speaks_and_shows_captions(presenter: Live, tmp_path: Path) -> None:
    async with browser_page(presenter.url + "/") as (page, complaints):
        await start(page)
        await page.evaluate("document.querySelector('#mode-echo').click()")
        await page.fill("#text", SENTENCE)
        await page.click("#send")
        await asyncio.sleep(3.3)
        await page.screenshot(path=tmp_path / "dashboard.png")
        assert "morning" in await page.inner_text("#captions")
        await asyncio.sleep(6)
        seen = await stats(page)
        print(seen)
        assert seen["frames"] > 200 and seen["energy"] > 0 and seen["width"] == 512
        assert seen["codec"] == "video/H264" and seen["freezes"] == 0
        await page.click("#stop")
        for _ in range(50):
            if not len(presenter.house.sessions):
                break
            await asyncio.sleep(0.1)
        assert not len(presenter.house.sessions)
        assert not complaints


async def test_vp8_plays_too(presenter: Live) -> None:
    async with browser_page(presenter.url + "/", codec="video/VP8") as (page, _):
        await start(page)
        await asyncio.sleep(5)
        seen = await stats(page)
        assert seen["codec"] == "video/VP8" and seen["frames"] > 90


async def test_a_conversation_can_be_interrupted_and_recorded(presenter: Live) -> None:
    async with browser_page(presenter.url + "/") as (page, _):
        await start(page)
        await page.click("#record")
        await page.evaluate("document.querySelector('#mode-chat').click()")
        await page.fill("#text", "Who are you?")
        await page.click("#send")
        await until(page, "document.querySelector('#captions').innerText.length > 10", 10)
        await page.click("#interrupt")
        await asyncio.sleep(0.5)
        (real,) = presenter.house.sessions
        assert not real.is_speaking
        await page.click("#record")
        await asyncio.sleep(1)
        assert (presenter.house.settings.data_dir / "record.mp4").stat().st_size > 10_000


async def test_a_failure_is_shown_in_words(presenter: Live) -> None:
    presenter.house.sessions.max_session = 0
    async with browser_page(presenter.url + "/") as (page, _):
        await page.click("#start")
        await until(page, "document.querySelector('#error').innerText.length > 5", 10)
        assert await page.evaluate("document.body.dataset.state") in {"failed", "idle"}


@pytest.mark.parametrize(
    "name", ["webrtcapi.html", "rtcpushapi.html", "echoapi.html", "docs", "dashboard.html", "avatars.html"]
)
async def test_every_page_opens_without_complaint_on_a_phone(presenter: Live, name: str) -> None:
    async with browser_page(f"{presenter.url}/{name}", width=390, height=844) as (page, complaints):
        await asyncio.sleep(0.5)
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
        assert not complaints
