"""Conversations of many disturbed turns: nothing is left behind, and history is what was heard."""

from __future__ import annotations

import asyncio
import gc
import random
import re
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

import asrreal
from asr.reactions import Duck, Hold, Interrupt, Partial, Restore, Turn
from core.errors import EngineFailed
from core.media import Event, Voice
from llm import INTERRUPTED, Message
from tests.fakes.live import Voice as Microphone
from tests.fakes.live import connected, serve
from tests.fakes.person import ScriptLLM, ToneTTS
from tests.fakes.virtual import NotingReal, Stage, in_virtual_time, staged
from tests.test_conversation import SPEECH, ScriptASR, events, spoken, until
from ttsreal import Speech

TURNS = 200
GROWTH = 100_000  # bytes over the second half: 1 kB a turn, less than a chunk of sound
WORDS = ("well", "the", "river", "runs", "quiet", "under", "stone", "bridges", "你", "好", "天气", "不错")


class FlakyTTS(ToneTTS):
    """Is slow at times, and now and then loses a sentence."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        self.delay_s = self._chance.choice((0.0, 0.02, 0.3))
        if self._chance.random() < 0.1:
            raise EngineFailed("the voice was lost")
        async for speech in super().stream(text, voice):
            yield speech


class ChattyLLM(ScriptLLM):
    """Answers with one to four short sentences; rarely it breaks off or says nothing."""

    def __init__(self, chance: random.Random, asked: Callable[[Sequence[Message]], None]) -> None:
        super().__init__()
        self._chance = chance
        self._asked = asked

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        self._asked(messages)
        self.running += 1
        try:
            for _ in range(self._chance.choice((0, 1, 1, 2, 3, 4))):
                await asyncio.sleep(self._chance.choice((0.0, 0.1, 0.5)))
                yield " ".join(self._chance.choices(WORDS, k=self._chance.randint(1, 5))) + ". "
                if self._chance.random() < 0.03:
                    raise EngineFailed("the language model broke off")
        finally:
            self.running -= 1


class Ledger(list[Event]):
    """The conversation as it must be, from what the model was asked and what the events say was heard."""

    def __init__(self) -> None:
        super().__init__()
        self._messages: list[Message] = []
        self._words: list[str] = []
        self._sentences: list[str] = []
        self._cut: str | None = None
        self._questions: dict[int, str] = {}
        self.answered = self.interrupted = 0

    def put(self, utterance: int, question: str) -> None:
        self._questions = {**dict([*self._questions.items()][-20:]), utterance: question}

    def asked(self, messages: Sequence[Message]) -> None:
        """A model is asked. It must be told all that was heard, and of what was not, that there was something."""
        *before, question = messages[1:]
        self._unanswered()
        self.check(before)
        self._messages = [*self._messages[-60:], question]

    def _unanswered(self) -> None:
        if self._messages and self._messages[-1]["role"] == "user":
            self._messages.append({"role": "assistant", "content": INTERRUPTED})

    def append(self, event: Event) -> None:
        match event.kind:
            case "speak-start":
                self._words, self._sentences, self._cut = [], [], None
            case "sentence":
                self._sentences.append(event.data["text"])
            case "word":
                self._words.append(event.data["text"])
            case "interrupted":
                self._cut = event.data["heard"]
            case "speak-end":
                self._ended(self._questions.pop(event.data["utterance"], ""), event.data["text"])

    def _ended(self, question: str, said: str) -> None:
        heard = said if self._cut is None else self._cut
        assert not question or letters(heard) == letters("".join(self._words))
        assert self._cut is not None or not question or letters(said) == letters("".join(self._sentences))
        answer = heard if self._cut is None else heard + INTERRUPTED
        if question and answer:
            assert self._messages[-1] == {"role": "user", "content": question}
            self._messages.append({"role": "assistant", "content": answer})
        self.answered += bool(question)
        self.interrupted += self._cut is not None

    def check(self, messages: list[Message]) -> None:
        """`messages`, the history, are the end of the conversation."""
        assert messages == self._messages[-len(messages) :]
        assert len(messages) >= min(30, len(self._messages))


def letters(text: str) -> str:
    return re.sub(r"\W", "", text)


class Visitor:
    """Somebody who talks, types, coughs, and cuts in; `chance` decides."""

    def __init__(self, stage: Stage, ledger: Ledger, chance: random.Random) -> None:
        self._real = stage.real
        self._ledger = ledger
        self._chance = chance
        self._puts = 0

    async def turn(self, number: int) -> None:
        for _ in range(self._chance.choice((1, 1, 1, 2))):
            self._open(f"question {number}.{self._puts}")
        for _ in range(self._chance.choice((0, 1, 1, 2, 3))):
            await asyncio.sleep(self._chance.uniform(0.0, 1.5))
            self._disturb()
        self._real._react(Restore())
        if self._chance.random() < 0.7:
            await asyncio.wait_for(self._real.until_quiet(), 120)

    def _open(self, text: str) -> None:
        self._puts += 1
        kind = self._chance.choice(("turn", "turn", "turn", "typed", "echo", "at once"))
        if kind != "echo":
            self._ledger.put(self._puts, text)
        match kind:
            case "turn":
                self._real._react(Partial(text))
                self._real._react(Turn(text, "en", 352, 150))
            case "echo":
                self._real.put_msg_txt("Simply say this. And that.")
            case _:
                self._real.put_msg_txt(text, "chat", interrupt=kind == "at once")

    def _disturb(self) -> None:
        real = self._real
        reactions = (Duck(), Hold(), Restore(), Interrupt("stop"), Partial("hm"))
        acts: list[Callable[[], None]] = [lambda each=each: real._react(each) for each in reactions]  # type: ignore[misc]
        self._chance.choice([*acts, real.flush_talk, real.hold_talk, real.duck_talk, real.resume_talk])()


@in_virtual_time
async def test_two_hundred_disturbed_turns_leave_nothing_behind_and_history_is_what_was_heard() -> None:
    chance, ledger = random.Random(5), Ledger()
    llm, tts = ChattyLLM(chance, ledger.asked), FlakyTTS(chance)
    async with staged(llm=llm, tts=tts) as stage:
        cast(NotingReal, stage.real).noted = ledger
        visitor = Visitor(stage, ledger, chance)
        await asyncio.sleep(1)
        before, middle = life(), 0
        for number in range(TURNS):
            if number == TURNS // 4:
                tracemalloc.start()
            if number == TURNS // 2:
                await rest(stage)
                middle = memory()
            await visitor.turn(number)
            forget(stage)
        await rest(stage)
        growth = memory() - middle
        tracemalloc.stop()
        ledger.check(stage.real.history.messages)
        assert life() == before
        assert waiting(stage) == [0] * 8
        assert growth < GROWTH
        assert ledger.answered > 100 and ledger.interrupted > 30


async def rest(stage: Stage) -> None:
    """Wait until all is said and the last of it let go."""
    await asyncio.wait_for(stage.real.until_quiet(), 120)
    await asyncio.sleep(1)
    forget(stage)


def forget(stage: Stage) -> None:
    """Keep nothing of what the doubles have noted."""
    for kept in (stage.watcher.ticks, stage.watcher.times, stage.worker.jobs):
        kept.clear()


def memory() -> int:
    """Bytes that are held of those allocated since tracing began."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def life() -> tuple[list[str], int]:
    """The names of the tasks there are, and the number of threads."""
    return sorted(task.get_name() for task in asyncio.all_tasks()), threading.active_count()


