"""The door: what it lets in, how it refuses, what it tells and what it keeps to itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from loguru import logger
from multidict import CIMultiDictProxy
from prometheus_client import REGISTRY

from auth import add_headers, allow_cross_origin, limit_rate, refusal, render, render_errors, reply, require_token
from core.errors import EngineFailed, Overloaded, UnknownSession
from tests.fakes.virtual import in_virtual_time

Client = TestClient[web.Request, web.Application]


def route_of(request: web.Request) -> str:
    return "/api/{what}" if request.path.startswith("/api") else ""


async def behave(request: web.Request) -> web.Response:
    """Does what the path says."""
    match request.match_info["what"]:
        case "fail":
            raise ZeroDivisionError("sesame at /etc/passwd")
        case "unknown":
            raise UnknownSession("session not found")
        case "engine":
            raise EngineFailed("the voice did not answer")
        case "large":
            raise web.HTTPRequestEntityTooLarge(1, 2)
        case "elsewhere":
            raise web.HTTPFound("/api/ok")
    return reply()


@pytest.fixture
async def door() -> AsyncIterator[Client]:
    middlewares = [render_errors(route_of), allow_cross_origin(), require_token("sesame", route_of)]
    app = web.Application(middlewares=middlewares)
    app.router.add_route("*", "/{room}/{what}", behave)
    app.on_response_prepare.append(add_headers)
    async with TestClient(TestServer(app)) as client:
        yield client


KEY = {"Authorization": "Bearer sesame"}


async def ask(
    door: Client, path: str, method: str = "POST", **headers: str
) -> tuple[int, dict[str, Any], CIMultiDictProxy[str]]:
    """Status, JSON and headers of the answer."""
    async with door.request(method, path, headers={**KEY, **headers}, allow_redirects=False) as response:
        text = await response.text()
        return response.status, json.loads(text) if text.startswith("{") else {}, response.headers


# Errors.


async def test_a_failure_nobody_thought_of_tells_nothing_and_is_logged(door: Client) -> None:
    logged: list[str] = []
    sink = logger.add(logged.append, level="ERROR", format="{message}", diagnose=False)
    status, answer, headers = await ask(door, "/api/fail", **{"X-Request-Id": "r-17"})
    logger.remove(sink)
    assert (status, answer) == (200, {"code": -1, "msg": "internal error", "data": "internal error"})
    assert len(logged) == 1 and "POST /api/fail failed" in logged[0] and "ZeroDivisionError" in logged[0]
    assert headers["X-Request-Id"] == "r-17"


@pytest.mark.parametrize(
    ("path", "method", "status", "message"),
    [
        ("/api/unknown", "POST", 200, "session not found"),
        ("/api/unknown", "DELETE", 404, "session not found"),
        ("/api/engine", "POST", 200, "the voice did not answer"),
        ("/api/engine", "DELETE", 502, "the voice did not answer"),
        ("/api/large", "POST", 413, "Request Entity Too Large"),
    ],
)
async def test_every_refusal_has_the_envelope_and_its_status(
    door: Client, path: str, method: str, status: int, message: str
) -> None:
    assert (await ask(door, path, method))[:2] == (status, {"code": -1, "msg": message, "data": message})


async def test_a_redirection_is_no_error(door: Client) -> None:
    status, _, headers = await ask(door, "/page/elsewhere", "GET")
    assert status == 302 and headers["Location"] == "/api/ok"


@pytest.mark.parametrize(
    ("path", "message", "answer"),
    [
        ("/human", "no", {"code": -1, "msg": "no", "data": "no"}),
        ("/humanaudio", "no", {"code": -1, "msg": "err", "data": "no"}),
        ("/is_speaking", "no", {"code": -1, "msg": "no", "data": False}),
        ("/is_speaking", "session not found", {"code": -1, "msg": "Session not found", "data": False}),
    ],
)
def test_each_route_refuses_as_its_clients_know_it(path: str, message: str, answer: dict[str, Any]) -> None:
    assert json.loads(render(path, message).text or "") == answer


def test_answers_are_written_as_people_write() -> None:
    assert "你好" in (reply("你好").text or "") and "你好" in (refusal("你好").text or "")
    assert json.loads(reply(1, warning="hm").text or "") == {"code": 0, "msg": "ok", "data": 1, "warning": "hm"}


async def test_a_request_has_an_id_of_its_own_and_a_long_one_is_cut(door: Client) -> None:
    ids = [(await ask(door, "/api/ok"))[2]["X-Request-Id"] for _ in range(3)]
    assert len(set(ids)) == 3 and all(len(each) == 8 for each in ids)
    assert (await ask(door, "/api/ok", **{"X-Request-Id": "x" * 99}))[2]["X-Request-Id"] == "x" * 32


async def test_requests_are_counted_by_route_and_what_is_no_route_as_a_page(door: Client) -> None:
    """Or anybody could fill the metrics with labels."""
    before = {route: counted(route) for route in ("page", "/api/{what}")}
    for number in range(5):
        await ask(door, f"/page/{number}")
        await ask(door, f"/api/{number}")
    assert {route: counted(route) for route in before} == {route: count + 5 for route, count in before.items()}
    labels = [sample.labels.get("route", "") for metric in REGISTRY.collect() for sample in metric.samples]
    assert not [label for label in labels if label.startswith("/page") or label in {f"/api/{i}" for i in range(5)}]


def counted(route: str) -> float:
    return REGISTRY.get_sample_value("vivace_requests_total", {"route": route, "outcome": "ok"}) or 0


# Tokens.


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer sesame", 200),
        ("bearer sesame", 200),
        ("Bearer  sesame ", 200),
        ("Bearer Sesame", 401),
        ("Bearer sesame2", 401),
        ("Bearer", 401),
        ("Basic sesame", 401),
        ("sesame", 401),
        ("", 401),
    ],
)
async def test_only_the_token_opens(door: Client, header: str, status: int) -> None:
    assert (await ask(door, "/api/ok", Authorization=header))[0] == status
    assert (await ask(door, "/page/ok", Authorization=header))[0] == 200


@pytest.mark.parametrize(
    ("offered", "status"),
    [
        ("binary, bearer.c2VzYW1l", 200),
        ("bearer.c2VzYW1l", 200),
        ("bearer.c2VzYW1lMg", 401),
        ("bearer.sesame", 401),
        ("bearer.c2VzY", 401),
        ("bearer.", 401),
        ("bearer", 401),
        ("binary", 401),
        ("bearer.\xff", 401),
    ],
)
async def test_a_web_socket_of_a_browser_offers_the_token_as_a_protocol(
    door: Client, offered: str, status: int
) -> None:
    assert (await ask(door, "/api/ok", Authorization="", **{"Sec-WebSocket-Protocol": offered}))[0] == status


@pytest.mark.parametrize("name", ["Authorization", "X-Request-Id", "Origin"])
async def test_a_header_that_is_no_text_is_answered_like_any_other(door: Client, name: str) -> None:
    headers = {"Authorization": b"Bearer sesame", name: b"Bearer s\xff"}
    answer = await raw(door, headers)
    assert answer.startswith(b"HTTP/1.1 401 " if name == "Authorization" else b"HTTP/1.1 200 ")
    assert b"internal error" not in answer


async def raw(door: Client, headers: dict[str, bytes]) -> bytes:
    """The answer to a request whose headers are sent byte for byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    lines = [name.encode() + b": " + value for name, value in headers.items()]
    writer.write(b"\r\n".join([b"POST /api/ok HTTP/1.1", b"Host: x", b"Connection: close", *lines, b"", b""]))
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    return answer


