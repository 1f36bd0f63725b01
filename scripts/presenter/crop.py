"""Short hair: cropped at the sides, longer on top, combed over from a parting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .hair import Ground, Hairline, Strands, clumped, plant, tangent
from .mesh import Points, unit
from .rig import smoothstep

Floats = NDArray[np.float64]  # (n,) one a root

SHORT = Hairline(
    degrees=(0, 10, 22, 34, 46, 58, 66, 74, 84, 96, 108, 118, 135, 180),
    heights=(0.50, 0.51, 0.56, 0.59, 0.48, 0.29, 0.12, -0.10, 0.10, 0.22, 0.20, -0.10, -0.70, -0.85),
)


@dataclass(frozen=True)
class Crop:
    """How short hair is cut. Decimetres; `parting` counts to the person's left."""

    parting: float = 0.36
    top: float = 0.50  # length on top
    side: float = 0.11  # length where the sides begin
    edge: float = 0.05  # length at the hairline beside and behind
    volume: float = 0.21  # how high the top stands over the skull
    clump: float = 0.50  # 0 loose .. 1 every lock one point
    strands: int = 60000
    knots: int = 10
    width: float = 0.0044
    hairline: Hairline = SHORT
    seed: int = 5


@dataclass(frozen=True, eq=False)
class _Cut:
    """For each of n roots: how long the hair is, how high over the skull it lies, (n, 1) decimetres; the ways it is
    combed and leaves the skin (n, 3)."""

    length: NDArray[np.float64]
    height: NDArray[np.float64]
    comb: Points
    first: Points


def trim(crop: Crop, ground: Ground, skin: NDArray[np.float64]) -> Strands:
    """The hair of `crop` on the scalp part of `skin`, triangles (t, 3 corners, 3), lying on `ground`. Seconds."""
    rng = np.random.default_rng(crop.seed)
    roots = plant(crop.strands, ground, skin, rng)
    paths = _lie(crop, ground, roots, rng)
    return Strands(clumped(paths, crop.clump, rng), rng.uniform(size=len(paths)))


def _cut(crop: Crop, ground: Ground, roots: Points, out: Points, rng: np.random.Generator) -> _Cut:
    x, y, z = (roots - ground.middle).T
    front, edge = smoothstep(0.25, 0.75, z), smoothstep(0.0, 0.45, ground.above_hairline(roots))
    parting = crop.parting + 0.015 * np.sin(11 * z)
    top = smoothstep(0.42, 0.70, y + 0.10 * smoothstep(0.2, 0.8, z)) * smoothstep(parting + 0.06, parting - 0.02, x)
    sides = crop.edge + (crop.side - crop.edge) * edge
    length = (sides + (crop.top * (0.75 + 0.25 * front) - sides) * top) * rng.uniform(0.72, 1.05, len(roots))
    height = 0.004 + 0.039 * edge + (crop.volume * (0.55 + 0.45 * front) - 0.035) * top
    height = height * rng.uniform(size=len(roots)) ** 0.8
    comb = unit(_combed(x, z, front, top) + 0.10 * rng.normal(size=roots.shape))
    lift = (0.12 + 0.78 * top * (0.4 + 0.6 * front))[:, None]
    return _Cut(length[:, None], height[:, None], comb, unit((1 - lift) * tangent(comb, out) + lift * out))


def _combed(x: Floats, z: Floats, front: Floats, top: Floats) -> Points:
    """The way of the comb: over the top to the person's right and back, down and back beside; never quite straight."""
    stray = 0.35 * np.sin(5.1 * x + 3.0 * z + 0.7) + 0.25 * np.sin(8.3 * z - 4.0 * x)
    over = np.column_stack([-0.85 + 0.2 * stray, 0.35 * front, -0.60 + 0.4 * stray - 0.15 * front])
    beside = np.column_stack([np.zeros_like(x), np.full_like(x, -0.8), -0.8 + 0.3 * stray])
    return np.asarray(top[:, None] * over + (1 - top[:, None]) * beside)


def _lie(crop: Crop, ground: Ground, roots: Points, rng: np.random.Generator) -> NDArray[np.float64]:
    """Paths (n, knots, 3): off the skin, over to where they are combed, at their layer's height over the skull."""
    tree = cKDTree(ground.points)
    out = ground.normals[tree.query(roots)[1]]
    cut = _cut(crop, ground, roots, out, rng)
    at, way, step = roots, cut.first, cut.length / (crop.knots - 1)
    paths = [at]
    for _ in range(1, crop.knots):
        way = unit(0.72 * way + 0.28 * tangent(cut.comb, out))
        at = at + step * way
        _, near = tree.query(at)
        out = ground.normals[near]
        gap = cut.height - np.einsum("nc,nc->n", at - ground.points[near], out)[:, None]
        at = at + np.clip(gap, -0.6 * step, 0.6 * step) * out
        way = unit(at - paths[-1])
        paths.append(at)
    return np.stack(paths, axis=1)
