"""Speech promises: whole sentences, one ahead, every mark in its place, and nothing left behind when it is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import numpy as np
import pytest

from core.errors import EngineFailed
from core.media import CHUNK_SAMPLES, SAMPLE_RATE, AudioChunk, Mark, Utterance, Voice
from speech import AHEAD_CHUNKS, MAX_CHARS, sentences, speakable, voice
from tests.fakes.turns import TONE, Script, marks
from tts.hibari import HibariTTS
from ttsreal import Speech, Word

HUSH = np.zeros(SAMPLE_RATE, np.float32)


class FailsOn(Script):
    """Fails on one text, before any sound."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        if text == self.text:
            raise EngineFailed("no voice for this")
        async for piece in super().stream(text, voice):
            yield piece


class Deltas:
    """A language model's answer that knows how far it was read and whether it was closed."""

    def __init__(self, parts: Sequence[str], error: Exception | None = None, hangs: bool = False) -> None:
        self.parts = parts
        self.error = error
        self.hangs = hangs
        self.read = 0
        self.closed = False

    async def __call__(self) -> AsyncGenerator[str, None]:
        try:
            for part in self.parts:
                self.read += 1
                yield part
            if self.error:
                raise self.error
            if self.hangs:
                await asyncio.Event().wait()
        finally:
            self.closed = True


async def parts(text: str, size: int) -> AsyncGenerator[str, None]:
    for at in range(0, len(text), size):
        yield text[at : at + size]


async def split(text: str, size: int = 1) -> list[str]:
    return [sentence async for sentence in sentences(parts(text, size))]


async def settle() -> None:
    """Let everything that can run now run until it waits."""
    for _ in range(5 * AHEAD_CHUNKS):
        await asyncio.sleep(0)


def echo(text: str) -> Utterance:
    return Utterance(7, "echo", text)


async def heard(chunks: AsyncIterator[AudioChunk]) -> list[AudioChunk]:
    return [chunk async for chunk in chunks]


def where(chunks: Sequence[AudioChunk], kind: str) -> dict[str, int]:
    """At which chunk each mark of a kind is."""
    return {mark.text: at for at, chunk in enumerate(chunks) for mark in chunk.marks if mark.kind == kind}


@asynccontextmanager
async def nothing_left_running() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() == before


# Sentences


@pytest.mark.parametrize(
    "whole",
    [
        "It weighs 3.14 kilograms.",
        "We meet at 10:30 sharp.",
        "It costs 1,000 dollars.",
        "Take fruit, e.g. an apple.",
        "Ask Dr. Smith or Prof. J. R. Brown.",
        "The U.S. Army is here.",
        "See https://example.com/a.b?c=d!e for more.",
        "Mail me at some.body@example.co.uk today.",
        "Well... that is all.",
        "Read No. 5 and Fig. 3.",
        "We open at 5 p.m. on weekdays.",
        "1. Peel the apple.",
        "价格是1,000元整。",
        "时间是10：30。",
        "“你好。”",
        "请访问example.com。",
    ],
)
async def test_what_belongs_together_is_never_split(whole: str) -> None:
    for size in (1, 2, 3, len(whole)):
        assert "".join(await split(f"好。{whole}", size)).removeprefix("好。") == speakable(whole)
        assert len(await split(f"好。{whole} Next one.", size)) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好。今天好吗？很好！走吧", ["你好。", "今天好吗？", "很好！", "走吧"]),
        ("One. Two? Three! Four", ["One.", "Two?", "Three!", "Four"]),
        ("第一行\n第二行", ["第一行", "第二行"]),
        ("No. I do not.", ["No.", "I do not."]),
        ("I like Python.你呢？", ["I like Python.", "你呢？"]),
        ("It is 5 p.m. Let us go.", ["It is 5 p.m.", "Let us go."]),
        ("他说：“走吧。”我们走了。", ["他说：“走吧。”", "我们走了。"]),
        ("**Bold.** Plain.", ["Bold.", "Plain."]),
        ("", []),
        (" \n。！… 😀 ***", []),
    ],
)
async def test_a_sentence_ends_where_a_reader_would_pause(text: str, expected: list[str]) -> None:
    for size in (1, 2, 3, max(1, len(text))):
        assert await split(text, size) == expected


