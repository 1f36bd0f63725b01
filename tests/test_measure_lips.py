"""The meter of lips: what it says of made-up mouths, of real people, and of rubbish."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
import pytest
import torch

from core.media import FPS, SAMPLE_RATE, Image, Pcm
from nets.syncnet import SyncNet
from scripts.lips import Report, measure
from scripts.lips.likeness import landmark_distance, psnr, squared_error, ssim
from scripts.lips.look import look
from scripts.lips.meter import closed_on_silence
from scripts.lips.pictures import Picture, pictures
from scripts.lips.quality import Change, flicker
from scripts.lips.seam import seam
from scripts.lips.second import MOST_TICKS, SyncJudge, judged
from scripts.lips.sound import Sound, read_sound
from scripts.lips.sync import sync
from scripts.lips.tracks import LIPS, Points, Track, face_box, lower_half
from scripts.lips.truth import frozen, in_a_row
from scripts.measure_lips import main
from studio.landmarks import Landmarker

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
MODEL = SHARED / "face" / "face_landmarker.task"
CLIPS = sorted((SHARED / "clips").glob("*.mpg"))

rng = np.random.default_rng(7)

needs_people = pytest.mark.skipif(
    not (CLIPS and MODEL.is_file() and find_spec("mediapipe")),
    reason="needs ../shared/data/clips, ../shared/data/face and mediapipe",
)


def face(opening: float = 0.0, size: float = 100.0) -> Points:
    """A face of which only eyes, lips, nose and chin are anywhere sensible; `opening` in distances between the eyes."""
    points = rng.normal(0, 1e-3, (478, 2))
    places = {33: (-0.7, 0), 133: (-0.3, 0), 362: (0.3, 0), 263: (0.7, 0), 168: (0, 0), 6: (0, 0.2), 197: (0, 0.3)}
    places |= {195: (0, 0.4), 9: (0, -0.2), 151: (0, -0.5), 10: (0, -0.9), 127: (-1, 0), 356: (1, 0), 152: (0, 1.7)}
    places |= {61: (-0.4, 1.1), 291: (0.4, 1.1), 13: (0, 1.1 - opening / 2), 14: (0, 1.1 + opening / 2)}
    for index, place in places.items():
        points[index] = place
    return (size * points + (200, 150)).astype(np.float32)


def speech(seconds: float = 6.0, *, seed: int = 1) -> tuple[Pcm, np.ndarray]:
    """A sound of open vowels and pauses that nobody could foresee, and how loud it is, both at 16 kHz."""
    random = np.random.default_rng(seed)
    n = int(seconds * SAMPLE_RATE)
    syllables = np.interp(
        np.arange(n) / SAMPLE_RATE, np.arange(0, seconds, 0.11), random.random(int(seconds / 0.11) + 1)
    )
    loud = np.where(syllables > 0.35, syllables, 0.0)
    vowel = sum(np.sin(2 * np.pi * hz * np.arange(n) / SAMPLE_RATE) for hz in (600, 720, 840, 1080))
    return (0.1 * loud * vowel).astype(np.float32), loud


def speaker(loud: np.ndarray, late_s: float = 0.0, times: np.ndarray | None = None) -> Track:
    """A mouth that opens as `loud` says, `late_s` later."""
    times = np.arange(0, len(loud) / SAMPLE_RATE, 0.04) if times is None else times
    opening = 0.3 * np.interp(times - late_s, np.arange(len(loud)) / SAMPLE_RATE, loud)
    return Track(times, np.stack([face(each) for each in opening]))


@pytest.mark.parametrize("late_ms", [-200, -90, 0, 33, 150, 250])
def test_the_offset_is_how_late_the_mouth_is(late_ms: int) -> None:
    pcm, loud = speech()
    fit = sync(speaker(loud, late_ms / 1000), Sound(0.0, pcm))
    assert fit.offset_ms == pytest.approx(late_ms, abs=12)
    assert fit.correlation is not None and fit.correlation > 0.7
    assert fit.confidence is not None and fit.confidence > 3


def test_pictures_that_come_when_they_like_change_nothing() -> None:
    pcm, loud = speech()
    times = np.cumsum(rng.choice([0.02, 0.033, 0.04, 0.1], 120))
    fit = sync(speaker(loud, 0.06, times[times < 6]), Sound(0.0, pcm))
    assert fit.offset_ms == pytest.approx(60, abs=15)


def test_only_the_clock_counts_not_where_sound_and_pictures_begin() -> None:
    pcm, loud = speech()
    track = speaker(loud)
    later = Track(track.times[20:] + 1000, track.points[20:])
    fit = sync(later, Sound(1000.3, pcm[round(0.3 * SAMPLE_RATE) :]))
    assert fit.offset_ms == pytest.approx(0, abs=12)


def test_pictures_without_the_face_are_left_out() -> None:
    pcm, loud = speech()
    track = speaker(loud, 0.08)
    track.points[30:60] = np.nan
    fit = sync(track, Sound(0.0, pcm))
    assert fit.offset_ms == pytest.approx(80, abs=15)


def test_a_frozen_mouth_has_no_offset_and_no_correlation() -> None:
    pcm, loud = speech()
    fit = sync(speaker(np.full_like(loud, 0.3)), Sound(0.0, pcm))
    assert fit.offset_ms is None and fit.correlation == 0 and fit.correlation_as_is == 0


def test_the_sound_of_somebody_else_is_no_match() -> None:
    _, loud = speech(12, seed=1)
    pcm, _ = speech(12, seed=2)
    fit = sync(speaker(loud), Sound(0.0, pcm))
    assert fit.confidence is not None and fit.confidence < 3


@pytest.mark.parametrize("hz", [0, 800])
def test_without_speech_nothing_is_said(hz: int) -> None:
    _, loud = speech()
    pcm = (0.3 * np.sin(2 * np.pi * hz * np.arange(len(loud)) / SAMPLE_RATE)).astype(np.float32)
    fit = sync(speaker(loud), Sound(0.0, pcm))
    assert fit.offset_ms is None and fit.correlation is None and fit.confidence is None


def test_sound_that_ends_before_the_first_picture_says_nothing() -> None:
    pcm, loud = speech()
    fit = sync(speaker(loud), Sound(-60.0, pcm))
    assert fit.offset_ms is None and fit.correlation is None


def test_lips_are_judged_in_silence_only() -> None:
    pcm, loud = speech(4)
    pcm[2 * SAMPLE_RATE :] = 0
    shut, ajar = (speaker(np.where(np.arange(len(loud)) < 2 * SAMPLE_RATE, loud, rest)) for rest in (0.0, 0.3))
    assert closed_on_silence(shut, Sound(0.0, pcm)) == pytest.approx(1, abs=0.04)
    rate = closed_on_silence(ajar, Sound(0.0, pcm))
    assert rate is not None and rate < 0.2
    assert closed_on_silence(shut, Sound(90.0, pcm)) is None


def textured(seed: int = 3) -> Image:
    noise = np.random.default_rng(seed).normal(128, 30, (240, 320, 3))
    return np.clip(cv2.GaussianBlur(noise, (0, 0), 2), 0, 255).astype(np.uint8)


def test_a_box_of_another_brightness_is_a_seam() -> None:
    image, box = textured(), (80, 100, 240, 200)
    figures = []
    for offset in (0, 4, 8, 16):
        pasted = image.copy()
        pasted[100:200, 80:240] += np.uint8(offset)
        figures.append(seam(pasted, box))
    assert figures[0] == pytest.approx(1, abs=0.15)
    assert figures == sorted(figures) and figures[1] > 1.2 and figures[3] > 3


def test_a_seam_is_found_some_pixels_off_where_it_was_thought() -> None:
    image = textured()
    image[100:200, 80:240] += np.uint8(16)
    assert seam(image, (82, 99, 239, 202), reach=3) > 1.8


def test_a_flat_picture_has_no_seam_and_a_box_outside_none_to_see() -> None:
    flat = np.full((100, 100, 3), 90, np.uint8)
    assert seam(flat, (20, 20, 80, 80)) == 1
    assert np.isnan(seam(flat, (-50, -50, 200, 200)))


def test_ssim_and_psnr_of_equal_pictures_are_the_best_there_are() -> None:
    image = textured()
    assert ssim(image, image) == pytest.approx(1)
    assert psnr(squared_error(image, image)) == 100


def test_psnr_is_that_of_the_definition() -> None:
    assert psnr(squared_error(np.full((8, 8, 3), 100, np.uint8), np.full((8, 8, 3), 110, np.uint8))) == pytest.approx(
        28.13, abs=0.01
    )


def test_ssim_of_flat_pictures_is_their_luminance_term() -> None:
    one, other = np.full((32, 32, 3), 100, np.uint8), np.full((32, 32, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(one, other) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=1e-6)


def test_blur_costs_structure() -> None:
    image = textured()
    soft, softer = (np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8) for sigma in (1, 3))
    assert 1 > ssim(soft, image) > ssim(softer, image) > 0


def test_landmark_distance_forgives_where_the_head_is_but_not_the_lips() -> None:
    reference = face(0.1)
    turn = 1.3 * np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]])
    assert landmark_distance((reference @ turn + 40).astype(np.float32), reference) == pytest.approx(0, abs=0.01)
    lower = reference.copy()
    lower[list(LIPS)] += (0, 5)
    assert landmark_distance(lower, reference) == pytest.approx(5, abs=0.01)


def test_change_that_lips_explain_is_no_flicker() -> None:
    moved = [Change(lower=0.5 + lips, upper=0.5, lips=lips) for lips in (0.0, 0.2, 1.0, 2.0, 3.5)]
    restless = [Change(each.lower + 2, each.upper, each.lips) for each in moved]
    assert flicker(moved) == pytest.approx(0, abs=1e-6)
    assert flicker(restless) == pytest.approx(2)
    assert flicker([]) is None


class Fixed:
    """A landmarker that knows one face, and where it is in each picture."""

    def __init__(self, places: list[list[Points]]) -> None:
        self.places = iter(places)

    def faces(self, image: Image) -> list[Points]:
        return next(self.places)


def test_one_face_is_followed_though_another_grows_larger() -> None:
    mine, other = face(), face(size=160) + np.float32(600)
    seen = look(((i / 25, textured()) for i in range(3)), Fixed([[mine], [other, mine], []]))
    assert np.array_equal(seen.track.points[1], mine)
    assert seen.track.seen.tolist() == [True, True, False]


def test_the_second_meter_gets_crops_and_mel_of_the_same_time() -> None:
    pcm, loud = speech(2)
    track = speaker(loud)
    shown: list[tuple[int, ...]] = []

    def judge(crops: np.ndarray, mel: np.ndarray) -> tuple[float, float]:
        shown.extend([crops.shape, mel.shape])
        return 12.0, 5.0

    answer = judged(judge, ((time, textured()) for time in track.times), track, Sound(-0.5, pcm))
    assert answer == (12.0, 5.0)
    crops, mel = shown
    assert crops == (50, 64, 64, 3)
    assert mel[0] == 80 and mel[1] == pytest.approx(1.5 * 80, abs=4)


class Agreeing:
    """Stands in for SyncNet: a mouth as bright as the sound is loud goes with it."""

    def see(self, mouths: torch.Tensor) -> torch.Tensor:
        return self._code(mouths.mean(dim=(2, 3)))

    def hear(self, mel: torch.Tensor) -> torch.Tensor:
        return self._code(mel[:, 0].mean(dim=1)[:, [0, 3, 6, 10, 13]])  # of 80 a second, where the pictures are

    @staticmethod
    def _code(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(values - values.mean(dim=1, keepdim=True) + 1e-6, dim=1)


def toy(late_s: float, seconds: float = 5) -> tuple[np.ndarray, np.ndarray]:
    """Mouths (n, 64, 64, 3), as bright as the sound (80, m) is loud, but so much later."""
    beats = np.random.default_rng(3).uniform(-1, 1, 200)

    def loud(times: np.ndarray) -> np.ndarray:
        return np.asarray(np.interp(times, np.arange(200) * 0.09 - 3, beats))

    mouths = 128 + 100 * loud(np.arange(0, seconds, 1 / FPS) - late_s)
    crops = np.repeat(mouths.astype(np.uint8), 64 * 64 * 3).reshape(-1, 64, 64, 3)
    mel = np.repeat(3 * loud(np.arange(0, seconds, 1 / 80))[None], 80, axis=0).astype(np.float32)
    return crops, mel


@pytest.mark.parametrize("late_ms", [-480, -200, -60, 0, 40, 130, 520])
def test_the_second_meter_finds_how_late_a_mouth_is(late_ms: int) -> None:
    offset_ms, confidence = SyncJudge(cast(SyncNet, Agreeing()))(*toy(late_ms / 1000))
    assert offset_ms == pytest.approx(late_ms, abs=12)
    assert confidence > 5


def test_the_second_meter_is_not_sure_of_what_does_not_belong_together() -> None:
    judge, (crops, mel) = SyncJudge(cast(SyncNet, Agreeing())), toy(0)
    _, right = judge(crops, mel)
    _, wrong = judge(crops, mel[:, ::-1].copy())
    assert wrong < right / 2


def test_the_second_meter_hears_silence_where_sound_is_missing() -> None:
    crops, mel = toy(0)
    agreement = SyncJudge(cast(SyncNet, Agreeing())).agreement(crops, mel[:, :-60])
    assert agreement.shape == (2 * MOST_TICKS + 1,) and np.isfinite(agreement).all()
    assert agreement.argmax() == MOST_TICKS


def test_a_report_says_where_nothing_can_be_told() -> None:
    report = Report(50, 2.0, 1.0, None, None, None, None, None, 1.0, 0.8, 0.0)
    assert "offset" in report.table() and "n/a" in report.table()
    assert json.loads(report.as_json())["offset_ms"] is None


def write(path: Path, shown: list[Picture], sound: Sound | None, *, codec: str, rate: int = 48_000) -> Path:
    """A file with the pictures at their times, and the sound in stereo on the same clock."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "20", "preset": "veryfast", "bf": "0"})
        video.height, video.width = shown[0][1].shape[:2]
        video.pix_fmt, video.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        audio = cast(av.AudioStream, container.add_stream(codec, rate=rate, layout="stereo")) if sound else None
        for time_s, image in shown:
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = round(1000 * time_s), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio and sound:
            wide = av.AudioFrame.from_ndarray(np.tile(sound.pcm, (2, 1)), format="fltp", layout="stereo")
            wide.sample_rate, wide.pts = SAMPLE_RATE, round(sound.start_s * SAMPLE_RATE)
            wide.time_base = Fraction(1, SAMPLE_RATE)
            resampler = av.AudioResampler(format=audio.format, layout="stereo", rate=rate)
            for part in [*resampler.resample(wide), *resampler.resample(None)]:
                container.mux(audio.encode(part))
            container.mux(audio.encode(None))
    return path


