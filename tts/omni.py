"""Omni: any server that speaks OpenAI's `POST /v1/audio/speech`: vLLM-Omni, Kokoro-FastAPI, OpenAI itself."""

from __future__ import annotations

import base64
import os
from typing import Any

from core.media import Voice
from core.voices import Reference
from tts.post import Ask, PostTTS, recording, wishes
from ttsreal import VoiceSettings, speed

VOICE = "default"


class OmniTTS(PostTTS):
    """The server's voice that is named, or a reference's where the server clones (`ref_audio`, as vLLM-Omni takes it).

    The model is the environment's TTS_MODEL, else the server's own choice. The wish `stream`, false, leaves out the
    key of that name for servers that refuse it.
    """

    def __init__(self, settings: VoiceSettings | None = None) -> None:
        super().__init__(settings)
        self._model = os.environ.get("TTS_MODEL", "")

    def address(self, path: str) -> str:
        return super().address("").removesuffix("/v1") + path

    async def ask(self, text: str, voice: Voice, reference: Reference | None) -> Ask:
        body: dict[str, Any] = {"input": text, "response_format": "pcm", "speed": speed(voice)}
        if self._model:
            body["model"] = self._model
        if voice.extra.get("stream") is not False:
            body["stream"] = True
        if reference:
            sound, prompt = base64.b64encode(await recording(reference)).decode(), self.prompt(voice, reference)
            body |= {"task_type": "Base", "ref_audio": f"data:audio/wav;base64,{sound}"}
            body |= {"ref_text": prompt} if prompt else {"x_vector_only_mode": True}
        else:
            body["voice"] = voice.name or self.settings.default_voice or VOICE
        body |= wishes(voice, instructions=str, language=str, task_type=str)
        return Ask("/v1/audio/speech", {"json": body}, tempo=speed(voice))
