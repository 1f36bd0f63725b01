"""Fish Speech, also OpenAudio: a reference's voice, by the project's `tools/api_server.py` (port 8080)."""

from __future__ import annotations

import base64
import re
from typing import Any

from core.media import Voice
from core.voices import Reference
from tts.post import Ask, PostTTS, recording, wishes

_SERVERS_OWN = re.compile(r"[\w-][\w -]{0,254}")  # the names a server allows its references


class FishTTS(PostTTS):
    """The voice of a reference of ours, else of the server's reference that is named, else whatever voice it takes.

    The server keeps what it worked out of a reference, so that only the first sentence waits for that.
    """

    async def ask(self, text: str, voice: Voice, reference: Reference | None) -> Ask:
        body: dict[str, Any] = {"text": text, "format": "wav", "streaming": True, "use_memory_cache": "on"}
        name = voice.name or self.settings.default_voice
        if reference:
            sound = base64.b64encode(await recording(reference)).decode()
            body["references"] = [{"audio": sound, "text": self.prompt(voice, reference)}]
        elif _SERVERS_OWN.fullmatch(name):
            body["reference_id"] = name
        body |= wishes(voice, temperature=float, top_p=float, repetition_penalty=float, seed=int)
        return Ask("/v1/tts", {"json": body})
