"""Has the speaker finished? The last words, the melody of the voice, and how long to wait after them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.errors import EngineFailed
from core.media import SAMPLE_RATE, Pcm

Tail = Literal["question", "open", "hesitant", "plain"]

WINDOW_SAMPLES = 8 * SAMPLE_RATE
TRAILING_SAMPLES = SAMPLE_RATE // 5
_N_FFT, _HOP, _BANDS = 400, 160, 80

_OPEN_ZH = (
    "去 到 从 和 跟 与 的 把 被 在 给 向 往 比 让 叫 请 很 太 最 更 也 都 又 再 就 才 因为 所以 如果 要是 假如 虽然 "
    "但是 但 可是 不过 而且 并且 就是 还有 然后 或者 还是 觉得 以为 认为 希望 以外 除了 关于 对于 根据 通过 的话 "
    "的时候 比如 例如 比如说 就是说 我想 我要 我是 一个 一些 那么 另外 首先 其次 甚至 即使 只要 只有 无论 不管 而是"
)
_CLOSED_ZH = "好的 是的 真的 对的 行的 可以的 会的 有的 我的 你的 他的 她的 谢谢你的 过去 回去 上去 下去 出去 进去"
_OPEN_EN = (
    "a an the my your its our their every each another and or but so nor because if when while although though unless "
    "until since that which whose whether than as of for from with without in at to into onto about between during "
    "against like is are am was were be been will would can could should may might must shall i'm i'll i'd it's "
    "there's very really just what's how's where's i we they please let let's don't i've gonna wanna also"
)
_FILLERS_ZH = "嗯 呃 额 唔 那个 这个 就是 怎么说 怎么说呢"
_FILLERS_EN = "um uh er erm hmm mm uhm"
_DIGITS = re.compile(r"\d$|[零〇一二三四五六七八九幺]{3}$")
_EDGE = re.compile(r"[^\w'’]+$")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a silence ends the turn, in ms. `unsure_ms` holds where no network judges the voice."""

    sure_ms: int = 250
    complete_ms: int = 350
    unsure_ms: int = 600
    open_ms: int = 1000
    hesitant_ms: int = 1600
    ceiling_ms: int = 2500

    def wait_ms(self, text: str, complete: float | None = None) -> int:
        """The silence after which `text` is all there is; `complete` is what `SmartTurn` says, or None.

        The words outvote the voice: a sentence left open is open in any melody, and a question mark closes it.
        """
        tail = tail_of(text)
        if tail == "question":
            return self.sure_ms if (complete or 0.0) > 0.9 else self.complete_ms
        if tail == "hesitant":
            return self.hesitant_ms
        if tail == "open":
            return self.open_ms
        if complete is None:
            return self.unsure_ms
        return self.complete_ms if complete > 0.5 else self.open_ms


def tail_of(text: str) -> Tail:
    """How `text` ends: with a question mark, a word that wants another, digits or a filler, or none of these.

    Full stops mean nothing: recognisers write them everywhere.
    """
    text = text.strip().lower().replace("’", "'")
    if text.endswith(("?", "？")):
        return "question"
    text = _EDGE.sub("", text)
    if text.endswith(tuple(_CLOSED_ZH.split())):
        return "plain"
    last = re.split(r"[^\w']+", text)[-1]
    if _DIGITS.search(text) or last in _FILLERS_EN.split() or text.endswith(tuple(_FILLERS_ZH.split())):
        return "hesitant"
    if last in _OPEN_EN.split() or text.endswith(tuple(_OPEN_ZH.split())):
        return "open"
    return "plain"


class SmartTurn:
    """Judges by the sound whether a turn is complete: smart-turn v3 (BSD-2-Clause), Whisper's smallest encoder."""

    def __init__(self, weights: Path) -> None:
        """Blocking, 0.1 s; the file must be there."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])

    def complete(self, pcm: Pcm, silent_samples: int) -> float:
        """The probability that the turn `pcm` (float32 (n,) 16 kHz), its last `silent_samples` silent, is complete.

        Blocking, about 100 ms, any thread. Ask once a pause: more silence makes it say yes. EngineFailed if the network
        gives no answer.
        """
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

        features = log_mel(_window(cropped(pcm, silent_samples)))
        try:
            (answer,) = self._session.run(None, {"input_features": features[None]})
        except (Fail, InvalidArgument, RuntimeException, RuntimeError, ValueError) as error:
            raise EngineFailed(f"smart-turn gave no answer: {error}") from error
        return float(np.ravel(answer)[0])


def find_smart_turn(models: Path) -> SmartTurn | None:
    """The network in `models/smart-turn.onnx`, or None where it was not fetched. Blocking."""
    weights = models / "smart-turn.onnx"
    return SmartTurn(weights) if weights.is_file() else None


def cropped(pcm: Pcm, silent_samples: int) -> Pcm:
    """`pcm` with at most 200 ms of its last `silent_samples`."""
    return pcm[: len(pcm) - max(0, silent_samples - TRAILING_SAMPLES)]


def _window(pcm: Pcm) -> Pcm:
    """The last 8 s, zeros in front if there is less, then zero mean and unit variance over all of it."""
    last = pcm[-WINDOW_SAMPLES:]
    window = np.pad(last, (WINDOW_SAMPLES - len(last), 0))
    return np.asarray((window - window.mean()) / np.sqrt(window.var() + 1e-7), np.float32)


def log_mel(pcm: Pcm) -> NDArray[np.float32]:
    """Whisper's log-mel of `pcm`, float32 (80, n // 160): Hann 400, hop 160, centred by reflection, about [-1, 1.5]."""
    padded = np.pad(pcm, _N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _N_FFT)[::_HOP][:-1]
    power = np.abs(np.fft.rfft(frames * np.hanning(_N_FFT + 1)[:-1])) ** 2  # (n, 201)
    mel = np.log10(np.maximum(_mel_filters() @ power.T, 1e-10))
    return np.asarray((np.maximum(mel, mel.max() - 8) + 4) / 4, np.float32)


@cache
def _mel_filters() -> NDArray[np.float64]:
    """Slaney's triangles of unit area, (80, 201), from 0 to 8000 Hz."""
    top = _to_mel(SAMPLE_RATE / 2)
    edges = _to_hz(np.linspace(0.0, top, _BANDS + 2))[:, None]
    hz = np.fft.rfftfreq(_N_FFT, 1 / SAMPLE_RATE)
    rising = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])


def _to_mel(hz: float) -> float:
    """Slaney's scale above 1000 Hz: 15 mel at 1000 Hz, 27 more for each factor of 6.4."""
    return float(15 + 27 * np.log(hz / 1000) / np.log(6.4))


def _to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))
