"""Knowledge: a folder of documents, and the passages in it that have to do with a question.

Beside the folder `x` lies `x.sqlite`, a full-text index of it, which may be deleted at any time. Chinese is cut into
words by jieba, at indexing and at asking alike. Source of the ranking: BM25, as SQLite's FTS5 computes it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from loguru import logger

from core.errors import BadMedia
from minds.documents import READERS, passages, read_document

FORMAT = 1
MAX_QUESTION = 1000  # characters that are looked up
RELEVANT = 0.3  # of the best passage's score

_loading = Lock()

_HANZI = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]+")
_SAY_LITTLE = """
a an the is are was were be been do does did can could would will shall should may might must have has had i you he she
it we they me him her us them my your his its our their of in on at to for from with by as and or but not no if so some
what which who whom whose when where why how this that these those there here please tell about any s t
的 了 是 在 我 你 您 他 她 它 们 我们 你们 他们 吗 呢 吧 啊 呀 有 没有 和 与 跟 就 都 也 还 不 很 什么 怎么 怎样
如何 为什么 哪 哪里 哪个 谁 请 请问 一个 一下 这 那 这个 那个 这里 那里 可以 能 能不能 会 不能 不会 要 想 知道 告诉 关于
"""
_STOP = frozenset(_SAY_LITTLE.split())


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of the document `source` (its name within the folder); the greater `score`, the closer to the question."""

    source: str
    text: str
    score: float


class Knowledge:
    """What the documents in `folder` say: txt, md, pdf and docx, in folders within it too. Its work is done in `pool`.

    A changed folder is noticed when it is next searched. What cannot be read is left out, with a line in the log.
    """

    def __init__(self, folder: Path, pool: Executor) -> None:
        self.folder = folder
        self.index = folder.with_name(f"{folder.name}.sqlite")
        self._pool = pool
        self._lock = Lock()  # held while the index is brought up to date
        self._seen: dict[str, tuple[int, int]] | None = None

    async def refresh(self) -> None:
        """Bring the index up to date and be ready to search. Only what changed is read, 1 to 50 ms a page."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._prepare)

    async def search(self, question: str, n: int = 4) -> list[Passage]:
        """At most `n` passages that share words with `question`, the closest first; none if the index is unusable.

        About a millisecond, plus what `refresh` takes if the folder has changed or it was never called.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._search, question, n)

    def _prepare(self) -> None:
        self._refresh()
        _jieba()

    def _search(self, question: str, n: int) -> list[Passage]:
        self._refresh()
        asked = _asked(question)
        if not asked:
            return []
        query = "select source, text, -rank from passages where words match ? order by rank limit ?"
        try:
            with closing(self._open()) as db:
                found = [Passage(*row) for row in db.execute(query, (asked, n))]
        except sqlite3.Error as error:
            logger.error("knowledge {} cannot be searched: {}", self.folder.name, error)
            return []
        return [passage for passage in found if passage.score >= RELEVANT * found[0].score]

    def _refresh(self) -> None:
        if not self._lock.acquire(blocking=False):
            return  # somebody does it already; until then what there is will do
        try:
            seen = dict(self._listing())
            if seen != self._seen:
                with closing(self._open()) as db:
                    self._update(db, seen)
                self._seen = seen
        except (sqlite3.Error, OSError) as error:
            logger.error("knowledge {} cannot be indexed: {}", self.folder.name, error)
        finally:
            self._lock.release()

    def _listing(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Size and time of each document, by its name within the folder."""
        for path in sorted(self.folder.rglob("*")):
            hidden = path.name.startswith((".", "~$"))  # "~$" are Word's own
            if path.suffix.lower() in READERS and not hidden and path.is_file():
                about = path.stat()
                yield path.relative_to(self.folder).as_posix(), (about.st_size, about.st_mtime_ns)

    def _open(self) -> sqlite3.Connection:
        """The index; a new one if there is none, or one that is damaged or of another format."""
        try:
            return _connect(self.index)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self.index.unlink()
            return _connect(self.index)

    def _update(self, db: sqlite3.Connection, seen: dict[str, tuple[int, int]]) -> None:
        known = dict(db.execute("select name, hash from files"))
        for name in known.keys() - seen.keys():
            _replace(db, name, "", [])
        for name in seen:
            with (self.folder / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != known.get(name):
                self._read(db, name, digest)

    def _read(self, db: sqlite3.Connection, name: str, digest: str) -> None:
        try:
            parts = passages(read_document(self.folder / name))
        except BadMedia as error:
            logger.warning("knowledge {}: {} is left out: {}", self.folder.name, name, error)
            _replace(db, name, "", [])
        else:
            _replace(db, name, digest, parts)
            logger.info("knowledge {}: {} has {} passages", self.folder.name, name, len(parts))


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    try:
        if db.execute("pragma user_version").fetchone()[0] != FORMAT:
            db.executescript(
                "drop table if exists files; drop table if exists passages;"
                "create table files (name text primary key, hash text not null);"
                "create virtual table passages using fts5 (words, source unindexed, text unindexed,"
                " tokenize = 'porter unicode61 remove_diacritics 2');"
                f"pragma user_version = {FORMAT}"
            )
    except sqlite3.Error:
        db.close()
        raise
    return db


def _replace(db: sqlite3.Connection, name: str, digest: str, parts: list[str]) -> None:
    """Make `parts` all that the index holds of the file `name`; without a `digest` it is forgotten."""
    rows = [(_words(part), name, part) for part in parts]
    with db:
        db.execute("delete from files where name = ?", (name,))
        db.execute("delete from passages where source = ?", (name,))
        db.executemany("insert into passages (words, source, text) values (?, ?, ?)", rows)
        if digest:
            db.execute("insert into files (name, hash) values (?, ?)", (name, digest))


def _asked(question: str) -> str:
    """The full-text query for `question`: any of its words, those that say nothing left out; "" if none is left."""
    words = dict.fromkeys(re.findall(r"\w+", _words(question[:MAX_QUESTION]).lower()))
    return " OR ".join(f'"{word}"' for word in words if word not in _STOP)


def _words(text: str) -> str:
    """`text` with spaces between the words of its Chinese, long ones and those inside them."""
    text = unicodedata.normalize("NFKC", text)
    return _HANZI.sub(lambda run: f" {' '.join(_jieba().cut_for_search(run[0]))} ", text)


@cache
def _jieba() -> Any:
    """jieba's dictionary, about 1 s and 70 MB."""
    import jieba

    jieba.setLogLevel(logging.CRITICAL)
    with _loading, TemporaryDirectory() as folder:  # not the shared one, whose files it would trust
        jieba.dt.tmp_dir = folder
        jieba.dt.initialize()
    return jieba.dt
