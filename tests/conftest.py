"""What all tests share: loopback ICE, doubles in the plug-in tables, a data folder with a drawn avatar."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aioice.ice
import pytest

import basereal
import llm
import ttsreal
from tests.fakes.live import Live, serve

SHARED = Path(__file__).parent.parent.parent / "shared"


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])


@pytest.fixture(autouse=True)
def doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(basereal.ENGINES._table, "paint", "tests.fakes.person:PaintReal")
    monkeypatch.setitem(ttsreal.TTS._table, "tone", "tests.fakes.person:ToneTTS")
    monkeypatch.setitem(llm.LLM._table, "script", "tests.fakes.person:ScriptLLM")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
async def live(data_dir: Path) -> AsyncIterator[Live]:
    async with serve(data_dir) as server:
        yield server
