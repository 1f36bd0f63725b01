"""The mouth without weights: what it hears, and how it bends a picture."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from core.avatar import MEDIAPIPE, Avatar
from core.frames import Frames
from core.media import FPS, SAMPLE_RATE, TICK_SAMPLES, Face, FaceJob, Image, Pcm, Window
from nets.mouth import MouthFeatures
from stillreal import StillEngine, bend, locate, mouth_patch, observe, paste

Spoken = tuple[dict[str, Any], Pcm]
Array = NDArray[Any]

SHARED = Path(__file__).parents[2] / "shared" / "data"
MOUTH = np.array([[-1, 0], [1, 0], [0, -0.3], [0, 0.02], [0, 0.04], [0, 0.4], [0, 1.7], [0, -0.8]])


def portrait(
    half_px: float = 30, centre: tuple[float, float] = (256, 300), roll: float = 0, size: tuple[int, int] = (512, 512)
) -> Avatar:
    """One picture of skin with pores, a jaw and two lips; the mouth is `2 * half_px` wide and `roll` radians rolled."""
    across = half_px * np.array([np.cos(roll), np.sin(roll)])
    points = MOUTH @ np.array([across, [-across[1], across[0]]]) + centre
    image = np.full((size[1], size[0], 3), (150, 120, 110), np.uint8)
    axes, degrees = (2.1 * half_px, 1.8 * half_px), float(np.degrees(roll))
    pixel = tuple(round(16 * v) for v in centre)
    cv2.ellipse(image, pixel, tuple(int(16 * a) for a in axes), degrees, 0, 360, (130, 155, 205), -1, cv2.LINE_AA, 4)
    for lip, start in ((0.4, 0), (0.3, 180)):
        shape = (int(16 * half_px), int(16 * lip * half_px))
        cv2.ellipse(image, pixel, shape, degrees, start, start + 180, (100, 100, 185), -1, cv2.LINE_AA, 4)
    ends = [tuple(round(16 * v) for v in points[i]) for i in (0, 1)]
    cv2.line(image, ends[0], ends[1], (60, 50, 100), max(1, int(half_px / 20)), cv2.LINE_AA, 4)
    grain = np.random.default_rng(5).normal(0, 3, image.shape)
    image = np.clip(image + grain, 0, 255).astype(np.uint8)
    return with_mouth(Frames.of([image]), points)


def with_mouth(frames: Frames, points: Array) -> Avatar:
    """An avatar of one picture with its mouth at `points` (8, 2)."""
    landmarks = np.full((1, len(MEDIAPIPE), 2), np.nan, np.float32)
    landmarks[0, :8] = points
    return Avatar("test", frames, np.zeros((1, 4), np.int32), landmarks)


def window(values: Sequence[float]) -> Window:
    return np.array(values, np.float32)


def face(avatar: Avatar, openness: float, width: float = 0, rounding: float = 0) -> Face:
    job = FaceJob(0, 0, window([openness, width, rounding]), avatar, 0, 0.0)
    (answer,) = StillEngine().infer([job])
    return answer


def hole(picture: Image) -> NDArray[np.bool_]:
    """Where it is darker than anything in a portrait of a closed mouth."""
    return np.asarray(picture.max(2) < 90)


SHAPES = [(1, 0, 0), (0.5, 1, 0), (0.6, 0, 1), (0.15, 0.4, 0.4)]
PLACES: list[dict[str, Any]] = [
    {},
    {"half_px": 20, "roll": 0.35},
    {"half_px": 125, "centre": (960, 500), "roll": -0.1, "size": (1920, 1080)},
    {"centre": (20, 300)},
    {"centre": (495, 470), "size": (511, 513)},
    {"centre": (256, 12)},
    {"centre": (250, 511), "roll": 3.0},
]


@pytest.mark.parametrize("shape", [(0, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_a_closed_mouth_is_the_original(shape: tuple[float, float, float]) -> None:
    avatar = portrait()
    assert np.array_equal(paste(face(avatar, *shape)), avatar.image(0))


def test_lips_part_from_nothing() -> None:
    avatar = portrait()
    change = np.abs(paste(face(avatar, 0.004, 1, 0)).astype(int) - avatar.image(0))
    assert change.max() < 60 and change.mean() < 0.1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", PLACES)
def test_the_patch_meets_the_picture_without_an_edge(place: dict[str, Any], shape: tuple[float, float, float]) -> None:
    avatar = portrait(**place)
    x1, y1, x2, y2 = mouth_patch(avatar, 0)
    original, drawn = avatar.image(0)[y1:y2, x1:x2], face(avatar, *shape).image
    assert drawn.shape == original.shape and drawn.dtype == np.uint8
    for side in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        assert np.array_equal(drawn[side], original[side])


@pytest.mark.parametrize("place", PLACES)
def test_the_patch_is_even_and_inside_the_picture(place: dict[str, Any]) -> None:
    avatar = portrait(**place)
    x1, y1, x2, y2 = box = mouth_patch(avatar, 0)
    assert all(isinstance(side, int) and side % 2 == 0 for side in box)
    assert 0 <= x1 < x2 <= avatar.size[0] and 0 <= y1 < y2 <= avatar.size[1]


def test_paste_changes_nothing_outside_the_patch() -> None:
    avatar = portrait()
    x1, y1, x2, y2 = mouth_patch(avatar, 0)
    before, after = avatar.image(0).copy(), paste(face(avatar, 1))
    assert not np.array_equal(after, before) and np.array_equal(avatar.image(0), before)
    after[y1:y2, x1:x2] = before[y1:y2, x1:x2]
    assert np.array_equal(after, before)


@pytest.mark.parametrize("place", PLACES[:3])
def test_the_opening_grows_with_openness(place: dict[str, Any]) -> None:
    avatar = portrait(**place)
    areas = [int(hole(face(avatar, openness).image).sum()) for openness in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    assert all(less < more for less, more in pairwise(areas))
    assert areas[-1] > 0.2 * place.get("half_px", 30) ** 2


def test_the_chin_goes_down_with_the_jaw() -> None:
    avatar, column = portrait(), 256
    edges = [np.argmin(np.diff(paste(face(avatar, openness))[330:400, column, 2].astype(int))) for openness in (0, 1)]
    assert edges[1] - edges[0] >= 5


def test_wide_is_wider_and_round_is_narrower() -> None:
    avatar = portrait()
    wide, plain, rounded = (
        np.flatnonzero(hole(face(avatar, 0.5, *shape).image).any(0)).size for shape in ((1, 0), (0, 0), (0, 1))
    )
    assert wide > 1.08 * plain > 1.08 * 1.15 * rounded


def test_a_rolled_mouth_opens_like_an_upright_one() -> None:
    upright, rolled = (hole(face(portrait(roll=roll), 0.8).image).sum() for roll in (0, 0.5))
    assert rolled == pytest.approx(upright, rel=0.12)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", [(1, 0, 0), (1, 1, 0), (1, 0, 1), (0.3, 0, 1)])
def test_the_warp_never_folds(place: dict[str, Any], shape: tuple[float, float, float]) -> None:
    avatar = portrait(**place)
    mouth = locate(avatar, 0)
    assert mouth is not None
    warp = bend(observe(mouth, avatar.image(0)), window(shape))
    rows, columns = np.indices(warp.inside.shape[:2])
    lattice = np.stack([columns, rows], 2) @ mouth.lattice[:, :2].T
    for shift, lip in ((warp.upper, 1), (warp.lower, 2)):
        source = (lattice + shift) @ np.linalg.inv(mouth.axes[:, :2]).T
        (d_row, d_column), there = np.gradient(source, axis=(0, 1)), warp.inside[..., lip] < -0.05
        turned = d_column[..., 0] * d_row[..., 1] - d_column[..., 1] * d_row[..., 0]
        assert turned[there].min() > 0


def test_lips_already_apart_open_further_and_hide_what_was_between() -> None:
    avatar = portrait()
    assert avatar.mouth is not None
    points = avatar.mouth[0].copy()
    points[3:5] += [[0, -6], [0, 6]]
    apart = with_mouth(avatar.frames, points)
    assert hole(face(apart, 0.8).image).sum() > hole(face(avatar, 0.8).image).sum()
    assert np.array_equal(paste(face(apart, 0)), apart.image(0))


@pytest.mark.parametrize("points", [np.full((8, 2), np.nan), np.zeros((8, 2)), None])
def test_a_frame_without_a_mouth_stays_as_it_is(points: Array | None) -> None:
    frames = portrait().frames
    avatar = Avatar("none", frames, np.zeros((1, 4), np.int32)) if points is None else with_mouth(frames, points)
    assert np.array_equal(paste(face(avatar, 1)), avatar.image(0))


@pytest.mark.parametrize("centre", [(-500, 300), (540, 560), (300, 2000)])
def test_a_mouth_out_of_the_picture_changes_nothing(centre: tuple[float, float]) -> None:
    avatar = portrait(half_px=20, centre=centre)
    assert np.array_equal(paste(face(avatar, 1)), avatar.image(0))


def test_a_batch_is_answered_in_order() -> None:
    avatars, engine = [portrait(), portrait(half_px=50)], StillEngine()
    jobs = [FaceJob(0, n, window([n / 16, 0, 0]), avatars[n % 2], 0, 0.0) for n in range(engine.max_batch)]
    faces = engine.infer(jobs)
    assert [answer.job for answer in faces] == jobs
    assert all(np.array_equal(answer.image, engine.infer([answer.job])[0].image) for answer in faces)


def test_the_engine_keeps_no_avatar_alive() -> None:
    engine, avatar = StillEngine(), portrait()
    engine.infer([FaceJob(0, 0, window([1, 0, 0]), avatar, 0, 0.0)])
    seen = weakref.ref(avatar)
    del avatar
    gc.collect()
    assert seen() is None


def vowel(ticks: int, low_hz: float = 700, high_hz: float = 1200, level: float = 0.2) -> Pcm:
    """Two formants' worth of a 120 Hz voice."""
    t = np.arange(ticks * TICK_SAMPLES) / SAMPLE_RATE
    harmonics = 120 * np.arange(1, 34)
    gains = np.exp(-(((harmonics[:, None] - [low_hz, high_hz]) / 120) ** 2)).sum(1)
    sound: Array = gains @ np.sin(2 * np.pi * harmonics[:, None] * t)
    return np.asarray(level * sound / np.sqrt(2 * (sound**2).mean()), np.float32)


