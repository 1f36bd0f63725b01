"""LLM promises: text as it is written, clean errors, a closed stream; and a history of what was heard."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from core.errors import EngineFailed
from core.media import Utterance
from core.streams import closing
from llm import BaseLLM, History, LLMSettings, estimate_tokens, make_llm
from minds import chat
from minds.chat import OpenAILLM
from minds.rules import RuleLLM, calculate
from speech import voice
from tests.fakes.openai_server import SECRET, Act, OpenAIServer, Refusal, Step
from tests.fakes.turns import Script, marks

ASKED = [{"role": "user", "content": "Hi"}]


def model_of(server: OpenAIServer, timeout_s: float = 5.0) -> OpenAILLM:
    return OpenAILLM(LLMSettings("hidden", server.url, "fake-model", timeout_s=timeout_s))


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


async def test_wishes_are_sent_only_if_there_are_some() -> None:
    async with OpenAIServer(["Hi"]) as server:
        model = model_of(server)
        await answer(model)
        await answer(model.like(replace(model.settings, temperature=0.0, max_tokens=50)))
        await model.aclose()
    plain, wishing = server.asked
    assert plain.keys() == {"model", "messages", "stream"}
    assert (wishing["temperature"], wishing["max_tokens"]) == (0.0, 50)


async def test_what_nobody_can_say_is_left_out() -> None:
    async with OpenAIServer(["a\x00b\ud800", "c\x1b\n"]) as server:
        model = model_of(server)
        assert await answer(model) == "abc\n"
        await model.aclose()


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ([Act.DROP], "broke off"),
        (["One. ", Act.DROP], "broke off"),
        (["One. ", Act.STOP], "broke off"),
        ([Act.STOP], "answered nothing"),
        (["One. ", Act.ERROR], "failed"),
        (["One. ", Act.GARBAGE], "sent what cannot be read"),
        ([b"data: \xff\xfe\n\n"], "sent what cannot be read"),
        ([b"data: []\n\n"], "sent what cannot be read"),
        ([b'data: {"choices": 5}\n\n'], "sent what cannot be read"),
        ([b'data: {"choices": [{"index": 0}]}\n\n'], "sent what cannot be read"),
        ([{"content": 5}], "sent what cannot be read"),
        ([{"content": ["One. "]}], "sent what cannot be read"),
        ([{"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": "x" * 5000}}]}], "sent what cannot be"),
        ([b"data: " + b"x" * 100_000], "sent a line that is too long"),
        (["x" * 100_000], "sent a line that is too long"),
    ],
)
async def test_an_answer_that_breaks_off_or_is_none_is_an_error(script: list[Step], sentence: str) -> None:
    async with OpenAIServer(script) as server:
        model = model_of(server)
        with pytest.raises(EngineFailed, match=f"^the language model {sentence}"):
            await answer(model)
        await model.aclose()


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        (Refusal(400), "the language model's server refused or failed"),
        (Refusal(401), "the language model's server refused the key"),
        (Refusal(403), "the language model's server refused the key"),
        (Refusal(404), "the language model's server knows no such model"),
        (Refusal(429), "the language model is too busy"),
        (Refusal(500), "the language model's server refused or failed"),
        (Refusal(200, page=True), "the language model's address answers with a web page"),
        (Refusal(404, page=True), "the language model's server knows no such model"),
    ],
)
async def test_a_refusal_is_told_without_the_servers_words(
    refusal: Refusal, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "RETRY_S", 0.0)
    async with OpenAIServer(refusal) as server:
        model = model_of(server)
        with logged() as lines, pytest.raises(EngineFailed, match=f"^{sentence}$"):
            await answer(model)
        await model.aclose()
    assert len(lines) == 1 and sentence in lines[0]
    assert SECRET not in lines[0] and "hidden" not in lines[0]


@contextmanager
def logged() -> Iterator[list[str]]:
    """The lines that are logged meanwhile."""
    lines: list[str] = []
    sink = logger.add(lines.append, level="WARNING")
    yield lines
    logger.remove(sink)


@pytest.mark.parametrize("refusal", [Refusal(429, {"Retry-After": "0.01"}), Refusal(503, {"Retry-After": "0"})])
async def test_a_busy_server_is_asked_once_more(refusal: Refusal) -> None:
    async with OpenAIServer(refusal, ["Hi"]) as server:
        model = model_of(server)
        assert await answer(model) == "Hi"
        await model.aclose()


@pytest.mark.parametrize("header", ["30", "Fri, 20 Nov 2026 13:00:00 GMT", "-1", "1e1", "nan"])
async def test_whoever_asks_for_a_long_wait_is_not_asked_again(header: str) -> None:
    async with OpenAIServer(Refusal(429, {"Retry-After": header}), ["Hi"]) as server:
        model = model_of(server)
        with pytest.raises(EngineFailed, match="too busy"):
            await answer(model)
        await model.aclose()
    assert len(server.asked) == 1


async def test_a_missing_key_is_told_by_the_name_of_its_variable() -> None:
    model = OpenAILLM(LLMSettings(base_url="http://127.0.0.1:9/v1", key_env="SHOP_KEY"))
    with pytest.raises(EngineFailed, match="set SHOP_KEY in the environment"):
        await answer(model)
    await model.aclose()


async def test_models_alike_share_connections() -> None:
    async with OpenAIServer(["Hi"]) as server:
        model = model_of(server)
        await answer(model)
        await answer(model.like(replace(model.settings, model="another")))
        await model.aclose()
    assert [asked["model"] for asked in server.asked] == ["fake-model", "another"]
    assert len(server.peers) == 1


@pytest.mark.parametrize("script", [[Act.HANG], ["One. ", Act.HANG], [*[Act.COMMENT, 0.02] * 100]])
async def test_a_model_that_gives_nothing_in_time_has_failed(script: list[Step]) -> None:
    async with OpenAIServer(script) as server:
        model = model_of(server, timeout_s=0.2)
        with pytest.raises(EngineFailed, match="in time"):
            await answer(model)
        await model.aclose()


async def test_a_server_that_is_not_there_has_failed() -> None:
    async with OpenAIServer() as server:
        model = model_of(server)
    with pytest.raises(EngineFailed, match=r"^the language model could not be reached$"):
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
async def test_a_turn_whose_model_fails_is_spoken_so_far_and_ends(script: list[Step]) -> None:
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


def test_the_oldest_is_forgotten_first_when_there_are_too_many_tokens() -> None:
    history = History("Be kind.", max_tokens=60)
    for n in range(20):
        messages = history.ask(f"{n} " + "字" * 10)
        history.heard("好")
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[1]["content"].startswith("18 ")


def test_neither_the_prompt_nor_the_question_is_ever_trimmed() -> None:
    history = History("Be kind. " * 100, max_tokens=10)
    history.ask("Hello?")
    history.heard("Hello!", interrupted=True)
    question = "Why? " * 1000
    assert [message["content"] for message in history.ask(question)] == ["Be kind. " * 100, question]


def test_what_was_heard_stays_with_its_mark_when_others_are_forgotten() -> None:
    history = History("", max_tokens=30)
    history.ask("很久以前的一个很长很长的问题")
    history.heard("很长的回答")
    history.ask("Go on")
    history.heard("Once upon", interrupted=True)
    assert [message["content"] for message in history.ask("Why?")] == ["Go on", "Once upon…", "Why?"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("你好，世界！", 6),
        ("Hello, world!", 4),
        ("a 字 b", 3),
        ("Привет", 3),
        ("\ud800", 1),
        ("x" * 4001, 1001),
    ],
)
def test_tokens_are_estimated(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


def test_what_was_asked_does_not_change_afterwards() -> None:
    history = History("")
    messages: list[Any] = history.ask("One")
    history.heard("1")
    assert messages == [{"role": "user", "content": "One"}]


def test_hearing_before_any_question_is_nothing() -> None:
    history = History("")
    history.heard("Welcome!")
    assert history.ask("Hi") == ASKED
