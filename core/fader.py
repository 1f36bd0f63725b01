"""The loudness of what a session plays: lowered, raised and cut without a click."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.media import CHUNK_SAMPLES, TICK_SAMPLES


class Fader:
    """Brings ticks to `target`, 1 as they are and 0 silent, over 20 ms from where it was before."""

    def __init__(self) -> None:
        self.target = 1.0
        self._gain = 1.0

    @property
    def silent(self) -> bool:
        """Whether nothing of a tick would be heard."""
        return self._gain == self.target == 0

    def reset(self) -> None:
        """As it is, at once."""
        self.target = self._gain = 1.0

    def apply(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        """The tick's `samples`, int16 (640,), as loud as they are to be."""
        before, self._gain = self._gain, self.target
        if before == self._gain == 1:
            return samples
        gain = np.full(TICK_SAMPLES, self._gain, np.float32)
        gain[:CHUNK_SAMPLES] = np.linspace(before, self._gain, CHUNK_SAMPLES, endpoint=False)
        return (samples * gain).astype(np.int16)
