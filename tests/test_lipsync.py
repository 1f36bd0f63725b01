"""The mouth opens with the sound: measured in a recording, by the darkness between the lips."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from core.audio import decode_audio
from core.avatar import CHIN, LEFT_CORNER, NOSE_BASE, RIGHT_CORNER, load_avatar
from core.frames import Frames
from core.media import TICK_SAMPLES
from tests.fakes.live import connected, serve

PRESENTER = Path(__file__).parent.parent / "data" / "avatars" / "presenter"
SENTENCE = "Good afternoon. Please open the window, and bring me a cup of hot water."


@pytest.mark.slow
async def test_in_a_recorded_echo_the_mouth_follows_the_voice_and_is_shut_in_silence(tmp_path: Path) -> None:
    (tmp_path / "avatars").mkdir()
    await asyncio.to_thread(shutil.copytree, PRESENTER, tmp_path / "avatars" / "presenter")
    async with serve(tmp_path, avatar_id="presenter", model="still", tts="hibari") as live, connected(live) as peer:
        await live.post("/record", sessionid=peer.sessionid, type="start_record")
        await asyncio.sleep(1)
        await live.post("/human", sessionid=peer.sessionid, type="echo", text=SENTENCE)
        await asyncio.sleep(1)
        await live.house.sessions.get(peer.sessionid).until_quiet()
        await asyncio.sleep(1.5)
        await live.post("/record", sessionid=peer.sessionid, type="end_record")
    openness, loudness = await asyncio.to_thread(measure, tmp_path / "record.mp4")
    speaking = loudness > 0.02
    lags = range(-5, 6)
    correlations = [float(np.corrcoef(np.roll(openness, -lag), np.sqrt(loudness))[0, 1]) for lag in lags]
    best = int(np.argmax(correlations)) + lags[0]
    quiet = np.convolve(speaking, np.ones(9), "same") == 0
    shut = float((openness[quiet] < 0.1 * openness.max()).mean())
    print(f"correlation {correlations[5]:.2f}, best at {best * 40:+d} ms, shut in {shut:.0%} of silence")
    assert speaking.sum() > 40 and quiet.sum() > 30
    assert correlations[5] > 0.6 and abs(best) <= 1
    assert shut > 0.95


def measure(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Per tick: how much darkness there is between the lips, and the sound's RMS."""
    avatar = load_avatar(PRESENTER.parent, "presenter")
    assert avatar.mouth is not None
    mouth = avatar.mouth.mean(0)
    left, right = int(mouth[LEFT_CORNER, 0]), int(mouth[RIGHT_CORNER, 0])
    top, bottom = int(mouth[NOSE_BASE, 1]) + 8, int(mouth[CHIN, 1]) - 8

    def grey(frames: Frames) -> np.ndarray:
        return np.stack([image[top:bottom, left:right].mean(2, dtype=np.float32) for image in frames])

    shut = np.percentile(grey(avatar.frames), 0.5)
    darkness = np.clip(shut - grey(Frames.open(path)), 0, None).mean((1, 2))
    pcm = decode_audio(path)
    ticks = min(len(darkness), len(pcm) // TICK_SAMPLES)
    loudness = np.sqrt((pcm[: ticks * TICK_SAMPLES].reshape(ticks, -1) ** 2).mean(1))
    with av.open(str(path)) as file:
        assert file.streams.video[0].frames >= ticks
    return darkness[:ticks], loudness