def black(n: int = 10) -> list[Picture]:
    return [(i / 25, np.zeros((64, 64, 3), np.uint8)) for i in range(n)]


def test_sound_lies_where_its_times_say(tmp_path: Path) -> None:
    pcm = np.zeros(SAMPLE_RATE, np.float32)
    pcm[SAMPLE_RATE // 2 : SAMPLE_RATE // 2 + 160] = 0.5
    heard = read_sound(write(tmp_path / "a.mkv", black(), Sound(0.3, pcm), codec="libopus"))
    click_s = heard.start_s + np.argmax(np.abs(heard.pcm) > 0.2) / SAMPLE_RATE
    assert click_s == pytest.approx(0.8, abs=0.005)


RUBBISH = {
    "text.mp4": "no video that can be decoded",
    "missing.mp4": "no video that can be decoded",
    "sound.wav": "holds no video",
    "faceless.mkv": "no face was found",
    "single.mkv": "at least two pictures",
}


@needs_people
@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_is_a_clear_line_and_status_1(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.mp4").write_text("hello " * 100)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux(stream.encode(frame))
    write(tmp_path / "faceless.mkv", black(), None, codec="")
    write(tmp_path / "single.mkv", black(1), None, codec="")
    assert main([str(tmp_path / name), "--model", str(MODEL)]) == 1
    said = capsys.readouterr()
    assert RUBBISH[name] in said.err and said.err.count("\n") == 1 and not said.out


@needs_people
def test_a_face_without_sound_is_refused_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "mute.mkv", list(pictures(CLIPS[0]))[:5], None, codec="")
    assert main([str(path), "--model", str(MODEL), "--json"]) == 1
    assert "holds no sound" in json.loads(capsys.readouterr().out)["error"]


def test_without_its_model_the_meter_says_how_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "any.mp4"), "--model", str(tmp_path / "none.task")]) == 1
    assert "fetch_models" in capsys.readouterr().err


