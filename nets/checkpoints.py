"""Networks as files: the published checkpoints and ours, read without executing anything that is in them."""

from __future__ import annotations

import pickle
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from core.errors import BadRequest
from nets.lips import Lips
from nets.wav2lip import PUBLISHED, Layout, Wav2Lip

MOST_PARAMETERS = 200_000_000  # of a network that a file describes

# All that torch's unpickler has been seen to raise over broken bytes, besides its own error.
DAMAGE = (AssertionError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError, struct.error)


def make(layout: Layout) -> Wav2Lip:
    """A network of `layout`, untrained."""
    return Lips(layout) if layout.layers else Wav2Lip(layout)


def save_wav2lip(path: Path, net: Wav2Lip, **about: str) -> None:
    """Write `net` as float16 with its layout, and `about` it whatever is said; `load_wav2lip` reads it."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state, "layout": asdict(net.layout), "about": about}, path)


def load_wav2lip(path: Path) -> Wav2Lip:
    """The network of a checkpoint, float32 on the CPU, in eval mode. Blocking, about 1 s.

    The file holds a state dict, or `{"state_dict": …}` and whatever training left beside it; a `module.` before the
    keys is ignored. Its `layout` tells its shape, or if it has none, its keys. Nothing in it is executed. BadRequest if
    it is missing, damaged, or of another network.
    """
    loaded = read_weights(path)
    state = loaded.get("state_dict", loaded)
    if not isinstance(state, dict):
        raise BadRequest(f"'{path.name}' holds no state dict")
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    try:
        with torch.device("meta"):
            net = make(_layout(loaded.get("layout"), state))
        if sum(parameter.numel() for parameter in net.parameters()) > MOST_PARAMETERS:
            raise ValueError("a network too large")
        net.load_state_dict(state, assign=True)
    except DAMAGE as error:
        raise BadRequest(
            f"'{path.name}' holds another network than Wav2Lip of size 96 or 256, or one of ours"
        ) from error
    return net.float().eval()


def _layout(told: Any, state: dict[str, Any]) -> Layout:
    if told is None:
        return PUBLISHED[256 if "face_encoder_blocks.7.0.conv_block.0.weight" in state else 96]
    return TypeAdapter(Layout).validate_python(Layout(**told))


def read_weights(path: Path) -> dict[str, Any]:
    """What the file of weights `path` holds, on the CPU. Nothing in it is executed. Blocking.

    BadRequest if it is missing or damaged, holds more than weights, or no dict.
    """
    if not path.is_file():
        raise BadRequest(f"there are no weights '{path.name}'")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadRequest(f"'{path.name}' holds more than weights, or is damaged: it was not loaded") from error
    except DAMAGE as error:
        raise BadRequest(f"'{path.name}' is damaged, or no file of weights") from error
    if not isinstance(loaded, dict):
        raise BadRequest(f"'{path.name}' holds no state dict")
    return loaded
