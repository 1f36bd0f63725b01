"""A real conversation by voice: a spoken WAV as Chromium's microphone, Silero, Whisper, a voice that answers."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.async_api import Page, async_playwright

from core.audio import to_int16
from core.media import SAMPLE_RATE, Pcm, Voice
from tests.fakes.live import Live, serve
from tests.test_browser import FLAGS, KEEP_PEERS, PRESENTER, until
from ttsreal import TTS, BaseTTS, VoiceSettings

MODELS = Path(__file__).parent.parent / "models"
LISTENS, SPEAKS = (MODELS / "whisper-base" / "model.bin").is_file(), (MODELS / "kokoro" / "kokoro.onnx").is_file()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed"),
    pytest.mark.skipif(not LISTENS, reason="models/whisper-base is not here: scripts/fetch_models.py whisper-base"),
]

KEEP_NEWS = """
window.news = [];
const open = RTCPeerConnection.prototype.createDataChannel;
RTCPeerConnection.prototype.createDataChannel = function (...args) {
  const channel = open.apply(this, args);
  channel.addEventListener('message', ({ data }) => window.news.push(JSON.parse(data)));
  return channel;
};
"""
HEARD = """
async () => [...(await window.peers.at(-1).getStats()).values()]
  .filter(({ type, kind }) => type === 'inbound-rtp' && kind === 'audio')
  .reduce((sum, { totalAudioEnergy }) => sum + totalAudioEnergy, 0)
"""


@dataclass(frozen=True)
class Talk:
    """Who speaks, what is said, and a word that the answer to the second question has."""

    engine: str
    voice: str
    first: str
    second: str
    answer: str


TALKS = {
    "en": Talk("hibari", "", "Hello, who are you?", "Stop. What is twelve times three?", "36"),
    "zh": Talk("kokoro", "zf_xiaoxiao", "你好，你是谁呀？", "等一下。现在几点了？", "现在是"),
}


async def say(engine: BaseTTS, text: str, voice: str) -> Pcm:
    return np.concatenate([piece.pcm async for piece in engine.stream(text, Voice(voice))])


async def record(path: Path, talk: Talk) -> None:
    """The WAV of a microphone: the first question, and the second over the answer to it."""
    engine: BaseTTS = TTS.load(talk.engine)(VoiceSettings(models=MODELS, timeout_s=120))
    first, second = [await say(engine, text, talk.voice) for text in (talk.first, talk.second)]
    await engine.aclose()
    pause = np.zeros(SAMPLE_RATE, np.float32)
    sound = np.concatenate([pause, pause, first, *[pause] * 4, second, *[pause] * 30])
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(to_int16(0.7 * sound / np.abs(sound).max()).tobytes())


@asynccontextmanager
async def talking(live: Live, microphone: Path) -> AsyncIterator[Page]:
    """The dashboard with `microphone` in front of it, hands-free."""
    capture = [f"--use-file-for-fake-audio-capture={microphone}%noloop"]
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", *capture]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS + fake)
        context = await browser.new_context(viewport={"width": 1280, "height": 860}, locale="en-US")
        await context.grant_permissions(["microphone"])
        page = await context.new_page()
        await page.add_init_script(KEEP_PEERS + KEEP_NEWS)
        await page.goto(live.url + "/")
        await page.click("#start")
        await until(page, "document.body.dataset.state === 'live'", 30)
        await page.click("#talk")
        yield page
        await browser.close()


async def news(page: Page, kind: str, count: int, within_s: float = 60) -> list[dict[str, Any]]:
    """The first `count` events of `kind`."""
    await until(page, f"window.news.filter(({{ event }}) => event === '{kind}').length >= {count}", within_s)
    found: list[dict[str, Any]] = await page.evaluate("(kind) => news.filter(({ event }) => event === kind)", kind)
    return found[:count]


@pytest.mark.parametrize("language", TALKS)
async def test_someone_talks_with_the_presenter_and_interrupts_it(language: str, tmp_path: Path) -> None:
    if language == "zh" and not SPEAKS:
        pytest.skip("models/kokoro is not here: scripts/fetch_models.py kokoro")
    talk, microphone = TALKS[language], tmp_path / "microphone.wav"
    await record(microphone, talk)
    await asyncio.to_thread(shutil.copytree, PRESENTER, tmp_path / "avatars" / "presenter")
    wishes = {"avatar_id": "presenter", "model": "still", "llm": "rules", "asr": "whisper", "models_dir": MODELS}
    async with (
        serve(tmp_path, tts=talk.engine, REF_FILE=talk.voice, **wishes) as live,
        talking(live, microphone) as page,
    ):
        (first,) = await news(page, "user-turn", 1)
        await news(page, "speak-start", 1)
        (interrupted,) = await news(page, "interrupted", 1)
        second = (await news(page, "user-turn", 2))[1]
        await news(page, "speak-end", 2)
        latencies = await news(page, "latency", 2)
        errors = {
            name: rate(text, turn["text"])
            for name, text, turn in zip("12", (talk.first, talk.second), (first, second), strict=False)
        }
        print(
            json.dumps(
                {
                    "heard": [first["text"], second["text"]],
                    "errors": errors,
                    "latency": latencies,
                    "interrupted": interrupted,
                },
                ensure_ascii=False,
            )
        )
        await page.screenshot(path=tmp_path / "conversation.png")
        assert max(errors.values()) < 0.5
        assert await page.evaluate(HEARD) > 0
        said = [event["text"] for event in await page.evaluate("news.filter(({ event }) => event === 'sentence')")]
        assert any(talk.answer in sentence for sentence in said[1:])
        shown = await page.inner_text("#messages")
        assert first["text"] in shown and second["text"] in shown


def rate(said: str, heard: str) -> float:
    """Wrong letters in `heard` over letters in `said`; signs and cases do not count."""
    a, b = (re.findall(r"\w", text.lower()) for text in (said, heard))
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1] / len(a)
