"""Speech engines: what they all are, what they give, and the table of their names.

An engine turns one sentence into a stream of sound. It is shared by all sessions, so `stream` runs many times at once;
what fails is EngineFailed, with a message that a client may read.
"""

from __future__ import annotations

import asyncio
import math
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soxr
from numpy.typing import NDArray

from core.errors import BadMedia, EngineFailed
from core.media import SAMPLE_RATE, Pcm, Voice
from core.registry import Registry
from core.streams import closing
from core.voices import Reference, find_voice

T = TypeVar("T")

TTS = Registry(
    "tts",
    {
        "auto": "tts.auto:AutoTTS",
        "edge": "tts.edge:EdgeTTS",
        "edgetts": "tts.edge:EdgeTTS",
        "espeak": "tts.espeak:EspeakTTS",
        "hibari": "tts.hibari:HibariTTS",
        "kokoro": "tts.kokoro:KokoroTTS",
        "piper": "tts.piper:PiperTTS",
        "gpt-sovits": "tts.gptsovits:GptSovitsTTS",
        "cosyvoice": "tts.cosyvoice:CosyVoiceTTS",
        "fishtts": "tts.fish:FishTTS",
        "xtts": "tts.xtts:XttsTTS",
        "omnitts": "tts.omni:OmniTTS",
        "indextts2": "tts.indextts2:IndexTTS2",
        "tencent": "tts.tencent:TencentTTS",
        "doubao": "tts.doubao:DoubaoTTS",
        "azuretts": "tts.azure:AzureTTS",
        "qwentts": "tts.qwen:QwenTTS",
    },
)

QUIET = 0.002  # peak of what counts as silence, -54 dBFS
CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff]")  # one syllable or so each
_WORD = re.compile(rf"{CJK.pattern}|(?:(?!{CJK.pattern})\w)+(?:['’.,:@/-](?:(?!{CJK.pattern})\w)+)*")
_PAUSE = re.compile(r"[,，、;；:：—….。!！?？\n]")


@dataclass(frozen=True, slots=True)
class Word:
    """When a word is heard; times count from the sentence's first sample."""

    text: str
    start_ms: int
    duration_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Speech:
    """A piece of a sentence: `pcm` float32 (n,) 16 kHz, and the words whose time is now known. Either may be empty."""

    pcm: Pcm
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class VoiceSettings:
    """How an engine speaks where an utterance does not say: a voice or reference, what the reference says, a server.

    `voices` is the folder of references (`core.voices`), `models` that of weights.
    """

    default_voice: str = ""
    ref_text: str = ""
    server: str = ""
    timeout_s: float = 10.0
    voices: Path = Path("data/voices")
    models: Path = Path("models")


@dataclass(frozen=True, slots=True)
class Preset:
    """A voice that an engine brings along: its name for the engine and for people, and what it speaks ("zh", "en")."""

    id: str
    title: str
    language: str = ""


class BaseTTS(ABC):
    """Text to speech. One per process, on one event loop."""

    def __init__(self, settings: VoiceSettings | None = None) -> None:
        self.settings = settings or VoiceSettings()

    async def start(self) -> None:
        """Get ready, so that the first sentence need not wait for it. Optional."""
        return

    @abstractmethod
    def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        """The sound of one sentence, piece by piece; to be closed by whoever leaves it early. Raises EngineFailed."""

    async def aclose(self) -> None:
        """Give back what the engine holds."""
        return

    def presets(self) -> Sequence[Preset]:
        """Its own voices, or a choice of them."""
        return ()

    def reference(self, voice: Voice) -> Reference | None:
        """The reference that `voice` or else the settings name, or None if they name none. EngineFailed if damaged."""
        try:
            return find_voice(self.settings.voices, voice.name or self.settings.default_voice)
        except BadMedia as error:
            raise EngineFailed(str(error)) from error


