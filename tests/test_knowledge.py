"""Knowledge promises: the right passage, whatever the file; what is broken is left out; only what changed is read."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from docx import Document
from loguru import logger

from core.errors import BadMedia
from minds import knowledge as room
from minds.documents import OVERLAP, SIZE, passages, read_document
from minds.knowledge import Knowledge

SHOES = "Our shoes are made in Porto. A pair costs 80 euros."
HOURS = "The shop opens at nine in the morning and closes at six."
RETURNS = "退货政策：收到商品后三十天内可以无理由退货，运费由本店承担。"
PARKING = "停车场在大楼的地下二层，前两个小时免费。"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "knowledge" / "shop"
    folder.mkdir(parents=True)
    (folder / "shoes.txt").write_text(SHOES)
    (folder / "hours.md").write_text(f"# Hours\n\n{HOURS}")
    (folder / "退货.txt").write_text(RETURNS, encoding="gb18030")
    (folder / "parking").mkdir()
    (folder / "parking" / "停车.docx").write_bytes(b"")
    write_docx(folder / "parking" / "停车.docx", PARKING)
    write_pdf(folder / "warranty.pdf", "The warranty covers broken soles for two years.")
    return folder


def write_docx(path: Path, text: str) -> None:
    document = Document()
    document.add_paragraph(text)
    row = document.add_table(1, 2).rows[0]
    row.cells[0].text, row.cells[1].text = "Elevator", "Section C"
    document.save(str(path))


def write_pdf(path: Path, text: str) -> None:
    """One page with one line of Latin text."""
    content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R"
        b" /Resources << /Font << /F1 4 0 R >> >> >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
    ]
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(data)
    path.write_bytes(data + b"xref\n0 6\n0000000000 65535 f \n" + table + trailer)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged."""
    lines: list[str] = []
    sink = logger.add(lines.append)
    yield lines
    logger.remove(sink)


# Finding


@pytest.mark.parametrize(
    ("question", "source"),
    [
        ("How much do the shoes cost?", "shoes.txt"),
        ("When does the shop open?", "hours.md"),
        ("我想退货，运费谁出？", "退货.txt"),
        ("请问哪里可以停车", "parking/停车.docx"),
        ("Where is the elevator?", "parking/停车.docx"),
        ("Is there a WARRANTY on the sole?", "warranty.pdf"),
    ],
)
async def test_the_passage_that_answers_comes_first(
    folder: Path, pool: ThreadPoolExecutor, question: str, source: str
) -> None:
    found = await Knowledge(folder, pool).search(question)
    assert found[0].source == source
    assert found[0].score == max(passage.score for passage in found)


@pytest.mark.parametrize(
    "question", ["", "Hello there!", "你们是谁？", "?!", '" OR words:"', "NEAR(* AND -", "\ud800\0"]
)
async def test_what_has_to_do_with_nothing_finds_nothing(folder: Path, pool: ThreadPoolExecutor, question: str) -> None:
    assert await Knowledge(folder, pool).search(question) == []


async def test_no_more_is_found_than_was_asked_for(folder: Path, pool: ThreadPoolExecutor) -> None:
    (folder / "long.txt").write_text("\n\n".join(f"Shoes of kind {n}. " + "They last. " * 30 for n in range(9)))
    assert len(await Knowledge(folder, pool).search("shoes", 3)) == 3


async def test_an_empty_folder_knows_nothing(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    (tmp_path / "empty").mkdir()
    assert await Knowledge(tmp_path / "empty", pool).search("shoes") == []


# Files that change, and files that cannot be read


async def test_only_what_changed_is_read_again(
    folder: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def reading(path: Path) -> str:
        read.append(path.name)
        return read_document(path)

    monkeypatch.setattr(room, "read_document", reading)
    await Knowledge(folder, pool).refresh()
    assert len(read) == 5
    read.clear()
    (folder / "shoes.txt").write_text(SHOES.replace("80", "90"))
    os.utime(folder / "hours.md", (1, 1))
    found = await Knowledge(folder, pool).search("What do shoes cost?")
    assert read == ["shoes.txt"]
    assert [passage.text for passage in found] == [SHOES.replace("80", "90")]


async def test_a_folder_is_looked_at_again_when_it_is_asked(folder: Path, pool: ThreadPoolExecutor) -> None:
    knowledge = Knowledge(folder, pool)
    assert await knowledge.search("umbrella") == []
    (folder / "umbrella.txt").write_text("We sell one umbrella.")
    (folder / "shoes.txt").unlink()
    assert [passage.source for passage in await knowledge.search("umbrella")] == ["umbrella.txt"]
    assert await knowledge.search("Porto") == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.pdf", b"%PDF-1.4\n" + b"\xff" * 500),
        ("cut.pdf", None),
        ("page.pdf", b"<html>not found</html>"),
        ("empty.pdf", b""),
        ("broken.docx", b"PK\x03\x04" + b"\0" * 100),
        ("old.docx", b"\xd0\xcf\x11\xe0" * 50),
        ("empty.txt", b" \n"),
        ("program.txt", b"\x7fELF\0\0\1" * 20),
        ("latin.txt", b"caf\xe9 \xff"),
    ],
)
async def test_a_broken_file_is_a_log_line_and_the_rest_works(
    folder: Path, pool: ThreadPoolExecutor, lines: list[str], name: str, content: bytes | None
) -> None:
    data = (folder / "warranty.pdf").read_bytes()[:200] if content is None else content
    (folder / name).write_bytes(data)
    assert (await Knowledge(folder, pool).search("shoes"))[0].source == "shoes.txt"
    left_out = [line for line in lines if "left out" in line]
    assert len(left_out) == 1 and name in left_out[0] and str(folder) not in left_out[0]


