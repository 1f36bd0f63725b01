"""Polygon surfaces: Wavefront files, one Catmull-Clark level, and what a graphics card draws of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Points = NDArray[np.float64]  # (n, 3) decimetres, y up, z towards the viewer
Faces = NDArray[np.int64]  # (m, 4) corners of quads; a triangle repeats its last corner


@dataclass(frozen=True, eq=False)
class Surface:
    """Quads over `points`: `faces` (m, 4) index points, `face_uvs` (m, 4) index `uvs` (k, 2), v downwards in [0, 1]."""

    points: Points
    faces: Faces
    face_uvs: Faces
    uvs: NDArray[np.float64]
    groups: NDArray[np.str_]  # (m,) name of each face's group

    def keep(self, mask: NDArray[np.bool_]) -> Surface:
        """The same points with only the faces under `mask` (m,)."""
        return Surface(self.points, self.faces[mask], self.face_uvs[mask], self.uvs, self.groups[mask])


@dataclass(frozen=True, eq=False)
class Drawable:
    """A surface as triangles: vertex `i` is point `source[i]` at `uvs[i]`. Normals go by point: seams do not show."""

    source: NDArray[np.int64]
    uvs: NDArray[np.float32]
    triangles: NDArray[np.uint32]  # (t, 3) into vertices
    point_triangles: NDArray[np.int64]  # (t, 3) into points
    fans: sparse.csr_matrix  # (points, t) which triangles meet in a point

    def normals(self, points: Points) -> Points:
        """Area-weighted unit normals (n, 3) of `points`."""
        a, b, c = (points[self.point_triangles[:, i]] for i in range(3))
        return unit(self.fans @ np.cross(b - a, c - a))

    def along(self, points: Points) -> Points:
        """Unit direction (n, 3) in which v grows at each of `points`: the way hair cards run."""
        a, b, c = (points[self.point_triangles[:, i]] for i in range(3))
        u, v, w = (self.uvs[self.triangles[:, i]] for i in range(3))
        d1, d2 = v - u, w - u
        sense = np.sign(d1[:, :1] * d2[:, 1:] - d1[:, 1:] * d2[:, :1])
        return unit(self.fans @ unit(((c - a) * d1[:, :1] - (b - a) * d2[:, :1]) * sense))

    @property
    def chance(self) -> NDArray[np.float32]:
        return np.zeros(len(self.source), np.float32)


def unit(vectors: Points) -> Points:
    """`vectors` at length one; zero stays zero."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def read_obj(path: Path) -> Surface:
    """The surface in a Wavefront file whose faces are `v/vt` triangles or quads."""
    points, uvs, faces, face_uvs, groups = [], [], [], [], []
    group = ""
    for line in path.read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            points.append([float(value) for value in rest.split()[:3]])
        elif kind == "vt":
            uvs.append([float(value) for value in rest.split()[:2]])
        elif kind == "g":
            group = rest.strip()
        elif kind == "f":
            corners = [[int(number) - 1 for number in corner.split("/")[:2]] for corner in rest.split()]
            corners += corners[-1:] * (4 - len(corners))
            faces.append([corner[0] for corner in corners])
            face_uvs.append([corner[1] for corner in corners])
            groups.append(group)
    flipped = np.array(uvs) * [1, -1] + [0, 1]
    return Surface(np.array(points), np.array(faces), np.array(face_uvs), flipped, np.array(groups))


def drawable(surface: Surface) -> Drawable:
    """`surface` cut along its texture seams into triangles."""
    uvs = surface.uvs[surface.face_uvs].reshape(-1, 2)
    keys = np.column_stack([surface.faces.reshape(-1), np.round(uvs * 65536)]).astype(np.int64)
    unique, first, corner = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    quads = corner.reshape(-1, 4)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    source = unique[:, 0]
    solid = source[triangles]
    whole = (solid[:, 0] != solid[:, 1]) & (solid[:, 1] != solid[:, 2]) & (solid[:, 2] != solid[:, 0])
    triangles, solid = triangles[whole], solid[whole]
    columns = np.repeat(np.arange(len(solid)), 3)
    fans = sparse.csr_matrix((np.ones(solid.size), (solid.reshape(-1), columns)), (len(surface.points), len(solid)))
    return Drawable(source, uvs[first].astype(np.float32), triangles.astype(np.uint32), solid, fans)


