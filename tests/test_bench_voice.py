"""What the bench makes of the packets of a conversation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from core.media import SAMPLE_RATE, Pcm
from outputs.encoder import OpusEncoder
from scripts.bench_ears import span
from scripts.bench_voice import (
    DUCKED_DB,
    SILENT_DB,
    Answered,
    Interruption,
    Microphone,
    first_drop,
    first_phrase,
    levels,
)

PACKET_S = 0.02
RTP, RTCP = b"\x80\x60" + bytes(10), b"\x80\xc8" + bytes(10)


def tone(seconds: float, amplitude: float = 0.3) -> Pcm:
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (amplitude * np.sin(2 * np.pi * 300 * t)).astype(np.float32)


def silence(seconds: float) -> Pcm:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def drop(loudness: list[float], drop_db: float, until: float = 9.0) -> float | None:
    """Where packets of this loudness, from half a second before the speech on, get quieter."""
    about = Interruption(0.49, until, obeyed=True)
    moments = [place * PACKET_S for place in range(len(loudness))]
    return first_drop(moments, np.array(loudness), about, drop_db)


def test_the_first_drop_is_where_the_lasting_quiet_begins() -> None:
    assert drop([-14.0] * 30 + [-26.0] * 9, DUCKED_DB) == pytest.approx(110)


def test_a_dip_shorter_than_60_ms_is_no_drop() -> None:
    assert drop([-14.0] * 30 + [-26.0] * 2 + [-14.0] * 9, DUCKED_DB) is None


def test_what_is_only_ducked_is_not_silent() -> None:
    loudness = [-14.0] * 30 + [-26.0] * 9
    assert drop(loudness, SILENT_DB) is None
    assert drop([*loudness, -99.0, -99.0, -99.0], SILENT_DB) == pytest.approx(290)


def test_silence_after_the_interruption_has_been_looked_at_does_not_count() -> None:
    assert drop([-14.0] * 30 + [-99.0] * 9, SILENT_DB, until=0.6) is None


def test_levels_are_those_of_what_the_packets_hold() -> None:
    encoder = OpusEncoder()
    samples = (np.concatenate([tone(0.4), silence(0.4)]) * 32767).astype(np.int16)
    payloads = [packet for tick in samples.reshape(-1, 640) for packet in encoder.encode(tick)]
    loudness = levels(payloads)
    assert len(loudness) == 40
    assert np.allclose(loudness[3:19], -13.5, atol=1.0) and loudness[23:].max() < -60


def test_a_phrase_ends_at_the_first_pause() -> None:
    sound = np.concatenate([silence(0.4), tone(1.0), silence(0.1), tone(0.5), silence(0.2), tone(1.0)])
    phrase = first_phrase(sound)
    assert len(phrase) / SAMPLE_RATE == pytest.approx(1.8, abs=0.01)
    assert span(phrase) == pytest.approx((0.1, 1.7), abs=0.01)


async def test_a_microphone_says_where_its_voice_begins_and_ends() -> None:
    microphone = Microphone()
    frames = [await microphone.recv()]
    saying = microphone.begin(np.concatenate([silence(0.01), tone(0.05), silence(0.02)]))
    while not microphone.quiet.is_set():
        frames.append(await microphone.recv())
    loudness = np.abs(np.concatenate([frame.to_ndarray()[0] for frame in frames]))
    loud = np.flatnonzero(loudness > 0.05 * loudness.max())
    assert (saying.begin, saying.end) == pytest.approx((loud[0], loud[-1]), abs=48)


class Transport:
    """Sends nothing."""

    async def _send_rtp(self, data: bytes) -> None:
        return


async def test_a_sample_left_with_its_rtp_packet_whatever_else_is_sent() -> None:
    microphone, transport = Microphone(), Transport()
    microphone.tap(SimpleNamespace(transport=transport))
    for packet in (RTP, RTCP, RTP):
        await transport._send_rtp(packet)
    first, second = microphone.left
    assert microphone.left_at(0) == first and microphone.left_at(Microphone.FRAME) == second
    with pytest.raises(IndexError):
        microphone.left_at(2 * Microphone.FRAME)


def test_the_servers_own_share_is_what_endpointing_leaves() -> None:
    assert Answered(total_ms=560.0, endpointing_ms=352).own_ms == 208.0
