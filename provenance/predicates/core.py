"""The core of reference values: timeless facts, equal byte for byte at every honest rebuilder.

Product, recipe, sources, subjects, measurement sets; no builder, no tool, no time. The digest of its
canonical JSON is what operators agree on and what a release names.

Rules, all checked here:
- lists are sorted and without repetition, so that one content has one core;
- every set has a claim, and every claim has the name and shape that its TEE gives it;
- MRENCLAVE, MRTD, the SNP measurement, RTMR1 and RTMR2 have no unpredicted event;
- a register with an unpredicted event has no value at the same time;
- a claim of a TEE belongs to exactly one layer, and no two sets are for the same artifact and shape;
- a set measures one of the core's subjects;
- a set of a file inside an image names the manifest that the image's own set (`oci`) has, so that both match
  together or not at all.

Example:
    >>> from provenance.claims import Measurement, Subject
    >>> measured = Measurement(tee="sgx", subject=Subject(name="e.so", digest={}), claims={"isvsvn": 1})
    >>> made = sets_from_measurements([measured], layer=Layer(name="workload", provider="acme"))
    >>> made[0].id, made[0].claims["isvsvn"].words()
    ('sgx/e.so', '1')
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from provenance.canonical import canonical_json
from provenance.claims import (
    ALWAYS_PREDICTED,
    CLAIMS,
    POLICY_INPUTS,
    VARIANTS,
    ClaimValue,
    Measurement,
    Tee,
    Unpredicted,
)
from provenance.digest import sha256
from provenance.predicates.constraint import Constraint, Mask, check_constraint
from provenance.predicates.shapes import (
    MAX_INTEGER,
    PLAIN,
    ArtifactSubject,
    Name,
    PredicateRefused,
    Sha256Digest,
    Strict,
    Text,
    is_plain,
)
from provenance.statement import ResourceDescriptor

LayerName = Literal["platform", "firmware", "image", "workload"]
MAX_SETS: Final = 4096

# A SIGSTRUCT states a value and the bits that count: together they are one constraint on the evidence.
_MASKED_BY: Final = {"attributes": "attributes_mask", "miscselect": "miscselect_mask"}


class HoleForbidden(PredicateRefused):
    """An event is said to be unpredicted in a register that must be known at build time.

    MRENCLAVE, MRTD, the SNP measurement, RTMR1 and RTMR2 are functions of the artifacts alone.

    Cure: predict the register; a hole there would let anything pass.
    """

    code = "RVP-6123"


class CoveredTwice(PredicateRefused):
    """A register is covered by two layers, or two sets claim the same shape of the same artifact.

    Cure: give each register to exactly one layer, and each shape one set.
    """

    code = "RVP-6124"


class Layer(Strict, frozen=True, kw_only=True):
    """Who is responsible for the values: the layer, and the provider whose quorum signs it."""

    name: LayerName
    provider: Name


class Source(Strict, frozen=True, kw_only=True):
    """A source that was built.

    Attributes:
        name: its name in the spec.
        repository: where it is published; empty when it is in none.
        ref: the full name of the ref, `refs/tags/v1.2.0`; empty when it is not known.
        commit: the commit, hex; empty when it is in no repository.
        tree_digest: digest of the tree of files that was built: path, type, executable bit, content.
        dirty: the files are not those of the commit; such values cannot be released.
    """

    name: Name
    repository: Text = ""
    ref: Text = ""
    commit: Annotated[str, Meta(pattern="^([0-9a-f]{40}|[0-9a-f]{64})?$", max_length=64)] = ""
    tree_digest: Sha256Digest
    dirty: bool = False


class SetInside(Strict, frozen=True, kw_only=True):
    """A file in the subject, which is a container image: this file was measured.

    Attributes:
        path: absolute, in the image's final file system.
        digest: of the file.
        manifest: digest of the image's manifest, without one of its configuration, with `sha256:`.
    """

    path: Annotated[str, Meta(pattern=f"{PLAIN}/", max_length=4096)]
    digest: Sha256Digest
    manifest: Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$", max_length=71)]


class MeasurementSet(Strict, frozen=True, kw_only=True):
    """Values that must match together, for one artifact and one shape of machine.

    Attributes:
        id: unique in the core.
        tee: whose registers these are.
        subject: name of the subject that was measured.
        layer: who is responsible.
        inside: the file of an image that was measured; the image then has a set of its own; neither counts
            without the other.
        selector: the shape (vcpus, memory, …); evidence of another shape is not meant.
        claims: what each register must be.
        unpredicted: events that cannot be known at build time, and why.
        policy_inputs: fields that the host or the owner chooses at launch; a policy says what they may be.
    """

    id: Name
    tee: Tee
    subject: Name
    layer: Layer
    inside: SetInside | None = None
    selector: dict[str, str | int] = msgspec.field(default_factory=dict)
    claims: Annotated[dict[str, Constraint], Meta(min_length=1)]
    unpredicted: tuple[Unpredicted, ...] = ()
    policy_inputs: tuple[str, ...] = ()


class Core(Strict, frozen=True, kw_only=True):
    """What rebuilders agree on.

    Attributes:
        product: the name of what is built.
        recipe_digest: digest of the recipe (spec, lock, sources); None for an artifact built elsewhere.
        sources: sorted by name.
        subjects: the artifacts, sorted by name.
        sets: sorted by id.
    """

    product: Name
    recipe_digest: Sha256Digest | None = None
    sources: tuple[Source, ...] = ()
    subjects: Annotated[tuple[ArtifactSubject, ...], Meta(min_length=1, max_length=4096)]
    sets: Annotated[tuple[MeasurementSet, ...], Meta(min_length=1, max_length=MAX_SETS)]


def subjects_of(core: Core) -> tuple[ResourceDescriptor, ...]:
    """Return the core's artifacts as the subjects of a statement about them."""
    return tuple(
        ResourceDescriptor(name=one.name, digest={"sha256": one.digest.sha256, "sha384": one.digest.sha384})
        for one in core.subjects
    )


