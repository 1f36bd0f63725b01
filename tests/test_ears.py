"""What one session hears, from the microphone's packets to what the avatar does, in a drawn room and media time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from asr.ears import Ears
from asr.echo import EchoCanceller
from asr.reactions import Duck, Failed, Hold, Interrupt, Level, Partial, Reaction, Restore, Turn
from asrreal import BaseASR, Transcript
from core.errors import EngineFailed
from core.media import SAMPLE_RATE, SILENT_TICK, Pcm
from scripts.bench_ears import SPEECH, Recogniser, Room, Scene, make_scene, span, speech, utterances
from tests.fakes.virtual import in_virtual_time

needs_speech = pytest.mark.skipif(not SPEECH.is_dir(), reason="../shared/data/speech is not there")


class Loudness:
    """A voice detector for which all that is loud is speech."""

    def __init__(self) -> None:
        self._samples, self._energy = 0, 0.0

    def push(self, pcm: Pcm) -> list[float]:
        self._samples += len(pcm)
        self._energy += float(np.dot(pcm, pcm))
        if self._samples < 512:
            return []
        loud = self._energy > 512e-5
        self._samples, self._energy = self._samples - 512, 0.0
        return [0.9 if loud else 0.1]

    def reset(self) -> None:
        self._samples, self._energy = 0, 0.0


def voice(seconds: float, seed: int = 1) -> Pcm:
    """Noise as loud as speech."""
    noise = np.random.default_rng(seed).standard_normal(int(seconds * SAMPLE_RATE))
    return (0.1 * np.convolve(noise, [0.3, 0.5, 0.3], "same")).astype(np.float32)


class Headset(EchoCanceller):
    """Takes nothing out, as there is nothing: real cancellers do not like noise for voices."""

    cancels = True

    def __init__(self) -> None:
        super().__init__()
        self._aec = None


def knowing(text: str, *then: str) -> Recogniser:
    """A recogniser that takes 200 ms and understands these texts, the last of them again and again."""
    texts = iter([text, *then])
    last = [text]

    def know() -> str:
        last[0] = next(texts, last[0])
        return last[0]

    return Recogniser(knows=know)


@asynccontextmanager
async def scene(
    asr: Recogniser | None = None, *, warm: bool = True, talking: bool = True, **ears: Any
) -> AsyncIterator[Scene]:
    """A scene whose presenter has been speaking for three seconds, or is silent; its detector goes by loudness."""
    stage = make_scene(voice(60, seed=0), Room(echo_db=-90), asr, vad=Loudness(), echo=Headset(), **ears)
    stage.presenter.speaking = talking
    listening = asyncio.create_task(stage.ears.run())
    await stage.pause(3 if warm else 0.2)
    assert stage.log == []
    try:
        yield stage
    finally:
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening


def reactions(stage: Scene) -> list[Reaction]:
    return [reaction for _, reaction in stage.log]


def kinds(stage: Scene) -> list[type[Reaction]]:
    return [type(reaction) for reaction in reactions(stage)]


# Over the avatar's voice.


@needs_speech
async def test_it_does_not_hear_itself() -> None:
    stage = make_scene(speech("train", 25), Room(3, echo_db=-12))
    await stage.pause(25)
    assert stage.log == []
    assert stage.ears.echo.kind == "cancelled here"


@needs_speech
async def test_a_real_voice_interrupts_a_real_voice() -> None:
    text, pcm = next(utterances("test"))
    stage = make_scene(speech("train", 15), Room(), Recogniser(knows=lambda: text))
    listening = asyncio.create_task(stage.ears.run())
    await stage.pause(5)
    start_s = stage.now_s + span(pcm)[0]
    await stage.live(pcm)
    await stage.pause(3)
    listening.cancel()
    assert stage.times(Duck)[0] - start_s < 0.35
    assert stage.times(Hold, Interrupt)[0] - start_s < 0.8
    assert [reaction.text for reaction in reactions(stage) if isinstance(reaction, Turn)] == [text]


async def test_a_cough_does_not_interrupt() -> None:
    async with scene() as stage:
        await stage.live(voice(0.12))
        await stage.pause(1)
        assert kinds(stage) == [Duck, Restore]
        assert stage.times(Restore)[0] - stage.times(Duck)[0] < 0.5
        assert stage.presenter.gain == 1 and stage.presenter.speaking


async def test_a_back_channel_restores_where_it_stopped() -> None:
    async with scene(knowing("uh-huh")) as stage:
        await stage.live(voice(0.4))
        held_at = stage.presenter.position
        assert stage.presenter.held
        await stage.pause(0.3)
        assert stage.presenter.position == held_at
        await stage.pause(1)
        assert kinds(stage) == [Duck, Hold, Partial, Restore, Partial]
        assert reactions(stage)[-1] == Partial("")
        assert stage.presenter.position > held_at and stage.presenter.speaking


async def test_a_stop_word_interrupts_at_once() -> None:
    async with scene(knowing("停")) as stage:
        start_s = stage.now_s
        await stage.live(voice(0.24))
        await stage.pause(2)
        assert kinds(stage) == [Duck, Partial, Interrupt]
        assert stage.times(Interrupt)[0] - start_s < 0.24 + 0.128 + 0.2 + 0.06
        assert reactions(stage)[-1] == Interrupt("停")


async def test_speech_that_lasts_interrupts_and_becomes_a_turn() -> None:
    async with scene(knowing("what does", "what does it cost?")) as stage:
        start_s = stage.now_s
        await stage.live(voice(1.5))
        await stage.pause(2)
        assert kinds(stage) == [Duck, Hold, Partial, Interrupt, Partial, Turn]
        assert stage.times(Duck)[0] - start_s < 0.25
        assert stage.times(Hold)[0] - start_s < 0.4
        assert stage.times(Interrupt)[0] - start_s < 0.8
        assert not stage.presenter.speaking


async def test_a_stop_word_understood_late_still_interrupts() -> None:
    async with scene(Recogniser(knows=lambda: "等一下", cost_s=1.6)) as stage:
        await stage.live(voice(0.4))
        await stage.pause(3)
        assert kinds(stage) == [Duck, Hold, Restore, Interrupt]


async def test_an_answer_as_the_avatar_ends_is_a_turn() -> None:
    async with scene(knowing("好的")) as stage:
        stage.ears.played(stage.presenter.tick(), ending=True)
        stage.presenter.speaking = False
        await stage.live(voice(0.4))
        await stage.pause(2)
        assert kinds(stage) == [Partial, Turn]


async def test_what_the_avatar_said_is_not_a_turn() -> None:
    asked: list[float] = []

    def said(seconds: float) -> str:
        asked.append(seconds)
        return "The museum opens at nine in the morning."

    async with scene(knowing("opens at nine in the"), talking=False, said=said) as stage:
        await stage.live(voice(1))
        await stage.pause(3)
        assert stage.log == []
        assert all(3 < seconds < 8 for seconds in asked)


async def test_a_flush_by_others_restores_and_leaves_the_speech_a_turn() -> None:
    async with scene(knowing("hello there")) as stage:
        await stage.live(voice(0.4))
        stage.presenter.speaking = False
        stage.ears.flushed()
        stage.ears.flushed()
        await stage.live(voice(0.4))
        await stage.pause(2)
        assert kinds(stage) == [Duck, Hold, Restore, Partial, Turn]


@needs_speech
async def test_without_a_canceller_it_does_not_hear_itself_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pywebrtc_audio", None)
    stage = make_scene(speech("train", 15), Room(echo_db=-15))
    await stage.pause(15)
    assert stage.log == []
    assert stage.ears.echo.kind == "not cancelled"
    await stage.live(3 * speech("test", 3)[: 3 * SAMPLE_RATE])
    assert Interrupt in kinds(stage)


# The turn.


async def test_a_sentence_is_a_turn() -> None:
    async with scene(knowing("It is late."), talking=False) as stage:
        await stage.live(voice(1))
        end_s = stage.now_s
        await stage.pause(2)
        partial, turn = reactions(stage)
        assert partial == Partial("It is late.")
        assert turn == Turn("It is late.", "en", 608, turn.asr_ms)  # type: ignore[union-attr]
        assert stage.times(Turn)[0] - end_s < 0.7


async def test_a_pause_inside_a_sentence_does_not_end_it() -> None:
    async with scene(knowing("I would like the", "I would like the red one."), talking=False) as stage:
        await stage.live(np.concatenate([voice(1), np.zeros(12_000, np.float32), voice(1)]))
        await stage.pause(2)
        assert reactions(stage)[:2] == [Partial("I would like the"), Partial("I would like the red one.")]
        assert kinds(stage)[2:] == [Turn]


async def test_the_recogniser_is_asked_once_a_pause() -> None:
    asked: list[int] = []

    class Counting(BaseASR):
        async def transcribe(self, pcm: Pcm) -> Transcript:
            asked.append(len(pcm))
            return Transcript("so then", "en")

    async with scene(talking=False) as stage:
        stage.ears._asr = Counting()
        await stage.live(np.concatenate([voice(2), np.zeros(8000, np.float32), voice(2)]))
        await stage.pause(3)
        assert len(asked) == 2


async def test_a_question_that_is_out_of_date_is_dropped() -> None:
    asked: list[int] = []
    gate = asyncio.Event()

    class Stuck(BaseASR):
        async def transcribe(self, pcm: Pcm) -> Transcript:
            asked.append(len(pcm))
            await gate.wait()
            return Transcript("and so on")

    async with scene(talking=False) as stage:
        stage.ears._asr = Stuck()
        phrase = np.concatenate([voice(0.5), np.zeros(8000, np.float32)])
        await stage.live(np.tile(phrase, 4))
        assert len(asked) == 1
        gate.set()
        await stage.pause(3)
        assert len(asked) == 2 and asked[1] > 3 * asked[0]


async def test_the_voice_is_judged_too() -> None:
    class Doubtful:
        def complete(self, pcm: Pcm, silent_samples: int) -> float:
            assert silent_samples == 7 * 512
            return 0.1

    async with scene(knowing("It is late."), talking=False, smart_turn=Doubtful()) as stage:
        await stage.live(voice(1))
        await stage.pause(2)
        turn = reactions(stage)[-1]
        assert isinstance(turn, Turn) and 1000 <= turn.endpoint_ms < 1050


async def test_a_judge_that_fails_is_not_asked_again_and_turns_still_end() -> None:
    asked: list[int] = []

    class Broken:
        def complete(self, pcm: Pcm, silent_samples: int) -> float:
            asked.append(silent_samples)
            raise EngineFailed("smart-turn gave no answer")

    async with scene(knowing("It is late."), talking=False, smart_turn=Broken()) as stage:
        for _ in range(2):
            await stage.live(voice(1))
            await stage.pause(2)
        turns = [reaction for reaction in reactions(stage) if isinstance(reaction, Turn)]
        assert len(turns) == 2 and len(asked) == 1
        assert all(600 <= turn.endpoint_ms < 650 for turn in turns)


async def test_what_is_too_short_for_a_word_is_nobodys_turn() -> None:
    async with scene(knowing("you"), talking=False) as stage:
        await stage.live(voice(0.15))
        await stage.pause(3)
        assert stage.log == []


async def test_speech_without_end_is_cut_at_30_s() -> None:
    listener = Listener(Saying("on and on"))
    listening = asyncio.create_task(listener.ears.run())
    for second in range(70):
        listener.ears.push(voice(1) * (second < 65), second * SAMPLE_RATE)
        await asyncio.sleep(0.001)
    listening.cancel()
    assert listener.kinds().count(Turn) == 3


async def test_a_recogniser_that_fails_is_told_and_the_session_lives() -> None:
    class Failing(BaseASR):
        fails = True

        async def transcribe(self, pcm: Pcm) -> Transcript:
            if self.fails:
                raise EngineFailed("the speech recogniser does not answer")
            return Transcript("here again")

    async with scene(talking=False) as stage:
        stage.ears._asr = asr = Failing()
        await stage.live(voice(0.5))
        await stage.pause(3)
        assert reactions(stage) == [Failed("the speech recogniser does not answer")]
        asr.fails = False
        await stage.live(voice(0.5))
        await stage.pause(3)
        assert kinds(stage)[1:] == [Partial, Turn]


@in_virtual_time
async def test_a_sentence_is_over_when_its_sound_stops_arriving() -> None:
    listener = Listener(Saying("are you there"))
    listening = asyncio.create_task(listener.ears.run())
    for at in range(0, SAMPLE_RATE, 320):
        listener.ears.push(voice(0.02), at)
        await asyncio.sleep(0.02)
    await asyncio.sleep(5)
    listening.cancel()
    assert listener.kinds() == [Partial, Turn]


# The microphone's packets.


class Saying(BaseASR):
    """A recogniser that always understands the same."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._text = text

    async def transcribe(self, pcm: Pcm) -> Transcript:
        return Transcript(self._text, "en")


