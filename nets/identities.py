"""What a decoder wants to know of avatar frames: computed once a frame, shared by all who show it, and bounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from core.avatar import Avatar

Place = tuple[Avatar, int]  # an avatar and the index of its frame


@dataclass(eq=False)
class _Table:
    rows: Tensor  # (m, width): the first m frames of one avatar
    known: list[bool]


class Identities:
    """Rows of `width` numbers, what `encode` says of a place, at most `most_bytes` of them. One thread.

    An avatar's frames are shown round and round, so nothing is evicted: what does not fit is computed each time. The
    rows of an avatar go when the avatar does.
    """

    def __init__(self, encode: Callable[[Sequence[Place]], Tensor], width: int, like: Tensor, most_bytes: int) -> None:
        self._encode = encode
        self._width, self._like = width, like
        self._most_rows = most_bytes // (width * like.element_size())
        self._tables: WeakKeyDictionary[Avatar, _Table] = WeakKeyDictionary()

    def of(self, places: Sequence[Place]) -> Tensor:
        """(B, width), one row per place, in order."""
        fresh = self._fresh(places)
        return torch.stack([self._row(place, fresh) for place in places])

    def _fresh(self, places: Sequence[Place]) -> dict[Place, Tensor]:
        """What is not known yet, computed in one batch and remembered where there is room."""
        missing = [place for place in dict.fromkeys(places) if not self._knows(place)]
        if not missing:
            return {}
        rows = self._encode(missing)
        for (avatar, index), row in zip(missing, rows, strict=True):
            table = self._table(avatar)
            if index < len(table.known):
                table.rows[index], table.known[index] = row, True
        return dict(zip(missing, rows, strict=True))

    def _row(self, place: Place, fresh: dict[Place, Tensor]) -> Tensor:
        row = fresh.get(place)
        return self._table(place[0]).rows[place[1]] if row is None else row

    def _knows(self, place: Place) -> bool:
        table = self._table(place[0])
        return place[1] < len(table.known) and table.known[place[1]]

    def _table(self, avatar: Avatar) -> _Table:
        table = self._tables.get(avatar)
        if table is None:
            room = self._most_rows - sum(len(other.known) for other in self._tables.values())
            n = max(0, min(len(avatar.boxes), room))
            table = self._tables[avatar] = _Table(self._like.new_empty((n, self._width)), [False] * n)
        return table
