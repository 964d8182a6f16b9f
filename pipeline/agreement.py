"""Does a rebuild agree with what a bundle states? Artifacts by digest, values by register.

Example:
    >>> difference = Disagreement(what="e.so (sha256)", stated="aa", got="bb", artifact=True)
    >>> raise_disagreement((difference,))
    Traceback (most recent call last):
    ...
    pipeline.agreement.ArtifactsDiffer: 1 difference from what the bundle states
    e.so (sha256)
      expected aa
           got bb
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Final

import msgspec

from pipeline.build_result import BuildResult
from provenance.bundle import Bundle
from provenance.digest import sha256
from provenance.errors import Divergence, Inconclusive, MeasurementMismatch
from provenance.policy import TrustPolicy
from provenance.predicates import read_predicate
from provenance.predicates.core import Core, Layer, MeasurementSet, core_digest, sets_from_measurements
from provenance.predicates.reference_values import ReferenceValues
from provenance.statement import read_statement
from provenance.strict import parse_json
from verifier.verify.statements import hear

_SHOWN: Final = 12


class ArtifactsDiffer(Divergence):
    """The rebuild gave other artifacts than the bundle states.

    Either a step depends on something that the recipe does not pin, or somebody states what they did not
    build. Cure: `rvp build` here says whether this machine agrees with itself; compare the differing files
    with the published ones.
    """

    code = "RVP-4002"


class ValuesDiffer(MeasurementMismatch):
    """The rebuild gave the same artifacts and other values than the bundle states.

    Cure: compare the versions of rvp that measured; if they are the same, do not use the bundle.
    """

    code = "RVP-4003"


class NothingStated(Inconclusive):
    """The bundle states no values, so there is nothing to agree with.

    Cure: rebuild a bundle that somebody signed.
    """

    code = "RVP-4004"


class Disagreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that differs: what the bundle states, what the rebuild gave."""

    what: str
    stated: str
    got: str
    artifact: bool = False


def stated_cores(bundle: Bundle, trust: TrustPolicy | None = None) -> tuple[Core, ...]:
    """Collect the cores that a bundle states.

    Args:
        bundle: whose statements are read.
        trust: only what an operator of this policy signed counts; None: all, no signature is verified.
    """
    found: dict[bytes, Core] = {}
    if trust is not None:
        for values in hear(bundle, trust).values:
            found[sha256(values.core)] = values.predicate.core
    else:
        for number, data in enumerate(bundle.statements):
            name = f"statement {number + 1}"
            envelope = parse_json(data, name=name)["dsseEnvelope"]
            predicate = read_predicate(read_statement(base64.b64decode(envelope["payload"]), name=name))
            if isinstance(predicate, ReferenceValues):
                found[core_digest(predicate.core)] = predicate.core
    return tuple(found[digest] for digest in sorted(found))


def compare_with(core: Core, result: BuildResult) -> tuple[Disagreement, ...]:
    """Compare a rebuild with one core, in the order of the core."""
    found: list[Disagreement] = []
    if core.recipe_digest is not None and core.recipe_digest.sha256 != result.recipe:
        found.append(Disagreement(what="recipe", stated=core.recipe_digest.sha256, got=result.recipe))
    built = {artifact.name: artifact.digest["sha256"] for artifact in result.artifacts}
    stated = {subject.name: subject.digest.sha256 for subject in core.subjects}
    found += _differing(stated, built, "sha256", artifact=True)
    theirs = {one.id: one for one in core.sets}
    ours = {one.id: one for one in _sets(result)}
    for name in sorted(theirs.keys() | ours.keys()):
        found += _differing(_values(theirs.get(name)), _values(ours.get(name)), name, artifact=False)
    return tuple(found)


def _differing(
    stated: dict[str, str], got: dict[str, str], what: str, *, artifact: bool
) -> Iterator[Disagreement]:
    for name in sorted(stated.keys() | got.keys()):
        left, right = stated.get(name, "none"), got.get(name, "none")
        if left != right:
            yield Disagreement(what=f"{name} ({what})", stated=left, got=right, artifact=artifact)


def _sets(result: BuildResult) -> tuple[MeasurementSet, ...]:
    layer = Layer(name="workload", provider=result.project)
    measured = [one for node in result.measurements for one in node.measurements]
    return sets_from_measurements(measured, layer=layer)


def _values(one: MeasurementSet | None) -> dict[str, str]:
    if one is None:
        return {}
    values = {name: constraint.words() for name, constraint in one.claims.items()}
    return values | {f"{event.register} {event.event}": "not predicted" for event in one.unpredicted}


def raise_disagreement(found: tuple[Disagreement, ...]) -> None:
    """Raise when something differs.

    Raises:
        ArtifactsDiffer: RVP-4002. ValuesDiffer: RVP-4003.
    """
    if not found:
        return
    lines = [f"{one.what}\n  expected {one.stated}\n       got {one.got}" for one in found[:_SHOWN]]
    lines += [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    plural = "" if len(found) == 1 else "s"
    message = "\n".join([f"{len(found)} difference{plural} from what the bundle states", *lines])
    kind = ArtifactsDiffer if any(one.artifact for one in found) else ValuesDiffer
    raise kind(message)