async def test_the_first_clause_may_end_at_a_comma_later_ones_may_not() -> None:
    assert await split("今天天气真好，我们去公园，好不好？明天天气真好，我们去公园，好不好？") == [
        "今天天气真好，",
        "我们去公园，好不好？",
        "明天天气真好，我们去公园，好不好？",
    ]
    assert (await split("I think that maybe, just maybe, we can."))[0] == "I think that maybe,"
    assert await split("Well, yes, no.") == ["Well, yes, no."]
    assert await split("好，我们走吧。") == ["好，我们走吧。"]


async def test_a_long_sentence_ends_at_a_clause() -> None:
    clause = "这是一个没有句号的很长很长的句子"
    assert all(len(sentence) <= 3 * len(clause) for sentence in await split(f"{clause}，" * 20))


async def test_text_without_punctuation_is_bounded() -> None:
    assert max(map(len, await split("啊" * 3000, 7))) <= MAX_CHARS
    words = await split("word " * 500, 7)
    assert max(map(len, words)) <= MAX_CHARS
    assert set(" ".join(words).split()) == {"word"}


async def test_a_sentence_is_given_as_soon_as_it_is_certain() -> None:
    deltas = Deltas(["你好", "。今天", "It is 3", ".", "14", " or so", ".", " Then", " more"])
    async with aclosing(sentences(deltas())) as found:
        assert (await anext(found), deltas.read) == ("你好。", 2)
        assert (await anext(found), deltas.read) == ("今天It is 3.14 or so.", 8)
        assert (await anext(found), deltas.read) == ("Then more", 9)


async def test_what_is_not_for_ears_is_left_out() -> None:
    code = "Look:\n```python\nprint('a. b')\n```\nDone."
    assert await split(code) == ["Look:", "Done."]
    assert await split("<think>The user. Hm.\nOk.</think>\nHello there!") == ["Hello there!"]
    assert await split("Hello.<think>I never") == ["Hello."]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("# Title", "Title"),
        ("**bold**, *it*, __u__, _em_, ~~no~~ and `code`", "bold, it, u, em, no and code"),
        ("2 * 3, snake_case, a < b", "2 * 3, snake_case, a < b"),
        ("- one\n* two\n> three\n- [x] four", "one two three four"),
        ("| a | b |\n|---|:-:|", "a b"),
        ('看[这里](https://a.b/c_d "t")和![图](x.png)。', "看这里和图。"),
        ("see <https://www.example.com/x>, ok", "see example.com/x, ok"),
        ("访问https://example.com/x，好", "访问example.com/x，好"),
        ("👍🏽 great ☀️ 1️⃣", "great 1"),
        ("<b>x</b><br/>", "x"),
        ("25℃, $5 & 10%", "25℃, $5 & 10%"),
    ],
)
def test_only_words_are_read_out(written: str, said: str) -> None:
    assert speakable(written) == said


async def test_closing_sentences_closes_the_model() -> None:
    deltas = Deltas(["One. Two. ", "Three."], hangs=True)
    async with aclosing(sentences(deltas())) as found:
        await anext(found)
    assert deltas.closed


async def test_an_error_of_the_model_comes_through_sentences() -> None:
    with pytest.raises(EngineFailed):
        await heard_text(Deltas(["One. Tw"], EngineFailed("gone")))


async def heard_text(deltas: Deltas) -> list[str]:
    return [sentence async for sentence in sentences(deltas())]


# Chunks and marks


async def test_chunks_are_20_ms_of_float32_with_the_epoch() -> None:
    chunks = await heard(voice(echo("Hello there. Bye."), 5, Script(TONE[:1000])))
    assert {(chunk.pcm.shape, chunk.pcm.dtype.name, chunk.epoch) for chunk in chunks} == {
        ((CHUNK_SAMPLES,), "float32", 5)
    }


async def test_marks_come_in_order() -> None:
    chunks = await heard(voice(echo("Hello there. Bye."), 0, Script(TONE[:1000])))
    assert marks(chunks) == [("start", ""), ("sentence", "Hello there."), ("sentence", "Bye."), ("end", "")]
    assert where(chunks, "sentence") == {"Hello there.": 0, "Bye.": 4}
    assert where(chunks, "end") == {"": len(chunks) - 1}
    assert not chunks[-1].pcm.any()


@pytest.mark.parametrize("text", ["", "😀", "...", "\n\n"])
async def test_an_utterance_without_words_starts_and_ends(text: str) -> None:
    tts = Script()
    chunks = await heard(voice(echo(text), 0, tts))
    assert marks(chunks) == [("start", ""), ("end", "")]
    assert tts.said == []


