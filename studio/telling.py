"""What a program of the studio says while it works: to a person, or line by line in JSON to whoever started it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

Tell = Callable[[int, str], None]  # percent, and what is being done


def say(line: str) -> None:
    """`line` on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say_json(message: dict[str, Any]) -> None:
    """`message` as a line of JSON."""
    say(json.dumps(message, ensure_ascii=False))


def tell_json(progress: int, stage: str) -> None:
    """How far it is, for a program."""
    say_json({"progress": progress, "stage": stage})


def tell_person(progress: int, stage: str) -> None:
    """How far it is, on one line of a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{progress:3d} %  {stage:<32}" + ("\n" if progress == 100 else ""))
        sys.stderr.flush()
