"""Our lips: a network of the Wav2Lip kind that is told where the mouth is, and answers with layers.

What it says of a face is where each of its pixels should come from, and what to paint where something was hidden. So
skin keeps its grain at any resolution, and only teeth and tongue are made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate, pad

from core.avatar import LEFT_CORNER, LOWER_INNER, RIGHT_CORNER, UPPER_INNER
from nets.wav2lip import Layout, Wav2Lip, conv, residuals

POINTS = 8
FLOW_HEAD, FLOW_STAGE = 32, -3  # channels; the decoder's stage, from its end, that tells how things move
WINDOW = (4, 12, 2, 14)  # top, bottom, left, right of where a mouth can open, in sixteenths of the square
EDGES = tuple((x, y) for x, y in product((-0.5, 0.0, 0.5), (-0.5, -0.17, 0.17, 0.5)) if x or abs(y) > 0.4)
EDGE = 0.006  # how soft the edge of an opening is
SURE = 8.0  # how much is shown where the opening is, before anything is learned: between -SURE / 2 and SURE / 2
REACH = 0.25  # how far a pixel of ours may come from, of the face's size


class Layers(NamedTuple):
    """What becomes of a face of size S.

    `painted` (B, 4, S/2, 3S/4): of WINDOW, a picture BGR and how much of it is shown, all in [0, 1]. `flow`
    (B, 2, S/4, S/4): of all of it, how far away each pixel comes from, x and y in sizes of the face.
    """

    painted: Tensor
    flow: Tensor


def our_layout(width: float = 1.0) -> Layout:
    """The layout that `studio.train_lips` trains, all channels times `width` (multiples of 8). 6.3 M parameters at 1.

    128 pixels around the mouth; a mel window begins 87 ms before its tick, so that speech need not be heard far ahead.
    (It is learned with 75 ms: the drawn people open their mouths a little before real ones do.)
    """

    def wide(channels: int) -> int:
        return max(8, round(channels * width / 8) * 8)

    encoder = tuple((wide(c), n) for c, n in ((16, 0), (32, 1), (64, 1), (96, 1), (160, 1), (192, 1)))
    decoder = tuple((wide(c), n) for c, n in ((256, 0), (192, 0), (160, 1), (128, 1), (64, 1), (32, 1), (16, 0)))
    audio = (16, 48, 96, 192, wide(256))
    return Layout(128, encoder, 4, wide(192), audio, decoder, wide(32), layers=True, past_columns=7)


class Lips(Wav2Lip):
    """Told where the mouth is, it says where the mouth goes, what moves with it, and what is painted.

    Points are the eight rows of `Avatar.mouth`, in sides of the square from its middle: (-0.5, -0.5) is its corner.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        e = layout.audio[-1]
        self.code = nn.Conv2d(e, self._code, 1)  # of the sound, for every stage to read
        self.mover = nn.Sequential(
            *(nn.Linear(e + 2 * POINTS, 256), nn.ReLU()), *(nn.Linear(256, 256), nn.ReLU()), nn.Linear(256, 2 * POINTS)
        )
        seen = self._into[FLOW_STAGE] + self._code + 3  # motion and opening
        self.flow_block = nn.Sequential(  # (2, S/4, S/4)
            conv(seen, FLOW_HEAD, 3, 1, 1), *residuals(FLOW_HEAD, 1), nn.Conv2d(FLOW_HEAD, 2, 1)
        )
        self.output_block = nn.Sequential(
            conv(self._into[-1] + 4, layout.head, 3, 1, 1), *residuals(layout.head, 1), nn.Conv2d(layout.head, 1, 1)
        )
        self.painter = Painter(e)
        self._start_with_the_face_itself()

    def _start_with_the_face_itself(self) -> None:
        with torch.no_grad():
            for last in (self.mover[-1], self.flow_block[-1], self.output_block[-1]):
                last.get_parameter("weight").mul_(0.1)
                last.get_parameter("bias").zero_()

    def identity(self, face: Tensor, points: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """As Wav2Lip's, of `face` (B, 3, S, S) BGR in [0, 1] with its mouth at `points` (B, 8, 2), which come last."""
        skin = face[:, :, face.shape[2] // 4 : -face.shape[2] // 4].mean(dim=(2, 3), keepdim=True)
        *small, large = super().identity(face)
        return *small, window(large), skin, points.flatten(1)[:, :, None, None].to(face.dtype)

    def move(self, sound: Tensor, points: Tensor) -> Tensor:
        """How the mouth's points (B, 8, 2) move with the audio encoder's answer (B, e, 1, 1); sides of the square."""
        told = torch.cat((sound.flatten(1), 4 * points.flatten(1).to(sound.dtype)), dim=1)
        moved: Tensor = self.mover(told).float()
        return 0.1 * moved.reshape(-1, POINTS, 2)

    def speak(self, mel: Tensor, identity: Sequence[Tensor]) -> Layers:  # type: ignore[override]
        """What becomes of the face while it says `mel` (B, 1, 80, 16) in [-4, 4]."""
        return self.draw(self.audio_encoder(mel), identity)

    def draw(  # type: ignore[override]
        self, sound: Tensor, identity: Sequence[Tensor], moved: Tensor | None = None
    ) -> Layers:
        """`speak`, from the audio encoder's answer (B, e, 1, 1) on, or from where the points truly moved."""
        *known, skin, at = identity
        points = at.float().reshape(-1, POINTS, 2)
        moved = self.move(sound, points) if moved is None else moved
        size, there = self.layout.size, points + moved
        motion = spread(there, -moved, size // 4)  # (B, 2, S/4, S/4)
        mouth = mouth_map(there, size)  # (B, 4, S/2, 3S/4)
        opening = mouth[:, :1]
        guide = torch.cat((motion * size / 4, framed(avg_pool2d(opening, 4))), dim=1).to(sound.dtype)
        x, stage = self._trunk(sound, known, guide)
        colour = self.painter(sound, skin, mouth, points, there).float().sigmoid()
        sure = self.output_block(torch.cat((x, mouth.to(x.dtype)), dim=1)).float()
        shown = (sure + SURE * (opening - 0.5)).sigmoid()
        flow = motion + REACH * self.flow_block(stage).float().tanh()
        return Layers(torch.cat((colour, shown), dim=1), flow)

    def _trunk(self, sound: Tensor, known: Sequence[Tensor], guide: Tensor) -> tuple[Tensor, Tensor]:
        """The last stage's answer in WINDOW, (B, _, S/2, 3S/4), and all that is known at S/4."""
        code, bottom, *stages, large, last = self.code(sound), *self.face_decoder_blocks
        x = torch.cat((bottom(sound), known[0]), dim=1)
        for decode, seen in zip(stages, known[1:], strict=False):
            x = decode(x)
            x = torch.cat((x, seen, code.expand(-1, -1, *x.shape[2:])), dim=1)
        y = large(window(x))
        y = torch.cat((y, known[-1], code.expand(-1, -1, *y.shape[2:])), dim=1)
        return last(y), torch.cat((x, guide), dim=1)


class Painter(nn.Module):
    """What is seen between the lips: a colour for every place, from where it is in the mouth and in the face.

    Upper teeth stay where they are while lips move, so each place is told where it is in the mouth at rest, too.
    """

    TOLD, WAVES = 8, (2, 4, 6, 8)  # numbers about the sound; teeth come again and again

    def __init__(self, heard: int) -> None:
        super().__init__()
        self.told = nn.Conv2d(heard, self.TOLD, 1)
        seen = 4 + 2 + 2 * len(self.WAVES) + 2 + 3 + self.TOLD
        self.colour = nn.Sequential(
            *(nn.Conv2d(seen, 48, 1), nn.ReLU()), *(nn.Conv2d(48, 48, 1), nn.ReLU()), nn.Conv2d(48, 3, 1)
        )

    def forward(self, sound: Tensor, skin: Tensor, mouth: Tensor, rest: Tensor, there: Tensor) -> Tensor:
        """(B, 3, S/2, 3S/4) before the sigmoid: WINDOW, from the sound, the face's mean colour, `mouth_map`, and both
        points.
        """
        height, width = mouth.shape[-2:]
        left, right = rest[:, LEFT_CORNER, None], rest[:, RIGHT_CORNER, None]
        wide = (right - left).norm(dim=-1, keepdim=True).clamp(min=1e-3)
        along = (right - left) / wide
        off = (_places(2 * height, rest.device, inside=True) - (left + right) / 2) / wide
        x = (off * along).sum(-1)
        y = off[..., 1] * along[..., 0] - off[..., 0] * along[..., 1]
        waves = [wave(torch.pi * k * x) for k in self.WAVES for wave in (torch.sin, torch.cos)]
        fixed = torch.stack((x.clamp(-1, 1), y.clamp(-1, 1), *waves), dim=1).reshape(len(x), -1, height, width)
        apart = (there[:, LOWER_INNER] - there[:, UPPER_INNER]).norm(dim=-1)
        broad = (there[:, RIGHT_CORNER] - there[:, LEFT_CORNER]).norm(dim=-1)
        shape = torch.stack((apart, broad), dim=1) * 4 / wide[:, 0]
        about = torch.cat((shape[..., None, None].to(skin.dtype), skin, self.told(sound).to(skin.dtype)), dim=1)
        maps = torch.cat((mouth.to(skin.dtype), fixed.to(skin.dtype), about.expand(-1, -1, height, width)), dim=1)
        colour: Tensor = self.colour(maps)
        return colour


def window(maps: Tensor) -> Tensor:
    """(…, S/2, 3S/4), WINDOW of `maps` (…, S, S)."""
    top, bottom, left, right = (edge * maps.shape[-1] // 16 for edge in WINDOW)
    return maps[..., top:bottom, left:right]


def framed(inside: Tensor) -> Tensor:
    """(…, S, S): `inside` (…, S/2, 3S/4) where WINDOW is, and zero around it."""
    size = 2 * inside.shape[-2]
    top, bottom, left, right = (edge * size // 16 for edge in WINDOW)
    return pad(inside, (left, size - right, top, size - bottom))


def spread(points: Tensor, values: Tensor, size: int) -> Tensor:
    """`values` (B, 8, 2), which hold at `points` (B, 8, 2), over a whole square, (B, 2, size, size).

    Each place takes what holds near it; the square's edges hold zero. All in sides of the square, from its middle.
    """
    edges = _edges(points.device).expand(len(points), -1, -1)
    at, held = torch.cat((points, edges), dim=1), torch.cat((values, torch.zeros_like(edges)), dim=1)
    near = 1 / (torch.cdist(_places(size, points.device).expand(len(points), -1, -1), at) + 0.02) ** 3
    field: Tensor = (near @ held) / near.sum(dim=-1, keepdim=True)
    return field.transpose(1, 2).reshape(-1, 2, size, size)


def mouth_map(points: Tensor, size: int) -> Tensor:
    """(B, 4, size/2, 3size/4): where each place of WINDOW is in the mouth of `points` (B, 8, 2).

    How much of it lies between the lips, in [0, 1]; then in [-1, 1] how far across from the left corner to the right,
    how far below the upper lip, and above the lower one, both in tenths of the square.
    """
    left, right, upper, lower = (points[:, row, None] for row in (LEFT_CORNER, RIGHT_CORNER, UPPER_INNER, LOWER_INNER))
    wide = (right - left).norm(dim=-1, keepdim=True).clamp(min=1e-3)
    along = (right - left) / wide
    down = torch.stack((-along[..., 1], along[..., 0]), dim=-1)
    off = _places(size, points.device, inside=True) - left
    part = (off * along).sum(-1) / wide[..., 0]
    arch = (4 * part * (1 - part)).clamp(min=1e-4) ** 0.75
    height = (off * down).sum(-1)
    top, bottom = ((lip - left) * down for lip in (upper, lower))
    above, below = height - top.sum(-1) * arch, bottom.sum(-1) * arch - height
    between: Tensor = (above / EDGE).sigmoid() * (below / EDGE).sigmoid() * ((part > 0) & (part < 1))
    found = torch.stack((between, 2 * part - 1, 10 * above, 10 * below), dim=1).clamp(-1, 1)
    return found.reshape(-1, 4, size // 2, 3 * size // 4)


@cache
def _edges(device: torch.device) -> Tensor:
    """EDGES on `device`, made once: a CUDA graph cannot copy from the host."""
    with torch.inference_mode(mode=False):
        return torch.tensor(EDGES, device=device)


@cache
def _places(size: int, device: torch.device, *, inside: bool = False) -> Tensor:
    """(size * size, 2): x and y of every pixel, or of those in WINDOW."""
    with torch.inference_mode(mode=False):
        line = (torch.arange(size, device=device) + 0.5) / size - 0.5
        places = torch.stack(torch.meshgrid(line, line, indexing="xy"))
        return (window(places) if inside else places).flatten(1).T.contiguous()


def compose(face: Tensor, layers: Layers) -> Tensor:
    """`layers` shown: (B, 3, S, S) in [0, 1], from the `face` (B, 3, S, S) that they were made for."""
    flow = interpolate(layers.flow, face.shape[2:], mode="bilinear", align_corners=False)
    still = torch.eye(2, 3, device=face.device, dtype=face.dtype).expand(len(face), 2, 3)
    grid = affine_grid(still, list(face.shape), align_corners=False) + 2 * flow.permute(0, 2, 3, 1)
    moved = grid_sample(face, grid, padding_mode="border", align_corners=False)
    picture, shown = torch.split(framed(layers.painted), [3, 1], dim=1)
    made: Tensor = moved + shown * (picture - moved)
    return made
