"""WebRTC to one peer: `HumanPlayer`, an output with an audio and a video track, and the answering of an offer."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias, cast

import av
import numpy as np
import soxr
from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.codecs import h264, vpx
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.sdp import SessionDescription
from loguru import logger

from core.errors import BadRequest
from core.media import CHUNK_SAMPLES, SAMPLE_RATE, TICK_SAMPLES, VIDEO_CLOCK_HZ, VIDEO_TICK, Event, Pcm, Picture, Tick
from core.picture import to_yuv

AUDIO_TIME_BASE = Fraction(1, SAMPLE_RATE)
VIDEO_TIME_BASE = Fraction(1, VIDEO_CLOCK_HZ)
CHUNK_S = CHUNK_SAMPLES / SAMPLE_RATE
QUEUED_SOUND = 250  # packets, 5 s: a peer that reads so slowly is gone
QUEUED_PICTURES = 8
WATCH_S = 1.0
JITTER_BUFFER = "_RTCRtpReceiver__jitter_buffer"  # aiortc's, which has no other name
MAX_CHANNELS = 4  # data channels of one peer that are told the events

Media: TypeAlias = "av.Packet[Any] | av.VideoFrame"


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server, for the server and for its clients."""

    url: str
    username: str = ""
    credential: str = ""


def set_bitrate(bitrate: int) -> None:
    """Have aiortc's own encoders (VP8 peers) start at and keep to `bitrate` bits per second.

    aiortc has no other way than its module globals; a start value near the top saves the ramp of key frames.
    """
    codec: Any
    for codec in (h264, vpx):
        codec.DEFAULT_BITRATE = codec.MAX_BITRATE = bitrate
        codec.MIN_BITRATE = min(codec.MIN_BITRATE, bitrate)


class PacketTrack(MediaStreamTrack):
    """A track that gives what is put into it, packets or frames, and nothing before somebody reads it."""

    def __init__(self, kind: str, size: int, started: Callable[[], None]) -> None:
        self.kind = kind
        super().__init__()
        self._queue: asyncio.Queue[Media] = asyncio.Queue(size)
        self._started = started
        self._reading = False

    def put(self, item: Media) -> bool:
        """Queue `item`; False if that pushed an older one out."""
        if not self._reading or self.readyState != "live":
            return True
        fits = not self._queue.full()
        if not fits:
            self._queue.get_nowait()
        self._queue.put_nowait(item)
        return fits

    async def recv(self) -> Any:
        if not self._reading:
            self._reading = True
            self._started()
        if self.readyState != "live":
            raise MediaStreamError
        return await self._queue.get()


class Microphone:
    """A peer's sound as pcm: `heard(pcm, sample)` gets float32 (n,) 16 kHz mono, and by RTP time its first sample.

    What the network lost is missing: `sample` jumps.
    """

    def __init__(self, heard: Callable[[Pcm, int], None]) -> None:
        self._heard = heard
        self._resampler: soxr.ResampleStream | None = None
        self._rate_hz = 0
        self._expected = 0  # the next frame's RTP time
        self._sample = 0

    async def follow(self, track: MediaStreamTrack) -> None:
        """Hear `track` until it ends."""
        with suppress(MediaStreamError):
            while True:
                self._push(cast(av.AudioFrame, await track.recv()))

    def _push(self, frame: av.AudioFrame) -> None:
        samples, start = frame.to_ndarray(), frame.pts or 0
        if start != self._expected or frame.sample_rate != self._rate_hz or self._resampler is None:
            self._rate_hz = frame.sample_rate
            self._resampler = soxr.ResampleStream(self._rate_hz, SAMPLE_RATE, 1, "float32", quality="MQ")
            self._sample = start * SAMPLE_RATE // self._rate_hz
        self._expected = start + frame.samples
        mono = samples.reshape(frame.samples, -1).mean(axis=1) if samples.shape[0] == 1 else samples.mean(axis=0)
        scale = 32768 if samples.dtype.kind == "i" else 1
        pcm = self._resampler.resample_chunk((mono / scale).astype(np.float32))
        self._heard(pcm, self._sample)
        self._sample += len(pcm)


