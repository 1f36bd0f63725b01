"""The promises of the inference thread, with engines that wait for the test."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from core.media import Face, FaceJob
from core.worker import InferenceWorker
from tests.fakes.virtual import AVATAR

SOON_S = 60.0


def job(tick: int, *, due_s: float = SOON_S, epoch: int = 0) -> FaceJob:
    return FaceJob(epoch, tick, np.zeros(1, np.float32), AVATAR, 0, time.monotonic() + due_s)


def faces(jobs: Sequence[FaceJob]) -> list[Face]:
    return [Face(job, AVATAR.image(0)) for job in jobs]


class GateEngine:
    """Keeps the ticks of each batch, and answers one batch per `gate.release()`."""

    max_batch = 8

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def infer(self, jobs: Sequence[FaceJob]) -> list[Face]:
        self.batches.append([job.tick for job in jobs])
        self.started.release()
        assert self.gate.acquire(timeout=10)
        return faces(jobs)


class Bench:
    """A worker, a gated engine, and what is delivered."""

    def __init__(self) -> None:
        self.worker = InferenceWorker("test")
        self.engine = GateEngine()
        self.epoch = 0
        self.delivered: asyncio.Queue[Face] = asyncio.Queue()

    def submit(self, *jobs: FaceJob, engine: Any = None) -> None:
        for one in jobs:
            self.worker.submit(engine or self.engine, one, lambda epoch: epoch == self.epoch, self.delivered.put_nowait)

    async def started(self) -> None:
        """Return when the engine has begun a batch."""
        assert await asyncio.to_thread(self.engine.started.acquire, timeout=10)

    async def take(self, n: int) -> list[int]:
        """The ticks of the next `n` faces delivered."""
        async with asyncio.timeout(10):
            return [(await self.delivered.get()).job.tick for _ in range(n)]

    async def busy(self) -> None:
        """Return when the engine is busy with tick 0 and everything else has to wait."""
        self.submit(job(0))
        await self.started()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.engine.gate.release(1000)
    await asyncio.to_thread(bench.worker.stop)


async def test_the_next_batch_grows_across_sessions_while_the_device_is_busy(bench: Bench) -> None:
    await bench.busy()
    other_session: asyncio.Queue[Face] = asyncio.Queue()
    bench.submit(job(1), job(2))
    bench.worker.submit(bench.engine, job(3), lambda epoch: True, other_session.put_nowait)
    bench.engine.gate.release(2)
    assert await bench.take(3) == [0, 1, 2]
    assert (await other_session.get()).job.tick == 3
    assert bench.engine.batches == [[0], [1, 2, 3]]


async def test_the_earliest_due_comes_first_and_the_rest_waits_for_the_next_batch(bench: Bench) -> None:
    bench.engine.max_batch = 2
    await bench.busy()
    bench.submit(job(4, due_s=4 * SOON_S), job(2, due_s=2 * SOON_S), job(3, due_s=3 * SOON_S), job(1))
    bench.engine.gate.release(3)
    assert await bench.take(5) == [0, 1, 2, 3, 4]
    assert bench.engine.batches == [[0], [1, 2], [3, 4]]


async def test_stale_and_late_jobs_are_dropped_before_they_cost_anything(bench: Bench) -> None:
    dropped = REGISTRY.get_sample_value("vivace_faces_dropped_total")
    await bench.busy()
    bench.submit(job(1), job(2, epoch=7), job(3, due_s=-0.001))
    bench.engine.gate.release(2)
    assert await bench.take(2) == [0, 1]
    assert bench.engine.batches == [[0], [1]]
    assert REGISTRY.get_sample_value("vivace_faces_dropped_total") == (dropped or 0) + 2


async def test_what_becomes_stale_while_it_waits_or_is_drawn_is_never_delivered(bench: Bench) -> None:
    await bench.busy()
    bench.submit(job(1))
    bench.epoch = 1
    bench.submit(job(2, epoch=1))
    bench.engine.gate.release(2)
    assert await bench.take(1) == [2]
    assert bench.engine.batches == [[0], [2]]


async def test_another_engines_jobs_are_kept_for_the_next_batch(bench: Bench) -> None:
    other = GateEngine()
    other.gate.release()
    await bench.busy()
    bench.submit(job(1))
    bench.submit(job(2, due_s=2 * SOON_S), engine=other)
    bench.submit(job(3, due_s=3 * SOON_S))
    bench.engine.gate.release(2)
    assert await bench.take(4) == [0, 1, 3, 2]
    assert bench.engine.batches == [[0], [1, 3]] and other.batches == [[2]]


class FailingEngine:
    """Fails on each batch that begins with one of `bad`."""

    max_batch = 1

    def __init__(self, *bad: int) -> None:
        self.bad = bad
        self.seen: list[int] = []

    def infer(self, jobs: Sequence[FaceJob]) -> list[Face]:
        self.seen.append(jobs[0].tick)
        if jobs[0].tick in self.bad:
            raise RuntimeError("out of memory")
        return faces(jobs)


async def test_a_failing_batch_is_dropped_and_the_next_one_answered(bench: Bench) -> None:
    engine = FailingEngine(1, 3)
    bench.submit(*(job(tick, due_s=SOON_S + tick) for tick in range(5)), engine=engine)
    assert await bench.take(3) == [0, 2, 4]
    assert engine.seen == [0, 1, 2, 3, 4] and bench.worker.healthy


async def test_two_failures_in_a_row_make_it_unhealthy_and_end_the_thread(bench: Bench) -> None:
    engine = FailingEngine(1, 2)
    bench.submit(*(job(tick, due_s=SOON_S + tick) for tick in range(4)), engine=engine)
    assert await bench.take(1) == [0]
    await asyncio.to_thread(bench.worker._thread.join, 10)
    assert not bench.worker.healthy and engine.seen == [0, 1, 2]
    bench.submit(job(5), engine=engine)
    assert bench.worker._inbox.qsize() <= 1  # nothing piles up that nobody will ever take


class ShortEngine:
    """Forgets a face."""

    max_batch = 8

    def infer(self, jobs: Sequence[FaceJob]) -> list[Face]:
        return faces(jobs)[1:]


async def test_a_wrong_number_of_faces_is_a_failed_batch(bench: Bench) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    for tick in range(2):
        bench.submit(job(tick), engine=ShortEngine())
        await asyncio.sleep(0.1)
    assert not bench.worker.healthy


async def test_stop_ends_the_thread_after_its_present_batch(bench: Bench) -> None:
    await bench.busy()
    bench.submit(job(1))
    bench.engine.gate.release(1)
    stopping = asyncio.create_task(asyncio.to_thread(bench.worker.stop))
    bench.engine.gate.release(1)
    await asyncio.wait_for(stopping, 10)
    assert not bench.worker._thread.is_alive()
    assert "infer-test" not in {thread.name for thread in threading.enumerate()}


async def test_the_loop_is_woken_once_per_batch_and_faces_arrive_on_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    wakes: list[Callable[..., object]] = []
    call = loop.call_soon_threadsafe

    def counting(callback: Callable[..., object], *args: Any, **kwargs: Any) -> asyncio.Handle:
        if threading.current_thread().name == "infer-test":
            wakes.append(callback)
        return call(callback, *args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
    threads: set[threading.Thread] = set()

    def deliver(face: Face) -> None:
        threads.add(threading.current_thread())
        bench.delivered.put_nowait(face)

    await bench.busy()
    for tick in range(1, 6):
        bench.worker.submit(bench.engine, job(tick), lambda epoch: True, deliver)
    bench.engine.gate.release(2)
    assert await bench.take(6) == list(range(6))
    assert len(wakes) == 2 and threads == {threading.current_thread()}
