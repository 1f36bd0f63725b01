"""The square around a mouth that our own network sees: from points that do not move with speech."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from core.avatar import LEFT_EYE, NOSE_BASE, RIGHT_EYE
from core.media import Image

EYES_TO_NOSE = 1.28  # between the eyes, over from there to the nose's base, of a face seen from the front
SIDE, BELOW_NOSE = 1.72, 0.56  # of the unit


def mouth_square(landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    """x and y of the middle and the side of the square, pixels, (…, 3), for landmarks (…, 10 or more, 2).

    The unit is the distance between the eyes; of a turned head it is made up from that to the nose.
    """
    left, right, nose = landmarks[..., LEFT_EYE, :], landmarks[..., RIGHT_EYE, :], landmarks[..., NOSE_BASE, :]
    apart = right - left
    height = np.linalg.norm(nose - (left + right) / 2, axis=-1)
    width = np.linalg.norm(apart, axis=-1)
    unit = np.sqrt((width**2 + (EYES_TO_NOSE * height) ** 2) / 2)
    down = np.stack([-apart[..., 1], apart[..., 0]], axis=-1) / np.maximum(width, 1e-6)[..., None]
    middle = nose + (BELOW_NOSE * unit)[..., None] * down
    return np.concatenate([middle, (SIDE * unit)[..., None]], axis=-1).astype(np.float32)


def cut_square(image: Image, square: tuple[float, float, float], size: int) -> Image:
    """`square` of `image` at `size` pixels, uint8 (size, size, 3); what lies outside the picture is its edge, repeated.

    It is cut at its own size first, so that a large one is averaged.
    """
    x, y, side = square
    own = max(size, min(round(side), max(image.shape[:2])))
    scale = own / side
    matrix = np.array([[scale, 0, (own - 1) / 2 - x * scale], [0, scale, (own - 1) / 2 - y * scale]])
    cut = cv2.warpAffine(image, matrix, (own, own), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
