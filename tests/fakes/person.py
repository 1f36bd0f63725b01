"""A drawn person, an engine that paints what it hears, and voices that beep: the doubles of the live tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from basereal import BaseReal
from core.avatar import LEFT_EYE, MEDIAPIPE, OVAL, RIGHT_EYE, Avatar, save_avatar
from core.config import Settings
from core.frames import Frames
from core.media import SAMPLE_RATE, TICK_SAMPLES, Engine, Face, FaceJob, Image, Pcm, Voice, Window
from llm import BaseLLM, LLMSettings, Message
from ttsreal import BaseTTS, Speech, Word, estimate_words


def make_avatar(avatar_id: str = "drawn", size: tuple[int, int] = (256, 256), n: int = 50, tint: int = 0) -> Avatar:
    """A round face that sways over `n` frames."""
    width, height = size
    frames = np.full((n, height, width, 3), (90 + tint, 80, 70), np.uint8)
    landmarks = np.zeros((n, len(MEDIAPIPE), 2), np.float32)
    turn = np.arange(36) * np.pi / 18
    contour = np.stack([width // 4 * np.sin(turn), -height // 3 * np.cos(turn)], axis=1)
    for i, frame in enumerate(frames):
        x, y = int(width / 2 + width * 0.02 * np.sin(2 * np.pi * i / n)), height // 2
        cv2.ellipse(frame, (x, y), (width // 4, height // 3), 0, 0, 360, (150, 170, 210 - tint), -1)
        cv2.line(frame, (x - width // 12, y + height // 6), (x + width // 12, y + height // 6), (60, 60, 160), 3)
        lips = y + height // 6
        landmarks[i, LEFT_EYE], landmarks[i, RIGHT_EYE] = ((x + s * width // 10, y - height // 8) for s in (-1, 1))
        landmarks[i, OVAL] = contour + np.array([x, y])
        landmarks[i, :8] = [
            (x - width // 12, lips),
            (x + width // 12, lips),
            (x, lips - 4),
            (x, lips),
            (x, lips),
            (x, lips + 4),
            (x, y + height // 3),
            (x, lips - height // 12),
        ]
    box = [width // 4, height // 6, width * 3 // 4, height * 5 // 6]
    return Avatar(avatar_id, Frames.of(frames), np.array([box] * n, np.int32), landmarks, "cycle", "Drawn")


def save(root: Path, avatar: Avatar, licence: str = "") -> Path:
    """The folder of `avatar`, written under `root`."""
    tracks = avatar.boxes, avatar.landmarks
    return save_avatar(root, avatar.id, avatar.frames, *tracks, loop=avatar.loop, title=avatar.title, licence=licence)


class LoudnessFeatures:
    """Windows float32 (1,): the RMS of each tick."""

    def __init__(self) -> None:
        self._left: Pcm = np.zeros(0, np.float32)

    def push(self, pcm: Pcm) -> list[Window]:
        self._left = np.concatenate([self._left, pcm])
        whole = len(self._left) // TICK_SAMPLES
        ticks, self._left = self._left[: whole * TICK_SAMPLES], self._left[whole * TICK_SAMPLES :]
        return [np.sqrt((tick**2).mean(keepdims=True)) for tick in ticks.reshape(-1, TICK_SAMPLES)]

    def finish(self) -> list[Window]:
        return []

    def reset(self) -> None:
        self._left = np.zeros(0, np.float32)


class PaintEngine:
    """Turns the avatar's frame white where there is sound, leaves it alone where there is none."""

    max_batch = 16

    def infer(self, jobs: Sequence[FaceJob]) -> list[Face]:
        return [Face(job, self._paint(job)) for job in jobs]

    def _paint(self, job: FaceJob) -> Image:
        image = job.avatar.image(job.avatar_index).copy()
        if float(job.window[0]) > 0.01:
            image[:] = 255
        return image


class PaintReal(BaseReal):
    """The test double of an engine family."""

    @classmethod
    def make_engine(cls, settings: Settings) -> Engine:
        return PaintEngine()

    @classmethod
    def make_features(cls, engine: Engine) -> LoudnessFeatures:
        return LoudnessFeatures()

    @staticmethod
    def paste(face: Face) -> Image:
        return face.image


def tone(seconds: float, hz: float = 440.0, level: float = 0.5) -> Pcm:
    """A sine, float32 (n,) 16 kHz."""
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


class ToneTTS(BaseTTS):
    """Says every sentence as a tone of 100 ms a character, in pieces of `piece_s`, each after `delay_s`."""

    piece_s = 0.2
    delay_s = 0.0
    running = 0

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        self.running += 1
        try:
            words: tuple[Word, ...] = estimate_words(text, len(text) * 100)
            for _ in range(max(1, round(len(text) * 0.1 / self.piece_s))):
                await asyncio.sleep(self.delay_s)
                yield Speech(tone(self.piece_s), words)
                words = ()
        finally:
            self.running -= 1


class ScriptLLM(BaseLLM):
    """Answers with `script`, a piece every `delay_s`; keeps what it was asked."""

    script: Sequence[str] = ("One two three. ", "Four five six.")
    delay_s = 0.0
    running = 0

    def __init__(self, settings: LLMSettings | None = None) -> None:
        super().__init__(settings)
        self.asked: list[list[Message]] = []

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        self.asked.append(list(messages))
        self.running += 1
        try:
            for piece in self.script:
                await asyncio.sleep(self.delay_s)
                yield piece
        finally:
            self.running -= 1
