"""Hearing: what every engine of speech recognition is, what it gives, and the table of their names.

An engine turns the sound of one person into text. It is shared by all sessions, so `transcribe` runs many times at
once; what fails is EngineFailed, with a message that a client may read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from core.errors import EngineFailed
from core.media import Pcm
from core.registry import Registry

ASR = Registry(
    "asr",
    {
        "auto": "asr.whisper:WhisperASR",
        "whisper": "asr.whisper:WhisperASR",
        "faster-whisper": "asr.whisper:WhisperASR",
        "funasr": "asr.funasr:FunASR",
    },
)


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said; `text` is "" if it was nothing, `language` "zh", "en", … or "" if not known."""

    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class ASRSettings:
    """Which model listens, and where. `language` "" is found out; `server` is of engines that run elsewhere."""

    model: str = "base"
    device: str = "auto"
    language: str = ""
    server: str = ""
    timeout_s: float = 10.0
    models: Path = Path("models")


class BaseASR(ABC):
    """Speech to text. One per process, on one event loop."""

    def __init__(self, settings: ASRSettings | None = None) -> None:
        self.settings = settings or ASRSettings()

    async def start(self) -> None:
        """Get ready, so that the first words need not wait for it. Raises EngineFailed if it never will be."""
        return

    @abstractmethod
    async def transcribe(self, pcm: Pcm) -> Transcript:
        """What is said in `pcm`, float32 (n,) 16 kHz mono, at most 30 s. Raises EngineFailed.

        Cancelling it gives up the answer; what already runs in a thread may run on unheard.
        """

    async def aclose(self) -> None:
        """Give back what the engine holds."""
        return


class NoASR(BaseASR):
    """Hears nothing, and says so."""

    async def transcribe(self, pcm: Pcm) -> Transcript:
        raise EngineFailed("this server does not listen: python scripts/fetch_models.py whisper-base")
