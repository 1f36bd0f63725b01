"""espeak-ng: a robot that speaks a hundred languages, where the program is installed."""

from __future__ import annotations

import asyncio
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator

import numpy as np

from core.errors import EngineFailed
from core.media import Voice
from ttsreal import CJK, BaseTTS, PcmStream, Speech, estimate_words, speed, voiced_span

PROGRAM = "espeak-ng"
CHINESE = "cmn-latn-pinyin"  # reads hanzi right in every release; in 1.51 `cmn` spells them out in English
ENGLISH = "en-us"
WORDS_PER_MINUTE = 175
WAV_HEADER_BYTES = 44


class EspeakTTS(BaseTTS):
    """Chinese or English, by what the text is; `voice.name` is not looked at. A process a sentence, some 20 ms."""

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        name = CHINESE if CJK.search(text) else ENGLISH
        wav = await _run("-v", name, "-s", str(round(WORDS_PER_MINUTE * speed(voice))), text=text)
        sound = PcmStream(int.from_bytes(wav[24:28], "little"))
        pcm = np.concatenate([sound.push_bytes(wav[WAV_HEADER_BYTES:]), sound.finish()])
        start_ms, duration_ms = voiced_span(pcm)
        yield Speech(pcm, estimate_words(text, duration_ms, start_ms))


def installed() -> bool:
    """Whether the program can be found."""
    return shutil.which(PROGRAM) is not None


async def _run(*options: str, text: str) -> bytes:
    """The WAV file, 16-bit mono, that the program says `text` with. EngineFailed if it does not."""
    try:
        process = await asyncio.create_subprocess_exec(
            PROGRAM, "--stdin", "--stdout", *options, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
        )
    except OSError as error:
        raise EngineFailed("espeak-ng is not installed") from error
    try:
        wav, _ = await process.communicate(text.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode or len(wav) <= WAV_HEADER_BYTES:
        raise EngineFailed("espeak-ng failed")
    return wav
