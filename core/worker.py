"""One thread for one device: it takes whatever waits, across sessions, and runs it as one batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread

from loguru import logger

from core import metrics
from core.media import Engine, Face, FaceJob


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    engine: Engine
    job: FaceJob
    is_fresh: Callable[[int], bool]
    deliver: Callable[[Face], None]

    @property
    def wanted(self) -> bool:
        return self.is_fresh(self.job.epoch) and self.job.due > time.monotonic()


class InferenceWorker:
    """The inference thread of one device, shared by all sessions and engines on it.

    While the device is busy the next batch grows by itself: there is no timer and no batch of one session. A failing
    batch is dropped (its pictures are held); two in a row end the thread, and `healthy` turns False.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.healthy = True
        self._loop = asyncio.get_running_loop()
        self._inbox: SimpleQueue[_Request | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=f"infer-{device}", daemon=True)
        self._thread.start()

    def submit(
        self,
        engine: Engine,
        job: FaceJob,
        is_fresh: Callable[[int], bool],
        deliver: Callable[[Face], None],
    ) -> None:
        """Have `engine` answer `job`; `deliver(face)` is called on the loop, or never if it comes too late.

        `is_fresh(epoch)` is asked from the inference thread and must only read.
        """
        if self.healthy:
            self._inbox.put(_Request(engine, job, is_fresh, deliver))

    def stop(self) -> None:
        """End the thread after its present batch. Blocking."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        waiting: list[_Request] = []
        failures = 0
        while self._collect(waiting):
            batch = self._next_batch(waiting)
            if not batch:
                continue
            try:
                self._answer(batch)
                failures = 0
            except Exception:  # noqa: BLE001
                failures += 1
                logger.exception("inference on {} failed ({} in a row)", self.device, failures)
                metrics.WORKER_FAILURES.inc()
                if failures > 1:
                    self.healthy = False
                    return

    def _collect(self, waiting: list[_Request]) -> bool:
        """Move what has arrived to `waiting`, blocking if there is nothing at all; False when asked to stop."""
        while not waiting or not self._inbox.empty():
            request = self._inbox.get()
            if request is None:
                return False
            waiting.append(request)
        return True

    def _next_batch(self, waiting: list[_Request]) -> list[_Request]:
        """Take the most urgent requests of one engine out of `waiting`; stale and late ones are dropped."""
        wanted = sorted((request for request in waiting if request.wanted), key=lambda request: request.job.due)
        metrics.FACES_DROPPED.inc(len(waiting) - len(wanted))
        engine = wanted[0].engine if wanted else None
        batch = [request for request in wanted if request.engine is engine][: engine.max_batch if engine else 0]
        taken = set(map(id, batch))
        waiting[:] = [request for request in wanted if id(request) not in taken]
        return batch

    def _answer(self, batch: list[_Request]) -> None:
        with metrics.INFER_SECONDS.time():
            answers = list(zip(batch, batch[0].engine.infer([request.job for request in batch]), strict=True))
        metrics.BATCH_SIZE.observe(len(batch))
        self._loop.call_soon_threadsafe(_deliver, answers)


def _deliver(answers: list[tuple[_Request, Face]]) -> None:
    for request, face in answers:
        if request.is_fresh(face.job.epoch):
            request.deliver(face)
