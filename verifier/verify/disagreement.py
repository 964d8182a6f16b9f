"""Where two cores first differ, so that a dissent is more than two digests.

Claims come first, as they are what evidence is compared with; then artifacts, sources, recipe, product.

Example:
    >>> from provenance.predicates.core import Layer, MeasurementSet
    >>> from provenance.predicates.constraint import Constraint
    >>> layer = Layer(name="workload", provider="acme")
    >>> def said(svn):
    ...     claims = {"isvsvn": Constraint(exact=svn)}
    ...     one = MeasurementSet(id="sgx/e.so", tee="sgx", subject="e.so", layer=layer, claims=claims)
    ...     return Core(product="e", subjects=(), sets=(one,))
    >>> first_difference(said(1), said(2))
    Difference(what='sgx/e.so: isvsvn', left='1', right='2')
"""

from __future__ import annotations

import msgspec

from provenance.predicates.core import Core, core_digest


class Difference(msgspec.Struct, frozen=True):
    """What differs, what the one says, what the other says."""

    what: str
    left: str
    right: str


def first_difference(left: Core, right: Core) -> Difference:
    """Find the first thing that two cores say differently; "nothing" stands for what one does not say."""
    ours, theirs = _facts(left), _facts(right)
    for what in dict.fromkeys((*ours, *theirs)):
        said = (ours.get(what, "nothing"), theirs.get(what, "nothing"))
        if said[0] != said[1]:
            return Difference(what, *said)
    return Difference("core", core_digest(left).hex(), core_digest(right).hex())


def _facts(core: Core) -> dict[str, str]:
    """Write a core as named facts, in the order in which a reader asks for them."""
    facts: dict[str, str] = {}
    for one in core.sets:
        facts |= {f"{one.id}: {name}": constraint.words() for name, constraint in one.claims.items()}
        facts |= {f"{one.id}: {hole.register} {hole.event}": "not predicted" for hole in one.unpredicted}
    facts |= {f"{one.name}: sha256": one.digest.sha256 for one in core.subjects}
    for source in core.sources:
        named = f"source {source.name}"
        facts |= {named: source.tree_digest.sha256, f"{named}: repository": source.repository or "none"}
        facts |= {f"{named}: ref": source.ref or "none", f"{named}: commit": source.commit or "none"}
    facts["recipe"] = core.recipe_digest.sha256 if core.recipe_digest else "none"
    facts["product"] = core.product
    return facts
