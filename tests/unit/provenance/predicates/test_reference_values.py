"""Reference values: strict to read, one core for one content, no hole where none may be."""

import copy
import json
import re

import jsonschema
import pytest

from provenance.canonical import canonical_json
from provenance.claims import Measurement, Subject, Unpredicted
from provenance.digest import hash_bytes, sha256
from provenance.predicates import read_predicate
from provenance.predicates.constraint import Constraint, Mask, check_constraint
from provenance.predicates.core import (
    Core,
    CoveredTwice,
    HoleForbidden,
    Layer,
    Source,
    core_digest,
    sets_from_measurements,
)
from provenance.predicates.reference_values import (
    TYPE,
    Builder,
    LogReference,
    Measurer,
    NotExercised,
    Rebuild,
    ReferenceValues,
    make_reference_values,
    read_reference_values,
)
from provenance.predicates.schema import SCHEMAS, json_schema, schema_path, schema_text
from provenance.predicates.shapes import (
    ArtifactDigest,
    ArtifactSubject,
    PredicateRefused,
    PredicateTypeUnexpected,
    Sha256Digest,
)
from provenance.statement import ResourceDescriptor, StatementMalformed, make_statement
from provenance.strict import UnknownKey, WrongType

LAYER = Layer(name="workload", provider="acme")


def subject(name):
    digests = hash_bytes(name.encode())
    return ArtifactSubject(
        name=name, digest=ArtifactDigest(sha256=digests.sha256.hex(), sha384=digests.sha384.hex())
    )


def example():
    measured = [
        Measurement(
            tee="sgx",
            subject=Subject(name="enclave.signed.so", digest={}),
            claims={
                "mrenclave": "11" * 32,
                "mrsigner": "22" * 32,
                "isvprodid": 1,
                "isvsvn": 3,
                "attributes": "0x" + "04" * 16,
                "attributes_mask": "0x" + "fd" * 16,
            },
            policy_inputs=("configid",),
        ),
        Measurement(
            tee="tdx",
            subject=Subject(name="vm.img", digest={}),
            variant={"vcpus": 2, "memory": "2GiB"},
            claims={"mrtd": "33" * 48, "rtmr1": "44" * 48},
            unpredicted=(Unpredicted(register="rtmr0", event="acpi-tables", reason="the host makes them"),),
        ),
    ]
    return ReferenceValues(
        core=Core(
            product="keyservice",
            recipe_digest=Sha256Digest(sha256="55" * 32),
            sources=(
                Source(
                    name="app",
                    repository="https://example.org/keyservice.git",
                    ref="refs/tags/v1",
                    commit="66" * 20,
                    tree_digest=Sha256Digest(sha256="77" * 32),
                ),
            ),
            subjects=(subject("enclave.signed.so"), subject("vm.img")),
            sets=sets_from_measurements(measured, layer=LAYER),
        ),
        level="reproduced",
        builder=Builder(id="https://example.org/builder"),
        measurer=Measurer(name="rvp", version="0.1.0"),
        rebuild=Rebuild(
            runs=2,
            exercised=("hostname", "time"),
            not_exercised=(NotExercised(step="enclave", variation="locale", reason="no locale files"),),
        ),
        logs=(
            LogReference(
                name="enclave.json", tee="sgx", register="mrenclave", digest=Sha256Digest(sha256="88" * 32)
            ),
        ),
        started_on="2026-01-01T00:00:00Z",
    )


def changed(change):
    """Make the example's statement with a change to its predicate, as a liar's tool would."""
    statement = make_reference_values(example())
    predicate = copy.deepcopy(statement.predicate)
    subjects = change(predicate) or statement.subjects
    return make_statement(subjects, TYPE, predicate)


def test_it_reads_back():
    statement = make_reference_values(example())
    assert read_reference_values(statement) == example()
    assert read_predicate(statement) == example()


def test_the_core_digest_is_of_the_bytes_in_the_statement():
    statement = make_reference_values(example())
    assert sha256(canonical_json(statement.predicate["core"])) == core_digest(example().core)
    assert canonical_json(example().core) in statement.payload


