"""The report card and the tracks: what is wrong is named with where and what to do; what moves evenly stays put."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from studio.landmarks import boxes
from studio.looks import Look, Looks, yaw_deg
from studio.report import CHECKS, Finding, Report, examine
from studio.tracks import GAP_TICKS, filled, followed, gaussian, smooth, stretch
from tests.fakes.films import drawn_face

GOOD = Look(1, drawn_face(), 0.25, 130, np.full((36, 64), 90, np.uint8))
NOBODY = replace(GOOD, faces=0, landmarks=None)


def report(looks: Sequence[Look], whole_s: float = 0, hdr: bool = False) -> Report:
    seen = Looks(looks)
    return examine(seen, stretch(seen.found, seen.cuts), (400, 400), whole_s, hdr=hdr)


def finding(name: str, looks: Sequence[Look], whole_s: float = 0, hdr: bool = False) -> Finding:
    return next(found for found in report(looks, whole_s, hdr).findings if found.check == name)


def test_a_good_film_has_nothing_to_be_done_about() -> None:
    card = report([GOOD] * 250, whole_s=10)
    assert card.level == "ok" and card.refusal == ""
    assert [found.check for found in card.findings] == [check.name for check in CHECKS]
    assert not any(found.advice for found in card.findings)
    assert card.used == (0, 10) and card.seconds == 10


@pytest.mark.parametrize(
    ("name", "bad", "level"),
    [
        ("no_face", NOBODY, "warn"),
        ("several_faces", replace(GOOD, faces=2), "warn"),
        ("mouth_open", replace(GOOD, landmarks=drawn_face(lips=8)), "warn"),
    ],
)
def test_what_is_wrong_is_said_with_its_share_and_place(name: str, bad: Look, level: str) -> None:
    looks = [GOOD] * 100
    looks[40:60] = [bad] * 20
    found = finding(name, looks[20:80] if name == "no_face" else looks)
    if name == "no_face":  # longer than what is guessed: the longest piece is used
        assert found.value == pytest.approx(20 / 60, abs=1e-3) and found.where == ((0.8, 1.6),)
    else:
        assert found.value == pytest.approx(0.2) and found.where == ((1.6, 2.4),)
    assert found.level == level
    assert found.advice["en"] and found.advice["zh"]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("no_face", NOBODY),
        ("several_faces", replace(GOOD, faces=2)),
        ("turned", replace(GOOD, landmarks=drawn_face(yaw_deg=-45))),
        ("cut_off", replace(GOOD, landmarks=drawn_face((380, 200)))),
        ("dark", replace(GOOD, brightness=10)),
        ("bright", replace(GOOD, brightness=250)),
    ],
)
def test_what_is_wrong_all_along_is_refused(name: str, bad: Look) -> None:
    card = report([bad] * 50)
    assert card.level == "refuse"
    assert card.refusal == next(check.en for check in CHECKS if check.name == name)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("mouth_open", replace(GOOD, landmarks=drawn_face(lips=10))),
        ("blurred", replace(GOOD, sharpness=0.08)),
        ("dark", replace(GOOD, brightness=45)),
        ("bright", replace(GOOD, brightness=225)),
        ("small", replace(GOOD, landmarks=drawn_face((100, 100), scale=0.5))),
    ],
)
def test_what_can_be_lived_with_is_a_warning(name: str, bad: Look) -> None:
    assert finding(name, [bad] * 50).level == "warn"


def test_a_photograph_is_warned_about_and_not_refused() -> None:
    card = report([GOOD])
    assert card.level == "warn" and card.used == (0, 0.04)
    assert finding("length", [GOOD]).level == "warn"


def test_a_film_without_anybody_is_refused_with_what_is_known() -> None:
    card = report([NOBODY] * 10)
    assert card.level == "refuse" and card.used == (0, 0)
    assert "Look into the camera" in card.refusal


def test_hdr_and_what_was_left_out_are_said() -> None:
    assert finding("hdr", [GOOD] * 9, hdr=True).level == "warn"
    assert finding("left_out", [GOOD] * 50, whole_s=600).value == 598
    assert finding("left_out", [GOOD] * 50, whole_s=2.1).level == "ok"


def test_a_cut_is_seen_in_the_picture_and_in_the_head() -> None:
    elsewhere = replace(GOOD, thumbnail=np.full((36, 64), 150, np.uint8))
    jumped = replace(GOOD, landmarks=drawn_face((250, 200)))
    for other in (elsewhere, jumped):
        looks = [GOOD] * 30 + [other] * 70
        found = finding("cuts", looks)
        assert (found.value, found.level, found.where) == (1, "warn", ((1.2, 1.24),))
        assert report(looks).used == (1.2, 4.0)


def test_the_card_can_be_read_by_people_and_programs() -> None:
    card = report([GOOD] * 60 + [NOBODY] * 20)
    assert json.loads(json.dumps(card.as_json()))["level"] == "warn"
    assert "no_face" in card.as_text() and "25%" in card.as_text()
    assert "请始终面向镜头" in card.as_text("zh")


def test_a_loop_closes_only_if_the_last_picture_leads_into_the_first() -> None:
    there = [replace(GOOD, landmarks=drawn_face((200 + 0.5 * step, 200))) for step in range(40)]
    assert report(there).loop == "pingpong"
    assert report(there + there[::-1][1:-1]).loop == "cycle"


def test_yaw_is_measured_in_degrees_and_a_tilted_head_is_not_turned() -> None:
    turned = np.stack([drawn_face(yaw_deg=yaw) for yaw in (-40, -10, 0, 25)])
    assert np.allclose(yaw_deg(turned), [-40, -10, 0, 25], atol=0.5)
    tilt = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]], np.float32)
    assert np.allclose(yaw_deg(turned @ tilt.T), [-40, -10, 0, 25], atol=0.5)


def test_who_turns_away_or_leaves_the_picture_is_told_when() -> None:
    way = np.concatenate([np.linspace(0, 1, 40), np.linspace(1, 0, 40)])
    turning = [replace(GOOD, landmarks=drawn_face(yaw_deg=45 * part)) for part in way]
    leaving = [replace(GOOD, landmarks=drawn_face((200, 200 - 110 * part))) for part in way]
    for name, looks in {"turned": turning, "cut_off": leaving}.items():
        found = finding(name, looks)
        assert found.level == "warn" and found.advice
        ((start, stop),) = found.where
        assert 0 < start < 1.6 < stop < 3.2
        assert found.value == pytest.approx((stop - start) / 3.2, abs=1e-3)


def test_a_sharp_face_is_sharper_than_a_blurred_one() -> None:
    fine = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
    coarse = fine[::8, ::8].repeat(8, axis=0).repeat(8, axis=1)
    assert Look.at(fine, 1, drawn_face()).sharpness > 2 * Look.at(coarse, 1, drawn_face()).sharpness


def test_a_face_outside_the_picture_is_no_face() -> None:
    assert Look.at(np.zeros((400, 400, 3), np.uint8), 1, drawn_face((900, 900))).landmarks is None


def points(x: float, width: float = 100) -> NDArray[np.float32]:
    return np.array([[x, 0], [x + width, width]], np.float32)


def test_the_face_that_was_followed_is_followed_on() -> None:
    last, larger, near, small = points(100), points(400, 200), points(110), points(600, 30)
    assert followed([larger, near], None) is larger
    assert followed([larger, near], last) is near
    assert followed([larger], last) is larger
    assert followed([small], last) is None
    assert followed([], last) is None


def test_short_gaps_are_kept_and_long_ones_end_a_piece() -> None:
    found = np.ones(100, bool)
    found[:5] = found[95:] = False
    found[20 : 20 + GAP_TICKS] = False
    none = np.zeros(100, bool)
    assert stretch(found, none) == range(5, 95)
    found[60 : 61 + GAP_TICKS] = False
    assert stretch(found, none) == range(5, 60)
    assert stretch(none, none) == range(0)


def test_a_gap_is_filled_straight() -> None:
    track = np.arange(10, dtype=np.float32)[:, None, None] * np.ones((1, 46, 2), np.float32)
    found = np.ones(10, bool)
    found[3:7] = False
    gappy = np.where(found[:, None, None], track, np.nan).astype(np.float32)
    assert np.allclose(filled(gappy, found), track)


def test_smoothing_leaves_even_movement_where_it_is() -> None:
    track = np.stack([drawn_face((200 + 3 * tick, 200 - tick)) for tick in range(50)])
    around, steady = smooth(track)
    assert np.allclose(steady, track, atol=0.01)
    assert abs(around - boxes(track)).max() <= 1


def test_smoothing_takes_trembling_and_leaves_the_lips_in_time() -> None:
    rng = np.random.default_rng(0)
    gap = np.where(np.arange(100) % 8 < 4, 12, 0)  # syllables
    track = np.stack([drawn_face(lips=lips) for lips in gap]) + rng.normal(0, 0.5, (100, 46, 2)).astype(np.float32)
    _, steady = smooth(track)
    assert steady[:, 8:].std(axis=0).mean() < 0.6 * track[:, 8:].std(axis=0).mean()
    opened = steady[:, 4, 1] - steady[:, 3, 1]
    lags = [np.corrcoef(opened[10:90], gap[10 + lag : 90 + lag])[0, 1] for lag in (-1, 0, 1)]
    assert np.argmax(lags) == 1 and lags[1] > 0.97
    assert np.ptp(opened) > 10


def test_a_single_picture_is_smoothed_into_itself() -> None:
    track = drawn_face()[None]
    assert np.array_equal(gaussian(track, 2), track)
    around, steady = smooth(track)
    assert around.shape == (1, 4) and np.allclose(steady, track)
