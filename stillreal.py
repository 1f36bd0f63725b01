"""A mouth that talks without weights: three numbers heard in a tick, and the avatar's own picture bent by them.

`MouthFeatures` hears openness, width and rounding; `StillEngine` warps the picture by them. The warp lives in the
mouth's own axes: the origin midway between the corners, `s` from the left corner to the right, `t` towards the chin,
the unit half the mouth's width. So a face may be rolled, and of any size.

What hangs on the upper lip and what hangs on the lower move by two smooth displacement fields, computed on one small
lattice in these axes and enlarged into the picture by one affine map. Where the two part, the mouth is open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from core.media import SAMPLE_RATE, TICK_SAMPLES, Face, FaceJob, Image, Pcm, Window

Array = NDArray[np.floating[Any]]  # float32 unless said otherwise
Box = tuple[int, int, int, int]  # x1 y1 x2 y2, pixels

FRAME_SAMPLES = SAMPLE_RATE * 20 // 1000  # 320
HOP_SAMPLES = SAMPLE_RATE * 10 // 1000  # 160, four frames to a tick
KEPT_SAMPLES = FRAME_SAMPLES - HOP_SAMPLES
HANN = np.hanning(FRAME_SAMPLES).astype(np.float32)
HZ = np.fft.rfftfreq(FRAME_SAMPLES, 1 / SAMPLE_RATE)


def _band(low_hz: float, high_hz: float) -> Array:
    """Weights that sum a power spectrum to the band's mean square."""
    return np.where((low_hz <= HZ) & (high_hz > HZ), 2 / (FRAME_SAMPLES * float((HANN**2).sum())), 0.0)


# OPEN all but leaves out the first formant of close vowels, where nasals and voiced stops have their energy too.
OPEN, LOW, BACK, FRONT, HISS = range(5)
BANDS = np.stack(
    [
        0.06 * _band(250, 600) + _band(600, 3000),
        _band(200, 600),
        _band(600, 1300),
        _band(1700, 3800),
        _band(4000, 8001),
    ],
    axis=1,
).astype(np.float32)


def _levels(pcm: Pcm) -> Array:
    """Band levels in dBFS, float32 (4, 5), of a tick's four frames."""
    frames = np.lib.stride_tricks.sliding_window_view(pcm, FRAME_SAMPLES)[::HOP_SAMPLES]
    power = np.abs(np.fft.rfft(frames * HANN, axis=1)).astype(np.float32) ** 2 @ BANDS
    return _f32(10 * np.log10(power + np.float32(1e-10)))


def _f32(values: Any) -> Array:
    return np.asarray(values, np.float32)


def _ramp(x: Array | float, low: Array | float, high: Array | float) -> Array:
    """0 up to `low`, 1 from `high` on, linear between."""
    return np.clip((x - low) / (high - low), 0, 1)


def _ease(x: Array | float, low: float, high: float) -> Array:
    """`_ramp` without its corners."""
    x = _ramp(x, low, high)
    return x * x * (3 - 2 * x)


