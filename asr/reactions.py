"""What ears ask a session to do, and what they tell it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Duck:
    """Lower the avatar's voice, over 20 ms: somebody may be speaking."""

    gain_db: float = -12.0


@dataclass(frozen=True, slots=True)
class Hold:
    """Pause the avatar where it is, and keep what it has to say: somebody speaks."""


@dataclass(frozen=True, slots=True)
class Restore:
    """Undo `Duck` or `Hold`, and go on where it stopped."""


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Forget what the avatar was saying, undo `Duck` and `Hold`; `text` is what is known of the reason."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class Partial:
    """What has been understood so far of what is being said; "" if it was nothing after all."""

    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """The person has finished. `endpoint_ms`: the silence that told; `asr_ms`: what the recogniser took for `text`."""

    text: str
    language: str
    endpoint_ms: int
    asr_ms: int


@dataclass(frozen=True, slots=True)
class Level:
    """The microphone's loudness over 100 ms, dBFS, -99 for silence."""

    db: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Something said could not be understood; `message` is for clients."""

    message: str


Reaction = Duck | Hold | Restore | Interrupt | Partial | Turn | Level | Failed
