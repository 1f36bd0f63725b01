"""Hair grown strand by strand: roots on the scalp, combed from a parting, falling over head and shoulders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

from .mesh import Points, unit
from .rig import smoothstep

STEP, STEPS = 0.06, 70  # decimetres a step


@dataclass(frozen=True)
class Hairline:
    """Where hair begins: its height over the skull's middle, decimetres, at so many degrees from the front."""

    degrees: tuple[float, ...]
    heights: tuple[float, ...]


LONG = Hairline(
    degrees=(0, 14, 28, 46, 60, 72, 84, 100, 118, 145, 180),
    heights=(0.40, 0.40, 0.39, 0.24, 0.06, -0.18, -0.25, -0.15, -0.55, -0.95, -1.00),
)


@dataclass(frozen=True)
class Groom:
    """How hair is cut and combed. Decimetres; `parting` and `sweep` count to the person's left."""

    parting: float = 0.24  # where the parting meets the hairline
    ends: float = 5.42  # height of the tips
    ragged: float = 0.10  # spread of that height
    lift: float = 0.12  # thickness over the skull
    wave: float = 0.030
    wave_length: float = 1.05
    clump: float = 0.55  # 0 loose .. 1 every lock one point
    guides: int = 5500
    strands: int = 22000
    knots: int = 18
    width: float = 0.0065
    hairline: Hairline = LONG
    seed: int = 3


@dataclass(frozen=True, eq=False)
class Strands:
    """`points` (n, knots, 3) root to tip at rest, and a random number in [0, 1] for each strand."""

    points: NDArray[np.float64]
    chance: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ground:
    """What hair lies on: points (n, 3) with unit normals, the middle of the skull (3,), and where hair begins."""

    points: Points
    normals: Points
    middle: NDArray[np.float64]
    hairline: Hairline = LONG

    def above_hairline(self, points: Points) -> NDArray[np.float64]:
        """Height of `points` over the hairline at their azimuth; negative on the face and neck."""
        x, y, z = (points - self.middle).T
        azimuth = np.degrees(np.arctan2(np.abs(x), z + 0.1))
        return np.asarray(y - np.interp(azimuth, self.hairline.degrees, self.hairline.heights))


@dataclass(frozen=True, eq=False)
class Ribbons:
    """Strands as camera-facing bands: vertex `i` is point `source[i]`, `uvs` its side (-1, 1) and place root to tip."""

    source: NDArray[np.int64]
    uvs: NDArray[np.float32]
    triangles: NDArray[np.uint32]
    chance: NDArray[np.float32]  # (vertices,)
    knots: int

    def only(self, chosen: NDArray[np.bool_]) -> Ribbons:
        """The strands under `chosen` (count,)."""
        vertices = np.repeat(chosen, 2 * self.knots)
        number = np.cumsum(vertices) - 1
        triangles = number[self.triangles[vertices[self.triangles[:, 0]]]].astype(np.uint32)
        points = np.cumsum(np.repeat(chosen, self.knots)) - 1
        return Ribbons(points[self.source[vertices]], self.uvs[vertices], triangles, self.chance[vertices], self.knots)

    def normals(self, points: Points) -> Points:
        """None: a hair faces every way."""
        return np.zeros_like(points)

    def along(self, points: Points) -> Points:
        """Unit direction root to tip at each of `points`."""
        return unit(np.asarray(np.gradient(points.reshape(-1, self.knots, 3), axis=1))).reshape(-1, 3)


def ribbons(strands: Strands) -> Ribbons:
    """Two vertices a knot, two triangles between knots."""
    count, knots = strands.points.shape[:2]
    source = np.repeat(np.arange(count * knots), 2)
    place = np.tile(np.linspace(0, 1, knots), count)
    uvs = np.column_stack([np.tile([-1, 1], count * knots), np.repeat(place, 2)]).astype(np.float32)
    first = (2 * np.arange(count * knots).reshape(count, knots)[:, :-1]).reshape(-1)
    triangles = np.concatenate([first[:, None] + [0, 1, 2], first[:, None] + [1, 3, 2]]).astype(np.uint32)
    return Ribbons(source, uvs, triangles, np.repeat(strands.chance, 2 * knots).astype(np.float32), knots)


