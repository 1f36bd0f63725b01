"""Where the time went between a question and the first sound of its answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Latency:
    """One utterance on its way; moments are seconds of the event loop's clock.

    `endpointing_ms` and `asr_ms` passed before it was `asked_s`: a silence that told that the user had finished, and
    waiting for what they said.
    """

    asked_s: float
    endpointing_ms: int = 0
    asr_ms: int = 0
    text_s: float | None = None  # the first text of the answer
    sound_s: float | None = None  # its first sound

    def shares(self, shown_s: float) -> dict[str, int]:
        """How long each took, in ms, and all together, if the first sound leaves at `shown_s`."""
        text_s = self.asked_s if self.text_s is None else self.text_s
        sound_s = text_s if self.sound_s is None else self.sound_s
        steps = {
            "endpointing_ms": self.endpointing_ms,
            "asr_ms": self.asr_ms,
            "llm_ms": round(1000 * (text_s - self.asked_s)),
            "tts_ms": round(1000 * (sound_s - text_s)),
            "render_ms": round(1000 * (shown_s - sound_s)),
        }
        return steps | {"total_ms": sum(steps.values())}
