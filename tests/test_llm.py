"""LLM promises: text as it is written, clean errors, a closed stream; and a history of what was heard."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from core.errors import EngineFailed
from core.media import Utterance
from llm import BaseLLM, History, LLMSettings, OpenAILLM, RuleLLM, calculate, make_llm
from speech import voice
from tests.fakes.openai_server import Act, OpenAIServer
from tests.fakes.turns import Script, marks
from ttsreal import closing

ASKED = [{"role": "user", "content": "Hi"}]


def model_of(server: OpenAIServer, timeout_s: float = 5.0) -> OpenAILLM:
    return OpenAILLM(LLMSettings("key", server.url, "fake-model", timeout_s=timeout_s))


async def answer(model: BaseLLM, question: str = "Hi") -> str:
    return "".join([text async for text in model.stream([{"role": "user", "content": question}])])


# OpenAI-compatible servers


async def test_text_comes_as_it_is_written() -> None:
    async with OpenAIServer(["Hel", "lo", Act.HANG]) as server:
        model = model_of(server)
        async with closing(model.stream(ASKED)) as texts:
            assert [await anext(texts), await anext(texts)] == ["Hel", "lo"]
        await model.aclose()


async def test_the_request_names_model_and_messages() -> None:
    async with OpenAIServer(["Hi"]) as server:
        model = model_of(server)
        await answer(model, "How are you?")
        await model.aclose()
    (asked,) = server.asked
    assert asked["model"] == "fake-model"
    assert asked["stream"] is True
    assert asked["messages"] == [{"role": "user", "content": "How are you?"}]


async def test_chunks_without_choices_or_content_are_skipped() -> None:
    async with OpenAIServer([Act.NO_CONTENT, "a", Act.NO_CHOICES, Act.COMMENT, "", "b"]) as server:
        model = model_of(server)
        assert await answer(model) == "ab"
        await model.aclose()


@pytest.mark.parametrize(
    "script",
    [[Act.DROP], ["One. ", Act.DROP], ["One. ", Act.STOP], ["One. ", Act.ERROR], ["One. ", Act.GARBAGE]],
)
async def test_an_answer_that_breaks_off_is_an_error(script: list[str | float | Act]) -> None:
    async with OpenAIServer(script) as server:
        model = model_of(server)
        with pytest.raises(EngineFailed, match=r"^the language model (failed|broke off)$"):
            await answer(model)
        await model.aclose()


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
async def test_an_error_status_is_told_without_the_servers_words(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._constants.INITIAL_RETRY_DELAY", 0.0)
    async with OpenAIServer(status=status) as server:
        model = model_of(server)
        with pytest.raises(EngineFailed, match=r"^the language model failed$"):
            await answer(model)
        await model.aclose()


@pytest.mark.parametrize("script", [[Act.HANG], ["One. ", Act.HANG], [*[Act.COMMENT, 0.02] * 100]])
async def test_a_model_that_gives_nothing_in_time_has_failed(script: list[str | float | Act]) -> None:
    async with OpenAIServer(script) as server:
        model = model_of(server, timeout_s=0.2)
        with pytest.raises(EngineFailed, match="in time"):
            await answer(model)
        await model.aclose()


async def test_a_server_that_is_not_there_has_failed() -> None:
    async with OpenAIServer() as server:
        model = model_of(server)
    with pytest.raises(EngineFailed, match=r"^the language model failed$"):
        await answer(model)
    await model.aclose()


async def test_closing_the_stream_hangs_up() -> None:
    async with OpenAIServer(["One. ", Act.HANG]) as server:
        model = model_of(server)
        async with closing(model.stream(ASKED)) as texts:
            await anext(texts)
        async with asyncio.timeout(5):
            await server.left.wait()
        await model.aclose()


async def test_cancelling_a_turn_hangs_up() -> None:
    async with OpenAIServer(["One. ", Act.HANG]) as server:
        model = model_of(server)
        async with aclosing(voice(Utterance(1, "chat", "Hi"), 0, Script(), model.stream(ASKED))) as chunks:
            await anext(chunks)
        async with asyncio.timeout(5):
            await server.left.wait()
        await model.aclose()


@pytest.mark.parametrize("script", [["One. Tw", Act.DROP], ["One. Tw", Act.STOP], ["One. Tw", Act.HANG]])
async def test_a_turn_whose_model_fails_is_spoken_so_far_and_ends(script: list[str | float | Act]) -> None:
    async with OpenAIServer(script) as server:
        model = model_of(server, timeout_s=0.3)
        chunks = [chunk async for chunk in voice(Utterance(1, "chat", "Hi"), 0, Script(), model.stream(ASKED))]
        await model.aclose()
    kinds = [kind for kind, _ in marks(chunks)]
    assert kinds == ["start", "sentence", "error", "end"]


# Which model


def test_without_key_and_server_the_rules_answer() -> None:
    assert isinstance(make_llm(LLMSettings()), RuleLLM)
    assert isinstance(make_llm(LLMSettings(api_key="k")), OpenAILLM)
    assert isinstance(make_llm(LLMSettings(base_url="http://127.0.0.1/v1")), OpenAILLM)


def test_the_key_does_not_show() -> None:
    assert "hidden" not in repr(LLMSettings(api_key="hidden"))


def test_the_environment_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.invalid/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    client = OpenAILLM(LLMSettings(api_key="mine"))._client
    assert (str(client.base_url), client.api_key) == ("https://api.openai.com/v1/", "mine")


def test_importing_the_speech_rooms_loads_no_engine() -> None:
    code = (
        "import sys, ttsreal, speech, llm\n"
        "loaded = {'torch', 'openai', 'edge_tts', 'hibari', 'onnxruntime', 'av'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Rules


@pytest.mark.parametrize(
    ("question", "part"),
    [
        ("你好", "离线演示"),
        ("Hi there!", "offline demo"),
        ("你是谁？", "没有接语言模型"),
        ("Who are you?", "no language model"),
        ("现在几点了", "14点05分"),
        ("What time is it?", "14:05"),
        ("今天几号？", "2024年3月9日"),
        ("What's the date today?", "Saturday, March 9, 2024"),
        ("3加5等于多少", "等于8。"),
        ("What is 12 times 3.5?", "42"),
        ("(1,000 - 1) / 3", "333"),
        ("谢谢你", "不客气"),
        ("thanks", "welcome"),
        ("再见", "再见"),
        ("Bye!", "Goodbye"),
        ("今天天气怎么样", "查不到天气"),
        ("How is the weather?", "cannot look up"),
        ("讲个笑话吧。", "你说的是：讲个笑话吧。我是离线演示"),
        ("Tell me a joke.", "You said: Tell me a joke. I am an offline demo"),
        ("{now} {0}", "You said: {now} {0}."),
    ],
)
async def test_the_rules_answer_in_the_language_of_the_question(question: str, part: str) -> None:
    model = RuleLLM(now=lambda: datetime(2024, 3, 9, 14, 5))
    assert part in await answer(model, question)


async def test_the_rules_write_a_few_characters_at_a_time() -> None:
    texts = [text async for text in RuleLLM().stream(ASKED)]
    assert len(texts) > 5
    assert max(map(len, texts)) <= 4


@pytest.mark.parametrize(
    ("question", "value"),
    [
        ("2*(3+4)", "14"),
        ("7 除以 2", "3.5"),
        ("100减去1乘以2", "98"),
        ("1 / 0", None),
        ("2 ** 99999999", None),
        ("9" * 150 + "*" + "9" * 40, "1e+190"),
        ("(" * 90 + "1+1", None),
        ("__import__('os')", None),
        ("3.14", None),
        ("", None),
    ],
)
def test_sums_are_calculated_and_nothing_else(question: str, value: str | None) -> None:
    assert calculate(question) == value


# History


def test_a_question_comes_after_the_system_prompt() -> None:
    assert History("Be kind.").ask("Hi") == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
    ]


def test_only_what_was_heard_is_remembered() -> None:
    history = History("")
    history.ask("Tell me a story")
    history.heard("Once upon a time")
    history.heard("Once upon a time there was", interrupted=True)
    assert history.ask("Stop")[1:] == [
        {"role": "assistant", "content": "Once upon a time there was…"},
        {"role": "user", "content": "Stop"},
    ]


def test_roles_take_turns_even_if_nothing_was_heard() -> None:
    history = History("")
    history.ask("One")
    messages = history.ask("Two")
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == "…"


def test_a_history_is_bounded_and_begins_with_a_question() -> None:
    history = History("Be kind.", max_messages=5)
    for n in range(20):
        messages = history.ask(f"Question {n}")
        history.heard(f"Answer {n}")
    assert [message["content"] for message in messages] == [
        "Be kind.",
        "Question 17",
        "Answer 17",
        "Question 18",
        "Answer 18",
        "Question 19",
    ]


def test_what_was_asked_does_not_change_afterwards() -> None:
    history = History("")
    messages: list[Any] = history.ask("One")
    history.heard("1")
    assert messages == [{"role": "user", "content": "One"}]


def test_hearing_before_any_question_is_nothing() -> None:
    history = History("")
    history.heard("Welcome!")
    assert history.ask("Hi") == ASKED
