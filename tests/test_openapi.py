"""The description of the API: whole, consistent with itself and with the routes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

import app
from core.messages import Answer, Human, Reply
from core.openapi import JSON, SCHEMAS, Operation, describe

DOCUMENT = describe(app.OPERATIONS, title="Vivace", version="1.2.3", token=False)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (value for key, value in part.items() if key == "$ref")
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_it_is_openapi_3_1_with_a_title_and_a_version() -> None:
    assert DOCUMENT["openapi"] == "3.1.0" and DOCUMENT["info"] == {"title": "Vivace", "version": "1.2.3"}


def test_every_route_is_in_it_once() -> None:
    described = {(method.upper(), path) for method, path, _ in operations()}
    assert described == {(op.method, op.path) for op in app.OPERATIONS} and len(described) == len(app.OPERATIONS)


def test_every_reference_leads_to_a_schema_and_none_is_left_over() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    used = {reference.removeprefix(SCHEMAS) for reference in references(DOCUMENT)}
    assert used == set(schemas)


def test_every_operation_says_what_it_is_and_what_it_answers() -> None:
    for _, path, operation in operations():
        assert operation["summary"] and operation["tags"], path
        assert operation["responses"]["200"]["content"], path


def test_every_part_of_a_path_is_a_parameter() -> None:
    for _, path, operation in operations():
        named = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))


def test_fields_say_whether_they_must_be_there() -> None:
    human = DOCUMENT["components"]["schemas"]["Human"]
    assert set(human["required"]) == {"type", "text"}
    assert human["properties"]["type"]["enum"] == ["echo", "chat"]


@pytest.mark.parametrize(
    ("operation", "request_body"),
    [
        (Operation("GET", "/x", "x", "x"), None),
        (Operation("POST", "/x", "x", "x", Human), {JSON: {"schema": {"$ref": SCHEMAS + "Human"}}}),
    ],
)
def test_a_body_is_described_where_there_is_one(operation: Operation, request_body: Any) -> None:
    described = describe([operation], title="x", version="x", token=False)["paths"]["/x"][operation.method.lower()]
    assert described.get("requestBody", {}).get("content") == request_body


def test_an_upload_is_a_multipart_form() -> None:
    form = {"sessionid": {"type": "integer"}, "file": {"type": "string", "format": "binary"}}
    described = describe([Operation("POST", "/x", "x", "x", form)], title="x", version="x", token=False)
    schema = described["paths"]["/x"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema == {"type": "object", "properties": form, "required": ["sessionid", "file"]}


def test_an_answer_is_its_model_or_text() -> None:
    answers = [
        Operation("POST", "/a", "x", "x", answer=Answer),
        Operation("GET", "/b", "x", "x"),
        Operation("GET", "/c", "x", "x", content="text/plain"),
    ]
    paths = describe(answers, title="x", version="x", token=False)["paths"]
    contents = [next(iter(paths[path].values()))["responses"]["200"]["content"] for path in ("/a", "/b", "/c")]
    assert contents == [
        {JSON: {"schema": {"$ref": SCHEMAS + Answer.__name__}}},
        {JSON: {"schema": {"$ref": SCHEMAS + Reply.__name__}}},
        {"text/plain": {"schema": {"type": "string"}}},
    ]


def test_a_token_is_asked_for_only_where_there_is_one() -> None:
    assert "security" not in DOCUMENT and "securitySchemes" not in DOCUMENT["components"]
    guarded = describe([], title="x", version="x", token=True)
    (name,) = guarded["security"][0]
    assert guarded["components"]["securitySchemes"][name] == {"type": "http", "scheme": "bearer"}
