"""Speech servers on loopback, each as its project documents it. Every sentence is DURATION_MS of a 220 Hz tone."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import wave
from typing import Any, Literal, Self
from urllib.parse import parse_qsl

import numpy as np
from aiohttp import BodyPartReader, web
from aiohttp.test_utils import TestServer

from tests.fakes.edge_server import tone_mp3

DURATION_MS = 900
GPT_SOVITS_LANGUAGES = {"auto", "auto_yue", "en", "zh", "ja", "yue", "ko", "all_zh", "all_ja", "all_yue", "all_ko"}
XTTS_LANGUAGES = {
    "ar",
    "cs",
    "de",
    "en",
    "es",
    "fr",
    "hi",
    "hu",
    "it",
    "ja",
    "ko",
    "nl",
    "pl",
    "pt",
    "ru",
    "tr",
    "zh-cn",
}
SPEAKERS = {"中文女", "英文男"}
LATENT = [[0.25] * 8] * 4
EMBEDDING = [0.5] * 16

Fault = Literal[
    "", "slow", "mute", "stalls", "waits", "drops", "gone", "empty", "html", "json", "401", "403", "429", "500"
]


class SpeechServer:
    """`fault`: what is wrong, always or from the middle of the sound on; a number is a status.

    "waits" goes on once `heard` is set. `key`, if any, has to come with every request. `piece` bytes go out at a time.
    """

    def __init__(self, fault: Fault = "", *, key: str = "", piece: int = 4801) -> None:
        self.fault = fault
        self.key = key
        self.piece = piece
        self.asked: list[dict[str, Any]] = []
        self.clones = 0
        self.heard = asyncio.Event()
        self.left = asyncio.Event()  # a client went away before the end
        app = web.Application(middlewares=[self._guard])
        app.router.add_post("/tts", self._gpt_sovits)
        for path, needed in COSY_VOICE.items():
            app.router.add_get(f"/{path}", self._cosy_voice(needed), allow_head=False)
        app.router.add_post("/v1/tts", self._fish)
        app.router.add_post("/clone_speaker", self._clone_speaker)
        app.router.add_post("/tts_stream", self._xtts)
        app.router.add_post("/v1/audio/speech", self._openai)
        self._server = TestServer(app)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def port(self) -> int:
        assert self._server.port
        return self._server.port

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"detail": "Invalid token"}, status=401)
        response: web.StreamResponse = await handler(request)
        return response

    async def _gpt_sovits(self, request: web.Request) -> web.StreamResponse:
        asked = await self._json(request)
        for name in ("ref_audio_path", "text", "text_lang", "prompt_lang"):
            if not asked.get(name):
                return web.json_response({"message": f"{name} is required"}, status=400)
        known = {asked["text_lang"], asked["prompt_lang"]} <= GPT_SOVITS_LANGUAGES
        if not known or asked["media_type"] != "wav" or asked["streaming_mode"] is not True:
            return web.json_response({"message": "is not supported"}, status=400)
        return await self._say(request, 32_000, "audio/wav", header=wav_header(32_000))

    def _cosy_voice(self, needed: set[str]) -> Any:
        async def answer(request: web.Request) -> web.StreamResponse:
            asked = await _form(request)
            self.asked.append({"path": request.path, **asked})
            if any(not asked.get(name) for name in needed):
                return web.json_response({"detail": [{"type": "missing"}]}, status=422)
            if asked.get("spk_id", "中文女") not in SPEAKERS:
                return web.Response(text="Internal Server Error", status=500)
            return await self._say(request, 22_050 if "spk_id" in needed else 24_000)

        return answer

    async def _fish(self, request: web.Request) -> web.StreamResponse:
        asked = await self._json(request)
        try:
            for reference in asked.get("references", ()):
                assert len(reference["audio"]) > 255 and isinstance(reference["text"], str)
                reference["audio"] = base64.b64decode(reference["audio"], validate=True)
        except (AssertionError, LookupError, binascii.Error):
            return web.json_response({"detail": "not a reference"}, status=422)
        if not asked.get("streaming") or asked.get("format") != "wav":
            return web.json_response({"detail": "Streaming only supports WAV format"}, status=400)
        return await self._say(request, 44_100, "audio/wav", header=wav_header(44_100))

    async def _clone_speaker(self, request: web.Request) -> web.StreamResponse:
        sound = (await _form(request))["wav_file"]
        assert sound.startswith(b"RIFF")
        self.clones += 1
        return web.json_response({"gpt_cond_latent": LATENT, "speaker_embedding": EMBEDDING})

    async def _xtts(self, request: web.Request) -> web.StreamResponse:
        asked = await self._json(request)
        whole = asked["gpt_cond_latent"] == LATENT and asked["speaker_embedding"] == EMBEDDING and asked["text"]
        if not whole or asked["language"] not in XTTS_LANGUAGES or not isinstance(asked["stream_chunk_size"], str):
            return web.json_response({"detail": [{"type": "missing"}]}, status=422)
        return await self._say(request, 24_000, "audio/wav", header=wav_header(24_000))

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        asked = await self._json(request)
        if not asked.get("input") or asked.get("response_format") != "pcm":
            return web.json_response({"error": {"message": "secret words of the server"}}, status=400)
        if asked.get("voice") == "only-mp3":
            return web.Response(body=tone_mp3(DURATION_MS), content_type="audio/mpeg")
        if asked.get("voice") == "only-wav":
            return web.Response(body=wav_header(16_000) + tone(16_000), content_type="audio/wav")
        return await self._say(request, 24_000, "audio/pcm")

    async def _json(self, request: web.Request) -> dict[str, Any]:
        asked: dict[str, Any] = await request.json()
        self.asked.append(asked)
        return asked

    async def _say(self, request: web.Request, rate_hz: int, kind: str = "", header: bytes = b"") -> web.StreamResponse:
        if self.fault in {"", "slow", "stalls", "waits", "drops", "gone", "mute"}:
            return await self._stream(request, header + tone(rate_hz), kind)
        if self.fault == "html":
            return web.Response(text="<html>secret words of the server</html>", content_type="text/html")
        if self.fault.isdecimal():
            return web.json_response({"message": "secret words of the server"}, status=int(self.fault))
        if self.fault == "json":
            return web.json_response({"message": "secret words of the server"})
        return web.Response(body=b"", content_type=kind or "application/octet-stream")

    async def _stream(self, request: web.Request, sound: bytes, kind: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": kind} if kind else {})
        try:
            if self.fault == "mute":
                await asyncio.Event().wait()
            if self.fault == "gone":
                _abort(request)
            await response.prepare(request)
            if self.fault == "slow":
                await asyncio.sleep(0.2)
            for at in range(0, len(sound), self.piece):
                if at > len(sound) // 3:
                    await self._falter(request)
                await response.write(sound[at : at + self.piece])
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        return response

    async def _falter(self, request: web.Request) -> None:
        if self.fault == "waits":
            await self.heard.wait()
        if self.fault == "stalls":
            await asyncio.Event().wait()
        if self.fault == "drops":
            _abort(request)


COSY_VOICE = {
    "inference_sft": {"tts_text", "spk_id"},
    "inference_zero_shot": {"tts_text", "prompt_text", "prompt_wav"},
    "inference_cross_lingual": {"tts_text", "prompt_wav"},
    "inference_instruct": {"tts_text", "spk_id", "instruct_text"},
    "inference_instruct2": {"tts_text", "instruct_text", "prompt_wav"},
}


def _abort(request: web.Request) -> None:
    assert request.transport
    request.transport.abort()


async def _form(request: web.Request) -> dict[str, Any]:
    """Its fields, of either kind of form, whatever the method: text as str, files as bytes."""
    if request.content_type == "multipart/form-data":
        fields = {}
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader) and part.name
            fields[part.name] = bytes(await part.read()) if part.filename else await part.text()
        return fields
    return dict(parse_qsl(await request.text()))


def wav_header(rate_hz: int, *, channels: int = 1, width: int = 2) -> bytes:
    """The header of a WAV file that holds nothing yet, as streaming servers send it."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((channels, width, rate_hz, 0, "NONE", ""))
        sound.writeframes(b"")
    return file.getvalue()


def tone(rate_hz: int) -> bytes:
    """DURATION_MS of 220 Hz, int16."""
    time = np.arange(rate_hz * DURATION_MS // 1000) / rate_hz
    samples: bytes = (16_000 * np.sin(2 * np.pi * 220 * time)).astype("<i2").tobytes()
    return samples
