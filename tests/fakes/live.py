"""A whole server on loopback with doubles inside, and a WebRTC peer that looks at what it gets."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr
from aiohttp import ClientSession, web
from aiortc import RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

import app as vivace
from core.config import Settings
from core.media import SAMPLE_RATE, Pcm
from tests.fakes.person import make_avatar, save


@dataclass
class Live:
    """A running server and a client for it."""

    url: str
    http: ClientSession
    app: web.Application

    @property
    def house(self) -> vivace.House:
        return self.app[vivace.HOUSE]

    async def post(self, path: str, **message: Any) -> dict[str, Any]:
        async with self.http.post(self.url + path, json=message) as response:
            assert response.status == 200, (response.status, await response.text())
            reply: dict[str, Any] = await response.json()
            return reply


@asynccontextmanager
async def serve(data_dir: Path, **settings: Any) -> AsyncIterator[Live]:
    """The server of `app.make_app` on a free loopback port; `data_dir` gets a drawn avatar if it has none."""
    if not (data_dir / "avatars" / "drawn").exists():
        (data_dir / "avatars").mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(save, data_dir / "avatars", make_avatar())
    defaults: dict[str, Any] = {
        "avatar_id": "drawn",
        "model": "paint",
        "tts": "tone",
        "llm": "script",
        "asr": "off",
        "drain_s": 0,
        "offer_rate": 0,
        "max_session": 4,
    }
    app = vivace.make_app(Settings(data_dir=data_dir, **{**defaults, **settings}))
    runner = web.AppRunner(app, shutdown_timeout=5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with ClientSession() as http:
            yield Live(f"http://127.0.0.1:{port}", http, app)
    finally:
        await runner.cleanup()


class Voice(MediaStreamTrack):
    """A microphone: silence, and what it is given to `say`, in real time."""

    kind = "audio"
    RATE_HZ, FRAME = 48_000, 960

    def __init__(self) -> None:
        super().__init__()
        self._unsaid = np.zeros(0, np.int16)
        self._sent, self._started = 0, 0.0

    def say(self, pcm: Pcm) -> None:
        """Say `pcm`, float32 (n,) 16 kHz, after what is still being said."""
        sound = soxr.resample(pcm, SAMPLE_RATE, self.RATE_HZ)
        self._unsaid = np.concatenate([self._unsaid, (sound * 32767).clip(-32768, 32767).astype(np.int16)])

    @property
    def speaking(self) -> bool:
        return len(self._unsaid) > 0

    async def recv(self) -> av.AudioFrame:
        loop = asyncio.get_running_loop()
        self._started = self._started or loop.time()
        await asyncio.sleep(max(0.0, self._started + self._sent / self.RATE_HZ - loop.time()))
        piece, self._unsaid = self._unsaid[: self.FRAME], self._unsaid[self.FRAME :]
        frame = av.AudioFrame.from_ndarray(np.pad(piece, (0, self.FRAME - len(piece)))[None], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = self.RATE_HZ, self._sent, Fraction(1, self.RATE_HZ)
        self._sent += self.FRAME
        return frame


@dataclass
class Peer:
    """A WebRTC peer that receives and, if it has a `microphone`, speaks.

    It keeps the brightness of each picture and the RMS of each sound, and when they came.
    """

    live: Live
    pc: RTCPeerConnection = field(default_factory=RTCPeerConnection)
    pictures: list[tuple[float, float, float]] = field(default_factory=list)  # (arrival s, media s, brightness)
    sounds: list[tuple[float, float, float]] = field(default_factory=list)  # (arrival s, media s, RMS 0..1)
    events: list[str] = field(default_factory=list)
    sessionid: int = 0
    microphone: Voice | None = None
    hidden: bool = False  # candidates as browsers hide them
    answer: str = ""
    first_picture: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def connect(self, **wishes: Any) -> dict[str, Any]:
        """Offer as the documents' clients do, and accept the answer; the server's reply."""
        reply = await self.offer(**wishes)
        if self.answer:
            await self.accept()
        return reply

    async def accept(self) -> None:
        await self.pc.setRemoteDescription(RTCSessionDescription(self.answer, "answer"))

    async def offer(self, *, video: bool = True, codec: str = "", **wishes: Any) -> dict[str, Any]:
        self.pc.on("track", self._track)
        if video:
            self.pc.addTransceiver("video", direction="recvonly")
        self.pc.addTransceiver(self.microphone or "audio", direction="sendrecv" if self.microphone else "recvonly")
        channel: RTCDataChannel = self.pc.createDataChannel("events")
        channel.on("message", self.events.append)
        await self.pc.setLocalDescription(await self.pc.createOffer())
        sdp = _only(codec, self.pc.localDescription.sdp) if codec else self.pc.localDescription.sdp
        if self.hidden:
            sdp = re.sub(r"(a=candidate:\S+ \d \S+ \d+) \S+", r"\1 0d1d2d3d-hidden.local", sdp)
        reply = await self.live.post("/offer", sdp=sdp, type="offer", **wishes)
        if "sdp" in reply:
            self.sessionid, self.answer = reply["sessionid"], reply["sdp"]
        return reply

    def _track(self, track: MediaStreamTrack) -> None:
        read = self._read_pictures if track.kind == "video" else self._read_sounds
        self.tasks.append(asyncio.create_task(read(track)))

    async def _read_pictures(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                frame: Any = await track.recv()
                grey = frame.reformat(format="gray", width=32, height=32).to_ndarray()
                self.pictures.append((asyncio.get_running_loop().time(), frame.time, float(grey.mean())))
                self.first_picture.set()
        except MediaStreamError:
            return

    async def _read_sounds(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                frame: Any = await track.recv()
                samples = frame.to_ndarray().astype(np.float32) / 32768
                rms = float(np.sqrt((samples**2).mean()))
                self.sounds.append((asyncio.get_running_loop().time(), frame.time, rms))
        except MediaStreamError:
            return

    async def close(self) -> None:
        await self.pc.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def _only(codec: str, sdp: str) -> str:
    """`sdp` with no other video codec than `codec`, as from a peer that knows no other."""
    maps = [line for line in sdp.splitlines() if line.startswith("a=rtpmap:") and codec in line]
    known = {line.split(":")[1].split()[0] for line in maps}
    kept, video = [], False
    for line in sdp.splitlines():
        if line.startswith("m="):
            video = line.startswith("m=video")
            if video:
                head = line.split()
                line = " ".join([*head[:3], *(pt for pt in head[3:] if pt in known)])
        attribute = line.startswith(("a=rtpmap:", "a=fmtp:", "a=rtcp-fb:"))
        if not (video and attribute and line.split(":")[1].split()[0] not in known):
            kept.append(line)
    return "\r\n".join(kept) + "\r\n"


@asynccontextmanager
async def connected(live: Live, *, microphone: Voice | None = None, **wishes: Any) -> AsyncIterator[Peer]:
    """A peer whose first picture has come."""
    peer = Peer(live, microphone=microphone)
    try:
        reply = await peer.connect(**wishes)
        assert "sdp" in reply, reply
        async with asyncio.timeout(10):
            await peer.first_picture.wait()
        yield peer
    finally:
        await peer.close()
