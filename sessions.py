"""The live sessions of this process: who gets in, who is there, and the one door through which they leave."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

from loguru import logger

from basereal import BaseReal
from core import metrics
from core.errors import Overloaded, UnknownSession

FIRST_ID, LAST_ID = 100_000, 999_999
REMEMBERED_IDS = 1000  # an id is not given again soon after its session has ended
REAP_S = 5.0


class Sessions:
    """Live sessions by id, `max_session` at most, those that are just being opened included."""

    def __init__(self, max_session: int, idle_timeout_s: float = 0.0) -> None:
        self.max_session = max_session
        self._idle_timeout_s = idle_timeout_s
        self._live: dict[int, tuple[BaseReal, asyncio.Task[None]]] = {}
        self._opening: set[int] = set()
        self._recent: deque[int] = deque(maxlen=REMEMBERED_IDS)
        self._closing: dict[int, asyncio.Task[None]] = {}
        self.draining = False

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[BaseReal]:
        return iter([real for real, _ in self._live.values()])

    def get(self, session_id: int) -> BaseReal:
        """The live session `session_id`. UnknownSession if there is none."""
        if session_id not in self._live:
            raise UnknownSession("session not found")
        return self._live[session_id][0]

    async def open(self, make: Callable[[int], Awaitable[BaseReal]]) -> BaseReal:
        """A new live session, made by `make(id)`. Overloaded if all are taken; if `make` raises, the place is free."""
        if self.draining or len(self._live) + len(self._opening) >= self.max_session:
            raise Overloaded("reach max session")
        session_id = self._new_id()
        self._opening.add(session_id)
        try:
            real = await make(session_id)
            if self.draining:
                await real.aclose()
                raise Overloaded("reach max session")
            task = asyncio.create_task(self._live_on(real), name=f"session-{session_id}")
            self._live[session_id] = real, task
        finally:
            self._opening.discard(session_id)
        metrics.SESSIONS.set(len(self._live))
        return real

    async def close(self, session_id: int, reason: str) -> None:
        """End a session and free what it took; nothing if it has ended. Returns when all is freed."""
        self.close_soon(session_id, reason)
        if closing := self._closing.get(session_id):
            await asyncio.wait([closing])

    def close_soon(self, session_id: int, reason: str) -> None:
        """`close` from where nothing can be awaited: a peer's callback, a session that failed."""
        if session_id not in self._live:
            return
        real, task = self._live.pop(session_id)
        self._recent.append(session_id)
        metrics.SESSIONS.set(len(self._live))
        metrics.SESSIONS_CLOSED.labels(reason).inc()
        logger.info("session {} closed: {}", session_id, reason)
        self._closing[session_id] = asyncio.create_task(self._end(real, task), name=f"close-{session_id}")
        real.say_goodbye(reason)

    async def _end(self, real: BaseReal, task: asyncio.Task[None]) -> None:
        try:
            task.cancel()
            await asyncio.wait([task])
            await real.aclose()
        finally:
            del self._closing[real.id]

    async def drain(self, patience_s: float) -> None:
        """Let nobody in, let speech end for `patience_s`, then close all."""
        self.draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await asyncio.gather(*(real.until_quiet() for real in self))
        await asyncio.gather(*(self.close(real.id, "shutdown") for real in self))
        if self._closing:
            await asyncio.wait(self._closing.values())

    async def reap(self) -> None:
        """Close sessions that nobody has spoken to for `idle_timeout_s`. Runs until cancelled."""
        while self._idle_timeout_s:
            await asyncio.sleep(min(REAP_S, self._idle_timeout_s))
            for real in self:
                if real.idle_s > self._idle_timeout_s:
                    await self.close(real.id, "idle")

    async def _live_on(self, real: BaseReal) -> None:
        """Supervise one session: if one of its tasks fails, the session ends and the others do not notice."""
        try:
            await real.run()
        except Exception:  # noqa: BLE001
            logger.exception("session {} failed", real.id)
            self.close_soon(real.id, "failure")

    def _new_id(self) -> int:
        while True:
            session_id = random.randint(FIRST_ID, LAST_ID)
            if session_id not in self._live and session_id not in self._opening and session_id not in self._recent:
                return session_id
