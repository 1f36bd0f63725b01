"""The words of the media path: what is said, heard, drawn and shown.

Everything here is immutable and knows no network, no codec and no engine. The time unit is the tick:
40 ms, one picture and 640 samples that never part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from core.avatar import Avatar

SAMPLE_RATE = 16_000
CHUNK_SAMPLES = SAMPLE_RATE * 20 // 1000  # 320
FPS = 25
TICK_S = 1 / FPS
TICK_SAMPLES = SAMPLE_RATE // FPS  # 640
CHUNKS_PER_TICK = TICK_SAMPLES // CHUNK_SAMPLES  # 2
VIDEO_CLOCK_HZ = 90_000
VIDEO_TICK = VIDEO_CLOCK_HZ // FPS  # 3600

Pcm = NDArray[np.float32]  # (n,) 16 kHz mono in [-1, 1]
Image = NDArray[np.uint8]  # (H, W, 3) BGR
Window = NDArray[Any]  # what an engine hears for one tick; the shape is the engine's

SILENT_CHUNK: Pcm = np.zeros(CHUNK_SAMPLES, np.float32)
SILENT_CHUNK.flags.writeable = False
SILENT_TICK: NDArray[np.int16] = np.zeros(TICK_SAMPLES, np.int16)
SILENT_TICK.flags.writeable = False

UtteranceKind = Literal["echo", "chat", "audio"]
EventKind = Literal[
    "speak-start",
    "sentence",
    "word",
    "speak-end",
    "interrupted",
    "state",
    "closed",
    "error",
    "user-partial",  # what is understood so far
    "user-turn",  # what the user said
    "barge-in",  # what the user's voice does to the presenter: duck, hold, restore, interrupt
    "latency",  # of an answer, when its first sound leaves
    "source",  # a document that an answer draws on
    "action",  # what the language model has the avatar do
]
MarkKind = Literal["start", "sentence", "word", "cut", "error", "end"]  # cut: the rest of the sentence is lost


@dataclass(frozen=True, slots=True)
class Voice:
    """How to say it: `name` is an engine's voice or a reference's id, `ref_text` what the reference says.

    `extra` holds an engine's further wishes (emotion, speed, language), as the client gave them.
    """

    name: str = ""
    ref_text: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Utterance:
    """One thing to say. `echo` and `chat` carry `text`, `audio` carries `pcm`."""

    id: int
    kind: UtteranceKind
    text: str = ""
    pcm: Pcm | None = None
    voice: Voice = field(default_factory=Voice)
    avatar: str = "main"
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that becomes true when the sound it rides on is heard."""

    kind: MarkKind
    utterance: Utterance
    text: str = ""
    duration_ms: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class AudioChunk:
    """20 ms of speech: `pcm` float32 (320,). `marks` belong to its first sample."""

    pcm: Pcm
    epoch: int
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class FaceJob:
    """Question to an engine: what does `avatar`'s frame `avatar_index` look like while it says `window`?

    `due` is the `time.monotonic()` moment, in seconds, after which the answer is of no use.
    """

    epoch: int
    tick: int
    window: Window
    avatar: Avatar
    avatar_index: int
    due: float


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """Answer to `job`: `image` uint8 (h, w, 3) BGR, or what else the engine family pastes, where it knows."""

    job: FaceJob
    image: NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Tick:
    """40 ms as every output gets it: one picture uint8 (H, W, 3) BGR and 640 int16 samples.

    `opus` is the same sound as two packets of 20 ms. `idle` names the avatar when the picture is exactly its frame for
    this tick, so that an encoder may know it already. `marks` become true with its sound.
    """

    number: int
    image: Image
    samples: NDArray[np.int16] = field(default_factory=lambda: SILENT_TICK)
    opus: tuple[bytes, ...] = ()
    idle: Avatar | None = None
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """The H.264 access unit of tick `number`, Annex B; `key` if decoding can start here."""

    number: int
    data: bytes
    key: bool


@dataclass(frozen=True, slots=True)
class Event:
    """News of a session, true when seen. `data` is JSON-able; times are in ms of media time."""

    kind: EventKind
    time_ms: int
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> str:
        """The event as every client gets it: one JSON object with `event`, `time_ms` and the data."""
        return json.dumps({"event": self.kind, "time_ms": self.time_ms, **self.data}, ensure_ascii=False)


class Engine(Protocol):
    """Weights and one method. Stateless; shared by all sessions; called from one thread only."""

    max_batch: int

    def infer(self, jobs: Sequence[FaceJob]) -> list[Face]:
        """One Face per job, in order. Blocking."""


class Output(Protocol):
    """Something that takes what a session shows: WebRTC, a recording, a push. Its methods never block."""

    wants_h264: bool

    async def ready(self) -> None:
        """Return when what is pushed arrives somewhere: nothing is said before."""

    def push(self, tick: Tick) -> None:
        """Take a tick: its sound, and its picture unless `wants_h264`."""

    def push_picture(self, picture: Picture) -> None:
        """Take an encoded picture, a little after its tick; called only if `wants_h264`."""

    def flush(self) -> None:
        """Forget what waits: an interruption."""

    async def aclose(self) -> None:
        """Send or write what must be, and free everything. Idempotent."""


class Features(Protocol):
    """What an engine family hears: sound in, one Window a tick out. One per session; any thread, one at a time."""

    def push(self, pcm: Pcm) -> list[Window]:
        """The windows completed by `pcm` ((n,) float32, 16 kHz), one per 640 samples, in order."""

    def finish(self) -> list[Window]:
        """The windows still held back as right context, the end of speech being padded with silence."""

    def reset(self) -> None:
        """Forget everything heard so far."""
