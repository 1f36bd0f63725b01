"""Encode once: what a decoder makes of the packets, wherever they come from."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import Executor, Future
from itertools import pairwise
from typing import Any
from weakref import ref

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from core.audio import to_int16
from core.avatar import Avatar
from core.media import CHUNK_SAMPLES, SILENT_TICK, TICK_SAMPLES, Picture, Tick
from outputs.encoder import (
    CLOSE_AFTER_TICKS,
    LOOP_KEY_TICKS,
    IdleLoops,
    OpusEncoder,
    PictureEncoder,
    encode_loop,
)
from tests.fakes.media import SIZE, Held, brightness, grey, stairs
from tests.fakes.person import tone
from tests.fakes.virtual import Inline

AVATAR = stairs()
SPS, PPS, IDR, SLICE = 7, 8, 5, 1
FACE = 240  # the brightness of a speaking face, unlike any of the avatar's


class Studio:
    """A picture encoder, and what it has emitted."""

    def __init__(self, *, loops: IdleLoops | None = None, pool: Executor | None = None) -> None:
        self.pictures: list[Picture] = []
        self.loops = loops or IdleLoops(500_000, Inline())
        self.encoder = PictureEncoder(SIZE, self.loops, pool or Inline(), self.pictures.append)

    async def idle(self, *numbers: int, avatar: Avatar = AVATAR) -> None:
        for number in numbers:
            self.encoder.push(Tick(number, avatar.image(avatar.index(number)), idle=avatar))
            await asyncio.sleep(0)

    async def speak(self, *numbers: int) -> None:
        for number in numbers:
            self.encoder.push(Tick(number, grey(FACE)))
            await asyncio.sleep(0)

    def looped(self) -> list[int]:
        """Numbers of the pictures whose bytes are the idle loop's own."""
        loop = self.loops.get(AVATAR)
        assert loop
        return [picture.number for picture in self.pictures if picture.data is loop.picture(picture.number).data]

    def key_numbers(self) -> list[int]:
        return [picture.number for picture in self.pictures if picture.key]

    def spoken(self) -> set[int]:
        """Numbers of the ticks at which a decoder shows the face; elsewhere it must show the avatar's own frame."""
        seen = brightness(self.pictures)
        assert list(seen) == [picture.number for picture in self.pictures]
        faces = {number for number, level in seen.items() if level > FACE - 10}
        for number in seen.keys() - faces:
            assert abs(seen[number] - (20 + 4 * AVATAR.index(number))) < 3, number
        return faces


def nal_types(data: bytes) -> list[int]:
    return [part[0] & 31 for part in data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if part]


async def test_the_first_picture_is_a_key_picture_and_only_that_one() -> None:
    studio = Studio()
    await studio.speak(*range(100, 140))
    assert studio.key_numbers() == [100]
    assert {SPS, PPS, IDR} <= set(nal_types(studio.pictures[0].data))
    assert all(nal_types(picture.data) == [SLICE] for picture in studio.pictures[1:])


async def test_a_key_picture_comes_when_asked_for_and_decoding_can_start_there() -> None:
    studio = Studio()
    await studio.speak(*range(10))
    studio.encoder.request_key()
    await studio.speak(*range(10, 20))
    assert studio.key_numbers() == [0, 10] and IDR in nal_types(studio.pictures[10].data)
    assert set(brightness(studio.pictures[10:])) == set(range(10, 20))


async def test_idle_ticks_are_the_loops_own_packets() -> None:
    studio = Studio()
    await studio.idle(*range(10, 200))
    assert studio.looped() == list(range(LOOP_KEY_TICKS, 200))
    assert not studio.spoken()


async def test_the_loop_is_joined_at_a_key_picture_only() -> None:
    studio = Studio()
    await studio.speak(*range(30))
    await studio.idle(*range(30, 80))
    assert studio.looped()[0] == 50 and 50 in studio.key_numbers()
    assert not {30, 49} & set(studio.looped())


