"""Trains our own lips: the network of `our_layout`, and the SyncNet that judges it, on films of synthetic people.

    python -m studio.train_lips --films DIR --speech DIR --out DIR [--minutes 60] [--width 1.0] [--device auto]
                                [--start DIR]

Four stages share the time: what a sound does to a mouth (on all the speech there is, no pictures), what goes together
(SyncNet), what is seen between lips, then the faces. With `--start` the weights in DIR are learned on from, and its
SyncNet judges as it is. Stopped or killed, the same command goes on where the last checkpoint was. `out` gets
`metrics.jsonl`, `progress.png`, `preview.png`, `run.pt`, and at the end `vivace-lips.pth` and `vivace-sync.pth`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from math import cos, pi
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.avatar import LOWER_INNER, UPPER_INNER
from core.errors import BadRequest
from core.media import Image
from nets.checkpoints import load_wav2lip, save_wav2lip
from nets.lips import Layers, Lips, compose, framed, mouth_map, our_layout, window
from nets.syncnet import SIZE as SYNC_SIZE
from nets.syncnet import TICKS, VISEMES, SyncNet, load_syncnet
from studio.lipdata import Clip, Films, Floats, Sounds

LIPS, SYNC = "vivace-lips.pth", "vivace-sync.pth"
STAGES = {"sound": 0.25, "sync": 0.15, "paint": 0.15, "face": 0.45}  # shares of the time
SOUND_BATCH, SYNC_CLIPS, FACE_CLIPS = 128, 32, 10
PICKED, LATE_CLIPS = 2, 6  # ticks of a clip while most is to be learned; whole clips at the end
LATE = 0.3  # the share of the last stage in which whole clips are judged by SyncNet too
MEANING = 20.0  # what telling visemes counts beside telling sounds apart
LEARNING_RATE = {"sound": 2e-3, "sync": 1e-3, "paint": 4e-3, "face": 2e-3}
WEIGHTS = {"picture": 1.0, "edges": 0.5, "aim": 0.05, "inside": 1.0, "shown": 0.2, "calm": 0.1, "out of sync": 0.04}
AIMING = 0.05  # what a pixel beside the aim counts, where there are no pictures
FAR = 4.0  # pixels beside the aim from which on each counts the same; below, the mean is learned, not the median
HEARD = -3.9  # of a mel column: below it there is nothing to be coloured
KEEP = 0.995  # of the averaged weights, a step
SAVE_EVERY_S = 120
LOG_EVERY_S = 30
LOOK_CLIPS = 40
CPU_WIDTH = 0.75  # of a network that a CPU has to learn by itself


@dataclass
class Run:
    """Everything one training has: networks, time used, and where it writes."""

    out: Path
    device: torch.device
    minutes: float
    lips: Lips
    averaged: Lips
    reader: nn.Linear  # from what the audio encoder says to weights of visemes
    sync: SyncNet
    train: Films
    val: Films
    stage: str = "sound"
    used_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    steps: int = 0

    def left(self, stage: str) -> float:
        """1 at the stage's start, 0 when its time is used."""
        return max(0.0, 1 - self.used_s[stage] / (60 * self.minutes * STAGES[stage]))

    def modules(self) -> dict[str, nn.Module]:
        return {"lips": self.lips, "averaged": self.averaged, "reader": self.reader, "sync": self.sync}

    def save(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Write the checkpoint; it appears whole."""
        state: dict[str, Any] = {name: module.state_dict() for name, module in self.modules().items()}
        state |= {"used_s": self.used_s, "steps": self.steps, "stage": self.stage}
        state["optimizer"] = optimizer.state_dict() if optimizer else None
        part = self.out / "run.part"
        torch.save(state, part)
        part.replace(self.out / "run.pt")

    def resume(self) -> dict[str, Any] | None:
        """Go on from the checkpoint, if there is one; the optimizer's state of the stage it was in."""
        path = self.out / "run.pt"
        if not path.exists():
            return None
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name, module in self.modules().items():
            module.load_state_dict(state[name])
        self.used_s, self.steps, self.stage = state["used_s"], state["steps"], state["stage"]
        done = sum(self.used_s.values()) / 60
        sys.stdout.write(f"going on in {self.out}, where {done:.1f} of {self.minutes:g} minutes are done\n")
        sys.stdout.flush()
        optimizer: dict[str, Any] | None = state["optimizer"]
        return optimizer

    def log(self, **figures: float | str) -> None:
        line = {"stage": self.stage, "step": self.steps, "minute": round(sum(self.used_s.values()) / 60, 2), **figures}
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        sys.stdout.write(
            " ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()) + "\n"
        )
        sys.stdout.flush()


Step = Callable[[], dict[str, float]]
Groups = list[dict[str, Any]]  # parameters, and their share of the stage's learning rate


def train(run: Run) -> None:
    """All stages that have time left, from the checkpoint on."""
    state = run.resume()
    stages: dict[str, Callable[[Run], tuple[Groups, Step]]] = {
        "sound": sound_stage,
        "sync": sync_stage,
        "paint": paint_stage,
        "face": face_stage,
    }
    for name, stage in stages.items():
        if run.left(name) <= 0:
            continue
        if run.stage != name:
            run.stage, state = name, None
        _run_stage(run, name, *stage(run), state)
        state = None


def _run_stage(run: Run, name: str, parameters: Groups, step: Step, state: dict[str, Any] | None) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE[name], weight_decay=1e-3, betas=(0.9, 0.98))
    if state:
        optimizer.load_state_dict(state)
    before = logged = saved = time.monotonic()
    means: dict[str, list[float]] = {}
    while (left := run.left(name)) > 0:
        warm = min(1.0, (1 - left) * 40 + 0.02)
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * LEARNING_RATE[name] * warm * (0.5 - 0.5 * cos(pi * left)) + 1e-5
        figures = step()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        now = time.monotonic()
        run.used_s[name] += now - before
        run.steps, before = run.steps + 1, now
        for key, value in figures.items():
            means.setdefault(key, []).append(value)
        if now - logged > LOG_EVERY_S:
            run.log(**_means(means))
            means, logged = {}, now
        if now - saved > SAVE_EVERY_S:
            run.save(optimizer)
            look(run, name)
            saved = before = logged = time.monotonic()
    run.log(**_means(means))
    run.save()
    look(run, name)


