"""Faces that speak by Wav2Lip, the published networks or ours: the engine, and how its answer gets into the picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from loguru import logger
from numpy.typing import NDArray

from basereal import BaseReal, Choice, Shared
from core.avatar import OVAL, Avatar
from core.config import Settings
from core.errors import BadRequest
from core.media import Engine, Face, FaceJob, Image
from core.square import cut_square, mouth_square
from nets.mel import MelFeatures

if TYPE_CHECKING:
    import torch

    from nets.identities import Place
    from nets.wav2lip import Wav2Lip

Device = Literal["auto", "cpu", "cuda"]
Floats = NDArray[np.float32]
Square = tuple[float, float, float]  # x and y of the middle, and the side; pixels

PUBLISHED, OURS = "wav2lip.pth", "vivace-lips.pth"  # in models/; the first is used if somebody has put it there
GPU_BATCH = 64
CPU_BATCH = {96: 4, 128: 8, 256: 1}  # about 100 ms of work, well within what jobs are sent ahead
IDENTITY_BYTES = {"cpu": 512 << 20, "cuda": 4 << 30}
MAX_SHIFT = 12.0  # levels of brightness that colour matching may add or take
FACE_MARGIN = 1.1  # of the contour, that a box may change
SQUARE_EDGE, WINDOW_EDGE = 0.08, 0.05  # of the square's side, over which what moves, and what is painted, fades away


class LipEngine:
    """`core.media.Engine` of Wav2Lip: windows are mel (80, 16).

    Answers of a published network are uint8 (S, S, 3) BGR; of ours float16 (n,), the numbers of `nets.lips.Layers`.
    Folds `net` and keeps it. On a GPU float16, recorded as CUDA graphs; on a CPU bfloat16 where
    it has the instructions, else float32. What the network sees of an avatar's frame it sees once. On a CPU, `infer`
    keeps torch to `threads` threads; the other cores are for sessions and encoders.
    """

    def __init__(self, net: Wav2Lip, device: Device = "auto", *, threads: int = 1) -> None:
        import torch
        from torch.nn.utils import convert_conv2d_weight_memory_format

        from nets.identities import Identities

        self.device = _device(device)
        self.dtype = _dtype(self.device)
        self.threads = threads
        self.layout = net.layout
        self.max_batch = GPU_BATCH if self.device == "cuda" else CPU_BATCH.get(self.layout.size, 1)
        self._net = convert_conv2d_weight_memory_format(net.fold().to(self.device, self.dtype), torch.channels_last)
        with torch.inference_mode():
            self._shapes = [tuple(known.shape[1:]) for known in self._net.identity(*self._blank())]
            self._sizes = [int(np.prod(shape)) for shape in self._shapes]
            like = torch.empty(0, dtype=self.dtype, device=self.device)
            self._identities = Identities(self._encode, sum(self._sizes), like, IDENTITY_BYTES[self.device])
            self._run = self._recorded() if self.device == "cuda" else self._eager

    @classmethod
    def load(cls, path: Path, device: Device = "auto", *, threads: int = 1) -> LipEngine:
        """The engine with the weights of the checkpoint `path`. Blocking, about 2 s with the import of torch.

        BadRequest if the checkpoint is not one of Wav2Lip, or there is no such device.
        """
        from nets.checkpoints import load_wav2lip

        return cls(load_wav2lip(path), device, threads=threads)

    def infer(self, jobs: Sequence[FaceJob]) -> list[Face]:
        """One Face per job, in order. Blocking; on one core with bfloat16 about 7 ms a face of ours, 20 ms at 96."""
        import torch

        if self.device == "cpu":
            torch.set_num_threads(self.threads)  # holds for the calling thread, so it cannot be done at the start
        mel = np.stack([job.window for job in jobs])[:, None]  # (B, 1, 80, 16)
        with torch.inference_mode():
            known = self._identities.of([(job.avatar, job.avatar_index) for job in jobs])
            images = self._run(mel, known)
        return [Face(job, image) for job, image in zip(jobs, images, strict=True)]

    def _encode(self, places: Sequence[Place]) -> torch.Tensor:
        """(B, width): what the decoder wants to know of each place, one feature map after the other."""
        import torch

        faces = np.stack([self._face(avatar, index) for avatar, index in places])  # (B, S, S, 3 or 6)
        told = [torch.from_numpy(faces).to(self.device).permute(0, 3, 1, 2).to(self.dtype) / 255]
        if self.layout.layers:
            points = np.stack([_points(avatar, index) for avatar, index in places])
            told.append(torch.from_numpy(points).to(self.device))
        return torch.cat([known.permute(0, 2, 3, 1).flatten(1) for known in self._net.identity(*told)], dim=1)

    def _face(self, avatar: Avatar, index: int) -> Image:
        size = self.layout.size
        if self.layout.layers:
            return cut_square(avatar.image(index), _square(avatar, index), size)
        x1, y1, x2, y2 = _face_box(avatar, index)
        whole = cv2.resize(avatar.image(index)[y1:y2, x1:x2], (size, size))
        masked = whole.copy()
        masked[size // 2 :] = 0
        return np.concatenate((masked, whole), axis=2).astype(np.uint8)

    def _draw(self, mel: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """(B, S, S, 3) uint8 or (B, n) float16, of (B, 1, 80, 16) and the rows of `_encode`."""
        import torch

        parts = torch.split(known, self._sizes, dim=1)
        identity = [
            part.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
            for part, (channels, height, width) in zip(parts, self._shapes, strict=True)
        ]
        out = self._net.speak(mel, identity)
        if not isinstance(out, tuple):
            return out.permute(0, 2, 3, 1).float().mul(255).round().byte()
        return torch.cat([part.permute(0, 2, 3, 1).flatten(1).half() for part in out], dim=1)

    def _eager(self, mel: Floats, known: torch.Tensor) -> NDArray[Any]:
        import torch

        return self._draw(torch.from_numpy(mel).to(self.dtype), known).contiguous().numpy()

    def _recorded(self) -> Any:
        from nets.graphs import Graphs

        return Graphs(self._draw, sum(self._sizes), GPU_BATCH)

    def _blank(self) -> list[torch.Tensor]:
        """What `identity` is told, of nobody."""
        import torch

        size, layers = self.layout.size, self.layout.layers
        face = torch.zeros((1, 3 if layers else 6, size, size), dtype=self.dtype, device=self.device)
        return [face, torch.zeros((1, 8, 2), device=self.device)] if layers else [face]


class LipReal(BaseReal):
    """A session whose face is drawn by Wav2Lip: `--modelfile`, else `models/wav2lip.pth` if there is one, else ours."""

    lead_ticks = 3

    @classmethod
    def make_engine(cls, settings: Settings) -> LipEngine:
        path = Path(settings.modelfile) if settings.modelfile else settings.models_dir / PUBLISHED
        if not settings.modelfile and not path.exists():
            path = settings.models_dir / OURS
        engine = LipEngine.load(path, settings.device)
        logger.info(
            "lips are drawn by {} on {} ({})", path.name, engine.device, str(engine.dtype).removeprefix("torch.")
        )
        return engine

    def __init__(self, session_id: int, choice: Choice, shared: Shared) -> None:
        assert isinstance(shared.engine, LipEngine)
        for avatar in choice.avatars.values():
            if shared.engine.layout.layers and avatar.landmarks is None:
                raise BadRequest(f"avatar '{avatar.id}' has no landmarks: make it anew, or use a published checkpoint")
        super().__init__(session_id, choice, shared)

    @classmethod
    def make_features(cls, engine: Engine) -> MelFeatures:
        assert isinstance(engine, LipEngine)
        return MelFeatures(engine.layout.past_columns)

    @staticmethod
    def paste(face: Face) -> Image:
        return paste_layers(face) if face.image.ndim == 1 else paste_box(face)


def paste_layers(face: Face) -> Image:
    """The avatar's frame with the layers of our network applied, a new uint8 (H, W, 3). Any thread, about 2 ms.

    The frame's own pixels are moved, at their own resolution; only what the mouth had hidden is painted.
    """
    avatar, index = face.job.avatar, face.job.avatar_index
    frame = avatar.image(index)
    image = frame.copy()
    square = _square(avatar, index)
    painted, flow = _layers(face.image)
    _move(image, frame, square, flow * square[2])
    _paint(image, square, painted)
    return image


def _layers(answer: NDArray[np.float16]) -> tuple[Floats, Floats]:
    """`nets.lips.Layers`, float32 (S/2, 3S/4, 4) and (S/4, S/4, 2), of the numbers of one face; faded at their edges.

    The picture is in [0, 255] and already mixed: multiplied by how much of it is shown.
    """
    size = round((len(answer) / (3 / 2 + 1 / 8)) ** 0.5)
    painted, flow = np.split(answer.astype(np.float32), [3 * size * size // 2])
    painted = painted.reshape(size // 2, -1, 4) * _fade(size // 2, 3 * size // 4, WINDOW_EDGE * size)
    painted[..., :3] *= 255 * painted[..., 3:]
    return painted, flow.reshape(size // 4, -1, 2) * _fade(size // 4, size // 4, SQUARE_EDGE * size / 4)


def _move(image: Image, frame: Image, square: Square, flow: Floats) -> None:
    """In `image`, bring each pixel of the square from where it lies in `frame`: `flow` pixels away."""
    x, y, side = square
    box = _inside(image, (x - side / 2, y - side / 2, x + side / 2, y + side / 2))
    if box is None:
        return
    left, top, right, bottom = box
    away = _enlarged(flow, (x - side / 2, y - side / 2), side / len(flow), box)
    across, down = np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32)[:, None]
    cv2.remap(
        *(frame, away[..., 0] + across, away[..., 1] + down, cv2.INTER_LINEAR),
        dst=image[top:bottom, left:right],
        borderMode=cv2.BORDER_REPLICATE,
    )


def _paint(image: Image, square: Square, painted: Floats) -> None:
    """Into `image`, lay what is between the lips."""
    x, y, side = square
    scale, corner = side / (2 * len(painted)), (x - 3 * side / 8, y - side / 4)
    box = _inside(image, (*corner, x + 3 * side / 8, y + side / 4))
    if box is None:
        return
    left, top, right, bottom = box
    new, old = _enlarged(painted, corner, scale, box), image[top:bottom, left:right]
    old[:] = np.clip(new[..., :3] + (1 - new[..., 3:]) * old + 0.5, 0, 255)


def _inside(image: Image, edges: tuple[float, float, float, float]) -> tuple[int, int, int, int] | None:
    """All pixels of `image` that lie between `edges` (left, top, right, bottom), the last ones excluded."""
    height, width = image.shape[:2]
    left, top = max(0, int(edges[0])), max(0, int(edges[1]))
    right, bottom = min(width, int(np.ceil(edges[2]))), min(height, int(np.ceil(edges[3])))
    return (left, top, right, bottom) if left < right and top < bottom else None


def _enlarged(
    maps: Floats, corner: tuple[float, float], scale: float, box: tuple[int, int, int, int]
) -> NDArray[np.float32]:
    """`maps` (h, w, n) as they lie in `box`, if each of their pixels is `scale` large and `corner` is where they begin.

    Nothing lies around them.
    """
    left, top, right, bottom = box
    matrix = np.array(
        [[1 / scale, 0, (left - corner[0]) / scale - 0.5], [0, 1 / scale, (top - corner[1]) / scale - 0.5]]
    )
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(maps, matrix, (right - left, bottom - top), flags=how), np.float32)


@lru_cache(4)
def _fade(height: int, width: int, over: float) -> Floats:
    """(h, w, 1): what maps are multiplied by to fade: nothing at their edges, all `over` pixels from them."""
    rows, columns = (_rise(np.minimum(np.arange(n), np.arange(n)[::-1]), over) for n in (height, width))
    fade = np.outer(rows, columns)[..., None].astype(np.float32)
    fade.flags.writeable = False
    return fade


def _square(avatar: Avatar, index: int) -> Square:
    """x and y of the middle, and the side, of the square our network sees; pixels."""
    assert avatar.landmarks is not None
    x, y, side = mouth_square(avatar.landmarks[index]).tolist()
    return x, y, max(side, 8.0)


def _points(avatar: Avatar, index: int) -> Floats:
    """The mouth (8, 2), in sides of the square from its middle."""
    assert avatar.mouth is not None
    x, y, side = _square(avatar, index)
    return np.asarray((avatar.mouth[index] - [x, y]) / side, np.float32)


def paste_box(face: Face) -> Image:
    """The avatar's frame with a published network's face in it, a new uint8 (H, W, 3). Any thread, 1 ms for 256×256.

    Only the lower half of the box changes, most in its middle and nothing at its edges nor, if its contour is known,
    outside the face; where both pictures meet, the face takes the mean colour of the frame as far as MAX_SHIFT goes.
    """
    avatar, index = face.job.avatar, face.job.avatar_index
    image = avatar.image(index).copy()
    x1, y1, x2, y2 = _face_box(avatar, index)
    middle = (y2 - y1) // 2
    old = image[y1 + middle : y2, x1:x2]
    new = cv2.resize(face.image, (x2 - x1, y2 - y1), interpolation=cv2.INTER_CUBIC)[middle:]
    mask = (_mask(y2 - y1, x2 - x1) * _within(avatar, index, (x1, y1, x2, y2)))[middle:]
    change = new.astype(np.float32) - old
    change -= _seam_colour(change, mask)
    old[:] = np.clip(old + mask * change + 0.5, 0, 255)
    return image


def _seam_colour(change: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of `change` where the mask is neither 0 nor 1, per channel, within ±MAX_SHIFT."""
    seam = mask * (1 - mask)
    mean = (seam * change).sum(axis=(0, 1)) / (seam.sum() + 1e-6)
    return np.asarray(np.clip(mean, -MAX_SHIFT, MAX_SHIFT))


