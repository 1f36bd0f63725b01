"""Edge: the voices with which a browser reads aloud, over the network, without a key.

The service is undocumented, so the `edge-tts` library alone knows its protocol; here is only what it leaves to others:
decoding while the sound arrives, and letting go at once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import av
import edge_tts
import edge_tts.constants
import numpy as np
from edge_tts.exceptions import EdgeTTSException

from core.errors import EngineFailed
from core.media import Pcm, Voice
from ttsreal import CJK, BaseTTS, PcmStream, Preset, Speech, Word, speed

CHINESE_VOICE = "zh-CN-XiaoxiaoNeural"
ENGLISH_VOICE = "en-US-AriaNeural"
PRESETS = (
    Preset("zh-CN-XiaoxiaoNeural", "晓晓 (Edge)", "zh"),
    Preset("zh-CN-YunxiNeural", "云希 (Edge)", "zh"),
    Preset("zh-CN-YunxiaNeural", "云夏 (Edge)", "zh"),
    Preset("en-US-AriaNeural", "Aria (Edge)", "en"),
    Preset("en-US-GuyNeural", "Guy (Edge)", "en"),
    Preset("en-GB-SoniaNeural", "Sonia (Edge)", "en"),
)
CONNECT_S = 3
RATE_HZ = 24_000
TICKS_PER_MS = 10_000  # the service counts in 100 ns

_VOICE = re.compile(r"[a-z]{2,3}-[A-Z]{2}-(?:[a-z]+-)?[A-Z][A-Za-z]*Neural")
_SILENCE: Pcm = np.empty(0, np.float32)
_FAILURES = (EdgeTTSException, aiohttp.ClientError, av.FFmpegError, OSError, LookupError, ValueError)


class EdgeTTS(BaseTTS):
    """`voice.name` if it is one of Edge's (`zh-CN-YunxiaNeural`), else the settings' voice, else one for the text."""

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        line = _Line()
        received: asyncio.Queue[Any] = asyncio.Queue()
        reader = asyncio.create_task(_read(self._ask(text, voice, line), received))
        decoder = _Mp3()
        try:
            while (message := await received.get()) is not None:
                yield _speech(message, decoder)
            await reader
            yield Speech(decoder.finish())
        except _FAILURES as error:
            raise EngineFailed("the Edge voice could not be reached") from error
        finally:
            await line.cut()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def presets(self) -> Sequence[Preset]:
        return PRESETS

    async def reachable(self) -> bool:
        """Whether the service's host answers at all, within CONNECT_S."""
        host = urlsplit(edge_tts.constants.WSS_URL)
        url = f"{host.scheme.replace('ws', 'http')}://{host.netloc}/"
        timeout = aiohttp.ClientTimeout(total=CONNECT_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session, session.head(url):
                return True
        except (aiohttp.ClientError, OSError):
            return False

    def _ask(self, text: str, voice: Voice, line: aiohttp.TCPConnector) -> edge_tts.Communicate:
        named = (name for name in (voice.name, self.settings.default_voice) if _VOICE.fullmatch(name))
        return edge_tts.Communicate(
            text,
            next(named, CHINESE_VOICE if CJK.search(text) else ENGLISH_VOICE),
            rate=f"{round(100 * speed(voice)) - 100:+d}%",
            boundary="WordBoundary",
            connector=line,
            connect_timeout=CONNECT_S,
        )


class _Line(aiohttp.TCPConnector):
    """A connector that outlives the sessions which the library opens on it, one per attempt.

    Cutting it ends them without waiting for the server's goodbye.
    """

    async def close(self, *, abort_ssl: bool = False) -> None:
        return

    async def cut(self) -> None:
        await super().close(abort_ssl=True)


async def _read(request: edge_tts.Communicate, received: asyncio.Queue[Any]) -> None:
    """Pass on what the service sends, then None. It waits for nothing else, so cancelling it ends the request."""
    try:
        async for message in request.stream():
            received.put_nowait(message)
        if request.state.get("chunk_audio_bytes"):  # the library takes a cut line for the end, but does not count it
            raise ConnectionResetError
    finally:
        received.put_nowait(None)


def _speech(message: Any, decoder: _Mp3) -> Speech:
    if message["type"] == "audio":
        return Speech(decoder.push(message["data"]))
    word = Word(message["text"], int(message["offset"]) // TICKS_PER_MS, int(message["duration"]) // TICKS_PER_MS)
    return Speech(_SILENCE, (word,))


class _Mp3:
    """MP3 that arrives in pieces, as pcm."""

    def __init__(self) -> None:
        self._codec = av.AudioCodecContext.create("mp3", "r")
        self._pcm = PcmStream(RATE_HZ)

    def push(self, data: bytes) -> Pcm:
        return self._decode(*self._codec.parse(data))

    def finish(self) -> Pcm:
        return np.concatenate([self._decode(*self._codec.parse(b""), None), self._pcm.finish()])

    def _decode(self, *packets: av.Packet[Any] | None) -> Pcm:
        decoded = [_SILENCE]
        for packet in packets:
            with suppress(av.error.InvalidDataError):  # a tag between frames
                decoded += [self._pcm.push(frame.to_ndarray()[0]) for frame in self._codec.decode(packet)]
        return np.concatenate(decoded)
