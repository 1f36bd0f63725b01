"""Silero, for real: what it takes for speech, and that its streams do not mix."""

from __future__ import annotations

from importlib.machinery import ModuleSpec

import numpy as np
import pytest

from asr import vad
from asr.vad import FRAME_MS, FRAME_SAMPLES, SileroVAD
from core.errors import EngineFailed
from core.media import SAMPLE_RATE, Pcm
from tests.conftest import SHARED


def spoken() -> Pcm:
    if not (SHARED / "data" / "speech").is_dir():
        pytest.skip("../shared/data/speech is not there")
    from scripts.bench_ears import speech

    return speech("test", 4)[: 4 * SAMPLE_RATE]


def test_speech_is_heard_within_three_frames() -> None:
    silence = np.zeros(SAMPLE_RATE, np.float32)
    heard = SileroVAD().push(np.concatenate([silence, spoken()]))
    first = next(i for i, probability in enumerate(heard) if probability > 0.5)
    assert 0 <= first * FRAME_MS - 1000 < 250
    assert np.mean(np.array(heard[first:]) > 0.5) > 0.6


def test_noise_clicks_and_tones_are_not_speech() -> None:
    random = np.random.default_rng(0)
    noise = 0.05 * random.standard_normal(3 * SAMPLE_RATE)
    clicks = np.zeros(3 * SAMPLE_RATE)
    clicks[::4000] = 0.5
    tone = 0.2 * np.sin(2 * np.pi * 440 * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE)
    for sound in (noise, clicks, tone):
        assert max(SileroVAD().push(sound.astype(np.float32))) < 0.5


def test_how_the_sound_is_cut_does_not_matter() -> None:
    pcm = spoken()
    ears = SileroVAD()
    heard = [probability for piece in np.array_split(pcm, 137) for probability in ears.push(piece)]
    assert np.allclose(heard, SileroVAD().push(pcm), atol=1e-5)
    assert len(heard) == len(pcm) // FRAME_SAMPLES


def test_two_streams_do_not_mix() -> None:
    pcm = spoken()
    alone = SileroVAD().push(pcm)
    one, other = SileroVAD(), SileroVAD()
    together = []
    for piece in np.split(pcm, 125):
        together += one.push(piece)
        other.push(np.zeros_like(piece))
    assert np.allclose(together, alone, atol=1e-5)


def test_a_reset_forgets_everything() -> None:
    pcm = spoken()
    ears = SileroVAD()
    first = ears.push(pcm[:20_001])
    ears.reset()
    assert np.allclose(ears.push(pcm[:20_001]), first, atol=1e-5)


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(vad, "find_spec", nowhere)
    vad._load.cache_clear()
    with pytest.raises(EngineFailed, match="faster-whisper"):
        SileroVAD()
