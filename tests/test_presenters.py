"""The built-in presenters: complete, small, quiet enough to speak for somebody, and each in a rhythm of their own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from core.avatar import (
    CHIN,
    LEFT_CORNER,
    LEFT_EYE,
    LOWER_INNER,
    NOSE_BASE,
    OVAL,
    RIGHT_CORNER,
    RIGHT_EYE,
    UPPER_INNER,
    Avatar,
    load_avatar,
)
from stillreal import locate

AVATARS = Path(__file__).parent.parent / "data" / "avatars"
NAMES = {"presenter": "Vera", "jun": "Jun"}


@pytest.fixture(scope="module", params=NAMES)
def avatar(request: pytest.FixtureRequest) -> Avatar:
    return load_avatar(AVATARS, request.param)


def landmarks(avatar: Avatar) -> NDArray[np.float32]:
    assert avatar.landmarks is not None
    return avatar.landmarks


def test_they_have_names_and_loop_for_twelve_seconds(avatar: Avatar) -> None:
    assert avatar.title == NAMES[avatar.id] and avatar.size == (512, 512)
    assert avatar.period == len(avatar.frames) == 300


@pytest.mark.parametrize("name", NAMES)
def test_each_takes_less_than_five_megabytes(name: str) -> None:
    assert sum(path.stat().st_size for path in (AVATARS / name).iterdir()) < 5_000_000


def test_every_landmark_is_known_and_in_the_picture(avatar: Avatar) -> None:
    points = landmarks(avatar)
    assert np.isfinite(points).all() and points.min() > 0 and points.max() < min(avatar.size)


def test_eyes_mouth_and_chin_are_where_a_face_has_them(avatar: Avatar) -> None:
    points = landmarks(avatar)
    x, y = points[..., 0], points[..., 1]
    assert (x[:, LEFT_EYE] < x[:, NOSE_BASE]).all() and (x[:, NOSE_BASE] < x[:, RIGHT_EYE]).all()
    assert (x[:, LEFT_CORNER] < x[:, NOSE_BASE]).all() and (x[:, NOSE_BASE] < x[:, RIGHT_CORNER]).all()
    assert (np.diff(y[:, [LEFT_EYE, NOSE_BASE, UPPER_INNER, CHIN]]) > 5).all()


def test_the_contour_and_the_box_hold_the_face(avatar: Avatar) -> None:
    for box, points in zip(avatar.boxes, landmarks(avatar), strict=True):
        contour = points[OVAL][:, None]
        inner = points[[LEFT_EYE, RIGHT_EYE, NOSE_BASE, LEFT_CORNER, RIGHT_CORNER]]
        assert all(cv2.pointPolygonTest(contour, point.tolist(), False) > 0 for point in inner)
        assert (box[:2] < inner).all() and (inner < box[2:]).all() and points[CHIN, 1] < box[3]


def test_their_mouths_rest_closed(avatar: Avatar) -> None:
    points = landmarks(avatar)
    assert (points[:, LOWER_INNER, 1] - points[:, UPPER_INNER, 1] < 1).all()
    mouths = [locate(avatar, i) for i in range(len(avatar.frames))]
    assert all(mouth is not None and mouth.closed == 1 for mouth in mouths)


def test_the_last_picture_leads_into_the_first(avatar: Avatar) -> None:
    small = np.stack([cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA) for image in avatar.frames])
    steps = [cv2.norm(small[i - 1], small[i], cv2.NORM_L1) for i in range(len(small))]
    assert steps[0] <= max(steps[1:])
    drawn = landmarks(avatar)[:, : OVAL.start]
    moved = np.linalg.norm(drawn - np.roll(drawn, 1, axis=0), axis=2).max(axis=1)
    assert moved[0] <= np.percentile(moved, 95)


def test_they_do_not_move_in_step() -> None:
    vera, jun = (landmarks(load_avatar(AVATARS, name))[:, NOSE_BASE] for name in NAMES)
    assert all(abs(np.corrcoef(vera[:, axis], jun[:, axis])[0, 1]) < 0.5 for axis in (0, 1))
