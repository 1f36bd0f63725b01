"""Has what the speech set says said again by other voices: blends of a model's, of which there is no end.

    python -m scripts.presenter.more_speech --speech DIR --kokoro models/kokoro --out DIR [--count 700]

`out` becomes a speech set like the one in DIR: all of that, and `count` more utterances of its split `train`, in voices
that the splits `val` and `test` do not hold alone. About a third of a second of one core for each second of speech.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from core.media import Pcm
from tts.kokoro_model import QUIET, RATE_HZ, KokoroModel
from tts.phonemes import IDS

PEAK = 0.8
BIT_RATE = 24_000
FRAME_SAMPLES = RATE_HZ // 50
TEMPI = (0.78, 1.3)
MOST_VOICES = 3  # in a blend
BEFORE_MS = 20  # by so much sound that is quiet still comes before it is loud

Floats = NDArray[np.float64]


def voices(kokoro: Path, kept: set[str]) -> list[NDArray[np.float32]]:
    """Styles (510, 256) of every voice of the model but those in `kept`."""
    files = [path for path in sorted((kokoro / "voices").glob("*.bin")) if path.stem not in kept]
    return [np.fromfile(path, "<f4").reshape(-1, 256) for path in files]


def somebody(styles: Sequence[NDArray[np.float32]], rng: np.random.Generator) -> NDArray[np.float32]:
    """A voice nobody has: up to three of `styles`, mixed."""
    chosen = rng.choice(len(styles), int(rng.integers(1, MOST_VOICES + 1)), replace=False)
    shares = rng.dirichlet(np.ones(len(chosen)))
    return np.tensordot(shares, np.stack([styles[i] for i in chosen]), axes=1).astype(np.float32)


def say(
    model: KokoroModel, said: Mapping[str, Any], style: NDArray[np.float32], tempo: float
) -> tuple[Pcm, list[float]]:
    """What the set's utterance `said` says, float32 (n,) 24 kHz, and for how many ms each of its phonemes is heard."""
    numbers = [IDS[symbol] for symbol in said["phonemes"][1:-1]]
    samples, edges_ms = model.infer(numbers, style, tempo, onnxruntime.RunOptions())
    loud_ms = np.flatnonzero(np.abs(samples) > QUIET) * 1000 / RATE_HZ
    edges_ms = heard_at(edges_ms, said)
    edges_ms[1:-1] = edges_ms[1:-1].clip(loud_ms[0] - BEFORE_MS, loud_ms[-1])
    edges_ms[-2:] = loud_ms[-1], len(samples) * 1000 / RATE_HZ
    return samples * min(1.0, PEAK / float(np.abs(samples).max())), np.diff(edges_ms).round(1).tolist()


def heard_at(edges_ms: Floats, said: Mapping[str, Any]) -> Floats:
    """Where the sounds begin whose symbols begin at `edges_ms`, if they come as early as they do in `said`.

    What lasts no time there, a mark or a space, lasts none.
    """
    symbols, sounds = (np.append(0.0, np.cumsum(said[name])) for name in ("durations_ms", "aligned_ms"))
    edges = np.maximum.accumulate(edges_ms + sounds - symbols)
    for i in range(len(edges) - 2, -1, -1):
        if said["aligned_ms"][i] == 0:
            edges[i] = edges[i + 1]
    return edges


def write_opus(path: Path, samples: Pcm) -> None:
    """`samples` float32 (n,) 24 kHz as Ogg Opus."""
    whole = np.round(np.pad(samples, (0, -len(samples) % FRAME_SAMPLES)) * 32767).astype(np.int16)
    with av.open(str(path), "w", format="ogg") as file:
        stream: AudioStream = file.add_stream("libopus", rate=RATE_HZ, layout="mono")
        stream.bit_rate = BIT_RATE
        for start in range(0, len(whole), FRAME_SAMPLES):
            frame = av.AudioFrame.from_ndarray(whole[None, start : start + FRAME_SAMPLES], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, start, Fraction(1, RATE_HZ)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.presenter.more_speech", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--kokoro", type=Path, required=True, help="what scripts/fetch_models.py brings")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} is there already")
    rng = np.random.default_rng(options.seed)
    split = json.loads((options.speech / "split.json").read_text())
    items = [json.loads(line) for line in (options.speech / "index.jsonl").read_text().splitlines()]
    learned = [item for item in items if item["id"] in set(split["train"])]
    kept = {item["voice"] for item in items} - {item["voice"] for item in learned}
    shutil.copytree(options.speech, options.out)
    model, styles = KokoroModel(options.kokoro / "kokoro.onnx"), voices(options.kokoro, kept)
    first = max(int(item["id"]) for item in items) + 1
    for n in range(first, first + options.count):
        said = learned[int(rng.integers(len(learned)))]
        tempo = float(rng.uniform(*TEMPI))
        samples, aligned = say(model, said, somebody(styles, rng), tempo)
        name = f"{n:04d}"
        write_opus(options.out / f"{name}.opus", samples)
        split["train"].append(name)
        about = {"id": name, "file": f"{name}.opus", "lang": said["lang"], "voice": "blend", "speed": round(tempo, 3)}
        about |= {"text": said["text"], "phonemes": said["phonemes"], "aligned_ms": aligned}
        with (options.out / "index.jsonl").open("a") as file:
            file.write(json.dumps(about | {"sample_rate": RATE_HZ, "samples": len(samples)}, ensure_ascii=False) + "\n")
        (options.out / "split.json").write_text(json.dumps(split))
        sys.stdout.write(f"\r{n - first + 1} of {options.count}")
        sys.stdout.flush()
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
