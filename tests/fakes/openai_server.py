"""An OpenAI-compatible chat server on loopback that answers by a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

from aiohttp import web
from aiohttp.test_utils import TestServer

SECRET = "secret words of the server"


class Act(Enum):
    """What a script can do besides sending text (a str), a delta (a dict), bytes, and waiting (a float, seconds)."""

    NO_CHOICES = "a chunk with an empty list of choices"
    NO_CONTENT = "a chunk whose delta has no content"
    COMMENT = "a server-sent comment, as proxies send to keep a connection open"
    ERROR = "an error inside the stream"
    GARBAGE = "a line that is not JSON"
    HANG = "nothing more, the connection stays open"
    DROP = "the connection is cut"
    STOP = "the stream ends without a finish reason"


@dataclass(frozen=True)
class Refusal:
    """An answer that is no stream: an error as the protocol has it, or a web page."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    page: bool = False


Delta = dict[str, Any]
Step = str | float | bytes | Act | Delta
Script = Sequence[Step] | Refusal


class OpenAIServer:
    """The first of `scripts` answers the first request, the second the second, the last all that follow."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts or ((),)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []  # the Authorization header of each request
        self.peers: set[Any] = set()  # the connections that were used
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
        script = self.scripts[min(len(self.asked), len(self.scripts) - 1)]
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("Authorization", ""))
        assert request.transport
        self.peers.add(request.transport.get_extra_info("peername"))
        return _refuse(script) if isinstance(script, Refusal) else await self._stream(request, script)

    async def _stream(self, request: web.Request, script: Sequence[Step]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for step in script:
                if step is Act.STOP:
                    return response
                await self._take(step, request, response)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        called = any(isinstance(step, dict) and "tool_calls" in step for step in script)
        await response.write(_event(_chunk({}, "tool_calls" if called else "stop")) + b"data: [DONE]\n\n")
        return response

    async def _take(self, step: Step, request: web.Request, response: web.StreamResponse) -> None:
        if isinstance(step, float):
            await asyncio.sleep(step)
        elif step is Act.HANG:
            await asyncio.Event().wait()
        elif step is Act.DROP:
            assert request.transport
            request.transport.abort()
        else:
            await response.write(_data(step))


def called(name: str, arguments: object, index: int = 0, call_id: str | None = None) -> list[Delta]:
    """The deltas of a call as OpenAI streams them: first id and name, then the arguments in pieces."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    first = {"index": index, "id": call_id or f"call_{index}x", "type": "function"}
    pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
    deltas: list[Delta] = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
    return [{"tool_calls": [delta]} for delta in [first | {"function": {"name": name, "arguments": ""}}, *deltas]]


def _refuse(refusal: Refusal) -> web.Response:
    if refusal.page:
        text = f"<!doctype html>\n<title>Welcome</title>\n<p>{SECRET}</p>\n"
        return web.Response(text=text, content_type="text/html", status=refusal.status, headers=refusal.headers)
    error = {"message": SECRET, "type": "invalid_request_error", "param": None, "code": None}
    return web.json_response({"error": error}, status=refusal.status, headers=refusal.headers)


def _data(step: str | float | bytes | Act | Delta) -> bytes:
    match step:
        case Act.NO_CHOICES:
            return _event({**_chunk({}), "choices": []})
        case Act.NO_CONTENT:
            return _event(_chunk({"role": "assistant", "content": None}))
        case Act.COMMENT:
            return b": still here\n\n"
        case Act.ERROR:
            return _event({"error": {"message": SECRET}})
        case Act.GARBAGE:
            return b"data: {nonsense\n\n"
        case bytes():
            return step
        case dict():
            return _event(_chunk(step))
    return _event(_chunk({"content": step}))


def _chunk(delta: dict[str, object], finish_reason: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "fake", "choices": [choice]}


def _event(data: dict[str, object]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()
