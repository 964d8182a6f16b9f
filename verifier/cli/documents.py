"""The small JSON documents that commands print with `--format json`; `rvp schema` prints their schemas.

The large ones have rooms of their own: measurements, build, plan, verification.

Example:
    >>> Failure(code="RVP-1010", exit_code=2, message="cannot read the file").schema
    'rvp/error/v1'
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from provenance.policy_weakness import Finding
from provenance.predicates.release import Release


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What stands on stdout when a command failed before it had a document to print."""

    schema: Literal["rvp/error/v1"] = "rvp/error/v1"
    code: str
    exit_code: int
    message: str
    place: str = ""
    hint: str = ""


class Sha256(msgspec.Struct, frozen=True, kw_only=True):
    """A digest, in lowercase hex."""

    sha256: str


class KeyFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where `rvp key new` wrote the two halves."""

    private: str
    public: str


class ShownKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A public key: `rvp key new`, `rvp key show`."""

    schema: Literal["rvp/key/v1"] = "rvp/key/v1"
    type: str
    fingerprint: Sha256
    hint: str
    pem: str
    files: KeyFiles | None = None


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A file, taken apart by `rvp show`. Nothing of it was verified."""

    schema: Literal["rvp/shown/v1"] = "rvp/shown/v1"
    kind: str
    verified: Literal[False] = False
    content: Any


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """What `rvp release` signed."""

    schema: Literal["rvp/released/v1"] = "rvp/released/v1"
    release: Release
    key: Sha256
    path: str
    digest: Sha256


class PolicyCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What `rvp policy check` found."""

    schema: Literal["rvp/policy-check/v1"] = "rvp/policy-check/v1"
    policy: Sha256
    findings: tuple[Finding, ...]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An error code and what it means; `cure` says what to do."""

    code: str
    title: str
    explanation: str
    cure: str
    exit_code: int
    module: str
    checks: tuple[str, ...] = ()


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What `rvp explain` says: one code, the codes of a check, or all."""

    schema: Literal["rvp/explanation/v1"] = "rvp/explanation/v1"
    entries: tuple[Entry, ...]
