"""The dashboard's conversation by voice in a real headless Chromium, with a fake microphone and faked news."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Page, Route, async_playwright

from tests.fakes.live import Live
from tests.test_browser import FLAGS, KEEP_PEERS, start, until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed"),
]

MICROPHONE = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
VOICES = [
    {"id": "zf_xiaoxiao", "title": "Xiaoxiao", "language": "zh-CN", "kind": "preset"},
    {"id": "af_heart", "title": "Heart", "language": "en-US", "kind": "preset"},
    {"id": "anna", "title": "Anna", "language": "en", "kind": "reference"},
]
TELL = """
window.tell = (...all) => all.forEach((news) =>
  window.channels.at(-1).dispatchEvent(new MessageEvent('message', { data: JSON.stringify(news) })));
window.channels = [];
const open = RTCPeerConnection.prototype.createDataChannel;
RTCPeerConnection.prototype.createDataChannel = function (...args) {
  const channel = open.apply(this, args);
  channel.addEventListener('message', (real) => real.isTrusted && real.stopImmediatePropagation());
  window.channels.push(channel);
  return channel;
};
const capture = navigator.mediaDevices?.getUserMedia.bind(navigator.mediaDevices);
if (capture) navigator.mediaDevices.getUserMedia = async (wishes) => {
  window.wishes = wishes;
  const stream = await capture(wishes);
  [window.track] = stream.getAudioTracks();
  return stream;
};
"""
SENT = """
async () => [...(await window.peers.at(-1).getStats()).values()]
  .filter(({ type, kind }) => type === 'outbound-rtp' && kind === 'audio')
  .reduce((sum, { packetsSent }) => sum + packetsSent, 0)
"""
LATENCY = {"endpointing_ms": 350, "asr_ms": 150, "llm_ms": 200, "tts_ms": 150, "render_ms": 80, "total_ms": 930}
LISTENING = "document.querySelector('#talking').dataset.talk === 'on'"
RESTING = "document.querySelector('#talking').dataset.talk === 'off'"


@asynccontextmanager
async def voice_page(
    live: Live, *, direction: str = "sendrecv", before: str = "", width: int = 1280, locale: str = "en-US"
) -> AsyncIterator[Page]:
    """The dashboard; the server's answer to its offer takes the microphone's sound as `direction` says."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS + MICROPHONE)
        context = await browser.new_context(viewport={"width": width, "height": 800}, locale=locale)
        await context.grant_permissions(["microphone", "clipboard-read", "clipboard-write"])
        page = await context.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.add_init_script(KEEP_PEERS + TELL + before)
        await page.route("**/api/voices", offer_voices)
        await page.route("**/offer", lambda route: answer(route, direction))
        await page.goto(live.url + "/")
        await until(page, "Boolean(document.querySelector('#avatar').value)", 10)
        yield page
        await page.evaluate("document.querySelector('#stop').click()")
        await asyncio.sleep(0.2)
        await browser.close()
        assert not complaints


async def offer_voices(route: Route) -> None:
    await route.fulfill(json={"code": 0, "data": {"engine": "auto", "voices": VOICES, "default": ""}})


async def answer(route: Route, direction: str) -> None:
    """What the server answers, but its ears as they are wanted."""
    response = await route.fetch()
    body = await response.json()
    before, mark, rest = body["sdp"].partition("m=audio")
    audio, *others = rest.split("m=")
    for stated in ("a=sendonly", "a=sendrecv"):
        audio = audio.replace(stated, f"a={direction}")
    await route.fulfill(json={**body, "sdp": before + mark + "m=".join([audio, *others])})


async def tell(page: Page, *news: dict[str, Any]) -> None:
    await page.evaluate("(news) => tell(...news)", list(news))


async def notice(page: Page) -> str:
    key: str = await page.evaluate("document.querySelector('#error').dataset.key ?? ''")
    return key


def said(event: str, text: str, **more: Any) -> dict[str, Any]:
    return {"event": event, "text": text, **more}


async def test_the_microphone_starts_a_session_is_heard_and_is_let_go_of(live: Live) -> None:
    async with voice_page(live) as page:
        assert await page.get_attribute("#talk", "aria-pressed") == "false"
        await page.click("#talk")
        await until(page, LISTENING, 15)
        assert await page.get_attribute("#talk", "aria-pressed") == "true"
        wishes = await page.evaluate("window.wishes.audio")
        assert wishes == {
            "echoCancellation": True,
            "noiseSuppression": True,
            "autoGainControl": True,
            "channelCount": 1,
        }
        assert "a=sendrecv" in await page.evaluate("window.peers.at(-1).localDescription.sdp")
        await until(page, "Number(document.querySelector('#level').getAttribute('aria-valuenow')) > 0", 10)
        before = await page.evaluate(SENT)
        await until(page, f"({SENT})().then((sent) => sent > {before})", 5)
        await page.click("#talk")
        assert await page.evaluate(RESTING) and not await page.evaluate("window.track.enabled")
        await until(page, "window.track.readyState === 'ended'", 5)
        assert await page.evaluate("window.peers.at(-1).getSenders().every(({ track }) => !track)")


