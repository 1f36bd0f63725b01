"""Checkpoints good and bad."""

import pickle
import resource
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import BadRequest
from nets.checkpoints import load_wav2lip, make, save_wav2lip
from nets.lips import our_layout
from nets.wav2lip import PUBLISHED
from tests.fakes.nets import random_net
from tests.test_wav2lip import SIZES, State, published_shapes


def thin_state(size: int, dtype: torch.dtype = torch.float32) -> State:
    """A whole checkpoint of a few hundred kB: one random number per row, repeated along the others."""
    torch.manual_seed(0)
    state = {}
    for key, shape in published_shapes(size).items():
        rows = torch.rand(shape[:1], dtype=dtype) if shape else torch.tensor(1)
        state[key] = rows.reshape(-1, *(1,) * (len(shape) - 1)).expand(shape) if shape else rows
    return state


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("wrapped", "prefix"), [(True, "module."), (True, ""), (False, "")])
def test_a_checkpoint_round_trips(tmp_path: Path, size: int, wrapped: bool, prefix: str) -> None:
    state = thin_state(size)
    content: dict[str, Any] = {prefix + key: value for key, value in state.items()}
    if wrapped:
        optimizer = {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}
        content = {"state_dict": content, "optimizer": optimizer, "global_step": 7, "global_epoch": 1}
    net = load_wav2lip(save(tmp_path / "wav2lip.pth", content))
    assert net.layout.size == size
    assert not net.training
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_checkpoint_of_half_precision_loads_as_float32(tmp_path: Path) -> None:
    net = load_wav2lip(save(tmp_path / "half.pth", thin_state(96, torch.float16)))
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


def test_a_checkpoint_in_the_old_format_of_torch_loads(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"state_dict": thin_state(96)}, path, _use_new_zipfile_serialization=False)
    assert load_wav2lip(path).layout.size == 96


@pytest.mark.parametrize("width", [1.0, 0.25])
def test_our_network_round_trips_as_float16_with_its_width(tmp_path: Path, width: float) -> None:
    net, path = random_net(our_layout(width)), tmp_path / "lips.pth"
    save_wav2lip(path, net, name="lips", trained_minutes="1")
    back = load_wav2lip(path)
    assert back.layout == our_layout(width)
    assert {parameter.dtype for parameter in back.parameters()} == {torch.float32}
    kept = {key: value.half().to(value.dtype) for key, value in net.state_dict().items()}
    assert all(torch.equal(value, kept[key]) for key, value in back.state_dict().items())
    assert path.stat().st_size <= 15_000_000


def ours(**wrong: Any) -> dict[str, Any]:
    return asdict(our_layout(0.25)) | wrong


HUGE = 1 << 40
WIDE = tuple((4096, 16) for _ in range(6))


@pytest.mark.parametrize(
    "layout",
    [
        ours(bottom=HUGE),
        ours(head=1 << 90),
        ours(head=-8),
        ours(head=0),
        ours(size="128"),
        ours(size=128.0),
        ours(size=256),
        ours(base=0),
        ours(audio=(16, 48)),
        ours(encoder=((16, HUGE), *our_layout(0.25).encoder[1:])),
        ours(encoder=((16, 0),) * 100_000),
        ours(encoder=WIDE, decoder=(*WIDE, (4096, 16))),
        ours(encoder="many"),
        ours(encoder=()),
        ours(decoder=our_layout(0.25).decoder[1:]),
        ours(layers=1),
        ours(past_columns=-1),
        ours(past_columns=99),
        ours(colour="red"),
        {"size": 128},
        {},
        {1: 2},
        "ours",
        [1, 2, 3],
        asdict(our_layout(0.5)),
        asdict(PUBLISHED[96]),
    ],
    ids=lambda _: "",
)
def test_a_mad_layout_is_refused_before_anything_is_made_of_it(tmp_path: Path, layout: object) -> None:
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in make(our_layout(0.25)).state_dict().items()}
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    path = save(tmp_path / "mad.pth", {"state_dict": state, "layout": layout})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadRequest, match=r"'mad.pth' holds another network"):
        load_wav2lip(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def sam_state() -> State:
    """A relative of size 192: wider at the bottom, with spatial attention."""
    return thin_state(256) | {"sam.sa.conv1.weight": torch.zeros(1, 2, 7, 7)}


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"conv1.weight": torch.zeros(3, 3)}},
        {key: value for key, value in thin_state(96).items() if not key.startswith("audio_encoder.12")},
        sam_state(),
        {**thin_state(96), "output_block.1.bias": torch.zeros(4)},
        {**thin_state(96), "output_block.1.bias": "zeros"},
        [1, 2, 3],
        {"state_dict": 5},
        {},
    ],
    ids=["foreign", "a layer missing", "a layer more", "another shape", "no tensor", "a list", "no dict", "empty"],
)
def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(BadRequest, match=r"'other.pth' holds (another network|no state dict)"):
        load_wav2lip(save(tmp_path / "other.pth", content))


class Burglar:
    """A pickle of this writes a file when it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("plain_pickle", [True, False])
def test_a_pickle_that_holds_code_is_refused_and_not_run(tmp_path: Path, plain_pickle: bool) -> None:
    path, content = tmp_path / "evil.pth", {"state_dict": Burglar(tmp_path / "trace")}
    if plain_pickle:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        save(path, content)
    with pytest.raises(BadRequest, match=r"'evil.pth' holds more than weights"):
        load_wav2lip(path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("keep", [0, 100, 5000])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, keep: int, zipped: bool) -> None:
    path = tmp_path / "cut.pth"
    torch.save(thin_state(96), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadRequest, match=r"'cut.pth' .*damaged"):
        load_wav2lip(path)


def test_an_error_page_saved_as_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.pth"
    path.write_text("<html>404 not found</html>")
    with pytest.raises(BadRequest, match=r"'page.pth' .*damaged"):
        load_wav2lip(path)


def test_a_missing_checkpoint_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as caught:
        load_wav2lip(tmp_path / "gone.pth")
    assert str(caught.value) == "there are no weights 'gone.pth'"
