"""Documents as passages: txt, md, pdf and docx files as text, and text as parts that fit into a prompt."""

from __future__ import annotations

import codecs
import logging
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import BadZipFile

from core.errors import BadMedia

MAX_BYTES = 50 << 20  # of a file
SIZE = 400  # characters of a passage, what it repeats of the one before not counted
OVERLAP = 80  # characters of that, at most

_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[。！？\n])(?![”’」』）\n])|(?<=[.!?])(?=\s)")
_BREAK = re.compile(r"[\s。！？，、；,;]")
_HANZI_BREAK = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n(?=[\u3000-\u9fff\uff00-\uffef])")

# What the readers of PDF and DOCX are known to raise over a broken file, besides their own errors.
_BROKEN = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, SyntaxError)


def read_document(path: Path) -> str:
    """The text of a document, paragraphs apart by an empty line. Blocking. BadMedia if it cannot be read."""
    reader = READERS[path.suffix.lower()]
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadMedia("it is too large")
        text = reader(path).encode("utf-8", "ignore").decode()
    except ModuleNotFoundError as error:
        raise BadMedia(f"it needs the Python package '{error.name}'") from error
    except (*_BROKEN, RuntimeError, BadZipFile, zlib.error) as error:
        raise BadMedia(f"it is damaged ({type(error).__name__})") from error
    if not text.strip() or "\0" in text:
        raise BadMedia("there is no text in it")
    return text


def _plain(path: Path) -> str:
    """Text in UTF-8, UTF-16 with its mark, or GB 18030."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("gb18030")


def _pdf(path: Path) -> str:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it cannot read is said once, by whoever asked
    try:
        with PdfReader(path) as reader:
            pages = [page.extract_text() for page in reader.pages]
    except (PyPdfError, DependencyError) as error:
        raise BadMedia(f"it is damaged ({type(error).__name__})") from error
    return "\n\n".join(_HANZI_BREAK.sub("", page) for page in pages)


def _docx(path: Path) -> str:
    from docx import Document
    from docx.opc.exceptions import OpcError
    from docx.text.paragraph import Paragraph

    try:
        content = list(Document(str(path)).iter_inner_content())
    except OpcError as error:
        raise BadMedia(f"it is damaged ({type(error).__name__})") from error
    parts = []
    for part in content:
        rows = [part.text] if isinstance(part, Paragraph) else [_row(row.cells) for row in part.rows]
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _row(cells: tuple[object, ...]) -> str:
    return " | ".join(dict.fromkeys(str(getattr(cell, "text", "")).strip() for cell in cells))


READERS: dict[str, Callable[[Path], str]] = {".txt": _plain, ".md": _plain, ".pdf": _pdf, ".docx": _docx}


def passages(text: str) -> list[str]:
    """`text` in parts of about 400 characters that begin with the end of the one before; whole paragraphs where it can.

    A longer paragraph is cut between sentences, a longer sentence anywhere.
    """
    parts, tail, body = [], "", ""
    for piece in _pieces(text):
        if body and len(body) + len(piece) > SIZE:
            parts.append((tail + body).strip())
            tail, body = _tail(body), ""
        body += piece
    return [*parts, (tail + body).strip()] if body else parts


def _pieces(text: str) -> Iterator[str]:
    for paragraph in _PARAGRAPH.split(text):
        paragraph = "\n".join(" ".join(line.split()) for line in paragraph.strip().splitlines())
        if 0 < len(paragraph) < SIZE:
            yield paragraph + "\n"
        elif paragraph:
            for sentence in _SENTENCE_END.split(paragraph + "\n"):
                yield from (sentence[at : at + SIZE] for at in range(0, len(sentence), SIZE))


def _tail(body: str) -> str:
    """The end of `body`, from the beginning of a word or clause if there is one."""
    tail = body[-OVERLAP:]
    start = _BREAK.search(tail.rstrip())
    return tail[start.end() :] if start else tail
