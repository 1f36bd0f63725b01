"""The vendors' speech services on loopback, from what they publish: every word is 200 ms of a 220 Hz tone.

Each checks what a real one checks (signature, key, frames, order of messages) and answers as it does. Sound comes in
pieces of an odd number of bytes; in the middle a service waits for `halfway`, which is set unless a test clears it.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import io
import json
import re
import struct
import wave
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any, Literal, Self
from xml.etree import ElementTree

import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestServer

WORD_MS = 200
PIECE_BYTES = 1501
SECRET = "secret words of the vendor"

Fault = Literal["", "refuses", "busy", "page", "error", "garbage", "mute", "drops", "stalls", "leaves"]


class Vendor(ABC):
    """`fault`: refuses (401), busy (429), page (HTML), error (as the vendor sends it), garbage (instead of its frames),
    mute (no sound), and in mid-stream: drops (the connection is cut), stalls (nothing more), leaves (a clean end)."""

    routes: tuple[tuple[str, str], ...] = ()
    rate_hz = 16_000

    def __init__(self, fault: Fault = "") -> None:
        self.fault = fault
        self.asked: list[Any] = []
        self.begun = asyncio.Event()  # a client has asked
        self.halfway = asyncio.Event()
        self.halfway.set()
        self.left = asyncio.Event()  # a client went away before the end
        app = web.Application()
        for method, path in self.routes:
            app.router.add_route(method, path, self._guarded)
        self._server = TestServer(app)

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    def url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self._server.port}{path}"

    @abstractmethod
    async def answer(self, request: web.Request) -> web.StreamResponse:
        """What a healthy vendor answers."""

    async def _guarded(self, request: web.Request) -> web.StreamResponse:
        self.begun.set()
        if self.fault == "refuses":
            raise web.HTTPUnauthorized(text=SECRET)
        if self.fault == "busy":
            raise web.HTTPTooManyRequests(text=SECRET)
        if self.fault == "page":
            return web.Response(text=f"<!DOCTYPE html><p>{SECRET}", content_type="text/html")
        try:
            return await self.answer(request)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise

    async def pieces(self, request: web.Request, text: str) -> AsyncIterator[bytes]:
        """The sound of `text`, as far as the fault lets it come."""
        pcm = tone(len(text.split()) * WORD_MS, self.rate_hz) if self.fault != "mute" else b""
        for at in range(0, len(pcm), PIECE_BYTES):
            if at >= len(pcm) // 2:
                await self.halfway.wait()
                if self.fault == "leaves":
                    return
                await self._break_off(request)
            yield pcm[at : at + PIECE_BYTES]

    async def _break_off(self, request: web.Request) -> None:
        if self.fault == "stalls":
            await asyncio.Event().wait()
        if self.fault == "drops":
            assert request.transport
            request.transport.abort()
            raise ConnectionResetError


def tone(duration_ms: int, rate_hz: int) -> bytes:
    """220 Hz at half of full scale, int16 little-endian."""
    time = np.arange(rate_hz * duration_ms // 1000) / rate_hz
    return (0.5 * np.sin(2 * np.pi * 220 * time) * 32767).astype("<i2").tobytes()


class TencentServer(Vendor):
    """The body is JSON whose fields are signed; errors are JSON too, where sound would be."""

    routes = (("POST", "/stream"),)
    secret_key = "tencent-key"

    def __init__(self, fault: Fault = "", code: str = "InternalError", error_type: str = "application/json") -> None:
        super().__init__(fault)
        self.code = code
        self.error_type = error_type

    async def answer(self, request: web.Request) -> web.StreamResponse:
        wish = await request.json()
        self.asked.append(wish)
        said = "POSTtts.cloud.tencent.com/stream?" + "&".join(f"{key}={wish[key]}" for key in sorted(wish))
        signature = b64encode(hmac.new(self.secret_key.encode(), said.encode(), hashlib.sha1).digest()).decode()
        if request.headers.get("Authorization") != signature:
            return await self._error(request, "AuthFailure.SignatureFailure")
        if self.fault == "error":
            return await self._error(request, self.code)
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        async for piece in self.pieces(request, wish["Text"]):
            await response.write(piece)
        return response

    async def _error(self, request: web.Request, code: str) -> web.StreamResponse:
        error = {"Response": {"Error": {"Code": code, "Message": SECRET}, "RequestId": "x"}}
        response = web.StreamResponse(headers={"Content-Type": self.error_type})
        await response.prepare(request)
        body = json.dumps(error).encode()
        for at in range(0, len(body), 7):
            await response.write(body[at : at + 7])
        return response


class DoubaoServer(Vendor):
    """One binary frame in, frames with numbers out; the number of the last is negative."""

    routes = (("GET", "/api/v1/tts/ws_binary"),)
    token = "doubao-token"

    def __init__(self, fault: Fault = "", code: int = 3031) -> None:
        super().__init__(fault)
        self.code = code

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer; {self.token}":
            raise web.HTTPUnauthorized
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        wish = self._unpacked(await ws.receive_bytes())
        self.asked.append(wish)
        if self.fault == "error":
            payload = gzip.compress(SECRET.encode())
            await ws.send_bytes(b"\x11\xf0\x11\x00" + struct.pack(">II", self.code, len(payload)) + payload)
        elif self.fault == "garbage":
            await ws.send_bytes(b"\x11\xb1\x00\x00\x00\x00\x00\x01\x00\x00\x00\x99short")
        else:
            await self._speak(request, ws, wish["request"]["text"])
        return ws

    async def _speak(self, request: web.Request, ws: web.WebSocketResponse, text: str) -> None:
        await ws.send_bytes(b"\x11\xb0\x00\x00")
        number, held = 0, b""
        async for piece in self.pieces(request, text):
            if number:
                await ws.send_bytes(self._frame(number, held))
            number, held = number + 1, piece
        if self.fault != "leaves":
            await ws.send_bytes(self._frame(-number - 1, held))

    @staticmethod
    def _frame(number: int, sound: bytes) -> bytes:
        kind = b"\x11\xb1\x00\x00" if number > 0 else b"\x11\xb3\x00\x00"
        return kind + struct.pack(">iI", number, len(sound)) + sound

    @staticmethod
    def _unpacked(frame: bytes) -> Any:
        assert frame[:4] == b"\x11\x10\x11\x00"
        assert int.from_bytes(frame[4:8], "big") == len(frame) - 8
        wish = json.loads(gzip.decompress(frame[8:]))
        assert wish["request"]["operation"] == "submit"
        assert re.fullmatch(r"[0-9a-f-]{36}", wish["request"]["reqid"])
        assert wish["app"]["appid"] and wish["app"]["token"] and wish["app"]["cluster"] and wish["user"]["uid"]
        return wish


class AzureServer(Vendor):
    """Three messages in; metadata before the sound that it is about, then the sound, then the end of the turn."""

    routes = (("GET", "/cognitiveservices/websocket/v1"),)
    key = "azure-key"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Ocp-Apim-Subscription-Key") != self.key:
            raise web.HTTPUnauthorized
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        turn, text = await self._asked_for(ws)
        if self.fault == "error":
            await ws.close(code=1007, message=SECRET.encode())
            return ws
        await ws.send_str(self._text(turn, "turn.start", {"context": {"serviceTag": "x"}}))
        await ws.send_str(self._text(turn, "response", {"audio": {"type": "inline", "streamId": "s"}}))
        if self.fault == "garbage":
            await ws.send_str(self._text(turn, "audio.metadata", {"Metadata": [{"Type": "WordBoundary"}]}))
        for mark in _marks(text):
            await ws.send_str(self._text(turn, "audio.metadata", {"Metadata": [mark]}))
        async for piece in self.pieces(request, text):
            await ws.send_bytes(self._audio(turn, piece))
        if self.fault != "leaves":
            await ws.send_bytes(self._audio(turn, b""))
            await ws.send_str(self._text(turn, "turn.end", {}))
            await ws.receive()
        return ws

    async def _asked_for(self, ws: web.WebSocketResponse) -> tuple[str, str]:
        """The id of the turn, and what is to be said."""
        turns, bodies = set(), {}
        for expected in ("speech.config", "synthesis.context", "ssml"):
            head, _, body = (await ws.receive_str()).partition("\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.split("\r\n"))
            assert fields["Path"] == expected
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields["X-Timestamp"])
            assert fields["Content-Type"] == ("application/ssml+xml" if expected == "ssml" else "application/json")
            turns.add(fields["X-RequestId"])
            bodies[expected] = body
        audio = json.loads(bodies["synthesis.context"])["synthesis"]["audio"]
        assert audio["outputFormat"] == "raw-16khz-16bit-mono-pcm" and audio["metadataOptions"]["wordBoundaryEnabled"]
        speak = ElementTree.fromstring(bodies["ssml"])
        assert speak.tag == "{http://www.w3.org/2001/10/synthesis}speak"
        self.asked.append(speak)
        (turn,) = turns
        return turn, "".join(speak.itertext())

    @staticmethod
    def _text(turn: str, path: str, body: object) -> str:
        head = f"X-RequestId:{turn}\r\nContent-Type:application/json; charset=utf-8\r\nPath:{path}"
        return f"{head}\r\n\r\n{json.dumps(body)}"

    @staticmethod
    def _audio(turn: str, sound: bytes) -> bytes:
        head = f"X-RequestId:{turn}\r\nContent-Type:audio/x-wav\r\nX-StreamId:s\r\nPath:audio\r\n".encode()
        return len(head).to_bytes(2, "big") + head + sound


def _marks(text: str) -> list[dict[str, Any]]:
    """Azure's metadata: words, a full stop, a sentence, the end; text as it stood in the request."""
    ticks = WORD_MS * 10_000
    marks = [_mark("WordBoundary", at * ticks, ticks, word) for at, word in enumerate(text.split())]
    stop = _mark("WordBoundary", len(marks) * ticks, ticks, ".", "PunctuationBoundary")
    sentence = _mark("SentenceBoundary", 0, len(marks) * ticks, text, "SentenceBoundary")
    return [sentence, *marks, stop, {"Type": "SessionEnd", "Data": {"Offset": len(marks) * ticks}}]


