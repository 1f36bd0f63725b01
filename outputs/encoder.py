"""Encode once: the packets of a session that all its outputs share, and the idle loop that all sessions share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from fractions import Fraction
from weakref import WeakKeyDictionary

import av
import cv2
import numpy as np
from loguru import logger
from numpy.typing import NDArray

from core import metrics
from core.avatar import Avatar
from core.media import CHUNK_SAMPLES, FPS, SAMPLE_RATE, SILENT_TICK, Image, Picture, Tick
from core.picture import to_yuv

LOOP_KEY_TICKS = 25  # an idle loop can be joined once a second
LIVE_GOP = 250
CLOSE_AFTER_TICKS = 50  # in the idle loop a session's own encoder is closed after this
MAX_LEVEL_31_PIXELS = 1280 * 720
OPUS_BITS = 48_000
SETTLED_TICKS, SILENT_BYTES = 4, 12  # after so much silence an Opus packet that small can be repeated


class H264Encoder:
    """x264 for one stream: superfast, one thread, no look-ahead. Not thread-safe; about 1.1 ms a 512² picture."""

    def __init__(self, size: tuple[int, int], bitrate: int, gop: int = LIVE_GOP) -> None:
        context: av.VideoCodecContext = av.CodecContext.create("libx264", "w")
        context.width, context.height = size
        context.pix_fmt = "yuv420p"
        context.time_base = Fraction(1, FPS)
        context.framerate = Fraction(FPS)
        context.bit_rate = bitrate
        context.thread_count = 1
        context.gop_size = gop
        context.options = {
            "preset": "superfast",
            "tune": "zerolatency",
            "profile": "baseline",
            "forced-idr": "1",
            "maxrate": str(bitrate),
            "bufsize": str(bitrate // 4),
            "x264-params": "scenecut=0:sliced-threads=0:partitions=none",
            **({"level": "31"} if size[0] * size[1] <= MAX_LEVEL_31_PIXELS else {}),
        }
        self._context = context

    def encode(self, image: Image, number: int, *, key: bool) -> Picture:
        """`image` uint8 (H, W, 3) BGR, even sides, as the picture of tick `number`."""
        frame = av.VideoFrame.from_ndarray(to_yuv(image), format="yuv420p")
        frame.pts = number
        frame.pict_type = av.video.frame.PictureType.I if key else av.video.frame.PictureType.NONE
        packets = self._context.encode(frame)
        return Picture(number, b"".join(map(bytes, packets)), any(packet.is_keyframe for packet in packets))


@dataclass(frozen=True, slots=True, eq=False)
class IdleLoop:
    """An avatar's idle, encoded: the access unit and key flag of each phase of its period."""

    data: tuple[bytes, ...]
    keys: tuple[bool, ...]

    def picture(self, number: int) -> Picture:
        phase = number % len(self.data)
        return Picture(number, self.data[phase], self.keys[phase])


class IdleLoops:
    """The idle loops of a process, one per living avatar, encoded in `pool` when first asked for.

    `bitrate` is in bits per second; 0 leaves it to the size of the picture.
    """

    def __init__(self, bitrate: int, pool: Executor) -> None:
        self._bitrate = bitrate
        self._pool = pool
        self._loops: WeakKeyDictionary[Avatar, Future[IdleLoop]] = WeakKeyDictionary()

    def bitrate(self, size: tuple[int, int]) -> int:
        """Bits per second for pictures of `size` (width, height), live ones included."""
        return self._bitrate or bitrate_for(size)

    def get(self, avatar: Avatar) -> IdleLoop | None:
        """The loop of `avatar`, or None while it is being made. Any thread."""
        making = self._loops.get(avatar)
        if making is None:
            making = self._loops[avatar] = self._pool.submit(encode_loop, avatar, self.bitrate(avatar.size))
        return making.result() if making.done() and not making.cancelled() and not making.exception() else None


def bitrate_for(size: tuple[int, int]) -> int:
    """Bits per second that a picture of `size` (width, height) deserves: 1 Mbit/s at 512×512, 4.2 at 1080×1920."""
    return int(1_000_000 * (size[0] * size[1] / 512**2) ** 0.7)


