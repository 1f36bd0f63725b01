"""An avatar says a sound, into a file, as fast as the machine can.

    python -m studio.dub AVATAR_ID SOUND OUT.mp4 [--model auto] [--modelfile FILE] [--avatars data/avatars]

The same windows, engine and paste-back as a live session, without a clock.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from basereal import ENGINES, BaseReal
from core.audio import decode_audio, to_int16
from core.avatar import Avatar, load_avatar
from core.config import Settings
from core.errors import VivaceError
from core.media import FPS, SAMPLE_RATE, TICK_SAMPLES, Engine, FaceJob, Image, Pcm

VOICE_RATE = 48_000
CRF = 16


def dub(avatar: Avatar, pcm: Pcm, family: type[BaseReal], engine: Engine) -> Iterator[Image]:
    """The pictures of `avatar` saying `pcm` ((n,) float32, 16 kHz), uint8 (H, W, 3) BGR, one a tick. Blocking."""
    features = family.make_features(engine)
    whole = np.pad(pcm, (0, -len(pcm) % TICK_SAMPLES))
    windows = [*features.push(whole), *features.finish()]
    jobs = [FaceJob(0, tick, window, avatar, avatar.index(tick), np.inf) for tick, window in enumerate(windows)]
    for start in range(0, len(jobs), engine.max_batch):
        for face in engine.infer(jobs[start : start + engine.max_batch]):
            yield family.paste(face)


def write_film(path: Path, images: Iterable[Image], pcm: Pcm, size: tuple[int, int]) -> int:
    """Write pictures at 25 a second with their sound as mp4 (H.264, AAC); how many there were. Blocking."""
    count = 0
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"crf": str(CRF), "preset": "medium"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio = container.add_stream("aac", rate=VOICE_RATE)
        audio.bit_rate, audio.layout = 96_000, "mono"
        resampler = av.AudioResampler("fltp", "mono", VOICE_RATE, frame_size=1024)
        for image in images:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
            piece = pcm[count * TICK_SAMPLES : (count + 1) * TICK_SAMPLES]
            frame = av.AudioFrame.from_ndarray(
                to_int16(np.pad(piece, (0, TICK_SAMPLES - len(piece))))[None], "s16", "mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, count * TICK_SAMPLES, Fraction(1, SAMPLE_RATE)
            for sound in resampler.resample(frame):
                container.mux(audio.encode(sound))
            count += 1
        for sound in resampler.resample(None):
            container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
        container.mux(video.encode(None))
    return count


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m studio.dub", description=__doc__.splitlines()[0])
    parser.add_argument("avatar_id")
    parser.add_argument("sound", type=Path, help="any file with sound")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="wav2lip", help="engine: " + ", ".join(ENGINES.names()))
    parser.add_argument("--modelfile", default="", help="checkpoint of the engine")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--avatars", type=Path, default=Path("data/avatars"))
    options = parser.parse_args()
    try:
        family: type[BaseReal] = ENGINES.load(options.model)
        engine = family.make_engine(Settings(modelfile=options.modelfile, device=options.device))
        avatar, pcm = load_avatar(options.avatars, options.avatar_id), decode_audio(options.sound)
        ticks = write_film(options.out, dub(avatar, pcm, family, engine), pcm, avatar.size)
    except VivaceError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{options.out}: {ticks / FPS:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
