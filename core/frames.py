"""Pictures of one size, in memory or in a video that is decoded as it is looked at.

A video is decoded by groups of pictures. The groups of all videos live in one `FrameCache`, which is bounded by bytes;
who walks through a video, to or fro, finds the next group there already.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from itertools import chain, dropwhile
from math import inf
from pathlib import Path
from threading import Lock, RLock
from time import monotonic
from weakref import finalize, ref

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from loguru import logger

from core.errors import BadMedia
from core.media import FPS, Image

GROUP = 8  # pictures that are decoded together; videos written here have a key picture for each
CACHE_BYTES = 768 << 20
WARM_SHARE = 3  # a video of at most the cache's third is decoded whole ahead
WALK_S = 0.5  # who looked at the neighbour this recently is walking
IN_USE_S = 0.1  # what was looked at this recently will be looked at again

Group = tuple[Image, ...]


class Frames(ABC):
    """Pictures of one `size` (width, height): `frames[i]` is uint8 (H, W, 3) BGR, read-only. Any thread."""

    size: tuple[int, int]

    @staticmethod
    def of(images: Iterable[Image]) -> Frames:
        """Pictures in memory: an array uint8 (n, H, W, 3) or single ones; they become read-only.

        ValueError if there are none, or of several shapes.
        """
        return _Pictures(images)

    @staticmethod
    def open(path: Path, cache: FrameCache | None = None, *, cyclic: bool = False) -> Frames:
        """The pictures of an MP4, decoded as they are looked at and kept in `cache` (None: one of their own, no pool).

        `cyclic`: the first picture comes after the last. Blocking: reads the file once and decodes the first GROUP
        pictures; if all fit in a third of the cache, its pool decodes the rest. A picture whose group is in the cache
        costs microseconds. Any other costs its group, in the calling thread: on one core 10 ms at 512×512, 50 ms at
        1080×1920, and in a video that was not written here also all pictures since the key picture before. With a pool
        that happens only after a jump: a walk of 25 pictures a second has its next group decoded ahead.

        A picture that does not decode is the one before it, and a warning in the log. BadMedia if there are none, they
        are too large for the cache, or the first GROUP do not decode.
        """
        return _Video(path, cache or FrameCache(), cyclic)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Image: ...

    def __iter__(self) -> Iterator[Image]:
        return (self[index] for index in range(len(self)))


class FrameCache:
    """Groups of decoded pictures, `held_bytes` of at most `max_bytes`: the one not looked at for longest goes first.

    What is wanted soon is decoded in `pool`, whose owner ends it; without one nothing is decoded ahead. Any thread.
    A walker needs two groups: 768 MiB are enough for eight walkers at different places of 1080×1920. With more of them
    some decode at the start of each group themselves, and beyond twice as many all of them, for each picture.
    """

    def __init__(self, pool: Executor | None = None, max_bytes: int = CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._pool = pool
        self._groups: OrderedDict[tuple[_Film, int], Group] = OrderedDict()
        self._looked: dict[tuple[_Film, int], float] = {}  # at each group, when
        self._lock = RLock()  # the garbage collector may call `forget` from within
        self._warned = False

    def get(self, film: _Film, number: int) -> Group | None:
        """Group `number` of `film` if it is here; from now on it is the last to go."""
        with self._lock:
            group = self._groups.get((film, number))
            if group:
                self._groups.move_to_end((film, number))
                self._looked[film, number] = monotonic()
            return group

    def put(self, film: _Film, number: int, group: Group) -> None:
        """Keep `group`, which is not here yet."""
        size = _nbytes(group)
        with self._lock:
            if not (self._warned or self.has_room(size)):
                self._warned = True
                logger.warning("{} MiB are too few for the avatars that are shown", self.max_bytes >> 20)
            while self._groups and self.held_bytes + size > self.max_bytes:
                self._drop(next(iter(self._groups)))
            self._groups[film, number] = group
            self._looked[film, number] = monotonic()
            self.held_bytes += size

    def has_room(self, size: int) -> bool:
        """Whether `size` bytes fit without dropping what is in use."""
        with self._lock:
            room = self.max_bytes - self.held_bytes
            unused_since = monotonic() - IN_USE_S
            for key, group in self._groups.items():
                if room >= size or self._looked[key] > unused_since:
                    break
                room += _nbytes(group)
            return room >= size

    def forget(self, film: _Film) -> None:
        """Drop what is here of `film`."""
        with self._lock:
            for key in [key for key in self._groups if key[0] is film]:
                self._drop(key)

    def submit(self, work: Callable[[], None]) -> None:
        """Have `work` done in the pool; nothing without one, or when it has ended."""
        if self._pool:
            with suppress(RuntimeError):
                self._pool.submit(work)

    def _drop(self, key: tuple[_Film, int]) -> None:
        size = _nbytes(self._groups.pop(key))
        del self._looked[key]
        self.held_bytes -= size


class _Pictures(Frames):
    def __init__(self, images: Iterable[Image]) -> None:
        self._images = list(images)
        if len(shapes := {image.shape for image in self._images}) != 1 or len(next(iter(shapes))) != 3:
            raise ValueError("frames are pictures of one size, at least one")
        for image in self._images:
            image.flags.writeable = False
        self.size = self._images[0].shape[1], self._images[0].shape[0]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Image:
        return self._images[index]


class _Video(Frames):
    """The groups of a film as far as the cache has them, and a look ahead in the direction of whoever walks."""

    def __init__(self, path: Path, cache: FrameCache, cyclic: bool) -> None:
        self._film = film = _open(path)
        self._cache = cache
        self._cyclic = cyclic
        self._decoding = Lock()
        self._asked: set[int] = set()  # groups that the pool is to decode
        self._damaged: set[int] = set()
        self._seen = [-inf] * len(film)  # when each picture was last looked at
        self.size = film.size
        finalize(self, _close, film, cache).atexit = False
        self._group_bytes = 3 * GROUP * film.size[0] * film.size[1]
        if 2 * self._group_bytes > cache.max_bytes:
            raise BadMedia("the video's pictures are too large")
        self._poster: Image | None = None
        self._poster = self._group(0)[0]
        if len(film) * self._group_bytes <= GROUP * cache.max_bytes // WARM_SHARE:
            cache.submit(partial(_warm, ref(self), 1))

    def __len__(self) -> int:
        return len(self._film)

    def __getitem__(self, index: int) -> Image:
        index = range(len(self))[index]
        image = self._group(index // GROUP)[index % GROUP]
        self._look_ahead(index)
        return image

    def _look_ahead(self, index: int) -> None:
        """Have the group decoded that comes after this one, on each side towards which somebody walks."""
        now = monotonic()
        for step in (1, -1):
            if now - self._seen[self._within(index - step)] < WALK_S:
                self._ask(self._within(index + step * GROUP) // GROUP)
        self._seen[index] = now

    def _within(self, index: int) -> int:
        return index % len(self) if self._cyclic else min(max(index, 0), len(self) - 1)

    def _ask(self, number: int) -> None:
        if number not in self._asked and not self._cache.get(self._film, number):
            self._asked.add(number)
            self._cache.submit(partial(_decode_ahead, ref(self), number))

    def _group(self, number: int) -> Group:
        if group := self._cache.get(self._film, number):
            return group
        with self._decoding:
            group = self._cache.get(self._film, number)
            if group is None:
                group = self._decode(number)
                self._cache.put(self._film, number, group)
            return group

    def _decode(self, number: int) -> Group:
        places = range(len(self))[number * GROUP : (number + 1) * GROUP]
        images = self._film.read(places)
        held = next(iter(images.values()), self._poster)
        if held is None:
            raise BadMedia("the video's first pictures do not decode")
        if len(images) < len(places) and number not in self._damaged:
            self._damaged.add(number)
            logger.warning("{}: some of pictures {} to {} do not decode", self._film.name, places[0], places[-1])
        return tuple([held := images.get(place, held) for place in places])


def _decode_ahead(video: ref[_Video], number: int) -> None:
    frames = video()
    if frames is not None:
        if frames._cache.has_room(frames._group_bytes):
            frames._group(number)
        frames._asked.discard(number)


def _warm(video: ref[_Video], number: int) -> None:
    """Decode group `number` and then, each in its turn, those that follow."""
    frames = video()
    if frames is not None and number * GROUP < len(frames):
        frames._group(number)
        frames._cache.submit(partial(_warm, video, number + 1))


def _close(film: _Film, cache: FrameCache) -> None:
    cache.forget(film)
    film.close()


def _nbytes(group: Group) -> int:
    return sum(image.nbytes for image in group)


class _Film:
    """An open MP4 whose packets were listed once: decodes on from where it stands, or from a key picture.

    One thread at a time.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"{path.parent.name}/{path.name}"
        self._container = av.open(str(path), format="mp4")
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1
        self._to_bgr = VideoReformatter()
        self._times, self._keys = _list_packets(self._container, self._stream)
        self._places: dict[int | None, int] = {time: place for place, time in enumerate(self._times)}
        if not self._keys or len(self._places) != len(self._times) or self._keys[0][0] > self._times[0]:
            raise ValueError("no pictures, or not each with a time of its own")
        self._running: Iterator[av.VideoFrame] = iter(())
        self._next = len(self)  # the place of the picture that `_running` gives next
        self.size = self._stream.codec_context.width, self._stream.codec_context.height

    def __len__(self) -> int:
        return len(self._times)

    def read(self, places: range) -> dict[int, Image]:
        """The pictures at `places`, consecutive ones, in order; those that do not decode are missing. Blocking."""
        self._go_to(places[0])
        images = {}
        with suppress(av.FFmpegError):
            for frame in self._running:
                place = self._places.get(frame.pts, -1)
                if place in places and (frame.width, frame.height) == self.size:
                    images[place] = self._picture(frame)
                self._next = max(self._next, place + 1)
                if self._next >= places.stop:
                    return images
        self._next = len(self)
        return images

    def _go_to(self, place: int) -> None:
        """Have `_running` lead to `place`: it goes on, unless `place` is behind it or has a nearer key picture."""
        key = self._keys[bisect_right(self._keys, (self._times[place], inf)) - 1]
        if self._next > place or self._times[self._next] < key[0]:
            self._running = _decoded(self._container, self._stream, *key)
            self._next = 0

    def _picture(self, frame: av.VideoFrame) -> Image:
        image = np.asarray(self._to_bgr.reformat(frame, format="bgr24").to_ndarray(), np.uint8)
        image.flags.writeable = False
        return image

    def close(self) -> None:
        self._running = iter(())
        self._container.close()


