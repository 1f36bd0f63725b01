"""Pictures of a video: exactly those of a plain decode, whoever walks where, in bounded memory and without a wait."""

from __future__ import annotations

import gc
import os
import random
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from loguru import logger
from numpy.typing import NDArray

from core import frames as frames_room
from core.errors import BadMedia
from core.frames import GROUP, FrameCache, Frames, write_video
from core.media import TICK_S, Image
from tests.fakes.media import grey

SMALL = (64, 48)
PICTURE = 64 * 48 * 3  # bytes


def moving(n: int, size: tuple[int, int] = SMALL) -> Iterator[Image]:
    """`n` pictures no two of which are alike: a gradient that slides under a grain that stays."""
    width, height = size
    slope = np.add.outer(np.arange(height), np.arange(width + 7 * n))
    picture = cv2.cvtColor((slope % 256).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    grain = np.random.default_rng(3).integers(0, 60, (height, width, 3)).astype(np.uint8)
    for i in range(n):
        yield np.asarray(cv2.add(picture[:, 7 * i : 7 * i + width], grain), np.uint8)


def film(
    path: Path,
    images: Iterable[Image],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Iterable[int] | None = None,
    movflags: str = "",
    params: str = "",
    **options: str,
) -> Path:
    """A video as others write them. `times` are when each picture is shown, in 1/25 s."""
    if params:
        options[f"{codec.removeprefix('lib')}-params"] = params
    with av.open(str(path), "w", format="mp4", options={"movflags": movflags} if movflags else {}) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.codec_context.thread_count = 1
        for time, image in zip(times or range(1 << 30), images, strict=False):
            if not stream.codec_context.is_open:
                stream.height, stream.width, stream.pix_fmt = *image.shape[:2], pix_fmt
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def plain(path: Path) -> NDArray[np.uint8]:
    """All pictures, by the shortest way."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)])


def written(path: Path, n: int = 60, size: tuple[int, int] = SMALL) -> Path:
    write_video(path, moving(n, size), crf=20)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, range]]:
    """What is decoded from now on: the thread's name, and which pictures."""
    done: list[tuple[str, range]] = []
    read = frames_room._Film.read

    def recording(film: frames_room._Film, places: range) -> dict[int, Image]:
        done.append((threading.current_thread().name, places))
        return read(film, places)

    monkeypatch.setattr(frames_room._Film, "read", recording)
    return done


class Ahead(ThreadPoolExecutor):
    """One thread, and a way to know that it has nothing left to do."""

    def __init__(self) -> None:
        super().__init__(1, "ahead")
        self._futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._futures.append(super().submit(fn, *args, **kwargs))
        return self._futures[-1]

    def settle(self) -> None:
        while pending := [future for future in self._futures if not future.done()]:
            wait(pending, 10)


@pytest.fixture
def pool() -> Iterator[Ahead]:
    with Ahead() as pool:
        yield pool


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """A tick passes with each `next`, and no time otherwise."""
    now = 100.0
    monkeypatch.setattr(frames_room, "monotonic", lambda: now)

    def ticks() -> Iterator[float]:
        nonlocal now
        while True:
            now += TICK_S
            yield now

    return ticks()


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), level="WARNING")
    yield lines
    logger.remove(sink)


# In memory.


def test_pictures_in_memory_are_a_read_only_sequence() -> None:
    array = np.stack(list(moving(5)))
    frames = Frames.of(array.copy())
    assert len(frames) == 5 and frames.size == SMALL
    assert (np.stack(list(frames)) == array).all() and (frames[-1] == array[4]).all()
    with pytest.raises(ValueError, match="read-only"):
        frames[0][0] = 1
    with pytest.raises(IndexError):
        frames[5]


@pytest.mark.parametrize("images", [[], [grey(1), grey(1, (10, 10))], [np.zeros((4, 4), np.uint8)]])
def test_no_pictures_or_several_shapes_are_refused(images: list[Image]) -> None:
    with pytest.raises(ValueError, match="one size"):
        Frames.of(images)


# Exactly the pictures of the file.

