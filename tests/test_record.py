"""What is in a recording's file, however the recording ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from loguru import logger

from core.media import FPS, Picture, Tick
from outputs.record import KEY_EVERY_TICKS, Recorder, publish
from tests.fakes.media import SIZE, Flashes, beep_times, flash_times
from tests.fakes.virtual import in_virtual_time, staged

ROOT = Path(__file__).parent.parent
RELEASE_S = 2.0


class Tape:
    """A recorder, and what it calls back."""

    def __init__(self, path: Path, *, done: Callable[[Path], None] | None = None) -> None:
        self.keys_asked = 0
        self.done: list[tuple[Path, str]] = []
        self.recorder = Recorder(path, SIZE, self._key, done or self._done)

    def _key(self) -> None:
        self.keys_asked += 1

    def _done(self, path: Path) -> None:
        self.done.append((path, threading.current_thread().name))

    def play(self, show: Flashes, ticks: int) -> None:
        for _ in range(ticks):
            self.push(*show.next())

    def push(self, tick: Tick, picture: Picture) -> None:
        self.recorder.push(tick)
        self.recorder.push_picture(picture)

    async def close(self) -> None:
        """Close it. TimeoutError where that takes for ever; its thread is then let go."""
        try:
            await asyncio.wait_for(self.recorder.aclose(), RELEASE_S)
        finally:
            self.recorder._inbox.put(None)


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """Messages of the errors that are logged."""
    messages: list[str] = []
    sink = logger.add(lambda message: messages.append(message.record["message"]), level="ERROR")
    yield messages
    logger.remove(sink)


def offsets_ms(path: Path) -> list[float]:
    """How much later each flash is than its beep."""
    flashes, beeps = flash_times(path), beep_times(path)
    assert len(flashes) == len(beeps) > 2
    return [1000 * (flash - beep) for flash, beep in zip(flashes, beeps, strict=True)]


async def test_flash_and_beep_of_a_tick_are_within_20_ms(tmp_path: Path) -> None:
    tape = Tape(tmp_path / "r" / "1.mp4")
    tape.play(Flashes(), 4 * FPS)
    await tape.close()
    assert max(map(abs, offsets_ms(tmp_path / "r" / "1.mp4"))) < 20


async def test_they_stay_together_over_ticks_and_pictures_that_never_came(tmp_path: Path) -> None:
    tape, show = Tape(tmp_path / "1.mp4"), Flashes()
    tape.play(show, 45)
    show.number += 2 * FPS + 13  # a process that was stopped
    show._first = show.number
    tape.play(show, 50)
    for place in range(3 * FPS):  # a busy encoder
        tick, picture = show.next()
        tape.recorder.push(tick)
        if place % 5 != 3:
            tape.recorder.push_picture(picture)
    await tape.close()
    assert max(map(abs, offsets_ms(tmp_path / "1.mp4"))) < 20
    with av.open(str(tmp_path / "1.mp4")) as file:
        assert abs(float(file.duration or 0) / 1e6 - (show.number - 1000) / FPS) < 0.1


async def test_the_file_begins_with_the_first_key_picture_and_its_sound(tmp_path: Path) -> None:
    tape, show = Tape(tmp_path / "1.mp4"), Flashes()
    ticks = [show.next() for _ in range(3 * FPS)]
    for tick, picture in ticks[5:30]:  # 5 to 24 cannot be decoded
        tape.push(tick, picture)
    for tick, _ in ticks[30:40]:  # sound that comes before its pictures
        tape.recorder.push(tick)
    for _, picture in ticks[30:40]:
        tape.recorder.push_picture(picture)
    for tick, picture in ticks[40:]:
        tape.push(tick, picture)
    await tape.close()
    (flash, _), (beep, _) = flash_times(tmp_path / "1.mp4"), beep_times(tmp_path / "1.mp4")
    assert abs(flash - 0.4) < 0.05 and abs(flash - beep) < 0.02


async def test_a_finished_recording_is_moved_and_told_by_the_thread_that_wrote_it(tmp_path: Path) -> None:
    tape = Tape(tmp_path / "7.mp4")
    tape.play(Flashes(), 30)
    assert not (tmp_path / "7.mp4").exists()
    for _ in range(2):
        await tape.close()
    assert tape.done == [(tmp_path / "7.mp4", "record-7"), (tmp_path / "7.vtt", "record-7")]
    assert {path.name for path in tmp_path.iterdir()} == {"7.mp4", "7.vtt"}
    with av.open(str(tmp_path / "7.mp4")) as file:
        assert sum(1 for _ in file.decode(video=0)) == 30
    assert "record-7" not in {thread.name for thread in threading.enumerate()}


async def test_a_key_picture_is_asked_for_at_once_and_each_second(tmp_path: Path) -> None:
    tape, show = Tape(tmp_path / "1.mp4"), Flashes()
    assert tape.keys_asked == 1
    tape.play(show, KEY_EVERY_TICKS)
    assert tape.keys_asked == 1
    tick, picture = show.next()
    tape.push(tick, replace(picture, key=False))
    assert tape.keys_asked == 2
    await tape.close()


async def test_a_recording_without_any_picture_ends_and_is_not_published(tmp_path: Path) -> None:
    tape = Tape(tmp_path / "1.mp4")
    tick, _ = Flashes().next()
    tape.recorder.push(tick)
    await tape.close()
    assert not tape.done and not (tmp_path / "1.mp4").exists()


async def test_a_recording_that_cannot_be_published_ends_all_the_same(tmp_path: Path, errors: list[str]) -> None:
    def no_links_here(path: Path) -> None:
        raise PermissionError("no hard links on this disk")

    tape = Tape(tmp_path / "1.mp4", done=no_links_here)
    tape.play(Flashes(), 30)
    await tape.close()
    assert (tmp_path / "1.mp4").exists() and len(errors) == 1


async def test_a_folder_that_cannot_be_written_to_is_logged_and_disturbs_nobody(
    tmp_path: Path, errors: list[str]
) -> None:
    (tmp_path / "file").touch()
    tape = Tape(tmp_path / "file" / "1.mp4")
    tape.play(Flashes(), 60)
    await tape.close()
    assert len(errors) == 1 and not tape.done


RECORD_ON_A_FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from tests.fakes.media import Flashes
from tests.test_record import Tape

async def record(name):
    tape = Tape(Path(sys.argv[1]) / name)
    tape.play(Flashes(), 60)
    await tape.close()
    return tape.done

async def main():
    (path, _), _ = await record("good.mp4")
    room = {"the beginning": 10, "the middle": path.stat().st_size // 2, "the end": path.stat().st_size - 1}
    resource.setrlimit(resource.RLIMIT_FSIZE, (room[sys.argv[2]],) * 2)
    print("closed", await record("bad.mp4"))

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "place",
    [
        "the beginning",
        "the middle",
        "the end",
    ],
)
def test_a_full_disk_is_logged_and_disturbs_nobody(tmp_path: Path, place: str) -> None:
    done = python(RECORD_ON_A_FULL_DISK, str(tmp_path), place)
    assert (done.returncode, done.stdout) == (0, "closed []\n"), done.stderr
    assert "ERROR" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "bad.mp4").exists()


def python(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@in_virtual_time
async def test_a_session_goes_on_when_its_recording_fails() -> None:
    async with staged() as stage:
        stage.real.start_recording(Path("/dev/null/record"))
        await asyncio.sleep(2)
        assert stage.real.recording
        await stage.real.stop_recording()
        await asyncio.sleep(1)
        assert not stage.real.recording
        numbers = [tick.number for tick in stage.watcher.ticks]
        assert numbers == list(range(len(numbers))) and len(numbers) >= 75


def test_two_recordings_that_end_together_are_both_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)
    hardlink = Path.hardlink_to

    def together(link: Path, target: Path) -> None:
        hardlink(link, target)
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)

    monkeypatch.setattr(Path, "hardlink_to", together)
    (tmp_path / "record").mkdir()
    failures: list[OSError] = []

    def finish(name: str) -> None:
        path = tmp_path / "record" / name
        path.write_text(name)
        try:
            publish(path)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=finish, args=[name]) for name in ("1.mp4", "2.mp4")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (tmp_path / "record.mp4").read_text() in {"1.mp4", "2.mp4"}


RECORD_IN_REAL_TIME = """
import asyncio, sys
from pathlib import Path
from core.clock import MediaClock
from outputs.record import Recorder
from tests.fakes.media import SIZE, Flashes

