"""Whether one can see where a mouth was pasted in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.media import Image
from scripts.lips.tracks import Box

NOISE = 0.5  # grey levels, so that flat pictures have no seams by division


def seam(image: Image, box: Box, reach: int = 1) -> float:
    """How much more the picture changes across the border of `box` than across lines beside it; 1: no seam, NaN: none
    of the border lies inside the picture.

    Each side's line of strongest change, at most `reach` pixels off the border, against the strongest of as many lines
    inside and outside; the mean of the sides.
    """
    x1, y1, x2, y2 = box
    upright = np.swapaxes(image, 0, 1)
    sides = [_side(image, y1, y2, x, reach) for x in (x1, x2)] + [_side(upright, x1, x2, y, reach) for y in (y1, y2)]
    known = [side for side in sides if not np.isnan(side)]
    return float(np.mean(known)) if known else np.nan


def _side(image: Image, start: int, stop: int, at: int, reach: int) -> float:
    """The same for the line between columns `at` - 1 and `at`, rows `start` to `stop`."""
    band = 2 * reach + 1
    first = at - reach - band - 1
    cut = image[max(0, start) : max(0, stop), max(0, first) : max(0, first + 3 * band + 1)]
    if first < 0 or cut.shape[0] == 0 or cut.shape[1] != 3 * band + 1:
        return np.nan
    change = np.abs(np.diff(cut.astype(np.int16), axis=1)).mean(axis=(0, 2))  # (3 * band,)
    inside, border, outside = change.reshape(3, band).max(axis=1)
    return float((border + NOISE) / ((inside + outside) / 2 + NOISE))


def reach_of(box: Box) -> int:
    """How far off the border of a box that was only estimated may lie, in pixels: 2 % of its width."""
    return max(1, round(0.02 * (box[2] - box[0])))


def median(values: list[float]) -> float | None:
    """The median of what is known of `values`; None if that is nothing."""
    known: NDArray[np.float64] = np.array([value for value in values if not np.isnan(value)])
    return float(np.median(known)) if known.size else None
