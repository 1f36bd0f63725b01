"""scripts/fetch_models.py against an HTTP server in a thread that behaves as badly as servers do."""

from __future__ import annotations

import datetime
import errno
import hashlib
import io
import json
import os
import pty
import re
import signal
import ssl
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from scripts import download, fetch_models, packages
from tests.conftest import SHARED

ROOT = Path(__file__).parent.parent
DATA = bytes(range(256)) * 4096  # 1 MiB
HALF = len(DATA) // 2

Reply = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers with what the test put at the path; remembers what it was asked."""

    server: Host

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Range"]))
        replies = self.server.replies[self.path]
        replies.pop(0)(self) if len(replies) > 1 else replies[0](self)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class Host(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: dict[str, list[Reply]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.go_on = threading.Event()
        self._scheme = "https" if context else "http"
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def put(self, path: str, *replies: Reply) -> str:
        """The address of `path`, which gives one reply after the other, the last for ever."""
        self.replies[path] = list(replies)
        return self.url(path)

    def url(self, path: str) -> str:
        return f"{self._scheme}://localhost:{self.server_address[1]}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what is tested here."""


def good(handler: Handler) -> None:
    """A server that knows ranges."""
    match = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "bytes=0-")
    assert match
    start = int(match[1])
    if start >= len(DATA):
        return handler.reply(416, Content_Range=f"bytes */{len(DATA)}")
    if handler.headers["Range"]:
        where = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
        return handler.reply(206, DATA[start:], Content_Range=where)
    return handler.reply(200, DATA)


def gives(body: bytes, **headers: str) -> Reply:
    """A server that gives all of `body`, whatever range it is asked for."""
    return lambda handler: handler.reply(200, body, **headers)


def status(code: int, **headers: str) -> Reply:
    return lambda handler: handler.reply(code, b"sorry", **headers)


def cut(body: bytes, at: int) -> Reply:
    """A server that promises `body` and hangs up after `at` bytes of it."""
    return lambda handler: handler.reply(200, body[:at], Content_Length=str(len(body)))


