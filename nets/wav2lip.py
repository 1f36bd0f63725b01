"""Wav2Lip: from 200 ms of sound and a face, the same face saying it.

Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation In The Wild" (2020). Module names are
those of the published checkpoints; `size` is 96 as published, or 256 for the deeper network known as wav2lip256.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.fusion import fuse_conv_bn_eval

CODE = 16  # channels of the sound that a `layers` network gives each of its stages


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


Channels = Annotated[int, Field(gt=0, le=4096)]
Stage = tuple[Channels, Annotated[int, Field(ge=0, le=16)]]
Stages = Annotated[tuple[Stage, ...], Field(min_length=2, max_length=12)]


@dataclass(frozen=True)
class Layout:
    """The shape of a network. S is `size`; `encoder` and `decoder` are (channels, residual blocks) of each stage.

    The encoder's first stage is of size S, each next of half that; the last leaves `base` x `base` pixels. The decoder
    doubles from there. `joined` decoder stages take the encoder's features of their size with them; the first two are
    1 x 1 and `base` x `base`. `layers` networks are those of `nets.lips`: they see the face once (3 channels).
    """

    __pydantic_config__: ClassVar = ConfigDict(strict=True, revalidate_instances="always")

    size: Annotated[int, Field(le=1024)]
    encoder: Stages
    base: Annotated[int, Field(gt=0, le=16)]
    bottom: Channels
    audio: tuple[Channels, Channels, Channels, Channels, Channels]
    decoder: Stages
    head: Channels
    layers: bool = False
    past_columns: Annotated[int, Field(ge=0, le=16)] = 0  # of a mel window, before its tick

    def __post_init__(self) -> None:
        if len(self.decoder) != len(self.encoder) + 1 or self.size != self.base << (len(self.encoder) - 1):
            raise ValueError("the stages of encoder and decoder do not meet")

    @property
    def joined(self) -> int:
        """How many decoder stages are joined by the encoder: all, but where layers are made not that of full size."""
        return len(self.decoder) - self.layers


PUBLISHED = {
    96: Layout(
        96,
        ((16, 0), (32, 2), (64, 3), (128, 2), (256, 2), (512, 1)),
        3,
        512,
        (32, 64, 128, 256, 512),
        ((512, 0), (512, 1), (512, 2), (384, 2), (256, 2), (128, 2), (64, 2)),
        32,
    ),
    256: Layout(
        256,
        ((16, 0), (32, 2), (64, 3), (128, 2), (256, 2), (512, 1), (512, 1)),
        4,
        512,
        (32, 64, 128, 256, 512),
        ((512, 0), (512, 1), (512, 1), (512, 2), (384, 2), (256, 2), (128, 2), (64, 2)),
        32,
    ),
}


class Wav2Lip(nn.Module):
    """The generator. Published: 36.3 M parameters and 4.0 GMAC a face at 96, 53.6 M and 27.8 GMAC at 256."""

    def __init__(self, layout: Layout = PUBLISHED[96]) -> None:
        super().__init__()
        self.layout = layout
        base, bottom = layout.base, layout.bottom
        a, b, c, d, e = layout.audio
        self.audio_encoder = nn.Sequential(  # (1, 80, 16)
            conv(1, a, 3, 1, 1),  # (a, 80, 16)
            *residuals(a, 2),
            conv(a, b, 3, (3, 1), 1),  # (b, 27, 16)
            *residuals(b, 2),
            conv(b, c, 3, 3, 1),  # (c, 9, 6)
            *residuals(c, 2),
            conv(c, d, 3, (3, 2), 1),  # (d, 3, 3)
            *residuals(d, 1),
            conv(d, e, 3),  # (e, 1, 1)
            conv(e, e, 1),
        )
        (first, _), *rest = layout.encoder
        channels = [first, *(channels for channels, _ in rest)]
        self.face_encoder_blocks = nn.ModuleList(
            [
                nn.Sequential(conv(3 if layout.layers else 6, first, 7, 1, 3)),  # (_, S, S)
                *(down(cin, cout, n) for cin, (cout, n) in zip(channels, rest, strict=False)),  # S/2, S/4, … base
                nn.Sequential(conv(channels[-1], bottom, base), conv(bottom, bottom, 1)),  # (bottom, 1, 1)
            ]
        )
        joins = [bottom, *reversed(channels)][: layout.joined] + [0] * (len(layout.decoder) - layout.joined)
        code = CODE if layout.layers else 0
        (narrow, _), (wide, n), *more = layout.decoder
        into = [cout + join for (cout, _), join in zip(layout.decoder, joins, strict=True)]
        self.face_decoder_blocks = nn.ModuleList(
            [
                nn.Sequential(conv(e, narrow, 1)),  # (_, 1, 1)
                nn.Sequential(Block(nn.ConvTranspose2d(into[0], wide, base)), *residuals(wide, n)),  # (_, base, base)
                *(up(cin + code, cout, n) for cin, (cout, n) in zip(into[1:], more, strict=False)),  # … S/2, S
            ]
        )
        self.output_block = nn.Sequential(conv(into[-1], layout.head, 3, 1, 1), nn.Conv2d(layout.head, 3, 1))
        if not layout.layers:
            self.output_block.append(nn.Sigmoid())
        self._into, self._code = into, code

    def forward(self, mel: Tensor, *face: Tensor) -> Tensor:
        """What `speak` answers for the face that `identity` is told."""
        return self.speak(mel, self.identity(*face))

    def identity(self, face: Tensor) -> tuple[Tensor, ...]:
        """What the decoder wants to know of a face, smallest first. It holds for everything the face will ever say.

        `face` (B, 6, S, S) BGR in [0, 1]: the lower half black, then the whole.
        """
        found = [face]
        for encode in self.face_encoder_blocks:
            found.append(encode(found[-1]))
        return tuple(reversed(found[1:]))[: self.layout.joined]

    def speak(self, mel: Tensor, identity: Sequence[Tensor]) -> Tensor:
        """(B, 3, S, S) in [0, 1]: the face saying `mel` (B, 1, 80, 16) in [-4, 4]."""
        return self.draw(self.audio_encoder(mel), identity)

    def draw(self, sound: Tensor, identity: Sequence[Tensor]) -> Tensor:
        """`speak`, from the audio encoder's answer (B, e, 1, 1) on."""
        x = sound
        for decode, known in zip(self.face_decoder_blocks, identity, strict=True):
            x = torch.cat((decode(x), known), dim=1)
        out: Tensor = self.output_block(x)
        return out

    def fold(self) -> Wav2Lip:
        """This network, from now on for inference only: its batch norms go into the convolutions before them."""
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Block):
                module.fold()
        return self
