"""Measures a running server from outside, and prints the table of docs/performance.md.

    python -m scripts.bench                 everything but the long run, about ten minutes
    python -m scripts.bench latency skew    only these
    python -m scripts.bench skew --minutes 10

Times are of the packets on the wire, so no client's jitter buffer is in them. The server is a process of its own; CPU
is its user and system time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aioice.ice
import av
import numpy as np
from aiohttp import ClientSession
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtp import RtcpSrPacket

from scripts.bench_ears import SPEECH
from scripts.bench_voice import DUCKED_DB, SILENT_DB, Microphone, Talk, decoded, first_drop, levels, phrases

ROUND_S = 14.0  # the presenter idles in a loop of 12 s: by then the network has seen all its frames
VOICED_BYTES = 20  # an Opus packet of 20 ms with more than this is not silence


@dataclass
class Server:
    url: str
    http: ClientSession
    process: asyncio.subprocess.Process
    spoke: list[float] = field(default_factory=list)

    async def post(self, path: str, **message: Any) -> dict[str, Any]:
        async with self.http.post(self.url + path, json=message) as response:
            reply: dict[str, Any] = await response.json()
            return reply

    async def say(self, peer: Peer, seconds: int) -> None:
        await self.post("/human", sessionid=peer.sessionid, type="echo", text="word " * seconds)

    async def usage(self) -> dict[str, float]:
        async with self.http.get(self.url + "/bench") as response:
            usage: dict[str, float] = await response.json()
            return usage


@asynccontextmanager
async def server(*flags: str) -> AsyncIterator[Server]:
    """A bench server as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "scripts.bench_server",
        *flags,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin and process.stdout
    async with ClientSession() as http:
        port = json.loads(await process.stdout.readline())["port"]
        running = Server(f"http://127.0.0.1:{port}", http, process)
        reading = asyncio.create_task(_listen(running))
        await asyncio.sleep(2)  # the idle loop is being encoded
        try:
            yield running
        finally:
            process.stdin.close()
            await process.wait()
            await reading


async def _listen(running: Server) -> None:
    assert running.process.stdout
    async for line in running.process.stdout:
        running.spoke.append(json.loads(line)["spoke"])


@dataclass
class Packets:
    """What came on one track: arrival (monotonic s), RTP timestamp, payload; and the last sender report."""

    arrivals: list[float] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    reports: list[tuple[int, int]] = field(default_factory=list)  # (NTP 32.32, RTP timestamp)
    first: asyncio.Event = field(default_factory=asyncio.Event)

    def between(self, start: float, end: float) -> list[tuple[float, int]]:
        """(arrival, RTP timestamp) of what came in that time."""
        return [pair for pair in zip(self.arrivals, self.stamps, strict=True) if start < pair[0] < end]

    def voiced(self) -> list[float]:
        return [t for t, data in zip(self.arrivals, self.payloads, strict=True) if len(data) > VOICED_BYTES]


