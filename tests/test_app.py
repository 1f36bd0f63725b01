"""The program as a person starts it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

import app

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "app.py", "--host", "127.0.0.1", *flags]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def served() -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    process = start("--listenport", str(port))
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


def ask(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def test_it_serves_with_no_flag_and_leaves_when_told(served: tuple[subprocess.Popen[str], str]) -> None:
    process, url = served
    deadline = time.monotonic() + 60
    while ask(url + "/readyz") != 200:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    assert ask(url + "/") == 200 and ask(url + "/nothing") == 404
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert process.stderr
    assert re.search(rf"ready: open {url}", process.stderr.read())


def test_told_again_while_it_stops_it_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []

    def told_again(*_: object, **__: object) -> None:
        raise web.GracefulExit

    monkeypatch.setattr(sys, "argv", ["app.py"])
    monkeypatch.setattr("core.log.set_up", lambda *_: None)
    monkeypatch.setattr("aiohttp.web.run_app", told_again)
    monkeypatch.setattr("os._exit", left.append)
    app.main()
    assert left == [1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--avatar_id", "nobody"], "unknown avatar 'nobody'"),
        (["--model", "nope"], "known: still, wav2lip"),
        (["--model", "wav2lip", "--modelfile", "nothing.pth"], "nothing.pth"),
        (["--tts", "nope"], "known: auto"),
        (["--max_session", "0"], "max_session"),
        (["--customvideo_config", "nothing.json"], "nothing.json"),
        (["--nonsense", "1"], "unrecognized arguments"),
    ],
)
def test_what_it_cannot_start_with_is_said_in_words(flags: list[str], words: str) -> None:
    process = start("--listenport", str(free_port()), *flags)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode not in {0, None}
    assert words in complaint and "Traceback" not in complaint