SOURCES: dict[str, Callable[[Path], Path]] = {
    "ours": written,
    "one picture": lambda path: written(path, 1),
    "B pictures, few key pictures": lambda path: film(path, moving(60), bf="3", g="250"),
    "open groups": lambda path: film(path, moving(60), bf="3", g="10", params="open-gop=1:scenecut=0"),
    "key pictures close together": lambda path: film(path, moving(60), bf="3", g="2"),
    "key pictures only": lambda path: film(path, moving(60), g="1"),
    "odd size": lambda path: film(path, moving(60, (65, 49)), pix_fmt="yuv444p", bf="2", g="7"),
    "another codec": lambda path: film(path, moving(60), "mpeg4", bf="2", g="12"),
    "HEVC": lambda path: film(path, moving(60), "libx265", params="keyint=12:bframes=3:log-level=none"),
    "VP9": lambda path: film(path, moving(60), "libvpx-vp9", g="13"),
    "no frame rate": lambda path: film(path, moving(60), times=(3 * i + i % 3 for i in range(60)), bf="2", g="9"),
    "a late start": lambda path: film(path, moving(60), times=range(100, 160), bf="2", g="9"),
    "an edit list": lambda path: film(path, moving(60), times=range(-13, 47), bf="2", g="30"),
    "fragments": lambda path: film(path, moving(60), g="9", movflags="frag_keyframe+empty_moov"),
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return SOURCES[request.param](tmp_path / "frames.mp4")


def test_every_order_gives_exactly_the_pictures_of_the_file(source: Path) -> None:
    expected = plain(source)
    n = len(expected)
    shuffled = random.Random(1).sample(range(n), n)
    for order in (range(n), reversed(range(n)), shuffled):
        frames = Frames.open(source, FrameCache(max_bytes=2 * GROUP * expected[0].nbytes))
        assert len(frames) == n and frames.size == expected.shape[2:0:-1]
        for i in order:
            assert (frames[i] == expected[i]).all(), i
    assert not frames[0].flags.writeable


def test_walkers_in_several_threads_see_the_pictures_of_the_file(tmp_path: Path) -> None:
    path = film(tmp_path / "frames.mp4", moving(60), bf="3", g="20")
    expected = plain(path)
    to_and_fro = [*range(60), *range(58, 0, -1)]

    def walk(start: int) -> bool:
        return all((frames[i] == expected[i]).all() for i in islice(cycle(to_and_fro), start, start + 150))

    with ThreadPoolExecutor(4) as walkers, ThreadPoolExecutor(2) as pool:
        frames = Frames.open(path, FrameCache(pool, 5 * GROUP * PICTURE))
        assert all(walkers.map(walk, (0, 33, 60, 101)))


def test_an_index_beyond_the_film_is_refused_and_a_negative_one_counts_from_its_end(tmp_path: Path) -> None:
    frames = Frames.open(written(tmp_path / "frames.mp4", 20))
    assert (frames[-1] == frames[19]).all()
    for index in (20, -21):
        with pytest.raises(IndexError):
            frames[index]


# Memory.


def test_a_long_film_of_large_pictures_stays_within_the_bound(tmp_path: Path) -> None:
    n, size, bound = 64, (1080, 1920), 110 << 20
    images = (grey(20 + i, size) for i in range(n))
    path = film(tmp_path / "frames.mp4", images, g=str(GROUP), preset="ultrafast")
    with ThreadPoolExecutor(1) as pool:
        cache = FrameCache(pool, bound)
        frames = Frames.open(path, cache)
        assert n * frames[0].nbytes > 3 * bound
        for i in [*range(n), *range(n - 2, -1, -1)]:
            assert abs(float(frames[i][::60, ::60].mean()) - 20 - i) < 8 and cache.held_bytes <= bound
        assert cache.held_bytes > bound // 2


def test_several_films_share_one_bound_and_what_was_looked_at_last_stays(tmp_path: Path, reads: list[Any]) -> None:
    cache = FrameCache(max_bytes=3 * GROUP * PICTURE)
    first, second = (Frames.open(written(tmp_path / f"{name}.mp4", 4 * GROUP), cache) for name in "ab")
    first[GROUP], second[0], first[0], second[2 * GROUP]
    reads.clear()
    first[0], second[0], second[2 * GROUP]
    assert not reads and cache.held_bytes == 3 * GROUP * PICTURE
    first[GROUP]
    assert reads


def test_pictures_too_large_for_the_cache_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "frames.mp4")
    assert Frames.open(path, FrameCache(max_bytes=2 * GROUP * PICTURE))
    with pytest.raises(BadMedia, match="too large"):
        Frames.open(path, FrameCache(max_bytes=2 * GROUP * PICTURE - 1))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux lists them")
