"""The network against a second reading of the published one."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nets.checkpoints import make
from nets.lips import our_layout
from nets.wav2lip import PUBLISHED, Block, Layout, Wav2Lip
from tests.fakes.nets import random_net, told

State = dict[str, Tensor]
AUDIO = "1>32 32r 32r 32>64s3,1 64r 64r 64>128s3 128r 128r 128>256s3,2 256r 256>512p0 512>512k1p0"
ENCODER = ["6>16k7p3", "16>32s2 32r 32r", "32>64s2 64r 64r 64r", "64>128s2 128r 128r", "128>256s2 256r 256r"]
DECODER = ["T768>384s2 384r 384r", "T512>256s2 256r 256r", "T320>128s2 128r 128r", "T160>64s2 64r 64r"]
ENCODERS: dict[int, list[str]] = {
    96: [*ENCODER, "256>512s2 512r", "512>512p0 512>512k1p0"],
    256: [*ENCODER, "256>512s2 512r", "512>512s2 512r", "512>512k4p0 512>512k1p0"],
}
DECODERS: dict[int, list[str]] = {
    96: ["512>512k1p0", "T1024>512p0 512r", "T1024>512s2 512r 512r", *DECODER],
    256: ["512>512k1p0", "T1024>512k4p0 512r", "T1024>512s2 512r", "T1024>512s2 512r 512r", *DECODER],
}
SIZES = [96, 256]


class Layer:
    """One word of the tables above."""

    def __init__(self, word: str) -> None:
        self.residual, self.transposed = word.endswith("r"), word.startswith("T")
        channels = re.findall(r"\d+", re.split("[ksp]", word)[0])
        self.cin, self.cout = int(channels[0]), int(channels[-1])
        self.kernel = int(self._option(word, "k", "3"))
        self.padding = int(self._option(word, "p", "1"))
        self.stride = [int(n) for n in self._option(word, "s", "1").split(",")]

    @staticmethod
    def _option(word: str, letter: str, default: str) -> str:
        found = re.search(letter + r"([\d,]+)", word)
        return found[1] if found else default

    def shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        ends = (self.cin, self.cout) if self.transposed else (self.cout, self.cin)
        norm = dict.fromkeys(("1.weight", "1.bias", "1.running_mean", "1.running_var"), (self.cout,))
        named = {"0.weight": (*ends, self.kernel, self.kernel), "0.bias": (self.cout,)} | norm
        return {f"{prefix}.conv_block.{name}": shape for name, shape in (named | {"1.num_batches_tracked": ()}).items()}

    def run(self, state: State, prefix: str, x: Tensor) -> Tensor:
        weight, bias, scale, shift, mean, var, _ = (state[key] for key in self.shapes(prefix))
        if self.transposed:
            stretch = self.stride[0] - 1
            y = F.conv_transpose2d(x, weight, bias, self.stride, self.padding, output_padding=stretch)
        else:
            y = F.conv2d(x, weight, bias, self.stride, self.padding)
        y = F.batch_norm(y, mean, var, scale, shift)
        return F.relu(y + x if self.residual else y)


def blocks(size: int) -> dict[str, list[tuple[str, Layer]]]:
    """`{block: [(prefix of the keys, layer), …]}` in the order in which they run."""
    words = {"audio_encoder": AUDIO, "output_block": "80>32"}
    words |= {f"face_encoder_blocks.{b}": line for b, line in enumerate(ENCODERS[size])}
    words |= {f"face_decoder_blocks.{b}": line for b, line in enumerate(DECODERS[size])}
    return {name: [(f"{name}.{n}", Layer(word)) for n, word in enumerate(line.split())] for name, line in words.items()}


def published_shapes(size: int) -> dict[str, tuple[int, ...]]:
    layers = [layer for block in blocks(size).values() for layer in block]
    shapes = {key: shape for prefix, layer in layers for key, shape in layer.shapes(prefix).items()}
    return shapes | {"output_block.1.weight": (3, 32, 1, 1), "output_block.1.bias": (3,)}


def published_forward(state: State, size: int, mel: Tensor, face: Tensor) -> Tensor:
    def run(name: str, x: Tensor) -> Tensor:
        for prefix, layer in blocks(size)[name]:
            x = layer.run(state, prefix, x)
        return x

    depth = len(ENCODERS[size])
    seen = [face := run(f"face_encoder_blocks.{b}", face) for b in range(depth)]
    x = run("audio_encoder", mel)
    for b in range(depth):
        x = torch.cat([run(f"face_decoder_blocks.{b}", x), seen[-1 - b]], 1)
    x = run("output_block", x)
    return torch.sigmoid(F.conv2d(x, state["output_block.1.weight"], state["output_block.1.bias"]))


@pytest.mark.parametrize("size", SIZES)
def test_the_keys_and_shapes_are_the_published_ones(size: int) -> None:
    with torch.device("meta"):
        state = Wav2Lip(PUBLISHED[size]).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == published_shapes(size)


def test_the_96_layout_has_36_30_million_parameters() -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Wav2Lip(PUBLISHED[96]).parameters())
    assert round(count / 1e6, 2) == 36.30


@pytest.mark.parametrize("size", SIZES)
def test_the_network_computes_what_the_published_one_does_folded_or_not(size: int) -> None:
    net = random_net(PUBLISHED[size])
    mel, face = torch.randn(1, 1, 80, 16), torch.rand(1, 6, size, size)
    with torch.inference_mode():
        expected = published_forward(net.state_dict(), size, mel, face)
        plain, folded = net(mel, face), net.fold()(mel, face)
    assert plain.shape == (1, 3, size, size)
    assert plain.min() >= 0 and plain.max() <= 1 and plain.std() > 0.02
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(folded, expected, atol=1e-4, rtol=0)


def said(answer: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Whatever a network answers as one row of numbers a face."""
    parts = (answer,) if isinstance(answer, Tensor) else answer
    return torch.cat([part.flatten(1) for part in parts], dim=1)


@pytest.mark.parametrize(
    "layout", [*PUBLISHED.values(), our_layout(), our_layout(0.25)], ids=["96", "256", "ours", "small"]
)
def test_a_face_is_seen_once_for_all_that_it_says(layout: Layout) -> None:
    net = random_net(layout)
    mels, face = torch.randn(2, 1, 80, 16), told(layout)
    with torch.inference_mode():
        known = net.identity(*face)
        apart = torch.cat([said(net.speak(mel[None], known)) for mel in mels])
        together = said(net.speak(mels, [part.expand(2, -1, -1, -1) for part in known]))
        whole = said(net(mels, *(part.expand(2, *part.shape[1:]) for part in face)))
    assert (apart[0] - apart[1]).abs().max() > 1e-3
    torch.testing.assert_close(apart, whole, atol=5e-5, rtol=0)
    torch.testing.assert_close(together, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", [PUBLISHED[96], our_layout(0.25)], ids=["published", "ours"])
def test_a_network_is_made_that_can_be_asked(layout: Layout) -> None:
    net = make(layout).eval()
    with torch.inference_mode():
        answer = said(net(torch.randn(1, 1, 80, 16), *told(layout)))
    assert answer.shape == (1, 26624 if layout.layers else 3 * 96 * 96)


def test_folding_twice_is_folding_once() -> None:
    block = Block(nn.Conv2d(2, 3, 3)).eval()
    block.fold()
    once = block.conv_block
    block.fold()
    assert block.conv_block is once
