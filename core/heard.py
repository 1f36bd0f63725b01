"""What the listener has really heard of an utterance, so that a conversation remembers that and not more."""

from __future__ import annotations

from collections.abc import Iterable


class Heard:
    """The heard text of one utterance, from the marks of its sentences and words as they are played."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._sentence = ""
        self._reached = 0

    def sentence(self, text: str) -> None:
        """A sentence begins, so the one before it was heard."""
        self._done.append(self._sentence)
        self._sentence, self._reached = text, 0

    def word(self, text: str) -> None:
        """A word of the present sentence begins."""
        place = self._sentence.find(text, self._reached)
        if place >= 0:
            self._reached = place + len(text)

    def lose(self) -> None:
        """The rest of the present sentence is not said."""
        self._sentence = self._sentence[: self._reached]

    def whole(self) -> str:
        """Everything begun so far: the utterance ended by itself."""
        return running_text([*self._done, self._sentence])

    def cut(self) -> str:
        """Everything up to the last word begun: the utterance was interrupted."""
        return running_text([*self._done, self._sentence[: self._reached]])


def running_text(parts: Iterable[str]) -> str:
    """Sentences or words as one text: a space after those that end in a Latin letter or sign, none after Chinese."""
    text = ""
    for part in filter(None, (part.strip() for part in parts)):
        text += (" " if text and text[-1].isascii() else "") + part
    return text
