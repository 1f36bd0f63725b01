"""When a turn is over: what the last words promise, what the voice says, and how long the silence must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asr.turnend import Patience, SmartTurn, Tail, cropped, find_smart_turn, log_mel, tail_of
from core.errors import EngineFailed
from tests.conftest import SHARED

MODELS = Path(__file__).parent.parent / "models"
PATIENCE = Patience()


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("What time is it?", "question"),
        ("现在几点了？", "question"),
        ("I would like to go to the", "open"),
        ("I went there because.", "open"),
        ("I’m", "open"),
        ("我想要一个红色的。", "open"),
        ("我昨天去了商店，然后", "open"),
        ("如果明天下雨的话，", "open"),
        ("my number is 138 00", "hesitant"),
        ("我的电话是一三八零", "hesitant"),
        ("well, um", "hesitant"),
        ("我觉得嗯……", "hesitant"),
        ("The train leaves at noon.", "plain"),
        ("今天天气很好。", "plain"),
        ("好的。", "plain"),
        ("", "plain"),
        ("…！", "plain"),
    ],
)
def test_the_last_words_tell_whether_more_will_come(text: str, tail: Tail) -> None:
    assert tail_of(text) == tail


def test_a_complete_sentence_ends_the_turn_soon() -> None:
    assert PATIENCE.wait_ms("It is late.", 0.9) == 350


def test_a_question_that_sounds_like_one_ends_it_sooner() -> None:
    assert PATIENCE.wait_ms("Is it late?", 0.95) == 250
    assert PATIENCE.wait_ms("Is it late?", 0.2) == PATIENCE.wait_ms("Is it late?") == 350


def test_a_sentence_left_open_is_waited_for_whatever_its_melody() -> None:
    assert PATIENCE.wait_ms("I went to the", 0.99) == 1000
    assert PATIENCE.wait_ms("I went there.", 0.1) == 1000


def test_digits_and_fillers_are_waited_for_longest() -> None:
    assert PATIENCE.wait_ms("one 23", 0.99) == PATIENCE.wait_ms("um", 0.99) == 1600
    assert PATIENCE.ceiling_ms == 2500


def test_without_the_network_a_plain_ending_takes_a_middle_way() -> None:
    assert PATIENCE.complete_ms < PATIENCE.wait_ms("It is late.") < PATIENCE.open_ms


def test_trailing_silence_is_cropped_to_200_ms() -> None:
    pcm = np.zeros(32_000, np.float32)
    assert len(cropped(pcm, 16_000)) == 32_000 - 16_000 + 3200
    assert len(cropped(pcm, 3000)) == len(cropped(pcm, 0)) == 32_000


def test_log_mel_is_whispers_own() -> None:
    extractor = pytest.importorskip("faster_whisper.feature_extractor").FeatureExtractor(feature_size=80)
    pcm = np.random.default_rng(0).standard_normal(32_000).astype(np.float32) * 0.1
    ours, theirs = log_mel(pcm), extractor(pcm, padding=0)
    assert ours.shape == (80, 200)
    assert np.abs(ours[:, :199] - theirs[:, :199]).max() < 1e-3


def test_where_the_network_was_not_fetched_there_is_none(tmp_path: Path) -> None:
    assert find_smart_turn(tmp_path) is None


def test_the_network_hears_that_a_sentence_was_broken_off() -> None:
    smart_turn = find_smart_turn(MODELS)
    if smart_turn is None or not (SHARED / "data" / "speech").is_dir():
        pytest.skip("models/smart-turn.onnx or ../shared/data/speech is not there")
    from scripts.bench_ears import span, utterances

    whole, broken = [], []
    english = ((text, pcm) for text, pcm in utterances("test") if text.isascii() and len(pcm) > 3 * 16_000)
    for (_, pcm), _ in zip(english, range(6), strict=False):
        begin, end = (int(at * 16_000) for at in span(pcm))
        silence = np.zeros(3200, np.float32)
        whole.append(smart_turn.complete(np.concatenate([pcm[:end], silence]), 3200))
        broken.append(smart_turn.complete(np.concatenate([pcm[: begin + (end - begin) // 2], silence]), 3200))
    assert np.mean(whole) > np.mean(broken) + 0.2


def test_a_network_that_fails_says_so() -> None:
    class Session:
        def run(self, *asked: object) -> list[object]:
            raise RuntimeError("no memory")

    smart_turn = SmartTurn.__new__(SmartTurn)
    smart_turn._session = Session()
    with pytest.raises(EngineFailed, match="smart-turn gave no answer: no memory"):
        smart_turn.complete(np.zeros(16_000, np.float32), 3200)
