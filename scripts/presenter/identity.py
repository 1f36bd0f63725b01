"""Who a person is: proportions, features, colours and clothes, and the base mesh in that shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

from .crop import Crop
from .hair import Groom
from .mesh import Points
from .pack import Pack

Colour = tuple[float, float, float]  # linear RGB

REST = {
    "browInnerUp": 0.20,
    "browOuterUpLeft": 0.12,
    "browOuterUpRight": 0.12,
    "mouthSmileLeft": 0.32,
    "mouthSmileRight": 0.30,
    "cheekSquintLeft": 0.10,
    "cheekSquintRight": 0.10,
    "eyeWideLeft": 0.06,
    "eyeWideRight": 0.06,
    "mouthClose": 0.15,
}


@dataclass(frozen=True)
class Person:
    """One synthetic person. Weights are in [0, 1]; `female` and `young` are 1 at their own end."""

    female: float = 1.0
    young: float = 1.0
    african: float = 0.0
    asian: float = 0.0
    muscle: float = 0.5
    weight: float = 0.5
    proportions: float = 0.4
    details: Mapping[str, float] = field(default_factory=dict)
    rest: Mapping[str, float] = field(default_factory=lambda: REST)
    arms_down_degrees: float = 38.0
    skin: str = "young_caucasian_female2"
    skin_tint: Colour = (1.0, 1.0, 1.0)
    hair: str | Groom | Crop = "long01"  # a hair of the pack, or one to grow
    hair_colour: Colour = (0.03, 0.018, 0.012)
    brows: str = "eyebrow001"
    brow_colour: Colour = (0.03, 0.02, 0.015)
    lashes: str = "eyelashes01"
    lash_colour: Colour = (0.012, 0.009, 0.008)
    iris: str = "brown_eye"
    iris_colour: Colour = (0.42, 0.25, 0.12)
    clothes: str = "female_elegantsuit01"
    clothes_colour: Colour | None = None  # None keeps the garment's own picture
    teeth: str = "teeth_base"
    teeth_tint: Colour = (1.22, 1.11, 0.98)
    backdrop: tuple[Colour, Colour] = ((0.085, 0.105, 0.125), (0.36, 0.41, 0.44))  # dark and bright of the wall behind

    @property
    def caucasian(self) -> float:
        return 1.0 - self.african - self.asian


PRESENTER = Person(
    young=0.93,
    asian=0.18,
    african=0.06,
    weight=0.44,
    muscle=0.55,
    proportions=0.55,
    details={
        "head/head-oval": 0.35,
        "eyebrows/eyebrows-angle-up": 0.45,
        "eyes/l-eye-scale-incr": 0.22,
        "eyes/r-eye-scale-incr": 0.20,
        "eyes/l-eye-corner1-up": 0.15,
        "eyes/r-eye-corner1-up": 0.15,
        "nose/nose-scale-horiz-decr": 0.25,
        "nose/nose-point-up": 0.15,
        "mouth/mouth-angles-up": 0.25,
        "mouth/mouth-upperlip-volume-incr": 0.25,
        "mouth/mouth-lowerlip-volume-incr": 0.20,
        "cheek/l-cheek-bones-incr": 0.25,
        "cheek/r-cheek-bones-incr": 0.27,
        "chin/chin-width-decr": 0.20,
        "asym/asym-nose-1-l": 0.10,
        "asym/asym-mouth-2-r": 0.10,
        "neck/neck-scale-horiz-decr": 0.20,
    },
    hair=Groom(),
    hair_colour=(0.075, 0.038, 0.020),
    brows="eyebrow010",
    brow_colour=(0.016, 0.009, 0.006),
    iris_colour=(0.42, 0.25, 0.12),
    clothes_colour=(0.020, 0.050, 0.075),
)

JUN = Person(
    female=0.0,
    young=0.78,
    asian=0.9,
    muscle=0.6,
    weight=0.47,
    proportions=0.5,
    details={
        "head/head-oval": 0.15,
        "head/head-rectangular": 0.25,
        "head/head-scale-horiz-decr": 0.20,
        "eyebrows/eyebrows-angle-up": 0.25,
        "eyes/l-eye-scale-incr": 0.20,
        "eyes/r-eye-scale-incr": 0.17,
        "nose/nose-scale-horiz-decr": 0.20,
        "nose/nose-hump-incr": 0.20,
        "mouth/mouth-angles-up": 0.12,
        "mouth/mouth-upperlip-height-decr": 0.25,
        "mouth/mouth-lowerlip-volume-decr": 0.25,
        "cheek/l-cheek-bones-incr": 0.30,
        "cheek/r-cheek-bones-incr": 0.33,
        "chin/chin-width-incr": 0.15,
        "chin/chin-prominent-incr": 0.20,
        "asym/asym-nose-1-r": 0.12,
        "asym/asym-eye-3-l": 0.15,
    },
    rest={
        "browInnerUp": 0.14,
        "browOuterUpLeft": 0.10,
        "browOuterUpRight": 0.08,
        "mouthSmileLeft": 0.24,
        "mouthSmileRight": 0.25,
        "cheekSquintLeft": 0.12,
        "cheekSquintRight": 0.12,
        "eyeWideLeft": 0.04,
        "eyeWideRight": 0.04,
        "mouthClose": 0.12,
    },
    skin="middleage_asian_male",
    skin_tint=(0.90, 0.91, 0.93),
    hair=Crop(),
    hair_colour=(0.014, 0.011, 0.010),
    brows="eyebrow012",
    brow_colour=(0.008, 0.006, 0.005),
    lash_colour=(0.11, 0.075, 0.055),
    iris_colour=(0.30, 0.18, 0.09),
    clothes="male_elegantsuit01",
    backdrop=((0.087, 0.099, 0.108), (0.37, 0.385, 0.38)),
)


def neutral(person: Person, pack: Pack) -> Points:
    """The base mesh (19158, 3) in `person`'s shape, arms as modelled, face without expression."""
    shape = pack.base.points.copy()
    for name, weight in {**macro_weights(person), **person.details}.items():
        shape += weight * pack.target(name)
    return shape


def macro_weights(person: Person) -> dict[str, float]:
    """Corner shapes and their weights: the product of the axes each corner lies on."""
    genders = {"female": person.female, "male": 1 - person.female}
    ages = {"young": person.young, "old": 1 - person.young}
    races = {"caucasian": person.caucasian, "asian": person.asian, "african": person.african}
    weights: dict[str, float] = {}
    for (gender, g), (age, a) in product(genders.items(), ages.items()):
        for race, r in races.items():
            weights[f"macro/{race}-{gender}-{age}"] = g * a * r
        for (muscle, m), (weight, w) in product(_three(person.muscle), _three(person.weight)):
            if (muscle, weight) != ("average", "average"):
                weights[f"macro/universal-{gender}-{age}-{muscle}muscle-{weight}weight"] = g * a * m * w
        ideal = f"macro/{gender}-{age}-averagemuscle-averageweight-idealproportions"
        weights[ideal] = g * a * person.proportions
    return {name: float(weight) for name, weight in weights.items() if weight > 0}


def _three(x: float) -> list[tuple[str, float]]:
    low, high = max(0.0, 1 - 2 * x), max(0.0, 2 * x - 1)
    return [("min", low), ("average", 1 - low - high), ("max", high)]