def _mark(kind: str, offset: int, duration: int, text: str, boundary: str = "WordBoundary") -> dict[str, Any]:
    said = {"Text": text.replace("&", "&amp;"), "Length": len(text), "BoundaryType": boundary}
    return {"Type": kind, "Data": {"Offset": offset, "Duration": duration, "text": said}}


class QwenServer(Vendor):
    """Events in and out; a text of several sentences has several responses, then the session is finished."""

    routes = (("GET", "/api-ws/v1/realtime"),)
    rate_hz = 24_000
    key = "dashscope-key"

    def __init__(self, fault: Fault = "", code: str = "invalid_value") -> None:
        super().__init__(fault)
        self.code = code

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            raise web.HTTPUnauthorized
        assert request.query["model"] == "qwen3-tts-flash-realtime"
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await self._send(ws, "session.created", session={"voice": "Cherry", "sample_rate": self.rate_hz, "id": "x"})
        text = await self._asked_for(ws)
        if self.fault == "error":
            await self._send(ws, "error", error={"code": self.code, "message": SECRET})
        elif self.fault == "garbage":
            await self._send(ws, "response.audio.delta", delta="~~~")
        else:
            await self._speak(request, ws, text)
        return ws

    async def _asked_for(self, ws: web.WebSocketResponse) -> str:
        ids = set()
        update, append, commit, finish = [json.loads(await ws.receive_str()) for _ in range(4)]
        for event, kind in (
            (update, "session.update"),
            (append, "input_text_buffer.append"),
            (commit, "input_text_buffer.commit"),
            (finish, "session.finish"),
        ):
            assert event["type"] == kind
            ids.add(event["event_id"])
        assert len(ids) == 4
        self.asked.append(update["session"])
        await self._send(ws, "session.updated", session=update["session"])
        await self._send(ws, "input_text_buffer.committed", item_id="item_x")
        return str(append["text"])

    async def _speak(self, request: web.Request, ws: web.WebSocketResponse, text: str) -> None:
        for sentence in re.findall(r"[^.]+", text):
            await self._send(ws, "response.created", response={"id": "resp_x", "status": "in_progress"})
            await self._send(ws, "response.output_item.added", item={"role": "assistant"})
            async for piece in self.pieces(request, sentence):
                await self._send(ws, "response.audio.delta", delta=b64encode(piece).decode())
            await self._send(ws, "response.audio.done")
            await self._send(ws, "response.done", response={"id": "resp_x", "status": "completed"})
        if self.fault != "leaves":
            await self._send(ws, "session.finished")
        await ws.close()

    @staticmethod
    async def _send(ws: web.WebSocketResponse, kind: str, **fields: object) -> None:
        await ws.send_str(json.dumps({"event_id": "event_x", "type": kind, **fields}))


