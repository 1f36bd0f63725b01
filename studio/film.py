"""A film as an avatar needs it: 25 upright pictures a second, of one even size, whatever made it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path

import av
import numpy as np

from core.errors import BadMedia
from core.media import FPS, TICK_S, Image

MAX_SIDE = 1920
MAX_PIXELS = 8192 * 8192
MAX_PAUSE_S = 1.0
HDR_CURVES = {16, 18}  # PQ and HLG, as ITU-T H.273 numbers them
# Containers that hold their pictures themselves: a list of files or a session description has FFmpeg open others.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,asf,ogg,m4v,h264,hevc,"
    "jpeg_pipe,png_pipe,webp_pipe,bmp_pipe"
)


class Film:
    """The pictures of the file `path`, uint8 (H, W, 3) BGR, 25 a second
    each time it is iterated over, at most `seconds` of it.


    Each picture is the one of the file nearest in time, turned and stretched as the camera says, no side longer than
    1920. One that is shown twice is the same object. A photograph is a film of one picture. Sound is not read.

    `size` is (width, height), `whole_s` what the file says of its own length in seconds (0: nothing), `hdr` whether its
    colours are meant for another kind of screen. Blocking. BadMedia if the file holds no pictures that can be decoded.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self.limit = max(1, round(seconds * FPS))
        with _opened(path) as container:
            first = next(_frames(container), None)
            if first is None:
                raise BadMedia("the file holds no pictures that can be decoded")
            self.whole_s = (container.duration or 0) / av.time_base
            self.hdr = int(first.color_trc) in HDR_CURVES
            self._stretch = container.streams.video[0].sample_aspect_ratio or 1
        self._turns = round(first.rotation / 90) % 4
        self._stored = self._stored_size(first)
        self.size = self._stored[::-1] if self._turns % 2 else self._stored

    @property
    def expected(self) -> int:
        """How many pictures there will be, as far as the file says."""
        return min(self.limit, max(1, round(self.whole_s * FPS))) if self.whole_s else self.limit

    def __iter__(self) -> Iterator[Image]:
        tick = 0
        for frame, until in self._shown():
            image = None
            while tick * TICK_S < until and tick < self.limit:
                image = self._image(frame) if image is None else image
                yield image
                tick += 1
            if tick >= self.limit:
                return

    def _shown(self) -> Iterator[tuple[av.VideoFrame, float]]:
        """Each frame, and until when it is the nearest, in seconds from the first."""
        with _opened(self.path) as container:
            frame, at = None, 0.0
            for following, then in _timed(container):
                if frame is not None:
                    yield frame, (at + then) / 2
                frame, at = following, then
            if frame is not None:
                yield frame, at + TICK_S / 2

    def _image(self, frame: av.VideoFrame) -> Image:
        width, height = self._stored
        bgr = frame.reformat(width, height, "bgr24", interpolation="AREA")
        image = np.ascontiguousarray(np.rot90(bgr.to_ndarray(), self._turns), np.uint8)
        image.flags.writeable = False
        return image

    def _stored_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Width and height of the pictures before they are turned: even, and of square pixels."""
        width, height = frame.width * float(self._stretch), frame.height
        scale = min(1.0, MAX_SIDE / max(width, height))
        return max(2, round(width * scale) // 2 * 2), max(2, round(height * scale) // 2 * 2)


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """The file `path` as FFmpeg reads what has no name: a name could mean an address, or many files."""
    options = {"format_whitelist": FORMATS, "max_pixels": str(MAX_PIXELS)}
    try:
        with (
            path.open("rb") as file,
            mmap(file.fileno(), 0, access=ACCESS_READ) as content,
            av.open(content, "r", options=options) as container,
        ):
            container.streams.video[0].thread_type = "AUTO"
            yield container
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise BadMedia("the file holds no pictures that can be decoded") from error


def _timed(container: av.container.InputContainer) -> Iterator[tuple[av.VideoFrame, float]]:
    """Each frame and its time in seconds: 0 for the first, then ever later, and never by more than MAX_PAUSE_S.

    A camera's clock may jump. An AVI has none, and what FFmpeg makes up for it is not even in order.
    """
    step = 1 / float(container.streams.video[0].average_rate or FPS)
    has_clock = container.format.name != "avi"
    at, before = -step, None
    for frame in _frames(container):
        time = frame.time if has_clock else None
        passed = step if before is None or time is None else time - before
        at += passed if 0 < passed <= MAX_PAUSE_S else step
        before = time
        yield frame, at


def _frames(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    for packet in container.demux(container.streams.video[0]):
        frames: list[av.VideoFrame] = []
        with suppress(av.error.InvalidDataError):  # a damaged one is no reason to refuse the others
            frames = packet.decode()
        yield from frames
