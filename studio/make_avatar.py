"""Makes an avatar of a film: `python -m studio.make_avatar person.mp4 --avatar_id person`.

With `--json` it writes one JSON object a line: `{"progress": 0-100, "stage": "…"}`, and at the end either
`{"avatar_id": "…", "report": {…}}` with exit status 0, or `{"error": "…"}`, with the report if there is one, and 1.
"""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from core.avatar import safe_id, save_avatar
from core.errors import BadRequest, VivaceError
from core.media import Image
from studio.film import Film
from studio.landmarks import Landmarker, Points, to_tracks
from studio.looks import Look, Looks
from studio.report import Report, examine
from studio.telling import Tell, say, say_json, tell_json, tell_person
from studio.tracks import GAP_TICKS, filled, followed, smooth, stretch

SECONDS = 60.0
MAX_SECONDS = 600.0
NOT_SMALL = 0.4  # of the largest face's width: what is narrower is a passer-by


class Refused(BadRequest):
    """The film cannot become an avatar; `report` says why."""

    def __init__(self, report: Report) -> None:
        super().__init__(f"no avatar can be made of this film. {report.refusal}")
        self.report = report


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be made: `seconds` is how much of the film is used at most, `root` where the avatars are."""

    video: Path
    avatar_id: str
    root: Path = Path("data/avatars")
    title: str = ""
    licence: str = ""
    seconds: float = SECONDS
    replace: bool = False


def make_avatar(wish: Wish, landmarker: Landmarker, tell: Tell) -> Report:
    """Make the avatar and return what was found in the film. Blocking: of one core 20 ms a picture of
    360×288 and 250 ms of 1080×1920, nearly all of it to encode.

    The film is read twice, so that memory stays the same for any length. Refused if the film is not good enough;
    BadMedia if it does not decode; BadRequest if there is such an avatar and `replace` is not wished for.
    """
    folder = wish.root / safe_id(wish.avatar_id)
    if folder.exists() and not wish.replace:
        raise BadRequest(f"there is an avatar '{wish.avatar_id}' already: choose another id, or --replace it")
    film = Film(wish.video, wish.seconds)
    looks = Looks(list(_looks(film, landmarker, _part(tell, 0, 50, "looking for the face"))))
    used = stretch(looks.found, looks.cuts)
    report = examine(looks, used, film.size, film.whole_s, hdr=film.hdr)
    if report.level == "refuse":
        raise Refused(report)
    of_use = slice(used.start, used.stop)
    boxes, landmarks = smooth(filled(looks.landmarks[of_use], looks.found[of_use]))
    boxes = boxes.clip(0, np.tile(film.size, 2))
    pictures = _counted(islice(film, used.start, used.stop), len(used), _part(tell, 50, 99, "writing the avatar"))
    save_avatar(
        wish.root,
        wish.avatar_id,
        pictures,
        boxes,
        landmarks,
        loop=report.loop,
        title=wish.title,
        licence=wish.licence,
        replace=wish.replace,
    )
    tell(100, "done")
    return report


def _looks(film: Film, landmarker: Landmarker, tell: Callable[[float], None]) -> Iterator[Look]:
    """One look a tick; a picture that is shown again is not looked at again."""
    shown, look = None, None
    last: Points | None = None
    missed = 0
    for tick, image in enumerate(film):
        if image is not shown or look is None:
            faces = landmarker.faces(image)
            face = followed(faces, last)
            missed = 0 if face is not None else missed + 1
            last = face if face is not None or missed > GAP_TICKS else last
            look = _look(image, faces, face)
            shown = image
        yield look
        tell((tick + 1) / film.expected)


def _look(image: Image, faces: Sequence[Points], face: Points | None) -> Look:
    if face is None:
        return Look.at(image, 0, None)
    widths = [float(np.ptp(other, axis=0)[0]) for other in faces]
    others = sum(width > NOT_SMALL * max(widths) for width in widths)
    _, landmarks = to_tracks(face[None])
    return Look.at(image, others, landmarks[0])


def _counted(images: Iterator[Image], n: int, tell: Callable[[float], None]) -> Iterator[Image]:
    for done, image in enumerate(images):
        yield image
        tell((done + 1) / n)


def _part(tell: Tell, start: int, stop: int, stage: str) -> Callable[[float], None]:
    """`tell` for a part of the work, from its share that is done; each percent is told once."""
    told = -1

    def tell_share(share: float) -> None:
        nonlocal told
        percent = start + int((stop - start) * min(share, 1))
        if percent > told:
            told = percent
            tell(percent, stage)

    return tell_share


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    args = _arguments(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tell = tell_json if args.json else tell_person
    wish = Wish(args.video, args.avatar_id, args.avatars, args.title, args.licence, args.seconds, args.replace)
    report = None
    try:
        with Landmarker(args.model) as landmarker:
            report = make_avatar(wish, landmarker, tell)
        problem = ""
    except Refused as error:
        report, problem = error.report, str(error)
    except VivaceError as error:
        problem = str(error)
    except OSError as error:
        problem = f"the avatar could not be written: {error.strerror}"
    except KeyboardInterrupt:
        problem = "stopped before the end: nothing was written"
    _conclude(args, report, problem)
    return 1 if problem else 0


def _arguments(argv: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser("python -m studio.make_avatar", description="Make an avatar of a film of one person.")
    parser.add_argument("video", type=Path, help="film or photograph: anything a phone or a camera writes")
    parser.add_argument("--avatar_id", required=True, help="letters, digits, '_', '-' and '.'")
    parser.add_argument("--avatars", type=Path, default=Path("data/avatars"), help="folder of avatars")
    parser.add_argument("--title", default="", help="what people call it")
    parser.add_argument("--licence", default="", help="who was filmed, and may be shown to whom")
    parser.add_argument("--seconds", type=_seconds, default=SECONDS, help="how much of the film is used at most")
    parser.add_argument("--model", type=Path, help="face landmarker, by default models/face_landmarker.task")
    parser.add_argument("--replace", action="store_true", help="put it in the place of an avatar of the same id")
    parser.add_argument("--json", action="store_true", help="write JSON lines, for programs")
    return parser.parse_args(argv)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) <= MAX_SECONDS:
            return float(text)
    raise ArgumentTypeError(f"a number of seconds, at most {MAX_SECONDS:.0f}")


def _conclude(args: Namespace, report: Report | None, problem: str) -> None:
    if args.json:
        said: dict[str, Any] = {"error": problem} if problem else {"avatar_id": args.avatar_id}
        say_json(said | ({"report": report.as_json()} if report else {}))
        return
    if report:
        say(report.as_text())
    say(problem or f"made: {args.avatars / args.avatar_id}")


if __name__ == "__main__":
    sys.exit(main())
