"""Recognition over HTTP: FunASR's WebSocket protocol at `/api/asr`, and `POST /asr` as Open-LLM-VTuber has it.

A client of `/api/asr` sends JSON that says how, then int16 samples in messages of any size, then `is_speaking` false,
and gets the text; after that the next utterance may follow. In the modes `2pass` and `online` it gets pieces of text
while the sound arrives: each continues those before, none is taken back.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import suppress
from itertools import takewhile
from typing import Annotated, Any, Literal
from weakref import WeakSet

import numpy as np
import soxr
from aiohttp import WSCloseCode, WSMsgType, web
from loguru import logger
from pydantic import BaseModel, Field

from asr.funasr import joined
from asrreal import BaseASR
from body import read_form
from core.audio import decode_audio
from core.errors import BadMedia, BadRequest, EngineFailed
from core.media import SAMPLE_RATE, Pcm
from core.messages import Message, Whole, parse
from core.openapi import Operation

MAX_SECONDS = 300
MAX_FILE = 100 << 20
MIN_BYTES = 640  # 20 ms; less is nothing
WINDOW_S = 30
WINDOW_SAMPLES = WINDOW_S * SAMPLE_RATE
TAIL_SAMPLES = 10 * SAMPLE_RATE
BLOCK_SAMPLES = SAMPLE_RATE // 10
PIECE_S = 0.8  # pieces are looked for so often, in the client's time and in ours
HEARTBEAT_S = 30.0

_CJK = r"[\u3040-\u30ff\u3400-\u9fff]"
_UNIT = re.compile(rf"\W*(?:{_CJK}|(?:(?!{_CJK})[\w'’-])+)")  # a word or one hanzi, and what separates it from the last


class Dictate(Message):
    """What a client says between the sounds; what it leaves out stays as it was. Further fields change nothing."""

    mode: Literal["2pass", "online", "offline"] = "2pass"
    is_speaking: bool = True
    wav_name: Annotated[str, Field(max_length=200)] = ""
    wav_format: Literal["pcm", "PCM", ""] = "pcm"
    audio_fs: Annotated[Whole, Field(ge=8000, le=48_000)] = SAMPLE_RATE


class Dictated(BaseModel):
    """What the server sends over the socket; `error` only where something is wrong."""

    text: str
    mode: Literal["2pass-online", "2pass-offline", "online", "offline"]
    wav_name: str = ""
    is_final: bool
    timestamp: None = None
    error: str = ""


class Heard(BaseModel):
    text: str


class Dictation:
    """What the two routes share: the engine, a pool for decoding files, and the sockets that are open."""

    def __init__(self, asr: BaseASR, io: Executor) -> None:
        self.asr = asr
        self.io = io
        self.sockets: WeakSet[web.WebSocketResponse] = WeakSet()

    async def text(self, pcm: Pcm) -> str:
        """What is said in `pcm`, of any length. Raises EngineFailed."""
        return joined([(await self.asr.transcribe(window)).text for window in windows(pcm)])

    async def aclose(self) -> None:
        """Hang up: an open socket would hold up the end of the server."""
        for socket in list(self.sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY)


DICTATION = web.AppKey("dictation", Dictation)


async def listen(request: web.Request) -> web.WebSocketResponse:
    """GET /api/asr: one client's utterances, one after the other."""
    socket = web.WebSocketResponse(protocols=("binary",), heartbeat=HEARTBEAT_S)
    await socket.prepare(request)
    dictation = request.app[DICTATION]
    dictation.sockets.add(socket)
    line = _Line(dictation, socket)
    try:
        async for message in socket:
            await (line.take(message.data) if message.type is WSMsgType.BINARY else line.obey(message.data))
    finally:
        await line.look_away()
    return socket


