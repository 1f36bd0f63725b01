"""What a cloned voice is made of: a reference that is good enough, and a style for Kokoro that comes near to it."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import soxr
from faster_whisper.vad import get_speech_timestamps
from numpy.typing import NDArray

from core.audio import FORMATS, to_int16
from core.avatar import publish
from core.errors import BadMedia, BadRequest
from core.media import SAMPLE_RATE, Pcm
from core.voices import ABOUT, SOUND, STYLE, About
from nets.speaker import Likeness

RATE_HZ = 24_000  # of a reference that is kept
LEAST_S, MOST_S = 3.0, 60.0  # of speech
FILE_S = 600.0
QUIET_DB = -50.0  # root mean square of speech, full scale being 0
NOISY_DB = 15.0  # from the soft to the loud parts of speech: what is less is filled by noise
CLIPPED = 1.12  # the highest peaks over the loudest fiftieth: natural speech has 1.3 or more, cut at a fifth 1.05
FRAME_SAMPLES = SAMPLE_RATE * 20 // 1000

FIRST_STEP, STEPS = 0.3, (0.05, 1.0)  # of a walk
STYLE_SHAPE = (510, 1, 256)  # by the length of what is said; the first half is timbre, the second prosody

Style = NDArray[np.float32]  # STYLE_SHAPE
Weights = NDArray[np.float64]  # (n,), sum 1: how much of each voice of a bank


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A reference that may be kept: `sound` float32 (n,) 24 kHz mono; `speech` float32 (m,) 16 kHz, without pauses."""

    sound: NDArray[np.float32]
    speech: Pcm

    @property
    def seconds(self) -> float:
        """How much speech there is."""
        return len(self.speech) / SAMPLE_RATE


def listen(path: Path) -> Recording:
    """The reference in a file, its silent ends cut off and its pauses cut to half a second. Blocking, 10 ms a second.

    BadMedia if it does not decode, or is no reference: nobody speaks, too short or long, too quiet, clipped, noisy.
    """
    whole = _decode(path)
    pcm = np.asarray(soxr.resample(whole, RATE_HZ, SAMPLE_RATE, quality="HQ"), np.float32).clip(-1, 1)
    speech = without_pauses(pcm)
    _check(pcm, speech)
    spans = _speech_spans(pcm, pause_ms=500)
    scale = RATE_HZ / SAMPLE_RATE
    sound = np.concatenate([whole[round(start * scale) : round(stop * scale)] for start, stop in spans])
    return Recording(sound.clip(-1, 1), speech)


def without_pauses(pcm: Pcm) -> Pcm:
    """What is spoken in `pcm`, float32 (n,) 16 kHz, pauses cut to 0.2 s; empty if nobody speaks."""
    return np.concatenate([pcm[:0], *(pcm[start:stop] for start, stop in _speech_spans(pcm, pause_ms=200))])


