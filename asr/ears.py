"""What one session hears: the microphone goes in, and what the avatar is to do about it comes out.

microphone → gaps filled → echo cancelled → voice activity → the ladder (while the avatar sounds) and the turn: frames
from the first voiced one to the silence that ends it. The recogniser is asked once a pause, never by a timer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Protocol

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from asr.echo import BLOCK_SAMPLES, EchoCanceller, EchoReport
from asr.ladder import Ladder, Step, Thresholds, only_stop, words_of
from asr.reactions import Duck, Failed, Hold, Interrupt, Level, Partial, Reaction, Restore, Turn
from asr.turnend import Patience, SmartTurn
from asr.vad import FRAME_MS, FRAME_SAMPLES, SileroVAD
from asrreal import BaseASR, Transcript
from core.errors import EngineFailed
from core.media import SAMPLE_RATE, Pcm

JUMP_SAMPLES = 2 * SAMPLE_RATE  # a longer gap, or a step back, is another line
SLACK_SAMPLES = SAMPLE_RATE // 200  # by so much may stamps be off, 5 ms
BREAK_SAMPLES = SAMPLE_RATE * 2 // 5  # of silence stand for whatever a jump has left out
STARVED_S = 1.0  # without a packet a sentence begun is over
BRIDGE_S = 0.48  # a pause so short inside the avatar's speech counts as sounding
LATE_S = 2.0  # a stop word understood later is no longer obeyed

BEFORE_FRAMES = 9  # kept from before the first voiced frame
LEAST_FRAMES = 8  # voiced: less is no word, and recognisers make phrases of it
PAUSE_FRAMES = 7  # 224 ms: ask what was said
HASTE_FRAMES = 4  # the same over the avatar's voice, where it may be a stop word
EARLY_FRAMES = 10  # voiced, over the avatar's voice: ask at once
MOST_FRAMES = 30 * SAMPLE_RATE // FRAME_SAMPLES
WAITING = 4  # questions to the recogniser
LEVEL_BLOCKS = 10

ECHOED = 0.7  # of a text's words were the avatar's own
ECHOED_CHARS = 4
ECHO_MEMORY_S = 3.0


class VoiceActivity(Protocol):
    """What `SileroVAD` is: a probability of speech for each 512 samples."""

    def push(self, pcm: Pcm) -> list[float]: ...

    def reset(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Speech:
    """What is being said, since it began. Counts are frames; `known` is how many voiced ones `text` covers."""

    frames: list[Pcm]
    voiced: int = 0
    silent: int = 0
    asked: int = -1
    known: int = -1
    text: str = ""
    language: str = ""
    wait_ms: int = 0
    asr_ms: int = 0
    endpoint_ms: int | None = None  # None while it goes on
    interrupted: bool = False
    dismissed: bool = False

    def add(self, frame: Pcm, *, voiced: bool) -> None:
        self.frames.append(frame)
        self.voiced += voiced
        self.silent = 0 if voiced else self.silent + 1


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """`pcm` is what had been said when `voiced` of its frames were."""

    speech: _Speech
    voiced: int
    pcm: Pcm
    silent_samples: int
    asked_at: float


class Ears:
    """One session's hearing. Event loop only; `push` and `played` never wait, 3 ms of work a second.

    The session calls, from first to last:

        ears = Ears(asr, react, said=..., smart_turn=..., pool=...)
        group.create_task(ears.run())                 as long as the microphone's track is open
        ears.push(pcm, sample)                        each piece of microphone sound, as it arrives
        ears.played(tick.samples, ending=...)         each tick that leaves, after every gain, silence too
        ears.flushed()                                whenever the avatar is silenced, by whatever cause

    and is told, in order, by `react(reaction)`, which must not block and may call `flushed` in turn. After `Duck` or
    `Hold` comes one `Restore` or `Interrupt`. A `Turn` is to be answered; it does not ask for a flush.
    Memory is bounded: a turn is cut at 30 s.
    """

    def __init__(
        self,
        asr: BaseASR,
        react: Callable[[Reaction], None],
        *,
        said: Callable[[float], str] = lambda seconds: "",
        smart_turn: SmartTurn | None = None,
        pool: Executor | None = None,
        vad: VoiceActivity | None = None,
        echo: EchoCanceller | None = None,
        thresholds: Thresholds | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`said` gives what the avatar said in the last so many seconds. `smart_turn` runs in `pool`.

        EngineFailed if the package of the voice detector is not installed.
        """
        self._asr = asr
        self._react = react
        self._said = said
        self._smart_turn = smart_turn
        self._pool = pool
        self._vad = vad or SileroVAD()
        self._echo = echo or EchoCanceller()
        self._ladder = Ladder(thresholds, self._echo.explained)
        self._patience = patience or Patience()
        self._loop = asyncio.get_running_loop()

        self._next: int | None = None  # the RTP sample that is to come
        self._pushed_at = self._loop.time()
        self._rest: Pcm = np.zeros(0, np.float32)  # less than a block
        self._frame: list[Pcm] = []
        self._powers: list[float] = []
        self._ending = False
        self._lowered = False  # Duck or Hold has been told
        self._before: deque[Pcm] = deque(maxlen=BEFORE_FRAMES)
        self._speech: _Speech | None = None
        self._questions: deque[_Question] = deque(maxlen=WAITING)
        self._wake = asyncio.Event()

    @property
    def echo(self) -> EchoReport:
        """What becomes of the avatar's own voice in this microphone."""
        return self._echo.report()

    def played(self, samples: NDArray[np.int16], *, ending: bool = False) -> None:
        """A tick leaves: int16 (640,). `ending` says that 300 ms or less remain of all the avatar has to say."""
        self._echo.played(samples)
        self._ending = ending or (self._ending and not self._echo.played_within(len(samples) / SAMPLE_RATE))

    def push(self, pcm: Pcm, sample: int) -> None:
        """Microphone sound, float32 (n,) 16 kHz mono; `sample` is its RTP time at 16 kHz, not wrapped around.

        Gaps become silence, what is late or repeated is left out, after a jump of more than 2 s it starts anew. What is
        no number is silence, what is too loud is cut. ValueError if `pcm` is not 1-D.
        """
        pcm = _cleaned(pcm)
        self._pushed_at = self._loop.time()
        gap = 0 if self._next is None else sample - self._next
        if abs(gap) > JUMP_SAMPLES:
            self._restart()
        if self._next is None:
            self._next = sample
        elif gap < -SLACK_SAMPLES:
            pcm = pcm[-gap:]
        elif gap > SLACK_SAMPLES:
            pcm = np.pad(pcm, (gap, 0))
        self._next += len(pcm)
        self._take(pcm)

    def flushed(self) -> None:
        """The avatar has been silenced, by whatever cause."""
        self._ladder.quiet()
        if self._lowered:
            self._lowered = False
            self._react(Restore())

    async def run(self) -> None:
        """Ask the recogniser, one question at a time, until cancelled."""
        while True:
            await self._until_woken()
            while self._questions:
                await self._answer(self._questions.popleft())

    # Sound in.

    def _restart(self) -> None:
        self._take(np.zeros(BREAK_SAMPLES, np.float32))
        self._next = None
        self._echo.restart()
        self._vad.reset()
        self._frame.clear()

    def _take(self, pcm: Pcm) -> None:
        pcm = np.concatenate([self._rest, pcm])
        whole = len(pcm) - len(pcm) % BLOCK_SAMPLES
        self._rest = pcm[whole:]
        for block in pcm[:whole].reshape(-1, BLOCK_SAMPLES):
            self._take_block(block)

    def _take_block(self, block: Pcm) -> None:
        """10 ms: with the echo cancelled if there can be any, as it is otherwise."""
        self._measure(block)
        clean = self._echo.push(block)
        block = clean if self._echo.sounding and not self._echo.absent else block
        self._frame.append(block)
        for probability in self._vad.push(block):
            sound = np.concatenate(self._frame)
            self._frame = [sound[FRAME_SAMPLES:]]
            self._hear(sound[:FRAME_SAMPLES], probability)

    def _measure(self, block: Pcm) -> None:
        self._powers.append(float(np.dot(block, block)) / len(block))
        if len(self._powers) == LEVEL_BLOCKS:
            mean = sum(self._powers) / LEVEL_BLOCKS
            self._powers.clear()
            self._react(Level(round(10 * np.log10(max(mean, 10**-9.9)), 1)))

    def _hear(self, frame: Pcm, probability: float) -> None:
        """32 ms. Without a canceller the avatar's voice passes for speech, so somebody must be louder than it."""
        echoes = self._echo.sounding and not self._echo.absent
        if echoes and not self._echo.cancels and not self._echo.talked_over:
            probability = 0.0
        self._add(frame, voiced=probability > self._ladder.thresholds.speech)
        step = self._ladder.push(
            probability,
            sounding=self._sounding,
            ending=self._ending,
            doubt=self._echo.doubtful,
            asking=self._speech is not None and self._speech.asked > self._speech.known,
        )
        if step:
            self._take_step(step)
        self._consider()

    @property
    def _sounding(self) -> bool:
        return self._echo.played_within(BRIDGE_S)

    # Over the avatar's voice.

    def _take_step(self, step: Step) -> None:
        match step:
            case "duck":
                self._lower(Duck())
            case "hold":
                self._lower(Hold())
            case "interrupt":
                self._interrupt(self._speech.text if self._speech else "")
            case "restore":
                self._raise()
                self._dismiss()
            case "release":
                self._raise()

    def _lower(self, reaction: Duck | Hold) -> None:
        self._lowered = True
        self._react(reaction)

    def _raise(self) -> None:
        if self._lowered:
            self._lowered = False
            self._react(Restore())

    def _interrupt(self, text: str) -> None:
        self._lowered = False
        if self._speech:
            self._speech.interrupted = True
        self._react(Interrupt(text))

    def _dismiss(self) -> None:
        """What was said was nothing; a stop word in it may still turn up."""
        if self._speech:
            self._speech.dismissed = True
            self._forget(self._speech)

    # The turn.

    def _add(self, frame: Pcm, *, voiced: bool) -> None:
        if self._speech is None and voiced:
            self._speech = _Speech([*self._before])
            self._wake.set()
        if self._speech is None:
            self._before.append(frame)
        else:
            self._speech.add(frame, voiced=voiced)

    def _consider(self) -> None:
        """Ask about what is being said if it pauses; end it if it is over; forget it if it was too short."""
        speech = self._speech
        if speech is None:
            return
        pause = HASTE_FRAMES if self._ladder.claims else PAUSE_FRAMES
        paused = speech.silent == pause and speech.voiced >= LEAST_FRAMES
        early = speech.asked < 0 and speech.voiced == EARLY_FRAMES and self._sounding
        if (paused or early) and speech.asked != speech.voiced:
            self._ask(speech)
        if speech.silent >= self._ladder.thresholds.silence_frames and speech.voiced < LEAST_FRAMES:
            self._forget(speech)
        elif self._is_over(speech):
            self._end(speech)

    def _is_over(self, speech: _Speech) -> bool:
        if len(speech.frames) >= MOST_FRAMES:
            return True
        silent_ms = speech.silent * FRAME_MS
        if self._ladder.claims or silent_ms < self._patience.sure_ms:
            return False
        return silent_ms >= (speech.wait_ms if speech.known == speech.voiced else self._patience.ceiling_ms)

    def _end(self, speech: _Speech) -> None:
        speech.endpoint_ms = speech.silent * FRAME_MS
        self._speech = None
        if speech.known == speech.voiced:
            self._tell(speech)
        elif speech.asked != speech.voiced:
            self._ask(speech)

    def _forget(self, speech: _Speech) -> None:
        self._before.extend(speech.frames[-BEFORE_FRAMES:])
        self._speech = None
        if speech.text:
            self._react(Partial(""))

    def _tell(self, speech: _Speech) -> None:
        """The turn is over and understood. One that only stopped the avatar needs no answer."""
        if speech.text and not (speech.interrupted and only_stop(speech.text)):
            self._react(Turn(speech.text, speech.language, speech.endpoint_ms or 0, speech.asr_ms))

    # The recogniser.

    def _ask(self, speech: _Speech) -> None:
        """Ask what has been said so far; a question about less of it that still waits is dropped."""
        speech.asked = speech.voiced
        self._questions = deque((other for other in self._questions if other.speech is not speech), WAITING)
        pcm, silent = np.concatenate(speech.frames), speech.silent * FRAME_SAMPLES
        self._questions.append(_Question(speech, speech.voiced, pcm, silent, self._loop.time()))
        self._wake.set()

    async def _until_woken(self) -> None:
        """Return when there may be a question. What was begun when the sound stopped arriving is over."""
        self._wake.clear()
        if self._questions:
            return
        try:
            async with asyncio.timeout(STARVED_S if self._speech else None):
                await self._wake.wait()
        except TimeoutError:
            if self._loop.time() - self._pushed_at >= STARVED_S:
                self._starve()

    def _starve(self) -> None:
        """Let silence pass until nobody speaks."""
        for _ in range(self._patience.ceiling_ms // FRAME_MS + 1):
            if self._speech:
                self._take(np.zeros(FRAME_SAMPLES, np.float32))
        self._next = None
        self._echo.restart()

    async def _answer(self, question: _Question) -> None:
        speech = question.speech
        complete = self._judge(question)
        try:
            transcript = await self._asr.transcribe(question.pcm)
        except EngineFailed as error:
            logger.warning("what was said could not be recognised: {}", error)
            self._react(Failed(str(error)))
            transcript = Transcript(speech.text, speech.language)
        speech.asr_ms = round((self._loop.time() - question.asked_at) * 1000)
        self._learn(question, transcript, await self._judged(complete))

    async def _judged(self, complete: asyncio.Future[float] | None) -> float | None:
        """What the network says of the voice, if there is one; once it has failed there is none."""
        try:
            return await complete if complete else None
        except EngineFailed as error:
            logger.warning("turns end without the network: {}", error)
            self._smart_turn = None
            return None

    def _judge(self, question: _Question) -> asyncio.Future[float] | None:
        if self._smart_turn is None or not question.silent_samples:
            return None
        judge = self._smart_turn.complete
        return self._loop.run_in_executor(self._pool, judge, question.pcm, question.silent_samples)

    def _learn(self, question: _Question, transcript: Transcript, complete: float | None) -> None:
        """What was asked about is `transcript`: tell it, obey it, and see whether that was all."""
        speech, text = question.speech, transcript.text.strip()
        if self._is_own(text, speech):
            text = ""
        changed, speech.text, speech.language = text != speech.text, text, transcript.language
        speech.known, speech.wait_ms = question.voiced, self._patience.wait_ms(text, complete)
        if changed and not speech.dismissed:
            self._react(Partial(text))
        if self._asks_to_stop(question, text):
            speech.interrupted = True
            self._interrupt(text)
        if speech is self._speech:
            self._consider()
        elif speech.endpoint_ms is not None and speech.known == speech.voiced:
            self._tell(speech)

    def _asks_to_stop(self, question: _Question, text: str) -> bool:
        speech = question.speech
        late = speech.dismissed and self._loop.time() - question.asked_at > LATE_S
        over = self._sounding or self._ladder.rung == "hold"
        if speech.interrupted or late or not over:
            return False
        return self._ladder.hear(text, doubt=self._echo.doubtful) is not None

    def _is_own(self, text: str, speech: _Speech) -> bool:
        """Whether `text` is what the avatar said: an echo that came through. A person who repeats it pays for that."""
        words = words_of(text)
        if sum(map(len, words)) < ECHOED_CHARS:
            return False
        seconds = len(speech.frames) * FRAME_MS / 1000 + self._echo.path_s + ECHO_MEMORY_S
        said = words_of(self._said(seconds))
        same = SequenceMatcher(None, words, said, autojunk=False).get_matching_blocks()
        return sum(block.size for block in same) >= ECHOED * len(words)


def _cleaned(pcm: Pcm) -> Pcm:
    if pcm.ndim != 1:
        raise ValueError("the microphone's sound must be one channel")
    return np.nan_to_num(np.asarray(pcm, np.float32), nan=0.0, posinf=0.0, neginf=0.0).clip(-1, 1)
