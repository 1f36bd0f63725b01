"""The echo canceller in drawn rooms: what it takes out, where it finds the path, and what it leaves alone."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from asr import echo as module
from asr.echo import BLOCK_SAMPLES, EchoCanceller
from core.audio import to_int16
from core.media import SAMPLE_RATE, TICK_SAMPLES, Pcm
from scripts.bench_ears import SPEECH, Room, speech


def babble(seconds: float, seed: int = 0) -> Pcm:
    """Noise that comes in syllables, as speech does: 4 a second, -26 dBFS."""
    random = np.random.default_rng(seed)
    n = int(seconds * SAMPLE_RATE)
    smooth = np.convolve(random.standard_normal(n), [0.3, 0.5, 0.3], "same")
    syllables = np.repeat(random.random(n // 4000 + 1) > 0.3, 4000)[:n]
    return (0.09 * smooth * syllables).astype(np.float32)


def listen(echo: EchoCanceller, room: Room, said: Pcm, near: Pcm | None = None) -> Pcm:
    """What `echo` gives while `said` is played in `room` and `near` spoken."""
    out = []
    for at in range(0, len(said) // TICK_SAMPLES * TICK_SAMPLES, TICK_SAMPLES):
        samples = to_int16(said[at : at + TICK_SAMPLES])
        echo.played(samples)
        person = np.zeros(TICK_SAMPLES, np.float32) if near is None else near[at : at + TICK_SAMPLES]
        out += [echo.push(block) for block in room.hear(samples, person).reshape(-1, BLOCK_SAMPLES)]
    return np.concatenate(out)


def level_db(pcm: Pcm) -> float:
    return float(10 * np.log10(np.mean(pcm**2) + 1e-12))


@pytest.mark.parametrize("path_s", [0.05, 0.15, 0.3, 0.8])
def test_the_avatar_is_taken_out_however_long_the_path(path_s: float) -> None:
    echo = EchoCanceller()
    out = listen(echo, Room(echo_db=-15, path_s=path_s), babble(10))
    report = echo.report()
    assert report.kind == "cancelled here"
    assert report.path_ms is not None and abs(report.path_ms - path_s * 1000) <= 12
    assert report.level_db == pytest.approx(-15, abs=3)
    assert level_db(out[7 * SAMPLE_RATE :]) < -60
    assert echo.path_s == pytest.approx(path_s, abs=0.012)


def test_without_echo_a_voice_passes_and_no_path_is_seen() -> None:
    if not SPEECH.is_dir():
        pytest.skip("../shared/data/speech is not there")
    echo, voice = EchoCanceller(), speech("test", 8)
    out = listen(echo, Room(echo_db=-90), speech("train", 8)[: len(voice)], voice)
    assert echo.report().kind == "none"
    assert level_db(out[SAMPLE_RATE:]) == pytest.approx(level_db(voice[SAMPLE_RATE : len(out)]), abs=2)
    assert echo.explained() < 0.3


@pytest.mark.parametrize(("echo_db", "absent"), [(-90, True), (-20, False)])
def test_a_line_without_echo_is_found_to_have_none(echo_db: float, absent: bool) -> None:
    echo, said, room = EchoCanceller(), babble(6), Room(seed=5, echo_db=echo_db)
    listen(echo, room, said[:SAMPLE_RATE])
    assert not echo.absent  # nothing is known yet, so it is taken to have one
    listen(echo, room, said[SAMPLE_RATE:])
    assert echo.absent is absent
    echo.restart()
    assert not echo.absent


def test_what_a_browser_has_cancelled_is_seen_as_such() -> None:
    echo = EchoCanceller()
    listen(echo, Room(echo_db=-48, floor_db=-95), babble(8))
    assert echo.report().kind == "cancelled in browser"


def test_an_echo_is_explained_and_a_person_is_not() -> None:
    said, voice = babble(10), babble(10, seed=1)
    echo, room = EchoCanceller(), Room(echo_db=-20)
    listen(echo, room, said[: 6 * SAMPLE_RATE])
    assert echo.explained() > 0.65
    listen(echo, room, said[6 * SAMPLE_RATE : 8 * SAMPLE_RATE], voice[: 2 * SAMPLE_RATE])
    assert echo.explained() < 0.5


def test_a_path_that_moves_is_doubted_for_a_while() -> None:
    echo, said = EchoCanceller(), babble(30)
    listen(echo, Room(path_s=0.1), said[: 8 * SAMPLE_RATE])
    assert not echo.doubtful
    listen(echo, Room(path_s=0.3), said[8 * SAMPLE_RATE : 12 * SAMPLE_RATE])
    assert echo.doubtful
    assert echo.path_s == pytest.approx(0.3, abs=0.012)
    listen(echo, Room(path_s=0.3), said[12 * SAMPLE_RATE : 20 * SAMPLE_RATE])
    assert not echo.doubtful


def test_it_sounds_for_another_600_ms() -> None:
    echo, room = EchoCanceller(), Room()
    assert not echo.sounding
    listen(echo, room, babble(1))
    assert echo.sounding and echo.played_within(0.3)
    listen(echo, room, np.zeros(SAMPLE_RATE // 2, np.float32))
    assert echo.sounding and not echo.played_within(0.3)
    listen(echo, room, np.zeros(SAMPLE_RATE, np.float32))
    assert not echo.sounding


def test_a_microphone_that_stops_and_goes_on_is_still_cancelled() -> None:
    echo, said = EchoCanceller(), babble(20)
    room = Room(echo_db=-15)
    listen(echo, room, said[: 5 * SAMPLE_RATE])
    for at in range(5 * SAMPLE_RATE, 9 * SAMPLE_RATE, TICK_SAMPLES):  # nothing arrives
        room.hear(to_int16(said[at : at + TICK_SAMPLES]), np.zeros(TICK_SAMPLES, np.float32))
        echo.played(to_int16(said[at : at + TICK_SAMPLES]))
    echo.restart()
    out = listen(echo, room, said[9 * SAMPLE_RATE : 19 * SAMPLE_RATE])
    assert level_db(out[7 * SAMPLE_RATE :]) < -60


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pywebrtc_audio", None)
    assert module._make_aec() is None


@pytest.mark.usefixtures("without_package")
def test_without_the_package_sound_passes_as_it_is() -> None:
    echo = EchoCanceller()
    block = babble(0.5)[:BLOCK_SAMPLES]
    assert echo.push(block) is block
    listen(echo, Room(echo_db=-15), babble(6))
    assert not echo.cancels
    assert echo.report().kind == "not cancelled"


@pytest.mark.usefixtures("without_package")
def test_without_the_package_only_somebody_louder_than_the_echo_is_heard() -> None:
    echo, room, said = EchoCanceller(), Room(echo_db=-20), babble(20)
    listen(echo, room, said[: 8 * SAMPLE_RATE])
    assert not echo.talked_over
    listen(echo, room, said[8 * SAMPLE_RATE : 10 * SAMPLE_RATE], 1.5 * babble(2, seed=5))
    assert echo.talked_over
    listen(echo, room, said[10 * SAMPLE_RATE : 12 * SAMPLE_RATE])
    assert not echo.talked_over


def test_its_memory_has_an_end() -> None:
    echo = EchoCanceller()
    echo.played(np.ones(10 * SAMPLE_RATE, np.int16))
    echo.played(np.ones(TICK_SAMPLES, np.int16))
    assert len(echo._far._data) == module.RING_SAMPLES
    assert np.all(echo._far.read(0, 100) == 0)
    assert np.all(echo._far.read(echo._far.total - 100, 100) > 0)
    assert np.all(echo._far.read(echo._far.total, 100) == 0)
