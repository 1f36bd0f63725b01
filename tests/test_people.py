"""People drawn at random: each another, and the same again from the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.conftest import SHARED

HEAD = SHARED / "data/head3d"

people = pytest.importorskip("scripts.presenter.people", reason="what draws presenters is not installed")


@pytest.fixture(scope="module")
def pack() -> Any:
    if not HEAD.exists():
        pytest.skip("there is no head3d pack beside this checkout")
    return pytest.importorskip("scripts.presenter.pack").Pack(HEAD)


def anybody(pack: Any, seed: int) -> Any:
    return people.anybody(pack, np.random.default_rng(seed))


def test_a_seed_is_always_the_same_person(pack: Any) -> None:
    assert anybody(pack, 7) == anybody(pack, 7)


def test_other_seeds_are_other_people(pack: Any) -> None:
    everybody = [anybody(pack, seed) for seed in range(30)]
    for name in ("female", "weight", "young", "african", "skin_tint", "teeth_tint"):
        assert len({getattr(person, name) for person in everybody}) == 30
    assert len({frozenset(person.details.items()) for person in everybody}) == 30
    assert len({person.skin for person in everybody}) > 8
    assert {person.female > 0.5 for person in everybody} == {True, False}


def test_everything_that_a_person_wears_and_is_made_of_is_in_the_pack(pack: Any) -> None:
    for seed in range(30):
        person = anybody(pack, seed)
        assert (HEAD / "skins" / f"{person.skin}.jpg").exists()
        for folder, name in (("hair", person.hair), ("eyebrows", person.brows), ("clothes", person.clothes)):
            assert list(HEAD.glob(f"{folder}/{name}*")), (folder, name)
        for name in person.details:
            assert list(HEAD.glob(f"targets/{name}*")), name


def test_nobody_is_bent_both_ways_at_once(pack: Any) -> None:
    for seed in range(30):
        details = anybody(pack, seed).details
        assert all(0 < weight < 0.8 for weight in details.values())
        assert not any(opposite in details for name in details for opposite in people._opposites(name))
