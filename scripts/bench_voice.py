"""The part of `scripts/bench.py` in which somebody talks with the server, on a headset: no echo.

Times are of packets: of the person's, the moment they are sent; of the presenter's, the moment they arrive.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from aiortc.rtp import is_rtcp
from numpy.typing import NDArray

from core.media import SAMPLE_RATE, Pcm
from scripts.bench_ears import span, utterances
from tests.fakes.live import Voice

if TYPE_CHECKING:
    from scripts.bench import Peer

LOOKAHEAD_SAMPLES = 312  # 6.5 ms at 48 kHz, by which Opus puts a sample into a later packet
LASTING = 3  # packets, 60 ms: a quieter moment that is shorter is none
DUCKED_DB, SILENT_DB = 6.0, 40.0  # below the presenter's level before
BEFORE_S = 0.5  # what that level is taken from
PAUSE_S, BREATH_S = 0.15, 0.1
LEAST_S, MOST_S = 1.0, 5.0
PATIENCE_S = 8.0  # for an answer
OBEY_S = 1.0  # for an interruption, after it has been said
SETTLE_S = 0.5
LONG_SPEECH_S = 20


@dataclass(frozen=True, slots=True)
class Saying:
    """Where the first and the last voiced sample of something said are, in samples of the microphone."""

    begin: int
    end: int


class Microphone(Voice):
    """A microphone that knows when its packets left: `left` has the moment of each (monotonic s).

    `quiet` is set when nothing is being said.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left: list[float] = []
        self.quiet = asyncio.Event()

    def tap(self, sender: Any) -> None:
        """Note what `sender`, an RTCRtpSender that has not begun and is alone on its transport, sends."""
        send = sender.transport._send_rtp

        async def rtp(data: bytes) -> None:
            if not is_rtcp(data):
                self.left.append(time.monotonic())
            await send(data)

        sender.transport._send_rtp = rtp

    def begin(self, pcm: Pcm) -> Saying:
        """Say `pcm`, float32 (n,) 16 kHz, at once."""
        first = self._sent + len(self._unsaid)
        self.say(pcm)
        self.quiet.clear()
        begin_s, end_s = span(pcm)
        return Saying(first + round(begin_s * self.RATE_HZ), first + round(end_s * self.RATE_HZ))

    async def recv(self) -> av.AudioFrame:
        frame = await super().recv()
        if not self.speaking:
            self.quiet.set()
        return frame

    def left_at(self, sample: int) -> float:
        """When the packet that holds `sample` left. IndexError if it has not."""
        return self.left[(sample + LOOKAHEAD_SAMPLES) // self.FRAME]


@dataclass(frozen=True, slots=True)
class Answered:
    """One turn: from the last voiced packet of the question to the first of the answer, and the silence in between."""

    total_ms: float
    endpointing_ms: int

    @property
    def own_ms(self) -> float:
        """The server's own share."""
        return self.total_ms - self.endpointing_ms


@dataclass(frozen=True, slots=True)
class Interruption:
    """When somebody began to speak over the presenter, until when to look at what came of it (monotonic s)."""

    begin: float
    until: float
    obeyed: bool


class Talk:
    """Somebody with a microphone at `peer`, and what they do."""

    def __init__(self, peer: Peer) -> None:
        assert peer.microphone
        self._peer = peer
        self._microphone = peer.microphone
        self.too_early = 0  # answers that began before the question had ended

    async def ask(self, pcm: Pcm) -> Answered | None:
        """Ask something and let the answer begin; None if none came, or came too early."""
        told = len(self._peer.events)
        saying = self._microphone.begin(pcm)
        latency = await self._hears("latency", told)
        early = self._microphone.speaking
        await self._hush()
        self.too_early += early
        if early or not latency:
            return None
        end = self._microphone.left_at(saying.end)
        first = min(moment for moment in self._peer.tracks["audio"].voiced() if moment > end)
        return Answered(1000 * (first - end), latency["endpointing_ms"])

    async def interrupt(self, pcm: Pcm, after_s: float) -> Interruption:
        """Have the presenter speak, and say `pcm` over it after so long."""
        told = len(self._peer.events)
        await self._peer.server.say(self._peer, LONG_SPEECH_S)
        await self._hears("speak-start", told)
        await asyncio.sleep(after_s)
        saying = self._microphone.begin(pcm)
        await self._microphone.quiet.wait()
        await asyncio.sleep(OBEY_S)
        obeyed = any(event["event"] == "interrupted" for event in self._peer.events[told:])
        until = time.monotonic()
        await self._hush()
        return Interruption(self._microphone.left_at(saying.begin), until, obeyed)

    async def _hears(self, kind: str, told: int) -> dict[str, Any] | None:
        """The first event of this kind after the `told` first ones; None if none comes."""
        events = self._peer.events
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not (found := [event for event in events[told:] if event["event"] == kind]):
                    self._peer.told.clear()
                    await self._peer.told.wait()
        except TimeoutError:
            return None
        return found[0]

    async def _hush(self) -> None:
        """Have the presenter fall silent, and the person too."""
        await self._microphone.quiet.wait()
        await asyncio.sleep(SETTLE_S)
        await self._peer.server.post("/interrupt_talk", sessionid=self._peer.sessionid)
        await asyncio.sleep(SETTLE_S)


def phrases() -> Iterator[Pcm]:
    """What people say in one breath, float32 (n,) 16 kHz, 1 to 5 s of it, from the test data, without end."""
    for _, pcm in utterances("test"):
        phrase = first_phrase(pcm)
        if LEAST_S < len(phrase) / SAMPLE_RATE < MOST_S:
            yield phrase


def first_phrase(pcm: Pcm) -> Pcm:
    """`pcm`, float32 (n,) 16 kHz, up to its first pause of 150 ms, with the breath before and after."""
    loud = np.flatnonzero(np.abs(pcm) > 0.05 * np.abs(pcm).max())
    pauses = np.flatnonzero(np.diff(loud) > PAUSE_S * SAMPLE_RATE)
    end = loud[pauses[0]] if pauses.size else loud[-1]
    breath = int(BREATH_S * SAMPLE_RATE)
    return pcm[max(0, loud[0] - breath) : end + breath]


def decoded(payloads: Iterable[bytes]) -> Iterator[NDArray[np.float64]]:
    """The sound of each Opus packet, (n,) 48 kHz in [-1, 1]."""
    decoder: Any = av.CodecContext.create("libopus", "r")
    decoder.sample_rate = 48_000
    for payload in payloads:
        frames = decoder.decode(av.Packet(payload))
        yield np.concatenate([np.zeros(0), *map(_mono, frames)])


def _mono(frame: Any) -> NDArray[np.float64]:
    samples = frame.to_ndarray().astype(np.float64).reshape(-1)
    samples = samples / 32768 if frame.format.name.startswith("s16") else samples
    step = 2 if frame.layout.nb_channels == 2 and not frame.format.is_planar else 1
    return np.asarray(samples[::step])


def levels(payloads: Iterable[bytes]) -> NDArray[np.float64]:
    """The loudness of each Opus packet in dBFS, -99 for silence."""
    powers = [float(np.mean(sound**2)) if sound.size else 0.0 for sound in decoded(payloads)]
    return np.asarray(10 * np.log10(np.maximum(powers, 10**-9.9)))


def first_drop(
    moments: Sequence[float], levels_db: NDArray[np.float64], about: Interruption, drop_db: float
) -> float | None:
    """How long after its beginning the presenter was quieter by `drop_db` for 60 ms, in ms; None if that never was.

    `moments` and `levels_db`, (n,), are of the packets in order.
    """
    times = np.asarray(moments)
    usual = np.median(levels_db[(times > about.begin - BEFORE_S) & (times < about.begin)])
    during = (times >= about.begin) & (times < about.until)
    quiet = levels_db[during] <= usual - drop_db
    lasting = np.convolve(quiet, np.ones(LASTING), "valid") == LASTING
    if len(quiet) < LASTING or not lasting.any():
        return None
    return float(1000 * (times[during][np.argmax(lasting)] - about.begin))
