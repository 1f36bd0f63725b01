"""Avatar tasks: what clients of the LiveTalking family send and read, and what a hostile one does not get."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest
from aiohttp import web

from core.errors import BadRequest, EngineFailed
from studio.notices import Notices
from studio.program import Line, run
from studio.tasks import Tasks
from tests.conftest import SHARED
from tests.fakes.live import Live, serve
from tests.fakes.person import make_avatar, save
from tests.test_browser import browser_page
from tests.test_browser import until as holds

FAKE = (sys.executable, "-m", "tests.fakes.avatar_program")
GRID = SHARED / "data" / "clips" / "grid_bbaf2n.mpg"
FIELDS = {"model": "wav2lip", "avatar_id": "vera"}
SHOWN = {
    *("task_id", "model_type", "avatar_id", "status", "progress", "error_msg", "notify_url"),
    *("start_time", "end_time", "duration", "title", "stage", "report"),
}


@pytest.fixture(autouse=True)
def fake_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.Tasks", partial(Tasks, command=FAKE, grace_s=1.0))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of avatars with the one that every server wants."""
    root = tmp_path_factory.mktemp("avatars")
    save(root, make_avatar())
    return root


@pytest.fixture(autouse=True)
def data(tmp_path: Path, drawn: Path) -> Path:
    shutil.copytree(drawn, tmp_path / "avatars")
    return tmp_path


@pytest.fixture
async def server(data: Path) -> AsyncIterator[Live]:
    async with serve(data) as live:
        yield live


def uploads(live: Live) -> list[Path]:
    return [path for path in (live.house.settings.data_dir / "uploads").iterdir() if path.name != "go"]


def go(live: Live) -> None:
    """Let every film that waits go on."""
    (live.house.settings.data_dir / "uploads" / "go").touch()


async def submit(live: Live, film: str | bytes | None, **fields: object) -> dict[str, Any]:
    """POST a form, the film before the fields."""
    form = aiohttp.FormData()
    if film is not None:
        data = film.encode() if isinstance(film, str) else film
        form.add_field("video_file", io.BytesIO(data), filename="../../evil.mp4")
    for name, value in {**FIELDS, **fields}.items():
        form.add_field(name, str(value))
    async with live.http.post(live.url + "/api/avatar/task", data=form) as response:
        assert response.status == 200
        reply: dict[str, Any] = await response.json()
        return reply


async def begin(live: Live, film: str | bytes, **fields: object) -> str:
    reply = await submit(live, film, **fields)
    assert reply["code"] == 0, reply
    return str(reply["data"]["task_id"])


async def ask(live: Live, path: str, method: str = "GET") -> dict[str, Any]:
    async with live.http.request(method, live.url + path) as response:
        assert response.status == 200
        reply: dict[str, Any] = await response.json()
        return reply


async def task(live: Live, task_id: str) -> dict[str, Any]:
    data: dict[str, Any] = (await ask(live, f"/api/avatar/task/{task_id}"))["data"]
    return data


