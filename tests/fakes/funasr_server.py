"""FunASR servers on loopback: the three that there are answer alike for nobody's ears, but each in its own way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal, Self

from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

Kind = Literal["offline", "2pass", "python"]
Fault = Literal["", "page", "refuses", "overloaded", "mute", "drops", "garbage", "no text", "binary"]

PIECE_MESSAGES = 10  # a sentence ends after so many messages of sound
STATUS = {"page": 200, "refuses": 401, "overloaded": 429}


class FunASRServer:
    """`kind`: `offline` and `2pass` are the C++ servers, `python` the other. `said` are the sentences it hears.

    All but the last sentence are heard while sound arrives, except by the offline server, which waits for all of it.
    """

    def __init__(self, kind: Kind = "offline", said: tuple[str, ...] = ("你好。",), fault: Fault = "") -> None:
        self.kind = kind
        self.said = said
        self.fault = fault
        self.config: dict[str, Any] = {}
        self.sound = b""
        self.messages = 0
        self.left = asyncio.Event()  # a client went away before the end
        app = web.Application()
        app.router.add_get("/", self._listen)
        self._server = TestServer(app)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._server.port}"

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        if self.fault in STATUS:
            return web.Response(text="<html>secret words of the server</html>", status=STATUS[self.fault])
        socket = web.WebSocketResponse(protocols=("binary",))
        await socket.prepare(request)
        try:
            await self._converse(request, socket)
        finally:
            self.left.set()
        return socket

    async def _converse(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                self._hear(message.data)
                answers = self._during()
            else:
                self.config |= json.loads(message.data)
                answers = iter(()) if self.config["is_speaking"] else self._after()
            for answer in answers:
                await self._send(request, socket, answer)

    def _hear(self, data: bytes) -> None:
        assert self.config["chunk_size"] == [5, 10, 5] and self.config["chunk_interval"] == 10
        self.sound += data
        self.messages += 1

    def _during(self) -> Iterator[dict[str, Any]]:
        done, rest = divmod(self.messages, PIECE_MESSAGES)
        if self.kind == "offline" or rest or done >= len(self.said):
            return
        if self.kind == "2pass":
            yield self._answer("2pass-online", self.said[done - 1][:2], is_final=False)
            yield self._answer("2pass-offline", self.said[done - 1], is_final=False)
        else:
            yield self._answer(self.config["mode"], self.said[done - 1], is_final=True)

    def _after(self) -> Iterator[dict[str, Any]]:
        if self.kind == "offline":
            yield {**self._answer("offline", "".join(self.said), is_final=False), "timestamp": "[[0,200]]"}
        elif self.kind == "2pass":
            answer = self._answer("2pass-offline", self.said[-1], is_final=True)
            yield answer if self.said[-1] else {key: value for key, value in answer.items() if key != "mode"}
        elif self.said[-1]:
            yield self._answer(self.config["mode"], self.said[-1], is_final=False)

    def _answer(self, mode: str, text: str, *, is_final: bool) -> dict[str, Any]:
        return {"mode": mode, "text": text, "wav_name": self.config["wav_name"], "is_final": is_final}

    async def _send(self, request: web.Request, socket: web.WebSocketResponse, answer: dict[str, Any]) -> None:
        match self.fault:
            case "mute":
                return
            case "drops":
                assert request.transport
                request.transport.abort()
            case "garbage":
                await socket.send_str("<html>secret words of the server</html>")
            case "no text":
                await socket.send_json({**answer, "text": None})
            case "binary":
                await socket.send_bytes(b"secret words of the server")
            case _:
                await socket.send_json(answer)
