"""The sound of a recording on its own clock, and what of it can be seen on lips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from core.errors import BadMedia
from core.media import SAMPLE_RATE, Pcm

STEP_S = 0.01  # of all signals that are compared
STEP_SAMPLES = SAMPLE_RATE // 100  # 160
FFT_SAMPLES = SAMPLE_RATE * 25 // 1000  # 400
BLOCK_STEPS = 3000
MAX_JITTER_S = 0.02  # containers round times; what is further off is a gap
MAX_SECONDS = 30 * 60
NOTHING_DB = -100.0

VOICE_HZ = (500, 1500)  # open vowels are loud here; closed ones, hisses and the hum behind closed lips are not
SPEECH_HZ = (100, 7000)
VOICE_RANGE_DB = 30  # below the usual level: what is softer opens no mouth
SILENCE_RANGE_DB = 35
SILENCE_DB = -60.0  # of full scale: below it nothing is heard, however loud the rest
SPEECH_DB = -55.0  # a usual level below it is no speech

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sound:
    """`pcm` float32 (n,) 16 kHz mono; its first sample is heard at `start_s` on the clock of the pictures."""

    start_s: float
    pcm: Pcm = field(repr=False)

    def later(self, seconds: float) -> Sound:
        return replace(self, start_s=self.start_s + seconds)

    def voice(self) -> Levels:
        """The level where open vowels are loud."""
        return Levels(self.start_s, _band_db(self.pcm, *VOICE_HZ))

    def speech(self) -> Levels:
        """The level of everything that is said, hisses included."""
        return Levels(self.start_s, _band_db(self.pcm, *SPEECH_HZ))


@dataclass(frozen=True, eq=False)
class Levels:
    """Level `db` (n,) of a band in dB of full scale, one a 10 ms, the first at `start_s`."""

    start_s: float
    db: Floats = field(repr=False)

    @property
    def usual_db(self) -> float:
        """The level that most of the energy has, so neither pauses nor a click move it far."""
        energy = 10 ** (self.db / 10)
        return float(10 * np.log10((energy**2).sum() / energy.sum()))

    def at(self, times: Floats) -> Floats:
        """The levels at `times` (m,), NaN where there is no sound to speak of before or after."""
        known = self.start_s + STEP_S * np.arange(len(self.db))
        return np.interp(times, known, self.db, left=np.nan, right=np.nan)


def expected_opening(voice: Levels, times: Floats) -> Floats:
    """How far a mouth opens for `voice` at `times` (m,): dB above what opens none, at least 0; NaN where unknown.

    The level of 500 to 1500 Hz: an open jaw raises the first formant into it and makes it loud; a closed one, a hiss
    and a nasal do not.
    """
    return np.asarray(np.maximum(voice.at(times) - voice.usual_db + VOICE_RANGE_DB, 0))


def silent(speech: Levels, times: Floats, around_s: float = 0.06) -> NDArray[np.bool_]:
    """Whether nothing is heard from `around_s` before until as long after each of `times` (m,)."""
    threshold_db = max(speech.usual_db - SILENCE_RANGE_DB, SILENCE_DB)
    shifts = np.arange(-around_s, around_s + STEP_S / 2, STEP_S)
    return np.asarray(np.all([speech.at(times + shift) < threshold_db for shift in shifts], axis=0))


def read_sound(path: Path) -> Sound:
    """The first audio stream of `path`, channels averaged, each piece where its time says. Blocking.

    Gaps are silence. BadMedia if there is no sound that decodes, or more than 30 minutes of it.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise BadMedia(f"'{path.name}' holds no sound")
            rate = container.streams.audio[0].codec_context.sample_rate
            start_s, samples = _placed(_decoded(container, rate), rate)
    except (av.FFmpegError, ValueError) as error:
        raise BadMedia(f"'{path.name}' holds no sound that can be decoded") from error
    if not samples.size:
        raise BadMedia(f"'{path.name}' holds no sound")
    return Sound(start_s, np.asarray(soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ"), np.float32))


def _decoded(container: av.container.InputContainer, rate: int) -> Iterator[tuple[float | None, Pcm]]:
    as_float = av.AudioResampler(format="fltp", rate=rate)
    for packet in container.demux(container.streams.audio[0]):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            continue
        for frame in frames:
            for planes in as_float.resample(frame):
                yield planes.time, planes.to_ndarray().mean(axis=0)


def _placed(pieces: Iterator[tuple[float | None, Pcm]], rate: int) -> tuple[float, Pcm]:
    """The time of the first piece, and all of them on one line, silence where there is none."""
    start_s: float | None = None
    end, line = 0, [np.zeros(0, np.float32)]
    for time_s, samples in pieces:
        if start_s is None:
            start_s = time_s or 0.0
        gap = round((time_s - start_s) * rate) - end if time_s is not None else 0
        if gap > MAX_JITTER_S * rate:
            _keep_short(end + gap, rate)
            line.append(np.zeros(gap, np.float32))
            end += gap
        elif gap < -MAX_JITTER_S * rate:
            continue
        line.append(samples)
        end += len(samples)
        _keep_short(end, rate)
    return start_s or 0.0, np.concatenate(line)


def _keep_short(samples: int, rate: int) -> None:
    if samples > MAX_SECONDS * rate:
        raise BadMedia(f"the sound is longer than {MAX_SECONDS // 60} minutes")


def _band_db(pcm: Pcm, low_hz: float, high_hz: float) -> Floats:
    """The level between `low_hz` and `high_hz`, one a 10 ms, each of 25 ms around it; 0 dB is a full-scale square."""
    hz = np.fft.rfftfreq(FFT_SAMPLES, 1 / SAMPLE_RATE)
    inside = (hz >= low_hz) & (hz < high_hz)
    hann = np.hanning(FFT_SAMPLES)
    pieces = np.lib.stride_tricks.sliding_window_view(np.pad(pcm, FFT_SAMPLES // 2), FFT_SAMPLES)[::STEP_SAMPLES]
    power = np.concatenate(
        [
            (np.abs(np.fft.rfft(pieces[at : at + BLOCK_STEPS] * hann)[:, inside]) ** 2).sum(axis=1)
            for at in range(0, len(pieces), BLOCK_STEPS)
        ]
    )
    return np.asarray(10 * np.log10(2 * power / (FFT_SAMPLES * (hann**2).sum()) + 10 ** (NOTHING_DB / 10)))