def encode_loop(avatar: Avatar, bitrate: int) -> IdleLoop:
    """One period of `avatar`'s idle with a key picture each second and at phase 0. Blocking, about 1.1 ms a picture."""
    encoder = H264Encoder(avatar.size, bitrate, gop=LOOP_KEY_TICKS)
    pictures = [
        encoder.encode(avatar.image(avatar.index(phase)), phase, key=phase % LOOP_KEY_TICKS == 0)
        for phase in range(avatar.period)
    ]
    return IdleLoop(tuple(picture.data for picture in pictures), tuple(picture.key for picture in pictures))


class PictureEncoder:
    """A session's pictures as H.264: live in `pool`, one at a time, or out of the avatar's idle loop.

    `emit(picture)` is called on the loop, in order. A tick that comes while the one before is still being encoded is
    skipped: late pictures are dropped, never queued.
    """

    def __init__(
        self, size: tuple[int, int], loops: IdleLoops, pool: Executor, emit: Callable[[Picture], None]
    ) -> None:
        self._size = size
        self._loops = loops
        self._pool = pool
        self._emit = emit
        self._event_loop = asyncio.get_running_loop()
        self._live: H264Encoder | None = None
        self._busy = False
        self._key_wanted = True
        self._last_looped = -1  # number of the last tick taken from the idle loop
        self._looping = False  # whether the last picture came from there
        self._live_until = 0

    def request_key(self) -> None:
        """Make the next picture a key picture: a new viewer, or one who lost packets."""
        self._key_wanted = True

    def push(self, tick: Tick) -> None:
        """Encode `tick`'s picture."""
        picture = self._from_loop(tick)
        if picture:
            self._last_looped, self._looping = tick.number, True
            if tick.number - self._live_until > CLOSE_AFTER_TICKS:
                self._live = None
            self._emit(picture)
        elif self._busy:
            metrics.PICTURES_SKIPPED.inc()
        else:
            self._busy = True
            self._live_until = tick.number
            key, self._key_wanted, self._looping = self._key_wanted or self._looping, False, False
            self._pool.submit(self._encode, tick, key)

    def _from_loop(self, tick: Tick) -> Picture | None:
        """The idle loop's picture, if it continues the last one or is a key picture and nobody waits for one sooner."""
        if tick.idle is None or self._busy or self._key_wanted or tick.idle.size != self._size:
            return None
        loop = self._loops.get(tick.idle)
        picture = loop and loop.picture(tick.number)
        return picture if picture and (picture.key or self._last_looped == tick.number - 1) else None

    def _encode(self, tick: Tick, key: bool) -> None:
        try:
            if self._live is None:
                self._live = H264Encoder(self._size, self._loops.bitrate(self._size))
            picture = self._live.encode(tick.image, tick.number, key=key)
        except (av.FFmpegError, cv2.error, ValueError) as error:
            logger.error("a picture could not be encoded: {}", error)
            self._live, picture = None, None
        self._event_loop.call_soon_threadsafe(self._encoded, picture)

    def _encoded(self, picture: Picture | None) -> None:
        self._busy = False
        if picture is None:
            self._key_wanted = True
        elif picture.data:
            self._emit(picture)


class OpusEncoder:
    """A session's sound as Opus, two packets of 20 ms a tick, 16 kHz mono. About 0.15 ms a voiced tick, inline."""

    def __init__(self) -> None:
        context: av.AudioCodecContext = av.CodecContext.create("libopus", "w")
        context.sample_rate = SAMPLE_RATE
        context.layout = "mono"
        context.format = "s16"
        context.bit_rate = OPUS_BITS
        context.options = {"application": "voip", "frame_duration": "20", "compression_level": "3"}
        self._context = context
        self._position = 0
        self._last: tuple[bytes, ...] = ()
        self._silent_ticks = 0

    def encode(self, samples: NDArray[np.int16]) -> tuple[bytes, ...]:
        """The packets of 640 samples. Long silence costs nothing: its packets repeat."""
        self._silent_ticks = self._silent_ticks + 1 if samples is SILENT_TICK else 0
        if self._silent_ticks <= SETTLED_TICKS or max(map(len, self._last)) > SILENT_BYTES:
            chunks = (samples[i : i + CHUNK_SAMPLES] for i in range(0, len(samples), CHUNK_SAMPLES))
            self._last = tuple(map(self._packet, chunks))
        return self._last

    def _packet(self, samples: NDArray[np.int16]) -> bytes:
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.pts = self._position
        self._position += len(samples)
        return b"".join(map(bytes, self._context.encode(frame)))
