"""The second, learned meter: what it is shown, and what our SyncNet answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from core.media import FPS, SAMPLE_RATE, Image, Pcm
from core.square import cut_square, mouth_square
from nets.mel import FFT_SAMPLES, PRE_EMPHASIS, WINDOW_COLUMNS, mel_columns
from nets.syncnet import SIZE, TICKS, SyncNet
from scripts.lips.pictures import Picture
from scripts.lips.sound import Sound
from scripts.lips.tracks import Track
from studio.landmarks import to_tracks

MOST_TICKS = 15  # how far off a mouth may be


class Judge(Protocol):
    def __call__(self, crops: NDArray[np.uint8], mel: NDArray[np.float32]) -> tuple[float, float]:
        """(offset in ms, confidence), positive if the mouth is late.

        `crops` (n, 64, 64, 3) BGR, the squares of `core.square` at 25 a second; `mel` (80, m) as `nets.mel` makes it,
        80 columns a second, the first centred on the time of the first crop.
        """


class SyncJudge:
    """A `Judge`: how well the mouths of 200 ms go with the sound MOST_TICKS earlier to MOST_TICKS later, on average.

    Confidence is the best of these over their median, in tenths of what a product of unit vectors can be.
    """

    def __init__(self, net: SyncNet) -> None:
        self.net = net

    def __call__(self, crops: NDArray[np.uint8], mel: NDArray[np.float32]) -> tuple[float, float]:
        agreement = self.agreement(crops, mel)
        best = int(agreement.argmax())
        offset = MOST_TICKS - best + _peak(agreement, best)
        return offset * 1000 / FPS, 10 * float(agreement[best] - np.median(agreement))

    def agreement(self, crops: NDArray[np.uint8], mel: NDArray[np.float32]) -> NDArray[np.float64]:
        """(2 * MOST_TICKS + 1,) mean product of both, the sound MOST_TICKS before the mouth to as many after it."""
        mouths = sliding_window_view(crops.mean(axis=3, dtype=np.float32) / 255, TICKS, axis=0).transpose(0, 3, 1, 2)
        starts = np.arange(-MOST_TICKS, len(mouths) + MOST_TICKS) * 16 // 5
        missing = max(0, starts[-1] + WINDOW_COLUMNS - mel.shape[1])
        padded = np.pad(mel, ((0, 0), (-starts[0], missing)), constant_values=-4)
        windows = np.stack([padded[:, at : at + WINDOW_COLUMNS] for at in starts - starts[0]])
        with torch.inference_mode():
            seen = self.net.see(torch.from_numpy(np.ascontiguousarray(mouths))).numpy()
            heard = self.net.hear(torch.from_numpy(windows)[:, None]).numpy()
        n = len(mouths)
        return np.array([(seen * heard[at : at + n]).sum(1).mean() for at in range(2 * MOST_TICKS + 1)], np.float64)


def _peak(values: NDArray[np.float64], at: int) -> float:
    """How far before `at` the top of the parabola through it and its neighbours lies."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = values[at - 1 : at + 2]
    return float(0.5 * (after - before) / (before - 2 * here + after))


def judged(judge: Judge, pictures: Iterable[Picture], track: Track, sound: Sound) -> tuple[float, float]:
    """What `judge` says to the `pictures` that `track` was made of, and to `sound`. Blocking."""
    return judge(_crops(pictures, track), _mel(sound, float(track.times[track.seen][0])))


def _crops(pictures: Iterable[Picture], track: Track) -> NDArray[np.uint8]:
    """The square around the mouth, nearest in time to each tick from the first picture with a face to the last."""
    seen = np.flatnonzero(track.seen)
    ticks = np.arange(track.times[seen[0]], track.times[seen[-1]] + 1e-6, 1 / FPS)
    nearest = seen[Track(track.times[seen], track.points[seen]).nearest(ticks)]
    wanted = set(nearest.tolist())
    crops = {i: _crop(image, track, i) for i, (_, image) in enumerate(pictures) if i in wanted}
    return np.stack([crops[i] for i in nearest.tolist()])


def _crop(image: Image, track: Track, index: int) -> Image:
    x, y, side = mouth_square(to_tracks(track.points[index : index + 1])[1][0]).tolist()
    return cut_square(image, (x, y, side), SIZE)


def _mel(sound: Sound, start_s: float) -> NDArray[np.float32]:
    pcm = _from(sound, start_s - FFT_SAMPLES / 2 / SAMPLE_RATE)
    return mel_columns(np.append(pcm[:1], pcm[1:] - PRE_EMPHASIS * pcm[:-1]).astype(np.float64))


def _from(sound: Sound, start_s: float) -> Pcm:
    """The samples of `sound` from `start_s` on, silence before it begins."""
    skip = round((start_s - sound.start_s) * SAMPLE_RATE)
    return np.pad(sound.pcm, (max(0, -skip), 0))[max(0, skip) :]
