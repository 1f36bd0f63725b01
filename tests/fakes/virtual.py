"""Time that passes only while nobody has anything to do, and a session that needs no thread."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, cast

import numpy as np

from asrreal import BaseASR
from basereal import BaseReal, Choice, Shared
from core.avatar import Avatar, Clip
from core.config import Settings
from core.media import Engine, Event, Face, FaceJob, Picture, Tick
from core.worker import InferenceWorker
from llm import BaseLLM
from minds.mind import Mind
from minds.minds import Minds
from outputs.encoder import IdleLoops
from tests.fakes.person import PaintEngine, PaintReal, ScriptLLM, ToneTTS, make_avatar
from ttsreal import BaseTTS


class _Skip(selectors.DefaultSelector):
    """Waits for no timer: moves the loop's clock to it instead."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if not timeout:
            return super().select(timeout)
        events = super().select(0)
        if not events:
            self.loop.now += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose hours pass in milliseconds."""

    def __init__(self) -> None:
        self.now = 1000.0
        selector = _Skip()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """`test`, run on a loop of its own whose time is virtual."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


class Inline(Executor):
    """Does what it is given at once, in the caller's thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)
        return future


@dataclass
class InlineWorker:
    """Answers each job after `late_s` of the loop's time, or never if `dead`."""

    late_s: float = 0.0
    dead: bool = False
    healthy: bool = True
    jobs: list[FaceJob] = field(default_factory=list)

    def submit(
        self, engine: Engine, job: FaceJob, is_fresh: Callable[[int], bool], deliver: Callable[[Face], None]
    ) -> None:
        self.jobs.append(job)
        if not self.dead:
            asyncio.get_running_loop().call_later(self.late_s, self._answer, engine, job, is_fresh, deliver)

    @staticmethod
    def _answer(engine: Engine, job: FaceJob, is_fresh: Callable[[int], bool], deliver: Callable[[Face], None]) -> None:
        if is_fresh(job.epoch):
            deliver(engine.infer([job])[0])


class Watcher:
    """An output that keeps every tick, and how late in the loop's time it came."""

    wants_h264 = False

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.times: list[float] = []
        self.flushed = 0
        self.closed = False

    async def ready(self) -> None:
        return

    def push(self, tick: Tick) -> None:
        self.ticks.append(tick)
        self.times.append(asyncio.get_running_loop().time())

    def push_picture(self, picture: Picture) -> None:
        raise AssertionError

    def flush(self) -> None:
        self.flushed += 1

    async def aclose(self) -> None:
        self.closed = True

    def voiced(self) -> list[int]:
        """Numbers of the ticks that carry sound."""
        return [tick.number for tick in self.ticks if np.abs(tick.samples).max() > 100]

    def lit(self) -> list[int]:
        """Numbers of the ticks whose picture the paint engine has painted."""
        return [tick.number for tick in self.ticks if tick.image.mean() > 250]


@dataclass
class Stage:
    """A running session with an output that watches it."""

    real: BaseReal
    watcher: Watcher
    worker: InlineWorker
    tts: ToneTTS
    llm: ScriptLLM
    task: asyncio.Task[None]
    events: list[Event] = field(default_factory=list)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


AVATAR = make_avatar(size=(64, 64), n=10)


class NotingReal(PaintReal):
    """Keeps its events, through the hook that users override."""

    noted: list[Event]

    def notify(self, event: Event) -> None:
        self.noted.append(event)


@asynccontextmanager
async def staged(
    *,
    tts: BaseTTS | None = None,
    llm: BaseLLM | None = None,
    worker: InlineWorker | None = None,
    avatars: Mapping[str, Avatar] | None = None,
    clips: Mapping[int, Clip] | None = None,
    asr: BaseASR | None = None,
    **settings: Any,
) -> AsyncIterator[Stage]:
    """A session in virtual time, its doubles at hand."""
    worker, script = worker or InlineWorker(), llm or ScriptLLM()
    pool = Inline()
    shared = Shared(
        PaintEngine(),
        cast(InferenceWorker, worker),
        IdleLoops(500_000, pool),
        tts or ToneTTS(),
        Minds(Mind(script)),
        pool,
        Settings(**settings),
        asr,
    )
    real = NotingReal(100_001, Choice(avatars or {"main": AVATAR}, clips or {}), shared)
    real.noted = []
    watcher = Watcher()
    real.attach(watcher)
    task = asyncio.create_task(real.run())
    stage = Stage(real, watcher, worker, cast(ToneTTS, shared.tts), cast(ScriptLLM, script), task, real.noted)
    try:
        yield stage
    finally:
        task.cancel()
        await asyncio.wait([task])
        await real.aclose()
        if not task.cancelled() and (error := task.exception()):
            raise error


def runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """The unbroken runs of `numbers`, as (first, last)."""
    first = last = None
    for number in numbers:
        if first is None or last is None or number != last + 1:
            if first is not None and last is not None:
                yield first, last
            first = number
        last = number
    if first is not None and last is not None:
        yield first, last