def grow(groom: Groom, ground: Ground, skin: NDArray[np.float64]) -> Strands:
    """The hair of `groom` on the scalp part of `skin`, triangles (t, 3 corners, 3), lying on `ground`. Seconds."""
    rng = np.random.default_rng(groom.seed)
    roots = plant(groom.guides, ground, skin, rng)
    paths = _fall(groom, ground, roots, rng)
    ends = groom.ends + groom.ragged * rng.normal(size=len(roots))
    guides = _cut(paths, ends, groom.knots)
    guides = _waved(groom, clumped(guides, groom.clump, rng), rng)
    parents = rng.integers(0, len(guides), groom.strands)
    return Strands(_children(guides[parents], rng), rng.uniform(size=groom.strands))


def plant(count: int, ground: Ground, corners: NDArray[np.float64], rng: np.random.Generator) -> Points:
    """Roots: `count` points at most on triangles `corners` (t, 3, 3) above the hairline, fewer near it."""
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    height = ground.above_hairline(corners.mean(axis=1))
    weight = area * (height > -0.05)
    chosen = rng.choice(len(corners), 3 * count, p=weight / weight.sum())
    u, v = np.sqrt(rng.uniform(size=(len(chosen), 1))), rng.uniform(size=(len(chosen), 1))
    points = (1 - u) * corners[chosen, 0] + u * (1 - v) * corners[chosen, 1] + u * v * corners[chosen, 2]
    dense = smoothstep(0.0, 0.10, ground.above_hairline(points) + rng.normal(0, 0.010, len(points)))
    return np.asarray(points[rng.uniform(size=len(points)) < dense][:count])


@dataclass(frozen=True, eq=False)
class _Combing:
    """For each of n roots: the side of the parting (-1 right, 1 left), where it is combed to, over what length (n, 1)
    decimetres, in which layer (0 on the skin .. 1 outermost), and the way it leaves the skin."""

    side: NDArray[np.float64]
    comb: Points
    reach: NDArray[np.float64]
    layer: NDArray[np.float64]
    first: Points


def _combing(groom: Groom, ground: Ground, roots: Points, out: Points, rng: np.random.Generator) -> _Combing:
    x, y, z = (roots - ground.middle).T
    parting = groom.parting * smoothstep(-0.5, 0.3, z) + 0.012 * np.sin(9 * z)
    side = np.where(x > parting, 1.0, -1.0)[:, None]
    ahead, top = smoothstep(-0.1, 0.7, z)[:, None], smoothstep(-0.1, 0.55, y)[:, None]
    comb = side * [0.85, 0, 0] * (0.1 + 0.9 * top) + ahead * [0, 0.05, -0.35] + (1 - top) * [0, -0.9, -0.1]
    reach = 0.25 + 0.40 * ahead * top + 0.25 * top * rng.uniform(size=(len(roots), 1))
    layer = (0.15 + 0.85 * top) * rng.uniform(size=(len(roots), 1)) ** 1.2
    over = np.exp(-(((x - parting) / 0.10) ** 2))[:, None] * top
    first = tangent(comb, out) * (1 - 1.5 * over) + (0.3 + 0.9 * over) * out + 0.10 * rng.normal(size=roots.shape)
    return _Combing(side, comb, reach, layer, unit(first))


def _fall(groom: Groom, ground: Ground, roots: Points, rng: np.random.Generator) -> NDArray[np.float64]:
    """Paths (n, STEPS, 3): combed off the parting at first, then down, pushed out of whatever they meet.

    Over the skull they are held near it; below, they hang.
    """
    tree = cKDTree(ground.points)
    out = ground.normals[tree.query(roots)[1]]
    combing = _combing(groom, ground, roots, out, rng)
    at, way, held = roots, combing.first, np.ones((len(roots), 1))
    paths = [at]
    for step in range(1, STEPS):
        gone = step * STEP
        combed = np.exp(-((gone / combing.reach) ** 2))
        down = tangent(np.broadcast_to([0.0, -1.0, 0.0], at.shape), held * out)
        wanted = combed * tangent(combing.comb, out) + (1 - combed) * down - (1 - held) * combing.side * [0.10, 0, 0]
        way = unit(0.72 * way + 0.28 * unit(wanted + _from_face(at - ground.middle, combing.side)))
        at = at + STEP * way
        distance, near = tree.query(at)
        out = ground.normals[near]
        height = np.einsum("nc,nc->n", at - ground.points[near], out)[:, None]
        gap = (0.02 + groom.lift * combing.layer) * min(1.0, 0.35 + gone / 0.5) - height
        held = smoothstep(-0.35, 0.1, (at - ground.middle)[:, 1:2])
        pull = np.maximum(gap, 0) + 0.7 * held * np.minimum(gap, 0)
        at = at + np.where(distance[:, None] < 0.6, pull, 0) * out
        way = unit(at - paths[-1])
        paths.append(at)
    return np.asarray(gaussian_filter1d(np.stack(paths, axis=1), 2.0, axis=1, mode="nearest"))


