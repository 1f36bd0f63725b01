"""Qwen: the voices of DashScope, over its real-time WebSocket. Messages are JSON, sound is base64 inside them."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from uuid import uuid4

from core.media import Voice
from tts.post import wishes
from tts.websocket import Heard, Keys, Request, WebSocketTTS, failure
from ttsreal import VoiceSettings, speed

URL = "wss://dashscope.aliyuncs.com/api-ws/v1/realtime?model=qwen3-tts-flash-realtime"
DEFAULT_VOICE = "Cherry"
LANGUAGES = {
    "zh": "Chinese",
    "en": "English",
    "de": "German",
    "it": "Italian",
    "pt": "Portuguese",
    "es": "Spanish",
    "ja": "Japanese",
    "ko": "Korean",
    "fr": "French",
    "ru": "Russian",
}

_VOICE = re.compile(r"[A-Z][A-Za-z]{1,30}(?: [A-Z][A-Za-z]{1,30})?")


class QwenTTS(WebSocketTTS):
    """`voice.name` if it is one of Qwen's (`Cherry`, `Eldric Sage`), else the settings' voice, else Cherry.

    Key: DASHSCOPE_API_KEY. `extra`: speed, language (`zh`, `en`, …; else the service finds out).
    """

    rate_hz = 24_000

    def __init__(self, settings: VoiceSettings | None = None) -> None:
        super().__init__(settings)
        self._keys = Keys("DASHSCOPE_API_KEY")

    def ask(self, text: str, voice: Voice) -> Request:
        messages = (
            _event("session.update", session=self._manner(voice)),
            _event("input_text_buffer.append", text=text),
            _event("input_text_buffer.commit"),
            _event("session.finish"),
        )
        return Request(URL, {"Authorization": f"Bearer {self._keys['DASHSCOPE_API_KEY']}"}, messages)

    def _manner(self, voice: Voice) -> dict[str, object]:
        named = (name for name in (voice.name, self.settings.default_voice) if _VOICE.fullmatch(name))
        language = wishes(voice, language=str).get("language", "")[:2].lower()
        session = {
            "voice": next(named, DEFAULT_VOICE),
            "mode": "server_commit",
            "language_type": LANGUAGES.get(language, "Auto"),
            "response_format": "pcm",
            "sample_rate": self.rate_hz,
        }
        return session if speed(voice) == 1 else {**session, "speech_rate": speed(voice)}

    def read(self, message: str | bytes) -> Heard:
        event = json.loads(message)
        match event["type"]:
            case "response.audio.delta":
                return Heard(b64decode(event["delta"], validate=True))
            case "session.finished":  # a text of several sentences has several responses
                return Heard(last=True)
            case "error":
                raise failure(str(event["error"]["code"]))
        return Heard()


def _event(kind: str, **fields: object) -> str:
    return json.dumps({"event_id": f"event_{uuid4().hex}", "type": kind, **fields})
