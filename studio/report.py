"""The report card of a film: what is good enough for an avatar, what is not, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Literal

import numpy as np

from core.avatar import OVAL, Loop
from core.media import FPS
from studio.looks import Flags, Looks, parted, yaw_deg
from studio.tracks import Landmarks

Level = Literal["ok", "warn", "refuse"]
TURNED_DEG = 30
PARTED = 0.05  # between the lips, in widths of the mouth: closed ones are below 0.02, a vowel is at 0.2
MAX_RANGES = 8


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the card: beyond `warn` it warns, beyond `refuse` no avatar is made.

    Where `refuse` is less than `warn`, what is low is bad.
    """

    name: str
    unit: Literal["share", "px", "s", "grey", "contrast", "count", "flag"]
    warn: float
    refuse: float
    en: str
    zh: str

    def level(self, value: float) -> Level:
        sign = 1 if self.refuse > self.warn else -1
        if sign * value > sign * self.refuse:
            return "refuse"
        return "warn" if sign * value > sign * self.warn else "ok"


CHECKS = (
    Check(
        "no_face", "share", 0.02, 0.5,
        "Look into the camera all the time, come close enough, and keep hands and microphone away from the face.",
        "请始终面向镜头，离镜头近一些，手和话筒不要挡住脸。",
    ),
    Check(
        "several_faces", "share", 0.02, 0.8,
        "Film one person alone: nobody behind, no poster and no mirror with a face.",
        "画面里只能有一个人：身后不要有人，也不要有带人脸的海报或镜子。",
    ),
    Check(
        "mouth_open", "share", 0.15, inf,
        "Keep the lips closed and relaxed and do not speak: an open mouth shows whenever the avatar is silent.",
        "拍摄时请自然闭嘴、不要说话：张着的嘴会在数字人安静时露出来。",
    ),
    Check(
        "turned", "share", 0.05, 0.5,
        "Turn the head less than 30 degrees away from the camera.",
        "头部偏离镜头请不要超过 30 度。",
    ),
    Check(
        "cut_off", "share", 0.02, 0.5,
        "Keep the whole face in the picture, with a hand's breadth of room around it.",
        "请让整张脸都在画面内，四周至少留一掌宽的空间。",
    ),
    Check(
        "small", "px", 120, 32,
        "Come closer or film in a higher resolution: the face should be at least 120 pixels wide, better 250.",
        "请靠近镜头或提高分辨率：脸宽至少 120 像素，最好 250 像素以上。",
    ),
    Check(
        "blurred", "contrast", 0.12, -inf,
        "Wipe the lens, stand the phone on something firm, and tap on the face so that it is in focus.",
        "请擦净镜头，把手机固定好，并点按脸部对焦。",
    ),
    Check(
        "dark", "grey", 60, 20,
        "Bring light to the face: sit facing a window or a lamp.",
        "请给脸部补光：面向窗户或台灯而坐。",
    ),
    Check(
        "bright", "grey", 215, 245,
        "Take light from the face: no direct sun, no lamp close by, and lower the exposure.",
        "脸部过亮：避开直射阳光和近处的灯，并降低曝光。",
    ),
    Check(
        "hdr", "flag", 0, inf,
        "Switch HDR video off in the camera's settings: its colours turn pale here.",
        "请在相机设置里关闭 HDR 视频，否则颜色会发灰。",
    ),
    Check(
        "cuts", "count", 0, inf,
        "Film in one go: the picture jumps, and only the longest piece without a jump was used.",
        "请一镜到底：画面有跳切，只使用了其中最长的一段。",
    ),
    Check(
        "length", "s", 3, -inf,
        "Film 10 to 30 seconds: a short loop is noticed, and of a single picture the head does not move.",
        "请拍摄 10 到 30 秒：循环太短会被看出来；只有一张图片时头部不会动。",
    ),
    Check(
        "left_out", "s", 0, inf,
        "Only the beginning of the film was used: cut it to the best part yourself, or ask for more with --seconds.",
        "只使用了影片的开头：请自行剪出最好的一段，或用 --seconds 增加时长。",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check. `where`: from and until when, in seconds of the film; `advice` by language, if any."""

    check: str
    level: Level
    value: float
    unit: str
    where: tuple[tuple[float, float], ...]
    advice: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """What was found in a film of `seconds`, and which part of it, from and until when, is the avatar."""

    seconds: float
    used: tuple[float, float]
    size: tuple[int, int]
    loop: Loop
    findings: Sequence[Finding]

    @property
    def level(self) -> Level:
        """The worst level of all findings."""
        return max((finding.level for finding in self.findings), key=("ok", "warn", "refuse").index)

    @property
    def refusal(self) -> str:
        """What to do about the worst, in English; empty if nothing is refused."""
        return next((finding.advice["en"] for finding in self.findings if finding.level == "refuse"), "")

    def as_json(self) -> dict[str, Any]:
        """The report as clients get it."""
        return {"level": self.level, **asdict(self)}

    def as_text(self, language: Literal["en", "zh"] = "en") -> str:
        """The report as a person reads it: a line a check, and below it what to do."""
        lines = [f"{self.used[0]:.1f} to {self.used[1]:.1f} s of {self.seconds:.1f} s, loop: {self.loop}"]
        for finding in self.findings:
            lines.append(f"{finding.level:>6}  {finding.check:<14}{_shown(finding)}")
            lines += [f"{'':8}{finding.advice[language]}"] if finding.advice else []
        return "\n".join(lines)


def examine(looks: Looks, used: range, size: tuple[int, int], whole_s: float, *, hdr: bool) -> Report:
    """The report on a film of which the ticks `used` become the avatar; `size` (width, height) of its pictures.

    What is wrong with the face counts within `used` alone; the file's own length `whole_s` tells what was left out.
    """
    n = len(looks.found)
    seen = looks.found & np.isin(np.arange(n), used)
    flags = {"no_face": ~looks.found, "several_faces": looks.faces > 1, "cuts": looks.cuts}
    values = {name: float(flag.mean()) for name, flag in flags.items()}
    values |= {"cuts": float(looks.cuts.sum()), "hdr": float(hdr)}
    values |= {"length": len(used) / FPS, "left_out": _beyond(whole_s, n)}
    if used:
        faults = _faults(looks.landmarks, size)
        values |= {name: float(flag[seen].mean()) for name, flag in faults.items()} | _medians(looks, seen)
        flags |= {name: flag & seen for name, flag in faults.items()}
    where = {name: _ranges(flag) for name, flag in flags.items()}
    findings = [
        _finding(check, values[check.name], where.get(check.name, ())) for check in CHECKS if check.name in values
    ]
    loop: Loop = "cycle" if used and looks.joins(used) else "pingpong"
    return Report(n / FPS, (used.start / FPS, used.stop / FPS), size, loop, findings)


def _faults(landmarks: Landmarks, size: tuple[int, int]) -> dict[str, Flags]:
    """What is wrong with the face at each tick; nothing where there is none."""
    oval = landmarks[:, OVAL]
    outside = (oval < 0) | (oval > np.array(size))
    return {
        "mouth_open": parted(landmarks) > PARTED,
        "turned": np.abs(yaw_deg(landmarks)) > TURNED_DEG,
        "cut_off": np.asarray(outside.any(axis=(1, 2)), np.bool_),
    }


def _medians(looks: Looks, seen: Flags) -> dict[str, float]:
    grey = float(np.median(looks.brightness[seen]))
    width, sharpness = float(np.median(looks.width[seen])), float(np.median(looks.sharpness[seen]))
    return {"small": width, "blurred": sharpness, "dark": grey, "bright": grey}


def _beyond(whole_s: float, ticks: int) -> float:
    """Seconds that the file has more than was read; an odd picture at its end does not count."""
    more = whole_s - ticks / FPS
    return more if more > 1 else 0.0


def _ranges(flag: Flags) -> tuple[tuple[float, float], ...]:
    """The longest runs of `flag`, in order: from and until when, seconds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flag, [False]]).astype(np.int8)))
    runs = sorted(edges.reshape(-1, 2).tolist(), key=lambda run: run[0] - run[1])[:MAX_RANGES]
    return tuple((start / FPS, stop / FPS) for start, stop in sorted(runs))


def _finding(check: Check, value: float, where: tuple[tuple[float, float], ...]) -> Finding:
    level = check.level(value)
    advice = {} if level == "ok" else {"en": check.en, "zh": check.zh}
    return Finding(check.name, level, round(value, 3), check.unit, where, advice)


def _shown(finding: Finding) -> str:
    if finding.unit == "share":
        return f"{finding.value:.0%}"
    if finding.unit == "flag":
        return "yes" if finding.value else "no"
    return f"{finding.value:.3g}" if finding.unit == "count" else f"{finding.value:.3g} {finding.unit}"
