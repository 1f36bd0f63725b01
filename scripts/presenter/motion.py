"""What a person does, frame by frame: expression weights, gaze, head and breath, periodic over the cycle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]  # (n,) one value a frame, periodic

BLINK = np.array([0.30, 0.70, 0.80, 0.74, 0.42, 0.14])


@dataclass(frozen=True)
class Habit:
    """How somebody idles. Two with different ones do not move in step."""

    seed: int = 7  # of the slow drift of the head
    blinks: Sequence[int] = (31, 112, 187, 258)  # their first frames
    glances: Sequence[tuple[int, int, float, float]] = (  # first frame, frames, yaw and pitch in degrees
        (58, 34, -7.5, -2.5),
        (142, 30, 6.0, 2.0),
        (222, 24, 4.0, -5.0),
    )
    breath: float = 0.0  # where in a breath the cycle begins, 0 .. 1


@dataclass(frozen=True)
class Pose:
    """One frame. Angles in degrees in the person's own sense: yaw to the left, pitch up, roll to the left shoulder."""

    weights: Mapping[str, float] = field(default_factory=dict)  # of visemes and face shapes, over the resting face
    gaze: tuple[float, float] = (0.0, 0.0)  # yaw and pitch in the world; (0, 0) looks along +z
    head: tuple[float, float, float] = (0.0, 0.0, 0.0)  # yaw, pitch, roll
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the head, decimetres
    sway: float = 0.0  # of the whole upper body sideways, decimetres at the neck
    breath: float = 0.0  # 0 out .. 1 in


def idle_cycle(frames: int, habit: Habit = Habit()) -> list[Pose]:
    """A calm listener: breath, blinks, a few glances and a slow head, the last frame leading into the first."""
    rng = np.random.default_rng(habit.seed)
    gaze = [_low_pass(signal, 0.9) for signal in _glances(frames, habit)]
    follow = [np.roll(_low_pass(signal, 9.0), 6) * 0.28 for signal in gaze]
    fixation = [_low_pass(_steps(frames, rng), 0.8) * 0.45 for _ in range(2)]
    yaw = follow[0] + _drift(frames, rng, 1.9)
    pitch = follow[1] + _drift(frames, rng, 1.1)
    roll = _drift(frames, rng, 1.2)
    shift = [_drift(frames, rng, size) for size in (0.014, 0.008, 0.02)]
    sway, smile, brows = _drift(frames, rng, 0.016), _drift(frames, rng, 0.045), _drift(frames, rng, 0.05)
    breath, blink = _breath(frames, habit), _blinks(frames, habit)
    lifted = brows + 0.012 * gaze[1]
    return [
        Pose(
            weights=_face(float(blink[i]), float(smile[i]), float(lifted[i])),
            gaze=(float(gaze[0][i] + fixation[0][i]), float(gaze[1][i] + fixation[1][i])),
            head=(float(yaw[i]), float(pitch[i] + 0.35 * breath[i]), float(roll[i])),
            shift=(float(shift[0][i]), float(shift[1][i]), float(shift[2][i])),
            sway=float(sway[i]),
            breath=float(breath[i]),
        )
        for i in range(frames)
    ]


def _face(blink: float, smile: float, brows: float) -> dict[str, float]:
    both = {"eyeBlink": blink, "mouthSmile": smile, "browOuterUp": 0.6 * brows - 0.04 * blink}
    weights = {name + side: weight for name, weight in both.items() for side in ("Left", "Right")}
    return weights | {"browInnerUp": brows}


def _breath(frames: int, habit: Habit) -> Signal:
    """Three breaths: in a little quicker than out."""
    phase = 2 * np.pi * (3 * np.arange(frames) / frames + habit.breath)
    return np.asarray(0.5 - 0.5 * np.cos(phase + 0.35 * np.sin(phase)))


def _blinks(frames: int, habit: Habit) -> Signal:
    lids = np.zeros(frames)
    for start in habit.blinks:
        lids[(start + np.arange(len(BLINK))) % frames] = BLINK
    return lids


def _glances(frames: int, habit: Habit) -> tuple[Signal, Signal]:
    yaw, pitch = np.zeros(frames), np.zeros(frames)
    for start, length, to_yaw, to_pitch in habit.glances:
        at = (start + np.arange(length)) % frames
        yaw[at], pitch[at] = to_yaw, to_pitch
    return yaw, pitch


def _steps(frames: int, rng: np.random.Generator) -> Signal:
    """A value in [-1, 1] that jumps every 14 to 45 frames: the small saccades of a steady look."""
    starts = np.cumsum(rng.integers(14, 46, frames // 14))
    starts = starts[starts < frames - 14]
    values = rng.uniform(-1, 1, len(starts) + 1)
    values[-1] = values[0]
    return np.asarray(values[np.searchsorted(starts, np.arange(frames), side="right")])


def _drift(frames: int, rng: np.random.Generator, size: float, harmonics: Sequence[int] = (1, 2, 3, 5)) -> Signal:
    """Slow periodic noise, `size` at its largest."""
    time = 2 * np.pi * np.arange(frames) / frames
    wave = sum(rng.uniform(0.6, 1) / h**0.9 * np.sin(h * time + rng.uniform(0, 2 * np.pi)) for h in harmonics)
    return np.asarray(size * wave / np.abs(wave).max())


def _low_pass(signal: Signal, sigma_frames: float) -> Signal:
    """`signal` smoothed by a Gaussian, round the cycle."""
    response = np.exp(-2 * (np.pi * np.fft.rfftfreq(len(signal)) * sigma_frames) ** 2)
    return np.asarray(np.fft.irfft(np.fft.rfft(signal) * response, len(signal)))
