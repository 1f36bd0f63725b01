"""Known bytes from an address into a file, continued where an earlier attempt ended, and verified.

`claimed` gives the file, `fill` fills it; `keep` and `kept_copy` are the cache, which spares the next clone a
download. Everything blocks; nothing is asked of the network before `fill` is called.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPMessage, HTTPResponse
from io import FileIO
from pathlib import Path
from typing import IO, TextIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pydantic import BaseModel, ConfigDict, Field

BLOCK_BYTES = 1 << 18
TIMEOUT_S = 10.0  # of silence
PAUSE_S = 1.0  # before the second try; doubles
TRIES = 4  # without anything new
PASSING = {408, 425, 429, 500, 502, 503, 504}


class FetchError(Exception):
    """What went wrong, and what to do, for the person at the terminal."""


class SourceFailed(FetchError):
    """One address is of no use; another may be."""


class Passing(FetchError):
    """What may be gone at the next try."""


class Unreachable(Passing):
    """A server that does not even take a connection."""


class Content(BaseModel):
    """Bytes that are known beforehand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Progress:
    """How far a download is: one line that moves on a terminal, elsewhere a line for each tenth. To stderr."""

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self.name = name
        self._stream = stream or sys.stderr
        self._moves = self._stream.isatty()
        self._tenth = -1
        self._start: tuple[float, int] | None = None
        self._shown = 0.0

    def say(self, text: str) -> None:
        """A line of its own."""
        print(f"\r\x1b[K{text}" if self._moves else f"{self.name}: {text}", file=self._stream, flush=True)

    def at(self, done: int, total: int) -> None:
        """`done` of `total` bytes are here."""
        if self._moves:
            self._move(done, total)
        elif 10 * done // total > self._tenth:
            self._tenth = 10 * done // total
            self.say(f"{100 * done // total} % of {readable(total)}")

    def _move(self, done: int, total: int) -> None:
        now = time.monotonic()
        self._start = self._start or (now, done)
        if now > self._shown + 0.1 or done == total:
            self._shown = now
            end = "\n" if done == total else ""
            print(f"\r\x1b[K{self._line(done, total, now)}", end=end, file=self._stream, flush=True)

    def _line(self, done: int, total: int, now: float) -> str:
        since, before = self._start or (now, done)
        rate = max(0.0, (done - before) / max(now - since, 0.001))
        left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        bar = "#" * (20 * done // total)
        line = f"{self.name} [{bar:.<20}] {100 * done // total:3} %  {readable(done)}, {readable(int(rate))}/s{left}"
        return line[: shutil.get_terminal_size().columns - 1]


def readable(n_bytes: int) -> str:
    """`n_bytes` for people: "3.8 MB"."""
    size, units = float(n_bytes), ["B", "kB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"


@contextmanager
def claimed(path: Path, progress: Progress) -> Iterator[FileIO]:
    """`path`, open for appending and nobody else's; processes that want it too wait. It is not left behind empty."""
    while True:
        with path.open("a+b", buffering=0) as file:
            _lock(file, progress)
            if not _still_at(path, file):
                continue
            try:
                yield file
            finally:
                if _still_at(path, file) and not size_of(file):
                    path.unlink()
            return


def _lock(file: FileIO, progress: Progress) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress.say("another process is fetching this: waiting for it")
        fcntl.flock(file, fcntl.LOCK_EX)


def _still_at(path: Path, file: FileIO) -> bool:
    """Whether `path` names `file` still: whoever had it before may have renamed it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False


def size_of(file: FileIO) -> int:
    """Bytes in the open `file`."""
    return os.fstat(file.fileno()).st_size


def holds(file: FileIO, content: Content) -> bool:
    """Whether `file` is `content`. Reads all of it, about 0.5 s a GB."""
    file.seek(0)
    return size_of(file) == content.bytes and hashlib.file_digest(file, "sha256").hexdigest() == content.sha256


def append(file: FileIO, block: bytes) -> None:
    """Write all of `block`. OSError if the disk does not take it."""
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]


def fill(file: FileIO, content: Content, url: str, progress: Progress) -> None:
    """Make `file` hold `content`, starting from what it holds if that proves right.

    SourceFailed if `url` does not have it, FetchError if there is no room, OSError if the disk does not take it.
    """
    if size_of(file) > content.bytes:
        file.truncate(0)
    kept = size_of(file)
    need_room(Path(str(file.name)).parent, content.bytes - kept)
    _receive_all(file, content, url, progress)
    if holds(file, content):
        return
    file.truncate(0)
    if not kept:
        raise SourceFailed("has other bytes than the manifest says")
    progress.say("what was kept from before does not belong to this file: starting over")
    fill(file, content, url, progress)


def need_room(folder: Path, n_bytes: int) -> None:
    """FetchError if the disk of `folder` has not that much free."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise FetchError(f"{folder} has {readable(free)} free, {readable(n_bytes)} are needed")


def _receive_all(file: FileIO, content: Content, url: str, progress: Progress) -> None:
    """Asks `url` until `file` has its size; gives up after TRIES without anything new, at once if nobody is there."""
    kept = furthest = size_of(file)
    failures = 0
    while size_of(file) < content.bytes:
        try:
            _receive(file, content, url, progress)
        except Passing as error:
            if isinstance(error, Unreachable) and furthest == kept:
                raise SourceFailed(str(error)) from error
            failures = 1 if size_of(file) > furthest else failures + 1
            furthest = max(furthest, size_of(file))
            if failures == TRIES:
                raise SourceFailed(f"{error}, {TRIES} times") from error
            progress.say(f"{error}: trying again")
            time.sleep(PAUSE_S * 2 ** (failures - 1))


def _receive(file: FileIO, content: Content, url: str, progress: Progress) -> None:
    """One request for what `file` lacks. Passing if it ends early, SourceFailed if something else is offered."""
    with _answer(url, file) as response:
        start = _offset(response)
        offered = response.headers["Content-Length"] or ""
        if offered.isdecimal() and start + int(offered) != content.bytes:
            kind = response.headers.get_content_type()
            raise SourceFailed(f"offers {kind} of another size than the manifest says")
        if start not in {0, size_of(file)}:
            file.truncate(0)
            raise Passing("the server sent another part than it was asked for")
        file.truncate(start)
        while block := _block(response):
            if size_of(file) + len(block) > content.bytes:
                file.truncate(0)
                raise SourceFailed("sends more than the manifest says")
            append(file, block)
            progress.at(size_of(file), content.bytes)
    if size_of(file) < content.bytes:
        raise Passing("the connection was cut")


def _answer(url: str, file: FileIO) -> HTTPResponse:
    """The answer of `url`, asked for what follows after `file`; status 2xx. Truncates `file` if that cannot be had."""
    kept = size_of(file)
    headers = {"User-Agent": "vivace", "Accept-Encoding": "identity"} | ({"Range": f"bytes={kept}-"} if kept else {})
    try:
        answer: HTTPResponse = build_opener(Redirects).open(Request(url, headers=headers), timeout=TIMEOUT_S)  # noqa: S310
    except HTTPError as error:
        error.close()
        if error.code == 416 and kept:
            file.truncate(0)
            raise Passing("the server has less than was kept from before") from error
        kind = Passing if error.code in PASSING else SourceFailed
        raise kind(f"the server answers {error.code}") from error
    except (OSError, HTTPException) as error:
        kind = Unreachable if isinstance(error, URLError) else Passing
        raise kind(_network_trouble(error)) from error
    return answer


def _offset(response: HTTPResponse) -> int:
    """Where in the whole the answer begins: 0 unless it is a partial one."""
    first = (response.headers["Content-Range"] or "").removeprefix("bytes ").partition("-")[0]
    return int(first) if response.status == 206 and first.isdecimal() else 0


def _block(response: HTTPResponse) -> bytes:
    """What has come; as it comes, so that nothing is lost when the rest does not."""
    try:
        return response.read1(BLOCK_BYTES)
    except (OSError, HTTPException) as error:
        raise Passing(_network_trouble(error)) from error


def _network_trouble(error: OSError | HTTPException) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer for {TIMEOUT_S:g} s"
    return str(getattr(cause, "strerror", None) or cause) or type(cause).__name__


class Redirects(HTTPRedirectHandler):
    """Follows to http and https only, and never from https to http."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            fp.close()
            raise SourceFailed(f"redirects from {req.type} to {scheme}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def cache_folder() -> Path:
    """Where fetched files are kept for every clone of this person: $VIVACE_CACHE, or the platform's folder for that."""
    if named := os.environ.get("VIVACE_CACHE"):
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "vivace"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vivace"


def kept_copy(content: Content) -> Path | None:
    """The file in the cache that is `content`, verified, or None."""
    path = cache_folder() / content.sha256
    if not path.is_file():
        return None
    with path.open("rb", buffering=0) as file:
        return path if holds(file, content) else None


def keep(content: Content, path: Path, progress: Progress) -> None:
    """The verified file at `path` into the cache, as a hard link where that can be."""
    kept = cache_folder() / content.sha256
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(path, kept)
    except OSError as error:
        progress.say(f"not kept for other clones: {error.strerror}")


def link_or_copy(path: Path, other: Path) -> None:
    """`path` under the name `other` too, whole at any time."""
    fresh = other.with_name(f".{other.name}.{os.getpid()}")
    try:
        fresh.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, fresh)
    fresh.replace(other)
    fresh.unlink(missing_ok=True)  # to replace a link by another one of the same file does nothing
