"""Mel spectra as Wav2Lip hears them, streamed: 80 bands, 80 columns a second, 16 columns a window.

Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation In The Wild" (2020).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.media import SAMPLE_RATE, TICK_SAMPLES, Pcm, Window

BANDS = 80
LOWEST_HZ, HIGHEST_HZ = 55, 7600
FFT_SAMPLES = 800
HOP_SAMPLES = 200
WINDOW_COLUMNS = 16  # 200 ms
WINDOW_SAMPLES = (WINDOW_COLUMNS - 1) * HOP_SAMPLES + FFT_SAMPLES // 2  # 3400, from the first column's centre on
PRE_EMPHASIS = 0.97
FLOOR = 1e-5  # amplitude, -100 dB
REFERENCE_DB, RANGE_DB, LIMIT = 20, 100, 4

_HANN = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_SAMPLES) / FFT_SAMPLES)


class MelFeatures:
    """`core.media.Features` of Wav2Lip: float32 (80, 16) in [-4, 4], 200 ms that begin `past_columns` before the tick.

    Window i is columns 16 * i // 5 - past_columns and on of the mel spectrum of the whole utterance; column j is
    centred on sample 200 * j, and silent before the first. The last reaches 12.5 ms further: as published, with no
    past, a window is complete 212.5 ms after its tick began, at the latest; each column of the past saves 12.5 ms. At
    most 16, so that no window is complete before its tick begins.
    """

    def __init__(self, past_columns: int = 0) -> None:
        self._past = past_columns
        self.reset()

    def reset(self) -> None:
        """Forget everything heard so far."""
        self._heard_samples = 0
        self._next_window = 0
        self._last_sample = 0.0
        self._signal = np.zeros(FFT_SAMPLES // 2)
        self._columns = np.full((BANDS, self._past), -LIMIT, np.float32)
        self._first_column = -self._past

    def push(self, pcm: Pcm) -> list[Window]:
        """The windows completed by `pcm` ((n,) float32, 16 kHz), in order. About 0.1 ms a tick, any thread.

        ValueError if `pcm` is not 1-D.
        """
        if pcm.ndim != 1:
            raise ValueError("pcm must be 1-D")
        self._heard_samples += len(pcm)
        self._hear(pcm)
        return self._take()

    def finish(self) -> list[Window]:
        """The windows still held back, the utterance being followed by silence; the next `push` begins another one.

        All in all an utterance gives one window per 640 samples, begun ones included.
        """
        ticks = -(-self._heard_samples // TICK_SAMPLES)
        missing_samples = max(0, self._end_sample(ticks - 1) - self._heard_samples)
        windows = self.push(np.zeros(missing_samples, np.float32)) if ticks else []
        self.reset()
        return windows

    def _hear(self, pcm: Pcm) -> None:
        sound = np.concatenate(([self._last_sample], pcm))  # float64
        self._last_sample = sound[-1]
        self._signal = np.concatenate((self._signal, sound[1:] - PRE_EMPHASIS * sound[:-1]))
        columns = mel_columns(self._signal)
        self._columns = np.concatenate((self._columns, columns), axis=1)
        self._signal = self._signal[columns.shape[1] * HOP_SAMPLES :]

    def _take(self) -> list[Window]:
        windows: list[Window] = []
        while self._end_sample(self._next_window) <= self._heard_samples:
            start = self._start_column(self._next_window) - self._first_column
            windows.append(self._columns[:, start : start + WINDOW_COLUMNS].copy())
            self._next_window += 1
        done = self._start_column(self._next_window) - self._first_column
        self._columns = self._columns[:, done:]
        self._first_column += done
        return windows

    def _start_column(self, window: int) -> int:
        return window * TICK_SAMPLES // HOP_SAMPLES - self._past

    def _end_sample(self, window: int) -> int:
        return self._start_column(window) * HOP_SAMPLES + WINDOW_SAMPLES


def mel_columns(signal: NDArray[np.float64]) -> NDArray[np.float32]:
    """Mel columns of a pre-emphasised signal (n,), one per 200 samples of every 800 inside it: (80, k) in [-4, 4]."""
    if len(signal) < FFT_SAMPLES:
        return np.empty((BANDS, 0), np.float32)
    pieces = np.lib.stride_tricks.sliding_window_view(signal, FFT_SAMPLES)[::HOP_SAMPLES]  # (k, 800)
    spectrum = np.abs(np.fft.rfft(pieces * _HANN))  # (k, 401)
    level_db = 20 * np.log10(np.maximum(FLOOR, _FILTERS @ spectrum.T)) - REFERENCE_DB  # (80, k)
    scaled = 2 * LIMIT * (level_db + RANGE_DB) / RANGE_DB - LIMIT
    return np.clip(scaled, -LIMIT, LIMIT).astype(np.float32)


def _mel_filters() -> NDArray[np.float64]:
    """Triangles of equal area, (80, 401), evenly spaced on Slaney's mel scale (Auditory Toolbox, 1998)."""
    bins_hz = np.linspace(0, SAMPLE_RATE / 2, FFT_SAMPLES // 2 + 1)
    edges_hz = _hz(np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), BANDS + 2))
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)
    triangles: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    return triangles


# Linear below 1000 Hz, 3 mel per 200 Hz; logarithmic above, 27 mel per factor of 6.4.
def _mel(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * float(np.log(hz / 1000) / np.log(6.4))


def _hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


_FILTERS = _mel_filters()
