"""A face over time: whose it is, which part of the film to keep, gaps closed, trembling smoothed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.media import FPS
from studio.landmarks import Points, boxes

GAP_TICKS = FPS // 2  # a face away for longer is not guessed
LIP_ROWS = slice(0, 7)  # what speech moves: the mouth's points and the chin
LIP_SPREAD_TICKS = 0.6  # or the lips would lag in the picture's own consonants
HEAD_SPREAD_TICKS = 1.5
BOX_SPREAD_TICKS = 2.0

Landmarks = NDArray[np.float32]  # (n, 46, 2) pixels


def followed(faces: Sequence[Points], last: Points | None) -> Points | None:
    """Which of `faces` (largest first) goes on where `last` was; without a `last`, the largest.

    None if there is only somebody much smaller: a passer-by, while the person looks away.
    """
    if last is None or not faces:
        return next(iter(faces), None)
    low, high = last.min(axis=0), last.max(axis=0)
    for face in faces:
        middle = face.mean(axis=0)
        if (low < middle).all() and (middle < high).all():
            return face
    largest = faces[0]
    return largest if np.ptp(largest, axis=0)[0] > np.ptp(last, axis=0)[0] / 2 else None


def stretch(found: NDArray[np.bool_], cuts: NDArray[np.bool_]) -> range:
    """The longest run of ticks with a face at both ends and no cut and no gap beyond GAP_TICKS within.

    `found` (n,): there is a face. `cuts` (n,): this picture does not follow from the one before. Empty if no face is.
    """
    best, start, before = range(0), 0, -1
    for tick in np.flatnonzero(found).tolist():
        if before < 0 or tick - before > GAP_TICKS + 1 or cuts[before + 1 : tick + 1].any():
            start = tick
        best = max(best, range(start, tick + 1), key=len)
        before = tick
    return best


def filled(landmarks: Landmarks, found: NDArray[np.bool_]) -> Landmarks:
    """`landmarks` with the rows that are not `found` drawn straight from the one before to the one after."""
    ticks, known = np.arange(len(found)), np.flatnonzero(found)
    flat = landmarks.reshape(len(found), -1)
    columns = [np.interp(ticks, known, column[known]) for column in flat.T]
    return np.stack(columns, axis=1).reshape(landmarks.shape).astype(np.float32)


def smooth(landmarks: Landmarks) -> tuple[NDArray[np.int32], Landmarks]:
    """Boxes int32 (n, 4) and landmarks float32 (n, 46, 2) without the landmarker's trembling, and nothing of it late.

    The lips are smoothed least: they must stay in step with the picture.
    """
    steady = gaussian(landmarks, HEAD_SPREAD_TICKS)
    around = gaussian(boxes(steady).astype(np.float32), BOX_SPREAD_TICKS)
    steady[:, LIP_ROWS] = gaussian(landmarks[:, LIP_ROWS], LIP_SPREAD_TICKS)
    return np.round(around).astype(np.int32), steady


def gaussian(track: NDArray[np.float32], spread_ticks: float) -> NDArray[np.float32]:
    """`track` (n, …) smoothed along its first axis; what moves evenly stays where it is, at the ends too."""
    reach = min(round(4 * spread_ticks), len(track) - 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / spread_ticks) ** 2)
    padded = np.pad(track, [(reach, reach)] + [(0, 0)] * (track.ndim - 1), "reflect", reflect_type="odd")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0)
    return np.asarray(windows @ (weights / weights.sum()), np.float32)