async def main():
    recorder, show, clock = Recorder(Path(sys.argv[1]), SIZE, lambda: None, print), Flashes(), MediaClock()
    for n in range(1000):
        await clock.until(n)
        tick, picture = show.next()
        recorder.push(tick)
        recorder.push_picture(picture)
        print(n + 1, flush=True)

asyncio.run(main())
"""


def test_a_killed_process_leaves_a_recording_that_lacks_its_last_second_at_most(tmp_path: Path) -> None:
    command: list[Any] = [sys.executable, "-c", RECORD_IN_REAL_TIME, tmp_path / "1.mp4"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        recorded = next(int(line) for line in process.stdout if int(line) == 4 * FPS - 3)  # nearly a second unsaved
        process.kill()
    left = tmp_path / "1.part.mp4"
    assert left.read_bytes().count(b"moof") >= 2  # a fragment a second; the first is in the header
    with av.open(str(left)) as file:
        levels = [frame.to_ndarray(format="gray").mean() for frame in file.decode(video=0)]
    assert recorded - 1.2 * FPS <= len(levels) <= recorded + FPS
    assert {place % FPS for place in np.flatnonzero(np.array(levels) > 150)} == {10}
    with av.open(str(left)) as file:
        sound_s = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))
    assert sound_s >= recorded / FPS - 1.2
    assert max(map(abs, offsets_ms(left))) < 20