async def test_the_microphone_is_never_played(live: Live) -> None:
    async with voice_page(live) as page:
        await page.click("#talk")
        await until(page, LISTENING, 15)
        played = (
            "[...document.querySelectorAll('video, audio')].flatMap(({ srcObject }) => srcObject?.getTracks() ?? [])"
        )
        assert await page.evaluate(f"!{played}.includes(window.track)")


async def test_push_to_talk_is_heard_only_while_held_and_is_remembered(live: Live) -> None:
    async with voice_page(live) as page:
        await start(page)
        await page.check("#talk-push", force=True)
        await page.hover("#talk")
        await page.mouse.down()
        await until(page, LISTENING, 5)
        await page.mouse.up()
        await until(page, RESTING, 1)
        assert await page.evaluate("!window.track.enabled && window.track.readyState === 'live'")
        await page.keyboard.down("Space")
        await until(page, LISTENING, 5)
        await page.keyboard.up("Space")
        await until(page, RESTING, 1)
        await page.reload()
        await until(page, "document.querySelector('#talk-push').checked", 5)


async def test_keyboards_that_cannot_hold_switch_push_to_talk(live: Live) -> None:
    async with voice_page(live) as page:
        await page.check("#talk-push", force=True)
        await page.focus("#talk")
        await page.keyboard.press("Enter")
        await until(page, LISTENING, 15)
        await page.keyboard.press("Enter")
        await until(page, RESTING, 1)


async def test_space_writes_where_there_is_text_to_write(live: Live) -> None:
    async with voice_page(live) as page:
        await start(page)
        await page.check("#talk-push", force=True)
        await page.focus("#text")
        await page.keyboard.type("a b")
        assert await page.input_value("#text") == "a b"
        assert await page.evaluate(RESTING)


async def test_what_is_being_understood_becomes_the_users_message(live: Live) -> None:
    async with voice_page(live) as page:
        await start(page)
        await tell(page, said("user-partial", "What is"), said("user-partial", "What is your"))
        await until(page, "document.querySelector('[data-partial] p')?.textContent === 'What is your'", 3)
        assert "What is your" in await page.inner_text("#captions")
        await tell(page, said("user-turn", "What is your name?", language="en"))
        await until(page, "document.querySelector('.bubble.user:not([data-partial]) p') !== null", 3)
        assert await page.inner_text(".bubble.user p") == "What is your name?"
        assert await page.get_attribute(".bubble.user", "lang") == "en"


async def test_what_was_only_a_cough_vanishes(live: Live) -> None:
    async with voice_page(live) as page:
        await start(page)
        await tell(page, said("user-partial", "Hm"))
        await until(page, "document.querySelectorAll('.bubble').length === 1", 3)
        await tell(page, {"event": "barge-in", "step": "restore"})
        await until(page, "document.querySelectorAll('.bubble').length === 0", 3)


async def test_an_answer_names_its_sources_its_time_and_its_interruption(live: Live) -> None:
    async with voice_page(live) as page:
        await start(page)
        await tell(
            page,
            said("user-turn", "When do you open?", language="en"),
            {"event": "source", "name": "visitors.pdf", "utterance": 7},
            {"event": "latency", "utterance": 7, **LATENCY},
            said("speak-start", "", utterance=7),
            said("sentence", "We open at nine.", utterance=7),
            {"event": "source", "name": "prices.docx", "utterance": 7},
            {"event": "interrupted", "heard": "We open", "utterance": 7},
            said("speak-end", "", utterance=7),
        )
        await until(page, "document.querySelector('[data-interrupted]') !== null", 3)
        small = await page.evaluate("[...document.querySelectorAll('.presenter small')].map((one) => one.innerText)")
        assert small == [
            "interrupted",
            "From visitors.pdf, prices.docx",
            "after 0.93 s = 0.35 pause + 0.15 understood + 0.20 thought + 0.15 voiced + 0.08 shown",
        ]
        await page.click("#copy")
        copied = await page.evaluate("navigator.clipboard.readText()")
        assert copied == "You: When do you open?\nPresenter: We open…"


async def test_a_typed_turn_shows_only_the_steps_it_had(live: Live) -> None:
    async with voice_page(live) as page:
        await start(page)
        typed = {**LATENCY, "endpointing_ms": 0, "asr_ms": 0, "total_ms": 430}
        await tell(page, said("speak-start", "", utterance=3), said("sentence", "Good.", utterance=3))
        await tell(page, {"event": "latency", "utterance": 3, **typed})
        await until(page, "document.querySelector('.latency') !== null", 3)
        assert await page.inner_text(".latency") == "after 0.43 s = 0.20 thought + 0.15 voiced + 0.08 shown"


