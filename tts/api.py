"""Voices over HTTP: which there are, and what each sounds like."""

from __future__ import annotations

import asyncio
import io
import wave
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import asdict

import numpy as np
from aiohttp import web

from auth import reply
from body import read_json
from core.audio import to_int16
from core.errors import EngineFailed, Overloaded
from core.media import SAMPLE_RATE, Pcm
from core.messages import Preview, parse, voice_of
from core.openapi import Operation
from core.voices import list_voices
from ttsreal import BaseTTS, Preset, unstalled

MAX_PREVIEW_SAMPLES = 15 * SAMPLE_RATE
SAMPLE = {"zh": "你好，很高兴见到你。今天想聊点什么？", "": "Hello, how nice to meet you. What shall we talk about?"}


class Voices:
    """What the two routes share: the engine, a pool for reading files, and a place for one preview at a time."""

    def __init__(self, tts: BaseTTS, io: Executor) -> None:
        self.tts = tts
        self.io = io
        self.place = asyncio.Semaphore(1)  # sessions come first


VOICES = web.AppKey("voices", Voices)


async def voices(request: web.Request) -> web.Response:
    """GET /api/voices: the voices that an offer, or a message, may name."""
    house = request.app[VOICES]
    tts = house.tts
    brought = await asyncio.get_running_loop().run_in_executor(house.io, lambda: list(list_voices(tts.settings.voices)))
    listed = [asdict(preset) | {"kind": "preset"} for preset in tts.presets()]
    listed += [
        asdict(Preset(each.id, each.about.title or each.id, each.about.language)) | {"kind": "reference"}
        for each in brought
    ]
    return reply({"voices": listed, "default": tts.settings.default_voice})


async def preview(request: web.Request) -> web.Response:
    """POST /api/voices/preview: a sentence in a voice, as WAV."""
    wish = parse(Preview, await read_json(request))
    house = request.app[VOICES]
    if house.place.locked():
        raise Overloaded("another voice is being tried; try again in a moment")
    async with house.place:
        pcm = await _say(house.tts, wish)
    return web.Response(body=_wav(pcm), content_type="audio/wav", headers={"Cache-Control": "no-store"})


async def _say(tts: BaseTTS, wish: Preview) -> Pcm:
    """At most MAX_PREVIEW_SAMPLES of it. EngineFailed if there is none."""
    voice = voice_of({"ref_file": wish.voice})
    known = {preset.id: preset.language for preset in tts.presets()}
    reference = tts.reference(voice)
    language = reference.about.language if reference else known.get(wish.voice, "")
    text, pieces, samples = wish.text.strip() or SAMPLE.get(language[:2], SAMPLE[""]), [], 0
    async with aclosing(unstalled(tts.stream(text, voice), tts.settings.timeout_s)) as stream:
        async for piece in stream:
            pieces.append(piece.pcm)
            samples += len(piece.pcm)
            if samples >= MAX_PREVIEW_SAMPLES:
                break
    if not samples:
        raise EngineFailed("the voice said nothing")
    return np.concatenate(pieces)[:MAX_PREVIEW_SAMPLES]


def _wav(pcm: Pcm) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        sound.writeframes(to_int16(pcm).tobytes())
    return file.getvalue()


_TAG = "voices"
API = [
    (voices, Operation("GET", "/api/voices", "The voices there are", _TAG)),
    (preview, Operation("POST", "/api/voices/preview", "A sentence in a voice", _TAG, Preview, content="audio/wav")),
]