class MouthFeatures:
    """Windows float32 (3,): openness, width and rounding, each in [0, 1]; one per 640 samples, nothing held back.

    Causal, with a running idea of how loud the voice and the room are. The mouth opens within its tick and is shut,
    exactly 0, three ticks into a silence. About 0.1 ms a tick. The figures are tuned on English and Mandarin with known
    phoneme times and checked on filmed speakers: openness is 0.55 on vowels, 0.3 on m, 0.15 on p and b.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._pcm: Pcm = np.zeros(KEPT_SAMPLES, np.float32)
        self._voice_db = -22.0
        self._room_db = -48.0
        self._window: Array = np.zeros(3, np.float32)

    def push(self, pcm: Pcm) -> list[Window]:
        self._pcm = np.concatenate([self._pcm, np.asarray(pcm, np.float32)])
        windows: list[Window] = []
        while len(self._pcm) >= KEPT_SAMPLES + TICK_SAMPLES:
            self._window = self._hear(_levels(self._pcm[: KEPT_SAMPLES + TICK_SAMPLES]))
            windows.append(self._window)
            self._pcm = self._pcm[TICK_SAMPLES:]
        return windows

    def finish(self) -> list[Window]:
        return []

    def _hear(self, levels: Array) -> Window:
        gate_db = self._gate(float(levels[:, OPEN].max()))
        hiss = _ramp(levels[:, HISS] - np.maximum(levels[:, OPEN], gate_db), 3, 15)
        hiss = hiss * _ramp(levels[:, HISS], gate_db, gate_db + 12)
        nasal = _ramp(levels[:, LOW] - np.maximum(levels[:, BACK], levels[:, FRONT]), 17, 27)
        opened = _ramp(levels[:, OPEN], gate_db, self._voice_db + 4) * (1 - 0.5 * nasal)
        opened = np.maximum(opened, 0.2 * hiss)
        tone = np.average(levels, axis=0, weights=opened + 1e-6)
        hissing = float(hiss.mean())
        wide = max(float(_ramp(tone[FRONT] - tone[BACK], -4, 6)), 0.8 * hissing)
        rounded = float(_ramp((tone[LOW] + tone[BACK]) / 2 - tone[FRONT], 13, 22)) * (1 - hissing)
        return self._move(float(0.7 * opened.mean() + 0.3 * opened.min()), wide, rounded)

    def _gate(self, level_db: float) -> float:
        """The level that just opens the mouth; both running references have heard `level_db`."""
        self._room_db = min(max(level_db, -70.0), self._room_db + 0.12, self._voice_db - 26, -34.0)
        gate_db = max(self._room_db + 9, self._voice_db - 28, -50.0)
        if level_db > gate_db + 3:
            rate = 0.25 if level_db > self._voice_db else 0.03
            self._voice_db = max(self._voice_db + rate * (level_db - self._voice_db), -44.0)
        return gate_db

    def _move(self, opened: float, wide: float, rounded: float) -> Window:
        was = float(self._window[0])
        now = was + 0.85 * (opened - was) if opened > was else max(opened, 0.5 * was - 0.072)
        if now <= 0:
            return np.zeros(3, np.float32)
        aim = _f32([wide, rounded]) * min(1.0, opened / 0.15)
        return _f32([now, *(0.4 * self._window[1:] + 0.6 * aim)])


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
        return float(np.hypot(*self.axes[:, 0]))

    @property
    def closed(self) -> float:
        """1 where the lips touch, 0 where what is between them shows."""
        return 1 - float(_ease(self.gap, 0, 0.12))

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

    def box(self, size: tuple[int, int]) -> Box:
        """The box around the lattice in a picture of `size` (width, height): even numbers, at least 2 by 2."""
        x, y = self.pixels(_f32([-REACH, REACH]), _f32([[self.top], [self.bottom]]))
        most = np.array(size) // 2 * 2
        first = np.clip(np.floor([x.min() / 2, y.min() / 2]) * 2, 0, most - 2)
        last = np.clip(np.ceil([x.max() / 2 + 1, y.max() / 2 + 1]) * 2, first + 2, most)
        return int(first[0]), int(first[1]), int(last[0]), int(last[1])


def locate(avatar: Avatar, index: int) -> Mouth | None:
    """The mouth in frame `index`; None where the avatar has none, or one too small to move."""
    points = avatar.mouth[index].astype(np.float64)
    across = (points[RIGHT_CORNER] - points[LEFT_CORNER]) / 2
    if not np.isfinite(points).all() or np.hypot(*across) < LEAST_PX:
        return None
    centre, down = (points[RIGHT_CORNER] + points[LEFT_CORNER]) / 2, np.array([-across[1], across[0]])
    t = [float(place) for place in (points - centre) @ down / (across @ across)]
    gap = t[LOWER_INNER] - t[UPPER_INNER]
    upper = min(t[UPPER_OUTER], t[UPPER_INNER] - 0.12)
    lower = max(t[LOWER_OUTER], t[LOWER_INNER] + 0.2)
    return Mouth(
        axes=np.column_stack([across, down, centre]),
        nose=min(t[NOSE_BASE], upper - 0.3),
        upper=upper,
        seam=(t[LOWER_INNER] + t[UPPER_INNER]) / 2,
        lower=lower,
        chin=max(t[CHIN], lower + 0.7),
        gap=gap * float(_ease(gap, 0.06, 0.2)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What one picture's mouth looks like. `line`: t of the line between the lips at LIPS, float32 (49,).

    `bumps`: how far the line strays from a plain arc. `lip`, `ivory`: colours, BGR float32 (3,).
    """

    mouth: Mouth
    box: Box
    line: Array
    bumps: Array
    lip: Array
    ivory: Array


