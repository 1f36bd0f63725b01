"""Avatars on disk and in memory: what is kept whole, what is refused, what is shared."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import soundfile

from core import avatar as avatar_room
from core.avatar import (
    CHIN,
    LEFT_EYE,
    MEDIAPIPE,
    OVAL,
    RIGHT_EYE,
    UPPER_OUTER,
    Avatar,
    Avatars,
    ClipItem,
    confined,
    load_avatar,
    load_clip,
    read_pictures,
    safe_id,
    save_avatar,
)
from core.errors import BadRequest, UnknownAvatar
from core.frames import GROUP, FrameCache
from core.media import Image
from tests.fakes.media import grey, stairs
from tests.fakes.person import make_avatar, save, tone

BUILT_IN = Path(__file__).parent.parent / "data" / "avatars" / "presenter"
BOXES, LANDMARKS = np.zeros((6, 4), np.int32), np.zeros((6, 46, 2), np.float32)

# On disk and back.


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The folder of a saved avatar "drawn" of 64×48 pixels."""
    return save(tmp_path, make_avatar(size=(64, 48), n=6))


def test_an_avatar_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    drawn = make_avatar(size=(64, 48), n=6)
    folder = save(tmp_path, drawn, licence="CC0")
    assert sorted(path.name for path in folder.iterdir()) == ["avatar.json", "frames.mp4", "tracks.npz"]
    assert json.loads((folder / "avatar.json").read_text())["licence"] == "CC0"
    loaded = load_avatar(tmp_path, "drawn")
    assert (loaded.id, loaded.title, loaded.loop, loaded.size) == ("drawn", "Drawn", "cycle", (64, 48))
    assert (loaded.boxes == drawn.boxes).all() and (np.asarray(loaded.landmarks) == drawn.landmarks).all()
    assert len(loaded.frames) == len(drawn.frames)
    assert np.abs(loaded.image(5).astype(int) - drawn.image(5)).mean() < 4  # as good as 4:2:0 allows


def test_an_avatar_may_have_no_landmarks(tmp_path: Path) -> None:
    save(tmp_path, stairs(3))
    loaded = load_avatar(tmp_path, "stairs")
    assert loaded.landmarks is None and loaded.mouth is None


def test_the_mouth_is_the_first_eight_landmarks() -> None:
    avatar = make_avatar(n=2)
    assert avatar.landmarks is not None and avatar.mouth is not None
    assert avatar.mouth.shape == (2, 8, 2) and (avatar.mouth == avatar.landmarks[:, :8]).all()


def test_every_landmark_has_points_of_the_face_mesh() -> None:
    assert len(MEDIAPIPE) == OVAL.stop == 46 and len({i for points in MEDIAPIPE for i in points}) == 46 + 2 - 1
    assert [len(points) for points in MEDIAPIPE].count(2) == 2 == len(MEDIAPIPE[LEFT_EYE]) == len(MEDIAPIPE[RIGHT_EYE])
    assert MEDIAPIPE[CHIN] in MEDIAPIPE[OVAL]


def test_the_built_in_avatar_knows_its_whole_face() -> None:
    avatar = load_avatar(BUILT_IN.parent, BUILT_IN.name)
    assert avatar.landmarks is not None and np.isfinite(avatar.landmarks).all()
    for box, points in zip(avatar.boxes, avatar.landmarks, strict=True):
        left, right, chin = points[LEFT_EYE], points[RIGHT_EYE], points[CHIN]
        assert left[0] < right[0] and max(left[1], right[1]) < points[UPPER_OUTER, 1] < chin[1]
        middle = points[OVAL].mean(0)
        assert (box[:2] < middle).all() and (middle < box[2:]).all()
        assert points[OVAL][0, 1] < min(left[1], right[1]) and np.linalg.norm(points[OVAL][18] - chin) < 12


def test_nothing_in_an_avatar_can_be_changed() -> None:
    avatar = make_avatar(n=3)
    for array in (avatar.boxes, avatar.landmarks, avatar.mouth, avatar.image(1)):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def hidden(root: Path) -> list[Path]:
    return list(root.glob(".*"))