class Peer:
    """A WebRTC receiver that keeps the packets themselves and, unless `decode`, does nothing else with them.

    One that `talks` has a microphone, and is told the events.
    """

    def __init__(self, running: Server, *, decode: bool = False, keep: bool = True, talks: bool = False) -> None:
        self.server = running
        self.decode = decode
        self.keep = keep
        self.microphone = Microphone() if talks else None
        self.events: list[dict[str, Any]] = []
        self.told = asyncio.Event()  # one more of them
        self.pc = RTCPeerConnection()
        self.tracks = {"audio": Packets(), "video": Packets()}
        self.decoded = asyncio.Event()
        self.first_picture = 0.0
        self.sessionid = 0
        self._reader: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        self.pc.on("track", self._track)
        for kind in ("video", "audio"):
            talks = self.microphone if kind == "audio" else None
            transceiver = self.pc.addTransceiver(talks or kind, direction="sendrecv" if talks else "recvonly")
            self._tap(transceiver.receiver, self.tracks[kind])
        if self.microphone:
            channel = self.pc.createDataChannel("events")
            channel.on("message", self._tell)
        await self.pc.setLocalDescription(await self.pc.createOffer())
        reply = await self.server.post("/offer", sdp=self.pc.localDescription.sdp, type="offer")
        self.sessionid = reply["sessionid"]
        await self.pc.setRemoteDescription(RTCSessionDescription(reply["sdp"], "answer"))
        if self.microphone:
            self.microphone.tap(transceiver.sender)

    def _tell(self, event: str) -> None:
        self.events.append(json.loads(event))
        self.told.set()

    def _tap(self, receiver: Any, packets: Packets) -> None:
        handle_rtp, handle_rtcp = receiver._handle_rtp_packet, receiver._handle_rtcp_packet

        async def rtp(packet: Any, arrival_time_ms: int) -> None:
            packets.arrivals.append(time.monotonic())
            packets.first.set()
            packets.stamps.append(packet.timestamp)
            packets.payloads.append(packet.payload if self.keep else packet.payload[: VOICED_BYTES + 1])
            if self.decode:
                await handle_rtp(packet, arrival_time_ms)

        async def rtcp(packet: Any) -> None:
            if isinstance(packet, RtcpSrPacket):
                packets.reports.append((packet.sender_info.ntp_timestamp, packet.sender_info.rtp_timestamp))
            await handle_rtcp(packet)

        receiver._handle_rtp_packet, receiver._handle_rtcp_packet = rtp, rtcp

    def _track(self, track: MediaStreamTrack) -> None:
        if self.decode and track.kind == "video":
            self._reader = asyncio.create_task(self._read(track))

    async def _read(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                await track.recv()
                self.first_picture = self.first_picture or time.monotonic()
                self.decoded.set()
        except MediaStreamError:
            return

    async def close(self) -> None:
        await self.pc.close()
        if self._reader:
            await self._reader


@asynccontextmanager
async def peers(running: Server, n: int, **kind: bool) -> AsyncIterator[list[Peer]]:
    crowd = [Peer(running, **kind) for _ in range(n)]
    try:
        for peer in crowd:
            await peer.connect()
            await peer.tracks["video"].first.wait()
        yield crowd
    finally:
        await asyncio.gather(*(peer.close() for peer in crowd))


def p95(values: Sequence[float]) -> float:
    return float(np.percentile(values, 95))


def middle_and_worst(values: Sequence[float]) -> str:
    """p50 and p95 of times in ms."""
    return f"{statistics.median(values):.0f} / {p95(values):.0f} ms" if values else "never"


def row(what: str, wanted: str, got: str) -> None:
    print(f"| {what} | {wanted} | {got} |", flush=True)


async def latency(args: argparse.Namespace) -> None:
    """TTS's first audio byte → first voiced packet; `/interrupt_talk` answered → last voiced packet."""
    starts, stops = [], []
    async with server() as running, peers(running, 1) as (peer,):
        sound = peer.tracks["audio"]
        for turn in range(args.turns):
            await asyncio.sleep(0.5 + 0.013 * (turn % 7))
            said = len(running.spoke)
            await running.say(peer, 7)
            await asyncio.sleep(1 + 0.017 * (turn % 5))
            starts.append(1000 * (min(t for t in sound.voiced() if t > running.spoke[said]) - running.spoke[said]))
            await running.post("/interrupt_talk", sessionid=peer.sessionid)
            answered = time.monotonic()
            await asyncio.sleep(0.5)
            stops.append(1000 * (sound.voiced()[-1] - answered))
    row("TTS's first byte → first voiced packet, p50 / p95", "≤ 150 ms p95", middle_and_worst(starts))
    row("interrupt answered → last voiced packet, p50 / p95", "≤ 60 ms p95", middle_and_worst(stops))


async def skew(args: argparse.Namespace) -> None:
    """Flash against beep on the sender reports' clock, as a receiver aligns them."""
    async with server("--flash") as running, peers(running, 1) as (peer,):
        await asyncio.sleep(3)
        await running.post("/human", sessionid=peer.sessionid, type="echo", text="beeps")
        await asyncio.sleep(max(12.0, args.minutes * 60))
        flashes, beeps = flash_times(peer.tracks["video"]), beep_times(peer.tracks["audio"])
    pairs = [(flash, min(beeps, key=lambda beep: abs(beep - flash))) for flash in flashes]
    skews = [1000 * (flash - beep) for flash, beep in pairs if abs(flash - beep) < 0.3]
    first, last = statistics.mean(skews[:5]), statistics.mean(skews[-5:])
    what = f"picture − sound at the receiver: start / after {(flashes[-1] - flashes[0]) / 60:.1f} min / worst"
    row(what, "≤ 20 ms, no drift", f"{first:+.1f} / {last:+.1f} / {max(skews, key=abs):+.1f} ms")


def on_ntp(packets: Packets, rate: int) -> list[float]:
    """NTP seconds of each packet, from a line through the sender reports."""
    ntp = np.array([report[0] / 2**32 for report in packets.reports])
    base = packets.stamps[0]
    rtp = np.array([_signed(report[1] - base) for report in packets.reports]) / rate
    offset = float(np.median(ntp - rtp))
    return [_signed(stamp - base) / rate + offset for stamp in packets.stamps]


def _signed(difference: int) -> int:
    return (difference + 2**31) % 2**32 - 2**31


def flash_times(packets: Packets) -> list[float]:
    from aiortc.codecs.h264 import h264_depayload

    decoder = av.CodecContext.create("h264", "r")
    times, found, bright = on_ntp(packets, 90_000), [], False
    data, stamp, moment = b"", packets.stamps[0], times[0]
    for payload, next_stamp, next_moment in zip(packets.payloads, packets.stamps, times, strict=True):
        if next_stamp != stamp:
            for frame in _decoded(decoder, data):
                light = frame.reformat(format="gray", width=16, height=16).to_ndarray().mean() > 200
                if light and not bright:
                    found.append(moment)
                bright = light
            data, stamp, moment = b"", next_stamp, next_moment
        data += h264_depayload(payload)
    return found


def _decoded(decoder: Any, data: bytes) -> list[Any]:
    """The frames of an access unit; none if a packet of it was lost (this receiver asks for none again)."""
    try:
        return list(decoder.decode(av.Packet(data)))
    except av.InvalidDataError:
        return []


def beep_times(packets: Packets) -> list[float]:
    """When each beep begins: in the decoded sound, minus what the Opus encoder looks ahead."""
    lookahead_s = 0.0065
    found, loud_until = [], -1.0
    for moment, samples in zip(on_ntp(packets, 48_000), decoded(packets.payloads), strict=True):
        loud = np.flatnonzero(np.abs(samples) > 0.03)
        if loud.size:
            if moment > loud_until + 0.3:
                found.append(moment + loud[0] / 48_000 - lookahead_s)
            loud_until = moment
    return found


async def capacity(args: argparse.Namespace) -> None:
    """Sessions at 512×512@25 side by side, against aiortc's own encoders in the same run."""
    await _side_by_side(
        args,
        ((), 20, 0, "20 sessions, idle"),
        ((), 20, 10, "20 sessions, 10 of them speaking"),
        ((), 20, 20, "20 sessions, all speaking"),
        (("--aiortc_encoder",), 8, 0, "8 sessions, aiortc's own encoders"),
        (("--aiortc_encoder",), 20, 0, "20 sessions, aiortc's own encoders"),
    )


async def lips(args: argparse.Namespace) -> None:
    """Sessions that speak with our own network, at 512×512@25."""
    ours = ("--model", "wav2lip")
    await _side_by_side(args, *((ours, n, n, f"our network, {n} speaking") for n in (1, 2, 3, 4)))
    await _side_by_side(args, (ours, 1, 1, "our network, 1 speaking, after a round of the idle loop"), after_s=ROUND_S)


async def _side_by_side(
    args: argparse.Namespace, *cases: tuple[Sequence[str], int, int, str], after_s: float = 3.0
) -> None:
    """Each case: flags, sessions, how many of them speak, name; looked at `after_s` of speech."""
    for flags, n, speaking, name in cases:
        async with server(*flags) as running, peers(running, n, keep=False) as crowd:
            for peer in crowd[:speaking]:
                await running.say(peer, 60)
            await asyncio.sleep(after_s)
            before, start = await running.usage(), time.monotonic()
            await asyncio.sleep(args.seconds)
            after, end = await running.usage(), time.monotonic()
        cores = (after["cpu_s"] - before["cpu_s"]) / (end - start)
        pictures = [len({stamp for _, stamp in peer.tracks["video"].between(start, end)}) for peer in crowd]
        sounds = [[t for t, _ in peer.tracks["audio"].between(start, end)] for peer in crowd]
        gap_ms = 1000 * max(float(np.max(np.diff(times))) for times in sounds)
        fps, rate = min(pictures) / (end - start), min(map(len, sounds)) / (end - start)
        row(name, "25 fps, 50/s", f"{cores:.2f} cores, {fps:.1f} fps, {rate:.1f} sounds/s, longest gap {gap_ms:.0f} ms")


async def voice(args: argparse.Namespace) -> None:
    """Somebody with a headset asks and interrupts; the recogniser and the voice take no time."""
    if not SPEECH.is_dir():
        row("talking with it", "", "skipped: there is no ../shared/data/speech to talk with")
        return
    said = phrases()
    async with server("--listen") as running, peers(running, 1, talks=True) as (peer,):
        talk, sound = Talk(peer), peer.tracks["audio"]
        turns = [await talk.ask(next(said)) for _ in range(args.turns)]
        cuts = [await talk.interrupt(next(said), 2 + 0.013 * (cut % 7)) for cut in range(args.turns)]
    answered = [turn for turn in turns if turn]
    own = middle_and_worst([turn.own_ms for turn in answered])
    waited = middle_and_worst([turn.endpointing_ms for turn in answered])
    row("end of speech → first voiced packet, less endpointing, p50 / p95", "≤ 250 ms p95", own)
    row(
        "endpointing, p50 / p95; turns answered",
        "",
        f"{waited}; {len(answered)} of {len(turns)}, {talk.too_early} too early",
    )
    loudness = levels(sound.payloads)
    for name, wanted, drop_db in (("ducked", "≤ 250 ms p95", DUCKED_DB), ("silent", "≤ 800 ms p95", SILENT_DB)):
        found = [first_drop(sound.arrivals, loudness, cut, drop_db) for cut in cuts]
        row(f"start of speech → {name}, p50 / p95", wanted, middle_and_worst([ms for ms in found if ms is not None]))
    row("interruptions missed", "≤ 2 of 50", f"{sum(not cut.obeyed for cut in cuts)} of {len(cuts)}")


async def join(args: argparse.Namespace) -> None:
    """`/offer` → first decoded picture, on a warm server."""
    times = []
    async with server() as running:
        for _ in range(args.turns):
            peer = Peer(running, decode=True)
            start = time.monotonic()
            await peer.connect()
            await peer.decoded.wait()
            times.append(1000 * (peer.first_picture - start))
            await peer.close()
    row("warm join, p50 / p95", "≤ 300 ms p95", middle_and_worst(times))


async def memory(args: argparse.Namespace) -> None:
    """What a session costs, and what 200 of them leave behind."""
    async with server() as running:
        async with peers(running, 2, keep=False):
            await asyncio.sleep(1)
        one = await running.usage()
        async with peers(running, 10, keep=False) as crowd:
            for peer in crowd:
                await running.say(peer, 20)
            await asyncio.sleep(4)
            ten = await running.usage()
        row("memory per session, speaking", "≤ 30 MB", f"{(ten['rss_mb'] - one['rss_mb']) / 10:.1f} MB")
    async with server() as running:
        marks = []
        for cycle in range(args.cycles):
            async with peers(running, 1, keep=False) as (peer,):
                await running.say(peer, 1)
                await asyncio.sleep(0.1)
            if cycle + 1 in {args.cycles // 2, args.cycles}:
                await asyncio.sleep(3)
                marks.append(await running.usage())
    half, end = marks
    for key in ("threads", "tasks", "fds", "rss_mb"):
        what = f"{key} after {args.cycles // 2} → {args.cycles} sessions"
        row(what, "no growth", f"{half[key]:.0f} → {end[key]:.0f}")


ALL = {
    "latency": latency,
    "voice": voice,
    "skew": skew,
    "join": join,
    "capacity": capacity,
    "lips": lips,
    "memory": memory,
}


async def run(args: argparse.Namespace) -> None:
    print("| what | wanted | measured |\n|---|---|---|")
    for name in args.what or ALL:
        await ALL[name](args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[[], *ALL])
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--cycles", type=int, default=200)
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