def observe(mouth: Mouth, image: Image) -> Look:
    """The look of `mouth` in `image`; about 0.5 ms."""
    line = _line(mouth, image)
    bumps = _f32((line - np.polyval(np.polyfit(LIPS, line, 2), LIPS)) * _ease(1 - abs(LIPS), 0, 0.3))
    across = np.linspace(-0.4, 0.4, 9, dtype=np.float32)
    lip = mouth.sample(image, across, _f32([[(mouth.seam + mouth.lower) / 2]])).mean((0, 1))
    jaw = np.linspace(0.8 * mouth.lower + 0.2 * mouth.chin, 0.2 * mouth.lower + 0.8 * mouth.chin, 5, dtype=np.float32)
    ivory = _ivory(mouth.sample(image, 2.5 * across, jaw[:, None]))
    box = mouth.box((image.shape[1], image.shape[0]))
    return Look(mouth, box, line, bumps, lip, ivory)


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


def draw(look: Look, image: Image, window: Window) -> Image:
    """The part of `image` in `look.box` with its mouth bent to `window`, uint8 (h, w, 3)."""
    warp, patch = bend(look, window), _cut(image, look.box)
    shift = _enlarge(_choose(warp.inside, warp.upper, warp.lower), look, look.box)
    box = _opening(warp, look)
    hole = np.s_[box[1] - look.box[1] : box[3] - look.box[1], box[0] - look.box[0] : box[2] - look.box[0]]
    inside, upper, lower = (_enlarge(field, look, box) for field in (warp.inside, warp.upper, warp.lower))
    shift[hole] = _choose(inside, upper, lower)
    flags = cv2.INTER_CUBIC | cv2.WARP_RELATIVE_MAP
    bent = np.asarray(cv2.remap(patch, shift, NO_MAP, flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)
    per_edge = min(look.mouth.unit_px, 60) / 1.2  # an edge is 1.2 px soft, more in large pictures
    inner, outer = (np.minimum(inside[..., side] * per_edge + 0.5, 1) for side in (1, 2))
    bent[hole] = _over(_f32(bent[hole]), _interior(look, inside), warp.shown * np.maximum(inner + outer - 1, 0))
    return bent


def _choose(inside: Array, upper: Array, lower: Array) -> Array:
    return np.where((inside[..., 1] > inside[..., 2])[..., None], lower, upper)


def _cut(image: Image, box: Box) -> Image:
    return image[box[1] : box[3], box[0] : box[2]]


def _enlarge(field: Array, look: Look, box: Box) -> Array:
    """The part of a field on the lattice that fills `box`."""
    place = look.mouth.lattice
    place[:, 2] -= box[:2]
    return _f32(cv2.warpAffine(field, place, (box[2] - box[0], box[3] - box[1]), borderMode=cv2.BORDER_REPLICATE))


def _opening(warp: Bend, look: Look) -> Box:
    """The part of `look.box` where the lips are apart, with a rim."""
    above, below = warp.inside[..., 1], warp.inside[..., 2]
    apart = (above > -0.2) & (below > -0.2) & (above + below > 0)
    left, top, width, height = cv2.boundingRect(apart.astype(np.uint8))
    columns, rows = np.array([left - 1, left + width]), np.array([top - 1, top + height])
    x, y = (a * columns + b * rows[:, None] + c for a, b, c in look.mouth.lattice)
    first = np.clip([x.min(), y.min()], look.box[:2], np.array(look.box[2:]) - 1).astype(int)
    last = np.clip([x.max() + 2, y.max() + 2], first + 1, look.box[2:]).astype(int)
    return int(first[0]), int(first[1]), int(last[0]), int(last[1])


TEETH = (0.0, 0.30, 0.54, 0.76)  # the |s| at which one tooth ends and the next begins


def _interior(look: Look, inside: Array) -> Array:
    """What is seen between the lips, BGR float32 (h, w, 3) in [0, 255]: a dark red, a tongue, two rows of teeth."""
    s, above, below, depth = np.ascontiguousarray(inside.transpose(2, 0, 1))
    s, opening = abs(s), above + below
    soft = max(0.02, 0.8 / look.mouth.unit_px)
    between = np.zeros_like(s)
    for place in TEETH:
        between += np.exp(-(((s - place) / max(0.016, soft / 2)) ** 2))
    flesh = look.lip * _f32([0.62, 0.62, 0.85])
    tongue = _ease(above / np.maximum(opening, 1e-3), 0.2, 0.75) * _ease(opening, 0.1, 0.35)
    colour = _over(flesh * _f32([0.28, 0.26, 0.36]), 0.75 * flesh, tongue * (1 - 0.7 * _ease(s, 0.1, 0.7)))
    front = 1 - _ease(s, 0.35, 0.82)
    shade = (0.5 + 0.5 * _ease(above, 0, 0.12)) * (0.45 + 0.55 * front) * (1 - 0.18 * between)
    upper = _ease(0.10 - 0.07 * s * s - 0.018 * between - depth, -soft, soft) * front
    colour = _over(colour, look.ivory * shade[..., None], upper)
    lower = _ease(0.13 - 0.11 * s * s - below, -soft, soft) * (1 - _ease(s, 0.25, 0.62)) * _ease(opening, 0.28, 0.5)
    colour = _over(colour, look.ivory * (0.8 - 0.16 * between[..., None]), 0.75 * lower)
    return colour * ((0.6 + 0.4 * _ease(above, -0.02, 0.06)) * (0.75 + 0.25 * _ease(below, -0.02, 0.06)))[..., None]


def _over(under: Array, colour: Array, weight: Array) -> Array:
    return under + (colour - under) * weight[..., None]


class StillEngine:
    """`Engine` of images and arithmetic: about 1 ms for the mouth of a 512 x 512 portrait.

    `Face.image` is the picture within `mouth_patch`: its border is the original's, and at openness 0 all of it is.
    """

    max_batch = 16

    def __init__(self) -> None:
        self._looks: WeakKeyDictionary[Avatar, dict[int, Look | None]] = WeakKeyDictionary()

    def infer(self, jobs: Sequence[FaceJob]) -> list[Face]:
        return [Face(job, self._face(job)) for job in jobs]

    def _face(self, job: FaceJob) -> Image:
        look, image = self._look(job.avatar, job.avatar_index), job.avatar.image(job.avatar_index)
        if look is None or job.window[0] <= 0:
            return _cut(image, look.box if look else NO_BOX).copy()
        return draw(look, image, job.window)

    def _look(self, avatar: Avatar, index: int) -> Look | None:
        looks = self._looks.setdefault(avatar, {})
        if index not in looks:
            mouth = locate(avatar, index)
            looks[index] = observe(mouth, avatar.image(index)) if mouth else None
        return looks[index]


class StillReal(BaseReal):
    """A session whose mouth is warped, without weights: the quick start, and the example of how to add an engine."""

    @classmethod
    def make_engine(cls, settings: Settings) -> StillEngine:
        return StillEngine()

    def make_features(self) -> MouthFeatures:
        return MouthFeatures()

    def paste(self, face: Face) -> Image:
        return paste(face)


def mouth_patch(avatar: Avatar, index: int) -> Box:
    """The box x1, y1, x2, y2 that the Face of frame `index` fills: even numbers, inside the picture. Any thread."""
    mouth = locate(avatar, index)
    return mouth.box(avatar.size) if mouth else NO_BOX


def paste(face: Face) -> Image:
    """The whole picture, uint8 (H, W, 3): a copy of the avatar's frame with `face` in place. Any thread."""
    image = face.job.avatar.image(face.job.avatar_index).copy()
    _cut(image, mouth_patch(face.job.avatar, face.job.avatar_index))[:] = face.image
    return image