def test_an_avatar_is_not_overwritten_unasked(saved: Path, tmp_path: Path) -> None:
    before = (saved / "avatar.json").read_bytes()
    with pytest.raises(BadRequest, match="already"):
        save(tmp_path, make_avatar(size=(32, 32), n=2))
    assert (saved / "avatar.json").read_bytes() == before and not hidden(tmp_path)


def test_a_replaced_avatar_is_the_new_one_whole_and_who_shows_the_old_goes_on(saved: Path, tmp_path: Path) -> None:
    cache = FrameCache(max_bytes=2 * GROUP * 64 * 48 * 3)
    shown = load_avatar(tmp_path, "drawn", cache)
    old = [image.copy() for image in shown.frames]
    new = make_avatar(size=(32, 32), n=20)
    save_avatar(tmp_path, "drawn", new.frames, new.boxes, replace=True)
    loaded = load_avatar(tmp_path, "drawn", cache)
    assert loaded.size == (32, 32) and len(list(loaded.frames)) == 20 and loaded.landmarks is None
    assert all((image == before).all() for image, before in zip(shown.frames, old, strict=True))
    assert not hidden(tmp_path)


def test_a_replacement_that_fails_leaves_the_old(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("no space")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no space"):
        save_avatar(tmp_path, "drawn", stairs(1).frames, BOXES[:1], replace=True)
    assert load_avatar(tmp_path, "drawn").size == (64, 48) and not hidden(tmp_path)


def test_an_avatar_is_written_from_pictures_that_come_one_by_one(tmp_path: Path) -> None:
    save_avatar(tmp_path, "b", (grey(40 * i, (64, 48)) for i in range(6)), BOXES, LANDMARKS, loop="cycle", crf=30)
    loaded = load_avatar(tmp_path, "b")
    assert [round(float(image.mean()), -1) for image in loaded.frames] == [0, 40, 80, 120, 160, 200]


def broken() -> Iterator[Image]:
    yield grey(1)
    raise RuntimeError("the camera fell over")


@pytest.mark.parametrize(
    ("frames", "tracks"),
    [
        pytest.param(lambda: [grey(1)] * 6, {"boxes": np.zeros((6, 5), np.int32)}, id="five sides"),
        pytest.param(lambda: [grey(1)] * 6, {"boxes": BOXES, "landmarks": LANDMARKS[:, :8]}, id="eight points"),
        pytest.param(lambda: [grey(1)] * 5, {"boxes": BOXES}, id="too few pictures"),
        pytest.param(lambda: [], {"boxes": BOXES[:0]}, id="nothing"),
        pytest.param(lambda: [grey(1, (63, 64))] * 6, {"boxes": BOXES}, id="odd"),
        pytest.param(broken, {"boxes": BOXES}, id="pictures that end in an error"),
    ],
)
def test_what_is_no_avatar_is_not_written(tmp_path: Path, frames: Callable[[], Any], tracks: dict[str, Any]) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        save_avatar(tmp_path / "avatars", "b", frames(), **tracks)
    assert not (tmp_path / "avatars").exists() or not list((tmp_path / "avatars").iterdir())


def rewrite(folder: Path, name: str, data: bytes, **about: Any) -> None:
    """Replace a file of an avatar as its owner could: the checksum agrees."""
    (folder / name).write_bytes(data)
    text = json.loads((folder / "avatar.json").read_text())
    text["sha256"][name] = hashlib.sha256(data).hexdigest()
    (folder / "avatar.json").write_text(json.dumps({**text, **about}))


@pytest.mark.parametrize("name", ["frames.mp4", "tracks.npz"])
def test_a_changed_file_is_refused_by_its_checksum(saved: Path, tmp_path: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    data[-1] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(BadRequest, match=f"{name} is not the file"):
        load_avatar(tmp_path, "drawn")


@pytest.mark.parametrize("name", ["frames.mp4", "tracks.npz"])
def test_a_missing_file_is_refused(saved: Path, tmp_path: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(BadRequest, match="damaged"):
        load_avatar(tmp_path, "drawn")


@pytest.mark.parametrize(
    "about",
    [
        {"size": [48, 64]},
        {"frames": 7},
        {"frames": 0},
        {"format": 1},
        {"fps": 30},
        {"loop": "once"},
        {"run": "this"},
        {"size": [64]},
        {"sha256": {"../secret": ""}},
    ],
)
def test_an_avatar_file_that_does_not_agree_is_refused(saved: Path, tmp_path: Path, about: dict[str, Any]) -> None:
    text = json.loads((saved / "avatar.json").read_text())
    (saved / "avatar.json").write_text(json.dumps({**text, **about}))
    with pytest.raises(BadRequest) as error:
        load_avatar(tmp_path, "drawn")
    assert str(tmp_path) not in str(error.value)


def npz(**arrays: Any) -> bytes:
    file = BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def damaged(data: bytes) -> bytes:
    """The same archive with a wrong byte in its first member."""
    return data[:60] + bytes([data[60] ^ 255]) + data[61:]


def npy() -> bytes:
    file = BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


class Bomb:
    """Would leave a mark if it were ever unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(npz(landmarks=LANDMARKS), id="no boxes"),
        pytest.param(npz(boxes=BOXES[:5], landmarks=LANDMARKS), id="too few boxes"),
        pytest.param(npz(boxes=BOXES, landmarks=LANDMARKS[:, :8]), id="eight points"),
        pytest.param(npz(boxes=np.full((6, 4), "x"), landmarks=LANDMARKS), id="words for boxes"),
        pytest.param(npz(boxes=BOXES, landmarks=np.array([[Bomb()]], object)), id="pickled landmarks"),
        pytest.param(npz(boxes=np.array([[Bomb()]], object), landmarks=LANDMARKS), id="pickled array"),
        pytest.param(b"\x80\x04\x95rubbish", id="pickle"),
        pytest.param(b"", id="empty"),
        pytest.param(damaged(npz(boxes=BOXES, landmarks=LANDMARKS)), id="damaged inside"),
        pytest.param(npy(), id="a single array"),
    ],
)
def test_tracks_that_are_none_are_refused_and_never_run(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    rewrite(saved, "tracks.npz", data)
    with pytest.raises(BadRequest):
        load_avatar(tmp_path, "drawn")
    assert not Path("unpickled").exists()


def sound_only() -> bytes:
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(tone(0.064).reshape(1, -1), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"rubbish", id="rubbish"),
        pytest.param(b"", id="empty"),
        pytest.param(sound_only(), id="a sound"),
    ],
)
def test_frames_that_are_none_are_refused(saved: Path, tmp_path: Path, data: bytes) -> None:
    rewrite(saved, "frames.mp4", data)
    with pytest.raises(BadRequest):
        load_avatar(tmp_path, "drawn")


def test_pictures_too_large_to_be_decoded_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="too large"):
        load_avatar(tmp_path, "drawn", FrameCache(max_bytes=GROUP * 64 * 48 * 3))


# Names.


@pytest.mark.parametrize("name", ["a", "presenter", "p-1_b.c", "主播", "Ünal", "7", "a" * 64])
def test_a_good_id_is_taken_as_it_is(name: str) -> None:
    assert safe_id(name) == name


BAD_IDS = [
    "",
    ".",
    "..",
    "a..b",
    "../a",
    "a/b",
    "/etc",
    "a\\b",
    "a b",
    "-a",
    ".a",
    "a\n",
    "a\0",
    "a" * 65,
    "👤",
    "\ud800",
]


@pytest.mark.parametrize("name", BAD_IDS)
def test_a_bad_id_is_an_unknown_avatar_wherever_it_is_used(name: str, tmp_path: Path) -> None:
    for use in (safe_id, lambda bad: load_avatar(tmp_path, bad)):
        with pytest.raises(UnknownAvatar) as error:
            use(name)
        assert str(tmp_path) not in str(error.value)


def test_an_avatar_that_is_not_there_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UnknownAvatar):
        load_avatar(tmp_path, "nobody")


def test_an_id_of_64_long_letters_is_an_unknown_avatar(tmp_path: Path) -> None:
    with pytest.raises(UnknownAvatar):
        load_avatar(tmp_path, "\U00020000" * 64)


# What there is.


@pytest.fixture
async def avatars(tmp_path: Path) -> AsyncIterator[Avatars]:
    with ThreadPoolExecutor(4) as pool:
        yield Avatars(tmp_path, pool)


def test_the_list_is_sorted_and_leaves_damaged_ones_out(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        save_avatar(tmp_path, name, [grey(9)], BOXES[:1])
    (tmp_path / "c" / "avatar.json").write_text("{}")
    (tmp_path / "d").mkdir()
    with ThreadPoolExecutor(1) as pool:
        assert [about.id for about in Avatars(tmp_path, pool).list()] == ["a", "b"]


def test_what_is_listed_can_be_asked_for(tmp_path: Path) -> None:
    folder = save_avatar(tmp_path, "a", [grey(9)], BOXES[:1])
    folder.rename(tmp_path / ".a.part")  # as a process leaves it that is killed before the last step
    with ThreadPoolExecutor(1) as pool:
        assert not Avatars(tmp_path, pool).list()


async def test_who_asks_at_the_same_time_gets_the_same_and_it_is_read_once(
    saved: Path, avatars: Avatars, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []

    def counting(root: Path, avatar_id: str, cache: FrameCache) -> Avatar:
        loads.append(avatar_id)
        return load_avatar(root, avatar_id, cache)

    monkeypatch.setattr(avatar_room, "load_avatar", counting)
    first, *others = await asyncio.gather(*(avatars.get("drawn") for _ in range(8)))
    assert all(other is first for other in others) and await avatars.get("drawn") is first
    assert loads == ["drawn"]


async def test_all_avatars_of_a_house_share_one_bound(tmp_path: Path) -> None:
    group_bytes = GROUP * 64 * 64 * 3
    for name in "ab":
        save_avatar(tmp_path, name, [grey(9)] * 4 * GROUP, np.zeros((4 * GROUP, 4), np.int32))
    with ThreadPoolExecutor(1) as pool:
        avatars = Avatars(tmp_path, pool, 2 * group_bytes)
        held = [await avatars.get(name) for name in "ab"]
        for avatar in held:
            assert len(list(avatar.frames)) == 4 * GROUP
        assert avatars._cache.held_bytes == 2 * group_bytes


async def test_who_gets_an_avatar_gets_it_ready_to_start(saved: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        avatars = Avatars(tmp_path, pool)
        avatar = await avatars.get("drawn")
        avatars._cache._groups.clear()
        assert await avatars.get("drawn") is avatar and avatars._cache._groups


async def test_who_gives_up_waiting_does_not_spoil_it_for_the_others(saved: Path, avatars: Avatars) -> None:
    impatient, patient = [asyncio.create_task(avatars.get("drawn")) for _ in range(2)]
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).id == "drawn"
    assert impatient.cancelled()


async def test_a_failure_is_told_to_all_and_not_remembered(saved: Path, avatars: Avatars) -> None:
    saved.rename(saved.with_name("hidden"))
    results = await asyncio.gather(*(avatars.get("drawn") for _ in range(3)), return_exceptions=True)
    assert {type(result) for result in results} == {UnknownAvatar}
    saved.with_name("hidden").rename(saved)
    assert (await avatars.get("drawn")).id == "drawn"


async def test_an_avatar_is_kept_for_as_long_as_somebody_holds_it(saved: Path, avatars: Avatars) -> None:
    held = await avatars.get("drawn")
    gc.collect()
    assert await avatars.get("drawn") is held
    del held
    await asyncio.sleep(0)  # the loop lets go of what woke this test
    gc.collect()
    assert not len(avatars._loaded) and not avatars._loading


# Which frame.


def test_a_cycle_goes_round_and_pingpong_to_and_fro() -> None:
    cycle, pingpong = stairs(4), stairs(4, loop="pingpong")
    assert [cycle.index(tick) for tick in range(9)] == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert [pingpong.index(tick) for tick in range(9)] == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert (cycle.period, pingpong.period) == (4, 6)


@pytest.mark.parametrize("loop", ["cycle", "pingpong"])
def test_an_avatar_of_one_or_two_frames_has_an_index_for_every_tick(loop: Any) -> None:
    for n in (1, 2):
        avatar = stairs(n, loop=loop)
        assert avatar.period == n and {avatar.index(tick) for tick in range(7)} == set(range(n))


# Clips.


def write_pictures(folder: Path, *names: str, size: tuple[int, int] = (32, 32)) -> None:
    """Pictures as bright as ten times their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), grey(10 * int(Path(name).stem), size))


def test_pictures_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write_pictures(tmp_path, "10.png", "9.png", "00000002.jpg", "1.JPEG")
    (tmp_path / "cover.png").write_bytes(b"not numbered")
    (tmp_path / "3.txt").write_bytes(b"no picture")
    pictures = read_pictures(tmp_path)
    assert pictures.shape == (4, 32, 32, 3)
    assert np.round(pictures.mean(axis=(1, 2, 3)), -1).tolist() == [10, 20, 90, 100]


def test_folders_without_usable_pictures_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "sizes", "1.png")
    write_pictures(tmp_path / "sizes", "2.png", size=(16, 32))
    write_pictures(tmp_path / "broken", "1.png")
    (tmp_path / "broken" / "2.png").write_bytes(b"\x89PNG rubbish")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "1.png").touch()
    (tmp_path / "empty").mkdir()
    for name in ("sizes", "broken", "hollow", "empty", "sizes/1.png", "nowhere"):
        with pytest.raises(BadRequest) as error:
            read_pictures(tmp_path / name)
        assert str(tmp_path) not in str(error.value)


