"""Auto: the best voice that is there. Edge while it can be reached, then hibari, then espeak-ng."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, suppress

from core.errors import EngineFailed
from core.media import SILENT_CHUNK, Voice
from tts import espeak, hibari
from tts.edge import EdgeTTS
from ttsreal import CJK, BaseTTS, Speech, VoiceSettings, Word, unstalled

PROBE_S = 60.0
PATIENCE_S = 4.0  # with one engine, so that there is time for the next


class AutoTTS(BaseTTS):
    """Asks the next engine when one fails before its first sound; after that its failure is everyone's.

    Until `start` has found Edge to be there, and after Edge has failed, it is left out: no sentence waits for a probe.
    """

    def __init__(self, settings: VoiceSettings | None = None) -> None:
        super().__init__(settings)
        self._edge = EdgeTTS(self.settings)
        self._hibari = hibari.HibariTTS(self.settings)
        self._espeak = espeak.EspeakTTS(self.settings)
        self._patience_s = min(PATIENCE_S, self.settings.timeout_s)
        self.edge_reachable = False
        self._probe: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._probe = self._probe or asyncio.create_task(self._keep_probing())
        with suppress(EngineFailed):
            await self._hibari.start()

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        failure = EngineFailed("no speech engine here can say this text")
        for engine in self._able(text):
            begun = False
            try:
                async with aclosing(_sounding(unstalled(engine.stream(text, voice), self._patience_s))) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except EngineFailed as error:
                self.edge_reachable = self.edge_reachable and engine is not self._edge
                if begun:
                    raise
                failure = error
        raise failure

    async def aclose(self) -> None:
        if self._probe:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        for engine in (self._edge, self._hibari, self._espeak):
            await engine.aclose()

    async def _keep_probing(self) -> None:
        while True:
            self.edge_reachable = await self._edge.reachable()
            await asyncio.sleep(PROBE_S)

    def _able(self, text: str) -> Iterator[BaseTTS]:
        """The engines that can say `text`, best first. Of Chinese mixed with English hibari would say half."""
        if self.edge_reachable:
            yield self._edge
        offline: list[BaseTTS] = [self._hibari] if hibari.can_say(text) else []
        if espeak.installed():
            offline.insert(0 if CJK.search(text) else 1, self._espeak)
        yield from offline


async def _sounding(pieces: AsyncGenerator[Speech, None]) -> AsyncGenerator[Speech, None]:
    """`pieces` of which each has sound; words known before it come with it."""
    words: tuple[Word, ...] = ()
    async with aclosing(pieces):
        async for piece in pieces:
            words += piece.words
            if len(piece.pcm):
                yield Speech(piece.pcm, words)
                words = ()
    if words:
        yield Speech(SILENT_CHUNK, words)
