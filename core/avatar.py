"""Avatars: immutable pictures of one person, where the face is in each, and nothing that can run.

On disk an avatar is a folder `data/avatars/<id>/` of three files:

    avatar.json   format 2, id, title, licence, fps, size [w, h], frames, loop, sha256 of the other two
    frames.mp4    the pictures, any codec PyAV decodes; decoded as they are looked at
    tracks.npz    boxes int32 (n, 4) and, where known, landmarks float32 (n, 46, 2), pixels; read without pickle

A clip is what `--customvideo_config` names: a folder of numbered pictures, and maybe a sound.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal
from weakref import WeakValueDictionary
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.audio import decode_audio
from core.errors import BadMedia, BadRequest, UnknownAvatar
from core.frames import CACHE_BYTES, FrameCache, Frames, write_video
from core.media import Image

MAX_BYTES = 2 << 30  # decoded pictures of one clip
MAX_NAME_BYTES = 200  # a folder's name may have 255, and a part of them is ours
SAFE_ID = re.compile(r"[\w][\w.-]{0,63}")

# Rows of `Avatar.landmarks`, the first eight of `Avatar.mouth` too; left and right as seen in the picture.
LEFT_CORNER, RIGHT_CORNER, UPPER_OUTER, UPPER_INNER, LOWER_INNER, LOWER_OUTER, CHIN, NOSE_BASE = range(8)
LEFT_EYE, RIGHT_EYE = 8, 9  # the middle between the eye's corners
OVAL = slice(10, 46)  # the contour of the face, clockwise from the middle of the forehead

# The points of MediaPipe's face mesh behind each row; where there are two, the row is their middle.
MEDIAPIPE: tuple[tuple[int, ...], ...] = (
    *((i,) for i in (61, 291, 0, 13, 14, 17, 152, 2)),
    (33, 133),
    (362, 263),
    *((i,) for i in (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288)),
    *((i,) for i in (397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136)),
    *((i,) for i in (172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)),
)

Loop = Literal["cycle", "pingpong"]


class AvatarFile(BaseModel):
    """What `avatar.json` says."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[2]
    id: str
    title: str = ""
    licence: str = ""
    fps: Literal[25] = 25
    size: tuple[int, int]
    frames: int = Field(gt=0)
    loop: Loop = "pingpong"
    sha256: dict[Literal["frames.mp4", "tracks.npz"], str] = Field(min_length=2)


@dataclass(frozen=True, eq=False)
class Avatar:
    """`frames` are n pictures; `boxes` int32 (n, 4) x1 y1 x2 y2 of the face; `landmarks` float32 (n, 46, 2) or unknown.

    All in pixels. Shared by every session that shows it: pictures and arrays are read-only.
    """

    id: str
    frames: Frames = field(repr=False)
    boxes: NDArray[np.int32] = field(repr=False)
    landmarks: NDArray[np.float32] | None = field(default=None, repr=False)
    loop: Loop = "pingpong"
    title: str = ""

    def __post_init__(self) -> None:
        _check_tracks(len(self.frames), self.boxes, self.landmarks)
        self.boxes.flags.writeable = False
        if self.landmarks is not None:
            self.landmarks.flags.writeable = False

    @property
    def mouth(self) -> NDArray[np.float32] | None:
        """The eight rows of `landmarks` from LEFT_CORNER to NOSE_BASE, float32 (n, 8, 2), or None."""
        return None if self.landmarks is None else self.landmarks[:, :8]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.frames.size

    @property
    def period(self) -> int:
        """Ticks after which the idle loop repeats."""
        n = len(self.frames)
        return n if self.loop == "cycle" else max(1, 2 * n - 2)

    def index(self, tick: int) -> int:
        """The frame shown at `tick`: round and round, or to and fro."""
        phase = tick % self.period
        return phase if phase < len(self.frames) else self.period - phase

    def image(self, index: int) -> Image:
        """Frame `index`, uint8 (H, W, 3) BGR, read-only. What it costs: `Frames.open`."""
        return self.frames[index]


@dataclass(frozen=True, eq=False)
class Clip:
    """A custom state: `frames` uint8 (n, H, W, 3) BGR, and `pcm` float32 (m,) 16 kHz or None."""

    audiotype: int
    frames: NDArray[np.uint8] = field(repr=False)
    pcm: NDArray[np.float32] | None = field(default=None, repr=False)
    name: str = ""  # under which a mind may play it


