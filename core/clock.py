"""The only thing that knows the time: a monotonic clock that counts ticks of 40 ms."""

from __future__ import annotations

import asyncio

from core.media import TICK_S


class MediaClock:
    """Media time of one session, on the running loop's monotonic clock. Tick 0 is due when the clock is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()

    @property
    def position(self) -> int:
        """The tick whose time it is now."""
        return int((self._loop.time() - self._start) / TICK_S + 1e-6)

    def due(self, tick: int) -> float:
        """The loop's (and `time.monotonic()`'s) time, in seconds, at which `tick` is shown."""
        return self._start + tick * TICK_S

    async def until(self, tick: int) -> None:
        """Return when `tick` is due: at once, but for one turn of the loop, if it is past."""
        await asyncio.sleep(max(0.0, self.due(tick) - self._loop.time()))