def unmeasured(body: bytes) -> Reply:
    """A server that does not say how much will come."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def stalls(handler: Handler) -> None:
    """A server that gives half and then nothing until the test lets it go on."""
    handler.reply(200, DATA[:HALF], Content_Length=str(len(DATA)))
    handler.wfile.flush()
    assert isinstance(handler.server, Host)
    handler.server.go_on.wait(30)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIVACE_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(download, "PAUSE_S", 0)
    monkeypatch.setattr(download, "TIMEOUT_S", 5)


@pytest.fixture
def host() -> Iterator[Host]:
    yield from running(Host())


def running(host: Host) -> Iterator[Host]:
    thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield host
    host.go_on.set()
    host.shutdown()
    thread.join()
    host.server_close()


def sized(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def entry(*urls: str, file: str = "thing.bin", **more: Any) -> dict[str, Any]:
    content = {key: more.pop(key, value) for key, value in sized(DATA).items()}
    return {
        "files": {file: content},
        "licence": "Apache-2.0",
        "licence_url": "https://example.org/licence",
        "commercial": "yes",
        "note": {"en": "A thing.", "zh": "一个东西。"},
        "used_by": ["tests"],
        "sources": [{"url": url} for url in urls],
        **more,
    }


class Workshop:
    """A manifest and a folder, and the program run on them."""

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = tmp_path / "models"
        self.manifest = tmp_path / "manifest.json"
        self.thing = self.folder / "thing.bin"
        self._capsys = capsys
        self.said = ""

    def describe(self, **models: dict[str, Any]) -> None:
        self.manifest.write_text(json.dumps({"format": 1, "models": models}))

    def run(self, *argv: str) -> int:
        code = fetch_models.main([*argv, "--models_dir", str(self.folder)], self.manifest)
        self.said = "".join(self._capsys.readouterr())
        return code

    def fetch(self, *urls: str, **more: Any) -> int:
        self.describe(thing=entry(*urls, **more))
        return self.run("thing")

    def run_and_hear(self, *argv: str) -> str:
        assert self.run(*argv) == 0
        return self.said

    @property
    def part(self) -> Path:
        return self.folder / f"thing.bin.{hashlib.sha256(DATA).hexdigest()[:8]}.part"

    def keep(self, data: bytes) -> None:
        """As if an earlier run had been interrupted."""
        self.folder.mkdir()
        self.part.write_bytes(data)

    def holds_only_the_thing(self) -> bool:
        return self.thing.read_bytes() == DATA and [*self.folder.iterdir()] == [self.thing]


@pytest.fixture
def shop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Workshop:
    return Workshop(tmp_path, capsys)


def test_a_model_is_fetched_and_verified(host: Host, shop: Workshop) -> None:
    assert shop.fetch(host.put("/a", good)) == 0
    assert shop.holds_only_the_thing()
    assert host.asked == [("/a", None)]


def test_what_is_here_is_not_fetched_again(host: Host, shop: Workshop) -> None:
    url = host.put("/a", good)
    assert shop.fetch(url) == 0
    assert shop.fetch(url) == 0
    assert len(host.asked) == 1


def test_a_file_that_is_not_the_model_is_replaced_but_not_lost(host: Host, shop: Workshop) -> None:
    shop.folder.mkdir()
    shop.thing.write_bytes(b"my own")
    assert shop.fetch(host.put("/a", good)) == 0
    assert shop.thing.read_bytes() == DATA
    assert (shop.folder / "thing.bin.old").read_bytes() == b"my own"
    assert "is now thing.bin.old" in shop.said


def test_a_file_that_cannot_be_had_leaves_the_old_one_alone(host: Host, shop: Workshop) -> None:
    shop.folder.mkdir()
    shop.thing.write_bytes(b"my own")
    assert shop.fetch(host.put("/a", status(404))) == 1
    assert shop.thing.read_bytes() == b"my own"


def test_an_interrupted_download_goes_on_where_it_ended(host: Host, shop: Workshop) -> None:
    shop.keep(DATA[:HALF])
    assert shop.fetch(host.put("/a", good)) == 0
    assert shop.holds_only_the_thing()
    assert host.asked == [("/a", f"bytes={HALF}-")]


def test_a_server_without_ranges_is_taken_from_the_start(host: Host, shop: Workshop) -> None:
    shop.keep(DATA[:HALF])
    assert shop.fetch(host.put("/a", gives(DATA))) == 0
    assert shop.holds_only_the_thing()
    assert len(host.asked) == 1


def test_a_complete_part_is_only_verified(host: Host, shop: Workshop) -> None:
    shop.keep(DATA)
    assert shop.fetch(host.url("/nowhere")) == 0
    assert shop.holds_only_the_thing()
    assert not host.asked


def test_a_part_that_is_too_long_is_thrown_away(host: Host, shop: Workshop) -> None:
    shop.keep(DATA + b"!")
    assert shop.fetch(host.put("/a", good)) == 0
    assert shop.holds_only_the_thing()


def test_a_range_that_is_refused_starts_over(host: Host, shop: Workshop) -> None:
    shop.keep(DATA[:HALF])
    assert shop.fetch(host.put("/a", status(416), good)) == 0
    assert shop.holds_only_the_thing()
    assert host.asked == [("/a", f"bytes={HALF}-"), ("/a", None)]


def test_another_part_than_asked_for_is_not_used(host: Host, shop: Workshop) -> None:
    shop.keep(DATA[:HALF])
    wrong = f"bytes 100-{len(DATA) - 1}/{len(DATA)}"
    odd = host.put("/a", lambda handler: handler.reply(206, DATA[100:], Content_Range=wrong), good)
    assert shop.fetch(odd) == 0
    assert shop.holds_only_the_thing()


def test_a_part_of_another_file_is_noticed_and_fetched_anew(host: Host, shop: Workshop) -> None:
    shop.keep(b"?" * HALF)
    assert shop.fetch(host.put("/a", good)) == 0
    assert shop.holds_only_the_thing()
    assert host.asked == [("/a", f"bytes={HALF}-"), ("/a", None)]


def test_a_connection_cut_in_the_middle_is_taken_up_again(host: Host, shop: Workshop) -> None:
    assert shop.fetch(host.put("/a", cut(DATA, HALF), good)) == 0
    assert shop.holds_only_the_thing()
    assert host.asked[1] == ("/a", f"bytes={HALF}-")


def test_a_server_that_always_cuts_at_the_same_place_is_given_up(host: Host, shop: Workshop) -> None:
    assert shop.fetch(host.put("/a", cut(DATA, HALF))) == 1
    assert len(host.asked) == download.TRIES
    assert not shop.thing.exists()


def test_an_overloaded_server_is_asked_again(host: Host, shop: Workshop) -> None:
    assert shop.fetch(host.put("/a", status(500), status(503), status(429), good)) == 0
    assert shop.holds_only_the_thing()


def test_pauses_between_tries_grow(host: Host, shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(download, "PAUSE_S", 1.0)
    monkeypatch.setattr("scripts.download.time.sleep", pauses.append)
    assert shop.fetch(host.put("/a", status(500))) == 1
    assert pauses == [1, 2, 4]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_server_that_does_not_have_it_is_asked_once(host: Host, shop: Workshop, code: int) -> None:
    assert shop.fetch(host.put("/a", status(code)), host.put("/b", good)) == 0
    assert shop.holds_only_the_thing()
    assert [path for path, _ in host.asked] == ["/a", "/b"]


def test_the_next_source_goes_on_where_the_first_ended(host: Host, shop: Workshop) -> None:
    assert shop.fetch(host.put("/a", cut(DATA, HALF), status(404)), host.put("/b", good)) == 0
    assert shop.holds_only_the_thing()
    assert host.asked[-1] == ("/b", f"bytes={HALF}-")


def test_a_server_that_falls_silent_is_left(host: Host, shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    assert shop.fetch(host.put("/a", stalls, status(404)), host.put("/b", good)) == 0
    assert shop.holds_only_the_thing()
    assert "no answer for 0.2 s" in shop.said


def test_a_server_that_is_not_there_is_left(host: Host, shop: Workshop) -> None:
    gone = Host()
    gone.server_close()
    assert shop.fetch(gone.url("/a"), host.put("/b", good)) == 0
    assert shop.holds_only_the_thing()


def test_wrong_bytes_never_get_the_name(host: Host, shop: Workshop) -> None:
    assert shop.fetch(host.put("/a", gives(b"?" * len(DATA)))) == 1
    assert not [*shop.folder.iterdir()]
    assert "other bytes than the manifest says" in shop.said


def test_after_wrong_bytes_the_next_source_is_taken_from_the_start(host: Host, shop: Workshop) -> None:
    assert shop.fetch(host.put("/a", gives(b"?" * len(DATA))), host.put("/b", good)) == 0
    assert shop.holds_only_the_thing()
    assert host.asked[-1] == ("/b", None)


def test_a_web_page_instead_of_the_file_is_not_even_written(host: Host, shop: Workshop) -> None:
    shop.keep(DATA[:HALF])
    page = host.put("/a", gives(b"<html>please log in</html>", Content_Type="text/html; charset=utf-8"))
    assert shop.fetch(page) == 1
    assert "offers text/html" in shop.said
    assert shop.part.read_bytes() == DATA[:HALF]


def test_a_huge_promise_is_refused_before_anything_is_read(host: Host, shop: Workshop) -> None:
    assert shop.fetch(host.put("/a", gives(DATA, Content_Length=str(1 << 60)))) == 1
    assert not [*shop.folder.iterdir()]


def test_more_than_the_manifest_says_is_not_written(host: Host, shop: Workshop) -> None:
    assert shop.fetch(host.put("/a", unmeasured(DATA + DATA))) == 1
    assert "sends more" in shop.said
    assert not [*shop.folder.iterdir()]


def test_an_answer_of_unknown_length_will_do(host: Host, shop: Workshop) -> None:
    assert shop.fetch(host.put("/a", unmeasured(DATA))) == 0
    assert shop.holds_only_the_thing()


def test_redirects_are_followed_with_the_range(host: Host, shop: Workshop) -> None:
    shop.keep(DATA[:HALF])
    host.put("/b", good)
    assert shop.fetch(host.put("/a", status(302, Location="/b"))) == 0
    assert shop.holds_only_the_thing()
    assert host.asked == [("/a", f"bytes={HALF}-"), ("/b", f"bytes={HALF}-")]


def test_a_circle_of_redirects_ends(host: Host, shop: Workshop) -> None:
    host.put("/b", status(307, Location="/a"))
    assert shop.fetch(host.put("/a", status(307, Location="/b"))) == 1
    assert len(host.asked) < 25


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://localhost/thing", "data:,thing"])
def test_redirects_lead_to_http_only(host: Host, shop: Workshop, target: str) -> None:
    assert shop.fetch(host.put("/a", status(302, Location=target))) == 1
    assert not [*shop.folder.iterdir()]


def certificate(folder: Path) -> Path:
    """A certificate for localhost that nobody has signed, with its key, as a PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = folder / "localhost.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *form) + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Host]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    yield from running(Host(context))


