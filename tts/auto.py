"""Auto: the best voice that is there. Edge while it can be reached, Kokoro if it was fetched, hibari, espeak-ng."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, suppress

from core.errors import EngineFailed
from core.media import SILENT_CHUNK, Voice
from core.streams import closing
from tts import espeak, hibari, kokoro
from tts.edge import EdgeTTS
from ttsreal import CJK, BaseTTS, Preset, Speech, VoiceSettings, Word, unstalled

PROBE_S = 60.0
PATIENCE_S = 4.0  # with the network, so that there is time for the next engine


class AutoTTS(BaseTTS):
    """Asks the next engine when one fails before its first sound; after that its failure is everyone's.

    Until `start` has found Edge to be there, and after Edge has failed, it is left out: no sentence waits for a probe.
    """

    def __init__(self, settings: VoiceSettings | None = None) -> None:
        super().__init__(settings)
        self._edge = EdgeTTS(self.settings)
        self._kokoro = kokoro.KokoroTTS(self.settings)
        self._hibari = hibari.HibariTTS(self.settings)
        self._espeak = espeak.EspeakTTS(self.settings)
        self._patience_s = min(PATIENCE_S, self.settings.timeout_s)
        self.edge_reachable = False
        self._probe: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._probe = self._probe or asyncio.create_task(self._keep_probing())
        for engine in (self._kokoro, self._hibari) if kokoro.available(self.settings) else (self._hibari,):
            with suppress(EngineFailed):
                await engine.start()

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        failure = EngineFailed("no speech engine here can say this text")
        for engine in self._able(text, voice):
            begun = False
            try:
                async with aclosing(_sounding(self._ask(engine, text, voice))) as pieces:
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

    def presets(self) -> Sequence[Preset]:
        return [*(self._edge.presets() if self.edge_reachable else ()), *self._kokoro.presets()]

    async def aclose(self) -> None:
        if self._probe:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        for engine in (self._edge, self._kokoro, self._hibari, self._espeak):
            await engine.aclose()

    def _ask(self, engine: BaseTTS, text: str, voice: Voice) -> AsyncIterator[Speech]:
        pieces = engine.stream(text, voice)
        return unstalled(pieces, self._patience_s) if engine is self._edge else pieces  # what is here does come

    async def _keep_probing(self) -> None:
        while True:
            self.edge_reachable = await self._edge.reachable()
            await asyncio.sleep(PROBE_S)

    def _able(self, text: str, voice: Voice) -> Iterator[BaseTTS]:
        """The engines that can say `text`, best first. Of Chinese mixed with English hibari would say half.

        Who knows the voice by name comes before all others.
        """
        local = [self._kokoro] if kokoro.available(self.settings) else []
        if local and self._kokoro.knows(voice.name or self.settings.default_voice):
            yield local.pop()
        if self.edge_reachable:
            yield self._edge
        yield from local
        offline: list[BaseTTS] = [self._hibari] if hibari.can_say(text) else []
        if espeak.installed():
            offline.insert(0 if CJK.search(text) else 1, self._espeak)
        yield from offline


async def _sounding(pieces: AsyncIterator[Speech]) -> AsyncGenerator[Speech, None]:
    """`pieces` of which each has sound; words known before it come with it."""
    words: tuple[Word, ...] = ()
    async with closing(pieces):
        async for piece in pieces:
            words += piece.words
            if len(piece.pcm):
                yield Speech(piece.pcm, words)
                words = ()
    if words:
        yield Speech(SILENT_CHUNK, words)
