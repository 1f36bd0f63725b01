"""A film of an avatar that says a sound, made without a clock."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from core.avatar import save_avatar
from core.media import FPS, SAMPLE_RATE, TICK_SAMPLES, Pcm
from stillreal import StillEngine, StillReal
from studio import dub
from tests.fakes.person import make_avatar

AVATAR = make_avatar(size=(96, 96), n=4)


def tone(samples: int) -> Pcm:
    """A tone that comes and goes three times a second."""
    t = np.arange(samples) / SAMPLE_RATE
    return (0.4 * np.sin(2 * np.pi * 300 * t) * np.sin(2 * np.pi * 3 * t)).astype(np.float32)


def write_wav(path: Path, pcm: Pcm) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((pcm * 32767).astype("<i2").tobytes())
    return path


def read(path: Path) -> tuple[list[float], Pcm, int]:
    """The times of the pictures of a film in seconds, and its sound with its rate."""
    with av.open(str(path)) as film:
        times = [frame.time or 0.0 for frame in film.decode(video=0)]
    with av.open(str(path)) as film:
        sounds = list(film.decode(audio=0))
    return times, np.concatenate([sound.to_ndarray()[0] for sound in sounds]), sounds[0].sample_rate


@pytest.mark.parametrize("samples", [1, 12 * TICK_SAMPLES, 12 * TICK_SAMPLES + 200, 70 * TICK_SAMPLES])
def test_each_tick_of_sound_has_its_picture(samples: int) -> None:
    images = list(dub.dub(AVATAR, tone(samples), StillReal, StillEngine()))
    assert len(images) == math.ceil(samples / TICK_SAMPLES)
    assert all(image.shape == (96, 96, 3) and image.dtype == np.uint8 for image in images)


def test_a_mouth_moves_with_sound_and_rests_without() -> None:
    def change(pcm: Pcm) -> float:
        images = dub.dub(AVATAR, pcm, StillReal, StillEngine())
        return max(
            float(np.abs(image.astype(int) - AVATAR.image(AVATAR.index(i))).mean()) for i, image in enumerate(images)
        )

    assert change(np.zeros(20 * TICK_SAMPLES, np.float32)) < change(tone(20 * TICK_SAMPLES))


@pytest.mark.parametrize("samples", [25 * TICK_SAMPLES, 25 * TICK_SAMPLES - 300])
def test_a_film_has_as_much_sound_as_picture(tmp_path: Path, samples: int) -> None:
    pcm = tone(samples)
    count = dub.write_film(tmp_path / "out.mp4", dub.dub(AVATAR, pcm, StillReal, StillEngine()), pcm, AVATAR.size)
    times, sound, rate = read(tmp_path / "out.mp4")
    assert count == len(times) == 25
    np.testing.assert_allclose(times, np.arange(25) / FPS, atol=1e-3)
    assert len(sound) / rate == pytest.approx(25 / FPS, abs=2 * 1024 / rate)  # AAC comes in blocks of 1024
    assert np.abs(sound).max() > 0.2


def run(monkeypatch: pytest.MonkeyPatch, avatars: Path, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["dub", *words, "--model", "still", "--avatars", str(avatars)])
    return dub.main()


def test_a_command_makes_a_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_avatar(tmp_path, "drawn", list(AVATAR.frames), AVATAR.boxes, AVATAR.landmarks)
    sound, out = write_wav(tmp_path / "sound.wav", tone(10 * TICK_SAMPLES)), tmp_path / "out.mp4"
    assert run(monkeypatch, tmp_path, "drawn", str(sound), str(out)) == 0
    assert len(read(out)[0]) == 10
    assert capsys.readouterr().out.endswith("out.mp4: 0.4 s\n")


@pytest.mark.parametrize(("name", "said"), [("nobody", "unknown avatar 'nobody'"), ("../nobody", "avatar ids are")])
def test_an_avatar_that_is_not_there_is_a_clear_line_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    sound, out = write_wav(tmp_path / "sound.wav", tone(TICK_SAMPLES)), tmp_path / "out.mp4"
    assert run(monkeypatch, tmp_path, name, str(sound), str(out)) == 1
    told = capsys.readouterr()
    assert said in told.err and told.err.count("\n") == 1 and not told.out
    assert not out.exists()


@pytest.mark.parametrize("content", [None, b"", b"no sound at all"])
def test_what_is_no_sound_is_a_clear_line_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    save_avatar(tmp_path, "drawn", list(AVATAR.frames), AVATAR.boxes, AVATAR.landmarks)
    if content is not None:
        (tmp_path / "sound.wav").write_bytes(content)
    assert run(monkeypatch, tmp_path, "drawn", str(tmp_path / "sound.wav"), str(tmp_path / "out.mp4")) == 1
    said = capsys.readouterr()
    assert "no sound" in said.err and said.err.count("\n") == 1
    assert not (tmp_path / "out.mp4").exists()
