"""Settings: flags over environment (`VIVACE_…`) over `config.yaml` over defaults. Unknown names are errors.

The flags keep the names that users of this family of servers know. Secrets come from the environment or from
`config.yaml`; `public()` is the only form that leaves the process, and it holds none.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

_USERINFO = re.compile(r"//[^/@\s]*@")  # a password inside a URL


NOT_SETTINGS = {"VIVACE_CACHE"}  # of scripts/fetch_models.py
WELL_KNOWN = {  # what other programs read too goes without the prefix
    "dashscope_api_key": "DASHSCOPE_API_KEY",
    "openai_api_key": "OPENAI_API_KEY",
    "llm_base_url": "OPENAI_BASE_URL",
}


class Settings(BaseSettings):
    """Everything a server can be told. Nothing is changed after start."""

    model_config = SettingsConfigDict(env_prefix="VIVACE_", extra="forbid", frozen=True, cli_kebab_case=False)

    host: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104
    listenport: int = Field(8010, ge=0, le=65535, description="HTTP port")
    max_session: int = Field(1, ge=1, description="live sessions at most")
    transport: Literal["webrtc"] = Field("webrtc", description="how the picture leaves the server")

    model: str = Field("auto", description="engine: wav2lip, still; auto is wav2lip, or still if that cannot load")
    modelfile: str = Field("", description="checkpoint of the engine; default models/wav2lip.pth if there, else ours")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the engine runs")
    avatar_id: str = Field("presenter", description="the avatar shown unless an offer names another")
    customvideo_config: str = Field("", description="JSON file of custom states")
    multiavatar_config: str = Field("", description="JSON file of the avatars a message may choose")

    tts: str = Field("auto", description="auto, edgetts, kokoro, hibari, espeak, gpt-sovits, …: docs/tts.md")
    REF_FILE: str = Field("", description="default voice: an engine's voice name or a reference's id")
    REF_TEXT: str = Field("", description="what the reference says")
    TTS_SERVER: str = Field("http://127.0.0.1:9880", description="address of a TTS server")
    tts_timeout_s: float = Field(10.0, gt=0, description="a sentence is skipped after this long without sound")

    asr: str = Field("auto", description="auto, whisper, funasr or off; auto is whisper if its model is there")
    asr_model: str = Field("base", description="of whisper: models/whisper-NAME")
    asr_language: str = Field("", description="zh, en, …; empty: found out for every turn")
    ASR_SERVER: str = Field("ws://127.0.0.1:10095", description="address of a FunASR runtime")
    asr_timeout_s: float = Field(10.0, gt=0, description="what was said is given up after this long")

    llm: str = Field("auto", description="auto, openai or rules")
    llm_model: str = Field("", description="model name; default qwen-plus or gpt-4o-mini")
    llm_base_url: str = Field("", description="an OpenAI-compatible server; also read from OPENAI_BASE_URL")
    llm_prompt: str = Field("", description="system prompt; default: a friendly digital human who answers briefly")
    llm_profiles: dict[str, str | dict[str, Any]] = Field(
        default_factory=dict,
        description="by the llmid that an offer may name: a prompt, or prompt, base_url, model, knowledge, …",
    )
    llm_timeout_s: float = Field(20.0, gt=0, description="an answer is given up after this long without text")

    bitrate: int = Field(
        0, ge=0, le=20_000_000, description="video bits per second of a session; 0: by size, 1 Mbit/s at 512×512"
    )
    stun: str = Field("", description="STUN server for clients and server, e.g. stun:host:3478")
    turn: str = Field("", description="TURN server, e.g. turn:host:3478?transport=udp")
    turn_username: str = ""
    connect_timeout_s: float = Field(30.0, gt=0, description="a session that never connects is closed after this long")
    dead_timeout_s: float = Field(15.0, gt=0, description="a peer that sends nothing for this long is gone")
    idle_timeout_s: float = Field(0.0, ge=0, description="a session that is not spoken to is closed; 0: never")
    drain_s: float = Field(5.0, ge=0, description="at shutdown speech may go on for this long")

    offer_rate: int = Field(
        60, ge=0, description="offers a minute from one address, and as many previews and /asr requests; 0: unlimited"
    )
    avatar_film_mb: int = Field(500, ge=1, description="megabytes of a video that is uploaded to make an avatar of")
    avatar_queue: int = Field(8, ge=1, description="avatars that wait to be made at most")
    notify_hosts: list[str] = Field(
        default_factory=list, description="hosts, or host:port, that an avatar task's notifyurl may name"
    )
    strict: bool = Field(False, description="an audiotype that does not exist is an error, not a warning")
    data_dir: Path = Field(Path("data"), description="avatars, recordings, uploads")
    models_dir: Path = Field(Path("models"), description="weights")
    log_level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_file: Path | None = Field(None, description="rotating log file")
    fps: Literal[25, 50] = Field(25, description="accepted for compatibility; pictures are always 25 a second")
    batch_size: int = Field(16, ge=1, description="faces in one batch at most")

    api_token: SecretStr = Field(SecretStr(""), description="if set, API requests must carry it")
    turn_credential: SecretStr = Field(SecretStr(""), description="password for the TURN server")
    dashscope_api_key: SecretStr = Field(SecretStr(""), description="also read from DASHSCOPE_API_KEY")
    openai_api_key: SecretStr = Field(SecretStr(""), description="also read from OPENAI_API_KEY")

    @field_validator("fps", mode="before")
    @classmethod
    def _fps_from_text(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        well_known = {field: os.environ[name] for field, name in WELL_KNOWN.items() if name in os.environ}
        return (
            init_settings,
            env_settings,
            InitSettingsSource(settings_cls, init_kwargs=well_known),
            YamlConfigSettingsSource(settings_cls, yaml_file=_yaml_file),
        )

    def public(self) -> dict[str, Any]:
        """The settings as JSON-able values, secrets left out."""
        return {
            name: value if value is None or isinstance(value, bool | int | float) else _USERINFO.sub("//", str(value))
            for name, value in self
            if not isinstance(value, SecretStr)
        }


_yaml_file: Path | None = None
_NAMES = {name.lower() for name in Settings.model_fields}


def read_settings(argv: list[str] | None = None) -> Settings:
    """Settings of this process from `argv` (default: its command line). Exits with usage on a bad flag."""
    global _yaml_file
    ours = {name for name in os.environ if name.startswith("VIVACE_")} - NOT_SETTINGS
    unknown = [name for name in ours if name[7:].lower() not in _NAMES]
    if unknown:
        raise SystemExit(f"there is no such setting: {', '.join(sorted(unknown))}")
    argv = list(sys.argv[1:] if argv is None else argv)
    _yaml_file, argv = _take_config_flag(argv)
    cli: Any = CliSettingsSource(Settings, cli_parse_args=argv, cli_prog_name="app.py", cli_implicit_flags=True)
    try:
        return Settings(_cli_settings_source=cli)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_input=False)]
        raise SystemExit("\n".join(["the settings are not right:", *wrong])) from None
    except (ValueError, yaml.YAMLError):
        raise SystemExit(f"{_yaml_file} does not hold settings, `name: value` a line") from None


def _take_config_flag(argv: list[str]) -> tuple[Path | None, list[str]]:
    """`--config FILE` out of `argv`; without it `config.yaml`, if there is one. Exits if a named file is not there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    found, rest = parser.parse_known_args(argv)
    if found.config and not found.config.is_file():
        parser.error(f"--config: no such file: {found.config}")
    return found.config or Path("config.yaml"), rest
