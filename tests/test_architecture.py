"""The rooms, held: who may import whom, what an import loads, and what no module of the server does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOT_SERVER = {"tests", "scripts", "examples", "docs", "data", "models", "web"}

ENGINES = {"lipreal", "stillreal", "musereal", "nerfreal"}
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "nets": {"core"},
    "ttsreal": {"core"},
    "tts": {"ttsreal", "core", "auth", "body"},  # those two for its API
    "asrreal": {"core"},
    "asr": {"asrreal", "core", "auth", "body"},
    "minds": {"llm", "core"},
    "llm": {"core"},
    "webrtc": {"core"},
    "outputs": {"core"},
    "speech": {"llm", "ttsreal", "core"},
    "basereal": {"speech", "outputs", "llm", "minds", "ttsreal", "asr", "asrreal", "core"},
    **{engine: {"basereal", "nets", "core"} for engine in ENGINES},
    "sessions": {"basereal", "core"},
    "vtuber": {"sessions", "speech", "asrreal", "llm", "core"},
    "studio": {"core", "body", "auth", "nets", "tts", "ttsreal", "basereal", *ENGINES},  # from nets on: programs
    "cluster": {"sessions", "core"},
    "auth": {"core"},
    "body": {"core"},
}
HEAVY = {"torch", "openai", "edge_tts", "onnxruntime", "hibari", "faster_whisper", "ray", "transformers"}


def modules() -> Iterator[tuple[str, Path]]:
    """The server's modules: dotted names and files."""
    for path in [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/**/*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in NOT_SERVER:
            yield ".".join(parts), path


MODULES = dict(sorted(modules()))
ROOMS = {name.split(".")[0] for name in MODULES}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imported(name: str) -> Iterator[str]:
    """Dotted names that module `name` imports anywhere, lazily and for type checking too."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{name} imports relatively"
            yield node.module


def calls(name: str) -> Iterator[str]:
    """What module `name` calls, as written."""
    return (ast.unparse(node.func) for node in ast.walk(tree(name)) if isinstance(node, ast.Call))


def test_the_rooms_are_found() -> None:
    assert {"app", "auth", "basereal", "core", "outputs", "sessions", "webrtc"} <= ROOMS


@pytest.mark.parametrize("name", MODULES)
def test_arrows_point_down(name: str) -> None:
    room = name.split(".")[0]
    if room == "app":
        return
    assert room in MAY_IMPORT, f"a new room: say in docs/architecture.md and here what {room} may import"
    rooms = {other.split(".")[0] for other in imported(name)} & ROOMS
    assert rooms <= MAY_IMPORT[room] | {room}


def test_the_arrows_have_no_circle() -> None:
    left = dict(MAY_IMPORT)
    while free := [room for room, below in left.items() if not below & set(left)]:
        for room in free:
            del left[room]
    assert not left


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("core.")])
def test_core_knows_no_network_and_no_networks(name: str) -> None:
    assert not {other.split(".")[0] for other in imported(name)} & {"aiohttp", "aiortc", "torch"}


def test_importing_the_app_loads_nothing_heavy() -> None:
    script = f"import sys, app; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def broad_handlers(name: str) -> Iterator[int]:
    """The lines where module `name` swallows any exception; a handler that ends by raising it again is none."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ExceptHandler):
            last = node.body[-1]
            if is_broad(node.type) and not (isinstance(last, ast.Raise) and last.exc is None):
                yield node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "suppress" and any(map(is_broad, node.args)):
            yield node.lineno


def is_broad(kinds: ast.expr | None) -> bool:
    each = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
    return any(kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in each)


def test_any_exception_is_caught_in_three_places_only() -> None:
    found = [(name, line) for name in MODULES for line in broad_handlers(name)]
    assert [name for name, _ in found] == ["auth", "core.worker", "sessions"], found


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_printed_and_no_wall_clock_is_asked(name: str) -> None:
    assert not {"print", "time.time", "time.time_ns"} & set(calls(name))
    from_time = [node for node in ast.walk(tree(name)) if isinstance(node, ast.ImportFrom) and node.module == "time"]
    assert not {"time", "time_ns"} & {alias.name for node in from_time for alias in node.names}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(tree(name)) or not tree(name).body
