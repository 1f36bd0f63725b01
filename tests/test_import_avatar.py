"""Folders of LiveTalking become avatars, and a pickle in one can say numbers and nothing else."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from core.avatar import load_avatar
from core.errors import BadMedia
from core.media import Image
from studio.film import Film
from studio.import_avatar import main
from studio.plainpickle import MAX_BYTES, numbers
from tests.fakes.films import CLIP, MODEL

ROWS = [(100, 200, 60, 140), (101, 201, 61, 141), (102, 202, 62, 142)]  # y1 y2 x1 x2
BOXES = [[60, 100, 140, 200], [61, 101, 141, 201], [62, 102, 142, 202]]


def folder(at: Path, coords: object = ROWS, images: list[Image] | None = None, names: str = "{:08d}.png") -> Path:
    """A folder as LiveTalking makes it, each picture a grey of its own."""
    (at / "full_imgs").mkdir(parents=True)
    images = images or [np.full((288, 361, 3), 40 * number, np.uint8) for number in range(1, 4)]
    for number, image in enumerate(images, 8):
        cv2.imwrite(str(at / "full_imgs" / names.format(number)), image)
    (at / "coords.pkl").write_bytes(coords if isinstance(coords, bytes) else pickle.dumps(coords))
    return at


def imported(source: Path, *flags: str, model: Path = Path("missing.task")) -> int:
    return main([str(source), "--avatars", str(source.parent / "avatars"), "--model", str(model), *flags])


def test_a_wav2lip_folder_becomes_an_avatar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder(tmp_path / "wav2lip256_avatar1")
    (source / "face_imgs").mkdir()
    assert imported(source, "--title", "A person") == 0
    avatar = load_avatar(tmp_path / "avatars", "wav2lip256_avatar1")
    assert avatar.boxes.tolist() == BOXES
    assert (avatar.size, avatar.loop, avatar.title) == ((360, 288), "pingpong", "A person")
    assert avatar.landmarks is None
    said = capsys.readouterr().out
    assert "scripts/fetch_models.py" in said and "only published checkpoints can drive" in said


def test_pictures_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    assert imported(folder(tmp_path / "it", names="{}.jpg")) == 0  # 8, 9, 10
    frames = load_avatar(tmp_path / "avatars", "it").frames
    assert [round(image.mean() / 40) for image in frames] == [1, 2, 3]


@pytest.mark.parametrize("sign", ["latents.pt", "mask_coords.pkl", "avator_info.json", "ultralight.pth"])
def test_other_engines_write_their_boxes_in_another_order(tmp_path: Path, sign: str) -> None:
    source = folder(tmp_path / "it", BOXES)
    (source / sign).touch()
    assert imported(source) == 0
    assert load_avatar(tmp_path / "avatars", "it").boxes.tolist() == BOXES


@pytest.mark.skipif(
    not (MODEL.exists() and CLIP.exists() and find_spec("mediapipe")), reason="needs MediaPipe and the shared clips"
)
def test_with_a_landmarker_the_face_is_known_and_the_boxes_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = list(Film(CLIP, 0.12))
    rows = [(118, 254, 103, 206)] * 3
    assert imported(folder(tmp_path / "it", rows, images), model=MODEL) == 0
    avatar = load_avatar(tmp_path / "avatars", "it")
    assert avatar.boxes.tolist() == [[103, 118, 206, 254]] * 3
    assert avatar.landmarks is not None and abs(avatar.landmarks[:, 3, 0] - 160).max() < 4
    assert "checkpoints" not in capsys.readouterr().out
    half = folder(tmp_path / "half", [(0, 0, 0, 0)] * 3, images)
    (half / "latents.pt").touch()
    assert imported(half, model=MODEL) == 0
    assert abs(load_avatar(tmp_path / "avatars", "half").boxes - [101, 117, 208, 256]).max() < 4


@pytest.mark.parametrize(
    ("coords", "why"),
    [
        (ROWS[:2], "equally many"),
        (bytes(MAX_BYTES + 1), "MB"),
        ([(1, 2, 3)] * 3, "four numbers"),
        ([(1, 2, 3, "4")] * 3, "four numbers"),
        ([(1, 2, 3, 10**30)] * 3, "four numbers"),
        ([(1.0, 2.0, 3.0, float("nan"))] * 3, "four numbers"),
        ({"a": 1}, "damaged"),
        (b"rubbish", "damaged"),
        ([(200, 100, 60, 140)] * 3, "do not lie in the pictures"),
        ([(100, 200, 600, 700)] * 3, "do not lie in the pictures"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_boxes_that_make_no_sense_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], coords: object, why: str
) -> None:
    assert imported(folder(tmp_path / "it", coords)) == 1
    assert why in capsys.readouterr().out
    assert not list((tmp_path / "avatars").glob("*"))


def damage(change: Callable[[Path], object], tmp_path: Path) -> int:
    source = folder(tmp_path / "it")
    change(source)
    return imported(source)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda it: (it / "coords.pkl").unlink(), "no avatar of LiveTalking"),
        (lambda it: (it / "full_imgs").rename(it / "other"), "no avatar of LiveTalking"),
        (lambda it: (it / "full_imgs" / "00000009.png").write_bytes(b"no picture"), "no picture that can be decoded"),
        (lambda it: (it / "full_imgs" / "00000009.png").write_bytes(b""), "no picture that can be decoded"),
        (lambda it: cv2.imwrite(str(it / "full_imgs" / "00000009.png"), np.zeros((9, 9, 3))), "another size"),
    ],
    ids=["no coords", "no pictures", "damaged", "empty", "another size"],
)
def test_a_damaged_folder_is_refused_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], object], why: str
) -> None:
    assert damage(change, tmp_path) == 1
    assert why in capsys.readouterr().out
    assert not list((tmp_path / "avatars").glob("*"))


def test_an_id_is_checked_and_an_avatar_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder(tmp_path / "it")
    assert imported(source, "--avatar_id", "../it") == 1
    assert imported(source) == 0
    assert imported(source) == 1
    assert "already" in capsys.readouterr().out
    assert imported(source, "--replace") == 0


KINDS: dict[str, Callable[[], object]] = {
    "tuples": lambda: ROWS,
    "lists": lambda: [list(row) for row in ROWS],
    "int64": lambda: [tuple(np.int64(number) for number in row) for row in ROWS],
    "float32": lambda: [tuple(np.float32(number) for number in row) for row in ROWS],
    "rows": lambda: [np.array(row, ">i4") for row in ROWS],
    "array": lambda: np.array(ROWS),
    "fortran": lambda: np.asfortranarray(np.array(ROWS, np.float64)),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_read_from_every_kind_of_pickle(kind: str, protocol: int) -> None:
    assert [tuple(row) for row in numbers(pickle.dumps(KINDS[kind](), protocol))] == ROWS


def test_numbers_are_read_as_older_numpy_wrote_them() -> None:
    old = pickle.dumps(KINDS["int64"](), 2).replace(b"numpy._core.", b"numpy.core.")
    assert b"numpy.core.multiarray\n" in old
    assert [tuple(row) for row in numbers(old)] == ROWS


class Calls:
    def __init__(self, *what: Any) -> None:
        self.what = what

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.what[0], self.what[1:]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_something_is_refused_by_name(protocol: int, tmp_path: Path) -> None:
    bad = pickle.dumps([Calls(os.system, f"touch {tmp_path / 'ran'}")], protocol)
    with pytest.raises(BadMedia, match=r"asks for '(posix|nt)\.system'"):
        numbers(bad)
    with pytest.raises(BadMedia, match=r"asks for '(__builtin__|builtins)\.eval'"):
        numbers(pickle.dumps(Calls(eval, "1"), protocol))
    assert list(tmp_path.iterdir()) == []


def nested(depth: int, end: bytes = b".") -> bytes:
    return b"\x80\x04)" + b"\x85" * depth + end


TEXT = b"X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20)
HOSTILE = {
    "deep as a function": nested(200_000, b")R."),
    "deep as a name": nested(200_000, b"\x8c\x01a\x93."),
    "deep as a dtype": b"\x80\x04cnumpy\ndtype\n" + nested(200_000, b"\x85R.")[2:],
    "objects in an array": pickle.dumps(np.array([None, {}], object)),
    "a place far off": b"\x80\x04)r\xff\xff\xff\x7fj\xff\xff\xff\x7e.",
    "nothing on the stack": b"\x80\x04\x87.",
    "no mark": b"\x80\x04]e.",
    "no end": pickle.dumps(ROWS)[:-1],
    "text again and again": b"\x80\x04" + TEXT + b"q\x00" + b"c_codecs\nencode\nh\x00\x85R" * 20 + b".",
    "an extension": b"\x80\x04\x82\x01.",
    "a persistent id": b"\x80\x04Pa\n.",
    "an instance": b"\x80\x04(ios\nsystem\n.",
    "too large": bytes(MAX_BYTES + 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_and_costs_little(name: str) -> None:
    with pytest.raises(BadMedia):
        numbers(HOSTILE[name])


def test_an_array_that_is_listed_again_and_again_is_refused() -> None:
    bomb = pickle.dumps([np.zeros(200_000)] * 100)
    assert len(bomb) < 2 << 20
    with pytest.raises(BadMedia):
        numbers(bomb)


def test_a_deep_pickle_is_no_list_of_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(folder(tmp_path / "it", nested(200_000))) == 1
    assert "equally many" in capsys.readouterr().out
