"""Our lips: what the layers are, where a mouth is, and how it moves."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nets.checkpoints import make
from nets.lips import EDGES, REACH, Layers, Lips, compose, framed, mouth_map, our_layout, spread, window
from tests.fakes.nets import mouth, random_net, told


def test_our_layers_keep_within_their_ranges() -> None:
    net = random_net(our_layout(0.25))
    assert isinstance(net, Lips)
    with torch.inference_mode():
        net.output_block[-1].get_parameter("bias").fill_(81)
        net.painter.colour[-1].get_parameter("bias").copy_(torch.tensor([9.0, -9, 0]) * 9)
        net.flow_block[-1].get_parameter("bias").copy_(torch.tensor([9.0, -9]) * 9)
        net.mover[-1].get_parameter("weight").zero_()
        layers = net(torch.randn(1, 1, 80, 16), *told(net.layout))
    assert layers.painted.shape == (1, 4, 64, 96) and layers.flow.shape == (1, 2, 32, 32)
    assert layers.painted.min() >= 0 and layers.painted.max() <= 1
    assert layers.flow.abs().max() <= REACH < 2 * layers.flow.abs().min()


def test_our_network_begins_with_the_face_as_it_is_where_lips_are_closed() -> None:
    torch.manual_seed(0)
    net, face = make(our_layout(0.25)).eval(), torch.rand(1, 3, 128, 128)
    face = F.avg_pool2d(face, 5, 1, 2)  # a face has no noise
    with torch.inference_mode():
        layers = net(torch.randn(1, 1, 80, 16), face, mouth())
        difference = (compose(face, layers) - face).abs()
    assert layers.painted[:, 3].mean() < 0.05
    assert layers.flow.abs().mean() * 128 < 1  # pixel
    assert difference.mean() < 0.02


def test_our_network_answers_another_mouth_with_other_layers() -> None:
    net, mel, face = random_net(our_layout(0.25)), torch.randn(1, 1, 80, 16), torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        shut, ajar = (net(mel, face, mouth(opening)).painted for opening in (0, 0.1))
    assert (shut - ajar)[:, 3].abs().max() > 0.1


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
    opening = framed(mouth_map(points, 128)[:, :1])
    assert opening.shape == (1, 1, 128, 128)
    assert seen_at(opening, inside).min() > 0.95
    assert seen_at(opening, outside).max() < 0.01


def test_the_opening_turns_with_the_mouth() -> None:
    across, down = (framed(mouth_map(mouth(0.1, degrees), 64)[:, :1]) for degrees in (0, 90))
    torch.testing.assert_close(down, across.rot90(-1, (2, 3)), atol=1e-4, rtol=0)


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
    made = compose(dot, Layers(torch.zeros(1, 4, 64, 96), spread(points + moved, -moved[None], 32)))[0, 0]
    y, x = divmod(int(made.argmax()), 128)
    found = torch.stack([line[x], line[y]])
    assert made.max() > 0.8
    torch.testing.assert_close(found, (points[0] + moved)[row], atol=1.6 / 128, rtol=0)


def still_layers(n: int = 1, size: int = 32) -> Layers:
    """Nothing moves and nothing is painted."""
    painted = torch.rand(n, 4, size // 2, 3 * size // 4)
    painted[:, 3] = 0
    return Layers(painted, torch.zeros(n, 2, size // 4, size // 4))


def test_a_window_is_where_it_was_when_it_is_framed() -> None:
    maps = torch.rand(2, 3, 64, 64)
    cut, back = window(maps), framed(window(maps))
    assert cut.shape == (2, 3, 32, 48) and back.shape == maps.shape
    where = back != 0
    torch.testing.assert_close(back[where], maps[where])
    assert where.sum() == cut.numel()


def test_a_face_with_nothing_shown_and_nothing_moved_is_itself() -> None:
    face = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(compose(face, still_layers(2)), face, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-1, 4), (0.5, 0)])
def test_a_constant_flow_moves_the_face_by_as_much(right: float, down: float) -> None:
    """Where a pixel comes from is to the right: what is seen goes to the left."""
    face, layers = torch.rand(1, 3, 32, 32), still_layers()
    layers.flow[:, 0], layers.flow[:, 1] = right / 32, down / 32
    x, y = int(right), int(down)
    after = face.roll((-y, -x), (2, 3))
    if right % 1:
        after = (after + face.roll((-y, -x - 1), (2, 3))) / 2
    inside = (..., slice(5, -5), slice(5, -5))
    torch.testing.assert_close(compose(face, layers)[inside], after[inside], atol=1e-5, rtol=0)


def test_what_is_shown_covers_the_face_where_a_mouth_can_open() -> None:
    face, (painted, flow) = torch.rand(1, 3, 32, 32), still_layers()
    painted[:, 3, :8] = 1
    painted[:, 3, 8:] = 0.25
    made, before = compose(face, Layers(painted, flow)), window(face)
    torch.testing.assert_close(window(made)[:, :, :8], painted[:, :3, :8], atol=1e-6, rtol=0)
    mixed = 0.75 * before[:, :, 8:] + 0.25 * painted[:, :3, 8:]
    torch.testing.assert_close(window(made)[:, :, 8:], mixed, atol=1e-6, rtol=0)
    torch.testing.assert_close(made - framed(window(made)), face - framed(before), atol=1e-6, rtol=0)