async def test_a_chosen_voice_can_be_heard_and_is_asked_for(live: Live) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    async def preview(route: Route) -> None:
        asked.append(("preview", json.loads(route.request.post_data or "")))
        await route.fulfill(body=silence(), content_type="audio/wav")

    async with voice_page(live) as page:
        page.on("request", lambda request: keep(asked, request.url, request.post_data))
        await page.route("**/api/voices/preview", preview)
        groups = await page.evaluate("[...document.querySelectorAll('#voice optgroup')].map(({ label }) => label)")
        assert groups == ["Own voices", "English", "Chinese"]
        await page.select_option("#voice", "anna")
        await page.click("#preview")
        await until(page, "document.querySelector('#preview').ariaLabel === 'Stop'", 5)
        await until(page, "document.querySelector('#preview').ariaLabel === 'Hear this voice'", 5)
        await start(page)
        await page.fill("#text", "Hello.")
        await page.click("#send")
        await until(page, "document.querySelector('.bubble.user') !== null", 3)
        assert ("preview", {"voice": "anna"}) in asked
        assert [body["refaudio"] for path, body in asked if path == "offer"] == ["anna"]
        assert [body["tts"] for path, body in asked if path == "human"] == [{"ref_file": "anna"}]


async def test_a_voice_that_cannot_be_heard_is_told_of(live: Live) -> None:
    async with voice_page(live) as page:
        refusal = {"code": -1, "msg": "the voice server does not answer"}
        await page.route("**/api/voices/preview", lambda route: route.fulfill(json=refusal))
        await page.click("#preview")
        await until(page, "document.querySelector('#error').innerText.includes('does not answer')", 5)


async def test_a_server_that_tells_of_no_voices_shows_no_menu(live: Live) -> None:
    async with voice_page(live) as page:
        await page.route(
            "**/api/voices", lambda route: route.fulfill(status=404, json={"code": -1, "msg": "Not Found"})
        )
        await page.reload()
        await until(page, "Boolean(document.querySelector('#avatar').value)", 10)
        await until(page, "document.querySelector('#voice').options.length === 1", 5)
        assert await page.is_hidden("#voice-box") and await page.is_hidden("#error")


@pytest.mark.parametrize(
    ("trouble", "key"),
    [
        ("NotAllowedError", "error.micDenied"),
        ("NotFoundError", "error.micNone"),
        ("NotReadableError", "error.micBusy"),
        ("TypeError", "error.mic"),
    ],
)
async def test_a_microphone_that_does_not_open_is_explained(live: Live, trouble: str, key: str) -> None:
    before = f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('no', '{trouble}'); }};"
    async with voice_page(live, before=before) as page:
        await page.click("#talk")
        await until(page, "!document.querySelector('#error').hidden", 5)
        assert await notice(page) == key
        assert await page.evaluate(RESTING) and await page.evaluate("document.body.dataset.state") == "idle"


async def test_a_page_that_is_not_secure_says_why_there_is_no_microphone(live: Live) -> None:
    before = "Object.defineProperty(navigator, 'mediaDevices', { value: undefined });"
    async with voice_page(live, before=before, locale="zh-CN") as page:
        await page.click("#talk")
        await until(page, "!document.querySelector('#error').hidden", 5)
        assert "https" in await page.inner_text("#error") and await notice(page) == "error.micInsecure"


async def test_a_microphone_that_is_unplugged_is_told_of_and_the_session_lives_on(live: Live) -> None:
    async with voice_page(live) as page:
        await page.click("#talk")
        await until(page, LISTENING, 15)
        await page.evaluate("window.track.dispatchEvent(new Event('ended'))")
        await until(page, RESTING, 2)
        assert await notice(page) == "error.micLost"
        assert await page.evaluate("document.body.dataset.state") == "live"


async def test_a_server_without_ears_is_told_of(live: Live) -> None:
    async with voice_page(live, direction="sendonly") as page:
        await page.click("#talk")
        await until(page, "!document.querySelector('#error').hidden", 15)
        assert await notice(page) == "error.deaf"
        assert await page.evaluate("window.track.readyState") == "ended"


async def test_ending_the_session_lets_go_of_the_microphone(live: Live) -> None:
    async with voice_page(live) as page:
        await page.click("#talk")
        await until(page, LISTENING, 15)
        await tell(page, said("user-partial", "And then"))
        await until(page, "document.querySelector('[data-partial]') !== null", 3)
        await page.click("#stop")
        assert await page.evaluate(f"{RESTING} && window.track.readyState === 'ended'")
        assert await page.evaluate("document.querySelector('[data-partial]') === null")


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
async def test_everything_fits_a_narrow_phone_and_has_a_name(live: Live, locale: str) -> None:
    unnamed = """[...document.querySelectorAll('button, select, input, textarea, [role=meter]')]
      .filter((one) => !(one.ariaLabel || one.innerText?.trim() || one.labels?.[0]?.innerText.trim()
        || one.labels?.[0]?.ariaLabel)).map(({ id }) => id)"""
    async with voice_page(live, width=360, locale=locale) as page:
        await start(page)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert await page.evaluate(unnamed) == []
        talk = await page.locator("#talk").bounding_box()
        assert talk is not None and min(talk["width"], talk["height"]) >= 56


def keep(asked: list[tuple[str, dict[str, Any]]], url: str, body: str | None) -> None:
    path = url.rsplit("/", 1)[1]
    if path in {"offer", "human"}:
        asked.append((path, json.loads(body or "")))


def silence() -> bytes:
    """A WAV file of half a second."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(bytes(16_000))
    return file.getvalue()
