"""Predicates: what statements say. One module a type; one table from TypeURI to its reader.

`reference_values` and `release` are ours and are read strictly; `slsa_provenance` belongs to SLSA and is read
leniently. Verification summaries and in-toto links come as further modules and lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from provenance.predicates import reference_values, release, slsa_provenance
from provenance.predicates.reference_values import ReferenceValues
from provenance.predicates.release import Release
from provenance.predicates.slsa_provenance import SlsaProvenance
from provenance.statement import Statement

Predicate = ReferenceValues | Release | SlsaProvenance

READERS: Final[dict[str, Callable[..., Predicate]]] = {
    reference_values.TYPE: reference_values.read_reference_values,
    release.TYPE: release.read_release,
    slsa_provenance.TYPE: slsa_provenance.read_provenance,
}


def read_predicate(statement: Statement, *, name: str = "") -> Predicate | None:
    """Read the predicate of a statement; None when its type is not one that rvp reads.

    Raises:
        PredicateRefused: RVP-6121 and its kinds. StatementMalformed: RVP-6110.
        UnknownKey: RVP-1013. WrongType: RVP-1014.
    """
    reader = READERS.get(statement.predicate_type)
    return reader(statement, name=name) if reader else None
