"""Is somebody speaking? Silero's network, frame by frame, one stream of sound at a time."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import EngineFailed
from core.media import SAMPLE_RATE, Pcm

FRAME_SAMPLES = 512
FRAME_MS = FRAME_SAMPLES * 1000 // SAMPLE_RATE  # 32
_CONTEXT_SAMPLES = 64
_STATE = (1, 1, 128)


class SileroVAD:
    """The probability of speech in each 32 ms of one stream. The weights are shared by all streams of the process."""

    def __init__(self) -> None:
        """EngineFailed if the package that carries the weights is not installed. The first one of a process loads."""
        self._session = _load()
        self._rest: Pcm
        self.reset()

    def push(self, pcm: Pcm) -> list[float]:
        """One probability for each 512 samples that `pcm`, float32 (n,) 16 kHz, completes; 0.07 ms each.

        `pcm` is finite: a NaN would stay in the state until `reset()`.
        """
        self._rest = np.concatenate([self._rest, pcm])
        found = []
        while len(self._rest) >= _CONTEXT_SAMPLES + FRAME_SAMPLES:
            found.append(self._ask(self._rest[: _CONTEXT_SAMPLES + FRAME_SAMPLES]))
            self._rest = self._rest[FRAME_SAMPLES:]
        return found

    def reset(self) -> None:
        """Forget everything: another sound begins."""
        self._h = self._c = np.zeros(_STATE, np.float32)
        self._rest = np.zeros(_CONTEXT_SAMPLES, np.float32)

    def _ask(self, frame: Pcm) -> float:
        probability, self._h, self._c = self._session.run(None, {"input": frame[None], "h": self._h, "c": self._c})
        return float(np.ravel(probability)[0])


@cache
def _load() -> Any:
    package = find_spec("faster_whisper")
    if package is None or package.origin is None:
        raise EngineFailed("hearing needs the Python package 'faster-whisper'")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    weights = Path(package.origin).parent / "assets" / "silero_vad_v6.onnx"
    return onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
