"""The FunASR client: every server's way of ending, clear errors, and nothing kept when nobody waits any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import asr.funasr
from asr.api import API, DICTATION, Dictation
from asr.funasr import FunASR, joined
from asrreal import ASR, ASRSettings, BaseASR, Transcript
from core.audio import to_int16
from core.errors import EngineFailed
from core.media import SAMPLE_RATE, Pcm
from tests.fakes.funasr_server import Fault, FunASRServer, Kind

TWO = ("今天天气怎么样？", "明天呢？")
TONE: Pcm = (0.5 * np.sin(np.arange(2 * SAMPLE_RATE) / 10)).astype(np.float32)


@asynccontextmanager
async def client(url: str, **settings: Any) -> AsyncIterator[FunASR]:
    engine = FunASR(ASRSettings(server=url, **settings))
    try:
        yield engine
    finally:
        await engine.aclose()


async def heard(server: FunASRServer, pcm: Pcm = TONE, **settings: Any) -> Transcript:
    async with server, client(server.url, **settings) as engine:
        return await engine.transcribe(pcm)


def test_it_is_in_the_table() -> None:
    assert ASR.load("funasr") is FunASR


@pytest.mark.parametrize("kind", ["offline", "2pass", "python"])
async def test_every_kind_of_server_is_heard_to_its_end(kind: Kind) -> None:
    assert (await heard(FunASRServer(kind, TWO))).text == "今天天气怎么样？明天呢？"


@pytest.mark.parametrize("kind", ["offline", "2pass"])
async def test_nothing_said_is_an_empty_text(kind: Kind) -> None:
    assert await heard(FunASRServer(kind, ("",))) == Transcript("")


async def test_a_server_that_never_says_the_last_word_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asr.funasr, "QUIET_S", 0.05)
    assert (await heard(FunASRServer("python", ("你好。", "")))).text == "你好。"


async def test_the_sound_arrives_whole_as_the_protocol_wants_it() -> None:
    server = FunASRServer()
    await heard(server)
    assert server.sound == to_int16(TONE).tobytes() and server.messages == -(-2 * len(TONE) // 1920)
    assert server.config["mode"] == "offline" and server.config["audio_fs"] == SAMPLE_RATE
    assert server.config["wav_format"] == "pcm" and not server.config["is_speaking"]


async def test_what_is_not_a_number_is_sent_as_silence() -> None:
    server = FunASRServer()
    await heard(server, np.full(960, np.nan, np.float32))
    assert server.sound == bytes(1920)


async def test_tags_of_language_and_mood_are_not_text() -> None:
    assert (await heard(FunASRServer(said=("<|zh|><|NEUTRAL|><|Speech|><|withitn|>你好。",)))).text == "你好。"


async def test_the_language_is_the_settings() -> None:
    assert (await heard(FunASRServer(), language="zh")).language == "zh"


def test_pieces_are_joined_as_their_language_wants() -> None:
    assert joined(["你好。", "", "再见。"]) == "你好。再见。"
    assert joined(["Good morning.", "How are you?"]) == "Good morning. How are you?"
    assert joined(["Привет.", "Как дела?"]) == "Привет. Как дела?"
    assert joined(["你好。", "Hello."]) == "你好。Hello."


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("page", "does not speak FunASR's protocol"),
        ("refuses", "refused to listen"),
        ("overloaded", "is overloaded"),
        ("mute", "did not answer in time"),
        ("drops", "broke off"),
        ("garbage", "not of its protocol"),
        ("no text", "not of its protocol"),
        ("binary", "broke off"),
    ],
)
async def test_a_failing_server_is_a_clear_error(fault: Fault, message: str) -> None:
    with pytest.raises(EngineFailed, match=message) as failed:
        await heard(FunASRServer(fault=fault), timeout_s=0.5 if fault == "mute" else 10)
    assert "secret" not in str(failed.value) and "127.0.0.1" not in str(failed.value)


async def test_a_server_that_is_not_there_is_a_clear_error() -> None:
    async with client("ws://127.0.0.1:1") as engine:
        with pytest.raises(EngineFailed, match="could not be reached"):
            await engine.transcribe(TONE)


@pytest.mark.parametrize("address", ["", "http://127.0.0.1:10095", "127.0.0.1:10095", "ws://"])
async def test_an_address_that_is_none_is_refused_at_the_start(address: str) -> None:
    async with client(address) as engine:
        with pytest.raises(EngineFailed, match="must begin with ws:// or wss://"):
            await engine.start()


async def test_giving_up_hangs_up_at_once() -> None:
    async with FunASRServer(fault="mute") as server, client(server.url, timeout_s=60) as engine:
        asking = asyncio.create_task(engine.transcribe(TONE))
        while not server.config or server.config["is_speaking"]:
            await asyncio.sleep(0.001)
        asking.cancel()
        async with asyncio.timeout(5):
            await server.left.wait()
        with pytest.raises(asyncio.CancelledError):
            await asking


class Seconds(BaseASR):
    async def transcribe(self, pcm: Pcm) -> Transcript:
        return Transcript(f"{len(pcm) / SAMPLE_RATE:g} seconds")


class Deaf(BaseASR):
    async def transcribe(self, pcm: Pcm) -> Transcript:
        raise EngineFailed("no ears")


@asynccontextmanager
async def our_server(engine: BaseASR) -> AsyncIterator[str]:
    app = web.Application()
    app[DICTATION] = Dictation(engine, ThreadPoolExecutor(1))
    for handler, operation in API:
        app.router.add_route(operation.method, operation.path, handler)
    async with TestServer(app) as server:
        yield f"ws://127.0.0.1:{server.port}/api/asr"


async def test_our_own_server_is_understood() -> None:
    async with our_server(Seconds()) as url, client(url) as engine:
        answers = await asyncio.gather(*(engine.transcribe(TONE[: SAMPLE_RATE * n // 2]) for n in (1, 2, 4)))
    assert [answer.text for answer in answers] == ["0.5 seconds", "1 seconds", "2 seconds"]


async def test_a_failure_of_our_own_server_is_one() -> None:
    async with our_server(Deaf()) as url, client(url) as engine:
        with pytest.raises(EngineFailed, match="server failed"):
            await engine.transcribe(TONE)
