"""Whatever core the rules allow reads back, has one digest, and no other content has it."""

from __future__ import annotations

import copy

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from provenance.canonical import canonical_json
from provenance.claims import CLAIMS, Measurement, Shape, Subject
from provenance.digest import hash_bytes
from provenance.errors import RvpError
from provenance.predicates.constraint import Constraint
from provenance.predicates.core import Core, Layer, check_core, core_digest, sets_from_measurements
from provenance.predicates.reference_values import (
    TYPE,
    Builder,
    Measurer,
    ReferenceValues,
    make_reference_values,
    read_reference_values,
)
from provenance.predicates.shapes import ArtifactDigest, ArtifactSubject
from provenance.statement import make_statement, read_statement

LAYER = Layer(name="workload", provider="acme")
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_ äß", min_size=1, max_size=12)


def hexes(length):
    return st.binary(min_size=length, max_size=length).map(bytes.hex)


VALUES = {
    Shape.HEX16: hexes(16),
    Shape.HEX20: hexes(20),
    Shape.HEX32: hexes(32),
    Shape.HEX48: hexes(48),
    Shape.HEX64: hexes(64),
    Shape.HEX_PCR: hexes(32),
    Shape.HEX_ANY: st.binary(max_size=64).map(bytes.hex),
    Shape.U64: hexes(8).map(lambda text: f"0x{text}"),
    Shape.U32: hexes(4).map(lambda text: f"0x{text}"),
    Shape.ATTRIBUTES: hexes(16).map(lambda text: f"0x{text}"),
    Shape.COUNTER: st.integers(0, 65535),
    Shape.COUNTER32: st.integers(0, (1 << 32) - 1),
    Shape.LEVEL: st.integers(0, 255),
    Shape.OCI: hexes(32).map(lambda text: f"sha256:{text}"),
    Shape.OCI_LIST: st.lists(hexes(32).map(lambda text: f"sha256:{text}"), max_size=3).map(tuple),
}


@st.composite
def measurements(draw):
    found = []
    for name in draw(st.sets(names, min_size=1, max_size=3)):
        tee = draw(st.sampled_from(list(CLAIMS)))
        chosen = draw(st.sets(st.sampled_from(list(CLAIMS[tee])), min_size=1, max_size=4))
        chosen -= {"attributes_mask", "miscselect_mask"} - {name + "_mask" for name in chosen}
        assume(chosen)
        claims = {claim: draw(VALUES[CLAIMS[tee][claim]]) for claim in sorted(chosen)}
        for vcpus in draw(st.sets(st.integers(1, 64), min_size=1, max_size=2)):
            subject = Subject(name=name, digest={})
            found.append(Measurement(tee=tee, subject=subject, variant={"vcpus": vcpus}, claims=claims))
    return found


def values_of(found):
    subjects = []
    for name in sorted({one.subject.name for one in found}):
        digests = hash_bytes(name.encode()).as_hex()
        subjects.append(ArtifactSubject(name=name, digest=ArtifactDigest(**digests)))
    core = Core(product="demo", subjects=tuple(subjects), sets=sets_from_measurements(found, layer=LAYER))
    return ReferenceValues(
        core=core,
        level="measured",
        builder=Builder(id="https://example.org/b"),
        measurer=Measurer(name="rvp", version="0"),
    )


@given(measurements())
@settings(deadline=None)
def test_what_was_measured_reads_back(found):
    values = values_of(found)
    statement = read_statement(make_reference_values(values).payload)
    assert read_reference_values(statement) == values


@given(measurements(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_measuring_does_not_matter(found, random):
    shuffled = list(found)
    random.shuffle(shuffled)
    assert core_digest(values_of(shuffled).core) == core_digest(values_of(found).core)


@given(measurements())
@settings(deadline=None)
def test_evidence_with_the_measured_values_is_admitted(found):
    for one in found:
        (made,) = sets_from_measurements([one], layer=LAYER)
        for claim, constraint in made.claims.items():
            assert constraint.admits(one.claims[claim])


@given(measurements(), st.data())
@settings(deadline=None)
def test_another_value_is_another_core(found, data):
    core = values_of(found).core
    index = data.draw(st.integers(0, len(core.sets) - 1))
    chosen = core.sets[index]
    claim = data.draw(st.sampled_from(sorted(chosen.claims)))
    other = Constraint(exact=data.draw(VALUES[CLAIMS[chosen.tee][claim]]))
    assume(other != chosen.claims[claim])
    changed = msgspec.structs.replace(chosen, claims={**chosen.claims, claim: other})
    sets = (*core.sets[:index], changed, *core.sets[index + 1 :])
    again = msgspec.structs.replace(core, sets=sets)
    check_core(again)
    assert core_digest(again) != core_digest(core)


@given(measurements(), st.data())
@settings(deadline=None)
def test_a_predicate_with_any_part_taken_out_or_added_is_refused_or_says_something_else(found, data):
    statement = make_reference_values(values_of(found))
    predicate = copy.deepcopy(statement.predicate)
    part = predicate
    while True:
        key = data.draw(st.sampled_from(sorted(part)))
        if not isinstance(part[key], dict) or not part[key] or data.draw(st.booleans()):
            break
        part = part[key]
    if data.draw(st.booleans()):
        del part[key]
    else:
        part[f"{key}X"] = part[key]
    assume(canonical_json(predicate) != canonical_json(statement.predicate))
    changed = make_statement(statement.subjects, TYPE, predicate)
    try:
        read = read_reference_values(changed)
    except RvpError:
        return
    assert canonical_json(read) == canonical_json(predicate)


def test_the_rules_hold_for_no_sets():
    with pytest.raises(RvpError):
        read_reference_values(
            make_statement(
                make_reference_values(values_of([_one()])).subjects,
                TYPE,
                {**make_reference_values(values_of([_one()])).predicate, "core": {}},
            )
        )


def _one():
    return Measurement(tee="sgx", subject=Subject(name="a", digest={}), claims={"isvsvn": 1})
