"""Stands in for `studio.make_avatar`: takes its flags, prints its lines, and behaves as the film's text says."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def make(avatar_id: str, root: Path, title: str) -> dict[str, object]:
    """The drawn avatar under another name."""
    shutil.copytree(root / "drawn", root / ".part")
    about = root / ".part" / "avatar.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "id": avatar_id, "title": title}))
    (root / ".part").rename(root / avatar_id)
    return {**report("mouth_open", "warn", 0.37), "nice": os.nice(0), "secret": os.environ.get("VIVACE_API_TOKEN")}


def report(check: str, level: str, value: float) -> dict[str, object]:
    """A report card with one finding."""
    advice = {"en": "What to do.", "zh": "怎么办。"}
    about = {"check": check, "level": level, "value": value, "unit": "share", "where": [[0.4, 0.8]], "advice": advice}
    return {"level": level, "seconds": 3.0, "used": [0.0, 3.0], "size": [64, 64], "loop": "cycle", "findings": [about]}


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("film", type=Path)
    for flag in ("--avatar_id", "--avatars", "--title", "--model"):
        parser.add_argument(flag)
    parser.add_argument("--json", action="store_true", required=True)
    wish = parser.parse_args()
    say(progress=10, stage="reading")
    misbehave(wish.film)
    say(progress=90, stage="writing")
    say(avatar_id=wish.avatar_id, report=make(wish.avatar_id, Path(wish.avatars), wish.title))
    print("bye", flush=True)


def misbehave(film: Path) -> None:
    """Do what the words in `film` say."""
    text = film.read_text()
    if "garbage" in text:
        print('W0000 not json\n[1, 2]\n{"progress": 900}\n\n{}\n', flush=True)
        print("noise " * 50_000, file=sys.stderr, flush=True)
    if "deaf" in text:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "wait" in text:
        wait(film.with_name("go"))
    if "long line" in text:
        print("x" * (2 << 20), flush=True)
        time.sleep(30)
    if "crash" in text:
        raise RuntimeError("the reason is in the log")
    if "die" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    if "no face" in text:
        say(error="no face in the film", report=report("no_face", "refuse", float("nan")))
        sys.exit(1)
    if "liar" in text:
        say(avatar_id="nobody")
    if "liar" in text or "mute" in text:
        sys.exit(0)


def wait(sign: Path) -> None:
    """Until there is a file `sign`, but not for ever."""
    say(progress=50, stage="waiting")
    deadline = time.monotonic() + 30
    while not sign.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


if __name__ == "__main__":
    main()
