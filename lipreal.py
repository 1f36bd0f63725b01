"""Faces that speak by Wav2Lip: the engine, and how its answer is put back into the picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from weakref import ref

import cv2
import numpy as np
from numpy.typing import NDArray

from basereal import BaseReal
from core.avatar import Avatar
from core.config import Settings
from core.errors import BadRequest
from core.media import Face, FaceJob, Image
from nets.mel import MelFeatures

if TYPE_CHECKING:
    import torch

    from nets.wav2lip import Wav2Lip

Device = Literal["auto", "cpu", "cuda"]

GPU_BATCH = 32
CPU_BATCH = {96: 4, 256: 1}  # about 100 ms of work, well within what jobs are sent ahead
FACE_CACHE_BYTES = 128 << 20
MAX_SHIFT = 12.0  # levels of brightness that colour matching may add or take


class LipEngine:
    """`core.media.Engine` of Wav2Lip: windows are mel (80, 16), answers uint8 (S, S, 3) BGR, S the size of the network.

    Folds `net` and keeps it. Float16 on a GPU; on a CPU bfloat16 where it has the instructions, else float32.
    On a CPU, `infer` keeps torch to `threads` threads; the other cores are for sessions and encoders.
    """

    def __init__(self, net: Wav2Lip, device: Device = "auto", *, threads: int = 1) -> None:
        import torch
        from torch.nn.utils import convert_conv2d_weight_memory_format

        self.device = _device(device)
        self.dtype = _dtype(self.device)
        self.threads = threads
        self.size = net.size
        self.max_batch = GPU_BATCH if self.device == "cuda" else CPU_BATCH[self.size]
        self._net = convert_conv2d_weight_memory_format(net.fold().to(self.device, self.dtype), torch.channels_last)
        self._crop = lru_cache(FACE_CACHE_BYTES // (3 * self.size**2))(self._cut)

    @classmethod
    def load(cls, path: Path, device: Device = "auto", *, threads: int = 1) -> LipEngine:
        """The engine with the weights of the checkpoint `path`. Blocking, about 2 s with the import of torch.

        BadRequest if the checkpoint is not one of Wav2Lip, or there is no such device.
        """
        from nets.wav2lip import load_wav2lip

        return cls(load_wav2lip(path), device, threads=threads)

    def infer(self, jobs: Sequence[FaceJob]) -> list[Face]:
        """One Face per job, in order. Blocking; at 96 about 22 ms a face on one core with bfloat16, 40 ms without."""
        import torch

        if self.device == "cpu":
            torch.set_num_threads(self.threads)  # holds for the calling thread, so it cannot be done at the start
        mel = np.stack([job.window for job in jobs])[:, None]  # (B, 1, 80, 16)
        whole = np.stack([self._crop(ref(job.avatar), job.avatar_index) for job in jobs])  # (B, S, S, 3)
        masked = whole.copy()
        masked[:, self.size // 2 :] = 0
        face = np.concatenate((masked, whole), axis=3)  # (B, S, S, 6)
        with torch.inference_mode():
            images = self._run(torch.from_numpy(mel), torch.from_numpy(face))
        return [Face(job, image) for job, image in zip(jobs, images, strict=True)]

    def _run(self, mel: torch.Tensor, face: torch.Tensor) -> NDArray[np.uint8]:
        mel = mel.to(self.device, self.dtype)
        face = face.to(self.device).permute(0, 3, 1, 2).to(self.dtype) / 255  # (B, 6, S, S), channels last
        out = self._net(mel, face).float().mul_(255).round_().byte()
        images: NDArray[np.uint8] = out.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return images

    def _cut(self, owner: ref[Avatar], index: int) -> Image:
        avatar = owner()
        assert avatar is not None  # its job holds it
        x1, y1, x2, y2 = _face_box(avatar, index)
        crop = avatar.image(index)[y1:y2, x1:x2]
        return np.asarray(cv2.resize(crop, (self.size, self.size)), np.uint8)


class LipReal(BaseReal):
    """A session whose face is drawn by Wav2Lip; its checkpoint is `--modelfile`, by default `models/wav2lip.pth`."""

    lead_ticks = 3

    @classmethod
    def make_engine(cls, settings: Settings) -> LipEngine:
        path = Path(settings.modelfile) if settings.modelfile else settings.models_dir / "wav2lip.pth"
        return LipEngine.load(path, settings.device)

    def make_features(self) -> MelFeatures:
        return MelFeatures()

    def paste(self, face: Face) -> Image:
        return paste(face)


def paste(face: Face) -> Image:
    """The avatar's frame with `face` in it, a new uint8 (H, W, 3). Any thread, 1 ms for a 256×256 box in 512×512.

    Only the lower half of the box changes, most in its middle and nothing at its edges; where both pictures meet, the
    face takes the mean colour of the frame as far as MAX_SHIFT goes.
    """
    avatar, index = face.job.avatar, face.job.avatar_index
    image = avatar.image(index).copy()
    x1, y1, x2, y2 = _face_box(avatar, index)
    middle = (y2 - y1) // 2
    old = image[y1 + middle : y2, x1:x2]
    new = cv2.resize(face.image, (x2 - x1, y2 - y1), interpolation=cv2.INTER_CUBIC)[middle:]
    mask = _mask(y2 - y1, x2 - x1)[middle:]
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
