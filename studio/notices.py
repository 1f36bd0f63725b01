"""How tasks fare, told to addresses that clients name, on hosts that the operator allowed. Best effort."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout
from loguru import logger
from yarl import URL

from core.errors import BadRequest

TIMEOUT_S = 5.0
MAX_WAITING = 100


class Notices:
    """A queue of JSON objects to be posted, one after the other, while `run()` runs."""

    def __init__(self, hosts: Collection[str]) -> None:
        self._hosts = {host.lower() for host in hosts}
        self._waiting: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(MAX_WAITING)

    def check(self, address: str) -> None:
        """BadRequest unless `address` is http or https on an allowed host, as `host` (any port) or `host:port`."""
        try:
            url = URL(address)
            names = {(url.host or "").lower(), f"{url.host}:{url.port}".lower()}
        except ValueError as error:
            raise BadRequest("notifyurl is not an address") from error
        if url.scheme not in {"http", "https"} or not names & self._hosts:
            raise BadRequest("notifyurl must be http or https on a host that the server's notify_hosts allows")

    def tell(self, address: str, news: dict[str, Any]) -> None:
        """Queue `news` for `address`; lost if too many wait."""
        if not self._waiting.full():
            self._waiting.put_nowait((address, news))

    async def run(self) -> None:
        """Post what is queued, until cancelled. Redirections are not followed: they could lead anywhere."""
        async with ClientSession(timeout=ClientTimeout(TIMEOUT_S)) as http:
            while True:
                address, news = await self._waiting.get()
                try:
                    async with http.post(address, json=news, allow_redirects=False) as answer:
                        logger.debug("told {}: {}", URL(address).host, answer.status)
                except (ClientError, TimeoutError, OSError) as error:
                    logger.warning("could not tell {}: {}", URL(address).host, type(error).__name__)
