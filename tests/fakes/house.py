"""What sessions share, made of doubles, and makers of sessions as `Sessions.open` wants them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from basereal import BaseReal, Choice, Shared
from core.avatar import Avatar
from core.config import Settings
from core.worker import InferenceWorker
from minds.mind import Mind
from minds.minds import Minds
from outputs.encoder import IdleLoops
from tests.fakes.person import PaintEngine, PaintReal, ScriptLLM, ToneTTS
from tests.fakes.virtual import AVATAR, Inline, InlineWorker, Watcher


def doubles(**settings: Any) -> Shared:
    """A shared house without threads."""
    pool, worker = Inline(), cast(InferenceWorker, InlineWorker())
    loops = IdleLoops(500_000, pool)
    return Shared(PaintEngine(), worker, loops, ToneTTS(), Minds(Mind(ScriptLLM())), pool, Settings(**settings))


def maker(
    shared: Shared, watcher: Watcher | None = None, *, avatar: Avatar = AVATAR, real: type[PaintReal] = PaintReal
) -> Callable[[int], Awaitable[BaseReal]]:
    """A `make` for `Sessions.open`: a session of `avatar`, watched by `watcher`."""

    async def make(session_id: int) -> BaseReal:
        made = real(session_id, Choice({"main": avatar}), shared)
        made.attach(watcher or Watcher())
        return made

    return make
