"""Films many synthetic people speaking, close up, in step with the sound: what our lips are trained on.

    python -m scripts.presenter.talkers --head3d DIR --speech DIR --out DIR [--people 120] [--split train] [--part 0/2]

One file a person, `<split>_<number>.npz`: `images` uint8 (n, 160, 160, 3) BGR, `landmarks` float32 (n, 10, 2) pixels
(rows of `core.avatar`, without the oval), `weights` float32 (n, 14) of `speaking.VISEMES`, and for each picture
`scene`, `utterance` (number of the sound) and `tick` (the 40 ms of the sound it shows). The head is still within a
scene, and the first RESTS pictures of each are of a mouth at rest: `utterance` and `tick` are -1 there.
`reach` float32 (scenes, 15, 10, 2) is where the landmarks are at rest, and with each viseme alone: they follow
from weights linearly, to a few hundredths of a pixel.
`sayings_<split>.npz` holds `utterance`, `tick` and `weights` of everything that the speech set says in that split.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from . import draw
from .camera import Camera, box
from .draw import Studio
from .figure import Figure
from .gpu import set_uniforms, texture
from .landmarks import LIPS, MOUTH, mouth_points
from .mesh import Points, unit
from .motion import Pose
from .pack import LEFT_EYE, RIGHT_EYE, Pack
from .people import anybody
from .speaking import VISEMES, every_tick

SIZE = 160  # pixels; a crop for the network is about 128 of them
VIEW_DM = 1.3
SCENES, SCENE_TICKS, RESTS = 4, 24, 2
SILENT = np.zeros(len(VISEMES), np.float32)
SHADOW_TAPS = 10
MOVING = ("body", "teeth", "tongue")
NOSE_BASE = MOUTH[7]
SPLIT_SEEDS = {"train": 0, "val": 100_000, "test": 200_000}


@dataclass(frozen=True)
class Scene:
    """What stays the same while a few words are said."""

    pose: Pose
    fov_degrees: float
    key_direction: NDArray[np.float64]
    light: Mapping[str, tuple[float, float, float]]
    backdrop: Mapping[str, tuple[float, ...]]
    loudness: float  # of the mouth


class Booth(Studio):
    """A studio for close-ups: small, lit anew for every scene, and only the mouth moves within one."""

    def __init__(self, figure: Figure, camera: Camera, beard: float) -> None:
        super().__init__(figure, camera, SIZE, 1)
        for program in self.programs.values():
            set_uniforms(program, shadow_taps=SHADOW_TAPS)
        if beard > 0:
            name = self.materials["body"].picture
            self.pictures[name].release()
            self.pictures[name] = texture(self.gl, bearded(figure, beard))

    def light(self, scene: Scene, camera: Camera) -> None:
        """Everything in place for `scene` but the mouth."""
        self.camera = camera
        self.to_shadow = box(self.figure.rig.skull - [0, 0.9, 0.2], scene.key_direction, draw.SHADOW_HALF)
        for program in self.programs.values():
            set_uniforms(program, to_clip=camera.matrix, eye=camera.eye, to_shadow=self.to_shadow)
            set_uniforms(program, key_direction=scene.key_direction, **scene.light)
        set_uniforms(self.backdrop.program, **scene.backdrop)
        self._move(scene.pose)
        self._cast(self.shadow, self.to_shadow)

    def shoot(self, pose: Pose) -> tuple[NDArray[np.uint8], Points]:
        """The picture, uint8 (SIZE, SIZE, 3) BGR, and the posed base mesh; about 0.1 s."""
        base, placed = self.figure.pose(pose, MOVING)
        for name, points in placed.items():
            self.drawn[name].move(points)
        self._paint(base)
        self.gl.copy_framebuffer(self.single, self.multi)
        raw = np.frombuffer(self.single.read(components=3), np.uint8).reshape(SIZE, SIZE, 3)
        return np.ascontiguousarray(raw[::-1, :, ::-1]), base


def bearded(figure: Figure, strength: float) -> NDArray[np.uint8]:
    """The skin's picture, uint8 (h, w, 4) RGBA, darkened where a beard grows."""
    picture = figure.pack.picture(f"skins/{figure.person.skin}.jpg").copy()
    mesh, points = figure.parts["body"].drawable, figure.shape
    skin = figure.parts["body"].matrix @ figure.rest if figure.parts["body"].matrix is not None else figure.rest
    lips, chin, nose = points[LIPS], points[MOUTH[6]], points[NOSE_BASE]
    x, y, z = (skin - lips).T
    face = np.clip((z + 0.75) / 0.25, 0, 1)
    below_nose = np.clip((nose[1] - lips[1] - 0.02 - y) / 0.06, 0, 1)
    above_neck = np.clip((y - (chin[1] - lips[1]) + 0.35) / 0.15, 0, 1)
    sideways = np.clip((0.75 - np.abs(x)) / 0.15, 0, 1)
    off_lips = np.clip((np.hypot(x / 0.30, (y + 0.05) / 0.15) - 0.9) / 0.25, 0, 1)
    grown = (face * below_nose * above_neck * sideways * off_lips)[mesh.source]
    mask = np.zeros((512, 512), np.float32)
    corners = np.round(mesh.uvs[mesh.triangles] * 512).astype(np.int32)
    for triangle, amount in zip(corners, grown[mesh.triangles].mean(axis=1), strict=True):
        if amount > 0.01:
            cv2.fillConvexPoly(mask, triangle, float(amount))
    mask = cv2.resize(cv2.GaussianBlur(mask, (0, 0), 3), picture.shape[1::-1])
    noise = np.random.default_rng(len(figure.person.skin)).normal(0, 1, picture.shape[:2]).astype(np.float32)
    grain = np.clip(0.75 + 0.5 * cv2.GaussianBlur(noise, (0, 0), 1.2), 0, 1.3)
    amount = np.clip(strength * mask * grain, 0, 0.95)[..., None]
    hair = 255 * np.asarray(figure.person.hair_colour) ** (1 / 2.2)
    picture[..., :3] = (picture[..., :3] * (1 - amount) + hair * amount).astype(np.uint8)
    return picture


