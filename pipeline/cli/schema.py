"""`rvp schema`: the JSON Schema of each format that rvp reads or writes."""

from __future__ import annotations

import difflib
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
    "difference": ("pipeline.difference.model", "Report", "what a look inside two files or trees finds"),
    "divergence": (
        "pipeline.report.documents",
        "Divergence",
        "difference.json, after rebuilds that diverged",
    ),
    "rebuild": ("pipeline.cli.documents", "Rebuilt", "what rvp rebuild --format json prints"),
    "lock-changes": ("pipeline.cli.documents", "LockChanges", "what rvp lock --format json prints"),
    "lock-check": ("pipeline.cli.documents", "LockCheck", "what rvp lock --check --format json prints"),
    "signed": ("pipeline.cli.documents", "SignedStatements", "what rvp sign --format json prints"),
    "would-sign": (
        "pipeline.cli.documents",
        "ExactStatements",
        "what rvp sign --dry-run --format json prints",
    ),
    "released": ("verifier.cli.documents", "Released", "what rvp release --format json prints"),
    "published": ("pipeline.cli.documents", "Published", "what rvp publish --format json prints"),
    "to-be-signed": ("pipeline.cli.documents", "ToBeSigned", "what rvp sgx digest --format json prints"),
    "sigstruct": ("pipeline.cli.documents", "ShownSigstruct", "what rvp sgx show --format json prints"),
    "policy-check": ("verifier.cli.documents", "PolicyCheck", "what rvp policy check --format json prints"),
    "key": ("verifier.cli.documents", "ShownKey", "what rvp key … --format json prints"),
    "shown": ("verifier.cli.documents", "Shown", "what rvp show --format json prints"),
    "explanation": ("verifier.cli.documents", "Explanation", "what rvp explain [CODE] --format json prints"),
    "measurement-explanation": (
        "pipeline.explain.model",
        "Explained",
        "what rvp explain A B --format json prints",
    ),
    "doctor": ("pipeline.doctor", "Diagnosis", "what rvp doctor --format json prints"),
    "engine": ("pipeline.cli.engine", "FoundEngines", "what rvp engine status --format json prints"),
    "private-engine": ("pipeline.private_engine", "EngineStatus", "what rvp engine start and stop print"),
    "measurement-log": ("provenance.measurement_log", "MeasurementLog", "what rvp measure --log writes"),
    "enclave": (
        "pipeline.measure.sgx.freestanding.config",
        "EnclaveConfig",
        "enclave.toml, an enclave's configuration",
    ),
    "error": ("verifier.cli.documents", "Failure", "what stands on stdout when --format json fails"),
    "replay": ("verifier.evidence.replay", "Replay", "what rvp replay --format json prints"),
    "verification": ("verifier.verify.result", "Verdict", "what rvp verify --format json prints"),
}


@click.command(
    epilog="""\b
Examples:
  rvp schema               list the formats
  rvp schema spec          print the schema of rvp.toml
"""
)
@click.argument("name", required=False, metavar="[FORMAT]")
@click.pass_obj
def schema(settings: Settings, name: str | None) -> None:
    """Print the JSON Schema of a format; without a name, list the formats."""
    if name is None:
        for known, (_, _, what) in SCHEMAS.items():
            settings.out(f"{known:<18}{what}")
        return
    if name not in SCHEMAS:
        near = difflib.get_close_matches(name, SCHEMAS, n=1)
        raise click.UsageError(
            f'there is no format "{name}"'
            + (f', did you mean "{near[0]}"?' if near else "")
            + "; `rvp schema` lists them",
            click.get_current_context(),
        )
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
