"""Measures how well the lips in a video fit its sound, and how well they sit in the face. See docs/lips-meter.md.

python scripts/measure_lips.py VIDEO [--reference REF] [--sound WAV] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from core.errors import VivaceError
from scripts.lips import measure
from scripts.lips.second import Judge
from scripts.lips.tracks import Box
from studio.landmarks import Landmarker


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        with Landmarker(options.model) as landmarker:
            report = measure(
                options.video,
                landmarker=landmarker,
                reference=options.reference,
                sound=options.sound,
                box=options.box,
                align=options.align,
                judge=_judge(options.judge) if options.judge else None,
            )
    except VivaceError as error:
        print(json.dumps({"error": str(error)}) if options.json else error, file=None if options.json else sys.stderr)
        return 1
    print(report.as_json() if options.json else report.table())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="any video with sound: a file, or what a WebRTC peer received")
    parser.add_argument("--reference", type=Path, help="a video of what the mouth should look like")
    parser.add_argument("--align", action="store_true", help="find where the reference begins, up to 0.4 s off")
    parser.add_argument("--sound", type=Path, help="take this sound, from the first picture on, not the video's own")
    parser.add_argument("--box", type=_box, metavar="X1,Y1,X2,Y2", help="the pasted region, where it is known")
    parser.add_argument("--judge", type=Path, help="a SyncNet of ours to ask too: models/vivace-sync.pth")
    parser.add_argument("--model", type=Path, help="the face landmarker, by default models/face_landmarker.task")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser


def _judge(path: Path) -> Judge:
    from nets.syncnet import load_syncnet
    from scripts.lips.second import SyncJudge

    return SyncJudge(load_syncnet(path))


def _box(text: str) -> Box:
    x1, y1, x2, y2 = map(int, text.split(","))
    return x1, y1, x2, y2


if __name__ == "__main__":
    sys.exit(main())
