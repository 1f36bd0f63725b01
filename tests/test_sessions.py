"""Who gets in, who stays, and that whoever leaves leaves nothing behind; in virtual time."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from weakref import ref

import numpy as np
import pytest

from basereal import BaseReal, Shared
from core.avatar import Avatar
from core.errors import Overloaded, UnknownSession
from core.media import TICK_S, Event
from outputs.encoder import H264Encoder, OpusEncoder, PictureEncoder
from outputs.record import Recorder
from sessions import FIRST_ID, LAST_ID, Sessions
from tests.fakes.house import doubles, maker
from tests.fakes.media import stairs
from tests.fakes.person import PaintReal, ScriptLLM
from tests.fakes.virtual import InlineWorker, Watcher, in_virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


class SlowToLeave(Watcher):
    """An output that takes 2 s to close."""

    async def aclose(self) -> None:
        await asyncio.sleep(2)
        await super().aclose()


# Who gets in.


@in_virtual_time
async def test_two_that_come_at_once_cannot_both_have_the_last_place() -> None:
    sessions, make = Sessions(1), maker(doubles())

    async def slowly(session_id: int) -> BaseReal:
        await asyncio.sleep(1)
        return await make(session_id)

    first, second = await asyncio.gather(sessions.open(slowly), sessions.open(slowly), return_exceptions=True)
    assert isinstance(first, BaseReal) and isinstance(second, Overloaded)
    assert str(second) == "reach max session" and len(sessions) == 1
    await sessions.close(first.id, "test")
    assert await sessions.open(slowly) in list(sessions)
    await sessions.drain(0)


@pytest.mark.parametrize("cancelled", [False, True])
@in_virtual_time
async def test_a_session_that_cannot_be_made_frees_its_place(cancelled: bool) -> None:
    sessions = Sessions(1)

    async def fail(session_id: int) -> BaseReal:
        await asyncio.sleep(1)
        raise ValueError("no such avatar")

    opening = asyncio.create_task(sessions.open(fail))
    await asyncio.sleep(0.5)
    if cancelled:
        opening.cancel()
    with pytest.raises(asyncio.CancelledError if cancelled else ValueError):
        await opening
    assert len(sessions) == 0 and await sessions.open(maker(doubles()))
    await sessions.drain(0)


@in_virtual_time
async def test_ids_are_six_digits_and_not_given_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    drawn = iter([FIRST_ID, FIRST_ID, FIRST_ID, LAST_ID])

    def draw(low: int, high: int) -> int:
        asked.append((low, high))
        return next(drawn)

    monkeypatch.setattr(random, "randint", draw)
    sessions, make = Sessions(4), maker(doubles())
    first = await sessions.open(make)
    await sessions.close(first.id, "test")
    assert (first.id, (await sessions.open(make)).id) == (100_000, 999_999)
    assert set(asked) == {(100_000, 999_999)}
    await sessions.drain(0)


@in_virtual_time
async def test_a_session_that_is_gone_is_unknown() -> None:
    sessions = Sessions(2)
    real = await sessions.open(maker(doubles()))
    assert sessions.get(real.id) is real
    await sessions.close(real.id, "test")
    for session_id in (real.id, 0):
        with pytest.raises(UnknownSession):
            sessions.get(session_id)
        await sessions.close(session_id, "again")


# Who leaves.


@in_virtual_time
async def test_close_returns_when_all_is_freed_however_often_it_is_called() -> None:
    sessions, watcher = Sessions(1), SlowToLeave()
    real = await sessions.open(maker(doubles(), watcher))
    await asyncio.sleep(1)
    start, reading = now(), asyncio.create_task(kinds(real))
    await asyncio.sleep(0)
    sessions.close_soon(real.id, "first")
    await asyncio.gather(*(sessions.close(real.id, "again") for _ in range(3)))
    assert watcher.closed and abs(now() - start - 2) < 0.01
    assert await reading == ["closed"]
    assert not sessions._closing and {task.get_name() for task in asyncio.all_tasks()} == {own_name()}


async def kinds(real: BaseReal) -> list[str]:
    return [event.kind async for event in real.events()]


def own_name() -> str:
    task = asyncio.current_task()
    assert task
    return task.get_name()


@in_virtual_time
async def test_closing_one_session_delays_no_other() -> None:
    sessions, shared, watcher = Sessions(3), doubles(), Watcher()
    leaving = await sessions.open(maker(shared, SlowToLeave()))
    staying = await sessions.open(maker(shared, watcher))
    staying.put_msg_txt("a long sentence that goes on and on and on")
    await asyncio.sleep(1)
    await sessions.close(leaving.id, "test")
    await asyncio.sleep(1)
    assert len(watcher.times) > 95 and np.allclose(np.diff(watcher.times), TICK_S, atol=1e-4)
    assert len(watcher.voiced()) > 90
    await sessions.drain(0)


class CrashingReal(PaintReal):
    """Fails when it begins to speak."""

    def notify(self, event: Event) -> None:
        if event.kind == "speak-start":
            raise RuntimeError("a listener that fails")


class HopelessReal(CrashingReal):
    """Fails at every news."""

    def notify(self, event: Event) -> None:
        raise RuntimeError("a listener that fails")


@pytest.mark.parametrize(
    "real",
    [
        CrashingReal,
        HopelessReal,
    ],
)
@in_virtual_time
async def test_a_session_that_crashes_is_closed_and_the_others_go_on(real: type[PaintReal]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    sessions, shared, watcher, crashed = Sessions(3), doubles(), Watcher(), Watcher()
    other = await sessions.open(maker(shared, watcher))
    crashing = await sessions.open(maker(shared, crashed, real=real))
    crashing.put_msg_txt("Hello")
    await asyncio.sleep(2)
    assert list(sessions) == [other] and crashed.closed
    other.put_msg_txt("Hello")
    await asyncio.sleep(2)
    assert watcher.voiced() and np.allclose(np.diff(watcher.times), TICK_S, atol=1e-4)
    await sessions.drain(0)


@in_virtual_time
async def test_who_is_not_spoken_to_is_closed_and_who_is_stays() -> None:
    sessions, shared = Sessions(3, idle_timeout_s=12), doubles()
    reaping = asyncio.create_task(sessions.reap())
    silent, spoken_to, speaking = [await sessions.open(maker(shared)) for _ in range(3)]
    speaking.put_msg_txt("x" * 240)  # 24 s
    await asyncio.sleep(6)
    spoken_to.put_msg_txt("Hello")
    await asyncio.sleep(5)
    assert len(sessions) == 3
    await asyncio.sleep(5)
    assert silent not in list(sessions) and len(sessions) == 2
    await asyncio.sleep(8)
    assert list(sessions) == [speaking]
    await asyncio.sleep(20)
    assert not len(sessions)
    reaping.cancel()


@in_virtual_time
async def test_without_a_timeout_nobody_is_ever_too_idle() -> None:
    await asyncio.wait_for(Sessions(1).reap(), 1)


# The end of all.


@in_virtual_time
async def test_a_drain_lets_speech_end_and_lets_nobody_in() -> None:
    sessions, shared, watcher = Sessions(3), doubles(), Watcher()
    speaking = await sessions.open(maker(shared, watcher))
    await sessions.open(maker(shared))
    speaking.put_msg_txt("0123456789")
    speaking.put_msg_txt("0123456789")
    await asyncio.sleep(0.5)
    start, draining = now(), asyncio.create_task(sessions.drain(30))
    await asyncio.sleep(0.1)
    with pytest.raises(Overloaded):
        await sessions.open(maker(shared))
    await draining
    assert 1.4 < now() - start < 3 and abs(len(watcher.voiced()) - 50) <= 2
    assert watcher.closed and not len(sessions)


@in_virtual_time
async def test_a_drain_is_not_more_patient_than_told() -> None:
    sessions, watcher = Sessions(3), SlowToLeave()
    real = await sessions.open(maker(doubles(), watcher))
    real.put_msg_txt("a very long sentence " * 20)
    await asyncio.sleep(0.5)
    start = now()
    await sessions.drain(0.5)
    assert abs(now() - start - 2.5) < 0.05 and watcher.closed and not len(sessions)


@in_virtual_time
async def test_who_was_just_being_let_in_when_a_drain_begins_is_not_forgotten() -> None:
    sessions, watcher = Sessions(1), Watcher()
    make = maker(doubles(), watcher)

    async def slowly(session_id: int) -> BaseReal:
        await asyncio.sleep(1)
        return await make(session_id)

    opening = asyncio.create_task(sessions.open(slowly))
    await asyncio.sleep(0.5)
    await sessions.drain(5)
    await asyncio.gather(opening, return_exceptions=True)
    await asyncio.sleep(1)
    forgotten, open_output = list(sessions), not watcher.closed
    await sessions.drain(0)
    assert not forgotten and not open_output


KINDS = (BaseReal, Avatar, PictureEncoder, H264Encoder, OpusEncoder, Recorder)


def census() -> Counter[str]:
    """How many there are, in this process, of what a session might leave."""
    gc.collect()
    found = Counter(type(thing).__name__ for thing in gc.get_objects() if issubclass(type(thing), KINDS))
    found.update(thread.name for thread in threading.enumerate())
    found.update(task.get_name() for task in asyncio.all_tasks())
    found["open files"] = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files cannot be counted here")
@in_virtual_time
async def test_two_hundred_sessions_leave_nothing_behind(tmp_path: Path) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "default"))
    shared, sessions = doubles(), Sessions(25)
    await a_round_of_visits(sessions, shared, tmp_path / "warm")
    before = census()
    gone = []
    for number in range(8):
        gone += await a_round_of_visits(sessions, shared, tmp_path / str(number))
    assert len(gone) == 200 + 8
    assert not census() - before
    assert [thing for thing in gone if thing() is not None] == []
    assert len(list(tmp_path.glob("*/*/*.mp4"))) == 18


async def a_round_of_visits(sessions: Sessions, shared: Shared, folder: Path) -> list[ref[Any]]:
    """25 sessions of an avatar of their own: some speak, some are interrupted, two record; weak references to all."""
    avatar = stairs(30)
    watchers = [Watcher() if place % 3 else WantsPictures() for place in range(25)]
    reals = [await sessions.open(maker(shared, watcher, avatar=avatar)) for watcher in watchers]
    for place, real in enumerate(reals):
        if place % 3 == 0:
            real.put_msg_txt("Hello there", "chat" if place % 2 else "echo")
        if place % 12 == 1:
            real.start_recording(folder / str(place))
    await asyncio.sleep(0.5)
    reals[0].flush_talk()
    await asyncio.sleep(0.4)
    await asyncio.gather(*(sessions.close(real.id, "test") for real in reals))
    cast(InlineWorker, shared.worker).jobs.clear()
    cast(ScriptLLM, shared.minds.default.llm).asked.clear()
    return [ref(avatar), *map(ref, reals)]


class WantsPictures(Watcher):
    """Keeps nothing but what it must."""

    wants_h264 = True

    def push_picture(self, picture: object) -> None:
        assert picture