@pytest.mark.parametrize("samples", [0, 1, 320, 321, 16000])
async def test_audio_is_cut_into_chunks_and_its_tail_padded(samples: int) -> None:
    pcm = TONE[:samples]
    chunks = await heard(voice(Utterance(1, "audio", pcm=pcm), 0, Script()))
    assert marks(chunks) == [("start", ""), ("end", "")]
    sound = np.concatenate([chunk.pcm for chunk in chunks])
    assert np.array_equal(sound[:samples], pcm)
    assert not sound[samples:].any()
    assert len(chunks) == -(-samples // CHUNK_SAMPLES) + 1


async def test_words_ride_on_the_chunk_in_which_they_begin() -> None:
    tts = Script(Word("one", 0, 100), Word("two", 119, 80), TONE[:3200], Word("three", 200, 50), TONE[:3200])
    chunks = await heard(voice(echo("One two three."), 0, tts))
    assert where(chunks, "word") == {"one": 0, "two": 5, "three": 10}
    assert [m.duration_ms for chunk in chunks for m in chunk.marks if m.kind == "word"] == [100, 80, 50]


async def test_a_word_that_is_known_late_rides_on_the_next_chunk() -> None:
    tts = Script(TONE[:3200], Word("late", 20, 100), TONE[:3200], Word("later", 0, 100))
    chunks = await heard(voice(echo("One. Two."), 0, tts))
    assert [at for at, chunk in enumerate(chunks) for m in chunk.marks if m.text == "late"] == [10, 30]
    after = [mark.text for mark in chunks[20].marks]
    assert after == ["later", "Two."]
    assert [mark.text for mark in chunks[-1].marks] == ["later", ""]


async def test_silence_around_a_sentence_is_cut_short_and_its_words_move_with_it() -> None:
    sound = np.concatenate([HUSH[:8000], TONE[:3200], HUSH[:6400], TONE[:3200], HUSH])
    tts = Script(Word("one", 500, 200), sound[:10000], Word("two", 1100, 200), sound[10000:])
    chunks = await heard(voice(echo("One two."), 0, tts))
    assert where(chunks, "word") == {"one": 2, "two": 32}
    assert len(chunks) == 2 + 10 + 20 + 10 + 10 + 1


async def test_a_silent_sentence_does_not_stop_the_next() -> None:
    chunks = await heard(voice(echo("One. Two. Three."), 0, Script(HUSH)))
    assert marks(chunks) == [("start", ""), ("end", "")]


# Failures


async def test_a_sentence_that_fails_is_skipped_and_said_so() -> None:
    chunks = await heard(voice(echo("One. Two. Three."), 0, FailsOn("Two.")))
    assert marks(chunks) == [
        ("start", ""),
        ("sentence", "One."),
        ("error", "no voice for this"),
        ("sentence", "Three."),
        ("end", ""),
    ]


async def test_a_sentence_that_breaks_off_keeps_its_beginning() -> None:
    chunks = await heard(voice(echo("One."), 0, Script(TONE[:3200], EngineFailed("line cut"))))
    assert marks(chunks) == [("start", ""), ("sentence", "One."), ("cut", ""), ("error", "line cut"), ("end", "")]
    assert len(chunks) == 11


async def test_a_stalled_engine_is_an_error_and_the_turn_goes_on() -> None:
    tts = Script(TONE[:3200], asyncio.Event())
    chunks = await heard(voice(echo("One. Two."), 0, tts, stall_s=0.01))
    assert [kind for kind, _ in marks(chunks)] == [
        "start",
        "sentence",
        "cut",
        "error",
        "sentence",
        "cut",
        "error",
        "end",
    ]
    assert tts.open == 0


async def test_a_model_that_breaks_off_is_heard_to_its_last_whole_sentence() -> None:
    deltas = Deltas(["One. Two. And th"], EngineFailed("model gone"))
    chunks = await heard(voice(Utterance(1, "chat", "Count"), 0, Script(), deltas()))
    assert marks(chunks) == [
        ("start", ""),
        ("sentence", "One."),
        ("sentence", "Two."),
        ("error", "model gone"),
        ("end", ""),
    ]


async def test_a_model_that_says_nothing_ends_with_an_error() -> None:
    chunks = await heard(voice(Utterance(1, "chat", "Hi"), 0, Script(), Deltas([], EngineFailed("busy"))()))
    assert marks(chunks) == [("start", ""), ("error", "busy"), ("end", "")]


async def test_a_bug_is_not_hidden() -> None:
    async with nothing_left_running():
        with pytest.raises(ZeroDivisionError):
            await heard(voice(Utterance(1, "chat", "Hi"), 0, Script(), Deltas(["One. "], ZeroDivisionError())()))


# Back-pressure


async def test_exactly_one_sentence_is_synthesised_ahead() -> None:
    deltas, tts = Deltas([f"Sentence {n}. " for n in "abcdefgh"]), Script(TONE[:3200])
    async with aclosing(voice(Utterance(1, "chat", "Go"), 0, tts, deltas())) as chunks:
        await anext(chunks)
        await settle()
        assert tts.said == ["Sentence a.", "Sentence b."]
        assert deltas.read == 2
        for _ in range(9):
            await anext(chunks)
        await settle()
        assert len(tts.said) == 2
        await anext(chunks)
        await settle()
        assert len(tts.said) == 3


async def test_a_slow_listener_stops_the_engine_within_a_sentence() -> None:
    tts = Script(endless=True)
    async with aclosing(voice(echo("One."), 0, tts)) as chunks:
        await anext(chunks)
        await settle()
        held = tts.pieces
        assert held <= AHEAD_CHUNKS // 2 + 2
        await settle()
        assert tts.pieces == held
    assert tts.open == 0


# Letting go


async def test_closing_while_the_engine_works_closes_both_streams() -> None:
    deltas, tts = Deltas(["One. ", "Two. "], hangs=True), Script(TONE[:640], asyncio.Event())
    async with nothing_left_running():
        async with aclosing(voice(Utterance(1, "chat", "Go"), 0, tts, deltas())) as chunks:
            await anext(chunks)
            assert tts.open == 1
        assert tts.open == 0
        assert deltas.closed


async def test_closing_while_the_model_thinks_closes_it() -> None:
    deltas, tts = Deltas(["One. "], hangs=True), Script()
    async with nothing_left_running():
        async with aclosing(voice(Utterance(1, "chat", "Go"), 0, tts, deltas())) as chunks:
            await anext(chunks)
            await settle()
            assert not deltas.closed
        assert deltas.closed


async def test_closing_in_the_middle_of_a_put_closes_both_streams() -> None:
    deltas, tts = Deltas(["One. ", "Two. "]), Script(endless=True)
    async with nothing_left_running():
        async with aclosing(voice(Utterance(1, "chat", "Go"), 0, tts, deltas())) as chunks:
            await anext(chunks)
            await settle()
        assert tts.open == 0
        assert deltas.closed


@pytest.mark.parametrize("full", [False, True])
async def test_cancelling_the_turn_closes_both_streams(full: bool) -> None:
    deltas, tts = Deltas(["One. ", "Two. "], hangs=True), Script(asyncio.Event()) if not full else Script(endless=True)
    queue: asyncio.Queue[AudioChunk] = asyncio.Queue(3)

    async def turn() -> None:
        async with aclosing(voice(Utterance(1, "chat", "Go"), 0, tts, deltas())) as chunks:
            async for chunk in chunks:
                await queue.put(chunk)

    async with nothing_left_running():
        task = asyncio.create_task(turn())
        await settle()
        assert tts.open == 1
        assert queue.full() == full
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert tts.open == 0
        assert deltas.closed


async def test_a_finished_turn_leaves_nothing_running() -> None:
    async with nothing_left_running():
        await heard(voice(echo("One. Two."), 0, Script()))


# With a real voice


async def test_a_real_voice_is_loud_enough_and_as_long_as_its_words() -> None:
    tts = HibariTTS()
    text = "The quick brown fox jumps over the lazy dog, and nobody minds."
    chunks = await heard(voice(echo(text), 0, tts))
    await tts.aclose()
    pcm = np.concatenate([chunk.pcm for chunk in chunks])
    level_db = 20 * np.log10(np.sqrt((pcm**2).mean()))
    assert -26 < level_db < -16
    assert np.abs(pcm).max() <= 0.95
    assert 2.5 < len(pcm) / SAMPLE_RATE < 5
    assert np.abs(pcm[: SAMPLE_RATE // 10]).max() > 0.01  # heard within 100 ms
    said = [mark for chunk in chunks for mark in chunk.marks if mark.kind == "word"]
    assert [mark.text for mark in said] == text.replace(",", "").replace(".", "").split()
    assert all(isinstance(mark, Mark) and mark.duration_ms > 0 for mark in said)
