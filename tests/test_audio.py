"""Sound files of every kind a client may send, and what is no sound."""

from __future__ import annotations

import pickle
import subprocess
import sys
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from core import audio
from core.audio import decode_audio, to_int16
from core.errors import BadMedia
from core.media import SAMPLE_RATE, Pcm

ROOT = Path(__file__).parent.parent
HZ, SECONDS, LEVEL = 440.0, 2.0, 0.4

# container, codec, rate in Hz
KINDS = {
    "wav": ("wav", "pcm_s16le", 44_100),
    "wav of a telephone": ("wav", "pcm_mulaw", 8_000),
    "wav of a studio": ("wav", "pcm_f32le", 96_000),
    "flac": ("flac", "flac", 48_000),
    "mp3": ("mp3", "libmp3lame", 44_100),
    "ogg": ("ogg", "libopus", 48_000),
    "m4a": ("mp4", "aac", 44_100),
    "webm of a browser": ("webm", "libopus", 48_000),
}


def sine(rate: int, seconds: float = SECONDS) -> NDArray[np.float32]:
    """A tone that begins and ends softly."""
    time = np.arange(int(rate * seconds)) / rate
    fade = np.minimum(1, 50 * np.minimum(time, time[::-1]))
    return np.asarray(LEVEL * np.sin(2 * np.pi * HZ * time) * fade, np.float32)


@cache
def encoded(kind: str, channels: int = 1, *, inverted: bool = False) -> bytes:
    """A tone as a file; `inverted` turns its second channel over."""
    container, codec, rate = KINDS[kind]
    layout = "mono" if channels == 1 else "stereo"
    tone = sine(rate)
    planes = np.stack([tone, -tone if inverted else tone][:channels])
    file = BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = cast(av.AudioStream, out.add_stream(codec, rate=rate))
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.sample_rate = rate
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.format.name, layout, rate, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return file.getvalue()


def middle(pcm: Pcm) -> Pcm:
    return pcm[SAMPLE_RATE // 2 : -SAMPLE_RATE // 2]


def rms(pcm: Pcm) -> float:
    return float(np.sqrt((pcm**2).mean()))


def assert_is_the_tone(pcm: Pcm) -> None:
    assert pcm.dtype == np.float32 and pcm.ndim == 1 and np.abs(pcm).max() <= 1
    assert abs(len(pcm) / SAMPLE_RATE - SECONDS) < 0.08
    spectrum = np.abs(np.fft.rfft(middle(pcm)))
    assert abs(spectrum.argmax() * SAMPLE_RATE / len(middle(pcm)) - HZ) < 2
    assert abs(rms(middle(pcm)) - LEVEL / 2**0.5) < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_keeps_its_length_pitch_and_level(kind: str) -> None:
    assert_is_the_tone(decode_audio(encoded(kind)))


@pytest.mark.parametrize(("container", "codec"), [("OGG", "VORBIS"), ("AIFF", "PCM_24"), ("WAV", "DOUBLE")])
def test_what_another_library_writes_is_read_too(tmp_path: Path, container: str, codec: str) -> None:
    soundfile.write(tmp_path / "sound", sine(32_000), 32_000, format=container, subtype=codec)
    assert_is_the_tone(decode_audio(tmp_path / "sound"))


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "m4a", "webm of a browser"])
def test_channels_are_averaged(kind: str) -> None:
    assert abs(rms(middle(decode_audio(encoded(kind, 2)))) - LEVEL / 2**0.5) < 0.03


def test_channels_that_cancel_each_other_are_silence() -> None:
    assert rms(decode_audio(encoded("wav", 2, inverted=True))) < 0.001


def test_loud_stereo_is_not_clipped() -> None:
    full = np.stack([sine(16_000) / LEVEL] * 2, axis=1)
    file = BytesIO()
    soundfile.write(file, full, 16_000, format="WAV", subtype="FLOAT")
    assert np.abs(decode_audio(file.getvalue()) - full[:, 0]).max() < 0.01


def test_six_channels_are_one(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "cinema.wav", np.stack([sine(48_000)] * 6, axis=1), 48_000)
    pcm = decode_audio(tmp_path / "cinema.wav")
    assert abs(len(pcm) - 2 * SAMPLE_RATE) < 10 and rms(pcm) > 0.1


def test_the_first_sound_of_a_film_is_taken() -> None:
    file = BytesIO()
    with av.open(file, "w", format="matroska") as out:
        video = out.add_stream("mpeg4", rate=25)
        video.width = video.height = 64
        sound = out.add_stream("pcm_s16le", rate=16_000)
        sound.layout = "mono"
        for _ in range(5):
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            out.mux(video.encode(picture))
        frame = av.AudioFrame.from_ndarray(to_int16(sine(16_000)).reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = 16_000
        out.mux(sound.encode(frame))
        out.mux([*video.encode(None), *sound.encode(None)])
    assert len(decode_audio(file.getvalue())) == 2 * SAMPLE_RATE


def test_a_sound_that_is_too_long_is_refused_before_it_is_all_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_SECONDS", 3)
    assert len(decode_audio(encoded("flac")))
    monkeypatch.setattr(audio, "MAX_SECONDS", 1)
    for kind in ("flac", "mp3", "webm of a browser"):
        with pytest.raises(BadMedia, match="longer than"):
            decode_audio(encoded(kind))


def video_only() -> bytes:
    file = BytesIO()
    with av.open(file, "w", format="matroska") as out:
        video = out.add_stream("mpeg4", rate=25)
        video.width = video.height = 64
        out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        out.mux(video.encode(None))
    return file.getvalue()


GARBAGE = {
    "nothing": b"",
    "zeros": bytes(10_000),
    "a text": b"not a sound at all" * 100,
    "a pickle": pickle.dumps(list(range(1000))),
    "a header only": encoded("wav")[:44],
    "a cut header": encoded("flac")[:20],
    "a cut m4a": encoded("m4a")[:1000],
    "a film without sound": video_only(),
    "a web page": b"<!doctype html><audio src='http://127.0.0.1/a.wav'>",
    "a playlist": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.wav\n",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_what_is_no_sound_is_refused_in_words_for_clients(name: str) -> None:
    with pytest.raises(BadMedia, match=r"^the file holds no sound"):
        decode_audio(GARBAGE[name])


def test_a_list_of_files_does_not_read_the_servers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # as if the server ran here
    soundfile.write("neighbour.wav", sine(16_000), 16_000)
    with pytest.raises(BadMedia):
        decode_audio(b"ffconcat version 1.0\nfile neighbour.wav\n")


SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 17998 RTP/AVP 0\n"


def test_a_session_description_does_not_make_the_server_listen() -> None:
    """It would hold a thread for 20 s, and a port."""
    script = f"import core.audio; core.audio.decode_audio({SDP.encode()!r})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=4)
    assert "BadMedia" in done.stderr


def test_samples_for_codecs_are_clipped() -> None:
    assert to_int16(np.array([-2, -1, 0, 0.5, 1, 2], np.float32)).tolist() == [-32767, -32767, 0, 16383, 32767, 32767]
