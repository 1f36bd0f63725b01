"""Programs, textures, targets and vertex buffers on the graphics card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import moderngl
import numpy as np
from numpy.typing import NDArray

from .hair import Ribbons
from .mesh import Drawable, Points

SHADERS = Path(__file__).parent / "shaders"
FIELDS = {"in_position": 3, "in_normal": 3, "in_along": 3, "in_uv": 2, "in_chance": 1, "in_open": 1}


def compiled(gl: moderngl.Context, vertex: Sequence[str], fragment: Sequence[str]) -> moderngl.Program:
    """A program of shader files, each side's put one after another."""
    return gl.program(_source(vertex), _source(fragment))


def _source(names: Sequence[str]) -> str:
    return "#version 330\n" + "".join((SHADERS / name).read_text() for name in names)


def set_uniforms(program: moderngl.Program, **values: object) -> None:
    """Set those of `values` that `program` reads; matrices row by row."""
    for name, value in values.items():
        if name not in program:
            continue
        if isinstance(value, np.ndarray):
            program[name].write(value.T.astype(np.float32).tobytes())
        else:
            program[name].value = value


def texture(gl: moderngl.Context, image: NDArray[np.uint8]) -> moderngl.Texture:
    """A picture, uint8 (h, w, 4) RGBA, with mip-maps.

    Not anisotropic: a software rasteriser takes tens of times as long for it.
    """
    made = gl.texture((image.shape[1], image.shape[0]), 4, np.ascontiguousarray(image).tobytes())
    made.build_mipmaps()
    made.filter = moderngl.LINEAR_MIPMAP_LINEAR, moderngl.LINEAR
    return made


def canvas(gl: moderngl.Context, side: int, samples: int) -> moderngl.Framebuffer:
    """A square target for pictures."""
    size = (side, side)
    return gl.framebuffer([gl.renderbuffer(size, 4, samples=samples)], gl.depth_renderbuffer(size, samples=samples))


def depth_map(gl: moderngl.Context, side: int) -> moderngl.Framebuffer:
    """A square target for depths alone, which shaders may compare with."""
    depths = gl.depth_texture((side, side))
    depths.compare_func = "<="
    depths.repeat_x = depths.repeat_y = False
    return gl.framebuffer(depth_attachment=depths)


def read_depths(target: moderngl.Framebuffer) -> NDArray[np.float32]:
    """(rows upwards, columns) in [0, 1]."""
    raw = np.frombuffer(target.read(components=1, attachment=-1, dtype="f4"), np.float32)
    return raw.reshape(target.height, target.width)


class Drawn:
    """One surface on the graphics card, for any of `programs` to draw. `open` is 1 where a vertex sees all the sky."""

    def __init__(self, gl: moderngl.Context, mesh: Drawable | Ribbons, programs: Iterable[moderngl.Program]) -> None:
        self.mesh = mesh
        self.content = np.ones((len(mesh.source), sum(FIELDS.values())), np.float32)
        self.content[:, 9:11], self.content[:, 11] = mesh.uvs, mesh.chance
        self.buffer = gl.buffer(reserve=self.content.nbytes, dynamic=True)
        index = gl.buffer(mesh.triangles.tobytes())
        self.arrays: Mapping[moderngl.Program, moderngl.VertexArray] = {
            program: gl.vertex_array(program, [(self.buffer, *_layout(program))], index) for program in programs
        }

    @property
    def open(self) -> NDArray[np.float32]:
        return self.content[:, 12]

    def move(self, points: Points) -> None:
        """Put the surface's points (n, 3) where they are now."""
        self.points, self.normals = points, self.mesh.normals(points)
        for column, values in ((0, points), (3, self.normals), (6, self.mesh.along(points))):
            self.content[:, column : column + 3] = values[self.mesh.source]
        self.buffer.write(self.content)

    def render(self, program: moderngl.Program) -> None:
        self.arrays[program].render()


def _layout(program: moderngl.Program) -> tuple[str, ...]:
    """The vertex format for `program` and the fields it reads, the others skipped."""
    fmt = [f"{size}f" if name in program else f"{4 * size}x" for name, size in FIELDS.items()]
    return " ".join(fmt), *(name for name in FIELDS if name in program)
