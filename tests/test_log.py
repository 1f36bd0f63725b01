"""What the log may not hold."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from loguru import logger

from core.log import set_up


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    set_up("DEBUG", tmp_path / "log.txt")
    yield tmp_path / "log.txt"
    logger.remove()
    root.handlers[:], _ = before
    root.setLevel(before[1])


async def test_a_token_offered_as_a_protocol_is_not_logged(file: Path) -> None:
    async def listen(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("binary",))
        await socket.prepare(request)
        await socket.close()
        return socket

    app = web.Application()
    app.router.add_get("/", listen)
    async with TestClient(TestServer(app)) as client:
        await client.ws_connect("/", protocols=("bearer.c2VzYW1l",))
    aiohttp.log.web_logger.warning("something else")
    logger.complete()
    text = file.read_text()
    assert "something else" in text and "c2VzYW1l" not in text
