"""A few operations on pictures, uint8 (H, W, 3) BGR."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from core.media import Image


def to_yuv(image: Image) -> NDArray[np.uint8]:
    """`image`, even sides, as planar 4:2:0, uint8 (H * 3 / 2, W). 0.07 ms at 512²."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8)


def blend(first: Image, second: Image, weight: float) -> Image:
    """`first` at `weight`, `second` at the rest; of one size. 0.1 ms at 512²."""
    return np.asarray(cv2.addWeighted(first, weight, second, 1 - weight, 0), np.uint8)


def cover(image: Image, size: tuple[int, int]) -> Image:
    """`image` scaled and centre-cropped to `size` (width, height); itself if it has that size."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    scale = max(size[0] / width, size[1] / height)
    scaled = cv2.resize(image, (max(size[0], round(width * scale)), max(size[1], round(height * scale))))
    left, top = (scaled.shape[1] - size[0]) // 2, (scaled.shape[0] - size[1]) // 2
    return np.ascontiguousarray(scaled[top : top + size[1], left : left + size[0]], np.uint8)
