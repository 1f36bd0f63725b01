"""Which picture a tick shows: a speaking face, a held one, a clip or the idle avatar, and no jump between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core import metrics
from core.audio import to_int16
from core.avatar import Avatar, Clip
from core.media import SILENT_TICK, TICK_SAMPLES, Image
from core.picture import blend, cover

HOLD_TICKS = 8  # a face later than this gives way to the idle avatar
CLOSE_TICKS = 3  # a mouth that stops closes over these
FADE_TICKS = 5  # from one avatar or clip to another

MAIN = "main"


@dataclass
class _Fade:
    image: Image
    ticks: int
    left: int

    def blend(self, image: Image) -> Image:
        self.left -= 1
        weight = (self.left + 1) / (self.ticks + 1)
        return blend(self.image, image, weight)


class Portrait:
    """The picture side of one session. `avatars` has at least "main", which sets the size; `clips` are by audiotype.

    Speech always wins: a clip pauses while the avatar speaks and goes on afterwards.
    """

    def __init__(self, avatars: Mapping[str, Avatar], clips: Mapping[int, Clip]) -> None:
        self.avatars = avatars
        self.clips = clips
        self.audiotype = 0
        self._size = avatars[MAIN].size
        self._speaker = MAIN
        self._source: tuple[str, str | int] = ("avatar", MAIN)
        self._speaking = False
        self._held = 0
        self._last: Image | None = None
        self._fade: _Fade | None = None
        self._back: int | None = None  # the state after a clip that is played once
        self._clip_ticks = dict.fromkeys(clips, 0)
        self._clip_sounds = {kind: to_int16(clip.pcm) for kind, clip in clips.items() if clip.pcm is not None}

    @property
    def states(self) -> list[int]:
        """The audiotypes that exist here."""
        return sorted({0, 1, *self.clips})

    def set_state(self, audiotype: int, *, reinit: bool) -> None:
        """Show custom state `audiotype` from the next tick on, from its start or (not `reinit`) where it was left."""
        self.audiotype, self._back = audiotype, None
        if reinit and audiotype in self._clip_ticks:
            self._clip_ticks[audiotype] = 0

    def play_once(self, audiotype: int) -> None:
        """Show the clip of `audiotype` from its start to its end, then what was shown before."""
        back = self.audiotype if self._back is None else self._back
        self.set_state(audiotype, reinit=True)
        self._back = back

    def clip_sound(self) -> NDArray[np.int16]:
        """The running clip's sound of this tick, int16 (640,); where the sound has ended the state becomes 1."""
        sound = self._clip_sounds.get(self.audiotype)
        if sound is None:
            return SILENT_TICK
        start = self._clip_ticks[self.audiotype] * TICK_SAMPLES
        if start >= len(sound):
            if self._back is None:
                self.set_state(1, reinit=True)
            return SILENT_TICK
        return np.pad(sound[start : start + TICK_SAMPLES], (0, max(0, start + TICK_SAMPLES - len(sound))))

    def picture(self, tick: int, speaker: str | None, face: Image | None) -> tuple[Image, Avatar | None]:
        """The picture of `tick`, and the avatar if it is exactly that avatar's idle frame.

        `speaker` is the avatar whose sound this tick carries, or None; `face` its finished picture, or None if late.
        """
        source, image = self._choose(tick, speaker, face)
        self._start_fade(source, speaking=speaker is not None)
        self._source, self._speaking = source, speaker is not None
        idle = self.avatars[self._speaker] if source[0] == "avatar" and speaker is None and not self._fade else None
        if self._fade:
            image = self._fade.blend(image)
            self._fade = self._fade if self._fade.left > 0 else None
        self._last = image
        return image, idle

    def _choose(self, tick: int, speaker: str | None, face: Image | None) -> tuple[tuple[str, str | int], Image]:
        if speaker is not None:
            self._speaker = speaker
            return ("avatar", speaker), self._face(tick, face)
        if self.audiotype in self.clips:
            return ("clip", self.audiotype), self._clip_image()
        return ("avatar", self._speaker), self._idle_image(tick)

    def _face(self, tick: int, face: Image | None) -> Image:
        if face is not None:
            self._held = 0
            return cover(face, self._size)
        self._held += 1
        metrics.PICTURES_HELD.inc()
        if self._speaking and self._last is not None and self._held <= HOLD_TICKS:
            return self._last
        return self._idle_image(tick)

    def _idle_image(self, tick: int) -> Image:
        avatar = self.avatars[self._speaker]
        return cover(avatar.image(avatar.index(tick)), self._size)

    def _clip_image(self) -> Image:
        clip = self.clips[self.audiotype]
        turn, place = divmod(self._clip_ticks[self.audiotype], len(clip.frames))
        self._clip_ticks[self.audiotype] += 1
        if self._back is not None and self._clip_ticks[self.audiotype] >= len(clip.frames):
            self.set_state(self._back, reinit=False)
        return cover(clip.frames[place if turn % 2 == 0 else -1 - place], self._size)

    def _start_fade(self, source: tuple[str, str | int], *, speaking: bool) -> None:
        ticks = FADE_TICKS if source != self._source else CLOSE_TICKS if self._speaking and not speaking else 0
        if ticks and self._last is not None:
            self._fade = _Fade(self._last, ticks, ticks)
