"""The network of the Kokoro engine: a clause in, its sound and the times of its words out."""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from core.errors import EngineFailed
from core.media import Pcm
from tts.phonemes import Piece
from ttsreal import Word

RATE_HZ = 24_000
UNIT_MS = 25  # the model counts durations in these
EARLY_MS = 50  # by so much the sound comes before the durations say
QUIET, PEAK = 0.005, 0.95
LEAD_MS, PAUSE_MS, END_MS = 40, 180, 320  # of silence: before a clause, after it, after a sentence
# The durations as one more output of the graph. Protobuf merges messages that follow each other, so this goes after the
# file's bytes: graph (field 7) { output (12) { name (1), type (2) { tensor (1) { element (1): float } } } }.
DURATIONS = b"\x3a\x20\x62\x1e\x0a\x16/encoder/Clip_output_0\x12\x04\x0a\x02\x08\x01"


class KokoroModel:
    """The weights in `file`, on one thread of the processor. Blocking; takes 2 s and 250 MB."""

    def __init__(self, file: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = file.read_bytes() + DURATIONS
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def say(
        self, clause: list[Piece], style: Path, tempo: float, run: onnxruntime.RunOptions
    ) -> tuple[Pcm, list[Word]]:
        """`clause` as float32 (n,) 24 kHz without the silence around it, and when its words are heard in it.

        Word starts are right to some 20 ms. Blocking, about a third of real time; `run.terminate` ends it from another
        thread. EngineFailed if the network gives no numbers.
        """
        samples, edges_ms = self.infer([number for piece in clause for number in piece.ids], _styles(style), tempo, run)
        loud_ms = np.flatnonzero(np.abs(samples) > QUIET) * 1000 / RATE_HZ
        if not len(loud_ms):
            return samples[:0], []
        start_ms, end_ms = max(0.0, loud_ms[0] - LEAD_MS), loud_ms[-1]
        pause_ms = END_MS if set(clause[-1].symbols) & set(".!?…") else PAUSE_MS
        sound = samples[_at(start_ms) : _at(end_ms + pause_ms / tempo)]
        return _limited(sound), _words(clause, np.clip(edges_ms - EARLY_MS, start_ms, end_ms) - start_ms)

    def infer(
        self, ids: list[int], styles: NDArray[np.float32], tempo: float, run: onnxruntime.RunOptions
    ) -> tuple[Pcm, NDArray[np.float64]]:
        """The sound of `ids` in a voice (n, 256), and where each begins and the last one ends, in ms; a pad is put
        first and last. EngineFailed if the network gives no numbers.
        """
        for row in (len(ids), len(ids) + 1, len(ids) + 2):  # what overflows with one style does not with its neighbour
            inputs = {"input_ids": np.array([[0, *ids, 0]]), "speed": np.array([tempo], np.float32)}
            outputs = self._session.run(None, inputs | {"style": styles[None, min(row, len(styles) - 1)]}, run)
            samples, units = outputs[0].ravel(), outputs[1].ravel()
            if np.isfinite(samples).all():
                return samples, np.concatenate([[0.0], np.cumsum(units) * UNIT_MS])
        raise EngineFailed("the Kokoro voice gave no sound")


def _styles(file: Path) -> NDArray[np.float32]:
    """The voice in `file`, (n, 256): a style for every length of text, or one for all."""
    styles = np.load(file) if file.suffix == ".npy" else np.fromfile(file, "<f4")
    return np.asarray(styles, np.float32).reshape(-1, 256)


def _words(clause: list[Piece], edges_ms: NDArray[np.float64]) -> list[Word]:
    counts = accumulate((len(piece.ids) for piece in clause), initial=1)  # before the first there is a pad
    spans = [(piece.word, *edges_ms[list(span)]) for piece, span in zip(clause, pairwise(counts), strict=True)]
    return [Word(word, round(start), round(end - start)) for word, start, end in spans if word]


def _at(ms: float) -> int:
    return round(ms * RATE_HZ / 1000)


def _limited(samples: Pcm) -> Pcm:
    """`samples` with what is louder than PEAK turned down around it, some 10 ms to both sides."""
    step = RATE_HZ // 200  # 5 ms
    blocks = np.abs(np.pad(samples, (step, 2 * step - len(samples) % step))).reshape(-1, step).max(1)
    peaks = np.max([blocks[:-2], blocks[1:-1], blocks[2:]], axis=0)
    gains = PEAK / np.maximum(peaks, PEAK)
    middles = np.arange(len(gains)) * step + step / 2
    limited: Pcm = (samples * np.interp(np.arange(len(samples)), middles, gains)).astype(np.float32)
    return limited