def noise(ticks: int, level: float) -> Pcm:
    return np.random.default_rng(1).normal(0, level, ticks * TICK_SAMPLES).astype(np.float32)


def silence(ticks: int) -> Pcm:
    return np.zeros(ticks * TICK_SAMPLES, np.float32)


def heard(*sounds: Pcm) -> Array:
    features = MouthFeatures()
    return np.array(features.push(np.concatenate(sounds)) + features.finish())


def test_one_window_a_tick_each_in_range() -> None:
    windows = heard(vowel(10), noise(10, 0.9), silence(5), vowel(5, level=1))
    assert windows.shape == (30, 3) and windows.dtype == np.float32
    assert windows.min() >= 0 and windows.max() <= 1


def test_the_mouth_opens_within_the_tick_of_the_sound() -> None:
    windows = heard(silence(5), vowel(5))
    assert np.all(windows[:5] == 0)
    assert windows[5, 0] > 0.6 * windows[9, 0] > 0.3


def test_the_mouth_is_shut_three_ticks_into_a_silence() -> None:
    windows = heard(vowel(20, level=0.9), silence(6))
    assert windows[20, 0] < windows[19, 0] and np.all(windows[23:] == 0)


def test_the_mouth_closes_gradually() -> None:
    windows = heard(vowel(20), silence(6))
    assert 0 < windows[20, 0] < 0.7 * windows[19, 0]


