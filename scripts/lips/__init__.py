"""The meter of lips: `measure(video, landmarker=...)` gives a `Report`."""

from scripts.lips.meter import measure
from scripts.lips.report import Report

__all__ = ["Report", "measure"]
