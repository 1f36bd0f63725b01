"""A program of the studio as a process of its own: low priority, no secrets, heard line by line, never left behind."""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from loguru import logger
from pydantic import BaseModel, Field, JsonValue, ValidationError

from core.errors import EngineFailed

ROOT = Path(__file__).parent.parent
NICE = 10
LINE_BYTES = 1 << 20
TAIL_BYTES = 4000


class Line(BaseModel):
    """A line of a program's standard output: how far it is, or in the end what came of it."""

    progress: float | None = Field(None, ge=0, le=100)
    stage: str = ""
    avatar_id: str = ""
    voice_id: str = ""
    error: str = ""
    report: dict[str, JsonValue] | None = None


Hear = Callable[[Line], Awaitable[None]]


async def run(command: Sequence[str], hear: Hear, *, silence_s: float, grace_s: float) -> Line:
    """The last word of a program, with `avatar_id`, `voice_id` or `error`; what it says before goes to `hear`.

    However this ends, the process has ended too: asked first, after `grace_s` made to. EngineFailed if it does not
    start, says nothing for `silence_s`, or ends without a last word. Lines that are no `Line` are passed over.
    """
    process = await _start(command)
    assert process.stdout and process.stderr
    complaints = asyncio.create_task(_tail(process.stderr))
    try:
        last = await _listen(process.stdout, hear, silence_s)
        await asyncio.wait_for(process.wait(), grace_s)
    except (TimeoutError, ValueError) as error:
        raise EngineFailed("the program hung and was ended") from error
    finally:
        await _end(process, grace_s)
        await asyncio.wait([complaints], timeout=grace_s)
        complaints.cancel()
    if last.error or ((last.avatar_id or last.voice_id) and process.returncode == 0):
        return last
    told = complaints.result() if complaints.done() and not complaints.cancelled() else ""
    logger.error("{} ended with status {} and without a result: {}", command[0], process.returncode, told)
    raise EngineFailed("the program broke off; the server's log says more")


async def _start(command: Sequence[str]) -> Process:
    secret = {name for name in os.environ if name.startswith("VIVACE_") or name.endswith(("_KEY", "_TOKEN", "_SECRET"))}
    environment = {name: value for name, value in os.environ.items() if name not in secret}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            cwd=ROOT,
            env={**environment, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
            limit=LINE_BYTES,
            start_new_session=True,  # Ctrl-C in the server's terminal is for the server
        )
    except OSError as error:
        raise EngineFailed("the program could not be started") from error
    with suppress(AttributeError, ProcessLookupError):  # not on Windows; ended already
        os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
    return process


async def _listen(output: asyncio.StreamReader, hear: Hear, silence_s: float) -> Line:
    """The line that says what came of it. TimeoutError after `silence_s` without any, ValueError beyond LINE_BYTES."""
    last = Line()
    while text := await asyncio.wait_for(output.readline(), silence_s):
        with suppress(ValidationError):
            line = Line.model_validate_json(text)
            if line.avatar_id or line.voice_id or line.error:
                last = line
            elif line.progress is not None:
                await hear(line)
    return last


async def _tail(output: asyncio.StreamReader) -> str:
    """The end of what is written there, as text."""
    tail = b""
    while piece := await output.read(TAIL_BYTES):
        tail = (tail + piece)[-TAIL_BYTES:]
    return tail.decode("utf-8", "replace")


async def _end(process: Process, grace_s: float) -> None:
    """Ask it to leave, then make it, and take what it still says out of the way."""
    assert process.stdout
    if process.returncode is None:
        process.terminate()
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), grace_s)
    if process.returncode is None:
        process.kill()
    await process.wait()
    with suppress(TimeoutError, ValueError):
        await asyncio.wait_for(_tail(process.stdout), grace_s)
