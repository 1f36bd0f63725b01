"""The network against a second reading of the published one, and checkpoints good and bad."""

import pickle
import re
import resource
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import BadRequest
from nets.wav2lip import (
    EDGES,
    PUBLISHED,
    REACH,
    Block,
    Layout,
    Lips,
    Wav2Lip,
    compose,
    load_wav2lip,
    make,
    mouth_map,
    our_layout,
    save_wav2lip,
    spread,
)
from tests.fakes.nets import mouth, random_net, told

State = dict[str, Tensor]

# `16>32s2`: 16 channels to 32 with stride 2; kernel 3, stride 1 and padding 1 unless k, s or p say otherwise; `32r`:
# residual; `T`: transposed, and where its stride is 2 its output padding is 1.
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


def thin_state(size: int, dtype: torch.dtype = torch.float32) -> State:
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


@pytest.mark.parametrize(
    "layout", [*PUBLISHED.values(), our_layout(), our_layout(0.25)], ids=["96", "256", "ours", "small"]
)
def test_a_face_is_seen_once_for_all_that_it_says(layout: Layout) -> None:
    net = random_net(layout)
    mels, face = torch.randn(2, 1, 80, 16), told(layout)
    with torch.inference_mode():
        known = net.identity(*face)
        apart = torch.cat([net.speak(mel[None], known) for mel in mels])
        together = net.speak(mels, [part.expand(2, -1, -1, -1) for part in known])
        whole = net(mels, *(part.expand(2, *part.shape[1:]) for part in face))
    assert (apart[0] - apart[1]).abs().max() > 1e-3
    torch.testing.assert_close(apart, whole, atol=5e-5, rtol=0)
    torch.testing.assert_close(together, whole, atol=1e-5, rtol=0)


def test_our_layers_keep_within_their_ranges() -> None:
    net = random_net(our_layout(0.25))
    assert isinstance(net, Lips)
    with torch.inference_mode():
        net.output_block[-1].get_parameter("bias").fill_(81)
        net.painter.colour[-1].get_parameter("bias").copy_(torch.tensor([9.0, -9, 0]) * 9)
        net.flow_block[-1].get_parameter("bias").copy_(torch.tensor([9.0, -9]) * 9)
        net.mover[-1].get_parameter("weight").zero_()
        layers = net(torch.randn(1, 1, 80, 16), *told(net.layout))
    assert layers.shape == (1, 6, 128, 128)
    assert layers[:, :4].min() >= 0 and layers[:, :4].max() <= 1
    assert layers[:, 4:].abs().max() <= REACH < 2 * layers[:, 4:].abs().min()


def test_our_network_begins_with_the_face_as_it_is_where_lips_are_closed() -> None:
    torch.manual_seed(0)
    net, face = make(our_layout(0.25)).eval(), torch.rand(1, 3, 128, 128)
    face = F.avg_pool2d(face, 5, 1, 2)  # a face has no noise
    with torch.inference_mode():
        layers = net(torch.randn(1, 1, 80, 16), face, mouth())
        difference = (compose(face, layers) - face).abs()
    assert layers[:, 3].mean() < 0.05
    assert layers[:, 4:].abs().mean() * 128 < 1  # pixel
    assert difference.mean() < 0.02


def test_our_network_answers_another_mouth_with_other_layers() -> None:
    net, mel, face = random_net(our_layout(0.25)), torch.randn(1, 1, 80, 16), torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        shut, ajar = (net(mel, face, mouth(opening)) for opening in (0, 0.1))
    assert (shut - ajar)[:, 3].abs().max() > 0.1


@pytest.mark.parametrize("layout", [PUBLISHED[96], our_layout(0.25)], ids=["published", "ours"])
def test_a_network_is_made_that_can_be_asked(layout: Layout) -> None:
    net = make(layout).eval()
    with torch.inference_mode():
        assert net(torch.randn(1, 1, 80, 16), *told(layout)).shape[1] == (6 if layout.layers else 3)


def seen_at(picture: Tensor, places: Tensor) -> Tensor:
    """(n, C): what a picture (1, C, S, S) shows at `places` (n, 2), in sides of the square from its middle."""
    return F.grid_sample(picture, 2 * places[None, None], align_corners=False)[0, :, 0].T


