"""A verdict: a non-empty, ordered list of named checks, and what follows from them.

*Failed* when a check failed: the first one gives the exit code. *Inconclusive* when a mandatory check did not
run. *Passed* only when every mandatory check ran and passed. What was not checked is part of the verdict.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from provenance.claims import Check, Tool
from provenance.predicates.core import MeasurementSet, Source

Outcome = Literal["passed", "failed", "inconclusive"]
INCONCLUSIVE_EXIT = 20


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the user asks about: its name and its digests (lowercase hex)."""

    name: str
    sha256: str
    sha384: str


class OperatorView(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator of the policy said. `core` is empty when it said nothing that counts."""

    name: str
    key: str = ""
    cores: tuple[str, ...] = ()
    builder: str = ""
    level: str = ""


class Agreed(msgspec.Struct, frozen=True, kw_only=True):
    """What n operators agree on, and the release that names it."""

    core: str
    product: str
    recipe: str = ""
    operators: tuple[str, ...]
    sources: tuple[Source, ...] = ()
    sets: tuple[MeasurementSet, ...] = ()
    series: str = ""
    sequence: int | None = None
    version: str = ""
    not_before: str = ""
    not_after: str = ""


class FurtherView(msgspec.Struct, frozen=True, kw_only=True):
    """A further repository that the policy lets in."""

    repository: str
    refs: tuple[str, ...]
    source_signers: int


class PolicyView(msgspec.Struct, frozen=True, kw_only=True):
    """The policy, as it is shown before the verdict.

    `operator_keys` and `release_keys` have the fingerprints, whole, by the operator's name and by the name of
    the key's file; a keyless operator has none.
    """

    sha256: str
    product: str
    series: str
    repository: str
    refs: tuple[str, ...]
    source_signers: int
    also: tuple[FurtherView, ...]
    operators: tuple[str, ...]
    operator_keys: dict[str, str]
    n: int
    minority_quorum: bool
    level: str
    release_signers: int
    release_keys: dict[str, str]
    release_threshold: int
    minimum_release: int | None
    max_age: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The document that `rvp verify --format json` prints.

    Attributes:
        verdict: passed, failed or inconclusive.
        exit_code: of the command: the first failing check's.
        at: the time that was verified as of, RFC 3339.
        bundle: SHA-256 of the bundle's index; empty when it could not be read.
        policy: None without one.
        checks: in their order.
        not_checked: what a passing verdict does not say.
        operators: each operator of the policy and what it said.
        agreed: what the quorum agreed on.
    """

    schema: Literal["rvp/verification/v1"] = "rvp/verification/v1"
    tool: Tool
    verdict: Outcome
    exit_code: int
    at: str
    bundle: str
    policy: PolicyView | None
    checks: tuple[Check, ...]
    not_checked: tuple[str, ...] = ()
    operators: tuple[OperatorView, ...] = ()
    agreed: Agreed | None = None
