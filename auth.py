"""The door: request ids, errors in the API's dialect, tokens, rate limits, cross-origin requests, safe headers."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from loguru import logger

from core import metrics
from core.errors import Overloaded, Unauthorized, VivaceError
from core.log import request_id
from core.messages import Reply

OPEN_PATHS = {"/healthz", "/readyz", "/openapi.json"}
REMEMBERED_ADDRESSES = 10_000
CSP = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob: http: https:",
        "connect-src *",
        "style-src 'self'",
    ]
)


def reply(data: object = "ok", **more: object) -> web.Response:
    """Success: `{"code": 0, "msg": "ok", "data": …}`, with `more` beside them."""
    return web.json_response({**Reply(data=data).model_dump(), **more}, dumps=_dumps)


def refusal(message: str, *, status: int = 200, **override: object) -> web.Response:
    """Failure: `{"code": -1, "msg": …, "data": …}`. The family's clients want HTTP 200 and read the code."""
    return web.json_response({"code": -1, "msg": message, "data": message, **override}, status=status, dumps=_dumps)


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def render(path: str, message: str, *, status: int = 200) -> web.Response:
    """A failure as the clients of `path` know it."""
    if path == "/humanaudio":
        return refusal("err", data=message, status=status)
    if path == "/is_speaking":
        unknown = message == "session not found"
        return refusal("Session not found" if unknown else message, data=False, status=status)
    return refusal(message, status=status)


def render_errors(route_of: Callable[[web.Request], str]) -> Middleware:
    """Every failure becomes the API's envelope, and is logged with the request's id; pages keep plain HTTP errors.

    Control routes answer 200; a body too large, an unknown route or a wrong method keep their status. `route_of` gives
    the route of an API request, "" for anything else.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        token = request_id.set(request.headers.get("X-Request-Id", "")[:32] or secrets.token_hex(4))
        try:
            response = await handler(request)
            outcome = "ok"
        except VivaceError as error:
            logger.info("{} {}: {}", request.method, request.path, error.code)
            own_status = error.status if isinstance(error, Unauthorized) or request.method == "DELETE" else 200
            response, outcome = render(request.path, str(error), status=own_status), error.code
        except web.HTTPException as error:
            if error.status < 400:
                raise
            response, outcome = render(request.path, error.reason, status=error.status), str(error.status)
            response.headers.update({k: v for k, v in error.headers.items() if k == "Allow"})
        except Exception:  # noqa: BLE001
            logger.exception("{} {} failed", request.method, request.path)
            response, outcome = render(request.path, "internal error"), "internal"
        metrics.REQUESTS.labels(route_of(request) or "page", outcome).inc()
        if not response.prepared:
            response.headers["X-Request-Id"] = request_id.get()
        request_id.reset(token)
        return response

    return middleware


def allow_cross_origin() -> Middleware:
    """Any page may use the API, as the family's documents promise: preflights succeed on every path.

    No cookie is ever read, so a page of another origin can do no more than one that has the token.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        return web.Response() if preflight else await handler(request)

    return middleware


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """`on_response_prepare`: cross-origin and safety headers on everything, streams and errors included."""
    origin = request.headers.get("Origin")
    if origin:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Credentials"] = "true"
        response.headers["Access-Control-Expose-Headers"] = "*"
        response.headers["Vary"] = "Origin"
        if request.method == "OPTIONS":
            asked = request.headers.get("Access-Control-Request-Headers", "*")
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE, OPTIONS"
            response.headers["Access-Control-Allow-Headers"] = asked
            response.headers["Access-Control-Max-Age"] = "600"
    response.headers.setdefault("Content-Security-Policy", CSP)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")


def require_token(token: str, route_of: Callable[[web.Request], str]) -> Middleware:
    """If a token is set, API requests must carry `Authorization: Bearer <token>`; pages and health do not.

    A browser's WebSocket, which can send no header, offers it as the protocol `bearer.<token in base64url>`.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        guarded = token and route_of(request) and request.path not in OPEN_PATHS
        if guarded and not hmac.compare_digest(_given(request), token.encode()):
            raise Unauthorized("this server wants a token: Authorization: Bearer <token>")
        return await handler(request)

    return middleware


def _given(request: web.Request) -> bytes:
    """The token that comes with a request; empty if there is none."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip().encode("utf-8", "surrogateescape")
    for offered in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        kind, _, hidden = offered.strip().partition(".")
        if kind == "bearer":
            with suppress(ValueError):
                return base64.urlsafe_b64decode(hidden + "=" * (-len(hidden) % 4))
    return b""


def limit_rate(per_minute: Mapping[str, int]) -> Middleware:
    """At most so many POSTs a minute from one address to each of these paths; 0 is unlimited."""
    seen: OrderedDict[tuple[str, str | None], deque[float]] = OrderedDict()

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        limit = per_minute.get(request.path, 0) if request.method == "POST" else 0
        if limit:
            now = asyncio.get_running_loop().time()
            times = seen.setdefault((request.path, request.remote), deque())
            seen.move_to_end((request.path, request.remote))
            while times and now - times[0] > 60:
                times.popleft()
            if len(times) >= limit:
                raise Overloaded(f"too many requests; try again in {60 - int(now - times[0])} s")
            times.append(now)
            while len(seen) > REMEMBERED_ADDRESSES:
                seen.popitem(last=False)
        return await handler(request)

    return middleware