def test_from_https_nothing_leads_back_to_http(
    host: Host, secure: Host, shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "localhost.pem"))
    url = secure.put("/a", status(302, Location=host.put("/b", good)), good)
    assert shop.fetch(url) == 1
    assert "from https to http" in shop.said
    assert not host.asked
    assert shop.run("thing") == 0  # that it was the redirect, not the certificate


def test_a_certificate_that_nobody_signed_is_refused(secure: Host, shop: Workshop) -> None:
    assert shop.fetch(secure.put("/a", good)) == 1
    assert "CERTIFICATE_VERIFY_FAILED" in shop.said
    assert not secure.asked


def test_a_proxy_named_in_the_environment_is_used(host: Host, shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", host.put("http://models.invalid/a", good).partition("http://models")[0])
    assert shop.fetch("http://models.invalid/a") == 0
    assert shop.holds_only_the_thing()


def zipped(**members: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"folder/{name}", data)
    return made.getvalue()


def tarred(*members: tarfile.TarInfo, data: bytes = DATA, mode: str = "w:gz") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]
        for member in members:
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return made.getvalue()


def regular(name: str, size: int = len(DATA)) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def packed(host: Host, archive: bytes, member: str) -> list[dict[str, Any]]:
    members = {"thing.bin": member}
    return [{"archives": [{"url": host.put("/archive", gives(archive)), **sized(archive), "members": members}]}]


