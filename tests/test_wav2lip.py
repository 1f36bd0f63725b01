"""The network against a second reading of the published one, and checkpoints good and bad."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import BadRequest
from nets.wav2lip import Block, Size, Wav2Lip, load_wav2lip

State = dict[str, Tensor]

# `16>32s2`: 16 channels to 32 with stride 2; kernel 3, stride 1 and padding 1 unless k, s or p say otherwise; `32r`:
# residual; `T`: transposed, and where its stride is 2 its output padding is 1.
AUDIO = "1>32 32r 32r 32>64s3,1 64r 64r 64>128s3 128r 128r 128>256s3,2 256r 256>512p0 512>512k1p0"
ENCODER = ["6>16k7p3", "16>32s2 32r 32r", "32>64s2 64r 64r 64r", "64>128s2 128r 128r", "128>256s2 256r 256r"]
DECODER = ["T768>384s2 384r 384r", "T512>256s2 256r 256r", "T320>128s2 128r 128r", "T160>64s2 64r 64r"]
ENCODERS: dict[Size, list[str]] = {
    96: [*ENCODER, "256>512s2 512r", "512>512p0 512>512k1p0"],
    256: [*ENCODER, "256>512s2 512r", "512>512s2 512r", "512>512k4p0 512>512k1p0"],
}
DECODERS: dict[Size, list[str]] = {
    96: ["512>512k1p0", "T1024>512p0 512r", "T1024>512s2 512r 512r", *DECODER],
    256: ["512>512k1p0", "T1024>512k4p0 512r", "T1024>512s2 512r", "T1024>512s2 512r 512r", *DECODER],
}
SIZES: list[Size] = [96, 256]


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


def blocks(size: Size) -> dict[str, list[tuple[str, Layer]]]:
    """`{block: [(prefix of the keys, layer), …]}` in the order in which they run."""
    words = {"audio_encoder": AUDIO, "output_block": "80>32"}
    words |= {f"face_encoder_blocks.{b}": line for b, line in enumerate(ENCODERS[size])}
    words |= {f"face_decoder_blocks.{b}": line for b, line in enumerate(DECODERS[size])}
    return {name: [(f"{name}.{n}", Layer(word)) for n, word in enumerate(line.split())] for name, line in words.items()}


def published_shapes(size: Size) -> dict[str, tuple[int, ...]]:
    layers = [layer for block in blocks(size).values() for layer in block]
    shapes = {key: shape for prefix, layer in layers for key, shape in layer.shapes(prefix).items()}
    return shapes | {"output_block.1.weight": (3, 32, 1, 1), "output_block.1.bias": (3,)}


def published_forward(state: State, size: Size, mel: Tensor, face: Tensor) -> Tensor:
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


def random_net(size: Size) -> Wav2Lip:
    """Random weights, batch norms that do something, and an output that uses its range."""
    torch.manual_seed(size)
    net = Wav2Lip(size).eval()
    for key, value in net.state_dict().items():
        if ".conv_block.1." in key and value.is_floating_point():
            value.uniform_(0.7, 1.3) if "var" in key or "weight" in key else value.uniform_(-0.2, 0.2)
    net.get_parameter("output_block.1.weight").data.mul_(10)
    return net


def thin_state(size: Size, dtype: torch.dtype = torch.float32) -> State:
    """A whole checkpoint of a few hundred kB: one random number per row, repeated along the others."""
    torch.manual_seed(0)
    state = {}
    for key, shape in published_shapes(size).items():
        rows = torch.rand(shape[:1], dtype=dtype) if shape else torch.tensor(1)
        state[key] = rows.reshape(-1, *(1,) * (len(shape) - 1)).expand(shape) if shape else rows
    return state


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("size", SIZES)
def test_the_keys_and_shapes_are_the_published_ones(size: Size) -> None:
    with torch.device("meta"):
        state = Wav2Lip(size).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == published_shapes(size)


def test_the_96_layout_has_36_30_million_parameters() -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Wav2Lip(96).parameters())
    assert round(count / 1e6, 2) == 36.30


@pytest.mark.parametrize("size", SIZES)
def test_the_network_computes_what_the_published_one_does_folded_or_not(size: Size) -> None:
    net = random_net(size)
    mel, face = torch.randn(1, 1, 80, 16), torch.rand(1, 6, size, size)
    with torch.inference_mode():
        expected = published_forward(net.state_dict(), size, mel, face)
        plain, folded = net(mel, face), net.fold()(mel, face)
    assert plain.shape == (1, 3, size, size)
    assert plain.min() >= 0 and plain.max() <= 1 and plain.std() > 0.02
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(folded, expected, atol=1e-4, rtol=0)


def test_folding_twice_is_folding_once() -> None:
    block = Block(nn.Conv2d(2, 3, 3)).eval()
    block.fold()
    once = block.conv_block
    block.fold()
    assert block.conv_block is once


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("wrapped", "prefix"), [(True, "module."), (True, ""), (False, "")])
def test_a_checkpoint_round_trips(tmp_path: Path, size: Size, wrapped: bool, prefix: str) -> None:
    state = thin_state(size)
    content: dict[str, Any] = {prefix + key: value for key, value in state.items()}
    if wrapped:
        optimizer = {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}
        content = {"state_dict": content, "optimizer": optimizer, "global_step": 7, "global_epoch": 1}
    net = load_wav2lip(save(tmp_path / "wav2lip.pth", content))
    assert net.size == size
    assert not net.training
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_checkpoint_of_half_precision_loads_as_float32(tmp_path: Path) -> None:
    net = load_wav2lip(save(tmp_path / "half.pth", thin_state(96, torch.float16)))
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


def test_a_checkpoint_in_the_old_format_of_torch_loads(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"state_dict": thin_state(96)}, path, _use_new_zipfile_serialization=False)
    assert load_wav2lip(path).size == 96


def sam_state() -> State:
    """A relative of size 192: wider at the bottom, with spatial attention."""
    return thin_state(256) | {"sam.sa.conv1.weight": torch.zeros(1, 2, 7, 7)}


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"conv1.weight": torch.zeros(3, 3)}},
        {key: value for key, value in thin_state(96).items() if not key.startswith("audio_encoder.12")},
        sam_state(),
        {**thin_state(96), "output_block.1.bias": torch.zeros(4)},
        {**thin_state(96), "output_block.1.bias": "zeros"},
        [1, 2, 3],
        {"state_dict": 5},
        {},
    ],
    ids=["foreign", "a layer missing", "a layer more", "another shape", "no tensor", "a list", "no dict", "empty"],
)
def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(BadRequest, match=r"'other.pth' holds (another network|no state dict)"):
        load_wav2lip(save(tmp_path / "other.pth", content))


class Burglar:
    """A pickle of this writes a file when it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("plain_pickle", [True, False])
def test_a_pickle_that_holds_code_is_refused_and_not_run(tmp_path: Path, plain_pickle: bool) -> None:
    path, content = tmp_path / "evil.pth", {"state_dict": Burglar(tmp_path / "trace")}
    if plain_pickle:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        save(path, content)
    with pytest.raises(BadRequest, match=r"'evil.pth' holds more than weights"):
        load_wav2lip(path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("keep", [0, 100, 5000])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, keep: int, zipped: bool) -> None:
    path = tmp_path / "cut.pth"
    torch.save(thin_state(96), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadRequest, match=r"'cut.pth' .*damaged"):
        load_wav2lip(path)


def test_an_error_page_saved_as_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.pth"
    path.write_text("<html>404 not found</html>")
    with pytest.raises(BadRequest, match=r"'page.pth' .*damaged"):
        load_wav2lip(path)


def test_a_missing_checkpoint_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as caught:
        load_wav2lip(tmp_path / "gone.pth")
    assert str(caught.value) == "there are no weights 'gone.pth'"