class Listener:
    """Ears without an avatar that keep every block they take."""

    def __init__(self, asr: BaseASR | None = None) -> None:
        self.told: list[Reaction] = []
        self.ears = Ears(asr or Saying(), self.told.append, vad=Loudness(), echo=Headset())
        self.heard: list[Pcm] = []
        take = self.ears._take_block

        def keep(block: Pcm) -> None:
            self.heard.append(block.copy())
            take(block)

        self.ears._take_block = keep  # type: ignore[method-assign]

    def kinds(self) -> list[type[Reaction]]:
        return [type(reaction) for reaction in self.told if not isinstance(reaction, Level)]

    def sound(self) -> Pcm:
        return np.concatenate(self.heard)


async def test_gaps_become_silence() -> None:
    listener, pcm = Listener(), voice(1)
    for at in (0, 320, 960, 1280):
        listener.ears.push(pcm[at : at + 320], 70_000 + at)
    expected = pcm[:1600].copy()
    expected[640:960] = 0
    assert np.array_equal(listener.sound(), expected)


async def test_late_and_repeated_packets_are_left_out() -> None:
    listener, pcm = Listener(), voice(1)
    for at in (0, 320, 320, 0, 640, 480, 960):
        listener.ears.push(pcm[at : at + 320], at)
    assert np.array_equal(listener.sound(), pcm[:1280])


