"""The turn: what is to be said, as text that grows, becomes 20 ms chunks of sound that know what they are.

language model → `sentences` → speech engine → `voice`. One sentence ahead and no more: while one is heard the next is
synthesised, and whoever listens slowly slows the speech engine and through it the language model.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing

import numpy as np

from core.errors import EngineFailed
from core.media import CHUNK_SAMPLES, SAMPLE_RATE, SILENT_CHUNK, AudioChunk, Mark, Pcm, Utterance
from core.streams import closing
from ttsreal import CJK, QUIET, BaseTTS, Word, unstalled

CHUNK_MS = CHUNK_SAMPLES * 1000 // SAMPLE_RATE  # 20
AHEAD_CHUNKS = 500  # 10 s of finished sound, at most, wait for the listener
LEAD_CHUNKS = 2  # silence kept before a sentence
TAIL_CHUNKS = 10  # silence kept after it
PAUSE_CHUNKS = 100  # silence inside it that is recognised as such

FIRST_CLAUSE = 6.0  # hanzi, or two thirds of that in words: enough to begin with
LONG_CLAUSE = 30.0  # as much is said in one breath
MAX_CHARS = 240  # without any punctuation

_MARK = re.compile(r"\n+|[。！？!?]+|\.+|[，、：；,:;…—～]+")
_CLOSERS = frozenset("”’\"'」』）)】》]*_")
_WORD = re.compile(rf"(?:(?!{CJK.pattern})\w)+")
_LAST_WORD = re.compile(rf"(?:^|[\s\"'(“‘]|{CJK.pattern})([A-Za-z][\w.'’]*)$")
_INITIALS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]|[A-HJ-Z]")
_TITLES = frozenset(
    {"mr", "mrs", "ms", "dr", "prof", "st", "mt", "gen", "capt", "lt", "rev", "hon", "vs", "cf", "approx"}
)
_NUMBERED = frozenset({"no", "nos", "fig", "vol", "pp", "sec", "ch", "art"})
_ENDINGS = frozenset({"etc", "inc", "ltd", "co", "corp", "jr", "sr", "a.m", "p.m", "ph.d"})

_MUTE = re.compile(r"(```|</?think>)")
_REPLACED = (
    (re.compile(r"!?\[([^\]]*)\]\([^)\s]*(?:\s[^)]*)?\)"), r"\1"),  # [label](address)
    (re.compile(r"\]\([^)\s]*\)?"), ""),  # the end of a link whose beginning went before
    (re.compile(r"<?https?://(?:www\.)?([^\s<>，。；、）)]+)>?"), r"\1"),
    (re.compile(r"</?[A-Za-z][^<>]*>"), ""),
    (re.compile(r"(?m)^[-*_=|: ]{3,}$"), ""),  # a rule, or the line under a table's head
    (re.compile(r"(?m)^\s*(?:#{1,6}\s+|>+\s*|[-*+•]\s+(?:\[[ xX]\]\s*)?)"), ""),
    (re.compile(r"(\*{1,3}|~~|`+)(?=\S)|(?<=\S)(\*{1,3}|~~|`+)"), ""),
    (re.compile(r"(?<!\w)_{1,3}(?=\w)|(?<=\w)_{1,3}(?!\w)"), ""),
    (re.compile(r"\s*\|\s*"), " "),
    (re.compile("[\U0001f000-\U0001faff\u2190-\u21ff\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff]"), " "),
    (re.compile("[\u200b-\u200f\u2060\ufe00-\ufe0f\u20e3\ufeff\U000e0020-\U000e007f]"), ""),
    (re.compile(r"\s+"), " "),
)


async def voice(
    utterance: Utterance,
    epoch: int,
    tts: BaseTTS,
    deltas: AsyncIterator[str] | None = None,
    *,
    stall_s: float = 10.0,
) -> AsyncGenerator[AudioChunk, None]:
    """An utterance as chunks of 320 samples; `deltas` is what a language model answers, None for echo and audio.

    Marks: one `start` on the first chunk, one `end` on a last, silent one; `sentence` where one begins to be heard,
    `word` where its time is known, `error` (text for clients) where a sentence or the answer was lost: the rest is said
    all the same; before it `cut`, if some of that sentence had been said. Silence around sentences is cut short.
    Cancelling or closing it (`contextlib.aclosing`) closes `deltas` and the speech engine's stream before it returns.
    An engine that gives nothing for `stall_s` has failed.
    """
    turn = _Turn(utterance, epoch, tts, stall_s)
    room = asyncio.Semaphore(AHEAD_CHUNKS)
    ready: asyncio.Queue[AudioChunk | None] = asyncio.Queue()
    filler = asyncio.create_task(_fill(turn.chunks(deltas), ready, room))
    try:
        while (chunk := await ready.get()) is not None:
            room.release()
            if any(mark.kind == "sentence" for mark in chunk.marks):
                turn.heard.release()
            yield chunk
        await filler
    finally:
        filler.cancel()
        await asyncio.gather(filler, return_exceptions=True)


async def _fill(
    chunks: AsyncGenerator[AudioChunk, None], ready: asyncio.Queue[AudioChunk | None], room: asyncio.Semaphore
) -> None:
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                await room.acquire()
                ready.put_nowait(chunk)
    finally:
        ready.put_nowait(None)


class _Turn:
    """One utterance on its way into chunks. `heard` counts the sentences that the listener has begun to hear."""

    def __init__(self, utterance: Utterance, epoch: int, tts: BaseTTS, stall_s: float) -> None:
        self.utterance = utterance
        self.epoch = epoch
        self.tts = tts
        self.stall_s = stall_s
        self.heard = asyncio.Semaphore(0)
        self.marks = [Mark("start", utterance)]

    async def chunks(self, deltas: AsyncIterator[str] | None) -> AsyncGenerator[AudioChunk, None]:
        audio = self.utterance.kind == "audio"
        spoken = self._audio() if audio else self._text(deltas or _whole(self.utterance.text))
        async with aclosing(spoken):
            async for chunk in spoken:
                yield chunk
        yield self._chunk(SILENT_CHUNK, Mark("end", self.utterance))

    async def _audio(self) -> AsyncGenerator[AudioChunk, None]:
        pcm = self.utterance.pcm
        for chunk in [] if pcm is None else _cut(_padded(pcm)):
            yield self._chunk(chunk)

    async def _text(self, deltas: AsyncIterator[str]) -> AsyncGenerator[AudioChunk, None]:
        try:
            async with aclosing(sentences(deltas)) as texts:
                async for text in texts:
                    async with aclosing(self._sentence(text)) as spoken:
                        async for chunk in spoken:
                            yield chunk
                    await self.heard.acquire()
        except EngineFailed as error:
            self._lost(error)

    async def _sentence(self, text: str) -> AsyncGenerator[AudioChunk, None]:
        """The chunks of one sentence. One that comes to nothing counts as heard."""
        sentence = [Mark("sentence", self.utterance, text)]
        try:
            async with aclosing(self._sound(text)) as sound:
                async for pcm, words in sound:
                    yield self._chunk(pcm, *sentence, *words)
                    sentence.clear()
        except EngineFailed as error:
            if not sentence:
                self.marks.append(Mark("cut", self.utterance))
            self._lost(error)
        if sentence:
            self.heard.release()

    async def _sound(self, text: str) -> AsyncGenerator[tuple[Pcm, list[Mark]], None]:
        """What is heard of one sentence, 320 samples at a time, each with the words that begin in it or before."""
        trim, words = _Trim(), deque[Word]()
        async with aclosing(unstalled(self.tts.stream(text, self.utterance.voice), self.stall_s)) as pieces:
            async for piece in pieces:
                words.extend(piece.words)
                for pcm, end_ms in trim.push(piece.pcm):
                    yield pcm, self._begun(words, end_ms)
        for pcm, end_ms in trim.finish():
            yield pcm, self._begun(words, end_ms)
        if trim.voiced:
            self.marks += self._begun(words, float("inf"))

    def _begun(self, words: deque[Word], end_ms: float) -> list[Mark]:
        marks = []
        while words and words[0].start_ms < end_ms:
            word = words.popleft()
            marks.append(Mark("word", self.utterance, word.text, word.duration_ms))
        return marks

    def _chunk(self, pcm: Pcm, *marks: Mark) -> AudioChunk:
        waiting, self.marks = self.marks, []
        return AudioChunk(pcm, self.epoch, (*waiting, *marks))

    def _lost(self, error: EngineFailed) -> None:
        self.marks.append(Mark("error", self.utterance, str(error)))


class _Trim:
    """Cuts a sentence into chunks and leaves out all but a little of the silence before and after it.

    Both methods give (pcm float32 (320,), when it ends in ms from the sentence's first sample).
    """

    def __init__(self) -> None:
        self._rest: Pcm = np.empty(0, np.float32)
        self._quiet: deque[tuple[Pcm, int]] = deque()
        self.voiced = False
        self._now_ms = 0

    def push(self, pcm: Pcm) -> list[tuple[Pcm, int]]:
        pcm = np.concatenate([self._rest, pcm])
        whole = len(pcm) - len(pcm) % CHUNK_SAMPLES
        self._rest = pcm[whole:]
        return [chunk for part in _cut(pcm[:whole]) for chunk in self._pass(part)]

    def finish(self) -> list[tuple[Pcm, int]]:
        last = [chunk for part in _cut(_padded(self._rest)) for chunk in self._pass(part)]
        return last + (list(self._quiet)[:TAIL_CHUNKS] if self.voiced else [])

    def _pass(self, part: Pcm) -> list[tuple[Pcm, int]]:
        self._now_ms += CHUNK_MS
        self._quiet.append((part, self._now_ms))
        if np.abs(part).max() > QUIET:
            self.voiced = True
            passed = list(self._quiet)
            self._quiet.clear()
            return passed
        if len(self._quiet) <= (PAUSE_CHUNKS if self.voiced else LEAD_CHUNKS):
            return []
        oldest = self._quiet.popleft()
        return [oldest] if self.voiced else []


def _cut(pcm: Pcm) -> list[Pcm]:
    return list(pcm.reshape(-1, CHUNK_SAMPLES))


def _padded(pcm: Pcm) -> Pcm:
    return np.pad(pcm, (0, -len(pcm) % CHUNK_SAMPLES))


async def _whole(text: str) -> AsyncIterator[str]:
    yield text


async def sentences(deltas: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    """The sentences of a text that arrives in pieces, each as soon as it is certain, ready to be read out.

    The first may end at a comma, to be heard sooner; a long one ends at any clause. What is not for ears is left out:
    code blocks, `<think>` blocks and what `speakable` removes. Closes `deltas`, and raises what it raises.
    """
    splitter = _Splitter()
    async with closing(deltas):
        async for delta in deltas:
            for sentence in splitter.push(delta):
                yield sentence
    for sentence in splitter.finish():
        yield sentence


def speakable(text: str) -> str:
    """`text` as it is read out: no Markdown or HTML, a link's label alone, an address without its scheme, no emoji."""
    for pattern, plain in _REPLACED:
        text = pattern.sub(plain, text)
    return text.strip()


class _Splitter:
    def __init__(self) -> None:
        self._text = ""
        self._first = True
        self._muted = False

    def push(self, delta: str) -> Iterator[str]:
        self._text += delta
        return self._split(final=False)

    def finish(self) -> Iterator[str]:
        return self._split(final=True)

    def _split(self, *, final: bool) -> Iterator[str]:
        while end := self._end() or (len(self._text) if final else 0):
            written = self._unmuted(self._text[:end])
            self._text = self._text[end:]
            sentence = speakable(written) if _has_words(written) else ""
            if _has_words(sentence):
                self._first = False
                yield sentence

    def _end(self) -> int:
        """Where the first sentence of the text ends, 0 if it is not yet certain that it does."""
        enough = FIRST_CLAUSE if self._first else LONG_CLAUSE
        text = self._text[: 2 * MAX_CHARS]
        for mark in _MARK.finditer(text, 0, MAX_CHARS):
            end = mark.end()
            while "\n" not in mark[0] and text[end : end + 1] in _CLOSERS:
                end += 1
            if _ends(mark[0], text[: mark.start()], text[end:], enough):
                return end
        if len(text) <= MAX_CHARS:
            return 0
        return text.rfind(" ", 0, MAX_CHARS) + 1 or MAX_CHARS

    def _unmuted(self, text: str) -> str:
        kept = []
        for part in _MUTE.split(text):
            if _MUTE.fullmatch(part):
                self._muted = not self._muted if part == "```" else part == "<think>"
            elif not self._muted:
                kept.append(part)
        return "".join(kept)


def _ends(mark: str, before: str, after: str, enough: float) -> bool:
    """Whether a sentence ends at `mark`. Not if only what is still to come can tell."""
    kind = mark[0]
    if kind == "\n":
        return True
    if kind in "。！？":
        return bool(after) or before.count("“") <= before.count("”")
    if kind in "，、：；…—～":
        number = before[-1:].isdigit() and (not after or after[0].isdigit())
        return not number and _weight(before) >= enough
    if not after or (after[0].isascii() and not after[0].isspace()):
        return False
    if kind in "!?":
        return True
    if mark == ".":
        return _full_stop(before, after.lstrip()[:1])
    return _weight(before) >= enough


def _full_stop(before: str, following: str) -> bool:
    """Whether the full stop between `before` and the character `following` ("" if not yet known) ends a sentence."""
    match = _LAST_WORD.search(before)
    word = match[1] if match else ""
    if word.lower() in _ENDINGS:
        return following != "" and not following.islower()
    if word.lower() in _NUMBERED:
        return following != "" and not following.isdigit()
    return not (word.lower() in _TITLES or _INITIALS.fullmatch(word) or before.strip().isdigit())


def _has_words(text: str) -> bool:
    return any(char.isalnum() for char in text)


def _weight(text: str) -> float:
    """How much there is to say, in hanzi; a word of another script counts one and a half."""
    return len(CJK.findall(text)) + 1.5 * len(_WORD.findall(text))