def safe_id(name: str) -> str:
    """`name` if it can be a folder's name and nothing more. UnknownAvatar otherwise."""
    if not SAFE_ID.fullmatch(name) or ".." in name or len(name.encode()) > MAX_NAME_BYTES:
        raise UnknownAvatar("avatar ids are letters, digits, '_', '-' and '.', at most 64")
    return name


class Avatars:
    """The avatars under `root`: each is loaded once, in `pool`, and kept for as long as somebody holds it.

    Of the pictures of all together at most `cache_bytes` are decoded at a time; `pool` decodes ahead.
    """

    def __init__(self, root: Path, pool: Executor, cache_bytes: int = CACHE_BYTES) -> None:
        self.root = root
        self._pool = pool
        self._cache = FrameCache(pool, cache_bytes)
        self._loaded: WeakValueDictionary[str, Avatar] = WeakValueDictionary()
        self._loading: dict[str, asyncio.Future[Avatar]] = {}

    async def get(self, avatar_id: str) -> Avatar:
        """The avatar `avatar_id`, its first pictures decoded. Raises as `load_avatar` does."""
        loop = asyncio.get_running_loop()
        if avatar := self._loaded.get(avatar_id):
            await loop.run_in_executor(self._pool, avatar.frames.__getitem__, 0)
            return avatar
        loading = self._loading.get(avatar_id)
        if loading is None:
            loading = loop.run_in_executor(self._pool, load_avatar, self.root, avatar_id, self._cache)
            self._loading[avatar_id] = loading
            loading.add_done_callback(lambda _: self._loading.pop(avatar_id, None))
        avatar = self._loaded[avatar_id] = await asyncio.shield(loading)
        return avatar

    def list(self) -> list[AvatarFile]:
        """What can be asked for, sorted by id; damaged ones are left out. Blocking."""
        found = []
        for path in sorted(self.root.glob("[!.]*/avatar.json")):
            with suppress(ValidationError, OSError):
                found.append(AvatarFile.model_validate_json(path.read_bytes()))
        return found


def load_avatar(root: Path, avatar_id: str, cache: FrameCache | None = None) -> Avatar:
    """The avatar `root/avatar_id`, its pictures kept in `cache` as `Frames.open` does.

    Blocking: reads the files for their checksums, about 1 s a GB. UnknownAvatar if there is none; BadRequest if they
    do not agree with `avatar.json`.
    """
    folder = root / safe_id(avatar_id)
    if not (folder / "avatar.json").is_file():
        raise UnknownAvatar(f"unknown avatar '{avatar_id}'")
    try:
        about = AvatarFile.model_validate_json((folder / "avatar.json").read_bytes())
        for name, digest in about.sha256.items():
            if _sha256(folder / name) != digest:
                raise BadRequest(f"avatar '{avatar_id}': {name} is not the file that avatar.json names")
        frames = Frames.open(folder / "frames.mp4", cache, cyclic=about.loop == "cycle")
        if len(frames) != about.frames or frames.size != about.size:
            raise BadRequest(f"avatar '{avatar_id}': frames.mp4 does not hold what avatar.json says")
        return Avatar(avatar_id, frames, *_read_tracks(folder / "tracks.npz"), about.loop, about.title)
    except BadMedia as error:
        raise BadRequest(f"avatar '{avatar_id}': {error}") from error
    except (ValueError, TypeError, LookupError, EOFError, OSError, BadZipFile, zlib.error) as error:
        raise BadRequest(f"avatar '{avatar_id}' is damaged ({type(error).__name__})") from error


def save_avatar(
    root: Path,
    avatar_id: str,
    frames: Iterable[Image],
    boxes: NDArray[np.int32],
    landmarks: NDArray[np.float32] | None = None,
    *,
    loop: Loop = "pingpong",
    title: str = "",
    licence: str = "",
    crf: int = 16,
    replace: bool = False,
) -> Path:
    """Write an avatar under `root` and return its folder, which appears whole or not at all. Blocking.

    Takes one picture at a time. BadRequest if there is such an avatar, unless `replace`: then this one takes its place.
    ValueError unless `boxes` is (n, 4) and `landmarks` (n, 46, 2) for n pictures of one size, its sides even.
    """
    folder = root / safe_id(avatar_id)
    if folder.exists() and not replace:
        raise BadRequest(f"there is an avatar '{avatar_id}' already")
    _check_tracks(len(boxes), boxes, landmarks)
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{avatar_id}.", dir=root) as workshop:
        part = Path(workshop) / "new"
        part.mkdir()
        write_video(part / "frames.mp4", frames, crf=crf)
        written = Frames.open(part / "frames.mp4")
        _check_tracks(len(written), boxes, landmarks)
        _write_tracks(part / "tracks.npz", boxes, landmarks)
        about = AvatarFile(
            format=2,
            id=avatar_id,
            title=title,
            licence=licence,
            size=written.size,
            frames=len(written),
            loop=loop,
            sha256={"frames.mp4": _sha256(part / "frames.mp4"), "tracks.npz": _sha256(part / "tracks.npz")},
        )
        (part / "avatar.json").write_text(about.model_dump_json(indent=2) + "\n", encoding="utf-8")
        publish(part, folder, replace=replace)
    return folder


