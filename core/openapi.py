"""The OpenAPI description of the server, made from its routes and its pydantic models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from core.messages import Reply

SCHEMAS = "#/components/schemas/"
JSON = "application/json"
FORM = "multipart/form-data"


@dataclass(frozen=True, slots=True)
class Operation:
    """What one route takes and gives.

    `body` is a model, or the properties of a multipart form; a model's form may carry a file in the field `upload`.
    """

    method: str
    path: str
    summary: str
    tag: str
    body: type[BaseModel] | Mapping[str, Any] | None = None
    answer: type[BaseModel] = Reply
    content: str = JSON
    query: tuple[str, ...] = field(default=())
    upload: str = ""


def describe(operations: Iterable[Operation], *, title: str, version: str, token: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document of `operations`."""
    operations = list(operations)
    models = {op.answer for op in operations} | {op.body for op in operations if isinstance(op.body, type)}
    _, schemas = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)],
        ref_template=SCHEMAS + "{model}",
    )
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": {},
        "components": {"schemas": schemas.get("$defs", {})},
    }
    if token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    for op in operations:
        document["paths"].setdefault(op.path, {})[op.method.lower()] = _operation(op)
    return document


def _operation(op: Operation) -> dict[str, Any]:
    schema = {"$ref": SCHEMAS + op.answer.__name__} if op.content == JSON else {"type": "string"}
    described: dict[str, Any] = {
        "summary": op.summary,
        "tags": [op.tag],
        "responses": {"200": {"description": "see `code`", "content": {op.content: {"schema": schema}}}},
    }
    names = re.findall(r"{(\w+)}", op.path)
    parameters = [_parameter(name, "path") for name in names] + [_parameter(name, "query") for name in op.query]
    if parameters:
        described["parameters"] = parameters
    if isinstance(op.body, type):
        model = {"$ref": SCHEMAS + op.body.__name__}
        described["requestBody"] = {"content": {**_form(model, op.upload), JSON: {"schema": model}}}
    elif op.body:
        form = {"type": "object", "properties": dict(op.body), "required": list(op.body)}
        described["requestBody"] = {"content": {FORM: {"schema": form}}}
    return described


def _form(model: dict[str, Any], upload: str) -> dict[str, Any]:
    """The fields of `model` as a form with a file, if there is one."""
    file = {"type": "object", "properties": {upload: {"type": "string", "format": "binary"}}}
    return {FORM: {"schema": {"allOf": [file, model]}}} if upload else {}


def _parameter(name: str, place: str) -> dict[str, Any]:
    kind = "integer" if name == "sessionid" else "string"
    return {"name": name, "in": place, "required": True, "schema": {"type": kind}}
