"""Text as the sounds that Kokoro knows: Chinese by misaki, English by hibari's lexicon, both in one sentence.

Every piece keeps the word it stands for, so that what the model says of its symbols can be said of words.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, groupby, pairwise

import cn2an
import jieba
from hibari import Hibari
from hibari.g2p import G2P
from misaki.zh import ZHG2P
from pypinyin import Style, lazy_pinyin

from ttsreal import CJK

jieba.setLogLevel(logging.WARNING)

FIRST_SYMBOLS = 12  # of a first part, some three syllables
LEAST_SYMBOLS = 40  # of what goes together after it
GROWTH = 3
MOST_SYMBOLS = 300  # of the model's 510, for Chinese some 20 s of sound
PAUSES = ",.;:!?—…"
_SIGNS = '"()“” ' + PAUSES
_ENDS = re.compile(rf"[{re.escape(_SIGNS)}]*$")
_LATIN = r"[A-Za-zÀ-ɏ][\wÀ-ɏ'’&+-]*"
_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_TOKEN = re.compile(
    rf"(?P<hanzi>[\u3400-\u9fff]+)|(?P<latin>(?a:{_LATIN}(?:[ .]+{_LATIN})*))"
    rf"|(?P<time>\d{{1,2}}[:：]\d{{2}}(?!\d))|(?P<date>\d{{4}}-\d{{1,2}}-\d{{1,2}})|(?P<range>{_NUMBER}%?[-~～—]{_NUMBER}%?)|(?P<fraction>\d+/\d+)"
    rf"|(?P<money>[$¥￥€]{_NUMBER})|(?P<year>\d{{4}}(?=年))|(?P<digits>0\d+|\d{{7,}})|(?P<number>(?:(?<![A-Za-z0-9%])-)?{_NUMBER}[%％℃]?)"
)
_PAIR = re.compile(r"2(?=[个位只条次点天周岁种件台块])")
_RUNS = {1: ";:,.!?", 9: '—…"()“” \u0303ʣʥʦʨᵝꭧAI', 31: "O", 33: "Q", 35: "ST", 39: "W", 41: "Yᵊabcdef"}
_RUNS |= {50: "hijklmnopqrstuvwxyzɑɐɒæ", 75: "βɔɕç", 80: "ɖðʤə", 85: "ɚɛɜ", 90: "ɟ", 92: "ɡ", 99: "ɥ", 101: "ɨɪʝ"}
_RUNS |= {110: "ɯɰŋɳɲɴø", 118: "ɸθœ", 123: "ɹ", 125: "ɾɻ", 128: "ʁɽʂʃʈʧ", 135: "ʊʋ", 138: "ʌɣɤ", 142: "χʎ", 147: "ʒʔ"}
_RUNS |= {156: "ˈˌː", 162: "ʰ", 164: "ʲ", 169: "↓", 171: "→↗↘", 177: "ᵻ"}
IDS = {symbol: first + n for first, run in _RUNS.items() for n, symbol in enumerate(run)}  # Kokoro's, by symbol
_MONEY = {"$": "美元", "¥": "元", "￥": "元", "€": "欧元"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A word of the text and its symbols; signs and spaces between words have no word."""

    word: str
    symbols: str

    @property
    def ids(self) -> list[int]:
        """What Kokoro calls the symbols; those it does not know are left out."""
        return [IDS[symbol] for symbol in self.symbols if symbol in IDS]


def spoken(text: str, *, british: bool = False) -> list[Piece]:
    """The pieces of `text`, Chinese if any of it is, else English. What is in neither language is left out.

    About 1 ms a sentence; the first Chinese one takes a second more. Any thread, one at a time.
    """
    return [*_tidy(_chinese(text, british=british) if CJK.search(text) else _english(text, british=british))]


