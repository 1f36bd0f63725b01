"""Wav2Lip: from 200 ms of sound and a face, the same face saying it.

Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation In The Wild" (2020). Module names are
those of the published checkpoints; `size` is 96 as published, or 256 for the deeper network known as wav2lip256.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field, TypeAdapter
from torch import Tensor, nn
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate, relu
from torch.nn.utils.fusion import fuse_conv_bn_eval

from core.avatar import LEFT_CORNER, LOWER_INNER, RIGHT_CORNER, UPPER_INNER
from core.errors import BadRequest

POINTS = 8
CODE, FLOW_HEAD, FLOW_STAGE = 16, 32, -3  # channels; the decoder's stage, from its end, that tells how things move
EDGES = tuple((x, y) for x, y in product((-0.5, 0.0, 0.5), (-0.5, -0.17, 0.17, 0.5)) if x or abs(y) > 0.4)
EDGE = 0.006  # how soft the edge of an opening is
SURE = 8.0  # how much is shown where the opening is, before anything is learned: between -SURE / 2 and SURE / 2
REACH = 0.25  # how far a pixel of ours may come from, of the face's size
MOST_PARAMETERS = 200_000_000  # of a network that a file describes

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


Channels = Annotated[int, Field(gt=0, le=4096)]
Stage = tuple[Channels, Annotated[int, Field(ge=0, le=16)]]
Stages = Annotated[tuple[Stage, ...], Field(min_length=2, max_length=12)]


@dataclass(frozen=True)
class Layout:
    """The shape of a network. S is `size`; `encoder` and `decoder` are (channels, residual blocks) of each stage.

    The encoder's first stage is of size S, each next of half that; the last leaves `base` x `base` pixels. The decoder
    doubles from there. `joined` decoder stages take the encoder's features of their size with them; the first two are
    1 x 1 and `base` x `base`. `layers` networks see the face once (3 channels) and answer with 6: see `compose`.
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


