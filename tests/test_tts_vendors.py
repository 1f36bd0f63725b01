"""The vendors' engines promise: the published protocol, sound while it is made, clean errors, no key in sight."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from core.errors import EngineFailed
from core.media import SAMPLE_RATE, Pcm, Voice
from core.streams import closing
from tests.fakes.vendor_servers import (
    SECRET,
    WORD_MS,
    AzureServer,
    DoubaoServer,
    Fault,
    GradioServer,
    NoiseServer,
    QwenServer,
    TencentServer,
    Vendor,
    tone,
)
from tts import azure, doubao, qwen, tencent
from tts.azure import AzureTTS
from tts.doubao import DoubaoTTS
from tts.indextts2 import IndexTTS2
from tts.qwen import QwenTTS
from tts.tencent import TencentTTS
from tts.websocket import Keys
from ttsreal import BaseTTS, VoiceSettings, Word, as_pcm

NOBODY = Voice()
TEXT = "one two & three"
KEYS = {
    "TENCENT_APPID": "1250000000",
    "TENCENT_SECRET_ID": "tencent-id",
    "TENCENT_SECRET_KEY": TencentServer.secret_key,
    "DOUBAO_APPID": "doubao-app",
    "DOUBAO_TOKEN": DoubaoServer.token,
    "AZURE_SPEECH_KEY": AzureServer.key,
    "AZURE_TTS_REGION": "eastasia",
    "DASHSCOPE_API_KEY": QwenServer.key,
}


@dataclass(frozen=True)
class Case:
    """An engine, its service, and how the one finds the other."""

    engine: type[BaseTTS]
    server: Callable[[Fault], Vendor]
    module: Any = None
    scheme: str = "http"
    keys: tuple[str, ...] = ()

    @property
    def streams(self) -> bool:
        return self.engine is not IndexTTS2


CASES = {
    "tencent": Case(TencentTTS, TencentServer, tencent, "http", tuple(k for k in KEYS if k.startswith("TENCENT"))),
    "doubao": Case(DoubaoTTS, DoubaoServer, doubao, "ws", ("DOUBAO_APPID", "DOUBAO_TOKEN")),
    "azure": Case(AzureTTS, AzureServer, azure, "ws", ("AZURE_SPEECH_KEY", "AZURE_TTS_REGION")),
    "qwen": Case(QwenTTS, QwenServer, qwen, "ws", ("DASHSCOPE_API_KEY",)),
    "indextts2": Case(IndexTTS2, GradioServer),
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
clouds = pytest.mark.parametrize("case", [case for case in CASES.values() if case.keys], ids=[*CASES][:-1])
streaming = pytest.mark.parametrize("case", [case for case in CASES.values() if case.streams], ids=[*CASES][:-1])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    folder = tmp_path / "voices" / "anna"
    folder.mkdir(parents=True)
    (folder / "voice.json").write_text(json.dumps({"text": "Good evening."}))
    (folder / "reference.wav").write_bytes(b"RIFFreference")
    return folder.parent


Studio = Callable[..., BaseTTS]


@pytest.fixture
async def speaker(voices: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Studio]:
    """Makes a case's engine talk to a server; closes what it made."""
    made: list[BaseTTS] = []

    def make(case: Case, server: Vendor, timeout_s: float = 5.0, default_voice: str = "") -> BaseTTS:
        address = ""
        if case.module:
            path = urlsplit(case.module.URL)._replace(scheme="", netloc="").geturl()
            monkeypatch.setattr(case.module, "URL", server.url(path, case.scheme))
        else:
            address, default_voice = server.url("/"), default_voice or "anna"
        made.append(case.engine(VoiceSettings(default_voice, "", address, timeout_s, voices)))
        return made[-1]

    yield make
    for engine in made:
        await engine.aclose()


async def said(engine: BaseTTS, text: str = TEXT, voice: Voice = NOBODY) -> tuple[Pcm, list[Word]]:
    pieces = [piece async for piece in engine.stream(text, voice)]
    assert {piece.pcm.dtype for piece in pieces} == {np.dtype(np.float32)}
    return np.concatenate([piece.pcm for piece in pieces]), [word for piece in pieces for word in piece.words]


def expected(words: int) -> Pcm:
    return as_pcm(np.frombuffer(tone(words * WORD_MS, SAMPLE_RATE), "<i2"))


async def only(case: Case, speaker: Studio, voice: Voice = NOBODY, default: str = "", text: str = TEXT) -> Any:
    """What the service was asked for by one sentence."""
    async with case.server("") as server:
        await said(speaker(case, server, default_voice=default), text, voice)
    (asked,) = server.asked
    return asked