def test_who_built_and_when_is_not_in_the_core():
    other = example()
    assert core_digest(other.core).hex() == core_digest(example().core).hex()
    text = canonical_json(example().core).decode()
    for word in ("builder", "rvp", "version", "startedOn", "runs", "2026"):
        assert word not in text


def test_a_value_and_its_mask_become_one_constraint():
    claims = example().core.sets[0].claims
    assert claims["attributes"] == Constraint(mask=Mask(value="0x" + "04" * 16, mask="0x" + "fd" * 16))
    assert "attributes_mask" not in claims
    assert claims["isvsvn"] == Constraint(exact=3)


def test_sets_are_named_after_tee_artifact_and_shape():
    assert [one.id for one in example().core.sets] == [
        "sgx/enclave.signed.so",
        "tdx/vm.img/memory=2GiB,vcpus=2",
    ]


def test_another_type_is_refused():
    statement = make_reference_values(example())
    other = make_statement(statement.subjects, "https://example.org/other/v1", statement.predicate)
    with pytest.raises(PredicateTypeUnexpected):
        read_reference_values(other)
    assert read_predicate(other) is None


def _set(index, **values):
    def change(predicate):
        predicate["core"]["sets"][index].update(values)

    return change


def _core(**values):
    def change(predicate):
        predicate["core"].update(values)

    return change


def _top(**values):
    def change(predicate):
        predicate.update(values)

    return change


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (_top(colour="red"), UnknownKey, "colour"),
        (_core(colour="red"), UnknownKey, "colour"),
        (_set(0, claim={}), UnknownKey, 'did you mean "claims"'),
        (_set(0, claims={}), WrongType, "length >= 1"),
        (_core(sets=[]), WrongType, "length >= 1"),
        (_core(recipeDigest={"sha256": "AA" * 32}), WrongType, "regex"),
        (_core(product=""), WrongType, "length >= 1"),
        (_core(product="a\u001b[31mb"), WrongType, "regex"),
        (_core(product="a\n"), WrongType, "regex"),
        (_set(0, tee="sev"), WrongType, "sev"),
        (_set(0, claims={"mrenclave": {}}), WrongType, "exactly one"),
        (_set(0, claims={"isvsvn": {"exact": 1, "minimum": 1}}), WrongType, "exactly one"),
        (_set(0, claims={"isvsvn": {"exact": True}}), WrongType, "bool"),
        (_set(0, claims={"mrenclave": {"exact": "11" * 31}}), PredicateRefused, "64 hex digits"),
        (_set(0, claims={"mrenclave": {"exact": 1}}), PredicateRefused, "64 hex digits"),
        (_set(0, claims={"mrtd": {"exact": "11" * 48}}), PredicateRefused, "no claim"),
        (_set(0, claims={"isvsvn": {"exact": 65536}}), PredicateRefused, "65535"),
        (_set(0, claims={"isvsvn": {"minimum": 65536}}), PredicateRefused, "minimum"),
        (_set(0, claims={"attributes": {"minimum": 1}}), PredicateRefused, "minimum"),
        (
            _set(0, claims={"mrenclave": {"mask": {"value": "0x00", "mask": "0x00"}}}),
            PredicateRefused,
            "mask",
        ),
        (
            _set(0, claims={"miscselect": {"mask": {"value": "0x00", "mask": "0x00"}}}),
            PredicateRefused,
            "8 hex digits",
        ),
        (_set(0, claims={"isvsvn": {"oneOf": [2, 1]}}), PredicateRefused, "sorted"),
        (_set(0, claims={"isvsvn": {"oneOf": [1, 1]}}), PredicateRefused, "sorted"),
        (_set(0, claims={"isvsvn": {"oneOf": []}}), WrongType, "length"),
        (_set(0, selector={"colour": 1}), PredicateRefused, "selector"),
        (_set(0, selector={"vcpus": -1}), PredicateRefused, "selector"),
        (_set(0, selector={"vmm": "a\u202eb"}), PredicateRefused, "selector"),
        (_set(0, policyInputs=["host_data"]), PredicateRefused, "policy input"),
        (_set(0, subject="other"), PredicateRefused, "no subject"),
        (_set(0, id="zzz"), PredicateRefused, "sorted"),
        (_set(1, layer={"name": "roof", "provider": "acme"}), WrongType, "roof"),
        (
            _set(1, unpredicted=[{"register": "rtmr9", "event": "e", "reason": "r"}]),
            PredicateRefused,
            "no register",
        ),
        (
            _set(1, unpredicted=[{"register": "rtmr0", "event": "", "reason": "r"}]),
            PredicateRefused,
            "lacks its name",
        ),
        (_core(subjects=[]), WrongType, "length"),
        (_top(level="verified"), WrongType, "verified"),
        (_top(level="measured"), PredicateRefused, "says nothing"),
        (
            lambda p: p.update(level="measured") or (p.pop("rebuild") and None),
            PredicateRefused,
            "says nothing",
        ),
        (_top(rebuild={"runs": 1}), PredicateRefused, "at least two runs"),
        (lambda p: p.pop("rebuild") and None, PredicateRefused, "at least two runs"),
        (lambda p: p["core"].pop("recipeDigest") and None, PredicateRefused, "recipe"),
        (_top(rebuild={"runs": 2, "exercised": ["time", "hostname"]}), PredicateRefused, "sorted"),
        (_top(startedOn="2026-13-01T00:00:00Z"), Exception, "not a moment"),
        (_top(startedOn="2026-01-01 00:00:00"), WrongType, "length|regex"),
        (_top(builder={"id": "no uri"}), WrongType, "regex"),
        (_set(0, unpredicted=[]), PredicateRefused, "spells out a default"),
        (_set(0, claims={"isvsvn": {"exact": 1, "mask": None}}), PredicateRefused, "spells out a default"),
    ],
)
def test_what_breaks_a_rule_is_refused(change, error, words):
    with pytest.raises(error, match=words):
        read_reference_values(changed(change))


