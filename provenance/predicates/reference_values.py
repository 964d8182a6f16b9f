"""Reference values v0.1: the values of a product, said by one rebuilder.

The `core` is what rebuilders agree on (`provenance.predicates.core`). Beside it, signed and never compared:
who built, what measured, at which level, what the rebuilds varied and could not vary, the digests of the
logs, and times that the caller gave.

Level *reproduced*: the signer built it at least twice from the recipe and got the same bytes.
Level *measured*: the signer measured an artifact, and says nothing about where it comes from; its core has no
recipe and no source, so it never equals the core of somebody who did rebuild.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from provenance.canonical import canonical_json
from provenance.predicates import type_uri
from provenance.predicates.core import Core, check_core, subjects_of
from provenance.predicates.shapes import (
    PLAIN,
    Moment,
    Name,
    PredicateRefused,
    PredicateTypeUnexpected,
    Sha256Digest,
    Strict,
    Text,
    parse_moment,
)
from provenance.statement import (
    Statement,
    check_artifacts,
    make_statement,
)
from provenance.strict import convert

TYPE: Final = type_uri.REFERENCE_VALUES
Level = Literal["measured", "reproduced"]
_RUNS_TO_REPRODUCE: Final = 2


class Builder(Strict, frozen=True, kw_only=True):
    """Who built: a URI that the operator chose. A policy says which one it expects of whom."""

    id: Annotated[str, Meta(pattern=f"{PLAIN}[A-Za-z][A-Za-z0-9+.-]*:[^\\s]+$", max_length=2048)]


class Measurer(Strict, frozen=True, kw_only=True):
    """What computed the values."""

    name: Name
    version: Name


class NotExercised(Strict, frozen=True, kw_only=True):
    """A variation that could not take effect in a step, and why."""

    step: Name
    variation: Name
    reason: Text


class Rebuild(Strict, frozen=True, kw_only=True):
    """How it was rebuilt.

    Attributes:
        runs: how often it was built.
        exercised: variations that took effect in at least one step, sorted.
        not_exercised: those that could not take effect in a step.
    """

    runs: Annotated[int, Meta(ge=1, le=1000)]
    exercised: tuple[Name, ...] = ()
    not_exercised: tuple[NotExercised, ...] = ()


class LogReference(Strict, frozen=True, kw_only=True):
    """A measurement log in the bundle: whose register it folds to, and its digest."""

    name: Name
    tee: Name
    register: Name
    digest: Sha256Digest


class ReferenceValues(Strict, frozen=True, kw_only=True):
    """The predicate.

    Attributes:
        core: what rebuilders agree on.
        level: measured or reproduced.
        builder: who signs for the build.
        measurer: what computed the values.
        rebuild: how it was rebuilt; None for an artifact built elsewhere.
        logs: measurement logs.
        started_on: when the build began, if the caller says so.
        finished_on: when it ended, if the caller says so.
    """

    core: Core
    level: Level
    builder: Builder
    measurer: Measurer
    rebuild: Rebuild | None = None
    logs: tuple[LogReference, ...] = ()
    started_on: Moment | None = None
    finished_on: Moment | None = None


def make_reference_values(predicate: ReferenceValues) -> Statement:
    """Make the statement of a predicate; its subjects are those of the core.

    Raises:
        PredicateRefused: RVP-6121 and its kinds.
    """
    _check(predicate)
    return make_statement(subjects_of(predicate.core), TYPE, predicate)


def read_reference_values(statement: Statement, *, name: str = "") -> ReferenceValues:
    """Read the predicate of a statement, strictly.

    Args:
        statement: whose signature was verified.
        name: what to call it in an error.

    Raises:
        PredicateTypeUnexpected: RVP-6120. PredicateRefused: RVP-6121 and its kinds.
        StatementMalformed: RVP-6110. UnknownKey: RVP-1013. WrongType: RVP-1014.
    """
    if statement.predicate_type != TYPE:
        raise PredicateTypeUnexpected(f"the type is {statement.predicate_type}, expected {TYPE}", place=name)
    check_artifacts(statement, name=name)
    predicate = convert(statement.predicate, ReferenceValues, name=name)
    _check(predicate)
    _check_one_spelling(statement, predicate)
    said = {subject.name: subject.digest for subject in statement.subjects}
    meant = {
        one.name: {"sha256": one.digest.sha256, "sha384": one.digest.sha384}
        for one in predicate.core.subjects
    }
    if said != meant:
        raise PredicateRefused("the statement's subjects are not the core's subjects", place=name)
    return predicate


def _check(predicate: ReferenceValues) -> None:
    check_core(predicate.core)
    rebuild = predicate.rebuild
    if rebuild and list(rebuild.exercised) != sorted(set(rebuild.exercised)):
        raise PredicateRefused("the variations exercised are not sorted and distinct")
    if predicate.level == "reproduced":
        if rebuild is None or rebuild.runs < _RUNS_TO_REPRODUCE:
            raise PredicateRefused("level reproduced needs at least two runs")
        if predicate.core.recipe_digest is None:
            raise PredicateRefused("level reproduced needs the digest of the recipe")
    elif rebuild or predicate.core.recipe_digest or predicate.core.sources:
        raise PredicateRefused("level measured says nothing of a recipe, of sources or of rebuilds")
    for moment in (predicate.started_on, predicate.finished_on):
        if moment is not None:
            parse_moment(moment)


def _check_one_spelling(statement: Statement, predicate: ReferenceValues) -> None:
    """Check that the core was written in the one way that gives its digest: no defaults, no floats."""
    try:
        spelled = canonical_json(statement.predicate["core"])
    except (TypeError, ValueError) as error:
        raise PredicateRefused(f"the core has no canonical form: {error}") from error
    if spelled != canonical_json(predicate.core):
        raise PredicateRefused(
            "the core spells out a default value; it is left out in the one form that counts"
        )