class Lips(Wav2Lip):
    """Ours: told where the mouth is, it says where the mouth goes, what moves with it, and what is painted.

    Points are the eight rows of `Avatar.mouth`, in sides of the square from its middle: (-0.5, -0.5) is its corner.
    Answers are layers, see `compose`.
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
        return *super().identity(face), skin, points.flatten(1)[:, :, None, None].to(face.dtype)

    def move(self, sound: Tensor, points: Tensor) -> Tensor:
        """How the mouth's points (B, 8, 2) move with the audio encoder's answer (B, e, 1, 1); sides of the square."""
        told = torch.cat((sound.flatten(1), 4 * points.flatten(1).to(sound.dtype)), dim=1)
        moved: Tensor = self.mover(told).float()
        return 0.1 * moved.reshape(-1, POINTS, 2)

    def draw(self, sound: Tensor, identity: Sequence[Tensor], moved: Tensor | None = None) -> Tensor:
        """(B, 6, S, S), from the audio encoder's answer (B, e, 1, 1) on, or from where the points truly moved."""
        *known, skin, at = identity
        points = at.float().reshape(-1, POINTS, 2)
        moved = self.move(sound, points) if moved is None else moved
        size, there = self.layout.size, points + moved
        motion = spread(there, -moved, size // 4)  # (B, 2, S/4, S/4)
        mouth = mouth_map(there, size)  # (B, 4, S, S)
        opening = mouth[:, :1]
        guide = torch.cat((motion * size / 4, avg_pool2d(opening, 4)), dim=1).to(sound.dtype)
        x, stage = self._trunk(sound, known, guide)
        painted = self.painter(sound, skin, mouth, points, there).float().sigmoid()
        sure = self.output_block(torch.cat((x, mouth.to(x.dtype)), dim=1)).float()
        flow = motion + REACH * self.flow_block(stage).float().tanh()
        smooth = interpolate(flow, (size, size), mode="bilinear", align_corners=False)
        shown = (sure + SURE * (opening - 0.5)).sigmoid()
        return torch.cat((painted, shown, smooth), dim=1)

    def _trunk(self, sound: Tensor, known: Sequence[Tensor], guide: Tensor) -> tuple[Tensor, Tensor]:
        """The last stage's answer, (B, _, S, S), and all that is known at S/4."""
        code, bottom, *stages, last = self.code(sound), *self.face_decoder_blocks
        x = torch.cat((bottom(sound), known[0]), dim=1)
        found = x
        for i, (decode, seen) in enumerate(zip(stages, known[1:], strict=True)):
            x = decode(x)
            x = torch.cat((x, seen, code.expand(-1, -1, *x.shape[2:])), dim=1)
            if i == len(stages) + 1 + FLOW_STAGE:
                found = torch.cat((x, guide), dim=1)
        return last(x), found


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
        """(B, 3, S, S) before the sigmoid, from the sound, the face's mean colour, `mouth_map`, and both points."""
        size = mouth.shape[-1]
        left, right = rest[:, LEFT_CORNER, None], rest[:, RIGHT_CORNER, None]
        wide = (right - left).norm(dim=-1, keepdim=True).clamp(min=1e-3)
        along = (right - left) / wide
        off = (_places(size, rest) - (left + right) / 2) / wide
        x = (off * along).sum(-1)
        y = off[..., 1] * along[..., 0] - off[..., 0] * along[..., 1]
        waves = [wave(torch.pi * k * x) for k in self.WAVES for wave in (torch.sin, torch.cos)]
        fixed = torch.stack((x.clamp(-1, 1), y.clamp(-1, 1), *waves), dim=1).reshape(len(x), -1, size, size)
        apart = (there[:, LOWER_INNER] - there[:, UPPER_INNER]).norm(dim=-1)
        broad = (there[:, RIGHT_CORNER] - there[:, LEFT_CORNER]).norm(dim=-1)
        shape = torch.stack((apart, broad), dim=1) * 4 / wide[:, 0]
        about = torch.cat((shape[..., None, None].to(skin.dtype), skin, self.told(sound).to(skin.dtype)), dim=1)
        maps = torch.cat((mouth.to(skin.dtype), fixed.to(skin.dtype), about.expand(-1, -1, size, size)), dim=1)
        colour: Tensor = self.colour(maps)
        return colour


def spread(points: Tensor, values: Tensor, size: int) -> Tensor:
    """`values` (B, 8, 2), which hold at `points` (B, 8, 2), over a whole square, (B, 2, size, size).

    Each place takes what holds near it; the square's edges hold zero. All in sides of the square, from its middle.
    """
    edges = _edges(points.device).expand(len(points), -1, -1)
    at, held = torch.cat((points, edges), dim=1), torch.cat((values, torch.zeros_like(edges)), dim=1)
    near = 1 / (torch.cdist(_places(size, points).expand(len(points), -1, -1), at) + 0.02) ** 3
    field: Tensor = (near @ held) / near.sum(dim=-1, keepdim=True)
    return field.transpose(1, 2).reshape(-1, 2, size, size)


def mouth_map(points: Tensor, size: int) -> Tensor:
    """(B, 4, size, size): where each place is in the mouth of `points` (B, 8, 2).

    How much of it lies between the lips, in [0, 1]; then in [-1, 1] how far across from the left corner to the right,
    how far below the upper lip, and above the lower one, both in tenths of the square.
    """
    left, right, upper, lower = (points[:, row, None] for row in (LEFT_CORNER, RIGHT_CORNER, UPPER_INNER, LOWER_INNER))
    wide = (right - left).norm(dim=-1, keepdim=True).clamp(min=1e-3)
    along = (right - left) / wide
    down = torch.stack((-along[..., 1], along[..., 0]), dim=-1)
    off = _places(size, points) - left  # (B, size * size, 2)
    part = (off * along).sum(-1) / wide[..., 0]
    arch = (4 * part * (1 - part)).clamp(min=1e-4) ** 0.75
    height = (off * down).sum(-1)
    top, bottom = ((lip - left) * down for lip in (upper, lower))
    above, below = height - top.sum(-1) * arch, bottom.sum(-1) * arch - height
    inside: Tensor = (above / EDGE).sigmoid() * (below / EDGE).sigmoid() * ((part > 0) & (part < 1))
    found = torch.stack((inside, 2 * part - 1, 10 * above, 10 * below), dim=1).clamp(-1, 1)
    return found.reshape(-1, 4, size, size)


@cache
def _edges(device: torch.device) -> Tensor:
    """EDGES on `device`, made once: a CUDA graph cannot copy from the host."""
    with torch.inference_mode(mode=False):
        return torch.tensor(EDGES, device=device)


def _places(size: int, like: Tensor) -> Tensor:
    """(size * size, 2): x and y of every pixel."""
    line = (torch.arange(size, device=like.device) + 0.5) / size - 0.5
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).reshape(-1, 2)


