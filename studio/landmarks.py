"""Where a face is in a picture: MediaPipe's face landmarker, and the tracks that an avatar keeps of it."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from core.avatar import MEDIAPIPE, OVAL
from core.errors import BadRequest
from core.media import Image

MODEL = Path("models/face_landmarker.task")
MAX_FACES = 4
CHIN_MARGIN = 0.02  # of the box's height
NOWHERE = "http://127.0.0.1:9"  # the discard port: refused at once

Points = NDArray[np.float32]  # (478, 2) pixels of one face


class Landmarker:
    """The faces in a picture. One thread; a picture of any size takes about 10 ms of one core.

    Each picture is looked at alone. MediaPipe's video mode smooths one face over past pictures, which leaves the lips
    half a picture late; with several faces it smooths nothing.

    MediaPipe reports its use to Google and has no switch for that: from making to `close` the process has an HTTPS
    proxy that leads nowhere. BadRequest if MediaPipe or its model is not there, or is damaged.
    """

    def __init__(self, model: Path | None = None) -> None:
        model = model or MODEL
        if not model.is_file():
            raise BadRequest(
                f"the face landmarker '{model.name}' is missing: python scripts/fetch_models.py face_landmarker"
            )
        self._mediapipe = _import_mediapipe()
        self._until_close = ExitStack()
        with ExitStack() as undo:
            undo.enter_context(_reporting_nowhere())
            self._task = self._load(model)
            self._until_close = undo.pop_all()

    def _load(self, model: Path) -> Any:
        vision = self._mediapipe.tasks.vision
        base = self._mediapipe.tasks.BaseOptions(model_asset_buffer=model.read_bytes())
        try:
            with _silent():
                return vision.FaceLandmarker.create_from_options(
                    vision.FaceLandmarkerOptions(base_options=base, num_faces=MAX_FACES)
                )
        except OSError as error:
            raise BadRequest(
                "MediaPipe needs the system libraries libEGL and libGLESv2: apt install libegl1 libgles2"
            ) from error
        except (RuntimeError, ValueError) as error:
            raise BadRequest(f"'{model.name}' is not a face landmarker that MediaPipe can read") from error

    def faces(self, image: Image) -> list[Points]:
        """The points (478, 2) of each face in `image` in pixels, largest face first, at most 4. Blocking.

        The detector misses what is narrower than a tenth of the picture's longer side, as of a person standing: where
        it finds nobody, it looks again at squares of the shorter side. 10 ms, or up to 40 ms for such a picture.
        """
        found = self._detect(image)
        for left, top, side in _squares(image) if not found else ():
            square = image[top : top + side, left : left + side]
            found += [face + np.array([left, top], np.float32) for face in self._detect(square)]
        found.sort(key=lambda face: float(np.prod(np.ptp(face, axis=0))), reverse=True)
        return _distinct(found)[:MAX_FACES]

    def _detect(self, image: Image) -> list[Points]:
        height, width = image.shape[:2]
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # in one piece of memory: MediaPipe misreads any other
        found = self._task.detect(self._mediapipe.Image(self._mediapipe.ImageFormat.SRGB, rgb)).face_landmarks
        return [np.array([(p.x * width, p.y * height) for p in face], np.float32) for face in found]

    def close(self) -> None:
        """Free the model. Idempotent."""
        with self._until_close.pop_all(), _silent():
            self._task.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def to_tracks(points: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The boxes int32 (n, 4) x1 y1 x2 y2 and landmarks float32 (n, 46, 2) of an avatar, from points (n, 478, 2).

    The box is that of the face's contour, a little longer below the chin; it may reach beyond the picture.
    """
    landmarks = np.stack([points[:, list(some)].mean(axis=1) for some in MEDIAPIPE], axis=1).astype(np.float32)
    return boxes(landmarks), landmarks


def boxes(landmarks: NDArray[np.float32]) -> NDArray[np.int32]:
    """The boxes int32 (n, 4) around the faces of landmarks (n, 46, 2)."""
    low, high = landmarks[:, OVAL].min(axis=1), landmarks[:, OVAL].max(axis=1)
    high[:, 1] += CHIN_MARGIN * (high[:, 1] - low[:, 1])
    return np.hstack([np.floor(low), np.ceil(high)]).astype(np.int32)


def _squares(image: Image) -> list[tuple[int, int, int]]:
    """Left, top and side of the squares as wide as the picture's shorter side, each half over the one before."""
    height, width = image.shape[:2]
    side, long = sorted((height, width))
    starts = [int(start) for start in np.linspace(0, long - side, 1 + math.ceil(2 * (long - side) / side))]
    return [(start, 0, side) if width > height else (0, start, side) for start in starts]


def _distinct(faces: list[Points]) -> list[Points]:
    """`faces` without those whose middle lies in one before: the same face, seen in two squares."""
    kept: list[Points] = []
    for face in faces:
        middle = face.mean(axis=0)
        if not any((other.min(axis=0) < middle).all() and (middle < other.max(axis=0)).all() for other in kept):
            kept.append(face)
    return kept


def _import_mediapipe() -> Any:
    """The package `mediapipe`, without matplotlib: it imports that for plots that nobody asks for here."""
    stand_ins = {name: ModuleType(name) for name in ("matplotlib", "matplotlib.pyplot") if name not in sys.modules}
    sys.modules |= stand_ins
    try:
        mediapipe = import_module("mediapipe")
        mediapipe.tasks.vision.FaceLandmarker  # noqa: B018 - an incomplete installation shows here
        return mediapipe
    except ModuleNotFoundError as error:
        raise BadRequest("faces are found by MediaPipe: pip install --no-deps -r requirements-studio.txt") from error
    finally:
        for name in stand_ins:
            del sys.modules[name]


@contextmanager
def _reporting_nowhere() -> Iterator[None]:
    """The environment in which an HTTPS request of a library ends at once, unsent."""
    names = ("https_proxy", "no_proxy", "NO_PROXY")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ["https_proxy"] = NOWHERE
    try:
        yield
    finally:
        del os.environ["https_proxy"]
        os.environ |= before


@contextmanager
def _silent() -> Iterator[None]:
    """What native code writes to the standard error goes nowhere meanwhile: MediaPipe has no other switch for it."""
    sys.stderr.flush()
    with ExitStack() as stack:
        shown = os.dup(2)
        stack.callback(os.close, shown)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        os.dup2(nowhere, 2)
        stack.callback(os.dup2, shown, 2)
        yield