# What every engine promises


@every
async def test_a_sentence_is_heard_as_it_was_sent(case: Case, speaker: Studio) -> None:
    async with case.server("") as server:
        pcm, words = await said(speaker(case, server))
    inner = slice(200, len(expected(4)) - 200)
    assert abs(len(pcm) - len(expected(4))) <= 1
    assert np.abs(pcm[inner] - expected(4)[inner]).max() < 0.002
    assert [word.text for word in words if word.text != "&"] == ["one", "two", "three"]


@streaming
async def test_sound_comes_before_the_sentence_is_complete(case: Case, speaker: Studio) -> None:
    async with case.server("") as server:
        server.halfway.clear()
        samples = 0
        async with asyncio.timeout(5), closing(speaker(case, server).stream(TEXT, NOBODY)) as pieces:
            async for piece in pieces:
                samples += len(piece.pcm)
                if samples > SAMPLE_RATE // 10:
                    server.halfway.set()
    assert abs(samples - len(expected(4))) <= 1


@every
async def test_a_slow_listener_loses_nothing(case: Case, speaker: Studio) -> None:
    words = 40  # more than the buffers of a connection hold
    async with case.server("") as server:
        samples, pauses_s = 0, iter([0.7])
        async with closing(speaker(case, server, timeout_s=0.5).stream("word " * words, NOBODY)) as pieces:
            async for piece in pieces:
                await asyncio.sleep(next(pauses_s, 0))
                samples += len(piece.pcm)
    assert abs(samples - len(expected(words))) <= 1


@every
async def test_sentences_are_said_at_the_same_time(case: Case, speaker: Studio) -> None:
    async with case.server("") as server:
        engine = speaker(case, server)
        spoken = await asyncio.gather(*(said(engine, "word " * n) for n in (1, 2, 3)))
    assert [round(len(pcm) / SAMPLE_RATE * 1000 / WORD_MS) for pcm, _ in spoken] == [1, 2, 3]


@every
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("refuses", "refused the key"),
        ("busy", "overloaded"),
        ("page", "speech server"),
        ("error", "speech server"),
        ("mute", "no sound"),
        ("drops", "broke off"),
        ("stalls", "in time"),
    ],
)
async def test_a_service_that_fails_is_said_to_in_plain_words(
    case: Case, fault: Fault, message: str, speaker: Studio
) -> None:
    async with case.server(fault) as server:
        engine = speaker(case, server, timeout_s=0.3 if fault == "stalls" else 5)
        with pytest.raises(EngineFailed, match=message) as failed:
            await said(engine)
    told = str(failed.value)
    assert not any(hidden in told for hidden in (SECRET, "127.0.0.1", "Error(", "http", *KEYS.values()))


@pytest.mark.parametrize("name", ["doubao", "azure", "qwen", "indextts2"])
@pytest.mark.parametrize("fault", ["garbage", "leaves"])
async def test_a_sentence_without_its_end_has_failed(name: str, fault: Fault, speaker: Studio) -> None:
    async with CASES[name].server(fault) as server:
        with pytest.raises(EngineFailed, match="speech server"):
            await said(speaker(CASES[name], server))


NOISE = (
    b"",
    b"\x11",
    b"\x11\xb1\x00\x00\x00",
    b"\xff\xf0" + bytes(9),
    b"\x1f\xb1" + bytes(80),
    b"\x00\x40Path:audio",
    b"\x00\x02\xff\xff",
    "",
    "nothing",
    "Path:audio.metadata\r\n\r\n{",
    'Path:audio.metadata\r\n\r\n{"Metadata":[{"Type":"WordBoundary","Data":{"Offset":1e999,"Duration":0,"text":{"Text":""}}}]}',
    'Path:audio.metadata\r\n\r\n{"Metadata":5}',
    "[" * 100_000,
    "null",
    '{"type":5}',
    '{"type":"response.audio.delta","delta":7}',
    '{"type":"error","error":null}',
)


@pytest.mark.parametrize("name", ["doubao", "azure", "qwen"])
async def test_no_frame_does_more_than_fail_the_sentence(name: str, speaker: Studio) -> None:
    async with NoiseServer() as server:
        engine = speaker(CASES[name], server)
        for frame in NOISE:
            server.frame = frame
            with pytest.raises(EngineFailed):
                await said(engine)


