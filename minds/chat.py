"""Chat over HTTP: any server that speaks OpenAI's chat completions, such as Ollama, vLLM, DashScope or OpenAI."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

import httpx2  # what the OpenAI client is made of
from loguru import logger
from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AsyncStream,
    AuthenticationError,
    DefaultAsyncHttpxClient,
    NotFoundError,
    OpenAIError,
    PermissionDeniedError,
    RateLimitError,
    omit,
)
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall

from core.errors import EngineFailed
from llm import OPENAI_URL, BaseLLM, Call, LLMSettings, Message, Tool

T = TypeVar("T")

MAX_LINE = 32 << 10  # bytes; an event of a few words has less than one thousandth of it
MAX_CALLS = 8
MAX_ARGUMENTS = 4096  # characters
RETRY_S = 0.5  # before the second try, where the server does not say
TRANSIENT = frozenset({429, 500, 502, 503, 504})
MAX_RETRY_S = 2.0  # whoever asks for more than this is not asked again
TOOLS_REFUSED = frozenset({400, 404, 422, 501})  # with these, servers say that a model cannot call tools

_UNSPEAKABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class OpenAILLM(BaseLLM):
    """One model on one server; `client` is one pool of connections, which many may share.

    A busy or failing server is asked a second time, once, if nothing was answered yet.
    """

    def __init__(self, settings: LLMSettings | None = None, client: AsyncOpenAI | None = None) -> None:
        super().__init__(settings)
        self._client = client or _connect(self.settings)
        self._knows_tools = True

    def like(self, settings: LLMSettings) -> Self:
        return type(self)(settings, self._client)

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        async with aclosing(self.converse(messages)) as parts:
            async for part in parts:
                if isinstance(part, str):
                    yield part

    async def converse(
        self, messages: Sequence[Message], tools: Sequence[Tool] = ()
    ) -> AsyncGenerator[str | Call, None]:
        if self.settings.key_env and not self.settings.api_key:
            raise EngineFailed(f"the language model has no key: set {self.settings.key_env} in the environment")
        answer, reached = _Answer(), False
        try:
            async with await self._ask(messages, tools) as chunks:
                reached = True
                _check(chunks.response)
                while (chunk := await self._within(anext(chunks, None))) is not None:
                    if text := answer.read(chunk):
                        yield text
            answer.check()
        except (EngineFailed, OpenAIError, ValueError, TimeoutError) as error:
            sentence = _sentence(error, reached=reached)
            logger.warning("language model {}: {} ({})", self.settings.model, sentence, _kind(error))
            raise EngineFailed(sentence) from error
        for call in answer.calls():
            yield call

    async def _ask(self, messages: Sequence[Message], tools: Sequence[Tool]) -> AsyncStream[ChatCompletionChunk]:
        """The stream of an answer; without `tools` if the server does not take any."""
        if not (tools and self._knows_tools):
            return await self._try_twice(messages, ())
        try:
            return await self._try_twice(messages, tools)
        except APIStatusError as error:
            if error.status_code not in TOOLS_REFUSED:
                raise
        chunks = await self._create(messages, ())
        logger.warning("language model {} cannot call tools", self.settings.model)
        self._knows_tools = False
        return chunks

    async def _try_twice(self, messages: Sequence[Message], tools: Sequence[Tool]) -> AsyncStream[ChatCompletionChunk]:
        try:
            return await self._create(messages, tools)
        except OpenAIError as error:
            if (wait_s := _retry_s(error)) is None:
                raise
        await asyncio.sleep(wait_s)
        return await self._create(messages, tools)

    async def _create(self, messages: Sequence[Message], tools: Sequence[Tool]) -> AsyncStream[ChatCompletionChunk]:
        about = self.settings
        asking = self._client.chat.completions.create(
            model=about.model,
            messages=cast(Any, messages),
            tools=cast(Any, list(tools)) or omit,
            temperature=omit if about.temperature is None else about.temperature,
            max_tokens=omit if about.max_tokens is None else about.max_tokens,
            stream=True,
            timeout=about.timeout_s,
        )
        return await self._within(asking)

    async def _within(self, answer: Awaitable[T]) -> T:
        async with asyncio.timeout(self.settings.timeout_s):
            return await answer

    async def aclose(self) -> None:
        await self._client.close()


def _connect(settings: LLMSettings) -> AsyncOpenAI:
    return AsyncOpenAI(
        api_key=settings.api_key or "none",
        base_url=settings.base_url or OPENAI_URL,
        max_retries=0,
        default_headers={"Accept-Encoding": "identity"},
        http_client=DefaultAsyncHttpxClient(event_hooks={"response": [_bound]}),
    )


@dataclass
class _Pieces:
    """A call as far as it has come."""

    index: int
    id: str
    name: str = ""
    arguments: str = ""


class _Answer:
    """What a stream has brought so far."""

    def __init__(self) -> None:
        self._begun = False
        self._finished = False
        self._calls: list[_Pieces] = []

    def read(self, chunk: ChatCompletionChunk) -> str:
        """The text in `chunk`. ValueError if it is not what the protocol says."""
        text = ""
        try:
            for choice in chunk.choices or ():
                self._finished = self._finished or choice.finish_reason is not None
                text += choice.delta.content or ""
                for piece in choice.delta.tool_calls or ():
                    self._add(piece)
        except (AttributeError, TypeError) as error:
            raise ValueError("not a chunk") from error
        self._begun = self._begun or bool(text)
        return _UNSPEAKABLE.sub("", text)

    def check(self) -> None:
        """EngineFailed if the stream ended before the answer did."""
        if not self._finished:
            raise EngineFailed(f"the language model {'broke off' if self._begun else 'answered nothing'}")

    def calls(self) -> list[Call]:
        return [Call(call.id, call.name, call.arguments) for call in self._calls[:MAX_CALLS] if call.name]

    def _add(self, piece: ChoiceDeltaToolCall) -> None:
        """Servers number the calls of an answer, or give each an id, or both."""
        last = next((call for call in reversed(self._calls) if call.index == piece.index), None)
        if last is None or (piece.id and piece.id != last.id):
            last = _Pieces(piece.index, piece.id or f"call_{len(self._calls)}")
            self._calls.append(last)
        if piece.function:
            last.name = last.name or piece.function.name or ""
            last.arguments += piece.function.arguments or ""
        if len(last.arguments) > MAX_ARGUMENTS or len(self._calls) > MAX_CALLS:
            raise ValueError("too many calls")


async def _bound(response: httpx2.Response) -> None:
    """Make `response` fail rather than buffer a line without an end."""
    response.stream = _Lines(cast(httpx2.AsyncByteStream, response.stream))


class _Lines(httpx2.AsyncByteStream):
    """A body as it comes; EngineFailed where a line is longer than `MAX_LINE` and still not at its end."""

    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = 0
        async for data in self._body:
            newline = data.rfind(b"\n")
            length = length + len(data) if newline < 0 else len(data) - newline - 1
            if length > MAX_LINE:
                raise EngineFailed("the language model sent a line that is too long")
            yield data

    async def aclose(self) -> None:
        await self._body.aclose()


def _check(response: httpx2.Response) -> None:
    if "html" in response.headers.get("content-type", ""):
        raise EngineFailed("the language model's address answers with a web page")


def _retry_s(error: OpenAIError) -> float | None:
    """How long to wait before asking again, in seconds; None: not at all."""
    if isinstance(error, APIStatusError):
        return _retry_after_s(error.response.headers.get("retry-after")) if error.status_code in TRANSIENT else None
    return 0.0 if isinstance(error, APIConnectionError) and not isinstance(error, APITimeoutError) else None


def _retry_after_s(header: str | None) -> float | None:
    if header is None:
        return RETRY_S
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", header.strip()):
        return None
    return wait_s if (wait_s := float(header)) <= MAX_RETRY_S else None


def _sentence(error: Exception, *, reached: bool) -> str:
    """What a client is told: never the server's own words."""
    match error:
        case EngineFailed():
            return str(error)
        case TimeoutError() | APITimeoutError():
            return "the language model did not answer in time"
        case AuthenticationError() | PermissionDeniedError():
            return "the language model's server refused the key"
        case NotFoundError():
            return "the language model's server knows no such model"
        case RateLimitError():
            return "the language model is too busy"
        case APIStatusError():
            return "the language model's server refused or failed"
        case APIConnectionError():
            return "the language model broke off" if reached else "the language model could not be reached"
        case ValueError():
            return "the language model sent what cannot be read"
    return "the language model failed"


def _kind(error: Exception) -> str:
    return f"HTTP {error.status_code}" if isinstance(error, APIStatusError) else type(error).__name__
