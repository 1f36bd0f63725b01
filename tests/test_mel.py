"""Streaming mel against the whole spectrum, worked out here from its definition."""

import numpy as np
import pytest

from core.media import TICK_SAMPLES, Features, Pcm
from nets.mel import MelFeatures

TICKS = 40


def speechlike(samples: int, seed: int = 0) -> Pcm:
    """A voice that glides and pauses, over a little noise."""
    t = np.arange(samples) / 16_000
    voice = sum(np.sin(2 * np.pi * k * (110 * t + 40 * t**2)) / k for k in range(1, 20))
    noise = np.random.default_rng(seed).normal(0, 0.002, samples)
    return (0.2 * voice * (np.sin(9 * t) > -0.3) + noise).astype(np.float32)


def slaney_hz(mel: float) -> float:
    return 200 / 3 * mel if mel < 15 else 1000.0 * np.exp(np.log(6.4) / 27 * (mel - 15))


def filters() -> np.ndarray:
    """One triangle after the other, (80, 401); the band limits are 55 and 7600 Hz in Slaney's mels."""
    top = 15 + np.log(7.6) * 27 / np.log(6.4)
    edges = [slaney_hz(mel) for mel in np.linspace(55 * 3 / 200, top, 82)]
    bins = [20.0 * k for k in range(401)]
    rows = []
    for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
        rows.append(np.interp(bins, [low, centre, high], [0, 2 / (high - low), 0]))
    return np.array(rows)


def whole_mel(pcm: Pcm) -> np.ndarray:
    """(80, 1 + n // 200): pre-emphasis of the whole, then one direct Fourier sum per column."""
    signal = pcm.astype(np.float64)
    signal[1:] -= 0.97 * pcm[:-1].astype(np.float64)
    padded = np.pad(signal, 400)
    n = np.arange(800)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(401), n) / 800) * (0.5 - 0.5 * np.cos(2 * np.pi * n / 800))
    amplitudes = [np.abs(waves @ padded[at : at + 800]) for at in range(0, len(pcm) + 1, 200)]
    level_db = 20 * np.log10(np.maximum(1e-5, filters() @ np.array(amplitudes).T)) - 20
    return np.asarray(np.clip(8 * (level_db + 100) / 100 - 4, -4, 4))


def whole_windows(pcm: Pcm, ticks: int, past: int = 0) -> np.ndarray:
    mel = np.pad(whole_mel(np.pad(pcm, (0, 16_000))), ((0, 0), (past, 0)), constant_values=-4)
    return np.stack([mel[:, int(80 * i / 25) : int(80 * i / 25) + 16] for i in range(ticks)])


def stream(features: Features, pcm: Pcm, piece_samples: int) -> np.ndarray:
    windows = [w for at in range(0, len(pcm), piece_samples) for w in features.push(pcm[at : at + piece_samples])]
    return np.stack(windows + features.finish())


@pytest.mark.parametrize("piece_samples", [7, 320, 333, 4099, 10**6])
def test_streamed_windows_are_those_of_the_whole_spectrum(piece_samples: int) -> None:
    pcm = speechlike(TICKS * TICK_SAMPLES)
    windows = stream(MelFeatures(), pcm, piece_samples)
    assert windows.dtype == np.float32
    assert windows.shape == (TICKS, 80, 16)
    np.testing.assert_allclose(windows, whole_windows(pcm, TICKS), atol=1e-4)


@pytest.mark.parametrize("samples", [1, 320, 640, 641, 3399, 3400, 3401, 12_345])
def test_an_utterance_gives_one_window_a_tick(samples: int) -> None:
    pcm = speechlike(samples)
    windows = stream(MelFeatures(), pcm, 320)
    assert len(windows) == -(-samples // TICK_SAMPLES)
    np.testing.assert_allclose(windows, whole_windows(pcm, len(windows)), atol=1e-4)


@pytest.mark.parametrize("past", [1, 6, 16])
@pytest.mark.parametrize("piece_samples", [7, 641, 10**6])
def test_windows_that_begin_in_the_past_are_those_of_the_whole_spectrum(past: int, piece_samples: int) -> None:
    pcm = speechlike(12 * TICK_SAMPLES + 100)
    windows = stream(MelFeatures(past), pcm, piece_samples)
    assert windows.dtype == np.float32
    np.testing.assert_allclose(windows, whole_windows(pcm, 13, past), atol=1e-4)


@pytest.mark.parametrize("past", [6, 14, 16])
@pytest.mark.parametrize("samples", [1, 639, 640, 641, 2199, 2200, 12_345])
def test_an_utterance_gives_one_window_a_tick_whatever_is_seen_of_the_past(past: int, samples: int) -> None:
    features, pcm = MelFeatures(past), speechlike(samples)
    for _ in range(2):
        assert len(stream(features, pcm, 320)) == -(-samples // TICK_SAMPLES)
    assert features.finish() == []


@pytest.mark.parametrize("past", [0, 6, 16])
def test_a_window_is_complete_212_ms_after_its_tick_began_and_each_column_of_the_past_saves_12(past: int) -> None:
    features, came = MelFeatures(past), []
    for heard in range(40, 9 * TICK_SAMPLES + 1, 40):
        came += [heard] * len(features.push(speechlike(40)))
    waits = np.array(came) - TICK_SAMPLES * np.arange(len(came))
    promise = (212.5 - 12.5 * past) * 16
    assert waits.max() == promise
    assert waits.min() >= max(1, promise - 200)


def test_a_window_comes_as_soon_as_its_last_column_is_heard() -> None:
    features = MelFeatures()
    assert features.push(speechlike(3399)) == []
    assert len(features.push(speechlike(1))) == 1


def test_a_window_is_not_changed_by_what_follows() -> None:
    features = MelFeatures()
    (window,) = features.push(speechlike(3400))
    before = window.copy()
    features.push(speechlike(6400, seed=1))
    np.testing.assert_array_equal(window, before)


def test_after_finish_the_next_utterance_starts_afresh() -> None:
    features, pcm = MelFeatures(), speechlike(5000)
    np.testing.assert_array_equal(stream(features, pcm, 320), stream(features, pcm, 320))


def test_reset_forgets_what_was_heard() -> None:
    features, pcm = MelFeatures(), speechlike(5000)
    features.push(speechlike(9999, seed=2))
    features.reset()
    np.testing.assert_array_equal(stream(features, pcm, 320), stream(MelFeatures(), pcm, 320))


def test_nothing_heard_gives_nothing() -> None:
    assert MelFeatures().finish() == []


def test_silence_is_the_lowest_level() -> None:
    assert (stream(MelFeatures(), np.zeros(6400, np.float32), 320) == -4).all()


def test_sound_of_two_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="1-D"):
        MelFeatures().push(np.zeros((2, 320), np.float32))
