"""All minds of a server: one for each profile, and the default."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path

from loguru import logger

from llm import OPENAI_URL, BaseLLM, LLMSettings, make_llm
from minds.knowledge import Knowledge
from minds.mind import Mind
from minds.profile import Profile
from minds.rules import RuleLLM

DEFAULT = "default"  # the profile that changes what answers where none is named


class Minds:
    """Minds by llmid; `default` is who answers where none is named, or one that there is not."""

    def __init__(self, default: Mind, named: Mapping[str, Mind] | None = None) -> None:
        self.default = default
        self.named = dict(named or {})

    def mind(self, llm_id: str) -> Mind:
        """The mind called `llm_id`, or the default."""
        return self.named.get(llm_id, self.default)

    async def start(self) -> None:
        """Bring all knowledge up to date: the first time a while, later a moment."""
        for knowledge in {mind.knowledge for mind in self._all if mind.knowledge}:
            await knowledge.refresh()

    async def aclose(self) -> None:
        """Give back what the models hold."""
        for mind in self._all:
            await mind.llm.aclose()

    @property
    def _all(self) -> list[Mind]:
        return [self.default, *self.named.values()]


def make_minds(default: BaseLLM, profiles: Mapping[str, Profile], knowledge: Path, pool: Executor) -> Minds:
    """A mind of `default` and one for each of `profiles`; those on one server share its connections.

    `knowledge` is the folder in which profiles name folders; they are read in `pool`. BadRequest if one is not there.
    """
    models = {_server(default.settings): default}
    folders: dict[Path, Knowledge] = {}

    def make(llm: BaseLLM) -> Mind:
        folder = llm.settings.knowledge
        if folder is None:
            return Mind(llm)
        if isinstance(llm, RuleLLM):
            logger.warning("knowledge {} is of no use: there is no language model", folder.name)
            return Mind(llm)
        return Mind(llm, folders.setdefault(folder, Knowledge(folder, pool)))

    def model(settings: LLMSettings) -> BaseLLM:
        known = models.get(_server(settings))
        if known:
            return known.like(settings)
        return models.setdefault(_server(settings), make_llm(settings))

    named = {name: make(model(profile.settings(default.settings, knowledge))) for name, profile in profiles.items()}
    return Minds(named.pop(DEFAULT) if DEFAULT in named else make(default), named)


def _server(settings: LLMSettings) -> tuple[str, str]:
    """What must be equal for two models to share connections: address and key."""
    return (settings.base_url or OPENAI_URL).rstrip("/"), settings.api_key or settings.key_env
