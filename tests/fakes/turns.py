"""A voice that does what it is told, and what to look at in the chunks it becomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np

from core.errors import EngineFailed
from core.media import SAMPLE_RATE, AudioChunk, Pcm, Voice
from ttsreal import BaseTTS, Speech, Word

TONE = (0.5 * np.sin(2 * np.pi * 200 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)  # 1 s


class Script(BaseTTS):
    """Says every sentence by the same script: pieces of sound, words, failures, or an event to wait for."""

    def __init__(self, *steps: Pcm | Word | EngineFailed | asyncio.Event, endless: bool = False) -> None:
        super().__init__()
        self.steps = steps or (TONE[:640],)
        self.endless = endless
        self.said: list[str] = []
        self.pieces = 0
        self.open = 0

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        self.said.append(text)
        self.open += 1
        try:
            for step in self.steps:
                yield await self._take(step)
            while self.endless:
                yield await self._take(TONE[:640])
        finally:
            self.open -= 1

    async def _take(self, step: Pcm | Word | EngineFailed | asyncio.Event) -> Speech:
        self.pieces += 1
        if isinstance(step, asyncio.Event):
            await step.wait()
        if isinstance(step, EngineFailed):
            raise step
        if isinstance(step, Word):
            return Speech(TONE[:0], (step,))
        return Speech(step if isinstance(step, np.ndarray) else TONE[:0])


def marks(chunks: Sequence[AudioChunk]) -> list[tuple[str, str]]:
    return [(mark.kind, mark.text) for chunk in chunks for mark in chunk.marks]
