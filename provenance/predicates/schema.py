"""The JSON Schemas of our predicates, generated from the models.

The files in `schemas/` are these, committed; a test holds them to the models.
To write them again: `python -m provenance.predicates.schema`.

Example:
    >>> json_schema("release")["$ref"]
    '#/$defs/Release'
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec

from provenance.predicates import reference_values, release
from provenance.predicates.constraint import KINDS

# name of the format: (TypeURI, model, title)
SCHEMAS: Final[dict[str, tuple[str, type[msgspec.Struct], str]]] = {
    "reference-values": (reference_values.TYPE, reference_values.ReferenceValues, "Reference values v0.1"),
    "release": (release.TYPE, release.Release, "Release v0.1"),
}
FOLDER: Final = Path(__file__).with_name("schemas")


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a predicate.

    What a schema cannot say (order, one layer for a register, the shape of each claim) is in the parsing
    rules of the predicate's page.

    Raises:
        KeyError: there is no such predicate.
    """
    type_uri, model, title = SCHEMAS[name]
    schema = msgspec.json.schema(model)
    constraint = schema["$defs"].get("Constraint")
    if constraint:
        constraint["oneOf"] = [{"required": [kind]} for kind in KINDS]
        for kind in KINDS:
            constraint["properties"][kind] = _without_null(constraint["properties"][kind])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": type_uri,
        "title": title,
        **schema,
    }


def reference_values_schema() -> dict[str, Any]:
    """Return the JSON Schema of the reference-values predicate."""
    return json_schema("reference-values")


def release_schema() -> dict[str, Any]:
    """Return the JSON Schema of the release predicate."""
    return json_schema("release")


def schema_path(name: str) -> Path:
    """Return where the committed schema of a predicate lies."""
    version = SCHEMAS[name][0].rpartition("/")[2]
    return FOLDER / f"{name}-{version}.schema.json"


def schema_text(name: str) -> str:
    """Return the schema as its file has it."""
    return json.dumps(json_schema(name), indent=2, sort_keys=True) + "\n"


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = [one for one in schema.get("anyOf", []) if one != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key not in {"anyOf", "default"}}
    if len(choices) == 1:
        return {**choices[0], **rest}
    return {"anyOf": choices, **rest} if choices else rest


if __name__ == "__main__":
    for each in SCHEMAS:
        schema_path(each).write_text(schema_text(each), encoding="utf-8")
