"""One pass over the pictures of a video: where the face is, and how the mouth sits in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from core.errors import BadMedia
from core.media import Image
from scripts.lips import quality, seam
from scripts.lips.pictures import Picture
from scripts.lips.quality import Change
from scripts.lips.tracks import Box, Points, Track, eyes_apart, face_box, lower_half

NEXT_S = 0.1  # pictures further apart do not follow each other


class Landmarker(Protocol):
    """`studio.landmarks.Landmarker`, or what tests put in its place."""

    def faces(self, image: Image) -> list[Points]:
        """The points (478, 2) of each face in pixels, largest first."""


@dataclass(frozen=True, eq=False)
class Look:
    """`track`, and of each picture with the face: `seams` and `sharpness`; `changes` between those that follow."""

    track: Track
    seams: list[float] = field(default_factory=list)
    sharpness: list[float] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


def look(pictures: Iterable[Picture], landmarker: Landmarker, box: Box | None = None) -> Look:
    """What is seen in `pictures`; `box` is the pasted region where it is known and does not move. About 15 ms each.

    BadMedia if there are fewer than two pictures, or no face in any.
    """
    eye = _Eye(landmarker, box)
    for time_s, image in pictures:
        eye.see(time_s, image)
    if len(eye.times) < 2:
        raise BadMedia("it takes at least two pictures to see anything move")
    if eye.first is None:
        raise BadMedia("no face was found")
    return Look(Track(np.array(eye.times), np.stack(eye.points)), eye.seams, eye.sharpness, eye.changes)


class _Eye:
    """Follows one face from picture to picture: at first the largest, then the one nearest to where it was."""

    def __init__(self, landmarker: Landmarker, box: Box | None) -> None:
        self.landmarker, self.box = landmarker, box
        self.times: list[float] = []
        self.points: list[Points] = []
        self.seams: list[float] = []
        self.sharpness: list[float] = []
        self.changes: list[Change] = []
        self.first: Points | None = None
        self._last: Points | None = None
        self._patch: tuple[float, quality.Patch] | None = None

    def see(self, time_s: float, image: Image) -> None:
        points = self._last = self._same(self.landmarker.faces(image))
        self.times.append(time_s)
        self.points.append(np.full((478, 2), np.nan, np.float32) if points is None else points)
        if points is not None:
            self._judge(time_s, image, points)

    def _same(self, faces: list[Points]) -> Points | None:
        """The face last seen, if it is near where it was; whoever is largest after a picture without it."""
        if not faces or self._last is None:
            return faces[0] if faces else None
        middle, unit = self._last.mean(axis=0), float(eyes_apart(self._last))
        off = [float(np.linalg.norm(face.mean(axis=0) - middle)) for face in faces]
        return faces[int(np.argmin(off))] if min(off) < 2 * unit else None

    def _judge(self, time_s: float, image: Image, points: Points) -> None:
        self.first = points if self.first is None else self.first
        pasted = self.box or lower_half(face_box(points))
        self.seams.append(seam.seam(image, pasted, 1 if self.box else seam.reach_of(pasted)))
        self.sharpness.append(quality.sharpness(image, points))
        patch = quality.patch(image, points, self.first)
        if self._patch and time_s - self._patch[0] < NEXT_S:
            self.changes.append(quality.change(self._patch[1], patch))
        self._patch = time_s, patch
