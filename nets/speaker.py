"""Who speaks: a voice as a point on a sphere, where what one person says lies close together.

The network of Wan et al., "Generalized End-to-End Loss for Speaker Verification" (2018), in the size and with the
spectrum of the weights that Resemblyzer 0.1.4 publishes (Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize, relu

from core.errors import BadRequest
from core.media import SAMPLE_RATE, Pcm
from nets.checkpoints import DAMAGE, read_weights
from nets.mel import _hz, _mel

WIDTH = 256
BANDS = 40
FFT_SAMPLES = SAMPLE_RATE * 25 // 1000  # 400
HOP_SAMPLES = SAMPLE_RATE * 10 // 1000  # 160
PART_COLUMNS = 160  # 1.6 s, what the network hears at once
PART_STEP = 77  # columns from one part to the next: 1.3 a second
LEAST_COVER = 0.75  # of the last part, if there are others
LEVEL = 10 ** (-30 / 20)  # to which a quieter sound is raised, root mean square

Likeness = NDArray[np.float32]  # (256,) of length 1, all positive: the product of two is their cosine, 0 to 1

_HANN = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_SAMPLES) / FFT_SAMPLES)


class Speaker(nn.Module):
    """1.6 s of mel power to a unit vector. 1.4 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, WIDTH, 3, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, 256), unit and positive, of (B, 160, 40) mel power."""
        _, (hidden, _) = self.lstm(mel)  # (3, B, 256)
        return normalize(relu(self.linear(hidden[-1])), dim=1)

    @torch.inference_mode()
    def embed(self, pcm: Pcm) -> Likeness:
        """Whose voice `pcm` is, float32 (256,), unit: the mean over parts of 1.6 s, two of which overlap by half.

        `pcm` is speech without long pauses. About 15 ms a second of it on one core. ValueError if it holds no sound.
        """
        power = np.mean(pcm.astype(np.float64) ** 2) if len(pcm) else 0.0
        if not power > 0:
            raise ValueError("silence is nobody's voice")
        starts = part_starts(len(pcm))
        samples = (starts[-1] + PART_COLUMNS) * HOP_SAMPLES
        raised = np.pad(pcm * max(1.0, LEVEL / np.sqrt(power)), (0, max(0, samples - len(pcm))))
        mel = torch.from_numpy(mel_power(raised))
        mean = self(torch.stack([mel[start : start + PART_COLUMNS] for start in starts])).mean(dim=0)
        return cast(Likeness, normalize(mean, dim=0).numpy())


def part_starts(samples: int) -> list[int]:
    """The first column of each part of a sound of `samples`. What its end leaves is a part if it fills 3/4 of one."""
    columns = samples // HOP_SAMPLES + 1
    starts = list(range(0, max(1, columns - PART_COLUMNS + PART_STEP + 1), PART_STEP))
    covered = samples / HOP_SAMPLES - starts[-1]
    return starts if len(starts) == 1 or covered >= LEAST_COVER * PART_COLUMNS else starts[:-1]


def mel_power(pcm: Pcm) -> NDArray[np.float32]:
    """(1 + n // 160, 40) mel power of `pcm` (n,); column j is centred on sample 160 * j, and silent beyond the ends."""
    padded = np.pad(pcm.astype(np.float64), FFT_SAMPLES // 2)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::HOP_SAMPLES]  # (k, 400)
    power = np.abs(np.fft.rfft(pieces * _HANN)) ** 2  # (k, 201)
    return (power @ _FILTERS.T).astype(np.float32)


def load_speaker(path: Path) -> Speaker:
    """The network of `path`, float32 on the CPU, in eval mode. BadRequest if it is missing or another network's."""
    net = Speaker()
    try:
        state = {str(key): value for key, value in dict(read_weights(path)["model_state"]).items()}
        net.load_state_dict({key: value for key, value in state.items() if not key.startswith("similarity_")})
    except DAMAGE as error:
        raise BadRequest(f"'{path.name}' does not hold Resemblyzer's network") from error
    return net.float().eval()


def _mel_filters() -> NDArray[np.float64]:
    """Triangles of equal area, (40, 201), evenly spaced on Slaney's mel scale from 0 to 8000 Hz."""
    bins_hz = np.linspace(0, SAMPLE_RATE / 2, FFT_SAMPLES // 2 + 1)
    edges_hz = _hz(np.linspace(0, _mel(SAMPLE_RATE / 2), BANDS + 2))
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)
    triangles: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    return triangles


_FILTERS = _mel_filters()