def publish(part: Path, folder: Path, *, replace: bool) -> None:
    """Rename `part` to `folder`; what `replace` puts away goes beside `part`, and comes back if that fails."""
    old = part.with_name("old")
    if replace and folder.exists():
        folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def _write_tracks(path: Path, boxes: NDArray[np.int32], landmarks: NDArray[np.float32] | None) -> None:
    if landmarks is None:
        np.savez_compressed(path, boxes=boxes.astype(np.int32))
    else:
        np.savez_compressed(path, boxes=boxes.astype(np.int32), landmarks=landmarks.astype(np.float32))


def _check_tracks(n: int, boxes: NDArray[np.int32], landmarks: NDArray[np.float32] | None) -> None:
    points = (n, len(MEDIAPIPE), 2)
    if n == 0 or boxes.shape != (n, 4) or (landmarks is not None and landmarks.shape != points):
        raise ValueError("boxes must be (n, 4) and landmarks (n, 46, 2) for n > 0 frames")


def _read_tracks(path: Path) -> tuple[NDArray[np.int32], NDArray[np.float32] | None]:
    with np.load(path, allow_pickle=False) as tracks:
        landmarks = tracks["landmarks"].astype(np.float32) if "landmarks" in tracks else None
        return tracks["boxes"].astype(np.int32), landmarks


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_pictures(folder: Path) -> NDArray[np.uint8]:
    """The numbered pictures of a folder in order of their numbers, uint8 (n, H, W, 3) BGR. Blocking.

    BadRequest if there are none, or one does not decode or has another size.
    """
    if not folder.is_dir():
        raise BadRequest(f"'{folder.name}' is not a folder of pictures")
    paths = [path for path in folder.iterdir() if path.suffix.lower() in {".png", ".jpg", ".jpeg"}]
    paths = sorted((path for path in paths if path.stem.isdecimal()), key=lambda path: int(path.stem))
    try:
        return _stack(map(_read_picture, paths), len(paths))
    except (ValueError, OSError, cv2.error) as error:
        raise BadRequest(f"'{folder.name}' holds no usable numbered pictures of one size") from error


def _read_picture(path: Path) -> Image:
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(path.name)
    return np.asarray(image, np.uint8)


def _stack(images: Iterator[Image], n: int) -> NDArray[np.uint8]:
    """The first `n` images as one array, filled in place: a second copy would double what loading takes."""
    first = next(images, None)
    if first is None or n < 1 or n * first.nbytes > MAX_BYTES:
        raise ValueError("no pictures, or too many")
    stack = np.empty((n, *first.shape), np.uint8)
    for place, image in zip(range(n), chain([first], images), strict=False):
        if image.shape != first.shape:
            raise ValueError("pictures of several sizes")
        stack[place] = image
    if place != n - 1:
        raise ValueError("pictures are missing")
    return stack


class ClipItem(BaseModel):
    """One entry of a custom-state list. `loop` is accepted as other servers of this family write it."""

    model_config = ConfigDict(extra="forbid")

    audiotype: int = Field(ge=1)
    imgpath: str
    audiopath: str = ""
    loop: bool | None = None
    name: str = Field("", max_length=64, description="as an action that a language model may ask for, such as 'wave'")


def load_clip(item: ClipItem, within: Path | None) -> Clip:
    """The pictures and the sound that `item` names. Blocking.

    BadRequest if they are not there, do not decode, or lie outside `within` (None: anywhere, for the operator's own).
    """
    pictures = read_pictures(confined(item.imgpath, within))
    sound = decode_audio(confined(item.audiopath, within)) if item.audiopath else None
    return Clip(item.audiotype, pictures, sound, item.name)


def confined(name: str, within: Path | None) -> Path:
    """The existing path `name`, which must lie inside `within` (if given), links followed. BadRequest otherwise."""
    for base in (Path(), within or Path()):
        with suppress(ValueError, OSError):  # what the file system cannot even be asked
            path = (base / name).resolve(strict=True)
            if within is None or path.is_relative_to(within.resolve()):
                return path
    raise BadRequest("imgpath and audiopath must name what lies in the server's data folder")