def test_a_quiet_room_keeps_it_shut() -> None:
    assert np.all(heard(noise(50, 0.003))[:, 0] == 0)
    assert np.all(heard(vowel(25), noise(50, 0.003))[30:, 0] == 0)


def test_a_loud_voice_does_not_stay_wide_open() -> None:
    swell = np.repeat(np.tile([0.15, 0.9], 50), 2 * TICK_SAMPLES).astype(np.float32)
    openness = heard(vowel(200, level=1) * swell)[100:, 0]
    assert openness.max() < 1 and openness.std() > 0.1


def test_hiss_is_wide_and_nearly_closed() -> None:
    t = np.diff(noise(20, 0.05), n=3, append=[0, 0, 0]).astype(np.float32)
    opened, wide, rounded = heard(vowel(10), t)[20]
    assert 0.05 < opened < 0.3 and wide > 0.5 and rounded < 0.1


def test_a_dark_vowel_is_round_and_a_bright_one_wide() -> None:
    dark, bright = heard(vowel(10, 350, 700))[-1], heard(vowel(10, 300, 2500))[-1]
    assert dark[2] > 0.6 > 0.1 > dark[1]
    assert bright[1] > 0.6 > 0.1 > bright[2]


def test_the_pieces_sound_arrives_in_do_not_matter() -> None:
    pcm = np.concatenate([vowel(20), noise(7, 0.05), silence(3), vowel(4, 300, 900)])
    features, pieces, rng = MouthFeatures(), [], np.random.default_rng(2)
    cuts = np.cumsum(rng.integers(0, 700, 200))
    for piece in np.split(pcm, cuts[cuts < len(pcm)]):
        pieces += features.push(piece)
    assert np.array_equal(pieces, heard(pcm))


