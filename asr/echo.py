"""The presenter's own voice, taken out of what the microphone hears.

WebRTC's canceller (AEC3) needs what is played, always and in time. Its own search for the delay covers half a second,
so the way from here to the loudspeaker and back through the microphone is measured, and what is beyond its reach is
taken off the reference. Near and far move in blocks of 10 ms, one of each, silence included.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.media import SAMPLE_RATE, Pcm

BLOCK_SAMPLES = SAMPLE_RATE // 100  # 160
Kind = Literal["none", "cancelled in browser", "cancelled here", "not cancelled"]

RING_SAMPLES = 4 * SAMPLE_RATE
QUIET_POWER = 1e-6  # -60 dBFS: what is played below it is silence
LOUD_POWER = 10**-3.8  # -38 dBFS: enough to measure the path by
SOUNDING_S = 0.6  # a room rings on after the loudspeaker
DOUBT_S = 3.0  # the canceller needs it to learn a path that has moved

PATH_SAMPLES = SAMPLE_RATE // 2  # of the microphone, in one measurement
REACH_SAMPLES = 3 * SAMPLE_RATE // 2  # the longest path looked for
AHEAD_SAMPLES = SAMPLE_RATE // 10  # an echo seems to come before its cause where clocks have drifted apart
SAME_SAMPLES = SAMPLE_RATE * 12 // 1000
MOVED_SAMPLES = SAMPLE_RATE * 30 // 1000
REAL_PEAK = 9.0  # of the correlation over its rms; unrelated speech stays below 7.7
NEAREST, USUAL, FARTHEST = (SAMPLE_RATE * ms // 1000 for ms in (50, 150, 400))  # lag left to the canceller

SPAN_SAMPLES = SAMPLE_RATE * 2 // 5  # 0.4 s: who explains the microphone's power
_N_FFT, _HOP = 512, 128
_BAND = slice(7, 122)  # 200 to 3800 Hz


@dataclass(frozen=True, slots=True)
class EchoReport:
    """What becomes of the echo. `path_ms` is None where none was found; `level_db` is the echo against what is played.

    `erle_db` is by how much less there is after the canceller while the avatar speaks, the person's voice included.
    """

    kind: Kind
    path_ms: int | None
    level_db: float
    erle_db: float


class EchoCanceller:
    """The microphone of one session without the avatar. Event loop or one thread; 0.7 % of a core.

    `played` takes everything that leaves, in order; `push` the microphone. Both are 16 kHz, and go on at the same pace.
    """

    def __init__(self) -> None:
        self._aec = _make_aec()
        self._far = _Ring(RING_SAMPLES)
        self._near = _Ring(PATH_SAMPLES)
        self._last_sound = -RING_SAMPLES  # of the far side, in its samples
        self.restart()

    @property
    def cancels(self) -> bool:
        """Whether there is a canceller: without one `push` gives back what it gets."""
        return self._aec is not None

    def restart(self) -> None:
        """Another line: nothing is known of its path, and the next `push` is of now."""
        if self._aec is not None:
            self._aec.reset()
        self._anchor: int | None = None  # place in the far ring of the near side's sample 0
        self._shift = 0
        self._near_sound = -RING_SAMPLES
        self._path: int | None = None
        self._lags: deque[int | None] = deque(maxlen=3)
        self._next_measure = 0
        self._moved_at = -RING_SAMPLES
        self._levels: deque[float] = deque(maxlen=15)
        self._over: deque[bool] = deque(maxlen=5)
        self._power_in = self._power_out = 0.0

    def played(self, samples: NDArray[np.int16]) -> None:
        """Take what is sent now, int16 (n,), after every gain; silence too."""
        pcm = samples.astype(np.float32) / np.float32(32768)
        self._far.push(pcm)
        if _power(pcm) > QUIET_POWER:
            self._last_sound = self._far.total

    def push(self, block: Pcm) -> Pcm:
        """10 ms of the microphone, float32 (160,), without what of it the avatar said."""
        start = self._near.total
        self._near.push(block)
        far = self._far.read(self._far_start(start), BLOCK_SAMPLES)
        if _power(far) > QUIET_POWER:
            self._near_sound = self._near.total
        out = block if self._aec is None else np.asarray(self._aec.process(block, far), np.float32)
        self._weigh(block, out, far)
        if start % (SAMPLE_RATE // 10) == 0:
            self._judge()
        if start >= self._next_measure and self._is_loud():
            self._next_measure = start + SAMPLE_RATE
            self._measure()
        return out

    @property
    def sounding(self) -> bool:
        """Whether the avatar's voice may be in the microphone: it sounds, or did less than 0.6 s ago."""
        tail = SOUNDING_S * SAMPLE_RATE
        return self._far.total - self._last_sound < tail or self._near.total - self._near_sound < tail

    def played_within(self, seconds: float) -> bool:
        """Whether anything but silence was played in the last `seconds`."""
        return self._far.total - self._last_sound < seconds * SAMPLE_RATE

    @property
    def path_s(self) -> float:
        """Seconds from sending a sound to its echo's arrival, 0 where none was found."""
        return (self._path or 0) / SAMPLE_RATE

    @property
    def doubtful(self) -> bool:
        """Whether the path has just moved, so that echo may pass for some seconds."""
        return self._near.total - self._moved_at < DOUBT_S * SAMPLE_RATE

    def explained(self) -> float:
        """The share, 0 to 1, of the microphone's last 0.4 s that is the avatar's sound, by whatever path. 6 ms."""
        lags = {self._path, self._find()} - {None}
        return max((self._explain(lag)[0] for lag in lags if lag is not None), default=0.0)

    @property
    def absent(self) -> bool:
        """Whether the last measurements agree on no path: a headset, or a browser that cancels all of it.

        Then the microphone is better as it is: the canceller takes a lone voice for an echo after a while.
        """
        return self._path is None and len(self._lags) == self._lags.maxlen

    @property
    def talked_over(self) -> bool:
        """Whether somebody louder than the echo speaks: all there is to go by without a canceller."""
        return sum(self._over) >= 3

    def report(self) -> EchoReport:
        """What is known of the echo by now."""
        level = float(np.median(self._levels)) if self._levels else -99.0
        erle = 10 * np.log10((self._power_in + 1e-12) / (self._power_out + 1e-12))
        path = None if self._path is None else round(self._path * 1000 / SAMPLE_RATE)
        return EchoReport(self._kind(level), path, round(level, 1), round(float(erle), 1))

    def _kind(self, level_db: float) -> Kind:
        if self._path is None:
            return "none"
        if level_db < -40:
            return "cancelled in browser"
        return "cancelled here" if self.cancels else "not cancelled"

    def _far_start(self, near_start: int) -> int:
        """Where the reference of the block at `near_start` begins: never later than what has been played."""
        newest = self._far.total - BLOCK_SAMPLES
        if self._anchor is None or not 0 <= newest - (self._anchor + near_start) < RING_SAMPLES - REACH_SAMPLES:
            self._anchor = newest - near_start
        return min(newest, self._anchor + near_start - self._shift)

    def _weigh(self, block: Pcm, out: Pcm, far: Pcm) -> None:
        if _power(far) > LOUD_POWER:
            self._power_in += 0.01 * (_power(block) - self._power_in)
            self._power_out += 0.01 * (_power(out) - self._power_out)

    def _is_loud(self) -> bool:
        """Whether what is played, and may be in the microphone by now, is loud enough to measure by."""
        end = (self._anchor or 0) + self._near.total
        return _power(self._far.read(end - PATH_SAMPLES - (self._path or USUAL), PATH_SAMPLES)) > LOUD_POWER

    def _find(self) -> int | None:
        """The lag of the microphone's last half second behind what was played, in samples, or None."""
        near_start = self._near.total - PATH_SAMPLES
        start = (self._anchor or 0) + near_start - REACH_SAMPLES
        far = self._far.read(start, PATH_SAMPLES + REACH_SAMPLES + AHEAD_SAMPLES)
        place = _phat_peak(self._near.read(near_start, PATH_SAMPLES), far)
        return None if place is None else REACH_SAMPLES - place

    def _measure(self) -> None:
        """Look for the path; it is believed when two of three measurements agree."""
        lag = self._find()
        self._lags.append(lag)
        if self._lags.count(None) == self._lags.maxlen:
            self._path = None
        if lag is None or sum(other is not None and abs(other - lag) < SAME_SAMPLES for other in self._lags) < 2:
            return
        if self._path is not None and abs(lag - self._path) > MOVED_SAMPLES:
            self._moved_at = self._near.total
            self._levels.clear()
        self._path = lag
        if not NEAREST <= lag - self._shift <= FARTHEST:
            self._shift = min(lag, max(0, lag - USUAL)) // BLOCK_SAMPLES * BLOCK_SAMPLES
        share, _, near, far = *self._explain(lag), *self._powers(lag)
        self._levels.append(10 * np.log10((share * near + 1e-12) / (far + 1e-12)))

    def _judge(self) -> None:
        """One more window for `talked_over`."""
        if self._aec is not None or not self.sounding:
            self._over.clear()
        elif len(self._lags) > 1:
            share, excess_db = self._explain(self._path or 0)
            self._over.append(share < 0.45 and excess_db > 3)

    def _explain(self, lag: int) -> tuple[float, float]:
        """Of the last 0.4 s: the share that the reference explains, and dB above the echo to be expected."""
        near_start = self._near.total - SPAN_SAMPLES
        near = self._near.read(near_start, SPAN_SAMPLES)
        far = self._far.read((self._anchor or 0) + near_start - lag, SPAN_SAMPLES)
        level_db = float(np.median(self._levels)) if self._path is not None and self._levels else -99.0
        expected = _power(far) * 10 ** (level_db / 10) + QUIET_POWER
        return _coherent_share(near, far), float(10 * np.log10(_power(near) / expected + 1e-12))

    def _powers(self, lag: int) -> tuple[float, float]:
        near_start = self._near.total - SPAN_SAMPLES
        far = self._far.read((self._anchor or 0) + near_start - lag, SPAN_SAMPLES)
        return _power(self._near.read(near_start, SPAN_SAMPLES)), _power(far)