def tangent(way: Points, out: Points) -> Points:
    """`way` without most of its part along `out`."""
    return np.asarray(way - 0.9 * np.einsum("nc,nc->n", way, out)[:, None] * out)


def _from_face(at: Points, side: NDArray[np.float64]) -> Points:
    """What keeps hair beside the face: outwards and back while it is in front of the cheeks."""
    x, y, z = at.T
    before = smoothstep(0.1, 0.45, z) * smoothstep(0.35, 0.0, y) * smoothstep(0.82, 0.62, np.abs(x))
    return np.asarray(before[:, None] * (side * [0.7, 0, 0] + [0, 0, -0.5]))


def _cut(paths: NDArray[np.float64], ends: NDArray[np.float64], knots: int) -> NDArray[np.float64]:
    """`paths` up to where they first come below `ends` or lie down on the shoulders, as `knots` even points each."""
    down = np.diff(paths[:, :, 1], axis=1, append=-np.inf)
    lying = (down > -0.6 * STEP) & (paths[:, :, 1] < ends[:, None] + 0.45)
    below = (paths[:, :, 1] < ends[:, None]) | lying
    last = np.where(below.any(axis=1), below.argmax(axis=1), paths.shape[1] - 1)
    place = np.maximum(last, 3)[:, None] * np.linspace(0, 1, knots)
    low = np.minimum(place.astype(int), paths.shape[1] - 2)
    part = (place - low)[..., None]
    row = np.arange(len(paths))[:, None]
    return np.asarray((1 - part) * paths[row, low] + part * paths[row, low + 1])


def clumped(guides: NDArray[np.float64], clump: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Neighbours of `guides` (n, knots, 3) drawn together towards their tips: 0 not at all .. 1 to one point."""
    count, knots = guides.shape[:2]
    leaders = rng.choice(count, max(1, count // 22), replace=False)
    middles = guides[:, knots // 2]
    _, mine = cKDTree(middles[leaders]).query(middles)
    along = np.linspace(0, 1, knots)[None, :, None]
    pulled = clump * rng.uniform(0.3, 1.0, (count, 1, 1)) * along**2
    return np.asarray(guides + pulled * (guides[leaders[mine]] - guides))


def _waved(groom: Groom, guides: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """`guides` with soft waves, neighbours nearly in step."""
    lengths = np.linalg.norm(np.diff(guides, axis=1), axis=2).cumsum(axis=1)
    gone = np.concatenate([np.zeros((len(guides), 1)), lengths], axis=1)
    middle = guides[:, groom.knots // 2]
    step = 2.0 * np.sin(2.1 * middle[:, 0] + 0.5) + 1.5 * np.sin(3.3 * middle[:, 2]) + rng.normal(0, 0.35, len(guides))
    phase = 2 * np.pi * gone / groom.wave_length + step[:, None]
    size = groom.wave * smoothstep(0.6, 2.2, gone)
    across = unit(np.cross(np.asarray(np.gradient(guides, axis=1)), [0, 1, 0.01]))
    outward = unit(guides * [1, 0, 1])
    return np.asarray(guides + (size * np.sin(phase))[..., None] * (0.6 * across + 0.6 * outward))


def _children(parents: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """One strand beside each of `parents`, closest in mid-length, a few flying off."""
    count, knots = parents.shape[:2]
    along = np.linspace(0, 1, knots)[None, :, None]
    offset = rng.normal(0, 0.016, (count, 1, 3)) * (1 - 0.3 * along)
    drift = rng.normal(0, 1, (count, 1, 3)) * along**2
    wild = np.where(rng.uniform(size=(count, 1, 1)) < 0.04, 0.045, 0.014)
    return np.asarray(parents + offset + wild * drift)
