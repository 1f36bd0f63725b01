"""Six sounds on several faces, side by side, to be looked at.

    python -m scripts.contact_sheet --speech DIR --out FILE.jpg [--avatars DIR] [--modelfile FILE] AVATAR_ID ...

Each face says sentences of the speech set that no network has learned from; shown is the tick at which a sound is most
itself, for every face the same. The first column is the avatar at rest.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from basereal import ENGINES, BaseReal
from core.audio import decode_audio
from core.avatar import Avatar, load_avatar
from core.config import Settings
from core.media import Image
from core.square import mouth_square
from scripts.presenter.speaking import VISEMES, every_tick
from studio.dub import dub

SHOWN = {"p b m": "PP", "f v": "FF", "s z": "SS", "a": "aa", "ee": "I", "oo": "U"}
TILE, AROUND = 220, 1.7  # pixels; of the mouth's square


def most_itself(speech: Path) -> dict[str, tuple[int, int]]:
    """Utterance and tick at which each of SHOWN is strongest among the sentences kept for tests."""
    kept = set(json.loads((speech / "split.json").read_text())["test"])
    table = json.loads((speech / "visemes.json").read_text())
    lines = map(json.loads, (speech / "index.jsonl").read_text().splitlines())
    best: dict[str, tuple[float, int, int]] = {}
    for item in (line for line in lines if line["id"] in kept):
        weights = every_tick(speech, item, table)
        for name, viseme in SHOWN.items():
            own = _held(weights[:, VISEMES.index(viseme)])
            best[name] = max(best.get(name, (0.0, 0, 0)), (float(own.max()), int(item["id"]), int(own.argmax())))
    return {name: (utterance, tick) for name, (_, utterance, tick) in best.items()}


def _held(weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """What a sound has over three ticks in a row."""
    return np.convolve(weights, np.ones(3) / 3, "same")


def tile(avatar: Avatar, index: int, image: Image) -> Image:
    """The lower face, TILE pixels square."""
    assert avatar.landmarks is not None
    x, y, side = mouth_square(avatar.landmarks[index]).tolist()
    scale = TILE / (AROUND * side)
    matrix = np.array([[scale, 0, TILE / 2 - x * scale], [0, scale, TILE / 2 - (y - 0.18 * side) * scale]])
    return np.asarray(cv2.warpAffine(image, matrix, (TILE, TILE), flags=cv2.INTER_AREA), np.uint8)


def sheet(avatars: list[Avatar], speech: Path, family: type[BaseReal], engine: Any) -> Image:
    """A row a face: at rest, then each of SHOWN."""
    chosen = most_itself(speech)
    rows = [np.hstack([_label(text) for text in ("at rest", *SHOWN)])]
    for avatar in avatars:
        tiles = [tile(avatar, 0, avatar.image(0))]
        for utterance, tick in chosen.values():
            images = list(dub(avatar, decode_audio(speech / f"{utterance:04d}.opus"), family, engine))
            tiles.append(tile(avatar, avatar.index(tick), images[tick]))
        rows.append(np.hstack(tiles))
    return np.vstack(rows)


def _label(text: str) -> Image:
    strip = np.full((28, TILE, 3), 255, np.uint8)
    return np.asarray(cv2.putText(strip, text, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 40, 40), 1, cv2.LINE_AA))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.contact_sheet", description=__doc__.splitlines()[0])
    parser.add_argument("avatar_id", nargs="+")
    parser.add_argument("--avatars", type=Path, default=Path("data/avatars"))
    parser.add_argument("--speech", type=Path, required=True, help="folder of the speech set")
    parser.add_argument("--model", default="wav2lip")
    parser.add_argument("--modelfile", default="", help="checkpoint; by default what the server would take")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    family: type[BaseReal] = ENGINES.load(options.model)
    engine = family.make_engine(Settings(modelfile=options.modelfile, device="cpu"))
    avatars = [load_avatar(options.avatars, name) for name in options.avatar_id]
    cv2.imwrite(str(options.out), sheet(avatars, options.speech, family, engine), [cv2.IMWRITE_JPEG_QUALITY, 90])


if __name__ == "__main__":
    main()