@pytest.mark.parametrize("degrees", [0, 20, -35, 90, 180])
def test_an_open_mouth_is_open_between_its_lips_only_however_it_is_turned(degrees: float) -> None:
    points = mouth(0.15, degrees, at=(0.05, -0.02))
    (turned,) = mouth(0, degrees)
    across, down = turned[1] / 0.2, turned[6] / 0.3  # unit vectors
    middle = torch.tensor([0.05, -0.02])
    inside = torch.stack([middle + x * across + y * down for x, y in ((0, 0), (0, 0.04), (-0.12, 0), (0.12, 0))])
    outside = torch.stack([middle + x * across + y * down for x, y in ((0, 0.15), (0, -0.15), (0.24, 0), (-0.24, 0))])
    opening = mouth_map(points, 128)[:, :1]
    assert opening.shape == (1, 1, 128, 128)
    assert seen_at(opening, inside).min() > 0.95
    assert seen_at(opening, outside).max() < 0.01


def test_the_opening_turns_with_the_mouth() -> None:
    torch.testing.assert_close(
        mouth_map(mouth(0.1, 90), 64)[:, :1], mouth_map(mouth(0.1), 64)[:, :1].rot90(-1, (2, 3)), atol=1e-4, rtol=0
    )


def test_a_closed_mouth_is_a_thin_line_at_most() -> None:
    closed, ajar = mouth_map(mouth(), 128)[0, 0], mouth_map(mouth(0.1), 128)[0, 0]
    assert closed.max() <= 0.25 + 1e-6
    assert (closed > 0.1).sum(dim=0).max() <= 4  # pixels high
    assert closed.sum() < 0.2 * ajar.sum()


def test_each_opening_is_of_its_own_mouth() -> None:
    mouths = torch.cat([mouth(0.1), mouth(0.05, 30), mouth()])
    torch.testing.assert_close(mouth_map(mouths, 32), torch.cat([mouth_map(each[None], 32) for each in mouths]))


@pytest.mark.parametrize("row", range(8))
def test_what_holds_at_a_point_holds_near_it_and_not_at_the_edges(row: int) -> None:
    points, values = mouth(0.12), torch.zeros(1, 8, 2)
    values[0, row] = torch.tensor([1.0, -0.5])
    field = spread(points, values, 128)
    at_points = seen_at(field, points[0])
    torch.testing.assert_close(at_points[row], values[0, row], atol=0.2, rtol=0)
    assert at_points[[other for other in range(8) if other != row]].abs().max() < 0.2
    edges = torch.tensor(EDGES) * (1 - 1 / 128)  # the middles of the outermost pixels
    assert seen_at(field, edges).abs().max() < 0.02


def test_what_holds_nowhere_is_spread_nowhere() -> None:
    assert not spread(mouth(0.1), torch.zeros(1, 8, 2), 32).any()


@pytest.mark.parametrize("row", range(8))
def test_a_flow_that_is_spread_brings_each_point_to_where_it_moves(row: int) -> None:
    points = mouth(0.02)
    moved = torch.tensor([[0.03, 0], [-0.03, 0], [0, -0.02], [0, -0.02], [0, 0.06], [0, 0.06], [0, 0.06], [0, 0.01]])
    line = (torch.arange(128) + 0.5) / 128 - 0.5
    off = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1) - points[0, row]
    dot = torch.exp(-(off**2).sum(-1) / 2 / 0.012**2).expand(1, 3, 128, 128)
    layers = torch.zeros(1, 6, 128, 128)
    layers[:, 4:] = spread(points + moved, -moved[None], 128)
    made = compose(dot, layers)[0, 0]
    y, x = divmod(int(made.argmax()), 128)
    found = torch.stack([line[x], line[y]])
    assert made.max() > 0.8
    torch.testing.assert_close(found, (points[0] + moved)[row], atol=1.6 / 128, rtol=0)


def still_layers(n: int = 1, size: int = 32) -> Tensor:
    """Nothing moves and nothing is painted."""
    layers = torch.zeros(n, 6, size, size)
    layers[:, :3] = torch.rand(n, 3, size, size)
    return layers


def test_a_face_with_nothing_shown_and_nothing_moved_is_itself() -> None:
    face = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(compose(face, still_layers(2)), face, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-1, 4), (0.5, 0)])
