"""Chats in the terminal, and prints the events of the session as they become true.

    python examples/chat.py                      a session of its own, sound only, which nobody hears
    python examples/chat.py --session 123456     the session that a browser shows
    python examples/chat.py --kind echo          have each line said instead of answered

An empty line interrupts; the end of input (Ctrl-D) leaves.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import ClientSession, ClientTimeout
from aiortc import RTCPeerConnection
from aiortc.contrib.media import MediaBlackhole
from say import Server, arguments, client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def listening(server: Server) -> AsyncIterator[int]:
    """A session of this program's own, connected; its number."""
    pc, ears, connected = RTCPeerConnection(), MediaBlackhole(), asyncio.Event()
    pc.addTransceiver("audio", direction="recvonly")
    pc.on("track", ears.addTrack)

    @pc.on("connectionstatechange")
    def changed() -> None:
        if pc.connectionState == "connected":
            connected.set()

    try:
        sessionid = await server.connect(pc)
        await ears.start()
        await connected.wait()
        yield sessionid
    finally:
        await ears.stop()
        await pc.close()


async def print_events(http: ClientSession, sessionid: int) -> None:
    """Print each event until the session ends."""
    async with http.get("/sse", params={"sessionid": sessionid}, timeout=ClientTimeout(total=None)) as stream:
        async for line in stream.content:
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                print(f"{event.pop('time_ms') / 1000:8.2f} s  {event.pop('event'):12} {event}")


async def chat(server: Server, sessionid: int, kind: str) -> None:
    """Send each line that is typed."""
    events = asyncio.create_task(print_events(server.http, sessionid))
    try:
        while True:
            text = await asyncio.to_thread(input)
            if text:
                await server.post("/human", sessionid=sessionid, type=kind, text=text)
            else:
                await server.post("/interrupt_talk", sessionid=sessionid)
    except EOFError:
        events.cancel()


async def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--session", type=int, help="a session that is already live")
    parser.add_argument("--kind", choices=["chat", "echo"], default="chat")
    options = parser.parse_args()
    async with client(options.server, options.token) as http:
        server = Server(http)
        if options.session:
            await chat(server, options.session, options.kind)
        else:
            async with listening(server) as sessionid:
                await chat(server, sessionid, options.kind)


if __name__ == "__main__":
    asyncio.run(main())
