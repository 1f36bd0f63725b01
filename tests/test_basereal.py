"""The promises of a session, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from basereal import AHEAD, CHUNKS, UTTERANCES
from core.avatar import Clip
from core.errors import BadRequest, EngineFailed, Overloaded
from core.media import TICK_S, Voice
from minds.mind import Source
from minds.tools import Action
from tests.fakes.person import ScriptLLM, ToneTTS, make_avatar, tone
from tests.fakes.virtual import AVATAR, InlineWorker, in_virtual_time, runs, staged
from ttsreal import BaseTTS, Speech, estimate_words


@in_virtual_time
async def test_a_tick_is_shown_every_40_ms_whatever_happens() -> None:
    async with staged() as stage:
        await asyncio.sleep(4)
        stage.real.put_msg_txt("Hello there")
        await asyncio.sleep(4)
        numbers = [tick.number for tick in stage.watcher.ticks]
        assert list(runs(numbers)) == [(0, numbers[-1])]
        assert len(numbers) in {200, 201}
        assert np.allclose(np.diff(stage.watcher.times), TICK_S, atol=1e-4)


@in_virtual_time
async def test_the_first_word_never_queues_behind_silence() -> None:
    async with staged() as stage:
        await asyncio.sleep(60)
        asked = stage.real.clock.position
        stage.real.put_msg_txt("Hello")
        await asyncio.sleep(2)
        assert stage.watcher.voiced()[0] - asked <= 3


@in_virtual_time
async def test_sound_is_whole_and_the_face_comes_with_it() -> None:
    async with staged() as stage:
        stage.real.put_msg_txt("0123456789")
        await asyncio.sleep(3)
        voiced = stage.watcher.voiced()
        assert list(runs(voiced)) == [(voiced[0], voiced[-1])]
        assert abs(len(voiced) - 25) <= 1  # one second of tone
        assert set(voiced[1:-1]) <= set(stage.watcher.lit()) <= set(voiced)


@in_virtual_time
async def test_flush_is_silent_within_one_tick() -> None:
    async with staged() as stage:
        stage.real.put_msg_txt("a long sentence that goes on and on and on")
        stage.real.put_msg_txt("and another one")
        await asyncio.sleep(1)
        assert stage.real.is_speaking
        stage.real.flush_talk()
        position = stage.real.clock.position
        assert not stage.real.is_speaking
        await asyncio.sleep(5)
        assert stage.watcher.voiced()[-1] <= position
        assert not stage.worker.jobs[-1].tick > position + AHEAD
        assert stage.watcher.flushed == 1


@in_virtual_time
async def test_flush_cancels_llm_and_tts() -> None:
    llm = ScriptLLM()
    llm.script, llm.delay_s = ["One two three. "] * 50, 0.05
    tts = ToneTTS()
    tts.delay_s = 0.15
    async with staged(llm=llm, tts=tts) as stage:
        stage.real.put_msg_txt("tell me", "chat")
        await asyncio.sleep(1)
        assert llm.running == 1 and stage.tts.running == 1
        stage.real.flush_talk()
        await asyncio.sleep(0.05)
        assert (llm.running, stage.tts.running) == (0, 0)
        await asyncio.sleep(5)
        assert len(stage.watcher.voiced()) < 30


@in_virtual_time
async def test_what_comes_after_a_flush_is_heard_at_once() -> None:
    async with staged() as stage:
        stage.real.put_msg_txt("a long sentence that goes on and on and on")
        await asyncio.sleep(1)
        stage.real.flush_talk()
        position = stage.real.clock.position
        stage.real.put_msg_txt("Yes")
        await asyncio.sleep(2)
        after = [number for number in stage.watcher.voiced() if number > position]
        assert after[0] - position <= 4
        assert len(list(runs(after))) == 1


@in_virtual_time
async def test_a_turn_that_only_thinks_is_interrupted_too() -> None:
    llm = ScriptLLM()
    llm.delay_s = 10
    async with staged(llm=llm) as stage:
        stage.real.put_msg_txt("hm?", "chat")
        await asyncio.sleep(1)
        stage.real.flush_talk()
        await asyncio.sleep(30)
        assert llm.running == 0 and not stage.watcher.voiced()


class EndlessTTS(BaseTTS):
    """As fast as it is asked, for ever."""

    given = 0

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        while True:
            self.given += 1
            yield Speech(tone(1.0))


@in_virtual_time
async def test_a_fast_tts_is_slowed_and_never_grows_memory() -> None:
    tts = EndlessTTS()
    async with staged(tts=tts) as stage:
        stage.real.put_msg_txt("for ever")
        await asyncio.sleep(20)
        ahead = tts.given - 20
        await asyncio.sleep(40)
        assert tts.given - 60 <= ahead + 1 <= 20
        assert stage.real._chunks.qsize() <= CHUNKS and len(stage.real._timeline) <= AHEAD + 1


@in_virtual_time
async def test_slow_tts_never_grows_memory() -> None:
    tts = ToneTTS()
    tts.piece_s, tts.delay_s = 0.1, 0.4
    async with staged(tts=tts) as stage:
        stage.real.put_msg_txt("0123456789")
        sizes = []
        for _ in range(50):
            await asyncio.sleep(0.1)
            sizes.append((stage.real._chunks.qsize(), len(stage.real._timeline)))
        assert max(max(size) for size in sizes) <= 8
        assert len(list(runs(stage.watcher.voiced()))) >= 8  # sound is shown as it comes, never held back
        assert np.allclose(np.diff(stage.watcher.times), TICK_S, atol=1e-4)


@in_virtual_time
async def test_a_late_face_holds_the_picture_and_not_the_sound() -> None:
    async with staged(worker=InlineWorker(late_s=2.0)) as stage:
        stage.real.put_msg_txt("0123456789")
        await asyncio.sleep(4)
        voiced = stage.watcher.voiced()
        assert len(list(runs(voiced))) == 1 and abs(len(voiced) - 25) <= 1
        assert not stage.watcher.lit()


@in_virtual_time
async def test_a_dead_worker_leaves_the_idle_portrait_and_the_sound() -> None:
    async with staged(worker=InlineWorker(dead=True)) as stage:
        stage.real.put_msg_txt("0123456789")
        await asyncio.sleep(3)
        assert abs(len(stage.watcher.voiced()) - 25) <= 1
        ticks = [tick for tick in stage.watcher.ticks if tick.number in set(stage.watcher.voiced())]
        assert all((tick.image == AVATAR.image(AVATAR.index(tick.number))).all() for tick in ticks[10:])


@in_virtual_time
async def test_events_are_in_order_and_true_when_seen() -> None:
    async with staged() as stage:
        stage.real.put_msg_txt("Hello big world")
        await asyncio.sleep(3)
        assert stage.kinds() == ["speak-start", "sentence", "word", "word", "word", "speak-end"]
        first = stage.watcher.voiced()[0]
        assert abs(stage.events[0].time_ms / 40 - first) <= 1
        assert [event.data.get("text") for event in stage.events[2:5]] == ["Hello", "big", "world"]
        assert stage.events[0].data["status"] == "start" and stage.events[-1].data["status"] == "end"


@in_virtual_time
async def test_history_keeps_what_was_heard() -> None:
    llm = ScriptLLM()
    llm.script = ["One two three. ", "Four five six. ", "Seven eight nine."]
    async with staged(llm=llm) as stage:
        stage.real.put_msg_txt("count", "chat")
        while not (stage.events and stage.events[-1].data.get("text") == "five"):
            await asyncio.sleep(0.05)
        stage.real.flush_talk()
        interrupted = next(event for event in stage.events if event.kind == "interrupted")
        assert interrupted.data["heard"] == "One two three. Four five"
        stage.real.put_msg_txt("go on", "chat")
        await asyncio.sleep(10)
        assistant = [message["content"] for message in llm.asked[1] if message["role"] == "assistant"]
        assert len(assistant) == 1 and assistant[0].startswith("One two three. Four five") and "six" not in assistant[0]


class FailingTTS(ToneTTS):
    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        if "bad" in text:
            raise EngineFailed("no voice for this")
        async for speech in super().stream(text, voice):
            yield speech


@in_virtual_time
async def test_a_failed_sentence_is_skipped_with_an_event() -> None:
    async with staged(tts=FailingTTS()) as stage:
        stage.real.put_msg_txt("This one is good. This one is bad. And the last is good again.")
        await asyncio.sleep(10)
        assert stage.kinds().count("error") == 1 and stage.kinds()[-1] == "speak-end"
        spoken = [event.data["text"] for event in stage.events if event.kind == "sentence"]
        assert "This one is good." in spoken and "And the last is good again." in spoken
        assert stage.real._quiet.is_set()


class BreakingTTS(ToneTTS):
    """Breaks off in the middle of what is bad."""

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        words = estimate_words(text, 2000)
        yield Speech(tone(1.0), tuple(word for word in words if word.start_ms < 1000))
        if "bad" in text:
            raise EngineFailed("the voice broke off")
        yield Speech(tone(1.0), tuple(word for word in words if word.start_ms >= 1000))


@in_virtual_time
async def test_what_a_broken_voice_did_not_say_is_not_remembered() -> None:
    llm = ScriptLLM()
    llm.script = ["This will go bad in the very middle of it. ", "But this is whole."]
    async with staged(llm=llm, tts=BreakingTTS()) as stage:
        stage.real.put_msg_txt("tell me", "chat")
        await asyncio.sleep(10)
        answer = stage.real.history.messages[-1]["content"]
        assert answer.startswith("This will go") and "middle of it" not in answer
        assert answer.endswith("But this is whole.")


@in_virtual_time
async def test_is_speaking_bridges_the_gap_between_sentences() -> None:
    tts = ToneTTS()
    tts.piece_s, tts.delay_s = 0.3, 0.35
    async with staged(tts=tts) as stage:
        stage.real.put_msg_txt("0123456789")
        await asyncio.sleep(1)
        seen = []
        for _ in range(20):
            seen.append(stage.real.is_speaking)
            await asyncio.sleep(0.04)
        assert all(seen)
        await stage.real.until_quiet()
        await asyncio.sleep(0.6)
        assert not stage.real.is_speaking


@in_virtual_time
async def test_a_full_queue_is_an_error_and_not_a_hang() -> None:
    async with staged() as stage:
        with pytest.raises(Overloaded):
            for _ in range(UTTERANCES + 2):
                stage.real.put_msg_txt("a sentence of some length")


@in_virtual_time
async def test_an_unknown_avatar_is_refused_and_another_one_speaks() -> None:
    other = make_avatar("other", (64, 64), 10, tint=60)
    async with staged(avatars={"main": AVATAR, "other": other}) as stage:
        with pytest.raises(BadRequest):
            stage.real.put_msg_txt("hi", avatar="nobody")
        stage.real.put_msg_txt("hi", avatar="other")
        await asyncio.sleep(2)
        assert stage.worker.jobs[0].avatar is other
        assert (stage.watcher.ticks[-1].image == other.image(other.index(stage.watcher.ticks[-1].number))).all()


@in_virtual_time
async def test_an_audio_file_is_spoken_to_its_last_sample() -> None:
    async with staged() as stage:
        stage.real.put_audio_file(tone(1.01))
        await asyncio.sleep(3)
        heard = np.flatnonzero(np.concatenate([tick.samples for tick in stage.watcher.ticks]))
        assert abs(heard[-1] - heard[0] - 1.01 * 16000) < 40
        assert stage.kinds() == ["speak-start", "speak-end"]


@in_virtual_time
async def test_custom_states_cross_fade_and_speech_wins() -> None:
    clip = Clip(2, np.full((10, 64, 64, 3), 10, np.uint8))
    async with staged(clips={2: clip}) as stage:
        await asyncio.sleep(0.4)
        assert stage.real.set_custom_state(2)
        await asyncio.sleep(1)
        levels = [float(tick.image.mean()) for tick in stage.watcher.ticks]
        assert levels[-1] == 10
        assert max(-np.diff(levels)) < (levels[0] - 10) / 3  # no jump
        stage.real.put_msg_txt("Hello")
        await asyncio.sleep(0.4)
        assert stage.watcher.ticks[-1].image.mean() > 250
        await asyncio.sleep(3)
        assert stage.watcher.ticks[-1].image.mean() == 10
        assert not stage.real.set_custom_state(7)
        assert stage.real.portrait.audiotype == 2


@in_virtual_time
async def test_an_action_is_played_once_and_then_it_is_as_before() -> None:
    wave, calm = (Clip(kind, np.full((10, 64, 64, 3), level, np.uint8), name=name) for kind, level, name in CLIPS)
    async with staged(clips={2: wave, 3: calm}) as stage:
        stage.real.set_custom_state(3)
        await asyncio.sleep(0.6)
        for _ in range(2):  # again before it has ended
            stage.real._told(1, Action("play_action", {"name": "wave"}))
            await asyncio.sleep(0.3)
        assert stage.watcher.ticks[-1].image.mean() == 10
        await asyncio.sleep(1)
        assert stage.watcher.ticks[-1].image.mean() == 200 and stage.real.portrait.audiotype == 3
        assert [event.data.get("name") for event in stage.events if event.kind == "action"] == ["wave", "wave"]


CLIPS = ((2, 10, "wave"), (3, 200, ""))


@in_virtual_time
async def test_what_an_answer_draws_on_is_told_and_a_state_is_set() -> None:
    async with staged(clips={2: Clip(2, np.zeros((5, 64, 64, 3), np.uint8))}) as stage:
        stage.real._told(7, Source("prices.md"))
        stage.real._told(7, Action("set_state", {"audiotype": 2}))
        assert [(event.kind, dict(event.data)) for event in stage.events] == [
            ("source", {"utterance": 7, "name": "prices.md"}),
            ("state", {"audiotype": 2}),
        ]


@in_virtual_time
async def test_a_clip_with_sound_ends_in_state_1() -> None:
    clip = Clip(3, np.full((10, 64, 64, 3), 10, np.uint8), tone(1.0))
    async with staged(clips={3: clip}) as stage:
        stage.real.set_custom_state(3)
        await asyncio.sleep(3)
        assert abs(len(stage.watcher.voiced()) - 25) <= 1
        assert stage.real.portrait.audiotype == 1
        assert [event.data["audiotype"] for event in stage.events] == [3, 1]
        assert not stage.real.is_speaking


@in_virtual_time
async def test_reinit_false_resumes_where_the_clip_was_left() -> None:
    clip = Clip(2, np.stack([np.full((64, 64, 3), level, np.uint8) for level in range(100)]))
    async with staged(clips={2: clip}) as stage:
        stage.real.set_custom_state(2)
        await asyncio.sleep(1)
        stage.real.set_custom_state(0)
        await asyncio.sleep(1)
        stage.real.set_custom_state(2, reinit=False)
        await asyncio.sleep(0.4)
        assert 25 <= stage.watcher.ticks[-1].image.mean() <= 40
        stage.real.set_custom_state(2, reinit=True)
        await asyncio.sleep(0.4)
        assert stage.watcher.ticks[-1].image.mean() <= 12


@in_virtual_time
async def test_a_mouth_that_stops_closes_over_three_ticks() -> None:
    async with staged() as stage:
        stage.real.put_msg_txt("a long sentence that goes on and on and on")
        await asyncio.sleep(1)
        stage.real.flush_talk()
        await asyncio.sleep(1)
        last = stage.watcher.lit()[-1]
        start = stage.watcher.ticks[0].number
        levels = [float(stage.watcher.ticks[last - start + i].image.mean()) for i in range(6)]
        idle = levels[-1]
        assert levels[0] > levels[1] > levels[2] > levels[3] > idle - 1
        assert abs(levels[4] - idle) < 2


@in_virtual_time
async def test_a_process_that_was_stopped_skips_the_time_and_loses_no_speech() -> None:
    async with staged() as stage:
        stage.real.put_msg_txt("0123456789" * 3)
        await asyncio.sleep(0.5)
        asyncio.get_running_loop().now += 3  # type: ignore[attr-defined]
        await asyncio.sleep(5)
        voiced = stage.watcher.voiced()
        assert abs(len(voiced) - 75) <= 1
        assert len(list(runs(voiced))) == 2  # before the stop and after it


@in_virtual_time
async def test_a_hold_falls_silent_within_a_tick_and_goes_on_where_it_was() -> None:
    async with staged() as stage:
        stage.real.put_msg_txt("0123456789" * 3)
        await asyncio.sleep(1)
        stage.real.hold_talk()
        held = stage.real.clock.position
        await asyncio.sleep(2)
        assert stage.watcher.voiced()[-1] <= held + 1
        assert not set(range(held + 6, stage.real.clock.position)) & set(stage.watcher.lit())
        stage.real.resume_talk()
        await asyncio.sleep(4)
        voiced = stage.watcher.voiced()
        assert abs(len(voiced) - 75) <= 1 and len(list(runs(voiced))) == 2
        after = [tick for tick in voiced if tick > held + 1]
        assert set(after[2:-1]) <= set(stage.watcher.lit())  # each with its face, also those asked for before
        assert "interrupted" not in stage.kinds()


@in_virtual_time
async def test_a_hold_that_is_flushed_says_nothing_more() -> None:
    async with staged() as stage:
        stage.real.put_msg_txt("0123456789" * 3)
        await asyncio.sleep(1)
        stage.real.hold_talk()
        await asyncio.sleep(0.2)
        stage.real.flush_talk()
        flushed = stage.real.clock.position
        await asyncio.sleep(2)
        assert stage.watcher.voiced()[-1] < flushed
        stage.real.put_msg_txt("0123456789")
        await asyncio.sleep(3)
        after = [tick for tick in stage.watcher.voiced() if tick > flushed]
        assert abs(len(after) - 25) <= 1
        assert min(np.abs(tick.samples).max() for tick in stage.watcher.ticks if tick.number in after[1:-1]) > 8000


@in_virtual_time
async def test_ducking_is_soft_within_a_tick_and_loses_nothing() -> None:
    async with staged() as stage:
        stage.real.put_msg_txt("0123456789" * 2)
        await asyncio.sleep(0.8)
        stage.real.duck_talk()
        ducked = stage.real.clock.position
        await asyncio.sleep(0.4)
        stage.real.resume_talk()
        await asyncio.sleep(3)
        loud = {tick.number: int(np.abs(tick.samples).max()) for tick in stage.watcher.ticks}
        usual = max(loud.values())
        assert loud[ducked - 2] == pytest.approx(usual, rel=0.05)
        assert loud[ducked + 3] == pytest.approx(usual / 4, rel=0.05)
        assert abs(len(stage.watcher.voiced()) - 50) <= 1 and len(list(runs(stage.watcher.voiced()))) == 1


@in_virtual_time
async def test_closing_frees_outputs_and_ends_event_streams() -> None:
    async with staged() as stage:
        reading = asyncio.create_task(_read(stage.real.events()))
        await asyncio.sleep(0.1)
        stage.real.put_msg_txt("Hello")
        await asyncio.sleep(2)
    assert stage.watcher.closed
    assert "speak-end" in await reading


async def _read(events: AsyncIterator[object]) -> list[str]:
    return [event.kind async for event in events]  # type: ignore[attr-defined]
