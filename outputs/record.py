"""A session on disk: mp4 with the session's own H.264 and AAC, playable up to the last second after a power cut.

What is said lies beside it as WebVTT.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from queue import Full, Queue
from shutil import copyfile
from threading import Thread
from typing import Literal

import av
from loguru import logger

from core.media import FPS, SAMPLE_RATE, TICK_SAMPLES, VIDEO_CLOCK_HZ, VIDEO_TICK, Picture, Tick
from outputs.captions import Captions

FRAGMENT_US = 1_000_000
KEY_EVERY_TICKS = FPS
MAX_WAITING = 1000  # ticks and pictures, 20 s of them; a disk that is further behind misses some
AAC_BITS = 96_000
VOICE_RATE = 48_000

Flush = Literal["flush"]


class Recorder:
    """Writes `path` from the first key picture on; sound and pictures keep their tick numbers, so they cannot drift.

    The file is `<stem>.part.mp4` until `aclose()`, which finishes it, moves it to `path`, writes the captions to
    `<stem>.vtt`, and calls `done` with either path on the thread that wrote it. Encoding AAC and writing happen on the
    recorder's own thread.
    """

    wants_h264 = True

    def __init__(
        self, path: Path, size: tuple[int, int], request_key: Callable[[], None], done: Callable[[Path], None]
    ) -> None:
        self.path = path
        self._part = path.with_suffix(".part.mp4")
        self._size = size
        self._request_key = request_key
        self._done = done
        self._last_key = 0
        self._inbox: Queue[Tick | Picture | Flush | None] = Queue(MAX_WAITING)
        self._thread = Thread(target=self._run, name=f"record-{path.stem}", daemon=True)
        self._thread.start()
        request_key()

    async def ready(self) -> None:
        """At once: what comes before the first key picture is kept for it."""

    def push(self, tick: Tick) -> None:
        self._put(tick)

    def push_picture(self, picture: Picture) -> None:
        if picture.key:
            self._last_key = picture.number
        elif picture.number - self._last_key >= KEY_EVERY_TICKS:
            self._request_key()
        self._put(picture)

    def flush(self) -> None:
        """Nothing waits here that should not be kept; but what is being said ends here."""
        self._put("flush")

    async def aclose(self) -> None:
        if self._thread.is_alive():
            await asyncio.to_thread(self._end)

    def _put(self, item: Tick | Picture | Flush) -> None:
        try:
            self._inbox.put_nowait(item)
        except Full:
            logger.error("the disk is too slow: the recording misses a tick")

    def _end(self) -> None:
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        items: Iterator[Tick | Picture | Flush] = iter(self._inbox.get, None)  # ends once, whoever reads it to the end
        captions = Captions()
        try:
            with _Mp4(self._part, self._size) as file:
                for item in items:
                    if item == "flush":
                        captions.cut()
                        continue
                    if isinstance(item, Tick):
                        captions.hear(item.number, item.marks)
                    file.write(item)
            self._part.replace(self.path)
            self._done(self.path)
            self._done(self._write_captions(captions.webvtt(file.first)))
        except (OSError, av.FFmpegError) as error:
            logger.error("the recording failed: {}", error)
            for _ in items:
                pass

    def _write_captions(self, webvtt: str) -> Path:
        """Their file, whole or not there."""
        path, part = self.path.with_suffix(".vtt"), self.path.with_suffix(".part.vtt")
        part.write_text(webvtt, "utf-8", "replace")
        return part.replace(path)


class _Mp4:
    """The file: a fragment a second while it grows, an ordinary mp4 once closed."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(
            str(path),
            "w",
            format="mp4",
            options={
                "movflags": "hybrid_fragmented+default_base_moof",
                "frag_duration": str(FRAGMENT_US),
                "flush_packets": "1",
            },
        )
        self._video = self._container.add_stream("h264", rate=FPS)
        self._video.width, self._video.height = size
        self._video.pix_fmt = "yuv420p"
        self._video.time_base = Fraction(1, VIDEO_CLOCK_HZ)
        self._audio = self._container.add_stream("aac", rate=VOICE_RATE)
        self._audio.bit_rate = AAC_BITS
        self._audio.layout = "mono"
        self._resampler = av.AudioResampler("fltp", "mono", VOICE_RATE, frame_size=1024)
        self._waiting: list[Tick] = []
        self.first = -1

    def __enter__(self) -> _Mp4:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if self.first >= 0 and failure is None:  # flushing after a failure crashes FFmpeg
            self._mux_sound(None)
            self._container.mux(self._audio.encode(None))
        self._container.close()

    def write(self, item: Tick | Picture) -> None:
        if isinstance(item, Picture):
            self._write_picture(item)
        elif self.first < 0:
            self._waiting = [*self._waiting[-FPS:], item]
        else:
            self._write_sound(item)

    def _write_picture(self, picture: Picture) -> None:
        if self.first < 0:
            if not picture.key:
                return
            self.first = picture.number
            for tick in self._waiting:
                self._write_sound(tick)
            self._waiting.clear()
        packet = av.Packet(picture.data)
        packet.stream = self._video
        packet.time_base = Fraction(1, VIDEO_CLOCK_HZ)
        packet.pts = packet.dts = (picture.number - self.first) * VIDEO_TICK
        packet.duration = VIDEO_TICK
        packet.is_keyframe = picture.key
        self._container.mux(packet)

    def _write_sound(self, tick: Tick) -> None:
        if tick.number < self.first:
            return
        frame = av.AudioFrame.from_ndarray(tick.samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.time_base = Fraction(1, SAMPLE_RATE)
        frame.pts = (tick.number - self.first) * TICK_SAMPLES
        self._mux_sound(frame)

    def _mux_sound(self, frame: av.AudioFrame | None) -> None:
        for resampled in self._resampler.resample(frame):
            self._container.mux(self._audio.encode(resampled))


def publish(path: Path) -> None:
    """Make `path` the newest of its kind, `record.<suffix>` beside its folder, in one step."""
    newest = path.parent.parent / f"record{path.suffix}"
    link = newest.with_name(f"{path.name}.new")
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(path)
    except OSError:  # a file system without hard links
        copyfile(path, link)
    link.replace(newest)
