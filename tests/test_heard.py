"""What a conversation remembers of what was said: what was heard, and no more."""

from __future__ import annotations

import pytest

from core.heard import Heard


def listen(*played: str) -> Heard:
    """What was played: sentences, and (with a '+') words of them."""
    heard = Heard()
    for what in played:
        if what.startswith("+"):
            heard.word(what[1:])
        else:
            heard.sentence(what)
    return heard


def test_nothing_played_is_nothing_heard() -> None:
    assert Heard().cut() == Heard().whole() == ""
    assert listen("+stray").cut() == ""


def test_an_utterance_that_ended_was_heard_whole() -> None:
    heard = listen("One two three.", "+One", "+two", "+three", "Four five.", "+Four")
    assert heard.whole() == "One two three. Four five."


def test_an_utterance_that_was_cut_ends_with_the_last_word_begun() -> None:
    assert listen("One two three.", "+One", "+two").cut() == "One two"
    assert listen("One two three.", "+One", "+two", "+three", "Four five six.", "+Four").cut() == "One two three. Four"


def test_a_sentence_of_which_no_word_was_begun_was_not_heard() -> None:
    assert listen("One two.", "+One", "+two", "Three four.").cut() == "One two."


def test_the_sentence_before_was_heard_even_without_words() -> None:
    assert listen("One two.", "Three four.", "+Three").cut() == "One two. Three"


def test_a_word_that_comes_twice_is_found_where_it_is_said() -> None:
    assert listen("no, no, no!", "+no", "+no").cut() == "no, no"
    assert listen("the cat the dog", "+the", "+cat", "+the").cut() == "the cat the"


def test_a_word_that_the_voice_pronounces_otherwise_is_passed_over() -> None:
    assert listen("It is 5 o'clock now.", "+It", "+five", "+now").cut() == "It is 5 o'clock now"
    assert listen("It is 5 o'clock now.", "+It", "+five").cut() == "It"


def test_chinese_is_cut_at_its_words_and_joined_without_spaces() -> None:
    assert listen("你好。", "+你好", "今天天气很好。", "+今天", "+天气").cut() == "你好。今天天气"


@pytest.mark.parametrize(
    ("sentences", "text"),
    [
        (["One.", "Two."], "One. Two."),
        (["你好。", "再见。"], "你好。再见。"),
        (["你好。", "Bye."], "你好。Bye."),
        (["Bye.", "再见。"], "Bye. 再见。"),
        ([" One. ", "", "  ", "Two. "], "One. Two."),
    ],
)
def test_sentences_become_running_text(sentences: list[str], text: str) -> None:
    assert listen(*sentences).whole() == text
