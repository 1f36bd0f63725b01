"""Training on films of noise: what it hears, what it writes, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import wave
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

import tests.fakes.nets  # noqa: F401, torch on one thread
from core.avatar import (
    CHIN,
    LEFT_CORNER,
    LEFT_EYE,
    LOWER_INNER,
    LOWER_OUTER,
    NOSE_BASE,
    RIGHT_CORNER,
    RIGHT_EYE,
    UPPER_INNER,
)
from core.errors import BadRequest
from core.media import SAMPLE_RATE, TICK_SAMPLES, Pcm
from nets.checkpoints import load_wav2lip, save_wav2lip
from nets.lips import our_layout
from nets.mel import MelFeatures
from nets.syncnet import load_syncnet
from studio import train_lips
from studio.lipdata import PAST_COLUMNS, SHIFTS, Films, Sounds, posed, unlike
from studio.train_lips import Run, ahead, importance, out_of_sync, sound_stage, start, train

TICKS = 30  # of each utterance
WIDTH = 0.25
SPLITS = {"train": 2, "val": 1}


def tones(rng: np.random.Generator) -> tuple[Pcm, NDArray[np.float32]]:
    """Three tones and nothing in turn, 160 ms each, and the visemes (TICKS, 14) that go with them."""
    kinds = (np.arange(TICKS) // 4 + rng.integers(4)) % 4
    t = np.arange(TICKS * TICK_SAMPLES) / SAMPLE_RATE
    hz, loud = np.array([0, 300, 1200, 4000])[kinds], kinds > 0
    pcm = 0.3 * loud.repeat(TICK_SAMPLES) * np.sin(2 * np.pi * hz.repeat(TICK_SAMPLES) * t)
    return pcm.astype(np.float32), np.eye(4, 14, dtype=np.float32)[kinds] * loud[:, None]


def write_wav(path: Path, pcm: Pcm) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((pcm * 32767).astype("<i2").tobytes())


def write_film(path: Path, sayings: dict[int, NDArray[np.float32]], rng: np.random.Generator, spoken: int = 8) -> None:
    """Two scenes of a person who says so many ticks of something in each, as `scripts.presenter.talkers` writes it."""
    n = 2 * (2 + spoken)
    utterance, tick, weights = np.full(n, -1), np.full(n, -1), np.zeros((n, 14), np.float32)
    landmarks = np.tile(np.array([80, 90], np.float32), (n, 10, 1))
    landmarks[:, LEFT_EYE], landmarks[:, RIGHT_EYE], landmarks[:, NOSE_BASE] = (45, 10), (115, 10), (80, 62)
    landmarks[:, LEFT_CORNER], landmarks[:, RIGHT_CORNER] = (60, 90), (100, 90)
    for scene in range(2):
        rows, number = slice(scene * n // 2 + 2, (scene + 1) * n // 2), int(rng.choice(list(sayings)))
        first = int(rng.integers(TICKS - spoken + 1))
        utterance[rows], tick[rows] = number, np.arange(first, first + spoken)
        weights[rows] = sayings[number][first : first + spoken]
    reach = np.tile(landmarks[0], (2, 15, 1, 1))
    for viseme, opening in enumerate((0.3, 0.6, 1), 1):
        landmarks[:, [LOWER_INNER, LOWER_OUTER, CHIN], 1] += 20 * opening * weights[:, [viseme]]
        reach[:, 1 + viseme, [LOWER_INNER, LOWER_OUTER, CHIN], 1] += 20 * opening
    images = rng.integers(0, 255, (n, 20, 20, 3)).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    scenes = np.arange(n) // (n // 2)
    np.savez(
        path,
        images=images,
        landmarks=landmarks,
        reach=reach,
        weights=weights,
        scene=scenes,
        utterance=utterance,
        tick=tick,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of two people to learn from and of one to be tested on, and two sounds for each split."""
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    for split, people in SPLITS.items():
        sayings = {}
        for number in (1, 2) if split == "train" else (3, 4):
            pcm, sayings[number] = tones(rng)
            write_wav(folder / f"{number:04d}.opus", pcm)
        for person in range(people):
            write_film(folder / f"{split}_{person:04d}.npz", sayings, rng)
        np.savez(
            folder / f"sayings_{split}.npz",
            utterance=np.repeat(list(sayings), TICKS),
            tick=np.tile(np.arange(TICKS), 2),
            weights=np.concatenate(list(sayings.values())),
        )
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SOUND_BATCH": 24, "SYNC_CLIPS": 6, "FACE_CLIPS": 2, "LOOK_CLIPS": 6}.items():
        monkeypatch.setattr(train_lips, name, value)


