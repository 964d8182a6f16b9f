"""Statements: lenient around, strict about what counts."""

import json

import pytest

from provenance.digest import hash_bytes
from provenance.statement import (
    StatementMalformed,
    StatementUnfit,
    artifact,
    check_artifacts,
    make_statement,
    read_statement,
)
from provenance.strict import DuplicateKey, NotWellFormed, WrongType

KIND = "https://example.com/predicate/v1"
SUBJECT = artifact("a.bin", hash_bytes(b"a"))


def document(**changes):
    whole = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "a.bin", "digest": {"sha256": "00" * 32}}],
        "predicateType": KIND,
        "predicate": {},
    }
    whole.update(changes)
    return json.dumps(whole).encode()


def test_a_statement_reads_back_with_its_bytes():
    made = make_statement((SUBJECT,), KIND, {"b": 1, "a": 2})
    assert read_statement(made.payload) == made
    assert made.payload.startswith(b'{"_type":"https://in-toto.io/Statement/v1","predicate":{"a":2,"b":1}')


def test_the_bytes_are_kept_as_they_came():
    payload = document().replace(b", ", b" ,\n ")
    assert read_statement(payload).payload == payload


def test_unknown_fields_around_the_predicate_are_ignored():
    payload = document(extra=1, subject=[{"name": "a", "digest": {"sha256": "00" * 32}, "colour": "red"}])
    assert read_statement(payload).subjects[0].name == "a"


def test_an_unknown_digest_algorithm_is_kept():
    payload = document(subject=[{"digest": {"sha256": "00" * 32, "gitTree": "whatever"}}])
    assert read_statement(payload).subjects[0].digest["gitTree"] == "whatever"


@pytest.mark.parametrize(
    "changes",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"_type": 1},
        {"subject": []},
        {"subject": [{"name": "a", "digest": {}}]},
        {"subject": [{"name": "a"}]},
        {"subject": [{"name": "a", "digest": {"sha256": "zz" * 32}}]},
        {"subject": [{"name": "a", "digest": {"sha256": "AA" * 32}}]},
        {"subject": [{"name": "a", "digest": {"sha256": "00" * 32 + "\n"}}]},
        {"subject": [{"name": "a", "digest": {"sha256": "00" * 31}}]},
        {"subject": [{"name": "a", "digest": {"sha256": "00" * 32}}] * 2},
        {"predicateType": "not a uri"},
        {"predicateType": ""},
    ],
)
def test_a_statement_that_cannot_be_relied_upon_is_refused(changes):
    with pytest.raises(StatementMalformed):
        read_statement(document(**changes))


@pytest.mark.parametrize("changes", [{"subject": {}}, {"predicate": []}, {"predicateType": None}])
def test_wrong_types_are_told(changes):
    with pytest.raises(WrongType):
        read_statement(document(**changes))


def test_a_key_that_stands_twice_is_refused_in_the_predicate_too():
    with pytest.raises(DuplicateKey):
        read_statement(document().replace(b'"predicate": {}', b'"predicate": {"x": 1, "x": 2}'))


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_noise_is_refused(payload):
    with pytest.raises((NotWellFormed, StatementMalformed)):
        read_statement(payload)


def test_a_float_cannot_be_signed():
    with pytest.raises(StatementUnfit, match="float"):
        make_statement((SUBJECT,), KIND, {"x": 1.5})


def test_a_statement_without_subjects_cannot_be_made():
    with pytest.raises(StatementUnfit):
        make_statement((), KIND, {})


@pytest.mark.parametrize(
    "subject",
    [
        {"digest": {"sha256": "00" * 32, "sha384": "00" * 48}},
        {"name": "a", "digest": {"sha256": "00" * 32}},
        {"name": "a", "digest": {"sha384": "00" * 48}},
    ],
)
def test_artifacts_have_a_name_and_both_digests(subject):
    with pytest.raises(StatementMalformed):
        check_artifacts(read_statement(document(subject=[subject])))


def test_made_artifacts_pass():
    check_artifacts(make_statement((SUBJECT,), KIND, {}))