def test_a_film_that_nobody_holds_leaves_no_pictures_no_file_and_no_thread(tmp_path: Path, pool: Ahead) -> None:
    path, cache = written(tmp_path / "frames.mp4"), FrameCache(pool)
    pool.submit(int)  # its thread is there from now on
    pool.settle()
    files, threads = open_files(), threading.active_count()
    frames = Frames.open(path, cache)
    gone, picture = weakref.ref(frames), frames[20]
    pool.settle()
    assert cache.held_bytes and open_files() > files
    gc.disable()
    try:
        del frames
        pool.settle()
        assert gone() is None and cache.held_bytes == 0
    finally:
        gc.enable()
    assert open_files() == files and threading.active_count() == threads
    assert picture.any()  # what somebody still shows is there


# Ahead of time.


def decoded_by_caller(reads: list[tuple[str, range]]) -> list[range]:
    return [places for name, places in reads if not name.startswith("ahead")]


@pytest.mark.parametrize(
    ("cyclic", "walks"),
    [
        pytest.param(False, [[*range(120), *range(118, -1, -1), *range(1, 120)]], id="to and fro"),
        pytest.param(True, [[*range(120), *range(120), *range(120)]], id="round"),
        pytest.param(False, [range(100, 0, -1), range(10, 110)], id="two"),
    ],
)
def test_who_walks_never_decodes(
    tmp_path: Path,
    pool: Ahead,
    reads: list[Any],
    clock: Iterator[float],
    cyclic: bool,
    walks: list[list[int]],
) -> None:
    path = written(tmp_path / "frames.mp4", 120)
    frames = Frames.open(path, FrameCache(pool, 5 * GROUP * PICTURE), cyclic=cyclic)
    for n, (*places, _) in enumerate(zip(*walks, clock, strict=False)):
        for i in places:
            frames[i]
        pool.settle()
        if n == 1:  # it is known now where they are, and which way they go
            reads.clear()
    assert len(reads) > 10 and not decoded_by_caller(reads)


