"""A mouth that talks without weights: three numbers heard in a tick, and the avatar's own picture bent by them.

`MouthFeatures` hears openness, width and rounding; `StillEngine` warps the picture by them. The warp lives in the
mouth's own axes: the origin midway between the corners, `s` from the left corner to the right, `t` towards the chin,
the unit half the mouth's width. So a face may be rolled, and of any size.

What hangs on the upper lip and what hangs on the lower move by two smooth displacement fields, computed on one small
lattice in these axes and enlarged into the picture by one affine map. Where the two part, the mouth is open.

The fields are computed (`bend`) for a coarse grid of windows and an avatar's few typical looks only, once each; what
lies between is interpolated (`Shapes`). So a picture costs little more than the `cv2.remap` that bends it.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from math import floor, hypot, isfinite
from typing import Any
from weakref import WeakKeyDictionary

import cv2
import numpy as np
from numpy.typing import NDArray

from basereal import BaseReal
from core.avatar import (
    CHIN,
    LEFT_CORNER,
    LOWER_INNER,
    LOWER_OUTER,
    NOSE_BASE,
    RIGHT_CORNER,
    UPPER_INNER,
    UPPER_OUTER,
    Avatar,
)
from core.config import Settings
from core.media import Engine, Face, FaceJob, Image, Window
from nets.mouth import MouthFeatures

Array = NDArray[np.floating[Any]]  # float32 unless said otherwise
Span = tuple[float, float, float, float]  # x1 y1 x2 y2, pixels
Box = tuple[int, int, int, int]  # the same of whole ones


def _f32(values: Any) -> Array:
    return np.asarray(values, np.float32)


def _ramp(x: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, linear between."""
    return min(max((x - low) / (high - low), 0.0), 1.0)


def _smooth(x: Any) -> Any:
    """0 to 1 for `x` in 0 to 1, level at both ends."""
    return x * x * (3 - 2 * x)


def _ease(x: Array, low: Array | float, high: Array | float) -> Array:
    """`_ramp` without its corners."""
    return _f32(_smooth(np.clip((x - low) / (high - low), 0, 1)))


REACH = 2.2  # the lattice covers |s| <= REACH, about as wide as a face
COLUMNS = np.linspace(-REACH, REACH, 77, dtype=np.float32)
ROWS = np.linspace(0, 1, 69, dtype=np.float32)[:, None]  # from a mouth's `top` to its `bottom`
LIPS = np.linspace(-1, 1, 49, dtype=np.float32)  # the s at which the line between the lips is kept
LEAST_PX = 4  # half the width of the smallest mouth that moves
NO_BOX: Box = (0, 0, 2, 2)
NO_MAP = np.empty(0, np.float32)
GREY = _f32([0.114, 0.587, 0.299])


