"""Speech over HTTP promises: sound as it arrives, in the right voice, clear errors, and a line let go of at once."""

from __future__ import annotations

import asyncio
import json
import wave
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import EngineFailed
from core.media import SAMPLE_RATE, Pcm, Utterance, Voice
from core.streams import closing
from speech import voice as speak
from tests.fakes.edge_server import tone_mp3
from tests.fakes.speech_servers import DURATION_MS, EMBEDDING, Fault, SpeechServer, tone, wav_header
from tests.fakes.turns import marks
from tts.cosyvoice import CosyVoiceTTS
from tts.fish import FishTTS
from tts.gptsovits import GptSovitsTTS
from tts.omni import OmniTTS
from tts.post import PostTTS, language, wishes
from tts.sound import SoundStream, WordTimes
from tts.xtts import XttsTTS
from ttsreal import VoiceSettings, Word

ENGINES = [GptSovitsTTS, CosyVoiceTTS, FishTTS, XttsTTS, OmniTTS]
ANNA = Voice("anna")
TEXT = "one two three four five"

each_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.__name__)


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    """A folder of one voice, anna, who says 今天天气很好。"""
    bring(tmp_path, "anna", text="今天天气很好。", language="zh")
    return tmp_path


def bring(root: Path, name: str, **about: str) -> None:
    (root / name).mkdir(exist_ok=True)
    (root / name / "voice.json").write_text(json.dumps(about))
    with wave.open(str(root / name / "reference.wav"), "wb") as sound:
        sound.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        sound.writeframes(tone(SAMPLE_RATE)[:3200])


class Said:
    """What an engine gave for a sentence."""

    def __init__(self) -> None:
        self.pieces: list[Pcm] = []
        self.words: list[Word] = []

    @property
    def pcm(self) -> Pcm:
        return np.concatenate(self.pieces)

    def check(self) -> None:
        """It is the servers' tone, whole and without clicks."""
        pcm = self.pcm
        assert pcm.dtype == np.float32
        assert abs(len(pcm) * 1000 / SAMPLE_RATE - DURATION_MS) < 2
        expected = 16_000 / 32_768 * np.sin(2 * np.pi * 220 * np.arange(len(pcm)) / SAMPLE_RATE)
        assert np.abs(pcm - expected)[200:-200].max() < 0.01


async def say(engine: PostTTS, text: str = TEXT, voice: Voice = ANNA) -> Said:
    said = Said()
    async for piece in engine.stream(text, voice):
        said.pieces.append(piece.pcm)
        said.words += piece.words
    return said


class Made:
    """Engines that speak to one server, closed at the end of the test."""

    def __init__(self, voices: Path) -> None:
        self.voices = voices
        self.engines: list[PostTTS] = []

    def __call__(self, engine: type[PostTTS], server: str, **settings: Any) -> PostTTS:
        made = engine(VoiceSettings(server=server, voices=self.voices, **{"timeout_s": 5.0, **settings}))
        self.engines.append(made)
        return made


@pytest.fixture
async def make(voices: Path) -> AsyncIterator[Made]:
    made = Made(voices)
    yield made
    for engine in made.engines:
        await engine.aclose()


# All of them


@each_engine
@pytest.mark.parametrize(("fault", "piece"), [("", 4801), ("", 10**6), ("", 777), ("slow", 4801)])
async def test_the_sound_is_whole_however_it_is_cut(
    fault: Fault, piece: int, engine: type[PostTTS], make: Made
) -> None:
    async with SpeechServer(fault, piece=piece) as server:
        said = await say(make(engine, server.url))
    said.check()
    assert [word.text for word in said.words] == TEXT.split()
    assert all(a.start_ms <= b.start_ms for a, b in pairwise(said.words))


@each_engine
async def test_sound_is_heard_before_the_server_has_sent_it_all(engine: type[PostTTS], make: Made) -> None:
    async with SpeechServer("waits") as server:
        said = Said()
        async with asyncio.timeout(5), closing(make(engine, server.url).stream(TEXT, ANNA)) as pieces:
            async for piece in pieces:
                said.pieces.append(piece.pcm)
                said.words += piece.words
                if len(said.pcm) and not server.heard.is_set():
                    assert said.words[0].text == "one"
                    server.heard.set()
    said.check()