@pytest.fixture(scope="module")
def landmarker() -> Iterator[Landmarker]:
    with Landmarker(MODEL) as landmarker:
        yield landmarker


@pytest.fixture(scope="module")
def people(landmarker: Landmarker) -> list[tuple[str, Track, Sound]]:
    return [(path.stem, look(pictures(path), landmarker).track, read_sound(path)) for path in CLIPS]


@needs_people
def test_real_people_are_in_step(people: list[tuple[str, Track, Sound]]) -> None:
    fits = [sync(track, sound) for _, track, sound in people]
    assert all(fit.offset_ms is not None and abs(fit.offset_ms) <= 40 for fit in fits)
    assert np.mean([fit.correlation for fit in fits if fit.correlation is not None]) > 0.5


@needs_people
@pytest.mark.parametrize("shift_ms", [-200, -100, 40, 200])
def test_sound_that_is_moved_is_followed(people: list[tuple[str, Track, Sound]], shift_ms: int) -> None:
    fits = [sync(track, sound.later(shift_ms / 1000)) for _, track, sound in people]
    assert np.mean([fit.offset_ms for fit in fits if fit.offset_ms is not None]) == pytest.approx(-shift_ms, abs=20)


@needs_people
def test_another_person_s_sound_is_clearly_worse(people: list[tuple[str, Track, Sound]]) -> None:
    others = [*people[1:], people[0]]
    right = sync(*in_a_row(people))
    mixed = [(name, track, sound) for (name, track, _), (_, _, sound) in zip(people, others, strict=True)]
    wrong = sync(*in_a_row(mixed))
    assert right.correlation and wrong.correlation and wrong.correlation < right.correlation / 2
    assert right.confidence and wrong.confidence and right.confidence > 5 and wrong.confidence < 3