@dataclass(frozen=True, slots=True, eq=False)
class Mouth:
    """Where one picture's mouth is: `axes` float64 (2, 3) takes (s, t, 1) to pixels; the rest are places along t."""

    axes: NDArray[np.float64]
    nose: float
    upper: float  # the upper lip's upper edge
    seam: float  # where the lips meet
    lower: float  # the lower lip's lower edge
    chin: float
    gap: float  # between the lips; 0 where they all but touch

    @property
    def unit_px(self) -> float:
        return hypot(self.axes[0, 0], self.axes[1, 0])

    @property
    def closed(self) -> float:
        """1 where the lips touch, 0 where what is between them shows."""
        return 1 - float(_smooth(_ramp(self.gap, 0, 0.12)))

    @property
    def top(self) -> float:
        return self.nose - 0.1

    @property
    def bottom(self) -> float:
        return self.chin + 0.9

    @property
    def rows(self) -> Array:
        """t of the lattice's rows, float32 (n, 1)."""
        return self.top + (self.bottom - self.top) * ROWS

    @property
    def lattice(self) -> NDArray[np.float64]:
        """(2, 3): takes (column, row, 1) of the lattice to pixels."""
        across, down = 2 * REACH / (len(COLUMNS) - 1), (self.bottom - self.top) / (len(ROWS) - 1)
        return np.asarray(self.axes @ np.array([[across, 0, -REACH], [0, down, self.top], [0, 0, 1]]))

    def pixels(self, s: Array, t: Array) -> list[Array]:
        """x and y, float32, of the points whose `s` and `t` broadcast together."""
        return [np.float32(a) * s + np.float32(b) * t + np.float32(c) for a, b, c in self.axes]

    def sample(self, image: Image, s: Array, t: Array) -> Array:
        """`image` at those points, float32 (h, w, 3)."""
        x, y = self.pixels(s, t)
        return _f32(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

    @property
    def reach(self) -> Span:
        """The box around the lattice, wherever the picture ends."""
        return _around(self.axes, (-REACH, REACH), (self.top, self.bottom))

    def box(self, size: tuple[int, int]) -> Box:
        """What of `reach` is in a picture of `size` (width, height): even numbers, at least 2 by 2."""
        x1, y1, x2, y2 = (floor(x / 2) * 2 for x in self.reach)
        return _within((x1, y1, x2 + 4, y2 + 4), (0, 0, size[0] // 2 * 2, size[1] // 2 * 2), 2)


def _around(axes: NDArray[np.float64], columns: Sequence[float], rows: Sequence[float]) -> Span:
    """The box around what `axes` (2, 3) make of a rectangle."""
    x, y = ([a * column + b * row + c for column in columns for row in rows] for a, b, c in axes.tolist())
    return min(x), min(y), max(x), max(y)


def _within(box: Box, bounds: Box, least: int) -> Box:
    """What of `box` lies within `bounds`, and at least a `least` by `least` corner of them."""
    x1, y1 = (min(max(box[i], bounds[i]), bounds[i + 2] - least) for i in (0, 1))
    x2, y2 = (min(max(box[i + 2], first + least), bounds[i + 2]) for i, first in enumerate((x1, y1)))
    return x1, y1, x2, y2


def locate(avatar: Avatar, index: int) -> Mouth | None:
    """The mouth in frame `index`; None where the avatar has none, or one too small to move. About 0.01 ms."""
    if avatar.mouth is None:
        return None
    points = avatar.mouth[index].tolist()
    (x1, y1), (x2, y2) = points[LEFT_CORNER], points[RIGHT_CORNER]
    middle_x, middle_y, across_x, across_y = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
    square = max(across_x**2 + across_y**2, 1.0)
    t = [((y - middle_y) * across_x - (x - middle_x) * across_y) / square for x, y in points]
    if not isfinite(sum(t)) or square < LEAST_PX**2:
        return None
    gap = t[LOWER_INNER] - t[UPPER_INNER]
    upper = min(t[UPPER_OUTER], t[UPPER_INNER] - 0.12)
    lower = max(t[LOWER_OUTER], t[LOWER_INNER] + 0.2)
    return Mouth(
        axes=np.array([[across_x, -across_y, middle_x], [across_y, across_x, middle_y]]),
        nose=min(t[NOSE_BASE], upper - 0.3),
        upper=upper,
        seam=(t[LOWER_INNER] + t[UPPER_INNER]) / 2,
        lower=lower,
        chin=max(t[CHIN], lower + 0.7),
        gap=gap * _smooth(_ramp(gap, 0.06, 0.2)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What one picture's mouth looks like. `line`: t of the line between the lips at LIPS, float32 (49,).

    `bumps`: how far the line strays from a plain arc. `palette` float32 (3, 3): BGR of the dark, the tongue, the teeth.
    """

    mouth: Mouth
    box: Box
    line: Array
    bumps: Array
    palette: Array

    @property
    def build(self) -> NDArray[np.float64]:
        """What a bend's shape depends on, (10,): the places along t, and how much the picture's edges cut off."""
        mouth = self.mouth
        sides = zip((-1, -1, 1, 1), mouth.reach, self.box, strict=True)
        cut = (max(0.0, sign * (end - edge) / mouth.unit_px) for sign, end, edge in sides)
        return np.array([mouth.nose, mouth.upper, mouth.seam, mouth.lower, mouth.chin, 3 * mouth.gap, *cut])


def observe(mouth: Mouth, image: Image) -> Look:
    """The look of `mouth` in `image`; about 0.5 ms."""
    line = _line(mouth, image)
    bumps = _f32((line - np.polyval(np.polyfit(LIPS, line, 2), LIPS)) * _ease(1 - abs(LIPS), 0, 0.3))
    across = np.linspace(-0.4, 0.4, 9, dtype=np.float32)
    lip = mouth.sample(image, across, _f32([[(mouth.seam + mouth.lower) / 2]])).mean((0, 1))
    jaw = np.linspace(0.8 * mouth.lower + 0.2 * mouth.chin, 0.2 * mouth.lower + 0.8 * mouth.chin, 5, dtype=np.float32)
    ivory = _ivory(mouth.sample(image, 2.5 * across, jaw[:, None]))
    palette = _f32([lip * _f32([0.174, 0.161, 0.306]), lip * _f32([0.465, 0.465, 0.64]), ivory])
    return Look(mouth, mouth.box((image.shape[1], image.shape[0])), line, bumps, palette)


def _line(mouth: Mouth, image: Image) -> Array:
    """The dark line between the lips, looked for near the arc that the landmarks tell."""
    arc = np.float32(mouth.seam) * (1 - LIPS**2)
    stray = np.linspace(-0.16, 0.16, 33, dtype=np.float32)[:, None]
    strip = mouth.sample(image, LIPS, arc + stray).mean(2)
    strip -= strip.min(0)
    weight = np.exp(-strip / (0.35 * (strip.std() + 4)) - (stray / 0.1) ** 2)
    found = cv2.GaussianBlur(((weight * stray).sum(0) / weight.sum(0))[None], (9, 1), 2)[0]
    return _f32(arc + found * _ease(1 - abs(LIPS), 0, 0.2) * mouth.closed)


def _ivory(skin: Array) -> Array:
    """The colour of teeth in the light, and under the colour cast, that `skin` (h, w, 3) shows."""
    grey = skin @ GREY
    usual = _f32([0.80, 0.92, 1.23])  # skin over its grey, in white light
    cast = np.clip(skin.mean((0, 1)) / max(float(grey.mean()), 1.0) / usual, 0.7, 1.2) ** 0.5
    light = min(max(float(np.percentile(grey, 80)) / 190, 0.1), 1.2) ** 0.4
    return _f32(np.minimum(_f32([164, 182, 192]) * light * cast, 235))


@dataclass(frozen=True, slots=True)
class Pose:
    """What a window asks of one face, in units of half its mouth's width."""

    pull: float  # of the corners towards the middle, as a fraction
    drop: float  # of the lower lip
    lift: float  # of the upper lip
    pout: float  # swelling of the lips, as a fraction
    aperture: float  # half the width of the opening
    arch: float  # exponent of the opening's outline: 1 a parabola, less something squarer
    parted: float  # 0 to 1 while the lips let go of each other

    @classmethod
    def of(cls, window: Window, mouth: Mouth) -> Pose:
        opened = float(window[0])
        parted = min(1.0, opened / 0.12)
        wide = float(window[1]) * parted * (1 - 0.6 * opened)
        rounded = float(window[2]) * parted
        drop = min(0.60, 0.36 * mouth.chin) * opened * (1 - 0.2 * rounded)
        return cls(
            pull=0.09 * opened * (1 - wide) + 0.24 * rounded - 0.09 * wide,
            drop=max(drop - 0.7 * mouth.gap, 0.3 * drop),
            lift=0.09 * opened**0.8 * (1 + 0.3 * wide),
            pout=0.24 * rounded - 0.10 * wide,
            aperture=0.92 - 0.06 * rounded,
            arch=0.75 - 0.1 * opened - 0.2 * rounded,
            parted=parted,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Bend:
    """A warp on the lattice: where the picture of each lip's side comes from, float32 (rows, columns, 2) pixels.

    `inside` float32 (rows, columns, 4): s before the bend, the depth under the upper lip, the height over the lower
    lip, the depth under where the upper lip was.
    """

    upper: Array
    lower: Array
    inside: Array
    shown: float  # of what is drawn between the lips: where the picture shows some of its own, it is faded to


def bend(look: Look, window: Window) -> Bend:
    """The warp that gives `look` the shape of `window`; it never folds, and is zero all around the lattice."""
    mouth, pose, s, t = look.mouth, Pose.of(window, look.mouth), COLUMNS, look.mouth.rows
    room = _room(mouth, look.box)
    near = (1 - _ease(abs(s), 0.7, 1.75)) * _ease(t, mouth.nose, mouth.upper) * (1 - _ease(t, mouth.lower, mouth.chin))
    aside = room * near * s * (pose.pull / (1 - pose.pull))
    was = s + aside
    arc = room * np.clip(1 - (was / pose.aperture) ** 2, 0, 1) ** pose.arch
    jaw = room * pose.drop * (1 - _ease(abs(was), 0.75, REACH))
    line, bumps = (_f32(np.interp(was, LIPS, kept)) for kept in (look.line, look.bumps))
    corners = 0.45 * jaw * (1 - arc)
    rise = corners - pose.lift * arc
    fall = corners + (pose.drop - min(1.0, 3 * pose.drop) * bumps) * arc
    apart = mouth.gap / 2 * np.clip(1 - was**2, 0, 1)
    above, below = t - line + apart - rise, line + apart + fall - t
    up = (rise + 0.8 * pose.pout * arc * _swell(above, 0.3)) * _ease(t, mouth.nose, mouth.upper)
    down = fall + (0.72 * jaw - fall) * _ease(t - fall, mouth.lower, mouth.chin)
    down = down - pose.pout * arc * _swell(below, 0.4)
    down = down * (1 - _ease(t, mouth.chin + pose.drop / 2, mouth.bottom))
    rim = pose.parted * np.sqrt(arc)  # the dark line itself goes with neither lip
    inside = np.dstack([was, above + 0.015 * rim, below + 0.035 * rim, t - line + apart])
    return Bend(_pixels(mouth, aside, up), _pixels(mouth, aside, down), inside, max(pose.parted, mouth.closed))


def _swell(depth: Array, thickness: float) -> Array:
    return _f32(depth * np.exp(-((depth / thickness) ** 2)))


def _pixels(mouth: Mouth, aside: Array, down: Array) -> Array:
    return np.dstack([np.float32(a) * aside - np.float32(b) * down for a, b, _ in mouth.axes])


def _room(mouth: Mouth, box: Box) -> Array:
    """1, falling to 0 towards each edge of the picture that cuts the lattice off."""
    x, y = mouth.pixels(COLUMNS, mouth.rows)
    room: Array = np.ones(1, np.float32)
    for distance in (x - box[0], y - box[1], box[2] - 1 - x, box[3] - 1 - y):
        if distance.min() < 0:
            room = room * _ease(distance / np.float32(mouth.unit_px), 0.1, 1.4)
    return room


STEPS = (8, 4, 4)  # of openness, width and rounding, from one window that is bent for to the next
OUTER = np.s_[::2, ::2]  # of the lattice: enough where nothing parts
OUTER_SHAPE = (ROWS[::2].size, COLUMNS[::2].size, 2)
PARTING = slice(18, 59)  # the columns with |s| <= 1.16
ALIKE = 0.1  # how far the `build` of two looks may differ for one to be bent like the other
MOST_SHAPES = 8  # typical looks of one avatar


class Shapes:
    """The bends of one typical look: computed on a grid of windows as they are needed, interpolated between.

    Each is kept as a float32 vector of about 50 kB: the shift of what is OUTER; where lips may part (`parting`, rows
    and columns) both shifts, and `inside`; last `shown`.
    """

    def __init__(self, look: Look) -> None:
        self.look = look
        self.soft = max(0.02, 0.8 / look.mouth.unit_px)
        self.teeth = _teeth(self.soft)
        margin, rows = look.mouth.gap / 2 + 0.35, look.mouth.rows[:, 0]
        first, last = np.searchsorted(rows, [look.line.min() - margin, look.line.max() + margin + 0.5])
        self.parting = slice(int(first), int(last)), PARTING
        self._kept: dict[tuple[int, ...], Array] = {}

    def unlike(self, look: Look) -> float:
        return float(abs(self.look.build - look.build).max())

    def at(self, window: Window) -> Array:
        """The vector for `window`: a mean over the tetrahedron of the grid that it is in."""
        place = [min(max(x, 0.0), 1.0) * steps for x, steps in zip(window.tolist(), STEPS, strict=True)]
        corner = [int(x) for x in place]
        rest = sorted(((x - n, axis) for axis, (x, n) in enumerate(zip(place, corner, strict=True))), reverse=True)
        vector = self._vector(*corner) * np.float32(1 - rest[0][0])
        for (most, axis), (least, _) in pairwise([*rest, (0.0, 0)]):
            corner[axis] += 1
            if most > least:
                vector += self._vector(*corner) * np.float32(most - least)
        return vector

    def _vector(self, *corner: int) -> Array:
        if corner not in self._kept:
            warp = bend(self.look, _f32(corner) / _f32(STEPS))
            lips = np.dstack([warp.upper, warp.lower])
            outer = _choose(warp.inside, lips)[OUTER]
            fields = (outer, lips[self.parting], warp.inside[self.parting], _f32(warp.shown))
            self._kept[corner] = np.concatenate([values.ravel() for values in fields])
        return self._kept[corner]


class Fit:
    """One picture's look, bent as a typical one is: what of that does not depend on the window.

    `outer` and `lattice`, float64 (2, 3), place the OUTER lattice in the patch at half its size, and `parting` in the
    picture.
    """

    def __init__(self, look: Look, shapes: Shapes) -> None:
        self.look, self.shapes = look, shapes
        typical, lattice, (rows, columns) = shapes.look, look.mouth.lattice, shapes.parting
        self.outer = np.column_stack([lattice[:, :2], (lattice[:, 2] - look.box[:2] - 0.5) / 2])
        self.lattice = lattice @ np.array([[1, 0, columns.start], [0, 1, rows.start], [0, 0, 1]])
        self._turn = look.mouth.axes[:, :2] @ np.linalg.inv(typical.mouth.axes[:, :2])
        line = np.interp(COLUMNS[columns], LIPS, look.line - typical.line)
        self._deeper = _f32(((look.mouth.rows - typical.mouth.rows)[rows] - line)[..., None] * [0, 1, -1, 1])

    def bend(self, window: Window) -> tuple[Array, Array, Array, float]:
        """What `Shapes` keeps, as it is for this picture; shifts are (rows, columns, 2), or 4 for both."""
        vector, size = self.shapes.at(window), self._deeper.size
        shifts = _f32(cv2.transform(vector[: -size - 1].reshape(1, -1, 2), self._turn)).ravel()
        inside = vector[-size - 1 : -1].reshape(self._deeper.shape) + self._deeper
        outer, lips = shifts[:-size].reshape(OUTER_SHAPE), shifts[-size:].reshape(inside.shape)
        return outer, lips, inside, float(vector[-1])


def draw(fit: Fit, image: Image, window: Window) -> Image:
    """The part of `image` in the look's box with its mouth bent to `window`, uint8 (h, w, 3)."""
    box = fit.look.box
    outer, lips, inside, shown = fit.bend(window)
    width, height = box[2] - box[0], box[3] - box[1]
    shift = cv2.resize(_enlarge(outer, fit.outer, width // 2, height // 2), (width, height))
    cv2.rectangle(shift, (0, 0), (width - 1, height - 1), (0, 0))  # the border is the original's
    x1, y1, x2, y2 = _opening(inside, fit)
    place = fit.lattice - [[0, 0, x1], [0, 0, y1]]
    lips, inside = (_enlarge(field, place, x2 - x1, y2 - y1) for field in (lips, inside))
    hole = np.s_[y1 - box[1] : y2 - box[1], x1 - box[0] : x2 - box[0]]
    shift[hole] = _choose(inside, lips)
    flags = cv2.INTER_CUBIC | cv2.WARP_RELATIVE_MAP
    bent = np.asarray(cv2.remap(_cut(image, box), shift, NO_MAP, flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)
    bent[hole] = _filled(bent[hole], fit, inside, shown)
    return bent


def _choose(inside: Array, lips: Array) -> Array:
    """Of the shifts (h, w, 4) of both lips the one of the lip that a place goes with, (h, w, 2)."""
    upper, lower = np.moveaxis(lips.view(np.complex64), 2, 0)  # x and y in one
    return _f32(np.where(inside[..., 1] > inside[..., 2], lower, upper)[..., None].view(np.float32))


def _cut(image: Image, box: Box) -> Image:
    return image[box[1] : box[3], box[0] : box[2]]


def _enlarge(field: Array, place: NDArray[np.float64], width: int, height: int) -> Array:
    return _f32(cv2.warpAffine(field, place, (width, height), borderMode=cv2.BORDER_REPLICATE))


def _opening(inside: Array, fit: Fit) -> Box:
    """The part of the look's box where the lips are apart, with a rim."""
    above, below = inside[..., 1], inside[..., 2]
    apart = (np.minimum(above, below) > -0.2) & (above + below > 0)
    column, row, width, height = cv2.boundingRect(apart.view(np.uint8))
    x1, y1, x2, y2 = map(int, _around(fit.lattice, (column - 1, column + width), (row - 1, row + height)))
    return _within((x1, y1, x2 + 2, y2 + 2), fit.look.box, 1)


def _filled(image: Image, fit: Fit, inside: Array, shown: float) -> Image:
    """`image` (h, w, 3) with what is seen between the lips drawn into it; `inside` (h, w, 4) is of its pixels."""
    per_edge = min(fit.look.mouth.unit_px, 60) / 1.2  # an edge is 1.2 px soft, more in large pictures
    inner, outer = (np.minimum(inside[..., side] * per_edge + 0.5, 1) for side in (1, 2))
    weight = shown * np.maximum(inner + outer - 1, 0)
    seen, pixels = np.flatnonzero(weight > 0), image.reshape(-1, 3)
    colour = _interior(inside.reshape(-1, 4).take(seen, 0).T, fit.shapes.teeth, fit.shapes.soft) @ fit.look.palette
    under = pixels.take(seen, 0)
    pixels[seen] = under + (colour - under) * weight.take(seen)[:, None]
    return pixels.reshape(image.shape)


GAPS = (0.0, 0.30, 0.54, 0.76)  # the |s| at which one tooth ends and the next begins
S_STEPS = 512  # from the middle to a corner, in a table of teeth
EASES = _f32([[0, 0.12], [-0.02, 0.06], [-0.02, 0.06], [0.1, 0.35], [0.28, 0.5], [0.2, 0.75], [-1, 1], [-1, 1]])


def _teeth(soft: float) -> Array:
    """What of the inside of a mouth depends on |s| alone, float32 (7, S_STEPS + 1), an edge being `soft`.

    How much tongue there is; then how much of the upper teeth, how long, how bright; then the same of the lower.
    """
    s = np.linspace(0, 1, S_STEPS + 1, dtype=np.float32)
    between = np.exp(-(((s - _f32(GAPS)[:, None]) / max(0.016, soft / 2)) ** 2)).sum(0)
    front = 1 - _ease(s, 0.35, 0.82)
    upper = front, 0.10 - 0.07 * s * s - 0.018 * between, (0.45 + 0.55 * front) * (1 - 0.18 * between)
    lower = 0.75 - 0.75 * _ease(s, 0.25, 0.62), 0.13 - 0.11 * s * s, 0.8 - 0.16 * between
    return _f32([1 - 0.7 * _ease(s, 0.1, 0.7), *upper, *lower])


def _interior(inside: Array, teeth: Array, soft: float) -> Array:
    """How much of the dark, the tongue and the teeth is seen where `inside` is (4, n), float32 (n, 3)."""
    s, above, below, depth = inside
    at = np.minimum(abs(s) * S_STEPS, S_STEPS).astype(np.intp)
    tongue, upper, upper_end, upper_light, lower, lower_end, lower_light = teeth.take(at, 1)
    opening = above + below
    ends = (upper_end - depth) / soft, (lower_end - below) / soft
    eased = np.stack([above, above, below, opening, opening, above / np.maximum(opening, 1e-3), *ends])
    lit, by_upper, by_lower, deep, wide, low, is_upper, is_lower = _ease(eased, EASES[:, :1], EASES[:, 1:])
    tongue, upper, lower = tongue * low * deep, upper * is_upper, lower * is_lower * wide
    light = (0.6 + 0.4 * by_upper) * (0.75 + 0.25 * by_lower)
    flesh, upper_light = light * (1 - upper) * (1 - lower), upper_light * (0.5 + 0.5 * lit)
    ivory = light * (upper * upper_light * (1 - lower) + lower * lower_light)
    return np.stack([flesh * (1 - tongue), flesh * tongue, ivory], 1)


class StillEngine:
    """`Engine` of images and arithmetic: about 0.4 ms for the mouth of a 512 x 512 portrait.

    `Face.image` is the picture within `mouth_patch`: its border is the original's, and at openness 0 all of it is.
    """

    max_batch = 16

    def __init__(self) -> None:
        self._fits: WeakKeyDictionary[Avatar, dict[int, Fit | None]] = WeakKeyDictionary()

    def infer(self, jobs: Sequence[FaceJob]) -> list[Face]:
        return [Face(job, self._face(job)) for job in jobs]

    def _face(self, job: FaceJob) -> Image:
        fit, image = self._fit(job.avatar, job.avatar_index), job.avatar.image(job.avatar_index)
        if fit is None or job.window[0] <= 0:
            return _cut(image, fit.look.box if fit else NO_BOX).copy()
        return draw(fit, image, job.window)

    def _fit(self, avatar: Avatar, index: int) -> Fit | None:
        fits = self._fits.setdefault(avatar, {})
        if index not in fits:
            mouth, known = locate(avatar, index), {fit.shapes for fit in fits.values() if fit}
            fits[index] = _fit(observe(mouth, avatar.image(index)), known) if mouth else None
        return fits[index]


def _fit(look: Look, known: Set[Shapes]) -> Fit:
    """`look` with the shapes of the typical look that is most like it; with its own if none is much like it."""
    shapes = min(known, key=lambda shapes: shapes.unlike(look), default=None)
    if shapes is None or (shapes.unlike(look) > ALIKE and len(known) < MOST_SHAPES):
        shapes = Shapes(look)
    return Fit(look, shapes)


class StillReal(BaseReal):
    """A session whose mouth is warped, without weights: the quick start, and the example of how to add an engine."""

    @classmethod
    def make_engine(cls, settings: Settings) -> StillEngine:
        return StillEngine()

    @classmethod
    def make_features(cls, engine: Engine) -> MouthFeatures:
        return MouthFeatures()

    @staticmethod
    def paste(face: Face) -> Image:
        return paste(face)


def mouth_patch(avatar: Avatar, index: int) -> Box:
    """The box x1, y1, x2, y2 that the Face of frame `index` fills: even numbers, inside the picture. Any thread."""
    mouth = locate(avatar, index)
    return mouth.box(avatar.size) if mouth else NO_BOX


def paste(face: Face) -> Image:
    """The whole picture, uint8 (H, W, 3): a copy of the avatar's frame with `face` in place. Any thread."""
    avatar, index = face.job.avatar, face.job.avatar_index
    image = avatar.image(index).copy()
    _cut(image, mouth_patch(avatar, index))[:] = face.image
    return image
