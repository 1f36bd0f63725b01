"""A person as surfaces: what hangs on the base mesh, and where every point is in a pose."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .crop import Crop, trim
from .hair import Groom, Ground, Ribbons, grow, ribbons
from .identity import Person, neutral
from .mesh import Drawable, Points, Surface, drawable, subdivide
from .motion import Pose
from .pack import HELPERS_FROM, JOINTS, LASHES, LEFT_EYE, RIGHT_EYE, UPPER_TEETH_FROM, Binding, Pack
from .rig import Eyeball, Flesh, Rig, lower_arms, turn

CROP_Y, CROP_X = 3.2, 3.4
LID_WIDTH = 1.35  # of the eyeball's radius: skin nearer to the centre than this is lid
SKULL_MIDDLE = np.array([0, 0.47, 0.10])  # from the skull's joint
SCALP_INSET = 0.09  # how far behind the hairline the scalp is painted
EYE_TURN_DEGREES = 28.0  # of the pack's eyeLook shapes at weight 1
STILL = ("eyeBlink", "eyeSquint", "eyeWide", "eyeLook")  # shapes that leave the brows alone
UPPER_TEETH_MOVED, LOWER_TEETH_MOVED, TONGUE_MOVED = (0, -0.030, 0.045), (0, -0.010, 0.020), (0, -0.045, 0.020)
EYES = {"left": LEFT_EYE, "right": RIGHT_EYE}


@dataclass(frozen=True, eq=False)
class Part:
    """One drawn surface: `matrix` @ the moved base (skin), what hangs on it by `binding`, or `rest` moved by itself.

    With a binding, `matrix` smooths what was bound.
    """

    name: str
    drawable: Drawable | Ribbons
    flesh: Flesh
    matrix: sparse.csr_matrix | None = None
    binding: Binding | None = None
    scales: NDArray[np.float64] | None = None
    rest: Points | None = None


class Figure:
    """The assembled `person`. Parts: body, eyes, clothes, hair, brows, lashes, teeth, tongue."""

    def __init__(self, person: Person, pack: Pack) -> None:
        self.person, self.pack = person, pack
        self.shape = lower_arms(neutral(person, pack), person.arms_down_degrees)
        self.rig = Rig(self.shape)
        self.targets: dict[str, Points] = {}
        self.eyeballs = {side: _eyeball(self.shape, where) for side, where in EYES.items()}
        self.lids = {side: self._lid_points(eye) for side, eye in self.eyeballs.items()}
        self.rest = self._expressed(person.rest)
        self._base_flesh = self.rig.flesh(self.shape)
        self.parts = {part.name: part for part in self._parts()}

    @property
    def eyes(self) -> NDArray[np.float64]:
        """(3,) the middle between both eyes of the neutral shape."""
        return np.asarray(np.mean([eye.centre for eye in self.eyeballs.values()], axis=0))

    @property
    def middle_points(self) -> NDArray[np.int64]:
        """Base points whose mean lies inside the head, and moves with it."""
        return np.arange(JOINTS["head"], JOINTS["head"] + 8)

    def pose(self, pose: Pose, names: Collection[str] | None = None) -> tuple[Points, dict[str, Points]]:
        """The posed base mesh (19158, 3), helpers too, and the points of every part, or of those that `names` has."""
        base, still = self._faces(pose)
        whole = self.rig.apply(base, self._base_flesh, pose)
        parts = [part for name, part in self.parts.items() if names is None or name in names]
        return whole, {part.name: self._place(part, base, still, pose) for part in parts}

    def _faces(self, pose: Pose) -> tuple[Points, Points]:
        """The base mesh with the pose's face, and the same without lids for the brows to hang on."""
        yaw, pitch = self._eye_turn(pose)
        weights = _sum(self.person.rest, pose.weights, _look(yaw, pitch))
        base = self._expressed(weights)
        for side, eye in self.eyeballs.items():
            lid = self.lids[side]
            base[lid] = eye.clear(base[lid], 0.004, turn(yaw, pitch, 0))
        still = {name: weight for name, weight in weights.items() if not name.startswith(STILL)}
        return base, self._expressed(still)

    def _eye_turn(self, pose: Pose) -> tuple[float, float]:
        """Yaw and pitch of the eyes in the head, in degrees, for the pose's gaze."""
        ahead = turn(*pose.head).T @ turn(*pose.gaze, 0) @ [0, 0, 1]
        return float(np.degrees(np.arctan2(ahead[0], ahead[2]))), float(np.degrees(np.arcsin(ahead[1])))

    def _expressed(self, weights: Mapping[str, float]) -> Points:
        base = self.shape.copy()
        for name, weight in weights.items():
            if abs(weight) > 1e-4:
                base += weight * self._target(name)
        return base

    def _target(self, name: str) -> Points:
        """The face shape `name`, eyeballs left out: those turn as balls."""
        if name not in self.targets:
            offsets = self.pack.target(f"face/{name}")
            offsets[LEFT_EYE], offsets[RIGHT_EYE] = 0, 0
            self.targets[name] = offsets
        return self.targets[name]

    def _lid_points(self, eye: Eyeball) -> NDArray[np.int64]:
        """Body points near `eye`, and the lash helpers."""
        distance = np.linalg.norm(self.shape - eye.centre, axis=1)
        index = np.arange(len(distance))
        skin = (index < HELPERS_FROM) & (self.shape[:, 2] > eye.centre[2])
        lash = (index >= LASHES.start) & (index < LASHES.stop)
        return np.flatnonzero((distance < LID_WIDTH * eye.radius) & (skin | lash))

    def _place(self, part: Part, base: Points, still: Points, pose: Pose) -> Points:
        if part.binding is None and part.matrix is not None:
            return np.asarray(part.matrix @ self.rig.apply(base, self._base_flesh, pose))
        if part.rest is not None:
            return self.rig.apply(part.rest, part.flesh, pose)
        assert part.binding is not None and part.scales is not None
        points = part.binding.fit(still if part.name == "brows" else base, part.scales)
        if part.matrix is not None:
            points = np.asarray(part.matrix @ points)
        if part.name == "eyes":
            yaw, pitch = self._eye_turn(pose)
            for eye, sign in zip(self.eyeballs.values(), (1, -1), strict=True):
                mine = points[:, 0] * sign > 0
                points[mine] = eye.turned(points[mine], yaw, pitch)
        return self.rig.apply(points, part.flesh, pose)

    def _parts(self) -> list[Part]:
        person = self.person
        names = {
            "eyes": "eyes/high-poly",
            "clothes": f"clothes/{person.clothes}",
            "brows": f"eyebrows/{person.brows}",
            "lashes": f"eyelashes/{person.lashes}",
            "teeth": f"teeth/{person.teeth}",
            "tongue": "tongue/tongue01",
        }
        if isinstance(person.hair, str):
            names["hair"] = f"hair/{person.hair}"
        bound = {name: self._bound(name, *self.pack.attachment(path)) for name, path in names.items()}
        garment = bound["clothes"]
        assert garment.binding is not None and garment.scales is not None
        matrix, skin = self._skin(garment.binding.hidden)
        parts = [Part("body", drawable(skin), self.rig.flesh(skin.points), matrix), *bound.values()]
        if not isinstance(person.hair, str):
            parts += self._grown(person.hair, skin, garment)
        return parts

    def _skin(self, hidden: NDArray[np.int64]) -> tuple[sparse.csr_matrix, Surface]:
        """The visible skin, subdivided, in the resting shape."""
        base = self.pack.base
        corners = self.shape[base.faces]
        near = (corners[..., 1].min(axis=1) > CROP_Y) & (np.abs(corners[..., 0]).max(axis=1) < CROP_X)
        covered = np.isin(base.faces, hidden).all(axis=1)
        rest = Surface(self.rest, base.faces, base.face_uvs, base.uvs, base.groups)
        return subdivide(rest.keep((base.groups == "body") & near & ~covered))

    def _bound(self, name: str, surface: Surface, binding: Binding) -> Part:
        scales = binding.scales(self.shape)
        binding = _nudged(name, binding, scales)
        points = binding.fit(self.rest, scales)
        matrix = None
        if name == "clothes" and np.all(surface.faces[:, 2] != surface.faces[:, 3]):
            matrix, surface = subdivide(replace(surface, points=points))
            points = surface.points
        return Part(name, drawable(surface), self.rig.flesh(points), matrix, binding, scales)

    def _grown(self, groom: Groom | Crop, skin: Surface, garment: Part) -> list[Part]:
        """Strands, and the scalp they hide."""
        assert garment.binding is not None and garment.scales is not None
        cloth = garment.binding.fit(self.rest, garment.scales)
        cloth = cloth if garment.matrix is None else garment.matrix @ cloth
        mesh = drawable(skin)
        normals = mesh.normals(skin.points)
        met, up = np.concatenate([skin.points, cloth]), np.concatenate([normals, garment.drawable.normals(cloth)])
        solid = np.any(up, axis=1)
        ground = Ground(met[solid], up[solid], self.rig.skull + SKULL_MIDDLE, groom.hairline)
        corners = skin.points[mesh.point_triangles]
        strands = grow(groom, ground, corners) if isinstance(groom, Groom) else trim(groom, ground, corners)
        points = strands.points.reshape(-1, 3)
        hair = Part("hair", ribbons(strands), self.rig.flesh(points), rest=points)
        inside = (ground.above_hairline(skin.points) > SCALP_INSET)[skin.faces].all(axis=1)
        lifted = skin.points + 0.012 * normals
        scalp = Part("scalp", drawable(skin.keep(inside)), self.rig.flesh(lifted), rest=lifted)
        return [scalp, hair]


