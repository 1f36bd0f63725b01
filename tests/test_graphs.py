"""Recorded CUDA graphs say what the network says, whatever the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nets.graphs import Graphs
from nets.lips import our_layout
from tests.fakes.nets import random_net, told

LARGEST, WIDTH = 8, 24

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")


def network(sound: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """(B, 4, 6): depends on all of its own row and on nothing else."""
    heard = torch.nn.functional.avg_pool2d(sound, (20, 16)).flatten(1)  # (B, 4)
    return torch.tanh(heard[:, :, None] * known.reshape(-1, 4, 6) + heard.mean(dim=1)[:, None, None])


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    with torch.inference_mode():
        return Graphs(network, WIDTH, LARGEST)


def question(n: int, seed: int) -> tuple[np.ndarray, torch.Tensor]:
    rng = np.random.default_rng(seed)
    sound = rng.normal(0, 2, (n, 1, 80, 16)).astype(np.float32)
    return sound, torch.from_numpy(rng.normal(0, 1, (n, WIDTH))).to("cuda", torch.float16)


def answer(sound: np.ndarray, known: torch.Tensor) -> np.ndarray:
    return network(torch.from_numpy(sound).to("cuda", torch.float16), known).cpu().numpy()


@torch.inference_mode()
def test_a_graph_says_what_the_network_says_for_every_size_of_batch_in_any_order(graphs: Graphs) -> None:
    for n in (*range(1, LARGEST + 1), 3, 8, 1, 5, 2, 7, 7, 4, 6, 1):
        sound, known = question(n, seed=n)
        said = graphs(sound, known)
        assert said.shape == (n, 4, 6) and said.dtype == np.float16
        np.testing.assert_allclose(np.asarray(said, np.float32), answer(sound, known), atol=4e-3)


@torch.inference_mode()
def test_an_answer_is_not_changed_by_the_next(graphs: Graphs) -> None:
    first = graphs(*question(4, seed=1))
    before = first.copy()
    graphs(*question(4, seed=2))
    np.testing.assert_array_equal(first, before)


@torch.inference_mode()
def test_what_a_larger_batch_left_behind_changes_nothing(graphs: Graphs) -> None:
    alone = graphs(*question(3, seed=3))
    graphs(*question(LARGEST, seed=4))
    np.testing.assert_array_equal(graphs(*question(3, seed=3)), alone)


@torch.inference_mode()
def test_our_network_can_be_recorded_and_says_the_same() -> None:
    net: Any = random_net(our_layout(0.25)).fold().to("cuda", torch.float16)
    face, points = told(net.layout)
    identity = net.identity(face.to("cuda", torch.float16), points.to("cuda"))
    sizes, shapes = [part[0].numel() for part in identity], [part.shape[1:] for part in identity]

    def speak(sound: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        parts = zip(torch.split(known, sizes, dim=1), shapes, strict=True)
        layers = net.speak(sound, [part.reshape(-1, *shape) for part, shape in parts])
        return torch.cat([layer.flatten(1).half() for layer in layers], dim=1)

    known = torch.cat([part.flatten(1) for part in identity], dim=1).expand(3, -1)
    sound, _ = question(3, seed=5)
    expected = speak(torch.from_numpy(sound).to("cuda", torch.float16), known).float().cpu().numpy()
    said = np.asarray(Graphs(speak, sum(sizes), 4)(sound, known), np.float32)
    np.testing.assert_allclose(said, expected, atol=1e-2)
