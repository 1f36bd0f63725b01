"""A picture of a figure, drawn by OpenGL without a window."""

from __future__ import annotations

from dataclasses import replace

import cv2
import moderngl
import numpy as np
from numpy.typing import NDArray

from .camera import KEY_DIRECTION, Camera, Matrix, box
from .figure import Figure, Part
from .gpu import Drawn, canvas, compiled, depth_map, read_depths, set_uniforms, texture
from .hair import Ribbons
from .landmarks import LIPS
from .materials import BLANK, garment_relief, materials, mean_luminance
from .mesh import Points
from .motion import Pose
from .occlusion import openness, visible

SAMPLES = 4
SHADOW_SIZE, SHADOW_HALF = 1280, 2.6
SURVEY_SIZE, SURVEY_HALF = 640, 3.4  # depth maps for occlusion
SEEN_DEPTH, LIT_DEPTH = 0.005, 0.012  # of the range: how deep under others a hair still shows, or throws a shadow
SOLID = ("body", "teeth", "tongue", "eyes", "clothes", "scalp", "hair")
OPENED = {"jawOpen": 1.0, "viseme_aa": 0.6}
MOUTH_PARTS = {"body", "teeth", "tongue"}


class Studio:
    """Draws `figure` as seen by `camera`: `size` pixels square, from `supersample` x as many, 4x MSAA."""

    def __init__(self, figure: Figure, camera: Camera, size: int = 512, supersample: int = 2) -> None:
        self.figure, self.camera, self.size = figure, camera, size
        self.gl = moderngl.create_standalone_context(require=330, backend="egl")
        self.multi = canvas(self.gl, size * supersample, SAMPLES)
        self.single = canvas(self.gl, size * supersample, 0)
        self.shadow = depth_map(self.gl, SHADOW_SIZE)
        self.to_shadow = box(figure.rig.skull - [0, 0.9, 0.2], KEY_DIRECTION, SHADOW_HALF)
        self.materials = materials(figure.person)
        self._compile()
        self._load()
        self.drawn = {name: self._drawn(part) for name, part in figure.parts.items()}
        self._bake()
        self._thin()

    def draw(self, pose: Pose) -> tuple[NDArray[np.uint8], Points]:
        """The picture, uint8 (size, size, 3) BGR, and the posed base mesh. About 1 s on two cores without a GPU."""
        base = self._move(pose)
        self._cast(self.shadow, self.to_shadow)
        self._paint(base)
        self.gl.copy_framebuffer(self.single, self.multi)
        raw = np.frombuffer(self.single.read(components=3), np.uint8).reshape(self.single.height, -1, 3)
        picture = cv2.resize(raw[::-1], (self.size, self.size), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(picture[..., ::-1]), base

    def release(self) -> None:
        """Give the graphics memory back."""
        self.gl.release()

    def _compile(self) -> None:
        gl = self.gl
        names = {material.program for material in self.materials.values()} | {"cornea"}
        self.programs = {name: _program(gl, name) for name in names}
        backdrop = compiled(gl, ["backdrop.vert"], ["backdrop.frag"])
        set_uniforms(backdrop, **dict(zip(("dark", "bright"), self.figure.person.backdrop, strict=True)))
        self.backdrop = gl.vertex_array(backdrop, [])
        self.surface_depth = compiled(gl, ["depth.vert"], ["depth.frag"])
        self.strand_depth = compiled(gl, ["strand_depth.vert"], ["strand_depth.frag"])

    def _load(self) -> None:
        """The pictures, and what the shaders want to know once."""
        pack, person = self.figure.pack, self.figure.person
        white, flat = np.full((1, 1, 4), 255, np.uint8), np.array([[[128, 128, 255, 255]]], np.uint8)
        names = {material.picture for material in self.materials.values()}
        self.pictures = {name: texture(self.gl, pack.picture(name) if name else white) for name in names}
        bumps = garment_relief(person)
        self.relief = texture(self.gl, pack.picture(bumps) if (pack.root / bumps).exists() else flat)
        self.width = 0.0 if isinstance(person.hair, str) else person.hair.width
        cards = self.materials["hair"].picture
        fixed = {
            "to_clip": self.camera.matrix,
            "eye": self.camera.eye,
            "to_shadow": self.to_shadow,
            "key_direction": KEY_DIRECTION,
            "picture": 0,
            "shadow_map": 1,
            "relief_map": 2,
            "plain": float(person.clothes_colour is not None),
            "mean": 1.0 if cards == BLANK else mean_luminance(pack, cards),
            "width": self.width,
        }
        for program in self.programs.values():
            set_uniforms(program, **fixed)

    def _drawn(self, part: Part) -> Drawn:
        names = [self.materials[part.name].program] + ["cornea"] * (part.name == "eyes")
        return Drawn(self.gl, part.drawable, [self._depth_program(part.name), *(self.programs[name] for name in names)])

    def _depth_program(self, name: str) -> moderngl.Program:
        return self.strand_depth if self.materials[name].program == "strand" else self.surface_depth

    def _move(self, pose: Pose) -> Points:
        """Every part to where `pose` has it; the posed base mesh."""
        base, placed = self.figure.pose(pose)
        for name, points in placed.items():
            self.drawn[name].move(points)
        return base

    def _cast(self, target: moderngl.Framebuffer, to_clip: Matrix) -> None:
        """Draw the depths of what throws shadows."""
        target.use()
        target.clear(depth=1.0)
        self.gl.enable_only(moderngl.DEPTH_TEST)
        for name, material in self.materials.items():
            if material.cut < 1:
                program = self._depth_program(name)
                self.pictures[material.picture].use(0)
                set_uniforms(program, to_clip=to_clip, cut=material.cut, picture=0, width=1.5 * self.width)
                self.drawn[name].render(program)

    def _paint(self, base: Points) -> None:
        gl = self.gl
        self.multi.use()
        self.multi.clear(depth=1.0)
        gl.enable_only(moderngl.NOTHING)
        self.backdrop.render(moderngl.TRIANGLES, vertices=3)
        gl.enable_only(moderngl.DEPTH_TEST)
        gl.blend_func = moderngl.SRC_ALPHA, moderngl.ONE_MINUS_SRC_ALPHA
        self.shadow.depth_attachment.use(1)
        self.relief.use(2)
        moving = {"middle": base[self.figure.middle_points].mean(axis=0), "lips": float(base[LIPS, 2]), "stage": 0}
        for program in self.programs.values():
            set_uniforms(program, **moving)
        for name in SOLID:
            if name in self.drawn:
                self._part(name)
        gl.enable(moderngl.BLEND)
        self.multi.depth_mask = False
        self._part("brows")
        self._part("eyes", "cornea")
        self._part("lashes")
        if "hair" in self.programs:
            self._soft_hair()
        self.multi.depth_mask = True

    def _soft_hair(self) -> None:
        """The transparent rest of hair cards, far sides first."""
        set_uniforms(self.programs["hair"], stage=1)
        self.gl.enable(moderngl.CULL_FACE)
        for face in ("front", "back"):
            self.gl.cull_face = face
            self._part("hair")

    def _part(self, name: str, program: str | None = None) -> None:
        material = self.materials[name]
        chosen = self.programs[program or material.program]
        self.pictures[material.picture].use(0)
        set_uniforms(chosen, tint=material.tint, pull=material.pull)
        self.drawn[name].render(chosen)

    def _bake(self) -> None:
        """Occlusion of every vertex, mouth closed and opened, whichever sees more."""
        closed, opened = self._survey(Pose()), self._survey(Pose(OPENED))
        for name, drawn in self.drawn.items():
            seen = np.maximum(closed[name], opened[name]) if name in MOUTH_PARTS else closed[name]
            drawn.open[:] = seen[drawn.mesh.source]

    def _survey(self, pose: Pose) -> dict[str, NDArray[np.float64]]:
        self._move(pose)
        surfaces = {name: (drawn.points, drawn.normals) for name, drawn in self.drawn.items()}
        return openness(surfaces, self.figure.rig.skull - [0, 0.7, 0], self._depths)

    def _depths(self, to_clip: Matrix) -> NDArray[np.float32]:
        target = depth_map(self.gl, SURVEY_SIZE)
        self._cast(target, to_clip)
        depths = read_depths(target)
        target.depth_attachment.release()
        target.release()
        return depths

    def _thin(self) -> None:
        """Forget the strands that lie deep under others both for the camera and for the key light."""
        part, drawn = self.figure.parts["hair"], self.drawn["hair"]
        if not isinstance(part.drawable, Ribbons) or part.rest is None:
            return
        seen = visible(drawn.points, self.camera.matrix, self._depths(self.camera.matrix), SEEN_DEPTH)
        key = box(self.figure.rig.skull, KEY_DIRECTION, SURVEY_HALF)
        lit = visible(drawn.points, key, self._depths(key), LIT_DEPTH)
        strands = (np.maximum(seen, lit) > 0).reshape(-1, part.drawable.knots).any(axis=1)
        points, vertices = (np.repeat(strands, count * part.drawable.knots) for count in (1, 2))
        kept = replace(
            part, drawable=part.drawable.only(strands), flesh=part.flesh.only(points), rest=part.rest[points]
        )
        self.figure.parts["hair"], self.drawn["hair"] = kept, self._drawn(kept)
        self.drawn["hair"].open[:] = drawn.open[vertices]


def _program(gl: moderngl.Context, name: str) -> moderngl.Program:
    """The program of a material: strands are lit by the vertex, all else by the pixel."""
    if name == "strand":
        return compiled(gl, ["light.glsl", "strand.vert"], ["strand.frag"])
    return compiled(gl, ["surface.vert"], ["surface.glsl", "light.glsl", f"{name}.frag"])
