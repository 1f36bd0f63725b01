"""Films and faces for the tests of avatar making."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from core.avatar import CHIN, LEFT_CORNER, LOWER_INNER, NOSE_BASE, OVAL, RIGHT_CORNER, UPPER_INNER
from core.media import Image
from tests.conftest import SHARED

MODEL = SHARED / "data/face/face_landmarker.task"
CLIP = SHARED / "data/clips/grid_bbaf2n.mpg"


def write_film(path: Path, images: Iterable[Image], rate: int = 25) -> Path:
    """An H.264 film of pictures of even sides, in the container that `path` is named for."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12", "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"
        for image in images:
            if not stream.codec_context.is_open:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")))
        container.mux(stream.encode(None))
    return path


def turn_mp4(path: Path) -> None:
    """Say in the header of an MP4 that its pictures are to be turned by 90° clockwise, as a phone held upright does."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def drawn_face(
    middle: tuple[float, float] = (200, 200), yaw_deg: float = 0, lips: float = 0, scale: float = 1
) -> NDArray[np.float32]:
    """Landmarks (46, 2) of a face 160 wide and 200 high; `lips` pixels are between the lips."""
    landmarks = np.zeros((OVAL.stop, 2), np.float32)
    angle = np.arange(OVAL.stop - OVAL.start) / (OVAL.stop - OVAL.start) * 2 * np.pi
    yaw = np.radians(yaw_deg)
    landmarks[OVAL] = np.stack([80 * np.sin(angle) * np.cos(yaw), -100 * np.cos(angle)], axis=1)
    landmarks[NOSE_BASE] = 1.11 * 80 * np.sin(yaw), 20
    landmarks[LEFT_CORNER], landmarks[RIGHT_CORNER] = (-25, 45), (25, 45)
    landmarks[UPPER_INNER], landmarks[LOWER_INNER] = (0, 45), (0, 45 + lips)
    landmarks[CHIN] = 0, 100
    return landmarks * np.float32(scale) + np.array(middle, np.float32)