async def test_live_and_loop_follow_each_other_without_a_wrong_picture() -> None:
    studio = Studio()
    speech = [range(60, 75), range(100, 101), range(180, 230), range(231, 240), range(275, 300)]
    spoken = {number for numbers in speech for number in numbers}
    for number in range(40, 400):
        await (studio.speak(number) if number in spoken else studio.idle(number))
    assert [picture.number for picture in studio.pictures] == list(range(40, 400))
    assert studio.spoken() == spoken
    looped = set(studio.looped())
    assert len(looped) > 200
    for before, after in pairwise(studio.pictures):  # nothing refers to a picture that the decoder never had
        if (before.number in looped) != (after.number in looped):
            assert after.key, after.number


@pytest.mark.parametrize("loop", ["cycle", "pingpong"])
async def test_a_loop_of_any_period_decodes_round_and_round(loop: Any) -> None:
    avatar = stairs(33, loop=loop)
    studio = Studio()
    await studio.idle(*range(3 * avatar.period), avatar=avatar)
    seen = brightness(studio.pictures)
    assert all(abs(level - (20 + 4 * avatar.index(number))) < 3 for number, level in seen.items())
    assert set(seen) == set(range(3 * avatar.period))


async def test_after_a_stall_in_the_loop_the_picture_is_still_right() -> None:
    studio = Studio()
    await studio.speak(*range(20))
    await studio.idle(*range(20, 60))
    await studio.idle(*range(124, 130))  # a stopped process has skipped the ticks between
    assert studio.spoken() == set(range(20))


async def test_a_viewer_who_comes_while_the_avatar_idles_gets_a_key_picture_at_once() -> None:
    studio = Studio()
    await studio.idle(*range(60))
    studio.encoder.request_key()
    await studio.idle(*range(60, 120))
    assert studio.pictures[60].key and 60 not in studio.looped()
    assert studio.looped()[-1] == 119
    assert set(brightness(studio.pictures[60:])) == set(range(60, 120)) and not studio.spoken()


async def test_after_a_long_idle_speech_starts_with_a_new_key_picture() -> None:
    studio = Studio()
    await studio.speak(*range(10))
    until = LOOP_KEY_TICKS + 2 * CLOSE_AFTER_TICKS
    await studio.idle(*range(10, until))
    await studio.speak(*range(until, until + 20))
    assert until in studio.key_numbers()
    assert studio.spoken() == {*range(10), *range(until, until + 20)}


async def test_an_avatar_of_another_size_is_encoded_live() -> None:
    small = stairs(size=(32, 32))
    studio = Studio()
    for number in range(30):
        studio.encoder.push(Tick(number, grey(100), idle=small))
        await asyncio.sleep(0)
    assert studio.key_numbers() == [0] and set(np.round(list(brightness(studio.pictures).values()), -1)) == {100}


async def test_a_busy_encoder_skips_and_never_queues() -> None:
    held = Held()
    studio = Studio(pool=held)
    skipped = REGISTRY.get_sample_value("vivace_pictures_skipped_total") or 0
    await studio.speak(0, 1, 2)
    await studio.idle(25)  # not even out of the loop: it would overtake
    assert len(held.waiting) == 1 and not studio.pictures
    held.release()
    await asyncio.sleep(0)
    await studio.speak(26)
    held.release()
    await asyncio.sleep(0)
    assert [picture.number for picture in studio.pictures] == [0, 26]
    assert REGISTRY.get_sample_value("vivace_pictures_skipped_total") == skipped + 3
    assert set(brightness(studio.pictures)) == {0, 26}


async def test_a_picture_that_cannot_be_encoded_is_left_out_and_the_next_one_is_key() -> None:
    studio = Studio()
    await studio.speak(0, 1)
    studio.encoder.push(Tick(2, grey(FACE, (63, 63))))
    await asyncio.sleep(0)
    await studio.speak(3, 4)
    assert [picture.number for picture in studio.pictures] == [0, 1, 3, 4]
    assert studio.key_numbers() == [0, 3] and studio.spoken() == {0, 1, 3, 4}


class Counting(Inline):
    """Counts what it is given to do."""

    submitted = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted += 1
        return super().submit(fn, *args, **kwargs)


