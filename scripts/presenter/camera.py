"""Where the camera and the lamps stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .mesh import Points, unit

Matrix = NDArray[np.float64]  # (4, 4), applied as M @ column

KEY_DIRECTION = unit(np.array([-0.52, 0.50, 0.80]))


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole at `eye` looking at `aim`; `fov_degrees` is the vertical field of view of a square picture."""

    eye: NDArray[np.float64]
    aim: NDArray[np.float64]
    fov_degrees: float = 20.0

    @property
    def matrix(self) -> Matrix:
        """World to clip space."""
        near, far = 4.0, 30.0
        f = 1 / np.tan(np.radians(self.fov_degrees) / 2)
        lens = np.array(
            [
                [f, 0, 0, 0],
                [0, f, 0, 0],
                [0, 0, (far + near) / (near - far), 2 * far * near / (near - far)],
                [0, 0, -1, 0],
            ]
        )
        return np.asarray(lens @ look(self.eye, self.aim))

    def project(self, points: Points, size: int) -> NDArray[np.float64]:
        """Pixels (n, 2) of `points` (n, 3) in a picture of `size` x `size`, the first pixel's middle at 0.0."""
        clip = np.column_stack([points, np.ones(len(points))]) @ self.matrix.T
        x, y = clip[:, 0] / clip[:, 3], clip[:, 1] / clip[:, 3]
        return np.column_stack([(x + 1) / 2 * size, (1 - y) / 2 * size]) - 0.5


def portrait(eyes: NDArray[np.float64], height: float = 3.45, below: float = 0.28) -> Camera:
    """Head and shoulders: `height` decimetres in view at the eyes (3,), aimed `below` under them."""
    fov = 20.0
    away = height / 2 / np.tan(np.radians(fov / 2))
    at = eyes * [0, 1, 1] + [0, 0.05, away]
    return Camera(at, eyes * [0, 1, 1] - [0, below, 0], fov)


def look(eye: NDArray[np.float64], aim: NDArray[np.float64]) -> Matrix:
    """World to camera space, y up."""
    back = unit(eye - aim)
    right = unit(np.cross([0, 1, 0], back))
    axes = np.stack([right, np.cross(back, right), back])
    view = np.eye(4)
    view[:3, :3], view[:3, 3] = axes, -axes @ eye
    return view


def box(centre: NDArray[np.float64], direction: NDArray[np.float64], half: float) -> Matrix:
    """World to the clip space of parallel light from `direction` on a cube of half-size `half`."""
    lens = np.diag([1 / half, 1 / half, -1 / (2 * half), 1.0])
    lens[2, 3] = -1.0
    away = np.array([0, 0.001, 0]) if abs(direction[1]) > 0.999 else 0
    return np.asarray(lens @ look(centre + unit(direction + away) * 2 * half, centre))