def compose(face: Tensor, layers: Tensor) -> Tensor:
    """The answer of a `layers` network shown: (B, 3, S, S) in [0, 1], from the `face` (B, 3, S, S) it was asked about.

    `layers` (B, 6, S, S): a picture BGR in [0, 1], how much of it is shown, in [0, 1], and where else each pixel of the
    face itself comes from, x and y in sizes of the face. So skin keeps its grain, and only what was
    hidden, teeth and tongue, is painted.
    """
    picture, shown, flow = torch.split(layers, [3, 1, 2], dim=1)
    still = torch.eye(2, 3, device=face.device, dtype=face.dtype).expand(len(face), 2, 3)
    grid = affine_grid(still, list(face.shape), align_corners=False) + 2 * flow.permute(0, 2, 3, 1)
    moved = grid_sample(face, grid, padding_mode="border", align_corners=False)
    return moved + shown * (picture - moved)


def make(layout: Layout) -> Wav2Lip:
    """A network of `layout`, untrained."""
    return Lips(layout) if layout.layers else Wav2Lip(layout)


def save_wav2lip(path: Path, net: Wav2Lip, **about: str) -> None:
    """Write `net` as float16 with its layout, and `about` it whatever is said; `load_wav2lip` reads it."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state, "layout": asdict(net.layout), "about": about}, path)


def load_wav2lip(path: Path) -> Wav2Lip:
    """The network of a checkpoint, float32 on the CPU, in eval mode. Blocking, about 1 s.

    The file holds a state dict, or `{"state_dict": …}` and whatever training left beside it; a `module.` before the
    keys is ignored. Its `layout` tells its shape, or if it has none, its keys. Nothing in it is executed. BadRequest if
    it is missing, damaged, or of another network.
    """
    loaded = read_weights(path)
    state = loaded.get("state_dict", loaded)
    if not isinstance(state, dict):
        raise BadRequest(f"'{path.name}' holds no state dict")
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    try:
        with torch.device("meta"):
            net = make(_layout(loaded.get("layout"), state))
        if sum(parameter.numel() for parameter in net.parameters()) > MOST_PARAMETERS:
            raise ValueError("a network too large")
        net.load_state_dict(state, assign=True)
    except DAMAGE as error:
        raise BadRequest(
            f"'{path.name}' holds another network than Wav2Lip of size 96 or 256, or one of ours"
        ) from error
    return net.float().eval()


def _layout(told: Any, state: dict[str, Any]) -> Layout:
    if told is None:
        return PUBLISHED[256 if "face_encoder_blocks.7.0.conv_block.0.weight" in state else 96]
    return TypeAdapter(Layout).validate_python(Layout(**told))


def read_weights(path: Path) -> dict[str, Any]:
    """What the file of weights `path` holds, on the CPU. Nothing in it is executed. Blocking.

    BadRequest if it is missing or damaged, holds more than weights, or no dict.
    """
    if not path.is_file():
        raise BadRequest(f"there are no weights '{path.name}'")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadRequest(f"'{path.name}' holds more than weights, or is damaged: it was not loaded") from error
    except DAMAGE as error:
        raise BadRequest(f"'{path.name}' is damaged, or no file of weights") from error
    if not isinstance(loaded, dict):
        raise BadRequest(f"'{path.name}' holds no state dict")
    return loaded
