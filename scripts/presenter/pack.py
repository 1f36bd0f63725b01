"""The head3d pack on disk: its base mesh, shapes, bindings and pictures (formats in the pack's SOURCES.md)."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .mesh import Points, Surface, read_obj

LEFT_EYE = slice(14598, 14670)
RIGHT_EYE = slice(14670, 14742)
LASHES = slice(14742, 14992)
UPPER_TEETH_FROM = 15060
HELPERS_FROM = 13380
JOINTS = {  # first of the eight corners of each joint's cube
    "head": 14070,
    "neck": 14534,
    "jaw": 14542,
    "spine": 13630,
    "left_shoulder": 14046,
    "left_elbow": 14038,
    "left_clavicle": 14054,
    "right_shoulder": 14486,
    "right_elbow": 14478,
    "right_clavicle": 14494,
}


@dataclass(frozen=True, eq=False)
class Binding:
    """How an attachment hangs on the base mesh: each point is `weights` x base points `corners`, plus `offsets`.

    `corners` (n, 3), `weights` (n, 3), `offsets` (n, 3) in units of the three `rulers` (point, point, rest length).
    """

    corners: NDArray[np.int64]
    weights: NDArray[np.float64]
    offsets: Points
    rulers: dict[str, tuple[int, int, float]]
    hidden: NDArray[np.int64]  # base points under the garment

    def scales(self, base: Points) -> NDArray[np.float64]:
        """(3,) size of `base` along x, y, z over the size the offsets were made for."""
        found = np.ones(3)
        for axis, name in enumerate("xyz"):
            if name in self.rulers:
                a, b, rest = self.rulers[name]
                found[axis] = abs(base[a, axis] - base[b, axis]) / rest
        return found

    def fit(self, base: Points, scales: NDArray[np.float64]) -> Points:
        """The attachment's points on `base`."""
        return np.asarray(np.einsum("nk,nkc->nc", self.weights, base[self.corners]) + self.offsets * scales)


class Pack:
    """The pack under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def base(self) -> Surface:
        return read_obj(self.root / "base.obj")

    def target(self, name: str) -> Points:
        """Offsets (n, 3) of shape `name`, e.g. `face/jawOpen` or `chin/chin-width-decr`."""
        moved = np.zeros_like(self.base.points)
        text = self._target_text(name)
        rows = np.array([line.split() for line in text.splitlines() if line and not line.startswith("#")], float)
        if len(rows):
            moved[rows[:, 0].astype(int)] = rows[:, 1:4]
        return moved

    def _target_text(self, name: str) -> str:
        path = self.root / "targets" / f"{name}.target"
        if path.exists():
            return path.read_text()
        return gzip.decompress(path.with_suffix(".target.gz").read_bytes()).decode()

    def attachment(self, name: str) -> tuple[Surface, Binding]:
        """Surface and binding of, e.g., `hair/long01` or `eyes/high-poly`."""
        stem = self.root / name
        if stem.is_dir():
            stem = stem / stem.name
        return read_obj(stem.with_suffix(".obj")), read_binding(stem.with_suffix(".mhclo"))

    def picture(self, name: str) -> NDArray[np.uint8]:
        """A texture, uint8 (h, w, 4) RGBA, top row first."""
        path = self.root / name
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise FileNotFoundError(path)
        code = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGBA
        return np.asarray(cv2.cvtColor(image, code))


def read_binding(path: Path) -> Binding:
    """The binding in an mhclo file."""
    corners, weights, offsets = [], [], []
    rulers: dict[str, tuple[int, int, float]] = {}
    hidden: list[int] = []
    deleting = False
    for line in path.read_text(errors="replace").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0][0].isdigit() and deleting:
            hidden.extend(_ranges(words))
        elif words[0][0].isdigit():
            numbers = [float(word) for word in words]
            alone = len(numbers) == 1
            corners.append([int(number) for number in (numbers * 3 if alone else numbers)[:3]])
            weights.append([1, 0, 0] if alone else numbers[3:6])
            offsets.append([0, 0, 0] if alone else numbers[6:9])
        elif words[0].endswith("_scale"):
            rulers[words[0][0]] = (int(words[1]), int(words[2]), float(words[3]))
        elif words[0] == "delete_verts":
            deleting = True
    return Binding(
        np.array(corners),
        np.array(weights, float),
        np.array(offsets, float),
        rulers,
        np.array(sorted(hidden), np.int64),
    )


def _ranges(words: list[str]) -> list[int]:
    """The indices of `3 7 - 9 12`: 3, 7, 8, 9, 12."""
    numbers: list[int] = []
    for before, word in pairwise(["", *words]):
        if before == "-":
            numbers.extend(range(numbers[-1] + 1, int(word) + 1))
        elif word != "-":
            numbers.append(int(word))
    return numbers
