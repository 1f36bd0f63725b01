"""The server that `scripts/bench.py` measures: the real one, with a voice whose first sound is timed.

Prints one JSON line when it serves (`{"port": …}`) and one for each first piece of speech (`{"spoke": monotonic s}`).
`--aiortc_encoder` leaves the encoding to aiortc, for comparison; `--flash` draws a flash with each beep; `--listen`
understands microphones at once, and answers in a voice of constant level.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence

import aioice.ice
import av
import numpy as np
import psutil
from aiohttp import web

import app
import asrreal
import basereal
import ttsreal
import webrtc
from asrreal import BaseASR, Transcript
from basereal import BaseReal
from core import log
from core.config import Settings
from core.media import SAMPLE_RATE, Engine, Face, FaceJob, Features, Image, Pcm, Tick, Voice, Window
from ttsreal import BaseTTS, Speech, VoiceSettings

PIECE_S = 0.2
HUM_HZ = 150  # a whole number of periods in a second, and three in a packet


def say(**news: object) -> None:
    sys.stdout.write(json.dumps(news) + "\n")
    sys.stdout.flush()


class TimedTTS(BaseTTS):
    """A vowel-like tone of one second a word, as fast as it is taken; the moment of its first piece is printed.

    The text `beeps` gives a beep of 100 ms each second, for ten minutes and more.
    """

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        beeps = text.startswith("beeps")
        seconds = 700.0 if beeps else len(text.split())
        for piece in range(round(seconds / PIECE_S)):
            t = (piece * PIECE_S + np.arange(int(PIECE_S * SAMPLE_RATE)) / SAMPLE_RATE).astype(np.float64)
            pcm = 0.4 * np.sin(2 * np.pi * 300 * t) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))
            if beeps:
                pcm *= (t % 1.0) < 0.1
            if piece == 0:
                say(spoke=time.monotonic())
            yield Speech(pcm.astype(np.float32))


class SteadyTTS(BaseTTS):
    """A voice-like hum of constant level, -14 dBFS, one second a word, as fast as it is taken."""

    def __init__(self, settings: VoiceSettings | None = None) -> None:
        super().__init__(settings)
        t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
        hum = np.sum([np.sin(2 * np.pi * HUM_HZ * part * t + part**2) for part in range(1, 11)], axis=0)
        self._second: Pcm = (0.2 * hum / np.std(hum)).astype(np.float32)

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        for _ in text.split():
            yield Speech(self._second)


class PromptASR(BaseASR):
    """Understands the same question whatever is said, at once."""

    async def transcribe(self, pcm: Pcm) -> Transcript:
        return Transcript("What time is it?", "en")


class PeakFeatures:
    """Windows float32 (1,): the peak of each tick."""

    def push(self, pcm: Pcm) -> list[Window]:
        return [np.abs(pcm).max(keepdims=True)]

    def finish(self) -> list[Window]:
        return []

    def reset(self) -> None:
        """Nothing is kept."""


class FlashEngine:
    """White where there is sound, the avatar where there is none: what the eye sees of a beep."""

    max_batch = 16

    def infer(self, jobs: Sequence[FaceJob]) -> list[Face]:
        return [Face(job, self._flash(job)) for job in jobs]

    def _flash(self, job: FaceJob) -> Image:
        image = job.avatar.image(job.avatar_index)
        return np.full_like(image, 255) if job.window[0] > 0.02 else image.copy()


class FlashReal(BaseReal):
    """The family of the flash engine."""

    @classmethod
    def make_engine(cls, settings: Settings) -> Engine:
        return FlashEngine()

    @classmethod
    def make_features(cls, engine: Engine) -> Features:
        return PeakFeatures()

    @staticmethod
    def paste(face: Face) -> Image:
        return face.image


class FramePlayer(webrtc.HumanPlayer):
    """Hands pictures and sound to aiortc's own encoders, as a server without shared packets does."""

    async def answer(self, sdp: str) -> str:
        answer = await super().answer(sdp)
        self.wants_h264 = False
        return answer

    def push(self, tick: Tick) -> None:
        sound = av.AudioFrame.from_ndarray(tick.samples.reshape(1, -1), format="s16", layout="mono")
        sound.sample_rate, sound.time_base = SAMPLE_RATE, webrtc.AUDIO_TIME_BASE
        sound.pts = tick.number * len(tick.samples)
        self._audio.put(sound)  # type: ignore[arg-type]
        self._video.put(webrtc._frame(tick))


async def serve(args: argparse.Namespace) -> None:
    ttsreal.TTS._table |= {"timed": "__main__:TimedTTS", "steady": "__main__:SteadyTTS"}
    asrreal.ASR._table["prompt"] = "__main__:PromptASR"
    if args.flash:
        basereal.ENGINES._table["flash"] = "__main__:FlashReal"
    if args.aiortc_encoder:
        setattr(app, "HumanPlayer", FramePlayer)  # noqa: B010
    settings = Settings(
        max_session=args.sessions,
        model="flash" if args.flash else args.model,
        tts="steady" if args.listen else "timed",
        llm="rules",
        asr="prompt" if args.listen else "off",
        offer_rate=0,
        drain_s=0,
        bitrate=args.bitrate,
        dead_timeout_s=3600,
    )
    runner = web.AppRunner(app.make_app(settings))
    runner.app.router.add_get("/bench", _usage)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    say(port=runner.addresses[0][1])
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


async def _usage(request: web.Request) -> web.Response:
    """CPU seconds used so far, RSS in MB, and what could leak."""
    gc.collect()
    process = psutil.Process()
    used = process.cpu_times()
    return web.json_response(
        {
            "cpu_s": used.user + used.system,
            "rss_mb": process.memory_info().rss / (1 << 20),
            "threads": process.num_threads(),
            "tasks": len(asyncio.all_tasks()),
            "fds": process.num_fds(),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--bitrate", type=int, default=0)
    parser.add_argument("--aiortc_encoder", action="store_true")
    parser.add_argument("--flash", action="store_true")
    parser.add_argument("--listen", action="store_true")
    parser.add_argument("--model", default="still")
    log.set_up("WARNING")
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
