"""One live session: `BaseReal` speaks, drives the face, and shows both, in three tasks that live and die together."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import Executor, Future
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import ClassVar

import numpy as np
from loguru import logger

from asr.ears import PAUSE_FRAMES, Ears
from asr.reactions import Duck, Failed, Hold, Interrupt, Partial, Reaction, Restore, Turn
from asr.turnend import SmartTurn
from asr.vad import FRAME_MS
from asrreal import BaseASR
from core import metrics
from core.audio import to_int16
from core.avatar import Avatar, Clip
from core.clock import MediaClock
from core.config import Settings
from core.errors import BadRequest, EngineFailed, Overloaded
from core.fader import Fader
from core.heard import Heard
from core.latency import Latency
from core.media import (
    CHUNKS_PER_TICK,
    SILENT_CHUNK,
    AudioChunk,
    Engine,
    Event,
    EventKind,
    Face,
    FaceJob,
    Features,
    Image,
    Mark,
    Output,
    Pcm,
    Picture,
    Tick,
    Utterance,
    UtteranceKind,
    Voice,
    Window,
)
from core.news import News
from core.portrait import MAIN, Portrait
from core.registry import Registry
from core.timeline import Sound, Timeline
from core.worker import InferenceWorker
from minds.mind import MindEvent, Source
from minds.minds import Minds
from minds.tools import Action, Repertoire
from outputs.encoder import IdleLoops, OpusEncoder, PictureEncoder
from outputs.record import Recorder, publish
from speech import voice as speak
from ttsreal import BaseTTS

ENGINES = Registry("engine", {"still": "stillreal:StillReal", "wav2lip": "lipreal:LipReal"})

UTTERANCES = 16
CHUNKS = 100  # 2 s, and the only back-pressure on TTS and LLM
AHEAD = 8  # ticks that may be prepared before they are due
PAUSE_TICKS = 12  # a gap this short between sentences still counts as speaking
DUCKED = 0.25  # -12 dB
ENDING_TICKS = 7
SPOKEN_WORDS = 200  # the last of what was said, by which an echo is known
STALL_TICKS = 25  # a process that was stopped for longer skips that time


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What one session was opened with; nothing in it changes afterwards."""

    avatars: Mapping[str, Avatar]
    clips: Mapping[int, Clip] = field(default_factory=dict)
    voice: Voice = field(default_factory=Voice)
    llm_id: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What all sessions of the process share."""

    engine: Engine
    worker: InferenceWorker
    loops: IdleLoops
    tts: BaseTTS
    minds: Minds
    compose: Executor
    settings: Settings
    asr: BaseASR | None = None  # None: this server does not listen
    smart_turn: SmartTurn | None = None


class BaseReal(ABC):
    """One live session. A family of engines subclasses it with `make_engine`, `make_features` and `paste`.

    Those three belong to the family, not to a session. All else runs on the event loop. `run()` is the session;
    cancelling it ends it.
    """

    lead_ticks: ClassVar[int] = 2  # from a window to the earliest tick that can show it

    @classmethod
    @abstractmethod
    def make_engine(cls, settings: Settings) -> Engine:
        """The family's engine, its weights loaded. Blocking. BadRequest if they are missing or another network's."""

    @classmethod
    @abstractmethod
    def make_features(cls, engine: Engine) -> Features:
        """What turns one session's sound into windows for `engine`."""

    @staticmethod
    @abstractmethod
    def paste(face: Face) -> Image:
        """The whole picture with `face` in it, uint8 (H, W, 3) BGR. Called in the compose pool."""

    def __init__(self, session_id: int, choice: Choice, shared: Shared) -> None:
        self.id = session_id
        self.choice = choice
        self.epoch = 0
        self.clock = MediaClock()
        self.portrait = Portrait(choice.avatars, choice.clips)
        self._mind = shared.minds.mind(choice.llm_id)
        self.history = self._mind.history()
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._last_asked = self._loop.time()
        self._ids = count(1)

        self._utterances: asyncio.Queue[Utterance] = asyncio.Queue(UTTERANCES)
        self._turn: asyncio.Task[None] | None = None
        self._latency: dict[int, Latency] = {}
        self._chunks: asyncio.Queue[AudioChunk] = asyncio.Queue(CHUNKS)

        self._features = self.make_features(shared.engine)
        self._pair: list[AudioChunk] = []
        self._unheard: deque[Sound] = deque()  # sound whose window is still held back as right context
        self._avatar = MAIN
        self._last_tick = -1
        self._next = 0  # the tick to be shown next
        self._timeline = Timeline()

        self._unsaid = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._answered = asyncio.Event()  # the last question's answer has been heard
        self._answered.set()
        self._saying: Utterance | None = None
        self._heard = Heard()
        self._words: deque[tuple[float, str]] = deque(maxlen=SPOKEN_WORDS)  # and when each began to be heard
        self._ears: Ears | None = None
        self._listening = asyncio.Event()
        self._last_sound_tick = -PAUSE_TICKS
        self._news = News()
        self._outputs: list[Output] = []
        self._recorder: Recorder | None = None
        self._fader = Fader()
        self._held = False
        self._delay = 0  # ticks that holds and stops have put off what was planned
        self._opus = OpusEncoder()
        self._pictures = PictureEncoder(self.size, shared.loops, shared.compose, self._push_picture)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of every picture of this session."""
        return self.choice.avatars[MAIN].size

    # What a client may ask.

    def put_msg_txt(
        self,
        text: str,
        kind: UtteranceKind = "echo",
        *,
        voice: Voice | None = None,
        avatar: str = MAIN,
        interrupt: bool = False,
    ) -> None:
        """Say `text` (echo), or answer it (chat), after what is queued or (`interrupt`) at once; "" says nothing.

        Overloaded if 16 utterances wait; BadRequest, and nothing is interrupted, if the session has no such avatar.
        """
        if avatar not in self.choice.avatars:
            raise BadRequest(f"unknown avatarid '{avatar}'; known: {', '.join(self.choice.avatars)}")
        if interrupt:
            self.flush_talk()
        if text.strip():
            self._put(Utterance(next(self._ids), kind, text, None, voice or self.choice.voice, avatar))

    def put_audio_file(self, pcm: Pcm) -> None:
        """Say `pcm`, float32 (n,) 16 kHz mono, after what is already queued. Overloaded if 16 utterances wait."""
        self._put(Utterance(next(self._ids), "audio", pcm=pcm))

    def _put(self, utterance: Utterance) -> None:
        try:
            self._utterances.put_nowait(utterance)
        except asyncio.QueueFull:
            raise Overloaded("too many messages are waiting to be spoken") from None
        self._last_asked = self._loop.time()
        self._latency[utterance.id] = Latency(self._last_asked)
        self._unsaid += 1
        self._quiet.clear()

    def flush_talk(self) -> None:
        """Be silent from the next tick on, and forget everything that was to be said."""
        self.epoch += 1
        if self._turn:
            self._turn.cancel()
        _empty(self._utterances)
        _empty(self._chunks)
        self._latency.clear()
        self._pair.clear()
        self._unheard.clear()
        self._timeline.clear()
        self._fader.reset()
        self._held = False
        self._features.reset()
        self._last_tick = self.clock.position
        self._last_sound_tick = -PAUSE_TICKS
        for output in self._outputs:
            output.flush()
        self._end_saying(interrupted=True)
        self._answered.set()
        self._unsaid = 0
        self._quiet.set()
        if self._ears:
            self._ears.flushed()

    def hear(self, pcm: Pcm, sample: int) -> None:
        """Listen to a client's microphone: float32 (n,) 16 kHz mono, `sample` being the time of the first one."""
        if not self._listening.is_set():
            self._listening.set()
            self._open_ears()
        if self._ears:
            self._ears.push(pcm, sample)

    def _open_ears(self) -> None:
        shared = self._shared
        if shared.asr is None:
            return
        try:
            self._ears = Ears(
                shared.asr, self._react, said=self._said, smart_turn=shared.smart_turn, pool=shared.compose
            )
        except EngineFailed as error:
            self._emit("error", message=str(error))

    def _said(self, seconds: float) -> str:
        """What was heard of the avatar in the last so many seconds."""
        since = self._loop.time() - seconds
        return " ".join(word for begun, word in self._words if begun >= since)

    def _react(self, reaction: Reaction) -> None:
        """Do what the ears ask for."""
        match reaction:
            case Duck() | Hold() | Restore() | Interrupt():
                self._emit("barge-in", step=type(reaction).__name__.lower())
                act = {Duck: self.duck_talk, Hold: self.hold_talk, Restore: self.resume_talk}
                act.get(type(reaction), self.flush_talk)()
            case Partial(text):
                self._emit("user-partial", text=text)
            case Turn():
                self._emit("user-turn", text=reaction.text, language=reaction.language)
                self._answer(reaction)
            case Failed(message):
                self._emit("error", message=message)

    def _answer(self, turn: Turn) -> None:
        try:
            self.put_msg_txt(turn.text, "chat")
        except Overloaded as error:
            self._emit("error", message=str(error))
            return
        latency = self._latency[max(self._latency)]
        latency.endpointing_ms = turn.endpoint_ms
        latency.asr_ms = max(0, PAUSE_FRAMES * FRAME_MS + turn.asr_ms - turn.endpoint_ms)

    def hold_talk(self) -> None:
        """Fall silent within a tick and stay where it is, until `resume_talk` or `flush_talk`."""
        self._held, self._fader.target = True, 0.0

    def duck_talk(self) -> None:
        """Go on, but softly."""
        self._fader.target = DUCKED

    def resume_talk(self) -> None:
        """Go on as before, from where it was held."""
        self._held, self._fader.target = False, 1.0

    @property
    def is_speaking(self) -> bool:
        """Whether speech is audible now, or was less than half a second ago."""
        return self.clock.position - self._last_sound_tick < PAUSE_TICKS

    @property
    def idle_s(self) -> float:
        """Seconds since somebody last asked for something or was being spoken to."""
        return self._loop.time() - self._last_asked if self._quiet.is_set() else 0.0

    async def until_quiet(self) -> None:
        """Return when everything that was asked for has been said."""
        await self._quiet.wait()

    @property
    def recording(self) -> bool:
        return self._recorder is not None

    def set_custom_state(self, audiotype: int, *, reinit: bool = True) -> bool:
        """Show custom state `audiotype` when not speaking; False, and nothing changes, if there is none such."""
        if audiotype not in self.portrait.states:
            return False
        self.portrait.set_state(audiotype, reinit=reinit)
        self._emit("state", audiotype=audiotype)
        return True

    def start_recording(self, folder: Path) -> None:
        """Record to `folder/<id>.mp4`, with captions beside it, both published too. Nothing if already recording."""
        if not self._recorder:
            path = folder / f"{self.id}.mp4"
            self._recorder = Recorder(path, self.size, self._pictures.request_key, publish)
            self.attach(self._recorder)

    async def stop_recording(self) -> None:
        """Finish the file. Nothing if not recording."""
        recorder, self._recorder = self._recorder, None
        if recorder:
            self._outputs.remove(recorder)
            await recorder.aclose()

    def attach(self, output: Output) -> None:
        """Show everything to `output` from the next tick on; it is closed with the session."""
        self._outputs.append(output)
        self._pictures.request_key()

    def request_key(self) -> None:
        """Make the next encoded picture one that decoding can start with."""
        self._pictures.request_key()

    # News.

    def notify(self, event: Event) -> None:
        """Called with each event when it becomes true. Override it to act on them; it must not block."""
        logger.debug("session {}: {} at {} ms", self.id, event.kind, event.time_ms)

    def events(self) -> AsyncGenerator[Event, None]:
        """The events from now on, until the session ends. A slow reader misses the oldest."""
        return self._news.read()

    def _emit(self, kind: EventKind, **data: object) -> None:
        event = Event(kind, self.clock.position * 40, data)
        self.notify(event)
        self._news.tell(event)

    # The four tasks.

    async def run(self) -> None:
        """Live until cancelled, or until one of the four tasks fails; then `aclose()`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._speak(), name=f"speak-{self.id}")
            group.create_task(self._drive(), name=f"drive-{self.id}")
            group.create_task(self._playout(), name=f"playout-{self.id}")
            group.create_task(self._listen(), name=f"listen-{self.id}")

    async def aclose(self) -> None:
        """Free everything, whether or not the session ever ran."""
        self.epoch += 1
        await self.stop_recording()
        closing = [output.aclose() for output in self._outputs]
        self._outputs.clear()
        for error in filter(None, await asyncio.gather(*closing, return_exceptions=True)):
            logger.error("session {}: an output could not be closed: {!r}", self.id, error)
        self._news.end()

    def say_goodbye(self, reason: str) -> None:
        """Tell the listeners that the session ends."""
        self._emit("closed", reason=reason)

    async def _speak(self) -> None:
        """Task 1: utterances become chunks, one turn at a time; a turn is a child task that `flush_talk` can cancel."""
        for output in list(self._outputs):
            await output.ready()
        try:
            while True:
                utterance = await self._utterances.get()
                self._turn = asyncio.create_task(self._say(utterance), name=f"turn-{self.id}")
                await asyncio.wait([self._turn])
                if not self._turn.cancelled():
                    self._turn.result()
        finally:
            if self._turn:
                self._turn.cancel()
                await asyncio.wait([self._turn])

    async def _say(self, utterance: Utterance) -> None:
        chat = utterance.kind == "chat"
        deltas = self._think(utterance) if chat else None
        stall_s = self._shared.settings.tts_timeout_s
        async with aclosing(speak(utterance, self.epoch, self._shared.tts, deltas, stall_s=stall_s)) as chunks:
            async for chunk in chunks:
                if chunk.pcm is not SILENT_CHUNK and utterance.id in self._latency:
                    latency = self._latency[utterance.id]
                    latency.sound_s = latency.sound_s or self._loop.time()
                await self._chunks.put(chunk)

    async def _think(self, question: Utterance) -> AsyncGenerator[str, None]:
        """The answer as it is written; when that began is noted."""
        latency, clips = self._latency.get(question.id), self.choice.clips.values()
        stage = Repertoire(tuple(self.portrait.states), tuple(clip.name for clip in clips if clip.name))
        tell = partial(self._told, question.id)
        await self._answered.wait()  # what is heard of the answer before belongs to the history
        self._answered.clear()
        async with aclosing(self._mind.answer(self.history.ask(question.text), tell, stage)) as deltas:
            async for delta in deltas:
                if latency and latency.text_s is None:
                    latency.text_s = self._loop.time()
                yield delta

    async def _drive(self) -> None:
        """Task 2: chunks become windows, windows become face jobs with a tick to be shown at."""
        while True:
            chunk = await self._chunks.get()
            if chunk.epoch != self.epoch:
                continue
            ends = any(mark.kind == "end" for mark in chunk.marks)
            self._pair.append(chunk)
            if ends and len(self._pair) < CHUNKS_PER_TICK:
                self._pair.append(AudioChunk(SILENT_CHUNK, chunk.epoch))
            if len(self._pair) == CHUNKS_PER_TICK:
                await self._schedule(self._hear(), chunk.epoch)
            if ends:
                await self._schedule(self._features.finish(), chunk.epoch)

    def _hear(self) -> list[Window]:
        """Feed the pair of chunks to the features; their sound waits in `_unheard` for its window."""
        pcm = np.concatenate([chunk.pcm for chunk in self._pair])
        marks = tuple(mark for chunk in self._pair for mark in chunk.marks)
        self._pair.clear()
        for mark in marks:
            if mark.kind == "start":
                self._avatar = mark.utterance.avatar
        self._unheard.append(Sound(to_int16(pcm), marks, self._avatar))
        return self._features.push(pcm)

    async def _schedule(self, windows: list[Window], epoch: int) -> None:
        """Give each window the next free tick and ask for its face, at most `AHEAD` ticks before it is due."""
        for window in windows:
            await self.clock.until(self._last_tick + 1 - AHEAD)
            if epoch != self.epoch:
                return
            self._skip_stall()
            tick = max(self._last_tick + 1, self.clock.position + self.lead_ticks)
            sound = self._unheard.popleft()
            self._last_tick = tick
            self._timeline.put_sound(tick, sound)
            avatar = self.choice.avatars[sound.avatar]
            job = FaceJob(epoch, tick, window, avatar, avatar.index(tick), self.clock.due(tick))
            compose = partial(self._compose, self._delay)
            self._shared.worker.submit(self._shared.engine, job, self._is_fresh, compose)

    def _is_fresh(self, epoch: int) -> bool:
        return epoch == self.epoch

    def _compose(self, delay: int, face: Face) -> None:
        """Paste `face`, asked for at `delay`, back in the compose pool, then put the picture on the timeline."""

        def pasted(future: Future[Image]) -> None:
            self._loop.call_soon_threadsafe(self._place, face.job, delay, future)

        self._shared.compose.submit(self.paste, face).add_done_callback(pasted)

    def _place(self, job: FaceJob, delay: int, future: Future[Image]) -> None:
        if job.epoch != self.epoch or future.cancelled():
            return
        if error := future.exception():
            logger.error("session {}: a face could not be pasted: {!r}", self.id, error)
        else:
            self._timeline.put_picture(job.tick + self._delay - delay, future.result())

    def _told(self, utterance: int, event: MindEvent) -> None:
        """The mind draws on a document, or has the avatar do something."""
        match event:
            case Source(name):
                self._emit("source", utterance=utterance, name=name)
            case Action("set_state", arguments):
                self.set_custom_state(arguments["audiotype"])
            case Action(_, arguments):
                self._play_action(arguments["name"])

    def _play_action(self, name: str) -> None:
        clip = next(clip for clip in self.choice.clips.values() if clip.name == name)
        self.portrait.play_once(clip.audiotype)
        self._emit("action", name=name, audiotype=clip.audiotype)

    async def _listen(self) -> None:
        """Task 4: what the user says is understood, from the first sound of a microphone on."""
        await self._listening.wait()
        if self._ears:
            await self._ears.run()

    async def _playout(self) -> None:
        """Task 3, the only one that sleeps: each tick, when it is due, goes to every output."""
        self._next = self.clock.position
        while True:
            await self.clock.until(self._next)
            self._skip_stall()
            if self.clock.position > self._next + 1:
                metrics.TICKS_LATE.inc()
            self._show(self._next)
            metrics.TICKS.inc()
            self._next += 1

    def _skip_stall(self) -> None:
        """After a stop of the whole process go on as if it had not been: what waits is shown that much later."""
        ticks = self.clock.position - self._next
        if ticks > STALL_TICKS:
            logger.warning("session {}: {} ticks skipped", self.id, ticks)
            self._put_off(ticks)
            self._next += ticks

    def _put_off(self, ticks: int) -> None:
        """Show everything that waits so much later."""
        self._timeline.shift(ticks)
        self._last_tick += ticks
        self._delay += ticks

    def _show(self, number: int) -> None:
        if self._held and self._fader.silent:
            self._put_off(1)
        sound, face = self._timeline.take(number)
        state = self.portrait.audiotype
        samples = self._fader.apply(sound.samples if sound else self.portrait.clip_sound())
        if self._ears:
            self._ears.played(samples, ending=self._is_ending())
        image, idle = self.portrait.picture(number, sound.avatar if sound else None, face)
        marks = sound.marks if sound else ()
        tick = Tick(number, image, samples, self._opus.encode(samples), idle, marks)
        for output in self._outputs:
            output.push(tick)
        if any(output.wants_h264 for output in self._outputs):
            self._pictures.push(tick)
        if sound:
            self._last_sound_tick = number
            epoch = self.epoch
            for mark in marks:
                if epoch == self.epoch:  # a listener may have interrupted
                    self._pass(mark)
        if self.portrait.audiotype != state:
            self._emit("state", audiotype=self.portrait.audiotype)

    def _is_ending(self) -> bool:
        """Whether 300 ms or less remain of all there is to say."""
        done = self._turn is None or self._turn.done()
        return done and len(self._timeline) <= ENDING_TICKS and self._chunks.empty() and self._utterances.empty()

    def _push_picture(self, picture: Picture) -> None:
        for output in self._outputs:
            if output.wants_h264:
                output.push_picture(picture)

    def _pass(self, mark: Mark) -> None:
        """`mark` is being heard."""
        about = mark.utterance
        match mark.kind:
            case "start":
                self._saying, self._heard = about, Heard()
                self._tell_latency(about)
                self._emit("speak-start", utterance=about.id, status="start", text=_own_text(about))
            case "sentence":
                self._heard.sentence(mark.text)
                self._emit("sentence", utterance=about.id, text=mark.text)
            case "word":
                self._heard.word(mark.text)
                self._words.append((self._loop.time(), mark.text))
                self._emit("word", utterance=about.id, text=mark.text, duration_ms=mark.duration_ms)
            case "cut":
                self._heard.lose()
            case "error":
                metrics.SPEECH_ERRORS.inc()
                self._emit("error", utterance=about.id, message=mark.text)
            case "end":
                self._unsaid -= 1
                self._end_saying(interrupted=False)
                if not self._unsaid:
                    self._last_asked = self._loop.time()
                    self._quiet.set()

    def _tell_latency(self, about: Utterance) -> None:
        latency = self._latency.pop(about.id, None)
        if latency:
            now = self._loop.time()
            metrics.FIRST_SOUND_SECONDS.observe(now - latency.asked_s)
            if about.kind == "chat":
                self._emit("latency", utterance=about.id, **latency.shares(now))

    def _end_saying(self, *, interrupted: bool) -> None:
        """The present utterance is over: remember what was heard of it, and say so."""
        about, self._saying = self._saying, None
        if not about:
            return
        heard = self._heard.cut() if interrupted else self._heard.whole()
        if about.kind == "chat":
            self.history.heard(heard, interrupted=interrupted)
            self._answered.set()
        if interrupted:
            metrics.INTERRUPTIONS.inc()
            self._emit("interrupted", utterance=about.id, heard=heard)
        self._emit("speak-end", utterance=about.id, status="end", text=_own_text(about) or heard)


def _own_text(utterance: Utterance) -> str:
    """What an echo says; a question is not what is spoken."""
    return utterance.text if utterance.kind == "echo" else ""


def _empty(queue: asyncio.Queue[Utterance] | asyncio.Queue[AudioChunk]) -> None:
    while not queue.empty():
        queue.get_nowait()