def test_reset_forgets() -> None:
    features = MouthFeatures()
    features.push(vowel(40, level=1)[:-100])
    features.reset()
    assert np.array_equal(features.push(vowel(10)), heard(vowel(10)))


def decoded(path: Path) -> Pcm:
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
        frames = [*container.decode(audio=0), None]
        return np.concatenate([part.to_ndarray()[0] for frame in frames for part in resampler.resample(frame)])


def loudness_db(pcm: Pcm) -> Array:
    ticks = pcm[: len(pcm) // TICK_SAMPLES * TICK_SAMPLES].reshape(-1, TICK_SAMPLES)
    return np.asarray(np.clip(10 * np.log10((ticks**2).mean(1) + 1e-12), -60, 0))


@pytest.fixture(scope="module")
def speech() -> list[Spoken]:
    """Forty utterances with their phonemes' times."""
    index = SHARED / "speech" / "index.jsonl"
    if not index.is_file():
        pytest.skip("needs ../shared/data/speech")
    entries = [json.loads(line) for line in index.read_text().splitlines()[-40:]]
    return [(entry, decoded(index.parent / entry["file"])) for entry in entries]


def test_openness_follows_loudness(speech: list[Spoken]) -> None:
    scores = [np.corrcoef(heard(pcm)[:, 0], loudness_db(pcm))[0, 1] for _, pcm in speech]
    assert np.mean(scores) > 0.75


def test_openness_follows_the_loudness_of_real_people() -> None:
    clips = sorted((SHARED / "clips").glob("*.mpg"))
    if not clips:
        pytest.skip("needs ../shared/data/clips")
    for clip in clips:
        pcm = decoded(clip)
        windows = heard(pcm)
        assert np.corrcoef(windows[:, 0], loudness_db(pcm))[0, 1] > 0.75
        assert windows[-5:, 0].max() == 0


def test_the_mouth_is_shut_in_pauses(speech: list[Spoken]) -> None:
    shut = []
    for _, pcm in speech:
        quiet = loudness_db(pcm) < -50
        long = quiet[3:] & quiet[2:-1] & quiet[1:-2] & quiet[:-3]
        shut += list(heard(pcm)[3:, 0][long] == 0)
    assert len(shut) > 500 and np.mean(shut) > 0.99


VOWELS = "aəiuoɛɤɪæeʌɔOIʊɑAyɐWɜY"


def said(entry: dict[str, Any], windows: Array) -> Iterator[tuple[str, float]]:
    """Each tick's phoneme, at its middle, and openness."""
    ends_ms = np.cumsum(entry["aligned_ms"])
    for tick, one in enumerate(windows):
        place = np.searchsorted(ends_ms, (tick + 0.5) * 1000 / FPS, side="right")
        if place < len(ends_ms):
            yield entry["phonemes"][place], float(one[0])


def test_vowels_open_and_lip_closures_close(speech: list[Spoken]) -> None:
    ticks = [pair for entry, pcm in speech for pair in said(entry, heard(pcm))]
    vowels, stops, nasals, pads = (
        np.mean([openness for phoneme, openness in ticks if phoneme in kind])
        for kind in (set(VOWELS), {"p", "b"}, {"m"}, {"<pad>"})
    )
    assert vowels > 0.45 and stops < 0.35 * vowels and nasals < 0.7 * vowels and pads < 0.02
