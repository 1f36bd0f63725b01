"""`/api/asr` and `POST /asr`: what clients send, however it comes cut, and what they get when something is wrong."""

from __future__ import annotations

import asyncio
import io
import json
import wave
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import numpy as np
import pytest
import soundfile
from aiohttp import ClientWebSocketResponse, FormData, WSMsgType, web
from aiohttp.test_utils import TestClient, TestServer

import asr.api
from asr.api import API, DICTATION, MAX_SECONDS, WINDOW_SAMPLES, Agreed, Dictation, windows
from asrreal import BaseASR, Transcript
from core.errors import EngineFailed
from core.media import SAMPLE_RATE, Pcm

SECOND = b"\x10\x20" * SAMPLE_RATE
START = {"chunk_size": [5, 10, 5], "wav_name": "h5", "is_speaking": True, "chunk_interval": 10, "itn": False}
STOP = {"is_speaking": False, "chunk_size": [5, 10, 5], "chunk_interval": 10, "wav_name": "h5"}

Client = TestClient[web.Request, web.Application]


class Ears(BaseASR):
    """Hears by `hears`; while `deaf` it fails, and while `held` it keeps everybody waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.hears: Callable[[Pcm], str] = lambda pcm: f"{len(pcm)}"
        self.sounds: list[Pcm] = []
        self.deaf = False
        self.held = asyncio.Event()
        self.held.set()
        self.given_up = 0

    async def transcribe(self, pcm: Pcm) -> Transcript:
        self.sounds.append(pcm)
        try:
            await self.held.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.deaf:
            raise EngineFailed("there are no ears")
        return Transcript(self.hears(pcm))


@pytest.fixture
def ears() -> Ears:
    return Ears()


@pytest.fixture
async def client(ears: Ears) -> AsyncIterator[Client]:
    with ThreadPoolExecutor(1) as pool:
        app = web.Application()
        app[DICTATION] = Dictation(ears, pool)
        for handler, operation in API:
            app.router.add_route(operation.method, operation.path, handler)
        async with TestClient(TestServer(app)) as client:
            yield client


@pytest.fixture
async def socket(client: Client) -> AsyncIterator[ClientWebSocketResponse]:
    async with client.ws_connect("/api/asr") as socket:
        yield socket


async def dictate(socket: ClientWebSocketResponse, *sounds: bytes, **wish: Any) -> dict[str, Any]:
    await socket.send_json({**START, "mode": "offline", **wish})
    for sound in sounds:
        await socket.send_bytes(sound)
    await socket.send_json(STOP)
    return await told(socket)


async def told(socket: ClientWebSocketResponse) -> dict[str, Any]:
    answer: dict[str, Any] = await socket.receive_json(timeout=10)
    return answer


# The socket


@pytest.mark.parametrize(
    ("mode", "answered"), [("2pass", "2pass-offline"), ("offline", "offline"), ("online", "online")]
)
async def test_the_answer_is_what_the_contract_says(socket: ClientWebSocketResponse, mode: str, answered: str) -> None:
    answer = await dictate(socket, SECOND[:9600], mode=mode, hotwords="{}")
    assert answer == {"text": "4800", "mode": answered, "wav_name": "h5", "is_final": True, "timestamp": None}


@pytest.mark.parametrize("cut_bytes", [1, 641, 1920, 32_000])
async def test_cuts_do_not_change_what_is_heard(socket: ClientWebSocketResponse, ears: Ears, cut_bytes: int) -> None:
    sound = np.arange(960, dtype="<i2").tobytes()
    await dictate(socket, *(sound[at : at + cut_bytes] for at in range(0, len(sound), cut_bytes)))
    assert np.array_equal(ears.sounds[-1] * 32768, np.arange(960))


async def test_half_a_sample_at_the_end_is_dropped(socket: ClientWebSocketResponse) -> None:
    assert (await dictate(socket, SECOND[:1001]))["text"] == "500"


@pytest.mark.parametrize("size", [0, 1, 639])
async def test_less_than_640_bytes_are_nothing(socket: ClientWebSocketResponse, ears: Ears, size: int) -> None:
    answer = await dictate(socket, SECOND[:size])
    assert answer["text"] == "" and answer["is_final"] and not ears.sounds


async def test_utterances_follow_each_other_on_one_socket(socket: ClientWebSocketResponse) -> None:
    lengths = [(await dictate(socket, SECOND[:size]))["text"] for size in (640, 6400, 64, 3200)]
    assert lengths == ["320", "3200", "", "1600"]


async def test_what_a_client_wished_holds_for_its_next_utterance(socket: ClientWebSocketResponse) -> None:
    await dictate(socket, SECOND, mode="online")
    await socket.send_bytes(SECOND)
    await socket.send_json({"is_speaking": False})
    assert (await told(socket))["mode"] == "online"


async def test_sound_of_another_rate_is_resampled(socket: ClientWebSocketResponse) -> None:
    assert (await dictate(socket, SECOND, audio_fs=8000))["text"] == str(2 * SAMPLE_RATE)


@pytest.mark.parametrize(
    "garbage",
    ["", "{", "[]", "null", '"2pass"', '{"mode": "3pass"}', '{"audio_fs": 0}', '{"wav_format": "mp3"}', "[" * 9999],
)
async def test_garbage_is_answered_and_survived(socket: ClientWebSocketResponse, garbage: str) -> None:
    await socket.send_str(garbage)
    answer = await told(socket)
    assert answer["error"] and answer["text"] == "" and not answer["is_final"]
    assert (await dictate(socket, SECOND))["text"] == str(SAMPLE_RATE)


async def test_a_deaf_engine_is_said_and_survived(socket: ClientWebSocketResponse, ears: Ears) -> None:
    ears.deaf = True
    answer = await dictate(socket, SECOND)
    assert answer["error"] == "there are no ears" and answer["text"] == "" and answer["is_final"]
    ears.deaf = False
    assert "error" not in await dictate(socket, SECOND)


async def test_sound_without_end_is_refused_and_the_socket_closed(
    socket: ClientWebSocketResponse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asr.api, "MAX_SECONDS", 2)
    await socket.send_json({**START, "mode": "offline"})
    for _ in range(3):
        await socket.send_bytes(SECOND)
    assert (await told(socket))["error"] == "more than 2 s without is_speaking: false"
    closed = await socket.receive(timeout=10)
    assert closed.type is WSMsgType.CLOSE and closed.data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG


async def test_long_sound_is_heard_in_windows(socket: ClientWebSocketResponse, ears: Ears) -> None:
    ears.hears = lambda pcm: "好。"
    answer = await dictate(socket, *[SECOND] * 70)
    assert answer["text"] == "好。" * len(ears.sounds)
    assert sum(map(len, ears.sounds)) == 70 * SAMPLE_RATE and max(map(len, ears.sounds)) <= WINDOW_SAMPLES


async def test_pieces_come_while_the_sound_does(
    socket: ClientWebSocketResponse, ears: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asr.api, "PIECE_S", 0.0)
    texts = iter(["今天", "今天天", "今天天气。", "今天，天气好。"])
    ears.hears = lambda pcm: next(texts)
    await socket.send_json({**START, "mode": "2pass"})
    pieces = []
    for count in (1, 2, 3):
        await socket.send_bytes(SECOND)
        while len(ears.sounds) < count:
            await asyncio.sleep(0.001)
        if count > 1:
            pieces.append(await told(socket))
    assert [(piece["text"], piece["mode"], piece["is_final"]) for piece in pieces] == [
        ("今天", "2pass-online", False),
        ("天", "2pass-online", False),
    ]
    await socket.send_json(STOP)
    assert (await told(socket))["text"] == "今天，天气好。"


async def test_the_pieces_of_an_online_client_add_up_to_the_text(
    socket: ClientWebSocketResponse, ears: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asr.api, "PIECE_S", 0.0)
    texts = iter(["It is.", "It is a fine", "It is a fine day."])
    ears.hears = lambda pcm: next(texts)
    await socket.send_json({**START, "mode": "online"})
    for count in (1, 2):
        await socket.send_bytes(SECOND)
        while len(ears.sounds) < count:
            await asyncio.sleep(0.001)
    first = await told(socket)
    await socket.send_json(STOP)
    last = await told(socket)
    assert first["text"] + last["text"] == "It is a fine day." and last["is_final"] and last["mode"] == "online"


async def test_pieces_are_looked_for_at_a_bounded_rate(socket: ClientWebSocketResponse, ears: Ears) -> None:
    await dictate(socket, *[SECOND[:640]] * 500, mode="2pass")
    assert len(ears.sounds) <= 2  # one look, for the client has not taken 0.8 s to send this, and the answer


async def test_an_offline_client_gets_no_pieces(
    socket: ClientWebSocketResponse, ears: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asr.api, "PIECE_S", 0.0)
    await dictate(socket, SECOND, SECOND, mode="offline")
    assert len(ears.sounds) == 1


async def test_the_end_of_the_utterance_gives_up_a_piece(socket: ClientWebSocketResponse, ears: Ears) -> None:
    ears.held.clear()
    await socket.send_json({**START, "mode": "2pass"})
    await socket.send_bytes(SECOND)
    while not ears.sounds:
        await asyncio.sleep(0.001)
    await socket.send_json(STOP)
    while len(ears.sounds) < 2:
        await asyncio.sleep(0.001)
    assert ears.given_up == 1
    ears.held.set()
    assert (await told(socket))["is_final"]


async def test_who_leaves_is_forgotten(client: Client, ears: Ears) -> None:
    ears.held.clear()
    async with client.ws_connect("/api/asr") as socket:
        await socket.send_json({**START, "mode": "2pass"})
        await socket.send_bytes(SECOND)
        while not ears.sounds:
            await asyncio.sleep(0.001)
    async with asyncio.timeout(5):
        while not ears.given_up:
            await asyncio.sleep(0.001)


async def test_a_browser_may_ask_for_the_protocol_of_funasr(client: Client) -> None:
    async with client.ws_connect("/api/asr", protocols=("binary",)) as socket:
        assert socket.protocol == "binary"


async def test_open_sockets_do_not_hold_up_the_end(client: Client, socket: ClientWebSocketResponse) -> None:
    assert client.app
    closing = asyncio.create_task(client.app[DICTATION].aclose())
    assert (await socket.receive(timeout=10)).data == aiohttp.WSCloseCode.GOING_AWAY
    await closing


async def test_a_plain_request_is_no_socket(client: Client) -> None:
    assert (await client.get("/api/asr")).status == 400


# What two looks agree on


def test_a_word_is_told_when_two_looks_agree_and_never_twice() -> None:
    agreed = Agreed()
    looks = ["Hello wor", "Hello, world", "hello, world. How", "Hello, world. How are"]
    assert [agreed.push(look) for look in looks] == ["", "Hello", ", world", ". How"]
    assert agreed.rest("Hello, world. How are you?") == " are you?"


def test_a_look_that_takes_words_back_tells_nothing() -> None:
    agreed = Agreed()
    assert [agreed.push(look) for look in ("我要去", "我要去北京", "我药", "我要去北京看")] == ["", "我要去", "", ""]
    assert agreed.rest("我要去北京看你。") == "北京看你。"


def test_nothing_is_left_of_a_text_that_is_shorter_than_what_was_told() -> None:
    agreed = Agreed()
    agreed.push("one two three")
    assert agreed.push("one two three") == "one two three" and agreed.rest("one") == ""


# Windows


def test_windows_are_cut_where_it_is_quiet() -> None:
    pcm = np.full(70 * SAMPLE_RATE, 0.5, np.float32)
    pcm[25 * SAMPLE_RATE : 26 * SAMPLE_RATE] = 0
    first, *others = windows(pcm)
    assert 25 * SAMPLE_RATE < len(first) < 26 * SAMPLE_RATE
    assert np.array_equal(np.concatenate([first, *others]), pcm)


def test_what_fits_is_one_window() -> None:
    assert [len(window) for window in windows(np.zeros(WINDOW_SAMPLES, np.float32))] == [WINDOW_SAMPLES]
    assert [len(window) for window in windows(np.zeros(0, np.float32))] == [0]


# The file


def wav(rate_hz: int = SAMPLE_RATE, channels: int = 1, *, seconds: float = 1.0, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    samples = np.tile(np.sin(np.arange(int(seconds * rate_hz)) / 20)[:, None], (1, channels))
    soundfile.write(file, samples, rate_hz, subtype, format="WAV")
    return file.getvalue()


async def post(client: Client, file: bytes, field: str = "file") -> tuple[int, dict[str, Any]]:
    form = FormData()
    form.add_field(field, io.BytesIO(file), filename="speech.wav", content_type="audio/wav")
    async with client.post("/asr", data=form) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize(("channels", "subtype"), [(1, "PCM_16"), (2, "PCM_24"), (1, "PCM_U8"), (6, "FLOAT")])
async def test_a_wav_of_any_kind_is_heard(
    client: Client, ears: Ears, rate_hz: int, channels: int, subtype: str
) -> None:
    status, answer = await post(client, wav(rate_hz, channels, subtype=subtype))
    assert status == 200 and set(answer) == {"text"} and abs(int(answer["text"]) - SAMPLE_RATE) <= 1
    assert 0.5 < np.abs(ears.sounds[-1]).max() <= 1


async def test_chunks_before_the_sound_are_no_sound(client: Client) -> None:
    plain = wav()
    extra = b"LIST" + (1000).to_bytes(4, "little") + bytes(1000)
    status, answer = await post(client, plain[:36] + extra + plain[36:])
    assert (status, answer) == (200, {"text": str(SAMPLE_RATE)})


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"RIFF", id="less than a header"),
        pytest.param(wav()[:44], id="a header alone"),
        pytest.param(wav()[:-1], id="half a sample"),
        pytest.param(b"\0" * 5000, id="zeros"),
        pytest.param(b"<html>" * 100, id="a page"),
        pytest.param(wav(seconds=MAX_SECONDS + 1), id="too long"),
    ],
)
async def test_what_is_no_sound_is_a_bad_request(client: Client, ears: Ears, file: bytes) -> None:
    status, answer = await post(client, file)
    assert status == 400 and set(answer) == {"error"} and answer["error"] and not ears.sounds


async def test_a_form_without_the_field_is_a_bad_request(client: Client) -> None:
    assert (await post(client, wav(), field="audio")) == (400, {"error": "file: a WAV file is required"})


async def test_what_is_no_form_is_a_bad_request(client: Client) -> None:
    async with client.post("/asr", data=json.dumps({"file": "x"})) as response:
        assert response.status == 400 and set(await response.json()) == {"error"}


async def test_too_large_a_file_is_refused_as_such(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asr.api, "MAX_FILE", 1000)
    status, answer = await post(client, wav())
    assert status == 413 and set(answer) == {"error"}


async def test_a_deaf_engine_is_a_server_error_without_details(client: Client, ears: Ears) -> None:
    ears.deaf = True
    assert await post(client, wav()) == (500, {"error": "Internal server error during transcription"})


async def test_a_wav_of_the_standard_library_is_heard(client: Client) -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        writer.writeframes(SECOND)
    assert await post(client, file.getvalue()) == (200, {"text": str(SAMPLE_RATE)})
