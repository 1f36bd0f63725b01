"""Draws the built-in presenter and writes the avatar."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from core.avatar import Avatar, save_avatar

from .camera import portrait
from .draw import Studio
from .figure import Figure
from .identity import PRESENTER
from .landmarks import face_box, mouth_points
from .motion import idle_cycle
from .pack import Pack

FRAMES = 300  # 12 s
LICENCE = (
    "Apache-2.0. Rendered from CC0-1.0 parts of MakeHuman and face shapes (c) 2023-2024 Mika Suominen, MIT License"
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.presenter", description=__doc__)
    parser.add_argument("--head3d", type=Path, required=True, help="folder of the head3d pack")
    parser.add_argument("--avatars", type=Path, default=Path("data/avatars"), help="where to write the avatar")
    parser.add_argument("--size", type=int, default=512, help="pixels, width and height")
    parser.add_argument("--crf", type=int, default=8, help="x264 quality")
    options = parser.parse_args()
    avatar = record(Pack(options.head3d), options.size)
    shutil.rmtree(options.avatars / avatar.id, ignore_errors=True)
    print(save_avatar(options.avatars, avatar, crf=options.crf, licence=LICENCE))


def record(pack: Pack, size: int, frames: int = FRAMES) -> Avatar:
    """The presenter idling, `frames` pictures that lead back into the first. Minutes on a software rasteriser."""
    figure = Figure(PRESENTER, pack)
    camera = portrait(figure.eyes)
    studio = Studio(figure, camera, size)
    images, boxes, mouths = [], [], []
    for pose in idle_cycle(frames):
        image, base = studio.draw(pose)
        images.append(image)
        boxes.append(face_box(base, camera, size))
        mouths.append(mouth_points(base, camera, size))
    return Avatar("presenter", np.stack(images), np.stack(boxes), np.stack(mouths), "cycle", "Vera")


if __name__ == "__main__":
    main()