class HumanPlayer:
    """A session's output to one WebRTC peer.

    `lost(reason)` is called once when the peer never connects, fails, closes or falls silent; `request_key()` when it
    needs a key picture; `events()` gives what its data channel is told; `heard` gets the sound of its microphone, see
    `Microphone`; if None, the peer is told that nobody listens.
    """

    def __init__(
        self,
        *,
        ice_servers: list[IceServer],
        connect_timeout_s: float,
        dead_timeout_s: float,
        lost: Callable[[str], None],
        request_key: Callable[[], None],
        events: Callable[[], AsyncGenerator[Event, None]],
        heard: Callable[[Pcm, int], None] | None,
    ) -> None:
        servers = [RTCIceServer(ice.url, ice.username or None, ice.credential or None) for ice in ice_servers]
        self.wants_h264 = True
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._audio = PacketTrack("audio", QUEUED_SOUND, lambda: None)
        self._video = PacketTrack("video", QUEUED_PICTURES, request_key)
        self._connect_timeout_s = connect_timeout_s
        self._dead_timeout_s = dead_timeout_s
        self._lost = lost
        self._request_key = request_key
        self._events = events
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._connected = asyncio.Event()
        self._second_half: av.Packet[Any] | None = None
        self._second_timer = self._loop.call_later(0, self._send_second_half)
        self._tasks: set[asyncio.Task[None]] = set()
        self._channels = 0

    async def answer(self, sdp: str) -> str:
        """The complete SDP answer to the offer `sdp` (all candidates in it). BadRequest if it cannot be answered."""
        pc = self._pc
        pc.on("connectionstatechange", self._state_changed)
        pc.on("datachannel", self._channel_opened)
        pc.on("track", self._track_opened)
        wanted = check_offer(sdp)  # aiortc cannot answer with a track that the offer has no place for
        for track in (self._audio, self._video):
            if track.kind in wanted:
                pc.addTrack(track)
        for transceiver in pc.getTransceivers():
            listens = transceiver.kind == "audio" and self._heard
            transceiver.direction = "sendrecv" if listens else "sendonly"
            if listens:
                # aiortc lets no sound out before four more packets have come: 80 ms of every answer.
                getattr(transceiver.receiver, JITTER_BUFFER)._prefetch = 1
            if transceiver.kind == "video":
                transceiver.setCodecPreferences(_preferred_codecs())
                # aiortc tells only its own encoders of a PLI: this private name is the one way for packets.
                setattr(transceiver.sender, "_send_keyframe", self._request_key)  # noqa: B010
        try:
            await pc.setRemoteDescription(RTCSessionDescription(_without_names(sdp), "offer"))
            await pc.setLocalDescription(await pc.createAnswer())
        except (ValueError, AssertionError, IndexError, KeyError, AttributeError, TypeError) as error:
            logger.info("an offer could not be answered: {!r}", error)
            raise BadRequest("the offer cannot be answered: its SDP is not compatible") from error
        self.wants_h264 = _video_codec(pc.localDescription.sdp) == "video/h264"
        self._start(self._watch())
        return str(pc.localDescription.sdp)

    async def ready(self) -> None:
        await self._connected.wait()

    def push(self, tick: Tick) -> None:
        self._send_second_half()
        first, second = (_sound(tick, place) for place in range(2))
        self._audio.put(first)
        # Each packet leaves at its own media time, or the sender reports of the two tracks disagree by 20 ms.
        self._second_half = second
        self._second_timer = self._loop.call_later(CHUNK_S, self._send_second_half)
        if not self.wants_h264:
            self._video.put(_frame(tick))

    def _send_second_half(self) -> None:
        """Send what waits of the last tick: when it is due, or before a tick that comes early after a late one."""
        if self._second_half:
            self._second_timer.cancel()
            self._audio.put(self._second_half)
            self._second_half = None

    def push_picture(self, picture: Picture) -> None:
        packet = av.Packet(picture.data)
        packet.pts = picture.number * VIDEO_TICK
        packet.time_base = VIDEO_TIME_BASE
        if not self._video.put(packet):
            self._request_key()

    def flush(self) -> None:
        """Nothing waits here: a tick leaves as it comes."""

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._second_timer.cancel()
        self._audio.stop()
        self._video.stop()
        await self._pc.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _state_changed(self) -> None:
        if self._pc.connectionState == "connected":
            self._connected.set()
        elif self._pc.connectionState in {"failed", "closed"}:
            self._lost(f"peer {self._pc.connectionState}")

    async def _watch(self) -> None:
        """Notice a peer that never connects, or that has sent nothing for too long."""
        try:
            await asyncio.wait_for(self._connected.wait(), self._connect_timeout_s)
        except TimeoutError:
            return self._lost("never connected")
        received, last_change = -1, self._loop.time()
        while self._loop.time() - last_change < self._dead_timeout_s:
            await asyncio.sleep(min(WATCH_S, self._dead_timeout_s / 4))
            now = await self._packets_received()
            if now != received:
                received, last_change = now, self._loop.time()
        return self._lost("peer silent")

    async def _packets_received(self) -> int:
        report = await self._pc.getStats()
        return sum(stats.packetsReceived for stats in report.values() if stats.type == "transport")

    def _track_opened(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio" and self._heard:
            self._start(Microphone(self._heard).follow(track))

    def _channel_opened(self, channel: RTCDataChannel) -> None:
        if self._channels < MAX_CHANNELS:
            self._channels += 1
            self._start(self._send_events(channel))

    async def _send_events(self, channel: RTCDataChannel) -> None:
        async with aclosing(self._events()) as events:
            async for event in events:
                if channel.readyState != "open":
                    return
                channel.send(event.as_json())


def check_offer(sdp: str) -> set[str]:
    """Which of "audio" and "video" the offer `sdp` wants. BadRequest if neither, or if it cannot be connected to."""
    try:
        description = SessionDescription.parse(sdp)
        wanted = [m for m in description.media if m.kind in {"audio", "video"} and m.port]
        reachable = all(m.ice and m.ice.usernameFragment and m.dtls and m.dtls.fingerprints for m in wanted)
    except (ValueError, AssertionError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise BadRequest("sdp is not a session description") from error
    if not wanted or not reachable:
        raise BadRequest("sdp must offer to receive audio or video, with ICE and DTLS parameters")
    return {media.kind for media in wanted}


def _without_names(sdp: str) -> str:
    """`sdp` with only those candidates that are IP addresses.

    A name would have to be resolved: browsers' `.local` ones cost a second each, others are a request on the client's
    behalf. The peer is learned from its first check anyway, so it is not said either that these were all: aioice would
    give up on a peer without any.
    """
    lines = [line for line in re.split(r"\r?\n", sdp) if not line.startswith("a=end-of-candidates")]
    return "\r\n".join(line for line in lines if not line.startswith("a=candidate:") or _is_address(line))


def _is_address(candidate: str) -> bool:
    fields = candidate.split()
    with suppress(ValueError, IndexError):
        return bool(ipaddress.ip_address(fields[4]))
    return False


def _preferred_codecs() -> list[Any]:
    codecs = RTCRtpSender.getCapabilities("video").codecs
    order = {"video/h264": 0, "video/vp8": 1}
    return sorted(codecs, key=lambda codec: order.get(codec.mimeType.lower(), 2))


def _video_codec(answer: str) -> str:
    """The MIME type, in lower case, that will be sent; empty without a picture."""
    for media in SessionDescription.parse(answer).media:
        if media.kind == "video" and media.rtp.codecs:
            return str(media.rtp.codecs[0].mimeType.lower())
    return ""


def _sound(tick: Tick, place: int) -> av.Packet[Any]:
    """The tick's Opus packet number `place`, 0 or 1."""
    packet = av.Packet(tick.opus[place])
    packet.pts = tick.number * TICK_SAMPLES + place * CHUNK_SAMPLES
    packet.time_base = AUDIO_TIME_BASE
    return packet


def _frame(tick: Tick) -> av.VideoFrame:
    """The tick's picture for aiortc's own encoder."""
    frame = av.VideoFrame.from_ndarray(to_yuv(tick.image), format="yuv420p")
    frame.pts = tick.number * VIDEO_TICK
    frame.time_base = VIDEO_TIME_BASE
    return frame
