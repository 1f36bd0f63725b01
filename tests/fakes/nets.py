"""Networks that nobody has trained but that do something. Importing this keeps torch to one thread."""

from __future__ import annotations

import torch

from nets.wav2lip import Layout, Wav2Lip

torch.set_num_threads(1)  # two that wait for each other on a busy machine take many times as long


def random_net(layout: Layout, seed: int = 0) -> Wav2Lip:
    """Random weights that let sound and face through, batch norms that change them, an output that uses its range."""
    torch.manual_seed(seed)
    net = Wav2Lip(layout).eval()
    for key, value in net.state_dict().items():
        if ".conv_block.1." in key and value.is_floating_point():
            value.uniform_(0.7, 1.3) if "var" in key or "weight" in key else value.uniform_(-0.2, 0.2)
        elif ".conv_block.0.weight" in key:
            value.mul_(2)
    net.get_parameter("output_block.1.weight").data.mul_(3)
    return net
