"""An avatar is made of a film whole or not at all, and a film that cannot become one is told why."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from core.avatar import load_avatar
from core.errors import BadRequest, UnknownAvatar
from core.media import Image
from studio.film import Film
from studio.landmarks import Landmarker
from studio.make_avatar import Refused, Wish, main, make_avatar
from studio.report import Report
from tests.fakes.films import CLIP, MODEL, write_film

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    not (MODEL.exists() and CLIP.exists() and find_spec("mediapipe")),
    reason="needs MediaPipe, the shared face landmarker and the shared clips",
)


@pytest.fixture(scope="module")
def landmarker() -> Iterator[Landmarker]:
    with Landmarker(MODEL) as it:
        yield it


@pytest.fixture(scope="module")
def person() -> list[Image]:
    return list(Film(CLIP, 1))


def quiet(progress: int, stage: str) -> None: ...


def refusal(landmarker: Landmarker, film: Path) -> dict[str, str]:
    """The levels of what is found in a film that is refused."""
    with pytest.raises(Refused) as refused:
        make_avatar(Wish(film, "it", film.parent / "avatars"), landmarker, quiet)
    assert not (film.parent / "avatars").exists()
    return levels(refused.value.report)


def levels(report: Report) -> dict[str, str]:
    return {finding.check: finding.level for finding in report.findings}


def test_a_film_becomes_an_avatar_with_the_face_in_its_boxes(landmarker: Landmarker, tmp_path: Path) -> None:
    told: list[int] = []
    wish = Wish(CLIP, "person", tmp_path, title="A person", licence="GRID")
    report = make_avatar(wish, landmarker, lambda progress, _: told.append(progress))
    avatar = load_avatar(tmp_path, "person")
    assert (len(avatar.frames), avatar.size, avatar.title) == (75, (360, 288), "A person")
    assert avatar.landmarks is not None and np.isfinite(avatar.landmarks).all()
    assert (avatar.boxes[:, :2] <= avatar.landmarks.mean(axis=1)).all()
    assert (avatar.landmarks.mean(axis=1) <= avatar.boxes[:, 2:]).all()
    assert np.abs(np.diff(avatar.boxes, axis=0)).max() <= 2
    assert abs(avatar.image(40).astype(int) - list(Film(CLIP, 3))[40]).mean() < 4
    assert levels(report)["mouth_open"] == "warn"  # he speaks
    assert told == sorted(told) and told[-1] == 100


def test_a_face_that_is_hidden_for_a_moment_is_drawn_through(
    landmarker: Landmarker, person: list[Image], tmp_path: Path
) -> None:
    images = [image.copy() for image in (*person, *person[::-1])]
    for image in images[20:26]:
        image[100:288, 80:230] = image[100:288, 80:230].mean(axis=(0, 1))
    film = write_film(tmp_path / "film.mkv", images, rate=30)
    report = make_avatar(Wish(film, "it", tmp_path / "avatars"), landmarker, quiet)
    avatar = load_avatar(tmp_path / "avatars", "it")
    assert avatar.landmarks is not None and np.isfinite(avatar.landmarks).all()
    assert len(avatar.frames) == pytest.approx(50 * 25 / 30, abs=1)
    assert levels(report)["no_face"] == "warn"


def test_a_photograph_becomes_an_avatar_of_one_picture(
    landmarker: Landmarker, person: list[Image], tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "me.png"), cv2.resize(person[0], (717, 576)))
    report = make_avatar(Wish(tmp_path / "me.png", "me", tmp_path / "avatars"), landmarker, quiet)
    assert len(load_avatar(tmp_path / "avatars", "me").frames) == 1
    assert (report.level, levels(report)["length"], levels(report)["small"]) == ("warn", "warn", "ok")


def test_a_film_without_a_face_is_refused(landmarker: Landmarker, tmp_path: Path) -> None:
    wall = np.full((96, 96, 3), 120, np.uint8)
    assert refusal(landmarker, write_film(tmp_path / "film.mp4", [wall] * 30))["no_face"] == "refuse"


def test_two_people_all_along_are_refused(landmarker: Landmarker, person: list[Image], tmp_path: Path) -> None:
    both = [np.hstack([image, image]) for image in person[:8]]
    assert refusal(landmarker, write_film(tmp_path / "film.mp4", both))["several_faces"] == "refuse"


def test_a_film_in_the_dark_is_refused(landmarker: Landmarker, person: list[Image], tmp_path: Path) -> None:
    dark = [(image // 11).astype(np.uint8) for image in person[:8]]
    found = refusal(landmarker, write_film(tmp_path / "film.mp4", dark))
    assert "refuse" in (found["no_face"], found.get("dark"))


def test_a_long_film_is_read_from_its_beginning_and_says_so(
    landmarker: Landmarker, person: list[Image], tmp_path: Path
) -> None:
    film = write_film(tmp_path / "film.mp4", person * 4)
    report = make_avatar(Wish(film, "it", tmp_path / "avatars", seconds=0.4), landmarker, quiet)
    assert len(load_avatar(tmp_path / "avatars", "it").frames) == 10
    assert levels(report)["left_out"] == "warn"


def test_an_avatar_is_replaced_only_if_that_is_wished(
    landmarker: Landmarker, person: list[Image], tmp_path: Path
) -> None:
    film = write_film(tmp_path / "film.mp4", person[:5])
    make_avatar(Wish(film, "it", tmp_path / "avatars"), landmarker, quiet)
    with pytest.raises(BadRequest, match="already"):
        make_avatar(Wish(film, "it", tmp_path / "avatars"), landmarker, quiet)
    make_avatar(Wish(film, "it", tmp_path / "avatars", title="new", replace=True), landmarker, quiet)
    assert load_avatar(tmp_path / "avatars", "it").title == "new"


@pytest.mark.parametrize("name", ["../it", "a/b", "", "..", ".hidden", "a\0b", "x" * 300])
def test_an_id_is_a_folder_name_and_nothing_more(landmarker: Landmarker, tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownAvatar):
        make_avatar(Wish(CLIP, name, tmp_path / "avatars"), landmarker, quiet)
    assert list(tmp_path.iterdir()) == []


def ran(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, list[dict[str, Any]]]:
    status = main([*flags, "--model", str(MODEL), "--json"])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_programs_get_a_json_object_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, lines = ran(capsys, str(CLIP), "--avatar_id", "it", "--avatars", str(tmp_path), "--seconds", "0.4")
    assert status == 0
    assert all(0 <= line["progress"] <= 100 and line["stage"] for line in lines[:-1])
    assert lines[-1]["avatar_id"] == "it" and lines[-1]["report"]["level"] == "warn"


def test_programs_get_the_report_of_a_film_that_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", [np.zeros((64, 64, 3), np.uint8)] * 5)
    status, lines = ran(capsys, str(film), "--avatar_id", "it", "--avatars", str(tmp_path / "avatars"))
    assert status == 1
    assert "Look into the camera" in lines[-1]["error"] and lines[-1]["report"]["level"] == "refuse"


@pytest.mark.parametrize("name", ["nothing.mp4", "text.mp4", "folder"])
def test_rubbish_ends_with_a_reason(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    (tmp_path / "text.mp4").write_text("no film\n" * 100)
    (tmp_path / "folder").mkdir()
    status, lines = ran(capsys, str(tmp_path / name), "--avatar_id", "it", "--avatars", str(tmp_path / "avatars"))
    assert (status, lines) == (1, [{"error": "the file holds no pictures that can be decoded"}])


def test_people_get_a_card(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = [str(CLIP), "--avatar_id", "it", "--avatars", str(tmp_path), "--seconds", "0.4", "--model", str(MODEL)]
    assert main(flags) == 0
    out, err = capsys.readouterr()
    assert "mouth_open" in out and out.endswith(f"made: {tmp_path / 'it'}\n")
    assert err == ""


def test_who_is_stopped_in_the_middle_leaves_nothing_behind(person: list[Image], tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", person * 5)
    command = [sys.executable, "-m", "studio.make_avatar", str(film), "--avatar_id", "it", "--json"]
    command += ["--avatars", str(tmp_path / "avatars"), "--model", str(MODEL)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = iter(process.stdout)
        assert any(json.loads(line).get("progress") == 51 for line in lines)
        assert list((tmp_path / "avatars").iterdir()), "it should be writing now"
        process.send_signal(signal.SIGTERM)
        rest = [json.loads(line) for line in lines]
        assert process.wait(30) == 1
        assert process.stderr.read() == ""
    assert "nothing was written" in rest[-1]["error"]
    assert list((tmp_path / "avatars").iterdir()) == []