class GradioServer(Vendor):
    """IndexTTS2's page. `update`: the sound comes as an update of the page, as some releases send it."""

    routes = (
        ("GET", "/gradio_api/info"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/call/gen_single"),
        ("GET", "/gradio_api/call/gen_single/{event_id}"),
        ("GET", "/gradio_api/file={path:.+}"),
    )
    rate_hz = 22_050
    folder = "/tmp/gradio/out puts"

    def __init__(self, fault: Fault = "", *, update: bool = True) -> None:
        super().__init__(fault)
        self.update = update
        self.parameters = [
            _parameter("emo_control_method", "Same as the voice reference"),
            _parameter("prompt"),
            _parameter("text"),
            _parameter("emo_ref_path"),
            _parameter("emo_weight", 0.65),
            _parameter("max_text_tokens_per_segment", 120),
            _parameter("param_16", True),
        ]
        self.uploaded = b""
        self.moved_to = ""  # where the file is said to be instead

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/gradio_api/info":
            endpoints = {"/on_input_text_change": {}, "/gen_single": {"parameters": self.parameters, "returns": []}}
            return web.json_response({"named_endpoints": endpoints, "unnamed_endpoints": {}})
        if request.path == "/gradio_api/upload":
            part = (await request.post())["files"]
            assert isinstance(part, web.FileField)
            self.uploaded = part.file.read()
            return web.json_response(["/tmp/gradio/reference.wav"])
        if request.path == "/gradio_api/call/gen_single":
            self.asked.append((await request.json())["data"])
            return web.json_response({"event_id": f"e/{len(self.asked) - 1}"})
        if "path" in request.match_info:
            return await self._file(request)
        return await self._events(request)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        number = request.match_info["event_id"].removeprefix("e/")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"event: heartbeat\ndata: null\n\n")
        await self.halfway.wait()
        await self._break_off(request)
        if self.fault == "garbage":
            await response.write(b"x" * 300_000)
        elif self.fault == "error":
            await response.write(b"event: error\ndata: null\n\n")
        elif self.fault != "leaves":
            path = f"{self.folder}/{number}.wav"
            file = {"path": path, "url": "http://192.0.2.1/elsewhere.wav", "meta": {"_type": "gradio.FileData"}}
            shown = {"__type__": "update", "visible": True, "value": file} if self.update else file
            await response.write(f"event: complete\ndata: {json.dumps([shown])}\n\n".encode())
        return response

    async def _file(self, request: web.Request) -> web.StreamResponse:
        folder, _, name = request.match_info["path"].rpartition("/")
        assert folder == self.folder
        if self.moved_to:
            raise web.HTTPFound(self.moved_to)
        words = 0 if self.fault == "mute" else len(self.asked[int(name.removesuffix(".wav"))][2].split())
        return web.Response(body=_wav(tone(words * WORD_MS, self.rate_hz), self.rate_hz), content_type="audio/wav")


class NoiseServer(Vendor):
    """Any service with a WebSocket: answers whatever it is sent with `frame`, and hangs up."""

    routes = tuple(route for vendor in (DoubaoServer, AzureServer, QwenServer) for route in vendor.routes)
    frame: str | bytes = b""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await (ws.send_str(self.frame) if isinstance(self.frame, str) else ws.send_bytes(self.frame))
        await ws.close()
        return ws


def _parameter(name: str, default: object = None) -> dict[str, object]:
    return {
        "parameter_name": name,
        "parameter_has_default": default is not None,
        "parameter_default": default,
        "label": name,
        "component": "Audio" if name == "prompt" else "Textbox",
    }


def _wav(pcm: bytes, rate_hz: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes(pcm)
    return file.getvalue()