def core_digest(core: Core) -> bytes:
    """Return the SHA-256 of the core's canonical JSON: what operators agree on."""
    return sha256(canonical_json(core))


def check_core(core: Core) -> None:
    """Check the rules of the core.

    Raises:
        PredicateRefused: RVP-6121. HoleForbidden: RVP-6123. CoveredTwice: RVP-6124.
    """
    _check_sorted("sources", [source.name for source in core.sources])
    _check_sorted("subjects", [subject.name for subject in core.subjects])
    _check_sorted("sets", [one.id for one in core.sets])
    subjects = {subject.name for subject in core.subjects}
    layers: dict[tuple[str, str], tuple[Layer, str]] = {}
    shapes: dict[tuple[Any, ...], str] = {}
    for one in core.sets:
        if one.subject not in subjects:
            raise PredicateRefused(
                f'set "{one.id}" measures "{one.subject}", which is no subject of the core'
            )
        _check_set(one)
        for register in {*one.claims, *(event.register for event in one.unpredicted)}:
            layer, first = layers.setdefault((one.tee, register), (one.layer, one.id))
            if layer != one.layer:
                raise CoveredTwice(
                    f"{one.tee} {register} is covered by the layer {layer.name} of {layer.provider} "
                    f'(set "{first}") and by {one.layer.name} of {one.layer.provider} (set "{one.id}")'
                )
        if one.inside:
            _check_inside(one, core.sets)
        place = one.inside.path if one.inside else ""
        shape = (one.tee, one.layer, one.subject, place, tuple(sorted(one.selector.items())))
        if shape in shapes:
            raise CoveredTwice(
                f'sets "{shapes[shape]}" and "{one.id}" are for the same {one.tee} shape of "{one.subject}"'
            )
        shapes[shape] = one.id


