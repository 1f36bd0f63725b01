"""Profiles: who a session may talk with, as an operator writes it in the settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import BadRequest
from llm import OPENAI_URL, LLMSettings


class Profile(BaseModel):
    """One entry of `llm_profiles`; what it leaves out is as in the server's default. Text alone is a prompt.

    A profile with an address of its own gets no key but the one that it names: keys never go to another server.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field("", description="system prompt")
    base_url: str = Field("", pattern=r"^(https?://\S+)?$", description="an OpenAI-compatible server")
    model: str = Field("", max_length=200, description="model name; needed with base_url")
    key_env: str = Field("", pattern=r"^([A-Z_][A-Z0-9_]*)?$", description="environment variable that holds the key")
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1, description="of one answer")
    history_tokens: int | None = Field(None, ge=100, description="of the conversation that is sent along, about")
    knowledge: str = Field("", pattern=r"^(\w[\w-]{0,63})?$", description="a folder in data/knowledge/")
    tools: bool | None = Field(None, description="whether the model may move the avatar")

    @model_validator(mode="before")
    @classmethod
    def _from_prompt(cls, value: object) -> object:
        return {"prompt": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_a_model(self) -> Self:
        if self.base_url and not self.model:
            raise ValueError("a base_url needs a model")
        return self

    def settings(self, default: LLMSettings, knowledge: Path) -> LLMSettings:
        """`default`, changed as the profile says; `knowledge` is the folder of all folders. Reads the key's variable.

        BadRequest if the profile's knowledge is not there.
        """
        changes: dict[str, Any] = {name: value for name, value in self if value not in ("", None)}
        if prompt := changes.pop("prompt", ""):
            changes["system_prompt"] = prompt
        if name := changes.pop("knowledge", ""):
            changes["knowledge"] = _folder(knowledge, name)
        if self.key_env:
            changes["api_key"] = os.environ.get(self.key_env, "")
        elif self.base_url and self.base_url.rstrip("/") != (default.base_url or OPENAI_URL).rstrip("/"):
            changes |= {"api_key": "", "key_env": ""}
        return replace(default, **changes)


def _folder(root: Path, name: str) -> Path:
    folder = root / name
    if not folder.is_dir():
        raise BadRequest(f"knowledge '{name}' is not a folder in {root}")
    return folder


def read_profiles(written: Mapping[str, object]) -> dict[str, Profile]:
    """The profiles in `llm_profiles`, by llmid. BadRequest saying what is wrong; the values are not repeated."""
    return {name: _read(name, value) for name, value in written.items()}


def _read(name: str, value: object) -> Profile:
    try:
        return Profile.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadRequest(f"llm_profiles: {'.'.join(map(str, (name, *first['loc'])))}: {first['msg']}") from None