class _Ring:
    """The last samples of an endless stream, by their number in it; silence before, after and instead of the lost."""

    def __init__(self, size: int) -> None:
        self._data = np.zeros(size, np.float32)
        self.total = 0

    def push(self, pcm: Pcm) -> None:
        self.total += len(pcm)
        kept = pcm[-len(self._data) :]
        self._data[np.arange(self.total - len(kept), self.total) % len(self._data)] = kept

    def read(self, start: int, length: int) -> Pcm:
        places = np.arange(start, start + length)
        there = (places >= max(0, self.total - len(self._data))) & (places < self.total)
        return np.where(there, self._data[places % len(self._data)], np.float32(0))


def _make_aec() -> Any:
    """WebRTC's canceller, or None where its package is not installed."""
    try:
        from pywebrtc_audio import EchoCanceller as WebRTC
    except ImportError:
        return None
    return WebRTC(sample_rate=SAMPLE_RATE, num_channels=1)


def _power(pcm: Pcm) -> float:
    return float(np.dot(pcm, pcm)) / len(pcm)


def _phat_peak(near: Pcm, far: Pcm) -> int | None:
    """Where in `far` the sound of `near` begins (GCC-PHAT), or None if nothing of it stands out. 5 ms."""
    size = 1 << (len(far) - 1).bit_length()
    spectrum = np.fft.rfft(far, size) * np.conj(np.fft.rfft(near, size))
    correlation = np.fft.irfft(spectrum / (np.abs(spectrum) + 1e-9), size)[: len(far) - len(near) + 1]
    place = int(np.argmax(correlation))
    rms = float(np.sqrt(np.mean(correlation**2)))
    return place if correlation[place] > REAL_PEAK * max(rms, 1e-12) else None


def _coherent_share(near: Pcm, far: Pcm) -> float:
    """The share of `near`'s power, 200 to 3800 Hz, that a linear filter could make of `far`."""
    a, b = _spectra(near), _spectra(far)
    cross = np.abs(np.mean(a * np.conj(b), axis=0)) ** 2
    power_a, power_b = np.mean(np.abs(a) ** 2, axis=0), np.mean(np.abs(b) ** 2, axis=0)
    return float(np.sum(cross / (power_b + 1e-9)) / (np.sum(power_a) + 1e-9))


def _spectra(pcm: Pcm) -> NDArray[np.complex128]:
    frames = np.lib.stride_tricks.sliding_window_view(pcm, _N_FFT)[::_HOP]
    return np.fft.rfft(frames * np.hanning(_N_FFT))[:, _BAND]
