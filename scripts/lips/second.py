"""The place of a second, learned meter: what it is shown, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from core.media import FPS, SAMPLE_RATE, Image, Pcm
from nets.mel import FFT_SAMPLES, PRE_EMPHASIS, mel_columns
from scripts.lips.pictures import Picture
from scripts.lips.quality import inside
from scripts.lips.sound import Sound
from scripts.lips.tracks import Track, face_box, lower_half

CROP = (96, 48)  # width, height


class Judge(Protocol):
    def __call__(self, crops: NDArray[np.uint8], mel: NDArray[np.float32]) -> tuple[float, float]:
        """(offset in ms, confidence), positive if the mouth is late.

        `crops` (n, 48, 96, 3) BGR, lower halves of a face at 25 a second; `mel` (80, m) as `nets.mel` makes it, 80
        columns a second, the first centred on the time of the first crop.
        """


def judged(judge: Judge, pictures: Iterable[Picture], track: Track, sound: Sound) -> tuple[float, float]:
    """What `judge` says to the `pictures` that `track` was made of, and to `sound`. Blocking."""
    return judge(_crops(pictures, track), _mel(sound, float(track.times[track.seen][0])))


def _crops(pictures: Iterable[Picture], track: Track) -> NDArray[np.uint8]:
    """The lower half of the face, nearest in time to each tick from the first picture with a face to the last."""
    seen = np.flatnonzero(track.seen)
    ticks = np.arange(track.times[seen[0]], track.times[seen[-1]] + 1e-6, 1 / FPS)
    nearest = seen[Track(track.times[seen], track.points[seen]).nearest(ticks)]
    wanted = set(nearest.tolist())
    crops = {i: _crop(image, track, i) for i, (_, image) in enumerate(pictures) if i in wanted}
    return np.stack([crops[i] for i in nearest.tolist()])


def _crop(image: Image, track: Track, index: int) -> Image:
    return np.asarray(cv2.resize(inside(image, lower_half(face_box(track.points[index]))), CROP), np.uint8)


def _mel(sound: Sound, start_s: float) -> NDArray[np.float32]:
    pcm = _from(sound, start_s - FFT_SAMPLES / 2 / SAMPLE_RATE)
    return mel_columns(np.append(pcm[:1], pcm[1:] - PRE_EMPHASIS * pcm[:-1]).astype(np.float64))


def _from(sound: Sound, start_s: float) -> Pcm:
    """The samples of `sound` from `start_s` on, silence before it begins."""
    skip = round((start_s - sound.start_s) * SAMPLE_RATE)
    return np.pad(sound.pcm, (max(0, -skip), 0))[max(0, skip) :]