@every
async def test_a_service_that_starts_slowly_is_waited_for(case: Case, speaker: Studio) -> None:
    async with case.server("") as server:
        server.halfway.clear()
        speaking = asyncio.create_task(said(speaker(case, server)))
        await server.begun.wait()
        await asyncio.sleep(0.1)
        assert not speaking.done()
        server.halfway.set()
        pcm, _ = await speaking
    assert abs(len(pcm) - len(expected(4))) <= 1


@every
async def test_leaving_in_the_middle_hangs_up_at_once(case: Case, speaker: Studio) -> None:
    async with case.server("stalls") as server:
        engine = speaker(case, server)
        speaking = asyncio.create_task(said(engine))
        await server.begun.wait()
        await asyncio.sleep(0.05)
        speaking.cancel()
        async with asyncio.timeout(2):
            await asyncio.wait([speaking])
            await server.left.wait()


@streaming
async def test_a_closed_stream_hangs_up_at_once(case: Case, speaker: Studio) -> None:
    async with case.server("stalls") as server:
        async with asyncio.timeout(3), closing(speaker(case, server).stream(TEXT, NOBODY)) as pieces:
            await anext(pieces)
        async with asyncio.timeout(2):
            await server.left.wait()


@every
async def test_an_engine_that_failed_speaks_again(case: Case, speaker: Studio) -> None:
    async with case.server("drops") as server:
        engine = speaker(case, server)
        with pytest.raises(EngineFailed):
            await said(engine)
        server.fault = ""
        pcm, _ = await said(engine)
    assert len(pcm)


@every
async def test_a_service_that_is_not_there_cannot_be_reached(case: Case, speaker: Studio) -> None:
    async with case.server("") as server:
        engine = speaker(case, server)
    with pytest.raises(EngineFailed, match="could not be reached"):
        await said(engine)


# Keys