class PcmStream:
    """One sentence's sound as pcm, whatever its rate and however it comes cut: one resampler for all of it.

    `dtype` is what `push_bytes` reads: "int16" or "float32", little-endian mono.
    """

    def __init__(self, rate_hz: int, dtype: str = "int16") -> None:
        self._soxr = None if rate_hz == SAMPLE_RATE else soxr.ResampleStream(rate_hz, SAMPLE_RATE, 1, "float32")
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._odd = b""

    def push_bytes(self, data: bytes) -> Pcm:
        """The pcm completed by `data`; bytes of half a sample wait for the rest of it."""
        data = self._odd + data
        whole = len(data) - len(data) % self._dtype.itemsize
        self._odd = data[whole:]
        return self.push(np.frombuffer(data[:whole], self._dtype))

    def push(self, samples: NDArray[Any]) -> Pcm:
        """The pcm completed by mono `samples`, int16 or float32 (n,). About 20 ms stay inside until `finish`."""
        return self._resample(as_pcm(samples), last=False)

    def finish(self) -> Pcm:
        """What is still inside; the stream ends here."""
        return self._resample(np.empty(0, np.float32), last=True)

    def _resample(self, pcm: Pcm, *, last: bool) -> Pcm:
        if self._soxr is None:
            return pcm
        return _clipped(self._soxr.resample_chunk(pcm, last))


def as_pcm(samples: NDArray[Any]) -> Pcm:
    """Samples int16 or float32 (n,) as float32 (n,) in [-1, 1]; what is not a number becomes silence."""
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / np.float32(32768)
    return _clipped(np.nan_to_num(samples.astype(np.float32), posinf=1, neginf=-1))


def _clipped(samples: NDArray[Any]) -> Pcm:
    pcm: Pcm = np.clip(samples, -1, 1).astype(np.float32, copy=False)
    return pcm


def speed(voice: Voice) -> float:
    """The tempo a client wishes for in `extra["speed"]`, from 0.5 to 2; 1 is normal."""
    wish = voice.extra.get("speed")
    if isinstance(wish, bool) or not isinstance(wish, int | float) or not math.isfinite(wish):
        return 1.0
    return min(max(float(wish), 0.5), 2.0)


def voiced_span(pcm: Pcm) -> tuple[int, int]:
    """(start_ms, duration_ms) of what is not silence at either end of `pcm`; (0, 0) if all of it is."""
    loud = np.flatnonzero(np.abs(pcm) > QUIET)
    if not len(loud):
        return 0, 0
    start_ms, end_ms = loud[0] * 1000 // SAMPLE_RATE, (loud[-1] + 1) * 1000 // SAMPLE_RATE
    return int(start_ms), int(end_ms - start_ms)


def estimate_words(text: str, duration_ms: int, start_ms: int = 0) -> tuple[Word, ...]:
    """The words of `text` spread over its voiced duration, in proportion to their length.

    A hanzi is a word of its own, a digit is as long as a short word, punctuation inside the text is a pause.
    For engines that give no times themselves: typically right to 100 ms.
    """
    found = list(_WORD.finditer(text))
    gaps = [text[word.end() : after.start()] for word, after in pairwise(found)]
    lengths = [_length(word[0]) for word in found]
    steps = [length + _rest(gap) for length, gap in zip(lengths, [*gaps, ""], strict=False)]
    ms = duration_ms / (sum(steps) or 1)
    starts = accumulate(steps, initial=0.0)
    return tuple(
        Word(word[0], start_ms + round(start * ms), round(length * ms))
        for word, start, length in zip(found, starts, lengths, strict=False)
    )


def _length(word: str) -> float:
    """About how many letters' time it takes to say `word`."""
    if CJK.match(word):
        return 3
    return 1 + sum(4 if char.isdigit() else 1 for char in word)


def _rest(gap: str) -> float:
    """About how many letters' time is silent between two words."""
    return 4 if _PAUSE.search(gap) else 0


async def unstalled(stream: AsyncIterator[T], stall_s: float) -> AsyncGenerator[T, None]:
    """What `stream` gives; EngineFailed once it has given nothing for `stall_s`. Closes `stream`."""
    async with closing(stream):
        while True:
            try:
                async with asyncio.timeout(stall_s):
                    item = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise EngineFailed("the speech engine did not answer in time") from error
            yield item
