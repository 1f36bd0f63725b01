"""Language models: what they all are, what they are asked, and a history that keeps what was heard.

A model turns messages into text as it is written. It is shared by all sessions; what fails is EngineFailed, with a
message that a client may read. Who a session talks with, and what that one knows and can do, is a `minds.mind.Mind`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from core.registry import Registry

LLM = Registry("llm", {"openai": "minds.chat:OpenAILLM", "rules": "minds.rules:RuleLLM"})

Message = dict[str, Any]  # {"role": "system" | "user" | "assistant", "content": text}, and what tools add
Tool = Mapping[str, Any]  # a function as OpenAI's chat completions describe it

INTERRUPTED = "…"
MESSAGE_TOKENS = 4  # what a message costs besides its text
OPENAI_URL = "https://api.openai.com/v1"
SYSTEM_PROMPT = (
    "You are a friendly digital human who talks with a visitor. What you write is read out: answer in the visitor's "
    "language, briefly and colloquially, in plain sentences without lists, Markdown or emoji. "
    f"Where an earlier answer of yours ends with {INTERRUPTED} the visitor interrupted it."
)

_CJK = "\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_PIECE = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")


@dataclass(frozen=True, slots=True)
class LLMSettings:
    """Which model answers, and how. The key does not show in `repr`.

    `timeout_s` bounds each wait for more text; `key_env` names the environment variable that should hold the key;
    `temperature` and `max_tokens` (of an answer) are the server's own if None; `history_tokens` is how much of a
    conversation is sent along; `knowledge` a folder of documents; `tools` whether the model may move the avatar.
    """

    api_key: str = field(default="", repr=False)
    base_url: str = ""
    model: str = "qwen-plus"
    system_prompt: str = SYSTEM_PROMPT
    timeout_s: float = 30.0
    key_env: str = ""
    temperature: float | None = None
    max_tokens: int | None = None
    history_tokens: int = 4000
    knowledge: Path | None = None
    tools: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """What a model asks to be done: `arguments` is the JSON text that it wrote, right or wrong."""

    id: str
    name: str
    arguments: str


class History:
    """What one session has said and heard: at most `max_messages` and about `max_tokens`, oldest forgotten first.

    The system prompt and the last question always stay.
    """

    def __init__(self, system: str = SYSTEM_PROMPT, max_messages: int = 40, max_tokens: int = 4000) -> None:
        self._system: list[Message] = [{"role": "system", "content": system}] if system else []
        self._messages: deque[tuple[Message, int]] = deque()
        self._max_messages = max_messages
        self._max_tokens = max_tokens - sum(map(_tokens, self._system))

    @property
    def messages(self) -> list[Message]:
        """What was said and heard, oldest first, without the system prompt."""
        return [message for message, _ in self._messages]

    def ask(self, text: str) -> list[Message]:
        """The messages that put the question `text` to a model. A question never answered counts as interrupted."""
        if self._last_role == "user":
            self.heard("", interrupted=True)
        self._add("user", text)
        while self._too_long() or self._messages[0][0]["role"] != "user":
            self._messages.popleft()
        return [*self._system, *(message for message, _ in self._messages)]

    def heard(self, text: str, *, interrupted: bool = False) -> None:
        """Set the answer to the last question to `text`, all that was heard of it so far."""
        if self._last_role == "assistant":
            self._messages.pop()
        content = text + INTERRUPTED if interrupted else text
        if self._messages and content:
            self._add("assistant", content)

    @property
    def _last_role(self) -> str:
        return self._messages[-1][0]["role"] if self._messages else ""

    def _add(self, role: str, content: str) -> None:
        message = {"role": role, "content": content}
        self._messages.append((message, _tokens(message)))

    def _too_long(self) -> bool:
        tokens = sum(tokens for _, tokens in self._messages)
        return len(self._messages) > 1 and (len(self._messages) > self._max_messages or tokens > self._max_tokens)


def estimate_tokens(text: str) -> int:
    """About how many tokens `text` is: one a CJK character, one for every 4 bytes of any other word."""
    return sum(_length(piece) for piece in _PIECE.findall(text))


def _length(piece: str) -> int:
    if len(piece) == 1:
        return 1
    return -(-len(piece.encode("utf-8", "replace")) // 4)


def _tokens(message: Message) -> int:
    return MESSAGE_TOKENS + estimate_tokens(message["content"])


class BaseLLM(ABC):
    """A chat model. One per process, shared by all sessions, on one event loop: `stream` runs many times at once."""

    def __init__(self, settings: LLMSettings | None = None) -> None:
        self.settings = settings or LLMSettings()

    @abstractmethod
    def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        """The answer to `messages` as it is written; to be closed by whoever leaves it early. Raises EngineFailed."""

    def converse(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> AsyncIterator[str | Call]:
        """As `stream`, and after the text the calls of `tools` that the model asks for; here: none ever."""
        return self.stream(messages)

    def like(self, settings: LLMSettings) -> Self:
        """Such a model with other `settings`, on the same server, through the same connections."""
        return type(self)(settings)

    async def aclose(self) -> None:
        """Give back what the model holds. Idempotent."""
        return


def make_llm(settings: LLMSettings) -> BaseLLM:
    """The model `settings` ask for: an OpenAI-compatible server if they have a key or a server, rules otherwise."""
    name = "openai" if settings.api_key or settings.key_env or settings.base_url else "rules"
    return cast(BaseLLM, LLM.load(name)(settings))