def _speech_spans(pcm: Pcm, pause_ms: int) -> list[tuple[int, int]]:
    spans = get_speech_timestamps(pcm, min_silence_duration_ms=pause_ms, speech_pad_ms=pause_ms // 2)
    return [(span["start"], span["end"]) for span in spans]


def _decode(path: Path) -> NDArray[np.float32]:
    """The first audio stream of a file, float32 (n,) 24 kHz mono."""
    pieces = [np.zeros(0, np.float32)]
    seconds = 0.0
    try:
        with av.open(str(path), "r", options={"format_whitelist": FORMATS}) as container:
            mono = av.AudioResampler(format="fltp", layout="mono", rate=RATE_HZ)
            for frame in chain(container.decode(container.streams.audio[0]), [None]):
                pieces += [piece.to_ndarray()[0] for piece in mono.resample(frame)]
                seconds += frame.samples / frame.sample_rate if frame else 0
                if seconds > FILE_S:
                    raise BadMedia(f"the recording is longer than {FILE_S / 60:.0f} minutes: cut it")
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise BadMedia("the file holds no sound that can be decoded") from error
    return np.nan_to_num(np.concatenate(pieces), posinf=1, neginf=-1)


def _check(pcm: Pcm, speech: Pcm) -> None:
    """BadMedia if this is no reference."""
    seconds = len(speech) / SAMPLE_RATE
    if not seconds:
        quiet = _level_db(pcm) < QUIET_DB
        raise BadMedia("the recording is too quiet" if quiet else "nobody is heard to speak in the recording")
    if _level_db(speech) < QUIET_DB:
        raise BadMedia("the recording is too quiet: speak up, or come closer to the microphone")
    if seconds < LEAST_S:
        raise BadMedia(f"there are only {seconds:.1f} s of speech: {LEAST_S:.0f} are needed, 10 to 20 are good")
    if seconds > MOST_S:
        raise BadMedia(f"there are {seconds:.0f} s of speech: cut them to {MOST_S:.0f} at most, 10 to 20 are good")
    loud, highest = np.percentile(np.abs(speech), (98, 99.9))
    if highest < CLIPPED * loud:
        raise BadMedia("the recording is clipped: turn the microphone down and record again")
    if _range_db(speech) < NOISY_DB:
        raise BadMedia("there is too much noise or music behind the voice: record in a quiet room")


def _level_db(pcm: Pcm) -> float:
    return float(10 * np.log10(np.mean(pcm.astype(np.float64) ** 2) + 1e-12)) if len(pcm) else -120.0


def _range_db(pcm: Pcm) -> float:
    """From the softest to the loudest of its frames of 20 ms, the outermost left out."""
    frames = pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    levels = 10 * np.log10(np.mean(frames.astype(np.float64) ** 2, axis=1) + 1e-10)
    soft, loud = np.percentile(levels, (5, 90))
    return float(loud - soft)


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """Preset voices of Kokoro: `likenesses` float32 (n, 256), unit, of a sentence each; `styles` (n, *STYLE_SHAPE)."""

    names: tuple[str, ...]
    likenesses: NDArray[np.float32]
    styles: NDArray[np.float32]

    @classmethod
    def load(cls, models: Path) -> Bank:
        """The bank of a folder of models. BadRequest if it, or one of Kokoro's voices, is missing or damaged."""
        try:
            with np.load(models / "kokoro-bank.npz", allow_pickle=False) as file:
                names, likenesses = tuple(map(str, file["names"])), file["likenesses"].astype(np.float32)
            styles = [np.fromfile(models / "kokoro" / "voices" / f"{name}.bin", "<f4") for name in names]
            return cls(names, likenesses, np.stack([style.reshape(STYLE_SHAPE) for style in styles]))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise BadRequest("Kokoro's voices are not all here") from error

    def blend(self, weights: Weights) -> Style:
        """The mixture of the styles."""
        style: Style = np.tensordot(weights, self.styles, 1).astype(np.float32)
        return style

    def weights_of(self, likeness: Likeness) -> Weights:
        """The mixture, of no voice less than nothing, whose likenesses come nearest to `likeness` in the square."""
        among = self.likenesses.astype(np.float64)
        gram, target = among @ among.T, among @ likeness
        weights = np.zeros(len(among))
        for _ in range(3000):  # converged to 1e-7 in the bank of 36; 10 ms
            weights = np.maximum(0, weights + (target - gram @ weights) / np.linalg.norm(gram, 2))
        mixture: Weights = weights / weights.sum()
        return mixture

    def nearest(self, likeness: Likeness) -> int:
        """The row of the voice that is most like it."""
        return int(np.argmax(self.likenesses @ likeness))

    def only(self, row: int) -> Weights:
        """The mixture that is one voice alone."""
        weights = np.zeros(len(self.names))
        weights[row] = 1
        return weights


def walk(
    start: Weights, score: Callable[[Weights], float], random: np.random.Generator
) -> Iterator[tuple[Weights, float]]:
    """The best mixture so far and its score, after each trial, for ever: a step that is no better is taken back.

    Steps stay among the mixtures, so what is heard remains a voice; they grow with success and shrink without.
    """
    best, highest, step = start, score(start), FIRST_STEP
    yield best, highest
    while True:
        way = random.normal(size=len(start))
        trial = best + step * (way - way.mean()) / np.sqrt(len(start))
        reached = score(trial)
        if reached > highest:
            best, highest = trial, reached
        step = float(np.clip(step * (1.5 if best is trial else 0.9), *STEPS))
        yield best, highest


def save_voice(
    root: Path, voice_id: str, about: About, sound: NDArray[np.float32], style: Style | None, *, replace: bool = False
) -> Path:
    """Write a voice under `root` and return its folder, which appears whole or not at all. Blocking.

    `sound` is float32 (n,) 24 kHz. BadRequest if there is such a voice, unless `replace`.
    """
    folder = root / voice_id
    if folder.exists() and not replace:
        raise BadRequest(f"there is a voice '{voice_id}' already: choose another id, or --replace it")
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{voice_id}.", dir=root) as workshop:
        part = Path(workshop) / "new"
        part.mkdir()
        write_voice(part, about, sound, style)
        publish(part, folder, replace=replace)
    return folder


def write_voice(folder: Path, about: About, sound: NDArray[np.float32], style: Style | None) -> None:
    """The files of a voice into `folder`."""
    with wave.open(str(folder / SOUND), "wb") as file:
        file.setparams((1, 2, RATE_HZ, len(sound), "NONE", "not compressed"))
        file.writeframes(to_int16(sound).astype("<i2").tobytes())
    if style is not None:
        np.save(folder / STYLE, style, allow_pickle=False)
    (folder / ABOUT).write_text(json.dumps(about.model_dump(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
