"""Avatars: immutable pictures of one person, where the face is in each, and nothing that can run.

On disk an avatar is a folder `data/avatars/<id>/` of three files:

    avatar.json   format, id, title, licence, fps, size [w, h], frames, loop, sha256 of the other two
    frames.mp4    the pictures, any codec PyAV decodes
    tracks.npz    boxes int32 (n, 4) and mouth float32 (n, 8, 2), pixels; read without pickle

A clip is what `--customvideo_config` names: a folder of numbered pictures, and maybe a sound.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary
from zipfile import BadZipFile

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.audio import decode_audio
from core.errors import BadRequest, UnknownAvatar
from core.media import FPS, Image

MAX_BYTES = 2 << 30  # decoded pictures of one avatar or clip
MAX_NAME_BYTES = 200  # a folder's name may have 255, and a part of them is ours
SAFE_ID = re.compile(r"[\w][\w.-]{0,63}")

# Rows of `Avatar.mouth`; left and right as seen in the picture.
LEFT_CORNER, RIGHT_CORNER, UPPER_OUTER, UPPER_INNER, LOWER_INNER, LOWER_OUTER, CHIN, NOSE_BASE = range(8)

Loop = Literal["cycle", "pingpong"]


class AvatarFile(BaseModel):
    """What `avatar.json` says."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1]
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
    """`frames` uint8 (n, H, W, 3) BGR; `boxes` int32 (n, 4) x1 y1 x2 y2 of the face; `mouth` float32 (n, 8, 2) pixels.

    Shared by every session that shows it: all arrays are read-only.
    """

    id: str
    frames: NDArray[np.uint8] = field(repr=False)
    boxes: NDArray[np.int32] = field(repr=False)
    mouth: NDArray[np.float32] = field(repr=False)
    loop: Loop = "pingpong"
    title: str = ""

    def __post_init__(self) -> None:
        n = len(self.frames)
        if self.boxes.shape != (n, 4) or self.mouth.shape != (n, 8, 2) or n == 0:
            raise ValueError("boxes must be (n, 4) and mouth (n, 8, 2) for n > 0 frames")
        for array in (self.frames, self.boxes, self.mouth):
            array.flags.writeable = False

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.frames.shape[2], self.frames.shape[1]

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
        """Frame `index`, uint8 (H, W, 3) BGR, read-only."""
        return np.asarray(self.frames[index])


@dataclass(frozen=True, eq=False)
class Clip:
    """A custom state: `frames` uint8 (n, H, W, 3) BGR, and `pcm` float32 (m,) 16 kHz or None."""

    audiotype: int
    frames: NDArray[np.uint8] = field(repr=False)
    pcm: NDArray[np.float32] | None = field(default=None, repr=False)


def safe_id(name: str) -> str:
    """`name` if it can be a folder's name and nothing more. UnknownAvatar otherwise."""
    if not SAFE_ID.fullmatch(name) or ".." in name or len(name.encode()) > MAX_NAME_BYTES:
        raise UnknownAvatar("avatar ids are letters, digits, '_', '-' and '.', at most 64")
    return name


class Avatars:
    """The avatars under `root`: each is loaded once, in `pool`, and kept for as long as somebody holds it."""

    def __init__(self, root: Path, pool: Executor) -> None:
        self.root = root
        self._pool = pool
        self._loaded: WeakValueDictionary[str, Avatar] = WeakValueDictionary()
        self._loading: dict[str, asyncio.Future[Avatar]] = {}

    async def get(self, avatar_id: str) -> Avatar:
        """The avatar `avatar_id`. Raises as `load_avatar` does."""
        if avatar := self._loaded.get(avatar_id):
            return avatar
        loading = self._loading.get(avatar_id)
        if loading is None:
            loop = asyncio.get_running_loop()
            loading = self._loading[avatar_id] = loop.run_in_executor(self._pool, load_avatar, self.root, avatar_id)
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


