"""News of a session, to as many readers as there are: one bounded queue each, a slow reader misses the oldest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from core.media import Event

WAITING = 256


class News:
    """Gives each event to every reader."""

    def __init__(self) -> None:
        self._readers: set[asyncio.Queue[Event | None]] = set()

    def tell(self, event: Event) -> None:
        self._put(event)

    def end(self) -> None:
        """Let every reader finish."""
        self._put(None)

    async def read(self) -> AsyncGenerator[Event, None]:
        """The events from now on, until the end."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(WAITING)
        self._readers.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._readers.discard(queue)

    def _put(self, event: Event | None) -> None:
        for queue in self._readers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)
