"""FunASR: Alibaba's recogniser on a server of its own, asked over its WebSocket protocol.

Three servers speak it, and disagree on how the last answer of an utterance looks: the C++ offline server calls its only
answer not final; the C++ 2pass server calls the last of several final; the Python server calls all but the last final,
and may send no last one. They agree that an answer bears the latest `wav_name`, so the end of the sound is given a name
of its own.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from typing import Any

import aiohttp
import numpy as np
from aiohttp import ClientWebSocketResponse, ClientWSTimeout, WSMsgType

from asrreal import ASRSettings, BaseASR, Transcript
from core.audio import to_int16
from core.errors import EngineFailed
from core.media import SAMPLE_RATE, Pcm

CHUNK_BYTES = SAMPLE_RATE * 60 // 1000 * 2  # 60 ms, a tenth of what the server looks at
QUIET_S = 1.0  # after a text; whoever says nothing for so long has said all
SOUND, END = "sound", "end"  # wav_name while there is more, and after it

_CJK = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]")
_TAG = re.compile(r"<\|[^|]*\|>")  # SenseVoice tells language and mood before the text
_ADDRESS = re.compile(r"wss?://[\w\[]")


class FunASR(BaseASR):
    """The server at `settings.server`, ws:// or wss://; a connection for each utterance, `timeout_s` for all of it."""

    def __init__(self, settings: ASRSettings | None = None) -> None:
        super().__init__(settings)
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._address()

    async def transcribe(self, pcm: Pcm) -> Transcript:
        try:
            async with asyncio.timeout(self.settings.timeout_s), self._connect() as socket:
                await _send(socket, to_int16(np.nan_to_num(pcm)).astype("<i2").tobytes())
                return Transcript(await _text(socket), self.settings.language)
        except TimeoutError as error:
            raise EngineFailed("the speech recognition server did not answer in time") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise EngineFailed("the speech recognition server's certificate is not trusted") from error
        except aiohttp.WSServerHandshakeError as error:
            raise EngineFailed(f"the speech recognition server {_refusal(error.status)}") from error
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            raise EngineFailed("the speech recognition server could not be reached") from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineFailed("the speech recognition server broke off") from error

    async def aclose(self) -> None:
        if self._session:
            await self._session.close()

    def _connect(self) -> Any:
        """The connection, to be entered; leaving it hangs up without waiting for the other side."""
        self._session = self._session or aiohttp.ClientSession(trust_env=True)
        return self._session.ws_connect(self._address(), protocols=("binary",), timeout=ClientWSTimeout(ws_close=0))

    def _address(self) -> str:
        if not _ADDRESS.match(self.settings.server):
            raise EngineFailed("the speech recognition server's address must begin with ws:// or wss://")
        return self.settings.server


async def _send(socket: ClientWebSocketResponse, data: bytes) -> None:
    about = {"mode": "offline", "wav_name": SOUND, "wav_format": "pcm", "audio_fs": SAMPLE_RATE, "itn": True}
    await socket.send_json({**about, "chunk_size": [5, 10, 5], "chunk_interval": 10, "is_speaking": True})
    for start in range(0, len(data), CHUNK_BYTES):
        await socket.send_bytes(data[start : start + CHUNK_BYTES])
    await socket.send_json({"is_speaking": False, "wav_name": END})


async def _text(socket: ClientWebSocketResponse) -> str:
    """What the server makes of the sound, piece by piece until the last or QUIET_S after one."""
    pieces: list[str] = []
    last = False
    while not last:
        try:
            async with asyncio.timeout(QUIET_S if pieces else None):
                answer = await _receive(socket)
        except TimeoutError:
            break
        mode = answer.get("mode", "")
        if answer.get("is_final") or mode in {"offline", "2pass-offline"}:
            pieces.append(_TAG.sub("", answer["text"]).strip())
        last = answer.get("wav_name", END) == END and bool(answer.get("is_final") or mode == "offline")
    return joined(pieces)


async def _receive(socket: ClientWebSocketResponse) -> dict[str, Any]:
    message = await socket.receive()
    if message.type is not WSMsgType.TEXT:
        raise EngineFailed("the speech recognition server broke off")
    try:
        answer = json.loads(message.data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
        raise EngineFailed("the speech recognition server sent what is not of its protocol")
    if answer.get("error"):
        raise EngineFailed("the speech recognition server failed")
    return answer


def joined(texts: Iterable[str]) -> str:
    """Texts that follow each other as one, with a blank between them unless either side of it is Chinese."""
    whole = ""
    for text in filter(None, texts):
        close = not whole or _CJK.match(whole[-1]) or _CJK.match(text[0])
        whole += text if close else f" {text}"
    return whole


def _refusal(status: int) -> str:
    if status in {401, 403}:
        return "refused to listen"
    return "is overloaded" if status in {429, 503} else "does not speak FunASR's protocol"
