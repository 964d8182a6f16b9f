"""The documents that a report is made of: whatever `--format json` printed, told apart by `schema`.

Readers here are lenient about keys that they do not show: a report of a newer document is still a report.
Types are strict, and a file that is missing or broken is a line of the report, not an error: a report is
wanted most when something went wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.difference.model import Report as DifferenceReport
from provenance.errors import RvpError
from provenance.strict import convert, parse_json, read_file
from verifier.cli.documents import Failure

_LIMIT_BYTES: Final = 64 << 20


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a node."""

    run: int = 0
    status: str = ""
    exercised: tuple[str, ...] = ()
    not_exercised: tuple[dict[str, str], ...] = ()


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One node of a build."""

    node: str
    verdict: str
    inputs_agree: bool = True
    differing: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A file that leaves the build."""

    name: str
    size_bytes: int = 0
    digest: dict[str, str] = {}


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured."""

    name: str = ""
    digest: dict[str, str] = {}


class Values(msgspec.Struct, frozen=True, kw_only=True):
    """The values of one file in one variant."""

    tee: str
    subject: Subject = Subject()
    variant: dict[str, Any] = {}
    claims: dict[str, Any] = {}
    unpredicted: tuple[dict[str, Any], ...] = ()


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The values of one measure node."""

    node: str
    measurements: tuple[Values, ...] = ()


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """`rvp/build/v1`."""

    project: str
    version: str = ""
    recipe: str = ""
    times: int = 1
    verdict: str
    nodes: tuple[Node, ...] = ()
    measurements: tuple[Measured, ...] = ()
    artifacts: tuple[Artifact, ...] = ()


class Measurements(msgspec.Struct, frozen=True, kw_only=True):
    """`rvp/measurements/v1`."""

    measurements: tuple[Values, ...] = ()


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check of a verdict."""

    id: str
    status: str
    expected: str = ""
    got: str = ""
    source: str = ""
    hint: str = ""
    code: str = ""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """`rvp/verification/v1` and `rvp/appraisal/v1`."""

    schema: str
    verdict: str
    exit_code: int | None = None
    at: str | int = ""
    checks: tuple[Check, ...] = ()
    not_checked: tuple[str, ...] = ()
    agreed: dict[str, Any] | None = None


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One step that diverged from equal inputs, and the look inside."""

    node: str
    differing: tuple[str, ...] = ()
    report: DifferenceReport


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """`rvp/divergence/v1`: what `rvp build` writes as difference.json."""

    faults: tuple[Fault, ...] = ()


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """A document that is not there or not readable, and why."""

    name: str
    reason: str


Document = Build | Measurements | Verification | DifferenceReport | Divergence | Unreadable

_TYPES: Final[dict[str, type[Document]]] = {
    "rvp/build/v1": Build,
    "rvp/measurements/v1": Measurements,
    "rvp/verification/v1": Verification,
    "rvp/appraisal/v1": Verification,
    "rvp/difference/v1": DifferenceReport,
    "rvp/divergence/v1": Divergence,
}


def read_document(path: Path) -> Document:
    """Read one document; what cannot be read says so and raises nothing."""
    if not path.exists():
        return Unreadable(name=path.name, reason="was not written")
    try:
        return parse_document(read_file(path, limit_bytes=_LIMIT_BYTES), name=path.name)
    except RvpError as error:
        return Unreadable(name=path.name, reason=error.message)


def parse_document(data: bytes, *, name: str) -> Document:
    """Read one document from its bytes; what cannot be read says so and raises nothing."""
    if not data.strip():
        return Unreadable(name=name, reason="is empty")
    try:
        document = parse_json(data, name=name)
        schema = document.get("schema") if isinstance(document, dict) else None
        if schema == "rvp/error/v1":
            failure = convert(document, Failure, name=name)
            return Unreadable(name=name, reason=f"was not made: {failure.message} [{failure.code}]")
        if not isinstance(schema, str) or schema not in _TYPES:
            return Unreadable(name=name, reason=f"has no schema that a report knows: {schema!r}")
        found: Document = convert(document, _TYPES[schema], name=name)
    except RvpError as error:
        return Unreadable(name=name, reason=error.message)
    return found
