"""How late the mouth is against the sound, from how it opens and how a mouth would open for what is heard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scripts.lips.sound import SPEECH_DB, STEP_S, Sound, expected_opening
from scripts.lips.tracks import Track

SEARCH_S = 0.4
FAST_S, SLOW_S = 0.02, 0.15  # syllables lie between: faster is noise, slower is posture and the loudness of a phrase
MAX_GAP_S = 0.13  # between pictures, across which the mouth is still known
AROUND_SPEECH_S = 0.4
LEAST_S = 1.0  # of speech with a face to it
STILL = 0.006  # opening, in distances between the eyes: landmarks jitter less, lips that speak move five times more
STEADY_DB = 1.0  # a sound that varies less is a tone, not speech
LEAST_CONFIDENCE = 2.0
EQUAL = 0.9  # of the highest peak
APART = np.full(round(SEARCH_S / STEP_S), np.nan)  # between recordings in a row

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sync:
    """`offset_ms` is picture - sound: positive, the mouth is late; None where nothing can be told.

    `correlation` is that at the offset, `correlation_as_is` that at 0, both None without speech or a face. `confidence`
    is the peak in standard deviations of what chance gives: 3 is clear, 2 is what the best of all offsets is by chance.
    """

    offset_ms: float | None = None
    correlation: float | None = None
    correlation_as_is: float | None = None
    confidence: float | None = None


def sync(track: Track, sound: Sound) -> Sync:
    """How late the mouth of `track` is against `sound`."""
    times = np.arange(track.times[0] - SEARCH_S, track.times[-1] + SEARCH_S, STEP_S)
    opening, expected = mouth_signal(track, times), speech_signal(sound, times)
    if opening is None or expected is None:
        return Sync()
    return compare(opening, expected)


def alike(*pairs: tuple[Track, Track]) -> Sync:
    """How much later the first mouth of each pair opens than the second, both counted from their first picture."""
    late, early = [], []
    for pair in pairs:
        times = np.arange(0, max(np.ptp(track.times) for track in pair), STEP_S)
        one, other = (mouth_signal(track, track.times[0] + times) for track in pair)
        if one is not None and other is not None:
            late += [one, APART]
            early += [other, APART]
    return compare(np.concatenate(late), np.concatenate(early)) if late else Sync()


def compare(late: Floats, early: Floats) -> Sync:
    """How much later than `early` (n,) `late` (n,) is, 10 ms a step, NaN where unknown; to a fraction of a step."""
    reach = round(SEARCH_S / STEP_S)
    both = int((~np.isnan(late) & ~np.isnan(early)).sum())
    if both * STEP_S < LEAST_S:
        return Sync()
    if np.nanstd(late) == 0 or np.nanstd(early) == 0:
        return Sync(None, 0.0, 0.0, 0.0)
    curve = np.array([_correlation(late, early, lag) for lag in range(-reach, reach + 1)])
    peak = _peak(curve)
    confidence = _confidence(curve[peak], late, early, both)
    if confidence < LEAST_CONFIDENCE or peak in (0, 2 * reach):
        return Sync(None, float(curve[peak]), float(curve[reach]), confidence)
    steps = peak - reach + _between(*curve[peak - 1 : peak + 2].tolist())
    return Sync(1000 * STEP_S * steps, float(curve[peak]), float(curve[reach]), confidence)


def mouth_signal(track: Track, times: Floats) -> Floats | None:
    """How the mouth opens at `times` (n,), syllables only; NaN far from any picture with the face, 0 if it is still.

    None if there is no such picture.
    """
    seen = track.times[track.seen]
    if not seen.size:
        return None
    signal = _syllables(np.interp(times, seen, track.opening[track.seen]))
    after = np.searchsorted(seen, times)
    gap = np.diff(seen, prepend=-np.inf, append=np.inf)[after]
    signal[gap > MAX_GAP_S] = np.nan
    return np.zeros_like(times) if np.nanstd(signal) < STILL else signal


def speech_signal(sound: Sound, times: Floats) -> Floats | None:
    """How a mouth would open for `sound` at `times` (n,), syllables only; NaN far from speech. None without speech."""
    voice = sound.voice()
    expected = expected_opening(voice, times)
    known = ~np.isnan(expected)
    if voice.usual_db < SPEECH_DB or not known.any():
        return None
    reach = round(AROUND_SPEECH_S / STEP_S)
    near = np.convolve(expected > 0, np.ones(2 * reach + 1))[reach:-reach] > 0
    signal = _syllables(np.interp(times, times[known], expected[known]))
    signal[~(near & known)] = np.nan
    return None if np.nanstd(signal) < STEADY_DB else signal


def _syllables(signal: Floats) -> Floats:
    return _smooth(signal, FAST_S) - _smooth(signal, SLOW_S)


def _smooth(signal: Floats, sigma_s: float) -> Floats:
    reach = round(4 * sigma_s / STEP_S)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) * STEP_S / sigma_s) ** 2)
    return np.asarray(np.convolve(np.pad(signal, reach, mode="edge"), weights / weights.sum(), "valid"))


def _correlation(late: Floats, early: Floats, lag: int) -> float:
    n = len(late)
    x, y = late[max(0, lag) : n + min(0, lag)], early[max(0, -lag) : n - max(0, lag)]
    known = ~np.isnan(x) & ~np.isnan(y)
    x, y = x[known] - x[known].mean(), y[known] - y[known].mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else 0.0


def _peak(curve: Floats) -> int:
    """The index of the highest peak; of peaks as good as equal, that nearest to the middle: small offsets are likelier.

    That of the highest value if it stands at an end.
    """
    highest = int(np.argmax(curve))
    peaks = 1 + np.flatnonzero((curve[1:-1] >= curve[:-2]) & (curve[1:-1] >= curve[2:]))
    equals = peaks[curve[peaks] >= EQUAL * curve[highest]]
    return int(equals[np.argmin(np.abs(equals - len(curve) // 2))]) if equals.size else highest


def _confidence(correlation: float, late: Floats, early: Floats, points: int) -> float:
    """`correlation` in standard deviations of chance: Fisher's z, with as many points as are independent (Bartlett)."""
    shared = 2 * float((_autocorrelation(late) * _autocorrelation(early)).sum())
    independent = points / max(1.0, 1 + shared)
    return float(np.arctanh(np.clip(correlation, 0, 0.999)) * np.sqrt(max(1.0, independent - 3)))


def _autocorrelation(signal: Floats, reach_s: float = 0.5) -> Floats:
    """At 10 ms, 20 ms, ... up to `reach_s`."""
    x = np.nan_to_num(signal - np.nanmean(signal))
    return np.array([x[lag:] @ x[:-lag] / (x @ x) for lag in range(1, round(reach_s / STEP_S))])


def _between(before: float, peak: float, after: float) -> float:
    """Where between -0.5 and 0.5 the top of the parabola through three points lies."""
    bend = before - 2 * peak + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
