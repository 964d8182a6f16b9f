"""The checks of `rvp verify`: one function each, one table, in the order in which they are told.

A check is a pure function of the case. It answers passed, failed, warning, or skipped with the reason in
`got`. The table says which class of error a failure is: its family gives the exit code, its docstring the
entry in docs/reference/errors.md. A mandatory check that is skipped makes the verdict inconclusive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from provenance.claims import Check
from provenance.errors import RvpError
from verifier.verify.case import Case
from verifier.verify.checks.logs import logs
from verifier.verify.checks.origin import (
    product,
    recipe,
    recipe_committed,
    source_ref,
    source_repository,
    source_signature,
)
from verifier.verify.checks.quorum import agreement, conflict, dissent, equivocation, level
from verifier.verify.checks.release import freshness, release, sequence, validity
from verifier.verify.checks.statements import bundle, operators, policy, signatures
from verifier.verify.checks.values import artifacts, require, slack, unpredicted
from verifier.verify.failures import (
    ArtifactUnknown,
    BundleBroken,
    Conflict,
    HoleTooWide,
    LevelTooLow,
    LogContradicts,
    NoKnownOperator,
    NoQuorum,
    NotReleased,
    NotValidNow,
    OtherProduct,
    OtherRecipe,
    OtherRef,
    OtherRepository,
    RecipeNotCommitted,
    RequiredMissing,
    SourceUnsigned,
    Stale,
    StatementForged,
    Withdrawn,
)


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    run: Callable[[Case], Check]
    failure: type[RvpError]
    mandatory: bool
    only_warns: bool = False

    @property
    def id(self) -> str:
        """The check's id: its function's name, with dashes."""
        return self.run.__name__.replace("_", "-")

    @property
    def meaning(self) -> str:
        """One sentence."""
        return (self.run.__doc__ or "").splitlines()[0]


CHECKS: Final[tuple[Rule, ...]] = tuple(
    Rule(
        run=run,
        failure=failure,
        mandatory=mandatory,
        only_warns=run in {policy, equivocation, dissent, slack},
    )
    for run, failure, mandatory in (
        (bundle, BundleBroken, True),
        (policy, NoQuorum, True),
        (signatures, StatementForged, True),
        (operators, NoKnownOperator, True),
        (product, OtherProduct, True),
        (source_repository, OtherRepository, True),
        (source_ref, OtherRef, True),
        (source_signature, SourceUnsigned, False),
        (recipe, OtherRecipe, False),
        (recipe_committed, RecipeNotCommitted, False),
        (agreement, NoQuorum, True),
        (conflict, Conflict, True),
        (equivocation, NoQuorum, True),
        (dissent, NoQuorum, True),
        (level, LevelTooLow, True),
        (artifacts, ArtifactUnknown, False),
        (release, NotReleased, False),
        (sequence, Withdrawn, False),
        (validity, NotValidNow, False),
        (freshness, Stale, True),
        (unpredicted, HoleTooWide, True),
        (slack, HoleTooWide, False),
        (logs, LogContradicts, False),
        (require, RequiredMissing, False),
    )
)