async def test_stamps_that_are_off_by_a_little_leave_no_gap() -> None:
    listener, pcm = Listener(), voice(1)
    for at in range(0, 3200, 320):
        listener.ears.push(pcm[at : at + 320], at + (at // 320) % 2)
    assert np.array_equal(listener.sound(), pcm[:3200])


@pytest.mark.parametrize("jump", [10**6, -(10**6)])
async def test_a_jump_starts_anew(jump: int) -> None:
    listener, pcm = Listener(), voice(1)
    listener.ears.push(pcm[:3200], 2 * 10**6)
    listener.ears.push(pcm[3200:6400], 2 * 10**6 + jump)
    sound = listener.sound()
    assert len(sound) == 6400 + 6400
    assert np.array_equal(sound[-3200:], pcm[3200:6400])


async def test_a_packet_of_any_length_is_taken() -> None:
    listener, pcm, at = Listener(), voice(2), 0
    for length in (0, 1, 159, 441, 7, 4000, 320):
        listener.ears.push(pcm[at : at + length], at)
        at += length
    assert np.array_equal(listener.sound(), pcm[: at // 160 * 160])


async def test_what_is_no_number_is_silence_and_what_is_too_loud_is_cut() -> None:
    listener = Listener()
    listener.ears.push(np.array([np.nan, np.inf, -np.inf, 1e30, -5, 0.5] * 80, np.float32), 0)
    assert np.array_equal(listener.sound()[:6], np.array([0, 0, 0, 1, -1, 0.5], np.float32))
    with pytest.raises(ValueError, match="one channel"):
        listener.ears.push(np.zeros((320, 2), np.float32), 480)


async def test_the_level_is_told_ten_times_a_second_at_most() -> None:
    listener = Listener()
    listener.ears.push(voice(2), 0)
    listener.ears.push(np.zeros(SAMPLE_RATE, np.float32), 2 * SAMPLE_RATE)
    levels = [reaction.db for reaction in listener.told if isinstance(reaction, Level)]
    assert len(levels) == 30
    assert -35 < levels[0] < -20 and levels[-1] == -99


class NoEcho:
    """An echo canceller that has nothing to do."""

    sounding = doubtful = talked_over = False
    cancels = True
    path_s = 0.0

    def push(self, block: Pcm) -> Pcm:
        return block

    def played(self, samples: Pcm) -> None:
        return

    def played_within(self, seconds: float) -> bool:
        return False

    def explained(self) -> float:
        return 0.0


@pytest.mark.parametrize(("seconds", "loudness"), [(3600, 0.0), (400, 1.0)])
async def test_an_hour_of_silence_keeps_its_memory(seconds: int, loudness: float) -> None:
    """Some minutes of speech as well, although the recogniser never answers."""
    ears = Ears(Saying(), lambda reaction: None, vad=Loudness(), echo=NoEcho())  # type: ignore[arg-type]
    sound = loudness * voice(1)
    for at in range(seconds):
        ears.push(sound, at * SAMPLE_RATE)
        ears.played(SILENT_TICK)
    assert len(ears._questions) <= 4
    assert sum(len(question.pcm) for question in ears._questions) <= 4 * 31 * SAMPLE_RATE
    assert (ears._speech is not None) == bool(loudness)
    held = [ears._rest, *ears._frame, *ears._before, *(ears._speech.frames if ears._speech else [])]
    assert sum(piece.base.nbytes if piece.base is not None else piece.nbytes for piece in held) < 4_000_000