def sets_from_measurements(
    measurements: Iterable[Measurement], *, layer: Layer
) -> tuple[MeasurementSet, ...]:
    """Turn what was measured into what evidence must show; one set for each artifact and shape.

    A value and its mask become one constraint; everything else is exact.

    Args:
        measurements: of one layer.
        layer: whose values they are.

    Returns:
        The sets, sorted by id.
    """
    made = []
    for one in measurements:
        selector = dict(sorted(one.variant.items()))
        shape = "".join(f",{name}={value}" for name, value in selector.items())
        inside = None
        if one.inside:
            digest = Sha256Digest(sha256=one.subject.digest["sha256"])
            inside = SetInside(path=one.inside.path, digest=digest, manifest=one.inside.manifest)
        made.append(
            MeasurementSet(
                id=f"{one.tee}/{one.subject.name}" + shape.replace(",", "/", 1),
                tee=one.tee,
                subject=one.inside.image.name if one.inside else one.subject.name,
                layer=layer,
                inside=inside,
                selector=selector,
                claims=_constraints(one.claims),
                unpredicted=one.unpredicted,
                policy_inputs=one.policy_inputs,
            )
        )
    return tuple(sorted(made, key=lambda one: one.id))


def _constraints(claims: dict[str, ClaimValue]) -> dict[str, Constraint]:
    made: dict[str, Constraint] = {}
    for name, value in claims.items():
        mask = claims.get(_MASKED_BY.get(name, ""))
        if isinstance(value, str) and isinstance(mask, str):
            made[name] = Constraint(mask=Mask(value=value, mask=mask))
        elif name not in _MASKED_BY.values():
            made[name] = Constraint(exact=value)
    return made


def _check_inside(one: MeasurementSet, sets: tuple[MeasurementSet, ...]) -> None:
    """Check that the image of an enclave has a set that says which image it is."""
    for other in sets:
        if other.tee == "oci" and other.subject == one.subject and one.inside:
            said = other.claims.get("manifest", other.claims.get("config"))
            if said is not None and said.exact == one.inside.manifest:
                return
    raise PredicateRefused(
        f'set "{one.id}" is of a file in "{one.subject}", but no set says that this image is '
        f"{one.inside.manifest if one.inside else ''}"
    )


def _check_set(one: MeasurementSet) -> None:
    for claim, constraint in one.claims.items():
        check_constraint(one.tee, claim, constraint)
    for name, value in one.selector.items():
        if name not in VARIANTS:
            raise PredicateRefused(
                f'set "{one.id}": there is no selector "{name}"', hint=f"known: {', '.join(VARIANTS)}"
            )
        if not (is_plain(value) if isinstance(value, str) else 0 <= value <= MAX_INTEGER):
            raise PredicateRefused(f'set "{one.id}": {value!r} is no value of the selector "{name}"')
    for event in one.unpredicted:
        if event.register not in CLAIMS[one.tee]:
            raise PredicateRefused(f'set "{one.id}": {one.tee} has no register "{event.register}"')
        if event.register in ALWAYS_PREDICTED:
            raise HoleForbidden(f'set "{one.id}": {event.register} has the unpredicted event "{event.event}"')
        if event.register in one.claims:
            raise PredicateRefused(
                f'set "{one.id}": {event.register} has a value and the unpredicted event "{event.event}"'
            )
        if not is_plain(event.event) or not is_plain(event.reason):
            raise PredicateRefused(
                f'set "{one.id}": an unpredicted event lacks its name or its reason in plain text'
            )
    for name in one.policy_inputs:
        if name not in POLICY_INPUTS.get(one.tee, ()):
            raise PredicateRefused(f'set "{one.id}": "{name}" is no policy input of {one.tee}')


def _check_sorted(what: str, names: list[str]) -> None:
    if names != sorted(set(names)):
        raise PredicateRefused(f"the core's {what} are not sorted and distinct: {', '.join(names)}")
