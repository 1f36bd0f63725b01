"""Azure: Microsoft's neural voices, over the WebSocket of its Speech service, with the time of each word.

A message has headers and a body as in HTTP; a binary one begins with the length of its headers, two bytes big-endian.
"""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime
from uuid import uuid4
from xml.sax.saxutils import escape

from core.errors import EngineFailed
from core.media import Voice
from tts.post import wishes
from tts.websocket import Heard, Keys, Request, WebSocketTTS
from ttsreal import CJK, VoiceSettings, Word, speed

URL = "wss://{region}.tts.speech.microsoft.com/cognitiveservices/websocket/v1"
CHINESE_VOICE = "zh-CN-XiaoxiaoNeural"
ENGLISH_VOICE = "en-US-AvaMultilingualNeural"
TICKS_PER_MS = 10_000  # the service counts in 100 ns

_VOICE = re.compile(r"[a-z]{2,3}-[A-Z]{2}-(?:[a-z]+-)?[A-Z][A-Za-z]*(?::[A-Z][A-Za-z0-9]*)?Neural")
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_CONFIG = {"context": {"system": {"name": "vivace", "version": "1"}}}
_MARKS = {
    "wordBoundaryEnabled": True,
    "punctuationBoundaryEnabled": False,
    "sentenceBoundaryEnabled": False,
    "bookmarkEnabled": False,
    "visemeEnabled": False,
}
_AUDIO = {"outputFormat": "raw-16khz-16bit-mono-pcm", "metadataOptions": _MARKS}
_CONTEXT = {"synthesis": {"audio": _AUDIO, "language": {"autoDetection": False}}}


class AzureTTS(WebSocketTTS):
    """`voice.name` if it is one of Azure's (`zh-CN-YunxiNeural`), else the settings' voice, else one for the text.

    Keys: AZURE_SPEECH_KEY and AZURE_TTS_REGION (`eastasia`). `extra`: speed, emotion (a style such as `cheerful`).
    """

    knows_words = True

    def __init__(self, settings: VoiceSettings | None = None) -> None:
        super().__init__(settings)
        self._keys = Keys("AZURE_SPEECH_KEY", "AZURE_TTS_REGION")

    def ask(self, text: str, voice: Voice) -> Request:
        key, region, conversation = self._keys["AZURE_SPEECH_KEY"], self._keys["AZURE_TTS_REGION"], uuid4().hex
        if not re.fullmatch(r"[a-z0-9-]+", region):
            raise EngineFailed("AZURE_TTS_REGION in the environment is not a region")
        messages = (
            _message(conversation, "speech.config", json.dumps(_CONFIG)),
            _message(conversation, "synthesis.context", json.dumps(_CONTEXT)),
            _message(conversation, "ssml", self._ssml(text, voice), "application/ssml+xml"),
        )
        headers = {"Ocp-Apim-Subscription-Key": key, "X-ConnectionId": uuid4().hex}
        return Request(URL.format(region=region), headers, messages)

    def _ssml(self, text: str, voice: Voice) -> str:
        named = (name for name in (voice.name, self.settings.default_voice) if _VOICE.fullmatch(name))
        name = next(named, CHINESE_VOICE if CJK.search(text) else ENGLISH_VOICE)
        said = f"<prosody rate='{round(100 * speed(voice)) - 100:+d}%'>{escape(_NOT_XML.sub(' ', text))}</prosody>"
        style = wishes(voice, emotion=str).get("emotion", "")
        if re.fullmatch(r"[a-z-]{1,32}", style):
            said = f"<mstts:express-as style='{style}'>{said}</mstts:express-as>"
        return (
            "<speak version='1.0' xmlns='http://www.w3.org/2001/10/synthesis' xmlns:mstts='http://www.w3.org/2001/mstts'"
            f" xml:lang='{name[:5]}'><voice name='{name}'>{said}</voice></speak>"
        )

    def read(self, message: str | bytes) -> Heard:
        if isinstance(message, bytes):
            end = 2 + int.from_bytes(message[:2], "big")
            return Heard(message[end:]) if _path(message[2:end].decode()) == "audio" else Heard()
        head, _, body = message.partition("\r\n\r\n")
        path = _path(head)
        return Heard(words=_words(body) if path == "audio.metadata" else (), last=path == "turn.end")


def _message(conversation: str, path: str, body: str, kind: str = "application/json") -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"Path: {path}\r\nX-RequestId: {conversation}\r\nX-Timestamp: {now}\r\nContent-Type: {kind}\r\n\r\n{body}"


def _path(head: str) -> str:
    """What the headers of a message say it is. ValueError if they do not."""
    found = re.search(r"^path:\s*(\S+)", head, re.IGNORECASE | re.MULTILINE)
    if not found:
        raise ValueError("a message without a path")
    return found[1].lower()


def _words(body: str) -> tuple[Word, ...]:
    marks = (mark["Data"] for mark in json.loads(body)["Metadata"] if mark["Type"] == "WordBoundary")
    words = (mark for mark in marks if mark["text"].get("BoundaryType", "WordBoundary") == "WordBoundary")
    return tuple(
        Word(html.unescape(mark["text"]["Text"]), *(int(mark[key]) // TICKS_PER_MS for key in ("Offset", "Duration")))
        for mark in words
    )
