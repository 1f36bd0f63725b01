"""Barge-in as a ladder, frame by frame: what costs a moment of volume, what a pause, and what ends it."""

from __future__ import annotations

import pytest

from asr.ladder import Ladder, Step, Thresholds, is_back_channel, only_stop, says_stop

COLD = Thresholds().cold_frames


def warm(**limits: float) -> Ladder:
    """A ladder whose avatar has been speaking for a while."""
    ladder = Ladder(explained=lambda: limits.get("explained", 0.0))
    assert run(ladder, "." * (COLD + 1)) == []
    return ladder


def run(ladder: Ladder, frames: str, **about: bool) -> list[tuple[int, Step]]:
    """The steps, with the frame (from 1) at which they came; '#' is a frame of speech."""
    about = {"sounding": True, **about}
    steps = [(i, ladder.push(0.9 if frame == "#" else 0.1, **about)) for i, frame in enumerate(frames, 1)]
    return [(i, step) for i, step in steps if step]


def test_two_frames_duck_ten_hold_twenty_interrupt() -> None:
    assert run(warm(), "#" * 25) == [(2, "duck"), (10, "hold"), (20, "interrupt")]


def test_a_click_changes_nothing() -> None:
    ladder = warm()
    assert run(ladder, "#" + "." * 9) == []
    assert run(ladder, ".") == [(1, "restore")]  # which forgets what it was


def test_a_cough_costs_a_moment_of_volume() -> None:
    assert run(warm(), "####" + "." * 12) == [(2, "duck"), (14, "restore")]


def test_a_back_channel_is_held_and_restored() -> None:
    ladder = warm()
    assert run(ladder, "#" * 12) == [(2, "duck"), (10, "hold")]
    assert ladder.rung == "hold" and ladder.claims
    assert ladder.hear("uh-huh") is ladder.hear("嗯嗯") is ladder.hear("It's hot") is None
    assert run(ladder, "." * 10, sounding=False) == [(10, "restore")]
    assert not ladder.claims


def test_gaps_inside_speech_are_bridged() -> None:
    assert run(warm(), "###.####.###########.####") == [(2, "duck"), (12, "hold"), (23, "interrupt")]


def test_coughs_in_a_row_are_no_long_speech() -> None:
    steps = [step for _, step in run(warm(), "####......" * 8 + "." * 10)]
    assert "interrupt" not in steps and "hold" not in steps and steps[-1] == "restore"


@pytest.mark.parametrize("text", ["停", "等一下", "别说了！", "stop", "Wait, wait.", "Hold on.", "No, no."])
def test_a_stop_word_interrupts_at_once(text: str) -> None:
    ladder = warm()
    run(ladder, "#" * 8)
    assert ladder.hear(text) == "interrupt"
    assert run(ladder, "#" * 30 + "." * 12) == []


def test_after_an_interruption_the_rest_of_the_speech_is_a_turn() -> None:
    ladder = warm()
    run(ladder, "#" * 20)
    assert not ladder.claims and ladder.rung == "none"
    assert run(ladder, "#" * 40 + "." * 20) == []


def test_the_first_two_seconds_need_320_ms_and_do_not_duck() -> None:
    assert run(Ladder(), "#" * 15) == [(10, "hold")]
    assert run(Ladder(), "####" + "." * 10) == [(14, "restore")]


def test_the_last_300_ms_belong_to_the_next_turn() -> None:
    ladder = warm()
    assert run(ladder, "#" * 5, ending=True) == []
    assert run(ladder, "#" * 40 + "." * 10) == []
    assert not ladder.claims


def test_what_is_explained_by_the_avatars_own_sound_does_not_interrupt() -> None:
    assert run(warm(explained=0.7), "#" * 40) == [(2, "duck"), (10, "hold")]
    assert run(warm(explained=0.6), "#" * 40)[-1] == (20, "interrupt")


def test_in_doubt_only_words_interrupt() -> None:
    ladder = warm()
    assert run(ladder, "#" * 30, doubt=True) == [(2, "duck"), (10, "hold")]
    assert ladder.hear("", doubt=True) is ladder.hear("okay", doubt=True) is None
    assert ladder.hear("what is the price", doubt=True) == "interrupt"


def test_speech_while_the_avatar_is_silent_is_a_turn() -> None:
    ladder = warm()
    assert run(ladder, "#" * 40 + "." * 20, sounding=False) == []
    assert not ladder.claims


def test_an_avatar_that_begins_over_a_person_yields() -> None:
    ladder = warm()
    run(ladder, "#" * 30, sounding=False)
    assert run(ladder, "#") == [(1, "interrupt")]


def test_an_avatar_that_ends_while_ducked_leaves_the_speech_a_turn() -> None:
    ladder = warm()
    assert run(ladder, "##") == [(2, "duck")]
    assert run(ladder, "#" * 30, sounding=False) == [(1, "release")]
    assert not ladder.claims


def test_while_the_recogniser_is_asked_silence_decides_later_but_decides() -> None:
    ladder = warm()
    run(ladder, "#" * 12)
    assert run(ladder, "." * 39, sounding=False, asking=True) == []
    assert run(ladder, ".", sounding=False, asking=True) == [(1, "restore")]


def test_a_flush_by_others_leaves_the_speech_a_turn() -> None:
    ladder = warm()
    run(ladder, "#" * 12)
    ladder.quiet()
    assert run(ladder, "#" * 20 + "." * 12) == []


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("停", True),
        ("停停停", True),
        ("不对", True),
        ("等一下，我想问", True),
        ("Please stop.", True),
        ("Shut up!", True),
        ("No, no, number", True),
        ("停车场在哪里", False),
        ("No problem.", False),
        ("I know that", False),
        ("嗯", False),
        ("", False),
        ("the bus will stop right there at the corner", False),
    ],
)
def test_stop_words_are_known_in_both_languages(text: str, stops: bool) -> None:
    assert says_stop(text) is stops


@pytest.mark.parametrize(
    ("text", "only"),
    [
        ("Stop!", True),
        ("停停停", True),
        ("等一下，等等", True),
        ("Please stop now.", True),
        ("请你停一下", True),
        ("Wait, why?", False),
    ],
)
def test_what_says_nothing_else_needs_no_answer(text: str, only: bool) -> None:
    assert only_stop(text) is only


@pytest.mark.parametrize(
    ("text", "is_one"), [("嗯嗯", True), ("Uh-huh.", True), ("I see, okay.", True), ("对对对", True), ("why", False)]
)
def test_back_channels_are_known_in_both_languages(text: str, is_one: bool) -> None:
    assert is_back_channel(text) is is_one


def test_a_hint_of_speech_ducks_and_its_end_gives_the_voice_back() -> None:
    ladder = warm()
    steps = [ladder.push(probability, sounding=True) for probability in (0.1, 0.4, 0.4, *[0.1] * 12)]
    assert steps[:3] == [None, None, "duck"]
    assert [step for step in steps[3:] if step] == ["release"] and ladder.rung == "none"