async def until(live: Live, task_id: str, *states: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (found := await task(live, task_id))["status"] not in states:
            await asyncio.sleep(0.02)
    return found


async def waits(live: Live, task_id: str) -> dict[str, Any]:
    """The task once its program waits for `go`."""
    async with asyncio.timeout(60):
        while (found := await task(live, task_id))["progress"] != 50:
            await asyncio.sleep(0.02)
    return found


async def ended(live: Live, task_id: str) -> dict[str, Any]:
    return await until(live, task_id, "completed", "failed")


# As clients know it.


async def test_a_video_becomes_an_avatar_that_can_be_asked_for_at_once(server: Live) -> None:
    task_id = await begin(server, "a film", title="Vera, 你好")
    found = await ended(server, task_id)
    assert set(found) == SHOWN
    assert (found["status"], found["progress"], found["error_msg"]) == ("completed", 100, "")
    assert (found["task_id"], found["model_type"], found["avatar_id"]) == (task_id, "wav2lip", "vera")
    assert found["end_time"] - found["start_time"] == pytest.approx(found["duration"])
    assert found["notify_url"] is None and found["report"]["level"] == "warn"
    listed = (await ask(server, "/api/avatars"))["data"]["avatars"]
    assert {"id": "vera", "title": "Vera, 你好", "size": [256, 256]} in listed
    assert not uploads(server)


async def test_the_program_runs_at_low_priority_and_without_the_servers_secrets(
    server: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIVACE_API_TOKEN", "sesame")
    report = (await ended(server, await begin(server, "a film")))["report"]
    assert report["nice"] == min(19, os.nice(0) + 10) and report["secret"] is None


async def test_every_field_of_the_contract_is_taken(server: Live) -> None:
    fields = {
        **{"img_size": "256", "pads": "0 10 0 0", "nosmooth": "false", "face_det_batch_size": "16"},
        **{"bbox_shift": "0", "extra_margin": "10", "parsing_mode": "jaw", "version": "v15", "task_id": "mine-1"},
        **{"notifyurl": "", "something_else": "x"},
    }
    assert await submit(server, "a film", **fields) == {"code": 0, "msg": "ok", "data": {"task_id": "mine-1"}}
    assert (await ended(server, "mine-1"))["status"] == "completed"


async def test_a_video_that_is_there_can_be_named_in_json(server: Live) -> None:
    film = server.house.settings.data_dir / "films" / "vera.mp4"
    film.parent.mkdir()
    film.write_text("a film")
    for number, path in enumerate(("films/vera.mp4", str(film))):
        message = {**FIELDS, "avatar_id": f"vera{number}", "video_path": path, "pads": [0, 10, 0, 0], "nosmooth": True}
        reply = await server.post("/api/avatar/task", **message)
        assert (await ended(server, reply["data"]["task_id"]))["status"] == "completed"
    assert film.exists()


async def test_tasks_are_listed_newest_first_and_run_one_at_a_time(server: Live) -> None:
    ids = [await begin(server, "wait", avatar_id=f"a{number}") for number in range(3)]
    await until(server, ids[0], "running")
    listed = (await ask(server, "/api/avatar/tasks"))["data"]["tasks"]
    assert [each["task_id"] for each in listed] == ids[::-1]
    assert [each["status"] for each in listed] == ["pending", "pending", "running"]
    go(server)
    for task_id in ids:
        assert (await ended(server, task_id))["status"] == "completed"


async def test_progress_is_seen_while_the_task_runs(server: Live) -> None:
    task_id = await begin(server, "wait")
    found = await waits(server, task_id)
    assert found["stage"] == "waiting" and found["end_time"] is None and found["duration"] > 0
    go(server)
    assert (await ended(server, task_id))["progress"] == 100


async def test_only_a_pending_task_can_be_deleted_and_its_video_goes_with_it(server: Live) -> None:
    first, second = [await begin(server, "wait", avatar_id=f"a{number}") for number in range(2)]
    await until(server, first, "running")
    assert len(uploads(server)) == 2
    deleted = {"code": 0, "msg": "ok", "data": {"msg": "Task deleted"}}
    assert await ask(server, f"/api/avatar/task/{second}", "DELETE") == deleted
    assert len(uploads(server)) == 1
    assert (await ask(server, f"/api/avatar/task/{second}"))["code"] == 404
    refused = await ask(server, f"/api/avatar/task/{first}", "DELETE")
    assert refused["code"] == -1 and "running" in refused["msg"]
    go(server)
    await ended(server, first)
    assert (await ask(server, f"/api/avatar/task/{first}", "DELETE"))["code"] == -1


@pytest.mark.parametrize(("method", "code"), [("GET", 404), ("DELETE", -1)])
async def test_an_unknown_task_is_not_found(server: Live, method: str, code: int) -> None:
    reply = await ask(server, "/api/avatar/task/nothing", method)
    assert (reply["code"], reply["msg"]) == (code, "Task not found")


# When the program fails.


async def test_what_is_wrong_with_a_video_is_told_with_its_report(server: Live) -> None:
    found = await ended(server, await begin(server, "no face"))
    assert (found["status"], found["error_msg"]) == ("failed", "no face in the film")
    (finding,) = found["report"]["findings"]
    assert (finding["check"], finding["value"], finding["advice"]["zh"]) == (
        "no_face",
        None,
        "怎么办。",
    )  # NaN is no JSON
    assert not uploads(server)


@pytest.mark.parametrize("film", ["crash", "die", "mute", "liar"])
async def test_a_program_that_breaks_off_is_a_failed_task_and_the_next_one_runs(server: Live, film: str) -> None:
    found = await ended(server, await begin(server, film))
    assert found["status"] == "failed" and found["error_msg"] and found["progress"] < 100
    assert "Traceback" not in found["error_msg"] and str(server.house.settings.data_dir) not in found["error_msg"]
    assert (await ended(server, await begin(server, "a film")))["status"] == "completed"
    assert not uploads(server)


async def test_what_else_the_program_prints_does_no_harm(server: Live) -> None:
    assert (await ended(server, await begin(server, "garbage")))["status"] == "completed"


async def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    film = tmp_path / "film"
    for text in ("deaf wait", "long line"):
        film.write_text(text)
        command = [*FAKE, str(film), "--avatar_id", "x", "--avatars", str(tmp_path), "--json"]
        with pytest.raises(EngineFailed):
            await run(command, nobody, silence_s=5, grace_s=0.3)
    assert not children()


async def nobody(line: Line) -> None:
    pass


async def test_a_program_that_is_not_there_is_a_failure() -> None:
    with pytest.raises(EngineFailed, match="could not be started"):
        await run(["/nowhere/python"], nobody, silence_s=1, grace_s=1)


def children() -> list[int]:
    """Processes of avatar programs that are still there, zombies too."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    pids = [int(pid) for pid in path.read_text().split()]
    return [pid for pid in pids if b"avatar_program" in Path(f"/proc/{pid}/cmdline").read_bytes()]


# When the server stops.


@pytest.mark.parametrize("film", ["wait", "deaf wait"])
async def test_a_stop_ends_the_program_and_the_next_server_goes_on_with_what_waited(tmp_path: Path, film: str) -> None:
    async with serve(tmp_path) as live:
        first = await begin(live, film, avatar_id="first")
        second = await begin(live, "a film", avatar_id="second")
        await waits(live, first)
    assert not children()
    (tmp_path / "uploads" / "left-behind").write_text("of a server that was killed")
    async with serve(tmp_path) as live:
        interrupted = await task(live, first)
        assert interrupted["status"] == "failed" and "start the task again" in interrupted["error_msg"]
        assert (await ended(live, second))["status"] == "completed"
        assert not uploads(live)


async def test_a_task_of_a_server_that_was_killed_is_failed(tmp_path: Path) -> None:
    async with serve(tmp_path) as live:
        task_id = await begin(live, "a film")
        await ended(live, task_id)
    with sqlite3.connect(tmp_path / "tasks.db") as database:
        database.execute("UPDATE tasks SET status = 'running', end_time = NULL")
    database.close()
    async with serve(tmp_path) as live:
        found = await task(live, task_id)
        assert found["status"] == "failed" and found["end_time"]


async def test_a_second_server_on_the_same_folder_leaves_the_tasks_to_the_first(server: Live) -> None:
    task_id = await begin(server, "wait")
    await until(server, task_id, "running")
    async with serve(server.house.settings.data_dir) as other:
        assert "another server" in (await ask(other, "/api/avatar/tasks"))["msg"]
        assert "another server" in (await submit(other, "a film"))["msg"]
    go(server)
    assert (await ended(server, task_id))["status"] == "completed"


async def test_a_damaged_database_turns_tasks_off_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "tasks.db").write_bytes(b"no database at all" * 1000)
    async with serve(tmp_path) as live:
        assert (await ask(live, "/api/avatar/tasks"))["code"] == -1
        assert (await ask(live, "/api/avatars"))["code"] == 0


# What is refused.


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": ""}, "model"),
        ({"model": "ultralight"}, "model"),
        ({"model": "musetalk"}, "musetalk is not available yet"),
        ({"avatar_id": ""}, "avatar_id"),
        ({"avatar_id": "../x"}, "avatar ids are"),
        ({"avatar_id": ".x"}, "avatar ids are"),
        ({"avatar_id": "--json"}, "avatar ids are"),
        ({"avatar_id": "drawn"}, "already"),
        ({"task_id": "../x"}, "task_id"),
        ({"task_id": "x" * 65}, "task_id"),
        ({"title": "a\nb"}, "title"),
        ({"img_size": "large"}, "img_size"),
        ({"img_size": "0"}, "img_size"),
        ({"pads": "0 10"}, "pads"),
        ({"pads": "a b c d"}, "pads"),
        ({"nosmooth": "perhaps"}, "nosmooth"),
        ({"face_det_batch_size": "-1"}, "face_det_batch_size"),
        ({"parsing_mode": "elbow"}, "parsing_mode"),
        ({"version": "v2"}, "version"),
        ({"notifyurl": "http://169.254.169.254/latest"}, "notify_hosts"),
        ({"notifyurl": "file:///etc/passwd"}, "notifyurl"),
        ({"notifyurl": "http://[x"}, "notifyurl"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name_and_nothing_is_kept(
    server: Live, fields: dict[str, str], words: str
) -> None:
    reply = await submit(server, "a film", **fields)
    assert reply["code"] == -1 and words in reply["msg"] and reply["msg"] == reply["data"]
    assert not uploads(server) and not (await ask(server, "/api/avatar/tasks"))["data"]["tasks"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../../etc/passwd", "avatars", "nothing.mp4", "a\0b", "link"])
async def test_a_video_path_leads_nowhere_but_to_files_of_the_data_folder(server: Live, path: str) -> None:
    (server.house.settings.data_dir / "link").symlink_to("/etc/passwd")
    reply = await server.post("/api/avatar/task", **FIELDS, video_path=path)
    assert reply["code"] == -1 and "data folder" in reply["msg"] and "passwd" not in reply["msg"]


@pytest.mark.parametrize("film", [None, ""])
async def test_a_task_needs_a_video(server: Live, film: str | None) -> None:
    assert (await submit(server, film))["msg"] == "video_file or video_path is required"
    assert not uploads(server)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model": "wav2lip"}', b'{"title": "\\ud800"}', b"[" * 5000])
async def test_rubbish_gets_the_envelope(server: Live, body: bytes) -> None:
    for kind in ("application/json", "multipart/form-data", "multipart/form-data; boundary=x"):
        headers = {"Content-Type": kind}
        async with server.http.post(server.url + "/api/avatar/task", data=body, headers=headers) as response:
            reply = await response.json()
        assert response.status == 200 and reply["code"] == -1 and reply["msg"] != "internal error"
    assert not uploads(server)


async def test_an_id_is_used_once_and_an_avatar_is_made_once(server: Live) -> None:
    await begin(server, "wait", task_id="mine")
    assert (await submit(server, "a film", task_id="mine", avatar_id="other"))["msg"] == "task_id is taken"
    assert "being made already" in (await submit(server, "a film"))["msg"]
    assert len(uploads(server)) == 1


async def test_the_queue_is_bounded(tmp_path: Path) -> None:
    async with serve(tmp_path, avatar_queue=2) as live:
        await until(live, await begin(live, "wait", avatar_id="a0"), "running")
        for number in (1, 2):
            await begin(live, "wait", avatar_id=f"a{number}")
        assert "too many avatar tasks" in (await submit(live, "a film"))["msg"]
        assert len(uploads(live)) == 3


async def test_a_video_beyond_the_limit_is_refused_and_removed(tmp_path: Path) -> None:
    async with serve(tmp_path, avatar_film_mb=1) as live:
        for data in (io.BytesIO(bytes(6 << 20)), two_megabytes()):  # announced, and not
            writer = aiohttp.MultipartWriter("form-data")
            writer.append(data).set_content_disposition("form-data", name="video_file", filename="x.mp4")
            async with live.http.post(live.url + "/api/avatar/task", data=writer) as response:
                assert response.status == 413 and (await response.json())["code"] == -1
        assert not uploads(live)


async def two_megabytes() -> AsyncIterator[bytes]:
    for _ in range(32):
        yield bytes(1 << 16)


async def test_fields_of_a_form_do_not_fill_the_memory(server: Live) -> None:
    writer = aiohttp.MultipartWriter("form-data")
    writer.append(io.BytesIO(b"x" * (2 << 20))).set_content_disposition("form-data", name="title")
    async with server.http.post(server.url + "/api/avatar/task", data=writer) as response:
        assert response.status == 413 and "the most is 1 MB" in (await response.json())["msg"]


async def test_an_upload_that_breaks_off_leaves_nothing(server: Live) -> None:
    head = (
        "POST /api/avatar/task HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="video_file"; filename="x"\r\n\r\nhalf a film'
    )
    _, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    writer.write(head.encode() + bytes(100_000))
    async with asyncio.timeout(10):
        while not uploads(server):
            await asyncio.sleep(0.01)
        writer.close()
        while uploads(server):
            await asyncio.sleep(0.01)


async def test_tasks_and_pictures_want_the_token(tmp_path: Path) -> None:
    paths = ["/api/avatar/tasks", "/api/avatar/task/x", "/api/avatars/drawn/picture"]
    async with serve(tmp_path, api_token="sesame") as live:
        for method, path in [("POST", "/api/avatar/task"), ("DELETE", paths[1]), *(("GET", path) for path in paths)]:
            async with live.http.request(method, live.url + path) as response:
                assert response.status == 401


# Whom it may concern.


@asynccontextmanager
async def listener() -> AsyncIterator[tuple[str, asyncio.Queue[Any]]]:
    """An address, and what is posted there; it always answers with a redirection."""
    heard: asyncio.Queue[Any] = asyncio.Queue()

    async def hear(request: web.Request) -> web.Response:
        heard.put_nowait(await request.json() if request.path == "/hook" else request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    app = web.Application()
    app.router.add_post("/{path}", hear)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", heard
    await runner.cleanup()


async def test_an_allowed_host_is_told_how_a_task_fares_and_its_redirections_are_not_followed(tmp_path: Path) -> None:
    async with listener() as (address, heard), serve(tmp_path, notify_hosts=["127.0.0.1"]) as live:
        task_id = await begin(live, "a film", notifyurl=address)
        told = [await asyncio.wait_for(heard.get(), 60) for _ in range(3)]
        assert [each["status"] for each in told] == ["pending", "running", "completed"]
        assert set(told[-1]) == SHOWN and {each["task_id"] for each in told} == {task_id}
        assert told[-1]["notify_url"] == address and heard.empty()


async def test_an_address_that_does_not_answer_holds_nothing_up(tmp_path: Path) -> None:
    async with serve(tmp_path, notify_hosts=["127.0.0.1:9"]) as live:
        task_id = await begin(live, "a film", notifyurl="http://127.0.0.1:9/")
        assert (await ended(live, task_id))["status"] == "completed"


@pytest.mark.parametrize(
    "address",
    [
        "http://good.example@evil.example/",
        "http://evil.example/?good.example",
        "http://good.example.evil.example/",
        "http://good.example\\@evil.example/",
        "http://port.example/",
        "http://port.example:81/",
        "ftp://good.example/",
        "//good.example/",
        "good.example",
        "http://",
        "http://good.example:99999/",
    ],
)
def test_no_other_host_is_told_anything(address: str) -> None:
    with pytest.raises(BadRequest, match="notifyurl"):
        Notices(["good.example", "port.example:80800"]).check(address)


@pytest.mark.parametrize("address", ["http://good.example/x", "https://GOOD.example:444/", "http://port.example:8080"])
def test_what_the_operator_allows_is_allowed(address: str) -> None:
    Notices(["Good.example", "port.example:8080"]).check(address)


# Pictures.


async def test_an_avatar_has_a_picture_that_is_sent_once(server: Live) -> None:
    url = server.url + "/api/avatars/drawn/picture"
    async with server.http.get(url) as response:
        assert response.content_type == "image/jpeg"
        image = cv2.imdecode(np.frombuffer(await response.read(), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None and image.shape == (256, 256, 3)
        etag = response.headers["ETag"]
    async with server.http.get(url, headers={"If-None-Match": etag}) as response:
        assert response.status == 304


@pytest.mark.parametrize("avatar_id", ["nobody", "..", "%2e%2e%2fx", "drawn%00"])
async def test_there_is_no_picture_of_nobody(server: Live, avatar_id: str) -> None:
    from yarl import URL

    async with server.http.get(URL(f"{server.url}/api/avatars/{avatar_id}/picture", encoded=True)) as response:
        assert response.status == 404


async def test_a_film_that_does_not_decode_is_no_picture(server: Live) -> None:
    folder = server.house.settings.data_dir / "avatars" / "broken"
    folder.mkdir()
    (folder / "frames.mp4").write_bytes(b"no film")
    assert (await ask(server, "/api/avatars/broken/picture"))["code"] == -1


# The page.


@pytest.mark.browser
@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
async def test_the_page_makes_an_avatar_and_leads_to_the_console(server: Live, tmp_path: Path) -> None:
    for avatar_id in ("anna", "ben"):
        (tmp_path / f"{avatar_id}.mp4").write_text("wait")
    async with browser_page(server.url + "/avatars.html") as (page, complaints):
        for number, avatar_id in enumerate(("anna", "ben"), 1):
            await page.set_input_files("#film", tmp_path / f"{avatar_id}.mp4")
            assert await page.input_value("#avatar-id") == avatar_id
            await page.click("#make")  # not without consent
            assert await page.locator("#tasks > li").count() == number - 1
            await page.check("#consent")
            await page.click("#make")
            await holds(page, f"document.querySelectorAll('#tasks > li').length === {number}", 10)
        await page.click("[data-status=pending] button")
        await holds(page, "document.querySelectorAll('#tasks > li').length === 1", 10)
        go(server)
        await holds(page, "document.querySelector('[data-status=completed] a') !== null", 20)
        await holds(page, "document.querySelectorAll('.gallery img[src^=blob]').length === 2", 10)
        await page.click("[data-status=completed] a")
        await holds(page, "document.querySelector('#avatar')?.value === 'anna'", 10)
        assert not complaints


# The whole of it.


async def test_the_real_program_makes_an_avatar_of_a_real_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not find_spec("mediapipe"):  # not imported here: half of it would stay behind where matplotlib is missing
        pytest.skip("mediapipe is not installed")
    model = SHARED / "data" / "face" / "face_landmarker.task"
    if not GRID.exists() or not model.exists():
        pytest.skip("the videos or the face model are not here")
    monkeypatch.setattr("app.Tasks", Tasks)
    async with serve(tmp_path, models_dir=model.parent) as live:
        task_id = await begin(live, GRID.read_bytes())
        async with asyncio.timeout(100):
            while (found := await task(live, task_id))["status"] in {"pending", "running"}:
                await asyncio.sleep(0.2)
        assert (found["status"], found["error_msg"]) == ("completed", "") and found["report"]
        async with live.http.get(live.url + "/api/avatars/vera/picture") as response:
            assert response.content_type == "image/jpeg"