@pytest.mark.parametrize(
    ("tee", "register"),
    [("sgx", "mrenclave"), ("tdx", "mrtd"), ("tdx", "rtmr1"), ("tdx", "rtmr2"), ("snp", "measurement")],
)
def test_some_registers_have_no_hole_ever(tee, register):
    claims = {"sgx": ("isvsvn", 1), "tdx": ("rtmr3", "00" * 48), "snp": ("vmpl", 0)}[tee]
    hole = [{"register": register, "event": "e", "reason": "r"}]
    with pytest.raises(HoleForbidden, match=register):
        read_reference_values(
            changed(
                _core(
                    sets=[
                        {
                            "id": "a",
                            "tee": tee,
                            "subject": "vm.img",
                            "layer": {"name": "image", "provider": "acme"},
                            "claims": {claims[0]: {"exact": claims[1]}},
                            "unpredicted": hole,
                        }
                    ]
                )
            )
        )


def test_a_register_with_a_hole_has_no_value():
    claims = {"rtmr0": {"exact": "00" * 48}}
    with pytest.raises(PredicateRefused, match="has a value and the unpredicted event"):
        read_reference_values(changed(_set(1, claims=claims)))


@pytest.mark.parametrize(
    "layer", [{"name": "firmware", "provider": "acme"}, {"name": "workload", "provider": "other"}]
)
def test_a_register_belongs_to_one_layer(layer):
    def change(predicate):
        second = copy.deepcopy(predicate["core"]["sets"][1])
        second.update(id="tdx/z", layer=layer, selector={"vcpus": 4})
        predicate["core"]["sets"].append(second)

    with pytest.raises(CoveredTwice, match=r"rtmr|mrtd"):
        read_reference_values(changed(change))


def test_layers_share_a_tee_when_their_registers_differ():
    def change(predicate):
        second = copy.deepcopy(predicate["core"]["sets"][1])
        second.update(
            id="tdx/z", layer={"name": "image", "provider": "me"}, claims={"rtmr2": {"exact": "00" * 48}}
        )
        del second["unpredicted"]
        predicate["core"]["sets"].append(second)

    assert len(read_reference_values(changed(change)).core.sets) == 3


def test_a_shape_has_one_set():
    def change(predicate):
        second = copy.deepcopy(predicate["core"]["sets"][1])
        second["id"] = "tdx/z"
        predicate["core"]["sets"].append(second)

    with pytest.raises(CoveredTwice, match="same tdx shape"):
        read_reference_values(changed(change))


