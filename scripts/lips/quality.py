"""How sharp the mouth is and how much the lower face flickers, judged by the rest of the same face."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from core.media import Image
from scripts.lips.tracks import (
    CONTOUR,
    EYE_CORNERS,
    LIPS,
    RIGID,
    Box,
    Points,
    eyes_apart,
    eyes_box,
    mouth_box,
    similarity,
)

FINE = 0.012  # sigma of what counts as fine detail, in distances between the eyes
NOISE = 0.1  # grey levels, so that flat pictures have no sharpness by division
EYE_PIXELS = 64  # between the eyes in a steadied patch
PATCH = (128, 192)  # width, height
EYES_AT = (64.0, 64.0)  # the middle between the eyes
LIPS_MARGIN, EYES_MARGIN = 9, 16  # pixels of a patch around lips and eyes that move with them
SOFTEN = 1.5  # sigma in pixels of a patch: what a landmark's jitter shifts

Floats = NDArray[np.float64]


def sharpness(image: Image, points: Points) -> float:
    """Fine detail around the mouth over fine detail around the eyes, as RMS; NaN where one is not in the picture."""
    sigma = max(0.7, FINE * float(eyes_apart(points)))
    mouth, eyes = (_fine(image, box, sigma) for box in (mouth_box(points), eyes_box(points)))
    return (mouth + NOISE) / (eyes + NOISE)


def _fine(image: Image, box: Box, sigma: float) -> float:
    patch = inside(image, box)
    if min(patch.shape[:2]) < 8:
        return np.nan
    grey = cv2.cvtColor(patch, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return float((grey - cv2.GaussianBlur(grey, (0, 0), sigma)).std())


def inside(image: Image, box: Box) -> Image:
    """What of `box` lies inside `image`, maybe nothing."""
    x1, y1, x2, y2 = (max(0, side) for side in box)
    return image[y1:y2, x1:x2]


@dataclass(frozen=True, eq=False)
class Patch:
    """A face held still: `grey` float32 (192, 128), `lower` and `upper` masks of it, `lips` float32 (40, 2)."""

    grey: NDArray[np.float32] = field(repr=False)
    lower: NDArray[np.bool_] = field(repr=False)
    upper: NDArray[np.bool_] = field(repr=False)
    lips: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True)
class Change:
    """From one picture to the next: grey levels of lower and upper face, and pixels of a patch the lips moved."""

    lower: float
    upper: float
    lips: float


def patch(image: Image, points: Points, first: Points) -> Patch:
    """The face of `points` as it would lie in the picture of `first`, so that only the face itself changes."""
    turn, shift = _still(points, first)
    matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    grey = cv2.warpAffine(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), matrix, PATCH).astype(np.float32)
    grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), SOFTEN), np.float32)
    there = (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    face = _filled(there, CONTOUR) > 0
    lips, eyes = _filled(there, LIPS, LIPS_MARGIN) > 0, _filled(there, EYE_CORNERS, EYES_MARGIN) > 0
    rows = np.arange(PATCH[1])[:, None]
    half = there[list(CONTOUR), 1].mean()
    return Patch(grey, face & ~lips & (rows >= half), face & ~eyes & (rows < half), there[list(LIPS)])


def change(before: Patch, after: Patch) -> Change:
    """How much the face changed between two pictures."""
    difference = np.abs(after.grey - before.grey)
    moved = np.linalg.norm(after.lips - before.lips, axis=1).mean()
    lower, upper = before.lower & after.lower, before.upper & after.upper
    return Change(_mean(difference[lower]), _mean(difference[upper]), float(moved))


def flicker(changes: list[Change]) -> float | None:
    """Grey levels by which the lower face changes from picture to picture although the lips rest, at least 0.

    A line through the changes over the motion of the lips, read where that is 0; less the same of the upper face
    without the eyes, which is the noise of camera and codec. None without pictures that follow each other.
    """
    table = np.array([(each.lips, each.lower, each.upper) for each in changes]).reshape(-1, 3)
    lips, lower, upper = table[~np.isnan(table).any(axis=1)].T
    return max(0.0, _at_rest(lips, lower) - _at_rest(lips, upper)) if lips.size else None


def _at_rest(lips: Floats, changed: Floats) -> float:
    slope = max(0.0, float(np.polyfit(lips, changed, 1)[0])) if np.ptp(lips) > 0 else 0.0
    return float(changed.mean() - slope * lips.mean())


def _still(points: Points, first: Points) -> tuple[complex, complex]:
    """(a, b) that take a pixel of the picture, as a complex number, into the patch."""
    turn, shift = similarity(points[list(RIGID)], first[list(RIGID)])
    scale = EYE_PIXELS / float(eyes_apart(first))
    x, y = first[list(EYE_CORNERS)].mean(axis=0)
    return scale * turn, scale * (shift - complex(x, y)) + complex(*EYES_AT)


def _mean(values: NDArray[np.float32]) -> float:
    return float(values.mean()) if values.size else np.nan


def _filled(points: Points, outline: tuple[int, ...], margin: int = 0) -> NDArray[np.uint8]:
    """1 inside the hull of some of `points`, and `margin` pixels around it."""
    mask = np.zeros(PATCH[::-1], np.uint8)
    hull = cv2.convexHull(np.round(points[list(outline)]).astype(np.int32))
    cv2.fillConvexPoly(mask, hull, 1)
    return np.asarray(cv2.dilate(mask, np.ones((2 * margin + 1,) * 2, np.uint8)), np.uint8)
