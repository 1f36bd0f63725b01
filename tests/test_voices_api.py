"""The voices that the server names, and trying one."""

from __future__ import annotations

import asyncio
import io
import json
import wave
from pathlib import Path

import numpy as np
import pytest

from core.errors import BadMedia
from core.voices import find_voice, list_voices
from tests.fakes.live import Live, serve
from tests.fakes.person import ToneTTS


def bring_voice(root: Path, name: str, **about: str) -> None:
    (root / name).mkdir(parents=True)
    (root / name / "voice.json").write_text(json.dumps({"format": 1, **about}))
    with wave.open(str(root / name / "reference.wav"), "wb") as sound:
        sound.setparams((1, 2, 24_000, 0, "NONE", ""))
        sound.writeframes(np.zeros(24_000, "<i2").tobytes())


async def try_voice(live: Live, **wish: str) -> tuple[str, bytes]:
    async with live.http.post(f"{live.url}/api/voices/preview", json=wish) as response:
        assert response.status == 200
        return response.content_type, await response.read()


def test_a_voice_is_found_by_its_id_and_by_nothing_else(tmp_path: Path) -> None:
    bring_voice(tmp_path / "voices", "mira", title="Mira", text="good morning", language="en")
    bring_voice(tmp_path, "outside")
    found = find_voice(tmp_path / "voices", "mira")
    assert found and found.about.text == "good morning" and found.sound.is_file() and found.style is None
    for name in ("", ".", "..", "../outside", "mira/../mira", "nobody", "/etc", "mira\0", str(tmp_path / "outside")):
        assert find_voice(tmp_path / "voices", name) is None


@pytest.mark.parametrize("about", ["", "[]", "{", '{"format": 1, "colour": "red"}', '{"text": 7}'])
def test_a_damaged_voice_is_said_to_be_and_not_listed(tmp_path: Path, about: str) -> None:
    bring_voice(tmp_path, "anna")
    bring_voice(tmp_path, "broken")
    (tmp_path / "broken" / "voice.json").write_text(about)
    with pytest.raises(BadMedia, match="'broken' is damaged"):
        find_voice(tmp_path, "broken")
    assert [voice.id for voice in list_voices(tmp_path)] == ["anna"]
    assert list(list_voices(tmp_path / "none")) == []


async def test_voices_are_the_engine_s_own_and_those_that_were_brought(tmp_path: Path) -> None:
    bring_voice(tmp_path / "voices", "mira", title="Mira", language="en")
    async with (
        serve(tmp_path, tts="hibari", REF_FILE="mira") as live,
        live.http.get(f"{live.url}/api/voices") as response,
    ):
        answer = await response.json()
    assert answer["code"] == 0 and answer["data"]["default"] == "mira"
    assert {"id": "mira", "title": "Mira", "language": "en", "kind": "reference"} in answer["data"]["voices"]


async def test_a_preview_is_a_wav_of_what_was_asked(tmp_path: Path) -> None:
    async with serve(tmp_path) as live:
        kind, body = await try_voice(live, voice="tone", text="0123456789")
        _, greeting = await try_voice(live)
    assert kind == "audio/wav"
    with wave.open(io.BytesIO(body)) as sound:
        assert (sound.getframerate(), sound.getnchannels()) == (16_000, 1)
        assert sound.getnframes() == pytest.approx(16_000, abs=3300)
    assert len(greeting) > len(body)


async def test_a_preview_ends_after_15_seconds(tmp_path: Path) -> None:
    async with serve(tmp_path) as live:
        _, body = await try_voice(live, text="x" * 200)
    assert len(body) == 44 + 2 * 15 * 16_000


@pytest.mark.parametrize("wish", [{"voice": "../../etc/passwd"}, {"text": "x" * 201}, {"voice": 7}])
async def test_a_preview_of_rubbish_is_refused(tmp_path: Path, wish: dict[str, object]) -> None:
    async with serve(tmp_path) as live, live.http.post(f"{live.url}/api/voices/preview", json=wish) as response:
        answer = await response.json()
    assert answer["code"] == -1 and "/" not in answer["msg"].replace("a/", "")


async def test_voices_are_tried_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToneTTS, "delay_s", 0.2)
    async with serve(tmp_path) as live:
        answers = await asyncio.gather(*(try_voice(live, text="0123456789") for _ in range(3)))
    assert sorted(kind for kind, _ in answers) == ["application/json", "application/json", "audio/wav"]