@pytest.mark.parametrize(
    ("archive", "member"),
    [
        (zipped(thing=DATA, other=b"no"), "folder/thing"),
        (tarred(regular("folder/thing")), "folder/thing"),
        (tarred(regular("../../thing"), mode="w:xz"), "../../thing"),
    ],
)
def test_one_member_is_taken_out_of_an_archive(host: Host, shop: Workshop, archive: bytes, member: str) -> None:
    assert shop.fetch(sources=packed(host, archive, member)) == 0
    assert shop.holds_only_the_thing()


def test_a_tar_file_that_ends_in_a_zip_file_is_a_tar_file(host: Host, shop: Workshop) -> None:
    inner = zipped(thing=b"wrong")
    archive = tarred(regular("thing", len(inner)), data=inner, mode="w")
    assert shop.fetch(sources=packed(host, archive, "thing"), **sized(inner)) == 0
    assert shop.thing.read_bytes() == inner


@pytest.mark.parametrize(
    ("archive", "member"),
    [
        (zipped(thing=DATA), "folder/none"),
        (tarred(regular("other")), "thing"),
        (tarred(link("thing", "/etc/passwd")), "thing"),
        (tarred(link("thing", "thing")), "thing"),
        (tarred(regular("thing"), data=b"?" * len(DATA)), "thing"),
        (zipped(thing=bytes(64 * len(DATA))), "folder/thing"),
        (b"no archive at all", "thing"),
    ],
)
def test_an_archive_without_the_model_gives_nothing(host: Host, shop: Workshop, archive: bytes, member: str) -> None:
    assert shop.fetch(sources=packed(host, archive, member)) == 1
    assert not shop.thing.exists()
    assert shop.run() == 0
    assert "missing" in shop.said


