"""How much of the sky each point sees, from depth maps of many directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from .camera import Matrix, box
from .mesh import Points

DIRECTIONS = 64
LOWEST = -0.6  # directions further down see the floor, which is no darker than the sky
HALF = 3.4  # of the cube around the head and shoulders, decimetres
BIAS = 0.02  # decimetres off the surface

Depths = Callable[[Matrix], NDArray[np.float32]]


def openness(
    surfaces: Mapping[str, tuple[Points, Points]], middle: NDArray[np.float64], depths: Depths
) -> dict[str, NDArray[np.float64]]:
    """(n,) in [0, 1] for each surface's points and normals, weighted by the cosine.

    A zero normal looks all ways alike. `depths` draws what is seen through a matrix.
    """
    seen = {name: np.zeros(len(points)) for name, (points, _) in surfaces.items()}
    total = {name: np.full(len(points), 1e-6) for name, (points, _) in surfaces.items()}
    for direction in _sphere(DIRECTIONS):
        if direction[1] < LOWEST:
            continue
        to_clip = box(middle, direction, HALF)
        depth = depths(to_clip)
        for name, (points, normals) in surfaces.items():
            cosine = np.where(normals.any(axis=1), np.maximum(normals @ direction, 0), 1)
            seen[name] += cosine * visible(points + BIAS * normals, to_clip, depth)
            total[name] += cosine
    return {name: seen[name] / total[name] for name in seen}


def visible(points: Points, to_clip: Matrix, depth: NDArray[np.float32], slack: float = 0.004) -> NDArray[np.float64]:
    """1 where nothing in the depth map lies before the point, 0 from `slack` (of its range) behind, soft between."""
    clip = points @ to_clip[:, :3].T + to_clip[:, 3]
    at = clip[:, :3] / clip[:, 3:]
    pixel = np.clip(((at[:, :2] + 1) / 2 * len(depth)).astype(int), 0, len(depth) - 1)
    gap = (at[:, 2] + 1) / 2 - depth[pixel[:, 1], pixel[:, 0]]
    return np.asarray(1 - np.clip((gap - 0.001) / slack, 0, 1))


def _sphere(count: int) -> Points:
    """Evenly spread unit directions."""
    i = np.arange(count) + 0.5
    height, angle = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    flat = np.sqrt(1 - height**2)
    return np.column_stack([flat * np.cos(angle), height, flat * np.sin(angle)])
