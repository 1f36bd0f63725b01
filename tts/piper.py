"""Piper: quick voices of many languages, where its program is installed. That is GPL, so it is run, not imported."""

from __future__ import annotations

import asyncio
import json
import re
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

from core.errors import EngineFailed
from core.media import Voice
from ttsreal import CJK, BaseTTS, PcmStream, Speech, estimate_words, speed, voiced_span

PROGRAM = "piper"

_NAME = re.compile(r"[a-z]{2,3}_[A-Za-z0-9_-]{1,60}")


class PiperTTS(BaseTTS):
    """`voice.name` is that of a model, `en_US-joe-medium`, else the settings' voice, else the first for the text.

    Models are pairs of files in the folder `piper` of the models: `NAME.onnx` and `NAME.onnx.json`. A process a
    sentence, which takes a second to start.
    """

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        model = self._model(text, voice)
        rate_hz = _rate_hz(model)
        samples = await _run("--model", str(model), "--length-scale", f"{1 / speed(voice):.3f}", text=text)
        sound = PcmStream(rate_hz)
        pcm = np.concatenate([sound.push_bytes(samples), sound.finish()])
        start_ms, duration_ms = voiced_span(pcm)
        yield Speech(pcm, estimate_words(text, duration_ms, start_ms))

    def _model(self, text: str, voice: Voice) -> Path:
        folder = self.settings.models / "piper"
        language = "zh_*" if CJK.search(text) else "en_*"
        wanted = [name for name in (voice.name, self.settings.default_voice) if _NAME.fullmatch(name)]
        found = [folder / f"{name}.onnx" for name in wanted] + sorted(folder.glob(f"{language}.onnx"))
        model = next((path for path in found if path.is_file()), None)
        if model is None:
            raise EngineFailed("there is no Piper voice for this language: put one into the models' folder 'piper'")
        return model


def _rate_hz(model: Path) -> int:
    """What the model's own description says. EngineFailed if it does not."""
    try:
        return int(json.loads(model.with_name(f"{model.name}.json").read_bytes())["audio"]["sample_rate"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise EngineFailed("the description of the Piper voice is missing or damaged") from error


async def _run(*options: str, text: str) -> bytes:
    """The samples, int16 mono, that the program says `text` with. EngineFailed if it does not."""
    try:
        process = await asyncio.create_subprocess_exec(
            PROGRAM, "--output-raw", *options, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
        )
    except OSError as error:
        raise EngineFailed("piper is not installed") from error
    try:
        samples, _ = await process.communicate(" ".join(text.split()).encode() + b"\n")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode or not samples:
        raise EngineFailed("piper failed")
    return samples
