"""More speech for lips to learn from: other voices say the same, and it is known when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from core.audio import decode_audio
from core.media import SAMPLE_RATE, Pcm
from scripts.presenter.more_speech import heard_at, main, say, somebody, voices, write_opus
from tts.kokoro_model import RATE_HZ

SAID: dict[str, Any] = {
    "phonemes": ["<pad>", "b", "ˈ", "A", " ", "b", "i", ".", "<pad>"],
    "durations_ms": [200, 50, 50, 100, 50, 50, 100, 100, 200],
    "aligned_ms": [150, 60, 0, 140, 0, 70, 130, 50, 300],
}


class Model:
    """Says every symbol for 100 ms, loudly but for what is before 100 ms and after 800 ms."""

    asked: Sequence[int]

    def infer(
        self, ids: list[int], styles: NDArray[np.float32], tempo: float, run: object
    ) -> tuple[Pcm, NDArray[np.float64]]:
        self.asked = ids
        samples: Pcm = np.full(RATE_HZ * 9 // 10, 0.9, np.float32)
        samples[: RATE_HZ // 10] = samples[RATE_HZ * 8 // 10 :] = 0
        return samples, np.linspace(0, 900, 10)


def test_a_voice_says_it_as_much_earlier_than_its_symbols_as_the_set_does() -> None:
    symbols = np.cumsum([0.0, *SAID["durations_ms"]])
    edges = heard_at(symbols, SAID)
    np.testing.assert_allclose(np.diff(edges), SAID["aligned_ms"])
    slow = heard_at(2 * symbols, SAID)
    assert (np.diff(slow) >= 0).all() and slow[-1] == 2 * 900


def test_marks_and_spaces_that_take_no_time_take_none_in_another_voice() -> None:
    edges = heard_at(np.linspace(0, 900, 10), SAID)
    heard = np.diff(edges)
    assert heard[[2, 4]].tolist() == [0, 0] and (np.delete(heard, [2, 4]) > 0).all()


def test_times_add_up_to_the_sound_and_begin_where_it_is_heard() -> None:
    model = Model()
    samples, heard = say(model, SAID, np.zeros((510, 256), np.float32), 1.0)  # type: ignore[arg-type]
    assert len(model.asked) == len(SAID["phonemes"]) - 2
    assert sum(heard) == pytest.approx(len(samples) / RATE_HZ * 1000) and np.abs(samples).max() == pytest.approx(0.8)
    assert 80 <= heard[0] <= 200 and heard[-1] == pytest.approx(100, abs=1)


def test_a_blend_lies_between_its_voices() -> None:
    styles = [np.full((510, 256), value, np.float32) for value in (0.0, 1.0, 2.0)]
    blends = [somebody(styles, np.random.default_rng(seed)) for seed in range(20)]
    assert {blend.shape for blend in blends} == {(510, 256)}
    assert all(0 <= blend.min() <= blend.max() <= 2 for blend in blends)
    assert len({float(blend[0, 0]) for blend in blends}) > 10


def test_voices_kept_for_tests_are_not_learned_from(tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    for number, name in enumerate(("af_a", "af_b", "zm_c")):
        np.full((510, 256), number, "<f4").tofile(tmp_path / "voices" / f"{name}.bin")
    assert [float(style[0, 0]) for style in voices(tmp_path, {"af_b"})] == [0, 2]


def test_what_is_written_is_heard_again(tmp_path: Path) -> None:
    time = np.arange(RATE_HZ) / RATE_HZ
    write_opus(tmp_path / "a.opus", (0.5 * np.sin(2 * np.pi * 300 * time)).astype(np.float32))
    pcm = decode_audio(tmp_path / "a.opus")
    assert len(pcm) == pytest.approx(SAMPLE_RATE, abs=SAMPLE_RATE // 25)
    spectrum = np.abs(np.fft.rfft(pcm[4000:12000]))
    assert np.argmax(spectrum) * SAMPLE_RATE / 8000 == pytest.approx(300, abs=4)


def test_a_speech_set_that_is_there_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["", "--speech", str(tmp_path), "--kokoro", str(tmp_path), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", asked)
    with pytest.raises(SystemExit):
        main()
    assert f"{tmp_path} is there already" in capsys.readouterr().err