@each_engine
async def test_leaving_early_hangs_up_at_once(engine: type[PostTTS], make: Made) -> None:
    async with SpeechServer("stalls") as server:
        async with asyncio.timeout(5):
            async with closing(make(engine, server.url).stream(TEXT, ANNA)) as pieces:
                async for piece in pieces:
                    if len(piece.pcm):
                        break
            await server.left.wait()


@each_engine
async def test_a_cancelled_sentence_hangs_up_at_once(engine: type[PostTTS], make: Made) -> None:
    async with SpeechServer("mute") as server:
        task = asyncio.create_task(say(make(engine, server.url)))
        while not server.asked:
            await asyncio.sleep(0.01)
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([task])
            await server.left.wait()


@each_engine
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("401", "refused the key"),
        ("403", "refused the key"),
        ("429", "is overloaded"),
        ("500", "answered with an error"),
        ("html", "answered with an error"),
        ("json", "answered with an error"),
        ("mute", "did not answer in time"),
        ("stalls", "did not answer in time"),
        ("drops", "broke off"),
        ("empty", "sent no sound"),
    ],
)
async def test_a_server_that_fails_is_a_clear_error(
    fault: Fault, message: str, engine: type[PostTTS], make: Made
) -> None:
    async with SpeechServer(fault) as server:
        with pytest.raises(EngineFailed, match=f"^the speech server {message}$"):
            await say(make(engine, server.url, timeout_s=0.3 if "time" in message else 5.0))


@each_engine
async def test_a_server_that_is_not_there_is_a_clear_error(engine: type[PostTTS], make: Made) -> None:
    async with SpeechServer() as server:
        url = server.url
    with pytest.raises(EngineFailed, match=r"^the speech server could not be reached$"):
        await say(make(engine, url))


@each_engine
@pytest.mark.parametrize(
    "server", ["", "127.0.0.1:9880", "ftp://host/", "file:///etc", "http://", "https:///x", "http://a:b"]
)
async def test_only_http_servers_are_asked(server: str, engine: type[PostTTS], make: Made) -> None:
    with pytest.raises(
        EngineFailed, match=r"^the speech server('s address must begin with http|.*could not be reached)"
    ):
        await say(make(engine, server))


