"""A still picture of an avatar, for pages that offer several."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np

from core.errors import BadMedia

MAX_SIDE = 512
QUALITY = 85


@lru_cache(64)
def poster(film: Path, version: int) -> bytes:
    """The first picture of `film` as JPEG, at most MAX_SIDE pixels wide and high. Blocking.

    `version` is a number that changes with the file. BadMedia if it does not decode.
    """
    try:
        with av.open(str(film)) as container:
            frame = next(iter(container.decode(video=0)), None)
    except (OSError, ValueError, LookupError, av.FFmpegError) as error:
        raise BadMedia("the avatar's film does not decode") from error
    if frame is None:
        raise BadMedia("the avatar's film is empty")
    image = frame.to_ndarray(format="bgr24")
    scale = min(1.0, MAX_SIDE / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]).tobytes()