class _Line:
    """One client: what it wishes, what it has sent of the present utterance, and what it was told of it."""

    def __init__(self, dictation: Dictation, socket: web.WebSocketResponse) -> None:
        self._dictation = dictation
        self._socket = socket
        self._wish = Dictate()
        self._begin()

    def _begin(self) -> None:
        self._sound = bytearray()
        self._agreed = Agreed()
        self._look: asyncio.Task[None] | None = None
        self._looked_bytes = 0
        self._looked_at = 0.0

    async def obey(self, text: str) -> None:
        """Change what the client wishes; answer what it has said if it is done."""
        try:
            wish = parse(Dictate, text.encode("utf-8", "replace"))
        except BadRequest as error:
            return await self._tell("", final=False, error=str(error))
        self._wish = self._wish.model_copy(update=wish.model_dump(exclude_unset=True))
        if not self._wish.is_speaking:
            await self._answer()
        return None

    async def take(self, data: bytes) -> None:
        """More sound. One that never ends is refused, and the socket closed."""
        self._sound += data
        if len(self._sound) > 2 * MAX_SECONDS * self._wish.audio_fs:
            reason = f"more than {MAX_SECONDS} s without is_speaking: false"
            await self._tell("", final=True, error=reason)
            await self._socket.close(code=WSCloseCode.MESSAGE_TOO_BIG, message=reason.encode())
        elif self._is_time():
            self._looked_bytes, self._looked_at = len(self._sound), asyncio.get_running_loop().time()
            self._look = asyncio.create_task(self._tell_piece())

    async def look_away(self) -> None:
        """Forget a piece that is being looked for."""
        if self._look:
            self._look.cancel()
            await asyncio.wait([self._look])

    def _is_time(self) -> bool:
        if self._wish.mode == "offline" or (self._look and not self._look.done()):
            return False
        second = 2 * self._wish.audio_fs
        early = asyncio.get_running_loop().time() - self._looked_at < PIECE_S
        new = len(self._sound) - self._looked_bytes >= PIECE_S * second
        return new and not early and len(self._sound) <= WINDOW_S * second

    async def _tell_piece(self) -> None:
        with suppress(EngineFailed):  # the answer will say it
            heard = await self._dictation.asr.transcribe(self._pcm())
            if piece := self._agreed.push(heard.text):
                await self._tell(piece, final=False)

    async def _answer(self) -> None:
        await self.look_away()
        text = error = ""
        try:
            if len(self._sound) >= MIN_BYTES:
                text = await self._dictation.text(self._pcm())
        except EngineFailed as failed:
            error = str(failed)
            logger.warning("/api/asr: {}", error)
        online = self._wish.mode == "online"
        await self._tell(self._agreed.rest(text) if online else text, final=True, error=error)
        self._wish = self._wish.model_copy(update={"is_speaking": True})
        self._begin()

    async def _tell(self, text: str, *, final: bool, error: str = "") -> None:
        mode: Any = self._wish.mode
        if mode == "2pass":
            mode = "2pass-offline" if final else "2pass-online"
        told = Dictated(text=text, mode=mode, wav_name=self._wish.wav_name, is_final=final, error=error)
        with suppress(ConnectionError):  # who has left need not be told
            await self._socket.send_str(told.model_dump_json(exclude=None if error else {"error"}))

    def _pcm(self) -> Pcm:
        samples = np.frombuffer(bytes(self._sound[: len(self._sound) & ~1]), "<i2").astype(np.float32)
        pcm: Pcm = samples / np.float32(32768)
        if self._wish.audio_fs != SAMPLE_RATE:
            pcm = soxr.resample(pcm, self._wish.audio_fs, SAMPLE_RATE).clip(-1, 1)
        return pcm


class Agreed:
    """What two looks in a row at a growing sound have in common, told piece by piece."""

    def __init__(self) -> None:
        self._last: list[str] = []
        self._told = 0  # words, or hanzi

    def push(self, text: str) -> str:
        """The words that `text` adds to those told before, as far as the look before it had them too."""
        words = [re.sub(r"\W", "", unit).lower() for unit in _UNIT.findall(text)]
        pairs = zip(words, self._last, strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._last = words
        piece = text[self._end(text, self._told) : self._end(text, common)]
        self._told = max(self._told, common)
        return piece

    def rest(self, text: str) -> str:
        """All of `text` behind what was told before."""
        return text[self._end(text, self._told) :]

    def _end(self, text: str, words: int) -> int:
        """Where in `text` its first `words` words end."""
        ends = [0, *(unit.end() for unit in _UNIT.finditer(text))]
        return ends[min(words, len(ends) - 1)]


def windows(pcm: Pcm) -> Iterator[Pcm]:
    """`pcm` in pieces of at most 30 s, each cut where its last 10 s are quietest."""
    while len(pcm) > WINDOW_SAMPLES:
        blocks = pcm[WINDOW_SAMPLES - TAIL_SAMPLES : WINDOW_SAMPLES].reshape(-1, BLOCK_SAMPLES)
        quietest = int((blocks**2).sum(axis=1).argmin())
        cut = WINDOW_SAMPLES - TAIL_SAMPLES + quietest * BLOCK_SAMPLES + BLOCK_SAMPLES // 2
        yield pcm[:cut]
        pcm = pcm[cut:]
    yield pcm


async def transcribe(request: web.Request) -> web.Response:
    """POST /asr: what is said in a sound file. Its clients want failures as `{"error": …}` with HTTP 400 or 500."""
    dictation = request.app[DICTATION]
    try:
        text = await dictation.text(await _upload(request, dictation.io))
    except BadRequest as error:
        return web.json_response({"error": str(error)}, status=400)
    except web.HTTPRequestEntityTooLarge as error:
        return web.json_response({"error": error.reason}, status=413)
    except EngineFailed as error:
        logger.warning("/asr: {}", error)
        return web.json_response({"error": "Internal server error during transcription"}, status=500)
    return web.json_response({"text": text})


async def _upload(request: web.Request, io: Executor) -> Pcm:
    sound = bytearray()

    async def take(piece: bytes) -> None:
        sound.extend(piece)

    await read_form(request, "file", MAX_FILE, take)
    if not sound:
        raise BadRequest("file: a WAV file is required")
    if sound[:4] == b"RIFF" and sound[34:36] == b"\x10\0" and len(sound) % 2:
        raise BadMedia("the WAV file ends inside a sample")
    pcm = await asyncio.get_running_loop().run_in_executor(io, decode_audio, bytes(sound))
    if len(pcm) > MAX_SECONDS * SAMPLE_RATE:
        raise BadMedia(f"the sound is longer than {MAX_SECONDS} seconds")
    return pcm


_FILE = {"file": {"type": "string", "format": "binary"}}
API = [
    (listen, Operation("GET", "/api/asr", "Dictation over a WebSocket: docs/listening.md", "hearing", answer=Dictated)),
    (transcribe, Operation("POST", "/asr", "The text of a sound file", "hearing", _FILE, answer=Heard)),
]
