"""What the vendors' speech engines share: keys from the environment, and a WebSocket for each sentence."""

from __future__ import annotations

import os
import re
import struct
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp
from aiohttp import WSMsgType

from core.errors import EngineFailed
from core.media import Voice
from tts.http import HttpTTS, clear_errors, refusal
from tts.sound import WordTimes
from ttsreal import PcmStream, Speech, Word, speed

_REFUSED = re.compile(r"auth|api_?key|access_?denied", re.IGNORECASE)
_BUSY = re.compile(r"limit|throttl|quota|exhaust|busy", re.IGNORECASE)
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, struct.error)


class Keys:
    """Secrets as the environment holds them now. They do not show in `repr`."""

    def __init__(self, *names: str) -> None:
        self._values = {name: os.environ.get(name, "").strip() for name in names}

    def __getitem__(self, name: str) -> str:
        """The secret called `name`. EngineFailed if it was not set, or cannot be sent."""
        value = self._values[name]
        if not value or not value.isprintable():
            raise EngineFailed(f"the voice needs a key: set {name} in the environment")
        return value


class Request(NamedTuple):
    """What is sent to have a sentence said: an address, headers of the handshake, and the first messages."""

    url: str
    headers: Mapping[str, str]
    messages: tuple[str | bytes, ...]


class Heard(NamedTuple):
    """What one message brings: int16 samples, words whose time is now known, and whether the sentence ends with it."""

    sound: bytes = b""
    words: tuple[Word, ...] = ()
    last: bool = False


class WebSocketTTS(HttpTTS):
    """An engine that says each sentence over a WebSocket of its own."""

    rate_hz = 16_000
    knows_words = False  # whether what is heard brings words; else they are estimated

    @abstractmethod
    def ask(self, text: str, voice: Voice) -> Request:
        """How the service is asked to say `text`."""

    @abstractmethod
    def read(self, message: str | bytes) -> Heard:
        """What a message brings. EngineFailed, or what parsing raises, if it cannot be used."""

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        sound, words, heard = PcmStream(self.rate_hz), WordTimes(text, speed(voice)), Heard()
        async with self._asked(self.ask(text, voice)) as socket:
            while not heard.last:
                heard = self._hear(await _receive(socket))
                pcm = sound.push_bytes(heard.sound)
                guessed = words.push(pcm)
                if len(pcm) or heard.words:
                    yield Speech(pcm, heard.words if self.knows_words else guessed)
        pcm = sound.finish()
        guessed = words.finish(pcm)
        yield Speech(pcm, () if self.knows_words else guessed)

    @asynccontextmanager
    async def _asked(self, request: Request) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """The line on which `request` was sent; leaving hangs up without waiting for the other side's goodbye."""
        timeout = aiohttp.ClientWSTimeout(ws_receive=self.settings.timeout_s, ws_close=0)
        with clear_errors():
            try:
                async with self.session().ws_connect(request.url, headers=request.headers, timeout=timeout) as socket:
                    for message in request.messages:
                        await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
                    yield socket
            except aiohttp.WSServerHandshakeError as error:
                raise EngineFailed(f"the speech server {refusal(error.status)}") from error

    def _hear(self, message: str | bytes) -> Heard:
        try:
            return self.read(message)
        except _UNREADABLE as error:
            raise EngineFailed("the speech server sent what its protocol does not know") from error


def failure(code: str) -> EngineFailed:
    """The error that a service means by `code`, in words for clients."""
    if _REFUSED.search(code):
        return EngineFailed("the speech server refused the key")
    if _BUSY.search(code):
        return EngineFailed("the speech server is overloaded")
    known = re.fullmatch(r"[\w.]{1,64}", code, re.ASCII)
    return EngineFailed(f"the speech server answered with error {code}" if known else "the speech server failed")


async def _receive(socket: aiohttp.ClientWebSocketResponse) -> str | bytes:
    """The next message. EngineFailed if there is none: a sentence is complete when the service says so."""
    message = await socket.receive()
    if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
        raise EngineFailed("the speech server broke off")
    data: str | bytes = message.data
    return data
