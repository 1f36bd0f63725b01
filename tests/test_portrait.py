"""Which picture a tick shows, tick by tick, and that nothing jumps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from core.audio import to_int16
from core.avatar import Avatar, Clip
from core.frames import Frames
from core.media import SILENT_TICK, TICK_SAMPLES, Image
from core.portrait import CLOSE_TICKS, FADE_TICKS, HOLD_TICKS, Portrait
from tests.fakes.media import SIZE, grey, stairs
from tests.fakes.person import tone

AVATAR = stairs(50)
FACE = grey(250)


def still(level: int, size: tuple[int, int] = SIZE) -> Avatar:
    return Avatar("still", Frames.of([grey(level, size)]), np.zeros((1, 4), np.int32))


def clip(*levels: int, pcm: NDArray[np.float32] | None = None, size: tuple[int, int] = SIZE) -> Clip:
    return Clip(2, np.stack([grey(level, size) for level in levels]), pcm)


class Stage:
    """A portrait that is asked tick by tick."""

    def __init__(self, avatar: Avatar = AVATAR, clips: Mapping[int, Clip] | None = None, **others: Avatar) -> None:
        self.portrait = Portrait({"main": avatar, **others}, clips or {})
        self.tick = 0
        self.exact: list[Avatar | None] = []

    def show(self, ticks: int, speaker: str | None = None, face: Image | None = None) -> list[int]:
        """The brightness of the next `ticks` pictures."""
        return [self._next(speaker, face) for _ in range(ticks)]

    def _next(self, speaker: str | None, face: Image | None) -> int:
        image, idle = self.portrait.picture(self.tick, speaker, face)
        assert image.shape == (*reversed(self.portrait._size), 3) and image.dtype == np.uint8
        self.tick += 1
        self.exact.append(idle)
        return round(float(image.mean()))

    def speak(self, ticks: int, *, late: bool = False, speaker: str = "main") -> list[int]:
        return self.show(ticks, speaker, None if late else FACE)


def idle(ticks: Iterable[int]) -> list[int]:
    return [20 + 4 * AVATAR.index(tick) for tick in ticks]


def test_an_idle_avatar_shows_the_frame_of_the_tick() -> None:
    stage = Stage()
    assert stage.show(120) == idle(range(120))
    assert set(stage.exact) == {AVATAR}


def test_a_face_is_shown_in_its_tick_and_at_once() -> None:
    stage = Stage()
    stage.show(3)
    assert stage.speak(4) == [250] * 4
    assert stage.exact[3:] == [None] * 4


def test_a_late_face_holds_the_picture_but_not_for_ever() -> None:
    stage = Stage()
    stage.show(3)
    stage.speak(2)
    assert stage.speak(HOLD_TICKS, late=True) == [250] * HOLD_TICKS
    start = stage.tick
    assert stage.speak(5, late=True) == idle(range(start, start + 5))
    assert stage.speak(1) == [250]
    assert stage.speak(HOLD_TICKS, late=True) == [250] * HOLD_TICKS  # a face has come: patience is new


def test_late_from_the_start_is_idle_and_no_old_face() -> None:
    stage = Stage()
    stage.speak(2)
    stage.show(10)
    assert stage.speak(1, late=True) == idle([12])


def test_a_mouth_that_stops_closes_over_three_ticks() -> None:
    stage = Stage(still(50))
    stage.speak(2)
    levels = stage.show(CLOSE_TICKS + 2)
    assert levels == [200, 150, 100, 50, 50]
    assert [bool(avatar) for avatar in stage.exact[2:]] == [False] * CLOSE_TICKS + [True] * 2


def test_a_clip_fades_in_runs_to_and_fro_and_fades_out() -> None:
    stage = Stage(still(200), {2: clip(10, 20, 30)})
    stage.show(2)
    stage.portrait.set_state(2, reinit=True)
    fading = stage.show(FADE_TICKS)
    assert all(0 < before - after < 60 for before, after in zip([200, *fading], fading, strict=False))
    assert stage.show(7) == [10, 10, 20, 30, 30, 20, 10]
    stage.portrait.set_state(0, reinit=True)
    fading = stage.show(FADE_TICKS + 1)
    assert fading == sorted(fading) and fading[-1] == 200


def test_speech_pauses_a_clip_which_then_goes_on() -> None:
    stage = Stage(still(0), {2: clip(*range(0, 250, 2))})
    stage.portrait.set_state(2, reinit=True)
    before = stage.show(20)[-1]
    assert stage.speak(25)[FADE_TICKS:] == [250] * (25 - FADE_TICKS)
    after = stage.show(FADE_TICKS + 10)
    assert after[-1] == before + 2 * (FADE_TICKS + 10)


def test_a_clip_starts_anew_or_where_it_was_left() -> None:
    stage = Stage(still(0), {2: clip(*range(0, 250, 2))})
    stage.portrait.set_state(2, reinit=True)
    assert stage.show(20)[-1] == 38
    stage.portrait.set_state(0, reinit=True)
    stage.show(20)
    stage.portrait.set_state(2, reinit=False)
    assert stage.show(20)[-1] == 78
    stage.portrait.set_state(2, reinit=True)
    assert stage.show(20)[-1] == 38


def test_a_clips_sound_goes_with_its_pictures_and_its_end_is_state_1() -> None:
    pcm = tone(0.1)  # 2.5 ticks
    stage = Stage(still(0), {2: clip(10, pcm=pcm)})
    assert stage.portrait.clip_sound() is SILENT_TICK
    stage.portrait.set_state(2, reinit=True)
    sounds = []
    for _ in range(3):
        sounds.append(stage.portrait.clip_sound())
        stage.show(1)
    assert (np.concatenate(sounds)[: len(pcm)] == to_int16(pcm)).all()
    assert {len(sound) for sound in sounds} == {TICK_SAMPLES} and not sounds[-1][TICK_SAMPLES // 2 :].any()
    assert stage.portrait.clip_sound() is SILENT_TICK
    assert stage.portrait.audiotype == 1
    stage.portrait.set_state(2, reinit=False)
    assert stage.portrait.clip_sound() is SILENT_TICK and stage.portrait.audiotype == 1


@pytest.mark.parametrize(("clips", "states"), [({}, [0, 1]), ({5: clip(1), 2: clip(1)}, [0, 1, 2, 5])])
def test_the_states_are_live_silent_and_the_clips(clips: dict[int, Clip], states: list[int]) -> None:
    assert Portrait({"main": AVATAR}, clips).states == states


def test_a_state_without_pictures_is_the_idle_avatar() -> None:
    stage = Stage()
    stage.portrait.set_state(1, reinit=True)
    assert stage.show(5) == idle(range(5)) and set(stage.exact) == {AVATAR}


def test_another_avatar_fades_in_with_its_speech_and_stays() -> None:
    other = still(120)
    stage = Stage(still(0), other=other)
    stage.show(1)
    levels = stage.show(FADE_TICKS + 3, "other", grey(120))
    assert levels == [20, 40, 60, 80, 100, 120, 120, 120]
    assert stage.show(CLOSE_TICKS + 1) == [120] * 4 and stage.exact[-1] is other
    assert stage.speak(FADE_TICKS + 1)[-1] == 250
    stage.show(CLOSE_TICKS + 1)
    assert stage.exact[-1] is stage.portrait.avatars["main"]


def test_pictures_of_another_size_are_fitted() -> None:
    stage = Stage(still(10), {2: clip(90, size=(30, 200))}, wide=still(120, (300, 50)))
    assert stage.show(FADE_TICKS + 2, "wide", grey(120, (300, 50)))[-1] == 120
    assert stage.show(CLOSE_TICKS + 1)[-1] == 120
    stage.portrait.set_state(2, reinit=True)
    assert stage.show(FADE_TICKS + 2)[-1] == 90


def test_what_was_shown_is_never_written_to() -> None:
    stage = Stage(still(50), {2: clip(10)})
    shown = []
    for tick in range(30):
        if tick == 15:
            stage.portrait.set_state(2, reinit=True)
        image, _ = stage.portrait.picture(tick, "main" if 5 <= tick < 10 else None, FACE if 5 <= tick < 9 else None)
        shown.append((image, image.copy()))
    assert all((image == copy).all() for image, copy in shown)
