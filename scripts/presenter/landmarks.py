"""Where the face, the mouth and the eyes are in a drawn frame, from the base mesh itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.avatar import LOWER_INNER, UPPER_INNER

from .camera import Camera
from .mesh import Points

# Base points in the order of `core.avatar`: corners as seen in the picture, lips along the mid-line, chin, nose base.
MOUTH = (425, 7182, 455, 474, 494, 5337, 5225, 317)
EYE_CORNERS = (24, 73, 6857, 6808)  # of both eyes, as seen in the picture from left to right
FOREHEAD, UNDER_CHIN = 3750, 5296
EARS = (5433, 12032)  # where the cheek ends, in front of them
LIPS = 455  # the middle of the upper lip's edge
CHIN_MARGIN = 0.02  # of the box's height


def mouth_points(base: Points, camera: Camera, size: int) -> NDArray[np.float32]:
    """Pixels (8, 2) of the mouth in a picture of `size` x `size`."""
    points = camera.project(base[list(MOUTH)], size)
    if points[LOWER_INNER, 1] < points[UPPER_INNER, 1]:  # lips pressed into each other show one line
        points[[UPPER_INNER, LOWER_INNER]] = points[[UPPER_INNER, LOWER_INNER]].mean(axis=0)
    return points.astype(np.float32)


def eye_points(base: Points, camera: Camera, size: int) -> NDArray[np.float32]:
    """Pixels (2, 2) of the middle between the corners of each eye, the left one in the picture first."""
    corners = camera.project(base[list(EYE_CORNERS)], size)
    return corners.reshape(2, 2, 2).mean(axis=1).astype(np.float32)


def face_box(base: Points, camera: Camera, size: int) -> NDArray[np.int32]:
    """(4,) x1 y1 x2 y2: mid-forehead to just below the chin, ear to ear."""
    top, bottom, one, other = camera.project(base[[FOREHEAD, UNDER_CHIN, *EARS]], size)
    below = bottom[1] + CHIN_MARGIN * (bottom[1] - top[1])
    left, right = sorted((one[0], other[0]))
    return np.round([left, top[1], right, below]).astype(np.int32)
