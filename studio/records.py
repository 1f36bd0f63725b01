"""What is known of avatar tasks, in SQLite: the queue and its history at once, and it outlives the server."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict, astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import aiosqlite
from pydantic import JsonValue, TypeAdapter

from core.errors import BadRequest, Overloaded

Status = Literal["pending", "running", "completed", "failed"]
Report = dict[str, JsonValue]

KEPT = 200  # ended tasks
LOCK_S = 0.2
REPORT = TypeAdapter(Report)


def now_s() -> float:
    """The time of day, seconds since 1970."""
    return datetime.now(UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Task:
    """One avatar to be made of `film`, a path; `uploaded` films are the task's own and go with it. Times: `now_s()`."""

    task_id: str
    model_type: str
    avatar_id: str
    film: str
    uploaded: bool
    title: str
    notify_url: str
    start_time: float
    end_time: float | None = None
    status: Status = "pending"
    progress: int = 0
    stage: str = ""
    error_msg: str = ""
    report: str = ""

    def public(self) -> dict[str, Any]:
        """What clients are told."""
        told = {name: value for name, value in asdict(self).items() if name not in {"film", "uploaded"}}
        told["notify_url"] = self.notify_url or None
        told["report"] = REPORT.validate_json(self.report) if self.report else None
        told["duration"] = (self.end_time or now_s()) - self.start_time
        return told


COLUMNS = ", ".join(field.name for field in fields(Task))
PLACES = ", ".join("?" for _ in fields(Task))
SCHEMA = f"""
PRAGMA locking_mode = EXCLUSIVE;
BEGIN EXCLUSIVE;
CREATE TABLE IF NOT EXISTS tasks ({COLUMNS}, PRIMARY KEY (task_id));
CREATE UNIQUE INDEX IF NOT EXISTS one_each ON tasks (avatar_id) WHERE status IN ('pending', 'running');
COMMIT;
"""
ADD = f"""
INSERT INTO tasks ({COLUMNS}) SELECT {PLACES} WHERE (SELECT count(*) FROM tasks WHERE status = 'pending') < ?
"""  # noqa: S608
FORGET = f"""
DELETE FROM tasks WHERE status IN ('completed', 'failed') AND rowid NOT IN
(SELECT rowid FROM tasks WHERE status IN ('completed', 'failed') ORDER BY rowid DESC LIMIT {KEPT})
"""  # noqa: S608
CLAIM = """
UPDATE tasks SET status = 'running' WHERE rowid = (SELECT min(rowid) FROM tasks WHERE status = 'pending')
"""


class Records:
    """The table of tasks in one file, which one server at a time may use. sqlite3.Error where the disk fails."""

    def __init__(self, db: aiosqlite.Connection) -> None:
        self._db = db

    @classmethod
    async def open(cls, path: Path) -> Self:
        """sqlite3.Error or OSError if the file is no such table, cannot be written, or another server uses it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        db = await aiosqlite.connect(path, isolation_level=None, timeout=LOCK_S)
        try:
            await db.executescript(SCHEMA)
        except sqlite3.Error:
            await db.close()
            raise
        return cls(db)

    async def aclose(self) -> None:
        await self._db.close()

    async def add(self, task: Task, max_pending: int) -> None:
        """BadRequest if the id is taken or the avatar is being made already; Overloaded if so many tasks wait."""
        try:
            added = await self._change(ADD, *astuple(task), max_pending)
        except sqlite3.IntegrityError as error:
            twice = "avatar_id" in str(error)
            message = f"avatar '{task.avatar_id}' is being made already" if twice else "task_id is taken"
            raise BadRequest(message) from error
        if not added:
            raise Overloaded("too many avatar tasks are waiting; try again later")
        await self._change(FORGET)

    async def claim(self) -> Task | None:
        """The oldest pending task, which from now on is running; None if nothing waits."""
        found = await self._find(f"{CLAIM} RETURNING {COLUMNS}")
        return found[0] if found else None

    async def progress(self, task_id: str, progress: int, stage: str) -> None:
        """How far a task has come, 0 to 100, and with what it is busy."""
        await self._change("UPDATE tasks SET progress = ?, stage = ? WHERE task_id = ?", progress, stage, task_id)

    async def end(self, task_id: str, error_msg: str, report: Report | None) -> None:
        """A task has ended: completed if there is no error."""
        how = """UPDATE tasks SET status = ?, error_msg = ?, report = ?, end_time = ?, stage = '',
            progress = iif(?1 = 'completed', 100, progress) WHERE task_id = ?"""
        status: Status = "failed" if error_msg else "completed"
        as_text = REPORT.dump_json(report).decode() if report else ""
        await self._change(how, status, error_msg, as_text, now_s(), task_id)

    async def fail_running(self, error_msg: str) -> None:
        """No task is running any more."""
        how = "UPDATE tasks SET status = 'failed', error_msg = ?, end_time = ? WHERE status = 'running'"
        await self._change(how, error_msg, now_s())

    async def get(self, task_id: str) -> Task | None:
        found = await self._find(f"SELECT {COLUMNS} FROM tasks WHERE task_id = ?", task_id)  # noqa: S608
        return found[0] if found else None

    async def newest_first(self) -> list[Task]:
        return await self._find(f"SELECT {COLUMNS} FROM tasks ORDER BY rowid DESC")  # noqa: S608

    async def remove_pending(self, task_id: str) -> Task | None:
        """Forget a task that still waits; None if it does not, or there is none."""
        how = f"DELETE FROM tasks WHERE task_id = ? AND status = 'pending' RETURNING {COLUMNS}"  # noqa: S608
        found = await self._find(how, task_id)
        return found[0] if found else None

    async def _find(self, how: str, *values: object) -> list[Task]:
        return [Task(*row) for row in await self._db.execute_fetchall(how, values)]

    async def _change(self, how: str, *values: object) -> int:
        """How many rows were changed."""
        async with self._db.execute(how, values) as done:
            return done.rowcount
