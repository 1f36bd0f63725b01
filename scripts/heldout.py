"""How good our lips are on people, voices and sentences that nobody learned from, where the truth is known.

    python -m scripts.heldout --films DIR --speech DIR [--modelfile FILE]

Prints a table over the films of the split `test`: each face is the one at rest, asked to say what the others say. The
opening is how far the inner lips are apart; its correlation with the truth is taken within each scene.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from core.audio import decode_audio
from core.avatar import LOWER_INNER, MEDIAPIPE, UPPER_INNER, Avatar
from core.config import Settings
from core.frames import Frames
from core.media import Engine, Image
from core.square import cut_square, mouth_square
from nets.checkpoints import load_wav2lip
from nets.lips import Lips, compose
from scripts.lips.likeness import psnr, squared_error, ssim
from stillreal import StillReal
from studio.dub import dub
from studio.lipdata import Sounds

Floats = NDArray[np.float32]

MARKS = len(MEDIAPIPE)
BOX = (slice(40, 112), slice(20, 108))  # rows and columns of the square around the mouth


@dataclass(frozen=True)
class Scene:
    """A face at rest, and n pictures of it speaking.

    `face` uint8 (S, S, 3), its mouth `at` (8, 2); `pictures` uint8 (n, S, S, 3), `points` (n, 8, 2), `mels`
    (n, 80, 16). `whole` is the picture the face is cut from with its landmarks (10, 2); what is said is the
    `utterance` from tick `first` on.
    """

    face: Image
    at: Floats
    pictures: NDArray[np.uint8]
    points: Floats
    mels: Floats
    whole: Image
    marks: Floats
    utterance: int
    first: int


def scenes(films: Path, sounds: Sounds, size: int) -> Iterator[Scene]:
    """Every scene of the films of the split `test`."""
    for path in sorted(films.glob("test_????.npz")):
        person = dict(np.load(path))
        for number in range(person["scene"].max() + 1):
            shown = np.flatnonzero(person["scene"] == number)
            x, y, side = mouth_square(person["landmarks"][shown[0]]).tolist()
            squares = np.stack([cut_square(person["images"][i], (x, y, side), size) for i in shown])
            points = (person["landmarks"][shown, :8] - [x, y]) / side
            said = [i for i, n in enumerate(shown) if person["tick"][n] >= 0]
            mels = [sounds.window(int(person["utterance"][n]), int(person["tick"][n]), 0) for n in shown[said]]
            yield Scene(
                squares[0],
                points[0].astype(np.float32),
                squares[said],
                points[said],
                np.stack(mels),
                person["images"][shown[0]],
                person["landmarks"][shown[0]],
                int(person["utterance"][shown[said[0]]]),
                int(person["tick"][shown[said[0]]]),
            )


def spoken(net: Lips, scene: Scene, mels: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """The pictures of `scene`'s face saying `mels`, and where its mouth's points are then."""
    face = torch.from_numpy(scene.face.astype(np.float32) / 255).permute(2, 0, 1)[None].expand(len(mels), -1, -1, -1)
    at = torch.from_numpy(scene.at)[None].expand(len(mels), -1, -1)
    with torch.inference_mode():
        sound = net.audio_encoder(torch.from_numpy(mels)[:, None])
        made = compose(face, net.draw(sound, net.identity(face, at)))
        points = at + net.move(sound, at)
    return (made.permute(0, 2, 3, 1) * 255 + 0.5).clamp(0, 255).byte().numpy(), points.numpy()


def warped(engine: Engine, speech: Path, scene: Scene) -> tuple[NDArray[np.uint8], Floats]:
    """The pictures of `scene`'s face as the warping engine has it speak; where its points are, nobody says: NaN."""
    landmarks = np.zeros((1, MARKS, 2), np.float32)
    landmarks[0, : len(scene.marks)] = scene.marks
    box = np.array([[0, 0, *scene.whole.shape[1::-1]]], np.int32)
    avatar = Avatar("somebody", Frames.of(scene.whole[None]), box, landmarks)
    pcm = decode_audio(speech / f"{scene.utterance:04d}.opus")
    images = islice(dub(avatar, pcm, StillReal, engine), scene.first, scene.first + len(scene.pictures))
    x, y, side = mouth_square(scene.marks).tolist()
    made = np.stack([cut_square(image, (x, y, side), len(scene.face)) for image in images])
    return made, np.full((len(made), *scene.at.shape), np.nan, np.float32)


def figures(scene: Scene, pictures: NDArray[np.uint8], points: Floats, size: int) -> tuple[float, float, float, float]:
    """Distance of the points in pixels, mean squared error and SSIM of the mouth, correlation of the opening."""
    pairs = [(one[BOX], other[BOX]) for one, other in zip(pictures, scene.pictures, strict=True)]
    off = float(np.linalg.norm(points - scene.points, axis=-1).mean() * size)
    ours, true = _opening(points), _opening(scene.points)
    agree = float(np.corrcoef(ours, true)[0, 1]) if min(ours.std(), true.std()) > 1e-4 else 0.0
    return off, float(np.mean([squared_error(*p) for p in pairs])), float(np.mean([ssim(*p) for p in pairs])), agree


def _opening(points: Floats) -> Floats:
    return np.asarray(np.linalg.norm(points[:, LOWER_INNER] - points[:, UPPER_INNER], axis=-1), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.heldout", description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=Path, required=True, help="what scripts.presenter.talkers wrote")
    parser.add_argument("--speech", type=Path, required=True, help="folder of the speech set")
    parser.add_argument("--modelfile", type=Path, default=Path("models/vivace-lips.pth"))
    options = parser.parse_args()
    net = load_wav2lip(options.modelfile)
    assert isinstance(net, Lips)
    size = net.layout.size
    sounds = Sounds(options.speech, options.films / "sayings_test.npz", np.random.default_rng(0))
    still = StillReal.make_engine(Settings())
    known = list(scenes(options.films, sounds, size))
    others = [*known[4:], *known[:4]]
    ways: dict[str, Callable[[Scene, Scene], tuple[NDArray[np.uint8], Floats]]] = {
        "frozen mouth": lambda scene, _: (
            np.repeat(scene.face[None], len(scene.pictures), 0),
            np.repeat(scene.at[None], len(scene.pictures), 0),
        ),
        "our network": lambda scene, _: spoken(net, scene, scene.mels),
        "its other sound": lambda scene, other: spoken(net, scene, np.resize(other.mels, scene.mels.shape)),
        "warping (still)": lambda scene, _: warped(still, options.speech, scene),
    }
    print("| way | LMD px | PSNR dB | SSIM | correlation of the opening |\n|---|---|---|---|---|")
    for way, make in ways.items():
        rows = [figures(scene, *make(scene, other), size) for scene, other in zip(known, others, strict=True)]
        off, error, like, agree = np.mean(rows, axis=0)
        moved = "n/a | " if np.isnan(off) else f"{off:.2f} | "
        told = "n/a" if np.isnan(off) else f"{agree:.2f}"
        print(f"| {way} | {moved}{psnr(float(error)):.1f} | {like:.3f} | {told} |")


if __name__ == "__main__":
    main()
