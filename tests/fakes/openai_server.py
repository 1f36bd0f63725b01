"""An OpenAI-compatible chat server on loopback that answers by a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from enum import Enum
from typing import Any, Self

from aiohttp import web
from aiohttp.test_utils import TestServer


class Act(Enum):
    """What a script can do besides sending text (a str) and waiting (a float, seconds)."""

    NO_CHOICES = "a chunk with an empty list of choices"
    NO_CONTENT = "a chunk whose delta has no content"
    COMMENT = "a server-sent comment, as proxies send to keep a connection open"
    ERROR = "an error inside the stream"
    GARBAGE = "a line that is not JSON"
    HANG = "nothing more, the connection stays open"
    DROP = "the connection is cut"
    STOP = "the stream ends without a finish reason"


class OpenAIServer:
    """`script` is the answer to every request; a `status` other than 200 is answered without it."""

    def __init__(self, script: Sequence[str | float | Act] = (), status: int = 200) -> None:
        self.script = script
        self.status = status
        self.asked: list[dict[str, Any]] = []
        self.left = asyncio.Event()  # a client went away before the end
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self._server = TestServer(app)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}/v1"

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        if self.status != 200:
            return web.json_response({"error": {"message": "secret words of the server"}}, status=self.status)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for step in self.script:
                if step is Act.STOP:
                    return response
                await self._take(step, request, response)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        await response.write(_event(_chunk({}, finish_reason="stop")) + b"data: [DONE]\n\n")
        return response

    async def _take(self, step: str | float | Act, request: web.Request, response: web.StreamResponse) -> None:
        if isinstance(step, float):
            await asyncio.sleep(step)
        elif step is Act.HANG:
            await asyncio.Event().wait()
        elif step is Act.DROP:
            assert request.transport
            request.transport.abort()
        else:
            await response.write(_data(step))


def _data(step: str | float | Act) -> bytes:
    match step:
        case Act.NO_CHOICES:
            return _event({**_chunk({}), "choices": []})
        case Act.NO_CONTENT:
            return _event(_chunk({"role": "assistant", "content": None}))
        case Act.COMMENT:
            return b": still here\n\n"
        case Act.ERROR:
            return _event({"error": {"message": "secret words of the server"}})
        case Act.GARBAGE:
            return b"data: {nonsense\n\n"
    return _event(_chunk({"content": step}))


def _chunk(delta: dict[str, object], finish_reason: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "fake", "choices": [choice]}


def _event(data: dict[str, object]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()