def options(data: Path, out: Path) -> Namespace:
    return Namespace(films=data, speech=data, out=out, minutes=0.05, width=WIDTH, device="cpu", start=None, seed=0)


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def sounds(data: Path, split: str = "train") -> Sounds:
    return Sounds(data, data / f"sayings_{split}.npz", np.random.default_rng(1))


def test_windows_to_learn_from_are_those_that_the_engine_hears(data: Path) -> None:
    learned, features = sounds(data), MelFeatures(PAST_COLUMNS)
    with wave.open(str(data / "0001.opus")) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / np.float32(32768)
    heard = features.push(pcm) + features.finish()
    assert len(heard) == TICKS
    for tick in range(2, TICKS):  # before that, the past has a column that begins before the sound and ends in it
        np.testing.assert_allclose(learned.window(1, tick, 0), heard[tick], atol=0.01)


def test_a_clip_is_what_its_docstring_says(data: Path) -> None:
    films = Films(data, "train", sounds(data), 128, np.random.default_rng(2))
    clips = [clip for clip, _ in zip(films.clips(), range(20), strict=False)]
    for clip in clips:
        assert clip.face.shape == (128, 128, 3) and clip.targets.shape == (5, 128, 128, 3)
        assert clip.mels.shape == (5, 80, 16) and clip.shifted.shape == (1 + len(SHIFTS), 80, 16)
        assert clip.weights.shape == (5, 14)
        assert clip.points.shape == (6, 8, 2) and clip.opening.shape == (5, 128, 128)
        for array in vars(clip).values():
            assert array.dtype == np.float32 and np.isfinite(array).all()
        assert clip.targets.min() >= 0 and clip.targets.max() <= 1
    assert any(clip.weights.any() for clip in clips)


def test_a_clip_shows_each_opening_where_its_points_are(data: Path) -> None:
    films = Films(data, "train", sounds(data), 128, np.random.default_rng(2))
    line = (np.arange(128) + 0.5) / 128 - 0.5
    for clip, _ in zip(films.clips(), range(10), strict=False):
        lips = clip.points[1:, [UPPER_INNER, LOWER_INNER]]
        areas = clip.opening.sum(axis=(1, 2))
        x = (clip.opening.sum(axis=1) * line).sum(axis=1) / areas
        y = (clip.opening.sum(axis=2) * line).sum(axis=1) / areas
        np.testing.assert_allclose(x, lips[..., 0].mean(axis=1), atol=0.03)
        assert (lips[:, 0, 1] - 0.02 < y).all() and (y < lips[:, 1, 1] + 0.02).all()
        wide, high = np.ptp(clip.points[1:, [LEFT_CORNER, RIGHT_CORNER]], axis=1)[:, 0], np.ptp(lips, axis=1)[:, 1]
        np.testing.assert_allclose(areas / 128**2, wide * high / 2, atol=0.02)  # a drawn line has its own width
        assert (clip.points[:, LEFT_CORNER, 0] < clip.points[:, RIGHT_CORNER, 0]).all()  # in a mirror too


def test_a_clip_of_some_ticks_only_is_still_heard_whole(data: Path) -> None:
    clip = next(Films(data, "train", sounds(data), 128, np.random.default_rng(2)).clips())
    some = clip.only(np.array([3, 1]))
    for name in ("targets", "mels", "opening"):
        np.testing.assert_array_equal(getattr(some, name), getattr(clip, name)[[3, 1]])
    np.testing.assert_array_equal(some.points, clip.points[[0, 4, 2]])
    for name in ("face", "shifted", "weights"):
        assert getattr(some, name) is getattr(clip, name)


