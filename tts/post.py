"""Engines of one request a sentence: asking, and reading the sound that comes back."""

from __future__ import annotations

import asyncio
import os
import re
from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from core.errors import EngineFailed
from core.media import Voice
from core.voices import Reference
from tts.http import HttpTTS
from tts.sound import SoundStream, WordTimes
from ttsreal import CJK, Speech, VoiceSettings

_SCRIPTS = (("ja", re.compile("[\u3040-\u30ff]")), ("ko", re.compile("[\uac00-\ud7a3]")), ("zh", CJK))


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """What to ask a server: `body` as `ClientSession.request` takes it, {"json": …} or {"data": …}.

    `rate_hz` is that of samples which come without a header, `tempo` the one that was asked for.
    """

    path: str
    body: dict[str, Any]
    method: str = "POST"
    rate_hz: int = 24_000
    tempo: float = 1.0


class PostTTS(HttpTTS):
    """An engine of one request a sentence to the settings' server, which answers with sound.

    A key, where the server wants one, is the environment's TTS_API_KEY.
    """

    def __init__(self, settings: VoiceSettings | None = None) -> None:
        super().__init__(settings)
        key = os.environ.get("TTS_API_KEY", "")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    @abstractmethod
    async def ask(self, text: str, voice: Voice, reference: Reference | None) -> Ask:
        """How to ask for `text`, in the voice of `reference` where there is one."""

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        ask = await self.ask(text, voice, self.reference(voice))
        words = WordTimes(text, ask.tempo)
        async with self.request(ask.method, self.address(ask.path), headers=self._headers, **ask.body) as response:
            sound = SoundStream(ask.rate_hz, response.content_type)
            async for data in response.content.iter_any():
                pcm = sound.push(data)
                yield Speech(pcm, words.push(pcm))
        pcm = sound.finish()
        yield Speech(pcm, words.finish(pcm))

    def prompt(self, voice: Voice, reference: Reference | None) -> str:
        """What the reference says, "" if nobody knows."""
        usual = "" if reference and reference.id != self.settings.default_voice else self.settings.ref_text
        return voice.ref_text or (reference.about.text if reference else "") or usual


async def recording(reference: Reference) -> bytes:
    """The reference's WAV file. EngineFailed if it is gone."""
    try:
        return await asyncio.to_thread(reference.sound.read_bytes)
    except OSError as error:
        raise EngineFailed("the reference voice cannot be read") from error


def sendable(text: str) -> str:
    """`text` as UTF-8 can hold it: half a character, as a language model may leave it, is a question mark."""
    return text.encode(errors="replace").decode()


def wishes(voice: Voice, **kinds: type) -> dict[str, Any]:
    """Those of a client's further wishes that are called and made like one of `kinds`: `speed=float, style=str`."""
    found = {key: (voice.extra[key], kind) for key, kind in kinds.items() if key in voice.extra}
    return {
        key: wish for key, (wish, kind) in found.items() if type(wish) is kind or (type(wish), kind) == (int, float)
    }


def language(text: str, wish: object = None) -> str:
    """The code of a language, such as "zh": that of `wish` ("zh-CN") if it is one, else by the script of `text`."""
    if isinstance(wish, str) and (code := re.fullmatch(r"([a-z]{2,3})(?:[-_]\w+)?", wish.lower())):
        return code[1]
    return next((name for name, script in _SCRIPTS if script.search(text)), "en")