def _means(figures: dict[str, list[float]]) -> dict[str, float]:
    return {key: sum(values) / len(values) for key, values in figures.items()}


def sound_stage(run: Run) -> tuple[Groups, Step]:
    """The audio encoder learns to say which visemes it hears, and the mover where mouths go with them."""
    run.lips.train()

    def step() -> dict[str, float]:
        hearing, aim = _hearing_loss(run, SOUND_BATCH), _aiming_loss(run, SOUND_BATCH)
        torch.autograd.backward(hearing + AIMING * aim)
        return {"hearing": hearing.item(), "aim": aim.item()}

    learning = (run.lips.audio_encoder, run.reader, run.lips.mover)
    return [{"params": [value for part in learning for value in part.parameters()], "share": 1.0}], step


def _hearing_loss(run: Run, n: int) -> Tensor:
    mels, weights = run.train.sounds.batch(n)
    with _fast(run):
        heard = run.reader(run.lips.audio_encoder(voiced(_to(run, mels))[:, None]).flatten(1))
    return F.smooth_l1_loss(heard.float(), _to(run, weights), beta=0.1)


def _aiming_loss(run: Run, n: int) -> Tensor:
    """How far, in pixels, mouths are from where the sound should bring them; no picture is looked at."""
    mels, points, wanted = run.train.moves(n)
    with _fast(run):
        sound = run.lips.audio_encoder(voiced(_to(run, mels))[:, None])
        moved = run.lips.move(sound, _to(run, points))
    off = run.train.size * (moved - _to(run, wanted - points))
    return F.smooth_l1_loss(off, torch.zeros_like(off), beta=FAR)


