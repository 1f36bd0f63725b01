"""Doubao: the voices of Volcano Engine, over the WebSocket of its speech service, version 1.

A message is a header of four bytes (version and its own length in words, kind and flags, how the payload is written
and packed, zero), then, by kind, a sequence number or an error's number, the payload's length and the payload; numbers
are big-endian. The service answers one request on a connection.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
from typing import Any
from uuid import uuid4

from core.errors import EngineFailed
from core.media import Voice
from tts.post import wishes
from tts.websocket import Heard, Keys, Request, WebSocketTTS
from ttsreal import VoiceSettings, speed

URL = "wss://openspeech.bytedance.com/api/v1/tts/ws_binary"
DEFAULT_VOICE = "BV001_streaming"
SLOWEST = 0.8  # of what newer voices can
LANGUAGES = {"zh", "en", "ja", "es-mx", "id", "pt-br", "de", "fr"}
REQUEST = b"\x11\x10\x11\x00"  # version 1, four bytes; a request; JSON, packed with gzip
SOUND, ERROR = 0xB, 0xF

_VOICE = re.compile(r"BV\d\w{1,60}|S_\w{1,60}|(?:[A-Za-z]{1,16}_)?[a-z]{2,5}_(?:fe)?male_\w{1,80}", re.ASCII)
_ERRORS = {3003: "is overloaded", 3005: "is overloaded", 3011: "cannot say this text", 3050: "has no such voice"}


class DoubaoTTS(WebSocketTTS):
    """`voice.name` if it is one of Doubao's (`BV001_streaming`, `zh_female_…`, `S_…`), else the settings' voice.

    Keys: DOUBAO_APPID and DOUBAO_TOKEN. `extra`: speed, emotion, language.
    """

    def __init__(self, settings: VoiceSettings | None = None) -> None:
        super().__init__(settings)
        self._keys = Keys("DOUBAO_APPID", "DOUBAO_TOKEN")

    def ask(self, text: str, voice: Voice) -> Request:
        token = self._keys["DOUBAO_TOKEN"]
        wish = {**self._who(voice), "request": {"reqid": str(uuid4()), "text": text, "operation": "submit"}}
        payload = gzip.compress(json.dumps(wish).encode())
        message = REQUEST + struct.pack(">I", len(payload)) + payload
        return Request(URL, {"Authorization": f"Bearer; {token}"}, (message,))

    def _who(self, voice: Voice) -> dict[str, Any]:
        """Who pays, who listens and who speaks, as the service wants to know it."""
        named = (name for name in (voice.name, self.settings.default_voice) if _VOICE.fullmatch(name))
        name = next(named, DEFAULT_VOICE)
        audio = {"voice_type": name, "encoding": "pcm", "rate": self.rate_hz, "speed_ratio": max(speed(voice), SLOWEST)}
        wish = wishes(voice, emotion=str, language=str)
        if emotion := wish.get("emotion"):
            audio |= {"emotion": emotion, "enable_emotion": True}
        language = wish.get("language", "").lower()
        if known := LANGUAGES & {language, language[:2]}:
            audio |= {"explicit_language": max(known, key=len)}
        cluster = "volcano_icl" if name.startswith("S_") else "volcano_tts"
        app = {"appid": self._keys["DOUBAO_APPID"], "token": "in the header", "cluster": cluster}
        return {"app": app, "user": {"uid": "vivace"}, "audio": audio}

    def read(self, message: str | bytes) -> Heard:
        if isinstance(message, str):
            raise TypeError("text where bytes belong")
        kind, flags = message[1] >> 4, message[1] & 0xF
        body = message[4 * (message[0] & 0xF) :]
        if kind == ERROR:
            (number,) = struct.unpack_from(">I", body)
            raise EngineFailed(f"the speech server {_ERRORS.get(number, f'answered with error {number}')}")
        if kind != SOUND or not flags:  # an acknowledgement
            return Heard()
        sequence, size = struct.unpack_from(">iI", body)
        if len(body) != 8 + size:
            raise ValueError("a payload of another length than it says")
        return Heard(body[8:], last=sequence < 0)