def subdivide(surface: Surface) -> tuple[sparse.csr_matrix, Surface]:
    """One Catmull-Clark level of a quad surface: the matrix (new points, points) and the finer surface.

    Edges of one face are creases; texture coordinates are bilinear.
    """
    n, m = len(surface.points), len(surface.faces)
    ends = np.sort(np.stack([surface.faces, np.roll(surface.faces, -1, axis=1)], axis=2).reshape(-1, 2), axis=1)
    edges, edge_of = np.unique(ends, axis=0, return_inverse=True)
    edge_of = edge_of.reshape(m, 4)
    e = len(edges)
    centres = _rows(np.repeat(np.arange(m), 4), surface.faces.reshape(-1), (m, n)) / 4
    middles = _rows(np.repeat(np.arange(e), 2), edges.reshape(-1), (e, n)) / 2
    edge_faces = _rows(edge_of.reshape(-1), np.repeat(np.arange(m), 4), (e, m))
    inner = np.asarray(edge_faces.sum(axis=1)).reshape(-1) == 2
    new_edges = _scale(~inner, middles) + _scale(inner, (middles + edge_faces @ centres / 2) / 2)
    matrix = sparse.vstack([_vertex_rule(surface, edges, inner, centres, middles), new_edges, centres]).tocsr()
    i, around = np.arange(4), n + edge_of
    centre = np.broadcast_to((n + e + np.arange(m))[:, None], (m, 4))
    faces = np.stack([surface.faces, around, centre, around[:, i - 1]], axis=2).reshape(-1, 4)
    corner = surface.uvs[surface.face_uvs]
    ahead, behind = (corner + np.roll(corner, -1, axis=1)) / 2, (corner + np.roll(corner, 1, axis=1)) / 2
    middle = np.broadcast_to(corner.mean(axis=1, keepdims=True), corner.shape)
    uvs = np.stack([corner, ahead, middle, behind], axis=2).reshape(-1, 2)
    fine = Surface(
        matrix @ surface.points, faces, np.arange(len(uvs)).reshape(-1, 4), uvs, np.repeat(surface.groups, 4)
    )
    return matrix, fine


def _vertex_rule(
    surface: Surface,
    edges: NDArray[np.int64],
    inner: NDArray[np.bool_],
    centres: sparse.csr_matrix,
    middles: sparse.csr_matrix,
) -> sparse.csr_matrix:
    """Where Catmull-Clark moves the old points: (Q + 2R + (k - 3) P) / k inside, (S + 6 P + S') / 8 on a border."""
    n, e, m = len(surface.points), len(edges), len(surface.faces)
    point_faces = _rows(surface.faces.reshape(-1), np.repeat(np.arange(m), 4), (n, m))
    point_edges = _rows(edges.reshape(-1), np.repeat(np.arange(e), 2), (n, e))
    rim = point_edges @ _scale(~inner, sparse.identity(e, format="csr"))
    on_rim = np.asarray(rim.sum(axis=1)).reshape(-1) > 0
    k = np.maximum(np.asarray(point_faces.sum(axis=1)).reshape(-1), 1)
    eye = sparse.identity(n, format="csr")
    smooth = _scale(1 / k**2, point_faces @ centres + 2 * (point_edges @ middles)) + _scale((k - 3) / k, eye)
    rim_count = np.maximum(np.asarray(rim.sum(axis=1)).reshape(-1), 1)
    border = _scale(0.5 / rim_count, rim @ middles) + eye / 2
    lonely = np.asarray(point_faces.sum(axis=1)).reshape(-1) == 0
    return _scale(lonely, eye) + _scale(on_rim & ~lonely, border) + _scale(~on_rim & ~lonely, smooth)


def _rows(row: NDArray[np.int64], column: NDArray[np.int64], shape: tuple[int, int]) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(row)), (row, column)), shape)


def _scale(weights: NDArray[np.generic], matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    return sparse.diags(np.asarray(weights, float)) @ matrix