@clouds
async def test_a_missing_key_is_named(case: Case, speaker: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    async with case.server("") as server:
        for name in case.keys:
            with monkeypatch.context() as without:
                without.delenv(name)
                engine = speaker(case, server)
            with pytest.raises(EngineFailed, match=f"set {name} in the environment"):
                await said(engine)
        assert not server.begun.is_set()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("tencent", "TENCENT_SECRET_KEY"),
        ("doubao", "DOUBAO_TOKEN"),
        ("azure", "AZURE_SPEECH_KEY"),
        ("qwen", "DASHSCOPE_API_KEY"),
    ],
)
async def test_a_wrong_key_is_refused(name: str, key: str, speaker: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(key, "wrong-key")
    async with CASES[name].server("") as server:
        with pytest.raises(EngineFailed, match="refused the key") as failed:
            await said(speaker(CASES[name], server))
    assert "wrong-key" not in str(failed.value)


def test_a_key_of_several_lines_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_SPEECH_KEY", "one\r\nX-Two: three")
    with pytest.raises(EngineFailed, match="set AZURE_SPEECH_KEY"):
        Keys("AZURE_SPEECH_KEY")["AZURE_SPEECH_KEY"]


def test_keys_do_not_show() -> None:
    assert "azure-key" not in repr(Keys("AZURE_SPEECH_KEY")) + repr(vars(AzureTTS()))


@pytest.mark.parametrize(("name", "value"), [("TENCENT_APPID", "x"), ("AZURE_TTS_REGION", "a.example.com/")])
async def test_what_cannot_be_an_id_or_a_region_is_said(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    engine = TencentTTS() if name == "TENCENT_APPID" else AzureTTS()
    with pytest.raises(EngineFailed, match=name):
        await said(engine)


# Voices and wishes


@pytest.mark.parametrize(
    ("voice", "default", "chosen"),
    [("", "", 101001), ("501002", "", 501002), ("", "601003", 601003), ("../etc", "zh-CN-YunxiaNeural", 101001)],
)
async def test_tencent_takes_a_voice_type(voice: str, default: str, chosen: int, speaker: Studio) -> None:
    assert (await only(CASES["tencent"], speaker, Voice(voice), default))["VoiceType"] == chosen


@pytest.mark.parametrize(("tempo", "number"), [(0.5, -2), (0.8, -1), (1.05, 0), (1.25, 1), (2, 2)])
async def test_tencent_takes_a_speed_in_steps(tempo: float, number: int, speaker: Studio) -> None:
    asked = await only(CASES["tencent"], speaker, Voice(extra={"speed": tempo}))
    assert asked["Speed"] == number
    assert (asked["Action"], asked["Codec"], asked["SampleRate"]) == ("TextToStreamAudio", "pcm", 16000)
    assert asked["Text"] == TEXT
    assert 0 < asked["Expired"] - asked["Timestamp"] <= 86_400


@pytest.mark.parametrize(
    ("voice", "default", "chosen", "cluster"),
    [
        ("", "", "BV001_streaming", "volcano_tts"),
        ("zh_female_shuangkuaisisi_moon_bigtts", "", "zh_female_shuangkuaisisi_moon_bigtts", "volcano_tts"),
        ("", "S_AbC123", "S_AbC123", "volcano_icl"),
        ("my-reference", "zh-CN-YunxiaNeural", "BV001_streaming", "volcano_tts"),
    ],
)
async def test_doubao_takes_its_own_voices(
    voice: str, default: str, chosen: str, cluster: str, speaker: Studio
) -> None:
    asked = await only(CASES["doubao"], speaker, Voice(voice), default)
    assert asked["audio"]["voice_type"] == chosen
    assert asked["app"]["cluster"] == cluster
    assert asked["request"]["text"] == TEXT
    assert KEYS["DOUBAO_TOKEN"] not in str(asked)


async def test_doubao_takes_known_wishes_only(speaker: Studio) -> None:
    wishes = {"speed": 0.5, "emotion": "happy", "language": 7, "volume": 3}
    asked = await only(CASES["doubao"], speaker, Voice(extra=wishes))
    assert asked["audio"] == {
        "voice_type": "BV001_streaming",
        "encoding": "pcm",
        "rate": 16000,
        "speed_ratio": 0.8,
        "emotion": "happy",
        "enable_emotion": True,
    }


@pytest.mark.parametrize(("wish", "sent"), [("zh-CN", "zh"), ("es-MX", "es-mx"), ("xx", None), ("", None)])
async def test_doubao_takes_a_language_that_it_knows(wish: str, sent: str | None, speaker: Studio) -> None:
    asked = await only(CASES["doubao"], speaker, Voice(extra={"language": wish}))
    assert asked["audio"].get("explicit_language") == sent


@pytest.mark.parametrize(
    ("text", "voice", "default", "chosen"),
    [
        ("Hello", "", "", "en-US-AvaMultilingualNeural"),
        ("你好", "", "", "zh-CN-XiaoxiaoNeural"),
        ("Hello", "", "zh-CN-YunxiNeural", "zh-CN-YunxiNeural"),
        ("Hello", "en-US-Ava:DragonHDLatestNeural", "", "en-US-Ava:DragonHDLatestNeural"),
        ("Hello", "en-US-A'/><x y='Neural", "", "en-US-AvaMultilingualNeural"),
    ],
)
async def test_azure_chooses_a_voice(text: str, voice: str, default: str, chosen: str, speaker: Studio) -> None:
    speak = await only(CASES["azure"], speaker, Voice(voice), default, text)
    assert speak[0].attrib == {"name": chosen}


async def test_azure_takes_text_speed_and_style(speaker: Studio) -> None:
    wishes = Voice(extra={"speed": 1.25, "emotion": "cheerful"})
    speak = await only(CASES["azure"], speaker, wishes, text="<b> & \x00 ]]> 你好")
    style = speak[0][0]
    assert (style.tag, style.attrib) == ("{http://www.w3.org/2001/mstts}express-as", {"style": "cheerful"})
    assert style[0].attrib == {"rate": "+25%"}
    assert style[0].text == "<b> &   ]]> 你好"


async def test_azure_ignores_a_style_that_is_none(speaker: Studio) -> None:
    speak = await only(CASES["azure"], speaker, Voice(extra={"emotion": "x'/>"}))
    assert speak[0][0].tag.endswith("prosody")


@pytest.mark.parametrize(
    ("voice", "default", "chosen"),
    [
        ("", "", "Cherry"),
        ("Eldric Sage", "", "Eldric Sage"),
        ("", "Ethan", "Ethan"),
        ("../x", "zh-CN-YunxiaNeural", "Cherry"),
    ],
)
async def test_qwen_takes_its_own_voices(voice: str, default: str, chosen: str, speaker: Studio) -> None:
    asked = await only(CASES["qwen"], speaker, Voice(voice), default)
    assert asked == {
        "voice": chosen,
        "mode": "server_commit",
        "language_type": "Auto",
        "response_format": "pcm",
        "sample_rate": 24000,
    }


async def test_qwen_takes_a_speed_and_a_language(speaker: Studio) -> None:
    asked = await only(CASES["qwen"], speaker, Voice(extra={"speed": 1.5, "language": "zh-CN"}))
    assert (asked["speech_rate"], asked["language_type"]) == (1.5, "Chinese")


async def test_qwen_is_heard_to_the_end_of_its_last_sentence(speaker: Studio) -> None:
    async with QwenServer() as server:
        pcm, _ = await said(speaker(CASES["qwen"], server), "one two. three four five.")
    assert abs(len(pcm) / SAMPLE_RATE * 1000 - 5 * WORD_MS) < 2


# Words


async def test_azure_gives_the_times_of_words_as_it_knows_them(speaker: Studio) -> None:
    async with AzureServer() as server:
        _, words = await said(speaker(CASES["azure"], server))
    assert words == [Word(text, n * WORD_MS, WORD_MS) for n, text in enumerate(["one", "two", "&", "three"])]


# Errors as each vendor sends them


@pytest.mark.parametrize("error_type", ["application/json", "text/plain", "application/octet-stream"])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("AuthFailure.InvalidSecretId", "refused the key"),
        ("LimitExceeded.AccessLimit", "overloaded"),
        ("UnsupportedOperation.PkgExhausted", "overloaded"),
        ("InvalidParameterValue.VoiceType", "error InvalidParameterValue.VoiceType"),
        ("<script>", "failed"),
    ],
)
async def test_tencent_sends_errors_where_sound_would_be(
    code: str, message: str, error_type: str, speaker: Studio
) -> None:
    async with TencentServer("error", code, error_type) as server:
        with pytest.raises(EngineFailed, match=message):
            await said(speaker(CASES["tencent"], server))


