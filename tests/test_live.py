"""The whole way, from a request to what a WebRTC peer sees and hears."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.media import Engine, Face, FaceJob, Tick
from core.news import News
from studio import import_avatar
from tests.fakes.live import Live, Peer, connected, serve
from webrtc import HumanPlayer


async def test_an_echo_is_heard_and_seen(live: Live) -> None:
    async with connected(live) as peer:
        assert "H264" in peer.answer
        reply = await live.post("/human", sessionid=peer.sessionid, type="echo", text="Hello there", interrupt=False)
        assert reply == {"code": 0, "msg": "ok", "data": "ok"}
        await asyncio.sleep(2)
        kinds = [json.loads(event)["event"] for event in peer.events]
        assert kinds[:2] == ["speak-start", "sentence"] and kinds[-1] == "speak-end"
        assert max(rms for _, _, rms in peer.sounds) > 0.2
        assert max(light for _, _, light in peer.pictures) > 200


async def test_what_is_said_before_the_peer_is_connected_is_not_lost(live: Live) -> None:
    peer = Peer(live)
    await peer.offer()
    await live.post("/human", sessionid=peer.sessionid, type="echo", text="0123456789")
    await asyncio.sleep(0.5)
    await peer.accept()
    await asyncio.sleep(2.5)
    voiced = [media for _, media, rms in peer.sounds if rms > 0.1]
    assert abs(len(voiced) * 0.02 - 1.0) < 0.1
    await peer.close()


async def test_sound_leaves_in_order_even_if_a_tick_was_late() -> None:
    player = HumanPlayer(
        ice_servers=[],
        connect_timeout_s=1,
        dead_timeout_s=1,
        lost=lambda _: None,
        request_key=lambda: None,
        events=News().read,
        heard=lambda *_: None,
    )
    reading = asyncio.create_task(_stamps(player, 6))
    await asyncio.sleep(0)
    picture = np.zeros((2, 2, 3), np.uint8)
    for number in (0, 1):  # one right after the other
        player.push(Tick(number, picture, opus=(b"a", b"b")))
    await asyncio.sleep(0.05)
    player.push(Tick(2, picture, opus=(b"a", b"b")))
    assert await reading == [0, 320, 640, 960, 1280, 1600]
    await player.aclose()


async def _stamps(player: HumanPlayer, n: int) -> list[int]:
    return [(await player._audio.recv()).pts for _ in range(n)]


@pytest.mark.slow
async def test_a_livetalking_folder_speaks_through_a_wav2lip_checkpoint(data_dir: Path, tmp_path: Path) -> None:
    checkpoint, folder = tmp_path / "wav2lip.pth", tmp_path / "someone"
    await asyncio.to_thread(_write_checkpoint, checkpoint)
    await asyncio.to_thread(_write_folder, folder)
    imported = ["--avatars", str(data_dir / "avatars"), "--model", str(tmp_path / "no.task")]
    assert import_avatar.main([str(folder), *imported]) == 0
    flags = {"model": "wav2lip", "modelfile": str(checkpoint), "device": "cpu", "avatar_id": "someone"}
    async with serve(data_dir, **flags) as live, connected(live) as peer:
        answered = _count_faces(live)
        await live.post("/human", sessionid=peer.sessionid, type="echo", text="0123456789")
        await asyncio.sleep(3)
        assert live.house.shared.worker.healthy
        assert len(answered) >= 5
        voiced = [media for _, media, rms in peer.sounds if rms > 0.1]
        assert abs(len(voiced) * 0.02 - 1.0) < 0.1


@pytest.mark.slow
async def test_without_weights_the_mouth_is_warped(data_dir: Path, tmp_path: Path) -> None:
    async with serve(data_dir, model="auto", models_dir=tmp_path) as live:
        assert live.house.model == "still"


@pytest.mark.slow
async def test_an_avatar_without_landmarks_is_refused_by_our_own_network(data_dir: Path, tmp_path: Path) -> None:
    await asyncio.to_thread(_write_folder, tmp_path / "faceless")
    imported = [
        str(tmp_path / "faceless"),
        "--avatars",
        str(data_dir / "avatars"),
        "--model",
        str(tmp_path / "no.task"),
    ]
    assert import_avatar.main(imported) == 0
    async with serve(data_dir, model="auto", device="cpu") as live:
        assert live.house.model == "wav2lip"
        peer = Peer(live)
        reply = await peer.offer(avatar="faceless")
        assert reply["code"] == -1 and "no landmarks" in reply["msg"]
        assert not list(live.house.sessions)
        await peer.close()


def _count_faces(live: Live) -> list[int]:
    """The ticks whose faces the engine has drawn from now on."""
    worker, answered = live.house.shared.worker, []
    submit = worker.submit

    def counting(
        engine: Engine, job: FaceJob, is_fresh: Callable[[int], bool], deliver: Callable[[Face], None]
    ) -> None:
        def count(face: Face) -> None:
            answered.append(face.job.tick)
            deliver(face)

        submit(engine, job, is_fresh, count)

    worker.submit = counting  # type: ignore[method-assign]
    return answered


def _write_checkpoint(path: Path) -> None:
    import torch

    from nets.wav2lip import PUBLISHED, Wav2Lip

    state = {f"module.{name}": value for name, value in Wav2Lip(PUBLISHED[96]).state_dict().items()}
    torch.save({"state_dict": state, "optimizer": {}, "global_step": 1}, path)


def _write_folder(folder: Path) -> None:
    """Ten pictures and their boxes (y1, y2, x1, x2), as other servers keep an avatar."""
    (folder / "full_imgs").mkdir(parents=True)
    (folder / "face_imgs").mkdir()
    rng = np.random.default_rng(1)
    for number in range(10):
        cv2.imwrite(str(folder / "full_imgs" / f"{number:08d}.png"), rng.integers(0, 255, (240, 320, 3), np.uint8))
    (folder / "coords.pkl").write_bytes(pickle.dumps([(60, 180, 100, 200)] * 10))