def _eyeball(shape: Points, where: slice) -> Eyeball:
    ball = shape[where]
    centre = (ball.max(axis=0) + ball.min(axis=0)) / 2
    size = float(np.ptp(ball[:, 1])) / 2
    return Eyeball(np.array([centre[0], centre[1], ball[:, 2].min() + size]), size)


def _look(yaw: float, pitch: float) -> dict[str, float]:
    """Lids for eyes turned by `yaw` and `pitch` degrees."""
    side, up = yaw / EYE_TURN_DEGREES, pitch / EYE_TURN_DEGREES
    return {
        "eyeLookOutLeft": max(0.0, side),
        "eyeLookInRight": max(0.0, side),
        "eyeLookInLeft": max(0.0, -side),
        "eyeLookOutRight": max(0.0, -side),
        **{
            f"eyeLook{way}{eye}": max(0.0, sign * up)
            for way, sign in (("Up", 1), ("Down", -1))
            for eye in ("Left", "Right")
        },
    }


def _sum(*weights: Mapping[str, float]) -> dict[str, float]:
    names = {name for each in weights for name in each}
    return {name: sum(each.get(name, 0.0) for each in weights) for name in sorted(names)}


def _nudged(name: str, binding: Binding, scales: NDArray[np.float64]) -> Binding:
    """`binding`, teeth and tongue moved to where a speaking mouth shows them."""
    moved = np.zeros_like(binding.offsets)
    if name == "tongue":
        moved[:] = TONGUE_MOVED
    elif name == "teeth":
        upper = binding.corners[:, :1] >= UPPER_TEETH_FROM
        moved = np.where(upper, UPPER_TEETH_MOVED, LOWER_TEETH_MOVED)
    return replace(binding, offsets=binding.offsets + moved / scales)
