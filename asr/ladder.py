"""When a person speaks while the avatar does: the rungs from a lowered voice to an interruption, and back.

Pure: it is told what is heard, frame by frame, and gives back what to do. A short sound costs a moment of lower volume,
a longer one a pause, and only what lasts, or says so, ends what the avatar was saying.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Rung = Literal["none", "duck", "hold"]
Step = Literal["duck", "hold", "interrupt", "restore", "release"]

STOP_WORDS = (
    "停, 停下, 停一下, 停停, 等一下, 等等, 等下, 别说了, 別說了, 不要说了, 不要說了, 别讲了, "
    "不对, 不對, 闭嘴, 閉嘴, 打住, 安静, "
    "stop, wait, hold on, no, shut up, pause, enough, be quiet"
)
BACK_CHANNELS = (
    "嗯, 嗯哼, 哦, 噢, 喔, 啊, 呃, 唉, 对, 對, 好, 好的, 好吧, 是, 是的, 是啊, 行, 哈, 呵, 这样, "
    "这样啊, 這樣啊, 原来如此, 没错, "
    "uh, huh, mm, hmm, mhm, right, yeah, yes, yep, ok, okay, i see, oh, ah, ha, haha, sure, really, wow, no problem, "
    "no worries, got it, all right, alright"
)
COURTESIES = "please, now, just, a, moment, minute, second, okay, ok, 请, 你, 了, 吧, 先, 一, 下"
SHORT_HANZI, SHORT_WORDS = 8, 4  # a longer text has lasted long enough to interrupt by itself

_TOKEN = re.compile(r"[a-z']+|[\u3400-\u9fff]")
_STOPS, _BACKS, _COURTESIES = (
    frozenset(tuple(_TOKEN.findall(entry)) for entry in entries.split(","))
    for entries in (STOP_WORDS, BACK_CHANNELS, COURTESIES)
)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The heights of the rungs, in frames of 32 ms; `gaps` of them may be silent in between."""

    speech: float = 0.5
    hint: float = 0.3  # of speech: enough to duck, since a false one costs nothing
    duck_frames: int = 2  # and the canceller takes the first 50 ms of what is said over the avatar
    hold_frames: int = 10
    hold_gaps: int = 2
    interrupt_frames: int = 20
    interrupt_gaps: int = 4
    silence_frames: int = 10
    asking_frames: int = 40  # of silence, while it is still being found out what was said
    cold_frames: int = 62  # of the avatar's first speech, until the echo canceller has learned the room
    explained: float = 0.65  # of the microphone's power, by what the avatar says: more is no interruption


