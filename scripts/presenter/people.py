"""Anybody: people drawn at random, to learn from. Nobody's likeness, each another."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .identity import Colour, Person
from .pack import Pack

DETAILS = ("head", "cheek", "chin", "nose", "mouth", "neck", "asym")  # folders of shapes around a mouth
HAIRS = ("short01", "short02", "short03", "short04", "bob01", "bob02", "long01", "ponytail01", "braid01")
HAIR_COLOURS: tuple[Colour, ...] = (
    (0.012, 0.009, 0.008),
    (0.03, 0.018, 0.012),
    (0.08, 0.04, 0.02),
    (0.20, 0.12, 0.06),
    (0.42, 0.30, 0.16),
    (0.45, 0.44, 0.42),
    (0.25, 0.07, 0.03),
)
CLOTHES = {
    "female": ("female_elegantsuit01", "female_sportsuit01", "male_casualsuit06"),
    "male": ("male_casualsuit03", "male_casualsuit05", "male_casualsuit06", "male_elegantsuit01"),
}
TEETH = ("teeth_base", "teeth_shape02", "teeth_shape04")
OPPOSITES = (("incr", "decr"), ("up", "down"), ("in", "out"), ("forward", "backward"), ("convex", "concave"))


def anybody(pack: Pack, rng: np.random.Generator) -> Person:
    """A person of any origin, age and build."""
    sex = str(rng.choice(["female", "male"]))
    origin = str(rng.choice(["caucasian", "asian", "african"]))
    shares = rng.dirichlet([0.35, 0.35, 0.35])
    shares *= 0.45 / shares.sum()
    share = dict(zip(("caucasian", "asian", "african"), shares, strict=True))
    share[origin] += 0.55
    young = float(rng.beta(2.2, 1.1))
    brightness, warmth = rng.uniform(0.75, 1.25), rng.uniform(-0.06, 0.06)
    hair = str(rng.choice(HAIRS[:4] if sex == "male" and rng.random() < 0.8 else HAIRS))
    colour = HAIR_COLOURS[int(rng.integers(len(HAIR_COLOURS)))]
    return Person(
        female=float(rng.uniform(0.85, 1) if sex == "female" else rng.uniform(0, 0.15)),
        young=young,
        african=float(share["african"]),
        asian=float(share["asian"]),
        muscle=float(rng.uniform(0.3, 0.75)),
        weight=float(rng.uniform(0.25, 0.85)),
        proportions=float(rng.uniform(0.1, 0.7)),
        details=_details(pack, rng),
        rest=_rest(rng),
        skin=_skin(pack, rng, origin, sex, young),
        skin_tint=(brightness * (1 + warmth), brightness, brightness * (1 - warmth)),
        hair=hair,
        hair_colour=colour,
        brows=f"eyebrow{rng.integers(1, 13):03d}",
        brow_colour=colour,
        clothes=str(rng.choice(CLOTHES[sex])),
        clothes_colour=tuple(rng.uniform(0.01, 0.5, 3)) if rng.random() < 0.5 else None,  # type: ignore[arg-type]
        teeth=str(rng.choice(TEETH)),
        teeth_tint=_ivory(rng),
    )


def _ivory(rng: np.random.Generator) -> tuple[float, float, float]:
    """White to yellow, and darker than a dentist's: seldom does a lamp stand before a mouth."""
    light, yellow = rng.uniform(0.6, 1.2), rng.uniform(0, 1)
    return (light, light * (1 - 0.09 * yellow), light * (0.95 - 0.3 * yellow))


def _skin(pack: Pack, rng: np.random.Generator, origin: str, sex: str, young: float) -> str:
    age = "young" if young > 0.7 else "middleage" if young > 0.4 else "old"
    names = sorted(path.stem for path in (pack.root / "skins").glob(f"*_{origin}_{sex}*.jpg"))
    near = [name for name in names if name.startswith(age)] or names
    return str(rng.choice(near if rng.random() < 0.8 else names))


def _rest(rng: np.random.Generator) -> dict[str, float]:
    """Almost no expression: a trace of a smile or of gravity."""
    smile, frown = max(0.0, rng.normal(0.08, 0.1)), max(0.0, rng.normal(-0.05, 0.1))
    both = {"mouthSmile": smile, "mouthFrown": frown, "cheekSquint": 0.5 * smile, "browOuterUp": rng.uniform(0, 0.3)}
    rest = {name + side: float(weight) for name, weight in both.items() for side in ("Left", "Right")}
    rest["mouthSmileLeft"] *= rng.uniform(0.85, 1.15)
    return rest | {"browInnerUp": float(rng.uniform(0, 0.3))}


def _details(pack: Pack, rng: np.random.Generator) -> dict[str, float]:
    """Eight to sixteen features off the average; what is left and right goes together, nearly."""
    names = [_name(path, folder) for folder in DETAILS for path in sorted((pack.root / "targets" / folder).iterdir())]
    chosen: dict[str, float] = {}
    for name in rng.choice(names, int(rng.integers(8, 17)), replace=False):
        weight = float(rng.uniform(0.1, 0.3 if name.startswith("asym") else 0.6))
        if any(opposite in chosen for opposite in _opposites(name)):
            continue
        chosen[str(name)] = weight
        folder, _, stem = name.partition("/")
        if stem.startswith(("l-", "r-")):
            chosen[f"{folder}/{'r' if stem[0] == 'l' else 'l'}{stem[1:]}"] = weight * float(rng.uniform(0.85, 1.15))
    return chosen


def _name(path: Path, folder: str) -> str:
    return f"{folder}/{path.name.removesuffix('.gz').removesuffix('.target')}"


def _opposites(name: str) -> list[str]:
    return [
        name.removesuffix(a) + b
        for one, other in OPPOSITES
        for a, b in ((one, other), (other, one))
        if name.endswith(a)
    ]
