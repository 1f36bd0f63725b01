"""The square around a mouth goes where the head goes, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from core.avatar import LEFT_EYE, LOWER_INNER, NOSE_BASE, RIGHT_EYE, UPPER_INNER
from core.square import cut_square, mouth_square

Floats = NDArray[np.float32]

# A head in units of the distance between the eyes: x to the right, y down, z towards the camera.
HEAD = np.zeros((46, 3))
HEAD[LEFT_EYE], HEAD[RIGHT_EYE] = (-0.5, 0, 0.25), (0.5, 0, 0.25)
HEAD[NOSE_BASE] = 0, 0.78, 0.5
HEAD[UPPER_INNER] = HEAD[LOWER_INNER] = 0, 1.14, 0.4


def face(
    yaw: float = 0, pitch: float = 0, roll: float = 0, unit: float = 90, at: tuple[float, float] = (200, 150)
) -> Floats:
    """Landmarks (46, 2) of the head turned by so many degrees, seen from far away."""
    a, b, c = np.radians([yaw, pitch, roll])
    around_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    around_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    around_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turned = HEAD @ (around_z @ around_x @ around_y).T
    return np.asarray(unit * turned[:, :2] + at, np.float32)


def test_the_mouth_is_in_the_middle_and_the_square_reaches_from_nose_to_chin() -> None:
    x, y, side = mouth_square(face())
    assert x == pytest.approx(200)
    assert abs(y - face()[UPPER_INNER, 1]) < 0.15 * side
    assert 1.5 * 90 < side < 2 * 90


def test_it_moves_and_grows_with_the_face() -> None:
    x, y, side = mouth_square(face())
    moved = np.asarray(2.5 * face() + [-30, 12], np.float32)
    np.testing.assert_allclose(mouth_square(moved), [2.5 * x - 30, 2.5 * y + 12, 2.5 * side], rtol=1e-5)


@pytest.mark.parametrize("degrees", [-90, -25, 10, 45, 180])
def test_it_turns_with_the_picture(degrees: float) -> None:
    x, y, side = mouth_square(face(at=(0, 0)))
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = mouth_square(face(roll=degrees, at=(0, 0)))
    np.testing.assert_allclose(turned, [c * x - s * y, s * x + c * y, side], atol=1e-3)


@pytest.mark.parametrize("yaw", [-40, -20, 20, 40])
@pytest.mark.parametrize("pitch", [-15, 0, 15])
def test_a_turned_head_has_a_square_of_nearly_the_same_size_with_the_mouth_in_it(yaw: float, pitch: float) -> None:
    landmarks = face(yaw, pitch)
    x, y, side = mouth_square(landmarks)
    assert side == pytest.approx(mouth_square(face())[2], rel=0.25)
    away = np.abs(landmarks[UPPER_INNER] - [x, y])
    assert (away < 0.25 * side).all()


def test_a_mouth_that_opens_does_not_move_it() -> None:
    shut, opened = face(), face()
    opened[[0, 1, 2, 3, 4, 5, 6]] += 25
    opened[10:] += 25
    np.testing.assert_array_equal(mouth_square(shut), mouth_square(opened))


def test_many_faces_at_once_are_each_by_itself() -> None:
    faces = np.stack([face(10), face(0, 5, unit=50), face(roll=8)])
    np.testing.assert_array_equal(mouth_square(faces), np.stack([mouth_square(each) for each in faces]))
    assert mouth_square(faces).dtype == np.float32


def test_eyes_in_one_place_give_a_square_all_the_same() -> None:
    landmarks = face()
    landmarks[LEFT_EYE] = landmarks[RIGHT_EYE]
    assert np.isfinite(mouth_square(landmarks)).all()
    assert np.isfinite(mouth_square(np.zeros((46, 2), np.float32))).all()


PICTURE = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)


def test_a_square_of_the_size_wanted_is_a_piece_of_the_picture() -> None:
    np.testing.assert_array_equal(cut_square(PICTURE, (39.5, 29.5, 32), 32), PICTURE[14:46, 24:56])


def test_a_square_beyond_the_border_repeats_the_border() -> None:
    cut = cut_square(PICTURE, (-0.5, 29.5, 32), 32)
    np.testing.assert_array_equal(cut[:, 16:], PICTURE[14:46, :16])
    np.testing.assert_array_equal(cut[:, :16], np.repeat(PICTURE[14:46, :1], 16, axis=1))


def test_a_large_square_is_averaged() -> None:
    means = PICTURE[6:54, 16:64].reshape(16, 3, 16, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(cut_square(PICTURE, (39.5, 29.5, 48), 16), means, atol=0.51)


def test_a_square_without_end_takes_no_more_memory_than_the_picture() -> None:
    assert cut_square(PICTURE, (40, 30, 1e9), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("square", [(39.5, 29.5, 32), (30.2, 33.7, 41.5), (44, 28, 20)])
def test_a_point_is_where_it_is_in_sides_of_the_square_from_its_middle(square: tuple[float, float, float]) -> None:
    y, x = np.mgrid[:60, :80]
    dot = 255 * np.exp(-((x - 42) ** 2 + (y - 31) ** 2) / 2 / 2.5**2)
    cut = cut_square(np.repeat(dot[..., None], 3, axis=2).astype(np.uint8), square, 64)[..., 0].astype(float)
    line = (np.arange(64) + 0.5) / 64 - 0.5
    found = np.array([(cut.sum(axis=0) * line).sum(), (cut.sum(axis=1) * line).sum()]) / cut.sum()
    np.testing.assert_allclose(found, (np.array([42, 31]) - square[:2]) / square[2], atol=0.01)
