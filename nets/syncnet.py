"""How well a mouth goes with a sound: both are put into one space, where what belongs together lies close.

After Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016). Trained by `studio.train_lips`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from core.errors import BadRequest
from nets.checkpoints import DAMAGE, read_weights
from nets.wav2lip import conv, residuals

TICKS = 5  # 200 ms: as many pictures as one mel window covers
SIZE = 64  # pixels of a grey mouth square
VISEMES = 14  # whose weights both sides learn to tell, so that they learn mouths and not voices


class SyncNet(nn.Module):
    """Five mouths and one mel window to unit vectors of `WIDTH`; their product is in [-1, 1], high in step. 1.2 M."""

    WIDTH = 128

    def __init__(self) -> None:
        super().__init__()
        self.mouths = nn.Sequential(  # (5, 64, 64)
            conv(TICKS, 24, 5, 2, 2),  # (24, 32, 32)
            *residuals(24, 1),
            conv(24, 48, 3, 2, 1),  # (48, 16, 16)
            *residuals(48, 1),
            conv(48, 96, 3, 2, 1),  # (96, 8, 8)
            *residuals(96, 1),
            conv(96, 128, 3, 2, 1),  # (128, 4, 4)
            nn.Conv2d(128, self.WIDTH, 4),  # (WIDTH, 1, 1)
        )
        self.sound = nn.Sequential(  # (1, 80, 16)
            conv(1, 16, 3, 1, 1),  # (16, 80, 16)
            conv(16, 48, 3, (3, 1), 1),  # (48, 27, 16)
            *residuals(48, 1),
            conv(48, 96, 3, 3, 1),  # (96, 9, 6)
            *residuals(96, 1),
            conv(96, 128, 3, (3, 2), 1),  # (128, 3, 3)
            nn.Conv2d(128, self.WIDTH, 3),  # (WIDTH, 1, 1)
        )
        self.shapes = nn.Linear(self.WIDTH, TICKS * VISEMES)  # what is meant, of either side
        self.sharpness = nn.Parameter(torch.tensor(2.5))

    def see(self, mouths: Tensor) -> Tensor:
        """(B, WIDTH) of (B, 5, 64, 64) grey mouth squares in [0, 1], 40 ms apart."""
        centred = mouths - mouths.mean(dim=(1, 2, 3), keepdim=True)
        return normalize(self.mouths(4 * centred).flatten(1), dim=1)

    def hear(self, mel: Tensor) -> Tensor:
        """(B, WIDTH) of (B, 1, 80, 16) mel windows in [-4, 4] that begin with the first of the five pictures."""
        return normalize(self.sound(mel / 4).flatten(1), dim=1)


def load_syncnet(path: Path) -> SyncNet:
    """The network of `path`, float32 on the CPU, in eval mode. BadRequest if it is missing or another network's."""
    net = SyncNet()
    try:
        net.load_state_dict(read_weights(path))
    except DAMAGE as error:
        raise BadRequest(f"'{path.name}' holds no SyncNet of ours") from error
    return net.float().eval()
