"""What a face does while it speaks: lips that must meet do, whatever is before and after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from core.media import SAMPLE_RATE
from scripts.presenter.speaking import JAW, JAW_OF_ROUND, VISEMES, Weights, every_tick, loudness, pulls, speak
from tests.conftest import SHARED

SPEECH = SHARED / "data/speech"
CLOSED, OPEN = VISEMES.index("PP"), VISEMES.index("aa")


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    if not (SPEECH / "visemes.json").exists():
        pytest.skip("there is no speech set beside this checkout")
    loaded: dict[str, Any] = json.loads((SPEECH / "visemes.json").read_text())
    return loaded


def said(
    table: dict[str, Any], phonemes: Sequence[str], ms: Sequence[float], loud: float = 1.0
) -> tuple[Weights, np.ndarray]:
    """Weights every 5 ms, and the middle of each phoneme in steps of these."""
    times = np.arange(0, sum(ms), 5.0)
    middles = np.round((np.cumsum(ms) - np.array(ms) / 2) / 5).astype(int)
    return speak(phonemes, ms, table, times, np.full(len(times), loud)), middles


@pytest.mark.parametrize("consonant", ["p", "b", "m"])
@pytest.mark.parametrize("vowel", ["a", "ɑ", "o"])
@pytest.mark.parametrize("ms", [30, 50, 90])
def test_lips_meet_fully_however_short_and_however_open_the_vowels_around(
    table: dict[str, Any], consonant: str, vowel: str, ms: float
) -> None:
    weights, middles = said(table, ["<pad>", vowel, consonant, vowel, "<pad>"], [200, 150, ms, 150, 200])
    assert weights[middles[2], CLOSED] >= 0.95
    assert weights[middles[2]].sum() - weights[middles[2], CLOSED] <= 0.05
    assert weights[middles[[1, 3]], CLOSED].max() < 0.1


@pytest.mark.parametrize(("vowel", "viseme"), [("o", "O"), ("u", "U")])
def test_a_round_vowel_rounds_the_lips(table: dict[str, Any], vowel: str, viseme: str) -> None:
    weights, middles = said(table, ["<pad>", "t", vowel, "t", "<pad>"], [200, 60, 120, 60, 200])
    assert weights[middles[2]].argmax() == VISEMES.index(viseme)
    assert weights[middles[2], VISEMES.index(viseme)] > 0.6
    before, _ = said(table, ["<pad>", "t", "a", "t", "<pad>"], [200, 60, 120, 60, 200])
    rounded = [VISEMES.index("O"), VISEMES.index("U")]
    assert weights[middles[1], rounded].sum() > before[middles[1], rounded].sum() + 0.1  # already in the consonant


@pytest.mark.parametrize(("sound", "share"), [("i", 1), ("s", 1), ("t", 1), ("u", JAW_OF_ROUND)])
def test_the_jaw_of_who_speaks_hangs_the_lower_the_louder(table: dict[str, Any], sound: str, share: float) -> None:
    for loud, jaw in zip((0, 1), JAW, strict=True):
        weights, middles = said(table, ["<pad>", sound, "b", sound, "<pad>"], [300, 150, 80, 150, 300], loud)
        assert (weights[middles[[1, 3]], OPEN] > 0.75 * share * jaw).all()
        assert weights[middles[[0, 2, 4]], OPEN].max() < 0.05


def test_an_open_mouth_is_heard_at_once_and_hiss_hum_and_silence_are_none() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tones = {hz: 0.3 * np.sin(2 * np.pi * hz * time) for hz in (150, 800, 5000)}
    pcm = np.concatenate([tones[800], 0.03 * tones[800], tones[150], tones[5000], 0 * time]).astype(np.float32)
    loud = loudness(pcm, np.array([500, 1500, 2500, 3500, 4500, 9999]))
    assert loud[0] == pytest.approx(1, abs=0.02) and loud[1] == pytest.approx(0, abs=0.03)
    assert loud[2:].max() < 0.03
    quiet = loudness(np.asarray(0.1 * pcm), np.array([500, 1500]))
    np.testing.assert_allclose(quiet, loud[:2], atol=0.02)  # as usual for this voice, not in all


def test_lips_all_but_meet_for_w(table: dict[str, Any]) -> None:
    weights, middles = said(table, ["<pad>", "a", "w", "a", "<pad>"], [200, 150, 90, 150, 200])
    assert weights[middles[2], OPEN] < 0.5 < weights[middles[[1, 3]], OPEN].min()


def test_an_open_vowel_opens_and_a_short_one_less(table: dict[str, Any]) -> None:
    long, middles = said(table, ["<pad>", "t", "a", "t", "<pad>"], [200, 60, 200, 60, 200], loud=0)
    short, middle = said(table, ["<pad>", "t", "a", "t", "<pad>"], [200, 60, 30, 60, 200], loud=0)
    assert long[middles[2], OPEN] > 0.75 > short[middle[2], OPEN]


@pytest.mark.parametrize("phonemes", [["<pad>"], ["<pad>", " ", "<pad>"]])
def test_silence_is_a_mouth_at_rest(table: dict[str, Any], phonemes: list[str]) -> None:
    weights, _ = said(table, phonemes, [300] * len(phonemes))
    assert not weights.any()


def test_a_long_silence_between_words_is_at_rest(table: dict[str, Any]) -> None:
    weights, middles = said(table, ["a", " ", "a"], [200, 400, 200])
    assert weights[middles[1]].max() < 0.02


def test_marks_take_no_time(table: dict[str, Any]) -> None:
    plain, _ = said(table, ["<pad>", "b", "a", "<pad>"], [200, 60, 120, 200])
    marked, _ = said(table, ["<pad>", "b", "ˈ", "a", "<pad>"], [200, 60, 0, 120, 200])
    np.testing.assert_array_equal(plain, marked)
    assert len(pulls(["ˈ", "a"], [40, 100], table)) == 1


def test_lips_move_no_faster_than_lips_do(table: dict[str, Any]) -> None:
    weights, _ = said(table, ["<pad>", "m", "a", "m", "a", "<pad>"], [200, 60, 120, 60, 120, 200])
    assert np.abs(np.diff(weights, axis=0)).max() < 0.25  # in 5 ms


def test_all_that_the_speech_set_says_stays_between_nothing_and_all(table: dict[str, Any]) -> None:
    lines = (SPEECH / "index.jsonl").read_text().splitlines()
    for item in map(json.loads, lines[::37]):
        weights = every_tick(SPEECH, item, table)
        assert weights.shape == (int(item["samples"] / 960), len(VISEMES)) and weights.dtype == np.float32
        assert weights.min() >= 0 and weights.max() <= 1
        assert weights.max() > 0.5 and weights[0].max() < 0.05