def test_the_subjects_of_statement_and_core_are_the_same():
    other = [ResourceDescriptor(name="enclave.signed.so", digest=hash_bytes(b"other").as_hex())]
    with pytest.raises(PredicateRefused, match="subjects"):
        read_reference_values(changed(lambda _: other))


def test_a_subject_needs_both_digests():
    other = [ResourceDescriptor(name="enclave.signed.so", digest={"sha256": "00" * 32})]
    with pytest.raises(StatementMalformed, match="sha384"):
        read_reference_values(changed(lambda _: other))


def test_a_float_in_the_core_is_refused():
    statement = make_reference_values(example())
    predicate = copy.deepcopy(statement.predicate)
    predicate["core"]["sets"][0]["claims"]["isvsvn"] = {"exact": 3.0}
    payload = json.dumps({**json.loads(statement.payload), "predicate": predicate}).encode()
    from provenance.statement import read_statement

    with pytest.raises((PredicateRefused, WrongType)):
        read_reference_values(read_statement(payload))


@pytest.mark.parametrize(
    ("constraint", "value", "admitted"),
    [
        (Constraint(exact="aa"), "aa", True),
        (Constraint(exact="aa"), "AA", False),
        (Constraint(exact=1), 1, True),
        (Constraint(exact=1), True, False),
        (Constraint(exact=1), "1", False),
        (Constraint(exact=("a", "b")), ("a", "b"), True),
        (Constraint(exact=("a", "b")), ("b", "a"), False),
        (Constraint(one_of=(1, 3)), 3, True),
        (Constraint(one_of=(1, 3)), 2, False),
        (Constraint(minimum=2), 2, True),
        (Constraint(minimum=2), 1, False),
        (Constraint(minimum=0), "5", False),
        (Constraint(minimum=0), True, False),
        (Constraint(mask=Mask(value="0x06", mask="0x0f")), "0xf6", True),
        (Constraint(mask=Mask(value="0x06", mask="0x0f")), "0xf7", False),
        (Constraint(mask=Mask(value="0xf6", mask="0x0f")), "0x06", True),
        (Constraint(mask=Mask(value="0x06", mask="0x0f")), "0x0006", False),
        (Constraint(mask=Mask(value="0x06", mask="0x0f")), "0xzz", False),
    ],
)
def test_constraints_admit_what_they_say(constraint, value, admitted):
    assert constraint.admits(value) is admitted


def test_a_constraint_on_an_unknown_tee_is_refused():
    with pytest.raises(PredicateRefused):
        check_constraint("sev", "measurement", Constraint(exact="00"))


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_the_committed_schema_is_current(name):
    assert schema_path(name).read_text() == schema_text(name), "python -m provenance.predicates.schema"


def test_the_schema_admits_the_example_and_refuses_what_it_can_say():
    validator = jsonschema.Draft202012Validator(json_schema("reference-values"))
    good = make_reference_values(example()).predicate
    validator.validate(good)
    for break_it in (
        _top(colour="red"),
        _top(level="verified"),
        _core(sets=[]),
        _set(0, claims={"isvsvn": {"exact": 1, "minimum": 1}}),
        _set(0, claims={"isvsvn": {}}),
        _core(recipeDigest={"sha256": "AA" * 32}),
        _core(product="a\nb"),
    ):
        bad = copy.deepcopy(good)
        break_it(bad)
        assert not validator.is_valid(bad)


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_the_protobuf_definition_has_the_fields_of_the_schema(name):
    proto = schema_path(name).with_name(schema_path(name).name.replace(".schema.json", ".proto")).read_text()
    messages = {
        found[1]: set(
            re.findall(r"^\s+(?:repeated |optional )?(?:map<[^>]+>|\w+) (\w+) = \d+;", found[2], re.MULTILINE)
        )
        for found in re.finditer(r"^message (\w+) \{\n(.*?)^\}", proto, re.MULTILINE | re.DOTALL)
    }
    for title, definition in json_schema(name)["$defs"].items():
        snake = {re.sub(r"([A-Z])", lambda m: "_" + m[1].lower(), key) for key in definition["properties"]}
        assert messages[title] == snake, title