def test_a_constant_flow_moves_the_face_by_as_much(right: float, down: float) -> None:
    """Where a pixel comes from is to the right: what is seen goes to the left."""
    face, layers = torch.rand(1, 3, 32, 32), still_layers()
    layers[:, 4], layers[:, 5] = right / 32, down / 32
    x, y = int(right), int(down)
    after = face.roll((-y, -x), (2, 3))
    if right % 1:
        after = (after + face.roll((-y, -x - 1), (2, 3))) / 2
    inside = (..., slice(5, -5), slice(5, -5))
    torch.testing.assert_close(compose(face, layers)[inside], after[inside], atol=1e-5, rtol=0)


def test_what_is_shown_covers_the_face() -> None:
    face, layers = torch.rand(1, 3, 32, 32), still_layers()
    layers[:, 3, :16] = 1
    layers[:, 3, 16:] = 0.25
    made = compose(face, layers)
    torch.testing.assert_close(made[:, :, :16], layers[:, :3, :16], atol=1e-6, rtol=0)
    mixed = 0.75 * face[:, :, 16:] + 0.25 * layers[:, :3, 16:]
    torch.testing.assert_close(made[:, :, 16:], mixed, atol=1e-6, rtol=0)


def test_folding_twice_is_folding_once() -> None:
    block = Block(nn.Conv2d(2, 3, 3)).eval()
    block.fold()
    once = block.conv_block
    block.fold()
    assert block.conv_block is once


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("wrapped", "prefix"), [(True, "module."), (True, ""), (False, "")])
def test_a_checkpoint_round_trips(tmp_path: Path, size: int, wrapped: bool, prefix: str) -> None:
    state = thin_state(size)
    content: dict[str, Any] = {prefix + key: value for key, value in state.items()}
    if wrapped:
        optimizer = {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}
        content = {"state_dict": content, "optimizer": optimizer, "global_step": 7, "global_epoch": 1}
    net = load_wav2lip(save(tmp_path / "wav2lip.pth", content))
    assert net.layout.size == size
    assert not net.training
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_checkpoint_of_half_precision_loads_as_float32(tmp_path: Path) -> None:
    net = load_wav2lip(save(tmp_path / "half.pth", thin_state(96, torch.float16)))
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


def test_a_checkpoint_in_the_old_format_of_torch_loads(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"state_dict": thin_state(96)}, path, _use_new_zipfile_serialization=False)
    assert load_wav2lip(path).layout.size == 96


@pytest.mark.parametrize("width", [1.0, 0.25])
def test_our_network_round_trips_as_float16_with_its_width(tmp_path: Path, width: float) -> None:
    net, path = random_net(our_layout(width)), tmp_path / "lips.pth"
    save_wav2lip(path, net, name="lips", trained_minutes="1")
    back = load_wav2lip(path)
    assert back.layout == our_layout(width)
    assert {parameter.dtype for parameter in back.parameters()} == {torch.float32}
    kept = {key: value.half().to(value.dtype) for key, value in net.state_dict().items()}
    assert all(torch.equal(value, kept[key]) for key, value in back.state_dict().items())
    assert path.stat().st_size <= 15_000_000


def ours(**wrong: Any) -> dict[str, Any]:
    return asdict(our_layout(0.25)) | wrong


HUGE = 1 << 40
WIDE = tuple((4096, 16) for _ in range(6))


@pytest.mark.parametrize(
    "layout",
    [
        ours(bottom=HUGE),
        ours(head=1 << 90),
        ours(head=-8),
        ours(head=0),
        ours(size="128"),
        ours(size=128.0),
        ours(size=256),
        ours(base=0),
        ours(audio=(16, 48)),
        ours(encoder=((16, HUGE), *our_layout(0.25).encoder[1:])),
        ours(encoder=((16, 0),) * 100_000),
        ours(encoder=WIDE, decoder=(*WIDE, (4096, 16))),
        ours(encoder="many"),
        ours(encoder=()),
        ours(decoder=our_layout(0.25).decoder[1:]),
        ours(layers=1),
        ours(past_columns=-1),
        ours(past_columns=99),
        ours(colour="red"),
        {"size": 128},
        {},
        {1: 2},
        "ours",
        [1, 2, 3],
        asdict(our_layout(0.5)),
        asdict(PUBLISHED[96]),
    ],
    ids=lambda _: "",
)
def test_a_mad_layout_is_refused_before_anything_is_made_of_it(tmp_path: Path, layout: object) -> None:
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in make(our_layout(0.25)).state_dict().items()}
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    path = save(tmp_path / "mad.pth", {"state_dict": state, "layout": layout})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadRequest, match=r"'mad.pth' holds another network"):
        load_wav2lip(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


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
