"""What SyncNet answers, and which files it is read from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.errors import BadRequest
from nets.checkpoints import save_wav2lip
from nets.lips import our_layout
from nets.syncnet import SIZE, TICKS, VISEMES, SyncNet, load_syncnet
from tests.fakes.nets import random_net


@pytest.fixture(scope="module")
def net() -> SyncNet:
    torch.manual_seed(0)
    return SyncNet().eval()


def test_mouths_and_sounds_become_unit_vectors(net: SyncNet) -> None:
    with torch.inference_mode():
        seen, heard = net.see(torch.rand(3, TICKS, SIZE, SIZE)), net.hear(torch.randn(4, 1, 80, 16))
    assert seen.shape == (3, SyncNet.WIDTH) and heard.shape == (4, SyncNet.WIDTH)
    torch.testing.assert_close(torch.cat([seen, heard]).norm(dim=1), torch.ones(7))


def test_either_side_tells_the_visemes_of_each_tick(net: SyncNet) -> None:
    with torch.inference_mode():
        seen, heard = net.see(torch.rand(3, TICKS, SIZE, SIZE)), net.hear(torch.randn(4, 1, 80, 16))
        assert net.shapes(seen).shape == (3, TICKS * VISEMES)
        assert net.shapes(heard).shape == (4, TICKS * VISEMES)


def test_brighter_mouths_are_the_same_mouths(net: SyncNet) -> None:
    mouths = torch.rand(2, TICKS, SIZE, SIZE) / 2
    with torch.inference_mode():
        torch.testing.assert_close(net.see(mouths), net.see(mouths + 0.3), atol=1e-4, rtol=0)


def test_the_order_of_mouths_matters(net: SyncNet) -> None:
    mouths = torch.rand(1, TICKS, SIZE, SIZE)
    with torch.inference_mode():
        assert (net.see(mouths) - net.see(mouths.flip(1))).abs().max() > 1e-3


def test_it_is_small() -> None:
    assert sum(parameter.numel() for parameter in SyncNet().parameters()) < 1_300_000


def test_it_is_read_as_float32_from_half_precision(tmp_path: Path, net: SyncNet) -> None:
    torch.save({key: value.half() for key, value in net.state_dict().items()}, tmp_path / "sync.pth")
    back = load_syncnet(tmp_path / "sync.pth")
    assert not back.training
    assert {parameter.dtype for parameter in back.parameters()} == {torch.float32}
    for key, value in net.state_dict().items():
        torch.testing.assert_close(back.state_dict()[key], value, atol=1e-3, rtol=1e-3)


def test_the_weights_of_lips_are_refused(tmp_path: Path) -> None:
    save_wav2lip(tmp_path / "lips.pth", random_net(our_layout(0.25)))
    with pytest.raises(BadRequest, match=r"'lips.pth' holds no SyncNet of ours"):
        load_syncnet(tmp_path / "lips.pth")


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"<html>not found</html>", b"PK\x03\x04"])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "page.pth").write_bytes(content)
    with pytest.raises(BadRequest, match=r"'page.pth'"):
        load_syncnet(tmp_path / "page.pth")


def test_a_missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as caught:
        load_syncnet(tmp_path / "gone.pth")
    assert str(caught.value) == "there are no weights 'gone.pth'"
