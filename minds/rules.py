"""A small talker without any model: what answers where nobody has named a language model."""

from __future__ import annotations

import ast
import asyncio
import operator
import re
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime

from llm import BaseLLM, LLMSettings, Message


class RuleLLM(BaseLLM):
    """Small talk by rules, in Chinese and English. It says plainly that it is an offline demo."""

    def __init__(self, settings: LLMSettings | None = None, now: Callable[[], datetime] = datetime.now) -> None:
        super().__init__(settings)
        self._now = now

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        question = messages[-1]["content"] if messages else ""
        answer = self.reply(question)
        for at in range(0, len(answer), 4):
            await asyncio.sleep(0)
            yield answer[at : at + 4]

    def reply(self, question: str) -> str:
        """The whole answer, in the language of the question."""
        chinese = bool(_HANZI.search(question))
        number = calculate(question)
        if number is not None:
            return f"等于{number}。" if chinese else f"That makes {number}."
        for pattern, zh, en in _RULES:
            if pattern.search(question):
                return (zh if chinese else en).format(now=self._now())
        said = question.strip().rstrip(" .!?。！？")
        return (_ASK_BACK_ZH if chinese else _ASK_BACK_EN).format(said)


def calculate(question: str) -> str | None:
    """The value of the first sum in `question`, such as "12 x 3" or "3加5"; None if there is none, or no value."""
    for word, sign in _SIGNS:
        question = word.sub(sign, question)
    found = _SUM.search(question[:200])
    if not found:
        return None
    try:
        value = _value(ast.parse(found[0].strip(), mode="eval").body)
    except (SyntaxError, ArithmeticError, KeyError, TypeError):
        return None
    return f"{value:.10g}" if abs(value) < 1e10 else f"{value:.4g}"


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left), _value(right))
    raise TypeError


_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS = (
    (re.compile(r"(?<=\d),(?=\d{3})"), ""),
    (re.compile(r"加上?|\bplus\b|＋"), "+"),
    (re.compile(r"减去?|\bminus\b|－|−"), "-"),
    (re.compile(r"乘以?|×|\btimes\b|\bmultiplied by\b|(?<=\d)\s*[xX]\s*(?=\d)"), "*"),
    (re.compile(r"除以|÷|\bdivided by\b"), "/"),
)
_SUM = re.compile(r"[(\s-]*\d[\d.]*\s*\)*(?:\s*[-+*/][(\s-]*\d[\d.]*\s*\)*)+")
_HANZI = re.compile(r"[\u3400-\u9fff]")

_RULES = tuple(
    (re.compile(pattern, re.IGNORECASE), zh, en)
    for pattern, zh, en in (
        (
            r"你是谁|你叫什么|自我介绍|介绍一下你|\b(?:who|what) are you\b|\byour name\b|\bintroduce yourself\b",
            "我是 Vivace 数字人的离线演示。我没有接语言模型，只会报时间、算算术和打招呼。",
            "I am the offline demo of Vivace, a digital human. There is no language model behind me: "
            "I can tell the time, do sums and say hello.",
        ),
        (
            r"几点|什么时间|\bwhat(?:'s| is)? (?:the )?time\b|\btime is it\b",
            "现在是{now:%H}点{now:%M}分。",
            "It is {now:%H:%M}.",
        ),
        (
            r"几号|日期|星期几|今天是什么日子|\bwhat(?:'s| is)? (?:the |today's )?da(?:te|y)\b|\bday is it\b",
            "今天是{now.year}年{now.month}月{now.day}日。",
            "Today is {now:%A}, {now:%B} {now.day}, {now.year}.",
        ),
        (
            r"天气|气温|下雨|\bweather\b|\brain\b|\btemperature\b",
            "我在离线演示，查不到天气。",
            "I am an offline demo, so I cannot look up the weather.",
        ),
        (r"谢谢|多谢|感谢|\bthank", "不客气！", "You are welcome!"),
        (r"再见|拜拜|\bbye\b|\bsee you\b", "再见，欢迎下次再来！", "Goodbye, and come back soon!"),
        (
            r"你好|您好|大家好|早上好|晚上好|\bhello\b|\bhi\b|\bhey\b|\bgood (?:morning|afternoon|evening)\b",
            "你好！我是离线演示，还没有接语言模型。你可以问我几点了，或者让我算一道题。",
            "Hello! I am an offline demo without a language model. Ask me the time, or give me a sum.",
        ),
    )
)
_ASK_BACK_ZH = "你说的是：{}。我是离线演示，没有语言模型，答不上来。要不要问我几点了，或者让我算一道题？"
_ASK_BACK_EN = (
    "You said: {}. I am an offline demo without a language model, so I cannot answer that. "
    "Would you like the time, or a sum?"
)