@pytest.mark.parametrize(
    ("code", "message"),
    [(3003, "overloaded"), (3011, "cannot say"), (3050, "no such voice"), (3031, "answered with error 3031")],
)
async def test_doubao_names_its_errors_by_number(code: int, message: str, speaker: Studio) -> None:
    async with DoubaoServer("error", code) as server:
        with pytest.raises(EngineFailed, match=message):
            await said(speaker(CASES["doubao"], server))


@pytest.mark.parametrize(
    ("code", "message"),
    [("InvalidApiKey", "refused the key"), ("Throttling.RateQuota", "overloaded"), ("invalid_value", "invalid_value")],
)
async def test_qwen_names_its_errors_by_word(code: str, message: str, speaker: Studio) -> None:
    async with QwenServer("error", code) as server:
        with pytest.raises(EngineFailed, match=message):
            await said(speaker(CASES["qwen"], server))


# IndexTTS2


@pytest.mark.parametrize("update", [True, False])
async def test_indextts2_speaks_after_a_reference(update: bool, speaker: Studio) -> None:
    async with GradioServer(update=update) as server:
        await said(speaker(CASES["indextts2"], server), voice=Voice("anna"))
    file = {"path": "/tmp/gradio/reference.wav", "orig_name": "reference.wav", "meta": {"_type": "gradio.FileData"}}
    assert server.uploaded == b"RIFFreference"
    assert server.asked == [["Same as the voice reference", file, TEXT, None, 0.65, 120, True]]


@pytest.mark.parametrize("name", ["nobody", "../anna", "/etc/passwd", "anna/../anna"])
async def test_indextts2_needs_a_reference_that_there_is(name: str, speaker: Studio) -> None:
    async with GradioServer() as server:
        with pytest.raises(EngineFailed, match="needs a reference"):
            await said(speaker(CASES["indextts2"], server), voice=Voice(name))
        assert not server.begun.is_set()


async def test_indextts2_fetches_from_its_own_server_only(speaker: Studio) -> None:
    async with GradioServer() as server, GradioServer() as elsewhere:
        server.moved_to = elsewhere.url(f"/gradio_api/file={elsewhere.folder}/0.wav")
        with pytest.raises(EngineFailed, match="speech server"):
            await said(speaker(CASES["indextts2"], server))
        assert not elsewhere.begun.is_set()


async def test_indextts2_says_that_a_page_is_another(speaker: Studio) -> None:
    async with GradioServer() as server:
        server.parameters = server.parameters[:1]
        with pytest.raises(EngineFailed, match="not an IndexTTS2 page"):
            await said(speaker(CASES["indextts2"], server))


async def test_a_damaged_reference_is_said(speaker: Studio, voices: Path) -> None:
    (voices / "anna" / "voice.json").write_text("{")
    async with GradioServer() as server:
        with pytest.raises(EngineFailed, match="voice 'anna' is damaged"):
            await said(speaker(CASES["indextts2"], server))
