"""The engine's answers, what it shows the network, and the paste-back."""

import gc
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import cast
from weakref import ref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lipreal
from core.avatar import Avatar
from core.errors import BadRequest
from core.media import Engine, Face, FaceJob, Image
from lipreal import LipEngine, paste
from nets.wav2lip import Wav2Lip

BOX = (30, 20, 130, 140)  # 100 × 120


def noise(*shape: int, seed: int = 0) -> Image:
    """Soft random colours: coarse noise, enlarged."""
    coarse = np.random.default_rng(seed).integers(40, 200, (shape[0], -(-shape[1] // 16), -(-shape[2] // 16), 3))
    return np.kron(coarse, np.ones((1, 16, 16, 1), int)).astype(np.uint8)[:, : shape[1], : shape[2]]


def make_avatar(
    name: str = "anna", frames: int = 3, seed: int = 0, box: Sequence[int] = BOX, kind: type[Avatar] = Avatar
) -> Avatar:
    pictures = noise(frames, 160, 160, seed=seed)
    return kind(name, pictures, np.array([box] * frames, np.int32), np.zeros((frames, 8, 2), np.float32))


def make_job(avatar: Avatar, index: int = 0, seed: int = 0) -> FaceJob:
    window = np.random.default_rng(seed).normal(0, 2, (80, 16)).clip(-4, 4).astype(np.float32)
    return FaceJob(epoch=0, tick=index, window=window, avatar=avatar, avatar_index=index, due=1e9)


class Mirror(nn.Module):
    """Stands in for Wav2Lip: remembers what it is shown and answers the whole face."""

    size = 96

    def fold(self) -> "Mirror":
        return self

    def forward(self, mel: Tensor, face: Tensor) -> Tensor:
        self.mel, self.face = mel.float(), face.float()
        return face[:, 3:]


@dataclass(frozen=True, eq=False)
class CountingAvatar(Avatar):
    """Counts how often its pictures are looked at."""

    seen: tuple[list[int], ...] = ([],)

    def image(self, index: int) -> Image:
        self.seen[0].append(index)
        return super().image(index)


@pytest.fixture
def mirror() -> Mirror:
    return Mirror()


@pytest.fixture
def mirror_engine(mirror: Mirror) -> LipEngine:
    return LipEngine(cast(Wav2Lip, mirror), "cpu")


@pytest.fixture(scope="module")
def engine() -> LipEngine:
    """Random weights that answer in strong colours, different ones for different faces."""
    torch.manual_seed(3)
    net = Wav2Lip(96)
    net.get_parameter("output_block.1.weight").data.mul_(40)
    return LipEngine(net, "cpu")


def test_importing_the_room_loads_no_torch() -> None:
    code = "import lipreal, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(lipreal.__file__).parent, check=False).returncode == 0


def test_answers_are_faces_of_the_size_of_the_network_in_the_order_of_the_jobs(engine: LipEngine) -> None:
    jobs = [make_job(make_avatar(), index) for index in (2, 0, 1)]
    speaker: Engine = engine
    faces = speaker.infer(jobs)
    assert [face.job for face in faces] == jobs
    assert all(face.image.shape == (96, 96, 3) and face.image.dtype == np.uint8 for face in faces)


def test_two_avatars_in_one_batch_get_what_each_gets_alone(engine: LipEngine) -> None:
    anna, bert = make_avatar("anna", seed=1), make_avatar("bert", seed=2)
    jobs = [make_job(anna, 0, seed=1), make_job(bert, 1, seed=2), make_job(anna, 2, seed=3), make_job(bert, 0, seed=4)]
    together = np.stack([face.image for face in engine.infer(jobs)]).astype(int)
    alone = np.stack([engine.infer([job])[0].image for job in jobs]).astype(int)
    assert abs(together - alone).max() <= 4  # kernels for other batch sizes round differently
    assert abs(together[0] - together[1]).mean() > 10


def test_the_network_hears_for_each_face_its_own_window(mirror: Mirror, mirror_engine: LipEngine) -> None:
    jobs = [make_job(make_avatar(), index, seed=index) for index in range(3)]
    mirror_engine.infer(jobs)
    assert mirror.mel.shape == (3, 1, 80, 16)
    np.testing.assert_allclose(mirror.mel[:, 0], np.stack([job.window for job in jobs]), rtol=0.01)


def test_the_network_sees_the_face_twice_and_the_lower_half_once(mirror: Mirror, mirror_engine: LipEngine) -> None:
    mirror_engine.infer([make_job(make_avatar())])
    masked, whole = mirror.face[0, :3], mirror.face[0, 3:]
    assert (masked[:, 48:] == 0).all()
    assert torch.equal(masked[:, :48], whole[:, :48])
    assert whole[:, 48:].min() > 0.1
    assert whole.max() <= 1


def test_the_face_is_the_box_of_the_frame_in_bgr(mirror_engine: LipEngine) -> None:
    avatar = make_avatar(box=(16, 32, 112, 128))  # 96 × 96: nothing to resize
    (face,) = mirror_engine.infer([make_job(avatar, 1)])
    np.testing.assert_allclose(face.image, avatar.image(1)[32:128, 16:112], atol=1)


def test_a_face_is_cut_once(mirror_engine: LipEngine) -> None:
    avatar = make_avatar(kind=CountingAvatar)
    for index in (0, 1, 0, 1, 0):
        mirror_engine.infer([make_job(avatar, index)])
    assert cast(CountingAvatar, avatar).seen[0] == [0, 1]


def test_the_cut_faces_take_bounded_memory(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lipreal, "FACE_CACHE_BYTES", 2 * 96 * 96 * 3)
    engine, avatar = LipEngine(cast(Wav2Lip, mirror), "cpu"), make_avatar(kind=CountingAvatar)
    for index in (0, 1, 2, 2, 1, 0):
        engine.infer([make_job(avatar, index)])
    assert cast(CountingAvatar, avatar).seen[0][-4:] == [0, 1, 2, 0]


def test_an_avatar_made_anew_under_the_same_id_shows_its_new_face(mirror_engine: LipEngine) -> None:
    old, new = make_avatar("anna", seed=1), make_avatar("anna", seed=2)
    first, second = (mirror_engine.infer([make_job(avatar)])[0].image.astype(int) for avatar in (old, new))
    assert abs(first - second).mean() > 10


def test_a_cut_face_does_not_keep_its_avatar(mirror_engine: LipEngine) -> None:
    avatar = make_avatar()
    gone = ref(avatar)
    mirror_engine.infer([make_job(avatar)])
    del avatar
    gc.collect()
    assert gone() is None


def test_inference_keeps_to_its_threads_wherever_it_runs(mirror: Mirror) -> None:
    engine, seen = LipEngine(cast(Wav2Lip, mirror), "cpu", threads=1), []

    def work() -> None:
        engine.infer([make_job(make_avatar())])
        seen.append(torch.get_num_threads())

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [1]


def test_a_device_that_is_not_there_is_refused(mirror: Mirror) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(BadRequest, match="no CUDA device"):
        LipEngine(cast(Wav2Lip, mirror), "cuda")


def test_auto_takes_the_device_there_is(mirror: Mirror) -> None:
    assert LipEngine(cast(Wav2Lip, mirror)).device == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_gpu_answers_as_the_cpu_does(engine: LipEngine) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    torch.manual_seed(3)
    net = Wav2Lip(96)
    net.get_parameter("output_block.1.weight").data.mul_(40)
    job = make_job(make_avatar())
    ours, theirs = (each.infer([job])[0].image.astype(int) for each in (engine, LipEngine(net, "cuda")))
    assert abs(ours - theirs).mean() < 4


def test_a_checkpoint_becomes_an_engine(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in Wav2Lip(96).state_dict().items()}
    state = {key: torch.tensor(1 if key.endswith("tracked") else 0.01).expand(shape) for key, shape in shapes.items()}
    torch.save({"state_dict": state}, tmp_path / "wav2lip.pth")
    (face,) = LipEngine.load(tmp_path / "wav2lip.pth", "cpu").infer([make_job(make_avatar())])
    assert face.image.shape == (96, 96, 3)


def pasted(image: Image, box: Sequence[int] = BOX) -> tuple[Image, Image]:
    """The frame before and after `image` is pasted into its box."""
    avatar = make_avatar(box=box)
    return avatar.image(0), paste(Face(make_job(avatar), image))


WHITE: Image = np.full((96, 96, 3), 255, np.uint8)


def test_paste_touches_nothing_outside_the_box() -> None:
    before, after = pasted(WHITE)
    x1, y1, x2, y2 = BOX
    changed = (before != after).any(axis=2)
    assert after.shape == before.shape and after.dtype == np.uint8
    assert changed[y1:y2, x1:x2].any()
    changed[y1:y2, x1:x2] = False
    assert not changed.any()


def test_paste_leaves_the_upper_half_of_the_box_as_it_was() -> None:
    before, after = pasted(WHITE)
    np.testing.assert_array_equal(after[:80], before[:80])


def test_paste_shows_the_face_in_the_middle_of_the_lower_half() -> None:
    _, after = pasted(WHITE)
    assert (after[110, 80] >= 255 - lipreal.MAX_SHIFT).all()


def test_paste_has_no_edge() -> None:
    flat = make_avatar()
    frames = np.full((1, 160, 160, 3), 50, np.uint8)
    avatar = Avatar("flat", frames, flat.boxes[:1], flat.mouth[:1])
    after = paste(Face(make_job(avatar), WHITE)).astype(int)
    assert abs(np.diff(after, axis=0)).max() < 40  # of the 205 that a hard edge would show
    assert abs(np.diff(after, axis=1)).max() < 40


def test_paste_takes_away_a_tint(mirror_engine: LipEngine) -> None:
    avatar = make_avatar()
    (face,) = mirror_engine.infer([make_job(avatar)])
    plain = paste(face).astype(int)
    tinted = paste(Face(face.job, (face.image + np.array([8, 0, 5])).astype(np.uint8))).astype(int)
    assert abs(tinted - plain).max() <= 1


def test_paste_takes_away_no_more_than_a_tint() -> None:
    before, after = pasted(np.zeros((96, 96, 3), np.uint8))
    assert (after[110, 80] <= lipreal.MAX_SHIFT).all()
    assert before[110, 80].min() > 2 * lipreal.MAX_SHIFT


def test_paste_returns_a_picture_of_its_own() -> None:
    before, after = pasted(WHITE)
    assert after.flags.writeable and not np.shares_memory(before, after)


@pytest.mark.parametrize("box", [(-20, -5, 70, 90), (100, 90, 300, 200), (40, 40, 40, 40), (200, 200, 210, 220)])
def test_a_box_that_leaves_the_frame_is_cut_to_it(mirror_engine: LipEngine, box: tuple[int, ...]) -> None:
    (face,) = mirror_engine.infer([make_job(make_avatar(box=box))])
    assert paste(face).shape == (160, 160, 3)
