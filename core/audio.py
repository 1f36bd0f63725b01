"""Sound files in, 16 kHz mono out."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import av
import numpy as np
import soxr

from core.errors import BadMedia
from core.media import SAMPLE_RATE, Pcm

MAX_SECONDS = 30 * 60
# Containers that hold their sound themselves: a list of files or a session description has FFmpeg open others.
FORMATS = "wav,w64,aiff,au,caf,flac,mp3,aac,ogg,mov,mp4,m4a,3gp,3g2,matroska,webm,amr,asf,avi,flv,mpegts"


def decode_audio(data: bytes | Path) -> Pcm:
    """The first audio stream of a file, float32 (n,) 16 kHz mono in [-1, 1]; channels are averaged. Blocking.

    BadMedia if it holds no sound that FFmpeg decodes, or more than 30 minutes of it.
    """
    source = BytesIO(data) if isinstance(data, bytes) else str(data)
    try:
        with av.open(source, "r", options={"format_whitelist": FORMATS}) as container:
            pcm, rate = _decode_first_stream(container)
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise BadMedia("the file holds no sound that can be decoded") from error
    if not pcm.size:
        raise BadMedia("the file holds no sound")
    return np.asarray(soxr.resample(pcm, rate, SAMPLE_RATE, quality="HQ"), np.float32).clip(-1, 1)


def _decode_first_stream(container: av.container.InputContainer) -> tuple[Pcm, int]:
    stream = container.streams.audio[0]
    rate = stream.codec_context.sample_rate
    as_float = av.AudioResampler(format="fltp", rate=rate)
    pieces: list[Pcm] = []
    length = 0
    for frame in container.decode(stream):
        for planes in as_float.resample(frame):
            pieces.append(planes.to_ndarray().mean(axis=0))
            length += planes.samples
        if length > MAX_SECONDS * rate:
            raise BadMedia(f"the sound is longer than {MAX_SECONDS // 60} minutes")
    return (np.concatenate(pieces) if pieces else np.zeros(0, np.float32)), rate


def to_int16(pcm: Pcm) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """`pcm` in [-1, 1] as int16 samples, clipped."""
    return (np.clip(pcm, -1, 1) * 32767).astype(np.int16)
