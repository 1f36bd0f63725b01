"""Avatar tasks: films come in, wait in a queue, and become avatars one at a time, each in a process of its own."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import sys
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

from loguru import logger

from core.avatar import confined, safe_id
from core.config import Settings
from core.errors import BadRequest, EngineFailed, Overloaded
from core.messages import AvatarTask
from studio.notices import Notices
from studio.program import Line, run
from studio.records import Records, Task, now_s

PROGRAM = (sys.executable, "-m", "studio.make_avatar")
SILENCE_S = 600.0
GRACE_S = 5.0
RETRY_S = 10.0
MAX_ERROR = 1000
INTERRUPTED = "the server stopped while the avatar was being made; please start the task again"


class Upload:
    """A film that is being received, at `path`; it stays there only if a task has taken it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.taken = False

    @property
    def received(self) -> bool:
        """Whether anything has come."""
        return self.path.is_file() and self.path.stat().st_size > 0

    def append(self, piece: bytes) -> None:
        """Blocking."""
        with self.path.open("ab") as file:
            file.write(piece)


class Tasks:
    """The queue of avatar tasks. `start()` before, `aclose()` after.

    `models` are the engines that avatars can be made for; `command` makes one, as `studio.make_avatar` does; in `io`
    files are read and written.
    """

    def __init__(
        self,
        settings: Settings,
        models: Collection[str],
        io: Executor,
        command: Sequence[str] = PROGRAM,
        *,
        silence_s: float = SILENCE_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._data = settings.data_dir.resolve()
        self._uploads, self._database = self._data / "uploads", self._data / "tasks.db"
        self.avatars, self.io = self._data / "avatars", io
        self.max_film_bytes = settings.avatar_film_mb << 20
        self._weights = settings.models_dir.resolve()
        self._models, self._command = models, command
        self._max_pending = settings.avatar_queue
        self._run = partial(run, silence_s=silence_s, grace_s=grace_s)
        self._notices = Notices(settings.notify_hosts)
        self._opened: Records | None = None
        self._worker: asyncio.Task[None] | None = None
        self._added = asyncio.Event()
        self._receiving = 0

    async def start(self) -> None:
        """Go on where the last server stopped. Without a database that can be used, tasks are off and say so."""
        try:
            self._opened = await Records.open(self._database)
        except (OSError, sqlite3.Error) as error:
            logger.warning("avatar tasks are off: {} cannot be used ({})", self._database, error)
            return
        await self._opened.fail_running(INTERRUPTED)
        _tidy(self._uploads, {task.film for task in await self._opened.newest_first() if task.status == "pending"})
        self._worker = asyncio.create_task(self._work())

    async def aclose(self) -> None:
        """End the running task, and its process; what waits is done by the next server."""
        if self._worker and self._opened:
            self._worker.cancel()
            await asyncio.wait([self._worker])
            await self._opened.fail_running(INTERRUPTED)
            await self._opened.aclose()

    @property
    def _records(self) -> Records:
        if self._opened is None:
            raise EngineFailed("avatar tasks are off: the data folder cannot be written, or another server uses it")
        return self._opened

    @asynccontextmanager
    async def upload(self) -> AsyncIterator[Upload]:
        """A place to receive a film at, emptied in the end unless a task has taken it. Overloaded if too many wait."""
        waiting = [task for task in await self._records.newest_first() if task.status == "pending"]
        if len(waiting) + self._receiving >= self._max_pending:
            raise Overloaded("too many avatar tasks are waiting; try again later")
        upload = Upload(self._uploads / secrets.token_hex(8))
        self._receiving += 1
        try:
            yield upload
        finally:
            self._receiving -= 1
            if not upload.taken:
                upload.path.unlink(missing_ok=True)

    async def add(self, wish: AvatarTask, upload: Upload) -> str:
        """Queue what a client wishes, of the film in `upload` or else of `wish.video_path`; the task's id.

        BadRequest if it cannot be; Overloaded if too many wait.
        """
        self._check(wish)
        task = Task(
            task_id=wish.task_id or str(uuid4()),
            model_type=wish.model,
            avatar_id=wish.avatar_id,
            film=str(upload.path if upload.received else self._film(wish.video_path)),
            uploaded=upload.received,
            title=wish.title,
            notify_url=wish.notifyurl,
            start_time=now_s(),
        )
        await self._records.add(task, self._max_pending)
        upload.taken = True
        self._added.set()
        self._tell(task)
        return task.task_id

    async def get(self, task_id: str) -> Task | None:
        return await self._records.get(task_id)

    async def newest_first(self) -> list[Task]:
        return await self._records.newest_first()

    async def delete(self, task_id: str) -> str:
        """Forget a task that still waits; what stands against it, or ""."""
        if removed := await self._records.remove_pending(task_id):
            _discard(removed)
            return ""
        task = await self._records.get(task_id)
        return f"Task is {task.status}; only pending tasks can be deleted" if task else "Task not found"

    def _check(self, wish: AvatarTask) -> None:
        if wish.model not in self._models:
            there_are = ", ".join(sorted(self._models))
            raise BadRequest(f"model: {wish.model} is not available yet on this server; there is {there_are}")
        if (self.avatars / safe_id(wish.avatar_id)).exists():
            raise BadRequest(f"there is an avatar '{wish.avatar_id}' already; choose another avatar_id")
        if wish.notifyurl:
            self._notices.check(wish.notifyurl)

    def _film(self, video_path: str) -> Path:
        if not video_path:
            raise BadRequest("video_file or video_path is required")
        with suppress(BadRequest):
            film = confined(video_path, self._data)
            if film.is_file():
                return film
        raise BadRequest("video_path must name a video in the server's data folder")

    async def _work(self) -> None:
        """Make one avatar after the other, and tell whom it concerns. Runs until cancelled."""
        notices = asyncio.create_task(self._notices.run())
        try:
            while True:
                try:
                    await self._next()
                except (OSError, sqlite3.Error):
                    logger.exception("avatar tasks cannot go on for now")
                    await asyncio.sleep(RETRY_S)
        finally:
            notices.cancel()
            await asyncio.wait([notices])

    async def _next(self) -> None:
        """Make the next avatar, or wait until there is one to make."""
        self._added.clear()
        await self._records.fail_running(INTERRUPTED)
        if task := await self._records.claim():
            await self._make(task)
        else:
            await self._added.wait()

    async def _make(self, task: Task) -> None:
        logger.info("avatar task {} begins", task.task_id)
        self._tell(task)
        try:
            last = await self._run(self._full_command(task), partial(self._hear, task))
        except EngineFailed as error:
            last = Line(error=str(error))
        finally:
            _discard(task)
        await self._end(task, last)

    def _full_command(self, task: Task) -> list[str]:
        """No field of a client can be taken for a flag: a path is absolute, an id begins with a letter or a digit."""
        places = [f"--avatars={self.avatars}", f"--model={self._weights / 'face_landmarker.task'}"]
        return [*self._command, task.film, f"--avatar_id={task.avatar_id}", f"--title={task.title}", *places, "--json"]

    async def _hear(self, task: Task, line: Line) -> None:
        await self._records.progress(task.task_id, int(line.progress or 0), line.stage)

    async def _end(self, task: Task, last: Line) -> None:
        error = last.error[:MAX_ERROR]
        if not error and not (self.avatars / task.avatar_id / "avatar.json").is_file():
            error = "the program made no avatar"
        await self._records.end(task.task_id, error, last.report)
        logger.info("avatar task {} {}", task.task_id, "failed" if error else "completed")
        if ended := await self._records.get(task.task_id):
            self._tell(ended)

    def _tell(self, task: Task) -> None:
        if task.notify_url:
            self._notices.tell(task.notify_url, task.public())


def _discard(task: Task) -> None:
    """Take away what was uploaded for `task`."""
    if task.uploaded:
        Path(task.film).unlink(missing_ok=True)


def _tidy(uploads: Path, wanted: Iterable[str]) -> None:
    """Take away what a server that was killed has left in `uploads`."""
    uploads.mkdir(parents=True, exist_ok=True)
    for path in uploads.iterdir():
        if path.is_file() and str(path) not in wanted:
            path.unlink()