def test_mouths_to_aim_at_are_those_of_the_same_head(data: Path) -> None:
    mels, before, wanted = Films(data, "train", sounds(data), 128, np.random.default_rng(2)).moves(40)
    assert mels.shape == (40, 80, 16) and before.shape == wanted.shape == (40, 8, 2)
    assert {array.dtype for array in (mels, before, wanted)} == {np.dtype(np.float32)}
    assert np.abs(before).max() < 0.7
    np.testing.assert_allclose(before[:, NOSE_BASE], wanted[:, NOSE_BASE], atol=1e-5)
    assert np.abs(before - wanted)[:, LOWER_INNER].max() > 0.03
    assert (before[:, LEFT_CORNER, 0] < before[:, RIGHT_CORNER, 0]).all()


def test_a_face_is_where_its_visemes_together_bring_it() -> None:
    reach = np.zeros((15, 10, 2), np.float32)
    reach[:, LOWER_INNER] = (0, 5)
    reach[[1, 10], LOWER_INNER] = [(0, 3), (1, 15)]
    weights = np.zeros((3, 14), np.float32)
    weights[1, 9], weights[2, [0, 9]] = 1, 0.5
    np.testing.assert_allclose(posed(reach, weights)[:, LOWER_INNER], [(0, 5), (1, 15), (0.5, 9)])


def test_people_are_unlike_those_drawn_but_their_lips_still_meet() -> None:
    off = np.stack([unlike(np.random.default_rng(seed)) for seed in range(200)])
    assert off.dtype == np.float32 and off.shape == (200, 8, 2)
    np.testing.assert_array_equal(off[:, LOWER_INNER], off[:, UPPER_INNER])
    assert (off.std(0)[:, 1] > 0.003).all() and np.abs(off).max() < 0.25


def test_a_picture_counts_most_where_the_mouth_is() -> None:
    where = torch.tensor([[0.0, 0.0], [-0.2, 0.1]])
    matter = importance(where, 64)
    assert matter.shape == (2, 1, 64, 64)
    assert 1 <= matter.min() < 1.1 and 6.9 < matter.max() <= 7
    for each, (x, y) in zip(matter[:, 0], where, strict=True):
        row, column = divmod(int(each.argmax()), 64)
        assert (column + 0.5) / 64 - 0.5 == pytest.approx(float(x), abs=0.02)
        assert (row + 0.5) / 64 - 0.5 == pytest.approx(float(y), abs=0.02)


def test_mouths_are_judged_by_sound_only_while_they_speak(data: Path, tmp_path: Path) -> None:
    run = start(options(data, tmp_path))
    run.sync.eval()
    clips = [clip for clip, _ in zip(run.train.clips(), range(4), strict=False)]
    made = torch.rand(4 * 5, 3, 128, 128)
    silent = [replace(clip, weights=np.zeros_like(clip.weights)) for clip in clips]
    assert out_of_sync(run, made, silent) == 0
    spoken = [replace(clip, weights=np.ones_like(clip.weights)) for clip in clips]
    alone = torch.stack([out_of_sync(run, made[5 * i : 5 * i + 5], [clip]) for i, clip in enumerate(spoken)])
    assert alone.min() >= 0 and alone.max() <= 2
    torch.testing.assert_close(out_of_sync(run, made, spoken), alone.mean())
    torch.testing.assert_close(out_of_sync(run, made, [*silent[:3], spoken[3]]), alone[3])


def test_a_film_too_short_is_an_error_and_no_silence(data: Path, tmp_path: Path) -> None:
    write_film(tmp_path / "train_0000.npz", {1: tones(np.random.default_rng(0))[1]}, np.random.default_rng(0), spoken=3)
    films = Films(tmp_path, "train", sounds(data), 128, np.random.default_rng(3))
    with pytest.raises(ValueError, match="high"):
        for _ in ahead(films, 8):
            pass


def test_no_films_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train_"):
        Films(tmp_path, "train", sounds(data), 128, np.random.default_rng(0))


