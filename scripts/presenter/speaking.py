"""What a face does while it speaks: phonemes with their times become weights of visemes, with coarticulation.

Every stage of a phoneme pulls the face towards its viseme, most at its own middle; what the face does is the mean of
all pulls (Cohen and Massaro, "Modeling Coarticulation in Synthetic Visual Speech", 1993). How far the jaw hangs besides
is heard, too: what an open mouth lets through is loud. Lips that must meet, meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.audio import decode_audio
from core.media import Pcm
from scripts.lips.sound import VOICE_RANGE_DB, Sound, expected_opening

Weights = NDArray[np.float32]  # (n, len(VISEMES)) in [0, 1]

TICK_MS = 40
SAMPLES_PER_MS = 24  # as the speech set counts them
VISEMES = ("PP", "FF", "TH", "DD", "kk", "CH", "SS", "nn", "RR", "aa", "E", "I", "O", "U")

PULL = {"PP": 5.0, "FF": 4.0, "TH": 1.4, "DD": 0.6, "kk": 0.35, "CH": 2.0, "SS": 1.3, "nn": 0.5, "RR": 0.9}
VOWEL_PULL, ROUND_PULL, SILENT_PULL = 1.0, 2.2, 1.3
REACH_MS, ROUND_REACH_MS, SILENT_REACH_MS = 32.0, 55.0, 25.0
MUST_MEET = ("PP", "FF")
MEET_REACH_MS = 45.0  # a closure is entered and left over this time
CARRIED = 0.5  # how much of the next vowel shows through a consonant that has no lips of its own
OPEN = VISEMES.index("aa")
JAW = (0.15, 0.85)  # how much of an open jaw shows through what is said, softly and as loud as usual
LOUD_REACH_MS = 25.0  # a jaw is slower than a voice
JAW_OF_ROUND = 0.6  # of that, while lips are round
NARROW = ("w", "ɥ")  # nothing of it: lips all but meet
OPEN_TO_VOWEL = ("kk", "DD", "nn", "SS")


@dataclass(frozen=True)
class Pull:
    """One stage of a phoneme: `target` (len(VISEMES),), wanted for `ms` around `middle_ms`."""

    target: Weights
    middle_ms: float
    ms: float
    strength: float
    reach_ms: float
    meets: bool = False
    hangs: float = 1.0  # the share of JAW


def every_tick(speech: Path, item: Mapping[str, Any], table: Mapping[str, Any]) -> Weights:
    """`speak` at every tick of one utterance of the speech set: `item` is its line of `index.jsonl`."""
    times = (np.arange(int(item["samples"] / SAMPLES_PER_MS / TICK_MS)) + 0.5) * TICK_MS
    loud = loudness(decode_audio(speech / item["file"]), times)
    return speak(item["phonemes"], item["aligned_ms"], table, times, loud)


def loudness(pcm: Pcm, times_ms: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """How loud what an open mouth lets through is at `times_ms` (n,) of a sound: 1 is as usual, 0 is 30 dB softer."""
    around_ms = np.arange(-2.5, 2.51, 0.5) * LOUD_REACH_MS
    near = np.exp(-0.5 * (around_ms / LOUD_REACH_MS) ** 2)
    opening = expected_opening(Sound(0.0, pcm).voice(), (times_ms[:, None] + around_ms) / 1000)
    level = np.nan_to_num(opening) @ near / near.sum()
    return np.asarray(np.clip(level / VOICE_RANGE_DB, 0, 1))


def speak(
    phonemes: Sequence[str],
    aligned_ms: Sequence[float],
    table: Mapping[str, Any],
    times_ms: NDArray[np.floating[Any]],
    loud: NDArray[np.floating[Any]],
) -> Weights:
    """Weights of VISEMES, float32 (n, 14), at `times_ms` (n,) of an utterance whose `loudness` is `loud` (n,) then.

    `table` is `visemes.json` of the speech set: each symbol's kind (phone, mark, carry, pause) and stages.
    """
    stages = pulls(phonemes, aligned_ms, table)
    total, weights = np.zeros(len(times_ms)), np.zeros((len(times_ms), len(VISEMES)))
    hanging = np.zeros(len(times_ms))
    for stage in stages:
        away = (times_ms - stage.middle_ms) / (0.5 * stage.ms + stage.reach_ms)
        pull = stage.strength * np.exp(-1.4 * np.abs(away) ** 2.4)
        total += pull
        hanging += pull * stage.hangs
        weights += pull[:, None] * stage.target
    weights /= np.maximum(total, 1e-6)[:, None]
    jaw = JAW[0] + (JAW[1] - JAW[0]) * loud
    weights[:, OPEN] += jaw * hanging / np.maximum(total, 1e-6) * (1 - weights[:, OPEN])
    for stage in stages:
        if stage.meets:
            outside = np.maximum(np.abs(times_ms - stage.middle_ms) - 0.35 * stage.ms, 0) / MEET_REACH_MS
            met = (0.5 + 0.5 * np.cos(np.pi * np.clip(outside, 0, 1)))[:, None]
            weights += met * (stage.target - weights)
    return weights.astype(np.float32)


def pulls(phonemes: Sequence[str], aligned_ms: Sequence[float], table: Mapping[str, Any]) -> list[Pull]:
    """The stages of an utterance in order of time."""
    starts = np.concatenate([[0.0], np.cumsum(aligned_ms)])
    found: list[Pull] = []
    for i, (symbol, ms) in enumerate(zip(phonemes, aligned_ms, strict=True)):
        if ms <= 0:
            continue
        about, carried = table[symbol], _next_vowel(phonemes, i, table)
        if about["kind"] == "carry" and carried is not None:
            found.append(_pull(carried, starts[i], ms, meets=False))
        elif about["kind"] in ("phone", "pause"):
            begin = 0.0
            for stage in about["stages"]:
                mix = _shown(stage["mix"], carried)
                pull = _pull(mix, starts[i] + begin * ms, (stage["until"] - begin) * ms, meets=True)
                found.append(replace(pull, hangs=0.0) if symbol in NARROW else pull)
                begin = stage["until"]
    return found


def _shown(mix: Mapping[str, float], carried: Mapping[str, float] | None) -> Mapping[str, float]:
    """`mix` with the next vowel showing through, where the consonant leaves the lips free."""
    if carried is None or not any(name in OPEN_TO_VOWEL for name in mix):
        return mix
    through = {name: CARRIED * weight for name, weight in carried.items() if name not in mix}
    return {**mix, **through}


def _pull(mix: Mapping[str, float], start_ms: float, ms: float, *, meets: bool) -> Pull:
    target = np.array([mix.get(name, 0.0) for name in VISEMES], np.float32)
    first = max(mix, key=lambda name: mix[name])
    rounded = first in ("O", "U", "CH")
    strength = SILENT_PULL if first == "sil" else PULL.get(first, ROUND_PULL if rounded else VOWEL_PULL)
    reach = SILENT_REACH_MS if first == "sil" else ROUND_REACH_MS if rounded else REACH_MS
    hangs = 0.0 if first == "sil" else JAW_OF_ROUND if first in ("O", "U") else 1.0
    return Pull(target, start_ms + ms / 2, ms, strength, reach, meets and first in MUST_MEET, hangs)


def _next_vowel(phonemes: Sequence[str], i: int, table: Mapping[str, Any]) -> Mapping[str, float] | None:
    """What the next vowel within three symbols looks like at first."""
    for symbol in phonemes[i + 1 : i + 4]:
        about = table[symbol]
        if about["kind"] == "pause":
            return None
        if about["stages"] and any(name in ("aa", "E", "I", "O", "U") for name in about["stages"][0]["mix"]):
            mix: Mapping[str, float] = about["stages"][0]["mix"]
            return mix
    return None