@needs_people
def test_a_frozen_person_scores_nothing(landmarker: Landmarker) -> None:
    fit = sync(look(frozen(CLIPS[0]), landmarker).track, read_sound(CLIPS[0]))
    assert fit.correlation is not None and abs(fit.correlation) < 0.1 and fit.offset_ms is None


@needs_people
@pytest.mark.parametrize(("name", "codec"), [("peer.mkv", "libopus"), ("peer.mp4", "aac")])
def test_what_a_peer_received_measures_like_the_file(
    landmarker: Landmarker, tmp_path: Path, name: str, codec: str
) -> None:
    """Two pictures in five lost, times off by up to 8 ms, sound at 48 kHz in stereo that begins 0.2 s before them."""
    clip = CLIPS[0]
    random = np.random.default_rng(5)
    kept = [
        (t + 0.7 + random.uniform(0, 0.008), image) for t, image in pictures(clip) if t >= 0.2 and random.random() > 0.4
    ]
    sound = read_sound(clip)
    received = write(tmp_path / name, kept, sound.later(0.7), codec=codec)
    whole, part = (measure(path, landmarker=landmarker) for path in (clip, received))
    assert whole.offset_ms is not None and part.offset_ms == pytest.approx(whole.offset_ms, abs=20)
    assert part.correlation == pytest.approx(whole.correlation, abs=0.15)


