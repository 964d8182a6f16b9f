"""SLSA provenance: made as we say, read as SLSA asks."""

import pytest

from provenance.digest import hash_bytes
from provenance.predicates.shapes import PredicateTypeUnexpected
from provenance.predicates.slsa_provenance import (
    BUILD_TYPE,
    BuildDefinition,
    BuilderIdentity,
    BuildMetadata,
    RunDetails,
    SlsaProvenance,
    git_source,
    invocation_id,
    make_provenance,
    package,
    read_provenance,
)
from provenance.statement import artifact, make_statement
from provenance.strict import WrongType

SUBJECTS = (artifact("a", hash_bytes(b"a")),)
DEFINITION = BuildDefinition(
    build_type=BUILD_TYPE,
    external_parameters={"recipe": {"sha256": "00" * 32}},
    internal_parameters={"runs": 2},
    resolved_dependencies=(
        package("deb/debian", "libstdc++6", "12.2.0-14", "11" * 32, architecture="amd64"),
        git_source("app", "https://example.org/a.git", "refs/tags/v1", "22" * 20, "33" * 32),
    ),
)
PROVENANCE = SlsaProvenance(
    build_definition=DEFINITION,
    run_details=RunDetails(
        builder=BuilderIdentity(id="https://example.org/builder"),
        metadata=BuildMetadata(invocation_id=invocation_id(DEFINITION, "https://example.org/builder")),
    ),
)


def test_it_reads_back():
    assert read_provenance(make_provenance(PROVENANCE, SUBJECTS)) == PROVENANCE


def test_the_members_have_the_names_of_slsa():
    plain = make_provenance(PROVENANCE, SUBJECTS).predicate
    assert set(plain) == {"buildDefinition", "runDetails"}
    assert set(plain["buildDefinition"]) == {
        "buildType",
        "externalParameters",
        "internalParameters",
        "resolvedDependencies",
    }
    assert plain["runDetails"]["metadata"]["invocationId"].startswith("urn:sha256:")


def test_unknown_fields_are_ignored():
    plain = make_provenance(PROVENANCE, SUBJECTS).predicate
    statement = make_statement(SUBJECTS, "https://slsa.dev/provenance/v1", {**plain, "extension": 1})
    assert read_provenance(statement) == PROVENANCE


def test_a_missing_builder_is_told():
    plain = make_provenance(PROVENANCE, SUBJECTS).predicate
    statement = make_statement(SUBJECTS, "https://slsa.dev/provenance/v1", {**plain, "runDetails": {}})
    with pytest.raises(WrongType, match="builder"):
        read_provenance(statement)


def test_another_type_is_refused():
    with pytest.raises(PredicateTypeUnexpected):
        read_provenance(make_statement(SUBJECTS, "https://slsa.dev/provenance/v0.2", {}))


def test_the_same_build_has_the_same_name_and_another_has_another():
    same = invocation_id(DEFINITION, "https://example.org/builder")
    assert same == PROVENANCE.run_details.metadata.invocation_id
    assert same != invocation_id(DEFINITION, "https://example.org/other")


def test_package_urls_are_escaped():
    assert DEFINITION.resolved_dependencies[0].uri == "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14?arch=amd64"


def test_a_source_without_a_commit_is_named_by_its_tree():
    assert git_source("app", "", "", "", "33" * 32).digest == {"sha256": "33" * 32}
