"""GPT-SoVITS: a voice from some seconds of reference, by the server that `api_v2.py` starts (port 9880)."""

from __future__ import annotations

from core.errors import EngineFailed
from core.media import Voice
from core.voices import Reference
from tts.post import Ask, PostTTS, language, wishes
from ttsreal import speed

LANGUAGES = frozenset({"auto", "zh", "en", "ja", "ko", "yue"})


class GptSovitsTTS(PostTTS):
    """Every voice is a reference; the server opens it itself, so it must see the folder of voices under the same path.

    Where none of ours is named, the settings' voice is the path of a reference on the server's side.
    """

    async def ask(self, text: str, voice: Voice, reference: Reference | None) -> Ask:
        path = str(reference.sound.absolute()) if reference else self.settings.default_voice
        if not path:
            raise EngineFailed("GPT-SoVITS needs a reference: name one of the voices, or set REF_FILE")
        prompt = self.prompt(voice, reference)
        body = {
            "text": text,
            "text_lang": _language(text, voice.extra.get("language")),
            "ref_audio_path": path,
            "prompt_text": prompt,
            "prompt_lang": _language(prompt or text, reference and reference.about.language),
            "speed_factor": speed(voice),
            "media_type": "wav",
            "streaming_mode": True,
        }
        body |= wishes(voice, top_k=int, top_p=float, temperature=float, seed=int)
        return Ask("/tts", {"json": body}, tempo=speed(voice))


def _language(text: str, wish: object) -> str:
    found = language(text, wish)
    return found if found in LANGUAGES else "auto"
