"""Makes an avatar of a folder made for LiveTalking: `python -m studio.import_avatar data/avatars/wav2lip256_avatar1`.

Such a folder has numbered pictures in `full_imgs/`, and in `coords.pkl` where the face is in each. Networks and what
was computed for them (`face_imgs`, `latents.pt`, `mask`, `*.pth`) are left behind.
"""

from __future__ import annotations

import re
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from core.avatar import safe_id, save_avatar
from core.errors import BadMedia, BadRequest, VivaceError
from core.media import Image
from studio.landmarks import Landmarker, Points, to_tracks
from studio.plainpickle import MAX_BYTES, numbers
from studio.telling import say
from studio.tracks import Landmarks, filled, followed, smooth

SUFFIXES = {".png", ".jpg", ".jpeg"}
MOST = 0.5  # of the pictures must show the face, or its landmarks are not believed
Boxes = NDArray[np.int32]  # (n, 4) x1 y1 x2 y2


@dataclass(frozen=True)
class Album:
    """The pictures of a folder in order, and the box of the face in each; `half_faces`: from the nose's bridge down."""

    paths: Sequence[Path]
    boxes: Boxes
    half_faces: bool

    def __iter__(self) -> Iterator[Image]:
        """Each picture, uint8 (H, W, 3) BGR, of even sides. BadMedia if one does not decode or has another size."""
        shape = None
        for path in self.paths:
            image = _picture(path)
            if image.shape != (shape := shape or image.shape):
                raise BadMedia(f"'{path.name}' has another size than the picture before it")
            yield image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]


def open_album(folder: Path) -> Album:
    """The pictures and boxes of a LiveTalking folder. BadMedia if it has no such, or they do not fit each other."""
    pictures, coords = folder / "full_imgs", folder / "coords.pkl"
    if not pictures.is_dir() or not coords.is_file():
        raise BadMedia(
            f"'{folder.name}' is no avatar of LiveTalking: it has no 'full_imgs' with a 'coords.pkl' beside it"
        )
    paths = sorted((path for path in pictures.iterdir() if path.suffix.lower() in SUFFIXES), key=_natural)
    half_faces = any((folder / name).exists() for name in ("latents.pt", "mask_coords.pkl", "avator_info.json"))
    rows = _rows(coords, len(paths))
    if not half_faces and not (folder / "ultralight.pth").exists():
        rows = rows[:, [2, 0, 3, 1]]  # Wav2Lip's are y1 y2 x1 x2
    return Album(paths, rows, half_faces)


def import_avatar(album: Album, landmarker: Landmarker | None) -> tuple[Boxes, Landmarks | None]:
    """The tracks of `album`: boxes, and landmarks if `landmarker` finds the face in most pictures. Blocking.

    Boxes stay as they are: they are what a checkpoint has been used with. But half faces become whole where they can.
    BadMedia if boxes that stay do not lie in the pictures.
    """
    around, landmarks = _seen(album, landmarker) if landmarker else (None, None)
    if album.half_faces and around is not None:
        return around, landmarks
    if not _fit(album.boxes, next(iter(album))):
        raise BadMedia("the boxes of 'coords.pkl' do not lie in the pictures")
    return album.boxes, landmarks


def _seen(album: Album, landmarker: Landmarker) -> tuple[Boxes, Landmarks] | tuple[None, None]:
    faces: list[Points | None] = []
    last: Points | None = None
    for image in album:
        faces.append(followed(landmarker.faces(image), last))
        last = last if faces[-1] is None else faces[-1]
    found = np.array([face is not None for face in faces])
    if last is None or found.mean() < MOST:
        return None, None
    _, landmarks = to_tracks(np.stack([last if face is None else face for face in faces]))
    return smooth(filled(landmarks, found))


def _natural(path: Path) -> tuple[list[int], str]:
    """The order in which a person counts: 2 before 10."""
    return [int(digits) for digits in re.findall(r"\d{1,18}", path.stem)], path.name


def _rows(path: Path, n: int) -> Boxes:
    """The rows of `coords.pkl` as whole numbers (n, 4). BadMedia if they are anything else."""
    with path.open("rb") as file:
        rows = numbers(file.read(MAX_BYTES + 1))
    if n == 0 or not isinstance(rows, list) or len(rows) != n:
        raise BadMedia("'full_imgs' and 'coords.pkl' do not hold equally many pictures and boxes")
    if not all(_is_row(row) for row in rows):
        raise BadMedia("'coords.pkl' is no list of boxes of four numbers")
    return np.array([[int(number) for number in row] for row in rows], np.int32)


def _is_row(row: object) -> bool:
    if not isinstance(row, list | tuple) or len(row) != 4:
        return False
    return all(isinstance(number, int | float) and abs(number) < 1 << 20 for number in row)


def _fit(rows: Boxes, image: Image) -> bool:
    x1, y1, x2, y2 = rows.T
    height, width = image.shape[:2]
    return bool(((x1 < x2) & (y1 < y2) & (x1 < width) & (y1 < height) & (x2 > 0) & (y2 > 0)).all())


def _picture(path: Path) -> Image:
    image = None
    with suppress(cv2.error):  # an empty file, or too many pixels
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise BadMedia(f"'{path.name}' is no picture that can be decoded")
    return np.asarray(image, np.uint8)


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    args = _arguments(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        say(f"made: {_import(args)}")
    except VivaceError as error:
        say(str(error))
    except OSError as error:
        say(f"the avatar could not be written: {error.strerror}")
    except KeyboardInterrupt:
        say("stopped before the end: nothing was written")
    else:
        return 0
    return 1


def _import(args: Namespace) -> Path:
    avatar_id = safe_id(args.avatar_id or args.folder.resolve().name)
    if (args.avatars / avatar_id).exists() and not args.replace:
        raise BadRequest(f"there is an avatar '{avatar_id}' already: choose another --avatar_id, or --replace it")
    album = open_album(args.folder)
    rows, landmarks = _tracks(album, args.model)
    if landmarks is None:
        say("no landmarks: only published checkpoints can drive this avatar")
    return save_avatar(args.avatars, avatar_id, album, rows, landmarks, title=args.title, replace=args.replace)


def _tracks(album: Album, model: Path | None) -> tuple[Boxes, Landmarks | None]:
    try:
        landmarker = Landmarker(model)
    except BadRequest as error:
        say(str(error))
        return import_avatar(album, None)
    with landmarker:
        return import_avatar(album, landmarker)


def _arguments(argv: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser("python -m studio.import_avatar", description="Take over an avatar made for LiveTalking.")
    parser.add_argument("folder", type=Path, help="with full_imgs and coords.pkl in it")
    parser.add_argument("--avatar_id", help="letters, digits, '_', '-' and '.'; by default the folder's name")
    parser.add_argument("--avatars", type=Path, default=Path("data/avatars"), help="folder of avatars")
    parser.add_argument("--title", default="", help="what people call it")
    parser.add_argument("--model", type=Path, help="face landmarker, by default models/face_landmarker.task")
    parser.add_argument("--replace", action="store_true", help="put it in the place of an avatar of the same id")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
