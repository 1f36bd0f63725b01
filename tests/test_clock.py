"""The clock and the timeline: when a tick is due, and what there is for it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from core.clock import MediaClock
from core.media import SILENT_TICK, TICK_S
from core.timeline import Sound, Timeline
from tests.fakes.media import grey
from tests.fakes.virtual import in_virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_tick_0_is_due_when_the_clock_is_made() -> None:
    clock = MediaClock()
    assert clock.position == 0 and clock.due(0) == now()
    await asyncio.sleep(0.039)
    assert clock.position == 0
    await asyncio.sleep(0.001)
    assert clock.position == 1


@in_virtual_time
async def test_a_tick_is_never_shown_before_it_is_due_nor_counted_later() -> None:
    clock = MediaClock()
    for tick in [1, 2, 3, 10, 1000, 90_000, 2_160_000]:  # a day of ticks
        await clock.until(tick)
        assert clock.position == tick
        assert abs(now() - clock.due(tick)) < 1e-6


@in_virtual_time
async def test_waiting_adds_up_to_no_drift() -> None:
    clock, start = MediaClock(), now()
    for tick in range(1, 5001):
        await clock.until(tick)
        await asyncio.sleep(0.013)  # work
    assert abs(now() - start - 5000 * TICK_S - 0.013) < 1e-6


@pytest.mark.parametrize("tick", [0, -5, 24])
@in_virtual_time
async def test_a_tick_in_the_past_is_waited_for_one_turn_of_the_loop(tick: int) -> None:
    clock = MediaClock()
    await asyncio.sleep(1)
    start, another_turn = now(), asyncio.Event()
    asyncio.get_running_loop().call_soon(another_turn.set)
    await clock.until(tick)
    assert now() == start and another_turn.is_set()


@in_virtual_time
async def test_each_session_has_its_own_time() -> None:
    first = MediaClock()
    await asyncio.sleep(1)
    second = MediaClock()
    assert (first.position, second.position) == (25, 0)


def sound(level: int = 0) -> Sound:
    return Sound(np.full_like(SILENT_TICK, level), (), "main")


def test_a_tick_is_taken_once() -> None:
    timeline, said, seen = Timeline(), sound(), grey(9)
    timeline.put_sound(5, said)
    timeline.put_picture(5, seen)
    assert timeline.take(4) == (None, None)
    assert timeline.take(5) == (said, seen)
    assert timeline.take(5) == (None, None) and not len(timeline)


def test_sound_does_not_wait_for_its_picture_and_a_late_picture_is_dropped() -> None:
    timeline, said = Timeline(), sound()
    timeline.put_sound(5, said)
    assert timeline.take(5) == (said, None)
    timeline.put_picture(5, grey(9))
    assert timeline.take(5) == (None, None) and not timeline._pictures


def test_a_stop_moves_what_waits_and_keeps_sound_and_picture_together() -> None:
    timeline = Timeline()
    sounds, pictures = [sound(i) for i in range(3)], [grey(i) for i in range(3)]
    for tick in range(3):
        timeline.put_sound(tick, sounds[tick])
        timeline.put_picture(tick, pictures[tick])
    timeline.shift(1)
    assert timeline.take(0) == (None, None)
    assert [timeline.take(tick + 1) for tick in range(3)] == list(zip(sounds, pictures, strict=True))


def test_an_interruption_leaves_nothing() -> None:
    timeline = Timeline()
    timeline.put_sound(5, sound())
    timeline.put_picture(5, grey(9))
    timeline.clear()
    assert timeline.take(5) == (None, None) and not len(timeline)
