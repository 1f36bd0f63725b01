"""Who speaks, against the spectrum worked out from its definition and against what Resemblyzer answered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from core.audio import decode_audio
from core.errors import BadRequest
from core.media import Pcm
from nets.speaker import BANDS, WIDTH, Speaker, load_speaker, mel_power, part_starts
from tests.conftest import SHARED
from tests.test_mel import slaney_hz, speechlike

WEIGHTS = Path(__file__).parent.parent / "models" / "speaker.pt"
SPEECH = SHARED / "data" / "speech"
fetched = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the model 'speaker' has not been fetched")
shared = pytest.mark.skipif(not SPEECH.is_dir(), reason="needs ../shared/data/speech")


@pytest.fixture(scope="module")
def net() -> Speaker:
    torch.manual_seed(0)
    return Speaker().eval()


def whole_mel(pcm: Pcm) -> np.ndarray:
    """(1 + n // 160, 40) by one direct Fourier sum a column, triangles by interpolation."""
    top = 15 + np.log(8) * 27 / np.log(6.4)
    edges = [slaney_hz(mel) for mel in np.linspace(0, top, 42)]
    bins = [40.0 * k for k in range(201)]
    triangles = [
        np.interp(bins, [low, centre, high], [0, 2 / (high - low), 0])
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False)
    ]
    n = np.arange(400)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(201), n) / 400) * (0.5 - 0.5 * np.cos(2 * np.pi * n / 400))
    padded = np.pad(pcm.astype(np.float64), 200)
    power = [np.abs(waves @ padded[at : at + 400]) ** 2 for at in range(0, len(pcm) + 1, 160)]
    return np.asarray(np.array(power) @ np.array(triangles).T)


@pytest.mark.parametrize("samples", [1, 159, 160, 5000])
def test_the_spectrum_is_what_its_definition_says(samples: int) -> None:
    mel = mel_power(speechlike(samples))
    assert mel.dtype == np.float32
    assert mel.shape == (1 + samples // 160, BANDS)
    np.testing.assert_allclose(mel, whole_mel(speechlike(samples)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "starts"),
    [
        (1, [0]),
        (25_600, [0]),
        (31_519, [0]),
        (31_520, [0, 77]),
        (48_000, [0, 77, 154]),
        (80_000, [0, 77, 154, 231, 308]),
    ],
)
def test_a_sound_is_heard_in_parts_that_overlap(samples: int, starts: list[int]) -> None:
    assert part_starts(samples) == starts


def test_a_voice_is_a_unit_vector_without_negative_parts(net: Speaker) -> None:
    likeness = net.embed(speechlike(40_000))
    assert likeness.shape == (WIDTH,)
    assert likeness.dtype == np.float32
    assert likeness.min() >= 0
    assert np.linalg.norm(likeness) == pytest.approx(1, abs=1e-5)


def test_what_is_quiet_is_raised_to_one_level(net: Speaker) -> None:
    pcm = speechlike(40_000)
    np.testing.assert_allclose(net.embed(pcm * 0.01), net.embed(pcm * 0.03), atol=1e-5)


def test_what_is_loud_stays_as_it_is(net: Speaker) -> None:
    assert np.abs(net.embed(speechlike(40_000)) - net.embed(speechlike(40_000) * 2)).max() > 1e-4


def test_less_than_a_part_is_followed_by_silence(net: Speaker) -> None:
    pcm = speechlike(8000)
    level = np.sqrt(np.mean(pcm.astype(np.float64) ** 2))
    assert level > 10 ** (-30 / 20)  # or it would be raised, and the longer one more
    np.testing.assert_allclose(net.embed(pcm), net.embed(np.pad(pcm, (0, 17_600))), atol=1e-5)


@pytest.mark.parametrize("pcm", [np.zeros(0, np.float32), np.zeros(16_000, np.float32)])
def test_silence_is_nobodys_voice(net: Speaker, pcm: Pcm) -> None:
    with pytest.raises(ValueError, match="nobody"):
        net.embed(pcm)


def test_sound_that_is_no_number_is_refused(net: Speaker) -> None:
    with pytest.raises(ValueError, match="nobody"):
        net.embed(np.full(16_000, np.nan, np.float32))


def test_published_weights_are_read_without_what_only_training_used(tmp_path: Path, net: Speaker) -> None:
    state = {**net.state_dict(), "similarity_weight": torch.ones(1), "similarity_bias": torch.ones(1)}
    torch.save({"step": 1, "model_state": state}, tmp_path / "speaker.pt")
    back = load_speaker(tmp_path / "speaker.pt")
    assert not back.training
    np.testing.assert_array_equal(back.embed(speechlike(40_000)), net.embed(speechlike(40_000)))


@pytest.mark.parametrize("content", [{}, {"model_state": {}}, {"model_state": 3}, {"model_state": {1: 2}}])
def test_another_networks_weights_are_refused(tmp_path: Path, content: dict[str, object]) -> None:
    torch.save(content, tmp_path / "speaker.pt")
    with pytest.raises(BadRequest, match=r"'speaker.pt' does not hold"):
        load_speaker(tmp_path / "speaker.pt")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"no weights 'speaker.pt'"):
        load_speaker(tmp_path / "speaker.pt")


@fetched
def test_it_answers_as_resemblyzer_does() -> None:
    """The numbers are `VoiceEncoder.embed_utterance` of Resemblyzer 0.1.4, librosa 0.11.0, after its normalisation."""
    likeness = load_speaker(WEIGHTS).embed(speechlike(80_000) * np.float32(0.05))
    theirs = [0.06288, 0.00071, 0, 0, 0.01709, 0.03156, 0, 0.03909, 0.00805, 0.11074, 0.08273, 0.01861]
    np.testing.assert_allclose(likeness[:12], theirs, atol=2e-5)
    assert likeness.argmax() == 62
    assert likeness.max() == pytest.approx(0.1988, abs=2e-5)


@fetched
@shared
def test_one_voice_is_more_like_itself_than_like_another() -> None:
    net = load_speaker(WEIGHTS)
    said = [json.loads(line) for line in (SPEECH / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    files = {voice: [line["file"] for line in said if line["voice"] == voice] for voice in ("zf_xiaoyi", "am_onyx")}
    one, again, other = (
        net.embed(decode_audio(SPEECH / file)) for file in (*files["zf_xiaoyi"][:2], files["am_onyx"][0])
    )
    assert one @ again > 0.8 > 0.7 > one @ other
