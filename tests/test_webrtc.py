"""One peer: what of its offer is read, what it gets when, and how it asks for a new start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.sdp import SessionDescription

import webrtc
from core.errors import BadRequest
from core.media import CHUNK_SAMPLES, TICK_S, TICK_SAMPLES, VIDEO_TICK, Event, Pcm, Picture, Tick
from outputs.encoder import OpusEncoder
from tests.fakes.media import BEEP, Flashes, grey
from webrtc import HumanPlayer, IceServer, Microphone, PacketTrack, check_offer

# The offer.


def offer(*media: str, drop: str = "") -> str:
    """An offer of `media` such as "video 9", without the lines that begin with `drop`."""
    session = ["v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0"]
    for mid, about in enumerate(media):
        kind, port = about.split()
        session += [
            f"m={kind} {port} UDP/TLS/RTP/SAVPF 96",
            "c=IN IP4 0.0.0.0",
            f"a=mid:{mid}",
            "a=ice-ufrag:abcd",
            "a=ice-pwd:abcdefghijklmnopqrstuvwx",
            "a=setup:actpass",
            "a=fingerprint:sha-256 " + ":".join(["AA"] * 32),
            "a=rtpmap:96 VP8/90000" if kind == "video" else "a=rtpmap:96 opus/48000/2",
        ]
    return "\r\n".join(line for line in session if not drop or not line.startswith(drop)) + "\r\n"


@pytest.mark.parametrize(
    ("media", "wanted"),
    [
        (["audio 9", "video 9"], {"audio", "video"}),
        (["video 9"], {"video"}),
        (["audio 9"], {"audio"}),
        (["audio 9", "video 0"], {"audio"}),  # a rejected section
        (["audio 9", "audio 9"], {"audio"}),
        (["audio 9", "text 9"], {"audio"}),
    ],
)
def test_an_offer_says_what_it_wants(media: list[str], wanted: set[str]) -> None:
    assert check_offer(offer(*media)) == wanted


@pytest.mark.parametrize(
    "sdp",
    [
        "",
        "hello",
        "v=0\r\n",
        offer("audio 0"),
        offer("text 9"),
        offer("video x"),
        offer("video 9", drop="a=ice-ufrag"),
        offer("video 9", drop="a=fingerprint"),
        "m=video\r\n" * 3,
        "\0" * 100,
    ],
)
def test_an_offer_that_cannot_be_connected_to_is_refused(sdp: str) -> None:
    with pytest.raises(BadRequest, match="sdp"):
        check_offer(sdp)


KEPT = [
    "a=candidate:1 1 udp 2122 192.0.2.7 5000 typ host",
    "a=candidate:2 1 udp 2122 2001:db8::1 5000 typ host",
    "a=candidate:3 1 udp 2122 203.0.113.9 5000 typ srflx raddr 0.0.0.0 rport 0",
]
LEFT_OUT = [
    "a=candidate:4 1 udp 2122 0d1d2d3d-1111-2222-3333-444444444444.local 5000 typ host",
    "a=candidate:5 1 udp 2122 intranet.example 5000 typ host",
    "a=candidate:6 1 udp 2122 localhost 5000 typ host",
    "a=candidate:7 1 udp 2122 192.0.2 5000 typ host",
    "a=candidate:8",
    "a=end-of-candidates",
]


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
def test_only_candidates_that_are_addresses_are_kept(newline: str) -> None:
    lines = ["v=0", "m=video 9 UDP/TLS/RTP/SAVPF 96", *LEFT_OUT[:3], *KEPT, *LEFT_OUT[3:], "a=mid:0", ""]
    kept = webrtc._without_names(newline.join(lines)).split("\r\n")
    assert kept == [line for line in lines if line not in LEFT_OUT]


# The tracks.


def packet(number: int) -> av.Packet[Any]:
    made = av.Packet(b"x")
    made.pts = number
    return made


async def read(track: PacketTrack, n: int) -> list[int]:
    return [(await track.recv()).pts for _ in range(n)]


async def test_a_track_keeps_nothing_before_it_is_read_and_says_when_that_begins() -> None:
    starts: list[None] = []
    track = PacketTrack("video", 3, lambda: starts.append(None))
    assert track.put(packet(1)) and not starts
    reading = asyncio.create_task(read(track, 2))
    await asyncio.sleep(0)
    track.put(packet(2))
    track.put(packet(3))
    assert await reading == [2, 3] and len(starts) == 1


async def test_a_track_that_is_full_drops_its_oldest_and_says_so() -> None:
    track = PacketTrack("video", 3, lambda: None)
    reading = asyncio.create_task(read(track, 1))
    await asyncio.sleep(0)
    assert [track.put(packet(number)) for number in range(5)] == [True, True, True, False, False]
    assert await reading == [2] and await read(track, 2) == [3, 4]


async def test_a_track_that_has_ended_gives_and_takes_nothing() -> None:
    track = PacketTrack("audio", 3, lambda: None)
    track.stop()
    assert track.put(packet(1)) and not track._queue.qsize()
    with pytest.raises(MediaStreamError):
        await track.recv()


# The player and its peer.


@dataclass
class Pair:
    """A player and a peer that looks at what it gets: when each frame is to be shown, in units of its own clock."""

    peer: RTCPeerConnection = field(default_factory=RTCPeerConnection)
    pts: dict[str, list[int]] = field(default_factory=lambda: {"audio": [], "video": []})
    clocks: dict[str, set[Fraction]] = field(default_factory=lambda: {"audio": set(), "video": set()})
    levels: list[float] = field(default_factory=list)
    keys: int = 0
    key_asked: asyncio.Event = field(default_factory=asyncio.Event)
    lost: list[str] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    answer: str = ""
    microphone: MediaStreamTrack | None = None
    heard: list[tuple[Pcm, int]] = field(default_factory=list)

    async def connect(self) -> None:
        self.player = HumanPlayer(
            ice_servers=[],
            connect_timeout_s=10,
            dead_timeout_s=10,
            lost=self.lost.append,
            request_key=self._key,
            events=self._no_events,
            heard=lambda pcm, sample: self.heard.append((pcm, sample)),
        )
        self.show, self.opus = Flashes(first=5000), OpusEncoder()
        self.peer.on("track", lambda track: self.tasks.append(asyncio.create_task(self._read(track))))
        self.peer.addTransceiver(self.microphone or "audio", direction="sendrecv" if self.microphone else "recvonly")
        self.peer.addTransceiver("video", direction="recvonly")
        await self.peer.setLocalDescription(await self.peer.createOffer())
        self.answer = await self.player.answer(self.peer.localDescription.sdp)
        await self.peer.setRemoteDescription(RTCSessionDescription(self.answer, "answer"))
        await asyncio.wait_for(self.key_asked.wait(), 10)

    async def play(self, ticks: int) -> None:
        for _ in range(ticks):
            await asyncio.sleep(TICK_S)
            tick, picture = self.show.next()
            self.player.push(replace(tick, opus=self.opus.encode(tick.samples)))
            self.player.push_picture(picture)

    async def _read(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                frame: Any = await track.recv()
                self.pts[track.kind].append(frame.pts)
                self.clocks[track.kind].add(frame.time_base)
                if track.kind == "video":
                    self.levels.append(float(frame.to_ndarray(format="gray").mean()))
        except MediaStreamError:
            return

    def _key(self) -> None:
        self.keys += 1
        self.key_asked.set()

    async def _no_events(self) -> AsyncGenerator[Event, None]:
        await asyncio.Event().wait()
        yield Event("closed", 0)

    async def close(self) -> None:
        await self.peer.close()
        await self.player.aclose()
        await asyncio.gather(*self.tasks)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    pair = Pair()
    await pair.connect()
    yield pair
    await pair.close()


async def test_the_answer_sends_h264_first_to_a_peer_that_prefers_another(pair: Pair) -> None:
    assert pair.peer.localDescription.sdp.index("VP8/90000") < pair.peer.localDescription.sdp.index("H264/90000")
    audio, video = SessionDescription.parse(pair.answer).media
    kinds = [codec.mimeType for codec in video.rtp.codecs]
    assert kinds[0] == "video/H264" and {"video/VP8", "video/rtx"} <= set(kinds) and pair.player.wants_h264
    assert (audio.direction, video.direction) == ("sendonly", "sendonly")
    assert "a=candidate:" in pair.answer


async def test_a_second_of_media_keeps_its_time_and_its_place(pair: Pair) -> None:
    await pair.play(30)
    await asyncio.sleep(0.2)
    assert pair.clocks == {"audio": {Fraction(1, 48_000)}, "video": {Fraction(1, 90_000)}}
    assert len(pair.pts["audio"]) > 45 and set(np.diff(pair.pts["audio"])) == {960}
    assert len(pair.pts["video"]) > 25 and set(np.diff(pair.pts["video"])) == {VIDEO_TICK}
    assert max(pair.levels) > 200 > min(pair.levels)


async def test_a_peer_that_lost_a_picture_gets_a_key_picture(pair: Pair) -> None:
    """Fails if aiortc calls its hook by another name one day: then no viewer would ever recover."""
    await pair.play(10)
    (receiver,) = [each for each in pair.peer.getReceivers() if each.track.kind == "video"]
    (source,) = receiver.getSynchronizationSources()
    pair.key_asked.clear()
    before = pair.keys
    await receiver._send_rtcp_pli(source.source)
    await asyncio.wait_for(pair.key_asked.wait(), 5)
    assert pair.keys == before + 1


class Whistle(MediaStreamTrack):
    """A microphone at which somebody whistles 500 Hz."""

    kind = "audio"
    now = 0

    async def recv(self) -> av.AudioFrame:
        await asyncio.sleep(0.02)
        frame = whistled(48_000, self.now)
        self.now += frame.samples
        return frame


def whistled(rate_hz: int, start: int, layout: str = "mono", kind: str = "s16") -> av.AudioFrame:
    """20 ms of 500 Hz at half of full scale from sample `start` on, in the last channel."""
    wave = 0.5 * np.sin(2 * np.pi * 500 * (start + np.arange(rate_hz // 50)) / rate_hz)
    channels = np.stack([0 * wave, 2 * wave] if layout == "stereo" else [wave])
    samples: Any = channels if kind[0] == "f" else channels * 32767
    packed = samples if kind.endswith("p") else samples.T.reshape(1, -1)
    dtype: Any = np.float32 if kind[0] == "f" else np.int16
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed, dtype), kind, layout)
    frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
    return frame


async def test_a_peer_s_microphone_is_heard_while_it_listens() -> None:
    pair = Pair(microphone=Whistle())
    await pair.connect()
    await asyncio.gather(pair.play(50), asyncio.sleep(1.5))
    await pair.close()
    sound = np.concatenate([pcm for pcm, _ in pair.heard])
    samples = [sample for _, sample in pair.heard]
    assert len(sound) > 8000 and sound.dtype == np.float32
    assert [after - before for before, after in pairwise(samples)] == [len(pcm) for pcm, _ in pair.heard[:-1]]
    loudest = np.fft.rfftfreq(8000, 1 / 16_000)[np.abs(np.fft.rfft(sound[-8000:])).argmax()]
    assert loudest == pytest.approx(500, abs=3) and 0.3 < np.abs(sound[-4000:]).max() < 0.6
    assert len(pair.pts["audio"]) > 40  # it is spoken to at the same time


@pytest.mark.parametrize(
    ("rate_hz", "layout", "kind"),
    [
        (48_000, "mono", "s16"),
        (48_000, "stereo", "s16"),
        (48_000, "stereo", "fltp"),
        (8_000, "mono", "s16p"),
        (96_000, "mono", "flt"),
    ],
)
def test_any_microphone_becomes_16_khz_mono(rate_hz: int, layout: str, kind: str) -> None:
    heard: list[tuple[Pcm, int]] = []
    microphone = Microphone(lambda pcm, sample: heard.append((pcm, sample)))
    for number in range(50):
        microphone._push(whistled(rate_hz, number * rate_hz // 50, layout, kind))
    sound = np.concatenate([pcm for pcm, _ in heard])
    assert 15_000 < len(sound) <= 16_000
    assert np.sqrt((sound[2000:10_000] ** 2).mean()) == pytest.approx(0.5 / 2**0.5, rel=0.03)


def test_what_the_network_lost_is_missing_in_time_too() -> None:
    heard: list[tuple[Pcm, int]] = []
    microphone = Microphone(lambda pcm, sample: heard.append((pcm, sample)))
    for number in (*range(10), *range(15, 25)):
        microphone._push(whistled(48_000, number * 960))
    at = {sample: len(pcm) for pcm, sample in heard}
    assert min(at) == 0 and 15 * 320 in at
    assert max(sample + n for sample, n in at.items() if sample < 15 * 320) <= 10 * 320


async def test_a_peer_that_leaves_is_told_of_once(pair: Pair) -> None:
    await pair.peer.close()
    for _ in range(100):
        await asyncio.sleep(0.02)
        if pair.lost:
            break
    assert pair.lost == ["peer closed"]
    await pair.player.aclose()
    assert pair.lost == ["peer closed"]


async def test_closing_ends_both_tracks_and_all_tasks(pair: Pair) -> None:
    own = {asyncio.current_task()}
    await pair.close()
    await pair.player.aclose()
    assert pair.player._audio.readyState == pair.player._video.readyState == "ended"
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == own


async def test_pictures_that_pile_up_are_dropped_and_a_key_picture_is_asked_for(pair: Pair) -> None:
    before = pair.keys
    for number in range(webrtc.QUEUED_PICTURES + 3):
        pair.player.push_picture(Picture(number, b"x", key=False))  # no turn of the loop, so nobody reads
    assert pair.keys > before
    assert pair.player._video._queue.qsize() == webrtc.QUEUED_PICTURES


@pytest.fixture
async def player() -> AsyncIterator[HumanPlayer]:
    """A player whose sound is read by nobody but the test."""
    pair = Pair()
    player = HumanPlayer(
        ice_servers=[IceServer("stun:127.0.0.1:3478"), IceServer("turn:127.0.0.1:3478", "me", "sesame")],
        connect_timeout_s=1,
        dead_timeout_s=1,
        lost=pair.lost.append,
        request_key=lambda: None,
        events=pair._no_events,
        heard=lambda *_: None,
    )
    yield player
    await player.aclose()
    await pair.peer.close()


SOUND = OpusEncoder().encode(BEEP)


async def test_sound_leaves_in_two_packets_each_at_its_own_time(player: HumanPlayer) -> None:
    reading = asyncio.create_task(read(player._audio, 2))
    await asyncio.sleep(0)
    player.push(Tick(100, grey(0), BEEP, SOUND))
    assert player._audio._queue.qsize() == 1
    assert await reading == [100 * TICK_SAMPLES, 100 * TICK_SAMPLES + CHUNK_SAMPLES]


async def test_sound_is_in_order_when_ticks_come_late(player: HumanPlayer) -> None:
    reading = asyncio.create_task(read(player._audio, 6))
    await asyncio.sleep(0)
    for number in range(3):  # a loop that was held up catches up
        player.push(Tick(number, grey(0), BEEP, SOUND))
    assert await reading == [place * CHUNK_SAMPLES for place in range(6)]


async def test_what_a_peer_says_waits_for_one_packet_and_not_for_four() -> None:
    """Fails if aiortc calls its buffer by another name one day: then every answer would come 60 ms later."""
    pair = Pair(microphone=Whistle())
    await pair.connect()
    (transceiver,) = [each for each in pair.player._pc.getTransceivers() if each.kind == "audio"]
    buffer = getattr(transceiver.receiver, webrtc.JITTER_BUFFER)
    waiting = []
    for _ in range(25):
        await pair.play(1)
        waiting.append(sum(packet is not None for packet in buffer._packets))
    assert pair.heard and max(waiting[10:]) <= 2
    await pair.close()
