"""Whisper: what counts as said, when it looks twice, who waits, and, where its model is, what it makes of speech."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

import asr.whisper
from asr.whisper import EDGE_SAMPLES, FULL_SAMPLES, MAX_WAITING, SILENCE_SAMPLES, Reading, WhisperASR
from asrreal import ASR, ASRSettings, Transcript
from core.audio import decode_audio
from core.errors import EngineFailed
from core.media import SAMPLE_RATE, Pcm
from tests.conftest import SHARED

MODELS = Path(__file__).parent.parent / "models"
SPEECH = SHARED / "data" / "speech"
ENGLISH, CHINESE = ("0141", "0147", "0116"), ("0190", "0227", "0110")
NOISE: Pcm = np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLE_RATE).astype(np.float32)
CLICKS: Pcm = np.where(np.arange(3 * SAMPLE_RATE) % 8000 < 20, 0.8, 0).astype(np.float32)
HUM: Pcm = (0.2 * np.sin(np.arange(3 * SAMPLE_RATE) * 2 * np.pi * 120 / SAMPLE_RATE)).astype(np.float32)
SILENCE: Pcm = np.zeros(2 * SAMPLE_RATE, np.float32)

needs_model = pytest.mark.skipif(
    not (MODELS / "whisper-base").is_dir(), reason="no models/whisper-base: python scripts/fetch_models.py whisper-base"
)
needs_speech = pytest.mark.skipif(not SPEECH.is_dir(), reason="no ../shared/data/speech")


def reading(text: str, confidence: float = -0.2, no_speech: float = 0.1, *, full: bool = False) -> Reading:
    return Reading(text, "en", confidence, no_speech, full)


# What counts as said


@pytest.mark.parametrize(
    "doubted",
    [
        reading("cut", full=True),
        reading("guessed", confidence=-1.0),
        reading("What is your name? What is your name?"),
        reading("批批批批批批批批批批"),
    ],
)
def test_what_may_be_wrong_is_doubted(doubted: Reading) -> None:
    assert doubted.doubtful


@pytest.mark.parametrize("text", ["No, no, no!", "好的好的。", "Bye bye.", "那个，那个问题", "It is what it is."])
def test_what_people_say_twice_is_not_doubted(text: str) -> None:
    assert not reading(text).doubtful


@pytest.mark.parametrize(
    "nothing",
    [
        reading(""),
        reading(" ... "),
        reading("!!!!"),
        reading("1.5cm", confidence=-2.1),
        reading("JANU", confidence=-1.2, no_speech=0.8),
        reading("you"),
        reading("You."),
        reading("Thanks for watching!"),
        reading("Thank you so much for watching."),
        reading("字幕志愿者 杨茜茜"),
        reading("请不吝点赞 订阅 转发 打赏支持明镜与点点栏目"),
        reading("感谢大家的观看!"),
        reading("以下是普通话的句子。"),
        reading("Subtitles by the Amara.org community"),
        reading("ご視聴ありがとうございました"),
    ],
)
def test_what_nobody_said_is_nothing(nothing: Reading) -> None:
    assert nothing.empty


@pytest.mark.parametrize(
    "text", ["Thank you.", "谢谢。", "Are you watching?", "请打开字幕", "I thank you", "嗯。", "I like you", "我要订阅"]
)
def test_what_people_do_say_is_kept(text: str) -> None:
    assert not reading(text).empty
    assert not reading(text, confidence=-0.8, no_speech=0.9).empty
    assert not reading(text, confidence=-1.8, no_speech=0.1).empty


# The two windows


class Scripted(WhisperASR):
    """Reads what it is told to, and remembers the windows; all sound counts as speech."""

    def __init__(self, *readings: Reading, gpu: bool = False) -> None:
        super().__init__()
        self.__dict__["_on_gpu"] = gpu
        self._readings = list(readings)
        self.windows: list[int] = []

    def _read(self, speech: Pcm, window_samples: int) -> Reading:
        self.windows.append(window_samples)
        return self._readings.pop(0)


@pytest.fixture
def all_is_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asr.whisper, "_speech", lambda pcm: pcm)


async def test_speech_and_two_seconds_of_silence_are_enough(all_is_speech: None) -> None:
    engine = Scripted(reading("Hello."))
    assert await engine.transcribe(SILENCE) == Transcript("Hello.", "en")
    assert engine.windows == [len(SILENCE) + SILENCE_SAMPLES]


async def test_what_is_doubted_is_read_again_in_the_full_window(all_is_speech: None) -> None:
    engine = Scripted(reading("Hello, hello, hello, hello"), reading("Hello."))
    assert (await engine.transcribe(SILENCE)).text == "Hello."
    assert engine.windows == [len(SILENCE) + SILENCE_SAMPLES, FULL_SAMPLES]


async def test_a_phrase_that_stays_is_said_once(all_is_speech: None) -> None:
    engine = Scripted(reading("a", full=True), reading("What is it? What is it? What is it? What is it?", full=True))
    assert (await engine.transcribe(SILENCE)).text == "What is it?"


async def test_a_gpu_reads_the_full_window_at_once(all_is_speech: None) -> None:
    engine = Scripted(reading("guess", confidence=-1.0), gpu=True)
    assert (await engine.transcribe(SILENCE)).text == "guess" and engine.windows == [FULL_SAMPLES]


async def test_of_too_long_a_sound_the_last_half_minute_is_read_once(all_is_speech: None) -> None:
    engine = Scripted(reading("x", full=True))
    await engine.transcribe(np.zeros(2 * FULL_SAMPLES, np.float32))
    assert engine.windows == [FULL_SAMPLES]


@pytest.mark.parametrize(
    "pcm",
    [
        pytest.param(SILENCE, id="silence"),
        pytest.param(SILENCE[:0], id="nothing"),
        pytest.param(SILENCE[:100], id="a moment"),
        pytest.param(NOISE, id="noise"),
        pytest.param(CLICKS, id="clicks"),
        pytest.param(HUM, id="hum"),
        pytest.param(np.full(SAMPLE_RATE, np.nan, np.float32), id="NaN"),
        pytest.param(np.full(SAMPLE_RATE, np.inf, np.float32), id="infinite"),
    ],
)
async def test_what_is_no_speech_never_reaches_the_model(pcm: Pcm) -> None:
    engine = Scripted()
    assert await engine.transcribe(pcm) == Transcript("") and not engine.windows


# Who waits


class Held(WhisperASR):
    """Its thread stands still until `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = Event()
        self.heard: list[int] = []

    def _hear(self, pcm: Pcm) -> Transcript:
        assert self.go.wait(10)
        self.heard.append(len(pcm))
        return Transcript(str(len(pcm)))


class Broken(WhisperASR):
    def _hear(self, pcm: Pcm) -> Transcript:
        raise RuntimeError("secret")


async def test_who_has_gone_is_skipped() -> None:
    engine = Held()
    asking = [asyncio.create_task(engine.transcribe(SILENCE[:length])) for length in (1, 2, 3)]
    await asyncio.sleep(0)
    asking[1].cancel()
    await asyncio.wait([asking[1]])
    engine.go.set()
    assert [(await task).text for task in (asking[0], asking[2])] == ["1", "3"]
    assert engine.heard == [1, 3]
    await engine.aclose()


async def test_a_full_queue_is_an_error_and_empties_again() -> None:
    engine = Held()
    asking = [asyncio.create_task(engine.transcribe(SILENCE)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(EngineFailed, match="overloaded"):
        await engine.transcribe(SILENCE)
    engine.go.set()
    await asyncio.gather(*asking)
    assert (await engine.transcribe(SILENCE)).text
    await engine.aclose()


async def test_a_failure_inside_is_a_clear_error() -> None:
    engine = Broken()
    with pytest.raises(EngineFailed, match=r"^speech recognition failed$"):
        await engine.transcribe(SILENCE)


# The model


@pytest.mark.parametrize("name", ["auto", "whisper", "faster-whisper"])
def test_it_is_in_the_table(name: str) -> None:
    assert ASR.load(name) is WhisperASR


async def test_a_missing_model_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "whisper-small").mkdir()
    engine = WhisperASR(ASRSettings(model="small", device="cpu", models=tmp_path))
    with pytest.raises(EngineFailed) as failed:
        await engine.start()
    message = "there is no speech recognition model: python scripts/fetch_models.py whisper-small"
    assert str(failed.value) == message
    await engine.aclose()


async def test_a_broken_model_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "whisper-base").mkdir()
    for name in asr.whisper.FILES:
        (tmp_path / "whisper-base" / name).write_text("{}")
    engine = WhisperASR(ASRSettings(device="cpu", models=tmp_path))
    with pytest.raises(EngineFailed, match=r"^speech recognition failed$"):
        await engine.start()
    await engine.aclose()


@pytest.fixture(scope="module")
def whisper() -> Iterator[WhisperASR]:
    engine = WhisperASR(ASRSettings(device="cpu", models=MODELS))
    yield engine
    asyncio.run(engine.aclose())


@needs_model
async def test_a_language_it_does_not_know_is_an_error() -> None:
    engine = WhisperASR(ASRSettings(device="cpu", language="klingon", models=MODELS))
    with pytest.raises(EngineFailed, match="does not know the language 'klingon'"):
        await engine.start()
    await engine.aclose()


def said(clip: str) -> tuple[Pcm, str]:
    """The sound of a clip, and its text."""
    lines = (json.loads(line) for line in (SPEECH / "index.jsonl").read_text(encoding="utf-8").splitlines())
    return decode_audio(SPEECH / f"{clip}.opus"), next(line["text"] for line in lines if line["id"] == clip)


def errors(spoken: list[str], heard: list[str]) -> int:
    """The fewest changes that make one of the other."""
    row = list(range(len(heard) + 1))
    for at, one in enumerate(spoken, 1):
        diagonal, row[0] = row[0], at
        for to, other in enumerate(heard, 1):
            diagonal, row[to] = row[to], min(row[to] + 1, row[to - 1] + 1, diagonal + (one != other))
    return row[-1]


@needs_model
@needs_speech
async def test_english_is_heard_word_by_word(whisper: WhisperASR) -> None:
    wrong = total = 0
    for clip in ENGLISH:
        pcm, text = said(clip)
        heard = await whisper.transcribe(pcm)
        spoken = re.findall(r"[\w']+", text.lower())
        assert heard.language == "en"
        wrong, total = wrong + errors(spoken, re.findall(r"[\w']+", heard.text.lower())), total + len(spoken)
    assert wrong / total <= 0.05, f"{wrong} of {total} words"


@needs_model
@needs_speech
async def test_chinese_is_heard_in_simplified_characters(whisper: WhisperASR) -> None:
    wrong = total = 0
    for clip in CHINESE:
        pcm, text = said(clip)
        heard = await whisper.transcribe(pcm)
        spoken = re.findall(r"\w", text)
        assert heard.language == "zh"
        wrong, total = wrong + errors(spoken, re.findall(r"\w", heard.text)), total + len(spoken)
    assert wrong / total <= 0.15, f"{wrong} of {total} characters"


@needs_model
@needs_speech
async def test_silence_around_speech_costs_nothing(whisper: WhisperASR, monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[int] = []
    read = whisper._read

    def watched(speech: Pcm, window_samples: int) -> Any:
        windows.append(window_samples)
        return read(speech, window_samples)

    monkeypatch.setattr(whisper, "_read", watched)
    pcm, _ = said(ENGLISH[0])
    alone = await whisper.transcribe(pcm)
    among = await whisper.transcribe(np.concatenate([SILENCE, SILENCE, pcm, SILENCE, SILENCE]))
    assert among.text.lower() == alone.text.lower()
    assert windows[1] <= len(pcm) + SILENCE_SAMPLES + 2 * EDGE_SAMPLES
