"""What is to be shown, by tick: sound and pictures wait here until they are due, and no longer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.media import Image, Mark


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """A tick's sound, int16 (640,), with what becomes true when it is heard, and the avatar that says it."""

    samples: NDArray[np.int16]
    marks: tuple[Mark, ...]
    avatar: str


class Timeline:
    """Sound and pictures of the next few ticks of one session. Event loop only."""

    def __init__(self) -> None:
        self._sounds: dict[int, Sound] = {}
        self._pictures: dict[int, Image] = {}

    def put_sound(self, tick: int, sound: Sound) -> None:
        self._sounds[tick] = sound

    def put_picture(self, tick: int, image: Image) -> None:
        """Keep `image` for `tick`, unless that tick has been shown already: a late face is dropped here."""
        if tick in self._sounds:
            self._pictures[tick] = image

    def take(self, tick: int) -> tuple[Sound | None, Image | None]:
        """What there is for `tick`, once."""
        return self._sounds.pop(tick, None), self._pictures.pop(tick, None)

    def clear(self) -> None:
        self._sounds.clear()
        self._pictures.clear()

    def shift(self, ticks: int) -> None:
        """Move everything `ticks` later: the process was stopped, and time went on without it."""
        self._sounds = {tick + ticks: sound for tick, sound in self._sounds.items()}
        self._pictures = {tick + ticks: image for tick, image in self._pictures.items()}

    def __len__(self) -> int:
        return len(self._sounds)
