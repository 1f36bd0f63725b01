"""Where settings come from, what is refused, and that secrets stay secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from core import config
from core.config import Settings, read_settings

ROOT = Path(__file__).parent.parent
OTHERS = ("DASHSCOPE_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder and no environment; what `read_settings` remembers is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "_yaml_file", None)
    for name in [*OTHERS, *(f"VIVACE_{field.upper()}" for field in Settings.model_fields)]:
        monkeypatch.delenv(name, raising=False)


def test_a_flag_outweighs_the_environment_outweighs_the_file_outweighs_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert read_settings([]).listenport == 8010
    Path("config.yaml").write_text("listenport: 1\nmax_session: 7\n")
    assert read_settings([]).listenport == 1
    monkeypatch.setenv("VIVACE_LISTENPORT", "2")
    assert read_settings([]).listenport == 2
    settings = read_settings(["--listenport", "3"])
    assert (settings.listenport, settings.max_session) == (3, 7)
    assert Settings(listenport=4).listenport == 4


def test_another_file_may_be_named(tmp_path: Path) -> None:
    Path("config.yaml").write_text("listenport: 1\n")
    (tmp_path / "other.yaml").write_text("max_session: 2\n")
    for argv in (["--config", "other.yaml"], ["--config=other.yaml"]):
        settings = read_settings([*argv, "--avatar_id", "me"])
        assert (settings.listenport, settings.max_session, settings.avatar_id) == (8010, 2, "me")


def test_a_named_file_that_is_not_there_ends_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        read_settings(["--config", "nowhere.yaml"])
    assert "nowhere.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--listenprot", "1"], ["--listen", "1"], ["listenport"], ["--listenport"]])
def test_an_unknown_flag_ends_the_program_and_is_named(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_settings(argv)
    assert argv[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--listenport", "70000"],
        ["--listenport", "http"],
        ["--fps", "30"],
        ["--max_session", "0"],
        ["--transport", "smoke"],
    ],
)
def test_a_value_that_makes_no_sense_ends_the_program_and_is_named(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        read_settings(argv)
    assert argv[0].lstrip("-") in str(end.value) + capsys.readouterr().err


def test_an_unknown_key_of_the_file_ends_the_program_and_is_named() -> None:
    Path("config.yaml").write_text("listenprot: 1\n")
    with pytest.raises(SystemExit, match="listenprot"):
        read_settings([])


def test_an_unknown_variable_of_ours_ends_the_program_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVACE_LISTENPROT", "1")
    with pytest.raises(SystemExit, match="VIVACE_LISTENPROT"):
        read_settings([])


@pytest.mark.parametrize(
    "text",
    ["- a\n- b\n", "a: [\n", "x"],
)
def test_a_file_that_is_no_list_of_settings_ends_the_program_without_a_trace(text: str) -> None:
    Path("config.yaml").write_text(text)
    with pytest.raises(SystemExit):
        read_settings([])


def test_an_empty_file_sets_nothing() -> None:
    Path("config.yaml").write_text("# nothing yet\n")
    assert read_settings([]) == Settings()


def test_flags_keep_the_names_that_users_know() -> None:
    words = {
        "--listenport": "80",
        "--max_session": "2",
        "--model": "wav2lip",
        "--avatar_id": "a",
        "--tts": "edgetts",
        "--REF_FILE": "b",
        "--REF_TEXT": "c",
        "--TTS_SERVER": "d",
        "--transport": "webrtc",
        "--customvideo_config": "e",
        "--batch_size": "8",
        "--fps": "50",
    }
    settings = read_settings([part for pair in words.items() for part in pair])
    assert {flag: str(getattr(settings, flag[2:])) for flag in words} == words
    assert read_settings(["--strict"]).strict and not read_settings(["--no-strict"]).strict


def test_nothing_is_changed_after_start() -> None:
    with pytest.raises(ValidationError):
        Settings().listenport = 1  # type: ignore[misc]


def test_keys_of_other_services_come_from_their_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OTHERS:
        monkeypatch.setenv(name, name.lower())
    settings = read_settings([])
    assert settings.dashscope_api_key.get_secret_value() == "dashscope_api_key"
    assert settings.openai_api_key.get_secret_value() == "openai_api_key"
    assert settings.llm_base_url == "openai_base_url"
    monkeypatch.setenv("VIVACE_LLM_BASE_URL", "ours")
    assert read_settings([]).llm_base_url == "ours"
    assert read_settings(["--llm_base_url", "flag"]).llm_base_url == "flag"


SECRETS = ["api_token", "turn_credential", "dashscope_api_key", "openai_api_key"]


def test_secrets_are_never_echoed() -> None:
    Path("config.yaml").write_text("".join(f"{name}: sesame-{name}\n" for name in SECRETS))
    settings = read_settings([])
    assert all(getattr(settings, name).get_secret_value() == f"sesame-{name}" for name in SECRETS)
    echoes = [repr(settings), str(settings), f"{settings}", json.dumps(settings.public()), settings.model_dump_json()]
    assert "sesame" not in "".join(echoes)
    assert not set(SECRETS) & set(settings.public())


def test_a_password_in_an_address_is_not_public() -> None:
    settings = Settings(TTS_SERVER="http://me:sesame@host:1/x", llm_base_url="https://sesame@host/v1")
    assert settings.public()["TTS_SERVER"] == "http://host:1/x"
    assert settings.public()["llm_base_url"] == "https://host/v1"


def test_a_misspelt_secret_is_not_echoed_by_the_error() -> None:
    Path("config.yaml").write_text("api_tokn: sesame\nturn_credential: [sesame]\nlistenport: sesame\n")
    with pytest.raises(SystemExit) as end:
        read_settings([])
    assert "api_tokn" in str(end.value) and "sesame" not in str(end.value)


LOG_A_FAILURE = """
import sys
from pathlib import Path
from loguru import logger
from core.log import set_up

def answer(text, token):
    return len(text + token) / 0

set_up("INFO", Path(sys.argv[1]))
try:
    answer(*sys.argv[2:])
except ZeroDivisionError:
    logger.exception("it failed")
logger.complete()
"""


def test_a_logged_traceback_holds_no_secret_and_nothing_that_was_said(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(LOG_A_FAILURE)
    command = [sys.executable, str(tmp_path / "failing.py"), str(tmp_path / "server.log"), "my illness", "sesame"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    for log in (done.stderr, (tmp_path / "server.log").read_text()):
        assert "it failed" in log and "ZeroDivisionError" in log
        assert "my illness" not in log and "sesame" not in log
