"""Talking with the presenter: a voice goes in over WebRTC, and it answers, stops, or goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from aiortc.sdp import SessionDescription

import asrreal
from asrreal import BaseASR, Transcript
from core.audio import decode_audio
from core.media import SAMPLE_RATE, Pcm
from tests.conftest import SHARED
from tests.fakes.live import Live, Peer, Voice, connected, serve
from tests.fakes.person import ScriptLLM

SPEECH = SHARED / "data" / "speech"
pytestmark = pytest.mark.skipif(not SPEECH.is_dir(), reason="../shared/data/speech is not here: nobody can speak")


class ScriptASR(BaseASR):
    """Understands `script` whatever is said."""

    script = "what time is it?"
    heard: ClassVar[list[float]] = []

    async def transcribe(self, pcm: Pcm) -> Transcript:
        self.heard.append(len(pcm) / SAMPLE_RATE)
        return Transcript(self.script, "en")


@pytest.fixture
async def listening(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Live]:
    monkeypatch.setitem(asrreal.ASR._table, "script", "tests.test_conversation:ScriptASR")
    monkeypatch.setattr(ScriptASR, "heard", [])
    monkeypatch.setattr(ScriptLLM, "script", ("This is a long answer that goes on and on. " * 3,))
    async with serve(data_dir, asr="script", tts="hibari") as live:
        yield live


def spoken(seconds: float) -> Pcm:
    """The first seconds of an utterance of the speech set, from its first loud sample on."""
    pcm = decode_audio(SPEECH / "0003.opus")
    start = int(np.flatnonzero(np.abs(pcm) > 0.05)[0])
    return pcm[start : start + round(seconds * SAMPLE_RATE)]


def events(peer: Peer, kind: str) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, peer.events) if event["event"] == kind]


async def until(peer: Peer, kind: str, count: int = 1, within_s: float = 15.0) -> dict[str, Any]:
    async with asyncio.timeout(within_s):
        while len(events(peer, kind)) < count:
            await asyncio.sleep(0.02)
    return events(peer, kind)[count - 1]


async def test_what_is_said_into_a_microphone_is_understood_and_answered_aloud(listening: Live) -> None:
    voice = Voice()
    async with connected(listening, microphone=voice) as peer:
        voice.say(spoken(2.0))
        turn = await until(peer, "user-turn")
        assert turn["text"] == ScriptASR.script and turn["language"] == "en"
        latency = await until(peer, "latency")
        assert 200 <= latency["endpointing_ms"] <= 2500
        assert latency["total_ms"] == sum(value for name, value in latency.items() if name in SHARES)
        await asyncio.sleep(0.5)
        assert max(rms for _, _, rms in peer.sounds[-20:]) > 0.1
        answer = await listening.http.get(f"{listening.url}/api/history?sessionid={peer.sessionid}")
        (question,) = [each for each in (await answer.json())["data"]["messages"] if each["role"] == "user"]
        assert question["content"] == ScriptASR.script
    assert 1.5 < max(ScriptASR.heard) < 3.5


SHARES = ("endpointing_ms", "asr_ms", "llm_ms", "tts_ms", "render_ms")


async def test_a_voice_interrupts_the_presenter_and_is_answered_in_turn(
    listening: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = Voice()
    async with connected(listening, microphone=voice) as peer:
        await listening.post("/human", sessionid=peer.sessionid, type="chat", text="tell me everything")
        await until(peer, "sentence")
        await asyncio.sleep(2.5)  # the canceller is warm by then
        monkeypatch.setattr(ScriptASR, "script", "no, tell me something else")
        voice.say(spoken(2.5))
        interrupted = await until(peer, "interrupted")
        assert interrupted["heard"] and len(interrupted["heard"]) < 120
        assert (await until(peer, "user-turn"))["text"] == "no, tell me something else"
        steps = [event["step"] for event in events(peer, "barge-in")]
        assert steps[-1] == "interrupt" and set(steps) <= {"duck", "hold", "interrupt"}
        await until(peer, "speak-start", 2)


async def test_silence_and_a_click_are_no_turn(listening: Live) -> None:
    voice = Voice()
    async with connected(listening, microphone=voice) as peer:
        click = np.zeros(SAMPLE_RATE, np.float32)
        click[4000:4080] = 0.9
        voice.say(click)
        await asyncio.sleep(2.5)
        assert not events(peer, "user-turn") and not events(peer, "barge-in")


async def test_a_server_that_does_not_listen_says_so_in_its_answer(data_dir: Path) -> None:
    async with serve(data_dir, asr="off") as live, connected(live, microphone=Voice()) as peer:
        (audio,) = [media for media in SessionDescription.parse(peer.answer).media if media.kind == "audio"]
        assert audio.direction == "sendonly"
        await live.post("/human", sessionid=peer.sessionid, type="echo", text="0123456789")
        await until(peer, "speak-end")
