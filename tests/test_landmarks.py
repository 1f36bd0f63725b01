"""Faces are found, whole and in pixels, and nothing is told to anybody else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.avatar import LEFT_EYE, MEDIAPIPE, OVAL
from core.errors import BadRequest
from core.media import Image
from studio.film import Film
from studio.landmarks import NOWHERE, Landmarker, to_tracks
from tests.fakes.films import CLIP, MODEL

needs_model = pytest.mark.skipif(
    not MODEL.exists() or not find_spec("mediapipe"), reason="needs MediaPipe and the shared face landmarker"
)


@pytest.fixture(scope="module")
def landmarker() -> Iterator[Landmarker]:
    with Landmarker(MODEL) as it:
        yield it


@pytest.fixture(scope="module")
def person() -> Image:
    if not CLIP.exists():
        pytest.skip("needs the shared clips")
    return next(iter(Film(CLIP, 1)))


@needs_model
def test_a_face_has_478_points_in_pixels(landmarker: Landmarker, person: Image) -> None:
    (face,) = landmarker.faces(person)
    assert face.shape == (478, 2) and face.dtype == np.float32
    assert 90 < np.ptp(face[:, 0]) < 130  # of 360


@needs_model
def test_the_largest_face_comes_first(landmarker: Landmarker, person: Image) -> None:
    both = np.zeros((288, 720, 3), np.uint8)
    both[:230, :288] = cv2.resize(person, (288, 230))
    both[:, 360:] = person
    large, small = landmarker.faces(both)
    assert large.mean(axis=0)[0] > 360 > small.mean(axis=0)[0]


@needs_model
def test_a_person_far_away_is_found_once(landmarker: Landmarker, person: Image) -> None:
    far = np.full((900, 1920, 3), 90, np.uint8)
    far[300:588, 800:1160] = person
    (face,) = landmarker.faces(far)
    assert abs(face - landmarker.faces(person)[0] - [800, 300]).max() < 10


@needs_model
def test_nobody_is_nobody(landmarker: Landmarker) -> None:
    assert landmarker.faces(np.zeros((100, 300, 3), np.uint8)) == []


@needs_model
def test_a_part_of_a_picture_is_read_as_it_looks(landmarker: Landmarker, person: Image) -> None:
    wide = np.zeros((288, 500, 3), np.uint8)
    wide[:, 100:460] = person
    assert len(landmarker.faces(wide[:, 100:460])) == 1


@needs_model
def test_what_mediapipe_reports_leads_nowhere_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example")
    monkeypatch.setenv("no_proxy", "*")
    landmarker = Landmarker(MODEL)
    assert os.environ["https_proxy"] == NOWHERE
    assert "no_proxy" not in os.environ
    landmarker.close()
    landmarker.close()
    assert os.environ["https_proxy"] == "http://proxy.example"
    assert os.environ["no_proxy"] == "*"


@needs_model
def test_nothing_is_written_to_the_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with Landmarker(MODEL) as landmarker:
        landmarker.faces(np.zeros((64, 64, 3), np.uint8))
        sys.stderr.write("but what is ours\n")
    assert capfd.readouterr().err == "but what is ours\n"


@needs_model
def test_a_damaged_model_is_named_and_the_environment_restored(tmp_path: Path) -> None:
    (tmp_path / "face.task").write_bytes(b"PK not a model")
    before = dict(os.environ)
    with pytest.raises(BadRequest, match=r"'face\.task' is not a face landmarker"):
        Landmarker(tmp_path / "face.task")
    assert os.environ == before


def test_a_missing_model_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"python scripts/fetch_models\.py face_landmarker"):
        Landmarker(tmp_path / "face_landmarker.task")


def test_a_missing_mediapipe_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    (tmp_path / "face.task").touch()
    with pytest.raises(BadRequest, match=r"pip install --no-deps -r requirements-studio\.txt"):
        Landmarker(tmp_path / "face.task")
    assert "matplotlib.pyplot" not in sys.modules or sys.modules["matplotlib.pyplot"].__file__


def test_tracks_are_the_table_of_points_and_a_box_around_the_contour() -> None:
    points = np.random.default_rng(0).uniform(100, 300, (5, 478, 2)).astype(np.float32)
    boxes, landmarks = to_tracks(points)
    assert boxes.shape == (5, 4) and boxes.dtype == np.int32
    assert landmarks.shape == (5, 46, 2) and landmarks.dtype == np.float32
    assert np.allclose(landmarks[:, LEFT_EYE], (points[:, 33] + points[:, 133]) / 2)
    assert np.array_equal(landmarks[:, 0], points[:, MEDIAPIPE[0][0]])
    assert (boxes[:, None, :2] <= landmarks[:, OVAL]).all() and (landmarks[:, OVAL] <= boxes[:, None, 2:]).all()