@needs_people
def test_a_blurred_late_mouth_shows_against_its_reference(landmarker: Landmarker, tmp_path: Path) -> None:
    clip = CLIPS[1]
    shown = list(pictures(clip))
    x1, y1, x2, y2 = box = lower_half(face_box(look(shown, landmarker).track.points[0]))
    pasted = []
    for i, (time_s, image) in enumerate(shown):
        image = image.copy()
        late = shown[max(0, i - 3)][1][y1:y2, x1:x2]
        image[y1:y2, x1:x2] = cv2.GaussianBlur(late, (0, 0), 2)
        pasted.append((time_s, image))
    path = write(tmp_path / "pasted.mkv", pasted, read_sound(clip), codec="libopus")
    same = measure(clip, landmarker=landmarker, reference=clip)
    worse = measure(path, landmarker=landmarker, reference=clip, box=box)
    assert same.lmd_percent == pytest.approx(0) and same.ssim == pytest.approx(1) and same.psnr_db == 100
    assert worse.lmd_percent and worse.lmd_percent > 1 and worse.ssim and worse.ssim < 0.95
    assert worse.psnr_db and worse.psnr_db < 35
    assert worse.sharpness and worse.sharpness < 0.6 and worse.seam and worse.seam > 1.3
    assert worse.offset_ms and same.offset_ms and worse.offset_ms - same.offset_ms == pytest.approx(120, abs=30)
    assert "SSIM" in worse.table()
    assert same.late_ms == pytest.approx(0, abs=1) and same.alike == pytest.approx(1)
    assert worse.late_ms == pytest.approx(120, abs=15) and worse.alike and worse.alike > 0.8


@needs_people
def test_the_beginning_of_a_reference_is_found_if_asked_for(landmarker: Landmarker, tmp_path: Path) -> None:
    clip = CLIPS[2]
    path = write(tmp_path / "cut.mkv", list(pictures(clip))[5:], read_sound(clip), codec="libopus")
    blind, aligned = (measure(path, landmarker=landmarker, reference=clip, align=align) for align in (False, True))
    assert blind.ssim and aligned.ssim and aligned.ssim > blind.ssim + 0.05
    assert aligned.lmd_percent and blind.lmd_percent and aligned.lmd_percent < blind.lmd_percent / 2
