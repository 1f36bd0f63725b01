"""What is said in a recording, as WebVTT: a sentence a cue, and a time for each word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from itertools import accumulate, pairwise

import numpy as np

from core.heard import running_text
from core.media import FPS, Mark

LINE = 42  # columns
WIDE_LINE = 20  # hanzi
LINES = 2
LINGER_TICKS = FPS  # a cue stays so long after its last word, unless the next begins
CUT = "…"
TICK_MS = 1000 // FPS

_WIDE = "\u1100-\u115f\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\U00020000-\U0003ffff"
_OPENS, _CLOSES = "（「『【《〈“‘", "、。，．！？：；）」』】》〉”’…—～"
_BREAK = re.compile(
    rf"(?<=\s)(?=\S)|(?<=[{_WIDE}])(?<![{_OPENS}])(?=[^\s{_CLOSES}])|(?<![\s{_OPENS}])(?=[{_WIDE}])(?![{_CLOSES}])"
    rf"|(?<=\S{{{LINE}}})(?=\S)"
)
_IS_WIDE = re.compile(f"[{_WIDE}]")


@dataclass(slots=True)
class _Sentence:
    """One sentence, shown from tick `begin` to `end`; `words` are (place in the text, tick) where one begins."""

    text: str
    begin: int
    end: int = 0
    words: list[tuple[int, int]] = field(default_factory=list)
    reached: int = 0
    quiet: int = 0  # the tick at which the last word so far ends

    def tick_at(self, place: int) -> int:
        """When the text is read out at `place`; between words as if all letters took as long."""
        known = {0: self.begin, len(self.text): self.end, **dict(self.words)}
        places = sorted(known)
        return round(float(np.interp(place, places, [known[each] for each in places])))


class Captions:
    """Collects what is heard, tick by tick."""

    def __init__(self) -> None:
        self._said: list[_Sentence] = []
        self._saying: _Sentence | None = None
        self._overheard = False
        self._next = 0

    def hear(self, tick: int, marks: Iterable[Mark]) -> None:
        """At `tick` these `marks` become true. Ticks come in order; between them nothing changes."""
        self._next = tick + 1
        for mark in marks:
            if mark.kind in ("sentence", "end"):
                self._finish(tick)
            if mark.kind == "sentence":
                self._saying, self._overheard = _Sentence(" ".join(mark.text.split()), tick), False
            elif mark.kind == "word":
                self._word(tick, mark)
            elif mark.kind == "cut":
                self.cut()

    def cut(self) -> None:
        """What is being said is heard no further than the last word begun, and ends now."""
        if self._saying:
            self._saying.text = self._saying.text[: self._saying.reached] + CUT if self._saying.reached else ""
        self._finish(self._next)

    def webvtt(self, first: int) -> str:
        """All of it as a WebVTT file, in times from tick `first` on. What is being said is cut."""
        self.cut()
        cues = [cue for sentence in self._said for cue in _cues(sentence, first)]
        return "\n\n".join(["WEBVTT", *cues]) + "\n"

    def _word(self, tick: int, mark: Mark) -> None:
        if self._saying is None:  # the sentence began before the recording: its words are all there is to know
            self._saying, self._overheard = _Sentence("", tick), True
        saying = self._saying
        if self._overheard:
            saying.text = running_text([saying.text, mark.text])
        place = saying.text.find(mark.text, saying.reached)
        if place >= 0:
            saying.words.append((place, tick))
            saying.reached = place + len(mark.text)
        saying.quiet = tick + mark.duration_ms // TICK_MS

    def _finish(self, tick: int) -> None:
        saying, self._saying = self._saying, None
        if saying and saying.text.strip():
            saying.end = min(tick, saying.quiet + LINGER_TICKS) if saying.quiet else tick
            self._said.append(saying)


def _cues(sentence: _Sentence, first: int) -> Iterator[str]:
    """The cues of one sentence, of two lines each."""
    lines = _lines(sentence.text)
    starts = lines[::LINES]
    ticks = [sentence.begin, *map(sentence.tick_at, starts[1:]), sentence.end]
    for (start, stop), (begin, end) in zip(pairwise([*starts, len(sentence.text)]), pairwise(ticks), strict=True):
        begin = max(begin, first)
        if begin < end:
            inserts = [(line, "\n") for line in lines if start < line < stop]
            inserts += _tags(sentence.words, range(start, stop), range(begin + 1, end), first)
            yield f"{_time(begin - first)} --> {_time(end - first)}\n{_interleave(sentence.text, start, stop, inserts)}"


def _tags(words: list[tuple[int, int]], places: range, ticks: range, first: int) -> Iterator[tuple[int, str]]:
    """A time tag before each word at `places`; times in a cue grow, and lie inside it."""
    least = ticks.start
    for place, tick in words:
        if place in places and least <= tick < ticks.stop:
            least = tick + 1
            yield place, f"<{_time(tick - first)}>"


def _interleave(text: str, start: int, stop: int, inserts: list[tuple[int, str]]) -> str:
    """`text[start:stop]`, escaped, with what is to be inserted at places of `text`."""
    body, place = "", start
    for at, insert in sorted(inserts, key=lambda pair: pair[0]):
        body += escape(text[place:at], quote=False)
        body = (body.rstrip() if insert == "\n" else body) + insert
        place = at
    return (body + escape(text[place:stop], quote=False)).rstrip()


def _lines(text: str) -> list[int]:
    """Where the lines of `text` start: as few of them as can be, and about as long as each other."""
    columns = [0.0, *accumulate(LINE / WIDE_LINE if _IS_WIDE.match(char) else 1.0 for char in text)]
    breaks = [match.start() for match in _BREAK.finditer(text, 1)]
    pieces = [(start, start + len(text[start:stop].rstrip())) for start, stop in pairwise([*breaks, len(text)])]

    def fill(limit: int) -> list[int]:
        starts = [0]
        for start, stop in pieces:
            if columns[stop] - columns[starts[-1]] > limit + 1e-6:
                starts.append(start)
        return starts

    fewest = fill(LINE)
    return next(lines for limit in range(1, LINE + 1) if len(lines := fill(limit)) == len(fewest))


def _time(tick: int) -> str:
    """`tick` as hours, minutes, seconds and thousandths."""
    ms = tick * TICK_MS
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"
