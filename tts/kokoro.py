"""Kokoro: 54 voices for Chinese and English on one core, from models/kokoro (82 M parameters, 8 bits, 24 kHz)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from onnxruntime import RunOptions
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidProtobuf, RuntimeException

from core.errors import EngineFailed
from core.media import Pcm, Voice
from tts.kokoro_model import RATE_HZ, KokoroModel
from tts.phonemes import Piece, clauses, spoken
from ttsreal import CJK, BaseTTS, PcmStream, Preset, Speech, VoiceSettings, Word, speed

CHINESE_VOICE, ENGLISH_VOICE = "zf_xiaoxiao", "af_heart"

_VOICE = re.compile(r"[a-z]{2}_[a-z]{1,40}")
_FAILURES = (Fail, InvalidArgument, InvalidProtobuf, RuntimeException, OSError, RuntimeError, ValueError)

T = TypeVar("T")


class KokoroTTS(BaseTTS):
    """`voice.name` is one of the model's (`zm_yunxi`) or a reference with a style, else the settings', else the text's.

    A single thread holds the model. The sound comes clause by clause; a short first one leaves early.
    """

    def __init__(self, settings: VoiceSettings | None = None) -> None:
        super().__init__(settings)
        self._thread = ThreadPoolExecutor(1, "kokoro")

    async def start(self) -> None:
        await self._call(lambda: (self._model, spoken("好。"), spoken("Good.")))

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        style = self._style(voice, text)
        sound, before, run = PcmStream(RATE_HZ), 0, RunOptions()
        try:
            pieces = await self._call(partial(spoken, text, british=style.stem.startswith("b")))
            if not any(piece.word for piece in pieces):
                raise EngineFailed("the Kokoro voice speaks Chinese and English only")
            for clause in clauses(pieces):
                samples, words = await self._call(partial(self._say, clause, style, speed(voice), run))
                yield Speech(sound.push(samples), tuple(_later(word, before * 1000 // RATE_HZ) for word in words))
                before += len(samples)
            yield Speech(sound.finish())
        finally:
            run.terminate = True

    async def aclose(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def presets(self) -> Sequence[Preset]:
        names = sorted(path.stem for path in self._voices.glob("[abz][fm]_*.bin"))
        return [Preset(name, f"{name[3:].capitalize()} (Kokoro)", "zh" if name[0] == "z" else "en") for name in names]

    def knows(self, name: str) -> bool:
        """Whether `name` is a voice of the model's, or a reference with a style."""
        return self._named(name) is not None

    def _style(self, voice: Voice, text: str) -> Path:
        """The file of styles for `voice`; `text` decides if nothing else does."""
        usual = self._voices / f"{CHINESE_VOICE if CJK.search(text) else ENGLISH_VOICE}.bin"
        return self._named(voice.name) or self._named(self.settings.default_voice) or usual

    def _named(self, name: str) -> Path | None:
        path = self._voices / f"{name}.bin"
        if _VOICE.fullmatch(name) and path.is_file():
            return path
        reference = self.reference(Voice(name)) if name else None
        return reference.style if reference else None

    @property
    def _voices(self) -> Path:
        return _folder(self.settings) / "voices"

    async def _call(self, work: Callable[[], T]) -> T:
        """What `work` gives, done in the thread of the model."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except FileNotFoundError as error:
            raise EngineFailed("the Kokoro voice needs: python scripts/fetch_models.py kokoro") from error
        except _FAILURES as error:
            raise EngineFailed("the Kokoro voice failed") from error

    def _say(self, clause: list[Piece], style: Path, tempo: float, run: RunOptions) -> tuple[Pcm, list[Word]]:
        return self._model.say(clause, style, tempo, run)

    @cached_property
    def _model(self) -> KokoroModel:
        return KokoroModel(_folder(self.settings) / "kokoro.onnx")


def available(settings: VoiceSettings) -> bool:
    """Whether the model was fetched."""
    return (_folder(settings) / "kokoro.onnx").is_file()


def _folder(settings: VoiceSettings) -> Path:
    return settings.models / "kokoro"


def _later(word: Word, ms: int) -> Word:
    return Word(word.text, word.start_ms + ms, word.duration_ms)
