"""How flesh follows bones: arms hung down, breath in the chest, head on the neck, eyes and lids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .mesh import Points, unit
from .motion import Pose
from .pack import JOINTS

Rotation = NDArray[np.float64]  # (3, 3), applied as R @ p


def smoothstep(low: float, high: float, x: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def turn(yaw: float, pitch: float, roll: float) -> Rotation:
    """The rotation by angles in degrees: roll first, then pitch up, then yaw to the person's left."""
    y, p, r = np.radians([yaw, -pitch, -roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return np.asarray(about_y @ about_x @ about_z)


def joint(base: Points, first: int) -> NDArray[np.float64]:
    """(3,) middle of the joint cube that starts at point `first`."""
    return base[first : first + 8].mean(axis=0)


def lower_arms(base: Points, degrees: float) -> Points:
    """`base` with both arms turned down about the shoulders."""
    posed = base.copy()
    for side, sign in (("left", 1), ("right", -1)):
        pivot = joint(base, JOINTS[f"{side}_shoulder"])
        away = (base[:, 0] - pivot[0]) * sign
        weight = smoothstep(-0.55, 0.55, away)[:, None]
        angle = np.radians(-degrees * sign) * weight[:, 0]
        x, y = (base - pivot)[:, 0], (base - pivot)[:, 1]
        posed[:, 0] = np.where(weight[:, 0] > 0, pivot[0] + np.cos(angle) * x - np.sin(angle) * y, posed[:, 0])
        posed[:, 1] = np.where(weight[:, 0] > 0, pivot[1] + np.sin(angle) * x + np.cos(angle) * y, posed[:, 1])
    return posed


@dataclass(frozen=True, eq=False)
class Flesh:
    """How much each of n points belongs to the head, the chest's swell, the shoulders' rise and the upper body."""

    head: NDArray[np.float64]  # each (n, 1) in [0, 1]
    swell: NDArray[np.float64]
    rise: NDArray[np.float64]

    def only(self, chosen: NDArray[np.bool_]) -> Flesh:
        """The points under `chosen` (n,)."""
        return Flesh(self.head[chosen], self.swell[chosen], self.rise[chosen])


class Rig:
    """The bones of one person, from the neutral base mesh."""

    def __init__(self, base: Points) -> None:
        self.neck = joint(base, JOINTS["neck"])
        self.skull = joint(base, JOINTS["head"])
        self.pivot = 0.5 * self.neck + 0.5 * self.skull

    def flesh(self, points: Points) -> Flesh:
        """Where `points`, in the neutral shape, belong. The head's border slants from the nape up to under the chin."""
        y, z = points[:, 1], points[:, 2]
        height = (y - self.neck[1]) + 0.6 * (z - self.neck[2])
        head = smoothstep(-0.15, 0.95, height)
        below = smoothstep(0.3, -0.9, y - self.neck[1])
        front = smoothstep(-0.2, 0.9, z)
        return Flesh(head[:, None], (below * front)[:, None], below[:, None])

    def apply(self, points: Points, flesh: Flesh, pose: Pose) -> Points:
        """`points` moved as `pose` moves the body."""
        lift = 0.022 * flesh.rise * [0, 1, 0] + 0.028 * flesh.swell * [0, 0.3, 1] + 0.012 * (1 - flesh.rise) * [0, 1, 0]
        turned = (points - self.pivot) @ turn(*pose.head).T + self.pivot + np.asarray(pose.shift)
        sway = pose.sway * (0.4 + 0.6 * (1 - flesh.rise)) * [1, 0, 0]
        return np.asarray(points + flesh.head * (turned - points) + pose.breath * lift + sway)


@dataclass(frozen=True, eq=False)
class Eyeball:
    """A sphere the lids slide on and the iris turns with."""

    centre: NDArray[np.float64]
    radius: float
    bulge: float = 0.055  # how far the cornea stands out, of the radius

    def turned(self, points: Points, yaw: float, pitch: float) -> Points:
        return (points - self.centre) @ turn(yaw, pitch, 0).T + self.centre

    def clear(self, points: Points, margin: float, gaze: Rotation) -> Points:
        """`points` with those inside the ball pushed out to `margin` decimetres above it, cornea included."""
        away = points - self.centre
        distance = np.linalg.norm(away, axis=1, keepdims=True)
        ahead = np.clip(unit(away) @ gaze @ [0, 0, 1], 0, 1)[:, None]
        wanted = self.radius * (1 + self.bulge * smoothstep(0.84, 0.97, ahead)) + margin
        return np.where(distance < wanted, self.centre + unit(away) * wanted, points)
