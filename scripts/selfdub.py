"""How good our lips are: clips of people are given a frozen mouth, then made to say what they said, and compared.

    python -m scripts.selfdub --landmarker FILE --out DIR [--modelfile FILE] CLIP [CLIP ...]

Prints a table of `scripts.lips` figures: the real clip, the frozen mouth that everything else starts from (so that no
network ever sees the mouth it is to draw), our network, the same with another clip's sound, and the warping engine.
Then each way once more, all clips in a row: what is too short to tell alone is told by all together.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from basereal import ENGINES, BaseReal
from core.avatar import LOWER_INNER, UPPER_INNER, Avatar, load_avatar, save_avatar
from core.config import Settings
from core.media import SAMPLE_RATE, Image, Pcm
from core.square import mouth_square
from scripts.lips import Report, measure
from scripts.lips.look import look
from scripts.lips.pictures import pictures
from scripts.lips.sound import read_sound
from scripts.lips.sync import alike, sync
from scripts.lips.truth import in_a_row
from studio.dub import dub, write_film
from studio.landmarks import Landmarker

FILE_NAME = str.maketrans(" ", "-", "()")
MOUTH_ROWS = 8  # of the landmarks: `Avatar.mouth`
HEADS = (
    "offset ms",
    "correlation",
    "as is",
    "confidence",
    "behind ms",
    "alike",
    "LMD %",
    "PSNR dB",
    "SSIM",
    "sharpness",
    "seam",
    "flicker",
)


def frozen(avatar: Avatar) -> tuple[Iterator[Image], NDArray[np.float32]]:
    """The frames of `avatar` with the mouth of the one whose lips are closest together in all of them; the landmarks
    that go with them: nothing tells where the mouth truly was.
    """
    assert avatar.landmarks is not None
    gap = np.linalg.norm(avatar.landmarks[:, LOWER_INNER] - avatar.landmarks[:, UPPER_INNER], axis=1)
    still = int(gap.argmin())
    squares = [mouth_square(each).tolist() for each in avatar.landmarks]
    x0, y0, side0 = squares[still]
    mouth = (avatar.landmarks[still, :MOUTH_ROWS] - [x0, y0]) / side0
    landmarks = avatar.landmarks.copy()
    landmarks[:, :MOUTH_ROWS] = [side * mouth + [x, y] for x, y, side in squares]
    return (_frozen(avatar, i, still, squares) for i in range(len(avatar.frames))), landmarks


def _frozen(avatar: Avatar, i: int, still: int, squares: list[list[float]]) -> Image:
    (x, y, side), (x0, y0, side0) = squares[i], squares[still]
    frame, scale = avatar.image(i), side / side0
    moved = np.array([[scale, 0, x - x0 * scale], [0, scale, y - y0 * scale]])
    mouth = cv2.warpAffine(avatar.image(still), moved, avatar.size, flags=cv2.INTER_CUBIC)
    rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]]
    away = np.hypot((columns - x) / (0.40 * side), (rows - y - 0.06 * side) / (0.44 * side))
    mask = np.clip((1 - away) / 0.25, 0, 1)[..., None]
    return np.asarray(mask * mouth + (1 - mask) * frame + 0.5, np.uint8)


def make_avatar(clip: Path, avatars: Path, model: Path) -> Avatar:
    """The avatar of a clip, and beside it, what is returned: the same with a frozen mouth."""
    command = [sys.executable, "-m", "studio.make_avatar", str(clip), "--avatar_id", clip.stem, "--replace"]
    subprocess.run([*command, "--avatars", str(avatars), "--model", str(model)], check=True, capture_output=True)
    whole = load_avatar(avatars, clip.stem)
    name = f"{clip.stem}-frozen"
    pictures, landmarks = frozen(whole)
    save_avatar(avatars, name, pictures, whole.boxes, landmarks, crf=8, replace=True)
    return load_avatar(avatars, name)


def heard(clip: Path) -> Pcm:
    """The sound of a clip from its first picture on."""
    sound = read_sound(clip)
    first, _ = next(iter(pictures(clip)))
    late = round((sound.start_s - first) * SAMPLE_RATE)
    return np.pad(sound.pcm, (max(0, late), 0))[max(0, -late) :]


def films(clips: list[Path], out: Path, model: Path, modelfile: str) -> Iterator[tuple[Path, str, Path]]:
    """Clip, way and film for every clip and way of dubbing it."""
    engines = {}
    for name in ("wav2lip", "still"):
        family: type[BaseReal] = ENGINES.load(name)
        engines[name] = (
            family,
            family.make_engine(Settings(modelfile=modelfile if name == "wav2lip" else "", device="cpu")),
        )
    sounds = {clip: heard(clip) for clip in clips}
    for clip, other in zip(clips, [*clips[1:], clips[0]], strict=True):
        avatar = make_avatar(clip, out / "avatars", model)
        ways: dict[str, tuple[Iterator[Image], Pcm]] = {
            "frozen mouth": ((avatar.image(i) for i in range(len(avatar.frames))), sounds[clip]),
            "our network": (dub(avatar, sounds[clip], *engines["wav2lip"]), sounds[clip]),
            "its other sound": (dub(avatar, sounds[other], *engines["wav2lip"]), sounds[clip]),
            "warping (still)": (dub(avatar, sounds[clip], *engines["still"]), sounds[clip]),
        }
        yield clip, "real", clip
        for way, (images, pcm) in ways.items():
            path = out / f"{clip.stem}-{way.translate(FILE_NAME)}.mp4"
            write_film(path, images, pcm, avatar.size)
            yield clip, way, path


def row(report: Report) -> list[str]:
    """The figures of HEADS."""
    figures = (
        *(report.offset_ms, report.correlation, report.correlation_as_is, report.confidence),
        *(report.late_ms, report.alike),
        *(report.lmd_percent, report.psnr_db, report.ssim),
        *(report.sharpness, report.seam, report.flicker),
    )
    return ["n/a" if figure is None else f"{figure:.2f}" for figure in figures]


def together(measured: list[tuple[Path, Path, Report]], landmarker: Landmarker) -> Report:
    """The mean of the reports on some clips' films; what is compared in time is so in all of them in a row."""

    clips, films = (
        [(path.stem, look(pictures(path), landmarker).track, read_sound(path)) for path in paths]
        for paths in ([clip for clip, _, _ in measured], [film for _, film, _ in measured])
    )
    reports, fit = [report for _, _, report in measured], sync(*in_a_row(films))
    real = alike(*((film, clip) for (_, film, _), (_, clip, _) in zip(films, clips, strict=True)))
    return replace(
        reports[0],
        offset_ms=fit.offset_ms,
        correlation=fit.correlation,
        correlation_as_is=fit.correlation_as_is,
        confidence=fit.confidence,
        late_ms=real.offset_ms,
        alike=real.correlation,
        lmd_percent=_mean([report.lmd_percent for report in reports]),
        psnr_db=_mean([report.psnr_db for report in reports]),
        ssim=_mean([report.ssim for report in reports]),
        sharpness=_mean([report.sharpness for report in reports]),
        seam=_mean([report.seam for report in reports]),
        flicker=_mean([report.flicker for report in reports]),
    )


def _mean(figures: list[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return float(np.mean(known)) if known else None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.selfdub", description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--landmarker", type=Path, required=True, help="face_landmarker.task")
    parser.add_argument("--modelfile", default="", help="checkpoint; by default what the server would take")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"| clip | way | {' | '.join(HEADS)} |\n|{'---|' * (len(HEADS) + 2)}")
    ways: dict[str, list[tuple[Path, Path, Report]]] = {}
    with Landmarker(options.landmarker) as landmarker:
        for clip, way, film in films(options.clips, options.out, options.landmarker, options.modelfile):
            reference = None if film == clip else clip
            report = measure(film, landmarker=landmarker, reference=reference)
            print(f"| {clip.stem} | {way} | {' | '.join(row(report))} |", flush=True)
            ways.setdefault(way, []).append((clip, film, report))
        for way, measured in ways.items():
            print(f"| all in a row | {way} | {' | '.join(row(together(measured, landmarker)))} |", flush=True)
    shutil.rmtree(options.out / "avatars")


if __name__ == "__main__":
    main()