def test_in_three_seconds_all_stages_run_and_the_weights_are_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {key: str(value) for key, value in vars(options(data, tmp_path)).items() if value is not None}
    monkeypatch.setattr("sys.argv", ["train_lips", *(word for key in words for word in (f"--{key}", words[key]))])
    train_lips.main()
    lines = metrics(tmp_path)
    assert [line["stage"] for line in lines if "kind" not in line] == ["sound", "sync", "paint", "face"]
    assert [line["stage"] for line in lines if line.get("kind") == "val"] == ["sound", "sync", "paint", "face"]
    (sound, face) = ([line for line in lines if line["stage"] == stage] for stage in ("sound", "face"))
    assert {"hearing", "aim"} <= sound[0].keys() and {"picture", "aim", "out of sync"} <= face[-1].keys()
    assert all(np.isfinite(value) for line in lines for value in line.values() if not isinstance(value, str))
    assert load_wav2lip(tmp_path / "vivace-lips.pth").layout == our_layout(WIDTH)
    assert load_syncnet(tmp_path / "vivace-sync.pth").sharpness.item() > 2
    for name in ("progress.png", "preview.png"):
        assert cv2.imread(str(tmp_path / name)) is not None
    steps = lines[-1]["step"]
    train_lips.main()  # nothing is left to do
    assert metrics(tmp_path)[-1]["step"] == steps and len(metrics(tmp_path)) == len(lines)


def test_weights_are_learned_on_from(data: Path, tmp_path: Path) -> None:
    first = start(options(data, tmp_path / "first"))
    save_wav2lip(tmp_path / "vivace-lips.pth", first.lips)
    torch.save(first.sync.state_dict(), tmp_path / "vivace-sync.pth")
    wish = options(data, tmp_path / "second")
    wish.start, wish.seed = tmp_path, 1
    second = start(wish)
    assert second.left("sync") == 0 and second.left("face") == 1
    for name, net in {"lips": first.lips, "averaged": first.lips, "sync": first.sync}.items():
        for key, value in second.modules()[name].state_dict().items():
            torch.testing.assert_close(value, net.state_dict()[key], atol=1e-3, rtol=1e-3)
    wish.width = 0.5
    with pytest.raises(BadRequest, match="another size"):
        start(wish)


class Killed(Exception):
    pass


def test_a_killed_training_goes_on_from_its_checkpoint_and_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def die_in_the_third(run: Run, stage: str) -> None:
        if stage == "face":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train_lips, "SAVE_EVERY_S", 0)
        patch.setattr(train_lips, "look", die_in_the_third)
        killed = start(options(data, tmp_path))
        with pytest.raises(Killed):
            train(killed)
    again = start(options(data, tmp_path))
    state = again.resume()
    assert state is not None and state["state"]
    assert f"going on in {again.out}, where " in capsys.readouterr().out
    assert (again.stage, again.steps, again.used_s) == ("face", killed.steps, killed.used_s)
    for name, module in killed.modules().items():
        for key, value in module.state_dict().items():
            assert torch.equal(again.modules()[name].state_dict()[key], value)
    before = len(metrics(tmp_path))
    train(again)
    assert again.steps > killed.steps
    assert {line["stage"] for line in metrics(tmp_path)[before:]} == {"face"}


def learn(run: Run, loss: Callable[[], torch.Tensor], steps: int = 60) -> list[float]:
    """The losses while the sound stage's parameters learn from `loss` alone."""
    optimizer = torch.optim.AdamW(sound_stage(run)[0], lr=2e-3)
    losses = []
    for _ in range(steps):
        found = loss()
        torch.autograd.backward(found)
        losses.append(found.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses


def test_hearing_is_learned_where_sounds_tell_what_a_mouth_does(data: Path, tmp_path: Path) -> None:
    run = start(options(data, tmp_path))
    losses = learn(run, lambda: train_lips._hearing_loss(run, 24), steps=120)
    weights = torch.from_numpy(run.train.sounds.batch(400)[1])
    deaf = min(F.smooth_l1_loss(at * torch.ones_like(weights), weights, beta=0.1) for at in (0, weights.mean(dim=0)))
    assert np.median(losses[-15:]) < 0.7 * deaf


def test_aiming_is_learned_where_sounds_tell_what_a_mouth_does(data: Path, tmp_path: Path) -> None:
    run = start(options(data, tmp_path))
    losses = learn(run, lambda: train_lips._aiming_loss(run, 24))
    _, before, wanted = run.train.moves(400)
    assert np.median(losses[-15:]) < 0.85 * 128 * np.abs(wanted - before).mean()