def sync_stage(run: Run) -> tuple[Groups, Step]:
    """SyncNet learns to tell the sound of five pictures from the same voice a little off, and from others."""
    run.sync.train()
    batches = ahead(run.train, SYNC_CLIPS)

    def step() -> dict[str, float]:
        clips = [clip for clip in next(batches) if clip.weights.any()]
        loss, meaning, right = _sync_losses(run, clips)
        mels, weights = run.train.sounds.batch(SOUND_BATCH // 2, 0, TICKS)
        with _fast(run):
            told = run.sync.shapes(run.sync.hear(_masked(_to(run, mels))[:, None]))
        meaning = meaning + F.smooth_l1_loss(told.float(), _to(run, weights), beta=0.1)
        torch.autograd.backward(loss + MEANING * meaning)
        return {"sync": loss.item(), "meaning": meaning.item(), "right": right}

    return [{"params": list(run.sync.parameters()), "share": 1.0}], step


def _sync_losses(run: Run, clips: list[Clip]) -> tuple[Tensor, Tensor, float]:
    """Cross-entropy of the right sound among those of all clips and SHIFTS of its own; how wrongly either side tells
    the visemes; and how often the right sound won.
    """
    targets = _to(run, np.stack([clip.targets for clip in clips]))
    shifted = _to(run, np.stack([clip.shifted for clip in clips]))
    weights = _to(run, np.stack([clip.weights.ravel() for clip in clips]))
    sounds = torch.cat([shifted[:, 0], shifted[:, 1:].flatten(0, 1)])
    n = len(clips)
    with _fast(run):
        seen = run.sync.see(grey(targets))
        heard = run.sync.hear((_masked(sounds) if run.sync.training else sounds)[:, None])
        told = run.sync.shapes(torch.cat([seen, heard[:n]]))
    meaning = F.smooth_l1_loss(told.float(), weights.repeat(2, 1), beta=0.1)
    seen, heard = seen.float(), heard.float()
    own = (seen[:, None] * heard[n:].reshape(n, -1, seen.shape[1])).sum(-1)
    scores = torch.cat([seen @ heard[:n].T, own], dim=1) * run.sync.sharpness.exp()
    answer = torch.arange(n, device=run.device)
    return F.cross_entropy(scores, answer), meaning, float((scores.argmax(1) == answer).float().mean())


def voiced(mels: Tensor) -> Tensor:
    """Mel windows (n, 80, 16) as other throats and microphones would give them: formants elsewhere, other tone."""

    def drawn(spread: float) -> Tensor:
        return spread * torch.randn(len(mels), 1, 1, device=mels.device)

    def anywhere(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(mels), 1, 1, device=mels.device)

    band = torch.linspace(-1, 1, 80, device=mels.device)[None, :, None].expand(mels.shape)
    column = torch.linspace(-1, 1, 16, device=mels.device)[None, None].expand(mels.shape)
    where = torch.stack((column, (band + 1) * anywhere(0.9, 1.1) - 1 + drawn(0.06)), dim=-1)
    other = F.grid_sample(mels[:, None], where, padding_mode="border", align_corners=True)[:, 0]
    tone = drawn(0.6) * band + drawn(0.4) + drawn(0.5) * torch.cos(pi * band * anywhere(1, 3) + anywhere(0, 2 * pi))
    toned = torch.where(other > HEARD, other + tone, other)
    return _masked((toned + anywhere(0, 0.2) * torch.randn_like(mels)).clamp(-4, 4))


def _masked(mels: Tensor) -> Tensor:
    """Mel windows (n, 80, 16) without a band each, so that no voice is known by one of its tones."""
    width = torch.randint(0, 20, (len(mels), 1, 1), device=mels.device)
    first = torch.randint(-10, 80, (len(mels), 1, 1), device=mels.device)
    band = torch.arange(80, device=mels.device)[None, :, None]
    return torch.where((band >= first) & (band < first + width), mels.mean(dim=(1, 2), keepdim=True), mels)


def paint_stage(run: Run) -> tuple[Groups, Step]:
    """The painter learns what is seen between lips, from where they truly are; nothing else is needed for it."""
    run.lips.eval()
    batches = ahead(run.train, FACE_CLIPS)

    def step() -> dict[str, float]:
        loss = _painting_loss(run, next(batches))
        torch.autograd.backward(loss)
        return {"inside": loss.item()}

    return [{"params": list(run.lips.painter.parameters()), "share": 1.0}], step


def _painting_loss(run: Run, clips: list[Clip]) -> Tensor:
    """How wrong the colours between the lips of `clips` are, mean over what is truly open."""
    faces = pictures(run, np.stack([clip.face for clip in clips])).repeat_interleave(TICKS, 0)
    targets = pictures(run, np.concatenate([clip.targets for clip in clips]))
    opening = window(_to(run, np.concatenate([clip.opening for clip in clips]))[:, None])
    points = _to(run, np.stack([clip.points for clip in clips]))
    rest, there = points[:, :1].expand(-1, TICKS, -1, -1).flatten(0, 1), points[:, 1:].flatten(0, 1)
    with torch.no_grad(), _fast(run):
        sound = run.lips.audio_encoder(_to(run, np.concatenate([clip.mels for clip in clips]))[:, None])
        skin = faces[:, :, faces.shape[2] // 4 : -faces.shape[2] // 4].mean(dim=(2, 3), keepdim=True)
    with _fast(run):
        mouth = mouth_map(there, faces.shape[-1])
        painted = run.lips.painter(sound, skin, mouth, rest, there).float().sigmoid()
    wrong: Tensor = (opening * (painted - window(targets)).abs()).sum() / (3 * opening.sum() + 1)
    return wrong


def face_stage(run: Run) -> tuple[Groups, Step]:
    """The whole network learns to redraw faces.

    Its ears, which can hear by now, learn slowly. A batch norm of a single pixel would see no more than a few clips:
    those keep what they start with, and at the end all do, so that what is learned last is what is used.
    """
    run.lips.train()
    lips = run.lips
    for alone in (lips.audio_encoder, lips.face_encoder_blocks[-1], *lips.face_decoder_blocks[:2]):
        alone.eval()
    rng = run.train.rng
    run.sync.eval().requires_grad_(False)
    batches = ahead(run.train, FACE_CLIPS)
    if run.used_s["face"] == 0:
        run.averaged.load_state_dict(run.lips.state_dict())

    ears = [*lips.audio_encoder.parameters(), *run.reader.parameters()]
    hand = [value for name, value in lips.named_parameters() if not name.startswith(("audio_encoder", "mover"))]

    def step() -> dict[str, float]:
        clips = next(batches)
        late = run.left("face") < LATE
        if late:
            lips.eval()
        if late and run.steps % 2:
            figures = _sync_losses_of_lips(run, clips[:LATE_CLIPS])
        else:
            clips = [clip.only(rng.choice(TICKS, PICKED, replace=False)) for clip in clips]
            figures = _face_losses(run, lips, clips, guided=True)
        hearing = _hearing_loss(run, SOUND_BATCH // 2) + AIMING * _aiming_loss(run, SOUND_BATCH // 2)
        loss = sum((WEIGHTS[name] * value for name, value in figures.items()), 0.5 * hearing)
        torch.autograd.backward(loss)
        if "out of sync" in figures:
            for value in hand:
                value.grad = None
        nn.utils.clip_grad_norm_(lips.parameters(), 1.0)
        average(run.averaged, lips)
        return {name: value.item() for name, value in figures.items()} | {"hearing": hearing.item()}

    groups = [{"params": ears, "share": 0.15}, {"params": hand, "share": 1.0}]
    return [*groups, {"params": list(lips.mover.parameters()), "share": 0.5}], step


def _sync_losses_of_lips(run: Run, clips: list[Clip]) -> dict[str, Tensor]:
    """What SyncNet says of whole clips as they will be drawn, and how far off their points are."""
    found = _face_losses(run, run.lips, clips, guided=False)
    return {name: found[name] for name in ("aim", "out of sync")}


def _face_losses(run: Run, net: Lips, clips: list[Clip], *, guided: bool) -> dict[str, Tensor]:
    """What is wrong with the pictures `net` makes of `clips`, each a mean; SyncNet judges whole ones.

    If `guided` the net is told where the mouth truly goes: what it paints there can only then be learned sharply.
    """
    ticks = len(clips[0].targets)
    faces = pictures(run, np.stack([clip.face for clip in clips]))
    targets = pictures(run, np.concatenate([clip.targets for clip in clips]))
    mels = _to(run, np.concatenate([clip.mels for clip in clips]))
    points = _to(run, np.stack([clip.points for clip in clips]))
    opening = window(_to(run, np.concatenate([clip.opening for clip in clips]))[:, None])
    with _fast(run):
        noisy = faces + 0.03 * torch.rand(len(faces), 1, 1, 1, device=run.device) * torch.randn_like(faces)
        told = points[:, 0] + (0.005 * torch.randn_like(points[:, 0]) if net.training else 0)
        known = net.identity(noisy if net.training else faces, told)
        identity = [feature.repeat_interleave(ticks, 0) for feature in known]
        sound = net.audio_encoder(mels[:, None])
        truly = (points[:, 1:] - points[:, :1]).flatten(0, 1)
        layers = net.draw(sound, identity, truly if guided else None)
        moved = net.move(sound, told.repeat_interleave(ticks, 0))
    made = compose(faces.repeat_interleave(ticks, 0), layers)
    matter = importance(points[:, 1:, [UPPER_INNER, LOWER_INNER]].mean(2).flatten(0, 1), faces.shape[-1])
    difference = made - targets
    painted, shown = torch.split(layers.painted, [3, 1], dim=1)
    return {
        "picture": torch.stack([(at * part.abs()).mean() for at, part in scales(matter, difference)]).sum(),
        "edges": (matter[..., 1:] * difference.diff(dim=-1).abs()).mean()
        + (matter[..., 1:, :] * difference.diff(dim=-2).abs()).mean(),
        "aim": faces.shape[-1] * (moved - truly).abs().mean(),
        "inside": (opening * (painted - window(targets)).abs()).sum() / (3 * opening.sum() + 1),
        "shown": F.binary_cross_entropy(shown.clamp(1e-4, 1 - 1e-4), opening, 1 + 4 * opening),
        "calm": layers.flow.diff(dim=-1).abs().mean() + layers.flow.diff(dim=-2).abs().mean(),
    } | ({"out of sync": out_of_sync(run, made, clips)} if ticks == TICKS else {})


def out_of_sync(run: Run, made: Tensor, clips: list[Clip]) -> Tensor:
    """How little SyncNet finds the pictures `made` (n * 5, 3, S, S) to go with the sound of `clips`, in [0, 2]."""
    speaking = _to(run, np.array([clip.weights.any() for clip in clips], np.float32))
    mels = _to(run, np.stack([clip.shifted[0] for clip in clips]))
    seen = run.sync.see(grey(made.reshape(-1, TICKS, *made.shape[1:]).permute(0, 1, 3, 4, 2)))
    agreement = (seen * run.sync.hear(mels[:, None])).sum(1)
    return ((1 - agreement) * speaking).sum() / speaking.sum().clamp(min=1)


def scales(matter: Tensor, difference: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The difference as it is, and two and four times smaller: what is wrong at large counts too."""
    for factor in (1, 2, 4):
        yield (F.avg_pool2d(matter, factor), F.avg_pool2d(difference, factor)) if factor > 1 else (matter, difference)


def importance(where: Tensor, size: int) -> Tensor:
    """(n, 1, S, S): 1 everywhere, 7 around `where` (n, 2), in sides of the square from its middle."""
    axis = (torch.arange(size, device=where.device) + 0.5) / size - 0.5
    x, y = (axis - where[:, :1]) / 0.22, (axis - where[:, 1:]) / 0.17
    return 1 + 6 * torch.exp(-(x[:, None, :] ** 2) - y[:, :, None] ** 2)[:, None]


def grey(squares: Tensor) -> Tensor:
    """(B, 5, 64, 64) for SyncNet, of (B, 5, S, S, 3)."""
    return F.interpolate(squares.mean(dim=-1), (SYNC_SIZE, SYNC_SIZE), mode="bilinear", antialias=True)


def average(kept: nn.Module, new: nn.Module) -> None:
    """Let `kept` follow `new` slowly; counts and running means are taken over."""
    with torch.no_grad():
        for old, value in zip(kept.parameters(), new.parameters(), strict=True):
            old.lerp_(value, 1 - KEEP)
        for count, latest in zip(kept.buffers(), new.buffers(), strict=True):
            count.copy_(latest)


def ahead(films: Films, n: int) -> Iterator[list[Clip]]:
    """Batches of `n` clips, two made ahead by a thread. Raises what went wrong there."""
    clips = films.clips()
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(_some, clips, n) for _ in range(2))
        while True:
            waiting.append(thread.submit(_some, clips, n))
            yield waiting.popleft().result()


def _some(clips: Iterator[Clip], n: int) -> list[Clip]:
    return list(islice(clips, n))


def look(run: Run, stage: str) -> None:
    """Figures of people nobody has learned from; in the last stage, their pictures."""
    clips = list(islice(run.val.clips(hard=False), LOOK_CLIPS))
    with torch.no_grad():
        if stage == "face":
            run.averaged.eval()
            figures = {
                name: float(value) for name, value in _face_losses(run, run.averaged, clips, guided=False).items()
            }
            still = np.concatenate([np.repeat(clip.face[None], TICKS, 0) - clip.targets for clip in clips])
            run.log(kind="val", **figures, frozen=float(np.abs(still).mean()))
            cv2.imwrite(str(run.out / "preview.png"), preview(run, clips[:8]))
        elif stage == "paint":
            run.log(kind="val", inside=float(_painting_loss(run, clips)))
        elif stage == "sync":
            run.sync.eval()
            loss, meaning, right = _sync_losses(run, [clip for clip in clips if clip.weights.any()])
            run.sync.train()
            run.log(kind="val", sync=float(loss), meaning=float(meaning), right=right)
        else:
            run.lips.eval()
            mels, weights = run.val.sounds.batch(500)
            heard = run.reader(run.lips.audio_encoder(_to(run, mels)[:, None]).flatten(1)).cpu().numpy()
            run.lips.train()
            explained = 1 - ((heard - weights) ** 2).sum() / ((weights - weights.mean(0)) ** 2).sum()
            run.log(kind="val", explained=float(explained))


def preview(run: Run, clips: list[Clip]) -> Image:
    """A row a clip: the face, three pictures wanted, the same made, what was painted."""
    faces = pictures(run, np.stack([clip.face for clip in clips]))
    rows = []
    for i, clip in enumerate(clips):
        made, layers = _redrawn(run, faces[i : i + 1].expand(TICKS, -1, -1, -1), clip)
        painted = framed(layers.painted[:, 3:] * layers.painted[:, :3])
        wanted = pictures(run, clip.targets)
        row = torch.cat([faces[i : i + 1], wanted[::2], made[::2], painted[::2]])
        rows.append(np.hstack(list((row.permute(0, 2, 3, 1).clamp(0, 1) * 255).byte().cpu().numpy())))
    return np.vstack(rows)


def _redrawn(run: Run, faces: Tensor, clip: Clip) -> tuple[Tensor, Layers]:
    points = _to(run, clip.points[:1]).expand(len(faces), -1, -1)
    layers: Layers = run.averaged(_to(run, clip.mels)[:, None], faces, points)
    return compose(faces, layers), layers


def pictures(run: Run, images: Floats) -> Tensor:
    """(n, 3, S, S) channels last, of (n, S, S, 3)."""
    return _to(run, images).permute(0, 3, 1, 2)


def _to(run: Run, array: Floats) -> Tensor:
    return torch.from_numpy(array).to(run.device, torch.float32)


def _fast(run: Run) -> torch.autocast:
    bf16 = run.device.type == "cuda" or bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return torch.autocast(run.device.type, torch.bfloat16, enabled=bf16)


def plot(out: Path) -> None:
    """`progress.png` of `metrics.jsonl`: figures against minutes, grey for people learned from and blue for others."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    panels = []
    for name in ("explained", "right", "picture", "edges", "out of sync", "hearing"):
        said = [line for line in lines if name in line]
        curves = [[(line["minute"], line[name]) for line in said if ("kind" in line) == val] for val in (False, True)]
        panels.append(panel(name, curves[0], curves[1]))
    cv2.imwrite(str(out / "progress.png"), np.vstack([np.hstack(panels[:3]), np.hstack(panels[3:])]))


def panel(name: str, *curves: list[tuple[float, float]]) -> Image:
    """(240, 360, 3): up to two curves from their lowest to their highest value."""
    image = np.full((240, 360, 3), 255, np.uint8)
    points = np.array([point for curve in curves for point in curve]).reshape(-1, 2)
    low, high = (points.min(0), points.max(0)) if len(points) else (np.zeros(2), np.zeros(2))
    for curve, colour in zip(curves, ((150, 150, 150), (200, 80, 0)), strict=False):
        share = (np.array(curve).reshape(-1, 2) - low) / np.maximum(high - low, 1e-9)
        where = np.round(share * [280, -160] + [60, 200]).astype(np.int32)
        cv2.polylines(image, [where], False, colour, 2, cv2.LINE_AA)
    labels = {(60, 25): name, (5, 44): f"{high[1]:.3f}", (5, 204): f"{low[1]:.3f}", (270, 228): f"{high[0]:.1f} min"}
    for place, text in labels.items():
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return image


def start(options: argparse.Namespace) -> Run:
    """Networks and data as the command line says; what a CPU cannot do in the time is made smaller, and said."""
    wish = options.device
    device = torch.device("cuda" if wish == "auto" and torch.cuda.is_available() else "cpu" if wish == "auto" else wish)
    width = options.width
    if device.type == "cpu" and width is None:
        sys.stdout.write(f"no GPU: a network of width {CPU_WIDTH} instead of 1\n")
    layout = our_layout(width or (CPU_WIDTH if device.type == "cpu" else 1.0))
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    cv2.setNumThreads(1)
    splits = {}
    for split in ("train", "val"):
        sounds = Sounds(options.speech, options.films / f"sayings_{split}.npz", rng)
        splits[split] = Films(options.films, split, sounds, layout.size, rng)
    lips, averaged = (Lips(layout).to(device).to(memory_format=torch.channels_last) for _ in range(2))  # type: ignore[call-overload]
    reader = nn.Linear(layout.audio[-1], VISEMES).to(device)
    options.out.mkdir(parents=True, exist_ok=True)
    sync = SyncNet().to(device)
    run = Run(options.out, device, options.minutes, lips, averaged, reader, sync, splits["train"], splits["val"])
    if options.start:
        _go_on_from(options.start, run)
    return run


def _go_on_from(folder: Path, run: Run) -> None:
    """The weights in `folder` instead of random ones; its SyncNet has learned enough. BadRequest if they do not fit."""
    learned = load_wav2lip(folder / LIPS)
    if learned.layout != run.lips.layout:
        raise BadRequest(f"'{LIPS}' is of another size: see --width")
    for net in (run.lips, run.averaged):
        net.load_state_dict(learned.state_dict())
    run.sync.load_state_dict(load_syncnet(folder / SYNC).state_dict())
    run.used_s["sync"] = 60 * run.minutes * STAGES["sync"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studio.train_lips", description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=Path, required=True, help="what scripts.presenter.talkers wrote")
    parser.add_argument("--speech", type=Path, required=True, help="folder of the speech set")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, metrics and at the end the weights")
    parser.add_argument("--minutes", type=float, default=60, help="of training in all, over every resumption")
    parser.add_argument("--width", type=float, help="of the network; by default 1 on a GPU, less on a CPU")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--start", type=Path, help="folder of weights to go on from, instead of from nothing")
    parser.add_argument("--seed", type=int, default=0)
    run = start(parser.parse_args())
    train(run)
    save_wav2lip(run.out / LIPS, run.averaged, name="vivace-lips", trained_minutes=f"{run.minutes:g}")
    torch.save({key: value.half() for key, value in run.sync.state_dict().items()}, run.out / SYNC)
    plot(run.out)


if __name__ == "__main__":
    main()
