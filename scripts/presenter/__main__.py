"""Draws a built-in presenter and writes the avatar."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.avatar import save_avatar
from core.media import Image
from studio.landmarks import Landmarker, to_tracks

from .camera import portrait
from .draw import Studio
from .figure import Figure
from .identity import JUN, PRESENTER, Person
from .landmarks import eye_points, face_box, mouth_points
from .motion import Habit, idle_cycle
from .pack import Pack

FRAMES = 300  # 12 s
LICENCE = (
    "Apache-2.0. Rendered from CC0-1.0 parts of MakeHuman and face shapes (c) 2023-2024 Mika Suominen, MIT License"
)


@dataclass(frozen=True)
class Role:
    """One built-in presenter: the avatar's id and title, who it is, and how that person idles."""

    avatar_id: str
    title: str
    person: Person
    habit: Habit


ROLES = {
    "vera": Role("presenter", "Vera", PRESENTER, Habit()),
    "jun": Role(
        "jun",
        "Jun",
        JUN,
        Habit(
            seed=49,
            blinks=(14, 83, 149, 226, 232),
            glances=((30, 28, 6.5, -3.0), (108, 26, -5.0, 2.5), (186, 32, -6.5, -3.5), (262, 20, 3.5, 1.5)),
            breath=0.3,
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.presenter", description=__doc__)
    parser.add_argument("--head3d", type=Path, required=True, help="folder of the head3d pack")
    parser.add_argument("--presenter", choices=ROLES, default="vera", help="whom to draw")
    parser.add_argument("--landmarker", type=Path, help="MediaPipe's face_landmarker.task, if not in models/")
    parser.add_argument("--avatars", type=Path, default=Path("data/avatars"), help="where to write the avatar")
    parser.add_argument("--size", type=int, default=512, help="pixels, width and height")
    parser.add_argument("--crf", type=int, default=11, help="x264 quality")
    options = parser.parse_args()
    role = ROLES[options.presenter]
    with Landmarker(options.landmarker) as landmarker:
        images, boxes, points = record(role, Pack(options.head3d), options.size)
        landmarks = with_oval(landmarker, images, points)
    folder = save_avatar(
        options.avatars,
        role.avatar_id,
        images,
        boxes,
        landmarks,
        loop="cycle",
        title=role.title,
        licence=LICENCE,
        crf=options.crf,
        replace=True,
    )
    print(folder)


def record(
    role: Role, pack: Pack, size: int, frames: int = FRAMES
) -> tuple[list[Image], NDArray[np.int32], NDArray[np.float32]]:
    """`role` idling: pictures that lead back into the first, face boxes (n, 4), points (n, 10, 2) of mouth and eyes.

    Minutes on a software rasteriser.
    """
    figure = Figure(role.person, pack)
    camera = portrait(figure.eyes)
    studio = Studio(figure, camera, size)
    images, boxes, points = [], [], []
    for pose in idle_cycle(frames, role.habit):
        image, base = studio.draw(pose)
        images.append(image)
        boxes.append(face_box(base, camera, size))
        points.append(np.concatenate([place(base, camera, size) for place in (mouth_points, eye_points)]))
    return images, np.stack(boxes), np.stack(points)


def with_oval(landmarker: Landmarker, images: Sequence[Image], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """The landmarks (n, 46, 2) of `images`: `points` (n, 10, 2), then the contour that `landmarker` sees."""
    _, landmarks = to_tracks(np.stack([landmarker.faces(image)[0] for image in images]))
    landmarks[:, : points.shape[1]] = points
    return landmarks


if __name__ == "__main__":
    main()