def _mask(height: int, width: int) -> NDArray[np.float32]:
    """How much of the face is shown, (h, w, 1) in [0, 1]: nothing in the upper half and at the edges of the lower."""
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    rows = _rise(y - 0.5, 0.15) * _rise(1 - y, 0.08)
    columns = _rise(x, 0.15) * _rise(1 - x, 0.15)
    return np.outer(rows, columns)[..., None].astype(np.float32)


def _within(avatar: Avatar, index: int, box: tuple[int, int, int, int]) -> Floats:
    """(h, w, 1) in [0, 1]: 1 inside the face and a little around it, for a jaw that drops."""
    x1, y1, x2, y2 = box
    if avatar.landmarks is None:
        return np.ones((y2 - y1, x2 - x1, 1), np.float32)
    contour = avatar.landmarks[index, OVAL]
    middle = contour.mean(axis=0)
    wider = middle + FACE_MARGIN * (contour - middle) - [x1, y1]
    inside = np.zeros((y2 - y1, x2 - x1), np.float32)
    cv2.fillPoly(inside, [np.round(wider).astype(np.int32)], 1.0)
    soft = cv2.GaussianBlur(inside, (0, 0), max(1.0, 0.03 * (x2 - x1)))
    return np.asarray(soft, np.float32)[..., None]


def _rise(x: NDArray[np.float64], over: float) -> NDArray[np.float64]:
    """A smooth step from 0 at 0 to 1 at `over`."""
    t = np.clip(x / over, 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _face_box(avatar: Avatar, index: int) -> tuple[int, int, int, int]:
    """x1 y1 x2 y2 of the face, inside the frame and never empty."""
    x1, y1, x2, y2 = avatar.boxes[index].tolist()
    width, height = avatar.size
    x1, y1 = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    return x1, y1, min(max(x2, x1 + 1), width), min(max(y2, y1 + 1), height)


def _device(wish: Device) -> Literal["cpu", "cuda"]:
    import torch

    if wish == "cuda" and not torch.cuda.is_available():
        raise BadRequest("there is no CUDA device here")
    if wish == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wish


def _dtype(device: Literal["cpu", "cuda"]) -> torch.dtype:
    import torch

    if device == "cuda":
        return torch.float16
    return torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16") else torch.float32
