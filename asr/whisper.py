"""Whisper: ninety-nine languages on one CPU thread pool or a GPU, by faster-whisper (MIT, weights MIT).

The cost of a call is its encoder, which is made for 30 s of sound whatever there is. On a CPU it gets the speech and
2 s of silence instead: four to five times cheaper for a sentence, as right. What that can do wrong (say a phrase over
and over, never end, guess) is noticed, and read again in the full window.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer

from asr.vad import FRAME_MS, FRAME_SAMPLES, SileroVAD
from asrreal import ASRSettings, BaseASR, Transcript
from core.errors import EngineFailed
from core.media import SAMPLE_RATE, Pcm

FULL_SAMPLES = 30 * SAMPLE_RATE
SILENCE_SAMPLES = 2 * SAMPLE_RATE  # with less behind the speech the decoder goes round in circles
EDGE_SAMPLES = SAMPLE_RATE * 2 // 5  # half of it costs a tenth of the words
PAIR_SAMPLES = 320  # two mel frames: the encoder takes an even number
MIN_SPEECH_MS = 250
MAX_WAITING = 16
TOKENS_PER_S = 12
SPARE_TOKENS = 8
DOUBTFUL = -0.9  # mean log probability of a token below which a text is read again
GUESSED = -2.0  # below which it is nothing
UNSURE = -1.0  # below which it is nothing if the model thinks so too
NO_SPEECH = 0.5
SIMPLIFIED = "以下是普通话的句子。"  # Chinese after this stays in simplified characters
HALF_A_CHARACTER = "\ufffd"  # where the text was cut off
FILES = ("model.bin", "config.json", "tokenizer.json")

_LOOP = re.compile(r"(\w.{2,}?\w)(?:\W*\1){2,}", re.DOTALL)
_TWICE = re.compile(r"(.{4,}?)\1")
_INVENTED = re.compile(  # what subtitles say where nobody speaks, letters only
    r"以下是普通话的句子|字幕志愿者|字幕[由by]|字幕制作|点赞订阅|订阅转发|明镜与点点|(?:谢谢|感谢)(?:大家)?(?:的)?(?:观看|收看)"
    r"|thank(?:s|you)(?:somuch)?forwatching|amaraorg|subscribetomychannel|ご視聴ありがとうございました|^you$"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model made of a sound: `confidence` is a token's mean log probability, `full` whether it was cut off."""

    text: str
    language: str
    confidence: float
    no_speech: float
    full: bool

    @property
    def doubtful(self) -> bool:
        """Whether another look may give another text."""
        return self.full or self.confidence < DOUBTFUL or bool(_TWICE.search(_letters(self.text)))

    @property
    def empty(self) -> bool:
        """Whether it is no text at all, or one that the model made up."""
        said = _letters(self.text)
        guessed = self.confidence < GUESSED or (self.confidence < UNSURE and self.no_speech > NO_SPEECH)
        return guessed or not said or bool(_INVENTED.search(said))


