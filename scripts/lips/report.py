"""What was measured, for people and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Report:
    """The figures of docs/lips-meter.md; None where nothing can be told."""

    pictures: int
    seconds: float
    face_found: float  # share of the pictures
    offset_ms: float | None  # picture - sound: positive, the mouth is late
    correlation: float | None
    correlation_as_is: float | None
    confidence: float | None
    closed_on_silence: float | None  # share of the silent pictures
    seam: float | None
    sharpness: float | None
    flicker: float | None
    late_ms: float | None = None  # against the mouth of the reference
    alike: float | None = None  # the correlation of both openings, so much later
    lmd_percent: float | None = None
    psnr_db: float | None = None
    ssim: float | None = None
    second_offset_ms: float | None = None
    second_confidence: float | None = None

    def as_json(self) -> str:
        """One JSON object, names as here; null where nothing can be told."""
        return json.dumps({name: _rounded(value) for name, value in asdict(self).items()})

    def table(self) -> str:
        """One line a figure, with its unit and which way is good."""
        rows = list(self._rows())
        name, figure = (max(len(row[column]) for row in rows) for column in (0, 1))
        return "\n".join(f"{row[0]:{name}}  {row[1]:>{figure}}  {row[2]}".rstrip() for row in rows)

    def _rows(self) -> Iterator[tuple[str, str, str]]:
        yield "pictures", str(self.pictures), f"in {self.seconds:.2f} s, a face in {self.face_found:.0%}"
        yield "offset", _text(self.offset_ms, "+.0f", " ms"), "picture - sound: positive, the mouth is late"
        yield "correlation", _text(self.correlation, ".2f"), "at that offset; real speech has 0.5 to 0.75"
        yield "correlation as is", _text(self.correlation_as_is, ".2f"), "at offset 0"
        yield "confidence", _text(self.confidence, ".1f"), "3 and more is clear, 2 is chance"
        yield "closed on silence", _text(self.closed_on_silence, ".0%"), "of silent pictures"
        yield "seam", _text(self.seam, ".2f"), "1 is none"
        yield "sharpness", _text(self.sharpness, ".2f"), "mouth over eyes; with a reference 1 is as sharp as it"
        yield "flicker", _text(self.flicker, ".2f"), "grey levels, 0 is none"
        if self.lmd_percent is not None:
            yield "behind", _text(self.late_ms, "+.0f", " ms"), "the mouth of the reference"
            yield "alike", _text(self.alike, ".2f"), "how both open: 1 is equal"
            yield "landmark distance", _text(self.lmd_percent, ".1f", " %"), "of the distance between the eyes"
            yield "PSNR", _text(self.psnr_db, ".1f", " dB"), "of the mouth"
            yield "SSIM", _text(self.ssim, ".3f"), "of the mouth, 1 is equal"
        if self.second_confidence is not None:
            yield "second offset", _text(self.second_offset_ms, "+.0f", " ms"), "by the learned meter"
            yield "second confidence", _text(self.second_confidence, ".1f"), ""


def _text(value: float | None, how: str, unit: str = "") -> str:
    return "n/a" if value is None else f"{value:{how}}{unit}"


def _rounded(value: float | None) -> float | None:
    return round(value, 4) if isinstance(value, float) and math.isfinite(value) else value
