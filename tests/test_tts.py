"""TTS promises: sound at one rate however it comes, words in their place, clean errors, and nothing left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import tts.auto
import tts.espeak
import tts.kokoro
import tts.piper
from core.errors import BadRequest, EngineFailed
from core.media import SAMPLE_RATE, Pcm, Utterance, Voice
from core.streams import closing
from speech import voice as speak
from tests.fakes.edge_server import WORD_MS, EdgeServer, Fault
from tests.fakes.turns import TONE, Script, marks
from tts.auto import AutoTTS
from tts.edge import EdgeTTS
from tts.espeak import EspeakTTS
from tts.hibari import HibariTTS
from tts.piper import PiperTTS
from ttsreal import (
    TTS,
    BaseTTS,
    PcmStream,
    Speech,
    VoiceSettings,
    Word,
    estimate_words,
    speed,
    unstalled,
    voiced_span,
)

NOBODY = Voice()


async def said(engine: BaseTTS, text: str, voice: Voice = NOBODY) -> tuple[Pcm, list[Word]]:
    pieces = [piece async for piece in engine.stream(text, voice)]
    assert {piece.pcm.dtype for piece in pieces} == {np.dtype(np.float32)}
    return np.concatenate([piece.pcm for piece in pieces]), [word for piece in pieces for word in piece.words]


def pitch_hz(pcm: Pcm) -> float:
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm))))
    return float(spectrum.argmax() * SAMPLE_RATE / len(pcm))


# The table


@pytest.mark.parametrize("name", TTS.names())
def test_every_engine_of_the_table_can_be_made(name: str) -> None:
    assert isinstance(TTS.load(name)(VoiceSettings()), BaseTTS)


def test_an_unknown_engine_lists_the_known() -> None:
    with pytest.raises(BadRequest, match=r"unknown tts 'nosuch'; known: .*edgetts.*hibari"):
        TTS.load("nosuch")


# Sound as pcm


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 24000, 44100, 48000])
@pytest.mark.parametrize("cut_bytes", [1, 7, 480, 10**6])
def test_cuts_do_not_change_the_sound(rate_hz: int, cut_bytes: int) -> None:
    time = np.arange(rate_hz // 4) / rate_hz
    data = (20000 * np.sin(2 * np.pi * 300 * time)).astype("<i2").tobytes()
    stream = PcmStream(rate_hz)
    parts = [stream.push_bytes(data[at : at + cut_bytes]) for at in range(0, len(data), cut_bytes)]
    pcm = np.concatenate([*parts, stream.finish()])
    expected = 20000 / 32768 * np.sin(2 * np.pi * 300 * np.arange(SAMPLE_RATE // 4) / SAMPLE_RATE)
    assert pcm.dtype == np.float32
    assert abs(len(pcm) - len(expected)) <= 1
    inner = slice(200, len(expected) - 200)
    assert np.abs(pcm[inner] - expected[inner]).max() < 0.002


def test_half_a_sample_at_the_end_is_dropped() -> None:
    stream = PcmStream(SAMPLE_RATE)
    assert len(stream.push_bytes(b"\1\2\3")) == 1
    assert len(stream.finish()) == 0


def test_float_sound_is_limited_and_never_nan() -> None:
    stream = PcmStream(SAMPLE_RATE, "float32")
    pcm = stream.push_bytes(np.array([0.5, 3, -3, np.nan, np.inf], "<f4").tobytes())
    assert pcm.tolist() == [0.5, 1, -1, 0, 1]


def test_the_voiced_span_leaves_out_silence() -> None:
    pcm = np.concatenate([np.zeros(1600, np.float32), TONE[:3200], np.zeros(800, np.float32)])
    start_ms, duration_ms = voiced_span(pcm)
    assert (start_ms, duration_ms) == (100, 200)
    assert voiced_span(np.zeros(1000, np.float32)) == (0, 0)
    assert voiced_span(np.zeros(0, np.float32)) == (0, 0)


@pytest.mark.parametrize(
    ("wish", "tempo"), [({}, 1), ({"speed": 1.5}, 1.5), ({"speed": 9}, 2), ({"speed": "fast"}, 1), ({"speed": True}, 1)]
)
def test_a_wish_for_speed_is_bounded(wish: dict[str, object], tempo: float) -> None:
    assert speed(Voice(extra=wish)) == tempo
    assert speed(Voice(extra={"speed": float("nan")})) == 1


# Words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, world!", ["Hello", "world"]),
        ("你好，世界。", ["你", "好", "世", "界"]),
        ("我喜欢Python写程序", ["我", "喜", "欢", "Python", "写", "程", "序"]),
        ("It's 3.14 at 10:30", ["It's", "3.14", "at", "10:30"]),
        ("a@b.com", ["a@b.com"]),
        ("…", []),
        ("", []),
    ],
)
def test_words_are_found_in_chinese_and_english(text: str, words: list[str]) -> None:
    assert [word.text for word in estimate_words(text, 1000)] == words


def test_estimated_words_fill_the_sentence_in_order() -> None:
    words = estimate_words("Well, the neighbourhood has 25 owls.", 4000, 300)
    assert words[0].start_ms == 300
    assert abs(words[-1].start_ms + words[-1].duration_ms - 4300) <= 1
    assert all(a.start_ms + a.duration_ms <= b.start_ms + 1 for a, b in pairwise(words))
    assert words[2].duration_ms > 2 * words[1].duration_ms
    assert words[1].start_ms - words[0].start_ms > words[0].duration_ms + 50  # the comma


# Streams that stall


async def test_a_stream_that_stalls_fails_and_is_closed() -> None:
    engine = Script(TONE[:10], asyncio.Event())
    pieces = unstalled(engine.stream("x", NOBODY), 0.01)
    await anext(pieces)
    with pytest.raises(EngineFailed, match="in time"):
        await anext(pieces)
    assert engine.open == 0


async def test_what_cannot_be_closed_need_not_be() -> None:
    class Plain:
        def __aiter__(self) -> AsyncIterator[int]:
            return self

        async def __anext__(self) -> int:
            raise StopAsyncIteration

    async with closing(Plain()) as stream:
        assert [item async for item in stream] == []


# Hibari


@pytest.fixture
async def hibari() -> AsyncIterator[HibariTTS]:
    engine = HibariTTS()
    yield engine
    await engine.aclose()


async def test_hibari_speaks_english_with_words(hibari: HibariTTS) -> None:
    pcm, words = await said(hibari, "Good morning, everybody.")
    start_ms, duration_ms = voiced_span(pcm)
    assert 700 < duration_ms < 2500
    assert -28 < 20 * np.log10(np.sqrt((pcm**2).mean())) < -16
    assert [word.text for word in words] == ["Good", "morning", "everybody"]
    assert words[0].start_ms == start_ms
    assert abs(words[-1].start_ms + words[-1].duration_ms - start_ms - duration_ms) <= 2


async def test_hibari_works_in_its_own_thread(hibari: HibariTTS) -> None:
    await asyncio.gather(*(said(hibari, f"Number {n}.") for n in range(4)))
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("hibari")] == ["hibari_0"]


async def test_hibari_does_not_try_chinese(hibari: HibariTTS) -> None:
    for text in ("你好。", "2026年", "…"):
        with pytest.raises(EngineFailed, match="English only"):
            await said(hibari, text)


async def test_hibari_says_the_english_of_a_mixed_sentence(hibari: HibariTTS) -> None:
    _, words = await said(hibari, "我喜欢 Python 和 coffee。")
    assert [word.text for word in words] == ["Python", "coffee"]


async def test_hibari_follows_the_speed(hibari: HibariTTS) -> None:
    slow, _ = await said(hibari, "One two three four five six.", Voice(extra={"speed": 0.7}))
    fast, _ = await said(hibari, "One two three four five six.", Voice(extra={"speed": 1.4}))
    assert len(slow) > 1.5 * len(fast)


# espeak-ng

needs_espeak = pytest.mark.skipif(not tts.espeak.installed(), reason="espeak-ng is not installed")


@needs_espeak
@pytest.mark.parametrize("text", ["Good morning.", "早上好，我们开始吧。", "-v en --help", "<speak> & [[x]]"])
async def test_espeak_speaks(text: str) -> None:
    pcm, words = await said(EspeakTTS(), text)
    assert 0.3 < len(pcm) / SAMPLE_RATE < 5
    assert np.abs(pcm).max() > 0.1
    assert words == list(estimate_words(text, voiced_span(pcm)[1], voiced_span(pcm)[0]))


async def test_a_cancelled_espeak_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "pid"
    program = tmp_path / "sleeper"
    program.write_text(f"#!/bin/sh\necho $$ > {started}.part && mv {started}.part {started}\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(tts.espeak, "PROGRAM", str(program))
    task = asyncio.create_task(said(EspeakTTS(), "Hello"))
    while not started.exists():
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert not Path(f"/proc/{started.read_text().strip()}").exists()


@pytest.mark.parametrize(("program", "message"), [("no-such-program", "not installed"), ("false", "failed")])
async def test_espeak_that_cannot_run_has_failed(program: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tts.espeak, "PROGRAM", program)
    with pytest.raises(EngineFailed, match=message):
        await said(EspeakTTS(), "Hello")


# Piper


@pytest.fixture
def piper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PiperTTS:
    """The engine with two voices, and a program that says nothing but the command it got."""
    folder = tmp_path / "piper"
    folder.mkdir()
    for name in ("en_US-joe-medium", "zh_CN-huayan-medium"):
        (folder / f"{name}.onnx").touch()
        (folder / f"{name}.onnx.json").write_text('{"audio": {"sample_rate": 22050}}')
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$@" "$(cat)" > {tmp_path}/asked\nhead -c 44100 /dev/zero | tr "\\0" "\\1"\n')
    program.chmod(0o755)
    monkeypatch.setattr(tts.piper, "PROGRAM", str(program))
    return PiperTTS(VoiceSettings("zh_CN-huayan-medium", models=tmp_path))


@pytest.mark.parametrize(
    ("text", "name", "model"),
    [
        ("Hello\nworld", "en_US-joe-medium", "en_US-joe-medium"),
        ("Hello", "../en_US-joe-medium", "zh_CN-huayan-medium"),
        ("Hello", "en_US-nobody", "zh_CN-huayan-medium"),
    ],
)
async def test_piper_says_it_with_a_voice_of_its_folder(
    text: str, name: str, model: str, piper: PiperTTS, tmp_path: Path
) -> None:
    pcm, words = await said(piper, text, Voice(name, extra={"speed": 2}))
    assert abs(len(pcm) / SAMPLE_RATE - 1) < 0.01
    assert [word.text for word in words] == text.split()
    asked = (tmp_path / "asked").read_text()
    assert (
        asked == f"--output-raw --model {tmp_path}/piper/{model}.onnx --length-scale 0.500 {' '.join(text.split())}\n"
    )


async def test_piper_takes_a_voice_of_the_texts_language(tmp_path: Path, piper: PiperTTS) -> None:
    await said(PiperTTS(VoiceSettings(models=tmp_path)), "早上好。")
    assert "zh_CN" in (tmp_path / "asked").read_text()


async def test_piper_without_a_voice_or_a_program_has_failed(
    tmp_path: Path, piper: PiperTTS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tts.piper, "PROGRAM", "false")
    with pytest.raises(EngineFailed, match="piper failed"):
        await said(piper, "Hello")
    monkeypatch.setattr(tts.piper, "PROGRAM", "no-such-program")
    with pytest.raises(EngineFailed, match="not installed"):
        await said(piper, "Hello")
    (tmp_path / "piper" / "zh_CN-huayan-medium.onnx.json").write_text("{}")
    with pytest.raises(EngineFailed, match="description"):
        await said(piper, "Hello")
    with pytest.raises(EngineFailed, match="no Piper voice"):
        await said(PiperTTS(VoiceSettings(models=tmp_path / "none")), "Hello")


# Edge


async def test_edge_gives_sound_and_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async with EdgeServer() as server:
        server.patch(monkeypatch)
        pcm, words = await said(EdgeTTS(), "one two & three")
    assert abs(len(pcm) / SAMPLE_RATE - 4 * WORD_MS / 1000) < 0.15
    assert abs(pitch_hz(pcm) - 220) < 3
    assert 0.45 < np.abs(pcm).max() < 0.55
    assert words == [Word(text, n * WORD_MS, WORD_MS) for n, text in enumerate(["one", "two", "&", "three"])]
    assert '"wordBoundaryEnabled":"true"' in server.config


async def test_edge_gives_sound_before_the_sentence_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    async with EdgeServer("stalls") as server:
        server.patch(monkeypatch)
        async with closing(EdgeTTS().stream("one two three four", NOBODY)) as pieces:
            async for piece in pieces:
                if len(piece.pcm):
                    break
        async with asyncio.timeout(5):
            await server.left.wait()


@pytest.mark.parametrize(
    ("text", "voice", "default", "chosen"),
    [
        ("Hello", "", "", "(en-US, AriaNeural)"),
        ("你好", "", "", "(zh-CN, XiaoxiaoNeural)"),
        ("Hello", "", "zh-CN-YunxiaNeural", "(zh-CN, YunxiaNeural)"),
        ("Hello", "en-GB-SoniaNeural", "zh-CN-YunxiaNeural", "(en-GB, SoniaNeural)"),
        ("你好", "zh-CN-liaoning-XiaobeiNeural", "", "(zh-CN-liaoning, XiaobeiNeural)"),
        ("Hello", "my-reference.wav", "", "(en-US, AriaNeural)"),
        ("Hello", "en-US-A'/><x y='Neural", "", "(en-US, AriaNeural)"),
    ],
)
async def test_edge_chooses_a_voice(
    text: str, voice: str, default: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EdgeServer() as server:
        server.patch(monkeypatch)
        await said(EdgeTTS(VoiceSettings(default)), text, Voice(voice, extra={"speed": 1.25}))
    (asked,) = server.asked
    assert asked.voice.endswith(chosen)
    assert asked.rate == "+25%"
    assert asked.text == text


@pytest.mark.parametrize("fault", ["refuses", "mute", "drops"])
async def test_a_broken_edge_has_failed(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    async with EdgeServer(fault) as server:
        server.patch(monkeypatch)
        with pytest.raises(EngineFailed, match="Edge"):
            await said(EdgeTTS(), "one two three")


async def test_an_edge_that_is_not_there_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with EdgeServer() as server:
        server.patch(monkeypatch)
        assert await EdgeTTS().reachable()
    assert not await EdgeTTS().reachable()
    with pytest.raises(EngineFailed, match="Edge"):
        await said(EdgeTTS(), "one")


async def test_leaving_edge_in_the_middle_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with EdgeServer("stalls") as server:
        server.patch(monkeypatch)
        before = asyncio.all_tasks()
        task = asyncio.create_task(said(EdgeTTS(), "one two three"))
        while not server.asked:
            await asyncio.sleep(0.01)
        task.cancel()
        async with asyncio.timeout(2):  # the server never says goodbye
            await asyncio.wait([task])
            await server.left.wait()
        ours = {task for task in asyncio.all_tasks() - before if "_read" in str(task)}
        assert not ours


async def test_a_stalled_edge_is_an_error_mark_and_the_turn_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async with EdgeServer("stalls") as server:
        server.patch(monkeypatch)
        utterance = Utterance(1, "echo", "one two three four.")
        chunks = [chunk async for chunk in speak(utterance, 0, EdgeTTS(), stall_s=0.3)]
    assert [kind for kind, _ in marks(chunks) if kind != "word"] == ["start", "sentence", "cut", "error", "end"]
    assert len(chunks) > 5


# Auto


@pytest.fixture
async def auto(tmp_path: Path) -> AsyncIterator[AutoTTS]:
    engine = AutoTTS(VoiceSettings(models=tmp_path))
    yield engine
    await engine.aclose()


async def started(engine: AutoTTS, *, reachable: bool) -> None:
    await engine.start()
    async with asyncio.timeout(5):
        while engine.edge_reachable != reachable:
            await asyncio.sleep(0.01)


async def test_auto_prefers_edge_when_it_is_there(auto: AutoTTS, monkeypatch: pytest.MonkeyPatch) -> None:
    async with EdgeServer() as server:
        server.patch(monkeypatch)
        await started(auto, reachable=True)
        pcm, _ = await said(auto, "one two")
    assert abs(pitch_hz(pcm) - 220) < 3


async def test_auto_does_not_wait_for_the_probe(auto: AutoTTS, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: EdgeTTS) -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(EdgeTTS, "reachable", never)
    await auto.start()
    _, words = await said(auto, "Good morning.")
    assert [word.text for word in words] == ["Good", "morning"]


@pytest.mark.parametrize("fault", ["refuses", "mute"])
async def test_auto_goes_on_when_edge_fails_before_its_first_sound(
    fault: Fault, auto: AutoTTS, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EdgeServer(fault) as server:
        server.patch(monkeypatch)
        await started(auto, reachable=True)
        _, words = await said(auto, "Good morning.")
        assert [word.text for word in words] == ["Good", "morning"]
        assert not auto.edge_reachable
        asked = len(server.asked)
        await said(auto, "Good night.")
        assert len(server.asked) == asked


async def test_auto_fails_when_edge_breaks_off_in_the_middle(auto: AutoTTS, monkeypatch: pytest.MonkeyPatch) -> None:
    async with EdgeServer("drops") as server:
        server.patch(monkeypatch)
        await started(auto, reachable=True)
        heard = 0
        with pytest.raises(EngineFailed):
            async for piece in auto.stream("one two three four", NOBODY):
                heard += len(piece.pcm)
        assert heard > 0
        assert not auto.edge_reachable


async def test_auto_probes_again(auto: AutoTTS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tts.auto, "PROBE_S", 0.01)
    async with EdgeServer() as server:
        server.patch(monkeypatch)
        await started(auto, reachable=True)
    await started(auto, reachable=False)


@pytest.mark.parametrize("fetched", [True, False])
@pytest.mark.parametrize(
    ("text", "engines"),
    [
        ("Good morning.", ["kokoro", "hibari", "espeak"]),
        ("早上好。", ["kokoro", "espeak"]),
        ("我喜欢 Python。", ["kokoro", "espeak", "hibari"]),
    ],
)
async def test_auto_knows_who_can_say_it(
    text: str, engines: list[str], auto: AutoTTS, fetched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fails(name: str) -> BaseTTS:
        class Fails(BaseTTS):
            async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
                asked.append(name)
                raise EngineFailed(f"{name} is ill")
                yield

            def knows(self, voice: str) -> bool:
                return voice == "mira"

        return Fails()

    monkeypatch.setattr(tts.espeak, "installed", lambda: True)
    monkeypatch.setattr(tts.kokoro, "available", lambda _: fetched)
    monkeypatch.setattr(auto, "_kokoro", fails("kokoro"))
    monkeypatch.setattr(auto, "_hibari", fails("hibari"))
    monkeypatch.setattr(auto, "_espeak", fails("espeak"))
    monkeypatch.setattr(auto, "_edge", fails("edge"))
    with pytest.raises(EngineFailed, match=f"{engines[-1]} is ill"):
        await said(auto, text)
    assert asked == (engines if fetched else engines[1:])
    for name, first in (("", "edge"), ("mira", "kokoro" if fetched else "edge")):
        asked.clear()
        auto.edge_reachable = True
        with pytest.raises(EngineFailed):
            async for _ in auto.stream(text, Voice(name)):
                pass
        assert asked[0] == first and "edge" in asked


async def test_auto_waits_for_an_engine_that_is_here(auto: AutoTTS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_patience_s", 0.0)
    _, words = await said(auto, "Good morning.")
    assert [word.text for word in words] == ["Good", "morning"]


async def test_auto_says_so_when_nobody_speaks_chinese(auto: AutoTTS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tts.espeak, "installed", lambda: False)
    with pytest.raises(EngineFailed, match="no speech engine here can say this text"):
        await said(auto, "早上好。")


async def test_closing_auto_leaves_nothing_running(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    engine = AutoTTS(VoiceSettings(models=tmp_path))
    await engine.start()
    await engine.aclose()
    assert asyncio.all_tasks() == before
