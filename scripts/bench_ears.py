"""Measures barge-in and echo without a microphone: a drawn room, spoken test data, and the ears as they are.

    python -m scripts.bench_ears                          ten minutes of the presenter, fifty interruptions
    python -m scripts.bench_ears --minutes 1 --times 10   a short look
    python -m scripts.bench_ears --echo_db -10            a louder loudspeaker

The room is a direct path and a noise tail (RT60 0.3 s) behind 150 ms of network, with a loudspeaker that distorts. Time
is media time; in it the recogniser takes `--asr_ms` (0: what it really takes here). Needs `../shared/data/speech`;
Whisper where `models/whisper-base` is, else a recogniser that knows the texts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.ears import Ears
from asr.reactions import Duck, Hold, Interrupt, Level, Reaction, Restore, Turn
from asr.turnend import find_smart_turn
from asrreal import ASRSettings, BaseASR, Transcript
from core.audio import decode_audio, to_int16
from core.media import SAMPLE_RATE, SILENT_TICK, TICK_S, TICK_SAMPLES, Pcm, Voice
from tts.hibari import HibariTTS

SPEECH = Path(__file__).parent.parent.parent / "shared" / "data" / "speech"
MODELS = Path(__file__).parent.parent / "models"
FLOOR_DB = -68.0
STOPS = ("Stop.", "Wait.", "Hold on.", "Wait a moment.", "Please stop.")


class Room:
    """A loudspeaker and a microphone: `hear` gives what the one makes of the other, and of the person before it."""

    def __init__(
        self, seed: int = 0, *, echo_db: float = -20.0, path_s: float = 0.15, floor_db: float = FLOOR_DB
    ) -> None:
        self._random = np.random.default_rng(seed)
        self._impulse = _impulse(self._random, 10 ** (echo_db / 20))
        self._floor = 10 ** (floor_db / 20)
        self._coming: Pcm = np.zeros(int(path_s * SAMPLE_RATE) + len(self._impulse) + TICK_SAMPLES, np.float32)
        self._delay = int(path_s * SAMPLE_RATE)

    def hear(self, played: NDArray[np.int16], near: Pcm) -> Pcm:
        """One tick of the microphone, float32 (640,), while `played`, int16 (640,), leaves."""
        loud = played.astype(np.float32) / 32768
        echo = np.convolve(loud + 0.1 * loud**3, self._impulse)
        self._coming[self._delay : self._delay + len(echo)] += echo
        heard, self._coming = self._coming[:TICK_SAMPLES], np.pad(self._coming[TICK_SAMPLES:], (0, TICK_SAMPLES))
        noise = self._floor * self._random.standard_normal(TICK_SAMPLES)
        return np.asarray(heard + near + noise, np.float32)


def _impulse(random: np.random.Generator, gain: float) -> Pcm:
    length = SAMPLE_RATE * 3 // 10
    tail = random.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail *= np.sqrt(0.5 / np.sum(tail**2))  # 3 dB below the direct path
    tail[0] += 1
    return np.asarray(gain * tail / np.linalg.norm(tail), np.float32)


class Presenter:
    """What a session does with reactions: says `pcm` over and over, lower, paused or not at all."""

    def __init__(self, pcm: Pcm) -> None:
        self._samples = to_int16(np.pad(pcm, (0, -len(pcm) % TICK_SAMPLES))).reshape(-1, TICK_SAMPLES)
        self.position = 0
        self.gain = 1.0
        self.held = False
        self.speaking = True

    def tick(self) -> NDArray[np.int16]:
        if self.held or not self.speaking:
            return SILENT_TICK
        self.position += 1
        samples = self._samples[(self.position - 1) % len(self._samples)]
        return np.asarray(samples * self.gain, np.int16)

    def obey(self, reaction: Reaction) -> None:
        match reaction:
            case Duck():
                self.gain = 10 ** (reaction.gain_db / 20)
            case Hold():
                self.held = True
            case Restore() | Interrupt():
                self.gain, self.held = 1.0, False
                self.speaking = self.speaking and isinstance(reaction, Restore)


@dataclass
class Scene:
    """One session's ears in a room with a presenter, in media time. `log` has every reaction but levels."""

    room: Room
    presenter: Presenter
    now_s: float = 0.0
    idle: asyncio.Event = field(default_factory=asyncio.Event)  # nobody's real time passes
    log: list[tuple[float, Reaction]] = field(default_factory=list)
    ears: Ears = field(init=False)
    ticks: int = 0
    _alarms: list[tuple[float, asyncio.Future[None]]] = field(default_factory=list)

    def react(self, reaction: Reaction) -> None:
        if isinstance(reaction, Level):
            return
        self.log.append((self.now_s, reaction))
        self.presenter.obey(reaction)

    def times(self, *kinds: type[Any], since_s: float = 0.0) -> list[float]:
        """When reactions of these kinds came, in seconds."""
        return [at for at, reaction in self.log if isinstance(reaction, kinds) and at >= since_s]

    async def live(self, near: Pcm) -> None:
        """Let the person say `near`, float32 (n,); zeros are silence."""
        for piece in np.pad(near, (0, -len(near) % TICK_SAMPLES)).reshape(-1, TICK_SAMPLES):
            await self._tick(np.asarray(piece, np.float32))

    async def pause(self, seconds: float) -> None:
        await self.live(np.zeros(int(seconds * SAMPLE_RATE), np.float32))

    async def until(self, at_s: float) -> None:
        """Return when it is so late here."""
        alarm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._alarms.append((at_s, alarm))
        await alarm

    async def _tick(self, near: Pcm) -> None:
        samples = self.presenter.tick()
        self.ears.played(samples)
        heard = self.room.hear(samples, near)
        start = self.ticks * TICK_SAMPLES
        for part in (0, TICK_SAMPLES // 2):
            self.now_s = self.ticks * TICK_S + (part + TICK_SAMPLES // 2) / SAMPLE_RATE
            self.ears.push(heard[part : part + TICK_SAMPLES // 2], start + part)
            await self._settle()
        self.ticks += 1

    async def _settle(self) -> None:
        await asyncio.sleep(0)
        for at_s, alarm in self._alarms:
            if at_s <= self.now_s and not alarm.done():
                alarm.set_result(None)
        self._alarms = [(at_s, alarm) for at_s, alarm in self._alarms if not alarm.done()]
        for _ in range(4):
            await asyncio.sleep(0)
        await self.idle.wait()


class TimedASR(BaseASR):
    """`inner`, or else the text that `knows` gives; `cost_s` passes in the scene, or if that is 0 its real time."""

    def __init__(self, scene: Scene, inner: BaseASR | None, knows: Callable[[], str], cost_s: float) -> None:
        super().__init__()
        self._scene, self._inner, self._knows, self._cost_s = scene, inner, knows, cost_s

    async def transcribe(self, pcm: Pcm) -> Transcript:
        asked_s, real_s = self._scene.now_s, 0.0
        transcript = Transcript(self._knows(), "en")
        if self._inner:
            self._scene.idle.clear()
            started = time.perf_counter()
            transcript = await self._inner.transcribe(pcm)
            real_s = time.perf_counter() - started
            self._scene.idle.set()
        await self._scene.until(asked_s + (self._cost_s or real_s))
        return transcript


class Inline(Executor):
    """Does at once what it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class Recogniser:
    """What listens in a scene: as `TimedASR`."""

    inner: BaseASR | None = None
    knows: Callable[[], str] = str
    cost_s: float = 0.2


def make_scene(pcm: Pcm, room: Room, asr: Recogniser | None = None, **ears: Any) -> Scene:
    """A scene whose presenter says `pcm`; `ears` are further arguments of `Ears`."""
    asr = asr or Recogniser()
    scene = Scene(room, Presenter(pcm))
    scene.idle.set()
    scene.ears = Ears(TimedASR(scene, asr.inner, asr.knows, asr.cost_s), scene.react, pool=Inline(), **ears)
    return scene


def utterances(split: str) -> Iterator[tuple[str, Pcm]]:
    """Texts and sounds, float32 (n,) in 16 kHz, of the test data, without end."""
    lines = (SPEECH / "index.jsonl").read_text(encoding="utf-8").splitlines()
    wanted = set(json.loads((SPEECH / "split.json").read_text(encoding="utf-8"))[split])
    index = [entry for line in lines if (entry := json.loads(line))["id"] in wanted]
    for entry in cycle(index):
        yield entry["text"], decode_audio(SPEECH / entry["file"])


def speech(split: str, seconds: float) -> Pcm:
    """At least so much of it, one utterance 0.3 s after the other, as a session says sentences."""
    pieces: list[Pcm] = []
    for _, pcm in utterances(split):
        begin_s, end_s = span(pcm)
        pieces.append(pcm[int((begin_s - 0.05) * SAMPLE_RATE) : int((end_s + 0.25) * SAMPLE_RATE)])
        if sum(map(len, pieces)) > seconds * SAMPLE_RATE:
            break
    return np.concatenate(pieces)


def span(pcm: Pcm) -> tuple[float, float]:
    """When in `pcm` its sound begins and ends, in seconds."""
    loud = np.flatnonzero(np.abs(pcm) > 0.05 * np.abs(pcm).max())
    return float(loud[0]) / SAMPLE_RATE, float(loud[-1]) / SAMPLE_RATE


async def measure_alone(minutes: float, echo_db: float, asr: Recogniser) -> dict[str, int]:
    """What the presenter's own voice brings about while nobody else speaks; another room each minute."""
    counts = dict.fromkeys(("Duck", "Hold", "Interrupt", "Turn"), 0)
    said = speech("train", min(minutes, 1.0) * 60)
    for minute in range(max(1, round(minutes))):
        room = Room(minute, echo_db=echo_db, path_s=0.08 + 0.04 * (minute % 8))
        scene = make_scene(np.roll(said, -minute * 7 * SAMPLE_RATE), room, asr)
        listening = asyncio.create_task(scene.ears.run())
        await scene.pause(60)
        listening.cancel()
        for _, reaction in scene.log:
            counts[type(reaction).__name__] = counts.get(type(reaction).__name__, 0) + 1
    return counts


@dataclass
class Interruptions:
    """Times in ms from the beginning of the speech, or, for stop words, from their end (negative: before it)."""

    missed: int = 0
    duck: list[float] = field(default_factory=list)
    silent: list[float] = field(default_factory=list)
    interrupt: list[float] = field(default_factory=list)
    endpoint: list[float] = field(default_factory=list)

    def note(self, scene: Scene, since_s: float, from_s: float) -> None:
        cut = scene.times(Interrupt, since_s=since_s)
        self.missed += not cut
        for times, kinds in (
            (self.duck, (Duck, Hold, Interrupt)),
            (self.silent, (Hold, Interrupt)),
            (self.interrupt, (Interrupt,)),
        ):
            times += [1000 * (at - from_s) for at in scene.times(*kinds, since_s=since_s)[:1]]
        self.endpoint += [turn.endpoint_ms for at, turn in scene.log if isinstance(turn, Turn) and at >= since_s]


async def measure_interruptions(
    clips: Sequence[tuple[str, Pcm]], echo_db: float, asr: Recogniser, *, from_end: bool
) -> Interruptions:
    """What each clip does to a presenter who has been talking for a while."""
    found, said_now = Interruptions(), [""]
    smart_turn = find_smart_turn(MODELS)
    said = speech("train", 60)
    asr = replace(asr, knows=lambda: said_now[0])
    scene = make_scene(said, Room(1, echo_db=echo_db), asr, smart_turn=smart_turn)
    listening = asyncio.create_task(scene.ears.run())
    random = np.random.default_rng(2)
    await scene.pause(6)
    for said_now[0], pcm in clips:
        scene.presenter.speaking = True
        await scene.pause(2 + 2 * random.random())
        begin_s, end_s = span(pcm)
        since_s = scene.now_s
        await scene.live(pcm)
        await scene.pause(3.5)
        found.note(scene, since_s, since_s + (end_s if from_end else begin_s))
        scene.ears.flushed()
    listening.cancel()
    return found


async def stop_words(times: int) -> list[tuple[str, Pcm]]:
    """Spoken requests to be silent, each after 0.3 s of silence, as loud as the rest."""
    voice, clips = HibariTTS(), []
    for text in STOPS:
        pcm = np.concatenate([piece.pcm async for piece in voice.stream(text, Voice())])
        begin_s, end_s = span(pcm)
        spoken = pcm[int(begin_s * SAMPLE_RATE) : int(end_s * SAMPLE_RATE)]
        quiet = np.zeros(SAMPLE_RATE * 3 // 10, np.float32)
        clips.append((text, np.concatenate([quiet, spoken * (0.3 / np.abs(spoken).max())])))
    await voice.aclose()
    return [clip for clip, _ in zip(cycle(clips), range(times), strict=False)]


def percentiles(times: Sequence[float]) -> str:
    if not times:
        return "never"
    return f"p50 {np.percentile(times, 50):.0f}, p95 {np.percentile(times, 95):.0f} ms ({len(times)})"


async def recogniser() -> BaseASR | None:
    """Whisper, if its weights are there."""
    if not (MODELS / "whisper-base").is_dir():
        return None
    from asr.whisper import WhisperASR

    asr = WhisperASR(ASRSettings(models=MODELS))
    await asr.start()
    return asr


async def main() -> None:
    parser = argparse.ArgumentParser(description="barge-in and echo, measured")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--echo_db", type=float, default=-20)
    parser.add_argument("--asr_ms", type=int, default=200)
    wishes = parser.parse_args()
    if not SPEECH.is_dir():
        raise SystemExit("there is no ../shared/data/speech to measure with")
    inner = await recogniser()
    asr = Recogniser(inner, cost_s=wishes.asr_ms / 1000)
    print(f"{'whisper-base' if inner else 'knows the texts'}, {wishes.asr_ms} ms; echo {wishes.echo_db:g} dB")
    alone = await measure_alone(wishes.minutes, wishes.echo_db, asr)
    print(f"{wishes.minutes:g} min alone: " + ", ".join(f"{name} {count}" for name, count in alone.items()))
    clips = [clip for clip, _ in zip(utterances("test"), range(wishes.times), strict=False)]
    for name, spoken, from_end in (
        ("interruptions, from the beginning of the speech", clips, False),
        ("stop words, from their end", await stop_words(wishes.times), True),
    ):
        found = await measure_interruptions(spoken, wishes.echo_db, asr, from_end=from_end)
        print(f"{name}: missed {found.missed} of {len(spoken)}")
        for row in ("duck", "silent", "interrupt", "endpoint"):
            print(f"  {row:9} {percentiles(getattr(found, row))}")
    if inner:
        await inner.aclose()


if __name__ == "__main__":
    asyncio.run(main())
