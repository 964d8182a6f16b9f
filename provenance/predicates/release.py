"""Release v0.1: the release engineers' word that these values are this release of this product.

It names the core by its digest. Validity and sequence live here and not in the values: a rebuilder who comes
three months later still agrees on the core. A withdrawn release is told by the repository, never by a
statement that could be withheld.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from provenance.predicates import type_uri
from provenance.predicates.core import Core, core_digest, subjects_of
from provenance.predicates.shapes import (
    Moment,
    Name,
    PredicateRefused,
    PredicateTypeUnexpected,
    Sequence,
    Sha256Digest,
    Strict,
    parse_moment,
)
from provenance.statement import Statement, check_artifacts, make_statement
from provenance.strict import convert

TYPE: Final = type_uri.RELEASE


class Validity(Strict, frozen=True, kw_only=True):
    """From when to when the values may be relied upon; both ends belong to it."""

    not_before: Moment
    not_after: Moment

    @property
    def not_before_s(self) -> int:
        """The beginning, Unix seconds."""
        return parse_moment(self.not_before)

    @property
    def not_after_s(self) -> int:
        """The end, Unix seconds."""
        return parse_moment(self.not_after)


class Release(Strict, frozen=True, kw_only=True):
    """The predicate.

    Attributes:
        product: the product of the core.
        series: which line of releases: stable, lts-1 …
        sequence: counts up in the series; a verifier never goes back.
        version: what people call it; compared by nobody.
        validity: from when to when.
        core_digest: SHA-256 of the canonical JSON of the core.
        supersedes: digests of cores that this release replaces, sorted.
    """

    product: Name
    series: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9._-]{0,63}$", max_length=64)]
    sequence: Sequence
    version: Name
    validity: Validity
    core_digest: Sha256Digest
    supersedes: tuple[Sha256Digest, ...] = ()


def make_release(predicate: Release, core: Core) -> Statement:
    """Make the statement that releases a core; its subjects are those of the core.

    Raises:
        PredicateRefused: RVP-6121, also when the core is another one or a source of it is dirty.
    """
    _check(predicate)
    digest = core_digest(core).hex()
    if predicate.core_digest.sha256 != digest:
        raise PredicateRefused(f"the release names the core {predicate.core_digest.sha256}, not {digest}")
    if predicate.product != core.product:
        raise PredicateRefused(f"the release is of {predicate.product!r}, the core of {core.product!r}")
    dirty = [source.name for source in core.sources if source.dirty]
    if dirty:
        raise PredicateRefused(
            f"cannot release what was built from files that are in no commit: source {', '.join(dirty)}",
            hint="commit, build again, sign again",
        )
    return make_statement(subjects_of(core), TYPE, predicate)


def read_release(statement: Statement, *, name: str = "") -> Release:
    """Read the predicate of a statement, strictly.

    Raises:
        PredicateTypeUnexpected: RVP-6120. PredicateRefused: RVP-6121. MomentMalformed: RVP-6122.
        StatementMalformed: RVP-6110. UnknownKey: RVP-1013. WrongType: RVP-1014.
    """
    if statement.predicate_type != TYPE:
        raise PredicateTypeUnexpected(f"the type is {statement.predicate_type}, expected {TYPE}", place=name)
    check_artifacts(statement, name=name)
    predicate = convert(statement.predicate, Release, name=name)
    _check(predicate)
    return predicate


def _check(predicate: Release) -> None:
    validity = predicate.validity
    if validity.not_after_s <= validity.not_before_s:
        raise PredicateRefused(
            f"the validity ends ({validity.not_after}) before it begins ({validity.not_before})"
        )
    replaced = [digest.sha256 for digest in predicate.supersedes]
    if replaced != sorted(set(replaced)):
        raise PredicateRefused("the cores that are superseded are not sorted and distinct")
    if predicate.core_digest.sha256 in replaced:
        raise PredicateRefused("the release supersedes itself")
