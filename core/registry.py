"""Tables of plug-ins: a name, and where its class lives. Nothing is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from core.errors import BadRequest


class Registry:
    """Classes by name, `{"edge": "tts.edge:EdgeTTS"}`; others join through the entry-point group `vivace.<kind>`."""

    def __init__(self, kind: str, table: Mapping[str, str]) -> None:
        self.kind = kind
        self._table = dict(table)

    def names(self) -> list[str]:
        """Every known name, sorted, those of entry points included."""
        return sorted({*self._table, *(point.name for point in entry_points(group=f"vivace.{self.kind}"))})

    def load(self, name: str) -> Any:
        """The class behind `name`.

        BadRequest if the name is unknown (the message lists the known ones) or its package is not installed.
        """
        try:
            if name in self._table:
                module, _, attribute = self._table[name].partition(":")
                return getattr(import_module(module), attribute)
            for point in entry_points(group=f"vivace.{self.kind}", name=name):
                return point.load()
        except ModuleNotFoundError as error:
            raise BadRequest(f"{self.kind} '{name}' needs the Python package '{error.name}'") from error
        raise BadRequest(f"unknown {self.kind} '{name}'; known: {', '.join(self.names())}")