def test_a_member_that_swells_is_stopped(host: Host, shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(packages, "append", lambda file, block: written.append(file.write(block)))
    assert shop.fetch(sources=packed(host, zipped(thing=bytes(64 * len(DATA))), "folder/thing")) == 1
    assert sum(written) <= len(DATA) + download.BLOCK_BYTES


def test_an_archive_that_is_not_the_known_one_is_not_opened(
    host: Host, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "_opened", lambda *_: pytest.fail("it was opened"))
    sources = packed(host, zipped(thing=DATA), "folder/thing")
    sources[0]["archives"][0]["sha256"] = "0" * 64
    assert shop.fetch(sources=sources) == 1
    assert not [*shop.folder.iterdir()]


# Models of several files


def several(*sources: dict[str, Any]) -> dict[str, Any]:
    files = {"set/one.bin": sized(DATA), "set/more/two.bin": sized(b"two")}
    return entry("http://localhost/a", files=files, sources=list(sources))


def packaged(index: str, name: str, archive: bytes = b"?", **more: Any) -> dict[str, Any]:
    return {index: name, **sized(archive), "members": {"thing.bin": "folder/thing"}, **more}


SET_PATHS = {"set/one.bin": "onnx/one", "set/more/*": "more/*"}


def test_a_model_of_several_files_comes_into_its_folder(host: Host, shop: Workshop) -> None:
    host.put("/onnx/one", good)
    host.put("/more/two.bin", gives(b"two"))
    shop.describe(set=several({"url": host.url("/"), "paths": SET_PATHS}))
    assert shop.run("set") == 0
    assert (shop.folder / "set/one.bin").read_bytes() == DATA
    assert (shop.folder / "set/more/two.bin").read_bytes() == b"two"
    assert shop.run("--verify", "set") == 0
    assert "set/one.bin and 1 more" in shop.run_and_hear("set")


def test_the_next_source_gives_only_what_the_first_did_not(host: Host, shop: Workshop) -> None:
    host.put("/onnx/one", good)
    host.put("/more/two.bin", status(404))
    host.put("/b/two.bin", gives(b"two"))
    paths = {"set/one.bin": "none", "set/more/two.bin": "b/two.bin"}
    shop.describe(
        set=several({"url": host.url("/"), "paths": SET_PATHS}, {"url": host.url("/"), "paths": paths}),
    )
    assert shop.run("set") == 0
    assert [path for path, _ in host.asked] == ["/onnx/one", "/more/two.bin", "/b/two.bin"]


def test_a_source_that_fails_is_not_asked_for_the_other_files(host: Host, shop: Workshop) -> None:
    host.put("/onnx/one", status(404))
    shop.describe(set=several({"url": host.url("/"), "paths": SET_PATHS}))
    assert shop.run("set") == 1
    assert len(host.asked) == 1


def test_half_a_model_is_missing_and_the_list_says_how_much_is_here(shop: Workshop) -> None:
    shop.describe(set=several({"url": "http://localhost/", "paths": SET_PATHS}))
    (shop.folder / "set").mkdir(parents=True)
    (shop.folder / "set/one.bin").write_bytes(DATA)
    assert "set  (missing, 99 % are kept" in shop.run_and_hear()
    assert shop.run("--verify", "set") == 1


def test_parts_in_several_archives_are_joined(host: Host, shop: Workshop) -> None:
    first = zipped(one=DATA[:HALF], two=b"two")
    second = tarred(regular("end", HALF), data=DATA[HALF:])
    members = {"set/one.bin": "folder/one", "set/more/*": "folder/two"}
    archives = [
        {"url": host.put("/1", gives(first)), **sized(first), "members": members},
        {"url": host.put("/2", gives(second)), **sized(second), "members": {"set/one.bin": "end"}},
    ]
    shop.describe(set=several({"archives": archives}))
    assert shop.run("set") == 0
    assert (shop.folder / "set/one.bin").read_bytes() == DATA
    assert not [*shop.folder.rglob("*.part")]
    assert len(host.asked) == 2


# Packages


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for PyPI and npm: their programs give what lies in it, or fail."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nfor into; do :; done\ncp {shelf}/* "$into"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    monkeypatch.setattr(packages, "PIP", (str(npm), "download"))
    monkeypatch.setattr("scripts.packages.sys.executable", "/bin/sh")
    return shelf


@pytest.mark.parametrize(("index", "name"), [("pypi", "thing==1.0"), ("npm", "thing@1.0")])
def test_a_package_is_got_by_its_own_program(shop: Workshop, clients: Path, index: str, name: str) -> None:
    archive = zipped(thing=DATA)
    (clients / "thing.zip").write_bytes(archive)
    assert shop.fetch(sources=[{"archives": [packaged(index, name, archive)]}]) == 0
    assert shop.holds_only_the_thing()
    assert name in (clients.parent / "asked").read_text()


def test_a_package_that_is_not_the_known_one_is_not_opened(shop: Workshop, clients: Path) -> None:
    (clients / "thing.zip").write_bytes(zipped(thing=DATA))
    assert shop.fetch(sources=[{"archives": [packaged("npm", "thing@1.0")]}]) == 1
    assert "other bytes than the manifest says" in shop.said
    assert not [*shop.folder.iterdir()]


def test_a_package_that_does_not_come_makes_room_for_the_next_source(host: Host, shop: Workshop, clients: Path) -> None:
    sources = [{"archives": [packaged("npm", "thing@1.0")]}, {"url": host.put("/a", good)}]
    assert shop.fetch(sources=sources) == 0  # the shelf is empty, so the program fails
    assert "npm's thing@1.0: does not come, npm ends with status 1" in shop.said
    assert shop.holds_only_the_thing()


def test_a_program_that_is_not_installed_is_said(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert shop.fetch(sources=[{"archives": [packaged("npm", "thing@1.0")]}]) == 1
    assert "the program npm is missing" in shop.said
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    assert shop.fetch(sources=[{"archives": [packaged("pypi", "thing==1.0")]}]) == 1
    assert "pip is missing" in shop.said


def test_a_server_that_nobody_reaches_is_asked_once(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Host()
    gone.server_close()
    monkeypatch.setattr("scripts.download.time.sleep", lambda _: pytest.fail("it was asked again"))
    assert shop.fetch(gone.url("/a")) == 1


# The cache


def test_what_was_fetched_once_is_not_fetched_for_another_clone(host: Host, shop: Workshop) -> None:
    url = host.put("/a", good)
    assert shop.fetch(url) == 0
    shop.folder = shop.folder.with_name("clone")
    shop.thing = shop.folder / "thing.bin"
    assert shop.fetch(url) == 0
    assert shop.holds_only_the_thing()
    assert len(host.asked) == 1


def test_a_damaged_file_of_the_cache_is_not_used_but_replaced(host: Host, shop: Workshop, tmp_path: Path) -> None:
    kept = tmp_path / "cache" / hashlib.sha256(DATA).hexdigest()
    kept.parent.mkdir()
    kept.write_bytes(b"?" * len(DATA))
    assert shop.fetch(host.put("/a", good)) == 0
    assert shop.holds_only_the_thing()
    assert kept.read_bytes() == DATA


def test_a_cache_on_another_disk_is_copied(
    host: Host, shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert shop.fetch(host.put("/a", good)) == 0
    assert [path.read_bytes() for path in (tmp_path / "cache").iterdir()] == [DATA]


def test_a_cache_that_cannot_be_written_stops_nothing(
    host: Host, shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("VIVACE_CACHE", str(tmp_path / "file" / "cache"))
    assert shop.fetch(host.put("/a", good)) == 0
    assert shop.holds_only_the_thing()
    assert "not kept for other clones" in shop.said


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/vivace"),
        ("linux", {"HOME": "/home/me"}, "/home/me/.cache/vivace"),
        ("darwin", {"HOME": "/Users/me"}, "/Users/me/Library/Caches/vivace"),
        ("darwin", {"VIVACE_CACHE": "/y"}, "/y"),
    ],
)
def test_the_cache_is_where_the_platform_has_such_things(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], folder: str
) -> None:
    for name in ("VIVACE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("scripts.download.sys.platform", platform)
    assert download.cache_folder() == Path(folder)


# The list


def test_the_list_says_what_is_here_and_asks_nobody(host: Host, shop: Workshop) -> None:
    url = host.put("/a", good)
    other = entry(url, file="other.bin", commercial="no")
    shop.describe(thing=entry(url), other=other)
    shop.keep(DATA[:HALF])
    assert shop.run() == 0
    assert "thing  (missing, 50 % are kept, 1.0 MB)" in shop.said
    assert "other  (missing, 1.0 MB)" in shop.said
    assert "no commercial use" in shop.said
    assert not host.asked


@pytest.mark.parametrize(("language", "words"), [("en_GB.UTF-8", "A thing."), ("zh_CN.UTF-8", "一个东西。")])
def test_purposes_are_told_in_the_persons_language(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, language: str, words: str
) -> None:
    monkeypatch.setenv("LC_ALL", language)
    shop.describe(thing=entry("http://localhost/a"))
    assert shop.run() == 0
    assert words in shop.said


def test_verify_finds_damage_and_fetches_nothing(host: Host, shop: Workshop) -> None:
    shop.describe(thing=entry(host.put("/a", good)))
    assert shop.run("--verify") == 0
    assert shop.run("--verify", "thing") == 1  # one that is named must be here
    shop.folder.mkdir()
    shop.thing.write_bytes(b"?" * len(DATA))
    assert shop.run("--verify") == 1
    assert "thing: damaged" in shop.said
    shop.thing.write_bytes(DATA)
    assert shop.run("--verify", "thing") == 0
    assert not host.asked


def test_all_means_all_without_restrictions(host: Host, shop: Workshop) -> None:
    url = host.put("/a", good)
    models = {terms: entry(url, file=f"{terms}.bin", commercial=terms) for terms in ("yes", "no", "unknown")}
    shop.describe(**models)
    assert shop.run("--all") == 0
    assert [path.name for path in shop.folder.iterdir()] == ["yes.bin"]


def test_one_failure_stops_no_other_model(host: Host, shop: Workshop) -> None:
    shop.describe(lost=entry(host.put("/a", status(404)), file="lost.bin"), thing=entry(host.put("/b", good)))
    assert shop.run("lost", "thing") == 1
    assert shop.holds_only_the_thing()


def test_without_a_terminal_a_restricting_licence_must_be_accepted_by_flag(
    host: Host, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    url = host.put("/a", good)
    assert shop.fetch(url, commercial="no") == 2
    assert "--accept-licence thing" in shop.said
    assert not host.asked
    assert shop.run("thing", "--accept-licence", "thing") == 0
    assert shop.holds_only_the_thing()


def test_licences_are_settled_before_anything_is_fetched(
    host: Host, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    url = host.put("/a", good)
    shop.describe(thing=entry(url), other=entry(url, file="other.bin", commercial="no"))
    assert shop.run("thing", "other") == 2
    assert not host.asked


class Person(io.StringIO):
    """Somebody at a terminal who types this."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "code"), [("yes\n", 0), ("Yes\n", 0), ("y\n", 2), ("\n", 2), ("", 2)])
def test_a_person_must_type_yes(
    host: Host, shop: Workshop, monkeypatch: pytest.MonkeyPatch, typed: str, code: int
) -> None:
    monkeypatch.setattr("sys.stdin", Person(typed))
    assert shop.fetch(host.put("/a", good), commercial="no") == code
    assert "https://example.org/licence" in shop.said
    assert shop.thing.exists() == (code == 0)


def test_a_shipped_model_is_verified_and_never_fetched(shop: Workshop) -> None:
    shop.describe(thing=entry(shipped=True))
    assert shop.run("thing") == 1
    assert "git checkout -- models/thing.bin" in shop.said
    shop.folder.mkdir()
    shop.thing.write_bytes(DATA)
    assert shop.run("thing") == 0
    assert shop.run("--all") == 0
    assert shop.run("--verify", "thing") == 0


def test_an_unknown_name_is_answered_with_the_known_ones(shop: Workshop) -> None:
    shop.describe(thing=entry("http://localhost/a"))
    assert shop.run("thin") == 1
    assert "known: thing" in shop.said


def test_progress_is_plain_lines_where_there_is_no_terminal(host: Host, shop: Workshop) -> None:
    assert shop.fetch(host.put("/a", good)) == 0
    assert "thing: 100 % of 1.0 MB\n" in shop.said
    assert "\r" not in shop.said


def test_progress_is_one_moving_line_on_a_terminal() -> None:
    screen = Person()
    progress = download.Progress("thing", screen)
    progress.at(0, 100)
    progress.at(100, 100)
    assert screen.getvalue().count("\n") == 1
    assert "thing [####################] 100 %" in screen.getvalue()


def test_a_full_disk_is_said_and_what_came_is_kept(host: Host, shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(file: FileIO, block: bytes) -> None:
        if download.size_of(file):
            raise OSError(errno.ENOSPC, "No space left on device")
        file.write(block)

    with monkeypatch.context() as patch:
        patch.setattr(download, "append", append)
        assert shop.fetch(host.put("/a", good)) == 1
    assert "the disk is full" in shop.said
    assert DATA.startswith(shop.part.read_bytes())
    assert shop.part.stat().st_size
    assert shop.run("thing") == 0
    assert shop.holds_only_the_thing()


def test_too_little_room_is_said_before_anything_is_fetched(host: Host, shop: Workshop) -> None:
    assert shop.fetch(host.put("/a", good), bytes=1 << 60) == 1
    assert "are needed" in shop.said
    assert not host.asked


def test_a_folder_that_may_not_be_written_is_said(host: Host, shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert shop.fetch(host.put("/a", good)) == 1
    assert f"cannot write into {shop.folder}: it is read-only for you" in shop.said


def test_a_model_that_is_here_needs_no_writable_folder(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.folder.mkdir()
    shop.thing.write_bytes(DATA)
    monkeypatch.setattr(fetch_models, "fetch", lambda *_: pytest.fail("it was fetched"))
    assert shop.fetch("http://localhost/a") == 0


def start(shop: Workshop, *argv: str) -> subprocess.Popen[str]:
    """The program as a process of its own, on the shop's manifest and folder."""
    call = [*argv, "--models_dir", str(shop.folder)]
    # What runs in the background has SIGINT ignored, and its children too.
    script = f"import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); \
from pathlib import Path; from scripts.fetch_models import main; \
sys.exit(main({call!r}, Path({str(shop.manifest)!r})))"
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_keeps_what_came_and_says_so(host: Host, shop: Workshop) -> None:
    shop.describe(thing=entry(host.put("/a", stalls, good)))
    with start(shop, "thing") as process:
        assert process.stderr
        while "50 %" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert f"kept in {shop.part.name}" in said
    assert shop.part.read_bytes() == DATA[:HALF]
    assert shop.run("thing") == 0
    assert host.asked == [("/a", None), ("/a", f"bytes={HALF}-")]


def test_of_two_processes_one_fetches_and_the_other_waits(host: Host, shop: Workshop) -> None:
    def slow(handler: Handler) -> None:
        host.go_on.wait(30)
        good(handler)

    shop.describe(thing=entry(host.put("/a", slow)))
    with start(shop, "thing") as one, start(shop, "thing") as two:
        assert one.stderr
        assert two.stderr
        lines: list[str] = []
        readers = [threading.Thread(target=lambda f=f: lines.extend(heard(f, host))) for f in (one.stderr, two.stderr)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert (one.returncode, two.returncode) == (0, 0)
    assert sum("waiting for it" in line for line in lines) == 1
    assert len(host.asked) == 1
    assert shop.holds_only_the_thing()


def heard(stream: Any, host: Host) -> Iterator[str]:
    """The lines of a process; the server goes on as soon as one of them waits."""
    for line in stream:
        if "waiting for it" in line:
            host.go_on.set()
        yield line


def test_the_program_runs_as_a_file_from_anywhere(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "fetch_models.py"
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "face_landmarker" in done.stdout


def test_a_terminal_gets_a_moving_line(host: Host, shop: Workshop) -> None:
    shop.describe(thing=entry(host.put("/a", good)))
    screen, end = pty.openpty()
    # What runs in the background has SIGINT ignored, and its children too.
    script = f"import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); \
from pathlib import Path; from scripts.fetch_models import main; \
sys.exit(main(['thing', '--models_dir', {str(shop.folder)!r}], Path({str(shop.manifest)!r})))"
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=end, stdout=subprocess.DEVNULL) as process:
        process.wait()
    os.close(end)
    shown = os.read(screen, 1 << 16).decode()
    os.close(screen)
    assert process.returncode == 0
    assert "\r" in shown
    assert "thing [####################] 100 %" in shown


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"file": "../thing.bin"}, "not a name"),
        ({"file": "folder/../thing.bin"}, "not a name"),
        ({"file": "/etc/passwd"}, "not a name"),
        ({"file": ".hidden"}, "not a name"),
        ({"file": "thing.bin\n"}, "not a name"),
        ({"files": {}}, "files"),
        ({"file": "manifest.json"}, "not a name"),
        ({"file": "thing.part"}, "not a name"),
        ({"sha256": "64184e22"}, "sha256"),
        ({"bytes": 0}, "bytes"),
        ({"sources": []}, "needs a source"),
        ({"sources": [{"url": "file:///etc/passwd"}]}, "url"),
        ({"sources": [{"url": "http://localhost/a", "archives": [packaged("pypi", "a==1")]}]}, "a source is"),
        ({"sources": [{"archives": [packaged("pypi", "a==1", npm="a@1")]}]}, "an archive needs"),
        ({"sources": [{"archives": [packaged("pypi", "--index-url=http://localhost a")]}]}, "pypi"),
        ({"sources": [{"archives": [packaged("npm", "file:../a")]}]}, "npm"),
        ({"sources": [{"archives": [packaged("npm", "a@1", members={"other.bin": "a"})]}]}, "where 'thing.bin' is"),
        ({"sources": [{"url": "http://localhost/", "paths": {"other.bin": "a"}}]}, "where 'thing.bin' is"),
        ({"commercial": "perhaps"}, "commercial"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_a_manifest_that_is_not_right_is_refused(shop: Workshop, change: dict[str, Any], complaint: str) -> None:
    shop.describe(thing=entry("http://localhost/a", **change) if "sources" not in change else entry(**change))
    assert shop.run() == 1
    assert "is not right" in shop.said
    assert complaint in shop.said


def test_two_models_cannot_have_one_file(shop: Workshop) -> None:
    url = "http://localhost/a"
    shop.describe(one=entry(url), two=entry(url, file="Thing.bin"))
    assert shop.run() == 1
    assert "two models have the same file" in shop.said


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2, "models": {}}', "no JSON"])
def test_what_is_no_manifest_is_refused(shop: Workshop, text: str) -> None:
    shop.manifest.write_text(text)
    assert shop.run() == 1
    shop.manifest.unlink()
    assert shop.run() == 1
    assert "cannot read" in shop.said


def test_the_shipped_manifest_is_right() -> None:
    models = fetch_models.read_manifest(fetch_models.MANIFEST)
    addresses = [source.url for model in models.values() for source in model.sources if source.url]
    assert all(url.startswith("https://") for url in addresses)
    assert all(model.sources[0].url for model in models.values() if model.sources)  # the publisher is asked first
    assert models["wav2lip"].commercial == models["wav2lip_gan"].commercial == "no"


def test_the_landmarker_is_the_one_that_the_manifest_names() -> None:
    if not (SHARED / "data" / "face").is_dir():
        pytest.skip("no ../shared/data/face here")
    model = fetch_models.read_manifest(fetch_models.MANIFEST)["face_landmarker"]
    assert fetch_models.state(model, SHARED / "data" / "face") == "present"