def _open(path: Path) -> _Film:
    try:
        return _Film(path)
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise BadMedia("the video holds no pictures that can be shown") from error


def _list_packets(container: InputContainer, stream: VideoStream) -> tuple[list[int], list[tuple[int, int]]]:
    """When each picture is shown, and when each key picture is shown and decoded, in units of the stream; sorted.

    Frame rates are not asked: a file's say nothing about where its pictures are.
    """
    times, keys = [], []
    for packet in container.demux(stream):
        if packet.size:
            if packet.pts is None or packet.dts is None:
                raise ValueError("a picture without a time")
            if packet.is_keyframe:
                keys.append((packet.pts, packet.dts))
            if not packet.is_discard:
                times.append(packet.pts)
    return sorted(times), sorted(keys)


def _decoded(container: InputContainer, stream: VideoStream, pts: int, dts: int) -> Iterator[av.VideoFrame]:
    """The pictures from the key picture at `pts` on, as they are shown; packets that do not decode are left out."""
    container.seek(dts, stream=stream)
    for packet in dropwhile(lambda packet: packet.pts != pts, container.demux(stream)):
        with suppress(av.InvalidDataError):
            yield from packet.decode()


def write_video(path: Path, images: Iterable[Image], *, crf: int = 16) -> None:
    """Write pictures uint8 (H, W, 3) BGR as an H.264 MP4 at 25 fps that `Frames` decodes by GROUP. Blocking.

    Takes one picture at a time. ValueError if there are none, their sides are odd, or their sizes differ.
    """
    pictures = iter(images)
    first = next(pictures, None)
    if first is None or first.shape[0] % 2 or first.shape[1] % 2:
        raise ValueError("a video is pictures of even width and height, at least one")
    options = {"crf": str(crf), "preset": "slow", "bf": "0", "sc_threshold": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *first.shape[:2], "yuv420p", GROUP
        for image in chain([first], pictures):
            if image.shape != first.shape:
                raise ValueError("pictures of several sizes")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