def any_scene(rng: np.random.Generator) -> Scene:
    """A head, a lens, light and a wall."""
    yaw, pitch, roll = rng.normal(0, 13), rng.normal(0, 7), rng.normal(0, 5)
    smile = max(0.0, rng.normal(0, 0.1))
    pose = Pose(
        weights={
            "mouthSmileLeft": smile,
            "mouthSmileRight": smile * rng.uniform(0.8, 1.2),
            "browInnerUp": rng.uniform(0, 0.3),
            "mouthClose": rng.uniform(-0.05, 0.1),
        },
        head=(float(np.clip(yaw, -32, 32)), float(np.clip(pitch, -18, 18)), float(np.clip(roll, -14, 14))),
    )
    side, up = np.radians(rng.normal(-10, 40)), np.radians(rng.normal(25, 18))
    key = unit(np.array([np.sin(side) * np.cos(up), np.sin(up), max(0.15, np.cos(side)) * np.cos(up)]))
    exposure = rng.uniform(0.7, 1.3)
    strength = rng.uniform(0.3, 1.15)
    light = {
        "key_colour": _tinted(rng, 2.15 * strength * exposure),
        "fill_colour": _tinted(rng, rng.uniform(0.2, 0.9) * exposure),
        "fill_direction": tuple(unit(np.array([-np.sign(key[0]) * 0.8, rng.uniform(-0.2, 0.4), 0.6]))),
        "rim_colour": _tinted(rng, rng.uniform(0, 0.9)),
        "sky": _tinted(rng, (0.3 + 0.7 * (1.15 - strength)) * exposure),
        "ground": _tinted(rng, (0.2 + 0.6 * (1.15 - strength)) * exposure),
    }
    wall = rng.uniform(0, 0.7, 3)
    backdrop = {
        "dark": tuple(wall * rng.uniform(0.2, 0.8)),
        "bright": tuple(wall),
        "brightest": tuple(rng.uniform(-1, 1, 2)),
    }
    return Scene(pose, float(rng.uniform(9, 17)), key, light, backdrop, float(rng.uniform(0.75, 1.35)))


def _tinted(rng: np.random.Generator, strength: float) -> tuple[float, float, float]:
    warm, green = rng.normal(0, 0.08), rng.normal(0, 0.02)
    return (strength * (1 + warm), strength * (1 + green), strength * (1 - warm))


def close_up(figure: Figure, scene: Scene) -> Camera:
    """A camera on the mouth as `scene` holds the head."""
    base, _ = figure.pose(scene.pose, ())
    aim = base[NOSE_BASE] - [0, 0.29, 0.1]
    away = VIEW_DM / 2 / np.tan(np.radians(scene.fov_degrees / 2))
    return Camera(aim + np.array([0, 0.05, away]), aim, scene.fov_degrees)


def eyes(figure: Figure, base: Points) -> Points:
    """(2, 3) the middle of each eye at the lids, the one to the left in the picture first."""
    centres = [base[where].mean(axis=0) for where in (RIGHT_EYE, LEFT_EYE)]
    ahead = unit(base[NOSE_BASE] - base[figure.middle_points].mean(axis=0))
    return np.stack([centre + [0, 0, 0.09] + 0.02 * ahead for centre in centres])


