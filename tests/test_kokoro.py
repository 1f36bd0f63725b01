"""Kokoro promises: what is said in two languages, when each word is heard, a first sound early, and no NaN."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_whisper import WhisperModel

from core.errors import EngineFailed
from core.media import SAMPLE_RATE, Pcm, Voice
from core.streams import closing
from tts import kokoro, kokoro_model
from tts.kokoro import KokoroTTS
from tts.kokoro_model import RATE_HZ, UNIT_MS, KokoroModel
from tts.phonemes import IDS, LEAST_SYMBOLS, MOST_SYMBOLS, clauses, spoken
from ttsreal import BaseTTS, VoiceSettings, Word, voiced_span

MODELS = Path(__file__).parent.parent / "models"
NOBODY = Voice()
UNIT_SAMPLES = RATE_HZ * UNIT_MS // 1000


def symbols(text: str, **more: bool) -> str:
    return "".join(piece.symbols for piece in spoken(text, **more)).strip()


def words(text: str) -> list[str]:
    return [piece.word for piece in spoken(text) if piece.word]


# Symbols


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好，世界！", "ni↓xau↓, ʂɨ↘ʨje↘!"),
        ("行长在银行", "xa↗ŋꭧa↓ŋ ʦai↘ i↗nxa↗ŋ"),
        ("Hello, world!", "həlˈO, wˈɜɹld!"),
        ("我用Python。", "wo↓jʊ↘ŋ pˈIθˌɑn."),
        ("你说：“好。”", "ni↓ ʂwo→: “xau↓.”"),
        ("好🙂カ", "xau↓"),
        ("🙂", ""),
        ("", ""),
    ],
)
def test_both_languages_become_symbols(text: str, expected: str) -> None:
    assert symbols(text) == expected


@pytest.mark.parametrize(
    "text", ["你好，world！2026年—3%《a》…", "Dr. Smith paid $25.50 on Nov. 3rd — twice?", "女绿嗯哼𠮷㿡"]
)
def test_every_symbol_is_one_that_the_model_knows(text: str) -> None:
    assert set(symbols(text)) <= set(IDS)


def test_the_british_speak_british() -> None:
    assert symbols("dance", british=True) != symbols("dance")


@pytest.mark.parametrize(
    ("number", "hanzi"),
    [
        ("2026年", "二零二六年"),
        ("2026-11-20", "二零二六年十一月二十日"),
        ("8:05出发", "八点零五分出发"),
        ("10:30", "十点三十分"),
        ("3%", "百分之三"),
        ("10%-20%", "百分之十到百分之二十"),
        ("-5度", "负五度"),
        ("25.5℃", "二十五点五摄氏度"),
        ("1/2", "二分之一"),
        ("￥1,250", "一千二百五十元"),
        ("13800138000", "一三八零零一三八零零零"),
        ("2个", "两个"),
        ("100万", "一百万"),
    ],
)
def test_numbers_are_read_as_people_read_them(number: str, hanzi: str) -> None:
    def plain(text: str) -> str:
        return re.sub("[ .]", "", symbols(text))

    assert plain(f"共{number}。") == plain(f"共{hanzi}。")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("气温25.5℃，好", ["气", "温", "25.5℃", "好"]),
        ("GPT-4很好", ["GPT-4", "很", "好"]),
        ("It cost $25.50, twice.", ["It", "cost", "$25.50", "twice"]),
        ("“Hello,” she said — well…", ["Hello", "she", "said", "well"]),
    ],
)
def test_words_are_those_of_the_text(text: str, expected: list[str]) -> None:
    assert words(text) == expected


# Clauses


def sizes(text: str) -> list[int]:
    return [sum(len(piece.symbols) for piece in part) for part in clauses(spoken(text))]


def test_the_first_clause_is_short_and_the_others_grow() -> None:
    text = "你好，" + "今天我们一起去公园散步，" * 6
    first, second, *_ = sizes(text)
    assert first < 12
    assert second <= max(LEAST_SYMBOLS, 60)
    assert all(after <= max(LEAST_SYMBOLS, 3 * before, 60) for before, after in pairwise(sizes(text)))


def test_clauses_hold_all_of_the_text_in_order() -> None:
    pieces = spoken("Well, this is it: the first, the second; and the rest. Goodbye!")
    assert [piece for part in clauses(pieces) for piece in part] == pieces


def test_what_has_no_pause_is_cut_before_it_is_too_long() -> None:
    assert max(sizes("我们今天一起去公园散步" * 40)) <= MOST_SYMBOLS
    assert max(sizes("and so on " * 200)) <= MOST_SYMBOLS


# The model's answers, from a model that says what it is told


class FakeSession:
    """A tone in the middle of silence: two units for each symbol, eight for the pads; NaN as long as `ill` says."""

    def __init__(self, peak: float = 0.5, ill: int = 0) -> None:
        self.peak = peak
        self.ill = ill
        self.asked: list[dict[str, Any]] = []
        self.runs: list[Any] = []

    def run(self, names: None, inputs: dict[str, Any], run: Any) -> list[Any]:
        self.asked.append(inputs)
        self.runs.append(run)
        units = np.full(inputs["input_ids"].shape, 2.0, np.float32)
        units[0, [0, -1]] = 8
        n_samples = int(units.sum()) * UNIT_SAMPLES
        sound = np.zeros((1, n_samples), np.float32)
        edge = 8 * UNIT_SAMPLES - RATE_HZ * kokoro_model.EARLY_MS // 1000
        sound[0, edge : n_samples - 8 * UNIT_SAMPLES] = self.peak
        if len(self.asked) <= self.ill:
            sound[0, 5] = np.nan
        return [sound, units]


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()


@pytest.fixture
async def engine(tmp_path: Path, session: FakeSession) -> AsyncIterator[KokoroTTS]:
    folder = tmp_path / "kokoro" / "voices"
    folder.mkdir(parents=True)
    for name in (kokoro.CHINESE_VOICE, kokoro.ENGLISH_VOICE, "zm_yunxi"):
        style = np.arange(510, dtype="<f4")[:, None] + np.zeros(256, "<f4")
        style.tofile(folder / f"{name}.bin")
    model = KokoroModel.__new__(KokoroModel)
    model._session = session
    engine = KokoroTTS(VoiceSettings(models=tmp_path, voices=tmp_path / "mine"))
    vars(engine)["_model"] = model
    yield engine
    await engine.aclose()


async def said(engine: BaseTTS, text: str, voice: Voice = NOBODY) -> tuple[Pcm, list[Word]]:
    pieces = [piece async for piece in engine.stream(text, voice)]
    return np.concatenate([piece.pcm for piece in pieces]), [word for piece in pieces for word in piece.words]


async def test_words_have_the_times_of_their_symbols(engine: KokoroTTS) -> None:
    pcm, heard = await said(engine, "你好。")
    lead_ms, step_ms = kokoro_model.LEAD_MS, 2 * UNIT_MS
    assert heard == [Word("你", lead_ms, 3 * step_ms), Word("好", lead_ms + 3 * step_ms, 4 * step_ms)]
    assert abs(voiced_span(pcm)[0] - lead_ms) < 5


async def test_words_of_later_clauses_follow_the_sound_before(engine: KokoroTTS) -> None:
    pcm, heard = await said(engine, "你好，我们今天一起去公园散步。")
    assert [word.text for word in heard] == [*"你好我们今天一起去公园散步"]
    assert all(a.start_ms + a.duration_ms <= b.start_ms for a, b in pairwise(heard))
    gap_ms = heard[2].start_ms - heard[1].start_ms - heard[1].duration_ms
    assert gap_ms > kokoro_model.PAUSE_MS
    assert heard[-1].start_ms + heard[-1].duration_ms < len(pcm) * 1000 // SAMPLE_RATE


async def test_the_first_clause_leaves_before_the_second_is_made(engine: KokoroTTS, session: FakeSession) -> None:
    async with closing(engine.stream("你好，我们今天一起去公园散步。", NOBODY)) as pieces:
        assert len((await anext(pieces)).pcm)
        assert len(session.asked) == 1


async def test_leaving_early_ends_what_is_being_made(engine: KokoroTTS, session: FakeSession) -> None:
    pieces = engine.stream("你好，我们今天一起去公园散步。", NOBODY)
    async with closing(pieces):
        await anext(pieces)
        assert not session.runs[0].terminate
    assert session.runs[0].terminate


def test_loud_sound_is_turned_down_not_cut() -> None:
    tone: Pcm = np.sin(np.arange(4800) / 20).astype(np.float32)
    swelling: Pcm = (tone * np.arange(4800) / 2400).astype(np.float32)
    limited = kokoro_model._limited(swelling)
    assert np.abs(limited).max() <= kokoro_model.PEAK + 1e-6
    assert np.count_nonzero(np.abs(limited) > kokoro_model.PEAK - 1e-3) < 100
    soft: Pcm = (tone[1:] / 2).astype(np.float32)
    assert np.array_equal(kokoro_model._limited(soft), soft)


async def test_no_numbers_are_asked_for_again_with_a_neighbouring_style(
    engine: KokoroTTS, session: FakeSession
) -> None:
    session.ill = 1
    pcm, _ = await said(engine, "你好。")
    assert np.isfinite(pcm).all()
    first, second = (float(inputs["style"][0, 0]) for inputs in session.asked)
    assert second == first + 1


async def test_no_numbers_again_and_again_is_a_failure(engine: KokoroTTS, session: FakeSession) -> None:
    session.ill = 9
    with pytest.raises(EngineFailed, match="no sound"):
        await said(engine, "你好。")
    assert len(session.asked) == 3


async def test_the_style_is_that_of_the_length_and_speed_is_passed_on(engine: KokoroTTS, session: FakeSession) -> None:
    await said(engine, "你好。", Voice(extra={"speed": 1.5}))
    (inputs,) = session.asked
    n_symbols = inputs["input_ids"].shape[1] - 2
    assert inputs["style"][0, 0] == n_symbols
    assert inputs["speed"].tolist() == [1.5]


def bring(root: Path, name: str, *, style: bool) -> None:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "voice.json").write_text("{}")
    (folder / "reference.wav").touch()
    if style:
        np.save(folder / "kokoro.npy", np.zeros((510, 1, 256), np.float32))


@pytest.mark.parametrize(
    ("text", "name", "default", "chosen"),
    [
        ("你好", "", "", kokoro.CHINESE_VOICE),
        ("Hello", "", "", kokoro.ENGLISH_VOICE),
        ("Hello", "zm_yunxi", "", "zm_yunxi"),
        ("Hello", "", "zm_yunxi", "zm_yunxi"),
        ("Hello", "xx_nobody", "zm_yunxi", "zm_yunxi"),
        ("Hello", "../voices/zm_yunxi", "", kokoro.ENGLISH_VOICE),
        ("Hello", "styled", "", "kokoro"),
        ("Hello", "", "styled", "kokoro"),
        ("Hello", "plain", "", kokoro.ENGLISH_VOICE),
    ],
)
async def test_a_voice_is_chosen(
    text: str, name: str, default: str, chosen: str, engine: KokoroTTS, tmp_path: Path
) -> None:
    bring(tmp_path / "mine", "styled", style=True)
    bring(tmp_path / "mine", "plain", style=False)
    engine.settings = VoiceSettings(default, models=tmp_path, voices=tmp_path / "mine")
    assert engine._style(Voice(name), text).stem == chosen
    await said(engine, text, Voice(name))


async def test_a_damaged_style_or_reference_has_failed(engine: KokoroTTS, tmp_path: Path) -> None:
    bring(tmp_path / "mine", "styled", style=True)
    (tmp_path / "mine" / "styled" / "kokoro.npy").write_bytes(b"no array")
    with pytest.raises(EngineFailed, match="the Kokoro voice failed"):
        await said(engine, "Hello", Voice("styled"))
    (tmp_path / "mine" / "styled" / "voice.json").write_text("no JSON")
    with pytest.raises(EngineFailed, match="voice 'styled' is damaged"):
        await said(engine, "Hello", Voice("styled"))


@pytest.mark.parametrize("text", ["", "…", "🙂", "カタカナ"])
async def test_what_is_in_neither_language_has_failed(text: str, engine: KokoroTTS) -> None:
    with pytest.raises(EngineFailed, match="Chinese and English only"):
        await said(engine, text)


async def test_without_the_model_it_says_what_to_do(tmp_path: Path) -> None:
    engine = KokoroTTS(VoiceSettings(models=tmp_path))
    assert not kokoro.available(engine.settings)
    with pytest.raises(EngineFailed, match=r"fetch_models\.py kokoro"):
        await engine.start()
    await engine.aclose()


async def test_a_damaged_model_has_failed(tmp_path: Path) -> None:
    (tmp_path / "kokoro").mkdir()
    (tmp_path / "kokoro" / "kokoro.onnx").write_bytes(b"no model")
    engine = KokoroTTS(VoiceSettings(models=tmp_path))
    with pytest.raises(EngineFailed, match="the Kokoro voice failed"):
        await engine.start()
    await engine.aclose()


# The real one


@pytest.fixture(scope="module")
def real() -> KokoroTTS:
    if not kokoro.available(VoiceSettings(models=MODELS)):
        pytest.skip("no models/kokoro here: python scripts/fetch_models.py kokoro")
    return KokoroTTS(VoiceSettings(models=MODELS))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好，世界。", [*"你好世界"]),
        ("Good morning, everybody.", ["Good", "morning", "everybody"]),
        ("我喜欢Python。", ["我", "喜", "欢", "Python"]),
    ],
)
async def test_kokoro_speaks_with_words_in_their_place(text: str, expected: list[str], real: KokoroTTS) -> None:
    pcm, heard = await said(real, text)
    start_ms, duration_ms = voiced_span(pcm)
    assert [word.text for word in heard] == expected
    assert all(a.start_ms + a.duration_ms <= b.start_ms + 1 for a, b in pairwise(heard))
    assert abs(heard[0].start_ms - start_ms) < 80
    assert abs(heard[-1].start_ms + heard[-1].duration_ms - start_ms - duration_ms) < 150
    assert 150 * len(expected) < duration_ms < 800 * len(expected)
    assert -28 < 20 * np.log10(np.sqrt((pcm**2).mean())) < -12
    assert np.abs(pcm).max() <= 1


async def test_kokoro_follows_the_speed_and_works_in_its_own_thread(real: KokoroTTS) -> None:
    wishes = [Voice("zm_yunxi", extra={"speed": tempo}) for tempo in (0.8, 1.6)]
    (slow, _), (fast, _) = await asyncio.gather(*(said(real, "今天天气很好。", wish) for wish in wishes))
    assert len(slow) > 1.4 * len(fast)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("kokoro")] == ["kokoro_0"]


async def test_what_kokoro_makes_for_nobody_is_ended(real: KokoroTTS) -> None:
    pieces = real.stream("今天我们一起去公园散步" * 5, NOBODY)
    task = asyncio.ensure_future(anext(pieces))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
    pcm, _ = await said(real, "好。")  # the thread is free again
    assert len(pcm)


def errors(text: str, other: str) -> int:
    """How many characters are to be changed, added or left out to make one of the other."""
    row: list[int] = [*range(len(other) + 1)]
    for n, char in enumerate(text, 1):
        before, row[0] = row[0], n
        for m, wrong in enumerate(other, 1):
            before, row[m] = row[m], min(row[m] + 1, row[m - 1] + 1, before + (char != wrong))
    return row[-1]


@pytest.mark.slow
async def test_whisper_understands_ten_sentences_of_kokoro(real: KokoroTTS) -> None:
    if not (MODELS / "whisper-base" / "model.bin").is_file():
        pytest.skip("no models/whisper-base here: python scripts/fetch_models.py whisper-base")
    whisper = WhisperModel(str(MODELS / "whisper-base"), device="cpu", compute_type="int8", cpu_threads=1)
    sentences = (Path(__file__).parent / "data" / "sentences_zh.txt").read_text().split()
    wrong = 0
    for sentence in sentences:
        pcm, _ = await said(real, sentence)
        heard, _ = whisper.transcribe(
            pcm, "zh", beam_size=1, condition_on_previous_text=False, initial_prompt="以下是普通话的句子。"
        )
        text = "".join(segment.text for segment in heard).translate(str.maketrans("69", "六九"))
        wrong += errors(*(re.sub(r"[^\u4e00-\u9fff]", "", said) for said in (sentence, text)))
    n_chars = sum(len(re.sub(r"\W", "", sentence)) for sentence in sentences)
    assert wrong / n_chars <= 0.1