async def test_a_loop_is_encoded_once_for_all_sessions_of_an_avatar() -> None:
    counting = Counting()
    loops = IdleLoops(500_000, counting)
    first, second = Studio(loops=loops), Studio(loops=loops)
    await first.idle(*range(60))
    await second.idle(*range(60))
    assert counting.submitted == 1
    assert first.pictures[50].data is second.pictures[50].data


async def test_a_session_encodes_for_itself_while_its_loop_is_being_made() -> None:
    held = Held()
    studio = Studio(loops=IdleLoops(500_000, held))
    await studio.idle(*range(60))
    assert len(studio.pictures) == 60
    held.release()
    await studio.idle(*range(60, 120))
    assert studio.looped() == list(range(75, 120)) and not studio.spoken()


def test_a_loop_can_be_joined_once_a_second() -> None:
    loop = encode_loop(AVATAR, 500_000)
    assert [phase for phase, key in enumerate(loop.keys) if key] == [0, 25]
    assert loop.picture(1025).data is loop.data[25] and loop.picture(1025).number == 1025


def test_a_loop_vanishes_with_its_avatar() -> None:
    loops = IdleLoops(500_000, Inline())
    avatar = stairs(4)
    gone = ref(avatar)
    assert loops.get(avatar) and len(loops._loops) == 1
    del avatar
    gc.collect()
    assert gone() is None and not len(loops._loops)


# Sound.

VOICE = to_int16(tone(1.0, 300.0, 0.5)).reshape(-1, TICK_SAMPLES)


def heard(packets: list[bytes]) -> NDArray[np.float32]:
    """What a decoder makes of Opus packets, float32 (n,) at 48 kHz, without the codec's delay of 6.5 ms."""
    decoder: av.AudioCodecContext = av.CodecContext.create("libopus", "r")
    decoder.sample_rate = 48_000
    decoder.layout = "mono"
    frames = [frame for packet in packets for frame in decoder.decode(av.Packet(packet))]
    assert {frame.samples for frame in frames} == {960}
    assert frames[0].format.name == "s16"
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])[312:]
    return np.asarray(samples / 32768, np.float32)


def rms(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt((samples**2).mean()))


def pitch_hz(samples: NDArray[np.float32]) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * 48_000 / len(samples))


def test_a_tick_is_two_opus_packets_and_keeps_its_pitch_and_level() -> None:
    opus = OpusEncoder()
    packets = [packet for samples in VOICE for packet in opus.encode(samples)]
    assert len(packets) == 2 * len(VOICE) == len(VOICE) * TICK_SAMPLES // CHUNK_SAMPLES
    sound = heard(packets)[4800:-4800]
    assert abs(pitch_hz(sound) - 300) < 2
    assert abs(rms(sound) - 0.5 / 2**0.5) < 0.02


def test_long_silence_repeats_its_packets() -> None:
    opus = OpusEncoder()
    for samples in VOICE:
        opus.encode(samples)
    silence = [opus.encode(SILENT_TICK) for _ in range(100)]
    assert len({id(packets) for packets in silence[20:]}) == 1
    assert all(len(packet) < 20 for packet in silence[-1])


def test_long_silence_is_silent() -> None:
    opus = OpusEncoder()
    ticks = [*VOICE, *[SILENT_TICK] * 100]
    sound = heard([packet for samples in ticks for packet in opus.encode(samples)])
    assert np.abs(sound[48_000 + 4800 :]).max() < 0.001


def test_a_voice_after_long_silence_is_intact() -> None:
    opus = OpusEncoder()
    ticks = [*VOICE, *[SILENT_TICK] * 250, *VOICE]
    sound = heard([packet for samples in ticks for packet in opus.encode(samples)])
    assert np.abs(sound[11 * 48_000 - 4800 : 11 * 48_000 - 480]).max() < 0.01
    second = sound[11 * 48_000 + 480 :]
    levels = [rms(part) for part in second[: len(second) // 960 * 960].reshape(-1, 960)]
    assert min(levels[1:-1]) > 0.31 and max(levels) < 0.40
    assert abs(pitch_hz(second[4800:-4800]) - 300) < 2
