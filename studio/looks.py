"""What the pictures of a film show, measured one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from core.avatar import LEFT_CORNER, LOWER_INNER, NOSE_BASE, OVAL, RIGHT_CORNER, UPPER_INNER
from core.media import FPS, Image
from studio.tracks import Landmarks

Flags = NDArray[np.bool_]  # (n,) one a tick

LEFT_CHEEK, RIGHT_CHEEK = OVAL.start + 28, OVAL.start + 8
NOSE_DEPTH = 1.11  # how far the nose's base lies before the cheeks' ends, in halves of the face's width
CUT_GREY, CUT_STEP = 12, 0.12  # between two pictures: mean change of grey level; way of the head in widths of the face
SIDE = 128  # pixels to which a face is brought before its sharpness is measured


@dataclass(frozen=True, eq=False)
class Look:
    """What one picture shows: how many faces, and of the one that counts its landmarks (46, 2) or None.

    `sharpness` and `brightness` are the face's, `thumbnail` uint8 (36, 64) is grey and of the whole picture.
    """

    faces: int
    landmarks: Landmarks | None
    sharpness: float
    brightness: float
    thumbnail: NDArray[np.uint8]

    @classmethod
    def at(cls, image: Image, faces: int, landmarks: Landmarks | None) -> Look:
        """Measure `image`. Blocking, 1 ms."""
        small = cv2.resize(image, (64, 36), interpolation=cv2.INTER_AREA)
        thumbnail = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8)
        grey = None if landmarks is None else _face(image, landmarks)
        if grey is None:
            return cls(faces, None, 0, 0, thumbnail)
        edges = float(cv2.Laplacian(grey, cv2.CV_32F).std())
        return cls(faces, landmarks, edges / max(1.0, float(grey.std())), float(grey.mean()), thumbnail)


class Looks:
    """All looks of a film as arrays, one row a tick; where no face was found `landmarks` (n, 46, 2) is NaN."""

    def __init__(self, looks: Sequence[Look]) -> None:
        nobody = np.full((OVAL.stop, 2), np.nan, np.float32)
        self.landmarks: Landmarks = np.stack([nobody if x.landmarks is None else x.landmarks for x in looks])
        self.found: Flags = np.array([look.landmarks is not None for look in looks])
        self.faces = np.array([look.faces for look in looks])
        self.sharpness = np.array([look.sharpness for look in looks])
        self.brightness = np.array([look.brightness for look in looks])
        self.thumbnails = np.stack([look.thumbnail for look in looks]).astype(np.float32)

    @cached_property
    def width(self) -> NDArray[np.float32]:
        """Width of the face, (n,) pixels."""
        return np.asarray(np.ptp(self.landmarks[:, OVAL, 0], axis=1))

    @cached_property
    def cuts(self) -> Flags:
        """(n,): whether this picture does not follow from the one before."""
        grey, step = self.apart(slice(1, None), slice(None, -1))
        return np.concatenate([[False], (grey > CUT_GREY) | (step > CUT_STEP)])

    def apart(self, some: slice, others: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """How unlike pictures are: mean change of grey level; way of the head in widths of the face (or NaN)."""
        grey = np.abs(self.thumbnails[some] - self.thumbnails[others]).mean(axis=(1, 2))
        head = slice(NOSE_BASE, OVAL.start)  # with the eyes: what a jaw does not move
        way = np.linalg.norm(self.landmarks[some, head] - self.landmarks[others, head], axis=2).mean(axis=1)
        return grey, way / self.width[some]

    def joins(self, used: range) -> bool:
        """Whether the last picture of `used` leads into the first as smoothly as any other into its next."""
        last, first = slice(used[-1], used[-1] + 1), slice(used[0], used[0] + 1)
        within = self.apart(slice(used.start + 1, used.stop), slice(used.start, used.stop - 1))
        return len(used) > FPS and all(
            bool(seam[0] <= np.nanmax(steps)) for seam, steps in zip(self.apart(first, last), within, strict=True)
        )


def yaw_deg(landmarks: Landmarks) -> NDArray[np.float32]:
    """How far each head of (n, 46, 2) is turned sideways, (n,) degrees; to the right of the picture is positive."""
    left, right, nose = (landmarks[:, row] for row in (LEFT_CHEEK, RIGHT_CHEEK, NOSE_BASE))
    across = right - left
    off = ((nose - (left + right) / 2) * across).sum(axis=1) / np.maximum((across**2).sum(axis=1), 1e-6)
    return np.asarray(np.degrees(np.arctan(2 * off / NOSE_DEPTH)), np.float32)


def parted(landmarks: Landmarks) -> NDArray[np.float32]:
    """How far the lips of each (n, 46, 2) are apart, (n,) in widths of the mouth."""
    gap = np.linalg.norm(landmarks[:, LOWER_INNER] - landmarks[:, UPPER_INNER], axis=1)
    width = np.linalg.norm(landmarks[:, RIGHT_CORNER] - landmarks[:, LEFT_CORNER], axis=1)
    return np.asarray(gap / np.maximum(width, 1e-6), np.float32)


def _face(image: Image, landmarks: Landmarks) -> NDArray[np.uint8] | None:
    """The face in grey, brought to SIDE by SIDE; None if all of it is outside."""
    low = np.floor(landmarks[OVAL].min(axis=0)).astype(int).clip(0)
    high = np.ceil(landmarks[OVAL].max(axis=0)).astype(int).clip(0)
    crop = image[low[1] : high[1], low[0] : high[0]]
    if not crop.size:
        return None
    how = cv2.INTER_AREA if crop.shape[0] > SIDE else cv2.INTER_LINEAR
    return np.asarray(cv2.cvtColor(cv2.resize(crop, (SIDE, SIDE), interpolation=how), cv2.COLOR_BGR2GRAY), np.uint8)
