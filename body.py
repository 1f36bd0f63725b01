"""What clients send over HTTP, read within limits: JSON whatever its content type says, and forms with a file."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from urllib.parse import parse_qsl

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from core.errors import BadRequest

MAX_JSON = 2 << 20
MAX_FIELDS = 1 << 20  # a form's fields together, but for its file
PIECE_BYTES = 1 << 18
STALL_S = 60.0


async def read_json(request: web.Request) -> bytes:
    """The body as JSON text, whatever its content type says; a urlencoded form counts as an object of its fields.

    HTTP 413 beyond MAX_JSON bytes.
    """
    data = bytearray()
    async for piece in request.content.iter_any():
        data += piece
        if len(data) > MAX_JSON:
            raise _too_large(MAX_JSON)
    if request.content_type == "application/x-www-form-urlencoded" and not data.lstrip().startswith(b"{"):
        return json.dumps(dict(parse_qsl(data.decode("utf-8", "replace")))).encode()
    return bytes(data)


async def read_form(
    request: web.Request, file: str, limit_bytes: int, take: Callable[[bytes], Awaitable[object]]
) -> dict[str, str]:
    """The fields of a multipart form, in any order; the one named `file` goes to `take`, piece by piece.

    HTTP 413 beyond `limit_bytes` of file; BadRequest if it is no form, breaks off, or stalls.
    """
    announced = request.content_length or 0
    if announced > limit_bytes + MAX_JSON:
        raise _too_large(limit_bytes)
    fields: defaultdict[str, bytearray] = defaultdict(bytearray)
    limits = {True: limit_bytes, False: MAX_FIELDS}
    left = dict(limits)
    async with aclosing(_pieces(request)) as pieces:
        async for name, piece in pieces:
            left[name == file] -= len(piece)
            if left[name == file] < 0:
                raise _too_large(limits[name == file])
            if name == file:
                await take(piece)
            else:
                fields[name] += piece
    return {name: data.decode("utf-8", "replace") for name, data in fields.items()}


def _too_large(limit_bytes: int) -> web.HTTPException:
    return web.HTTPRequestEntityTooLarge(limit_bytes, reason=f"too large: the most is {limit_bytes >> 20} MB")


async def _pieces(request: web.Request) -> AsyncGenerator[tuple[str, bytes], None]:
    """A form's fields as they come, `(name, piece)`; each begins with an empty piece."""
    if request.content_type != "multipart/form-data":
        raise BadRequest("the request must be multipart/form-data")
    try:
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and part.name:
                yield part.name, b""
                while piece := await asyncio.wait_for(part.read_chunk(PIECE_BYTES), STALL_S):
                    yield part.name, piece
    except (ValueError, HttpProcessingError) as error:
        raise BadRequest("the form cannot be read") from error
    except (TimeoutError, ConnectionError, web.RequestPayloadError) as error:
        raise BadRequest("the form did not arrive whole") from error
