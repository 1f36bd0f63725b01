"""The studio over HTTP: avatar tasks as the LiveTalking family knows them, and a picture of each avatar."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from auth import refusal, reply
from body import read_form, read_json
from core.avatar import safe_id
from core.errors import UnknownAvatar
from core.messages import AvatarTask, parse
from core.openapi import Operation
from studio.poster import poster
from studio.tasks import Tasks, Upload

TASKS = web.AppKey("tasks", Tasks)


async def create(request: web.Request) -> web.Response:
    """POST /api/avatar/task: queue a film to be made into an avatar."""
    tasks = request.app[TASKS]
    async with tasks.upload() as upload:
        wish = parse(AvatarTask, await _wish(request, tasks, upload))
        return reply({"task_id": await tasks.add(wish, upload)})


async def _wish(request: web.Request, tasks: Tasks, upload: Upload) -> bytes:
    """What the client wishes, as JSON text; a film that comes along goes to `upload`."""
    if request.content_type != "multipart/form-data":
        return await read_json(request)
    loop = asyncio.get_running_loop()
    fields = await read_form(
        request, "video_file", tasks.max_film_bytes, lambda piece: loop.run_in_executor(tasks.io, upload.append, piece)
    )
    return json.dumps({name: value for name, value in fields.items() if value}).encode()


async def show(request: web.Request) -> web.Response:
    """GET /api/avatar/task/{task_id}: how one task fares."""
    task = await request.app[TASKS].get(request.match_info["task_id"])
    return reply(task.public()) if task else refusal("Task not found", code=404)


async def show_all(request: web.Request) -> web.Response:
    """GET /api/avatar/tasks: all of them, newest first."""
    tasks = request.app[TASKS]
    told = [task.public() for task in await tasks.newest_first()]
    return reply({"tasks": told, "max_film_bytes": tasks.max_film_bytes})


async def delete(request: web.Request) -> web.Response:
    """DELETE /api/avatar/task/{task_id}: forget a task that waits."""
    against = await request.app[TASKS].delete(request.match_info["task_id"])
    return refusal(against) if against else reply({"msg": "Task deleted"})


async def picture(request: web.Request) -> web.Response:
    """GET /api/avatars/{avatar_id}/picture: the avatar's first picture."""
    tasks = request.app[TASKS]
    film = _film(tasks.avatars, request.match_info["avatar_id"])
    version = film.stat().st_mtime_ns
    if any(tag.value == str(version) for tag in request.if_none_match or ()):
        raise web.HTTPNotModified
    jpeg = await asyncio.get_running_loop().run_in_executor(tasks.io, poster, film, version)
    response = web.Response(body=jpeg, content_type="image/jpeg", headers={"Cache-Control": "no-cache"})
    response.etag = str(version)
    return response


def _film(avatars: Path, avatar_id: str) -> Path:
    with suppress(UnknownAvatar):
        film = avatars / safe_id(avatar_id) / "frames.mp4"
        if film.is_file():
            return film
    raise web.HTTPNotFound(reason="Avatar not found")


_TAG = "avatars"
_TASK = "/api/avatar/task"
API = [
    (create, Operation("POST", _TASK, "Make an avatar of a video", _TAG, AvatarTask, upload="video_file")),
    (show_all, Operation("GET", "/api/avatar/tasks", "All avatar tasks, newest first", _TAG)),
    (show, Operation("GET", _TASK + "/{task_id}", "How an avatar task fares", _TAG)),
    (delete, Operation("DELETE", _TASK + "/{task_id}", "Forget a task that still waits", _TAG)),
    (picture, Operation("GET", "/api/avatars/{avatar_id}/picture", "A still picture", _TAG, content="image/jpeg")),
]