def load_avatar(root: Path, avatar_id: str) -> Avatar:
    """The avatar `root/avatar_id`. Blocking: reads and decodes everything, about 1 ms a 512×512 frame.

    UnknownAvatar if there is none; BadRequest if its files do not agree with `avatar.json`.
    """
    folder = root / safe_id(avatar_id)
    if not (folder / "avatar.json").is_file():
        raise UnknownAvatar(f"unknown avatar '{avatar_id}'")
    try:
        about = AvatarFile.model_validate_json((folder / "avatar.json").read_bytes())
        for name, digest in about.sha256.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise BadRequest(f"avatar '{avatar_id}': {name} is not the file that avatar.json names")
        frames = read_video(folder / "frames.mp4")
        with np.load(BytesIO((folder / "tracks.npz").read_bytes()), allow_pickle=False) as tracks:
            boxes, mouth = tracks["boxes"].astype(np.int32), tracks["mouth"].astype(np.float32)
        if len(frames) != about.frames or frames.shape[2:0:-1] != about.size:
            raise BadRequest(f"avatar '{avatar_id}': frames.mp4 does not hold what avatar.json says")
        return Avatar(avatar_id, frames, boxes, mouth, about.loop, about.title)
    except (ValueError, TypeError, LookupError, EOFError, OSError, BadZipFile, zlib.error, av.FFmpegError) as error:
        raise BadRequest(f"avatar '{avatar_id}' is damaged ({type(error).__name__})") from error


def save_avatar(root: Path, avatar: Avatar, *, crf: int = 16, licence: str = "") -> Path:
    """Write `avatar` under `root` and return its folder. Blocking; the folder appears whole or not at all."""
    folder = root / safe_id(avatar.id)
    part = root / f".{avatar.id}.part"
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    part.mkdir(parents=True)
    write_video(part / "frames.mp4", avatar.frames, crf=crf)
    np.savez_compressed(part / "tracks.npz", boxes=avatar.boxes, mouth=avatar.mouth)
    about = AvatarFile(
        format=1,
        id=avatar.id,
        title=avatar.title,
        licence=licence,
        size=avatar.size,
        frames=len(avatar.frames),
        loop=avatar.loop,
        sha256={
            "frames.mp4": hashlib.sha256((part / "frames.mp4").read_bytes()).hexdigest(),
            "tracks.npz": hashlib.sha256((part / "tracks.npz").read_bytes()).hexdigest(),
        },
    )
    (part / "avatar.json").write_text(about.model_dump_json(indent=2) + "\n")
    part.rename(folder)
    return folder


def read_video(path: Path) -> NDArray[np.uint8]:
    """All pictures of an mp4, uint8 (n, H, W, 3) BGR. Blocking. ValueError if there are none, or beyond MAX_BYTES."""
    with av.open(str(path)) as container:
        images = (np.asarray(frame.to_ndarray(format="bgr24"), np.uint8) for frame in container.decode(video=0))
        return _stack(images, container.streams.video[0].frames)


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


def write_video(path: Path, frames: NDArray[np.uint8], *, crf: int) -> None:
    """Write pictures uint8 (n, H, W, 3) BGR as H.264 at 25 fps. Blocking."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": str(crf), "preset": "slow"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))


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


def load_clip(item: ClipItem, within: Path | None) -> Clip:
    """The pictures and the sound that `item` names. Blocking.

    BadRequest if they are not there, do not decode, or lie outside `within` (None: anywhere, for the operator's own).
    """
    pictures = read_pictures(confined(item.imgpath, within))
    sound = decode_audio(confined(item.audiopath, within)) if item.audiopath else None
    return Clip(item.audiotype, pictures, sound)


def confined(name: str, within: Path | None) -> Path:
    """The existing path `name`, which must lie inside `within` (if given), links followed. BadRequest otherwise."""
    for base in (Path(), within or Path()):
        with suppress(ValueError, OSError):  # what the file system cannot even be asked
            path = (base / name).resolve(strict=True)
            if within is None or path.is_relative_to(within.resolve()):
                return path
    raise BadRequest("imgpath and audiopath must name what lies in the server's data folder")
