"""Tries the meter on recordings of people whose sound is in step: the tables of docs/lips-meter.md.

python -m scripts.lips.truth CLIP... [--model FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from core.media import SAMPLE_RATE
from scripts.lips.look import look
from scripts.lips.meter import closed_on_silence
from scripts.lips.pictures import Picture, pictures
from scripts.lips.sound import Sound, read_sound
from scripts.lips.sync import Sync, sync
from scripts.lips.tracks import Track
from studio.landmarks import Landmarker

SHIFTS_MS = (-200, -150, -100, -40, -20, 20, 40, 100, 150, 200)
NOISE = 3  # grey levels, so that landmarks jitter on a frozen picture as they would in a video

Clip = tuple[str, Track, Sound]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.lips.truth", description=__doc__)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--model", type=Path, help="the face landmarker, by default models/face_landmarker.task")
    options = parser.parse_args()
    with Landmarker(options.model) as landmarker:
        clips = [(path.stem, look(pictures(path), landmarker).track, read_sound(path)) for path in options.clips]
        still = [look(frozen(path), landmarker).track for path in options.clips]
    print("| what | offset, ms | correlation | as is | confidence | closed on silence |\n|---|---|---|---|---|---|")
    for name, track, sound in [*clips, ("all in a row", *in_a_row(clips))]:
        print(_row(name, sync(track, sound), closed_on_silence(track, sound)))
    for (name, _, sound), track in zip(clips, still, strict=True):
        print(_row(f"{name}, frozen", sync(track, sound)))
    others = [*clips[1:], clips[0]]
    for (name, track, _), (other, _, sound) in zip(clips, others, strict=True):
        print(_row(f"{name} with the sound of {other}", sync(track, sound)))
    mixed = [(name, track, sound) for (name, track, _), (_, _, sound) in zip(clips, others, strict=True)]
    print(_row("all in a row, each with another's sound", sync(*in_a_row(mixed))))
    print("\n| sound later by, ms | offsets, ms | mean | off by |\n|---|---|---|---|")
    for shift_ms in SHIFTS_MS:
        print(_shifted(clips, shift_ms))


def frozen(path: Path) -> Iterator[Picture]:
    """The first picture of `path`, all the time, with a camera's noise."""
    noise = np.random.default_rng(0)
    first = None
    for time_s, image in pictures(path):
        first = image if first is None else first
        yield time_s, np.clip(first + noise.normal(0, NOISE, first.shape), 0, 255).astype(np.uint8)


def in_a_row(clips: list[Clip]) -> tuple[Track, Sound]:
    """The clips one after the other."""
    lengths = [max(track.times[-1] + 0.04, len(sound.pcm) / SAMPLE_RATE) for _, track, sound in clips]
    samples = np.concatenate([[0], np.cumsum([round(length * SAMPLE_RATE) for length in lengths])])
    times = [track.times + start / SAMPLE_RATE for (_, track, _), start in zip(clips, samples[:-1], strict=True)]
    pcm = [
        np.pad(sound.pcm, (0, end - start - len(sound.pcm)))
        for (_, _, sound), (start, end) in zip(clips, pairwise(samples), strict=True)
    ]
    points = np.concatenate([track.points for _, track, _ in clips])
    return Track(np.concatenate(times), points), Sound(0.0, np.concatenate(pcm))


def _row(name: str, fit: Sync, closed: float | None = None) -> str:
    texts = [_text(fit.offset_ms, "+.0f"), *(_text(x, ".2f") for x in (fit.correlation, fit.correlation_as_is))]
    return f"| {' | '.join([name, *texts, _text(fit.confidence, '.1f'), _text(closed, '.0%', '')])} |"


def _shifted(clips: list[Clip], shift_ms: int) -> str:
    fits = [sync(track, sound.later(shift_ms / 1000)) for _, track, sound in clips]
    offsets = [fit.offset_ms for fit in fits if fit.offset_ms is not None]
    middle = float(np.mean(offsets))
    texts = " ".join(_text(fit.offset_ms, "+.0f") for fit in fits)
    return f"| {shift_ms:+} | {texts} | {middle:+.1f} | {middle + shift_ms:+.1f} |"


def _text(value: float | None, how: str, without: str = "n/a") -> str:
    return without if value is None else format(value, how)


if __name__ == "__main__":
    main()
