"""Loudness changes without a click."""

import numpy as np

from core.fader import Fader

TONE = np.full(640, 8000, np.int16)


def test_a_tick_passes_untouched() -> None:
    assert Fader().apply(TONE) is TONE


def test_it_is_as_loud_as_wished_after_20_ms_and_never_jumps() -> None:
    fader = Fader()
    ticks = [fader.apply(TONE)]
    for target in (0.25, 0.25, 0.0, 0.0, 1.0, 1.0):
        fader.target = target
        ticks.append(fader.apply(TONE))
        assert abs(int(ticks[-1][-1]) - 8000 * target) <= 1
    assert np.abs(np.diff(np.concatenate(ticks).astype(int))).max() <= 8000 / 320 + 1


def test_it_is_silent_only_when_the_fall_has_been_heard() -> None:
    fader = Fader()
    fader.target = 0
    assert not fader.silent
    assert fader.apply(TONE).any()
    assert fader.silent and not fader.apply(TONE).any()
    fader.reset()
    assert not fader.silent and fader.apply(TONE) is TONE