def _tidy(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """`pieces` with the spaces where the model expects them: after a sign, before an opening one."""
    for is_word, group in groupby(pieces, lambda piece: bool(piece.word)):
        if is_word:
            yield from group
        else:
            between = re.sub(r"\s+", " ", "".join(piece.symbols for piece in group))
            yield Piece("", re.sub(rf" (?=[{PAUSES}”)])|(?<=[“(]) ", "", between))


def clauses(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """`pieces` in parts that end at a pause: the first a short one, each other at most GROWTH times the one before.

    So the first is soon made, and while one is heard there is time for the next.
    """
    part: list[Piece] = []
    most = FIRST_SYMBOLS
    for clause in _to_pauses(pieces):
        if part and _size(part) + _size(clause) > most:
            yield part
            most, part = min(max(GROWTH * _size(part), LEAST_SYMBOLS), MOST_SYMBOLS), []
        part = part + clause
    if part:
        yield part


def _to_pauses(pieces: list[Piece]) -> Iterator[list[Piece]]:
    clause: list[Piece] = []
    for piece in pieces:
        clause.append(piece)
        if not piece.word and (set(piece.symbols) & set(PAUSES) or _size(clause) > MOST_SYMBOLS // 2):
            yield clause
            clause = []
    if clause:
        yield clause


def _size(pieces: list[Piece]) -> int:
    return sum(len(piece.symbols) for piece in pieces)


def _chinese(text: str, *, british: bool) -> Iterator[Piece]:
    text = _PAIR.sub("两", text)
    end = 0
    for token in _TOKEN.finditer(text):
        yield from _signs(text[end : token.start()])
        kind, end = str(token.lastgroup), token.end()
        if kind == "hanzi":
            yield from _hanzi(token[0])
        elif kind == "latin":
            yield Piece("", " ")
            yield from _english(token[0], british=british)
            yield Piece("", " ")
        else:
            yield Piece(token[0].strip("$¥￥€"), "".join(map(_syllable, _pinyin(read_number(kind, token[0])))))
    yield from _signs(text[end:])


def _signs(text: str) -> Iterator[Piece]:
    """What stands between words, as the model's signs."""
    known = "".join(char for char in ZHG2P.map_punctuation(text) if char in _SIGNS)
    if known or text.isspace():
        yield Piece("", f"{known} ")


def _hanzi(run: str) -> Iterator[Piece]:
    for word in jieba.cut(run):
        yield from (Piece(char, _syllable(pinyin)) for char, pinyin in zip(word, _pinyin(word), strict=True))
        yield Piece("", " ")


def _pinyin(word: str) -> list[str]:
    """A syllable for each hanzi; one whose reading is not known stays as it is."""
    return " ".join(lazy_pinyin(word, Style.TONE3, errors=" ".join, neutral_tone_with_five=True)).split(" ")


@cache
def _syllable(pinyin: str) -> str:
    return str(ZHG2P.py2ipa(pinyin)).replace("\u032f", "") if pinyin.isascii() else ""


def read_number(kind: str, number: str) -> str:
    """How `number` is read in Chinese, in hanzi; `kind` is a group of `_TOKEN`."""
    match kind:
        case "digits" | "year":
            return str(cn2an.an2cn(number, "direct"))
        case "time":
            hour, minute = (int(part) for part in re.split("[:：]", number))
            return f"{_count(str(hour))}点" + (
                f"{'零' if minute < 10 else ''}{_count(str(minute))}分" if minute else ""
            )
        case "date":
            year, month, day = number.split("-")
            return f"{cn2an.an2cn(year, 'direct')}年{_count(month)}月{_count(day)}日"
        case "range":
            first, last = re.split("[-~～—]", number)
            return f"{_count(first)}到{_count(last)}"
        case "fraction":
            above, below = number.split("/")
            return f"{_count(below)}分之{_count(above)}"
        case "money":
            return f"{_count(number[1:])}{_MONEY[number[0]]}"
        case _:
            return _count(number)


def _count(number: str) -> str:
    plain = number.replace(",", "").replace("％", "%")
    sign = "负" if plain.startswith("-") else ""
    value = str(cn2an.an2cn(plain.strip("-%℃")))
    return sign + (f"百分之{value}" if plain.endswith("%") else f"{value}摄氏度" if plain.endswith("℃") else value)


def _english(text: str, *, british: bool) -> Iterator[Piece]:
    said = _words(text, british=british)
    tokens = text.split()
    counts = [1] * len(tokens)
    if len(said) != len(tokens):
        counts = [len(_words(token, british=british)) for token in tokens]
    if sum(counts) != len(said):
        tokens, counts = [text], [len(said)]
    for token, (start, end) in zip(tokens, pairwise(accumulate(counts, initial=0)), strict=True):
        symbols = " ".join(said[start:end])
        body = _ENDS.sub("", symbols)
        if body:
            yield Piece(token.strip("\"'“”‘’()[]{},.;:!?—…-"), body)
        yield Piece("", symbols[len(body) :] + " ")


def _words(text: str, *, british: bool) -> list[str]:
    """The symbols of English `text`, a word each, signs attached."""
    lexicon = _lexicon(british)
    return " ".join(str(lexicon(sentence)) for sentence in Hibari.split_sentences(text)).split()


@cache
def _lexicon(british: bool) -> G2P:
    return G2P(british=british)
