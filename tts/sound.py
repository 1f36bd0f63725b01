"""Sound out of a server's answer, and its words, while it arrives."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from math import inf
from typing import Any

import av
import numpy as np

from core.errors import EngineFailed
from core.media import SAMPLE_RATE, Pcm
from ttsreal import CJK, PcmStream, Word, as_pcm, estimate_words, voiced_span

MAX_HEADER_BYTES = 1 << 16
HANZI_MS, LETTER_MS = 200, 54  # what 27 voices took for 710 sentences: nine in ten within a fifth of it
UNKNOWN = "the speech server sent sound of a kind that is not known here"
_SAMPLES = {(1, 16): "int16", (3, 32): "float32"}  # a WAV file's format tag and bits
_COMPRESSED = re.compile(r"(?:audio|video)/(?:x-)?(?:ogg|opus|aac|flac|webm|mp4|m4a)")
_SILENCE: Pcm = np.empty(0, np.float32)


class SoundStream:
    """An answer's sound as pcm, however it comes cut.

    MP3 if `content_type` says so, else WAV by its header, else bare int16 samples at `rate_hz`. All mono; EngineFailed
    if it is anything else.
    """

    def __init__(self, rate_hz: int, content_type: str = "") -> None:
        if _COMPRESSED.fullmatch(content_type):
            raise EngineFailed(UNKNOWN)
        self._rate_hz = rate_hz
        self._mp3 = av.AudioCodecContext.create("mp3", "r") if content_type in {"audio/mpeg", "audio/mp3"} else None
        self._head = b""
        self._pcm: PcmStream | None = None

    def push(self, data: bytes) -> Pcm:
        """The pcm completed by `data`."""
        if self._mp3:
            return self._decode(self._mp3, self._mp3.parse(data))
        if self._pcm:
            return self._pcm.push_bytes(data)
        self._head += data
        self._pcm, start = _begin(self._head, self._rate_hz)
        return self._pcm.push_bytes(self._head[start:]) if self._pcm else _SILENCE

    def finish(self) -> Pcm:
        """What is still inside."""
        last = self._decode(self._mp3, [*self._mp3.parse(b""), None]) if self._mp3 else _SILENCE
        return np.concatenate([last, self._pcm.finish()]) if self._pcm else last

    def _decode(self, codec: Any, packets: Iterable[Any]) -> Pcm:
        decoded = [_SILENCE]
        for packet in packets:
            with suppress(av.error.InvalidDataError):  # a tag between frames
                for frame in codec.decode(packet):
                    self._pcm = self._pcm or PcmStream(frame.sample_rate)
                    decoded.append(self._pcm.push(as_pcm(frame.to_ndarray()).mean(axis=0)))
        return np.concatenate(decoded)


class WordTimes:
    """The words of `text` while its sound arrives: by the tempo that is usual; what is left at the end, by its length.

    An estimate that is the rougher the later in a sentence: a fifth of the time since its beginning, mostly.
    """

    def __init__(self, text: str, tempo: float = 1.0) -> None:
        hanzi = len(CJK.findall(text))
        self._text = text
        self._usual_ms = round((HANZI_MS * hanzi + LETTER_MS * (len(text) - hanzi)) / tempo)
        self._given: list[Word] = []
        self._samples = 0
        self._voiced_ms: tuple[int, int] | None = None  # from, to

    def push(self, pcm: Pcm) -> tuple[Word, ...]:
        """The words that begin before the end of `pcm`, less those given before."""
        self._hear(pcm)
        if self._voiced_ms is None:
            return ()
        start_ms, end_ms = self._voiced_ms
        return self._due(start_ms, max(self._usual_ms, end_ms - start_ms), self._samples * 1000 // SAMPLE_RATE)

    def finish(self, pcm: Pcm) -> tuple[Word, ...]:
        """All words that are left; `pcm` is the last of the sound. EngineFailed if there was none."""
        self._hear(pcm)
        if not self._samples:
            raise EngineFailed("the speech server sent no sound")
        start_ms, end_ms = self._voiced_ms or (0, 0)
        return self._due(start_ms, end_ms - start_ms, inf)

    def _hear(self, pcm: Pcm) -> None:
        start_ms, duration_ms = voiced_span(pcm)
        if duration_ms:
            before_ms = self._samples * 1000 // SAMPLE_RATE
            first_ms = self._voiced_ms[0] if self._voiced_ms else before_ms + start_ms
            self._voiced_ms = (first_ms, before_ms + start_ms + duration_ms)
        self._samples += len(pcm)

    def _due(self, start_ms: int, duration_ms: int, until_ms: float) -> tuple[Word, ...]:
        free_ms = self._given[-1].start_ms if self._given else 0
        left = estimate_words(self._text, duration_ms, start_ms)[len(self._given) :]
        due = [replace(word, start_ms=max(word.start_ms, free_ms)) for word in left]
        due = list(takewhile(lambda word: word.start_ms < until_ms, due))
        self._given += due
        return tuple(due)


def _begin(head: bytes, rate_hz: int) -> tuple[PcmStream | None, int]:
    """What reads the samples, and where in `head` they begin; None as long as more of it is needed."""
    if not head.startswith(b"RIFF"):
        return (None if b"RIFF".startswith(head) else PcmStream(rate_hz)), 0
    at, form = 12, b""
    while len(head) >= at + 8:
        kind, size = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        if kind == b"data":
            return _samples(form), at + 8
        form = head[at + 8 : at + 8 + size] if kind == b"fmt " else form
        at += 8 + size + size % 2
    if at > MAX_HEADER_BYTES:
        raise EngineFailed(UNKNOWN)
    return None, 0


def _samples(form: bytes) -> PcmStream:
    tag, channels, rate_hz, _, _, bits = struct.unpack_from("<HHIIHH", form.ljust(16, b"\0"))
    dtype = _SAMPLES.get((tag, bits))
    if dtype is None or channels != 1 or not 4_000 <= rate_hz <= 192_000:
        raise EngineFailed(UNKNOWN)
    return PcmStream(rate_hz, dtype)
