"""What is known of avatar frames: computed once, shared, bounded, and gone with the avatar."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from weakref import ref

import numpy as np
import pytest
import torch
from torch import Tensor

from core.avatar import Avatar
from core.frames import Frames
from nets.identities import Identities, Place

WIDTH = 3
ROOMY = 1 << 20


def make_avatar(name: str, frames: int = 4) -> Avatar:
    return Avatar(name, Frames.of(np.zeros((frames, 8, 8, 3), np.uint8)), np.zeros((frames, 4), np.int32))


class Encoder:
    """Says a number for the avatar, the frame, and how often it was asked; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, int]]] = []

    def __call__(self, places: Sequence[Place]) -> Tensor:
        self.batches.append([(avatar.id, index) for avatar, index in places])
        return torch.stack([row(avatar, index) for avatar, index in places])

    @property
    def asked(self) -> list[tuple[str, int]]:
        return [place for batch in self.batches for place in batch]


def row(avatar: Avatar, index: int) -> Tensor:
    return torch.tensor([float(ord(avatar.id[0])), float(index), 1.0])


def identities(encode: Encoder, most_bytes: int = ROOMY) -> Identities:
    return Identities(encode, WIDTH, torch.empty(0), most_bytes)


def rows(*places: Place) -> Tensor:
    return torch.stack([row(avatar, index) for avatar, index in places])


def test_each_frame_is_encoded_once() -> None:
    encode, anna = Encoder(), make_avatar("anna")
    known = identities(encode)
    for _ in range(3):
        for index in (0, 1, 2, 3, 2, 1):
            assert torch.equal(known.of([(anna, index)]), rows((anna, index)))
    assert encode.asked == [("anna", index) for index in range(4)]


def test_two_sessions_that_show_an_avatar_share_what_is_known_of_it() -> None:
    encode, anna = Encoder(), make_avatar("anna")
    known = identities(encode)
    known.of([(anna, 0), (anna, 2)])
    assert torch.equal(known.of([(anna, 2), (anna, 0)]), rows((anna, 2), (anna, 0)))
    assert len(encode.batches) == 1


def test_a_batch_is_answered_in_its_order_and_encodes_what_is_new_in_it_once_together() -> None:
    encode, anna, bert = Encoder(), make_avatar("anna"), make_avatar("bert")
    known = identities(encode)
    known.of([(bert, 1)])
    batch = [(bert, 0), (anna, 3), (bert, 1), (bert, 0), (anna, 3), (anna, 0)]
    assert torch.equal(known.of(batch), rows(*batch))
    assert encode.batches[1:] == [[("bert", 0), ("anna", 3), ("anna", 0)]]


def test_avatars_of_one_name_are_two() -> None:
    encode = Encoder()
    known = identities(encode)
    known.of([(make_avatar("anna"), 0)])
    old, new = make_avatar("anna"), make_avatar("anna")
    known.of([(old, 0)])
    known.of([(new, 0)])
    assert encode.asked == [("anna", 0)] * 3


@pytest.mark.parametrize("most_rows", [0, 1, 3, 5])
def test_what_does_not_fit_is_computed_again_and_is_the_same(most_rows: int) -> None:
    encode, anna, bert = Encoder(), make_avatar("anna"), make_avatar("bert")
    known = identities(encode, most_rows * WIDTH * 4)
    batch = [(anna, 3), (bert, 0), (anna, 0), (anna, 1), (bert, 3)]
    for _ in range(3):
        assert torch.equal(known.of(batch), rows(*batch))
    assert held(known) <= most_rows
    again = encode.batches[1]
    assert again == encode.batches[2]
    assert len(again) == len(batch) - sum(1 for avatar, index in batch if known._knows((avatar, index)))
    assert len(again) >= len(batch) - most_rows


def held(known: Identities) -> int:
    return sum(len(table.rows) for table in known._tables.values())


def test_what_is_known_of_an_avatar_goes_when_the_avatar_goes() -> None:
    encode, anna = Encoder(), make_avatar("anna")
    known = identities(encode, 4 * WIDTH * 4)
    known.of([(anna, 0)])
    gone = ref(anna)
    assert held(known) == 4
    del anna
    gc.collect()
    assert gone() is None
    assert held(known) == 0


def test_room_that_an_avatar_leaves_is_for_the_next() -> None:
    encode, anna = Encoder(), make_avatar("anna")
    known = identities(encode, 4 * WIDTH * 4)
    known.of([(anna, 0)])
    del anna
    gc.collect()
    bert = make_avatar("bert")
    for _ in range(2):
        known.of([(bert, index) for index in range(4)])
    assert len(encode.batches) == 2