def waiting(stage: Stage) -> list[int]:
    """How much waits in each place of the session where something may."""
    real: Any = stage.real
    queues = real._utterances.qsize(), real._chunks.qsize()
    places = real._latency, real._pair, real._unheard, real._timeline
    return [*queues, *map(len, places), stage.tts.running, stage.llm.running]


@in_virtual_time
@pytest.mark.parametrize("kind", ["speak-start", "sentence", "word", "speak-end"])
async def test_a_listener_may_interrupt_at_any_news_and_the_session_still_knows_when_it_is_quiet(kind: str) -> None:
    async with staged() as stage:
        cast(NotingReal, stage.real).noted = listener = Interrupting(kind, stage)
        for _ in range(2):
            stage.real.put_msg_txt("One.", "chat")
            await asyncio.wait_for(stage.real.until_quiet(), 20)
            assert stage.real._unsaid == 0 and stage.real._saying is None
            kinds: list[str] = [event.kind for event in listener]
            assert kinds[kinds.index(kind) + 1 :] == ([] if kind == "speak-end" else ["interrupted", "speak-end"])
            listener.clear()
        cast(NotingReal, stage.real).noted = []
        stage.real.put_msg_txt("One.", "chat")
        await asyncio.wait_for(stage.real.until_quiet(), 20)
        assert stage.real.history.messages[-1]["content"] == "One two three. Four five six."


class Interrupting(list[Event]):
    """Interrupts when it is told of news of one kind, the first time each time something is said."""

    def __init__(self, kind: str, stage: Stage) -> None:
        super().__init__()
        self._kind = kind
        self._stage = stage

    def append(self, event: Event) -> None:
        super().append(event)
        if event.kind == self._kind:
            self._kind, kind = "", self._kind
            self._stage.real.flush_talk()
            self._kind = kind


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(not SPEECH.is_dir(), reason="../shared/data/speech is not here: nobody can speak")
async def test_ten_spoken_turns_of_which_half_cut_in_leave_nothing_behind(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(asrreal.ASR._table, "script", "tests.test_conversation:ScriptASR")
    monkeypatch.setattr(ScriptLLM, "script", ("This is a long answer that goes on and on. " * 2,))
    async with serve(data_dir, asr="script", tts="hibari") as live:
        await live.http.get(f"{live.url}/healthz")
        before, microphone = tasks(), Microphone()
        async with connected(live, microphone=microphone) as peer:
            for turn in range(1, 11):
                microphone.say(spoken(2.0))
                await until(peer, "user-turn", turn)
                await until(peer, "sentence", len(events(peer, "sentence")) + 1)
                if turn % 2:
                    await until(peer, "speak-end", turn)
                else:
                    await asyncio.sleep(2.0)  # the next turn cuts in
            await until(peer, "speak-end", 10)
            async with live.http.get(f"{live.url}/api/history?sessionid={peer.sessionid}") as response:
                history = (await response.json())["data"]["messages"]
        heard = {event["utterance"]: event["text"] for event in events(peer, "speak-end")}
        cut = {event["utterance"]: event["heard"] + INTERRUPTED for event in events(peer, "interrupted")}
        assert len(cut) == 4 and len(heard) == 10
        answers = [message["content"] for message in history if message["role"] == "assistant"]
        assert answers == list((heard | cut).values())
        assert [message["content"] for message in history if message["role"] == "user"] == [ScriptASR.script] * 10
        async with asyncio.timeout(10):
            while tasks() != before:
                await asyncio.sleep(0.1)
        assert not len(live.house.sessions)


def tasks() -> list[str]:
    """What the tasks there are do."""
    return sorted(getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