# Other origins.


@pytest.mark.parametrize(("path", "key", "status"), [("/api/fail", KEY, 200), ("/api/ok", {"Authorization": ""}, 401)])
async def test_pages_elsewhere_can_read_refusals_too(door: Client, path: str, key: dict[str, str], status: int) -> None:
    given, _, headers = await ask(door, path, Origin="https://example.org", **key)
    assert given == status
    assert headers["Access-Control-Allow-Origin"] == "https://example.org"
    assert headers["Vary"] == "Origin" and "Content-Security-Policy" in headers
    assert headers["X-Content-Type-Options"] == "nosniff"


async def test_who_does_not_come_from_elsewhere_gets_no_such_headers(door: Client) -> None:
    _, _, headers = await ask(door, "/api/ok")
    assert not [name for name in headers if name.startswith("Access-Control")]


async def test_a_preflight_needs_no_token_but_any_other_options_does(door: Client) -> None:
    preflight = {"Authorization": "", "Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    assert (await ask(door, "/api/ok", "OPTIONS", **preflight))[0] == 200
    assert (await ask(door, "/api/ok", "OPTIONS", Authorization=""))[0] == 401


# How often.


async def ok(request: web.Request) -> web.StreamResponse:
    return web.Response()


Visit = Callable[..., Awaitable[web.StreamResponse]]


def visitor(per_minute: int) -> Visit:
    """`visit(address, path, method)` of a door with a limit."""
    middleware: Any = limit_rate({"/offer": per_minute})

    async def visit(address: str, path: str = "/offer", method: str = "POST") -> web.StreamResponse:
        answer: web.StreamResponse = await middleware(make_mocked_request(method, path).clone(remote=address), ok)
        return answer

    return visit


@in_virtual_time
async def test_an_address_may_come_so_often_in_any_minute() -> None:
    visit = visitor(3)
    for _ in range(3):
        await visit("a")
        await asyncio.sleep(10)
    with pytest.raises(Overloaded, match="try again in 30 s"):
        await visit("a")
    await asyncio.sleep(30.1)
    await visit("a")
    with pytest.raises(Overloaded, match="try again in 10 s"):
        await visit("a")


@in_virtual_time
async def test_each_address_has_its_own_count_and_other_requests_none() -> None:
    visit = visitor(1)
    for address in ("a", "b"):
        await visit(address)
        for _ in range(5):
            await visit(address, "/human")
            await visit(address, "/offer", "GET")
        with pytest.raises(Overloaded):
            await visit(address)


@in_virtual_time
async def test_no_limit_is_no_limit() -> None:
    visit = visitor(0)
    for _ in range(100):
        await visit("a")


@in_virtual_time
async def test_the_addresses_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auth.REMEMBERED_ADDRESSES", 10)
    visit = visitor(1)
    for number in range(11):
        await visit(str(number))
    await visit("0")  # forgotten, as the longest away
    with pytest.raises(Overloaded):
        await visit("10")
