"""Wav2Lip: from 200 ms of sound and a face, the same face saying it.

Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation In The Wild" (2020). Module names are
those of the published checkpoints; `size` is 96 as published, or 256 for the deeper network known as wav2lip256.
"""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.fusion import fuse_conv_bn_eval

from core.errors import BadRequest

Size = Literal[96, 256]

# All that torch's unpickler has been seen to raise over broken bytes, besides its own error.
DAMAGE = (AssertionError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError, struct.error)


class Block(nn.Module):
    """ReLU of a batch-normed convolution; `residual` adds the input before the ReLU."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, *, residual: bool = False) -> None:
        super().__init__()
        self.conv_block: nn.Module = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv_block(x)
        return relu(out.add_(x) if self.residual else out, inplace=True)

    def fold(self) -> None:
        """Let the convolution do what the batch norm does."""
        match list(self.conv_block.children()):
            case [nn.Conv2d() | nn.ConvTranspose2d() as conv, nn.BatchNorm2d() as norm]:
                self.conv_block = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))


def conv(cin: int, cout: int, kernel: int = 3, stride: int | tuple[int, int] = 1, padding: int = 0) -> Block:
    """(cin, H, W) to (cout, H', W')."""
    return Block(nn.Conv2d(cin, cout, kernel, stride, padding))


def residuals(channels: int, n: int) -> list[Block]:
    """`n` blocks that keep the shape."""
    return [Block(nn.Conv2d(channels, channels, 3, padding=1), residual=True) for _ in range(n)]


def down(cin: int, cout: int, n: int) -> nn.Sequential:
    """(cin, H, W) to (cout, H/2, W/2), then `n` residual blocks."""
    return nn.Sequential(conv(cin, cout, 3, 2, 1), *residuals(cout, n))


def up(cin: int, cout: int, n: int) -> nn.Sequential:
    """(cin, H, W) to (cout, 2H, 2W), then `n` residual blocks."""
    return nn.Sequential(Block(nn.ConvTranspose2d(cin, cout, 3, 2, 1, output_padding=1)), *residuals(cout, n))


class Wav2Lip(nn.Module):
    """The generator. 36.3 M parameters and 4.0 GMAC a face at 96, 53.6 M and 27.8 GMAC at 256."""

    def __init__(self, size: Size = 96) -> None:
        super().__init__()
        self.size = size
        deep = size == 256
        base = 4 if deep else 3  # b: the pixels that S/64 or S/32 leaves
        self.audio_encoder = nn.Sequential(  # (1, 80, 16)
            conv(1, 32, 3, 1, 1),  # (32, 80, 16)
            *residuals(32, 2),
            conv(32, 64, 3, (3, 1), 1),  # (64, 27, 16)
            *residuals(64, 2),
            conv(64, 128, 3, 3, 1),  # (128, 9, 6)
            *residuals(128, 2),
            conv(128, 256, 3, (3, 2), 1),  # (256, 3, 3)
            *residuals(256, 1),
            conv(256, 512, 3),  # (512, 1, 1)
            conv(512, 512, 1),
        )
        self.face_encoder_blocks = nn.ModuleList(  # (6, S, S)
            [
                nn.Sequential(conv(6, 16, 7, 1, 3)),  # (16, S, S)
                down(16, 32, 2),  # (32, S/2, S/2)
                down(32, 64, 3),  # (64, S/4, S/4)
                down(64, 128, 2),  # (128, S/8, S/8)
                down(128, 256, 2),  # (256, S/16, S/16)
                down(256, 512, 1),  # (512, S/32, S/32)
                *([down(512, 512, 1)] if deep else []),  # (512, S/64, S/64)
                nn.Sequential(conv(512, 512, base), conv(512, 512, 1)),  # (512, 1, 1)
            ]
        )
        self.face_decoder_blocks = nn.ModuleList(  # each output is joined by the encoder's of its resolution
            [
                nn.Sequential(conv(512, 512, 1)),  # (512, 1, 1) + 512
                nn.Sequential(Block(nn.ConvTranspose2d(1024, 512, base)), *residuals(512, 1)),  # (512, b, b) + 512
                *([up(1024, 512, 1)] if deep else []),  # (512, S/32, S/32) + 512
                up(1024, 512, 2),  # (512, S/16, S/16) + 256
                up(768, 384, 2),  # (384, S/8, S/8) + 128
                up(512, 256, 2),  # (256, S/4, S/4) + 64
                up(320, 128, 2),  # (128, S/2, S/2) + 32
                up(160, 64, 2),  # (64, S, S) + 16
            ]
        )
        self.output_block = nn.Sequential(conv(80, 32, 3, 1, 1), nn.Conv2d(32, 3, 1), nn.Sigmoid())  # (3, S, S)

    def forward(self, mel: Tensor, face: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1]: the face saying `mel`.

        `mel` (B, 1, 80, 16) in [-4, 4]; `face` (B, 6, S, S) in [0, 1], BGR twice: the lower half black, then the whole.
        """
        skips = [face]
        for encode in self.face_encoder_blocks:
            skips.append(encode(skips[-1]))
        x: Tensor = self.audio_encoder(mel)
        for decode in self.face_decoder_blocks:
            x = torch.cat((decode(x), skips.pop()), dim=1)
        out: Tensor = self.output_block(x)
        return out

    def fold(self) -> Wav2Lip:
        """This network, from now on for inference only: its batch norms go into the convolutions before them."""
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Block):
                module.fold()
        return self


def load_wav2lip(path: Path) -> Wav2Lip:
    """The network of a checkpoint, float32 on the CPU, in eval mode; its keys tell its size. Blocking, about 1 s.

    The file holds a state dict, or `{"state_dict": …}` and whatever training left beside it; a `module.` before the
    keys is ignored. Nothing in it is executed. BadRequest if it is missing, damaged, or of another network.
    """
    state = _state_dict(path)
    with torch.device("meta"):
        net = Wav2Lip(256 if "face_encoder_blocks.7.0.conv_block.0.weight" in state else 96)
    net.to_empty(device="cpu")
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise BadRequest(f"'{path.name}' holds another network than Wav2Lip of size 96 or 256") from error
    return net.eval()


def _state_dict(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BadRequest(f"there are no weights '{path.name}'")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadRequest(f"'{path.name}' holds more than weights, or is damaged: it was not loaded") from error
    except DAMAGE as error:
        raise BadRequest(f"'{path.name}' is damaged, or no file of weights") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict):
        raise BadRequest(f"'{path.name}' holds no state dict")
    return {str(key).removeprefix("module."): value for key, value in state.items()}
