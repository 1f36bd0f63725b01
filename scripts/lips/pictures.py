"""The pictures of a video file with the times they are shown at, whatever those are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from core.errors import BadMedia
from core.media import Image

Picture = tuple[float, Image]  # seconds, and uint8 (H, W, 3) BGR


def pictures(path: Path) -> Iterator[Picture]:
    """Every picture of the first video stream of `path` and its time, times rising. Blocking, decodes as it is read.

    What is damaged is left out, and so is a picture that is not later than the one before it. BadMedia if there is no
    video stream, or its pictures carry no times.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BadMedia(f"'{path.name}' holds no video")
            yield from _rising(_decoded(container, container.streams.video[0]), path.name)
    except (av.FFmpegError, ValueError) as error:
        raise BadMedia(f"'{path.name}' is no video that can be decoded") from error


def _rising(frames: Iterator[av.VideoFrame], name: str) -> Iterator[Picture]:
    last_s = -np.inf
    for frame in frames:
        if frame.time is None:
            raise BadMedia(f"the pictures of '{name}' carry no times: put them into a container that does (mp4, mkv)")
        if frame.time > last_s:
            last_s = frame.time
            yield frame.time, np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            continue
        yield from (frame for frame in frames if isinstance(frame, av.VideoFrame))
