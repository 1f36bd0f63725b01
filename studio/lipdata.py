"""What lips are learned from: films of `scripts.presenter.talkers` and the sounds they speak, made harder.

Clips are TICKS pictures in a row of one scene with one more picture of the same head: the face to be redrawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soxr
from numpy.typing import NDArray

from core.audio import decode_audio
from core.avatar import LEFT_CORNER, LOWER_INNER, RIGHT_CORNER, UPPER_INNER
from core.media import SAMPLE_RATE, TICK_SAMPLES
from core.square import mouth_square
from nets.mel import HOP_SAMPLES, PRE_EMPHASIS, WINDOW_COLUMNS, mel_columns
from nets.syncnet import TICKS, VISEMES

Floats = NDArray[np.float32]

PAST_COLUMNS = 6
AROUND_SAMPLES = 64 * HOP_SAMPLES  # kept before and after an utterance
SHIFTS = (-10, -5, -3, 3, 5, 10)  # ticks: sounds that do not belong
ROOMS, TEMPI = 3, 3  # how many ways each utterance is heard besides clean: in rooms, and there faster or slower, too
EARS = 1 + ROOMS + TEMPI
SLOWEST, FASTEST = 0.82, 1.22  # pitch and formants change along: another throat
NOTHING = 0.05  # of all sounds are none
AT_REST = 0.5  # of faces, before they are redrawn
# By how much, in sizes of the square, people differ from each other beyond what was drawn: the rows of `Avatar.mouth`.
UNLIKE = np.array([(2, 2), (2, 2), (1, 2), (1, 1.5), (0, 0), (1, 2.5), (1, 5), (0.5, 0.5)], np.float32) / 100
FLOOR = np.float32(-4)


@dataclass(frozen=True, eq=False)
class Clip:
    """`face` (S, S, 3) and `targets` (5, S, S, 3) BGR in [0, 1], what each says, and where its mouth is.

    `mels` (5, 80, 16) as lips hear; `shifted` (1 + len(SHIFTS), 80, 16) as SyncNet does: the first in step, the others
    not. `weights` (5, 14) of visemes; none at rest. `points` (6, 8, 2), the rows of `Avatar.mouth`, of the face and
    of each target, in sides of the square from its middle; `opening` (5, S, S) 1 between the lips of each target.
    """

    face: Floats
    targets: Floats
    mels: Floats
    shifted: Floats
    weights: Floats
    points: Floats
    opening: Floats

    def only(self, ticks: NDArray[np.intp]) -> Clip:
        """The same face with only `ticks` of its targets; as SyncNet hears it, it stays whole."""
        return replace(
            self,
            targets=self.targets[ticks],
            mels=self.mels[ticks],
            points=self.points[[0, *(ticks + 1)]],
            opening=self.opening[ticks],
        )


class Sounds:
    """The utterances of one split as mel columns, each heard `EARS` ways; the `weights` that go with each tick."""

    def __init__(self, speech: Path, sayings: Path, rng: np.random.Generator) -> None:
        with np.load(sayings) as found:
            utterance, tick, weights = found["utterance"], found["tick"], found["weights"]
        self.weights = {int(n): weights[utterance == n][np.argsort(tick[utterance == n])] for n in np.unique(utterance)}
        self.heard = {n: _heard(decode_audio(speech / f"{n:04d}.opus"), rng) for n in self.weights}
        self.rng = rng

    def window(self, utterance: int, tick: int, ear: int, past: int = PAST_COLUMNS) -> Floats:
        """(80, 16) of the sound around `tick`; an utterance -1 is silence, or a noise. Ears up to ROOMS keep time."""
        if utterance < 0:
            return self._nothing()
        tempo, columns = self.heard[utterance][ear]
        start = AROUND_SAMPLES // HOP_SAMPLES + int(tick * TICK_SAMPLES / HOP_SAMPLES / tempo) - past
        return np.asarray(columns[:, start : start + WINDOW_COLUMNS], np.float32)

    def anything(self, past: int = PAST_COLUMNS, ticks: int = 1) -> tuple[Floats, Floats]:
        """A window (80, 16) of anything anywhere, and the weights (ticks, 14) from its tick on; at times of nothing."""
        if self.rng.random() < NOTHING:
            return self._nothing(), np.zeros((ticks, VISEMES), np.float32)
        utterance = int(self.rng.choice(self._names))
        tick = int(self.rng.integers(len(self.weights[utterance]) - ticks + 1))
        mel = self.window(utterance, tick, int(self.rng.integers(EARS)), past)
        return mel, self.weights[utterance][tick : tick + ticks]

    def batch(self, n: int, past: int = PAST_COLUMNS, ticks: int = 1) -> tuple[Floats, Floats]:
        """`n` times `anything`: (n, 80, 16) and (n, ticks * 14)."""
        mels, weights = zip(*(self.anything(past, ticks) for _ in range(n)), strict=True)
        return np.stack(mels), np.stack(weights).reshape(n, -1)

    @cached_property
    def _names(self) -> list[int]:
        return list(self.weights)

    def _nothing(self) -> Floats:
        """Silence, a steady noise, or the silent beginning of something."""
        columns = np.full((80, WINDOW_COLUMNS), FLOOR)
        if self.rng.random() < 0.6:
            shape = np.cumsum(self.rng.normal(0, 0.15, 80))[:, None] + self.rng.uniform(-4, -1.2)
            columns = np.maximum(columns, shape + self.rng.normal(0, 0.35, columns.shape)).astype(np.float32)
        return np.asarray(columns, np.float32)


def posed(reach: Floats, weights: Floats) -> Floats:
    """Landmarks (n, 10, 2) of a face with `weights` (n, 14) of visemes.

    `reach` (15, 10, 2): at rest, and for each viseme alone.
    """
    return np.asarray(reach[0] + np.tensordot(weights, reach[1:] - reach[0], axes=1), np.float32)


def unlike(rng: np.random.Generator) -> Floats:
    """(8, 2): how somebody's mouth lies who looks like nobody drawn, whatever is said; in sizes of the square."""
    off = (UNLIKE * rng.normal(0, 1, UNLIKE.shape)).astype(np.float32)
    off[LOWER_INNER] = off[UPPER_INNER]  # lips that meet still do
    return off


