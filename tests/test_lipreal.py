"""The engine's answers, what it shows the network, and the paste-back."""

import gc
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import Any, cast
from weakref import ref

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import lipreal
from basereal import Choice
from core.avatar import LEFT_EYE, LOWER_INNER, NOSE_BASE, OVAL, RIGHT_EYE, Avatar
from core.config import Settings
from core.errors import BadRequest
from core.frames import Frames
from core.media import Engine, Face, FaceJob, Image
from core.square import BELOW_NOSE, EYES_TO_NOSE, SIDE
from lipreal import LipEngine, LipReal, paste_box, paste_layers
from nets.checkpoints import save_wav2lip
from nets.lips import Layers, compose, our_layout
from nets.wav2lip import PUBLISHED, Wav2Lip
from tests.fakes.house import doubles
from tests.fakes.nets import mouth, random_net

BOX = (30, 20, 130, 140)  # 100 × 120


def noise(*shape: int, seed: int = 0) -> Image:
    """Soft random colours: coarse noise, enlarged."""
    coarse = np.random.default_rng(seed).integers(40, 200, (shape[0], -(-shape[1] // 16), -(-shape[2] // 16), 3))
    return np.kron(coarse, np.ones((1, 16, 16, 1), int)).astype(np.uint8)[:, : shape[1], : shape[2]]


def make_avatar(
    name: str = "anna", frames: int = 3, seed: int = 0, box: Sequence[int] = BOX, kind: type[Avatar] = Avatar
) -> Avatar:
    pictures = Frames.of(noise(frames, 160, 160, seed=seed))
    return kind(name, pictures, np.array([box] * frames, np.int32))


def landmarks_of(x: float, y: float, side: float) -> NDArray[np.float32]:
    """Landmarks (46, 2) of a face around whose open mouth the square of `side` lies with its middle at x and y."""
    landmarks = np.zeros((46, 2), np.float32)
    landmarks[:8] = mouth(0.1)[0].numpy() * side + [x, y]
    unit = side / SIDE
    landmarks[NOSE_BASE] = x, y - BELOW_NOSE * unit
    eyes_y = landmarks[NOSE_BASE, 1] - unit / EYES_TO_NOSE
    landmarks[LEFT_EYE], landmarks[RIGHT_EYE] = (x - unit / 2, eyes_y), (x + unit / 2, eyes_y)
    turn = np.arange(36) * np.pi / 18
    landmarks[OVAL] = np.stack([x + unit * np.sin(turn), y - unit * np.cos(turn)], axis=1)
    return landmarks


def landmarked(x: float = 80, y: float = 80, side: float = 96, size: int = 160) -> Avatar:
    """One frame of fine noise, all of it different from pixel to pixel."""
    frames = np.random.default_rng(5).integers(20, 230, (1, size, size, 3)).astype(np.uint8)
    return Avatar("anna", Frames.of(frames), np.array([BOX], np.int32), landmarks_of(x, y, side)[None])


def make_job(avatar: Avatar, index: int = 0, seed: int = 0) -> FaceJob:
    window = np.random.default_rng(seed).normal(0, 2, (80, 16)).clip(-4, 4).astype(np.float32)
    return FaceJob(epoch=0, tick=index, window=window, avatar=avatar, avatar_index=index, due=1e9)


class Mirror(nn.Module):
    """Stands in for Wav2Lip: remembers what it is shown and answers the whole face."""

    layout = PUBLISHED[96]

    def fold(self) -> "Mirror":
        return self

    def identity(self, face: Tensor) -> tuple[Tensor, ...]:
        self.face = face.float()
        return (face[:, 3:],)

    def speak(self, mel: Tensor, identity: Sequence[Tensor]) -> Tensor:
        self.mel = mel.float()
        return identity[0]


@dataclass(frozen=True, eq=False)
class CountingAvatar(Avatar):
    """Counts how often its pictures are looked at."""

    seen: list[int] = field(default_factory=list)

    def image(self, index: int) -> Image:
        self.seen.append(index)
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
    return LipEngine(random_net(PUBLISHED[96], seed=3), "cpu")


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
    assert abs(together[0] - together[1]).mean() > 2


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


def test_a_face_is_looked_at_once(mirror_engine: LipEngine) -> None:
    avatar = make_avatar(kind=CountingAvatar)
    for index in (0, 1, 0, 1, 0):
        mirror_engine.infer([make_job(avatar, index)])
    assert cast(CountingAvatar, avatar).seen == [0, 1]


def test_what_is_known_of_faces_takes_bounded_memory(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    number_bytes = torch.empty(0, dtype=lipreal._dtype("cpu")).element_size()
    monkeypatch.setattr(lipreal, "IDENTITY_BYTES", {"cpu": 2 * 96 * 96 * 3 * number_bytes})
    engine, avatar = LipEngine(cast(Wav2Lip, mirror), "cpu"), make_avatar(kind=CountingAvatar)
    answers = [engine.infer([make_job(avatar, index)])[0].image for index in (0, 1, 2, 2, 1, 0)]
    assert cast(CountingAvatar, avatar).seen == [0, 1, 2, 2]
    np.testing.assert_array_equal(np.stack(answers[:3]), np.stack(answers[:2:-1]))


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that compute with float32 wherever they are."""
    monkeypatch.setattr(lipreal, "_dtype", lambda device: torch.float32)


@pytest.mark.parametrize("size", [96, 256])
def test_a_published_engine_answers_what_the_whole_network_does(exact: None, size: int) -> None:
    net = random_net(PUBLISHED[size])
    image = noise(1, 300, 300)
    avatar = Avatar("anna", Frames.of(image), np.array([(20, 30, 20 + size, 30 + size)], np.int32))
    job = make_job(avatar)
    whole = torch.from_numpy(image[0, 30 : 30 + size, 20 : 20 + size]).permute(2, 0, 1)[None] / 255
    masked = whole.clone()
    masked[:, :, size // 2 :] = 0
    with torch.inference_mode():
        expected = net(torch.from_numpy(job.window)[None, None], torch.cat((masked, whole), dim=1))
    (face,) = LipEngine(net, "cpu").infer([job])
    np.testing.assert_allclose(face.image, 255 * expected[0].permute(1, 2, 0), atol=0.6)


def test_our_engine_answers_the_layers_of_the_square_as_float16(exact: None) -> None:
    net, avatar = random_net(our_layout(0.25)), landmarked(79.5, 83.5, 128)
    job = make_job(avatar)
    seen = torch.from_numpy(avatar.image(0)[20:148, 16:144].copy()).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        points = (torch.from_numpy(landmarks_of(79.5, 83.5, 128)[None, :8]) - torch.tensor([79.5, 83.5])) / 128
        expected = net(torch.from_numpy(job.window)[None, None], seen, points)
    (face,) = LipEngine(net, "cpu").infer([job])
    assert face.image.dtype == np.float16
    numbers = np.concatenate([part[0].permute(1, 2, 0).numpy().ravel() for part in expected])
    np.testing.assert_allclose(face.image, numbers, atol=2e-3)


def test_our_engine_knows_a_frame_s_mouth_from_another_s(exact: None) -> None:
    shut = landmarks_of(80, 80, 96)
    shut[LOWER_INNER] -= (0, 9)
    image = landmarked().image(0)
    frames, boxes = Frames.of(np.stack([image, image])), np.array([BOX, BOX], np.int32)
    avatar = Avatar("anna", frames, boxes, np.stack([landmarks_of(80, 80, 96), shut]))
    engine = LipEngine(random_net(our_layout(0.25)), "cpu")
    together = [face.image for face in engine.infer([make_job(avatar, 0), make_job(avatar, 1)])]
    again = [engine.infer([make_job(avatar, index)])[0].image for index in (0, 1)]
    assert abs(together[0].astype(float) - together[1]).max() > 0.1
    np.testing.assert_allclose(np.stack(again), np.stack(together), atol=2e-3)


@pytest.mark.parametrize("square", [(79.5, 83.5, 128), (60, 70, 300), (0, 160, 50), (900, 900, 40), (80, 80, 9e6)])
def test_our_engine_answers_for_squares_of_any_size_anywhere(square: tuple[float, float, float]) -> None:
    engine = LipEngine(random_net(our_layout(0.25)), "cpu")
    (face,) = engine.infer([make_job(landmarked(*square))])
    assert np.isfinite(face.image).all()
    assert paste_layers(face).shape == (160, 160, 3)


def test_a_network_of_a_size_of_its_own_has_an_engine() -> None:
    layout = our_layout(0.25)
    small = replace(layout, size=64, encoder=layout.encoder[:-1], decoder=layout.decoder[:-1])
    (face,) = LipEngine(random_net(small), "cpu").infer([make_job(landmarked())])
    assert face.image.shape == (32 * 48 * 4 + 16 * 16 * 2,)


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
    job = make_job(make_avatar())
    there = LipEngine(random_net(PUBLISHED[96], seed=3), "cuda")
    ours, theirs = (each.infer([job])[0].image.astype(int) for each in (engine, there))
    assert abs(ours - theirs).mean() < 4


def test_a_checkpoint_becomes_an_engine(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in Wav2Lip(PUBLISHED[96]).state_dict().items()}
    state = {key: torch.tensor(1 if key.endswith("tracked") else 0.01).expand(shape) for key, shape in shapes.items()}
    torch.save({"state_dict": state}, tmp_path / "wav2lip.pth")
    (face,) = LipEngine.load(tmp_path / "wav2lip.pth", "cpu").infer([make_job(make_avatar())])
    assert face.image.shape == (96, 96, 3)


def pasted(image: Image, box: Sequence[int] = BOX) -> tuple[Image, Image]:
    """The frame before and after `image` is pasted into its box."""
    avatar = make_avatar(box=box)
    return avatar.image(0), paste_box(Face(make_job(avatar), image))


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
    frames = Frames.of(np.full((1, 160, 160, 3), 50, np.uint8))
    avatar = Avatar("flat", frames, flat.boxes[:1])
    after = paste_box(Face(make_job(avatar), WHITE)).astype(int)
    assert abs(np.diff(after, axis=0)).max() < 40  # of the 205 that a hard edge would show
    assert abs(np.diff(after, axis=1)).max() < 40


def test_paste_takes_away_a_tint(mirror_engine: LipEngine) -> None:
    avatar = make_avatar()
    (face,) = mirror_engine.infer([make_job(avatar)])
    plain = paste_box(face).astype(int)
    tinted = paste_box(Face(face.job, (face.image + np.array([8, 0, 5])).astype(np.uint8))).astype(int)
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
    assert paste_box(face).shape == (160, 160, 3)


def test_a_face_in_a_box_keeps_to_the_contour_of_the_face() -> None:
    plain, avatar = make_avatar(), landmarked(80, 90, 40)
    avatar = Avatar("anna", Frames.of(plain.image(0)[None].copy()), plain.boxes[:1], avatar.landmarks)
    changed = (avatar.image(0) != paste_box(Face(make_job(avatar), WHITE))).any(axis=2)
    y, x = np.mgrid[:160, :160]
    away = np.hypot(x - 80, y - 90) / (40 / SIDE)  # of the contour's radius
    assert changed[(away < 0.9) & (y > 85) & (y < 120)].all()
    assert not changed[away > lipreal.FACE_MARGIN + 0.6].any()
    assert (plain.image(0) != paste_box(Face(make_job(plain), WHITE))).any(axis=2)[away > 2].any()


def layers_of(size: int = 128, *, shown: float = 0, right: float = 0, down: float = 0) -> NDArray[np.float16]:
    """Layers that paint noise as far as `shown`, and take each pixel from so far away, in sides of the square."""
    painted, flow = np.zeros((size // 2, 3 * size // 4, 4)), np.zeros((size // 4, size // 4, 2))
    painted[..., :3] = np.random.default_rng(0).random(painted[..., :3].shape)
    painted[..., 3], flow[:] = shown, (right, down)
    return as_answered(painted, flow)


def as_answered(painted: NDArray[np.floating[Any]], flow: NDArray[np.floating[Any]]) -> NDArray[np.float16]:
    return np.concatenate([painted.ravel(), flow.ravel()]).astype(np.float16)


SQUARES = [
    (80, 80, 60),
    (79.5, 83.5, 128),
    (70.3, 91.2, 140),
    (80, 80, 300),
    (3, 150, 90),
    (-70, 80, 60),
    (500, 80, 60),
]


@pytest.mark.parametrize("square", SQUARES)
def test_layers_of_nothing_give_the_frame_back(square: tuple[float, float, float]) -> None:
    avatar = landmarked(*square)
    after = paste_layers(Face(make_job(avatar), layers_of()))
    np.testing.assert_array_equal(after, avatar.image(0))
    assert after.flags.writeable and not np.shares_memory(after, avatar.image(0))


@pytest.mark.parametrize("square", SQUARES)
def test_what_moves_begins_within_the_square(square: tuple[float, float, float]) -> None:
    avatar = landmarked(*square)
    after = paste_layers(Face(make_job(avatar), layers_of(right=0.25, down=-0.25)))
    x, y, side = square
    rows, columns = np.mgrid[:160, :160]
    away = np.maximum(np.abs(columns - x), np.abs(rows - y)) / (side / 2)
    change = np.abs(after.astype(int) - avatar.image(0)).max(axis=2)
    assert change[away > 1].max(initial=0) == 0
    assert not change[away < 0.7].size or change[away < 0.7].mean() > 20


@pytest.mark.parametrize("square", SQUARES)
def test_what_is_painted_begins_softly_within_its_window(square: tuple[float, float, float]) -> None:
    avatar = landmarked(*square)
    after = paste_layers(Face(make_job(avatar), layers_of(shown=1)))
    x, y, side = square
    rows, columns = np.mgrid[:160, :160]
    inside = np.minimum(3 * side / 8 - np.abs(columns - x), side / 4 - np.abs(rows - y)) / side  # from its edge
    change = np.abs(after.astype(int) - avatar.image(0)).max(axis=2)
    assert (change <= 255 * 1.2 * np.maximum(0, inside + 1 / 128) / lipreal.WINDOW_EDGE).all()
    assert not change[inside > 0.1].size or change[inside > 0.1].mean() > 20


def test_layers_show_what_compose_says() -> None:
    avatar = landmarked(79.5, 83.5, 128)
    rng = np.random.default_rng(1)
    painted = np.kron(rng.random((4, 6, 4)), np.ones((16, 16, 1)))
    flow = np.kron((rng.random((4, 4, 2)) - 0.5) / 8, np.ones((8, 8, 1)))
    after = paste_layers(Face(make_job(avatar), as_answered(painted, flow)))
    face = torch.from_numpy(avatar.image(0)[20:148, 16:144].copy()).permute(2, 0, 1)[None] / 255
    layers = Layers(*(torch.from_numpy(part).float().permute(2, 0, 1)[None] for part in (painted, flow)))
    expected = 255 * compose(face, layers)[0].permute(1, 2, 0).numpy()
    inner = np.zeros((128, 128), bool)
    inner[16:-16, 16:-16] = True
    inner[32:96, 16:112] = False
    inner[40:88, 24:104] = True
    difference = np.abs(after[20:148, 16:144].astype(int) - expected)[inner]
    assert np.percentile(difference, 99) < 6  # of noise, moved by thirty-seconds of a pixel
    assert difference.mean() < 2


@pytest.mark.parametrize("side", [64, 128, 256])
def test_what_moves_keeps_each_of_its_pixels(side: int) -> None:
    avatar = landmarked(160, 160, side, size=320)
    after = paste_layers(Face(make_job(avatar), layers_of(right=4 / side, down=-2 / side)))
    inside = slice(160 - side // 4, 160 + side // 4)
    moved = avatar.image(0)[inside.start - 2 : inside.stop - 2, inside.start + 4 : inside.stop + 4]
    np.testing.assert_array_equal(after[inside, inside], moved)


def session(engine: LipEngine, avatar: Avatar) -> LipReal:
    return LipReal(1, Choice({"main": avatar}), replace(doubles(), engine=engine))


async def test_an_avatar_without_landmarks_is_refused_by_our_network() -> None:
    engine = LipEngine(random_net(our_layout(0.25)), "cpu")
    with pytest.raises(BadRequest, match="'anna' has no landmarks"):
        session(engine, make_avatar())
    real = session(engine, avatar := landmarked(size=160))
    assert len(LipReal.make_features(engine).push(np.zeros(2000, np.float32))) == 1
    (face,) = engine.infer([make_job(avatar)])
    assert real.paste(face).shape == (160, 160, 3)


async def test_an_avatar_without_landmarks_is_accepted_by_a_published_checkpoint(engine: LipEngine) -> None:
    real = session(engine, avatar := make_avatar())
    assert len(LipReal.make_features(engine).push(np.zeros(3399, np.float32))) == 0
    (face,) = engine.infer([make_job(avatar)])
    assert real.paste(face).shape == (160, 160, 3)


def test_the_published_checkpoint_is_used_where_somebody_put_it_and_else_ours(tmp_path: Path) -> None:
    settings = Settings(models_dir=tmp_path, device="cpu")
    with pytest.raises(BadRequest, match=r"there are no weights 'vivace-lips.pth'"):
        LipReal.make_engine(settings)
    save_wav2lip(tmp_path / "vivace-lips.pth", random_net(our_layout(0.25)))
    assert LipReal.make_engine(settings).layout == our_layout(0.25)
    save_wav2lip(tmp_path / "wav2lip.pth", random_net(our_layout(0.5)))  # a smaller file than a published one
    assert LipReal.make_engine(settings).layout == our_layout(0.5)
    named = settings.model_copy(update={"modelfile": str(tmp_path / "vivace-lips.pth")})
    assert LipReal.make_engine(named).layout == our_layout(0.25)
    missing = settings.model_copy(update={"modelfile": str(tmp_path / "nothing.pth")})
    with pytest.raises(BadRequest, match=r"there are no weights 'nothing.pth'"):
        LipReal.make_engine(missing)
