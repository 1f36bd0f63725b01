"""Everything that can be measured of the lips in a video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from core.errors import BadMedia
from core.media import Image
from scripts.lips.likeness import landmark_distance, psnr, squared_error, ssim
from scripts.lips.look import Landmarker, Look, look
from scripts.lips.pictures import pictures
from scripts.lips.quality import flicker, inside
from scripts.lips.report import Report
from scripts.lips.seam import median
from scripts.lips.second import Judge, judged
from scripts.lips.sound import Sound, read_sound, silent
from scripts.lips.sync import alike, sync
from scripts.lips.tracks import Box, Track, mouth_box

CLOSED = 0.04  # between the eyes' distances: 2.5 mm of an adult's face
NEAR_S = 0.021  # a picture of the reference further off in time is another one


def measure(
    video: Path,
    *,
    landmarker: Landmarker,
    reference: Path | None = None,
    sound: Path | None = None,
    box: Box | None = None,
    align: bool = False,
    judge: Judge | None = None,
) -> Report:
    """The report on `video`: its own sound is taken, or `sound`, which begins with the first picture.

    `reference` shows what the mouth should look like; both begin together, or with `align` where their mouths match
    best, at most 0.4 s off. `box` is the pasted region if it is known and stands still, else it is estimated.
    Blocking, about 20 ms a picture, and as much for the reference. BadMedia if there are fewer than two pictures, no
    face, or no sound.
    """
    seen = look(pictures(video), landmarker, box)
    heard = _heard(video, sound, seen.track)
    report = _alone(seen, heard)
    if reference:
        report = _against(report, video, seen, reference, look(pictures(reference), landmarker, box), align=align)
    if judge:
        offset_ms, confidence = judged(judge, pictures(video), seen.track, heard)
        report = replace(report, second_offset_ms=offset_ms, second_confidence=confidence)
    return report


def closed_on_silence(track: Track, sound: Sound) -> float | None:
    """The share of the silent pictures with a face in which the lips are closed; None if there is no such picture."""
    quiet = track.seen & silent(sound.speech(), track.times)
    return float((track.opening[quiet] < CLOSED).mean()) if quiet.any() else None


def _heard(video: Path, sound: Path | None, track: Track) -> Sound:
    if sound is None:
        return read_sound(video)
    return replace(read_sound(sound), start_s=float(track.times[0]))


def _alone(seen: Look, heard: Sound) -> Report:
    track, fit = seen.track, sync(seen.track, heard)
    return Report(
        pictures=len(track.times),
        seconds=float(track.times[-1] - track.times[0]),
        face_found=float(track.seen.mean()),
        offset_ms=fit.offset_ms,
        correlation=fit.correlation,
        correlation_as_is=fit.correlation_as_is,
        confidence=fit.confidence,
        closed_on_silence=closed_on_silence(track, heard),
        seam=median(seen.seams),
        sharpness=median(seen.sharpness),
        flicker=flicker(seen.changes),
    )


def _against(report: Report, video: Path, seen: Look, reference: Path, wanted: Look, *, align: bool) -> Report:
    fit = alike((seen.track, wanted.track))
    pairs = _pairs(seen.track, wanted.track, (fit.offset_ms or 0.0) / 1000 if align else 0.0)
    if not pairs:
        raise BadMedia("the video and its reference have no picture with a face at the same time")
    likes = [
        (squared_error(one, other), ssim(one, other))
        for one, other in _mouths(video, reference, pairs, wanted.track)
        if min(one.shape) > 0
    ]
    off = [landmark_distance(seen.track.points[i], wanted.track.points[j]) for i, j in pairs]
    return replace(
        report,
        seam=_over(report.seam, median(wanted.seams)),
        sharpness=_over(report.sharpness, median(wanted.sharpness)),
        late_ms=fit.offset_ms,
        alike=fit.correlation,
        lmd_percent=float(np.mean(off)),
        psnr_db=psnr(float(np.mean([error for error, _ in likes]))) if likes else None,
        ssim=float(np.mean([like for _, like in likes])) if likes else None,
    )


def _pairs(track: Track, reference: Track, shift_s: float) -> list[tuple[int, int]]:
    """The indices of pictures that show the same moment, a face in both."""
    times = track.times - track.times[0] - shift_s + reference.times[0]
    nearest = reference.nearest(times)
    same = (np.abs(reference.times[nearest] - times) <= NEAR_S) & track.seen & reference.seen[nearest]
    return [(int(i), int(nearest[i])) for i in np.flatnonzero(same)]


def _mouths(video: Path, reference: Path, pairs: list[tuple[int, int]], track: Track) -> Iterator[tuple[Image, Image]]:
    """The mouth in both pictures of each pair, where the reference has it, at the reference's size."""
    shown, wanted = enumerate(pictures(video)), enumerate(pictures(reference))
    image = other = np.empty((0, 0, 3), np.uint8)
    at = -1
    for i, j in pairs:
        image = next(picture for index, (_, picture) in shown if index == i)
        if j != at:
            other, at = next(picture for index, (_, picture) in wanted if index == j), j
        box = mouth_box(track.points[j])
        yield inside(_sized(image, other), box), inside(other, box)


def _sized(image: Image, like: Image) -> Image:
    height, width = like.shape[:2]
    return image if image.shape == like.shape else np.asarray(cv2.resize(image, (width, height)), np.uint8)


def _over(figure: float | None, reference: float | None) -> float | None:
    return figure / reference if figure is not None and reference else None