@each_engine
async def test_the_key_is_sent_and_not_shown(
    engine: type[PostTTS], make: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SpeechServer(key="sesame") as server:
        with pytest.raises(EngineFailed, match="refused the key"):
            await say(make(engine, server.url))
        monkeypatch.setenv("TTS_API_KEY", "sesame")
        made = make(engine, server.url)
        (await say(made)).check()
    assert "sesame" not in repr(made)


@each_engine
@pytest.mark.parametrize("fault", ["drops", "gone"])
async def test_a_lost_sentence_does_not_lose_the_next(fault: Fault, engine: type[PostTTS], make: Made) -> None:
    async with SpeechServer() as server:
        made = make(engine, server.url)
        (await say(made)).check()
        server.fault = fault
        with pytest.raises(EngineFailed, match=r"^the speech server broke off$"):
            await say(made)
        server.fault = ""
        (await say(made)).check()


@each_engine
async def test_a_damaged_voice_is_a_lost_sentence(engine: type[PostTTS], voices: Path, make: Made) -> None:
    (voices / "anna" / "voice.json").write_text("{")
    async with SpeechServer() as server:
        with pytest.raises(EngineFailed, match="voice 'anna' is damaged"):
            await say(make(engine, server.url))


@each_engine
async def test_half_a_character_is_no_obstacle(engine: type[PostTTS], make: Made) -> None:
    async with SpeechServer() as server:
        wish = {"instructions": "\ud83d", "language": "\ud83d"}
        (await say(make(engine, server.url), "one \ud83d two", Voice("anna", "\ud83d", wish))).check()


async def test_a_server_that_dies_is_an_error_mark_and_the_turn_ends(make: Made) -> None:
    async with SpeechServer("drops") as server:
        utterance = Utterance(1, "echo", "one two three four.", voice=ANNA)
        chunks = [chunk async for chunk in speak(utterance, 0, make(OmniTTS, server.url))]
    assert [kind for kind, _ in marks(chunks) if kind != "word"] == ["start", "sentence", "cut", "error", "end"]
    assert len(chunks) > 5


async def test_closing_an_engine_leaves_no_connection(make: Made) -> None:
    async with SpeechServer() as server:
        made = make(OmniTTS, server.url)
        await say(made)
        session = made.session()
        await made.aclose()
        assert session.closed
        await made.aclose()


# GPT-SoVITS


async def test_gpt_sovits_is_told_where_the_reference_is_and_what_it_says(voices: Path, make: Made) -> None:
    async with SpeechServer() as server:
        await say(
            make(GptSovitsTTS, server.url), "你好，Anna", Voice("anna", extra={"speed": 1.5, "top_k": 5, "seed": "x"})
        )
        await say(make(GptSovitsTTS, server.url), "Hello", Voice("anna", "Good day.", {"language": "en-GB"}))
    first, second = server.asked
    assert first["ref_audio_path"] == str(voices / "anna" / "reference.wav")
    assert (first["text_lang"], first["prompt_lang"], first["prompt_text"]) == ("zh", "zh", "今天天气很好。")
    assert (first["speed_factor"], first["top_k"]) == (1.5, 5)
    assert "seed" not in first
    assert (second["text_lang"], second["prompt_text"]) == ("en", "Good day.")


async def test_gpt_sovits_gets_no_path_from_a_client(make: Made) -> None:
    async with SpeechServer() as server:
        made = make(GptSovitsTTS, server.url, default_voice="/srv/refs/bob.wav", ref_text="It is me, Bob.")
        await say(made, voice=Voice("../../etc/passwd"))
        assert server.asked[0]["ref_audio_path"] == "/srv/refs/bob.wav"
        assert server.asked[0]["prompt_text"] == "It is me, Bob."
        with pytest.raises(EngineFailed, match="needs a reference"):
            await say(make(GptSovitsTTS, server.url), voice=Voice("../../etc/passwd"))


# CosyVoice


@pytest.mark.parametrize(
    ("voice", "path", "fields"),
    [
        (Voice("anna"), "inference_zero_shot", {"prompt_text": "今天天气很好。"}),
        (Voice("anna", "Good day."), "inference_zero_shot", {"prompt_text": "Good day."}),
        (Voice("mute"), "inference_cross_lingual", {}),
        (Voice("anna", extra={"instructions": "用四川话说"}), "inference_instruct2", {"instruct_text": "用四川话说"}),
        (Voice("英文男"), "inference_sft", {"spk_id": "英文男"}),
        (Voice(), "inference_sft", {"spk_id": "中文女"}),
        (
            Voice(extra={"instructions": "gently"}),
            "inference_instruct",
            {"spk_id": "中文女", "instruct_text": "gently"},
        ),
    ],
)
async def test_cosyvoice_clones_or_takes_a_speaker(
    voice: Voice, path: str, fields: dict[str, str], voices: Path, make: Made
) -> None:
    bring(voices, "mute")
    async with SpeechServer() as server:
        (await say(make(CosyVoiceTTS, server.url), "你好", voice)).check()
    (asked,) = server.asked
    sound = asked.pop("prompt_wav", None)
    assert sound == (None if "spk_id" in fields else (voices / "anna" / "reference.wav").read_bytes())
    assert asked == {"path": f"/{path}", "tts_text": "你好", **fields}


async def test_cosyvoice_believes_the_rate_it_is_told(make: Made) -> None:
    async with SpeechServer() as server:
        said = await say(make(CosyVoiceTTS, server.url), voice=Voice("anna", extra={"sample_rate": 48_000}))
        wrong = await say(make(CosyVoiceTTS, server.url), voice=Voice("anna", extra={"sample_rate": 1}))
    assert abs(len(said.pcm) * 1000 / SAMPLE_RATE - DURATION_MS / 2) < 2
    wrong.check()


async def test_a_speaker_that_cosyvoice_does_not_know_is_an_error(make: Made) -> None:
    async with SpeechServer() as server:
        with pytest.raises(EngineFailed, match="answered with an error"):
            await say(make(CosyVoiceTTS, server.url), voice=Voice("nobody"))


# Fish Speech


async def test_fish_gets_the_reference_itself(voices: Path, make: Made) -> None:
    async with SpeechServer() as server:
        await say(make(FishTTS, server.url))
    (asked,) = server.asked
    sound = (voices / "anna" / "reference.wav").read_bytes()
    assert asked["references"] == [{"audio": sound, "text": "今天天气很好。"}]
    assert "reference_id" not in asked


@pytest.mark.parametrize(
    ("name", "id"), [("bob", "bob"), ("Mary Ann", "Mary Ann"), ("../bob", None), ("a/b", None), ("", "x")]
)
async def test_fish_may_name_a_reference_of_the_server(name: str, id: str | None, make: Made) -> None:
    async with SpeechServer() as server:
        await say(make(FishTTS, server.url, default_voice="x"), voice=Voice(name))
    assert server.asked[0].get("reference_id") == id


# XTTS


async def test_xtts_clones_a_reference_once(voices: Path, make: Made) -> None:
    async with SpeechServer() as server:
        made = make(XttsTTS, server.url)
        await say(made, "你好")
        await say(made, "Hello", Voice("anna", extra={"language": "de"}))
        assert server.clones == 1
        (voices / "anna" / "reference.wav").write_bytes(wav_header(SAMPLE_RATE) + tone(SAMPLE_RATE))
        await say(made, "Hello", Voice("anna", extra={"language": "yue"}))
    assert server.clones == 2
    assert [asked["language"] for asked in server.asked] == ["zh-cn", "de", "en"]
    assert server.asked[0]["speaker_embedding"] == EMBEDDING


async def test_xtts_without_a_reference_says_what_it_needs(make: Made) -> None:
    async with SpeechServer() as server:
        with pytest.raises(EngineFailed, match="needs a reference"):
            await say(make(XttsTTS, server.url), voice=Voice("nobody"))


# OpenAI's way


async def test_omni_asks_as_openai_does(make: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTS_MODEL", "tts-1")
    wish = {"speed": 1.25, "instructions": "cheerful", "task_type": 3, "api_key": "x"}
    async with SpeechServer() as server:
        await say(make(OmniTTS, f"{server.url}/v1/"), "Hello", Voice("vivian", extra=wish))
    (asked,) = server.asked
    assert asked == {
        "model": "tts-1",
        "input": "Hello",
        "voice": "vivian",
        "response_format": "pcm",
        "speed": 1.25,
        "instructions": "cheerful",
        "stream": True,
    }


async def test_omni_can_leave_out_what_a_server_refuses(make: Made) -> None:
    async with SpeechServer() as server:
        await say(make(OmniTTS, server.url), "Hello", Voice(extra={"stream": False}))
    assert server.asked == [{"input": "Hello", "voice": "default", "response_format": "pcm", "speed": 1}]


async def test_omni_sends_a_reference_where_one_is_named(voices: Path, make: Made) -> None:
    bring(voices, "mute")
    async with SpeechServer() as server:
        await say(make(OmniTTS, server.url), "Hello")
        await say(make(OmniTTS, server.url), "Hello", Voice("mute"))
    spoken, mute = server.asked
    assert spoken["ref_audio"].startswith("data:audio/wav;base64,UklGR")
    assert (spoken["task_type"], spoken["ref_text"]) == ("Base", "今天天气很好。")
    assert "voice" not in spoken
    assert "ref_text" not in mute


@pytest.mark.parametrize("kind", ["mp3", "wav"])
async def test_omni_takes_what_a_server_sends_instead(kind: str, make: Made) -> None:
    async with SpeechServer() as server:
        said = await say(make(OmniTTS, server.url), voice=Voice(f"only-{kind}"))
    assert abs(len(said.pcm) * 1000 / SAMPLE_RATE - DURATION_MS) < 150
    assert 0.4 < np.abs(said.pcm).max() < 0.6


# Sound of any kind


def heard(data: bytes, cut_bytes: int, content_type: str = "") -> Pcm:
    stream = SoundStream(24_000, content_type)
    parts = [stream.push(data[at : at + cut_bytes]) for at in range(0, len(data), cut_bytes)]
    return np.concatenate([*parts, stream.finish()])


@pytest.mark.parametrize("cut_bytes", [1, 3, 44, 45, 10**6])
def test_a_header_is_read_however_it_is_cut(cut_bytes: int) -> None:
    extra = b"LIST\x05\0\0\0hello\0"
    head = wav_header(SAMPLE_RATE)
    data = head[:36] + extra + head[36:] + tone(SAMPLE_RATE)
    expected = np.frombuffer(tone(SAMPLE_RATE), "<i2") / 32_768
    assert np.abs(heard(data, cut_bytes) - expected).max() < 1e-4


def test_float_samples_are_read() -> None:
    head = bytearray(wav_header(SAMPLE_RATE, width=4))
    head[20:22] = (3).to_bytes(2, "little")
    assert heard(bytes(head) + np.array([0.5, -0.5], "<f4").tobytes(), 7).tolist() == [0.5, -0.5]


@pytest.mark.parametrize(
    "head",
    [
        wav_header(SAMPLE_RATE, channels=2),
        wav_header(SAMPLE_RATE, width=1),
        wav_header(200),
        b"RIFF\0\0\0\0WAVEdata\0\0\0\0",
        b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\x7f" + bytes(100),
    ],
)
def test_other_kinds_of_wav_are_an_error(head: bytes) -> None:
    with pytest.raises(EngineFailed, match="not known here"):
        heard(head + bytes(100), 20)


@pytest.mark.parametrize("content_type", ["audio/ogg", "audio/aac", "video/mp4", "audio/x-flac"])
def test_what_is_not_known_is_never_heard_as_noise(content_type: str) -> None:
    with pytest.raises(EngineFailed, match="not known here"):
        SoundStream(24_000, content_type)


@pytest.mark.parametrize("cut_bytes", [100, 777, 10**6])
def test_mp3_is_decoded_as_it_arrives(cut_bytes: int) -> None:
    pcm = heard(tone_mp3(600), cut_bytes, "audio/mpeg")
    assert abs(len(pcm) / SAMPLE_RATE - 0.6) < 0.15
    assert 0.45 < np.abs(pcm).max() < 0.55
    assert abs(np.abs(np.fft.rfft(pcm)).argmax() * SAMPLE_RATE / len(pcm) - 220) < 3
    assert np.array_equal(pcm, heard(tone_mp3(600), 50, "audio/mpeg"))


# Words while the sound arrives


@pytest.mark.parametrize("cut", [160, 1600, 10**6])
def test_words_come_with_the_sound_that_holds_them(cut: int) -> None:
    text = "good morning everyone here"
    sound = np.concatenate([np.zeros(1600), np.full(SAMPLE_RATE * 3, 0.5), np.zeros(1600)]).astype(np.float32)
    times, words = WordTimes(text), list[Word]()
    for at in range(0, len(sound), cut):
        fresh = times.push(sound[at : at + cut])
        assert all(word.start_ms < (at + cut) * 1000 // SAMPLE_RATE for word in fresh)
        words += fresh
    words += times.finish(np.empty(0, np.float32))
    assert [word.text for word in words] == text.split()
    assert words[0].start_ms == 100
    assert all(a.start_ms < b.start_ms for a, b in pairwise(words))


def test_words_left_at_the_end_are_fitted_to_it() -> None:
    times = WordTimes("one two three four five six seven eight nine ten")
    words = [*times.push(np.full(SAMPLE_RATE, 0.5, np.float32)), *times.finish(np.empty(0, np.float32))]
    assert len(words) == 10
    assert all(word.start_ms < 1000 for word in words)


def test_faster_speech_has_its_words_sooner() -> None:
    sound = np.full(SAMPLE_RATE // 2, 0.5, np.float32)
    assert len(WordTimes(TEXT, 2).push(sound)) > len(WordTimes(TEXT).push(sound))


def test_silence_has_its_words_at_the_end() -> None:
    times = WordTimes("one two")
    assert times.push(np.zeros(1600, np.float32)) == ()
    assert [word.text for word in times.finish(np.zeros(0, np.float32))] == ["one", "two"]


# Wishes


@pytest.mark.parametrize(
    ("text", "wish", "code"),
    [
        ("你好 Anna", None, "zh"),
        ("Hello", None, "en"),
        ("こんにちは世界", None, "ja"),
        ("안녕하세요", None, "ko"),
        ("Hello", "zh-CN", "zh"),
        ("Hello", "Deutsch bitte", "en"),
        ("Hello", 7, "en"),
        ("Hello", "", "en"),
    ],
)
def test_the_language_is_the_wish_or_the_scripts(text: str, wish: object, code: str) -> None:
    assert language(text, wish) == code


def test_only_known_wishes_of_the_right_kind_are_heard() -> None:
    voice = Voice(extra={"a": 1, "b": True, "c": "x", "d": 2, "e": None, "f": 0.5})
    assert wishes(voice, a=float, b=int, c=str, d=str, e=str, f=int) == {"a": 1, "c": "x"}