def test_more_walkers_than_fit_wait_for_their_own_groups_only(
    tmp_path: Path, pool: Ahead, reads: list[Any], clock: Iterator[float], warnings: list[str]
) -> None:
    frames = Frames.open(written(tmp_path / "frames.mp4", 120), FrameCache(pool, 4 * GROUP * PICTURE))
    for i in range(80):
        next(clock)
        for start in (0, 19, 38):
            frames[start + i]
        pool.settle()
    assert len(reads) <= 3 * (80 // GROUP + 2)
    assert len(warnings) == 1 and "too few" in warnings[0]


def test_a_film_that_fits_is_decoded_once_and_ahead(tmp_path: Path, pool: Ahead, reads: list[Any]) -> None:
    path = film(tmp_path / "frames.mp4", moving(60), bf="3", g="250")
    frames = Frames.open(path, FrameCache(pool, 3 * 60 * PICTURE))
    pool.settle()
    assert [places for _, places in reads] == [range(i, min(i + GROUP, 60)) for i in range(0, 60, GROUP)]
    assert (np.stack(list(frames)) == plain(path)).all()
    assert len(reads) == 60 // GROUP + 1 and len(decoded_by_caller(reads)) == 1


def test_a_look_around_decodes_nothing_ahead(tmp_path: Path, pool: Ahead, reads: list[Any]) -> None:
    frames = Frames.open(written(tmp_path / "frames.mp4"), FrameCache(pool, 5 * GROUP * PICTURE))
    for i in (0, 20, 40, 10, 50, 30):
        frames[i]
    pool.settle()
    assert len(decoded_by_caller(reads)) == len(reads)


def test_when_the_pool_has_ended_the_film_goes_on(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        frames = Frames.open(written(tmp_path / "frames.mp4"), FrameCache(pool, 5 * GROUP * PICTURE))
    assert (np.stack(list(frames)) == plain(tmp_path / "frames.mp4")).all()


# Damage.


def damage(path: Path, *numbers: int) -> None:
    """Overwrite the packets of pictures `numbers` of a film written here."""
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    with path.open("r+b") as file:
        for number in numbers:
            position, size = packets[number]
            file.seek(position or 0)
            file.write(b"\xff" * size)


def test_a_damaged_middle_holds_the_picture_and_warns_once(tmp_path: Path, warnings: list[str]) -> None:
    path = written(tmp_path / "frames.mp4")
    expected = plain(path)
    damage(path, *range(2 * GROUP + 3, 3 * GROUP))
    cache = FrameCache()
    frames = Frames.open(path, cache)
    for _ in range(2):
        cache.forget(frames._film)  # type: ignore[attr-defined]
        pictures = np.stack(list(frames))
        assert (pictures[: 2 * GROUP + 3] == expected[: 2 * GROUP + 3]).all()
        assert (pictures[2 * GROUP + 3 : 3 * GROUP] == expected[2 * GROUP + 2]).all()
        assert (pictures[3 * GROUP :] == expected[3 * GROUP :]).all()
    assert len(warnings) == 1 and f"pictures {2 * GROUP} to {3 * GROUP - 1}" in warnings[0]
    assert str(tmp_path.parent) not in warnings[0]


def test_a_group_that_is_damaged_whole_shows_the_first_picture(tmp_path: Path) -> None:
    path = written(tmp_path / "frames.mp4")
    expected = plain(path)
    damage(path, *range(GROUP, 2 * GROUP))
    frames = Frames.open(path)
    assert (np.stack(list(frames)[GROUP : 2 * GROUP]) == expected[0]).all()
    assert (frames[2 * GROUP] == expected[2 * GROUP]).all()


def test_a_file_that_is_cut_off_while_it_is_shown_stops_nobody(tmp_path: Path) -> None:
    path = written(tmp_path / "frames.mp4")
    frames = Frames.open(path, FrameCache(max_bytes=2 * GROUP * PICTURE))
    os.truncate(path, path.stat().st_size // 3)
    assert len(list(frames)) == 60


REFUSED = [
    pytest.param(lambda path: path.write_bytes(b""), id="empty"),
    pytest.param(lambda path: path.write_bytes(b"rubbish"), id="rubbish"),
    pytest.param(lambda path: None, id="no file"),
    pytest.param(lambda path: damage(written(path), *range(GROUP)), id="the first pictures damaged"),
    pytest.param(lambda path: os.truncate(written(path), 2000), id="cut off"),
    pytest.param(lambda path: path.write_text(f"#EXTM3U\n{written(path.with_name('b.mp4'))}\n"), id="a playlist"),
    pytest.param(lambda path: written(path.with_suffix(".mkv")).rename(path), id="not an MP4"),
]


@pytest.mark.parametrize("make", REFUSED)
def test_what_is_no_film_is_refused(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    path = tmp_path / "frames.mp4"
    make(path)
    with pytest.raises(BadMedia) as error:
        Frames.open(path)
    assert str(tmp_path) not in str(error.value)


# Writing.


def test_a_film_written_here_is_decoded_by_group(tmp_path: Path) -> None:
    with av.open(str(written(tmp_path / "frames.mp4"))) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert [i for i, packet in enumerate(packets) if packet.is_keyframe] == list(range(0, 60, GROUP))
        assert all(packet.pts == packet.dts for packet in packets)


def test_writing_holds_few_pictures_at_a_time(tmp_path: Path) -> None:
    made: list[weakref.ref[Image]] = []
    most = 0

    def pictures() -> Iterator[Image]:
        nonlocal most
        for level in range(200):
            picture = grey(level)
            made.append(weakref.ref(picture))
            most = max(most, sum(ref() is not None for ref in made))
            yield picture

    write_video(tmp_path / "frames.mp4", pictures())
    assert most <= 3


@pytest.mark.parametrize("images", [[], [grey(1, (63, 48))], [grey(1, (64, 47))], [grey(1), grey(1, (32, 32))]])
def test_what_cannot_be_a_film_is_not_written(tmp_path: Path, images: list[Image]) -> None:
    with pytest.raises(ValueError, match=r"width|sizes"):
        write_video(tmp_path / "frames.mp4", images)
