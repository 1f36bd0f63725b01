"""Faces a second of a Wav2Lip layout, alone on a device: ours, and the usual way, in one run.

    python -m scripts.bench_faces [--size 256] [--device auto] [--batches 1,2,4,8,16,32,64] [--seconds 3]

The weights are random: their values cost nothing. *Cached* asks about frames that were seen before, as a session does
from its second round on; *uncached* about frames that are new each time. *The usual way* is what servers of this kind
do: the whole network in float32, run eagerly on batches of 16, faces and answers as arrays through the host.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from core.avatar import Avatar
from core.frames import Frames
from core.media import FaceJob
from lipreal import LipEngine
from nets.wav2lip import PUBLISHED, Wav2Lip

USUAL_BATCH = 16
AVATAR_FRAMES = 64


def somebody(images: NDArray[np.uint8]) -> Avatar:
    """An avatar nobody has seen, whose face fills its pictures (n, size, size, 3)."""
    size = images.shape[1]
    return Avatar("somebody", Frames.of(images), np.tile(np.array([0, 0, size, size], np.int32), (len(images), 1)))


def noise(frames: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (frames, size, size, 3), np.uint8)


def jobs(avatar: Avatar, n: int) -> list[FaceJob]:
    sounds = np.random.default_rng(0).uniform(-4, 4, (n, 80, 16)).astype(np.float32)
    return [FaceJob(0, i, sounds[i], avatar, i % len(avatar.boxes), 0.0) for i in range(n)]


def per_second(run: Callable[[], object], faces: int, seconds: float) -> float:
    """Faces a second of `run`, which makes so many, after two that do not count."""
    for _ in range(2):
        run()
    start, done = time.perf_counter(), 0
    while (took := time.perf_counter() - start) < seconds or not done:
        run()
        done += faces
    return done / took


def cached(engine: LipEngine, size: int, batch: int, seconds: float) -> float:
    asked = jobs(somebody(noise(min(batch, AVATAR_FRAMES), size)), batch)
    return per_second(lambda: engine.infer(asked), batch, seconds)


def uncached(engine: LipEngine, size: int, batch: int, seconds: float) -> float:
    images = noise(batch, size)
    return per_second(lambda: engine.infer(jobs(somebody(images), batch)), batch, seconds)


def usual(net: Wav2Lip, size: int, device: str, seconds: float) -> float:
    faces = np.random.default_rng(0).uniform(0, 1, (USUAL_BATCH, size, size, 6)).astype(np.float32)
    sounds = np.random.default_rng(0).uniform(-4, 4, (USUAL_BATCH, 80, 16, 1)).astype(np.float32)

    def run() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        face = torch.from_numpy(faces.transpose(0, 3, 1, 2).copy()).to(device)
        sound = torch.from_numpy(sounds.transpose(0, 3, 1, 2).copy()).to(device)
        with torch.no_grad():
            made = net(sound, face)
        shown: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = made.cpu().numpy().transpose(0, 2, 3, 1) * 255.0
        return shown

    return per_second(run, USUAL_BATCH, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench_faces", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, choices=sorted(PUBLISHED), default=256)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batches", default="1,2,4,8,16,32,64", help="sizes of batches, with commas")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    options = parser.parse_args()
    layout = PUBLISHED[options.size]
    engine = LipEngine(Wav2Lip(layout), options.device)
    net = Wav2Lip(layout).eval().to(engine.device)
    name = torch.cuda.get_device_name() if engine.device == "cuda" else "one thread of a CPU"
    told = sys.stdout.write
    reference = usual(net, options.size, engine.device, options.seconds)
    told(f"{options.size} on {name}, {engine.dtype}; the usual way: {reference:.1f} faces/s\n\n")
    told("| batch | cached | uncached | cached over the usual way |\n|---|---|---|---|\n")
    for batch in map(int, options.batches.split(",")):
        quick, slow = (measure(engine, options.size, batch, options.seconds) for measure in (cached, uncached))
        told(f"| {batch} | {quick:.1f} | {slow:.1f} | {quick / reference:.1f} |\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
