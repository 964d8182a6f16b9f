"""The small JSON documents of the pipeline's commands; `rvp schema` prints their schemas.

Example:
    >>> LockCheck(current=True, stale={}).schema
    'rvp/lock-check/v1'
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pipeline.agreement import Disagreement
from pipeline.build_result import BuildResult
from pipeline.measure.sgx.sigstruct_fields import Change as FieldChange
from pipeline.measure.sgx.sigstruct_fields import Field
from pipeline.resolve import Change
from pipeline.source_proof import SourceProof
from provenance.claims import Check
from verifier.cli.documents import Sha256


class LockChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What `rvp lock` changed."""

    schema: Literal["rvp/lock-changes/v1"] = "rvp/lock-changes/v1"
    lock: str
    changes: tuple[Change, ...]


class LockCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What `rvp lock --check` found: each stale part, and why."""

    schema: Literal["rvp/lock-check/v1"] = "rvp/lock-check/v1"
    current: bool
    stale: dict[str, str]


class SignedStatement(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A statement that was signed and written."""

    path: str
    predicate_type: str
    digest: Sha256


class SignedStatements(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What `rvp sign` signed."""

    schema: Literal["rvp/signed/v1"] = "rvp/signed/v1"
    product: str
    level: str
    core_digest: Sha256
    key: Sha256
    statements: tuple[SignedStatement, ...]


class ExactStatement(msgspec.Struct, frozen=True, kw_only=True):
    """A statement that would be signed: its exact payload."""

    name: str
    payload: str


class ExactStatements(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What `rvp sign --dry-run` would sign."""

    schema: Literal["rvp/would-sign/v1"] = "rvp/would-sign/v1"
    product: str
    level: str
    core_digest: Sha256
    statements: tuple[ExactStatement, ...]


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What `rvp publish` wrote, and how many of what it holds."""

    schema: Literal["rvp/published/v1"] = "rvp/published/v1"
    path: str
    digest: Sha256
    holds: dict[str, int]


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What `rvp rebuild` gave, and where it differs from what the bundle states."""

    schema: Literal["rvp/rebuild/v1"] = "rvp/rebuild/v1"
    bundle: str
    source_checked: bool
    source_proofs: tuple[SourceProof, ...]
    agrees: bool
    differences: tuple[Disagreement, ...]
    build: BuildResult


class ToBeSigned(msgspec.Struct, frozen=True, kw_only=True):
    """What `rvp sgx digest` wrote for an enclave's owner to sign; with --previous, what changed since."""

    schema: Literal["rvp/to-be-signed/v1"] = "rvp/to-be-signed/v1"
    sha256: str
    mrenclave: str
    debug_launch: str
    fields: tuple[Field, ...]
    changes: tuple[FieldChange, ...] | None = None


class ShownSigstruct(msgspec.Struct, frozen=True, kw_only=True):
    """A SIGSTRUCT, field by field: `rvp sgx show`."""

    schema: Literal["rvp/sigstruct/v1"] = "rvp/sigstruct/v1"
    file: str
    mrenclave: str
    mrsigner: str
    debug_launch: str
    fields: tuple[Field, ...]
    checks: tuple[Check, ...]
