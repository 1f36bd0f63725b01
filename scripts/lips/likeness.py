"""How near a mouth is to that of a reference: PSNR, SSIM, and the distance of landmarks."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from core.media import Image
from scripts.lips.tracks import LIPS, Points, eyes_apart, steadied

SAME_DB = 100.0  # PSNR of equal pictures, which has no number
SIGMA, WINDOW = 1.5, (11, 11)
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

Greys = NDArray[np.float64]


def psnr(error: float) -> float:
    """The peak signal-to-noise ratio in dB, at most 100, for a mean squared error in grey levels²."""
    return min(SAME_DB, float(10 * np.log10(255**2 / error))) if error > 0 else SAME_DB


def squared_error(one: Image, other: Image) -> float:
    """The mean squared difference of two pictures of one size, over all channels."""
    return float(np.square(one.astype(np.float64) - other).mean())


def ssim(one: Image, other: Image) -> float:
    """The structural similarity of two pictures of one size, in grey, mean over the picture; 1 is equal.

    Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity"
    (2004): Gaussian windows of 11 pixels, sigma 1.5; borders, where windows are cut off, are mirrored.
    """
    x, y = _grey(one), _grey(other)
    mean_x, mean_y = _mean(x), _mean(y)
    var_x, var_y = _mean(x * x) - mean_x**2, _mean(y * y) - mean_y**2
    both = _mean(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * both + C2) / (var_x + var_y + C2)
    return float((light * structure).mean())


def landmark_distance(points: Points, reference: Points) -> float:
    """How far the lips are from those of `reference`, mean of 40 points, in % of its distance between the eyes.

    Both (478, 2) pixels; `points` is first laid onto the reference by what speech does not move.
    """
    lips = list(LIPS)
    off = np.linalg.norm(steadied(points, reference)[lips] - reference[lips], axis=1)
    return 100 * float(off.mean()) / float(eyes_apart(reference))


def _grey(image: Image) -> Greys:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.float64)


def _mean(values: Greys) -> Greys:
    return np.asarray(cv2.GaussianBlur(values, WINDOW, SIGMA, borderType=cv2.BORDER_REFLECT_101))