def _turned(marks: Floats, matrix: NDArray[np.float64]) -> Floats:
    """`marks` (n, 10, 2) where `matrix` puts them; what is left stays left, also in a mirror."""
    if np.linalg.det(matrix[:, :2]) < 0:
        marks = marks[:, [1, 0, 2, 3, 4, 5, 6, 7, 9, 8]]
    return (marks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def opening(points: Floats, size: int) -> Floats:
    """(n, S, S): 1 between the corners and the inner edges of the lips, for `points` (n, 8, 2) pixels."""
    between = np.zeros((len(points), size, size), np.float32)
    for mask, mouth in zip(between, points[:, [LEFT_CORNER, UPPER_INNER, RIGHT_CORNER, LOWER_INNER]], strict=True):
        cv2.fillConvexPoly(mask, np.round(mouth * 16).astype(np.int32), 1.0, cv2.LINE_8, 4)
    return between


def _heard(pcm: Floats, rng: np.random.Generator) -> list[tuple[float, NDArray[np.float16]]]:
    """Tempo and mel columns of each way in which `pcm` is heard."""
    tempi = [1.0] * (1 + ROOMS) + rng.uniform(SLOWEST, FASTEST, TEMPI).tolist()
    heard = []
    for ear, tempo in enumerate(tempi):
        sound = soxr.resample(pcm, SAMPLE_RATE, SAMPLE_RATE / tempo) if tempo != 1 else pcm
        padded = np.pad(np.asarray(sound, np.float32), AROUND_SAMPLES)
        heard.append((tempo, columns_of(in_a_room(padded, rng) if ear else padded).astype(np.float16)))
    return heard


def columns_of(pcm: Floats) -> Floats:
    """Mel columns (80, k) of a whole sound; column j is centred on sample 200 j."""
    emphasised = np.append(pcm[:1], pcm[1:] - PRE_EMPHASIS * pcm[:-1]).astype(np.float64)
    return mel_columns(np.pad(emphasised, 400))


def in_a_room(pcm: Floats, rng: np.random.Generator) -> Floats:
    """`pcm` through a room, a microphone and noise, at some loudness."""
    sound = pcm.astype(np.float64)
    if rng.random() < 0.6:
        decay_s = rng.uniform(0.05, 0.4)
        time = np.arange(int(decay_s * SAMPLE_RATE)) / SAMPLE_RATE
        tail = rng.normal(0, 1, len(time)) * np.exp(-6.9 * time / decay_s) * (time > 0.002)
        tail *= rng.uniform(0.1, 0.9) / max(1e-9, float(np.sqrt((tail**2).sum())))
        tail[0] = 1.0
        sound = _convolved(sound, tail)
    if rng.random() < 0.5:
        sound = _coloured(sound, rng.uniform(-4, 4), rng.uniform(2500, 8000))
    noise = _coloured(rng.normal(0, 1, len(sound)), rng.uniform(-9, 1), 8000)
    level = np.sqrt((sound**2).mean()) * 10 ** (-rng.uniform(8, 45) / 20)
    sound = sound + noise * level / max(1e-9, float(noise.std()))
    return np.asarray((sound * 10 ** (rng.uniform(-14, 8) / 20)).clip(-1, 1), np.float32)


def _convolved(sound: NDArray[np.float64], tail: NDArray[np.float64]) -> NDArray[np.float64]:
    """`sound` as it sounds where an impulse sounds like `tail`; no longer than it was."""
    n = 1 << (len(sound) + len(tail)).bit_length()
    return np.fft.irfft(np.fft.rfft(sound, n) * np.fft.rfft(tail, n), n)[: len(sound)]


def _coloured(sound: NDArray[np.float64], slope_db: float, highest_hz: float) -> NDArray[np.float64]:
    """`sound` with `slope_db` an octave around 1 kHz, and little above `highest_hz`."""
    hz = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    gain = (np.maximum(hz, 60) / 1000) ** (slope_db / 6.02) / (1 + (hz / highest_hz) ** 8)
    return np.asarray(np.fft.irfft(np.fft.rfft(sound) * gain, len(sound)))


class Films:
    """The films of one split, and clips cut from them."""

    def __init__(self, folder: Path, split: str, sounds: Sounds, size: int, rng: np.random.Generator) -> None:
        self.sounds, self.size, self.rng = sounds, size, rng
        self.people = [dict(np.load(path)) for path in sorted(folder.glob(f"{split}_????.npz"))]
        if not self.people:
            raise FileNotFoundError(f"there are no films {split}_????.npz in {folder}")

    def clips(self, *, hard: bool = True) -> Iterator[Clip]:
        """Clips without end, of everybody in turn."""
        while True:
            for i in self.rng.permutation(len(self.people)):
                yield self._clip(self.people[i], hard=hard)

    def _clip(self, person: dict[str, NDArray[Any]], *, hard: bool) -> Clip:
        rng = self.rng
        scene = np.flatnonzero(person["scene"] == rng.integers(person["scene"].max() + 1))
        rests, spoken = scene[person["tick"][scene] < 0], scene[person["tick"][scene] >= 0]
        face = int(rng.choice(rests if rng.random() < 0.5 else scene))
        if rng.random() < 0.08:
            shown = np.repeat(rests[0], TICKS)
        else:
            first = int(rng.integers(len(spoken) - TICKS + 1))
            shown = spoken[first : first + TICKS]
        ear = int(rng.integers(1 + ROOMS))
        said = list(zip(person["utterance"][shown].tolist(), person["tick"][shown].tolist(), strict=True))
        mels = np.stack([self.sounds.window(u, t, ear) for u, t in said])
        pictures = person["images"][[face, *shown]]
        pictures, turned = self._crop(pictures, person["landmarks"][[face, *shown]], hard=hard)
        finished = self._dress(pictures, hard=hard)
        points = ((turned[:, :8] + 0.5) / self.size - 0.5).astype(np.float32)
        shifted = np.stack([self.sounds.window(said[0][0], said[0][1] + shift, ear, 0) for shift in (0, *SHIFTS)])
        weights = person["weights"][shown].astype(np.float32)
        return Clip(finished[0], finished[1:], mels, shifted, weights, points, opening(turned[1:, :8], self.size))

    def moves(self, n: int) -> tuple[Floats, Floats, Floats]:
        """`n` times a mel window (80, 16), and the mouth (8, 2) of a face before and while it says that.

        Anybody says anything here, not only what was filmed: where a mouth is follows from its visemes.
        """
        rng = self.rng
        mels, mouths = [], []
        for i in rng.integers(len(self.people), size=n):
            reach = self.people[i]["reach"]
            mel, said = self.sounds.anything()
            before = np.zeros_like(said) if rng.random() < AT_REST else self.sounds.anything()[1]
            marks = posed(reach[rng.integers(len(reach))], np.concatenate([before, said]))
            mels.append(mel)
            mouths.append((_turned(marks, self._askew(marks[0], hard=True))[:, :8] + 0.5) / self.size - 0.5)
            mouths[-1] += unlike(rng)
        pairs = np.stack(mouths).astype(np.float32)
        return np.stack(mels), pairs[:, 0], pairs[:, 1]

    def _crop(self, pictures: NDArray[np.uint8], marks: Floats, *, hard: bool) -> tuple[NDArray[np.uint8], Floats]:
        """All pictures through the face's square, which is never quite right; landmarks along."""
        matrix, size = self._askew(marks[0], hard=hard), self.size
        cut = [
            cv2.warpAffine(p, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for p in pictures
        ]
        return np.stack(cut), _turned(marks, matrix)

    def _askew(self, marks: Floats, *, hard: bool) -> NDArray[np.float64]:
        """(2, 3): from the picture into the square around the mouth of `marks` (10, 2); mirrored, half of the time."""
        rng, size = self.rng, self.size
        x, y, side = mouth_square(marks)
        angle, flip = 0.0, False
        if hard:
            x, y = x + side * rng.normal(0, 0.025), y + side * rng.normal(0, 0.03)
            side, angle, flip = side * rng.uniform(0.88, 1.1), rng.normal(0, 4), rng.random() < 0.5
        matrix: NDArray[Any] = cv2.getRotationMatrix2D((float(x), float(y)), angle, size / float(side))
        matrix[:, 2] += size / 2 - np.array([x, y])
        return np.array([[-1, 0, size - 1], [0, 1, 0]]) @ np.vstack([matrix, [0, 0, 1]]) if flip else matrix

    def _dress(self, pictures: NDArray[np.uint8], *, hard: bool) -> Floats:
        """Other light, another lens, something in front: the same for all pictures of a clip. In [0, 1]."""
        rng = self.rng
        seen: NDArray[Any] = pictures.astype(np.float32) / 255
        if not hard:
            return seen
        if rng.random() < 0.35:
            sigma = rng.uniform(0.4, 1.6)
            seen = np.stack([cv2.GaussianBlur(picture, (0, 0), sigma) for picture in seen])
        gain = rng.uniform(0.65, 1.3) * np.exp(rng.normal(0, 0.15, 3))
        seen = np.clip(seen * gain, 0, 1) ** np.float32(rng.uniform(0.75, 1.35))
        if rng.random() < 0.4:
            grey = seen.mean(axis=-1, keepdims=True)
            seen = grey + (seen - grey) * rng.uniform(0.0 if rng.random() < 0.2 else 0.5, 1.4)
        if rng.random() < 0.4:
            ramp = np.linspace(-1, 1, self.size, dtype=np.float32)
            slope = rng.normal(0, 0.15, 2)
            seen = seen * (1 + slope[0] * ramp[:, None, None] + slope[1] * ramp[None, :, None])
        if rng.random() < 0.12:
            seen = self._hidden(seen)
        return np.clip(seen, 0, 1).astype(np.float32)

    def _hidden(self, seen: NDArray[Any]) -> NDArray[Any]:
        """Something small before the face."""
        rng, size = self.rng, self.size
        mask: NDArray[Any] = np.zeros((size, size), np.float32)
        middle = tuple(int(v) for v in rng.uniform(0, size, 2))
        axes = tuple(int(v) for v in rng.uniform(0.05, 0.2, 2) * size)
        cv2.ellipse(mask, middle, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
        mask = cv2.GaussianBlur(mask, (0, 0), 1.0)[..., None]
        thing = rng.uniform(0, 1, 3) + rng.normal(0, 0.05, (size, size, 1))
        return np.asarray(seen * (1 - mask) + mask * thing, np.float32)
