"""What a session does about what it hears, in virtual time."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from asr.reactions import Duck, Failed, Hold, Interrupt, Level, Partial, Restore, Turn
from asrreal import BaseASR, Transcript
from core.media import Pcm
from tests.fakes.virtual import Stage, in_virtual_time, runs, staged


class DeafASR(BaseASR):
    async def transcribe(self, pcm: Pcm) -> Transcript:
        return Transcript("")


def steps(stage: Stage) -> list[object]:
    return [event.data["step"] for event in stage.events if event.kind == "barge-in"]


@in_virtual_time
async def test_what_the_user_says_is_told_and_answered() -> None:
    async with staged() as stage:
        stage.real._react(Partial("what time"))
        stage.real._react(Turn("what time is it", "en", 352, 150))
        await asyncio.sleep(5)
        assert stage.kinds()[:3] == ["user-partial", "user-turn", "latency"]
        assert [event.data["text"] for event in stage.events[:2]] == ["what time", "what time is it"]
        assert stage.real.history.messages[0] == {"role": "user", "content": "what time is it"}
        assert stage.watcher.voiced()


@in_virtual_time
async def test_the_latency_of_a_turn_adds_up_and_counts_the_silence_before_it() -> None:
    async with staged() as stage:
        stage.llm.delay_s, stage.tts.delay_s = 0.3, 0.2
        stage.real._react(Turn("what time is it", "en", 352, 300))
        await asyncio.sleep(8)
        (latency,) = [event.data for event in stage.events if event.kind == "latency"]
        assert latency["endpointing_ms"] == 352
        assert latency["asr_ms"] == 224 + 300 - 352  # asked while it was silent
        assert latency["llm_ms"] == pytest.approx(300, abs=20) and latency["tts_ms"] >= 200
        assert 0 <= latency["render_ms"] < 400
        assert latency["total_ms"] == sum(value for key, value in latency.items() if key in SHARES)


SHARES = {"endpointing_ms", "asr_ms", "llm_ms", "tts_ms", "render_ms"}


@in_virtual_time
async def test_typed_chat_has_a_latency_too_and_an_echo_has_none() -> None:
    async with staged() as stage:
        stage.real.put_msg_txt("hello", "chat")
        stage.real.put_msg_txt("hello", "echo")
        await asyncio.sleep(8)
        (latency,) = [event.data for event in stage.events if event.kind == "latency"]
        assert latency["endpointing_ms"] == latency["asr_ms"] == 0


@in_virtual_time
async def test_a_cough_lowers_and_holds_the_voice_and_gives_it_back() -> None:
    async with staged() as stage:
        stage.real.put_msg_txt("0123456789" * 3)
        await asyncio.sleep(1)
        for reaction in (Duck(), Hold()):
            stage.real._react(reaction)
            await asyncio.sleep(0.3)
        stage.real._react(Restore())
        await asyncio.sleep(5)
        assert steps(stage) == ["duck", "hold", "restore"]
        assert abs(len(stage.watcher.voiced()) - 75) <= 1 and len(list(runs(stage.watcher.voiced()))) == 2


@in_virtual_time
async def test_an_interruption_is_silent_within_a_tick_and_history_keeps_what_was_heard() -> None:
    async with staged() as stage:
        stage.real.put_msg_txt("tell me", "chat")
        await asyncio.sleep(1.5)
        stage.real._react(Interrupt("stop"))
        position = stage.real.clock.position
        await asyncio.sleep(3)
        assert stage.watcher.voiced()[-1] <= position
        assert steps(stage) == ["interrupt"] and "interrupted" in stage.kinds()
        answer = stage.real.history.messages[-1]
        assert answer["role"] == "assistant" and answer["content"].endswith("…")


@in_virtual_time
async def test_a_failure_is_told_and_the_session_lives_on() -> None:
    async with staged() as stage:
        stage.real._react(Failed("there is no speech recognition model"))
        stage.real._react(Level(-40.0))
        stage.real.put_msg_txt("hello")
        await asyncio.sleep(3)
        assert stage.kinds()[0] == "error" and "speak-end" in stage.kinds()


@in_virtual_time
async def test_too_many_turns_are_an_error_and_not_a_hang() -> None:
    async with staged() as stage:
        for _ in range(30):
            stage.real._react(Turn("hello", "en", 352, 100))
        await asyncio.sleep(0.1)
        assert "error" in stage.kinds()


@in_virtual_time
async def test_a_server_without_recognition_hears_nothing() -> None:
    async with staged() as stage:
        for place in range(5):
            stage.real.hear(np.zeros(320, np.float32), 320 * place)
        await asyncio.sleep(1)
        assert not stage.kinds() and not stage.task.done()


@in_virtual_time
async def test_silence_and_rubbish_in_the_microphone_change_nothing() -> None:
    async with staged(asr=DeafASR()) as stage:
        rng = np.random.default_rng(0)
        for place in range(200):
            sound = (
                np.zeros(320, np.float32) if place % 2 else rng.choice([np.nan, np.inf, 9.0], 320).astype(np.float32)
            )
            stage.real.hear(sound, 320 * place)
        stage.real.put_msg_txt("hello")
        await asyncio.sleep(3)
        assert stage.kinds()[-1] == "speak-end" and "user-turn" not in stage.kinds()