async def test_a_file_that_breaks_is_forgotten(folder: Path, pool: ThreadPoolExecutor) -> None:
    knowledge = Knowledge(folder, pool)
    assert await knowledge.search("warranty")
    (folder / "warranty.pdf").write_bytes(b"%PDF-1.4 gone")
    assert await knowledge.search("warranty") == []


async def test_hidden_files_and_other_kinds_are_not_read(
    folder: Path, pool: ThreadPoolExecutor, lines: list[str]
) -> None:
    for name in (".shoes.txt", "~$停车.docx", "shoes.exe", "shoes"):
        (folder / name).write_text("shoes shoes shoes")
    assert {passage.source for passage in await Knowledge(folder, pool).search("shoes")} == {"shoes.txt"}
    assert not [line for line in lines if "left out" in line]


@pytest.mark.parametrize("damage", [b"not a database at all" * 300, b""])
async def test_a_damaged_index_is_made_anew(folder: Path, pool: ThreadPoolExecutor, damage: bytes) -> None:
    knowledge = Knowledge(folder, pool)
    knowledge.index.write_bytes(damage)
    assert (await knowledge.search("shoes"))[0].source == "shoes.txt"


async def test_an_index_of_another_format_is_made_anew(folder: Path, pool: ThreadPoolExecutor) -> None:
    db = sqlite3.connect(Knowledge(folder, pool).index)
    db.execute("create table files (something)")
    db.execute("pragma user_version = 99")
    db.close()
    assert (await Knowledge(folder, pool).search("shoes"))[0].source == "shoes.txt"


async def test_an_index_that_cannot_be_written_is_a_log_line(
    folder: Path, pool: ThreadPoolExecutor, lines: list[str]
) -> None:
    knowledge = Knowledge(folder, pool)
    knowledge.index.mkdir()
    assert await knowledge.search("shoes") == []
    assert any("cannot be indexed" in line for line in lines)


async def test_many_may_ask_at_once(folder: Path, pool: ThreadPoolExecutor) -> None:
    knowledge = Knowledge(folder, pool)
    await knowledge.refresh()
    found = await asyncio.gather(*[knowledge.search("退货运费") for _ in range(20)])
    assert {passages[0].source for passages in found} == {"退货.txt"}


# Documents and passages


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(60 << 20)
    with pytest.raises(BadMedia, match="too large"):
        read_document(tmp_path / "large.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_text_is_read_in_the_encodings_of_its_writers(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_text(RETURNS, encoding=encoding)
    assert read_document(tmp_path / "a.txt") == RETURNS


def test_short_paragraphs_share_a_passage() -> None:
    assert passages("One.\n\nTwo\nlines.\n \n\n  Three.  ") == ["One.\nTwo\nlines.\nThree."]


def test_a_number_is_not_cut_at_its_point() -> None:
    parts = passages("Pi is 3.14159 or so, they say. " * 40)
    assert all(part.startswith(("Pi is 3.14159", "3.14159", "or so", "they say")) for part in parts)


def test_nothing_has_no_passages() -> None:
    assert passages(" \n\n ") == []


@pytest.mark.parametrize(
    "text",
    [
        "\n\n".join(f"Paragraph {n} " + "says a few words. " * (5 + n % 7) for n in range(40)),
        "".join(f"第{n}句话说了一点东西，后面还有一些。" for n in range(200)),
        "".join(f"{n:05}" for n in range(1000)),
        "".join(f"word{n} " for n in range(1000)),
        "".join(f"{n}. " for n in range(1000)),
    ],
)
def test_passages_are_short_overlap_and_hold_everything(text: str) -> None:
    parts = passages(text)
    assert max(map(len, parts)) <= SIZE + OVERLAP
    assert sum(map(len, parts)) / len(parts) > SIZE / 2
    whole = "".join(text.split())
    at = 0
    for part in parts:
        part = "".join(part.split())
        found = whole.find(part, max(0, at - OVERLAP))
        assert 0 <= found <= at
        at = found + len(part)
    assert at == len(whole)
