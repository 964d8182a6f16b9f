"""`rvp schema`: the JSON Schema of each format that rvp reads or writes."""

from __future__ import annotations

import importlib
from typing import Any, Final

import click

from verifier.cli.terminal import Settings

# format: (module, function without arguments or msgspec Struct, what it is)
SCHEMAS: Final[dict[str, tuple[str, str, str]]] = {
    "spec": ("pipeline.spec", "json_schema", "rvp.toml, written by a person"),
    "lock": ("pipeline.lock", "json_schema", "rvp.lock, written by rvp lock"),
    "recipe": ("pipeline.recipe", "RecipeCore", "recipe.json, what a recipe's digest covers"),
    "measurements": ("provenance.claims", "Measurements", "what rvp measure --format json prints"),
    "reference-values": (
        "provenance.predicates.schema",
        "reference_values_schema",
        "the reference-values predicate, which rvp sign signs",
    ),
    "release": (
        "provenance.predicates.schema",
        "release_schema",
        "the release predicate, which rvp release signs",
    ),
    "build": ("pipeline.build_result", "json_schema", "result.json, what rvp build leaves"),
    "plan": ("pipeline.plan", "Plan", "what rvp plan --format json prints"),
    "policy": ("provenance.policy", "Policy", "policy.toml, the Verifier Owner's"),
    "verification": ("verifier.verify.result", "Verdict", "what rvp verify --format json prints"),
}


@click.command(
    epilog="""\b
Examples:
  rvp schema               list the formats
  rvp schema spec          print the schema of rvp.toml
"""
)
@click.argument("name", required=False, type=click.Choice(tuple(SCHEMAS)), metavar="[FORMAT]")
@click.pass_obj
def schema(settings: Settings, name: str | None) -> None:
    """Print the JSON Schema of a format; without a name, list the formats."""
    if name is None:
        for known, (_, _, what) in SCHEMAS.items():
            settings.out(f"{known:<18}{what}")
        return
    settings.out_json(schema_of(name))


def schema_of(name: str) -> dict[str, Any]:
    """Make the schema of a format."""
    import msgspec

    module, attribute, what = SCHEMAS[name]
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, type):
        made: dict[str, Any] = msgspec.json.schema(found)
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": what, **made}
    document: dict[str, Any] = found()
    return document
