"""Where a face and its lips are through a video."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from core import avatar
from core.avatar import MEDIAPIPE
from studio.landmarks import to_tracks

Floats = NDArray[np.float64]
Points = NDArray[np.float32]  # (478, 2) pixels of one face, by MediaPipe's numbers
Box = tuple[int, int, int, int]  # x1 y1 x2 y2

UPPER_INNER, LOWER_INNER = MEDIAPIPE[avatar.UPPER_INNER][0], MEDIAPIPE[avatar.LOWER_INNER][0]
CORNERS = (MEDIAPIPE[avatar.LEFT_CORNER][0], MEDIAPIPE[avatar.RIGHT_CORNER][0])
EYES = (MEDIAPIPE[avatar.LEFT_EYE], MEDIAPIPE[avatar.RIGHT_EYE])
EYE_CORNERS = (*EYES[0], *EYES[1])
CONTOUR = tuple(point for (point,) in MEDIAPIPE[avatar.OVAL])
# The lips' outer and inner edge.
LIPS = (
    *(61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185),
    *(78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191),
)
# What speech does not move: the eyes' corners, the bridge of the nose, the forehead and the temples.
RIGID = (*EYE_CORNERS, 168, 6, 197, 195, 9, 151, 10, 127, 356)


@dataclass(frozen=True, eq=False)
class Track:
    """One face: `times` (n,) seconds, rising, and `points` float32 (n, 478, 2) pixels, NaN where it was not found."""

    times: Floats
    points: NDArray[np.float32] = field(repr=False)

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Whether the face was found, (n,)."""
        return ~np.isnan(self.points[:, 0, 0])

    @property
    def opening(self) -> Floats:
        """How far the lips are apart, (n,), in distances between the eyes."""
        return _apart(self.points, UPPER_INNER, LOWER_INNER) / eyes_apart(self.points)

    @property
    def width(self) -> Floats:
        """How far the corners of the mouth are apart, (n,), in distances between the eyes; small when rounded."""
        return _apart(self.points, *CORNERS) / eyes_apart(self.points)

    def nearest(self, times: Floats) -> NDArray[np.intp]:
        """The indices of the pictures nearest to `times` (m,)."""
        after = np.searchsorted(self.times, times).clip(1, max(1, len(self.times) - 1))
        before = after - 1
        after = np.minimum(after, len(self.times) - 1)
        return np.where(times - self.times[before] <= self.times[after] - times, before, after)


def eyes_apart(points: NDArray[np.float32]) -> Floats:
    """The distance between the middles of the eyes in pixels, (...,), for points (..., 478, 2)."""
    left, right = (points[..., list(eye), :].mean(axis=-2) for eye in EYES)
    return cast(Floats, np.linalg.norm(right - left, axis=-1).astype(np.float64))


def steadied(points: Points, onto: Points) -> Points:
    """`points` (478, 2) moved, turned and scaled so that what speech does not move lies on that of `onto`."""
    turn, shift = similarity(points[list(RIGID)], onto[list(RIGID)])
    moved = turn * _complex(points) + shift
    return np.stack([moved.real, moved.imag], axis=-1).astype(np.float32)


def similarity(points: NDArray[np.float32], onto: NDArray[np.float32]) -> tuple[complex, complex]:
    """(a, b) for which a * z + b, points (k, 2) taken as complex numbers z, is least squares from `onto` (k, 2)."""
    z, w = _complex(points), _complex(onto)
    z0, w0 = z.mean(), w.mean()
    turn = np.vdot(z - z0, w - w0) / np.vdot(z - z0, z - z0)
    return complex(turn), complex(w0 - turn * z0)


def mouth_box(points: Points) -> Box:
    """The box around the mouth, wherever the jaw is: 1.2 by 1.0 distances between the eyes."""
    x, y = points[list(CORNERS)].mean(axis=0)
    unit = float(eyes_apart(points))
    return _box(x - 0.6 * unit, y - 0.4 * unit, x + 0.6 * unit, y + 0.6 * unit)


def eyes_box(points: Points) -> Box:
    """The box around eyes and brows: 1.8 by 0.7 distances between the eyes."""
    x, y = points[list(EYE_CORNERS)].mean(axis=0)
    unit = float(eyes_apart(points))
    return _box(x - 0.9 * unit, y - 0.45 * unit, x + 0.9 * unit, y + 0.25 * unit)


def face_box(points: Points) -> Box:
    """The box of the face as avatars keep it; it may reach beyond the picture."""
    x1, y1, x2, y2 = to_tracks(points[None])[0][0].tolist()
    return x1, y1, x2, y2


def lower_half(face: Box) -> Box:
    """The lower half of a face box: what an engine of the Wav2Lip kind pastes."""
    x1, y1, x2, y2 = face
    return x1, y1 + (y2 - y1) // 2, x2, y2


def _box(x1: float, y1: float, x2: float, y2: float) -> Box:
    return round(x1), round(y1), round(x2), round(y2)


def _apart(points: NDArray[np.float32], one: int, other: int) -> Floats:
    return cast(Floats, np.linalg.norm(points[:, one] - points[:, other], axis=-1).astype(np.float64))


def _complex(points: NDArray[np.float32]) -> NDArray[np.complex128]:
    return np.asarray(points[..., 0] + 1j * points[..., 1], np.complex128)