class Ladder:
    """The barge-in of one session, in media time. `rung` is what holds now.

    Speech that began under the avatar's ends with `interrupt`, or with `restore`: then it was none, and is forgotten.
    `release` gives the avatar's voice back and leaves the speech a turn: the avatar had ended, or began in the midst of
    it. `explained` gives the share of the microphone's power that the avatar's own sound explains.
    """

    def __init__(self, thresholds: Thresholds | None = None, explained: Callable[[], float] = lambda: 0.0) -> None:
        self.thresholds = thresholds or Thresholds()
        self._explained = explained
        self.reset()

    def reset(self) -> None:
        """Start anew: another line, another room."""
        limits = self.thresholds
        self.rung: Rung = "none"
        self._recent: deque[bool] = deque(maxlen=limits.interrupt_frames + limits.interrupt_gaps)
        self._hints: deque[bool] = deque(maxlen=limits.duck_frames)
        self._silent = 0
        self._speaking = False
        self._sounded = 0
        self._claimed = self._exempt = False

    @property
    def claims(self) -> bool:
        """Whether what is being said is the ladder's to judge, and no turn yet."""
        return self._claimed

    def push(
        self, probability: float, *, sounding: bool, ending: bool = False, doubt: bool = False, asking: bool = False
    ) -> Step | None:
        """What to do after one more frame of 32 ms whose probability of speech is given.

        `sounding`: the avatar speaks now; `ending`: it has 300 ms left or less, so that speech is the next turn;
        `doubt`: the echo may not be cancelled at present, so that length alone does not interrupt; `asking`: the
        recogniser has yet to say what was said, so that silence decides later.
        """
        speech = probability > self.thresholds.speech
        if speech and not self._speaking:
            self._speaking, self._claimed, self._exempt = True, sounding and not ending, ending
        self._recent.append(speech)
        self._hints.append(probability > self.thresholds.hint)
        self._silent = 0 if speech else self._silent + 1
        self._sounded += sounding
        if sounding and not ending and self._may_begin():
            self.rung, self._silent = "duck", 0
            return "duck"
        if self._silent >= (self.thresholds.asking_frames if asking else self.thresholds.silence_frames):
            self._speaking = False
            return self._fall()
        if not sounding and self.rung == "duck":
            return self._fall(released=True)
        if self._exempt or not speech or not (sounding or self.rung == "hold"):
            return None
        return self._climb(doubt)

    def hear(self, text: str, *, doubt: bool = False) -> Step | None:
        """What to do now that what is being said, or was until a moment ago, is known to be `text`."""
        if self._exempt:
            return None
        meant = doubt and self._lasts() and not is_back_channel(text)
        return self._interrupt() if meant or says_stop(text) else None

    def quiet(self) -> None:
        """The avatar was interrupted, by whatever: what is being said is a turn, and nothing is held back."""
        self.rung = "none"
        self._claimed, self._exempt = False, self._speaking

    def _climb(self, doubt: bool) -> Step | None:
        limits, recent = self.thresholds, list(self._recent)
        if self._lasts() and not doubt and self._explained() <= limits.explained:
            return self._interrupt()
        if self.rung != "hold" and sum(recent[-limits.hold_frames - limits.hold_gaps :]) >= limits.hold_frames:
            self.rung = "hold"
            return "hold"
        return None

    def _may_begin(self) -> bool:
        """Whether somebody may have begun to speak."""
        if self.rung != "none" or self._exempt or self._lasts():
            return False
        return self._sounded > self.thresholds.cold_frames and sum(self._hints) == self.thresholds.duck_frames

    def _interrupt(self) -> Step:
        self.quiet()
        return "interrupt"

    def _lasts(self) -> bool:
        return sum(self._recent) >= self.thresholds.interrupt_frames

    def _fall(self, *, released: bool = False) -> Step | None:
        step: Step | None = "restore" if self._claimed and not released else "release" if self.rung != "none" else None
        self.rung = "none"
        self._claimed = False
        return step


def says_stop(text: str) -> bool:
    """Whether a short `text` holds a word that asks the avatar to be silent."""
    tokens = words_of(text)
    hanzi = sum(not token.isascii() for token in tokens)
    if hanzi > SHORT_HANZI or len(tokens) - hanzi > SHORT_WORDS or tokens in _BACKS:
        return False
    return any(
        tokens[i:j] in _STOPS and (tokens[i:j] != ("停",) or j == len(tokens))  # 停 begins other words
        for i in range(len(tokens))
        for j in range(i + 1, min(i + 5, len(tokens) + 1))
    )


def only_stop(text: str) -> bool:
    """Whether `text` says nothing but that, so that there is nothing to answer."""
    return says_stop(text) and not _left(words_of(text), _STOPS | _COURTESIES)


def is_back_channel(text: str) -> bool:
    """Whether `text` only says that somebody listens, or nothing."""
    return not _left(words_of(text), _BACKS)


def words_of(text: str) -> tuple[str, ...]:
    """The words of `text`, and each hanzi by itself, in lower case."""
    return tuple(_TOKEN.findall(text.lower().replace("’", "'")))


def _left(tokens: tuple[str, ...], known: frozenset[tuple[str, ...]]) -> tuple[str, ...]:
    """What remains of `tokens` when known entries are taken from its front, the longest first."""
    while tokens:
        length = next((n for n in range(min(4, len(tokens)), 0, -1) if tokens[:n] in known), 0)
        if not length:
            break
        tokens = tokens[length:]
    return tokens
