"""Networks that nobody has trained but that do something. Importing this keeps torch to one thread."""

from __future__ import annotations

from math import cos, radians, sin

import torch
from torch import Tensor

from core.avatar import CHIN, LEFT_CORNER, LOWER_INNER, LOWER_OUTER, NOSE_BASE, RIGHT_CORNER, UPPER_INNER, UPPER_OUTER
from nets.checkpoints import make
from nets.lips import Lips
from nets.wav2lip import Layout, Wav2Lip

torch.set_num_threads(1)  # two that wait for each other on a busy machine take many times as long


def random_net(layout: Layout, seed: int = 0) -> Wav2Lip:
    """Random weights that let sound and face through, batch norms that change them, an output that uses its range."""
    torch.manual_seed(seed)
    net = make(layout).eval()
    for key, value in net.state_dict().items():
        if ".conv_block.1." in key and value.is_floating_point():
            value.uniform_(0.7, 1.3) if "var" in key or "weight" in key else value.uniform_(-0.2, 0.2)
        elif ".conv_block.0.weight" in key:
            value.mul_(2)
    lasts = [(net.output_block[-1], 30), (net.flow_block[-1], 10), (net.mover[-1], 10)] if isinstance(net, Lips) else []
    for last, more in lasts or [(net.output_block[1], 3)]:
        last.get_parameter("weight").data.mul_(more)
    return net


def mouth(opening: float = 0.0, degrees: float = 0.0, at: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """A mouth (1, 8, 2) with `opening` between its lips, turned clockwise; sides of the square from its middle."""
    half, c, s = opening / 2, cos(radians(degrees)), sin(radians(degrees))
    points = torch.zeros(8, 2)
    points[LEFT_CORNER, 0], points[RIGHT_CORNER, 0] = -0.2, 0.2
    down = {UPPER_OUTER: -0.05 - half, UPPER_INNER: -half, LOWER_INNER: half, LOWER_OUTER: 0.06 + half}
    for row, y in (down | {CHIN: 0.3 + half, NOSE_BASE: -0.3}).items():
        points[row, 1] = y
    return (points @ torch.tensor([[c, s], [-s, c]]) + torch.tensor(at))[None]


def told(layout: Layout, n: int = 1) -> tuple[Tensor, ...]:
    """What `identity` of such a network is told: `n` faces of noise and, of ours, an open mouth."""
    face = torch.rand(n, 3 if layout.layers else 6, layout.size, layout.size)
    return (face, mouth(0.1).expand(n, -1, -1)) if layout.layers else (face,)
