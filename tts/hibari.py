"""Hibari: an English voice that is always there, 8 MB and some hundredth of real time on one core."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
from hibari import SAMPLE_RATE, Hibari

from core.errors import EngineFailed
from core.media import Voice
from ttsreal import CJK, BaseTTS, PcmStream, Speech, VoiceSettings, estimate_words, speed, voiced_span

GAIN = 2.0  # raw speech peaks near 0.35; this brings it to the loudness of other engines
PEAK = 0.9
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")
_DIGIT = re.compile(r"\d")


class HibariTTS(BaseTTS):
    """One American English voice; `voice.name` is not looked at. In other languages' text only English words are said.

    A single thread holds the model, which is not made for several. Loading takes about 0.3 s, a sentence 20 ms.
    """

    def __init__(self, settings: VoiceSettings | None = None) -> None:
        super().__init__(settings)
        self._thread = ThreadPoolExecutor(1, "hibari")

    async def start(self) -> None:
        await self._run("Ready.", 1.0)

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        if not can_say(text):
            raise EngineFailed("the built-in voice speaks English only")
        yield await self._run(text, speed(voice))

    async def aclose(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, text: str, tempo: float) -> Speech:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._say, text, tempo)
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineFailed("the built-in voice failed") from error

    def _say(self, text: str, tempo: float) -> Speech:
        samples = self._model(text, speed=tempo, seed=0)
        gain = min(GAIN, PEAK / max(np.abs(samples).max(initial=0), 1e-6))
        sound = PcmStream(SAMPLE_RATE)
        pcm = np.concatenate([sound.push(samples * gain), sound.finish()])
        start_ms, duration_ms = voiced_span(pcm)
        return Speech(pcm, estimate_words(CJK.sub(" ", text), duration_ms, start_ms))

    @cached_property
    def _model(self) -> Hibari:
        return Hibari(threads=1)


def can_say(text: str) -> bool:
    """Whether `text` holds anything to be said in English: a Latin letter, or a digit that is not part of Chinese."""
    return bool(_LATIN.search(text) or (_DIGIT.search(text) and not CJK.search(text)))