def test_a_clip_is_pictures_and_a_sound_from_the_data_folder(tmp_path: Path) -> None:
    write_pictures(tmp_path / "wave", "1.png", "2.png")
    soundfile.write(tmp_path / "wave" / "wave.wav", tone(0.5), 16_000)
    clip = load_clip(ClipItem(audiotype=3, imgpath="wave", audiopath="wave/wave.wav"), tmp_path)
    assert clip.audiotype == 3 and len(clip.frames) == 2
    assert clip.pcm is not None and abs(len(clip.pcm) - 8000) < 10
    assert load_clip(ClipItem(audiotype=3, imgpath=str(tmp_path / "wave")), None).pcm is None


@pytest.fixture
def fenced(tmp_path: Path) -> Path:
    """A data folder with links out of it, beside what it must not give."""
    data = tmp_path / "data"
    (data / "inside").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (data / "to_secret").symlink_to(tmp_path / "secret")
    (data / "to_inside").symlink_to(data / "inside")
    (data / "to_nowhere").symlink_to(data / "nothing")
    return data


@pytest.mark.parametrize("name", ["inside", "./inside", "inside/../inside", "to_inside", "", "."])
def test_what_lies_inside_the_folder_is_given_links_followed(fenced: Path, name: str) -> None:
    expected = fenced if name in {"", "."} else fenced / "inside"
    assert confined(name, fenced) == expected.resolve()


def test_a_path_from_the_working_folder_may_lead_inside(fenced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fenced.parent)
    assert confined("data/inside", Path("data")) == (fenced / "inside").resolve()


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "to_secret",
        "to_secret/",
        "inside/../../secret",
        "to_nowhere",
        "nothing",
        "/etc/passwd",
        "~",
        "../data2",
        pytest.param("a\0b", id="a zero byte"),
        pytest.param("x" * 300, id="too long"),
    ],
)
def test_nothing_outside_the_folder_is_given(fenced: Path, name: str) -> None:
    (fenced.parent / "data2").mkdir()
    with pytest.raises(BadRequest) as error:
        confined(name, fenced)
    assert str(fenced.parent) not in str(error.value)
