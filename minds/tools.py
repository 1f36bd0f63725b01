"""What a mind can do with its avatar: the tools it is offered, and what becomes of a call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm import Call, Tool

DONE = "done"


@dataclass(frozen=True, slots=True)
class Repertoire:
    """What the avatar of one session can do: custom states by audiotype, actions by name."""

    states: tuple[int, ...] = ()
    actions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Action:
    """Something the avatar is to do now: `set_state` with `audiotype`, or `play_action` with `name`; both exist."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def describe(repertoire: Repertoire) -> list[Tool]:
    """The tools with which a model can do what is in `repertoire`."""
    tools = []
    if repertoire.states:
        told = "Show the avatar in a custom state. 0 is its normal self."
        tools.append(_tool("set_state", told, "audiotype", "integer", list(repertoire.states)))
    if repertoire.actions:
        told = "Make the avatar perform an action once, such as waving, while you go on talking."
        tools.append(_tool("play_action", told, "name", "string", list(repertoire.actions)))
    return tools


def perform(call: Call, repertoire: Repertoire) -> tuple[Action | None, str]:
    """What `call` makes the avatar do, None if nothing, and what to tell the model about it."""
    known: dict[str, tuple[str, tuple[int, ...] | tuple[str, ...]]] = {
        "set_state": ("audiotype", repertoire.states),
        "play_action": ("name", repertoire.actions),
    }
    if call.name not in known:
        return None, "there is no such tool"
    parameter, choices = known[call.name]
    wish = _arguments(call).get(parameter)
    for choice in choices:
        if str(choice) == str(wish):
            return Action(call.name, {parameter: choice}), DONE
    return None, f"not done: {parameter} must be one of {json.dumps(choices, ensure_ascii=False)}"


def exchange(said: str, calls: list[tuple[Call, str]]) -> list[dict[str, Any]]:
    """The messages that tell a model which calls it made after it had `said` something, and what came of each."""
    made = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": json.dumps(_arguments(call))}}
        for call, _ in calls
    ]
    results = [{"role": "tool", "tool_call_id": call.id, "content": result} for call, result in calls]
    return [{"role": "assistant", "content": said, "tool_calls": made}, *results]


def _arguments(call: Call) -> dict[str, Any]:
    """The arguments of `call`; none if they are not a JSON object."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return {}
    return arguments if isinstance(arguments, dict) else {}


def _tool(name: str, told: str, parameter: str, kind: str, choices: list[Any]) -> Tool:
    schema = {"type": "object", "properties": {parameter: {"type": kind, "enum": choices}}, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "description": told, "parameters": schema}}
