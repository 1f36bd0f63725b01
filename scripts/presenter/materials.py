"""What a person's parts are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .identity import Colour, Person
from .pack import Pack

BLANK = ""  # a material without a picture


@dataclass(frozen=True)
class Material:
    """Which shader draws a part, with which picture and colour."""

    program: str
    picture: str
    tint: Colour
    pull: float = 0.0  # towards the camera, normalised device depth
    cut: float = 0.5  # alpha that throws a shadow; above 1 the part throws none


def materials(person: Person) -> dict[str, Material]:
    """The material of every part of `person`."""
    return {
        "body": Material("skin", f"skins/{person.skin}.jpg", person.skin_tint),
        "teeth": Material("mouth", "teeth/teeth.jpg", person.teeth_tint, cut=2),
        "tongue": Material("mouth", "tongue/tongue01_diffuse.jpg", (1.0, 1.0, 1.0), cut=2),
        "eyes": Material("eye", f"eyes/{person.iris}.png", person.iris_colour, cut=2),
        "clothes": Material(
            "cloth", _own("clothes", person.clothes, "_diffuse.jpg"), person.clothes_colour or (1, 1, 1)
        ),
        **_hair(person),
        "brows": Material("card", _own("eyebrows", person.brows, ".png"), person.brow_colour, 0.0006, 2),
        "lashes": Material("card", _own("eyelashes", person.lashes, ".png"), person.lash_colour, 0.0016, 2),
    }


def _hair(person: Person) -> dict[str, Material]:
    if isinstance(person.hair, str):
        return {"hair": Material("hair", _own("hair", person.hair, "_diffuse.png"), person.hair_colour, cut=0.6)}
    return {
        "scalp": Material("scalp", BLANK, person.hair_colour, cut=2),
        "hair": Material("strand", BLANK, person.hair_colour),
    }


def garment_relief(person: Person) -> str:
    """The picture of the normals of `person`'s clothes; not every garment has one."""
    return _own("clothes", person.clothes, "_normal.jpg")


def mean_luminance(pack: Pack, picture: str) -> float:
    """How bright the solid part of a picture is, linear."""
    image = pack.picture(picture).astype(float) / 255
    solid = image[image[..., 3] > 0.9][:, :3] ** 2.2
    solid = solid[solid.sum(axis=1) > 0.003]
    return float((solid @ np.array([0.2126, 0.7152, 0.0722])).mean())


def _own(kind: str, name: str, ending: str) -> str:
    return f"{kind}/{name}/{name}{ending}"