class WhisperASR(BaseASR):
    """The model in `models/whisper-<model>`: int8 on a CPU, float16 on CUDA. Nothing is ever downloaded.

    One thread holds it. At most MAX_WAITING calls wait; one whose caller has gone is skipped before it runs.
    """

    def __init__(self, settings: ASRSettings | None = None) -> None:
        super().__init__(settings)
        self._thread = ThreadPoolExecutor(1, "whisper")
        self._waiting = 0

    async def start(self) -> None:
        await self._run(self._warm_up)

    async def transcribe(self, pcm: Pcm) -> Transcript:
        """Silence, noise, less than 250 ms of speech and what is not finite are ""; of more than 30 s the last count.

        On two CPU threads about 100 ms for a sentence, and half a second more where it is read again.
        """
        return await self._run(lambda: self._hear(pcm[-FULL_SAMPLES:]))

    async def aclose(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], Transcript]) -> Transcript:
        if self._waiting >= MAX_WAITING:
            raise EngineFailed("speech recognition is overloaded")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineFailed("speech recognition failed") from error
        finally:
            self._waiting -= 1

    def _warm_up(self) -> Transcript:
        reading = self._read(np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE)
        return Transcript("", reading.language)

    def _hear(self, pcm: Pcm) -> Transcript:
        speech = _speech(pcm)
        if not speech.size:
            return Transcript("")
        window = FULL_SAMPLES if self._on_gpu else min(len(speech) + SILENCE_SAMPLES, FULL_SAMPLES)
        reading = self._read(speech, window)
        if reading.doubtful and window < FULL_SAMPLES:
            reading = self._read(speech, FULL_SAMPLES)
        return Transcript("") if reading.empty else Transcript(_LOOP.sub(r"\1", reading.text), reading.language)

    def _read(self, speech: Pcm, window_samples: int) -> Reading:
        """`speech` at the beginning of a window of silence, encoded and decoded once, greedily."""
        model = self._model
        encoded = model.encode(model.feature_extractor(_padded(speech, window_samples), padding=0))
        language = self._language or model.model.detect_language(encoded)[0][0][0].strip("<|>")
        tokenizer = Tokenizer(model.hf_tokenizer, model.model.is_multilingual, "transcribe", language)
        before = tokenizer.encode(f" {SIMPLIFIED}") if language == "zh" else []
        prompt = model.get_prompt(tokenizer, before, without_timestamps=True)
        most = SPARE_TOKENS + TOKENS_PER_S * len(speech) // SAMPLE_RATE
        asked = {"beam_size": 1, "return_scores": True, "return_no_speech_prob": True}
        answer = model.model.generate(encoded, [prompt], max_length=len(prompt) + most, **asked)[0]
        tokens = answer.sequences_ids[0]
        text = tokenizer.decode(tokens).strip(HALF_A_CHARACTER + " ")
        return Reading(text, language, answer.scores[0], answer.no_speech_prob, len(tokens) >= most)

    @cached_property
    def _model(self) -> WhisperModel:
        name = f"whisper-{self.settings.model}"
        folder = self.settings.models / name
        if not all((folder / file).is_file() for file in FILES):
            raise EngineFailed(f"there is no speech recognition model: python scripts/fetch_models.py {name}")
        return _load(folder, "cuda" if self._on_gpu else "cpu")

    @cached_property
    def _language(self) -> str:
        """The language that is always spoken, "" if each sound must tell. EngineFailed if the model cannot hear it."""
        wish = self.settings.language.lower().partition("-")[0]
        known = self._model.supported_languages
        if wish and wish not in known:
            raise EngineFailed(f"the speech recognition model does not know the language '{wish}'")
        return wish or (known[0] if len(known) == 1 else "")

    @cached_property
    def _on_gpu(self) -> bool:
        asked = self.settings.device
        return asked == "cuda" or (asked == "auto" and ctranslate2.get_cuda_device_count() > 0)


def _load(folder: Path, device: str) -> WhisperModel:
    threads = min(4, os.cpu_count() or 1)
    compute_type = "float16" if device == "cuda" else "int8"
    return WhisperModel(str(folder), device, compute_type=compute_type, cpu_threads=threads, local_files_only=True)


def _speech(pcm: Pcm) -> Pcm:
    """`pcm` from 400 ms before the first to 400 ms after the last of its speech; empty if there is hardly any."""
    if not np.isfinite(pcm).all():
        return pcm[:0]
    frames = np.flatnonzero(np.array(SileroVAD().push(pcm)) > 0.5)
    if len(frames) * FRAME_MS < MIN_SPEECH_MS:
        return pcm[:0]
    start, end = int(frames[0]) * FRAME_SAMPLES, int(frames[-1] + 1) * FRAME_SAMPLES
    return pcm[max(0, start - EDGE_SAMPLES) : end + EDGE_SAMPLES]


def _padded(speech: Pcm, samples: int) -> Pcm:
    """`speech` and silence behind it, `samples` in all, and as many more as fill a pair of mel frames."""
    window = np.zeros(-(-samples // PAIR_SAMPLES) * PAIR_SAMPLES, np.float32)
    window[: len(speech)] = speech
    return window


def _letters(text: str) -> str:
    """The letters and digits of `text` alone, in lower case."""
    return re.sub(r"[\W_]", "", text).lower()