class Sayings:
    """The speech set: utterances of one split with their phonemes."""

    def __init__(self, root: Path, split: str) -> None:
        wanted = set(json.loads((root / "split.json").read_text())[split])
        lines = (json.loads(line) for line in (root / "index.jsonl").read_text().splitlines())
        self.items: list[dict[str, Any]] = [item for item in lines if item["id"] in wanted]
        self.table = json.loads((root / "visemes.json").read_text())
        self.root = root

    def passage(self, rng: np.random.Generator, ticks: int, first: int | None = None) -> Iterator[tuple[int, int, Any]]:
        """Utterance number, tick and weights of VISEMES for `ticks` ticks in a row of some utterance."""
        item = self.items[int(rng.integers(len(self.items)))]
        said = every_tick(self.root, item, self.table)
        start = int(rng.integers(0, max(1, len(said) - ticks))) if first is None else first
        for i, weights in enumerate(said[start : start + ticks]):
            yield int(item["id"]), start + i, weights

    def every_tick(self) -> dict[str, NDArray[Any]]:
        """`utterance`, `tick` and `weights` (n, 14) of everything said in this split."""
        rows: dict[str, list[Any]] = {"utterance": [], "tick": [], "weights": []}
        for item in self.items:
            said = every_tick(self.root, item, self.table)
            rows["weights"].append(said)
            rows["utterance"].append(np.full(len(said), int(item["id"])))
            rows["tick"].append(np.arange(len(said)))
        return {name: np.concatenate(values) for name, values in rows.items()}


def reach(figure: Figure, scene: Scene) -> NDArray[np.float32]:
    """(15, 10, 2): the landmarks in `scene` at rest, and with each of VISEMES alone."""
    camera = close_up(figure, scene)
    shapes = [{}, *({f"viseme_{name}": 1.0} for name in VISEMES)]
    bases = [figure.pose(replace(scene.pose, weights={**scene.pose.weights, **shape}), ())[0] for shape in shapes]
    return np.stack([marks(figure, base, camera) for base in bases])


def marks(figure: Figure, base: Points, camera: Camera) -> NDArray[np.float32]:
    """(10, 2) pixels: the mouth and the eyes of the posed base mesh."""
    where = [mouth_points(base, camera, SIZE), camera.project(eyes(figure, base), SIZE)]
    return np.concatenate(where).astype(np.float32)


def film(pack: Pack, sayings: Sayings, seed: int) -> dict[str, NDArray[Any]]:
    """One person's close-ups, as the module says."""
    rng = np.random.default_rng(seed)
    person = anybody(pack, rng)
    figure = Figure(person, pack)
    scenes = [any_scene(rng) for _ in range(SCENES)]
    beard = float(rng.uniform(0.1, 0.8)) if person.female < 0.5 and rng.random() < 0.4 else 0.0
    booth = Booth(figure, close_up(figure, scenes[0]), beard)
    rows: dict[str, list[Any]] = {name: [] for name in ("images", "landmarks", "weights", "scene", "utterance", "tick")}
    for number, scene in enumerate(scenes):
        camera = close_up(figure, scene)
        booth.light(scene, camera)
        parted = SILENT + np.float32(rng.uniform(0, 0.25)) * (np.asarray(VISEMES) == "E")
        rest = [(-1, -1, SILENT), (-1, -1, parted)]
        for utterance, tick, weights in chain(rest, sayings.passage(rng, SCENE_TICKS)):
            said = weights * scene.loudness
            said[:2] = weights[:2]  # closures are whole or they are none
            spoken = {f"viseme_{name}": float(weight) for name, weight in zip(VISEMES, said, strict=True)}
            image, base = booth.shoot(replace(scene.pose, weights={**scene.pose.weights, **spoken}))
            for name, value in (("images", image), ("landmarks", marks(figure, base, camera)), ("weights", said)):
                rows[name].append(value)
            for name, count in (("scene", number), ("utterance", utterance), ("tick", tick)):
                rows[name].append(count)
    booth.release()
    reaches = np.stack([reach(figure, scene) for scene in scenes])
    return {name: np.stack(values) for name, values in rows.items()} | {"reach": reaches}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.presenter.talkers", description=__doc__.splitlines()[0])
    parser.add_argument("--head3d", type=Path, required=True, help="folder of the head3d pack")
    parser.add_argument("--speech", type=Path, required=True, help="folder of the speech set")
    parser.add_argument("--out", type=Path, required=True, help="where to write one file a person")
    parser.add_argument("--people", type=int, default=120)
    parser.add_argument("--split", choices=SPLIT_SEEDS, default="train", help="which sentences, and which people")
    parser.add_argument("--part", default="0/1", help="i/n: every n-th person from i on, for several processes")
    options = parser.parse_args()
    draw.SHADOW_SIZE, draw.SURVEY_SIZE = 512, 320
    pack, sayings = Pack(options.head3d), Sayings(options.speech, options.split)
    options.out.mkdir(parents=True, exist_ok=True)
    np.savez(options.out / f"sayings_{options.split}.npz", **sayings.every_tick())
    first, step = map(int, options.part.split("/"))
    for number in range(first, options.people, step):
        path = options.out / f"{options.split}_{number:04d}.npz"
        if not path.exists():
            part = path.with_suffix(".part.npz")
            np.savez(part, **film(pack, sayings, SPLIT_SEEDS[options.split] + number))
            part.rename(path)
            print(path, flush=True)


if __name__ == "__main__":
    main()
