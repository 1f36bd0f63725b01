"""A read-aloud service on loopback that speaks the protocol of Edge's: every word is 300 ms of a 220 Hz tone."""

from __future__ import annotations

import asyncio
import html
import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal, Self

import av
import edge_tts.communicate
import edge_tts.constants
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

WORD_MS = 300
RATE_HZ = 24_000

Fault = Literal["", "refuses", "mute", "stalls", "drops"]


@dataclass(frozen=True)
class Asked:
    voice: str
    rate: str
    text: str


class EdgeServer:
    """`fault`: refuses (403), mute (no audio), stalls or drops (after a third of the audio)."""

    def __init__(self, fault: Fault = "") -> None:
        self.fault = fault
        self.asked: list[Asked] = []
        self.config = ""
        self.left = asyncio.Event()  # a client went away before the end
        app = web.Application()
        app.router.add_get("/edge/v1", self._speak)
        self._server = TestServer(app)

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the library talk to this server."""
        url = f"ws://127.0.0.1:{self._server.port}/edge/v1?TrustedClientToken=x"
        monkeypatch.setattr(edge_tts.communicate, "WSS_URL", url)
        monkeypatch.setattr(edge_tts.constants, "WSS_URL", url)

    async def _speak(self, request: web.Request) -> web.StreamResponse:
        if self.fault == "refuses":
            raise web.HTTPForbidden
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        self.config = await ws.receive_str()
        words = self._ask(await ws.receive_str()).text.split()
        await ws.send_str(_text("turn.start", {"context": {"serviceTag": "x"}}))
        await ws.send_str(_text("response", {"context": {"serviceTag": "x"}, "audio": {"type": "inline"}}))
        for index, word in enumerate(words):
            await ws.send_str(_text("audio.metadata", _boundary(index, word)))
        if self.fault != "mute":
            await self._send_audio(request, ws, tone_mp3(len(words) * WORD_MS))
            await ws.send_bytes(_binary(b"", with_type=False))
        await ws.send_str(_text("turn.end", {}))
        return ws

    def _ask(self, message: str) -> Asked:
        voice = re.search(r"<voice name='(.*?)'>", message)
        prosody = re.search(r"rate='(.*?)'[^>]*>(.*)</prosody>", message, re.DOTALL)
        assert voice and prosody
        self.asked.append(Asked(voice[1], prosody[1], html.unescape(prosody[2])))
        return self.asked[-1]

    async def _send_audio(self, request: web.Request, ws: web.WebSocketResponse, mp3: bytes) -> None:
        for at in range(0, len(mp3), 720):
            if self.fault and at > len(mp3) // 3:
                await self._break_off(request)
            await ws.send_bytes(_binary(mp3[at : at + 720], with_type=True))

    async def _break_off(self, request: web.Request) -> None:
        if self.fault == "stalls":
            try:
                await asyncio.Event().wait()
            finally:  # cancelled, for nobody listens any more
                self.left.set()
        assert request.transport
        request.transport.abort()
        await asyncio.sleep(0)
        raise ConnectionResetError


@cache
def tone_mp3(duration_ms: int) -> bytes:
    """48 kbit/s, 24 kHz mono, as the service sends it: bare frames, no tags."""
    time = np.arange(RATE_HZ * duration_ms // 1000) / RATE_HZ
    samples = (0.5 * np.sin(2 * np.pi * 220 * time) * 32767).astype(np.int16)
    codec = av.AudioCodecContext.create("libmp3lame", "w")
    codec.sample_rate, codec.layout, codec.format, codec.bit_rate = RATE_HZ, "mono", "s16p", 48_000
    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16p", layout="mono")
    frame.sample_rate = RATE_HZ
    fifo = av.AudioFifo()
    fifo.write(frame)
    parts = fifo.read_many(576, partial=True)
    return b"".join(bytes(packet) for part in [*parts, None] for packet in codec.encode(part))


def _boundary(index: int, word: str) -> dict[str, object]:
    ticks = WORD_MS * 10_000
    data = {"Offset": index * ticks, "Duration": ticks, "text": {"Text": html.escape(word), "Length": len(word)}}
    return {"Metadata": [{"Type": "WordBoundary", "Data": data}]}


def _text(path: str, body: object) -> str:
    return f"X-RequestId:0\r\nContent-Type:application/json; charset=utf-8\r\nPath:{path}\r\n\r\n{json.dumps(body)}"


def _binary(data: bytes, *, with_type: bool) -> bytes:
    kind = b"Content-Type:audio/mpeg\r\n" if with_type else b""
    header = b"X-RequestId:0\r\n" + kind + b"X-StreamId:0\r\nPath:audio\r\n"
    return len(header).to_bytes(2, "big") + header + data
