"""Tencent: the voices of Tencent Cloud, as one signed request whose answer is sound while it is made."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from uuid import uuid4

import aiohttp

from core.errors import EngineFailed
from core.media import SAMPLE_RATE, Voice
from tts.http import HttpTTS
from tts.sound import WordTimes
from tts.websocket import Keys, failure
from ttsreal import PcmStream, Speech, VoiceSettings, speed

URL = "https://tts.cloud.tencent.com/stream"
SIGNED = "POSTtts.cloud.tencent.com/stream?"
DEFAULT_VOICE = "101001"
TEMPOS = {-2: 0.6, -1: 0.8, 0: 1.0, 1: 1.2, 2: 1.5}  # what the service's numbers for speed mean
VALID_S = 3600
HEAD_BYTES = 64  # enough to tell an error from sound, which begins softly
MAX_ERROR_BYTES = 1 << 16

_VOICE = re.compile(r"\d{1,12}")
_TEXT = re.compile(rb'\s*(?:\{\s*"|<[!A-Za-z])')


class TencentTTS(HttpTTS):
    """`voice.name` if it is a VoiceType (`101001`), else the settings' voice.

    Keys: TENCENT_APPID, TENCENT_SECRET_ID and TENCENT_SECRET_KEY. `extra`: speed, in five steps.
    """

    def __init__(self, settings: VoiceSettings | None = None) -> None:
        super().__init__(settings)
        self._keys = Keys("TENCENT_APPID", "TENCENT_SECRET_ID", "TENCENT_SECRET_KEY")

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        wish = self._wish(text, voice)
        headers = {"Authorization": sign(wish, self._keys["TENCENT_SECRET_KEY"])}
        sound, words = PcmStream(SAMPLE_RATE), WordTimes(text, speed(voice))
        async with self.request("POST", URL, sound=False, json=wish, headers=headers) as response:
            data = await _begin(response)
            while data:
                pcm = sound.push_bytes(data)
                yield Speech(pcm, words.push(pcm))
                data = await response.content.readany()
        pcm = sound.finish()
        yield Speech(pcm, words.finish(pcm))

    def _wish(self, text: str, voice: Voice) -> dict[str, int | str]:
        named = (name for name in (voice.name, self.settings.default_voice) if _VOICE.fullmatch(name))
        now_s = int(datetime.now(UTC).timestamp())
        return {
            "Action": "TextToStreamAudio",
            "AppId": _number(self._keys["TENCENT_APPID"]),
            "SecretId": self._keys["TENCENT_SECRET_ID"],
            "Timestamp": now_s,
            "Expired": now_s + VALID_S,
            "SessionId": str(uuid4()),
            "Text": text,
            "ModelType": 1,
            "VoiceType": int(next(named, DEFAULT_VOICE)),
            "Speed": min(TEMPOS, key=lambda number: abs(TEMPOS[number] - speed(voice))),
            "Volume": 0,
            "SampleRate": SAMPLE_RATE,
            "Codec": "pcm",
        }


def sign(wish: Mapping[str, int | str], key: str) -> str:
    """The signature of a request: HMAC-SHA1 of its fields in the order of their names, in base64."""
    said = SIGNED + "&".join(f"{name}={wish[name]}" for name in sorted(wish))
    return b64encode(hmac.digest(key.encode(), said.encode(errors="replace"), hashlib.sha1)).decode()


def _number(appid: str) -> int:
    if not appid.isdecimal():
        raise EngineFailed("TENCENT_APPID in the environment is not a number")
    return int(appid)


async def _begin(response: aiohttp.ClientResponse) -> bytes:
    """The first of the sound. EngineFailed if the body is an error: the service sends it where sound would be."""
    head = b""
    while len(head) < HEAD_BYTES and (data := await response.content.readany()):
        head += data
    if not _TEXT.match(head):
        return head
    while len(head) < MAX_ERROR_BYTES and (data := await response.content.readany()):
        head += data
    try:
        code = str(json.loads(head)["Response"]["Error"]["Code"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise EngineFailed("the speech server answered with an error") from error
    raise failure(code)
