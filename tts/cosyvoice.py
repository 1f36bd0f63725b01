"""CosyVoice: a reference's voice or a speaker's, by the project's `runtime/python/fastapi/server.py` (port 50000)."""

from __future__ import annotations

import aiohttp

from core.media import Voice
from core.voices import Reference
from tts.post import Ask, PostTTS, recording, sendable, wishes

SPEAKER = "中文女"
SPEAKER_RATE_HZ = 22_050  # only models of the first version know speakers by name
CLONE_RATE_HZ = 24_000
RATES_HZ = range(8_000, 48_001)


class CosyVoiceTTS(PostTTS):
    """The voice of a reference, or the speaker that is named; in the manner that a wish for `instructions` tells.

    What the server sends does not say its rate: where the first version clones, the wish `sample_rate` has to be 22050.
    """

    async def ask(self, text: str, voice: Voice, reference: Reference | None) -> Ask:
        wish = wishes(voice, instructions=str, sample_rate=int)
        manner = wish.get("instructions", "")
        if reference:
            path, fields = _clone(manner, self.prompt(voice, reference))
        else:
            path, fields = _speaker(manner, voice.name or self.settings.default_voice or SPEAKER)
        form = aiohttp.FormData({name: sendable(said) for name, said in {"tts_text": text, **fields}.items()})
        if reference:
            form.add_field("prompt_wav", await recording(reference), filename="prompt.wav", content_type="audio/wav")
        rate_hz = wish.get("sample_rate", 0)
        if rate_hz not in RATES_HZ:
            rate_hz = CLONE_RATE_HZ if reference else SPEAKER_RATE_HZ
        return Ask(path, {"data": form}, "GET", rate_hz)


def _clone(manner: str, prompt: str) -> tuple[str, dict[str, str]]:
    if manner:
        return "/inference_instruct2", {"instruct_text": manner}
    return ("/inference_zero_shot", {"prompt_text": prompt}) if prompt else ("/inference_cross_lingual", {})


def _speaker(manner: str, speaker: str) -> tuple[str, dict[str, str]]:
    if manner:
        return "/inference_instruct", {"spk_id": speaker, "instruct_text": manner}
    return "/inference_sft", {"spk_id": speaker}
