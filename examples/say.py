"""Says a sentence and saves what a viewer sees and hears.

    python examples/say.py "Hello, I am Vivace." hello.mp4
    python examples/say.py --server http://host:8010 --token SECRET "Hello." hello.mp4

It needs nothing that the server does not need.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

import av
from aiohttp import ClientSession
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

NETWORK_S = 0.5  # the event may overtake the last sound


class Server:
    """The HTTP side of a Vivace server: JSON in, JSON out; the program ends where the server says no."""

    def __init__(self, http: ClientSession) -> None:
        self.http = http

    async def post(self, path: str, **message: Any) -> Any:
        async with self.http.post(path, json=message) as response:
            reply = await response.json()
        if reply.get("code", 0) != 0:
            raise SystemExit(reply["msg"])
        return reply

    async def connect(self, pc: RTCPeerConnection, **wishes: Any) -> int:
        """Connect `pc`, whose transceivers and channels are added, and return the number of the new session."""
        await pc.setLocalDescription(await pc.createOffer())
        answer = await self.post("/offer", sdp=pc.localDescription.sdp, type="offer", **wishes)
        await pc.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
        return int(answer["sessionid"])


def client(server: str, token: str) -> ClientSession:
    """An HTTP client for `server`, with the token if it wants one."""
    return ClientSession(server, headers={"Authorization": f"Bearer {token}"} if token else None)


def arguments(about: str | None) -> argparse.ArgumentParser:
    """What every example takes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:8010")
    parser.add_argument("--token", default="", help="where the server was started with one")
    return parser


async def save(video: MediaStreamTrack, audio: MediaStreamTrack, path: str) -> None:
    """Write both tracks to `path` until they end."""
    first: Any = await video.recv()
    with av.open(path, "w") as file:
        pictures = file.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        pictures.width, pictures.height, pictures.pix_fmt = first.width, first.height, "yuv420p"
        sound = file.add_stream("aac", rate=48_000)
        file.mux(pictures.encode(first))
        await asyncio.gather(copy(video, pictures, file), copy(audio, sound, file))


async def copy(track: MediaStreamTrack, stream: Any, file: Any) -> None:
    """Encode what `track` brings; what the encoder holds back follows when the track ends."""
    try:
        while True:
            file.mux(stream.encode(await track.recv()))
    except MediaStreamError:
        file.mux(stream.encode(None))


async def say(http: ClientSession, text: str, path: str) -> None:
    """Have `text` said in a session of its own, and save it until the server reports that it has ended."""
    server, pc = Server(http), RTCPeerConnection()
    opened, ended = asyncio.Event(), asyncio.Event()

    def on_message(message: str) -> None:
        event = json.loads(message)
        print(event)
        if event["event"] in {"speak-end", "closed"}:
            ended.set()

    channel = pc.createDataChannel("events")
    channel.on("open", opened.set)
    channel.on("message", on_message)
    receivers = [pc.addTransceiver(kind, direction="recvonly").receiver for kind in ("video", "audio")]
    sessionid = await server.connect(pc)
    saving = asyncio.create_task(save(receivers[0].track, receivers[1].track, path))
    await opened.wait()
    await server.post("/human", sessionid=sessionid, type="echo", text=text)
    await ended.wait()
    await asyncio.sleep(NETWORK_S)
    await pc.close()  # this ends the tracks
    await saving


async def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("text")
    parser.add_argument("file", help="the mp4 to write")
    options = parser.parse_args()
    async with client(options.server, options.token) as http:
        await say(http, options.text, options.file)
    print(f"saved {options.file}")


if __name__ == "__main__":
    asyncio.run(main())
