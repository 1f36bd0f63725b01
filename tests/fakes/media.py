"""Pictures that can be told apart after coding, and what a decoder makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from core.avatar import Avatar, Loop
from core.frames import Frames
from core.media import FPS, SAMPLE_RATE, TICK_SAMPLES, Image, Picture, Tick
from outputs.encoder import H264Encoder

SIZE = (64, 64)
BEEP: NDArray[np.int16] = (26_000 * np.sin(2 * np.pi * 1000 * np.arange(TICK_SAMPLES) / SAMPLE_RATE)).astype(np.int16)


def grey(level: int, size: tuple[int, int] = SIZE) -> Image:
    """A picture of one brightness."""
    return np.full((size[1], size[0], 3), level, np.uint8)


def stairs(n: int = 50, *, loop: Loop = "cycle", size: tuple[int, int] = SIZE) -> Avatar:
    """An avatar whose frame `i` has brightness 20 + 4 * i."""
    frames = Frames.of(grey(20 + 4 * i, size) for i in range(n))
    return Avatar("stairs", frames, np.zeros((n, 4), np.int32), loop=loop)


def brightness(pictures: Iterable[Picture]) -> dict[int, float]:
    """What one decoder, given `pictures` in order, shows at each tick. FFmpegError where a picture is damaged."""
    decoder: av.VideoCodecContext = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    decoder.options = {"err_detect": "explode", "flags": "low_delay"}
    frames: list[av.VideoFrame] = []
    for picture in pictures:
        packet = av.Packet(picture.data)
        packet.pts = packet.dts = picture.number
        packet.time_base = Fraction(1, FPS)
        frames += decoder.decode(packet)
    frames += decoder.decode(None)
    return {int(frame.pts or 0): float(frame.to_ndarray(format="bgr24").mean()) for frame in frames}


class Flashes:
    """A show with a white picture and a beep in one and the same tick of each second, encoded by itself."""

    def __init__(self, first: int = 1000) -> None:
        self.number = first
        self._first = first
        self._encoder = H264Encoder(SIZE, 500_000)

    def next(self) -> tuple[Tick, Picture]:
        """The next tick, and its picture; a key picture each second."""
        place = (self.number - self._first) % FPS
        image = grey(255 if place == 10 else 20)
        tick = Tick(self.number, image, BEEP) if place == 10 else Tick(self.number, image)
        self.number += 1
        return tick, self._encoder.encode(image, tick.number, key=place == 0)


def flash_times(path: Path) -> list[float]:
    """Seconds of the file at which its picture turns white."""
    with av.open(str(path)) as file:
        return [frame.time or 0.0 for frame in file.decode(video=0) if frame.to_ndarray(format="gray").mean() > 150]


def beep_times(path: Path) -> list[float]:
    """Seconds of the file at which its sound begins after a silence."""
    with av.open(str(path)) as file:
        frames = [(frame.time or 0.0, frame.sample_rate, frame.to_ndarray()[0]) for frame in file.decode(audio=0)]
    times = np.concatenate([start + np.arange(len(samples)) / rate for start, rate, samples in frames])
    loud = times[np.abs(np.concatenate([samples for *_, samples in frames])) > 0.3]
    return [float(time) for time in loud[np.diff(loud, prepend=-1.0) > 0.2]]


class Held(Executor):
    """Does nothing before `release()`, and then everything in order, in the caller's thread."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append(lambda: future.set_result(fn(*args, **kwargs)))
        return future

    def release(self) -> None:
        waiting, self.waiting = self.waiting, []
        for work in waiting:
            work()
