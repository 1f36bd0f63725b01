"""XTTS: a reference's voice in 17 languages, by Coqui's `xtts-streaming-server` (port 8000; its image, 80)."""

from __future__ import annotations

import json

import aiohttp

from core.errors import EngineFailed
from core.media import Voice
from core.voices import Reference
from tts.post import Ask, PostTTS, language, recording
from ttsreal import VoiceSettings

LANGUAGES = frozenset({"ar", "cs", "de", "en", "es", "fr", "hi", "hu", "it", "ja", "ko", "nl", "pl", "pt", "ru", "tr"})
CHINESE = "zh-cn"
FRAMES_A_PIECE = "20"


class XttsTTS(PostTTS):
    """Every voice is a reference. What the server makes of one is kept, and sent with each sentence (some 600 kB)."""

    def __init__(self, settings: VoiceSettings | None = None) -> None:
        super().__init__(settings)
        self._speakers: dict[str, tuple[int, bytes]] = {}  # by id: hash of the reference, JSON object

    async def ask(self, text: str, voice: Voice, reference: Reference | None) -> Ask:
        if reference is None:
            raise EngineFailed("XTTS needs a reference: name one of the voices, or set REF_FILE")
        sentence = {"text": text, "language": _language(text, voice), "stream_chunk_size": FRAMES_A_PIECE}
        speaker = await self._speaker(reference)
        body = json.dumps(sentence).encode()[:-1] + b", " + speaker[1:]
        return Ask("/tts_stream", {"data": aiohttp.BytesPayload(body, content_type="application/json")})

    async def _speaker(self, reference: Reference) -> bytes:
        """`{"gpt_cond_latent": …, "speaker_embedding": …}`, asked for once as long as the reference stays the same."""
        sound = await recording(reference)
        known = self._speakers.get(reference.id)
        if known is None or known[0] != hash(sound):
            known = self._speakers[reference.id] = (hash(sound), await self._clone(sound))
        return known[1]

    async def _clone(self, sound: bytes) -> bytes:
        form = aiohttp.FormData()
        form.add_field("wav_file", sound, filename="reference.wav", content_type="audio/wav")
        url = self.address("/clone_speaker")
        async with self.request("POST", url, sound=False, headers=self._headers, data=form) as response:
            answer = await response.read()
        try:
            made = json.loads(answer)
            return json.dumps({key: made[key] for key in ("gpt_cond_latent", "speaker_embedding")}).encode()
        except (ValueError, LookupError, TypeError) as error:
            raise EngineFailed("the speech server answered with an error") from error


def _language(text: str, voice: Voice) -> str:
    wish = language(text, voice.extra.get("language"))
    found = wish if wish in LANGUAGES else language(text)
    return CHINESE if found == "zh" else found
